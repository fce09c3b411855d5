//! Tables from a seed, and what the control path does to them between frames.

use super::step::Step;
use fastrand::Rng;
use flowlane_model::{Block, Flag, Flow, Hop, Mac, Meter, Next, Port, PortNumber, Receiver, Restore, Switch, Tuple};
use flowlane_tables::{ASKING_LIMIT, NEVER, PENDING_LIMIT, RECEIVERS_MAX, Rate};
use flowlane_vectors::{block, flow_address};
use std::{collections::BTreeMap, net::IpAddr};

/// Ports of a generated switch: 1 to this.
pub(super) const PORTS: PortNumber = 7;
/// Groups of a generated switch: 0 to one less than this.
pub(super) const GROUPS: u32 = 12;
/// Flows of a generated switch.
const FLOWS: u8 = 48;
/// From one flow's slot to the next one's.
const SPACING: u8 = 5;
/// Addresses and ports that flagged packets have.
const TUPLES: usize = 60;
/// A second, in sixteenths of a nanosecond.
const SECOND: u64 = 16_000_000_000;

/// A switch, and what comes to it.
pub(super) struct World {
    pub(super) random: Rng,
    /// When it was made, by the monotonic clock.
    pub(super) nanos: u64,
    /// The switch as it must be at this moment.
    pub(super) switch: Switch,
    /// The flow addresses that frames are sent to: those of flows, and of some that have ended.
    addresses: Vec<Mac>,
    /// Whose the flagged packets are.
    tuples: Vec<Tuple>,
    /// Octets to fill frames with.
    pub(super) noise: Vec<u8>,
}

impl World {
    /// The world of a seed, at `nanos` of the monotonic clock.
    pub(super) fn new(seed: u64, nanos: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut noise = vec![0; 1 << 15];
        random.fill(&mut noise);
        let block = Block { prefix: block().prefix().0, bits: block().prefix_len() as usize };
        let switch = Switch { block, ..Switch::default() };
        let mut world = Self { random, nanos, switch, addresses: Vec::new(), tuples: Vec::new(), noise };
        for number in 1..=PORTS {
            let port = world.port(number);
            world.switch.ports.insert(number, port);
        }
        for number in 0..GROUPS {
            let group = world.group();
            world.switch.groups.insert(number, group);
        }
        for slot in 0..FLOWS {
            let (address, flow) = (world.flow_address(slot * 5), world.flow());
            world.addresses.push(address);
            world.switch.flows.insert(address, flow);
        }
        for _ in 0..TUPLES {
            let tuple = world.tuple();
            world.tuples.push(tuple);
            if let Some(answer) = world.answer(tuple) {
                world.switch.tuples.insert(tuple, answer);
            }
        }
        world
    }

    /// What the control path does next.
    pub(super) fn step(&mut self) -> Step {
        let place = self.random.usize(0..self.addresses.len());
        let flow = self.addresses[place];
        let group = self.random.u32(0..GROUPS);
        match self.random.u8(0..100) {
            0..=9 => {
                let number = self.random.u16(1..=PORTS);
                Step::Port(number, self.port(number))
            }
            10..=19 => Step::Withdraw(self.random.u16(1..=PORTS)),
            20..=44 => Step::Next(flow, self.next()),
            45..=50 => Step::Backup(flow, self.backup()),
            51..=58 => Step::Meter(flow, self.meter()),
            59..=62 => Step::Restore(flow, self.restore()),
            63..=66 => Step::Lease(flow, self.lease()),
            67 => Step::Remove(flow),
            68..=72 => {
                let address = self.flow_address(place as u8 * SPACING);
                self.addresses[place] = address;
                Step::Install(address, self.flow())
            }
            73..=80 => Step::Put(group, self.random.usize(0..RECEIVERS_MAX), self.hop()),
            81..=84 => Step::Redirect(group, self.receiver(group), self.hop()),
            85..=91 => Step::Clear(group, self.receiver(group)),
            _ => {
                let tuple = pick(&mut self.random, &self.tuples);
                Step::Tuple(tuple, self.answer(tuple))
            }
        }
    }

    /// Whether something happens with this chance in 256.
    pub(super) fn chance(&mut self, of_256: u8) -> bool {
        self.random.u8(..) < of_256
    }

