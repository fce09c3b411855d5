//! Frames of the claims: which address is whose, and what the switch makes of it.

use super::{HOST_A, HOST_B, HOST_C, NEXT_SWITCH, PORT_5, ROUTER, TAG, flow, slot};
use crate::{
    Setup, Vector, flow_address,
    frames::{ethernet, ethertype, ipv4, ipv6, payload, readdressed, ttl_less_one, udp},
};
use flowlane_tables::End;
use flowlane_wire::Mac;

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let mut vectors = octet_by_octet(setup);
    vectors.extend(fields(setup));
    vectors.extend(second_hosts(setup));
    vectors.extend(table(setup));
    vectors
}

/// A UDP datagram over IPv4.
pub(super) fn datagram(destination: Mac, source: Mac) -> Vec<u8> {
    ethernet(destination, source, &[], ethertype::IPV4, &ipv4(64, 17, &[], 0, &udp(&payload(40))))
}

/// Two whole frames written out in hexadecimal digits.
fn octet_by_octet(setup: &Setup) -> Vec<Vector> {
    let arrives = vec![
        0xa2, 0xf1, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0xaa, 0x01, 0x08, 0x00, 0x45, 0x00, 0x00, 0x1c,
        0x00, 0x01, 0x00, 0x00, 0x40, 0x11, 0x5d, 0xc7, 0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00, 0x09, 0x09, 0x0f, 0xa0,
        0x13, 0x88, 0x00, 0x08, 0x00, 0x00,
    ];
    let leaves = vec![
        0x02, 0x00, 0x00, 0x00, 0xbb, 0x02, 0xa2, 0xf1, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, 0x45, 0x00, 0x00, 0x1c,
        0x00, 0x01, 0x00, 0x00, 0x40, 0x11, 0x5d, 0xc7, 0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00, 0x09, 0x09, 0x0f, 0xa0,
        0x13, 0x88, 0x00, 0x08, 0x00, 0x00,
    ];
    let routed = |ttl: u8, high: u8, addresses: [u8; 12]| {
        let mut frame = arrives.clone();
        frame[..12].copy_from_slice(&addresses);
        (frame[22], frame[24]) = (ttl, high);
        frame
    };
    let to_router = [0x00, 0x1b, 0x21, 0x0e, 0x0f, 0x10, 0xa2, 0xf1, 0x00, 0x00, 0x00, 0x02];
    let to_flow = [0xa2, 0xf1, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0xaa, 0x01];
    vec![
        Vector::new(
            "claim_17_octet_by_octet",
            "The two addresses are replaced and nothing else.",
            setup,
            arrives.clone(),
        )
        .claims(&[17, 18])
        .leaves(slot::PLAIN, 2, leaves),
        Vector::new(
            "routed_octet_by_octet",
            "At a routed hop the time to live goes from 64 to 63 and the checksum from 5dc7 to 5ec7.",
            setup,
            routed(0x40, 0x5d, to_flow),
        )
        .claims(&[17])
        .leaves(slot::ROUTED, 2, routed(0x3f, 0x5e, to_router)),
    ]
}

