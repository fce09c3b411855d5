//! The virtual-circuit flag (claims 23 to 28): added, read, and taken off again.

use super::{HOST_A, HOST_B, HOST_C, NEXT_SWITCH, PORT_5, ROUTER, claims::datagram, flow, hop, routed_hop};
use crate::{
    Flow, Lease, Meter, Port, Setup, Vector, flow_address,
    frames::{
        ethernet, ethertype, hop_limit_less_one, internet_checksum, ipv4, ipv6, payload, readdressed, tcp,
        ttl_less_one, udp, udp_to, with_tos, with_traffic_class,
    },
};
use flowlane_tables::{ASKING_LIMIT, End, GroupIndex, PASS, PENDING_LIMIT, PortFlags, Resolution, Tuple};
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
    let mut vectors = added(&setup);
    vectors.extend(not_added(&setup));
    vectors.extend(read(&setup));
    vectors.extend(flows_ends(&setup));
    vectors.extend(not_read(&setup));
    vectors.extend(asking(&setup));
    vectors.extend(restored(&setup));
    vectors.extend(checksums(&setup));
    vectors.extend(without_a_flag(&setup));
    vectors.extend(protocols(&setup));
    vectors.extend(fragments(&setup));
    vectors.extend(extensions(&setup));
    vectors.extend(tags(&setup));
    vectors.extend(cut_short(&setup));
    vectors
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

/// A flagged packet that goes to the usual receiver, the flag cleared.
fn through(setup: &Setup, name: impl Into<String>, sentence: &str, slot: u8, frame: Vec<u8>) -> Vector {
    let sent = if frame[12] == 0x86 { cleared_6(&frame, slot) } else { cleared(&frame, slot) };
    Vector::new(name, sentence, setup, frame).claims(&[24]).leaves(slot, 2, sent)
}

/// A flagged datagram to a slot's port.
fn new(setup: &Setup, name: &str, sentence: &str, slot: u8) -> Vector {
    Vector::new(name, sentence, setup, to_slot(slot, FLAG))
}

/// The flag is added (claim 23).
fn added(setup: &Setup) -> Vec<Vector> {
    let class = |name: &str, sentence: &str, before: u8, after: u8| {
        let frame = datagram(GATEWAY, HOST_A);
        Vector::new(name, sentence, setup, with_tos(&frame, 14, before))
            .claims(&[23])
            .by_port(port::MARKS)
            .is_marked(with_tos(&frame, 14, after))
    };
    let class_6 = |name: &str, sentence: &str, before: u8, after: u8| {
        let frame = ethernet(GATEWAY, HOST_A, &[], ethertype::IPV6, &ipv6(64, 17, &udp(&payload(20))));
        Vector::new(name, sentence, setup, with_traffic_class(&frame, 14, before))
            .claims(&[23])
            .by_port(port::MARKS)
            .is_marked(with_traffic_class(&frame, 14, after))
    };
    let tagged = |name: &str, sentence: &str, tags: &[(u16, u16)]| {
        let (frame, offset) = (ethernet(GATEWAY, HOST_A, tags, ethertype::IPV4, &ipv4(64, 17, &[], 0, &udp(&[]))), 14);
        let offset = offset + 4 * tags.len();
        let marked = with_tos(&frame, offset, FLAG);
        Vector::new(name, sentence, setup, frame).claims(&[23]).by_port(port::MARKS).is_marked(marked)
    };
    let options = packet(&ipv4(64, 17, &[0x94, 4, 0, 0, 7, 3, 0, 1], 0, &udp(&[])));
    let fragment = packet(&ipv4(64, 17, &[], 0x2010, &[7; 64]));
    let mark = |name: &str, sentence: &str, frame: Vec<u8>| {
        let marked = with_tos(&frame, 14, FLAG);
        Vector::new(name, sentence, setup, frame).claims(&[23]).by_port(port::MARKS).is_marked(marked)
    };
    vec![
        marked_octet_by_octet(setup),
        marked_octet_by_octet_6(setup),
        class("claim_23_flag_is_added", "Best effort 000000 becomes 000011.", 0x00, 0x0c),
        class("claim_23_flag_is_added_to_a_class", "Expedited forwarding 101110 becomes 101111.", 0xb8, 0xbc),
        class("claim_23_half_a_flag_becomes_a_whole_one", "000001 becomes 000011.", 0x04, 0x0c),
        class("marked_ecn_01", "ECN stays as it is.", 0x01, 0x0d),
        class("marked_ecn_10", "ECN stays as it is.", 0x02, 0x0e),
        class("marked_ecn_11", "Congestion experienced stays so.", 0x03, 0x0f),
        class_6("claim_23_flag_is_added_to_ipv6", "The traffic class is spread over two octets.", 0x00, 0x0c),
        class_6("marked_ipv6_class", "101110 becomes 101111, and ECN stays 01.", 0xb9, 0xbd),
        tagged("marked_behind_a_tag", "Behind one tag.", &[CUSTOMER]),
        tagged("marked_behind_two_tags", "Behind two tags.", &[SERVICE, CUSTOMER]),
        tagged("marked_tag_beside", "One tag beside the frame.", &[]).tag_beside(CUSTOMER.0, CUSTOMER.1),
        tagged("marked_tag_beside_and_one", "One beside and one in it.", &[CUSTOMER]).tag_beside(SERVICE.0, SERVICE.1),
        mark("marked_options", "The checksum covers the options as well.", options),
        mark("marked_fragment", "A fragment is a packet.", fragment),
        mark("marked_icmp", "Whatever the protocol.", packet(&ipv4(64, 1, &[], 0, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]))),
        mark("marked_ttl_1", "Whatever the time to live.", packet(&ipv4(1, 17, &[], 0, &udp(&[])))),
        class("marked_by_another_carrier", "101xxx: 000110 becomes 101110.", 0x18, 0xb8).by_port(port::MARKS_HIGH),
    ]
}

