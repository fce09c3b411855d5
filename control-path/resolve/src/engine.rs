//! The watched queries: which of them a change concerns, what to ask the kernel, and what to tell.
//!
//! Sans-IO: notices, answers and the time go in; [`Engine::next_work`] and [`Engine::next_event`] come out. The
//! kernel has the truth, and so there is one rule for lost updates: whatever changed after a look-up was sent
//! makes its destination due again.

use crate::decide::{Decision, Need, Routes, decide, is_unicast};
use crate::tables::{Link, NeighbourKey, Notice, Tables};
use crate::{Event, Query, Resolution, Route, StaticRoute};
use flowlane_wire::Mac;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Route changes come in bursts; they are gathered for this long.
const GATHER: Duration = Duration::from_millis(10);
/// The kernel announces that a route is removed, or an interface down, just before it is. So everything that a
/// change concerns is looked up once more, this long after the last one.
const CONFIRM: Duration = Duration::from_millis(500);
/// How often a neighbour in use is checked (plus up to half as much, so that checks spread).
const REFRESH: Duration = Duration::from_secs(30);
/// The first and the longest time between two tries to resolve a neighbour.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// More changed prefixes than this at a time count as a change of all routes.
const MAX_PREFIXES: usize = 64;

/// What the kernel is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Which way to this destination? Answered by [`Engine::looked_up`].
    Lookup(LookupId),
    /// Resolve the neighbour, if that is needed. The answer is a notice.
    Use(NeighbourKey),
    /// Ask the neighbour whether it is there, even if the kernel is sure of it. The answer is a notice.
    Probe(NeighbourKey),
}

/// One look-up: an answer that comes after its destination was dropped, and perhaps watched anew, is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LookupId {
    pub address: IpAddr,
    /// Whether all next hops are wanted, and not the kernel's choice alone.
    pub all: bool,
    watch: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Engine {
    statics: Vec<StaticRoute>,
    tables: Tables,
    queries: HashMap<Query, Watched>,
    destinations: HashMap<IpAddr, Destination>,
    neighbours: HashMap<NeighbourKey, InUse>,
    timers: BTreeSet<(Instant, NeighbourKey)>,
    /// Routes to look up again, and when.
    gather: Option<(Instant, Scope)>,
    confirm: Option<(Instant, Scope)>,
    undecided: Undecided,
    /// Addresses that a bridge saw elsewhere, or forgot.
    moved: HashSet<(u32, Mac)>,
    /// Something is gone that may not be in use.
    prune_due: bool,
    watches: u64,
    lookups: VecDeque<IpAddr>,
    asks: VecDeque<Work>,
    link_events: VecDeque<Event>,
    /// Queries whose answer is not the one that was told.
    changed: VecDeque<Query>,
}

#[derive(Debug, Default)]
struct Watched {
    watchers: usize,
    answer: Option<(Resolution, Option<Route>)>,
    told: Option<(Resolution, Option<Route>)>,
    /// Stands in `Engine::changed`.
    queued: bool,
    neighbour: Option<NeighbourKey>,
}

#[derive(Debug)]
struct Destination {
    watch: u64,
    queries: BTreeSet<Query>,
    routes: Option<Routes>,
    lookup: Lookup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    Idle,
    Queued,
    Sent,
    /// Sent, and something changed since.
    SentTooEarly,
}

#[derive(Debug)]
struct InUse {
    queries: HashSet<Query>,
    need: Need,
    attempts: u32,
    asked: Option<Instant>,
    due: Instant,
}

/// The destinations that a route change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Prefixes(Vec<IpNet>),
}

/// The queries to decide again.
#[derive(Debug)]
enum Undecided {
    All,
    Some(HashSet<Query>),
}

impl Engine {
    pub fn new(statics: Vec<StaticRoute>) -> Self {
        let mut engine = Self::default();
        engine.set_statics(statics);
        engine
    }

    pub fn set_statics(&mut self, mut statics: Vec<StaticRoute>) {
        statics.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
        self.statics = statics;
        self.undecided = Undecided::All;
    }

    pub fn watch(&mut self, query: Query) {
        let watched = self.queries.entry(query).or_default();
        watched.watchers += 1;
        // A further watcher is told the answer too.
        watched.told = None;
        self.undecided.insert(query);
        let destination = self.destinations.entry(query.destination).or_insert_with(|| {
            self.watches += 1;
            Destination { watch: self.watches, queries: BTreeSet::new(), routes: None, lookup: Lookup::Idle }
        });
        destination.queries.insert(query);
        if destination.routes.as_ref().and_then(|routes| routes.of(query.path)).is_none() {
            self.look_up(query.destination);
        }
    }

