//! How leases end, and how long their addresses rest.

use super::*;

#[test]
fn released_addresses_rest_before_they_are_allotted_again() {
    let mut allotter = Allotter::new(block(4), policy(), 0);
    ask(&mut allotter, 1, 4, 0).expect("granted");
    allotter.release(&key(1, 1), PORT, 5_000).expect("released");
    assert_eq!(allotter.poll_timeout(), Some(105_000));
    assert_eq!(ask(&mut allotter, 1, 1, 104_999), Err(Refusal::Full { leased: 0, quarantined: 4, slots: 4 }));
    let lease = ask(&mut allotter, 1, 4, 105_000).expect("granted");
    assert_eq!((lease.first, lease.count), (4, 4));
}

#[test]
fn an_expired_lease_rests_like_a_released_one() {
    let mut allotter = Allotter::new(block(4), policy(), 0);
    ask(&mut allotter, 1, 2, 0).expect("granted");
    allotter.expire(59_999);
    assert_eq!(allotter.counts().leased, 2);
    allotter.expire(60_000);
    assert_eq!(allotter.counts(), Counts { leases: 0, leased: 0, quarantined: 2, free: 2, slots: 4 });
    assert_eq!(allotter.poll_timeout(), Some(160_000));
    allotter.expire(160_000);
    assert_eq!(allotter.counts(), Counts { leases: 0, leased: 0, quarantined: 0, free: 4, slots: 4 });
    assert_eq!(allotter.poll_timeout(), None);
}

#[test]
fn an_expired_lease_is_not_renewed() {
    let mut allotter = Allotter::new(block(4), policy(), 0);
    ask(&mut allotter, 1, 1, 0).expect("granted");
    assert_eq!(allotter.renew(&key(1, 1), PORT, None, 60_000), Err(Refusal::NoBinding));
    assert_eq!(ask(&mut allotter, 1, 1, 60_000).expect("granted").first, 1);
}

#[test]
fn a_lease_for_ever_has_no_deadline() {
    let mut allotter = Allotter::new(block(4), Policy { max_lifetime: u32::MAX, ..policy() }, 0);
    let lease = allotter.request(&Request { lifetime: Some(u32::MAX), ..request(key(1, 1), 1) }, 0).expect("granted");
    assert_eq!((lease.lifetime, lease.expires, allotter.poll_timeout()), (u32::MAX, u64::MAX, None));
    allotter.expire(u64::MAX - 1);
    assert_eq!(allotter.counts().leased, 1);
}

#[test]
fn the_administrator_closes_a_lease_by_any_of_its_slots() {
    let mut allotter = Allotter::new(block(8), policy(), 0);
    ask(&mut allotter, 1, 3, 0).expect("granted");
    let closed = allotter.close(SlotIndex(2), 7_000).expect("closed");
    assert_eq!(closed.state, LeaseState::Closed { until: 107_000 });
    assert_eq!(allotter.lease_at(SlotIndex(2)), None);
    assert_eq!(allotter.close(SlotIndex(0), 7_000), Err(Refusal::NoBinding));
}

#[test]
fn a_closed_lease_is_not_had_again_before_its_quarantine_is_over() {
    let mut allotter = Allotter::new(block(8), policy(), 0);
    ask(&mut allotter, 1, 1, 0).expect("granted");
    allotter.close(SlotIndex(0), 0).expect("closed");
    let again = request(key(1, 1), 1);
    assert_eq!(allotter.offer(&again, 99_999), Err(Refusal::Closed));
    assert_eq!(allotter.request(&again, 99_999), Err(Refusal::Closed));
    assert_eq!(allotter.renew(&key(1, 1), PORT, None, 99_999), Err(Refusal::Closed));
    assert_eq!(allotter.release(&key(1, 1), PORT, 99_999), Err(Refusal::NoBinding));
    ask(&mut allotter, 2, 1, 99_999).expect("another lease of the same client");
    ask(&mut allotter, 1, 1, 100_000).expect("the quarantine is over");
}

#[test]
fn a_lease_that_has_ended_otherwise_is_asked_for_anew_at_once() {
    let mut allotter = Allotter::new(block(8), policy(), 0);
    for slot in (0..3).map(SlotIndex) {
        ask(&mut allotter, 1, 1, 0).expect("granted");
        match slot.0 {
            0 => allotter.end(slot, 0),
            1 => allotter.release(&key(1, 1), PORT, 0),
            _ => allotter.decline(&key(1, 1), PORT, 0),
        }
        .expect("ended");
    }
    ask(&mut allotter, 1, 1, 0).expect("granted");
    allotter.expire(60_000);
    ask(&mut allotter, 1, 1, 60_000).expect("the lease was over by its time");
}

#[test]
fn a_closed_lease_that_was_not_made_durable_goes_on() {
    let mut allotter = Allotter::new(block(8), policy(), 0);
    ask(&mut allotter, 1, 1, 0).expect("granted");
    allotter.take_changes();
    allotter.close(SlotIndex(0), 0).expect("closed");
    let changes = allotter.take_changes();
    allotter.undo(changes);
    allotter.renew(&key(1, 1), PORT, None, 0).expect("as before");
}

#[test]
fn a_change_ends_a_lease_if_its_client_may_no_longer_use_it() {
    let mut allotter = Allotter::new(block(8), policy(), 0);
    let mut ended = |what: fn(&mut Allotter)| {
        what(&mut allotter);
        allotter.take_changes().iter().map(Change::ends).collect::<Vec<_>>()
    };
    assert_eq!(ended(|a| drop(ask(a, 1, 1, 0).expect("granted"))), [false]);
    assert_eq!(ended(|a| drop(a.renew(&key(1, 1), PORT, None, 1_000).expect("renewed"))), [false]);
    assert_eq!(ended(|a| drop(a.release(&key(1, 1), PORT, 2_000).expect("released"))), [true]);
    assert_eq!(ended(|a| a.expire(102_000)), [false], "only its rest is over");
    let taken_back =
        Change { slot: SlotIndex(0), before: Some(ask(&mut allotter, 1, 1, 0).expect("granted")), after: None };
    assert!(taken_back.ends());
}
