//! The client, against answers made by hand.

use crate::{CLIENT, SERVER, client_id, server_id};
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{
    Client, Config, DhcpOption, Discard, Duid, Event, FlowOption, Grant, INFINITY, IaLl, LlAddr, Message, MessageType,
    Status, StatusCode,
};
use flowlane_wire::Mac;

const FIRST: Mac = Mac([0xa2, 0xf1, 0, 0, 0, 0x10]);

fn config(rapid_commit: bool) -> Config {
    let spec = FlowSpec { rate: Some(5_000), ..FlowSpec::default() };
    Config { duid: Duid::from_uuid(CLIENT), iaid: 1, count: 4, spec, rapid_commit, seed: 7 }
}

fn client(rapid_commit: bool) -> Client {
    Client::new(config(rapid_commit), 0)
}

/// What the client sends now.
fn sent(client: &mut Client, now: u64) -> Message {
    let message = Message::parse(&client.poll_transmit(now).expect("a message")).unwrap();
    assert_eq!(client.poll_transmit(now), None, "one message at a time");
    message
}

fn lladdr(first: Mac, count: u32, valid: u32) -> DhcpOption {
    DhcpOption::LlAddr(LlAddr::ethernet(first, count - 1, valid))
}

fn ia(t1: u32, t2: u32, options: impl IntoIterator<Item = DhcpOption>) -> DhcpOption {
    DhcpOption::IaLl(IaLl { iaid: 1, t1, t2, options: options.into_iter().collect() })
}

fn hour() -> DhcpOption {
    ia(1800, 2880, [lladdr(FIRST, 4, 3600)])
}

fn status(code: StatusCode) -> DhcpOption {
    DhcpOption::StatusCode(Status::new(code, "because"))
}

fn answer(kind: MessageType, question: &Message, options: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    let identifiers = [client_id(), server_id()];
    let options = identifiers.into_iter().chain(options).collect();
    Message { kind, transaction: question.transaction, options }.emit().unwrap()
}

fn reply(question: &Message, options: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    answer(MessageType::Reply, question, options)
}

/// A client with a lease of an hour, got at 0.
fn leased() -> Client {
    leased_with(hour())
}

fn leased_with(ia: DhcpOption) -> Client {
    let mut client = client(true);
    let solicit = sent(&mut client, 0);
    client.handle(&reply(&solicit, [DhcpOption::RapidCommit, ia]), 0).unwrap();
    assert!(matches!(client.event(), Some(Event::Leased(_))));
    client
}

/// How a rapid answer with this IA_LL is taken.
fn taken(ia: DhcpOption) -> (Result<(), Discard>, Option<Event>) {
    let mut client = client(true);
    let solicit = sent(&mut client, 0);
    let result = client.handle(&reply(&solicit, [DhcpOption::RapidCommit, ia]), 0);
    (result, client.event())
}

fn server_of(message: &Message) -> Option<&DhcpOption> {
    message.options.iter().find(|option| matches!(option, DhcpOption::ServerId(_)))
}

fn ia_of(message: &Message) -> &IaLl {
    let ia = message.options.iter().find_map(|option| match option {
        DhcpOption::IaLl(ia) => Some(ia),
        _ => None,
    });
    ia.unwrap()
}

fn elapsed(message: &Message) -> u16 {
    let elapsed = message.options.iter().find_map(|option| match option {
        DhcpOption::ElapsedTime(elapsed) => Some(*elapsed),
        _ => None,
    });
    elapsed.unwrap()
}

#[test]
fn a_solicit_has_all_that_the_rfcs_want() {
    let solicit = sent(&mut client(true), 0);
    assert_eq!(solicit.kind, MessageType::Solicit);
    let wanted =
        [client_id(), DhcpOption::ElapsedTime(0), DhcpOption::OptionRequest(vec![82]), DhcpOption::RapidCommit];
    assert!(wanted.iter().all(|option| solicit.options.contains(option)), "{solicit:?}");
    assert_eq!(server_of(&solicit), None);
    let ia = ia_of(&solicit);
    assert_eq!((ia.iaid, ia.t1, ia.t2), (1, 0, 0));
    assert_eq!(ia.blocks().collect::<Vec<_>>(), [&LlAddr::ethernet(Mac([0; 6]), 3, 0)]);
    assert_eq!(ia.flow().unwrap().rate, Some(5_000));
}