/// A whole frame written out in hexadecimal digits.
fn marked_octet_by_octet(setup: &Setup) -> Vector {
    let frame = |class: u8, low: u8| {
        vec![
            0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0xaa, 0x01, 0x08, 0x00, 0x45, class, 0x00,
            0x1c, 0x00, 0x01, 0x00, 0x00, 0x40, 0x11, 0x5d, low, 0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00, 0x09, 0x09, 0x0f,
            0xa0, 0x13, 0x88, 0x00, 0x08, 0x00, 0x00,
        ]
    };
    let sentence = "The traffic class goes from 00 to 0c and the checksum from 5dc7 to 5dbb.";
    Vector::new("claim_23_octet_by_octet", sentence, setup, frame(0x00, 0xc7))
        .claims(&[23])
        .by_port(port::MARKS)
        .is_marked(frame(0x0c, 0xbb))
}

/// The same for IPv6, as far as its traffic class.
fn marked_octet_by_octet_6(setup: &Setup) -> Vector {
    let frame = |first: u8, second: u8| {
        let mut frame = ethernet(GATEWAY, HOST_A, &[], ethertype::IPV6, &ipv6(64, 59, &[]));
        (frame[14], frame[15]) = (first, second);
        frame
    };
    let sentence = "The first octets 6b 15 become 6b d5: version 6, class b1 to bd, the flow label's 5 stays.";
    Vector::new("claim_23_octet_by_octet_ipv6", sentence, setup, frame(0x6b, 0x15))
        .claims(&[23])
        .by_port(port::MARKS)
        .is_marked(frame(0x6b, 0xd5))
}

/// What a port that adds the flag leaves alone.
fn not_added(setup: &Setup) -> Vec<Vector> {
    let passes =
        |name: &str, sentence: &str, frame: Vec<u8>| Vector::new(name, sentence, setup, frame).by_port(port::MARKS);
    let mut version_6_in_4 = datagram(GATEWAY, HOST_A);
    version_6_in_4[14] = 0x65;
    let arp = ethernet(GATEWAY, HOST_A, &[], ethertype::ARP, &payload(46));
    let three = ethernet(GATEWAY, HOST_A, &[SERVICE, CUSTOMER, CUSTOMER], ethertype::IPV4, &ipv4(64, 17, &[], 0, &[]));
    vec![
        passes("claim_23_already_flagged", "A flag that is there is not added again.", to_slot(slot::REAL, FLAG))
            .claims(&[23]),
        passes("already_flagged_with_ecn", "Whatever else is in the class.", to_slot(slot::REAL, 0xbf)),
        passes("claim_23_what_is_not_ip_is_not_marked", "ARP has no DSCP.", arp).claims(&[23]),
        passes("not_marked_behind_three_tags", "Nobody looks for IP behind three tags.", three),
        passes("not_marked_wrong_version", "IPv4's EtherType, but version 6.", version_6_in_4),
        passes("not_marked_to_a_group", "A flow leads to one host: multicasts pass.", {
            datagram(Mac([1, 0, 0x5e, 1, 2, 3]), HOST_A)
        }),
        passes("not_marked_broadcast", "So do broadcasts.", datagram(Mac::BROADCAST, HOST_A)),
        passes("not_marked_one_octet_of_ip", "It ends before the DSCP.", datagram(GATEWAY, HOST_A)[..15].to_vec()),
        Vector::new(
            "flow_frames_are_not_marked",
            "A frame with a flow address is in a flow already: it is checked like any other.",
            setup,
            datagram(flow(slot::REAL), HOST_A),
        )
        .by_port(port::MARKS)
        .ends(End::WrongPort),
    ]
}