/// A flow address in the one field, in the other, in both, in none.
fn fields(setup: &Setup) -> Vec<Vector> {
    let plain = flow(slot::PLAIN);
    let new = |name, sentence, destination, source| Vector::new(name, sentence, setup, datagram(destination, source));
    let sent = |destination, source| datagram(destination, source);
    vec![
        new(
            "claim_02_flow_identifier_as_source",
            "A frame with the flow address as its source is of the flow, and is sent to the flow's next hop.",
            HOST_C,
            plain,
        )
        .claims(&[2])
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "claim_03_flow_identifier_as_destination",
            "A frame with the flow address as its destination is of the flow.",
            plain,
            HOST_A,
        )
        .claims(&[3])
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "claim_04_flow_identifier_of_a_virtual_host",
            "No machine has the flow address: the switch answers to it as an entry of its table.",
            flow_address(TAG, slot::TAGGED).mac(),
            HOST_A,
        )
        .claims(&[4])
        .leaves(slot::TAGGED, 2, sent(HOST_B, flow_address(TAG, slot::TAGGED).mac())),
        new(
            "claim_05_destination_is_a_virtual_host",
            "A frame to a virtual host from a real one is forwarded.",
            flow(slot::LAST),
            HOST_A,
        )
        .claims(&[5])
        .leaves(slot::LAST, 3, sent(HOST_C, flow(slot::LAST))),
        new(
            "claim_06_source_is_a_virtual_host",
            "A frame from a virtual host to a real one is forwarded.",
            HOST_A,
            plain,
        )
        .claims(&[6])
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        Vector::new(
            "claim_07_ethernet_source_over_ipv6",
            "The flow address is the Ethernet source of a frame that carries IPv6.",
            setup,
            ethernet(HOST_B, plain, &[], ethertype::IPV6, &ipv6(64, 17, &udp(&[1, 2, 3]))),
        )
        .claims(&[7])
        .leaves(slot::PLAIN, 2, ethernet(HOST_B, plain, &[], ethertype::IPV6, &ipv6(64, 17, &udp(&[1, 2, 3])))),
        new(
            "claim_08_source_is_a_real_host",
            "The source is a network card's own address, so the destination is the flow's.",
            plain,
            Mac([0x00, 0x1b, 0x21, 0xab, 0xcd, 0xef]),
        )
        .claims(&[8])
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "claim_09_source_is_a_virtual_host_and_so_is_the_destination",
            "Both addresses are flow addresses of this switch: the destination's flow decides and counts.",
            plain,
            flow(slot::LAST),
        )
        .claims(&[9])
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "claim_09_source_is_another_switchs_virtual_host",
            "A flow address of another switch as source means nothing here.",
            plain,
            NEXT_SWITCH,
        )
        .claims(&[9])
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "claim_10_ethernet_destination",
            "The flow address is the Ethernet destination.",
            flow(slot::FIRST),
            HOST_A,
        )
        .claims(&[10])
        .leaves(slot::FIRST, 2, sent(HOST_B, flow(slot::FIRST))),
        new(
            "claim_11_destination_is_a_real_host",
            "The destination is the default router's own address, the source is the flow's.",
            ROUTER,
            flow(slot::TO_SWITCH),
        )
        .claims(&[11])
        .leaves(slot::TO_SWITCH, 2, sent(NEXT_SWITCH, flow(slot::TO_SWITCH))),
        new(
            "claim_11_destination_is_broadcast",
            "The destination is every host, the source is the flow's: the frame goes to the flow's next hop alone.",
            Mac::BROADCAST,
            plain,
        )
        .claims(&[11])
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "claim_12_destination_is_a_virtual_host",
            "The destination is a virtual host's address.",
            flow(slot::TO_SWITCH),
            HOST_A,
        )
        .claims(&[12])
        .leaves(slot::TO_SWITCH, 2, sent(NEXT_SWITCH, flow(slot::TO_SWITCH))),
        new("the_same_flow_in_both_fields", "Source and destination are one flow's address.", plain, plain)
            .claims(&[9, 12])
            .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "source_flow_is_unknown",
            "The destination's flow is good, but the source is an address of this switch that no flow has.",
            plain,
            flow(slot::FREE),
        )
        .ends(End::UnknownFlow),
        new(
            "source_flow_is_of_another_port",
            "The destination's flow is good, but the source's flow comes in by port 2.",
            plain,
            flow(slot::BACK),
        )
        .claims(&[19])
        .ends(End::WrongPort),
        new(
            "source_flow_has_expired",
            "The destination's flow is good, but the lease of the source's flow has ended.",
            plain,
            flow(slot::EXPIRED),
        )
        .ends(End::Expired),
        new(
            "source_flow_is_pending_and_the_destinations_is_not",
            "The source's flow has no next hop, which does not matter: the destination's has.",
            plain,
            flow(slot::PENDING),
        )
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new(
            "destination_flow_is_pending_and_the_sources_is_not",
            "The destination's flow decides, and it has no next hop yet.",
            flow(slot::PENDING),
            plain,
        )
        .waits(slot::PENDING),
        new(
            "source_flow_is_over_its_rate_and_does_not_pay",
            "Only the destination's flow pays for the frame.",
            plain,
            flow(slot::NARROW),
        )
        .leaves(slot::PLAIN, 2, sent(HOST_B, plain)),
        new("claim_15_first_host_is_real", "Neither address is ours: plain traffic passes untouched.", HOST_B, HOST_A)
            .claims(&[15]),
        new("broadcast_of_a_real_host_passes", "A broadcast is none of ours.", Mac::BROADCAST, HOST_A),
        new(
            "multicast_of_a_real_host_passes",
            "An IPv4 multicast is none of ours.",
            Mac([1, 0, 0x5e, 0, 0, 1]),
            HOST_A,
        ),
        new(
            "addresses_next_to_the_block_pass",
            "The address before the first and the one behind the last of the block are not in it.",
            Mac([0xa2, 0xf0, 0xff, 0xff, 0xff, 0xff]),
            Mac([0xa2, 0xf2, 0, 0, 0, 0]),
        ),
        new(
            "group_address_that_differs_from_the_block_in_one_bit_passes",
            "With the group bit set, the address is not in the block.",
            Mac([0xa3, 0xf1, 0, 0, 0, 1]),
            HOST_A,
        ),
        new("all_zero_addresses_pass", "A frame from nobody to nobody is none of ours.", Mac([0; 6]), Mac([0; 6])),
    ]
}

