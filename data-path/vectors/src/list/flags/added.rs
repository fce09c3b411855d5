//! The flag is added (claim 23).

use super::super::{HOST_A, claims::datagram, flow};
use super::{CUSTOMER, FLAG, GATEWAY, SERVICE, packet, port, slot, to_slot};
use crate::{
    Setup, Vector,
    frames::{ethernet, ethertype, ipv4, ipv6, payload, udp, with_tos, with_traffic_class},
};
use flowlane_tables::End;
use flowlane_wire::Mac;

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let lists = [added, not_added];
    lists.into_iter().flat_map(|list| list(setup)).collect()
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
