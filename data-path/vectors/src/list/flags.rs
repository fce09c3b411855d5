//! The virtual-circuit flag (claims 23 to 28): added, read, and taken off again.

mod added;
mod headers;
mod read;

use super::{HOST_A, HOST_B, HOST_C, NEXT_SWITCH, flow, hop, routed_hop};
use crate::{
    Flow, Lease, Meter, Port, Setup, Vector, flow_address,
    frames::{ethernet, ethertype, ipv4, payload, readdressed, udp_to, with_tos, with_traffic_class},
};
use flowlane_tables::{ASKING_LIMIT, GroupIndex, PASS, PENDING_LIMIT, PortFlags, Resolution, Tuple};
use flowlane_wire::{Flag, Mac, PortId, Restore};

/// The flag in a traffic class: both low bits of the DSCP.
const FLAG: u8 = 0x0c;
/// Who the senders take for the receiver: their default router, at the switch.
const GATEWAY: Mac = Mac([0x02, 0, 0, 0, 0, 1]);

const CUSTOMER: (u16, u16) = (ethertype::CUSTOMER, 0x2064);
const SERVICE: (u16, u16) = (ethertype::SERVICE, 0x0fff);

/// Ports. Port 1 reads the usual flag, port 2 looks for none.
mod port {
    /// Adds the usual flag.
    pub const MARKS: u16 = 3;
    /// Reads the usual flag as well.
    pub const OTHER: u16 = 4;
    /// Reads another one: `101010`.
    pub const CARRIER: u16 = 6;
    /// Has as many frames that wait for a flow as it may have.
    pub const FULL: u16 = 7;
    /// Adds another one: `101xxx`.
    pub const MARKS_HIGH: u16 = 8;
    /// Takes no new flows.
    pub const NO_NEW: u16 = 9;
}

/// The flows of flagged packets. Port 5000 + n of a UDP datagram over IPv4 is the slot n.
mod slot {
    pub const REAL: u8 = 0x01;
    pub const VIRTUAL: u8 = 0x02;
    pub const SET: u8 = 0x03;
    pub const KEPT: u8 = 0x04;
    pub const ROUTED: u8 = 0x05;
    pub const PENDING: u8 = 0x06;
    pub const QUEUE_FULL: u8 = 0x07;
    pub const UNREACHABLE: u8 = 0x08;
    pub const EXPIRED: u8 = 0x09;
    pub const EXHAUSTED: u8 = 0x0a;
    pub const GROUP: u8 = 0x0b;
    pub const OWN_SOURCE: u8 = 0x0c;
    /// Comes in by port 2.
    pub const OTHER_PORT: u8 = 0x0d;
    pub const BACKUP: u8 = 0x0e;
    pub const DOWN: u8 = 0x0f;
    pub const SAME_PORT: u8 = 0x10;
    pub const METERED: u8 = 0x11;
    pub const CLEARED_WHOLE: u8 = 0x12;
    /// Has a tuple, but no flow.
    pub const FREE: u8 = 0x13;
    /// The tuple has the address of an earlier flow of this slot.
    pub const STALE: u8 = 0x14;
    /// Is left to Linux.
    pub const PASSES: u8 = 0x15;
    /// Has no tuple.
    pub const UNKNOWN: u8 = 0x16;
    /// Flows of other ports than 1.
    pub const CARRIER: u8 = 0x20;
    pub const NO_NEW: u8 = 0x21;
    pub const FULL: u8 = 0x22;
    /// For IPv6, and for what is not UDP.
    pub const VERSION_6: u8 = 0x30;
    pub const OTHERS: u8 = 0x31;
    pub const FRAGMENTS: u8 = 0x32;
    pub const ROUTED_6: u8 = 0x33;
    pub const FRAGMENTS_6: u8 = 0x34;
    pub const OTHERS_6: u8 = 0x35;
    pub const BARE_6: u8 = 0x36;
}

pub(super) fn list(_: &Setup) -> Vec<Vector> {
    let setup = setup();
    [added::list, read::list, headers::list].into_iter().flat_map(|list| list(&setup)).collect()
}

fn setup() -> Setup {
    let groups = vec![vec![Some(hop(HOST_B, 2)), Some(hop(HOST_C, port::MARKS))]];
    Setup { ports: ports(), flows: flows(), groups, tuples: tuples() }
}

