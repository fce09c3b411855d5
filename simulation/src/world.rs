//! Everything that there is, and time.
//!
//! A frame is under way for at most 4 s on each of at most five links, and waits for at most 1 s in each of at most four
//! switches. With the time by which a client knows late when its lease ends, that is less than the quarantine of an address,
//! as it has to be.

use crate::host::{Host, mac_of};
use crate::ledger::{Broken, Invariant, Ledger};
use crate::network::{Faults, Frame, Network, Node, Payload, Place};
use crate::switch::{Output, Port, Switch};
use crate::trace::Trace;
use crate::{Bug, Counts};
use fastrand::Rng;
use flowlane_wire::{Block, Mac};
use std::collections::{BTreeMap, VecDeque};

/// Hosts, switches, links and what is under way. Times are milliseconds.
pub struct World {
    /// What has happened.
    pub trace: Trace,
    /// How often what has happened.
    pub counts: Counts,
    /// The time.
    pub now: u64,
    hosts: Vec<Host>,
    switches: Vec<Switch>,
    network: Network,
    faults: Faults,
    /// The ports on the shortest ways, by switch and host.
    routes: Vec<Vec<u16>>,
    ledger: Ledger,
    /// What is to come, by time and number.
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    next_frame: u64,
    /// How long it is from one thing that people do to the next, at most.
    pace: u64,
    random: Rng,
}

/// What is to come.
enum Event {
    /// Something arrives at the end of a link.
    Arrival(Place, Payload),
    /// Somebody does something, or something breaks.
    Deed,
    /// A full disk has room again.
    Room(usize),
}

/// Whose turn it is.
enum Turn {
    Event((u64, u64)),
    Host(usize),
    Switch(usize),
}

impl World {
    /// A network that the seed chooses: one to four switches in a row, others of them linked or not, each with one to three
    /// hosts.
    pub fn new(seed: u64, bug: Option<Bug>, trace: Trace) -> Self {
        let mut random = Rng::with_seed(seed);
        let count = random.usize(1..=4);
        let homes: Vec<usize> =
            (0..count).flat_map(|switch| vec![switch; random.usize(if count == 1 { 2..=3 } else { 1..=3 })]).collect();
        let pairs = (1..count).flat_map(|b| (0..b).map(move |a| (a, b)));
        let links: Vec<(usize, usize)> = pairs.filter(|(a, b)| a + 1 == *b || random.bool()).collect();
        let mut network = Network::default();
        let neighbours = plug(&mut network, count, &homes, &links);
        let routes: Vec<Vec<u16>> = (0..count).map(|switch| routes(switch, &neighbours, homes.len())).collect();
        let mut switches = Vec::new();
        for (number, ports) in neighbours.iter().enumerate() {
            let block = block(number, &mut random);
            switches.push(Switch::new(number, block, ports.clone(), routes[number].clone(), bug, random.u64(..)));
        }
        let hosts = (0..homes.len()).map(|number| Host::new(number, random.u64(..), 0)).collect();
        let often = |random: &mut Rng| *random.choice(&[0, 5, 20, 100]).unwrap_or(&0);
        let faults = Faults { lose: often(&mut random), duplicate: often(&mut random), delay: often(&mut random) };
        let mut world = Self {
            trace,
            counts: Counts { hosts: homes.len() as u64, switches: count as u64, ..Counts::default() },
            now: 0,
            hosts,
            switches,
            network,
            faults,
            routes,
            ledger: Ledger::default(),
            events: BTreeMap::new(),
            next_event: 0,
            next_frame: 0,
            pace: random.u64(100..=1_500),
            random,
        };
        world.trace.note(0, format_args!("{count} switches, hosts at {homes:?}, links {links:?}, {faults:?}"));
        world.schedule(0, Event::Deed);
        world
    }

