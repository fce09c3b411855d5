//! Frames that come to a generated switch: most belong to a flow, many are not quite right.

use super::world::{PORTS, World};
use flowlane_model::{Arrival, Flag, Mac, PortNumber, Tuple};
use flowlane_vectors::flow_address;
use flowlane_vectors::frames::{ethertype, internet_checksum};
use std::net::IpAddr;

/// The longest frame: no driver's MTU is above 9,216 by much.
const LONGEST: usize = 9_216 + 18;
/// An address of many hosts.
const GROUP: Mac = [0x01, 0x00, 0x5e, 0, 0, 1];
const TAGS: [[u8; 2]; 2] = [ethertype::CUSTOMER.to_be_bytes(), ethertype::SERVICE.to_be_bytes()];

impl World {
    /// A frame that comes in.
    pub(super) fn arrival(&mut self) -> Arrival {
        match self.random.u8(..) {
            0..=164 => self.flows_destination(),
            165..=184 => self.flows_source(),
            185..=239 => self.flagged(),
            _ => self.foreign(),
        }
    }

    /// Its destination is a flow address, and now and then its source as well.
    fn flows_destination(&mut self) -> Arrival {
        let destination = self.address();
        let source = if self.chance(16) { self.address() } else { self.host() };
        self.any(destination, source, destination)
    }

    /// Its source is a flow address.
    fn flows_source(&mut self) -> Arrival {
        let (destination, source) = (self.host(), self.address());
        self.any(destination, source, source)
    }

    /// Neither is.
    fn foreign(&mut self) -> Arrival {
        let (destination, source) = (self.host(), self.host());
        self.any(destination, source, destination)
    }

    /// Between hosts, with one of the tuples that the switch may know, mostly by its port, and mostly with its flag.
    fn flagged(&mut self) -> Arrival {
        let tuple = self.any_tuple();
        let ingress = if self.chance(250) { tuple.ingress } else { self.ingress() };
        let flag = self.switch.port(ingress).flag.unwrap_or(Flag { mask: 3, value: 3 });
        let dscp = self.random.u8(0..64);
        let dscp = if self.chance(230) { dscp & !flag.mask | flag.value } else { dscp };
        let destination = if self.chance(6) { GROUP } else { self.host() };
        let source = self.host();
        let ttl = self.ttl();
        let packet = self.packet(&tuple, dscp, ttl);
        let version = ethertype_of(&tuple);
        self.finish(destination, source, version, packet, ingress)
    }

    /// Anything that may stand in a frame, by the port that the flow of `address` wants, mostly.
    fn any(&mut self, destination: Mac, source: Mac, address: Mac) -> Arrival {
        let wanted = self.switch.flows.get(&address).map(|flow| flow.port);
        let ingress = wanted.filter(|_| self.random.u8(..) < 250).unwrap_or_else(|| self.ingress());
        let (version, packet) = match self.random.u8(..) {
            0..=229 => {
                let tuple = self.any_tuple();
                let (dscp, ttl) = (self.random.u8(0..64), self.ttl());
                (ethertype_of(&tuple), self.packet(&tuple, dscp, ttl))
            }
            230..=239 => (ethertype::ARP, self.content()),
            240..=247 => (self.random.u16(..), self.content()),
            _ => (self.one_of(&[ethertype::IPV4, ethertype::IPV6]), self.content()),
        };
        self.finish(destination, source, version, packet, ingress)
    }

