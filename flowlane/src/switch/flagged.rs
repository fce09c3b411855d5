//! Flagged packets (claims 24 to 28): from the first of its addresses and ports to a flow of their own.
//!
//! ```text
//!     asks -> route -> a flow can carry it: lease (durable) -> slot, held -> tuple -> frames that asked -> next hop
//!                   -> it can not, or the packet is for this switch: PASS, left to Linux for a while
//! ```
//!
//! No frame of a flow is overtaken by a later one. Frames that ask are kept in the order in which they came. The slot is
//! installed *held*: its next hop is not published yet, so that the data path queues what it finds by the tuple behind what
//! asked before, in the same queue. From the moment the tuple is in the table no frame asks any more; when that queue has
//! been seen empty after it, all that asked have been sent, and the slot is released ([`Switch::settle`]). What remains is a
//! frame whose look-up missed the tuple by less than it takes to queue it, on another processor: it is sent late, not lost.

use super::{
    BURST, Sources, Switch, boot_ms,
    leases::{Done, Failure, Task, Transaction},
    ports::Ports,
    slow_path::{Waiting, with_tag},
};
use crate::config::{FlagRole, FlaggedPolicy};
use flowlane_allot::{Change, ClientId, FlowSpec, Lease, LeaseKey, Refusal, Request};
use flowlane_dhcp6::Operation;
use flowlane_ports::af_packet::Offload;
use flowlane_program::{Punt, Tables};
use flowlane_resolve::{Query, Reason, Resolution as Answer};
use flowlane_tables::{End, PASS, PENDING_LIMIT, Tuple};
use flowlane_wire::{Mac, PortId, SlotIndex, header::ethernet};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// A frame that asks for a flow.
#[derive(Debug)]
pub struct Asked(Waiting);

impl Asked {
    /// A frame that came in by a port.
    pub fn new(ingress: PortId, bytes: Vec<u8>, offload: Offload) -> Self {
        Self(Waiting { slot: SlotIndex(0), ingress, bytes, offload, counted: false })
    }

    /// A frame that the kernel handed over.
    pub fn from_kernel(punt: &Punt<'_>) -> Option<Self> {
        let Punt::Asking { ingress, frame, tag, gso_size } = punt else { return None };
        let bytes = with_tag(frame, *tag);
        let offload = Offload::describe(&bytes, *gso_size);
        Some(Self::new(*ingress, bytes, offload))
    }

    fn port(&self) -> PortId {
        self.0.ingress
    }

    fn source(&self) -> Mac {
        let octets = self.0.bytes.get(ethernet::SOURCE..).and_then(|rest| rest.first_chunk());
        octets.map_or(Mac::default(), |octets| Mac(*octets))
    }

    fn of_slot(self, slot: SlotIndex) -> Waiting {
        Waiting { slot, ..self.0 }
    }
}

/// The tuples of flagged packets, and where each is on its way to a flow.
pub struct Flagged {
    tables: Arc<Tables>,
    asking: HashMap<Tuple, Asking>,
    /// Tuples whose route is being looked up, and since when.
    routes: HashMap<Query, (Instant, Vec<Tuple>)>,
    flows: HashMap<Tuple, FlaggedFlow>,
    /// Tuples that are left to Linux, and until when.
    passes: VecDeque<(Instant, Tuple)>,
    ports: BTreeMap<PortId, AtPort>,
    /// When idle flows are looked for next.
    look: Instant,
}

/// A tuple that nobody has decided on yet.
struct Asking {
    /// The host that sends the packets.
    host: Mac,
    /// The route that is looked up, and watched until there is a flow to follow it.
    query: Query,
    /// Oldest first; each is counted in its port's entry.
    frames: Vec<Asked>,
}

struct FlaggedFlow {
    slot: SlotIndex,
    /// Frames forwarded when it was looked at last.
    packets: u64,
    /// Since when it has forwarded nothing.
    since: Instant,
}

