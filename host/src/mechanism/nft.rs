//! nftables' rules, and the destinations that they tell of.

use super::{Counters, Fate};
use crate::{
    cgroup::Cgroup,
    nft::{FlowCounters, Group, NewDestinations, NftError, NftRuns},
};
use flowlane_allot::Field;
use flowlane_tables::{PATHS_MAX, RunKey};
use std::{
    cell::RefCell,
    collections::HashMap,
    future,
    time::{Duration, Instant},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The rules, and what is told by them.
pub struct Nft {
    pub(super) runs: NftRuns,
    events: AsyncFd<NewDestinations>,
    /// More may have been told than was taken.
    more: bool,
    /// Whose packets are put into flows, while that is found out from what a predecessor has written.
    adopting: Option<Adopting>,
    /// A process counts all flows at once.
    counted: RefCell<Counted>,
}

/// What becomes one change of the rules: so nobody's packets leave without a flow meanwhile.
#[derive(Default)]
struct Adopting {
    predecessor: bool,
    groups: Vec<Group>,
    namespace: Option<(u32, bool)>,
}

#[derive(Default)]
struct Counted {
    at: Option<Instant>,
    flows: HashMap<RunKey, FlowCounters>,
}

/// How old counters may be.
const COUNT_AGAIN: Duration = Duration::from_secs(1);
/// How much is taken at a time of what is told.
const BURST: usize = 256;

impl Nft {
    pub(super) fn open(name: &str) -> Result<Self, NftError> {
        let (runs, events, predecessor) = NftRuns::open(name)?;
        #[expect(deprecated, reason = "the socket owns its descriptor, and it is always the same one")]
        let events = AsyncFd::with_interest(events, Interest::READABLE).map_err(NftError::Events)?;
        let adopting = Some(Adopting { predecessor, ..Adopting::default() });
        Ok(Self { runs, events, more: false, adopting, counted: RefCell::default() })
    }

    pub(super) fn adopted(&mut self) -> Result<(), NftError> {
        match self.adopting.take() {
            Some(of) if of.predecessor || !of.groups.is_empty() => self.runs.set_groups(of.groups, of.namespace)?,
            _ => {}
        }
        self.runs.rest()
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), NftError> {
        self.runs.detach(ifindex)?;
        self.rest()
    }

    pub(super) fn add_cgroup(&mut self, cgroup: &Cgroup, run: u32, required: bool) -> Result<(), NftError> {
        let (path, id, level) = (cgroup.path().to_owned(), cgroup.id(), cgroup.level());
        let group = Group { path, id, level, run, required };
        match &mut self.adopting {
            Some(adopting) => adopting.groups.push(group),
            None => self.runs.add_cgroup(group)?,
        }
        Ok(())
    }

    pub(super) fn remove_cgroup(&mut self, id: u64) -> Result<(), NftError> {
        match &mut self.adopting {
            Some(adopting) => adopting.groups.retain(|group| group.id != id),
            None => self.runs.remove_cgroup(id)?,
        }
        self.rest()
    }

    pub(super) fn set_namespace(&mut self, run: Option<(u32, bool)>) -> Result<(), NftError> {
        match &mut self.adopting {
            Some(adopting) => adopting.namespace = run,
            None => self.runs.set_namespace(run)?,
        }
        self.rest()
    }

    pub(super) fn decide(&mut self, key: &RunKey, required: bool, fate: &Fate) -> Result<(), NftError> {
        self.runs.want(key, required, u64::MAX)?;
        match fate {
            Fate::Open(addresses, field, until) => {
                let addresses = addresses.get(..PATHS_MAX).unwrap_or(addresses);
                self.runs.open_flow(key, addresses, *field == Field::Source, until.saturating_mul(1_000_000))
            }
            Fate::Plain => self.runs.plain(key, u64::MAX),
            Fate::Cut => self.runs.cut(key),
        }
    }

    pub(super) fn forget(&mut self, key: &RunKey) -> Result<(), NftError> {
        self.counted.get_mut().flows.remove(key);
        self.runs.forget(key)?;
        self.rest()
    }

    pub(super) fn counters(&self, key: &RunKey) -> Counters {
        let mut counted = self.counted.borrow_mut();
        if counted.at.is_none_or(|at| at.elapsed() >= COUNT_AGAIN) {
            match self.runs.counters() {
                Ok(flows) => counted.flows = flows,
                Err(error) => tracing::warn!(%error, "packets can not be counted"),
            }
            counted.at = Some(Instant::now());
        }
        let FlowCounters { mut paths, passed } = counted.flows.get(key).cloned().unwrap_or_default();
        // Flows of the last second have no counters here yet.
        paths.resize(PATHS_MAX, (0, 0));
        Counters { paths, passed }
    }

    pub(super) async fn ready(&mut self) {
        if self.more {
            return;
        }
        match self.events.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            // Its runtime ends.
            Err(_) => future::pending().await,
        }
    }

    pub(super) fn work(&mut self) -> Vec<RunKey> {
        let mut told = Vec::new();
        if let Err(error) = self.events.get_mut().drain(BURST, |key| told.push(key)) {
            tracing::warn!(%error, "new destinations are not told of");
        }
        self.more = told.len() >= BURST;
        told
    }

    /// Without runs there are no rules. What a predecessor has left is looked at first.
    fn rest(&mut self) -> Result<(), NftError> {
        if self.adopting.is_none() { self.runs.rest() } else { Ok(()) }
    }
}
