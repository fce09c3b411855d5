//! The flag is read, and taken off again (claims 24 to 28).

use super::super::{HOST_A, HOST_B, HOST_C, NEXT_SWITCH, PORT_5, ROUTER, claims::datagram, flow};
use super::{
    CUSTOMER, FLAG, GATEWAY, SERVICE, cleared, new, packet, packet_6, packet_with_class, port, slot, through, to_slot,
};
use crate::{
    Setup, Vector,
    frames::{
        ethernet, ethertype, internet_checksum, ipv4, ipv6, payload, readdressed, tcp, ttl_less_one, udp, udp_to,
        with_tos, with_traffic_class,
    },
};
use flowlane_tables::{ASKING_LIMIT, End};
use flowlane_wire::Mac;

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let lists = [read, flows_ends, not_read, asking, restored, checksums, without_a_flag];
    lists.into_iter().flat_map(|list| list(setup)).collect()
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