/// What a port has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtPort {
    /// Flows of flagged packets.
    pub flows: u32,
    /// Tuples that nobody has decided on yet.
    pub asking: u32,
    /// Tuples that are left to Linux.
    pub passes: u32,
    /// Until when the port refuses new ones, because one was refused.
    refuses: Option<Instant>,
}

/// How long a tuple is left to Linux before it is asked again whether a flow can carry it.
const PASS_FOR: Duration = Duration::from_secs(60);
/// The most tuples of a port that are left to Linux by an entry of the table. What is beyond that asks each time.
const PASSES_MAX: u32 = 256;
/// How long Linux may take to say where a route leads.
const ROUTE_WITHIN: Duration = Duration::from_secs(2);
/// How long a port refuses new flows after one was refused for want of addresses or by the store.
const REFUSE_FOR: Duration = Duration::from_secs(1);
/// A lease lasts so many times as long as a flow may be idle, so that few renewals keep it.
const LIFETIMES: u32 = 4;
/// How often idle flows are looked for: so many times in the time after which a flow is idle.
const LOOKS: u32 = 4;
const LOOK_MIN: Duration = Duration::from_millis(250);
const LOOK_MAX: Duration = Duration::from_secs(30);
/// How often the queues are emptied for held flows before the other sources have their turn.
const ROUNDS: usize = 4;

impl Flagged {
    /// Nobody asks yet.
    pub fn new(tables: Arc<Tables>) -> Self {
        let (asking, routes, flows, passes, ports) = Default::default();
        Self { tables, asking, routes, flows, passes, ports, look: Instant::now() }
    }

    /// What a port has.
    pub fn at(&self, port: PortId) -> AtPort {
        self.ports.get(&port).copied().unwrap_or_default()
    }

    /// When [`Switch::flagged_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let look = (!self.flows.is_empty()).then_some(self.look);
        let pass = self.passes.front().map(|(until, _)| *until);
        let refuses = self.ports.values().filter_map(|at| at.refuses).min();
        let route = self.routes.values().map(|(since, _)| *since + ROUTE_WITHIN).min();
        [look, pass, refuses, route].into_iter().flatten().min()
    }

    /// Puts the tuples of new leases into the table: to be called when their slots are installed.
    pub fn begun(&mut self, changes: &[Change], ports: &mut Ports) {
        for lease in changes.iter().filter_map(|change| change.after.as_ref()).filter(|lease| lease.is_active()) {
            let (Some(tuple), Some(address)) = (tuple_of(&lease.key), address_of(lease, &self.tables)) else {
                continue;
            };
            if self.tables.tuples().get(&tuple) == Some(address) {
                continue;
            }
            match self.tables.tuples().set(tuple, address) {
                Ok(()) => self.add(tuple, self.tables.block().slot_of(address), ports),
                Err(error) => tracing::warn!("a flagged packet gets no flow: {error}"),
            }
        }
    }

    fn add(&mut self, tuple: Tuple, slot: SlotIndex, ports: &mut Ports) {
        let known = self.flows.insert(tuple, FlaggedFlow { slot, packets: 0, since: Instant::now() }).is_some();
        self.count(&tuple, ports, |at| at.flows += u32::from(!known));
    }

    /// Takes the tuples of leases that have ended off the table: to be called before their slots are freed.
    pub fn ended(&mut self, changes: &[Change], ports: &mut Ports) {
        for change in changes {
            let Some(lease) = change.before.as_ref().filter(|lease| lease.is_active()) else { continue };
            let goes_on = change.after.as_ref().is_some_and(|after| after.is_active() && after.first == lease.first);
            if let Some(tuple) = tuple_of(&lease.key).filter(|_| !goes_on)
                && self.tables.tuples().get(&tuple) == address_of(lease, &self.tables)
            {
                self.forget(&tuple);
                self.flows.remove(&tuple);
                self.count(&tuple, ports, |at| at.flows = at.flows.saturating_sub(1));
            }
        }
    }

    fn forget(&self, tuple: &Tuple) {
        if let Err(error) = self.tables.tuples().remove(tuple) {
            tracing::warn!("an entry of the table of tuples can not be removed: {error}");
        }
    }

    /// Changes what the tuple's port has, and says whether it takes new flows.
    fn count(&mut self, tuple: &Tuple, ports: &mut Ports, change: impl FnOnce(&mut AtPort)) {
        change(self.ports.entry(tuple.port()).or_default());
        self.say_whether_full(tuple.port(), ports);
    }

    fn say_whether_full(&self, port: PortId, ports: &mut Ports) {
        let limit = policy(ports, port).map_or(0, |policy| policy.limit);
        let at = self.at(port);
        ports.set_full(port, at.refuses.is_some() || at.flows + at.asking >= limit);
    }
}

