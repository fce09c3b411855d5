//! What is behind the addresses of a flagged packet: protocols, fragments, extension headers, tags, and too little.

use super::super::{HOST_A, HOST_B, ROUTER, flow};
use super::{CUSTOMER, FLAG, GATEWAY, SERVICE, packet_6, packet_with_class, slot, through, to_slot};
use crate::{
    Setup, Vector,
    frames::{
        ethernet, ethertype, hop_limit_less_one, ipv4, ipv6, payload, readdressed, tcp, udp, udp_to, with_tos,
        with_traffic_class,
    },
};
use flowlane_tables::End;

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let lists = [protocols, fragments, extensions, tags, cut_short];
    lists.into_iter().flat_map(|list| list(setup)).collect()
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
