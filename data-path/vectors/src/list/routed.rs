//! Routed hops: the time to live, the checksum, and what is not IP.

use super::{HOST_A, ROUTER, flow, slot};
use crate::{
    Setup, Vector,
    frames::{ethernet, ethertype, hop_limit_less_one, ipv4, ipv6, payload, tcp, ttl_less_one, udp},
};
use flowlane_tables::End;
use flowlane_wire::Mac;

const CUSTOMER: (u16, u16) = (ethertype::CUSTOMER, 0x0064);
const SERVICE: (u16, u16) = (ethertype::SERVICE, 0x0064);

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let mut vectors = version_4(setup);
    vectors.extend(checksums(setup));
    vectors.extend(version_6(setup));
    vectors.extend(malformed(setup));
    vectors.extend(not_ip(setup));
    vectors
}

/// What is sent is the same but for what `less` does.
fn sent(
    setup: &Setup,
    name: impl Into<String>,
    sentence: &str,
    content: (&[(u16, u16)], u16, &[u8]),
    less: impl Fn(&[u8]) -> Vec<u8>,
) -> Vector {
    let (tags, ethertype, payload) = content;
    let frame = |destination, source| ethernet(destination, source, tags, ethertype, payload);
    Vector::new(name, sentence, setup, frame(flow(slot::ROUTED), HOST_A)).leaves(
        slot::ROUTED,
        2,
        less(&frame(ROUTER, flow(slot::ROUTED))),
    )
}

fn arrives(setup: &Setup, name: impl Into<String>, sentence: &str, ethertype: u16, payload: &[u8]) -> Vector {
    Vector::new(name, sentence, setup, ethernet(flow(slot::ROUTED), HOST_A, &[], ethertype, payload))
}

fn version_4(setup: &Setup) -> Vec<Vector> {
    let packet = |ttl| ipv4(ttl, 17, &[], 0, &udp(&payload(20)));
    let less = |frame: &[u8]| ttl_less_one(frame, 14);
    let less_behind_1 = |frame: &[u8]| ttl_less_one(frame, 18);
    let less_behind_2 = |frame: &[u8]| ttl_less_one(frame, 22);
    let v4 = ethertype::IPV4;
    vec![
        sent(setup, "routed_ttl_255", "255 becomes 254.", (&[], v4, &packet(255)), less).claims(&[16, 17]),
        sent(setup, "routed_ttl_2", "2 becomes 1: the next router answers.", (&[], v4, &packet(2)), less),
        arrives(setup, "routed_ttl_1", "1 may not become 0: Linux answers.", v4, &packet(1))
            .goes_to_linux(End::TtlExpired),
        arrives(setup, "routed_ttl_0", "0 should never have come: Linux decides.", v4, &packet(0))
            .goes_to_linux(End::TtlExpired),
        Vector::new(
            "routed_ttl_1_by_source",
            "The flow address is the source, and stays so that Linux can see who sent it.",
            setup,
            ethernet(Mac([2, 9, 9, 9, 9, 9]), flow(slot::ROUTED), &[], v4, &packet(1)),
        )
        .goes_to_linux(End::TtlExpired),
        sent(
            setup,
            "routed_options",
            "The checksum covers the options as well.",
            (&[], v4, &ipv4(9, 17, &[0x94, 4, 0, 0, 7, 3, 0, 1], 0, &udp(&[]))),
            less,
        ),
        sent(
            setup,
            "routed_all_options",
            "40 octets of them.",
            (&[], v4, &ipv4(9, 6, &[1; 40], 0, &tcp(0, &[]))),
            less,
        ),
        sent(setup, "routed_fragment", "A fragment is a packet.", (&[], v4, &ipv4(9, 17, &[], 0x2010, &[7; 64])), less),
        sent(
            setup,
            "routed_without_payload",
            "The frame ends with the IP header.",
            (&[], v4, &ipv4(9, 17, &[], 0, &[])),
            less,
        ),
        sent(setup, "routed_customer_tag", "Behind one tag.", (&[CUSTOMER], v4, &packet(64)), less_behind_1),
        sent(setup, "routed_service_tag", "Behind a provider's tag.", (&[SERVICE], v4, &packet(64)), less_behind_1),
        sent(setup, "routed_two_tags", "Behind two tags.", (&[SERVICE, CUSTOMER], v4, &packet(64)), less_behind_2),
        sent(
            setup,
            "routed_three_tags",
            "Behind three tags nobody looks for IP.",
            (&[SERVICE, CUSTOMER, CUSTOMER], v4, &packet(64)),
            <[u8]>::to_vec,
        ),
        sent(setup, "routed_tag_beside", "One tag beside the frame.", (&[], v4, &packet(64)), less)
            .tag_beside(CUSTOMER.0, CUSTOMER.1)
            .counted_as(1, 14 + 48 + 4),
        sent(
            setup,
            "routed_tag_beside_and_one",
            "One tag beside the frame and one in it are two.",
            (&[CUSTOMER], v4, &packet(64)),
            less_behind_1,
        )
        .tag_beside(SERVICE.0, SERVICE.1)
        .counted_as(1, 18 + 48 + 4),
        sent(
            setup,
            "routed_tag_beside_and_two",
            "One tag beside the frame and two in it are three: nobody looks for IP.",
            (&[CUSTOMER, CUSTOMER], v4, &packet(64)),
            <[u8]>::to_vec,
        )
        .tag_beside(SERVICE.0, SERVICE.1)
        .counted_as(1, 22 + 48 + 4),
    ]
}