/// The flag is read, and the packet gets its flow's addresses (claims 24 to 28).
fn read(setup: &Setup) -> Vec<Vector> {
    let sent = |slot, class, receiver, source| readdressed(&to_slot(slot, class), receiver, source);
    let routed = ttl_less_one(&sent(slot::ROUTED, 0, ROUTER, flow(slot::ROUTED)), 14);
    vec![
        read_octet_by_octet(setup),
        new(
            setup,
            "claim_24_a_flagged_packet_is_in_its_flow",
            "Its addresses and ports have a flow: it is sent as if it had come with the flow's address.",
            slot::REAL,
        )
        .claims(&[13, 15, 24])
        .leaves(slot::REAL, 2, sent(slot::REAL, 0, HOST_B, flow(slot::REAL))),
        new(
            setup,
            "claim_25_source_is_replaced",
            "The source becomes the flow's address, so that the receiver knows the flow and nobody learns the sender.",
            slot::KEPT,
        )
        .claims(&[24, 25, 28])
        .leaves(slot::KEPT, 2, sent(slot::KEPT, FLAG, HOST_B, flow(slot::KEPT))),
        new(
            setup,
            "claim_25_source_is_replaced_by_the_ports",
            "A port that sends with its own address replaces the source by that: a real host's.",
            slot::OWN_SOURCE,
        )
        .claims(&[24, 25, 27])
        .leaves(slot::OWN_SOURCE, 5, sent(slot::OWN_SOURCE, 0, HOST_B, PORT_5)),
        new(setup, "claim_26_destination_is_replaced", "The gateway's address becomes the receiver's.", slot::REAL)
            .claims(&[24, 26, 27])
            .leaves(slot::REAL, 2, sent(slot::REAL, 0, HOST_B, flow(slot::REAL))),
        new(
            setup,
            "claim_27_by_a_real_hosts_address",
            "The last switch replaces the destination by the receiver's own address.",
            slot::SET,
        )
        .claims(&[16, 24, 26, 27])
        .leaves(slot::SET, 2, sent(slot::SET, 0xb8, HOST_B, flow(slot::SET))),
        new(
            setup,
            "claim_28_by_a_virtual_hosts_address",
            "Between switches the destination becomes the next switch's flow address, and the flag stays.",
            slot::VIRTUAL,
        )
        .claims(&[15, 24, 25, 26, 28])
        .leaves(slot::VIRTUAL, 2, sent(slot::VIRTUAL, FLAG, NEXT_SWITCH, flow(slot::VIRTUAL))),
        new(setup, "claim_24_to_a_router", "The time to live is decremented as in any flow.", slot::ROUTED)
            .claims(&[24, 27])
            .leaves(slot::ROUTED, 2, routed),
        new(setup, "claim_24_to_a_group", "The flow is one of a group: a copy for each receiver.", slot::GROUP)
            .claims(&[20, 24])
            .is_copied(
                slot::GROUP,
                0,
                [HOST_B, HOST_C]
                    .into_iter()
                    .enumerate()
                    .map(|(place, host)| (place, sent(slot::GROUP, 0, host, flow(slot::GROUP))))
                    .collect(),
            ),
        Vector::new(
            "flagged_to_a_real_neighbour",
            "Whatever individual address the sender took: it is not looked at.",
            setup,
            readdressed(&to_slot(slot::REAL, FLAG), HOST_C, HOST_A),
        )
        .claims(&[24])
        .leaves(slot::REAL, 2, sent(slot::REAL, 0, HOST_B, flow(slot::REAL))),
        Vector::new(
            "flagged_super_packet",
            "Two segments of 1000 octets are two frames of 1054 of the flow.",
            setup,
            packet_with_class(&ipv4(64, 6, &[], 0, &tcp(0, &payload(2_000))), FLAG),
        )
        .claims(&[24])
        .segments_of(1_000)
        .leaves(
            slot::OTHERS,
            2,
            cleared(&packet_with_class(&ipv4(64, 6, &[], 0, &tcp(0, &payload(2_000))), FLAG), slot::OTHERS),
        )
        .counted_as(2, 2 * 1_054),
    ]
}

fn packet_with_class(content: &[u8], class: u8) -> Vec<u8> {
    with_tos(&packet(content), 14, class)
}

/// A whole frame written out in hexadecimal digits.
fn read_octet_by_octet(setup: &Setup) -> Vector {
    let frame = |addresses: [u8; 12], class: u8, low: u8| {
        let mut frame = addresses.to_vec();
        frame.extend([
            0x08, 0x00, 0x45, class, 0x00, 0x1c, 0x00, 0x01, 0x00, 0x00, 0x40, 0x11, 0x5d, low, 0x0a, 0x00, 0x00, 0x01,
            0x0a, 0x00, 0x09, 0x09, 0x0f, 0xa0, 0x13, 0x89, 0x00, 0x08, 0x00, 0x00,
        ]);
        frame
    };
    let arrives = frame([0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0xaa, 0x01], 0x0c, 0xbb);
    let leaves = frame([0x02, 0x00, 0x00, 0x00, 0xbb, 0x02, 0xa2, 0xf1, 0x00, 0x00, 0x00, 0x01], 0x00, 0xc7);
    let sentence = "Both addresses are replaced, the traffic class goes from 0c to 00, the checksum from 5dbb to 5dc7.";
    Vector::new("claim_24_octet_by_octet", sentence, setup, arrives).claims(&[24, 25, 26, 27]).leaves(
        slot::REAL,
        2,
        leaves,
    )
}

/// What the flow's slot says holds for flagged packets as well.
fn flows_ends(setup: &Setup) -> Vec<Vector> {
    let new = |name, sentence, slot| new(setup, name, sentence, slot);
    let ttl_1 = with_tos(&packet(&ipv4(1, 17, &[], 0, &udp_to(5_000 + u16::from(slot::ROUTED), &[]))), 14, FLAG);
    vec![
        new("flagged_flow_has_no_next_host_yet", "The frame waits, as it came.", slot::PENDING)
            .claims(&[13, 24])
            .waits(slot::PENDING),
        new("flagged_flow_has_a_full_queue", "64 frames wait already.", slot::QUEUE_FULL).ends(End::QueueFull),
        new("flagged_flow_is_unreachable", "There is no way.", slot::UNREACHABLE).ends(End::NoRoute),
        new("flagged_flow_has_expired", "The lease is over; nobody has removed the tuple yet.", slot::EXPIRED)
            .ends(End::Expired),
        new("flagged_flow_is_over_its_rate", "The bucket is empty; the packet keeps its flag.", slot::EXHAUSTED)
            .ends(End::OverRate),
        new("flagged_flow_is_within_its_rate", "The bucket has tokens.", slot::METERED).leaves(
            slot::METERED,
            2,
            cleared(&to_slot(slot::METERED, FLAG), slot::METERED),
        ),
        new("flagged_flow_is_of_another_port", "The tuple is of port 1, but its flow of port 2.", slot::OTHER_PORT)
            .claims(&[19])
            .ends(End::WrongPort),
        new("flagged_flow_takes_the_backup", "The port of the next hop is down.", slot::BACKUP)
            .leaves(
                slot::BACKUP,
                port::MARKS,
                with_tos(&readdressed(&to_slot(slot::BACKUP, 0), HOST_C, flow(slot::BACKUP)), 14, 0),
            )
            .by_backup(),
        new("flagged_flow_has_its_port_down", "And no backup.", slot::DOWN).ends(End::PortDown),
        new("flagged_flow_goes_back", "The receiver is behind the sender's port.", slot::SAME_PORT).ends(End::SamePort),
        new("flagged_flow_is_gone", "The tuple has an address that no flow has.", slot::FREE).ends(End::UnknownFlow),
        new("flagged_flow_was_another", "The slot holds a flow of another generation.", slot::STALE)
            .ends(End::UnknownFlow),
        Vector::new("flagged_ttl_1_at_a_routed_hop", "Linux answers; it sees the flag.", setup, ttl_1)
            .goes_to_linux(End::TtlExpired),
    ]
}