    /// Puts tags before the packet, and spoils a frame now and then.
    fn finish(&mut self, destination: Mac, source: Mac, version: u16, packet: Vec<u8>, ingress: PortNumber) -> Arrival {
        let mut octets = [destination, source].concat();
        for _ in 0..self.one_of(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3]) {
            octets.extend(self.one_of(&TAGS));
            octets.extend(self.random.u16(..).to_be_bytes());
        }
        octets.extend(version.to_be_bytes());
        octets.extend(packet);
        octets.truncate(LONGEST);
        if self.chance(10) {
            octets.truncate(self.random.usize(14..=octets.len().min(110)));
        }
        if self.chance(1) {
            octets.truncate(self.random.usize(0..14));
        }
        if self.chance(10) && octets.len() > 14 {
            let place = self.random.usize(12..octets.len().min(100));
            octets[place] = self.random.u8(..);
        }
        let gso_size = if self.chance(16) { self.random.u32(1..1_600) } else { 0 };
        Arrival { ingress, octets, gso_size, tag_beside: self.chance(6) }
    }

    fn packet(&mut self, tuple: &Tuple, dscp: u8, ttl: u8) -> Vec<u8> {
        let is_fragment = tuple.ports == (0, 0) && self.chance(128) || self.chance(3);
        let transport = self.transport(tuple);
        let traffic_class = dscp << 2 | self.random.u8(0..4);
        match (tuple.source, tuple.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let addresses = [source.octets(), destination.octets()].concat();
                self.version_4((traffic_class, ttl, tuple.protocol), &addresses, is_fragment, &transport)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let addresses = [source.octets(), destination.octets()].concat();
                self.version_6((traffic_class, ttl, tuple.protocol), &addresses, is_fragment, &transport)
            }
            _ => unreachable!("both addresses of a tuple are of one version"),
        }
    }

    /// RFC 791 section 3.1.
    fn version_4(&mut self, fields: (u8, u8, u8), addresses: &[u8], is_fragment: bool, transport: &[u8]) -> Vec<u8> {
        let (traffic_class, ttl, protocol) = fields;
        let options = if self.chance(12) { 4 * self.random.usize(1..=10) } else { 0 };
        let fragment = if is_fragment { self.random.u16(1..0x4000) } else { self.one_of(&[0, 0x4000]) };
        let len = (20 + options + transport.len()) as u16;
        let mut packet = vec![0x45 + (options / 4) as u8, traffic_class];
        packet.extend(len.to_be_bytes());
        packet.extend(self.random.u16(..).to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([ttl, protocol, 0, 0]);
        packet.extend(addresses);
        packet.extend(vec![1; options]);
        let sum = match self.random.u8(..) {
            0..=5 => self.random.u16(..),
            6 => 0xffff,
            7..=10 => self.near_a_carry(&mut packet),
            _ => internet_checksum(&packet),
        };
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(transport);
        packet
    }

    /// Gives an IPv4 header a right checksum near those where sums carry: the identification takes up the difference.
    fn near_a_carry(&mut self, header: &mut [u8]) -> u16 {
        const ONES: u32 = 0xffff;
        let wanted = self.one_of(&[0x0000, 0x00ff, 0xfe00, 0xfefe, 0xfeff, 0xff00, 0xfffe]);
        let identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
        let more = u32::from(internet_checksum(header)) + ONES - u32::from(wanted);
        header[4..6].copy_from_slice(&(((identification + more) % ONES) as u16).to_be_bytes());
        wanted
    }

    /// RFC 8200 section 3, with extension headers.
    fn version_6(&mut self, fields: (u8, u8, u8), addresses: &[u8], is_fragment: bool, transport: &[u8]) -> Vec<u8> {
        let (traffic_class, hop_limit, protocol) = fields;
        let (first, extensions) = self.extensions(protocol, is_fragment);
        let mut packet = vec![0x60 | traffic_class >> 4, traffic_class << 4 | self.random.u8(0..16)];
        packet.extend(self.random.u16(..).to_be_bytes());
        packet.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
        packet.extend([first, hop_limit]);
        packet.extend(addresses);
        packet.extend(extensions);
        packet.extend(transport);
        packet
    }

    /// Extension headers before `protocol`, and the number of the first.
    fn extensions(&mut self, protocol: u8, is_fragment: bool) -> (u8, Vec<u8>) {
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        let mut kinds: Vec<u8> = Vec::new();
        if self.chance(40) {
            let number = self.one_of(&[1, 1, 2, 3, 4, 6, 8, 9, 12]);
            kinds = (0..number).map(|_| self.one_of(&[0, 43, AUTHENTICATION, 60])).collect();
        }
        if is_fragment {
            kinds.insert(self.random.usize(0..=kinds.len()), FRAGMENT);
        }
        let (mut headers, mut next) = (Vec::new(), protocol);
        for kind in kinds.into_iter().rev() {
            let words = if self.chance(220) { self.random.u8(0..4) } else { self.random.u8(..) };
            let (len, field) = match kind {
                FRAGMENT => (8, self.random.u8(..)),
                AUTHENTICATION => (8 + 4 * usize::from(words), words),
                _ => (8 + 8 * usize::from(words), words),
            };
            let mut header = vec![1; len];
            (header[0], header[1]) = (next, field);
            header.extend(headers);
            (headers, next) = (header, kind);
        }
        (next, headers)
    }

    fn transport(&mut self, tuple: &Tuple) -> Vec<u8> {
        let content = self.content();
        let ports = [tuple.ports.0.to_be_bytes(), tuple.ports.1.to_be_bytes()].concat();
        let rest = match tuple.protocol {
            6 => {
                let words = if self.chance(250) { self.random.u8(5..=15) } else { self.random.u8(0..5) };
                let mut rest = vec![0, 0, 0, 1, 0, 0, 0, 2, words << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0];
                rest.extend(vec![1; 4 * usize::from(words.saturating_sub(5))]);
                rest
            }
            17 => [((8 + content.len()) as u16).to_be_bytes(), [0, 0]].concat(),
            33 | 132 | 136 => vec![0; 8],
            _ => return content,
        };
        [ports, rest, content].concat()
    }

    /// Some octets: few, or about as many as fit, or more.
    fn content(&mut self) -> Vec<u8> {
        let len = match self.random.u8(..) {
            0..=159 => self.random.usize(0..100),
            160..=199 => self.random.usize(1_400..1_510),
            200..=250 => self.random.usize(0..1_700),
            251..=254 => self.random.usize(1_500..3_500),
            255 => self.random.usize(3_500..9_150),
        };
        let start = self.random.usize(0..self.noise.len() - len);
        self.noise[start..start + len].to_vec()
    }

    fn ttl(&mut self) -> u8 {
        if self.chance(30) { self.random.u8(0..3) } else { self.random.u8(..) }
    }

    /// The flow address of a flow; seldom of none.
    fn address(&mut self) -> Mac {
        match self.random.u8(..) {
            0..=3 => flow_address(self.random.u32(..), self.random.u8(..)).mac().0,
            _ => self.any_address(),
        }
    }

    fn host(&mut self) -> Mac {
        let mut mac = self.mac();
        if !self.chance(8) {
            mac[0] &= !1;
        }
        mac
    }

    /// Any port, and one that the switch does not have.
    fn ingress(&mut self) -> PortNumber {
        self.random.u16(1..=PORTS + 1)
    }
}

fn ethertype_of(tuple: &Tuple) -> u16 {
    if tuple.source.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 }
}