#[test]
fn two_messages_give_a_lease() {
    let (result, event) = taken(hour());
    assert_eq!(result, Ok(()));
    let grant = Grant {
        addresses: (0x10..0x14).map(|last| Mac([0xa2, 0xf1, 0, 0, 0, last])).collect(),
        t1: 1800,
        t2: 2880,
        valid: 3600,
        spec: FlowSpec::default(),
        paths: None,
        server: Duid::from_uuid(SERVER),
    };
    assert_eq!(event, Some(Event::Leased(grant)));
}

#[test]
fn a_client_asks_for_a_path_and_hears_how_many_there_are() {
    let spec = FlowSpec { path: Some(5), only_with_a_way: true, ..FlowSpec::default() };
    let mut client = Client::new(Config { spec, ..config(true) }, 0);
    let solicit = sent(&mut client, 0);
    let asked = ia_of(&solicit).flow().unwrap();
    assert_eq!((asked.path, asked.only_with_a_way), (Some(5), true));
    let flow = DhcpOption::Flow(FlowOption { path: Some(5), paths: Some(2), ..FlowOption::default() });
    let granted = ia(1800, 2880, [lladdr(FIRST, 4, 3600), flow]);
    client.handle(&reply(&solicit, [DhcpOption::RapidCommit, granted]), 0).unwrap();
    let Some(Event::Leased(grant)) = client.event() else { panic!("no lease") };
    assert_eq!((grant.spec.path, grant.paths), (Some(5), Some(2)));
}

#[test]
fn four_messages_give_a_lease_after_the_first_wait() {
    let mut client = client(false);
    let solicit = sent(&mut client, 0);
    assert!(!solicit.options.contains(&DhcpOption::RapidCommit));
    client.handle(&answer(MessageType::Advertise, &solicit, [hour()]), 5).unwrap();
    assert_eq!((client.poll_transmit(1_000), client.event()), (None, None));
    let at = client.poll_timeout().unwrap();
    assert!((1_001..=1_100).contains(&at));
    let request = sent(&mut client, at);
    assert_eq!((request.kind, server_of(&request)), (MessageType::Request, Some(&server_id())));
    assert_ne!(request.transaction, solicit.transaction);
    assert_eq!(ia_of(&request).blocks().collect::<Vec<_>>(), [&LlAddr::ethernet(FIRST, 3, 0)]);
    client.handle(&reply(&request, [hour()]), at).unwrap();
    assert!(matches!(client.event(), Some(Event::Leased(_))));
}

#[test]
fn the_offer_with_the_highest_preference_is_taken_and_255_at_once() {
    let offer = |question: &Message, server: u8, preference: u8| {
        let server = DhcpOption::ServerId(Duid::from_uuid([server; 16]));
        let options = vec![client_id(), server, DhcpOption::Preference(preference), hour()];
        Message { kind: MessageType::Advertise, transaction: question.transaction, options }.emit().unwrap()
    };
    let mut client = client(false);
    let solicit = sent(&mut client, 0);
    for (server, preference) in [(1, 3), (2, 9), (3, 9), (4, 0)] {
        client.handle(&offer(&solicit, server, preference), 1).unwrap();
    }
    let mut patient = client.clone();
    let at = patient.poll_timeout().unwrap();
    let chosen = DhcpOption::ServerId(Duid::from_uuid([2; 16]));
    assert_eq!(server_of(&sent(&mut patient, at)), Some(&chosen));

    client.handle(&offer(&solicit, 5, 255), 2).unwrap();
    let chosen = DhcpOption::ServerId(Duid::from_uuid([5; 16]));
    assert_eq!(server_of(&sent(&mut client, 2)), Some(&chosen));
}

