//! The allotter against a model that is obviously right: one record per slot, and scans.

use super::*;
use proptest::prelude::*;

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
