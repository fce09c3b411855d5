//! The allotter against a model that is obviously right: one record per slot, and scans.

use super::*;
use crate::{FlowSpec, LeaseState};
use flowlane_wire::Mac;
use proptest::prelude::*;

const PORT: PortId = PortId(1);
const OTHER: PortId = PortId(2);

fn block(slots: u32) -> Block {
    Block::new(Mac::from_u64(0xa2f1_0000_0000), 16, slots).expect("a good block")
}

fn policy() -> Policy {
    Policy { quarantine: 100, default_lifetime: 60, min_lifetime: 10, max_lifetime: 600, ..Policy::default() }
}

fn key(client: u8, iaid: u32) -> LeaseKey {
    LeaseKey { client: ClientId(vec![client]), iaid }
}

fn request(key: LeaseKey, count: u32) -> Request {
    let host = Mac([2, 0, 0, 0, 0, 1]);
    Request { key, port: PORT, host, count, lifetime: None, spec: FlowSpec::default() }
}

/// Asks under a key of its own.
fn ask(allotter: &mut Allotter, iaid: u32, count: u32, now: u64) -> Result<Lease, Refusal> {
    allotter.request(&request(key(1, iaid), count), now)
}

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

#[test]
fn the_last_sequence_number_is_followed_by_the_first() {
    let block = block(64);
    let mut allotter = Allotter::new(block, policy(), space(&block) - 1);
    assert_eq!(ask(&mut allotter, 1, 1, 0).expect("granted").first, space(&block) - 1);
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
fn an_offer_is_what_a_request_then_gets_and_leaves_nothing_behind() {
    let mut allotter = Allotter::new(block(8), policy(), 6);
    let before = allotter.clone();
    let offered = allotter.offer(&request(key(1, 1), 3), 0);
    assert_eq!(allotter, before);
    assert_eq!(allotter.request(&request(key(1, 1), 3), 0), offered);
    assert_eq!(allotter.offer(&request(key(1, 1), 1), 9).expect("offered").first, offered.expect("offered").first);
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

/// Where something looked through the table for each of them, this would take hours.
#[test]
fn a_million_slots_are_filled_refused_and_found_again() {
    const SLOTS: u32 = 1 << 20;
    let policy = Policy { port_quota: SLOTS, client_quota: SLOTS, ..policy() };
    let mut allotter = Allotter::new(block(SLOTS), policy, 0);
    for iaid in 0..SLOTS {
        // Odd keys last longer, so that the table is then full of holes of one slot.
        let lifetime = Some(100 + iaid % 2 * 300);
        allotter.request(&Request { lifetime, ..request(key(1, iaid), 1) }, 0).expect("granted");
        allotter.take_changes();
    }
    assert_eq!(allotter.counts().free, 0);
    // Quotas would refuse first: ask from elsewhere.
    let elsewhere = |iaid| Request { port: OTHER, ..request(key(2, iaid), 1) };
    for iaid in 0..100_000 {
        let full = Err(Refusal::Full { leased: SLOTS, quarantined: 0, slots: SLOTS });
        assert_eq!(allotter.request(&elsewhere(iaid), 1_000), full);
    }
    allotter.release(&key(1, 777_777), PORT, 1_000).expect("released");
    assert!(matches!(allotter.request(&elsewhere(0), 2_000), Err(Refusal::Full { quarantined: 1, .. })));
    let (quarantine_end, all_others) = (101_000, 99_999);
    assert!(allotter.poll_timeout().is_some_and(|at| at > all_others));
    // 100,000 ms: every even lease goes to quarantine; 101,000 ms: the released slot is the only free one.
    assert_eq!(allotter.request(&elsewhere(0), quarantine_end).expect("granted").first, u64::from(SLOTS) + 777_777);
    assert_eq!(allotter.counts().quarantined, SLOTS / 2);
    allotter.expire(201_000);
    for iaid in 1..100_000 {
        let lease = allotter.request(&Request { count: 2, ..elsewhere(iaid) }, 201_000).expect("granted");
        assert_eq!((lease.count, lease.first % 2), (1, 0));
    }
}

/// What a slot is, in the model.
#[derive(Clone, Debug, PartialEq)]
enum Slot {
    Free,
    Leased {
        key: LeaseKey,
        port: PortId,
        ends: u64,
    },
    /// In quarantine, and for the client of `closed` what keeps it from a lease.
    Resting {
        until: u64,
        closed: Option<LeaseKey>,
    },
}

struct Model {
    policy: Policy,
    slots: Vec<Slot>,
    tags: Vec<Option<u64>>,
    next: u64,
}

impl Model {
    fn new(policy: Policy, slots: u32, next: u64) -> Self {
        Self { policy, slots: vec![Slot::Free; slots as usize], tags: vec![None; slots as usize], next }
    }

    fn held(&self, by: impl Fn(&LeaseKey, PortId) -> bool) -> u32 {
        self.slots.iter().filter(|s| matches!(s, Slot::Leased { key, port, .. } if by(key, *port))).count() as u32
    }

    fn holder(&self, wanted: &LeaseKey) -> Option<PortId> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Leased { key, port, .. } if key == wanted => Some(*port),
            _ => None,
        })
    }

    fn deadline(&self) -> Option<u64> {
        let ends = |slot: &Slot| match slot {
            Slot::Free => None,
            Slot::Leased { ends, .. } => Some(*ends),
            Slot::Resting { until, .. } => Some(*until),
        };
        self.slots.iter().filter_map(ends).min()
    }

    fn expire(&mut self, now: u64) {
        let until = now + u64::from(self.policy.quarantine) * 1000;
        for slot in &mut self.slots {
            if matches!(slot, Slot::Leased { ends, .. } if *ends <= now) {
                *slot = Slot::Resting { until, closed: None };
            }
            if matches!(slot, Slot::Resting { until, .. } if *until <= now) {
                *slot = Slot::Free;
            }
        }
    }

    fn is_closed(&self, key: &LeaseKey) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Resting { closed: Some(closed), .. } if closed == key))
    }

    fn free_all(&mut self, key: &LeaseKey, closed: bool, now: u64) {
        let until = now + u64::from(self.policy.quarantine) * 1000;
        for slot in &mut self.slots {
            if matches!(slot, Slot::Leased { key: owner, .. } if owner == key) {
                *slot = Slot::Resting { until, closed: closed.then(|| key.clone()) };
            }
        }
    }

    fn extend(&mut self, wanted: &LeaseKey, until: u64) {
        for slot in &mut self.slots {
            if let Slot::Leased { key, ends, .. } = slot
                && key == wanted
            {
                *ends = until;
            }
        }
    }

    fn fits(&self, slot: u64, count: u32) -> bool {
        let run = self.slots.get(slot as usize..slot as usize + count as usize);
        run.is_some_and(|run| run.iter().all(|slot| *slot == Slot::Free))
    }

    /// The next sequence number at which `count` slots are free, and how many of `count` there are.
    fn place(&self, count: u32) -> Option<(u64, u32)> {
        let slots = self.slots.len() as u64;
        let count = (1..=count).rev().find(|&count| (0..slots).any(|slot| self.fits(slot, count)))?;
        let first = (self.next..).find(|first| self.fits(first % slots, count))?;
        Some((first, count))
    }

    /// What a request of a client without a lease must get: sequence number and count.
    fn grant(&self, request: &Request) -> Result<(u64, u32), &'static str> {
        let at_port = self.policy.port_quota.saturating_sub(self.held(|_, port| port == request.port));
        let of_client = self.policy.client_quota.saturating_sub(self.held(|key, _| key.client == request.key.client));
        let count = request.count.min(self.policy.max_addresses).min(at_port).min(of_client);
        match (at_port, of_client) {
            (0, _) => Err("port"),
            (_, 0) => Err("client"),
            _ => self.place(count).ok_or("full"),
        }
    }

    fn take(&mut self, lease: &Lease) {
        let slots = self.slots.len() as u64;
        for number in lease.first..lease.first + u64::from(lease.count) {
            let (slot, tag) = ((number % slots) as usize, number / slots);
            assert_eq!(self.slots[slot], Slot::Free, "slot {slot} has two owners, or did not rest");
            assert_eq!(tag, lease.first / slots, "the tags of one lease differ");
            assert_ne!(self.tags[slot].replace(tag), Some(tag), "slot {slot} has the same tag again");
            self.slots[slot] = Slot::Leased { key: lease.key.clone(), port: lease.port, ends: lease.expires };
        }
        self.next = lease.first + u64::from(lease.count);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Request { count: u32, lifetime: Option<u32> },
    Renew(Option<u32>),
    Release,
    Decline,
    End(u32),
    Close(u32),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<(u8, u32, u16, Step)>> {
    let lifetime = || prop::option::of(0u32..700);
    let step = prop_oneof![
        6 => (1u32..9, lifetime()).prop_map(|(count, lifetime)| Step::Request { count, lifetime }),
        1 => lifetime().prop_map(Step::Renew),
        2 => Just(Step::Release),
        1 => Just(Step::Decline),
        1 => (0u32..128).prop_map(Step::End),
        1 => (0u32..128).prop_map(Step::Close),
        2 => (0u64..90_000).prop_map(Step::Wait),
    ];
    prop::collection::vec((0u8..4, 0u32..4, 1u16..3, step), 1..120)
}

fn policies() -> impl Strategy<Value = Policy> {
    (0u32..200, 1u32..9, 0u32..40, 0u32..20).prop_map(|(quarantine, max_addresses, port_quota, client_quota)| Policy {
        quarantine,
        max_addresses,
        port_quota,
        client_quota,
        ..policy()
    })
}

/// Takes one step with the allotter alone.
fn take(allotter: &mut Allotter, (client, iaid, port, step): &(u8, u32, u16, Step), now: &mut u64) {
    let (key, port) = (key(*client, *iaid), PortId(*port));
    // A refusal is a good answer, too.
    let _ = match step {
        Step::Request { count, lifetime } => {
            allotter.request(&Request { port, lifetime: *lifetime, ..request(key, *count) }, *now)
        }
        Step::Renew(lifetime) => allotter.renew(&key, port, *lifetime, *now),
        Step::Release => allotter.release(&key, port, *now),
        Step::Decline => allotter.decline(&key, port, *now),
        Step::End(slot) => allotter.end(SlotIndex(slot % allotter.block().slots()), *now),
        Step::Close(slot) => allotter.close(SlotIndex(slot % allotter.block().slots()), *now),
        Step::Wait(time) => {
            *now += time;
            allotter.expire(*now);
            Err(Refusal::NoBinding)
        }
    };
}

/// Takes one step with both, and says how they differ.
fn compare(
    allotter: &mut Allotter,
    model: &mut Model,
    taken: &(u8, u32, u16, Step),
    now: &mut u64,
) -> Result<(), TestCaseError> {
    let (client, iaid, port, step) = taken;
    let (key, port) = (key(*client, *iaid), PortId(*port));
    model.expire(*now);
    let (holder, closed) = (model.holder(&key), model.is_closed(&key));
    let allowed = match holder {
        None => Err(Refusal::NoBinding),
        Some(holder) if holder != port => Err(Refusal::OtherPort(holder)),
        Some(_) => Ok(()),
    };
    match step {
        Step::Request { count, lifetime } => {
            let request = Request { port, lifetime: *lifetime, ..request(key.clone(), *count) };
            let expected = model.grant(&request);
            let answer = allotter.request(&request, *now);
            match (holder, answer) {
                (Some(holder), Ok(lease)) => {
                    prop_assert_eq!(holder, port);
                    prop_assert_eq!(lease.count, model.held(|owner, _| *owner == key));
                    model.extend(&key, lease.expires);
                }
                (Some(_), Err(refusal)) => prop_assert_eq!(Err(refusal), allowed),
                (None, Err(Refusal::Closed)) => prop_assert!(closed),
                (None, Ok(lease)) => {
                    prop_assert!(!closed);
                    prop_assert_eq!(Ok((lease.first, lease.count)), expected);
                    model.take(&lease);
                }
                (None, Err(Refusal::PortQuota { .. })) => prop_assert_eq!(expected, Err("port")),
                (None, Err(Refusal::ClientQuota { .. })) => prop_assert_eq!(expected, Err("client")),
                (None, Err(Refusal::Full { .. })) => prop_assert_eq!(expected, Err("full")),
                (None, Err(other)) => prop_assert!(false, "{other}"),
            }
        }
        Step::Renew(lifetime) => {
            let answer = allotter.renew(&key, port, *lifetime, *now);
            let allowed = if closed { Err(Refusal::Closed) } else { allowed };
            prop_assert_eq!(answer.as_ref().map(|_| ()).map_err(Clone::clone), allowed);
            if let Ok(lease) = answer {
                prop_assert_eq!(lease.expires, *now + u64::from(lease.lifetime) * 1000);
                model.extend(&key, lease.expires);
            }
        }
        Step::Release | Step::Decline => {
            let released = matches!(step, Step::Release);
            let answer = if released { Allotter::release } else { Allotter::decline }(allotter, &key, port, *now);
            prop_assert_eq!(&answer.map(|_| ()), &allowed);
            if allowed.is_ok() {
                model.free_all(&key, false, *now);
            }
        }
        Step::End(slot) | Step::Close(slot) => {
            let closes = matches!(step, Step::Close(_));
            let slot = slot % allotter.block().slots();
            let owner = match &model.slots[slot as usize] {
                Slot::Leased { key, .. } => Some(key.clone()),
                _ => None,
            };
            let answer = if closes { Allotter::close } else { Allotter::end }(allotter, SlotIndex(slot), *now);
            prop_assert_eq!(&answer.map(|lease| lease.key).ok(), &owner);
            owner.inspect(|key| model.free_all(key, closes, *now));
        }
        Step::Wait(time) => {
            *now += time;
            allotter.expire(*now);
            model.expire(*now);
        }
    }
    Ok(())
}

fn assert_same(allotter: &Allotter, model: &Model) -> Result<(), TestCaseError> {
    for (slot, expected) in (0..).map(SlotIndex).zip(&model.slots) {
        let owner = match expected {
            Slot::Leased { key, .. } => Some(key),
            _ => None,
        };
        prop_assert_eq!(allotter.lease_at(slot).map(|lease| &lease.key), owner);
    }
    let resting = model.slots.iter().filter(|slot| matches!(slot, Slot::Resting { .. })).count() as u32;
    let counts = allotter.counts();
    prop_assert_eq!((counts.leased, counts.quarantined), (model.held(|_, _| true), resting));
    prop_assert_eq!(counts.free, counts.slots - counts.leased - counts.quarantined);
    prop_assert_eq!(counts.leases as usize, allotter.leases().count());
    prop_assert_eq!(allotter.poll_timeout(), model.deadline());
    for port in [PortId(1), PortId(2)] {
        prop_assert_eq!(allotter.held_by_port(port), model.held(|_, p| p == port));
    }
    for client in (0..4).map(|client| ClientId(vec![client])) {
        prop_assert_eq!(allotter.held_by_client(&client), model.held(|key, _| key.client == client));
    }
    Ok(())
}

/// A lease as the store gives it back.
fn row(lease: &Lease) -> Lease {
    Lease { expires: lease.reserved, ..lease.clone() }
}

proptest! {
    #[test]
    fn every_answer_is_the_models(bits in 0u32..8, next in 0u64..1000, policy in policies(), steps in steps()) {
        let mut allotter = Allotter::new(block(1 << bits), policy.clone(), next);
        let mut model = Model::new(policy, 1 << bits, next);
        let mut now = 0;
        for step in &steps {
            compare(&mut allotter, &mut model, step, &mut now)?;
            assert_same(&allotter, &model)?;
        }
    }

    #[test]
    fn undone_changes_leave_no_trace(policy in policies(), kept in steps(), undone in steps(), queued in steps()) {
        let mut allotter = Allotter::new(block(32), policy, 7);
        let mut now = 0;
        kept.iter().for_each(|step| take(&mut allotter, step, &mut now));
        allotter.take_changes();
        let before = allotter.clone();
        undone.iter().for_each(|step| take(&mut allotter, step, &mut now));
        let changes = allotter.take_changes();
        queued.iter().take(3).for_each(|step| take(&mut allotter, step, &mut now));
        allotter.undo(changes);
        prop_assert_eq!(Allotter { next: before.next, ..allotter }, before);
    }

    #[test]
    fn changes_replayed_and_restored_give_the_same_allotter(policy in policies(), steps in steps()) {
        let mut allotter = Allotter::new(block(32), policy.clone(), 7);
        let mut now = 0;
        let mut stored = BTreeMap::new();
        for step in &steps {
            take(&mut allotter, step, &mut now);
            for Change { slot, before, after } in allotter.take_changes().into_iter().filter(Change::needs_writing) {
                let there = match &after {
                    Some(lease) => stored.insert(slot, row(lease)),
                    None => stored.remove(&slot),
                };
                prop_assert_eq!(there, before.as_ref().map(row));
            }
        }
        let mut restored = Allotter::new(allotter.block(), policy, allotter.next());
        for lease in stored.into_values() {
            prop_assert_eq!(restored.restore(lease), Ok(()));
        }
        // All that a restart changes.
        for lease in allotter.leases.clone().into_values() {
            prop_assert!(lease.expires <= lease.reserved);
            allotter.replace(slot_of(&allotter.block, lease.first), Some(row(&lease)));
        }
        prop_assert_eq!(restored, allotter);
    }
}

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
fn only_who_asks_for_the_same_again_asks_for_nothing_new() {
    let mut allotter = reserving();
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

fn group(key: LeaseKey, numbers: &[u8]) -> Request {
    let receivers: Vec<_> = numbers.iter().map(|n| crate::Receiver::Ip([10, 0, 0, *n].into())).collect();
    let receivers = Some(Receivers::new(&receivers).expect("receivers"));
    Request { spec: FlowSpec { receivers, ..FlowSpec::default() }, ..request(key, 5) }
}

#[test]
fn a_group_has_one_address_and_keeps_its_receivers_places_when_it_is_asked_for_again() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    let first = allotter.request(&group(key(1, 1), &[1, 2, 3]), 0).expect("granted");
    assert_eq!(first.count, 1);
    let slot = slot_of(&allotter.block(), first.first);
    let gone = Regroup::Remove(vec![crate::Receiver::Ip([10, 0, 0, 2].into())]);
    allotter.regroup(slot, &gone, 1).expect("it was there");
    let again = allotter.request(&group(key(1, 1), &[9, 3, 1]), 2).expect("granted");
    let places: Vec<String> =
        again.spec.receivers.iter().flat_map(Receivers::iter).map(|(_, r)| r.to_string()).collect();
    assert_eq!((again.first, places.join(" ").as_str()), (first.first, "10.0.0.1 10.0.0.9 10.0.0.3"));
    let changes = allotter.take_changes();
    assert_eq!(changes.len(), 3);
    allotter.undo(changes);
    assert_eq!(allotter.lease_at(slot), None, "a change of receivers is undone like any other");
}

#[test]
fn the_order_of_receivers_is_nothing_new_that_a_group_is_asked_for() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    allotter.request(&group(key(1, 1), &[1, 2]), 0).expect("granted");
    assert!(allotter.is_repeated(&group(key(1, 1), &[2, 1])));
    assert!(!allotter.is_repeated(&group(key(1, 1), &[2, 3])) && !allotter.is_repeated(&group(key(1, 1), &[2])));
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
fn a_group_stays_a_group_and_there_are_so_many_of_them() {
    let mut allotter = Allotter::new(block(2048), policy(), 0);
    ask(&mut allotter, 0, 1, 0).expect("granted");
    let no_group = allotter.request(&group(key(1, 0), &[1]), 0);
    assert!(matches!(no_group, Err(Refusal::Invalid(_))), "{no_group:?}");
    let regroup = allotter.regroup(SlotIndex(0), &Regroup::Add(vec![]), 0);
    assert_eq!(regroup, Err(ReceiversError::NoGroup.into()));
    for iaid in 1..=GROUPS_MAX {
        allotter.request(&group(key(1, iaid), &[1]), 0).expect("granted");
    }
    assert_eq!(allotter.request(&group(key(2, 1), &[1]), 0), Err(ReceiversError::TooManyGroups.into()));
    assert!(matches!(ask(&mut allotter, 1, 1, 0), Err(Refusal::Invalid(_))));
    allotter.end(SlotIndex(5), 0).expect("a group");
    allotter.request(&group(key(2, 1), &[1]), 0).expect("room again");
}
