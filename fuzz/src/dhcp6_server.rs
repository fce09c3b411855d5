//! The server with the allotter behind it, and messages in a row from clients on several ports.

use crate::payload::{self, Payload};
use bolero::{TypeGenerator, check, produce};
use flowlane_allot::{Allotter, Lease, Policy, Refusal};
use flowlane_dhcp6::{DhcpOption, Message, MessageType, Operation, Peer, Server};
use flowlane_wire::{Mac, PortId};

#[derive(Clone, Debug, TypeGenerator)]
struct Arrival {
    payload: Payload,
    #[generator(1u16..4)]
    port: u16,
    /// Milliseconds since the arrival before: at most a day and a half.
    #[generator(0u64..1 << 27)]
    wait: u64,
}

#[test]
fn the_server_answers_any_messages_with_leases_of_its_block_or_not_at_all() {
    let arrivals = produce::<Vec<Arrival>>().with().len(0usize..=8);
    check!().with_generator(arrivals).for_each(|arrivals| {
        let server = Server::new(payload::SERVER, payload::block());
        let policy = Policy { port_quota: 24, client_quota: 28, ..Policy::default() };
        let (mut allotter, mut now) = (Allotter::new(payload::block(), policy, 0), 0);
        for arrival in arrivals {
            now += arrival.wait;
            allotter.expire(now);
            serve(&server, &mut allotter, arrival, now);
        }
    });
}

/// The whole way of a message: plan, carry out, answer.
fn serve(server: &Server, allotter: &mut Allotter, arrival: &Arrival, now: u64) {
    let octets = arrival.payload.octets();
    let peer = Peer { port: PortId(arrival.port), host: Mac([2, 0, 0, 0, 0, 1]) };
    let Ok(transaction) = server.plan(&octets, peer) else { return };
    let results: Vec<_> = transaction.operations().iter().map(|one| carry_out(allotter, one, now)).collect();
    allotter.take_changes();
    let counts = allotter.counts();
    assert!(counts.leased + counts.quarantined <= counts.slots, "{counts:?}");
    if let Some(answer) = transaction.reply(&results, now) {
        let question = Message::parse(&octets).expect("it was planned");
        check_answer(&question, &Message::parse(&answer).expect("an answer of the server's"), server);
    }
}

fn carry_out(allotter: &mut Allotter, operation: &Operation, now: u64) -> Result<Lease, Refusal> {
    if allotter.lease(operation.key()).is_some_and(|lease| !operation.is_about(lease, allotter.block())) {
        return Err(Refusal::NoBinding);
    }
    match operation {
        Operation::Offer(request) => allotter.offer(request, now),
        Operation::Request(request) => allotter.request(request, now),
        Operation::Renew(held) => allotter.renew(&held.key, held.port, None, now),
        Operation::Release(held) => allotter.release(&held.key, held.port, now),
        Operation::Decline(held) => allotter.decline(&held.key, held.port, now),
    }
}

fn check_answer(question: &Message, answer: &Message, server: &Server) {
    assert!(matches!(answer.kind, MessageType::Advertise | MessageType::Reply), "{answer:?}");
    assert_eq!(answer.transaction, question.transaction);
    assert!(answer.options.contains(&DhcpOption::ServerId(server.duid().clone())), "{answer:?}");
    let client = question.options.iter().find(|option| matches!(option, DhcpOption::ClientId(_)));
    assert!(client.is_some_and(|client| answer.options.contains(client)), "{answer:?}");
    for option in &answer.options {
        let DhcpOption::IaLl(ia) = option else { continue };
        let asked = |option: &DhcpOption| matches!(option, DhcpOption::IaLl(asked) if asked.iaid == ia.iaid);
        assert!(question.options.iter().any(asked), "{answer:?}");
        for granted in ia.blocks().filter(|granted| granted.valid_lifetime > 0) {
            let last = granted.mac().map(|first| Mac::from_u64(first.to_u64() + u64::from(granted.extra)));
            let ours = |mac: Option<Mac>| mac.is_some_and(|mac| payload::block().flow_address(mac).is_some());
            assert!(ours(granted.mac()) && ours(last), "{answer:?}");
        }
    }
}
