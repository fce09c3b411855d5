//! Lengths: runts, frames about as large as an MTU, jumbo frames, super-packets.

use super::{HOST_A, HOST_B, ROUTER, flow, slot};
use crate::{
    Setup, Vector,
    frames::{ethernet, ethertype, ipv4, ipv6, payload, tcp, ttl_less_one, udp},
};
use flowlane_tables::End;

const CUSTOMER: (u16, u16) = (ethertype::CUSTOMER, 0x0064);
const SERVICE: (u16, u16) = (ethertype::SERVICE, 0x0064);

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let mut vectors = runts(setup);
    vectors.extend(mtu(setup));
    vectors.extend(tagged_mtu(setup));
    vectors.extend(routed_mtu(setup));
    vectors.extend(super_packets(setup));
    vectors
}

fn runts(setup: &Setup) -> Vec<Vector> {
    let whole = ethernet(flow(slot::PLAIN), HOST_A, &[], ethertype::IPV4, &payload(46));
    let runt = |len: usize| {
        let sentence = format!("A frame of {len} octets has no whole Ethernet header.");
        Vector::new(format!("runt_of_{len}"), sentence, setup, whole[..len].to_vec()).ends(End::Truncated)
    };
    let short = |len: usize| {
        let frame = ethernet(HOST_B, flow(slot::PLAIN), &[], ethertype::IPV4, &payload(46));
        let sentence = format!("{len} octets are an Ethernet header, and that is all that a flow needs.");
        Vector::new(format!("short_frame_of_{len}"), sentence, setup, whole[..len].to_vec()).leaves(
            slot::PLAIN,
            2,
            frame[..len].to_vec(),
        )
    };
    (0..14).map(runt).chain((14..=60).step_by(2).map(short)).collect()
}

/// A frame of `len` octets without tags, of another host's.
fn of(slot: u8, tags: &[(u16, u16)], ip_len: usize) -> (Vec<u8>, Vec<u8>) {
    let packet = ipv4(64, 17, &[], 0, &udp(&payload(ip_len - 28)));
    let frame = |destination, source| ethernet(destination, source, tags, ethertype::IPV4, &packet);
    (frame(flow(slot), HOST_A), frame(HOST_B, flow(slot)))
}

fn mtu(setup: &Setup) -> Vec<Vector> {
    let fits = |name: &str, sentence: &str, slot, port, ip_len| {
        let (arrives, leaves) = of(slot, &[], ip_len);
        Vector::new(name, sentence, setup, arrives).leaves(slot, port, leaves)
    };
    let too_big = |name: &str, sentence: &str, slot, ip_len| {
        Vector::new(name, sentence, setup, of(slot, &[], ip_len).0).ends(End::TooBig)
    };
    vec![
        fits("mtu_exactly", "A packet of 1500 octets fits an MTU of 1500.", slot::PLAIN, 2, 1500),
        fits("mtu_less_one", "One of 1499 does so, too.", slot::PLAIN, 2, 1499),
        too_big("mtu_and_one", "One of 1501 does not.", slot::PLAIN, 1501),
        too_big("mtu_and_four", "A frame of 4 octets too many is no tagged frame.", slot::PLAIN, 1504),
        fits("small_mtu_exactly", "600 octets by a port of MTU 600.", slot::SMALL, 7, 600),
        too_big("small_mtu_and_one", "601 do not fit.", slot::SMALL, 601),
        fits("jumbo_2000", "A frame of 2000 octets by a port for jumbo frames.", slot::JUMBO, 6, 2000),
        fits("jumbo_9000", "A jumbo frame.", slot::JUMBO, 6, 9000),
        too_big("jumbo_9001", "Too large for the jumbo port.", slot::JUMBO, 9001),
        too_big("jumbo_to_a_small_port", "A jumbo frame by a port of MTU 1500.", slot::PLAIN, 9000),
        Vector::new(
            "jumbo_passes",
            "A jumbo frame of real hosts is Linux's business.",
            setup,
            ethernet(HOST_B, HOST_A, &[], ethertype::IPV4, &ipv4(64, 17, &[], 0, &payload(8980))),
        ),
        Vector::new(
            "too_big_and_over_its_rate",
            "The size is looked at before the meter.",
            setup,
            of(slot::NARROW, &[], 1501).0,
        )
        .ends(End::TooBig),
    ]
}