#[test]
fn after_the_first_wait_the_first_offer_is_taken() {
    let mut client = client(false);
    sent(&mut client, 0);
    let at = client.poll_timeout().unwrap();
    let again = sent(&mut client, at);
    client.handle(&answer(MessageType::Advertise, &again, [hour()]), at + 1).unwrap();
    assert_eq!(sent(&mut client, at + 1).kind, MessageType::Request);
}

#[test]
fn an_offer_is_taken_where_rapid_commit_was_wanted() {
    let mut client = client(true);
    let solicit = sent(&mut client, 0);
    client.handle(&answer(MessageType::Advertise, &solicit, [hour()]), 5).unwrap();
    let at = client.poll_timeout().unwrap();
    assert_eq!(sent(&mut client, at).kind, MessageType::Request);
}

#[test]
fn a_retransmission_keeps_its_transaction_and_tells_the_time_since_the_first() {
    let mut client = client(true);
    let first = sent(&mut client, 500);
    let at = client.poll_timeout().unwrap();
    let second = sent(&mut client, at);
    assert_eq!(first.transaction, second.transaction);
    assert_eq!((elapsed(&first), u64::from(elapsed(&second))), (0, (at - 500) / 10));
}

#[test]
fn answers_that_are_not_for_the_client_are_discarded() {
    let mut client = client(true);
    let solicit = sent(&mut client, 0);
    let good = || vec![client_id(), server_id(), DhcpOption::RapidCommit, hour()];
    let other_id = flowlane_dhcp6::TransactionId([0; 3]);
    let other_client = DhcpOption::ClientId(Duid::from_uuid([9; 16]));
    let cases = [
        (MessageType::Reply, other_id, good(), Discard::OtherTransaction),
        (
            MessageType::Reply,
            solicit.transaction,
            vec![server_id(), DhcpOption::RapidCommit, hour()],
            Discard::OtherClient,
        ),
        (MessageType::Reply, solicit.transaction, vec![other_client, server_id(), hour()], Discard::OtherClient),
        (
            MessageType::Reply,
            solicit.transaction,
            vec![client_id(), DhcpOption::RapidCommit, hour()],
            Discard::OtherServer,
        ),
        (MessageType::Reply, solicit.transaction, vec![client_id(), server_id(), hour()], Discard::NoRapidCommit),
        (MessageType::Reconfigure, solicit.transaction, good(), Discard::NotAnAnswer(MessageType::Reconfigure)),
        (MessageType::Solicit, solicit.transaction, good(), Discard::NotAnAnswer(MessageType::Solicit)),
    ];
    for (kind, transaction, options, discard) in cases {
        let payload = Message { kind, transaction, options }.emit().unwrap();
        assert_eq!(client.handle(&payload, 1), Err(discard));
    }
    assert!(matches!(client.handle(&[7], 1), Err(Discard::Malformed(_))));
    assert_eq!(client.event(), None);
    client.handle(&reply(&solicit, [DhcpOption::RapidCommit, hour()]), 2).unwrap();
}

#[test]
fn a_second_copy_of_an_answer_is_discarded() {
    let mut client = client(true);
    let solicit = sent(&mut client, 0);
    let payload = reply(&solicit, [DhcpOption::RapidCommit, hour()]);
    client.handle(&payload, 1).unwrap();
    assert_eq!(client.handle(&payload, 2), Err(Discard::OtherTransaction));
}

#[test]
fn a_reply_from_another_server_than_was_asked_is_discarded() {
    let mut client = leased();
    let renew = sent(&mut client, 1_800_000);
    let other = DhcpOption::ServerId(Duid::from_uuid([9; 16]));
    let options = vec![client_id(), other, hour()];
    let payload = Message { kind: MessageType::Reply, transaction: renew.transaction, options }.emit().unwrap();
    assert_eq!(client.handle(&payload, 1_800_001), Err(Discard::OtherServer));
}

