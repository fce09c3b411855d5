//! The server: what it answers, what it refuses, what it ignores.

use crate::table::Table;
use crate::{CLIENT, PEER, block, client_id, example, message, server, server_id};
use flowlane_allot::{ClientId, Field, FlowSpec, Lease, LeaseKey, PathSoFar, Refusal, Request, SwitchId};
use flowlane_dhcp6::{
    DhcpOption, Duid, FlowOption, Held, INFINITY, IaLl, Ignore, LlAddr, Message, MessageType, Operation, Peer,
    QuadrantPreference, Server, Status, StatusCode, Transaction,
};
use flowlane_wire::{Block, Mac, PortId};

const ANY: Mac = Mac([0; 6]);

fn key(iaid: u32) -> LeaseKey {
    LeaseKey { client: ClientId::from(&Duid::from_uuid(CLIENT)), iaid }
}

fn lladdr(first: Mac, count: u32) -> DhcpOption {
    DhcpOption::LlAddr(LlAddr::ethernet(first, count - 1, 0))
}

fn ia(iaid: u32, options: impl IntoIterator<Item = DhcpOption>) -> DhcpOption {
    DhcpOption::IaLl(IaLl { iaid, t1: 0, t2: 0, options: options.into_iter().collect() })
}

/// A client's message with the identifiers that its kind needs.
fn ask(kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    let to_all = matches!(kind, MessageType::Solicit | MessageType::Rebind);
    let identifiers = [client_id()].into_iter().chain((!to_all).then(server_id));
    message(kind, identifiers.chain(options)).emit().unwrap()
}

fn plan(payload: &[u8]) -> Transaction {
    server().plan(payload, PEER).unwrap()
}