fn tagged_mtu(setup: &Setup) -> Vec<Vector> {
    let fits = |name: &str, sentence: &str, tags: &[(u16, u16)], ip_len| {
        let (arrives, leaves) = of(slot::PLAIN, tags, ip_len);
        Vector::new(name, sentence, setup, arrives).leaves(slot::PLAIN, 2, leaves)
    };
    let too_big = |name: &str, sentence: &str, tags: &[(u16, u16)], ip_len| {
        Vector::new(name, sentence, setup, of(slot::PLAIN, tags, ip_len).0).ends(End::TooBig)
    };
    vec![
        fits("tagged_mtu_exactly", "The MTU does not include one tag.", &[CUSTOMER], 1500),
        fits("service_tagged_mtu_exactly", "Whichever it is.", &[SERVICE], 1500),
        too_big("tagged_mtu_and_one", "1501 octets behind a tag.", &[CUSTOMER], 1501),
        fits("twice_tagged_mtu_less_four", "The second tag is included.", &[SERVICE, CUSTOMER], 1496),
        too_big("twice_tagged_mtu_less_three", "So one octet more does not fit.", &[SERVICE, CUSTOMER], 1497),
        too_big("twice_tagged_mtu_exactly", "Nor do four.", &[SERVICE, CUSTOMER], 1500),
        fits("mtu_exactly_tag_beside", "A tag beside the frame is not included either.", &[], 1500)
            .tag_beside(CUSTOMER.0, CUSTOMER.1)
            .counted_as(1, 1518),
        too_big("mtu_and_one_tag_beside", "1501 octets with a tag beside.", &[], 1501)
            .tag_beside(CUSTOMER.0, CUSTOMER.1),
        too_big("tagged_mtu_exactly_tag_beside", "The second tag is included.", &[CUSTOMER], 1500)
            .tag_beside(SERVICE.0, SERVICE.1),
    ]
}

fn routed_mtu(setup: &Setup) -> Vec<Vector> {
    let v4 = |name: &str, sentence: &str, slot, fragment, ip_len: usize| {
        let packet = ipv4(64, 17, &[], fragment, &payload(ip_len - 20));
        Vector::new(name, sentence, setup, ethernet(flow(slot), HOST_A, &[], ethertype::IPV4, &packet))
    };
    let v6 = ipv6(64, 17, &udp(&payload(553)));
    let fits = v4("routed_mtu_exactly", "600 octets to an MTU of 600.", slot::ROUTED_SMALL, 0, 600);
    let left = ttl_less_one(&crate::frames::readdressed(&fits.frame, ROUTER, flow(slot::ROUTED_SMALL)), 14);
    let tagged =
        ethernet(flow(slot::ROUTED_SMALL), HOST_A, &[CUSTOMER], ethertype::IPV4, &ipv4(64, 17, &[], 0, &[0; 581]));
    let slot = slot::ROUTED_SMALL;
    vec![
        fits.leaves(slot, 7, left),
        v4("routed_mtu_and_one", "Linux fragments it.", slot, 0, 601).goes_to_linux(End::TooBigRouted),
        v4("routed_mtu_and_one_unfragmentable", "Linux says how much fits (RFC 1191).", slot, 0x4000, 601)
            .goes_to_linux(End::TooBigRouted),
        v4("routed_jumbo_too_large", "9001 octets to an MTU of 9000.", slot::ROUTED_JUMBO, 0, 9001)
            .goes_to_linux(End::TooBigRouted),
        Vector::new(
            "routed_ipv6_mtu_and_one",
            "Linux says how much fits (RFC 8201).",
            setup,
            ethernet(flow(slot), HOST_A, &[], ethertype::IPV6, &v6),
        )
        .goes_to_linux(End::TooBigRouted),
        Vector::new("routed_tagged_mtu_and_one", "Behind a tag.", setup, tagged).goes_to_linux(End::TooBigRouted),
        Vector::new(
            "routed_mtu_and_one_of_something_else",
            "What is not IP can not be answered: it is dropped.",
            setup,
            ethernet(flow(slot), HOST_A, &[], ethertype::MPLS, &payload(601)),
        )
        .ends(End::TooBig),
        v4("routed_too_big_and_over_its_rate", "The size is first.", slot::ROUTED_EXHAUSTED_SMALL, 0, 601)
            .goes_to_linux(End::TooBigRouted),
        v4("routed_too_big_and_ttl_1", "The size is looked at before the time to live.", slot, 0, 601)
            .with_ttl_1()
            .goes_to_linux(End::TooBigRouted),
    ]
}