    pub fn unwatch(&mut self, query: Query) {
        let Some(watched) = self.queries.get_mut(&query) else { return };
        watched.watchers -= 1;
        if watched.watchers > 0 {
            return;
        }
        if let Some(key) = self.queries.remove(&query).and_then(|watched| watched.neighbour) {
            self.release(key, query);
        }
        if let Some(destination) = self.destinations.get_mut(&query.destination) {
            destination.queries.remove(&query);
            if destination.queries.is_empty() {
                self.destinations.remove(&query.destination);
            }
        }
    }

    /// Takes one change of the kernel's tables. [`Notice::Overrun`] is for the caller: it takes a new snapshot.
    pub fn notice(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Link(link) => self.link(link, now),
            Notice::LinkGone(ifindex) => self.link_gone(ifindex, now),
            Notice::Neighbour(key, state) => {
                self.tables.set_neighbour(key, state, now);
                self.neighbour_changed(key);
            }
            Notice::NeighbourGone(key) => {
                self.tables.neighbour_gone(key, now);
                self.neighbour_changed(key);
                self.prune_due = true;
            }
            Notice::Fdb(key, port) => {
                self.tables.set_fdb(key, port);
                self.moved.insert((key.bridge, key.mac));
            }
            Notice::FdbGone(key, port) => {
                self.tables.fdb_gone(key, port);
                self.moved.insert((key.bridge, key.mac));
                self.prune_due = true;
            }
            Notice::Routes(prefix) => self.routes_changed(Scope::of(prefix), now),
            Notice::Overrun => {}
        }
    }

    /// Takes all tables anew. What is not in the snapshot is gone.
    pub fn resync(&mut self, snapshot: Vec<Notice>, now: Instant) {
        let present: HashSet<u32> = snapshot.iter().filter_map(Notice::link_index).collect();
        let missing: Vec<u32> = self.tables.links.keys().copied().filter(|index| !present.contains(index)).collect();
        missing.into_iter().for_each(|index| self.link_gone(index, now));
        self.tables.neighbours.values_mut().for_each(|neighbour| neighbour.gone = true);
        self.tables.fdb.values_mut().flatten().for_each(|entry| entry.gone = true);
        snapshot.into_iter().for_each(|notice| self.notice(notice, now));
        self.prune_due = true;
        self.undecided = Undecided::All;
        self.routes_changed(Scope::All, now);
    }

    /// Takes the answer to [`Work::Lookup`]; none if there was none, for whatever reason.
    pub fn looked_up(&mut self, id: LookupId, answer: Option<Routes>, now: Instant) {
        let address = id.address;
        let Some(destination) = self.destinations.get_mut(&address).filter(|d| d.watch == id.watch) else { return };
        let again = destination.lookup == Lookup::SentTooEarly;
        destination.lookup = Lookup::Idle;
        let silent = answer.is_none();
        if !silent && destination.routes != answer {
            destination.routes = answer;
            self.undecided.extend(destination.queries.iter().copied());
        }
        if again {
            self.look_up(address);
        } else if silent {
            Scope::merge(&mut self.confirm, now + RETRY.0, Scope::of(Some(IpNet::from(address))));
        }
    }

    /// Does what is due: call it after input and at the [`Engine::deadline`].
    pub fn settle(&mut self, now: Instant) {
        self.start_lookups(now);
        self.follow_moved();
        for query in self.take_undecided() {
            self.decide(query, now);
        }
        while let Some(&(due, key)) = self.timers.first().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, key));
            self.ask(key, now);
        }
        if std::mem::take(&mut self.prune_due) {
            self.prune();
        }
    }

    /// When [`Engine::settle`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let scopes = [&self.gather, &self.confirm].into_iter().flatten().map(|(at, _)| *at);
        scopes.chain(self.timers.first().map(|(due, _)| *due)).min()
    }

    /// The next question to the kernel.
    pub fn next_work(&mut self) -> Option<Work> {
        while let Some(address) = self.lookups.pop_front() {
            if let Some(destination) = self.destinations.get_mut(&address).filter(|d| d.lookup == Lookup::Queued) {
                destination.lookup = Lookup::Sent;
                let all = destination.queries.iter().any(|query| query.path.is_some());
                return Some(Work::Lookup(LookupId { address, all, watch: destination.watch }));
            }
        }
        self.asks.pop_front()
    }

    pub fn has_events(&self) -> bool {
        !self.link_events.is_empty() || !self.changed.is_empty()
    }

    /// The next thing to tell. A query that changed several times meanwhile is told once.
    pub fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.link_events.pop_front() {
            return Some(event);
        }
        while let Some(query) = self.changed.pop_front() {
            let Some(watched) = self.queries.get_mut(&query) else { continue };
            watched.queued = false;
            if let Some((resolution, route)) = watched.answer.filter(|_| watched.told != watched.answer) {
                watched.told = watched.answer;
                return Some(Event::Resolved { query, resolution, route });
            }
        }
        None
    }

    fn link(&mut self, link: Link, now: Instant) {
        let (state, kind) = (link.state.clone(), link.kind);
        let before = self.tables.set_link(link);
        if before.as_ref().is_some_and(|before| before.state == state && before.kind == kind) {
            return;
        }
        let came_up = state.up && before.as_ref().is_none_or(|before| !before.state.up);
        // The kernel removes and adds an interface's routes without a word when it goes down or comes up.
        let same_place =
            before.is_some_and(|before| before.state.up == state.up && before.state.master == state.master);
        if !same_place {
            self.routes_changed(Scope::All, now);
        }
        if came_up {
            self.try_again(now);
        }
        self.undecided = Undecided::All;
        self.link_events.push_back(Event::Link(state));
    }

    fn link_gone(&mut self, ifindex: u32, now: Instant) {
        let Some(link) = self.tables.remove_link(ifindex) else { return };
        self.undecided = Undecided::All;
        self.routes_changed(Scope::All, now);
        self.link_events.push_back(Event::LinkGone { ifindex, name: link.state.name });
    }

    fn neighbour_changed(&mut self, key: NeighbourKey) {
        if let Some(used) = self.neighbours.get(&key) {
            self.undecided.extend(used.queries.iter().copied());
        }
    }

    fn follow_moved(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        for (key, used) in self.neighbours.iter().filter(|_| !moved.is_empty()) {
            let mac = self.tables.neighbours.get(key).and_then(|neighbour| neighbour.mac);
            if mac.is_some_and(|mac| moved.contains(&(key.interface, mac))) {
                self.undecided.extend(used.queries.iter().copied());
            }
        }
    }

    fn routes_changed(&mut self, scope: Scope, now: Instant) {
        let gather_at = self.gather.as_ref().map_or(now + GATHER, |(at, _)| *at);
        Scope::merge(&mut self.gather, gather_at, scope.clone());
        Scope::merge(&mut self.confirm, now + CONFIRM, scope);
    }

    /// Tries all neighbours that are not resolved as if for the first time.
    fn try_again(&mut self, now: Instant) {
        for (key, used) in self.neighbours.iter_mut().filter(|(_, used)| used.need != Need::Refresh) {
            used.attempts = 0;
            used.reschedule(*key, now, &mut self.timers);
        }
    }

    fn start_lookups(&mut self, now: Instant) {
        let due = |slot: &mut Option<(Instant, Scope)>| slot.take_if(|(at, _)| *at <= now).map(|(_, scope)| scope);
        for scope in [due(&mut self.gather), due(&mut self.confirm)].into_iter().flatten() {
            let addresses: Vec<IpAddr> = self.destinations.keys().copied().filter(|a| scope.contains(*a)).collect();
            addresses.into_iter().for_each(|address| self.look_up(address));
        }
    }

    fn look_up(&mut self, address: IpAddr) {
        let Some(destination) = self.destinations.get_mut(&address).filter(|_| needs_route(address)) else { return };
        destination.lookup = match destination.lookup {
            Lookup::Idle => {
                self.lookups.push_back(address);
                Lookup::Queued
            }
            Lookup::Queued => Lookup::Queued,
            Lookup::Sent | Lookup::SentTooEarly => Lookup::SentTooEarly,
        };
    }

    fn take_undecided(&mut self) -> Vec<Query> {
        match std::mem::take(&mut self.undecided) {
            Undecided::All => self.queries.keys().copied().collect(),
            Undecided::Some(queries) => queries.into_iter().collect(),
        }
    }

    fn decide(&mut self, query: Query, now: Instant) {
        let routes = self.destinations.get(&query.destination).and_then(|destination| destination.routes.as_ref());
        let (route, paths) = routes.and_then(|routes| routes.of(query.path)).unzip();
        let Some(decision) = decide(query, &self.statics, route, &self.tables) else { return };
        let Decision { resolution, neighbour, interface } = decision;
        let Some(watched) = self.queries.get_mut(&query) else { return };
        let route = interface.map(|interface| Route { interface, paths: paths.unwrap_or(1) });
        watched.answer = Some((resolution, route));
        if watched.told != watched.answer && !watched.queued {
            watched.queued = true;
            self.changed.push_back(query);
        }
        let before = std::mem::replace(&mut watched.neighbour, neighbour.map(|(key, _)| key));
        if let Some(key) = before.filter(|key| Some(*key) != neighbour.map(|(key, _)| key)) {
            self.release(key, query);
        }
        if let Some((key, need)) = neighbour {
            self.employ(key, need, query, now);
        }
    }

    fn employ(&mut self, key: NeighbourKey, need: Need, query: Query, now: Instant) {
        let used = self.neighbours.entry(key).or_insert_with(|| {
            self.timers.insert((now, key));
            InUse { queries: HashSet::new(), need, attempts: 0, asked: None, due: now }
        });
        used.queries.insert(query);
        if used.need == need {
            return;
        }
        used.need = need;
        used.attempts = 0;
        let due = match need {
            Need::Refresh => now + refresh_of(key),
            Need::Resolve | Need::Learn => used.asked.map_or(now, |asked| now.max(asked + RETRY.0)),
        };
        used.reschedule(key, due, &mut self.timers);
    }

    fn release(&mut self, key: NeighbourKey, query: Query) {
        let Some(used) = self.neighbours.get_mut(&key) else { return };
        used.queries.remove(&query);
        if used.queries.is_empty() {
            self.timers.remove(&(used.due, key));
            self.neighbours.remove(&key);
        }
    }

    fn ask(&mut self, key: NeighbourKey, now: Instant) {
        let Some(used) = self.neighbours.get_mut(&key) else { return };
        let pause = match used.need {
            Need::Refresh => refresh_of(key),
            Need::Resolve | Need::Learn => (RETRY.0 * (1 << used.attempts.min(6))).min(RETRY.1),
        };
        used.attempts = used.attempts.saturating_add(1);
        used.asked = Some(now);
        used.reschedule(key, now + pause, &mut self.timers);
        let is_fixed = self.tables.neighbours.get(&key).is_some_and(|neighbour| neighbour.fixed);
        match used.need {
            Need::Learn => self.asks.push_back(Work::Probe(key)),
            // A permanent neighbour that the kernel is asked to use is an ordinary one from then on (Linux 5.16).
            Need::Refresh if is_fixed => {}
            Need::Refresh | Need::Resolve => self.asks.push_back(Work::Use(key)),
        }
    }

    fn prune(&mut self) {
        let (used, tables) = (&self.neighbours, &self.tables);
        let macs: HashSet<(u32, Mac)> =
            used.keys().filter_map(|key| Some((key.interface, tables.neighbours.get(key)?.mac?))).collect();
        self.tables.prune(|key| used.contains_key(key), |mac| macs.contains(mac));
    }
}