#[test]
fn unusable_blocks_are_discarded() {
    let infiniband = LlAddr { link_type: 32, ..LlAddr::ethernet(FIRST, 0, 60) };
    for (block, why) in [
        (lladdr(FIRST, 5, 60), "more addresses than were asked for"),
        (DhcpOption::LlAddr(LlAddr::ethernet(FIRST, u32::MAX, 60)), "more addresses than were asked for"),
        (lladdr(Mac([0; 6]), 1, 60), "no address of a single host"),
        (lladdr(Mac([0xa3, 0, 0, 0, 0, 1]), 1, 60), "no address of a single host"),
        (DhcpOption::LlAddr(infiniband), "no Ethernet address"),
        (lladdr(FIRST, 4, 0), "a lease that has ended"),
    ] {
        assert_eq!(taken(ia(0, 0, [block])), (Err(Discard::Unusable(why)), None));
    }
}

#[test]
fn a_refusal_with_a_hop_limit_is_about_the_way() {
    let hop_limit = || DhcpOption::Flow(FlowOption { hop_limit: Some(3), ..FlowOption::default() });
    let way = taken(ia(0, 0, [status(StatusCode::UnspecFail), hop_limit()]));
    assert!(matches!(way, (Ok(()), Some(Event::NoWay(_)))), "{way:?}");
    let other = taken(ia(0, 0, [status(StatusCode::NoAddrsAvail), hop_limit()]));
    assert!(matches!(other, (Ok(()), Some(Event::Refused(_)))), "{other:?}");
}

#[test]
fn an_answer_that_gives_nothing_is_a_refusal() {
    let code = |ia| match taken(ia) {
        (Ok(()), Some(Event::Refused(status))) => status.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(ia(0, 0, [status(StatusCode::NoAddrsAvail)])), StatusCode::NoAddrsAvail);
    assert_eq!(code(ia(0, 0, [lladdr(FIRST, 4, 60), status(StatusCode::UnspecFail)])), StatusCode::UnspecFail);
    assert_eq!(code(ia(0, 0, [])), StatusCode::NoAddrsAvail);
    assert_eq!(code(status(StatusCode::UnspecFail)), StatusCode::UnspecFail);
}

#[test]
fn an_ia_ll_whose_t1_is_after_its_t2_is_as_if_it_were_not_there() {
    let nothing = (Err(Discard::Unusable("no flow addresses in it")), None);
    assert_eq!(taken(ia(81, 80, [lladdr(FIRST, 4, 100)])), nothing);
    assert!(taken(ia(81, 0, [lladdr(FIRST, 4, 100)])).0.is_ok());
}

#[test]
fn a_server_without_flow_addresses_does_not_keep_the_client_from_one_with_them() {
    let mut client = client(true);
    let solicit = sent(&mut client, 0);
    let nothing = Err(Discard::Unusable("no flow addresses in it"));
    assert_eq!(client.handle(&answer(MessageType::Advertise, &solicit, [DhcpOption::Preference(255)]), 1), nothing);
    assert_eq!(client.handle(&reply(&solicit, [DhcpOption::RapidCommit]), 1), nothing);
    let other = IaLl { iaid: 2, t1: 0, t2: 0, options: vec![lladdr(FIRST, 1, 60)] };
    assert_eq!(client.handle(&reply(&solicit, [DhcpOption::RapidCommit, DhcpOption::IaLl(other)]), 1), nothing);
    assert_eq!(client.event(), None);
    client.handle(&reply(&solicit, [DhcpOption::RapidCommit, hour()]), 2).unwrap();
    assert!(matches!(client.event(), Some(Event::Leased(_))));
}

#[test]
fn times_left_to_the_client_are_half_and_four_fifths_of_the_lifetime() {
    let times = |t1, t2, valid| match taken(ia(t1, t2, [lladdr(FIRST, 4, valid)])) {
        (Ok(()), Some(Event::Leased(grant))) => (grant.t1, grant.t2),
        other => panic!("{other:?}"),
    };
    assert_eq!(times(0, 0, 100), (50, 80));
    assert_eq!(times(60, 0, 100), (60, 80));
    assert_eq!(times(90, 0, 100), (80, 80));
    assert_eq!(times(0, 30, 100), (30, 30));
    assert_eq!(times(200, 300, 100), (100, 100));
    assert_eq!(times(INFINITY, INFINITY, 100), (100, 100));
    assert_eq!(times(0, 0, INFINITY), (INFINITY, INFINITY));
}