impl Vector {
    /// Sets the time to live of an untagged IPv4 frame without looking after its checksum.
    fn with_ttl_1(mut self) -> Self {
        self.frame[22] = 1;
        self
    }
}

/// Super-packets are counted, metered and measured as the frames that they will be on the wire.
fn super_packets(setup: &Setup) -> Vec<Vector> {
    let new = |name: &str, sentence: &str, slot: u8, content: (&[(u16, u16)], u16, &[u8])| {
        let frame = |destination, source| ethernet(destination, source, content.0, content.1, content.2);
        Vector::new(name, sentence, setup, frame(flow(slot), HOST_A)).leaves(slot, 2, frame(HOST_B, flow(slot)))
    };
    let tcp4 = |options, len| ipv4(64, 6, &[], 0, &tcp(options, &payload(len)));
    let v4 = ethertype::IPV4;
    vec![
        new(
            "segments_three",
            "3000 octets in segments of 1000 are three frames of 1054.",
            slot::PLAIN,
            (&[], v4, &tcp4(0, 3000)),
        )
        .segments_of(1000)
        .counted_as(3, 3 * 1054),
        new("segments_with_a_rest", "3001 octets are four frames.", slot::PLAIN, (&[], v4, &tcp4(0, 3001)))
            .segments_of(1000)
            .counted_as(4, 3 * 1054 + 55),
        new("segments_with_tcp_options", "The options are in each.", slot::PLAIN, (&[], v4, &tcp4(12, 2896)))
            .segments_of(1448)
            .counted_as(2, 2 * 1514),
        new(
            "segments_of_udp",
            "UDP's header is in each.",
            slot::PLAIN,
            (&[], v4, &ipv4(64, 17, &[], 0, &udp(&payload(2400)))),
        )
        .segments_of(1200)
        .counted_as(2, 2 * 1242),
        new(
            "segments_over_ipv6",
            "IPv6's header is in each.",
            slot::PLAIN,
            (&[], ethertype::IPV6, &ipv6(64, 6, &tcp(0, &payload(2000)))),
        )
        .segments_of(1000)
        .counted_as(2, 2 * 1074),
        new(
            "segments_with_ip_options",
            "IPv4's options are in each.",
            slot::PLAIN,
            (&[], v4, &ipv4(64, 6, &[1; 40], 0, &tcp(0, &payload(2000)))),
        )
        .segments_of(1000)
        .counted_as(2, 2 * 1094),
        new("segments_tagged", "The tag is in each.", slot::PLAIN, (&[CUSTOMER], v4, &tcp4(0, 2000)))
            .segments_of(1000)
            .counted_as(2, 2 * 1058),
        new("segments_tag_beside", "The tag beside is in each.", slot::PLAIN, (&[], v4, &tcp4(0, 2000)))
            .tag_beside(CUSTOMER.0, CUSTOMER.1)
            .segments_of(1000)
            .counted_as(2, 2 * 1058),
        new("segments_of_one", "What fits one segment is one frame.", slot::PLAIN, (&[], v4, &tcp4(0, 900)))
            .segments_of(1000),
        new("segments_that_fit_exactly", "1460 octets and headers are 1500.", slot::PLAIN, (&[], v4, &tcp4(0, 2920)))
            .segments_of(1460)
            .counted_as(2, 2 * 1514),
        Vector::new(
            "segments_that_do_not_fit",
            "1461 octets and headers are 1501.",
            setup,
            ethernet(flow(slot::PLAIN), HOST_A, &[], v4, &tcp4(0, 2922)),
        )
        .segments_of(1461)
        .ends(End::TooBig),
        Vector::new(
            "segments_over_the_rate",
            "A super-packet is dropped whole.",
            setup,
            ethernet(flow(slot::EXHAUSTED), HOST_A, &[], v4, &tcp4(0, 2920)),
        )
        .segments_of(1460)
        .ends(End::OverRate),
    ]
}