/// Frames that the flag is not looked for in, or not found.
fn not_read(setup: &Setup) -> Vec<Vector> {
    let flagged = || to_slot(slot::REAL, FLAG);
    let new = |name: &str, sentence: &str, frame: Vec<u8>| Vector::new(name, sentence, setup, frame);
    let mut version_6_in_4 = flagged();
    version_6_in_4[14] = 0x65;
    let mut version_4_in_6 = packet_6(&ipv6(64, 17, &udp(&[])));
    version_4_in_6[14] = 0x40;
    let arp = ethernet(GATEWAY, HOST_A, &[], ethertype::ARP, &flagged()[14..]);
    let three = ethernet(GATEWAY, HOST_A, &[SERVICE, CUSTOMER, CUSTOMER], ethertype::IPV4, &flagged()[14..]);
    vec![
        new("claim_24_a_packet_without_the_flag_passes", "Its addresses have a flow, but it does not ask for it.", {
            to_slot(slot::REAL, 0)
        })
        .claims(&[24]),
        new("half_a_flag_passes", "000001 is not the flag.", to_slot(slot::REAL, 0x04)),
        new("the_other_half_passes", "Nor is 000010.", to_slot(slot::REAL, 0x08)),
        new("expedited_forwarding_passes", "Nor is 101110.", to_slot(slot::REAL, 0xb8)),
        new("ecn_is_not_the_flag", "The two bits below the DSCP are somebody else's.", to_slot(slot::REAL, 0x03)),
        new("flagged_by_a_port_that_does_not_read_it", "Port 2 looks for no flag.", flagged()).by_port(2),
        new("flagged_to_a_group_address", "A flow leads to one host: multicasts pass.", {
            readdressed(&flagged(), Mac([1, 0, 0x5e, 1, 2, 3]), HOST_A)
        }),
        new("flagged_broadcast", "So do broadcasts.", readdressed(&flagged(), Mac::BROADCAST, HOST_A)),
        new("flagged_wrong_version", "IPv4's EtherType, but version 6.", version_6_in_4),
        new("flagged_wrong_version_ipv6", "IPv6's EtherType, but version 4.", version_4_in_6),
        new("flagged_under_another_ethertype", "What is not IP has no DSCP.", arp),
        new("flagged_behind_three_tags", "Nobody looks for IP behind three tags.", three),
        new("claim_24_left_to_linux", "The control path has said that the packet gets no flow.", {
            to_slot(slot::PASSES, FLAG)
        })
        .claims(&[24]),
        new("another_carrier_does_not_see_the_usual_flag", "Port 6 looks for 101010.", flagged())
            .by_port(port::CARRIER),
        new("another_carrier_with_a_bit_too_many", "101011 is not 101010.", to_slot(slot::CARRIER, 0xac))
            .by_port(port::CARRIER),
        new("claim_24_another_carrier", "101010 is the flag of port 6.", to_slot(slot::CARRIER, 0xa8))
            .claims(&[24])
            .by_port(port::CARRIER)
            .leaves(slot::CARRIER, 2, readdressed(&to_slot(slot::CARRIER, 0), HOST_B, flow(slot::CARRIER))),
    ]
}

/// Addresses and ports that nobody has decided on yet.
fn asking(setup: &Setup) -> Vec<Vector> {
    let flagged = || to_slot(slot::UNKNOWN, FLAG);
    let new = |name: &str, sentence: &str, frame: Vec<u8>| Vector::new(name, sentence, setup, frame);
    let mut almost = setup.clone();
    almost.ports[6].asking = ASKING_LIMIT - 1;
    let known = |slot| cleared(&to_slot(slot, FLAG), slot);
    vec![
        new("claim_24_first_flagged_packet_asks", "It waits until its addresses and ports have a flow.", flagged())
            .claims(&[13, 24])
            .asks(),
        new("same_addresses_by_another_port_ask", "A flow is of one port: port 4 has none for them yet.", {
            to_slot(slot::REAL, FLAG)
        })
        .by_port(port::OTHER)
        .asks(),
        new("another_source_port_asks", "One octet of the tuple differs.", {
            let mut frame = to_slot(slot::REAL, FLAG);
            frame[35] += 1;
            frame
        })
        .asks(),
        new("another_source_asks", "Another host behind the same port.", {
            let mut frame = to_slot(slot::REAL, FLAG);
            frame[29] = 2;
            with_tos(&frame, 14, FLAG)
        })
        .asks(),
        new("another_protocol_asks", "UDP-Lite is not UDP.", {
            packet_with_class(&ipv4(64, 136, &[], 0, &udp_to(5_000 + u16::from(slot::REAL), &[])), FLAG)
        })
        .asks(),
        new("unknown_ipv6_asks", "IPv6 as well.", packet_6(&ipv6(64, 17, &udp_to(6_000, &[])))).asks(),
        new("unknown_icmp_asks", "So does what has no ports.", packet_6(&ipv6(64, 46, &payload(20)))).asks(),
        new("asking_behind_a_tag", "With its tag.", {
            let frame = ethernet(GATEWAY, HOST_A, &[CUSTOMER], ethertype::IPV4, &flagged()[14..]);
            with_tos(&frame, 18, FLAG)
        })
        .asks(),
        new("asking_is_full", "256 frames of the port wait already: the next is refused.", flagged())
            .by_port(port::FULL)
            .ends(End::FlagRefused),
        Vector::new("asking_has_room_for_one_more", "The 256th frame waits.", &almost, flagged())
            .by_port(port::FULL)
            .asks(),
        new("known_flow_while_asking_is_full", "What has a flow does not ask.", to_slot(slot::FULL, FLAG))
            .by_port(port::FULL)
            .leaves(slot::FULL, 2, known(slot::FULL)),
        new("no_new_flows", "The port has as many flagged flows as it may have.", flagged())
            .by_port(port::NO_NEW)
            .ends(End::FlagRefused),
        new("known_flow_while_there_are_no_new_ones", "Those that it has go on.", to_slot(slot::NO_NEW, FLAG))
            .by_port(port::NO_NEW)
            .leaves(slot::NO_NEW, 2, known(slot::NO_NEW)),
    ]
}