/// Which hosts follow.
fn second_hosts(setup: &Setup) -> Vec<Vector> {
    let new = |name, sentence, slot: u8| Vector::new(name, sentence, setup, datagram(flow(slot), HOST_A));
    let to = |slot: u8, second| datagram(second, flow(slot));
    let routed = ttl_less_one(&to(slot::ROUTED, ROUTER), 14);
    vec![
        new(
            "claim_13_first_packet_waits",
            "The second host is not known yet: the frame joins the queue.",
            slot::PENDING,
        )
        .claims(&[13])
        .waits(slot::PENDING),
        new("claim_14_second_host_is_virtual", "The next host is the next switch's flow address.", slot::TO_SWITCH)
            .claims(&[14])
            .leaves(slot::TO_SWITCH, 2, to(slot::TO_SWITCH, NEXT_SWITCH)),
        new("claim_16_second_host_is_real", "The last switch hands the frame to the receiver.", slot::PLAIN)
            .claims(&[16])
            .leaves(slot::PLAIN, 2, to(slot::PLAIN, HOST_B)),
        new("claim_16_second_host_is_a_router", "The last switch hands the packet to a router.", slot::ROUTED)
            .claims(&[16])
            .leaves(slot::ROUTED, 2, routed),
        new(
            "claim_17_source_becomes_the_first_host",
            "Ethernet source := first host address, destination := second host address.",
            slot::LAST,
        )
        .claims(&[17])
        .leaves(slot::LAST, 3, to(slot::LAST, HOST_C)),
        new(
            "claim_17_port_that_sends_with_its_own_source",
            "The egress port is set to send with its own address as source.",
            slot::OWN_SOURCE,
        )
        .claims(&[17])
        .leaves(slot::OWN_SOURCE, 5, datagram(HOST_B, PORT_5)),
        new(
            "routed_by_a_port_that_sends_with_its_own_source",
            "At a routed hop too, the port's own address is the source.",
            slot::ROUTED_OWN_SOURCE,
        )
        .leaves(slot::ROUTED_OWN_SOURCE, 5, ttl_less_one(&datagram(ROUTER, PORT_5), 14)),
        Vector::new(
            "source_flow_by_a_port_that_sends_with_its_own_source",
            "The flow address is the source and is replaced by the port's own.",
            setup,
            datagram(HOST_C, flow(slot::OWN_SOURCE)),
        )
        .leaves(slot::OWN_SOURCE, 5, datagram(HOST_B, PORT_5)),
        Vector::new(
            "claim_18_without_looking_at_ip",
            "The next hop is read from the table: what IP says does not matter, and need not be there.",
            setup,
            ethernet(flow(slot::PLAIN), HOST_A, &[], ethertype::IPV4, &[0xff; 50]),
        )
        .claims(&[18])
        .leaves(slot::PLAIN, 2, ethernet(HOST_B, flow(slot::PLAIN), &[], ethertype::IPV4, &[0xff; 50])),
    ]
}

