//! What is written of a lease, and what is known of it after a restart.

use super::*;

/// Leases of a minute, written with an end between 30 and 60 seconds later.
fn reserving() -> Allotter {
    Allotter::new(block(8), Policy { reserve: 30, ..policy() }, 0)
}

/// Whether what has just been done has to be written.
fn writes(allotter: &mut Allotter) -> bool {
    allotter.take_changes().iter().any(Change::needs_writing)
}

#[test]
fn a_renewal_within_the_reserve_needs_no_write() {
    let mut allotter = reserving();
    assert_eq!(ask(&mut allotter, 1, 1, 0).expect("granted").reserved, 120_000);
    assert!(writes(&mut allotter));
    let renewed = allotter.renew(&key(1, 1), PORT, None, 30_000).expect("renewed");
    assert_eq!((renewed.expires, renewed.reserved), (90_000, 120_000));
    assert!(!writes(&mut allotter));
    let again = ask(&mut allotter, 1, 1, 30_001).expect("repeated");
    assert_eq!((again.expires, again.reserved), (90_001, 150_001));
    assert!(writes(&mut allotter));
}

#[test]
fn without_writes_a_lease_is_prolonged_as_far_as_it_is_reserved() {
    let mut allotter = reserving();
    ask(&mut allotter, 1, 1, 0).expect("granted");
    allotter.take_changes();
    let mut prolong = |now| {
        let answer = allotter.prolong(&key(1, 1), PORT, None, now);
        assert!(!writes(&mut allotter));
        answer.map(|lease| (lease.lifetime, lease.expires))
    };
    assert_eq!(prolong(50_000), Ok((60, 110_000)));
    assert_eq!(prolong(100_500), Ok((19, 119_500)));
    assert_eq!(prolong(119_000), Ok((1, 120_000)));
    assert_eq!(prolong(119_500), Err(Refusal::NoBinding));
    // The end could not be written; when it can be, the lease rests as any other.
    assert_eq!(allotter.counts().leased, 1);
    allotter.expire(130_000);
    assert_eq!(allotter.poll_timeout(), Some(230_000));
}

#[test]
fn prolonging_makes_no_lease_shorter_and_forgets_no_wish() {
    let mut allotter = reserving();
    ask(&mut allotter, 1, 1, 0).expect("granted");
    let lease = allotter.prolong(&key(1, 1), PORT, Some(10), 5_000).expect("prolonged");
    assert_eq!((lease.lifetime, lease.expires), (10, 15_000));
    assert_eq!(allotter.lease(&key(1, 1)).map(|lease| lease.expires), Some(60_000));
    assert_eq!(allotter.renew(&key(1, 1), PORT, None, 6_000).expect("renewed").lifetime, 60);
}

#[test]
fn who_may_not_renew_may_not_prolong() {
    let mut allotter = reserving();
    ask(&mut allotter, 1, 1, 0).expect("granted");
    assert_eq!(allotter.prolong(&key(1, 1), OTHER, None, 0), Err(Refusal::OtherPort(PORT)));
    assert_eq!(allotter.prolong(&key(1, 2), PORT, None, 0), Err(Refusal::NoBinding));
    allotter.close(SlotIndex(0), 0).expect("closed");
    assert_eq!(allotter.prolong(&key(1, 1), PORT, None, 0), Err(Refusal::Closed));
}

#[test]
fn a_lease_for_ever_is_prolonged_for_ever() {
    let mut allotter = Allotter::new(block(4), Policy { max_lifetime: u32::MAX, ..policy() }, 0);
    allotter.request(&Request { lifetime: Some(u32::MAX), ..request(key(1, 1), 1) }, 0).expect("granted");
    let lease = allotter.prolong(&key(1, 1), PORT, None, 1 << 50).expect("prolonged");
    assert_eq!((lease.lifetime, lease.expires), (u32::MAX, u64::MAX));
}

#[test]
fn a_damaged_store_is_not_restored() {
    let mut granting = Allotter::new(block(64), policy(), 0);
    let lease = ask(&mut granting, 1, 4, 0).expect("granted");
    let mut allotter = Allotter::new(block(64), policy(), 0);
    allotter.restore(lease.clone()).expect("restored");
    let before = allotter.clone();
    let mut refused = |lease| allotter.restore(lease).expect_err("refused");
    let other = Lease { key: key(2, 1), ..lease.clone() };
    assert_eq!(refused(Lease { first: 3, ..other.clone() }), RestoreError::Overlap(SlotIndex(3)));
    assert!(matches!(refused(Lease { first: 62, ..other.clone() }), RestoreError::DoesNotFit { .. }));
    assert!(matches!(refused(Lease { first: 1 << 32, ..other.clone() }), RestoreError::DoesNotFit { .. }));
    assert!(matches!(refused(Lease { first: u64::MAX, ..other.clone() }), RestoreError::DoesNotFit { .. }));
    assert!(matches!(refused(Lease { first: 9, count: u32::MAX, ..other.clone() }), RestoreError::DoesNotFit { .. }));
    assert!(matches!(refused(Lease { first: 9, count: 0, ..other }), RestoreError::DoesNotFit { .. }));
    assert!(matches!(refused(Lease { first: 9, ..lease.clone() }), RestoreError::SameKey { iaid: 1, .. }));
    assert_eq!(allotter, before);

    let mut allotter = Allotter::new(block(64), policy(), 0);
    allotter.restore(Lease { first: 1, count: 1, ..lease.clone() }).expect("restored");
    let overlaps = Lease { key: key(2, 1), first: 0, count: 2, ..lease };
    assert_eq!(allotter.restore(overlaps), Err(RestoreError::Overlap(SlotIndex(1))), "the slot that is taken");
}

#[test]
fn a_restored_lease_ends_when_the_last_promise_can_end() {
    let mut allotter = reserving();
    let lease = ask(&mut allotter, 1, 1, 0).expect("granted");
    let mut restored = reserving();
    restored.restore(lease).expect("restored");
    assert_eq!(restored.lease(&key(1, 1)).map(|lease| lease.expires), Some(120_000));
}

#[test]
fn a_restored_lease_ends_as_its_client_was_promised_where_that_is_known() {
    let mut allotter = reserving();
    let lease = ask(&mut allotter, 1, 1, 0).expect("granted");
    assert!(lease.expires < lease.reserved);
    let slot = slot_of(&allotter.block(), lease.first);
    let mut restored = reserving();
    restored.restore(lease.clone()).expect("restored");
    restored.restore_end(slot, lease.reserved + 1);
    assert_eq!(restored.lease_at(slot).expect("a lease").expires, lease.reserved, "no row is exceeded");
    restored.restore_end(slot, lease.expires);
    assert_eq!(restored.lease_at(slot), Some(&lease));
    assert!(restored.take_changes().is_empty());
    restored.expire(lease.expires);
    assert_eq!(restored.counts().quarantined, 1);
}