#[test]
fn a_lease_for_ever_needs_nothing_more() {
    let mut client = leased_with(ia(INFINITY, INFINITY, [lladdr(FIRST, 4, INFINITY)]));
    assert_eq!((client.poll_timeout(), client.poll_transmit(u64::MAX / 2)), (None, None));
}

#[test]
fn a_lease_is_renewed_at_t1_at_its_server() {
    let mut client = leased();
    assert_eq!((client.poll_timeout(), client.poll_transmit(1_799_999)), (Some(1_800_000), None));
    let renew = sent(&mut client, 1_800_000);
    assert_eq!((renew.kind, server_of(&renew)), (MessageType::Renew, Some(&server_id())));
    assert_eq!(ia_of(&renew).blocks().collect::<Vec<_>>(), [&LlAddr::ethernet(FIRST, 3, 0)]);
    let again = client.poll_timeout().unwrap() - 1_800_000;
    assert!((9_000..=11_000).contains(&again), "REN_TIMEOUT: {again}");
    client.handle(&reply(&renew, [hour()]), 1_800_100).unwrap();
    assert!(matches!(client.event(), Some(Event::Leased(_))));
    assert_eq!(client.poll_timeout(), Some(3_600_100));
}

#[test]
fn a_lease_is_rebound_at_t2_at_any_server_and_lost_at_its_end() {
    let mut client = leased();
    let mut kinds = vec![];
    let mut now = 0;
    while now < 3_600_000 {
        now = client.poll_timeout().unwrap();
        if let Some(payload) = client.poll_transmit(now) {
            let message = Message::parse(&payload).unwrap();
            assert_eq!(message.kind == MessageType::Renew, server_of(&message).is_some(), "{message:?}");
            if kinds.last().is_none_or(|(_, kind)| *kind != message.kind) {
                kinds.push((now, message.kind));
            }
        }
    }
    let expected =
        [(1_800_000, MessageType::Renew), (2_880_000, MessageType::Rebind), (3_600_000, MessageType::Solicit)];
    assert_eq!(kinds, expected);
    assert_eq!((client.event(), client.event()), (Some(Event::Lost), None));
}

#[test]
fn another_server_may_answer_a_rebind() {
    let mut client = leased();
    sent(&mut client, 1_800_000);
    let rebind = sent(&mut client, 2_880_000);
    let other = Duid::from_uuid([9; 16]);
    let options = vec![client_id(), DhcpOption::ServerId(other.clone()), hour()];
    let payload = Message { kind: MessageType::Reply, transaction: rebind.transaction, options }.emit().unwrap();
    client.handle(&payload, 2_880_001).unwrap();
    assert!(matches!(client.event(), Some(Event::Leased(grant)) if grant.server == other));
}

#[test]
fn a_renewal_with_other_addresses_changes_nothing() {
    let mut client = leased();
    let renew = sent(&mut client, 1_800_000);
    for block in [lladdr(Mac([0xa2, 0xf1, 0, 0, 0, 0x11]), 4, 3600), lladdr(FIRST, 3, 3600), lladdr(FIRST, 3, 0)] {
        let payload = reply(&renew, [ia(0, 0, [block])]);
        assert_eq!(client.handle(&payload, 1_800_001), Err(Discard::Unusable("a renewal with other addresses")));
    }
    assert_eq!(client.event(), None);
}

#[test]
fn a_renewal_with_a_lifetime_of_0_ends_the_lease() {
    let mut client = leased();
    let renew = sent(&mut client, 1_800_000);
    client.handle(&reply(&renew, [ia(0, 0, [lladdr(FIRST, 4, 0)])]), 1_800_001).unwrap();
    assert_eq!(client.event(), Some(Event::Lost));
    assert_eq!(sent(&mut client, 1_800_001).kind, MessageType::Solicit);
}