fn ports() -> Vec<Port> {
    let (up, usual) = (PortFlags::UP, Some(Flag::DEFAULT));
    let port = |id: u16, flags, flag| Port {
        id: PortId(id),
        mac: Mac([2, 0, 0, 0, 0, id as u8]),
        mtu: 1500,
        flags,
        flag,
        asking: 0,
    };
    vec![
        port(1, up, usual),
        port(2, up, None),
        port(port::MARKS, up.with(PortFlags::MARKS), usual),
        port(port::OTHER, up, usual),
        port(5, up.with(PortFlags::OWN_SOURCE), None),
        port(port::CARRIER, up, Some(Flag { mask: 0x3f, value: 0x2a })),
        Port { asking: ASKING_LIMIT, ..port(port::FULL, up, usual) },
        port(port::MARKS_HIGH, up.with(PortFlags::MARKS), Some(Flag { mask: 0x38, value: 0x28 })),
        port(port::NO_NEW, up.with(PortFlags::NO_NEW_FLOWS), usual),
    ]
}

fn flows() -> Vec<Flow> {
    let to = |slot, next| Flow {
        address: flow_address(0, slot),
        port: PortId(1),
        lease: Lease::Never,
        next,
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Clear(3),
    };
    let goes = |slot, next| to(slot, Resolution::Resolved(next));
    let real = |slot| goes(slot, hop(HOST_B, 2));
    let no_link = 10;
    vec![
        real(slot::REAL),
        Flow { restore: Restore::Keep, ..goes(slot::VIRTUAL, hop(NEXT_SWITCH, 2)) },
        Flow { restore: Restore::Set(46), ..real(slot::SET) },
        Flow { restore: Restore::Keep, ..real(slot::KEPT) },
        goes(slot::ROUTED, routed_hop(2)),
        to(slot::PENDING, Resolution::UNKNOWN),
        to(slot::QUEUE_FULL, Resolution::Pending(PENDING_LIMIT)),
        to(slot::UNREACHABLE, Resolution::Unreachable),
        Flow { lease: Lease::Past, ..real(slot::EXPIRED) },
        Flow { meter: Meter::Exhausted, ..real(slot::EXHAUSTED) },
        to(slot::GROUP, Resolution::Group(GroupIndex(0))),
        goes(slot::OWN_SOURCE, hop(HOST_B, 5)),
        Flow { port: PortId(2), ..goes(slot::OTHER_PORT, hop(HOST_C, port::MARKS)) },
        Flow { backup: Some(hop(HOST_C, port::MARKS)), ..goes(slot::BACKUP, hop(HOST_B, no_link)) },
        goes(slot::DOWN, hop(HOST_B, no_link)),
        goes(slot::SAME_PORT, hop(HOST_B, 1)),
        Flow { meter: Meter::Wide, ..real(slot::METERED) },
        Flow { restore: Restore::Clear(0x3f), ..real(slot::CLEARED_WHOLE) },
        Flow { address: flow_address(2, slot::STALE), ..real(slot::STALE) },
        Flow { port: PortId(port::CARRIER), restore: Restore::Set(0), ..real(slot::CARRIER) },
        Flow { port: PortId(port::NO_NEW), ..real(slot::NO_NEW) },
        Flow { port: PortId(port::FULL), ..real(slot::FULL) },
        real(slot::VERSION_6),
        real(slot::OTHERS),
        real(slot::FRAGMENTS),
        goes(slot::ROUTED_6, routed_hop(2)),
        real(slot::FRAGMENTS_6),
        real(slot::OTHERS_6),
        real(slot::BARE_6),
    ]
}

