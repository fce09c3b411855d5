//! Which flows there are to be: for each destination of each run, what its packets do.
//!
//! No I/O and no clock: [`Engine`] takes what has happened and the time, and says by [`Command`]s what to do. Times are
//! milliseconds of the boot-time clock.
//!
//! ```text
//!     first packet --> Waiting --granted--> Open --lost, network gone--> Without --asked again--> Open
//!                         |                   '--closed by an operator--> Closed
//!                         '--refused, no answer, no service--> Without
//! ```
//!
//! `Without` is plain, or cut where the run requires flows.

mod destination;
mod service;
#[cfg(test)]
mod tests;

pub use destination::{Destination, Lease, Path, State};

use crate::dhcp6::{NOBODY, Offer, Question};
use destination::without;
use flowlane_allot::{Field, FlowSpec};
use flowlane_dhcp6::{Duid, Event, Grant, INFINITY, Status, StatusCode};
use flowlane_tables::{PATHS_MAX, RunKey};
use flowlane_wire::Mac;
use service::{Service, Silence};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

/// How long packets wait for the answer of a switch that is known to be there: a little less than the kernel holds them
/// ([`flowlane_tables::HELD_NANOS`]).
pub const ASK_PATIENCE: u64 = 900;
/// How long a run waits for what it needs before it begins: service that is not known yet, and the flows of its `--to`.
pub const BEGIN_PATIENCE: u64 = 1_000;
/// When a flow that was refused is asked for again.
pub const AGAIN: u64 = 30_000;
/// How long a destination is kept that nobody sends to.
pub const IDLE: u64 = 300_000;
/// How many destinations of a run get flows; packets to others are treated as if those were refused.
pub const DESTINATIONS_MAX: usize = 1_024;
/// How long one of those others is kept: there is less room for them.
pub const IDLE_OTHER: u64 = 30_000;

/// What is wished of a run's flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSpec {
    /// The flows' name, for people.
    pub name: String,
    /// The rate at which each is metered, in bits per second.
    pub rate: Option<u64>,
    /// Which field carries the flow address.
    pub field: Field,
    /// How many paths each destination gets; 0 is taken as 1.
    pub paths: u8,
    /// What has no flow is dropped.
    pub require: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask on an interface whether a switch is there, and if a lease is named, whether its server knows it still.
    Probe(u32, Option<Question>),
    /// Ask on an interface for one flow address under this number (IAID), and keep it.
    Ask(u32, u32, FlowSpec),
    /// Ask for nothing more under this number; what there is ends by itself.
    Drop(u32),
    /// Give back what was granted under this number, also what is granted only now.
    Release(u32),
    /// Packets get flow addresses, until the time given.
    Open {
        /// Whose.
        key: RunKey,
        /// The addresses, one for each path.
        addresses: Vec<Mac>,
        /// Which field carries them.
        field: Field,
        /// When they end.
        until: u64,
    },
    /// Packets leave as they are.
    Plain(RunKey),
    /// Packets are dropped.
    Cut(RunKey),
    /// Nothing is known of this destination any more.
    Forget(RunKey),
    /// A run can begin.
    Ready(u32),
    /// A run that requires flows can not begin.
    Failed(u32, Failure),
}

/// Why a run that requires flows can not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No switch answers on any interface.
    NoService,
    /// A flow was not granted.
    Refused(IpAddr, String),
}

#[derive(Debug)]
struct Run {
    spec: RunSpec,
    /// The destinations to be opened before it begins, and until when; nothing when it has begun.
    begins: Option<(Vec<RunKey>, u64)>,
    /// How many destinations it has.
    destinations: usize,
    /// Its program has ended. Packets that still wait for an answer are sent before its flows are given back.
    over: bool,
}