impl Switch {
    /// Takes a frame that asks for a flow.
    pub(super) fn asked(&mut self, mut frame: Asked) {
        let Some(tuple) = frame.0.tuple() else { return self.refuse(frame, End::FlagMalformed) };
        match self.tables.tuples().get(&tuple) {
            Some(PASS) => self.pass(frame),
            Some(address) => self.join_flow(address, frame),
            None => self.collect(tuple, frame),
        }
    }

    /// Takes the route of tuples that ask: whether a flow can carry their packets.
    pub(super) fn route_of_asking(&mut self, query: Query, answer: Answer) {
        let (_, tuples) = self.flagged.routes.remove(&query).unwrap_or_else(|| (Instant::now(), Vec::new()));
        for tuple in tuples {
            if can_flow(answer, &self.ports) { self.ask_lease(tuple) } else { self.leave_to_linux(tuple) }
        }
    }

    /// Lets the next hops of held flows be published, once the frames that asked have gone before.
    pub(super) fn settle(&mut self, sources: &mut Sources) {
        if self.flows.has_held() && self.empty_queues(sources) {
            self.flows.release_held();
        }
    }

    /// Looks for idle flows, and for what is over.
    pub(super) fn flagged_timeout(&mut self, now: Instant) {
        self.end_passes(now);
        self.end_refusals(now);
        self.end_routes(now);
        if now >= self.flagged.look {
            self.look_for_idle(now);
        }
    }

    /// Brings the table of tuples to what the leases say. Leases of ports that do not read the flag any more end.
    pub(super) fn adopt_tuples(&mut self) {
        let now = Instant::now();
        (self.flagged.flows, self.flagged.passes, self.flagged.ports) = Default::default();
        let mut leftover = Vec::new();
        for lease in self.leases.allotter().leases() {
            let Some(tuple) = tuple_of(&lease.key) else { continue };
            let Some(address) = address_of(lease, &self.tables) else { continue };
            let slot = self.tables.block().slot_of(address);
            if tuple.port() != lease.port || policy(&self.ports, lease.port).is_none() {
                leftover.push(Task::End(slot));
                continue;
            }
            if self.tables.tuples().get(&tuple) != Some(address)
                && let Err(error) = self.tables.tuples().set(tuple, address)
            {
                tracing::warn!("a flagged flow can not be resumed: {error}");
                leftover.push(Task::End(slot));
                continue;
            }
            self.flagged.flows.insert(tuple, FlaggedFlow { slot, packets: 0, since: now });
            self.flagged.ports.entry(lease.port).or_default().flows += 1;
        }
        for (tuple, _) in self.tables.tuples().all() {
            if !self.flagged.flows.contains_key(&tuple) {
                self.flagged.forget(&tuple);
            }
        }
        for tuple in self.flagged.asking.keys() {
            self.flagged.ports.entry(tuple.port()).or_default().asking += 1;
        }
        let numbers: Vec<PortId> = self.ports.iter().map(|(number, _)| number).collect();
        numbers.iter().for_each(|number| self.flagged.say_whether_full(*number, &mut self.ports));
        self.submit_quietly(leftover);
    }

    /// Forgets the frames that asked a predecessor.
    pub(super) fn forget_asking(&self) {
        self.tables.ports().iter().for_each(|port| port.asking().store(0));
    }