/// What is done to the DSCP at the far edge.
fn restored(setup: &Setup) -> Vec<Vector> {
    let becomes = |slot: u8, before: u8, after: u8| {
        let names = [(slot::REAL, "cleared"), (slot::SET, "set"), (slot::KEPT, "kept")];
        let name = names.into_iter().find(|(one, _)| *one == slot).map_or("cleared_whole", |(_, name)| name);
        let sent = readdressed(&to_slot(slot, after), HOST_B, flow(slot));
        Vector::new(
            format!("flag_{name}_{before:02x}"),
            format!("Traffic class {before:02x} becomes {after:02x}; the ECN bits stay."),
            setup,
            to_slot(slot, before),
        )
        .claims(&[24])
        .leaves(slot, 2, sent)
    };
    let pairs = [
        (slot::REAL, 0x0d, 0x01),
        (slot::REAL, 0x0e, 0x02),
        (slot::REAL, 0x0f, 0x03),
        (slot::REAL, 0xbc, 0xb0),
        (slot::REAL, 0x2d, 0x21),
        (slot::REAL, 0xff, 0xf3),
        (slot::SET, 0x0d, 0xb9),
        (slot::SET, 0x0f, 0xbb),
        (slot::SET, 0xbc, 0xb8),
        (slot::SET, 0xfe, 0xba),
        (slot::KEPT, 0x0e, 0x0e),
        (slot::KEPT, 0xff, 0xff),
        (slot::CLEARED_WHOLE, 0x0c, 0x00),
        (slot::CLEARED_WHOLE, 0xfd, 0x01),
    ];
    pairs.map(|(slot, before, after)| becomes(slot, before, after)).into()
}

/// Datagrams made so that their checksum is the one wanted: the identification field takes up the difference.
fn with_checksum(wanted: u16) -> Vec<u8> {
    let frame = to_slot(slot::REAL, FLAG);
    let candidates = (0..=u16::MAX).map(|identification| {
        let mut frame = frame.clone();
        frame[18..20].copy_from_slice(&identification.to_be_bytes());
        with_tos(&frame, 14, FLAG)
    });
    candidates
        .into_iter()
        .find(|frame| internet_checksum(&frame[14..34]) == wanted)
        .expect("some identification gives each checksum but ffff")
}

fn checksums(setup: &Setup) -> Vec<Vector> {
    let mut vectors: Vec<Vector> = [
        (0x0000, "becomes 000c"),
        (0x00f3, "becomes 00ff"),
        (0x00f4, "becomes 0100: the carry goes to the other octet"),
        (0xfff2, "becomes fffe"),
        (0xfff3, "becomes 0000, and not ffff, which RFC 1624 warns of"),
        (0xfff4, "becomes 0001: the carry goes round"),
        (0xfffe, "becomes 000b"),
    ]
    .into_iter()
    .map(|(sum, what)| {
        let name = format!("flag_cleared_checksum_{sum:04x}");
        through(setup, name, &format!("The checksum {sum:04x} {what}."), slot::REAL, with_checksum(sum))
    })
    .collect();
    vectors.push(wrong_checksum(setup));
    vectors
}

/// A switch does not repair what was broken before.
fn wrong_checksum(setup: &Setup) -> Vector {
    let mut frame = to_slot(slot::REAL, FLAG);
    frame[24..26].copy_from_slice(&[0x12, 0x34]);
    let mut sent = readdressed(&frame, HOST_B, flow(slot::REAL));
    (sent[15], sent[25]) = (0, 0x40);
    let sentence = "A wrong checksum 1234 stays as wrong as it was: 1240.";
    Vector::new("flag_cleared_wrong_checksum", sentence, setup, frame).claims(&[24]).leaves(slot::REAL, 2, sent)
}