impl InUse {
    fn reschedule(&mut self, key: NeighbourKey, due: Instant, timers: &mut BTreeSet<(Instant, NeighbourKey)>) {
        timers.remove(&(self.due, key));
        timers.insert((due, key));
        self.due = due;
    }
}

impl Scope {
    fn of(prefix: Option<IpNet>) -> Self {
        prefix.map_or(Self::All, |prefix| Self::Prefixes(vec![prefix]))
    }

    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Prefixes(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&address)),
        }
    }

    fn merge(slot: &mut Option<(Instant, Self)>, at: Instant, scope: Self) {
        let merged = match (slot.take(), scope) {
            (None, scope) => scope,
            (Some((_, Self::Prefixes(mut prefixes))), Self::Prefixes(more)) => {
                prefixes.extend(more.into_iter().filter(|prefix| !prefixes.contains(prefix)).collect::<Vec<_>>());
                if prefixes.len() > MAX_PREFIXES { Self::All } else { Self::Prefixes(prefixes) }
            }
            _ => Self::All,
        };
        *slot = Some((at, merged));
    }
}

impl Default for Undecided {
    fn default() -> Self {
        Self::Some(HashSet::new())
    }
}

impl Undecided {
    fn insert(&mut self, query: Query) {
        self.extend([query]);
    }

    fn extend(&mut self, more: impl IntoIterator<Item = Query>) {
        if let Self::Some(queries) = self {
            queries.extend(more);
        }
    }
}

impl Notice {
    fn link_index(&self) -> Option<u32> {
        match self {
            Self::Link(link) => Some(link.state.ifindex),
            _ => None,
        }
    }
}

/// Whether the kernel's routing has a say.
fn needs_route(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    is_unicast(address) && !link_local
}

/// Between `REFRESH` and one and a half of it, always the same for one neighbour.
fn refresh_of(key: NeighbourKey) -> Duration {
    let last_octet = match key.address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    REFRESH + REFRESH / 512 * u32::from(last_octet)
}

#[cfg(test)]
mod tests;