#[test]
fn a_lease_that_its_server_does_not_know_is_lost_and_asked_for_again() {
    let mut client = leased();
    let renew = sent(&mut client, 1_800_000);
    client.handle(&reply(&renew, [ia(0, 0, [status(StatusCode::NoBinding)])]), 1_800_001).unwrap();
    assert_eq!((client.event(), client.event()), (Some(Event::Lost), None));
    let request = sent(&mut client, 1_800_001);
    assert_eq!((request.kind, server_of(&request)), (MessageType::Request, Some(&server_id())));
    assert_eq!(ia_of(&request).blocks().collect::<Vec<_>>(), [&LlAddr::ethernet(Mac([0; 6]), 3, 0)]);
    assert!(ia_of(&request).flow().is_some());
}

#[test]
fn a_renewal_refused_for_another_reason_leaves_the_lease_until_its_end() {
    let mut client = leased();
    let renew = sent(&mut client, 1_800_000);
    client.handle(&reply(&renew, [status(StatusCode::UnspecFail)]), 1_800_001).unwrap();
    assert!(matches!(client.event(), Some(Event::Refused(_))));
    let at = client.poll_timeout().unwrap();
    assert_eq!(sent(&mut client, at).kind, MessageType::Renew);
}

#[test]
fn a_client_whose_lease_an_operator_has_closed_asks_for_nothing_any_more() {
    let closed = || ia(0, 0, [status(StatusCode::NotAllowed)]);
    let mut renewing = leased();
    let renew = sent(&mut renewing, 1_800_000);
    renewing.handle(&reply(&renew, [closed()]), 1_800_001).unwrap();
    let mut rebinding = leased();
    let rebind = sent(&mut rebinding, 2_880_000);
    assert_eq!(rebind.kind, MessageType::Rebind);
    rebinding.handle(&reply(&rebind, [closed()]), 2_880_001).unwrap();
    let mut rapid = client(true);
    let solicit = sent(&mut rapid, 0);
    rapid.handle(&reply(&solicit, [DhcpOption::RapidCommit, closed()]), 1).unwrap();
    let mut slow = client(false);
    let solicit = sent(&mut slow, 0);
    slow.handle(&answer(MessageType::Advertise, &solicit, [closed()]), 1).unwrap();
    let mut requesting = client(false);
    let solicit = sent(&mut requesting, 0);
    requesting.handle(&answer(MessageType::Advertise, &solicit, [DhcpOption::Preference(255), hour()]), 1).unwrap();
    let request = sent(&mut requesting, 1);
    requesting.handle(&reply(&request, [closed()]), 2).unwrap();
    for mut client in [renewing, rebinding, rapid, slow, requesting] {
        assert_eq!(client.event(), Some(Event::Closed(Status::new(StatusCode::NotAllowed, "because"))));
        assert_eq!((client.event(), client.poll_timeout(), client.is_closed()), (None, None, true));
        assert_eq!(client.poll_transmit(u64::MAX / 2), None);
        client.release(u64::MAX / 2);
        assert_eq!(client.poll_transmit(u64::MAX / 2), None, "there is nothing to give back");
    }
}

#[test]
fn a_block_whose_first_octet_changes_is_declined() {
    let (result, event) = taken(ia(0, 0, [lladdr(Mac([0xa2, 0xff, 0xff, 0xff, 0xff, 0xfe]), 3, 60)]));
    assert_eq!((result, event), (Err(Discard::Unusable("a block whose first octet changes")), None));
    let mut client = client(true);
    let solicit = sent(&mut client, 0);
    let block = ia(0, 0, [lladdr(Mac([0xa2, 0xff, 0xff, 0xff, 0xff, 0xfe]), 3, 60)]);
    client.handle(&reply(&solicit, [DhcpOption::RapidCommit, block]), 0).unwrap_err();
    let decline = sent(&mut client, 0);
    assert_eq!((decline.kind, server_of(&decline)), (MessageType::Decline, Some(&server_id())));
    client.handle(&reply(&decline, [status(StatusCode::Success)]), 1).unwrap();
    let at = client.poll_timeout().unwrap();
    assert_eq!((at, sent(&mut client, at).kind), (1_001, MessageType::Solicit));
}