/// Packets made so that their checksum is the one wanted: the identification field takes up the difference.
fn with_checksum(wanted: u16, ttl: u8) -> Vec<u8> {
    for identification in 0..=u16::MAX {
        let mut packet = ipv4(ttl, 17, &[], 0, &[1, 2, 3, 4]);
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        let sum = crate::frames::internet_checksum(&packet[..20]);
        if sum == wanted {
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            return packet;
        }
    }
    unreachable!("some identification gives each checksum but ffff")
}

fn checksums(setup: &Setup) -> Vec<Vector> {
    let mut vectors: Vec<Vector> = [
        (0x0000, "becomes 0100"),
        (0x00ff, "becomes 01ff"),
        (0xfe00, "becomes ff00"),
        (0xfefe, "becomes fffe"),
        (0xfeff, "becomes 0000, and not ffff, which RFC 1624 warns of"),
        (0xff00, "becomes 0001: the carry goes round"),
        (0xfffe, "becomes 00ff"),
    ]
    .into_iter()
    .map(|(sum, what)| {
        let packet = with_checksum(sum, 64);
        let name = format!("routed_checksum_{sum:04x}");
        let content: (&[(u16, u16)], u16, &[u8]) = (&[], ethertype::IPV4, &packet);
        sent(setup, name, &format!("The checksum {sum:04x} {what}."), content, |frame| ttl_less_one(frame, 14))
    })
    .collect();
    vectors.push(wrong_checksum(setup));
    vectors.push(negative_zero(setup));
    vectors
}

/// A switch does not repair what was broken before.
fn wrong_checksum(setup: &Setup) -> Vector {
    let mut packet = ipv4(64, 17, &[], 0, &[1, 2, 3, 4]);
    packet[10..12].copy_from_slice(&[0x12, 0x34]);
    let content: (&[(u16, u16)], u16, &[u8]) = (&[], ethertype::IPV4, &packet);
    sent(setup, "routed_wrong_checksum", "A wrong checksum 1234 stays as wrong as it was: 1334.", content, |frame| {
        let mut changed = frame.to_vec();
        (changed[22], changed[24]) = (63, 0x13);
        changed
    })
}

/// `ffff` means zero as well in one's complement; a right sum never is, but a sender may write it.
fn negative_zero(setup: &Setup) -> Vector {
    let mut packet = with_checksum(0x0000, 64);
    packet[10..12].copy_from_slice(&[0xff, 0xff]);
    let content: (&[(u16, u16)], u16, &[u8]) = (&[], ethertype::IPV4, &packet);
    sent(setup, "routed_checksum_ffff", "The checksum ffff, which means 0000, becomes 0100.", content, |frame| {
        ttl_less_one(frame, 14)
    })
}

