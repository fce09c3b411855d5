//! What came of a fault.

use std::collections::BTreeMap;

/// What came of a fault that was tried many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The fault.
    pub name: &'static str,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Leases that were acknowledged, and not there or over when they still had to last; where files are damaged, leases
    /// that were served otherwise than acknowledged.
    pub leases_lost: u64,
    /// Slots that a second client got while the first could still use them, or before their quarantine was over.
    pub double_owners: u64,
    /// How often what was tried, and what it met.
    pub counts: BTreeMap<&'static str, u64>,
    /// What was wrong first, if anything.
    pub problem: Option<String>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, ok: true, leases_lost: 0, double_owners: 0, counts: BTreeMap::new(), problem: None }
    }

    pub(crate) fn count(&mut self, what: &'static str, more: u64) {
        *self.counts.entry(what).or_default() += more;
    }

    /// Counts what must not be.
    pub(crate) fn wrong(&mut self, problem: impl FnOnce() -> String) {
        self.ok = false;
        self.problem.get_or_insert_with(problem);
    }

    /// Takes in what came of more of the same.
    pub(crate) fn add(&mut self, other: Self) {
        self.ok &= other.ok;
        self.leases_lost += other.leases_lost;
        self.double_owners += other.double_owners;
        other.counts.into_iter().for_each(|(what, count)| self.count(what, count));
        self.problem = self.problem.take().or(other.problem);
    }

    /// As [`Row::wrong`], where something must have been met, for else nothing was tried.
    pub(crate) fn demand(&mut self, what: &'static str) {
        if self.counts.get(what).is_none_or(|count| *count == 0) {
            self.wrong(|| format!("{what}: 0, so nothing was shown"));
        }
    }
}