/// The table: keys, ports, leases.
fn table(setup: &Setup) -> Vec<Vector> {
    let new = |name, sentence, destination| Vector::new(name, sentence, setup, datagram(destination, HOST_A));
    let plain = flow(slot::PLAIN);
    vec![
        new("claim_19_frame_from_another_port_is_rejected", "The flow's frames come in by port 1, not by 2.", plain)
            .claims(&[19])
            .by_port(2)
            .ends(End::WrongPort),
        new("claim_19_frame_from_its_port_is_accepted", "A flow of port 2, by port 2.", flow(slot::BACK))
            .claims(&[19])
            .by_port(2)
            .leaves(slot::BACK, 1, datagram(HOST_A, flow(slot::BACK))),
        Vector::new(
            "claim_19_source_from_another_port_is_rejected",
            "A flow address as source is bound to its port as well: nobody else can use it.",
            setup,
            datagram(HOST_C, plain),
        )
        .claims(&[19])
        .by_port(3)
        .ends(End::WrongPort),
        new("claim_19_frame_from_no_port_is_rejected", "A port that is not set up is not the flow's.", plain)
            .claims(&[19])
            .by_port(9)
            .ends(End::WrongPort),
        new("address_of_a_free_slot", "The address is ours, but its slot is free.", flow(slot::FREE))
            .ends(End::UnknownFlow),
        new("stale_tag", "The slot holds a flow of another generation.", flow_address(1, slot::PLAIN).mac())
            .ends(End::UnknownFlow),
        new(
            "tag_that_differs_in_the_highest_bit",
            "All 48 bits are compared.",
            flow_address(1 << 23, slot::PLAIN).mac(),
        )
        .ends(End::UnknownFlow),
        new("tag_zero_of_a_tagged_flow", "The slot's flow has another tag.", flow(slot::TAGGED)).ends(End::UnknownFlow),
        new("last_address_of_the_block", "No flow has it.", Mac([0xa2, 0xf1, 0xff, 0xff, 0xff, 0xff]))
            .ends(End::UnknownFlow),
        Vector::new(
            "unknown_flow_as_source",
            "The source is an address of ours that no flow has.",
            setup,
            datagram(HOST_B, flow_address(7, slot::LAST).mac()),
        )
        .ends(End::UnknownFlow),
        Vector::new(
            "unknown_flow_from_another_port",
            "An unknown flow has no port: the miss is found first.",
            setup,
            readdressed(&datagram(plain, HOST_A), flow(slot::FREE), HOST_A),
        )
        .by_port(3)
        .ends(End::UnknownFlow),
        new("lease_has_ended", "The lease is over; nobody has removed the flow yet.", flow(slot::EXPIRED))
            .ends(End::Expired),
        Vector::new(
            "lease_of_the_source_has_ended",
            "The lease is over; the flow address is the source.",
            setup,
            datagram(HOST_C, flow(slot::EXPIRED)),
        )
        .ends(End::Expired),
        new("lease_is_good", "The lease has time to go.", flow(slot::LEASED)).leaves(
            slot::LEASED,
            2,
            datagram(HOST_B, flow(slot::LEASED)),
        ),
        new("wrong_port_is_said_before_expired", "An expired flow by another port.", flow(slot::EXPIRED))
            .by_port(2)
            .ends(End::WrongPort),
        new("expired_is_said_before_pending", "An expired flow without next hop.", flow(slot::PENDING_EXPIRED))
            .ends(End::Expired),
    ]
}