fn version_6(setup: &Setup) -> Vec<Vector> {
    let packet = |limit| ipv6(limit, 17, &udp(&payload(20)));
    let less = |frame: &[u8]| hop_limit_less_one(frame, 14);
    let v6 = ethertype::IPV6;
    vec![
        sent(setup, "routed_hop_limit_255", "255 becomes 254.", (&[], v6, &packet(255)), less).claims(&[16, 17]),
        sent(setup, "routed_hop_limit_2", "2 becomes 1.", (&[], v6, &packet(2)), less),
        arrives(setup, "routed_hop_limit_1", "Linux answers.", v6, &packet(1)).goes_to_linux(End::TtlExpired),
        arrives(setup, "routed_hop_limit_0", "Linux decides.", v6, &packet(0)).goes_to_linux(End::TtlExpired),
        sent(
            setup,
            "routed_hop_by_hop_header",
            "Extension headers pass as they are.",
            (&[], v6, &ipv6(9, 0, &[59, 0, 5, 2, 0, 0, 1, 0])),
            less,
        ),
        sent(
            setup,
            "routed_ipv6_fragment",
            "So do fragments.",
            (&[], v6, &ipv6(9, 44, &[17, 0, 0, 0xb9, 0, 0, 0, 9, 1])),
            less,
        ),
        sent(setup, "routed_bare_ipv6_header", "The frame ends with it.", (&[], v6, &ipv6(9, 59, &[])), less),
        sent(setup, "routed_tagged_ipv6", "Behind one tag.", (&[CUSTOMER], v6, &packet(9)), |frame| {
            hop_limit_less_one(frame, 18)
        }),
        sent(setup, "routed_twice_tagged_ipv6", "Behind two.", (&[SERVICE, CUSTOMER], v6, &packet(9)), |frame| {
            hop_limit_less_one(frame, 22)
        }),
    ]
}

fn malformed(setup: &Setup) -> Vec<Vector> {
    let v4 = |first: u8| {
        let mut packet = ipv4(64, 17, &[], 0, &udp(&[]));
        packet[0] = first;
        packet
    };
    let v6 = |first: u8| {
        let mut packet = ipv6(64, 17, &udp(&[]));
        packet[0] = first;
        packet
    };
    let mut vectors = vec![
        arrives(setup, "routed_version_6_in_an_ipv4_frame", "The version is wrong.", ethertype::IPV4, &v4(0x65)),
        arrives(setup, "routed_version_0", "The version is wrong.", ethertype::IPV4, &v4(0x05)),
        arrives(setup, "routed_header_of_16_octets", "Shorter than IPv4's header is.", ethertype::IPV4, &v4(0x44)),
        arrives(setup, "routed_header_of_0_octets", "Shorter than IPv4's header is.", ethertype::IPV4, &v4(0x40)),
        arrives(setup, "routed_version_4_in_an_ipv6_frame", "The version is wrong.", ethertype::IPV6, &v6(0x45)),
        arrives(setup, "routed_ipv4_one_octet_short", "It ends within the header.", ethertype::IPV4, &v4(0x45)[..19]),
        arrives(setup, "routed_ipv4_without_header", "It ends before the header.", ethertype::IPV4, &[]),
        arrives(setup, "routed_ipv6_one_octet_short", "It ends within the header.", ethertype::IPV6, &v6(0x60)[..39]),
        arrives(setup, "routed_ipv6_without_header", "It ends before the header.", ethertype::IPV6, &[]),
    ];
    vectors.extend((0..4).map(|len| {
        let name = format!("routed_tag_cut_to_{len}");
        arrives(setup, name, "It ends within its VLAN tag.", ethertype::CUSTOMER, &[0, 100, 0x81, 0x00][..len])
    }));
    vectors.push(arrives(
        setup,
        "routed_second_tag_cut_off",
        "It ends within its second VLAN tag.",
        ethertype::SERVICE,
        &[0, 100, 0x81, 0x00, 0, 1, 8],
    ));
    vectors.into_iter().map(|vector| vector.ends(End::Malformed)).collect()
}

fn not_ip(setup: &Setup) -> Vec<Vector> {
    let as_it_is = <[u8]>::to_vec;
    vec![
        sent(setup, "routed_arp", "There is no time to live in ARP.", (&[], ethertype::ARP, &payload(46)), as_it_is),
        sent(setup, "routed_mpls", "MPLS has its own.", (&[], ethertype::MPLS, &payload(46)), as_it_is),
        sent(setup, "routed_unheard_of", "Who knows.", (&[], 0xfffe, &payload(46)), as_it_is),
        sent(setup, "routed_empty", "Nothing behind the EtherType.", (&[], 0x88b5, &[]), as_it_is),
        sent(setup, "routed_tagged_arp", "Behind a tag.", (&[CUSTOMER], ethertype::ARP, &payload(46)), as_it_is),
    ]
}