#[test]
fn a_release_is_sent_to_the_server_and_confirmed() {
    for code in [StatusCode::Success, StatusCode::NoBinding, StatusCode::UnspecFail] {
        let mut client = leased();
        client.release(10_000);
        let release = sent(&mut client, 10_000);
        assert_eq!((release.kind, server_of(&release)), (MessageType::Release, Some(&server_id())));
        assert_eq!(ia_of(&release).blocks().collect::<Vec<_>>(), [&LlAddr::ethernet(FIRST, 3, 0)]);
        client.handle(&reply(&release, [status(code)]), 10_001).unwrap();
        assert_eq!((client.event(), client.is_closed()), (Some(Event::Released), true));
        assert_eq!((client.poll_timeout(), client.poll_transmit(u64::MAX / 2)), (None, None));
    }
}

#[test]
fn a_release_that_nobody_answers_is_sent_four_times() {
    let mut client = leased();
    client.release(10_000);
    let mut count = 0;
    while let Some(now) = client.poll_timeout() {
        count += usize::from(client.poll_transmit(now).is_some());
    }
    assert_eq!((count, client.event(), client.is_closed()), (4, Some(Event::Released), true));
}

#[test]
fn a_client_without_a_lease_is_released_at_once_and_once_only() {
    let mut client = client(true);
    sent(&mut client, 0);
    client.release(1);
    client.release(2);
    assert_eq!((client.event(), client.event()), (Some(Event::Released), None));
    assert_eq!((client.poll_timeout(), client.poll_transmit(10_000_000)), (None, None));
}

#[test]
fn a_decline_without_a_lease_does_not_stop_the_asking() {
    let mut client = client(true);
    sent(&mut client, 0);
    client.decline(1);
    let at = client.poll_timeout().unwrap();
    assert_eq!(sent(&mut client, at).kind, MessageType::Solicit);
}

#[test]
fn a_server_that_offers_and_refuses_is_asked_less_and_less_often() {
    let mut client = client(false);
    let mut waits = vec![];
    let mut now = 0;
    for _ in 0..4 {
        let solicit = sent(&mut client, now);
        let best = [DhcpOption::Preference(255), hour()];
        client.handle(&answer(MessageType::Advertise, &solicit, best), now).unwrap();
        let request = sent(&mut client, now);
        client.handle(&reply(&request, [ia(0, 0, [status(StatusCode::NoAddrsAvail)])]), now).unwrap();
        assert!(matches!(client.event(), Some(Event::Refused(_))));
        waits.push(client.poll_timeout().unwrap() - now);
        now = client.poll_timeout().unwrap();
    }
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000]);
}

#[test]
fn a_request_that_nobody_answers_is_sent_ten_times_and_then_a_solicit() {
    let mut client = client(false);
    let solicit = sent(&mut client, 0);
    client.handle(&answer(MessageType::Advertise, &solicit, [DhcpOption::Preference(255), hour()]), 0).unwrap();
    let mut kinds = vec![];
    while kinds.last() != Some(&MessageType::Solicit) {
        let now = client.poll_timeout().unwrap();
        kinds.extend(client.poll_transmit(now).map(|payload| Message::parse(&payload).unwrap().kind));
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == MessageType::Request).count(), 10);
}

#[test]
fn sol_max_rt_bounds_the_time_between_solicits_even_from_a_refusal() {
    let longest = |seconds| {
        let mut client = client(true);
        let solicit = sent(&mut client, 0);
        let refused = ia(0, 0, [status(StatusCode::NoAddrsAvail)]);
        client.handle(&reply(&solicit, [DhcpOption::RapidCommit, DhcpOption::SolMaxRt(seconds), refused]), 1).unwrap();
        let mut longest = 0;
        for _ in 0..20 {
            let now = client.poll_timeout().unwrap();
            sent(&mut client, now);
            longest = longest.max(client.poll_timeout().unwrap() - now);
        }
        longest
    };
    assert!((54_000..=66_000).contains(&longest(60)));
    assert!(longest(59) > 3_000_000);
}

#[test]
fn clients_of_different_seeds_use_different_transactions_and_the_same_seed_the_same() {
    let id = |seed| sent(&mut Client::new(Config { seed, ..config(true) }, 0), 0).transaction;
    assert_eq!(id(1), id(1));
    assert_ne!(id(1), id(2));
}