    /// Keeps a frame with those of the same tuple; for the first, finds out whether a flow can carry it.
    fn collect(&mut self, tuple: Tuple, frame: Asked) {
        if let Some(asking) = self.flagged.asking.get_mut(&tuple) {
            if asking.frames.len() < PENDING_LIMIT as usize {
                return asking.frames.push(frame);
            }
            return self.refuse(frame, End::QueueFull);
        }
        let (at, port) = (self.flagged.at(tuple.port()), tuple.port());
        let room =
            policy(&self.ports, port).is_some_and(|policy| at.refuses.is_none() && at.flows + at.asking < policy.limit);
        if !room {
            return self.refuse(frame, End::FlagRefused);
        }
        let query = Query::new(tuple.destination(), self.ports.ifindex(port).unwrap_or(0));
        let asking = Asking { host: frame.source(), query, frames: vec![frame] };
        self.flagged.asking.insert(tuple, asking);
        self.flagged.count(&tuple, &mut self.ports, |at| at.asking += 1);
        self.hops.watch_route(query);
        if leads_to_one_host(query.destination) {
            let (_, tuples) = self.flagged.routes.entry(query).or_insert_with(|| (Instant::now(), Vec::new()));
            tuples.push(tuple);
        } else {
            self.leave_to_linux(tuple);
        }
    }

    fn ask_lease(&mut self, tuple: Tuple) {
        let (Some(asking), Some(policy)) = (self.flagged.asking.get(&tuple), policy(&self.ports, tuple.port())) else {
            return;
        };
        let request = Request {
            key: key_of(&tuple),
            port: tuple.port(),
            host: asking.host,
            count: 1,
            lifetime: Some(policy.idle.saturating_mul(LIFETIMES)),
            spec: FlowSpec {
                destination: Some(tuple.destination()),
                rate: policy.rate,
                restore: policy.restore,
                ..FlowSpec::default()
            },
        };
        let done: Done = Box::new(move |results, switch, _| {
            let result = results.into_iter().next().unwrap_or(Err(Failure::Store("no result".into())));
            switch.granted(tuple, result);
        });
        self.leases.submit(Transaction { tasks: vec![Task::Client(Operation::Request(request))], done });
    }

    /// The lease is durable, its slot installed and its tuple in the table; or it was refused.
    fn granted(&mut self, tuple: Tuple, result: Result<Lease, Failure>) {
        let frames = self.decided(&tuple);
        match (result, self.tables.tuples().get(&tuple)) {
            (Ok(_), Some(address)) => return frames.into_iter().for_each(|frame| self.join_flow(address, frame)),
            (Ok(lease), None) => {
                let slot = address_of(&lease, &self.tables).map(|address| self.tables.block().slot_of(address));
                self.submit_quietly(slot.map(Task::End).into_iter().collect());
            }
            (Err(failure), _) => {
                tracing::debug!(port = %tuple.port(), "a flagged packet gets no flow: {failure}");
                if !matches!(failure, Failure::Refused(Refusal::Invalid(_))) {
                    let until = Instant::now() + REFUSE_FOR;
                    self.flagged.count(&tuple, &mut self.ports, |at| at.refuses = Some(until));
                }
            }
        }
        frames.into_iter().for_each(|frame| self.refuse(frame, End::FlagRefused));
    }

    /// Leaves the packets of a tuple that asks to Linux, and those that follow for a while.
    fn leave_to_linux(&mut self, tuple: Tuple) {
        let frames = self.decided(&tuple);
        if self.flagged.at(tuple.port()).passes < PASSES_MAX && self.tables.tuples().set(tuple, PASS).is_ok() {
            self.flagged.passes.push_back((Instant::now() + PASS_FOR, tuple));
            self.flagged.count(&tuple, &mut self.ports, |at| at.passes += 1);
        }
        frames.into_iter().for_each(|frame| self.pass(frame));
    }

