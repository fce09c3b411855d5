//! What a frame carries does not matter, except at a routed hop: tags, ARP, fragments, encrypted, unheard of.

use super::{HOST_A, HOST_B, NEXT_SWITCH, flow, slot};
use crate::{
    Setup, Vector,
    frames::{ethernet, ethertype, ipv4, ipv6, payload, tcp, udp},
};
use flowlane_wire::Mac;

const CUSTOMER: (u16, u16) = (ethertype::CUSTOMER, 0x2064);
const SERVICE: (u16, u16) = (ethertype::SERVICE, 0x0fff);

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let mut vectors = forwarded(setup);
    vectors.extend(with_source(setup));
    vectors.extend(passed(setup));
    vectors
}

/// Something to carry: name, tags, EtherType, payload.
type Content = (&'static str, Vec<(u16, u16)>, u16, Vec<u8>);

/// Everything that a flow may carry.
fn contents() -> Vec<Content> {
    let v4 = || ipv4(64, 17, &[], 0, &udp(&payload(20)));
    let v6 = || ipv6(64, 17, &udp(&payload(20)));
    let untagged = |name, ethertype, payload| (name, vec![], ethertype, payload);
    let arp = vec![
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0xaa, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let lldp = vec![2, 7, 4, 2, 0, 0, 0, 0xaa, 1, 4, 2, 5, b'1', 6, 2, 0, 120, 0, 0];
    vec![
        untagged("ipv4_udp", ethertype::IPV4, v4()),
        untagged("ipv4_tcp", ethertype::IPV4, ipv4(64, 6, &[], 0, &tcp(12, &payload(100)))),
        untagged("ipv4_icmp", ethertype::IPV4, ipv4(64, 1, &[], 0, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0])),
        untagged("ipv4_with_options", ethertype::IPV4, ipv4(64, 17, &[0x94, 4, 0, 0, 1, 1, 1, 0], 0, &udp(&[1]))),
        untagged("ipv4_with_all_options", ethertype::IPV4, ipv4(64, 17, &[1; 40], 0, &udp(&[1]))),
        untagged("ipv4_first_fragment", ethertype::IPV4, ipv4(64, 17, &[], 0x2000, &udp(&payload(32)))),
        untagged("ipv4_last_fragment", ethertype::IPV4, ipv4(64, 17, &[], 0x00b9, &payload(40))),
        untagged("ipv4_that_must_not_be_fragmented", ethertype::IPV4, ipv4(64, 17, &[], 0x4000, &udp(&[]))),
        untagged("ipv4_with_ttl_0", ethertype::IPV4, ipv4(0, 17, &[], 0, &udp(&[]))),
        untagged("ipv4_with_ttl_1", ethertype::IPV4, ipv4(1, 17, &[], 0, &udp(&[]))),
        untagged("ipv4_cut_short", ethertype::IPV4, v4()[..11].to_vec()),
        untagged("ipv4_encrypted", ethertype::IPV4, ipv4(64, 50, &[], 0, &payload(80))),
        untagged("ipv6_udp", ethertype::IPV6, v6()),
        untagged("ipv6_hop_by_hop", ethertype::IPV6, ipv6(64, 0, &[17, 0, 5, 2, 0, 0, 1, 0, 0, 1, 0, 2, 0, 8, 0, 0])),
        untagged("ipv6_routing_header", ethertype::IPV6, ipv6(64, 43, &[59, 0, 4, 0, 0, 0, 0, 0])),
        untagged("ipv6_destination_options", ethertype::IPV6, ipv6(64, 60, &[59, 0, 1, 4, 0, 0, 0, 0])),
        untagged("ipv6_fragment", ethertype::IPV6, ipv6(64, 44, &[17, 0, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8])),
        untagged("ipv6_no_next_header", ethertype::IPV6, ipv6(64, 59, &[])),
        untagged("ipv6_cut_short", ethertype::IPV6, v6()[..20].to_vec()),
        untagged("arp", ethertype::ARP, arp),
        untagged("lldp", ethertype::LLDP, lldp),
        untagged("mpls", ethertype::MPLS, payload(50)),
        untagged("pppoe", ethertype::PPPOE, payload(50)),
        untagged("ptp", ethertype::PTP, payload(44)),
        untagged("macsec", ethertype::MACSEC, payload(64)),
        untagged("local_experimental", ethertype::LOCAL, payload(46)),
        untagged("unheard_of_ethertype", 0xfffe, payload(46)),
        untagged("ethertype_zero", 0, payload(46)),
        untagged("length_instead_of_ethertype", 46, payload(46)),
        untagged("nothing", 0x0800, vec![]),
        untagged("a_customer_tag_cut_off_at_once", ethertype::CUSTOMER, vec![]),
        untagged("a_customer_tag_cut_off_in_the_middle", ethertype::CUSTOMER, vec![0x20]),
        ("customer_tag_ipv4", vec![CUSTOMER], ethertype::IPV4, v4()),
        ("service_tag_ipv4", vec![SERVICE], ethertype::IPV4, v4()),
        ("priority_tag_ipv6", vec![(ethertype::CUSTOMER, 0xe000)], ethertype::IPV6, v6()),
        ("two_tags_ipv4", vec![SERVICE, CUSTOMER], ethertype::IPV4, v4()),
        ("two_customer_tags_ipv6", vec![CUSTOMER, CUSTOMER], ethertype::IPV6, v6()),
        ("three_tags_ipv4", vec![SERVICE, SERVICE, CUSTOMER], ethertype::IPV4, v4()),
        ("one_tag_arp", vec![CUSTOMER], ethertype::ARP, payload(46)),
    ]
}

fn forwarded(setup: &Setup) -> Vec<Vector> {
    let vector = |(name, tags, ethertype, payload): Content| {
        let frame = |destination, source| ethernet(destination, source, &tags, ethertype, &payload);
        let first = flow(slot::PLAIN);
        Vector::new(
            format!("carries_{name}"),
            "A flow carries it, and only the two addresses change.",
            setup,
            frame(first, HOST_A),
        )
        .claims(&[10, 17, 18])
        .leaves(slot::PLAIN, 2, frame(HOST_B, first))
    };
    contents().into_iter().map(vector).collect()
}

fn with_source(setup: &Setup) -> Vec<Vector> {
    let vector = |(name, tags, ethertype, payload): Content| {
        let frame = |destination, source| ethernet(destination, source, &tags, ethertype, &payload);
        let first = flow(slot::TO_SWITCH);
        Vector::new(
            format!("carries_by_source_{name}"),
            "The same with the flow address as source, on to the next switch.",
            setup,
            frame(Mac([0x02, 1, 2, 3, 4, 5]), first),
        )
        .claims(&[7, 14, 17, 18])
        .leaves(slot::TO_SWITCH, 2, frame(NEXT_SWITCH, first))
    };
    contents().into_iter().map(vector).collect()
}

fn passed(setup: &Setup) -> Vec<Vector> {
    let vector = |(name, tags, ethertype, payload): Content| {
        let frame = ethernet(HOST_B, HOST_A, &tags, ethertype, &payload);
        Vector::new(format!("passes_{name}"), "Between real hosts it passes untouched.", setup, frame)
    };
    contents().into_iter().map(vector).collect()
}