/// The slot's rule holds for every packet of the flow, also for those that carry its address.
fn without_a_flag(setup: &Setup) -> Vec<Vector> {
    let new = |name: &str, sentence: &str, frame: Vec<u8>, sent: Vec<u8>| {
        Vector::new(name, sentence, setup, frame).leaves(slot::REAL, 2, sent)
    };
    let first = flow(slot::REAL);
    let with_class = |destination, source, class| with_tos(&datagram(destination, source), 14, class);
    let other = |ethertype, payload: &[u8]| {
        let frame = |destination, source| ethernet(destination, source, &[], ethertype, payload);
        (frame(first, HOST_A), frame(HOST_B, first))
    };
    let (arp, arp_sent) = other(ethertype::ARP, &payload(46));
    let (cut, cut_sent) = other(ethertype::IPV4, &ipv4(64, 17, &[], 0, &[])[..19]);
    let mut flagged_cut = cut;
    let mut flagged_cut_sent = cut_sent;
    (flagged_cut[15], flagged_cut_sent[15]) = (FLAG, FLAG);
    let version_6 = |destination, source, class| {
        let frame = ethernet(destination, source, &[], ethertype::IPV6, &ipv6(64, 17, &udp(&payload(20))));
        with_traffic_class(&frame, 14, class)
    };
    vec![
        new(
            "flag_is_taken_off_a_packet_with_the_flows_address",
            "The far edge gets flagged packets that carry the flow's address: the flag ends here.",
            with_class(first, HOST_A, 0xbd),
            with_class(HOST_B, first, 0xb1),
        )
        .claims(&[16, 17]),
        new(
            "flag_is_taken_off_by_source",
            "The flow address is the source.",
            with_class(HOST_C, first, FLAG),
            with_class(HOST_B, first, 0),
        ),
        new(
            "flag_is_taken_off_ipv6",
            "IPv6 has no checksum to correct.",
            version_6(first, HOST_A, 0xbe),
            version_6(HOST_B, first, 0xb2),
        ),
        new(
            "flag_is_not_there_to_be_taken_off",
            "A packet without it is not changed.",
            with_class(first, HOST_A, 0xb0),
            with_class(HOST_B, first, 0xb0),
        ),
        new("nothing_is_taken_off_arp", "What is not IP has no flag.", arp, arp_sent),
        new(
            "nothing_is_taken_off_a_header_cut_short",
            "Half a header has no checksum that could be corrected.",
            flagged_cut,
            flagged_cut_sent,
        ),
        Vector::new(
            "dscp_is_set_whatever_it_was",
            "A flow whose DSCP is set marks its packets, flagged or not.",
            setup,
            with_class(flow(slot::SET), HOST_A, 0x03),
        )
        .leaves(slot::SET, 2, with_class(HOST_B, flow(slot::SET), 0xbb)),
    ]
}