    /// Takes a tuple off those that ask. Its frames, oldest first.
    fn decided(&mut self, tuple: &Tuple) -> Vec<Asked> {
        let Some(asking) = self.flagged.asking.remove(tuple) else { return Vec::new() };
        self.hops.unwatch_route(asking.query);
        self.flagged.count(tuple, &mut self.ports, |at| at.asking = at.asking.saturating_sub(1));
        asking.frames
    }

    fn join_flow(&mut self, address: u64, frame: Asked) {
        self.handled(frame.port());
        let slot = self.tables.block().slot_of(address);
        self.waiting(frame.of_slot(slot));
    }

    fn pass(&mut self, frame: Asked) {
        self.handled(frame.port());
        self.flows.pass(frame.0);
    }

    fn refuse(&mut self, frame: Asked, end: End) {
        self.handled(frame.port());
        self.flows.drop(frame.0, end);
    }

    /// One frame fewer of the port asks.
    fn handled(&self, port: PortId) {
        let Some(port) = self.tables.ports().get(usize::from(port.0)) else { return };
        // Against frames that ask at the same time, until it is done: one that stays counted would count for ever.
        while let asking @ 1.. = port.asking().load() {
            if port.asking().swap(asking, asking - 1) {
                return;
            }
        }
    }

    /// Takes what the kernel and the workers have queued so far. Whether the queues were seen empty.
    fn empty_queues(&mut self, sources: &mut Sources) -> bool {
        let kernel = match &mut sources.punts {
            Some(punts) => (0..ROUNDS).any(|_| self.take_punts(punts.get_mut()) < BURST),
            None => true,
        };
        for _ in 0..ROUNDS * BURST {
            match sources.from_workers.try_recv() {
                Ok(from) => self.of_worker(from),
                Err(_) => return kernel,
            }
        }
        false
    }

    fn end_passes(&mut self, now: Instant) {
        while let Some((_, tuple)) = self.flagged.passes.pop_front_if(|(until, _)| *until <= now) {
            self.flagged.forget(&tuple);
            self.flagged.count(&tuple, &mut self.ports, |at| at.passes = at.passes.saturating_sub(1));
        }
    }

    fn end_refusals(&mut self, now: Instant) {
        let over = |at: &AtPort| at.refuses.is_some_and(|until| until <= now);
        let over: Vec<PortId> =
            self.flagged.ports.iter().filter(|(_, at)| over(at)).map(|(number, _)| *number).collect();
        for number in over {
            self.flagged.ports.entry(number).or_default().refuses = None;
            self.flagged.say_whether_full(number, &mut self.ports);
        }
    }

    /// Refuses the frames of tuples whose routes are not found in time: nothing may ask for ever.
    fn end_routes(&mut self, now: Instant) {
        let late = self.flagged.routes.extract_if(|_, (since, _)| *since + ROUTE_WITHIN <= now);
        let late: Vec<Tuple> = late.flat_map(|(_, (_, tuples))| tuples).collect();
        for tuple in late {
            self.decided(&tuple).into_iter().for_each(|frame| self.refuse(frame, End::FlagRefused));
        }
    }

    /// Releases the flows that have forwarded nothing for too long, and renews the others in the second half of their
    /// leases.
    fn look_for_idle(&mut self, now: Instant) {
        let mut tasks = Vec::new();
        let boot = boot_ms();
        for (tuple, flow) in &mut self.flagged.flows {
            let Some(policy) = policy(&self.ports, tuple.port()) else { continue };
            let slot = self.tables.slots().get(flow.slot.0 as usize);
            let packets = slot.map_or(0, |slot| slot.packets().load());
            if packets != flow.packets {
                (flow.packets, flow.since) = (packets, now);
            }
            if now.duration_since(flow.since) >= Duration::from_secs(policy.idle.into()) {
                // If it can not be released now, it is tried again after as long.
                flow.since = now;
                tasks.push(Task::End(flow.slot));
            } else if let Some(lease) = self.leases.allotter().lease_at(flow.slot)
                && lease.expires.saturating_sub(boot) < u64::from(lease.lifetime) * 500
            {
                tasks.push(Task::Renew(lease.key.clone(), lease.port, None));
            }
        }
        self.flagged.look = now + self.look_interval();
        self.submit_quietly(tasks);
    }

