//! What is granted, to whom, and what is refused.

use super::*;

#[test]
fn leases_follow_one_another() {
    let mut allotter = Allotter::new(block(64), policy(), 130);
    let first = ask(&mut allotter, 1, 3, 0).expect("granted");
    let second = ask(&mut allotter, 2, 1, 0).expect("granted");
    assert_eq!((first.first, second.first), (130, 133));
    let addresses: Vec<_> = first.addresses(allotter.block()).map(|a| a.mac().to_u64()).collect();
    assert_eq!(addresses, [0xa2f1_0000_0082, 0xa2f1_0000_0083, 0xa2f1_0000_0084]);
}

#[test]
fn a_lease_does_not_cross_the_end_of_the_table() {
    let mut allotter = Allotter::new(block(64), policy(), 62);
    assert_eq!(ask(&mut allotter, 1, 3, 0).expect("granted").first, 64);
    assert_eq!(ask(&mut allotter, 2, 1, 0).expect("granted").first, 67);
}

/// Behind the prefix of 16 bits stand a tag and the slot's number.
#[test]
fn the_last_sequence_number_is_followed_by_the_first() {
    const LAST: u64 = (1 << 32) - 1;
    let mut allotter = Allotter::new(block(64), policy(), LAST);
    assert_eq!(ask(&mut allotter, 1, 1, 0).expect("granted").first, LAST);
    assert_eq!(ask(&mut allotter, 2, 1, 0).expect("granted").first, 0);
}

#[test]
fn a_repeated_request_gets_the_same_addresses_for_longer() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    let first = ask(&mut allotter, 1, 3, 0).expect("granted");
    let next = allotter.next();
    let again = ask(&mut allotter, 1, 5, 20_000).expect("granted");
    assert_eq!((again.first, again.count, again.expires), (first.first, 3, 80_000));
    assert_eq!((allotter.next(), allotter.counts().leased), (next, 3));
}

#[test]
fn a_repeated_request_changes_the_purpose_and_the_host() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    let mut request = request(key(1, 1), 1);
    allotter.request(&request, 0).expect("granted");
    request.spec.rate = Some(1_000_000);
    request.host = Mac([2, 0, 0, 0, 0, 9]);
    allotter.request(&request, 0).expect("granted");
    let lease = allotter.lease(&request.key).expect("a lease");
    assert_eq!((lease.spec.rate, lease.host), (Some(1_000_000), request.host));
}

#[test]
fn only_who_asks_for_the_same_again_asks_for_nothing_new() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    let asked = request(key(1, 1), 1);
    assert!(!allotter.is_repeated(&asked));
    allotter.request(&asked, 0).expect("granted");
    assert!(allotter.is_repeated(&Request { lifetime: Some(99), count: 3, ..asked.clone() }));
    let faster = FlowSpec { rate: Some(1_000_000), ..FlowSpec::default() };
    for other in [
        Request { port: OTHER, ..asked.clone() },
        Request { host: Mac([2, 0, 0, 0, 0, 9]), ..asked.clone() },
        Request { spec: faster, ..asked.clone() },
        Request { key: key(1, 2), ..asked },
    ] {
        assert!(!allotter.is_repeated(&other), "{other:?}");
    }
}

#[test]
fn a_lease_answers_to_its_own_port_only() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    ask(&mut allotter, 1, 1, 0).expect("granted");
    let before = allotter.clone();
    let (key, refused) = (key(1, 1), Err(Refusal::OtherPort(PORT)));
    assert_eq!(allotter.request(&Request { port: OTHER, ..request(key.clone(), 1) }, 0), refused);
    assert_eq!(allotter.renew(&key, OTHER, None, 0), refused);
    assert_eq!(allotter.release(&key, OTHER, 0), refused);
    assert_eq!(allotter.decline(&key, OTHER, 0), refused);
    assert_eq!(allotter, before);
}

