//! What clients and operators were told.

use crate::row::Row;
use flowlane_allot::{Lease, LeaseKey, LeaseState};
use std::collections::BTreeMap;

/// What was acknowledged, by true time in milliseconds.
#[derive(Debug)]
pub(crate) struct Promises {
    /// How long slots rest, in milliseconds.
    quarantine: u64,
    slots: u64,
    /// Until when who may use which addresses.
    leases: BTreeMap<LeaseKey, Promise>,
    /// Until when nobody else may have a slot: who had it last, and as which sequence number.
    taken: BTreeMap<u64, (u64, LeaseKey, u64)>,
}

#[derive(Clone, Debug)]
struct Promise {
    first: u64,
    count: u32,
    ends: u64,
}

impl Promises {
    /// `quarantine` is in seconds.
    pub(crate) fn new(quarantine: u32, slots: u32) -> Self {
        let (leases, taken) = Default::default();
        Self { quarantine: u64::from(quarantine) * 1000, slots: slots.into(), leases, taken }
    }

    /// A client is told that it has a lease until `ends`. Counts slots that somebody else still has.
    pub(crate) fn granted(&mut self, lease: &Lease, ends: u64, now: u64, row: &mut Row) {
        for number in lease.first..lease.first + u64::from(lease.count) {
            let slot = number % self.slots;
            if let Some((until, key, first)) = self.taken.get(&slot)
                && (key, *first) != (&lease.key, lease.first)
                && *until > now
            {
                row.double_owners += 1;
                row.wrong(|| format!("slot {slot} is leased to {:?} before {key:?} has left it", lease.key));
            }
            self.taken.insert(slot, (ends.saturating_add(self.quarantine), lease.key.clone(), lease.first));
        }
        let promise = Promise { first: lease.first, count: lease.count, ends };
        self.leases.insert(lease.key.clone(), promise);
    }

    /// A lease is over, or may be: its client has given it back, or an operator has taken it.
    pub(crate) fn ended(&mut self, key: &LeaseKey, now: u64) {
        let Some(promise) = self.leases.remove(key) else { return };
        for number in promise.first..promise.first + u64::from(promise.count) {
            self.taken.insert(number % self.slots, (now + self.quarantine, key.clone(), promise.first));
        }
    }

    /// Counts leases that must be there and are not. `true_time` is that of a lease's end.
    pub(crate) fn compare(
        &mut self,
        leases: &BTreeMap<LeaseKey, Lease>,
        true_time: impl Fn(u64) -> u64,
        now: u64,
        row: &mut Row,
    ) {
        self.leases.retain(|_, promise| promise.ends > now);
        for (key, promise) in &self.leases {
            row.count("leases_compared", 1);
            let kept = leases.get(key).is_some_and(|lease| {
                (lease.first, lease.count, lease.state) == (promise.first, promise.count, LeaseState::Active)
                    && true_time(lease.expires) >= promise.ends
            });
            if !kept {
                row.leases_lost += 1;
                row.wrong(|| format!("at {now}: {key:?} was promised {promise:?}, found {:?}", leases.get(key)));
            }
        }
    }
}