    /// The next thing happens, and all invariants are checked.
    ///
    /// # Errors
    /// [`Broken`]: one does not hold.
    pub fn step(&mut self) -> Result<(), Broken> {
        let (at, turn) = self.next();
        self.now = self.now.max(at);
        let now = self.now;
        match turn {
            Turn::Host(number) => self.hosts[number].advance(now),
            Turn::Switch(number) => self.switches[number].advance(now).map_err(unreadable(number))?,
            Turn::Event(key) => match self.events.remove(&key) {
                Some(Event::Arrival(place, payload)) => self.arrive(place, payload)?,
                Some(Event::Room(number)) => self.switches[number].set_disk_full(None),
                Some(Event::Deed) => {
                    self.deed();
                    let pause = self.random.u64(1..=self.pace);
                    self.schedule(now + pause, Event::Deed);
                }
                None => {}
            },
        }
        self.settle()?;
        self.ledger.check(&self.switches, now)?;
        self.counts.leases = self.ledger.promised;
        Ok(())
    }

    fn next(&self) -> (u64, Turn) {
        let event = self.events.keys().next().map(|key| (key.0, Turn::Event(*key)));
        let host = |(number, host): (usize, &Host)| host.deadline().map(|at| (at, Turn::Host(number)));
        let switch = |(number, switch): (usize, &Switch)| switch.deadline().map(|at| (at, Turn::Switch(number)));
        let hosts = self.hosts.iter().enumerate().filter_map(host);
        let switches = self.switches.iter().enumerate().filter_map(switch);
        // What is due already has had its turn at this time: it waits for the next millisecond.
        let nodes = hosts.chain(switches).map(|(at, turn)| (at.max(self.now + 1), turn));
        let first = event.into_iter().chain(nodes).min_by_key(|(at, _)| *at);
        first.unwrap_or((self.now, Turn::Event((u64::MAX, 0))))
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    fn arrive(&mut self, place: Place, payload: Payload) -> Result<(), Broken> {
        let now = self.now;
        match (place.node, payload) {
            (Node::Switch(number), Payload::Frame(frame)) => self.switches[number].arrive(place.port, frame, now),
            (Node::Switch(number), Payload::Dhcp6(message)) => {
                self.switches[number].receive(place.port, &message, now);
            }
            (Node::Host(number), Payload::Frame(frame)) => {
                self.trace.note(now, format_args!("frame {} comes to host {number}", frame.number));
                self.counts.frames_delivered += 1;
                self.ledger.delivered(number, &frame)?;
            }
            (Node::Host(number), Payload::Dhcp6(message)) if !message.to_servers => {
                self.hosts[number].receive(&message, now);
            }
            (Node::Host(_), Payload::Dhcp6(_)) => {}
        }
        Ok(())
    }

    /// Carries out what hosts and switches want, until they want nothing more.
    fn settle(&mut self) -> Result<(), Broken> {
        for number in 0..self.hosts.len() {
            for payload in std::mem::take(&mut self.hosts[number].outbox) {
                self.send(self.hosts[number].place, &payload);
            }
        }
        for number in 0..self.switches.len() {
            for output in std::mem::take(&mut self.switches[number].outbox) {
                self.output(number, output)?;
            }
        }
        Ok(())
    }

    fn output(&mut self, number: usize, output: Output) -> Result<(), Broken> {
        let now = self.now;
        match output {
            Output::Dhcp6(port, message) => {
                if !message.to_servers {
                    self.ledger.answered(number, port, &message, now)?;
                }
                self.send(self.switches[number].place(port), &Payload::Dhcp6(message));
            }
            Output::Forward { ingress, egress, address, mut frame } => {
                let Frame { number: of, .. } = frame;
                self.trace.note(now, format_args!("frame {of}: switch {number}, {address}, {ingress} to {egress}"));
                self.counts.frames_forwarded += 1;
                self.ledger.forwarded(number, ingress, address, &frame)?;
                frame.crossed.push(number);
                self.send(self.switches[number].place(egress), &Payload::Frame(frame));
            }
            Output::Dropped(frame, end) => {
                self.trace.note(now, format_args!("frame {frame}: switch {number} drops it, {end}"));
                self.counts.frames_dropped += 1;
            }
            Output::Committed(well) => {
                self.trace
                    .note(now, format_args!("switch {number}: commit ends {}", if well { "well" } else { "badly" }));
                self.counts.commits += u64::from(well);
                self.counts.commits_failed += u64::from(!well);
            }
            Output::Closed(key, address, quarantine) => {
                self.trace.note(now, format_args!("switch {number}: {address} is closed"));
                self.counts.closed += 1;
                self.ledger.closed(number, key, address, quarantine, now);
            }
            Output::NotClosed(key) => self.ledger.not_closed(number, key),
            Output::Started(leases) => {
                self.trace.note(now, format_args!("switch {number} starts with {} leases", leases.len()));
                self.ledger.started(number, leases, now)?;
            }
        }
        Ok(())
    }

    /// Puts something on a link.
    fn send(&mut self, from: Place, payload: &Payload) {
        let Some(to) = self.network.peer(from) else { return };
        if let Payload::Dhcp6(message) = payload {
            let (kind, length) = (message.payload.first().copied().unwrap_or(0), message.payload.len());
            self.trace.note(self.now, format_args!("{from}: DHCPv6 message {kind} of {length} octets"));
            self.counts.messages += 1;
            if message.to_servers {
                self.ledger.asked(message, self.now);
            }
        }
        let arrivals = self.network.arrivals(from, self.faults, self.now, &mut self.random);
        self.counts.lost += u64::from(arrivals.is_empty());
        self.counts.duplicated += arrivals.len().saturating_sub(1) as u64;
        for at in arrivals {
            self.schedule(at, Event::Arrival(to, payload.clone()));
        }
    }

    /// Somebody does something, or something breaks.
    fn deed(&mut self) {
        let host = self.random.usize(0..self.hosts.len());
        let switch = self.random.usize(0..self.switches.len());
        match self.random.u32(0..100) {
            0..62 => self.host_sends(host),
            62..65 => {
                self.note(format_args!("host {host}: the run ends, and another begins"));
                self.hosts[host].next_run(self.now);
            }
            65..72 => self.host_forges(host),
            72..76 => self.operator_closes(switch),
            76..79 => self.routes_change(),
            79..82 => self.process_is_killed(switch),
            82..84 => self.power_fails(switch),
            84..87 => self.disk_fills(switch),
            87..90 => self.wall_clock_is_set(switch),
            90..92 => {
                self.note(format_args!("host {host} crashes"));
                self.counts.host_crashes += 1;
                self.hosts[host].crash(self.now);
            }
            92..94 => self.link_is_cut(),
            94..96 => {
                if self.hosts[host].decline(self.now) {
                    self.note(format_args!("host {host} declines a lease"));
                }
            }
            _ => self.faults_change(),
        }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    fn host_sends(&mut self, host: usize) {
        // Mostly to the same two others, so that flows live on.
        let others = self.hosts.len() - 1;
        let distance = if self.random.u8(0..4) == 0 { others } else { others.min(2) };
        let to = (host + self.random.usize(1..=distance)) % self.hosts.len();
        for _ in 0..self.random.u32(1..=3) {
            let number = self.next_frame;
            let place = self.hosts[host].place;
            let Some(frame) = self.hosts[host].send(to, number, self.now) else {
                return self.note(format_args!("host {host} wants a flow to host {to}"));
            };
            self.note(format_args!("host {host} sends frame {number} to host {to}"));
            self.send_frame(place, frame);
        }
    }

    /// A host sends to a flow address that is not its own, or to any.
    fn host_forges(&mut self, host: usize) {
        let Some(peer) = self.network.peer(self.hosts[host].place) else { return };
        let Node::Switch(switch) = peer.node else { return };
        let block = self.switches[switch].block();
        let others: Vec<Mac> = self.switches[switch].leased().into_iter().map(|(address, _)| address).collect();
        let any =
            Mac::from_u64(block.prefix().to_u64() | u64::from(self.random.u32(0..1 << (48 - block.prefix_len()))));
        let address = self.random.choice(others).unwrap_or(any);
        let (to, number) = (self.random.usize(0..self.hosts.len()), self.next_frame);
        let frame = self.hosts[host].forge(address, to, number);
        self.note(format_args!("host {host} forges frame {number} with {address}"));
        self.counts.frames_forged += 1;
        self.send_frame(self.hosts[host].place, frame);
    }

    fn send_frame(&mut self, from: Place, frame: Frame) {
        self.next_frame += 1;
        self.counts.frames_sent += 1;
        self.send(from, &Payload::Frame(frame));
    }

    fn operator_closes(&mut self, switch: usize) {
        let leased = self.switches[switch].leased();
        let Some((address, _)) = self.random.choice(leased) else { return };
        if let Some(key) = self.switches[switch].close(address) {
            self.note(format_args!("switch {switch}: {address} is to be closed"));
            self.ledger.closes(switch, key, self.now);
        }
    }

    /// Routes to a host change: of some switches to any neighbour, however wrong, or back; or so that they make a loop.
    fn routes_change(&mut self) {
        let to = self.random.usize(0..self.hosts.len());
        let makes_loop = self.random.u8(0..4) == 0;
        for switch in 0..self.switches.len() {
            let next = Node::Switch((switch + 1) % self.switches.len());
            let between = self.switch_ports(switch);
            let port = match between.iter().find(|(_, node)| *node == next).filter(|_| makes_loop) {
                Some((port, _)) => Some(*port),
                None => {
                    let ports = between.iter().map(|(port, _)| *port).chain([self.routes[switch][to]]);
                    self.random.choice(ports.collect::<Vec<u16>>()).filter(|_| self.random.bool())
                }
            };
            if let Some(port) = port {
                self.note(format_args!("switch {switch}: the route to host {to} is by port {port}"));
                self.counts.route_changes += 1;
                self.switches[switch].set_route(to, port, self.now);
            }
        }
    }

    /// The ports of a switch that lead to other switches.
    fn switch_ports(&self, switch: usize) -> Vec<(u16, Node)> {
        let of_switch = self.network.places().filter(|place| place.node == Node::Switch(switch));
        let peers = of_switch.filter_map(|place| Some((place.port, self.network.peer(place)?.node)));
        peers.filter(|(_, node)| matches!(node, Node::Switch(_))).collect()
    }

    fn process_is_killed(&mut self, switch: usize) {
        if self.switches[switch].is_up() {
            let back = self.now + self.random.u64(50..=3_000);
            self.note(format_args!("switch {switch} is killed, back at {back}"));
            self.counts.kills += 1;
            self.switches[switch].kill(self.now, back);
        }
    }

    fn power_fails(&mut self, switch: usize) {
        if self.switches[switch].is_up() {
            let back = self.now + self.random.u64(2_000..=15_000);
            self.note(format_args!("switch {switch} loses power, back at {back}"));
            self.counts.power_cuts += 1;
            self.switches[switch].cut_power(self.now, back);
        }
    }

    fn disk_fills(&mut self, switch: usize) {
        let (operations, room) = (self.random.u32(0..12), self.now + self.random.u64(500..=5_000));
        self.note(format_args!("switch {switch}: the disk is full after {operations} operations, until {room}"));
        self.counts.full_disks += 1;
        self.switches[switch].set_disk_full(Some(operations));
        self.schedule(room, Event::Room(switch));
    }

    fn wall_clock_is_set(&mut self, switch: usize) {
        const YEAR: i64 = 365 * 24 * 3_600_000;
        let most = *self.random.choice(&[1_000, 20_000, 3_600_000, 10 * YEAR]).unwrap_or(&0);
        let by = self.random.i64(-most..=most);
        self.note(format_args!("switch {switch}: the wall clock is set by {by} ms"));
        self.counts.clock_jumps += 1;
        self.switches[switch].set_wall_clock(by);
    }

    fn link_is_cut(&mut self) {
        let places: Vec<Place> = self.network.places().collect();
        let until = self.now + self.random.u64(100..=10_000);
        if let Some(place) = self.random.choice(places) {
            self.note(format_args!("{place}: the link is cut until {until}"));
            self.counts.links_cut += 1;
            self.network.cut(place, until);
        }
    }

    fn faults_change(&mut self) {
        let often = |random: &mut Rng| *random.choice(&[0, 5, 20, 100, 300]).unwrap_or(&0);
        let (lose, duplicate, delay) = (often(&mut self.random), often(&mut self.random), often(&mut self.random));
        let faults = Faults { lose, duplicate, delay };
        self.note(format_args!("links: {faults:?}"));
        self.faults = faults;
    }
}

/// Plugs everything together: the ports of each switch, hosts first.
fn plug(network: &mut Network, count: usize, homes: &[usize], links: &[(usize, usize)]) -> Vec<Vec<Port>> {
    let mut ports: Vec<Vec<Port>> = vec![Vec::new(); count];
    let own = |switch: usize, port: usize| Mac([2, 0, 0, 0, switch as u8, port as u8]);
    for (host, switch) in homes.iter().enumerate() {
        let number = ports[*switch].len() + 1;
        ports[*switch].push(Port { own: own(*switch, number), node: Node::Host(host), mac: mac_of(host) });
        let place = Place { node: Node::Switch(*switch), port: number as u16 };
        network.connect(place, Place { node: Node::Host(host), port: 1 });
    }
    for (a, b) in links {
        let (at_a, at_b) = (ports[*a].len() + 1, ports[*b].len() + 1);
        ports[*a].push(Port { own: own(*a, at_a), node: Node::Switch(*b), mac: own(*b, at_b) });
        ports[*b].push(Port { own: own(*b, at_b), node: Node::Switch(*a), mac: own(*a, at_a) });
        let place = |switch: usize, port: usize| Place { node: Node::Switch(switch), port: port as u16 };
        network.connect(place(*a, at_a), place(*b, at_b));
    }
    ports
}

/// The ports of a switch on the shortest ways to all hosts.
fn routes(from: usize, ports: &[Vec<Port>], hosts: usize) -> Vec<u16> {
    let mut routes = vec![0; hosts];
    let mut seen = vec![false; ports.len()];
    let mut reached = VecDeque::from([(from, None)]);
    while let Some((switch, by)) = reached.pop_front() {
        if std::mem::replace(&mut seen[switch], true) {
            continue;
        }
        for (number, port) in (1..).zip(&ports[switch]) {
            let by = by.unwrap_or(number);
            match port.node {
                Node::Host(host) => routes[host] = by,
                Node::Switch(next) => reached.push_back((next, Some(by))),
            }
        }
    }
    routes
}

/// A small block, so that addresses come round again: 8 to 32 slots of 2 to 8 tags.
fn block(switch: usize, random: &mut Rng) -> Block {
    let (slot_bits, tag_bits) = (random.u32(3..=5), random.u32(1..=3));
    let prefix = Mac([0xa2, 0xf1, 0, switch as u8, 0, 0]);
    Block::new(prefix, 48 - slot_bits - tag_bits, 1 << slot_bits).expect("a block that is right for every seed")
}

fn unreadable(switch: usize) -> impl FnOnce(flowlane_store::StoreError) -> Broken {
    move |error| Broken { invariant: Invariant::StoreReadable, text: format!("switch {switch}: {error}") }
}