/// What the control path has answered until now.
fn tuples() -> Vec<(Tuple, u64)> {
    let to = |tuple, slot| (tuple, flow(slot).to_u64());
    let on = |port: u16, tuple| Tuple { ingress: port.to_be_bytes(), ..tuple };
    let udp = |slot: u8| v4(17, 4_000, 5_000 + u16::from(slot));
    let mut tuples: Vec<(Tuple, u64)> = (slot::REAL..slot::PASSES).map(|slot| to(udp(slot), slot)).collect();
    tuples.extend([
        (udp(slot::PASSES), PASS),
        to(on(port::CARRIER, udp(slot::CARRIER)), slot::CARRIER),
        to(on(port::NO_NEW, udp(slot::NO_NEW)), slot::NO_NEW),
        to(on(port::FULL, udp(slot::FULL)), slot::FULL),
        to(v4(17, 0, 0), slot::FRAGMENTS),
        to(v6(17, 4_000, 5_000), slot::VERSION_6),
        to(v6(17, 4_000, 5_001), slot::ROUTED_6),
        to(v6(17, 0, 0), slot::FRAGMENTS_6),
    ]);
    let with_ports = [6, 33, 132, 136];
    tuples.extend(with_ports.map(|protocol| to(v4(protocol, 4_000, 5_000), slot::OTHERS)));
    tuples.extend(with_ports.map(|protocol| to(v6(protocol, 4_000, 5_000), slot::OTHERS_6)));
    tuples.extend([1, 2, 4, 6, 41, 47, 50, 51, 89, 253].map(|protocol| to(v4(protocol, 0, 0), slot::OTHERS)));
    tuples.extend([4, 41, 47, 50, 58, 60, 89, 135].map(|protocol| to(v6(protocol, 0, 0), slot::OTHERS_6)));
    tuples.push(to(v6(59, 0, 0), slot::BARE_6));
    tuples
}

/// Whose the IPv4 packets of this list are, on port 1.
fn v4(protocol: u8, source: u16, destination: u16) -> Tuple {
    let mut tuple = Tuple { version: 4, ..v6(protocol, source, destination) };
    (tuple.source, tuple.destination) = ([0; 16], [0; 16]);
    tuple.source[..4].copy_from_slice(&[10, 0, 0, 1]);
    tuple.destination[..4].copy_from_slice(&[10, 0, 9, 9]);
    tuple
}

/// Whose the IPv6 packets of this list are, on port 1.
fn v6(protocol: u8, source: u16, destination: u16) -> Tuple {
    Tuple {
        source: [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        destination: [0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
        source_port: source.to_be_bytes(),
        destination_port: destination.to_be_bytes(),
        protocol,
        version: 6,
        ingress: [0, 1],
    }
}

/// A datagram from port 4000 to port 5000 + `slot`, with this traffic class.
fn to_slot(slot: u8, class: u8) -> Vec<u8> {
    with_tos(&packet(&ipv4(64, 17, &[], 0, &udp_to(5_000 + u16::from(slot), &payload(24)))), 14, class)
}

/// An IPv4 packet that a host sends to its gateway.
fn packet(packet: &[u8]) -> Vec<u8> {
    ethernet(GATEWAY, HOST_A, &[], ethertype::IPV4, packet)
}

/// An IPv6 packet that a host sends to its gateway, with the flag.
fn packet_6(packet: &[u8]) -> Vec<u8> {
    with_traffic_class(&ethernet(GATEWAY, HOST_A, &[], ethertype::IPV6, packet), 14, FLAG)
}

/// What is sent of an IPv4 packet with options whose flag is cleared, from a flow to the usual receiver.
fn cleared(frame: &[u8], slot: u8) -> Vec<u8> {
    with_tos(&readdressed(frame, HOST_B, flow(slot)), 14, frame[15] & !FLAG)
}

/// The same of an IPv6 packet. The flag is the only thing in its traffic class.
fn cleared_6(frame: &[u8], slot: u8) -> Vec<u8> {
    with_traffic_class(&readdressed(frame, HOST_B, flow(slot)), 14, 0)
}

fn packet_with_class(content: &[u8], class: u8) -> Vec<u8> {
    with_tos(&packet(content), 14, class)
}

/// A flagged packet that goes to the usual receiver, the flag cleared.
fn through(setup: &Setup, name: impl Into<String>, sentence: &str, slot: u8, frame: Vec<u8>) -> Vector {
    let sent = if frame[12] == 0x86 { cleared_6(&frame, slot) } else { cleared(&frame, slot) };
    Vector::new(name, sentence, setup, frame).claims(&[24]).leaves(slot, 2, sent)
}

/// A flagged datagram to a slot's port.
fn new(setup: &Setup, name: &str, sentence: &str, slot: u8) -> Vector {
    Vector::new(name, sentence, setup, to_slot(slot, FLAG))
}