    /// One of some.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        pick(&mut self.random, choices)
    }

    /// Whose a flagged packet is.
    pub(super) fn any_tuple(&mut self) -> Tuple {
        pick(&mut self.random, &self.tuples)
    }

    /// A flow address that is a flow's, or was not long ago.
    pub(super) fn any_address(&mut self) -> Mac {
        pick(&mut self.random, &self.addresses)
    }

    /// A host's address.
    pub(super) fn mac(&mut self) -> Mac {
        let mut octets = [0; 6];
        self.random.fill(&mut octets);
        octets
    }

    fn port(&mut self, number: PortNumber) -> Port {
        let flags = [None, Some((3, 3)), Some((3, 3)), Some((3, 3)), Some((0x3f, 46)), Some((1, 0))];
        Port {
            mac: [2, 0, 0, 0, 1, number as u8],
            mtu: self.one_of(&[68, 576, 1_280, 1_500, 1_500, 1_500, 1_500, 3_000, 9_000]),
            up: self.chance(235),
            own_source: self.chance(50),
            flag: self.one_of(&flags).map(|(mask, value)| Flag { mask, value }),
            marks: self.chance(25),
            no_new_flows: self.chance(30),
            asking: if self.chance(100) { ASKING_LIMIT - self.random.u64(0..4) } else { self.random.u64(0..200) },
        }
    }

    fn group(&mut self) -> BTreeMap<usize, Receiver> {
        let receivers = self.one_of(&[0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 10, 13, RECEIVERS_MAX]);
        let behind = if receivers == RECEIVERS_MAX || self.chance(200) { receivers } else { RECEIVERS_MAX };
        let mut places: Vec<usize> = (0..behind).collect();
        self.random.shuffle(&mut places);
        places.into_iter().take(receivers).map(|place| (place, Receiver::new(self.hop()))).collect()
    }

    /// A place of a receiver, if the group has one.
    fn receiver(&mut self, group: u32) -> usize {
        let places: Vec<usize> = self.switch.groups.get(&group).into_iter().flat_map(BTreeMap::keys).copied().collect();
        self.random.choice(&places).copied().unwrap_or(0)
    }

    fn flow_address(&mut self, slot: u8) -> Mac {
        let tag = if self.random.bool() { 0 } else { self.random.u32(..) };
        flow_address(tag, slot).mac().0
    }

    fn flow(&mut self) -> Flow {
        Flow {
            port: self.random.u16(1..=PORTS),
            expires: self.lease(),
            next: self.next(),
            backup: self.backup(),
            meter: self.meter(),
            restore: self.restore(),
            packets: if self.chance(16) { u64::MAX - 1 } else { self.random.u64(0..1_000) },
            bytes: if self.chance(16) { u64::MAX - 1_000 } else { self.random.u64(0..1_000_000) },
        }
    }

    fn lease(&mut self) -> Option<u32> {
        if self.chance(8) { Some(0) } else { self.one_of(&[None, Some(NEVER - 1)]) }
    }

    fn next(&mut self) -> Next {
        match self.random.u8(..) {
            0..=29 => Next::Waiting(self.random.u32(0..=PENDING_LIMIT)),
            30..=39 => Next::Unreachable,
            40..=79 => Next::Group(self.random.u32(0..GROUPS)),
            // A group that there is not.
            80 => Next::Group(u32::from(self.random.u16(..)) + flowlane_tables::GROUPS),
            _ => Next::Hop(self.hop()),
        }
    }

    fn backup(&mut self) -> Option<Hop> {
        self.random.bool().then(|| self.hop())
    }

    fn hop(&mut self) -> Hop {
        // Seldom a port that there is not.
        let port = if self.chance(2) { self.random.u16(16..0x7fff) } else { self.random.u16(1..=PORTS) };
        Hop { mac: self.mac(), port, routed: self.random.bool() }
    }

    /// Buckets whose state does not depend on when exactly a frame comes: they are full again only in some time, and an
    /// octet costs next to nothing, or so much that a second does not matter.
    fn meter(&mut self) -> Option<Meter> {
        let now = self.nanos * 16;
        let (rate, full_at) = match self.random.u8(..) {
            0..=119 => return None,
            120..=189 => (Rate::new(1_000_000_000, 65 * 125_000_000), now + 30 * SECOND),
            190..=233 => (Rate::new(self.random.u64(600..60_000), u64::MAX), now + 30 * SECOND),
            234..=244 => (Rate::new(8_000, 1), 0),
            _ => (Rate::new(1_000_000_000, 65 * 125_000_000), now + 3_600 * SECOND),
        };
        Meter::read(rate, full_at)
    }

    fn restore(&mut self) -> Restore {
        let dscp = self.random.u8(0..64);
        self.one_of(&[Restore::Keep, Restore::Keep, Restore::Clear(3), Restore::Clear(dscp), Restore::Set(dscp)])
    }

    fn tuple(&mut self) -> Tuple {
        let host = self.random.u8(1..4);
        let (source, destination): (IpAddr, IpAddr) = if self.random.bool() {
            ([10, 0, 0, host].into(), [10, 0, 9, 9].into())
        } else {
            let address = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
            (address(u16::from(host)), address(9))
        };
        let protocol = self.one_of(&[6, 6, 6, 17, 17, 17, 33, 132, 136, 1, 58, 50, 59]);
        let has_ports = [6, 17, 33, 132, 136].contains(&protocol) && !self.chance(60);
        let ports = if has_ports { (self.random.u16(..), self.one_of(&[80, 443, 5_000])) } else { (0, 0) };
        Tuple { ingress: self.random.u16(1..=PORTS), source, destination, protocol, ports }
    }

    /// What the control path says of a tuple: mostly a flow that may come in by its port; none as long as it has not
    /// answered.
    fn answer(&mut self, tuple: Tuple) -> Option<Option<Mac>> {
        match self.random.u8(..) {
            0..=79 => None,
            80..=109 => Some(None),
            110..=114 => Some(Some(self.any_address())),
            _ => {
                let flows = self.switch.flows.iter().filter(|(_, flow)| flow.port == tuple.ingress);
                let flows: Vec<Mac> = flows.map(|(address, _)| *address).collect();
                self.random.choice(&flows).map(|flow| Some(*flow))
            }
        }
    }
}

/// One of some, of which there must be one.
fn pick<T: Copy>(random: &mut Rng, choices: &[T]) -> T {
    choices[random.usize(0..choices.len())]
}
