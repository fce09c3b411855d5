//! Tables, frames and changes from a seed.

use crate::{Input, is_cut_ip};
use fastrand::Rng;
use flowlane_program::Tables;
use flowlane_tables::{NextHop, PENDING_LIMIT, PortFlags, Resolution};
use flowlane_vectors::{
    Flow, Lease, Meter, Port, Setup, block, flow_address,
    frames::{ethernet, ethertype, ipv4, ipv6, tcp, udp},
};
use flowlane_wire::{Mac, PortId, Restore};

/// Ports of a generated switch: 1 to this.
const PORTS: u16 = 7;

/// Makes tables, and then frames and changes that go with them, from a seed.
#[derive(Debug)]
pub struct Generator {
    random: Rng,
    flows: Vec<Flow>,
    ports: Vec<Port>,
}

/// A change of the tables while frames come in.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A port is set anew.
    Port(Port),
    /// The flow of a slot goes elsewhere.
    Next(usize, Resolution),
    /// The flow of a slot has another backup.
    Backup(usize, Option<NextHop>),
    /// A slot becomes free.
    Remove(usize),
}

impl Change {
    /// Makes the change.
    pub fn apply(&self, tables: &Tables) {
        match *self {
            Self::Port(port) => {
                let entry = &tables.ports()[usize::from(port.id.0)];
                entry.set(entry.ifindex(), port.mtu, port.mac, port.flags);
            }
            Self::Next(slot, next) => tables.slots()[slot].set_next(next),
            Self::Backup(slot, backup) => tables.slots()[slot].set_backup(backup),
            Self::Remove(slot) => tables.slots()[slot].remove(),
        }
    }
}

