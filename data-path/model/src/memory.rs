//! The tables' memory, as the model sees it: every word is read by the layout that `flowlane-tables` documents.

use crate::{Block, Flag, Flow, Hop, Meter, Next, Port, PortNumber, Receiver, Restore, Switch, Tuple};
use flowlane_tables::{Group, NEVER, NextHop, PASS, PortEntry, PortFlags, Rate, Resolution, Slot};
use flowlane_wire::Mac;
use std::{collections::BTreeMap, net::IpAddr};

impl Switch {
    /// What the tables say. Ports that are all zero are left out.
    pub fn read(
        block: flowlane_wire::Block,
        slots: &[Slot],
        ports: &[PortEntry],
        groups: &[Group],
        tuples: impl IntoIterator<Item = (flowlane_tables::Tuple, u64)>,
    ) -> Self {
        Self {
            block: Block { prefix: block.prefix().0, bits: block.prefix_len() as usize },
            flows: slots.iter().filter_map(Flow::read).collect(),
            ports: (0..).zip(ports).map(|(number, entry)| (number, Port::read(entry))).filter(is_set).collect(),
            groups: (0..).zip(groups.iter().map(Receiver::read)).collect(),
            tuples: tuples.into_iter().map(|(tuple, address)| (Tuple::read(&tuple), address_of(address))).collect(),
        }
    }
}

fn is_set((_, port): &(PortNumber, Port)) -> bool {
    *port != Port::default()
}

fn address_of(number: u64) -> Option<crate::Mac> {
    (number != PASS).then(|| Mac::from_u64(number).0)
}

impl Flow {
    /// The flow in a slot, and its address.
    pub fn read(slot: &Slot) -> Option<(crate::Mac, Self)> {
        let flow = slot.flow()?;
        let full_at = slot.full_at().load();
        Some((
            flow.address.0,
            Self {
                port: flow.port.0,
                expires: Some(flow.expires).filter(|tick| *tick != NEVER),
                next: Next::read(flow.next),
                backup: flow.backup.map(Hop::read),
                meter: Meter::read(flow.rate, full_at),
                restore: Restore::read(flow.restore),
                packets: flow.packets,
                bytes: flow.bytes,
            },
        ))
    }
}

impl Next {
    fn read(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Resolved(hop) => Self::Hop(Hop::read(hop)),
            Resolution::Group(group) => Self::Group(group.0),
            Resolution::Pending(frames) => Self::Waiting(frames),
            Resolution::Unreachable => Self::Unreachable,
        }
    }
}

impl Hop {
    fn read(hop: NextHop) -> Self {
        Self { mac: hop.mac.0, port: hop.port.0, routed: hop.routed }
    }
}

impl Meter {
    /// The meter of a rate. Bits 0 to 31 of its word are the mantissa, 32 to 37 the shift, and the rest the burst; zero is
    /// no limit.
    pub fn read(rate: Rate, full_at: u64) -> Option<Self> {
        let word = rate.to_word();
        let meter = Self { mantissa: word as u32, shift: (word >> 32) as u32 % 64, burst: word >> 38, full_at };
        (word != 0).then_some(meter)
    }
}

impl Restore {
    fn read(restore: flowlane_wire::Restore) -> Self {
        match restore {
            flowlane_wire::Restore::Keep => Self::Keep,
            flowlane_wire::Restore::Clear(mask) => Self::Clear(mask),
            flowlane_wire::Restore::Set(dscp) => Self::Set(dscp),
        }
    }
}

impl Port {
    /// The port of an entry.
    pub fn read(entry: &PortEntry) -> Self {
        let flags = entry.flags();
        Self {
            mac: entry.mac().0,
            mtu: entry.mtu(),
            up: flags.has(PortFlags::UP),
            own_source: flags.has(PortFlags::OWN_SOURCE),
            flag: entry.flag().map(|flag| Flag { mask: flag.mask, value: flag.value }),
            marks: flags.has(PortFlags::MARKS),
            no_new_flows: flags.has(PortFlags::NO_NEW_FLOWS),
            asking: entry.asking().load(),
        }
    }
}

impl Receiver {
    /// The receivers of a group, by place.
    pub fn read(group: &Group) -> BTreeMap<usize, Self> {
        let receiver = |(place, receiver): (usize, &flowlane_tables::Receiver)| {
            let counters = (receiver.packets().load(), receiver.bytes().load(), receiver.missed().load());
            let (packets, bytes, missed) = counters;
            Some((place, Self { hop: Hop::read(receiver.hop()?), packets, bytes, missed }))
        };
        group.receivers().iter().enumerate().take(group.places()).filter_map(receiver).collect()
    }
}

impl Tuple {
    /// The tuple as the tables have it.
    pub fn to_table(&self) -> flowlane_tables::Tuple {
        flowlane_tables::Tuple {
            source: octets(self.source),
            destination: octets(self.destination),
            source_port: self.ports.0.to_be_bytes(),
            destination_port: self.ports.1.to_be_bytes(),
            protocol: self.protocol,
            version: if self.source.is_ipv4() { 4 } else { 6 },
            ingress: self.ingress.to_be_bytes(),
        }
    }

    fn read(tuple: &flowlane_tables::Tuple) -> Self {
        Self {
            ingress: tuple.port().0,
            source: tuple.source(),
            destination: tuple.destination(),
            protocol: tuple.protocol,
            ports: (u16::from_be_bytes(tuple.source_port), u16::from_be_bytes(tuple.destination_port)),
        }
    }
}

/// An address of IPv4 stands in the first four octets.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}
