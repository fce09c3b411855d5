//! What people are told, and what is written.

use super::{
    Daemon,
    runs::{Run, problem},
};
use crate::{
    boot_millis,
    cgroup::Cgroup,
    engine::{Destination, Lease, Path, State as FlowState, address_of},
    guard::Guard,
    state::{DestinationRecord, GrantRecord, LeaseRecord, RunRecord, State},
};
use flowlane_client::protocol::{FlowView, InterfaceView, Problem, ProblemCode, RunView, Status};
use flowlane_tables::RunKey;
use flowlane_wire::Mac;

impl Daemon {
    /// How things are, of the runs of one user or of all.
    pub(super) fn status(&self, user: Option<u32>) -> Status {
        let mine = |run: &Run| user.is_none_or(|user| run.peer.user == user);
        let runs = self.runs.iter().filter(|(_, run)| mine(run));
        let interfaces = self
            .interfaces
            .known()
            .map(|link| InterfaceView { interface: link.name.clone(), service: self.engine.service(link.ifindex) });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mechanism: self.mechanism.name().to_owned(),
            interfaces: interfaces.collect(),
            runs: runs.filter_map(|(number, _)| self.run_view(*number)).collect(),
        }
    }

    pub(super) fn run_view(&self, number: u32) -> Option<RunView> {
        let run = self.runs.get(&number)?;
        let destinations = self.engine.destinations().filter(|(key, _)| key.run == number);
        Some(RunView {
            run: number,
            name: run.name.clone(),
            kind: run.scope.kind().to_owned(),
            pid: run.peer.pid,
            user: run.peer.user,
            cgroup: run.scope.cgroup().map(|cgroup| cgroup.path().to_owned()),
            wishes: run.wishes.clone(),
            flows: destinations.flat_map(|(key, destination)| self.flow_views(key, destination)).collect(),
        })
    }

    /// Closes a flow of one user, or of anybody.
    pub(super) fn close(&mut self, user: Option<u32>, address: Mac) -> Result<FlowView, Problem> {
        let may = |key: &RunKey| self.runs.get(&key.run).is_some_and(|run| user.is_none_or(|of| of == run.peer.user));
        let mine = self.engine.destinations().filter(|(key, _)| may(key));
        let views = mine.flat_map(|(key, of)| self.flow_views(key, of).into_iter().map(move |view| (*key, view)));
        let no_such = || problem(ProblemCode::NoSuchFlow, format!("there is no flow {address} on this host"));
        let (key, view) = views.into_iter().find(|(_, view)| view.address == Some(address)).ok_or_else(no_such)?;
        let reason = "closed on this host";
        self.engine.close(key, reason);
        Ok(FlowView { state: "cut".into(), reason: Some(reason.into()), remaining: None, ..view })
    }

    /// One for each flow address, or one that says why there is none.
    fn flow_views(&self, key: &RunKey, destination: &Destination) -> Vec<FlowView> {
        let (state, reason) = self.describe(key, &destination.state);
        let counters = self.mechanism.counters(key);
        let interface = self.interfaces.known().find(|link| link.ifindex == key.ifindex);
        let without = FlowView {
            address: None,
            run: key.run,
            destination: address_of(key),
            interface: interface.map(|link| link.name.clone()).unwrap_or_default(),
            state: state.to_owned(),
            reason,
            path: 0,
            rate: None,
            packets: counters.passed,
            bytes: 0,
            remaining: None,
        };
        let addresses = destination.addresses();
        let view = |path: &Path| {
            let lease = path.lease.as_ref()?;
            let place = addresses.iter().position(|address| *address == lease.address)?;
            let (packets, bytes) = counters.paths.get(place).copied().unwrap_or_default();
            let (address, rate, remaining) = (Some(lease.address), lease.rate, remaining(lease));
            Some(FlowView { address, path: path.number, rate, packets, bytes, remaining, ..without.clone() })
        };
        let views: Vec<_> = destination.paths.iter().filter_map(view).collect();
        if views.is_empty() { vec![without] } else { views }
    }

    fn describe(&self, key: &RunKey, state: &FlowState) -> (&'static str, Option<String>) {
        match state {
            FlowState::Waiting(_) => ("waiting", None),
            FlowState::Open => ("open", None),
            FlowState::Without { reason, .. } if self.requires(key) => ("cut", Some(reason.clone())),
            FlowState::Without { reason, .. } => ("plain", Some(reason.clone())),
            FlowState::Closed(reason) => ("cut", Some(reason.clone())),
        }
    }

    /// What a successor or the guard has to know.
    pub(super) fn state(&self) -> State {
        State {
            mechanism: self.mechanism.kind(),
            next_run: self.next_run,
            next_iaid: self.engine.next_iaid(),
            guard: self.guard.as_ref().map(Guard::pid),
            runs: self.runs.iter().map(|(number, run)| run_record(*number, run)).collect(),
            destinations: self.engine.destinations().map(|(key, of)| self.destination_record(key, of)).collect(),
            ..State::default()
        }
    }

    fn destination_record(&self, key: &RunKey, destination: &Destination) -> DestinationRecord {
        let interface = self.interfaces.known().find(|link| link.ifindex == key.ifindex);
        let granted = |lease: &Lease| GrantRecord {
            address: lease.address,
            rate: lease.rate,
            server: lease.server.as_ref().map(ToString::to_string),
            until: lease.until,
        };
        let lease = |path: &Path| LeaseRecord {
            iaid: path.iaid,
            path: path.number,
            asked: path.asked,
            granted: path.lease.as_ref().map(granted),
        };
        DestinationRecord {
            run: key.run,
            destination: address_of(key),
            interface: interface.map(|link| link.name.clone()).unwrap_or_default(),
            ifindex: key.ifindex,
            closed: if let FlowState::Closed(reason) = &destination.state { Some(reason.clone()) } else { None },
            leases: destination.paths.iter().map(lease).collect(),
        }
    }
}

fn run_record(number: u32, run: &Run) -> RunRecord {
    RunRecord {
        run: number,
        name: run.name.clone(),
        kind: run.scope.kind().to_owned(),
        pid: run.peer.pid,
        user: run.peer.user,
        cgroup: run.scope.cgroup().map(|cgroup| cgroup.path().to_owned()),
        cgroup_id: run.scope.cgroup().map(Cgroup::id),
        cookie: run.cookie(),
        wishes: run.wishes.clone(),
    }
}

/// Seconds until a lease ends.
fn remaining(lease: &Lease) -> Option<u64> {
    (lease.until != u64::MAX).then(|| lease.until.saturating_sub(boot_millis()) / 1000)
}
