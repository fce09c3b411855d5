//! The client, and whatever servers may send it, at any time.

use crate::payload::{self, Message, Payload};
use bolero::{TypeGenerator, check, produce};
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{Client, Config, Event, Grant, Message as Parsed};

/// How many addresses it asks for.
const COUNT: u32 = 16;

#[derive(Clone, Debug, TypeGenerator)]
struct Step {
    /// Milliseconds since the step before; none is until the client has something to do.
    wait: Option<u32>,
    what: What,
}

#[derive(Clone, Debug, TypeGenerator)]
enum What {
    Nothing,
    Release,
    Decline,
    Receive(Payload),
    /// An Advertise or a Reply to the client's last question.
    Answer {
        advertise: bool,
        message: Message,
    },
}

#[test]
fn no_message_makes_the_client_panic_or_send_without_end_or_take_what_it_must_not() {
    let steps = produce::<Vec<Step>>().with().len(0usize..=8);
    check!().with_generator((produce::<bool>(), steps)).for_each(|(rapid_commit, steps)| {
        let (duid, spec) = (payload::client(), FlowSpec::default());
        let config = Config { duid, iaid: 1, count: COUNT, spec, rapid_commit: *rapid_commit, seed: 1 };
        let (mut client, mut now) = (Client::new(config, 0), 0);
        let mut question = transmit(&mut client, now);
        for step in steps {
            now = match step.wait {
                Some(wait) => now + u64::from(wait),
                None => client.poll_timeout().map_or(now, |next| next.max(now)),
            };
            question = transmit(&mut client, now).or(question);
            take(&mut client, &step.what, question.as_deref(), now);
            question = transmit(&mut client, now).or(question);
        }
    });
}

/// Sends what is due, and returns it.
fn transmit(client: &mut Client, now: u64) -> Option<Vec<u8>> {
    let sent: Vec<_> = std::iter::from_fn(|| client.poll_transmit(now)).take(2).collect();
    assert!(sent.len() <= 1, "two messages at once");
    assert!(client.poll_timeout().is_none_or(|next| next > now), "{client:?} at {now}");
    sent.iter().for_each(|payload| drop(Parsed::parse(payload).expect("a message of the client's")));
    while let Some(event) = client.event() {
        if let Event::Leased(grant) = event {
            check_grant(&grant);
        }
    }
    sent.into_iter().next()
}

fn take(client: &mut Client, what: &What, question: Option<&[u8]>, now: u64) {
    let octets = match what {
        What::Nothing => return,
        What::Release => return client.release(now),
        What::Decline => return client.decline(now),
        What::Receive(payload) => payload.octets(),
        What::Answer { advertise, message } => answer(message, *advertise, question),
    };
    // Taken, or discarded with a reason: either is right here.
    let _ = client.handle(&octets, now);
}

fn answer(message: &Message, advertise: bool, question: Option<&[u8]>) -> Vec<u8> {
    let mut message = message.clone();
    message.kind = if advertise { 2 } else { 7 };
    if let Some([_, a, b, c, ..]) = question {
        message.transaction = [*a, *b, *c];
    }
    message.octets()
}

fn check_grant(grant: &Grant) {
    assert!((1..=COUNT as usize).contains(&grant.addresses.len()), "{grant:?}");
    assert!(grant.addresses.iter().all(|address| !address.is_group()), "{grant:?}");
    assert!(grant.t1 <= grant.t2 && grant.t2 <= grant.valid, "{grant:?}");
}