/// Which protocols have ports.
fn protocols(setup: &Setup) -> Vec<Vector> {
    let v4 = |name: &str, sentence: &str, protocol, content: &[u8]| {
        let frame = packet_with_class(&ipv4(64, protocol, &[], 0, content), FLAG);
        through(setup, format!("flagged_{name}"), sentence, slot::OTHERS, frame)
    };
    let v6 = |name: &str, sentence: &str, protocol, content: &[u8]| {
        through(setup, format!("flagged_ipv6_{name}"), sentence, slot::OTHERS_6, packet_6(&ipv6(64, protocol, content)))
    };
    let inner = ipv4(64, 17, &[], 0, &udp(&payload(12)));
    let ports = [&[0x0f, 0xa0, 0x13, 0x88][..], &payload(16)].concat();
    let udp_6 = |port| packet_6(&ipv6(64, 17, &udp_to(port, &payload(20))));
    let with_options =
        ipv4(64, 17, &[0x94, 4, 0, 0, 7, 3, 0, 1], 0, &udp_to(5_000 + u16::from(slot::REAL), &payload(8)));
    let all_options = ipv4(64, 17, &[1; 40], 0, &udp_to(5_000 + u16::from(slot::REAL), &payload(8)));
    let real = |name: &str, sentence: &str, content: &[u8]| {
        through(setup, name, sentence, slot::REAL, packet_with_class(content, FLAG))
    };
    let routed = udp_6(5_001);
    let routed_sent =
        hop_limit_less_one(&with_traffic_class(&readdressed(&routed, ROUTER, flow(slot::ROUTED_6)), 14, 0), 14);
    vec![
        v4("tcp", "TCP has ports.", 6, &tcp(12, &payload(30))),
        v4("dccp", "So has DCCP.", 33, &ports),
        v4("sctp", "So has SCTP.", 132, &ports),
        v4("udp_lite", "So has UDP-Lite.", 136, &ports),
        v4("icmp", "ICMP has none: all of it between two hosts is one flow.", 1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        v4("igmp", "Nor has IGMP.", 2, &[0x16, 0, 0, 0, 224, 1, 2, 3]),
        v4("ipv4_in_ipv4", "A tunnel is one flow, whatever is in it.", 4, &inner),
        v4("ipv6_in_ipv4", "Nor is looked into this one.", 41, &ipv6(64, 59, &[])),
        v4("gre", "GRE is one flow between its ends.", 47, &payload(40)),
        v4("esp", "So is what is encrypted.", 50, &payload(80)),
        v4("ah_over_ipv4", "Only over IPv6 is looked behind an authentication header.", 51, &payload(40)),
        v4("ospf", "A protocol without ports.", 89, &payload(24)),
        v4("experimental", "One that nobody knows.", 253, &payload(24)),
        v4("without_payload", "ICMP without a header is still between two hosts.", 1, &[]),
        real("flagged_options", "The ports stand behind the options.", &with_options),
        real("flagged_all_options", "Behind 40 octets of them.", &all_options),
        through(setup, "flagged_ipv6_udp", "UDP over IPv6.", slot::VERSION_6, udp_6(5_000)),
        Vector::new("flagged_ipv6_routed", "With its hop limit less by one.", setup, routed).claims(&[24]).leaves(
            slot::ROUTED_6,
            2,
            routed_sent,
        ),
        v6("tcp", "TCP over IPv6.", 6, &tcp(0, &payload(30))),
        v6("sctp", "SCTP over IPv6.", 132, &ports),
        v6("dccp", "DCCP over IPv6.", 33, &ports),
        v6("udp_lite", "UDP-Lite over IPv6.", 136, &ports),
        v6("icmp", "ICMPv6 has no ports.", 58, &[128, 0, 0, 0, 0, 0, 0, 1]),
        v6("ipv4_inside", "A tunnel.", 4, &inner),
        v6("ipv6_inside", "Another.", 41, &ipv6(64, 59, &[])),
        v6("gre", "GRE.", 47, &payload(40)),
        v6("esp", "What is encrypted.", 50, &payload(80)),
        v6("mobility", "A header that is not looked behind counts as a protocol.", 135, &payload(16)),
        through(setup, "flagged_ipv6_no_next_header", "Nothing at all.", slot::BARE_6, packet_6(&ipv6(64, 59, &[]))),
    ]
}

/// The fragments of a datagram stay together: they have no ports, not even the first.
fn fragments(setup: &Setup) -> Vec<Vector> {
    let v4 = |name: &str, sentence: &str, fragment, content: &[u8]| {
        let frame = packet_with_class(&ipv4(64, 17, &[], fragment, content), FLAG);
        through(setup, name, sentence, slot::FRAGMENTS, frame)
    };
    let v6 = |name: &str, sentence: &str, offset: u16, content: &[u8]| {
        let [high, low] = offset.to_be_bytes();
        let packet = ipv6(64, 44, &[&[17, 0, high, low, 0, 0, 0, 9], content].concat());
        through(setup, name, sentence, slot::FRAGMENTS_6, packet_6(&packet))
    };
    let whole = ipv4(64, 17, &[], 0x4000, &udp_to(5_000 + u16::from(slot::REAL), &payload(8)));
    let reserved = ipv4(64, 17, &[], 0x8000, &udp_to(5_000 + u16::from(slot::REAL), &payload(8)));
    let real = |name: &str, sentence: &str, content: &[u8]| {
        through(setup, name, sentence, slot::REAL, packet_with_class(content, FLAG))
    };
    vec![
        v4("flagged_first_fragment", "It has ports, but the others have none.", 0x2000, &udp(&payload(32))),
        v4("flagged_middle_fragment", "What stands where the ports would be is data.", 0x2010, &payload(32)),
        v4("flagged_last_fragment", "More does not follow, but the offset says so.", 0x00b9, &payload(32)),
        v4("flagged_fragment_of_one_octet", "It is too short for ports, and needs none.", 0x0001, &[7]),
        real("flagged_that_must_not_be_fragmented", "The bit says nothing about fragments that are.", &whole),
        real("flagged_with_the_reserved_bit", "RFC 791's reserved bit is not looked at.", &reserved),
        v6("flagged_ipv6_first_fragment", "It has ports, but the others have none.", 0x0001, &udp(&payload(32))),
        v6("flagged_ipv6_last_fragment", "The fragment header names the protocol.", 0x00b8, &payload(32)),
        v6(
            "flagged_ipv6_atomic_fragment",
            "A fragment that is a whole packet (RFC 6946) is treated as one.",
            0,
            &udp(&payload(8)),
        ),
        v6("flagged_ipv6_fragment_without_content", "The fragment header is the last.", 0x00b8, &[]),
    ]
}

/// IPv6 extension headers are walked to the ports.
fn extensions(setup: &Setup) -> Vec<Vector> {
    // Each is of 8 octets; an authentication header of 12.
    let chain = |kinds: &[u8], last: u8, content: &[u8]| {
        let mut octets = Vec::new();
        for (place, kind) in kinds.iter().enumerate() {
            let next = kinds.get(place + 1).copied().unwrap_or(last);
            match kind {
                51 => octets.extend([next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
                _ => octets.extend([next, 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        octets.extend(content);
        packet_6(&ipv6(64, kinds.first().copied().unwrap_or(last), &octets))
    };
    let datagram = udp(&payload(20));
    let walked = |name: &str, sentence: &str, kinds: &[u8]| {
        through(setup, format!("flagged_behind_{name}"), sentence, slot::VERSION_6, chain(kinds, 17, &datagram))
    };
    let mut long = vec![17, 3];
    long.extend([1, 28]);
    long.extend([0; 28]);
    let long = packet_6(&ipv6(64, 0, &[long, datagram.clone()].concat()));
    let fragment =
        packet_6(&ipv6(64, 0, &[&[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9], &datagram[..]].concat()));
    let eight = chain(&[60; 8], 17, &datagram);
    let nine = chain(&[60; 9], 17, &datagram);
    vec![
        walked("hop_by_hop_options", "Hop-by-hop options.", &[0]),
        walked("a_routing_header", "A routing header.", &[43]),
        walked("destination_options", "Destination options.", &[60]),
        walked("an_authentication_header", "It counts its length in another unit (RFC 4302).", &[51]),
        walked("the_usual_order", "All of them, in the order of RFC 8200.", &[0, 60, 43, 51, 60]),
        walked("seven_headers", "Seven headers are walked to the ports.", &[60; 7]),
        through(setup, "flagged_behind_long_options", "32 octets of options.", slot::VERSION_6, long),
        through(
            setup,
            "flagged_behind_options_and_a_fragment_header",
            "A fragment has no ports, wherever it says so.",
            slot::FRAGMENTS_6,
            fragment,
        ),
        through(
            setup,
            "flagged_behind_eight_headers",
            "Behind the eighth the protocol is read, and no more: the packet goes by its addresses.",
            slot::FRAGMENTS_6,
            eight,
        ),
        through(
            setup,
            "flagged_behind_nine_headers",
            "The ninth is not walked: it counts as the protocol.",
            slot::OTHERS_6,
            nine,
        ),
        through(
            setup,
            "flagged_icmp_behind_options",
            "The protocol is what stands behind the options.",
            slot::OTHERS_6,
            chain(&[0], 58, &[128, 0, 0, 0, 0, 0, 0, 1]),
        ),
        through(setup, "flagged_nothing_behind_options", "No next header.", slot::BARE_6, chain(&[60], 59, &[])),
    ]
}

/// The flag is found behind two tags, one beside the frame included.
fn tags(setup: &Setup) -> Vec<Vector> {
    let content = to_slot(slot::REAL, FLAG)[14..].to_vec();
    let tagged = |name: &str, sentence: &str, tags: &[(u16, u16)]| {
        let frame = ethernet(GATEWAY, HOST_A, tags, ethertype::IPV4, &content);
        let sent = with_tos(&readdressed(&frame, HOST_B, flow(slot::REAL)), 14 + 4 * tags.len(), 0);
        (Vector::new(name, sentence, setup, frame).claims(&[24]), sent)
    };
    let behind = [
        tagged("flagged_behind_a_tag", "Behind one tag.", &[CUSTOMER]),
        tagged("flagged_behind_a_providers_tag", "Behind a provider's tag.", &[SERVICE]),
        tagged("flagged_behind_two_tags", "Behind two tags.", &[SERVICE, CUSTOMER]),
    ];
    let beside = [
        tagged("flagged_tag_beside", "One tag beside the frame.", &[]),
        tagged("flagged_tag_beside_and_one", "One beside the frame and one in it.", &[CUSTOMER]),
    ];
    let beside = beside.into_iter().map(|(vector, sent)| (vector.tag_beside(SERVICE.0, SERVICE.1), sent));
    let all = behind.into_iter().chain(beside).map(|(vector, sent)| vector.leaves(slot::REAL, 2, sent));
    let too_many = ethernet(GATEWAY, HOST_A, &[CUSTOMER, CUSTOMER], ethertype::IPV4, &content);
    let sentence = "One beside the frame and two in it are three: nobody looks for IP.";
    let too_many = Vector::new("flagged_tag_beside_and_two", sentence, setup, too_many);
    all.chain([too_many.tag_beside(SERVICE.0, SERVICE.1)]).collect()
}

/// Flagged packets that end where they should not, or make no sense.
fn cut_short(setup: &Setup) -> Vec<Vector> {
    let v4 = to_slot(slot::REAL, FLAG);
    let v6 = packet_6(&ipv6(64, 17, &udp(&payload(20))));
    let options = packet_6(&ipv6(64, 0, &[17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0f, 0xa0, 0x13, 0x88]));
    let fragment = packet_6(&ipv6(64, 44, &[17, 0, 0, 1, 0, 0, 0, 9]));
    let tagged = ethernet(GATEWAY, HOST_A, &[CUSTOMER], ethertype::IPV4, &v4[14..]);
    let cut = |name: &str, sentence: &str, frame: &[u8], len: usize| {
        Vector::new(format!("flagged_{name}_cut_to_{len}"), sentence, setup, frame[..len].to_vec())
    };
    let passes = [
        cut("ipv4", "It ends before the DSCP: nobody can see a flag.", &v4, 14),
        cut("ipv4", "It ends before the DSCP: nobody can see a flag.", &v4, 15),
        cut("ipv6", "It ends within the traffic class.", &v6, 15),
        cut("tagged", "It ends before the DSCP, behind a tag.", &tagged, 19),
        cut("tagged", "It ends within the tag.", &tagged, 16),
    ];
    let malformed = [
        cut("ipv4", "The flag is the last that can be read.", &v4, 16),
        cut("ipv4", "It ends before the addresses.", &v4, 26),
        cut("ipv4", "It ends within the addresses.", &v4, 33),
        cut("ipv4", "It ends with the header, before the ports.", &v4, 34),
        cut("ipv4", "It ends within the ports.", &v4, 37),
        cut("tagged", "It ends within the addresses, behind a tag.", &tagged, 37),
        cut("tagged", "It ends within the ports, behind a tag.", &tagged, 41),
        cut("ipv6", "The flag is the last that can be read.", &v6, 16),
        cut("ipv6", "It ends within the addresses.", &v6, 53),
        cut("ipv6", "It ends with the header, before the ports.", &v6, 54),
        cut("ipv6", "It ends within the ports.", &v6, 57),
        cut("options", "It ends before the options.", &options, 54),
        cut("options", "It ends before the options' length.", &options, 55),
        cut("options", "It ends within the options.", &options, 60),
        cut("options", "It ends before the ports.", &options, 70),
        cut("options", "It ends within the ports.", &options, 73),
        cut("fragment", "It ends before the fragment header.", &fragment, 54),
        cut("fragment", "It ends within the fragment header.", &fragment, 55),
    ];
    let with_words = |words: u8| {
        let mut frame = v4.clone();
        frame[14] = 0x40 + words;
        frame
    };
    let wrong = [
        ("flagged_header_of_16_octets", "Shorter than IPv4's header is.", with_words(4)),
        ("flagged_header_of_0_octets", "Shorter than IPv4's header is.", with_words(0)),
        ("flagged_header_beyond_the_end", "The header ends behind the frame.", with_words(15)[..60].to_vec()),
    ];
    let wrong = wrong.map(|(name, sentence, frame)| Vector::new(name, sentence, setup, frame));
    let malformed = malformed.into_iter().chain(wrong).map(|vector| vector.ends(End::FlagMalformed));
    let just = [
        through(
            setup,
            "flagged_ipv4_cut_to_38",
            "The ports are the last that is needed.",
            slot::REAL,
            v4[..38].to_vec(),
        ),
        through(
            setup,
            "flagged_ipv6_cut_to_58",
            "The ports are the last that is needed.",
            slot::VERSION_6,
            v6[..58].to_vec(),
        ),
        through(
            setup,
            "flagged_fragment_cut_to_56",
            "Of the fragment header the first two octets are needed.",
            slot::FRAGMENTS_6,
            fragment[..56].to_vec(),
        ),
    ];
    passes.into_iter().chain(malformed).chain(just.map(|vector| vector.claims(&[24]))).collect()
}