fn ignored(kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Ignore {
    server().plan(&message(kind, options).emit().unwrap(), PEER).unwrap_err()
}

/// The one request that the message leads to.
fn request(payload: &[u8]) -> Request {
    match plan(payload).operations() {
        [Operation::Offer(request) | Operation::Request(request)] => request.clone(),
        other => panic!("{other:?}"),
    }
}

fn lease(request: &Request, first: u64, count: u32, lifetime: u32) -> Lease {
    Lease {
        key: request.key.clone(),
        port: request.port,
        host: request.host,
        first,
        count,
        lifetime,
        expires: if lifetime == INFINITY { u64::MAX } else { u64::from(lifetime) * 1000 },
        reserved: u64::MAX,
        spec: request.spec.clone(),
        state: flowlane_allot::LeaseState::Active,
    }
}

fn reply(transaction: &Transaction, results: &[Result<Lease, Refusal>], now: u64) -> Message {
    Message::parse(&transaction.reply(results, now).unwrap()).unwrap()
}

fn ias(message: &Message) -> Vec<&IaLl> {
    let ias = message.options.iter().filter_map(|option| match option {
        DhcpOption::IaLl(ia) => Some(ia),
        _ => None,
    });
    ias.collect()
}

/// The code of the status in the only IA_LL, which then has nothing else.
fn refusal(message: &Message) -> StatusCode {
    let [ia] = ias(message)[..] else { panic!("{message:?}") };
    let [DhcpOption::StatusCode(status)] = ia.options.as_slice() else { panic!("{ia:?}") };
    status.code
}

fn full() -> Refusal {
    Refusal::Full { leased: 1000, quarantined: 24, slots: 1024 }
}

#[test]
fn the_documented_solicit_gets_the_documented_reply() {
    let transaction = plan(&example("solicit"));
    let spec = FlowSpec {
        destination: Some([192, 0, 2, 7].into()),
        rate: Some(10_000_000),
        field: Field::Destination,
        name: Some("backup".into()),
        ..FlowSpec::default()
    };
    let request = Request { key: key(1), port: PEER.port, host: PEER.host, count: 16, lifetime: None, spec };
    assert_eq!(transaction.operations(), [Operation::Request(request)]);
    let granted = Table::new(block(), 3600).carry_out(&transaction.operations()[0], 0);
    assert_eq!(transaction.reply(&[granted], 0).unwrap(), example("reply"));
}

#[test]
fn a_solicit_without_rapid_commit_gets_an_offer_with_the_servers_preference() {
    let server = server().with_preference(200);
    let transaction = server.plan(&ask(MessageType::Solicit, [ia(1, [lladdr(ANY, 1)])]), PEER).unwrap();
    let [Operation::Offer(request)] = transaction.operations() else { panic!("{transaction:?}") };
    let offer = reply(&transaction, &[Ok(lease(request, 5, 1, 60))], 0);
    assert_eq!(offer.kind, MessageType::Advertise);
    assert!(offer.options.contains(&DhcpOption::Preference(200)) && !offer.options.contains(&DhcpOption::RapidCommit));
    assert!(offer.options.contains(&server_id()) && offer.options.contains(&client_id()));
    assert_eq!(ias(&offer)[0].blocks().next().unwrap().mac(), Some(Mac([0xa2, 0xf1, 0, 0, 0, 5])));
}

#[test]
fn a_request_is_for_as_many_addresses_as_its_first_lladdr_says_and_one_without() {
    assert_eq!(request(&ask(MessageType::Request, [ia(1, [])])).count, 1);
    assert_eq!(request(&ask(MessageType::Request, [ia(1, [lladdr(ANY, 7), lladdr(ANY, 9)])])).count, 7);
    let most = DhcpOption::LlAddr(LlAddr::ethernet(ANY, u32::MAX, 0));
    assert_eq!(request(&ask(MessageType::Request, [ia(1, [most])])).count, u32::MAX);
}

#[test]
fn a_request_for_a_block_that_the_client_does_not_hold_is_a_request_for_a_fresh_one() {
    let payload = ask(MessageType::Request, [ia(1, [lladdr(Mac([0xa2, 0xf1, 0, 0, 9, 9]), 4)])]);
    let transaction = plan(&payload);
    let granted = Table::new(block(), 60).carry_out(&transaction.operations()[0], 0);
    let answer = reply(&transaction, &[granted], 0);
    let given = ias(&answer)[0].blocks().next().unwrap().clone();
    assert_eq!((given.mac(), given.extra), (Some(Mac([0xa2, 0xf1, 0, 0, 0, 0])), 3));
}

#[test]
fn an_answer_has_the_link_layer_type_of_the_question() {
    let ieee802 = LlAddr { link_type: 6, ..LlAddr::ethernet(ANY, 0, 0) };
    let transaction = plan(&ask(MessageType::Request, [ia(1, [DhcpOption::LlAddr(ieee802)])]));
    let [Operation::Request(request)] = transaction.operations() else { panic!("{transaction:?}") };
    let answer = reply(&transaction, &[Ok(lease(request, 0, 1, 60))], 0);
    assert_eq!(ias(&answer)[0].blocks().next().unwrap().link_type, 6);
}

#[test]
fn addresses_of_another_kind_are_not_available() {
    for (link_type, length) in [(32, 6), (1, 8), (6, 0)] {
        let other = LlAddr { link_type, address: vec![0; length], ..LlAddr::ethernet(ANY, 0, 0) };
        let transaction = plan(&ask(MessageType::Solicit, [ia(1, [DhcpOption::LlAddr(other)])]));
        assert_eq!(transaction.operations(), []);
        assert_eq!(refusal(&reply(&transaction, &[], 0)), StatusCode::NoAddrsAvail);
    }
}

#[test]
fn a_client_that_wants_other_quadrants_gets_no_addresses() {
    let wants = |quadrants: &[u8]| {
        let wishes =
            quadrants.iter().map(|quadrant| QuadrantPreference { quadrant: *quadrant, preference: 9 }).collect();
        plan(&ask(MessageType::Solicit, [ia(1, [DhcpOption::Quad(wishes)])]))
    };
    assert_eq!(refusal(&reply(&wants(&[1, 2, 3, 77]), &[], 0)), StatusCode::NoAddrsAvail);
    for accepted in [&[][..], &[0], &[3, 0, 0]] {
        assert_eq!(wants(accepted).operations().len(), 1, "{accepted:?}");
    }
    // A block of the extended local quadrant: the wish for it is met there.
    let extended = Server::new([0; 16], Block::new(Mac([0xaa, 0, 0, 0, 0, 0]), 16, 1024).unwrap());
    let wish = DhcpOption::Quad(vec![QuadrantPreference { quadrant: 1, preference: 0 }]);
    let payload = ask(MessageType::Solicit, [ia(1, [wish])]);
    assert_eq!(extended.plan(&payload, PEER).unwrap().operations().len(), 1);
}

#[test]
fn what_an_ia_ll_says_of_the_flow_goes_before_what_the_message_says() {
    let outer = FlowOption { rate: Some(1), name: Some("outer".into()), ..FlowOption::default() };
    let inner = FlowOption { rate: Some(2), field: Some(Field::Source), ..FlowOption::default() };
    let payload = ask(MessageType::Request, [DhcpOption::Flow(outer), ia(1, [DhcpOption::Flow(inner)]), ia(2, [])]);
    let specs: Vec<_> = plan(&payload).operations().iter().map(|operation| spec(operation).clone()).collect();
    let name = Some("outer".to_owned());
    assert_eq!(
        specs,
        [
            FlowSpec { rate: Some(2), field: Field::Source, name: name.clone(), ..FlowSpec::default() },
            FlowSpec { rate: Some(1), name, ..FlowSpec::default() },
        ]
    );
}

fn spec(operation: &Operation) -> &FlowSpec {
    match operation {
        Operation::Offer(request) | Operation::Request(request) => &request.spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_answer_tells_what_was_granted_not_what_was_asked() {
    let asked = FlowOption { rate: Some(1_000), ..FlowOption::default() };
    let transaction = plan(&ask(MessageType::Request, [ia(1, [DhcpOption::Flow(asked)])]));
    let [Operation::Request(request)] = transaction.operations() else { panic!("{transaction:?}") };
    let mut granted = lease(request, 0, 1, 60);
    granted.spec.rate = Some(500);
    assert_eq!(ias(&reply(&transaction, &[Ok(granted)], 0))[0].flow().unwrap().rate, Some(500));
}

#[test]
fn all_leases_of_an_answer_have_the_times_of_the_shortest() {
    let transaction = plan(&ask(MessageType::Request, [ia(1, []), ia(2, []), ia(3, [])]));
    let [Operation::Request(one), Operation::Request(two), Operation::Request(_)] = transaction.operations() else {
        panic!("{transaction:?}")
    };
    let results = [Ok(lease(one, 0, 1, 1000)), Ok(lease(two, 1, 1, 100)), Err(full())];
    let answer = reply(&transaction, &results, 0);
    let [one, two, three] = ias(&answer)[..] else { panic!("{answer:?}") };
    assert_eq!((one.iaid, one.t1, one.t2), (1, 50, 80));
    assert_eq!((two.iaid, two.t1, two.t2), (2, 50, 80));
    assert_eq!(one.blocks().next().unwrap().valid_lifetime, 1000);
    assert_eq!((three.iaid, three.status().unwrap().code), (3, StatusCode::NoAddrsAvail));
}

#[test]
fn the_lifetime_is_what_remains_and_the_times_are_never_0() {
    let transaction = plan(&ask(MessageType::Request, [ia(1, [])]));
    let [Operation::Request(request)] = transaction.operations() else { panic!("{transaction:?}") };
    let times = |now| {
        let answer = reply(&transaction, &[Ok(lease(request, 0, 1, 100))], now);
        let ia = ias(&answer)[0].clone();
        (ia.t1, ia.t2, ia.blocks().next().map(|block| block.valid_lifetime))
    };
    assert_eq!(times(0), (50, 80, Some(100)));
    assert_eq!(times(5), (50, 80, Some(100)));
    assert_eq!(times(40_501), (29, 47, Some(59)));
    assert_eq!(times(98_000), (1, 1, Some(2)));
    assert_eq!(times(99_000), (1, 1, Some(1)));
    assert_eq!(times(99_501), (0, 0, None));
}

#[test]
fn a_lease_for_ever_has_infinite_times() {
    let transaction = plan(&ask(MessageType::Request, [ia(1, [])]));
    let [Operation::Request(request)] = transaction.operations() else { panic!("{transaction:?}") };
    let answer = reply(&transaction, &[Ok(lease(request, 0, 1, INFINITY))], 1_000_000);
    let ia = ias(&answer)[0];
    assert_eq!((ia.t1, ia.t2, ia.blocks().next().unwrap().valid_lifetime), (INFINITY, INFINITY, INFINITY));
}

#[test]
fn a_finite_lease_never_reads_as_one_for_ever() {
    let transaction = plan(&ask(MessageType::Request, [ia(1, [])]));
    let [Operation::Request(request)] = transaction.operations() else { panic!("{transaction:?}") };
    let long = Lease { expires: u64::MAX - 1, ..lease(request, 0, 1, 100) };
    let answer = reply(&transaction, &[Ok(long)], 0);
    assert_eq!(ias(&answer)[0].blocks().next().unwrap().valid_lifetime, INFINITY - 1);
}

#[test]
fn each_refusal_has_its_status() {
    let quota = Refusal::PortQuota { port: PortId(3), held: 4, quota: 4 };
    let client_quota = Refusal::ClientQuota { held: 4, quota: 4 };
    let other_port = Refusal::OtherPort(PortId(9));
    let invalid = Refusal::Invalid("no");
    let cases = [
        (MessageType::Request, full(), StatusCode::NoAddrsAvail),
        (MessageType::Solicit, full(), StatusCode::NoAddrsAvail),
        (MessageType::Request, quota, StatusCode::NoAddrsAvail),
        (MessageType::Request, client_quota, StatusCode::NoAddrsAvail),
        (MessageType::Request, other_port.clone(), StatusCode::NoAddrsAvail),
        (MessageType::Request, invalid.clone(), StatusCode::UnspecFail),
        (MessageType::Solicit, Refusal::NoWay("no route".into()), StatusCode::UnspecFail),
        (MessageType::Solicit, Refusal::Closed, StatusCode::NotAllowed),
        (MessageType::Request, Refusal::Closed, StatusCode::NotAllowed),
        (MessageType::Renew, Refusal::Closed, StatusCode::NotAllowed),
        (MessageType::Rebind, Refusal::Closed, StatusCode::NotAllowed),
        (MessageType::Renew, Refusal::NoBinding, StatusCode::NoBinding),
        (MessageType::Renew, other_port.clone(), StatusCode::NoBinding),
        (MessageType::Renew, invalid, StatusCode::UnspecFail),
        (MessageType::Rebind, other_port.clone(), StatusCode::NoBinding),
        (MessageType::Release, Refusal::NoBinding, StatusCode::NoBinding),
        (MessageType::Release, other_port, StatusCode::NoBinding),
        (MessageType::Decline, Refusal::NoBinding, StatusCode::NoBinding),
    ];
    for (kind, refused, code) in cases {
        let transaction = plan(&ask(kind, [ia(1, [])]));
        let answer = reply(&transaction, &[Err(refused.clone())], 0);
        assert_eq!(refusal(&answer), code, "{kind}: {refused}");
        let text = ias(&answer)[0].status().unwrap().text.clone();
        assert_eq!(text, refused.to_string());
    }
}

#[test]
fn an_answer_says_how_many_paths_there_are_to_who_has_chosen_one() {
    let path = || DhcpOption::Flow(FlowOption { path: Some(3), ..FlowOption::default() });
    let mut transaction = plan(&ask(MessageType::Request, [ia(1, [path()]), ia(2, []), ia(3, [path()])]));
    transaction.set_paths(1, 2);
    transaction.set_paths(2, 2);
    let requests: Vec<_> = transaction.operations().to_vec();
    let granted = requests.iter().zip(0..).map(|(operation, first)| match operation {
        Operation::Request(request) => Ok(lease(request, first, 1, 60)),
        other => panic!("{other:?}"),
    });
    let answer = reply(&transaction, &granted.collect::<Vec<_>>(), 0);
    let said: Vec<_> = ias(&answer).iter().map(|ia| ia.flow().unwrap()).map(|flow| (flow.path, flow.paths)).collect();
    assert_eq!(said, [(Some(3), Some(2)), (None, None), (Some(3), None)]);
}

#[test]
fn an_operation_without_a_result_is_answered_as_a_failure() {
    let transaction = plan(&ask(MessageType::Request, [ia(1, [])]));
    assert_eq!(refusal(&reply(&transaction, &[], 0)), StatusCode::UnspecFail);
}

#[test]
fn a_renewal_names_the_lease_and_gets_more_time_for_the_same_addresses() {
    let mut table = Table::new(block(), 100);
    table.serve(&server(), &ask(MessageType::Request, [ia(1, [lladdr(ANY, 4)])]), PEER, 0).unwrap();
    for kind in [MessageType::Renew, MessageType::Rebind] {
        let first = block().flow_address(Mac([0xa2, 0xf1, 0, 0, 0, 0]));
        let payload = ask(kind, [ia(1, [lladdr(first.unwrap().mac(), 4)])]);
        let held = Held { key: key(1), port: PEER.port, first };
        assert_eq!(plan(&payload).operations(), [Operation::Renew(held)]);
        let answer = Message::parse(&table.serve(&server(), &payload, PEER, 60_000).unwrap()).unwrap();
        let given = ias(&answer)[0].blocks().next().unwrap().clone();
        assert_eq!((answer.kind, given), (MessageType::Reply, LlAddr::ethernet(first.unwrap().mac(), 3, 100)));
    }
}

#[test]
fn a_renewal_of_other_addresses_than_the_lease_has_is_no_binding() {
    let mut table = Table::new(block(), 100);
    table.serve(&server(), &ask(MessageType::Request, [ia(1, [])]), PEER, 0).unwrap();
    let payload = ask(MessageType::Renew, [ia(1, [lladdr(Mac([0xa2, 0xf1, 0, 0, 0, 9]), 1)])]);
    assert_eq!(
        refusal(&Message::parse(&table.serve(&server(), &payload, PEER, 0).unwrap()).unwrap()),
        StatusCode::NoBinding
    );
    // Even if the allotter renewed it without asking.
    let only = table.leases.values().next().unwrap().clone();
    assert_eq!(refusal(&reply(&plan(&payload), &[Ok(only)], 0)), StatusCode::NoBinding);
}

#[test]
fn addresses_of_another_block_are_no_binding_and_touch_no_lease() {
    for kind in [MessageType::Renew, MessageType::Release, MessageType::Decline] {
        let transaction = plan(&ask(kind, [ia(1, [lladdr(Mac([0xa2, 0xf2, 0, 0, 0, 0]), 1)])]));
        assert_eq!(transaction.operations(), [], "{kind}");
        assert_eq!(refusal(&reply(&transaction, &[], 0)), StatusCode::NoBinding, "{kind}");
    }
}

#[test]
fn a_rebind_is_left_to_the_server_whose_addresses_they_are() {
    let foreign = plan(&ask(MessageType::Rebind, [ia(1, [lladdr(Mac([0xa2, 0xf2, 0, 0, 0, 0]), 1)])]));
    assert_eq!((foreign.operations(), foreign.reply(&[], 0)), (&[][..], None));
    let unnamed = plan(&ask(MessageType::Rebind, [ia(1, [])]));
    assert_eq!(unnamed.reply(&[Err(Refusal::NoBinding)], 0), None);
    let ours = plan(&ask(MessageType::Rebind, [ia(1, [lladdr(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 1)])]));
    assert_eq!(refusal(&reply(&ours, &[Err(Refusal::NoBinding)], 0)), StatusCode::NoBinding);
}

#[test]
fn a_release_and_a_decline_are_confirmed_for_the_whole_message() {
    for kind in [MessageType::Release, MessageType::Decline] {
        let mut table = Table::new(block(), 100);
        table.serve(&server(), &ask(MessageType::Request, [ia(1, [])]), PEER, 0).unwrap();
        let payload = ask(kind, [ia(1, [lladdr(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 1)]), ia(2, [])]);
        let answer = Message::parse(&table.serve(&server(), &payload, PEER, 0).unwrap()).unwrap();
        assert!(answer.options.contains(&DhcpOption::StatusCode(Status::new(StatusCode::Success, ""))));
        // Only the lease that was not there is named.
        assert_eq!((ias(&answer)[0].iaid, refusal(&answer)), (2, StatusCode::NoBinding));
        assert!(table.leases.is_empty());
    }
}

#[test]
fn a_late_release_of_an_earlier_lease_does_not_end_the_lease_of_today() {
    let mut table = Table::new(block(), 100);
    let ask_one = ask(MessageType::Request, [ia(1, [])]);
    let release = ask(MessageType::Release, [ia(1, [lladdr(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 1)])]);
    table.serve(&server(), &ask_one, PEER, 0).unwrap();
    table.serve(&server(), &release, PEER, 0).unwrap();
    table.serve(&server(), &ask_one, PEER, 0).unwrap();
    let answer = Message::parse(&table.serve(&server(), &release, PEER, 0).unwrap()).unwrap();
    assert_eq!(refusal(&answer), StatusCode::NoBinding);
    assert_eq!(table.leases.len(), 1);
}

#[test]
fn a_message_without_the_right_identifiers_is_ignored() {
    let other = || DhcpOption::ServerId(Duid::from_uuid([7; 16]));
    let lease = || ia(1, []);
    for kind in [MessageType::Solicit, MessageType::Rebind] {
        assert_eq!(ignored(kind, [lease()]), Ignore::NoClientId);
        assert_eq!(ignored(kind, [client_id(), server_id(), lease()]), Ignore::UnexpectedServerId);
    }
    for kind in [MessageType::Request, MessageType::Renew, MessageType::Release, MessageType::Decline] {
        assert_eq!(ignored(kind, [client_id(), lease()]), Ignore::NoServerId);
        assert_eq!(ignored(kind, [server_id(), lease()]), Ignore::NoClientId);
        assert_eq!(ignored(kind, [client_id(), other(), lease()]), Ignore::OtherServer);
    }
}

#[test]
fn a_servers_message_is_ignored() {
    for kind in [MessageType::Advertise, MessageType::Reply, MessageType::Reconfigure] {
        assert_eq!(ignored(kind, [client_id(), server_id(), ia(1, [])]), Ignore::FromServer(kind));
    }
}

#[test]
fn what_is_not_about_flow_addresses_is_ignored() {
    for kind in [MessageType::Confirm, MessageType::InformationRequest] {
        assert_eq!(ignored(kind, [client_id(), ia(1, [])]), Ignore::NotUsed(kind));
    }
    assert_eq!(ignored(MessageType::Solicit, [client_id(), DhcpOption::RapidCommit]), Ignore::NoIaLl);
}

#[test]
fn eight_leases_are_asked_for_at_once_and_no_ninth() {
    let leases = |count| (1..=count).map(|iaid| ia(iaid, []));
    assert_eq!(plan(&ask(MessageType::Request, leases(8))).operations().len(), 8);
    let nine = server().plan(&ask(MessageType::Request, leases(9)), PEER).unwrap_err();
    assert_eq!(nine, Ignore::TooMany(9));
}

#[test]
fn two_leases_of_one_iaid_are_ignored() {
    let twice = server().plan(&ask(MessageType::Request, [ia(5, []), ia(5, [])]), PEER).unwrap_err();
    assert_eq!(twice, Ignore::SameIaid(5));
}

#[test]
fn the_port_and_host_of_the_request_are_those_that_it_came_from() {
    let peer = Peer { port: PortId(42), host: Mac([2, 0, 0, 0, 0, 9]) };
    let transaction = server().plan(&ask(MessageType::Solicit, [ia(1, [])]), peer).unwrap();
    let [Operation::Offer(request)] = transaction.operations() else { panic!("{transaction:?}") };
    assert_eq!((request.port, request.host), (peer.port, peer.host));
}

/// What the server says to a flow that has come there by others.
fn way(kind: MessageType, hop_limit: u8, crossed: &[[u8; 16]]) -> Transaction {
    let crossed = Some(crossed.iter().copied().map(SwitchId).collect());
    let flow = FlowOption { hop_limit: Some(hop_limit), crossed, ..FlowOption::default() };
    plan(&ask(kind, [ia(1, [DhcpOption::Flow(flow)])]))
}

#[test]
fn a_flow_that_comes_by_again_or_by_too_many_switches_is_refused_with_its_hop_limit() {
    for kind in [MessageType::Solicit, MessageType::Request] {
        for (hop_limit, crossed, text) in [
            (3, [CLIENT, crate::SERVER], "the flow has come by this switch before: routes make a loop"),
            (0, [CLIENT, [9; 16]], "the flow has come by as many switches as it may"),
        ] {
            let transaction = way(kind, hop_limit, &crossed);
            assert_eq!(transaction.operations(), []);
            let reply = reply(&transaction, &[], 0);
            let [ia] = ias(&reply)[..] else { panic!("{reply:?}") };
            assert_eq!(ia.status(), Some(&Status::new(StatusCode::UnspecFail, text)));
            assert_eq!(ia.flow().and_then(|flow| flow.hop_limit), Some(hop_limit));
        }
    }
}

#[test]
fn a_flow_that_comes_by_other_switches_is_granted_without_repeating_them() {
    let transaction = way(MessageType::Request, 1, &[CLIENT]);
    let [Operation::Request(request)] = transaction.operations() else { panic!("{transaction:?}") };
    assert_eq!(request.spec.so_far, PathSoFar { hop_limit: 1, crossed: vec![SwitchId(CLIENT)] });
    let reply = reply(&transaction, &[Ok(lease(request, 0, 1, 60))], 0);
    let flow = ias(&reply)[0].flow().unwrap();
    assert_eq!((flow.hop_limit, &flow.crossed), (None, &None));
}
