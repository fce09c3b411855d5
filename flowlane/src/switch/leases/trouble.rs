//! While the store can not be written.
//!
//! What is promised then must hold after a restart, which knows only what is on disk. So a lease is prolonged as far as it
//! is reserved there, and nothing else is promised: no new lease, and no other purpose of an old one. Leases that end, by
//! their time or by their client, stay where they are until that can be written, so that nobody else gets their addresses.

use super::{Answers, Failure, Leases, Results, Task, Transaction};
use flowlane_allot::{Change, Lease, LeaseKey, Refusal};
use flowlane_dhcp6::Operation;
use flowlane_wire::{PortId, SlotIndex};
use std::collections::BTreeSet;

/// How long after a failure the store is tried again, in milliseconds.
const RETRY: u64 = 1_000;
/// How many times as long as an attempt took it rests at least: opening a large store anew takes time.
const REST: u64 = 10;

/// What is wrong with the store.
pub(super) struct Trouble {
    problem: String,
    retry: u64,
    /// Leases whose end was to be written: in spite of the failure it may be on disk, so that they are not prolonged.
    ended: BTreeSet<SlotIndex>,
}

impl Trouble {
    /// What is wrong, and what to do.
    pub(super) fn problem(&self) -> &str {
        &self.problem
    }

    /// When the store is tried again, in boot-time milliseconds.
    pub(super) fn retry(&self) -> u64 {
        self.retry
    }
}

impl Leases {
    /// Ends the commit under way, which has failed. Takes its changes back, and does what can be done without it.
    pub(super) fn failed(&mut self, problem: String, now: u64) -> (Vec<Change>, Answers) {
        let Some(failed) = self.in_flight.take() else { return Default::default() };
        let mut ended = self.trouble.take().map_or_else(
            || {
                tracing::error!("leases are only prolonged, none is granted or ended: {problem}");
                BTreeSet::new()
            },
            |trouble| trouble.ended,
        );
        ended.extend(failed.changes.iter().filter(|change| change.ends()).map(|change| change.slot));
        self.allotter.undo(failed.changes);
        let retry = now + RETRY.max(now.saturating_sub(failed.since).saturating_mul(REST));
        self.trouble = Some(Trouble { problem, retry, ended });
        self.write_by = retry;
        self.do_without_store(failed.carried_out.into_iter().map(|(transaction, _)| transaction).collect(), now)
    }

    /// Carries out what needs no write, and refuses the rest.
    pub(super) fn do_without_store(&mut self, transactions: Vec<Transaction>, now: u64) -> (Vec<Change>, Answers) {
        let answers = transactions.into_iter().map(|transaction| {
            let results: Results = transaction.tasks.iter().map(|task| self.without_store(task, now)).collect();
            (transaction.done, results)
        });
        let answers = answers.collect();
        (self.allotter.take_changes(), answers)
    }

    fn without_store(&mut self, task: &Task, now: u64) -> Result<Lease, Failure> {
        match task {
            Task::Refuse(refusal) => Err(refusal.clone().into()),
            Task::Client(operation) if !self.is_about_its_lease(operation) => Err(Refusal::NoBinding.into()),
            Task::Client(Operation::Renew(held)) => self.prolong(&held.key, held.port, None, now),
            Task::Client(Operation::Request(request)) if self.allotter.is_repeated(request) => {
                self.prolong(&request.key, request.port, request.lifetime, now)
            }
            Task::Renew(key, port, lifetime) => self.prolong(key, *port, *lifetime, now),
            Task::Client(_) | Task::End(_) | Task::Close(_) | Task::Regroup(..) => Err(self.failure()),
        }
    }

    fn prolong(&mut self, key: &LeaseKey, port: PortId, lifetime: Option<u32>, now: u64) -> Result<Lease, Failure> {
        let slot = self.allotter.lease(key).map(|lease| self.allotter.block().slot_of(lease.first));
        if slot.is_some_and(|slot| self.trouble.as_ref().is_some_and(|trouble| trouble.ended.contains(&slot))) {
            return Err(self.failure());
        }
        match self.allotter.prolong(key, port, lifetime, now) {
            // It is there, but all that is reserved has been promised.
            Err(Refusal::NoBinding) if slot.is_some() => Err(self.failure()),
            result => result.map_err(Failure::Refused),
        }
    }

    fn failure(&self) -> Failure {
        Failure::Store(self.problem().unwrap_or_default().to_owned())
    }
}