    fn look_interval(&self) -> Duration {
        let idle = self.ports.iter().filter_map(|(number, _)| policy(&self.ports, number)).map(|policy| policy.idle);
        let least = Duration::from_secs(idle.min().unwrap_or(u32::MAX).into());
        (least / LOOKS).clamp(LOOK_MIN, LOOK_MAX)
    }

    /// Does something with leases; what fails is tried again by the next look.
    fn submit_quietly(&mut self, tasks: Vec<Task>) {
        if tasks.is_empty() {
            return;
        }
        let done: Done = Box::new(|results, _, _| {
            for failure in results.iter().filter_map(|result| result.as_ref().err()) {
                tracing::debug!("a flagged flow was neither renewed nor released: {failure}");
            }
        });
        self.leases.submit(Transaction { tasks, done });
    }
}

/// The tuple that a lease of a flagged flow is for; nothing for other leases.
pub fn tuple_of(key: &LeaseKey) -> Option<Tuple> {
    let octets = key.client.0.strip_prefix(CLIENT)?;
    (key.iaid == 0).then(|| octets.try_into().ok().map(Tuple::from_octets))?
}

/// How the clients of flagged flows begin; the octets of the tuple follow. Hosts must not take such a name.
const CLIENT: &[u8] = b"flag:";

fn key_of(tuple: &Tuple) -> LeaseKey {
    LeaseKey { client: ClientId([CLIENT, &tuple.to_octets()].concat()), iaid: 0 }
}

fn address_of(lease: &Lease, tables: &Tables) -> Option<u64> {
    lease.addresses(tables.block()).next().map(|address| address.mac().to_u64())
}

/// What the flows of flagged packets that come in by a port are given, if it reads the flag.
fn policy(ports: &Ports, port: PortId) -> Option<FlaggedPolicy> {
    ports.flag(port).filter(|flag| flag.role == FlagRole::Read).map(|flag| flag.policy)
}

/// Whether a flow may lead to a destination at all: to one host, beyond the link that the packet came by.
fn leads_to_one_host(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local()),
    }
}

/// Whether a flow can carry packets with this route: through the switch, from port to port. What the switch itself is meant
/// to receive, what it must answer, and what it sends by tunnels and other interfaces than ports, only Linux can handle.
fn can_flow(answer: Answer, ports: &Ports) -> bool {
    match answer {
        Answer::Found(host) => ports.of_ifindex(host.interface).is_some(),
        Answer::Pending | Answer::Unreachable(Reason::NoAnswer { .. } | Reason::InterfaceDown { .. }) => true,
        Answer::Unreachable(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_lease_says_its_tuple() {
        let tuple = Tuple { source: [7; 16], version: 6, protocol: 17, ingress: [0, 3], ..Tuple::default() };
        let key = key_of(&tuple);
        assert_eq!(tuple_of(&key), Some(tuple));
        assert_eq!(tuple_of(&LeaseKey { iaid: 1, ..key.clone() }), None);
        for client in [&b"flag:"[..], &b"local:flag:"[..], &[key.client.0.as_slice(), b"0"].concat()] {
            assert_eq!(tuple_of(&LeaseKey { client: ClientId(client.to_vec()), iaid: 0 }), None);
        }
    }

    #[test]
    fn what_a_host_says_to_its_link_leads_to_no_host() {
        let leads = |text: &str| leads_to_one_host(text.parse().expect("an address"));
        for link in ["224.0.0.251", "255.255.255.255", "169.254.0.1", "0.0.0.0", "ff02::1", "fe80::1", "::"] {
            assert!(!leads(link), "{link}");
        }
        assert!(leads("10.2.0.2") && leads("2001:db8::1"));
    }
}