#[test]
fn a_lease_that_is_not_there_is_no_binding() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    let refused = Err(Refusal::NoBinding);
    assert_eq!(allotter.renew(&key(1, 1), PORT, None, 0), refused);
    assert_eq!(allotter.release(&key(1, 1), PORT, 0), refused);
    assert_eq!(allotter.close(SlotIndex(0), 0), refused);
    assert_eq!(allotter.take_changes(), []);
}

#[test]
fn requests_that_nobody_may_make_are_invalid() {
    let allotter = Allotter::new(block(64), policy(), 0);
    let wrong = |change: fn(&mut Request)| {
        let mut request = request(key(1, 1), 1);
        change(&mut request);
        matches!(allotter.offer(&request, 0), Err(Refusal::Invalid(_)))
    };
    assert!(!wrong(|_| ()));
    assert!(wrong(|r| r.count = 0));
    assert!(wrong(|r| r.port = PortId::NONE));
    assert!(wrong(|r| r.host = Mac::BROADCAST));
    assert!(wrong(|r| r.key.client.0.clear()));
    assert!(wrong(|r| r.key.client.0 = vec![0; 131]));
    assert!(!wrong(|r| r.key.client.0 = vec![0; 130]));
    assert!(wrong(|r| r.spec.rate = Some(0)));
    assert!(wrong(|r| r.spec.name = Some("x".repeat(65))));
    assert!(!wrong(|r| r.spec.name = Some("x".repeat(64))));
}

#[test]
fn a_client_gets_fewer_addresses_where_the_policy_gives_fewer() {
    let policy = Policy { max_addresses: 4, port_quota: 10, client_quota: 6, ..policy() };
    let mut allotter = Allotter::new(block(64), policy, 0);
    let mut count = |client, iaid| allotter.request(&request(key(client, iaid), 100), 0).map(|lease| lease.count);
    assert_eq!(count(1, 1), Ok(4));
    assert_eq!(count(1, 2), Ok(2));
    assert_eq!(count(1, 3), Err(Refusal::ClientQuota { held: 6, quota: 6 }));
    assert_eq!(count(2, 1), Ok(4));
    assert_eq!(count(3, 1), Err(Refusal::PortQuota { port: PORT, held: 10, quota: 10 }));
}

#[test]
fn a_client_gets_the_longest_run_where_no_run_is_long_enough() {
    let mut allotter = Allotter::new(block(8), Policy { quarantine: 0, ..policy() }, 0);
    (0..8).for_each(|iaid| drop(ask(&mut allotter, iaid, 1, 0).expect("granted")));
    for iaid in [1, 3, 4] {
        allotter.release(&key(1, iaid), PORT, 0).expect("released");
    }
    let lease = ask(&mut allotter, 9, 5, 1).expect("granted");
    assert_eq!((lease.first, lease.count), (8 + 3, 2));
}

#[test]
fn an_offer_is_what_a_request_then_gets_and_leaves_nothing_behind() {
    let mut allotter = Allotter::new(block(8), policy(), 6);
    let before = allotter.clone();
    let offered = allotter.offer(&request(key(1, 1), 3), 0);
    assert_eq!(allotter, before);
    assert_eq!(allotter.request(&request(key(1, 1), 3), 0), offered);
    assert_eq!(allotter.offer(&request(key(1, 1), 1), 9).expect("offered").first, offered.expect("offered").first);
}

#[test]
fn another_policy_is_for_what_is_asked_for_from_then_on() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    let before = ask(&mut allotter, 1, 1, 0).expect("granted");
    let longer = Policy { default_lifetime: 300, ..policy() };
    allotter.set_policy(longer.clone());
    assert_eq!(allotter.policy(), &longer);
    assert_eq!(allotter.lease(&before.key), Some(&before));
    assert_eq!((before.lifetime, ask(&mut allotter, 2, 1, 0).expect("granted").lifetime), (60, 300));
}

#[test]
fn a_client_is_told_in_hexadecimal_digits() {
    assert_eq!(ClientId(vec![0, 3, 0xab]).to_string(), "0003ab");
}