impl Generator {
    /// One that has made nothing yet.
    pub fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), flows: Vec::new(), ports: Vec::new() }
    }

    /// Tables, to which all that follows goes.
    pub fn setup(&mut self) -> Setup {
        self.ports = (1..=PORTS).map(|id| self.port(PortId(id))).collect();
        self.flows = (0..48).map(|number| self.flow(number * 5)).collect();
        Setup { ports: self.ports.clone(), flows: self.flows.clone(), ..Setup::default() }
    }

    /// Now and then a change.
    pub fn change(&mut self) -> Option<Change> {
        let slot = usize::from(self.random.u8(0..48) * 5);
        match self.random.u8(..) {
            0..=3 => {
                let id = PortId(self.random.u16(1..=PORTS));
                let port = self.port(id);
                Some(Change::Port(port))
            }
            4..=7 => Some(Change::Next(slot, self.resolution())),
            8..=9 => Some(Change::Backup(slot, self.backup())),
            10 => Some(Change::Remove(slot)),
            _ => None,
        }
    }

    /// A frame that any executor can meet, and any test run takes.
    pub fn plain(&mut self) -> Input {
        let longest = if self.random.u8(..) < 8 { 3_300 } else { 1_700 };
        self.whole(longest, 0)
    }

    /// A frame that often ends where it should not.
    pub fn cut(&mut self) -> Input {
        let mut input = self.input(1_700, 0);
        if self.random.bool() {
            input.octets.truncate(self.random.usize(14..=input.octets.len().min(90)));
        }
        input
    }

    /// A frame of up to 9,216 octets.
    pub fn jumbo(&mut self) -> Input {
        self.input(9_150, 0)
    }

    /// A frame that may be a super-packet.
    pub fn super_packet(&mut self) -> Input {
        let gso_size = if self.random.bool() { self.random.u32(1..1_600) } else { 0 };
        self.whole(3_300, gso_size)
    }

    fn whole(&mut self, longest: usize, gso_size: u32) -> Input {
        loop {
            let input = self.input(longest, gso_size);
            if !is_cut_ip(&input.octets) {
                return input;
            }
        }
    }

    fn input(&mut self, longest: usize, gso_size: u32) -> Input {
        let octets = self.frame(longest);
        let port_of_flow =
            self.flows.iter().find(|flow| octets.starts_with(&flow.address.mac().0)).map(|flow| flow.port);
        let any = PortId(self.random.u16(1..=PORTS + 1));
        let ingress = port_of_flow.filter(|_| self.random.u8(..) < 230).unwrap_or(any);
        Input { ingress, octets, gso_size }
    }

    fn port(&mut self, id: PortId) -> Port {
        let mut flags = PortFlags::default();
        if self.random.u8(..) < 210 {
            flags = flags.with(PortFlags::UP);
        }
        if self.random.u8(..) < 60 {
            flags = flags.with(PortFlags::OWN_SOURCE);
        }
        let mtu = *self.random.choice(&[68, 576, 1_280, 1_500, 1_500, 1_500, 9_000]).expect("a choice");
        Port { id, mac: Mac([2, 0, 0, 0, 1, id.0 as u8]), mtu, flags, flag: None, asking: 0 }
    }

    fn flow(&mut self, slot: u8) -> Flow {
        let tag = if self.random.bool() { 0 } else { self.random.u32(..) };
        Flow {
            address: flow_address(tag, slot),
            port: PortId(self.random.u16(1..=PORTS)),
            lease: *self.random.choice(&[Lease::Never, Lease::Never, Lease::Future, Lease::Past]).expect("a choice"),
            next: self.resolution(),
            backup: self.backup(),
            meter: *self
                .random
                .choice(&[
                    Meter::Unlimited,
                    Meter::Unlimited,
                    Meter::Wide,
                    Meter::Wide,
                    Meter::Narrow,
                    Meter::Exhausted,
                ])
                .expect("a choice"),
            restore: Restore::Keep,
        }
    }

    fn resolution(&mut self) -> Resolution {
        match self.random.u8(..) {
            0..=15 => Resolution::Pending(self.random.u32(0..=PENDING_LIMIT)),
            16..=19 => Resolution::Unreachable,
            _ => Resolution::Resolved(self.hop()),
        }
    }

    fn backup(&mut self) -> Option<NextHop> {
        self.random.bool().then(|| self.hop())
    }

    fn hop(&mut self) -> NextHop {
        let port = if self.random.u8(..) < 250 { self.random.u16(1..=PORTS) } else { self.random.u16(1..0x8000) };
        // A port number that is no port's has no device either.
        let port = if (PORTS + 1..16).contains(&port) { 1 } else { port };
        NextHop { mac: self.mac(), port: PortId(port), routed: self.random.bool() }
    }

    fn mac(&mut self) -> Mac {
        let mut octets = [0; 6];
        self.random.fill(&mut octets);
        Mac(octets)
    }

    /// An address of a flow, of none, of a host.
    fn address(&mut self) -> Mac {
        match self.random.u8(..) {
            0..=150 => self.random.choice(&self.flows).expect("flows").address.mac(),
            151..=160 => flow_address(self.random.u32(..), self.random.u8(..)).mac(),
            161..=165 => block().prefix(),
            _ => self.mac(),
        }
    }

    fn frame(&mut self, longest: usize) -> Vec<u8> {
        let (destination, source) = (self.address(), if self.random.u8(..) < 60 { self.address() } else { self.mac() });
        let tags = self.tags();
        let (ethertype, payload) = self.payload(longest);
        let mut frame = ethernet(destination, source, &tags, ethertype, &payload);
        if self.random.u8(..) < 30 {
            frame.truncate(self.random.usize(14..=frame.len().min(90)));
        }
        if self.random.u8(..) < 30 {
            let place = self.random.usize(12..frame.len().clamp(13, 80));
            frame[place] = self.random.u8(..);
        }
        frame
    }

    fn tags(&mut self) -> Vec<(u16, u16)> {
        let number = match self.random.u8(..) {
            0..=150 => 0,
            151..=200 => 1,
            201..=230 => 2,
            231..=245 => 3,
            _ => 4,
        };
        let protocols = [ethertype::CUSTOMER, ethertype::SERVICE];
        (0..number).map(|_| (*self.random.choice(&protocols).expect("a choice"), self.random.u16(..))).collect()
    }

    fn payload(&mut self, longest: usize) -> (u16, Vec<u8>) {
        let len = match self.random.u8(..) {
            0..=100 => self.random.usize(0..100),
            // About as large as the usual MTU.
            101..=180 => self.random.usize(1_400..1_510).min(longest),
            _ => self.random.usize(0..longest),
        };
        let mut content = vec![0; len];
        self.random.fill(&mut content);
        let ttl = if self.random.bool() { self.random.u8(0..3) } else { self.random.u8(..) };
        match self.random.u8(..) {
            0..=110 => (ethertype::IPV4, self.version_4(ttl, &content)),
            111..=190 => (ethertype::IPV6, self.version_6(ttl, &content)),
            191..=210 => (ethertype::ARP, content),
            211..=230 => (self.random.u16(..), content),
            _ => (*self.random.choice(&[ethertype::IPV4, ethertype::IPV6]).expect("a choice"), content),
        }
    }

    fn version_4(&mut self, ttl: u8, content: &[u8]) -> Vec<u8> {
        let options = vec![1; 4 * usize::from(self.random.u8(..).saturating_sub(245))];
        let fragment = if self.random.u8(..) < 20 { self.random.u16(..) } else { 0 };
        let (protocol, payload) = self.transport(content);
        let mut packet = ipv4(ttl, protocol, &options, fragment, &payload);
        if self.random.u8(..) < 20 {
            packet[10..12].copy_from_slice(&self.random.u16(..).to_be_bytes());
        }
        if self.random.u8(..) < 8 {
            packet[0] = self.random.u8(..);
        }
        packet
    }

    fn version_6(&mut self, limit: u8, content: &[u8]) -> Vec<u8> {
        let (next, payload) = self.transport(content);
        let mut packet = ipv6(limit, next, &payload);
        if self.random.u8(..) < 8 {
            packet[0] = self.random.u8(..);
        }
        packet
    }

    fn transport(&mut self, content: &[u8]) -> (u8, Vec<u8>) {
        match self.random.u8(..) {
            0..=90 => (6, tcp(4 * usize::from(self.random.u8(0..=10)), content)),
            91..=180 => (17, udp(content)),
            _ => (self.random.u8(..), content.to_vec()),
        }
    }
}