/// What has happened so far, and what follows from it.
#[derive(Debug)]
pub struct Engine {
    runs: BTreeMap<u32, Run>,
    interfaces: BTreeMap<u32, Service>,
    destinations: BTreeMap<RunKey, Destination>,
    leases: HashMap<u32, RunKey>,
    timers: BTreeSet<(u64, RunKey)>,
    next_iaid: u32,
    /// The lease that was asked about last.
    turn: u32,
    commands: VecDeque<Command>,
}

impl Engine {
    /// Knows nothing. Leases are numbered from `first_iaid`; a random number keeps them apart from a predecessor's whose
    /// state is lost.
    pub fn new(first_iaid: u32) -> Self {
        Self {
            runs: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            destinations: BTreeMap::new(),
            leases: HashMap::new(),
            timers: BTreeSet::new(),
            next_iaid: first_iaid,
            turn: 0,
            commands: VecDeque::new(),
        }
    }

    /// What to do, the first first.
    pub fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`advance`](Self::advance) is to be called next.
    pub fn poll_timeout(&self) -> Option<u64> {
        let probes = self.interfaces.values().filter_map(|service| service.next);
        let begins = self.runs.values().filter_map(|run| Some(run.begins.as_ref()?.1));
        probes.chain(begins).chain(self.timers.first().map(|(at, _)| *at)).min()
    }

    /// The number that the next lease gets.
    pub fn next_iaid(&self) -> u32 {
        self.next_iaid
    }

    /// What is known of each destination.
    pub fn destinations(&self) -> impl Iterator<Item = (&RunKey, &Destination)> {
        self.destinations.iter()
    }

    /// What is known of a destination.
    pub fn destination(&self, key: &RunKey) -> Option<&Destination> {
        self.destinations.get(key)
    }

    /// Whether a switch answers on an interface; nothing while that is not known.
    pub fn service(&self, ifindex: u32) -> Option<bool> {
        self.interfaces.get(&ifindex)?.known()
    }

    /// Whether packets that leave by this interface are to be looked at: no run, or nobody to ask, no work for them.
    pub fn wants_program(&self, ifindex: u32) -> bool {
        let Some(service) = self.interfaces.get(&ifindex) else { return false };
        let required = || self.runs.values().any(|run| run.spec.require);
        let in_use = || self.destinations.keys().any(|key| key.ifindex == ifindex);
        !self.runs.is_empty() && (service.may_ask() || required() || in_use())
    }

    /// An interface is there, up or down.
    pub fn interface(&mut self, ifindex: u32, up: bool, now: u64) {
        let service = self.interfaces.entry(ifindex).or_insert_with(Service::new);
        if service.set_up(up, now) && !up {
            self.without_service(ifindex, "the interface is down", |_| true);
        }
        self.advance(now);
    }

    /// An interface is gone, and all that was said of it.
    pub fn interface_gone(&mut self, ifindex: u32, now: u64) {
        self.interfaces.remove(&ifindex);
        for key in self.keys(|key| key.ifindex == ifindex) {
            self.remove(key, Command::Drop);
        }
        self.advance(now);
    }

    /// A switch answered a probe: that it is there. `held` is what it offers for the lease asked about, if it was.
    pub fn probed(&mut self, ifindex: u32, held: Option<(u32, Offer)>, now: u64) {
        let busy = self.destinations.iter().any(|(key, of)| key.ifindex == ifindex && of.has_lease());
        let Some(service) = self.interfaces.get_mut(&ifindex) else { return };
        if service.answered(now, busy) {
            self.ask_all(ifindex, now);
        }
        if let Some((iaid, offered)) = held {
            self.compare(ifindex, iaid, offered, now);
        }
        self.advance(now);
    }

    /// A run wants to begin: `Ready` or `Failed` follows when these destinations have their flows, or it takes too long.
    pub fn begin(&mut self, run: u32, spec: RunSpec, to: Vec<RunKey>, now: u64) {
        self.runs
            .insert(run, Run { spec, begins: Some((to.clone(), now + BEGIN_PATIENCE)), destinations: 0, over: false });
        for key in to {
            self.wanted(key, now);
            self.destinations.entry(key).and_modify(|destination| destination.kept = true);
        }
        self.advance(now);
    }

    /// A predecessor's run, which goes on.
    pub fn adopt(&mut self, run: u32, spec: RunSpec) {
        self.runs.insert(run, Run { spec, begins: None, destinations: 0, over: false });
    }

    /// A predecessor's destination. Its leases are confirmed by asking for them under their numbers.
    pub fn adopt_destination(&mut self, key: RunKey, closed: Option<String>, paths: Vec<Path>, now: u64) {
        for path in &paths {
            self.leases.insert(path.iaid, key);
            self.next_iaid = self.next_iaid.max(path.iaid.wrapping_add(1));
        }
        let state = match closed {
            Some(reason) => State::Closed(reason),
            None if paths.iter().any(|path| path.lease.is_some()) => State::Open,
            None => State::Without { reason: "not asked for yet".into(), again: None },
        };
        self.insert(key, Destination { state, paths, kept: false, packets: 0, active: now });
        self.show(key);
    }

    /// A run is over: its flows are given back, each as soon as no packet waits for it any more.
    pub fn end(&mut self, run: u32, now: u64) {
        self.runs.entry(run).and_modify(|run| (run.over, run.begins) = (true, None));
        self.advance(now);
    }

    /// Whether what has no flow is dropped.
    pub fn requires(&self, run: u32) -> bool {
        self.runs.get(&run).is_some_and(|run| run.spec.require)
    }

    /// A destination's first packet waits.
    pub fn wanted(&mut self, key: RunKey, now: u64) {
        if self.destinations.contains_key(&key) {
            return self.show(key);
        }
        let may_ask = self.interfaces.get(&key.ifindex).is_some_and(Service::may_ask);
        let Some(run) = self.runs.get(&key.run) else {
            self.commands.extend([Command::Plain(key), Command::Forget(key)]);
            return;
        };
        let is_other = run.destinations >= DESTINATIONS_MAX;
        let state = match may_ask {
            _ if is_other => without("the run has flows to as many destinations as it may have", None),
            true => State::Waiting(now + ASK_PATIENCE),
            false => without(NO_SERVICE, None),
        };
        self.insert(key, Destination { state, paths: Vec::new(), kept: false, packets: 0, active: now });
        if !is_other {
            self.ask_path(key, 0);
        }
        self.show(key);
        if may_ask {
            self.ask(key);
        }
    }

    /// Something has come of a lease.
    pub fn lease(&mut self, iaid: u32, event: Event, now: u64) {
        let Some(key) = self.leases.get(&iaid).copied() else { return };
        match event {
            Event::Leased(grant) => self.leased(key, iaid, &grant, now),
            Event::Closed(status) => self.close_key(key, text_of(&status), Some(iaid)),
            Event::Refused(status) | Event::NoWay(status) => self.refused(key, iaid, &text_of(&status), now),
            Event::Lost => self.lost(key, iaid, "the switch has ended the lease"),
            Event::Released => {}
        }
        self.advance(now);
    }

    /// How many packets a destination's entry has counted.
    pub fn counted(&mut self, key: RunKey, packets: u64, now: u64) {
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        if destination.packets != packets {
            (destination.packets, destination.active) = (packets, now);
        }
        let resting = matches!(destination.state, State::Open | State::Without { .. }) && !destination.kept;
        let idle = if destination.paths.is_empty() { IDLE_OTHER } else { IDLE };
        if resting && now.saturating_sub(destination.active) >= idle {
            self.remove(key, Command::Release);
        }
    }

    /// Somebody of this host closes the flows to a destination: it is cut off. Two of them can have the same address, by
    /// different switches, so an address says too little.
    pub fn close(&mut self, key: RunKey, reason: &str) {
        self.close_key(key, reason.to_owned(), None);
    }

    /// Does what is due at `now`.
    pub fn advance(&mut self, now: u64) {
        let due = |service: &Service| service.next.is_some_and(|next| next <= now);
        let probes: Vec<u32> = self.interfaces.iter().filter(|(_, of)| due(of)).map(|(ifindex, _)| *ifindex).collect();
        for ifindex in probes {
            self.probe(ifindex, now);
        }
        while let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= now).copied() {
            self.timers.pop_first();
            self.due(key, now);
        }
        self.begin_who_can(now);
        let over = self.runs.iter().filter(|(_, run)| run.over);
        for run in over.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.give_back(run);
        }
    }

    /// Gives back the flows of a run that is over, but for those that have no answer yet: packets wait for it.
    fn give_back(&mut self, run: u32) {
        let (waiting, answered): (Vec<_>, Vec<_>) = self.keys(|key| key.run == run).into_iter().partition(|key| {
            self.destinations.get(key).is_some_and(|destination| matches!(destination.state, State::Waiting(_)))
        });
        for key in answered {
            self.remove(key, Command::Release);
        }
        if waiting.is_empty() {
            self.runs.remove(&run);
        }
    }

    fn probe(&mut self, ifindex: u32, now: u64) {
        let Some(service) = self.interfaces.get_mut(&ifindex) else { return };
        match service.probe(now) {
            Silence::None => {}
            Silence::NoService => self.without_service(ifindex, NO_SERVICE, |_| false),
            // Plain packets may have another way. Who requires flows has none, and the leases are good until they end.
            Silence::Dead => {
                self.without_service(ifindex, "the switch does not answer any more", |spec| !spec.require);
            }
        }
        let about = self.next_about(ifindex);
        self.commands.push_back(Command::Probe(ifindex, about));
    }

    /// The lease to ask about next: each of the interface in turn.
    fn next_about(&mut self, ifindex: u32) -> Option<Question> {
        let of_interface = self.destinations.iter().filter(|(key, _)| key.ifindex == ifindex);
        let mut held: Vec<u32> = of_interface
            .flat_map(|(_, destination)| &destination.paths)
            .filter(|path| path.lease.is_some())
            .map(|path| path.iaid)
            .collect();
        held.sort_unstable();
        let next = held.iter().find(|iaid| **iaid > self.turn).or(held.first()).copied();
        self.turn = next?;
        let key = self.leases.get(&self.turn)?;
        let path = self.destinations.get(key)?.paths.iter().find(|path| path.iaid == self.turn)?;
        // The question is whether the lease is known, and not whether it leads anywhere now.
        let spec = self.runs.get(&key.run)?.spec.flow(key, path.number);
        let server = path.lease.as_ref().and_then(|lease| lease.server.clone());
        Some(Question { iaid: self.turn, spec: FlowSpec { only_with_a_way: false, ..spec }, server })
    }

    /// A switch that offers something else than what it has granted has lost its leases: all are asked for anew.
    fn compare(&mut self, ifindex: u32, iaid: u32, offered: Offer, now: u64) {
        let Some(key) = self.leases.get(&iaid).copied() else { return };
        let path = self.destinations.get(&key).and_then(|of| of.paths.iter().find(|path| path.iaid == iaid));
        let Some(held) = path.and_then(|path| path.lease.as_ref()) else { return };
        match offered {
            Err(status) if status.code == StatusCode::NotAllowed => self.close_key(key, text_of(&status), Some(iaid)),
            Ok(Some(offered)) if offered == held.address => {}
            _ => {
                let server = held.server.clone();
                self.renew_all(ifindex, server.as_ref(), now);
            }
        }
    }

    /// Asks anew for all that a server has granted, and for what nobody knows who granted.
    fn renew_all(&mut self, ifindex: u32, server: Option<&Duid>, now: u64) {
        let is_its = |lease: &Lease| server.is_none() || lease.server.is_none() || lease.server.as_ref() == server;
        for key in self.keys(|key| key.ifindex == ifindex) {
            let Some(destination) = self.destinations.get_mut(&key) else { continue };
            for path in destination.paths.iter_mut().filter(|path| path.lease.as_ref().is_some_and(is_its)) {
                (path.asked, path.lease) = (false, None);
                self.commands.push_back(Command::Drop(path.iaid));
            }
            match destination.state {
                State::Open if destination.has_lease() => self.show(key),
                State::Open => self.set(key, without("the switch has lost the lease", None)),
                _ => {}
            }
        }
        self.ask_all(ifindex, now);
    }

    /// A switch is there: asks for all that has no flow.
    fn ask_all(&mut self, ifindex: u32, now: u64) {
        for key in self.keys(|key| key.ifindex == ifindex) {
            let Some(destination) = self.destinations.get_mut(&key) else { continue };
            let may = match destination.state {
                State::Without { again, .. } => again.is_none_or(|again| again <= now),
                State::Open => true,
                State::Waiting(_) | State::Closed(_) => false,
            };
            if may {
                // Whoever asks already waits for longer than a second.
                destination.paths.iter_mut().filter(|path| path.lease.is_none()).for_each(|path| path.asked = false);
                self.ask(key);
            }
        }
    }

    /// There is no switch, or it is silent: who asks goes on to ask, for an answer that comes late is still one.
    fn without_service(&mut self, ifindex: u32, reason: &str, leases_too: fn(&RunSpec) -> bool) {
        for key in self.keys(|key| key.ifindex == ifindex) {
            let leases_too = self.runs.get(&key.run).is_none_or(|run| leases_too(&run.spec));
            let Some(destination) = self.destinations.get_mut(&key) else { continue };
            for path in &mut destination.paths {
                if leases_too && (path.asked || path.lease.is_some()) {
                    (path.asked, path.lease) = (false, None);
                    self.commands.push_back(Command::Drop(path.iaid));
                }
            }
            let closed = matches!(destination.state, State::Closed(_));
            if !closed && !destination.has_lease() {
                self.set(key, without(reason, None));
            }
        }
    }

    /// Asks for every path of a destination that nobody asks for.
    fn ask(&mut self, key: RunKey) {
        let Some(run) = self.runs.get(&key.run) else { return };
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        for path in destination.paths.iter_mut().filter(|path| !path.asked) {
            path.asked = true;
            self.commands.push_back(Command::Ask(path.iaid, key.ifindex, run.spec.flow(&key, path.number)));
        }
    }

    /// Adds a path that is to be asked for.
    fn ask_path(&mut self, key: RunKey, number: u8) {
        while self.leases.contains_key(&self.next_iaid) || self.next_iaid == NOBODY {
            self.next_iaid = self.next_iaid.wrapping_add(1);
        }
        let iaid = self.next_iaid;
        self.next_iaid = iaid.wrapping_add(1);
        if let Some(destination) = self.destinations.get_mut(&key) {
            destination.paths.push(Path { iaid, number, lease: None, asked: false });
            self.leases.insert(iaid, key);
        }
    }

    fn leased(&mut self, key: RunKey, iaid: u32, grant: &Grant, now: u64) {
        let wished = self.runs.get(&key.run).map_or(1, |run| run.spec.paths).clamp(1, PATHS_MAX as u8);
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        let Some(address) = grant.addresses.first().copied() else { return };
        if matches!(destination.state, State::Closed(_)) {
            return;
        }
        let Some(path) = destination.paths.iter_mut().find(|path| path.iaid == iaid) else { return };
        let until = if grant.valid == INFINITY { u64::MAX } else { now + u64::from(grant.valid) * 1000 };
        path.lease = Some(Lease { address, until, rate: grant.spec.rate, server: Some(grant.server.clone()) });
        let first = path.number == 0 && destination.paths.len() == 1;
        destination.state = State::Open;
        if first {
            for number in 1..wished.min(grant.paths.unwrap_or(1)) {
                self.ask_path(key, number);
            }
            self.ask(key);
        }
        self.show(key);
        self.heard(key.ifindex, now);
    }

    /// An answer about a lease is as good as one to a probe.
    fn heard(&mut self, ifindex: u32, now: u64) {
        if self.interfaces.get_mut(&ifindex).is_some_and(|service| service.answered(now, true)) {
            self.ask_all(ifindex, now);
        }
    }

    fn refused(&mut self, key: RunKey, iaid: u32, reason: &str, now: u64) {
        self.heard(key.ifindex, now);
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        let Some(path) = destination.paths.iter_mut().find(|path| path.iaid == iaid) else { return };
        if path.lease.is_some() {
            // The lease is good until its end, and whoever keeps it goes on to ask.
            return;
        }
        path.asked = false;
        self.commands.push_back(Command::Drop(iaid));
        if path.number > 0 {
            destination.paths.retain(|path| path.iaid != iaid);
            self.leases.remove(&iaid);
        } else if !destination.has_lease() {
            self.set(key, without(reason, Some(now + AGAIN)));
        }
    }

    fn lost(&mut self, key: RunKey, iaid: u32, reason: &str) {
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        destination.paths.iter_mut().filter(|path| path.iaid == iaid).for_each(|path| path.lease = None);
        match destination.state {
            State::Open if destination.has_lease() => self.show(key),
            State::Open => self.set(key, without(reason, None)),
            _ => {}
        }
    }

    /// Cuts a destination off. The lease of the number given has ended already.
    fn close_key(&mut self, key: RunKey, reason: String, ended: Option<u32>) {
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        let mut paths = destination.paths.clone();
        for path in &mut paths {
            let command = if Some(path.iaid) == ended { Command::Drop } else { Command::Release };
            if path.asked || path.lease.is_some() {
                self.ask_unconfirmed(&key, path);
                self.commands.push_back(command(path.iaid));
            }
            (path.asked, path.lease) = (false, None);
        }
        self.destinations.entry(key).and_modify(|destination| destination.paths = paths);
        self.set(key, State::Closed(reason));
    }

    /// A destination's time has come.
    fn due(&mut self, key: RunKey, now: u64) {
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        let over = destination.end_leases(now);
        match destination.state {
            State::Waiting(until) if until <= now => {
                self.set(key, without("no switch answered in time", None));
                if let Some(service) = self.interfaces.get_mut(&key.ifindex) {
                    service.doubt(now);
                }
                // The probe that follows is the answer for all others.
                self.probe(key.ifindex, now);
            }
            State::Without { ref mut again, .. } if again.is_some_and(|again| again <= now) => {
                *again = None;
                if self.interfaces.get(&key.ifindex).is_some_and(Service::may_ask) {
                    self.ask(key);
                }
            }
            State::Open if over && !destination.has_lease() => self.set(key, without("the lease has ended", None)),
            State::Open if over => self.show(key),
            _ => self.set_timer(key),
        }
    }

    /// Runs whose destinations have their answers begin.
    fn begin_who_can(&mut self, now: u64) {
        let unknown = self.interfaces.values().any(|service| service.known().is_none());
        let none = self.interfaces.values().all(|service| service.known() != Some(true));
        for (number, run) in &mut self.runs {
            let Some((to, until)) = &run.begins else { continue };
            let states = || to.iter().filter_map(|key| Some((key, &self.destinations.get(key)?.state)));
            let waits = unknown || states().any(|(_, state)| matches!(state, State::Waiting(_)));
            if waits && *until > now {
                continue;
            }
            let refused = states().find_map(|(key, state)| match state {
                State::Without { reason, .. } | State::Closed(reason) => Some((address_of(key), reason.clone())),
                State::Waiting(_) | State::Open => None,
            });
            let command = match refused {
                _ if run.spec.require && none => Command::Failed(*number, Failure::NoService),
                Some((to, reason)) if run.spec.require => Command::Failed(*number, Failure::Refused(to, reason)),
                _ => Command::Ready(*number),
            };
            run.begins = None;
            self.commands.push_back(command);
        }
    }

    fn set(&mut self, key: RunKey, state: State) {
        if let Some(destination) = self.destinations.get_mut(&key) {
            destination.state = state;
        }
        self.show(key);
    }

    /// Tells the data path what a destination's packets do.
    fn show(&mut self, key: RunKey) {
        self.set_timer(key);
        let Some(run) = self.runs.get(&key.run) else { return };
        let Some(destination) = self.destinations.get(&key) else { return };
        self.commands.extend(match &destination.state {
            State::Waiting(_) => None,
            State::Open => {
                let until = destination.leases().map(|lease| lease.until).min().unwrap_or(u64::MAX);
                Some(Command::Open { key, addresses: destination.addresses(), field: run.spec.field, until })
            }
            State::Without { .. } if !run.spec.require => Some(Command::Plain(key)),
            State::Without { .. } | State::Closed(_) => Some(Command::Cut(key)),
        });
    }

    /// When to look at a destination again. A timer that is not needed any more does no harm.
    fn set_timer(&mut self, key: RunKey) {
        let at = self.destinations.get(&key).and_then(|destination| match &destination.state {
            State::Waiting(until) => Some(*until),
            State::Without { again, .. } => *again,
            State::Open => destination.leases().map(|lease| lease.until).min().filter(|until| *until != u64::MAX),
            State::Closed(_) => None,
        });
        self.timers.extend(at.map(|at| (at, key)));
    }

    fn insert(&mut self, key: RunKey, destination: Destination) {
        self.runs.entry(key.run).and_modify(|run| run.destinations += 1);
        self.destinations.insert(key, destination);
    }

    fn remove(&mut self, key: RunKey, how: fn(u32) -> Command) {
        let Some(destination) = self.destinations.remove(&key) else { return };
        self.runs.entry(key.run).and_modify(|run| run.destinations -= 1);
        self.commands.push_back(Command::Forget(key));
        for path in destination.paths {
            self.leases.remove(&path.iaid);
            if path.asked || path.lease.is_some() {
                self.ask_unconfirmed(&key, &path);
                self.commands.push_back(how(path.iaid));
            }
        }
    }

    /// A predecessor's lease that was not confirmed yet is nobody's to give back: it is asked for first.
    fn ask_unconfirmed(&mut self, key: &RunKey, path: &Path) {
        if let Some(run) = self.runs.get(&key.run).filter(|_| !path.asked) {
            self.commands.push_back(Command::Ask(path.iaid, key.ifindex, run.spec.flow(key, path.number)));
        }
    }

    fn keys(&self, which: impl Fn(&RunKey) -> bool) -> Vec<RunKey> {
        self.destinations.keys().filter(|key| which(key)).copied().collect()
    }
}

impl RunSpec {
    /// What a flow of the run is for. Where the network has no way for it, its packets may have another.
    fn flow(&self, key: &RunKey, path: u8) -> FlowSpec {
        FlowSpec {
            destination: Some(address_of(key)),
            rate: self.rate,
            field: self.field,
            name: Some(self.name.clone()).filter(|name| !name.is_empty()),
            path: (self.paths > 1).then_some(path),
            only_with_a_way: true,
            ..FlowSpec::default()
        }
    }
}

const NO_SERVICE: &str = "no switch answers there";

/// The destination that a key is about.
pub fn address_of(key: &RunKey) -> IpAddr {
    std::net::Ipv6Addr::from(key.destination).to_canonical()
}

fn text_of(status: &Status) -> String {
    if status.text.is_empty() { format!("{:?}", status.code) } else { status.text.clone() }
}
