//! Frames of any length and content: nothing panics, and nothing changes that should not.

use flowlane_pipeline::{Verdict, run};
use flowlane_tables::{NextHop, PortFlags, Resolution};
use flowlane_vectors::{
    Buffer, Flow, Lease, Memory, Meter, Port, Setup, flow_address,
    frames::{ethernet, ethertype, internet_checksum, ipv4, ipv6},
};
use flowlane_wire::{Mac, PortId, Restore};
use proptest::prelude::*;

const HOP: Mac = Mac([2, 0, 0, 0, 0, 0xbb]);
const HOST: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
/// The slots: one flow whose hop is routed, one whose hop is not, one with a small MTU ahead.
const ROUTED: u8 = 1;
const DIRECT: u8 = 2;
const SMALL: u8 = 3;

fn tables() -> Memory {
    let port = |id: u8, mtu| Port {
        id: PortId(u16::from(id)),
        mac: Mac([2, 0, 0, 0, 0, id]),
        mtu,
        flags: PortFlags::UP,
        flag: None,
        asking: 0,
    };
    let flow = |slot, port, routed| Flow {
        address: flow_address(0, slot),
        port: PortId(1),
        lease: Lease::Never,
        next: Resolution::Resolved(NextHop { mac: HOP, port: PortId(port), routed }),
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Keep,
    };
    let flows = vec![flow(ROUTED, 2, true), flow(DIRECT, 2, false), flow(SMALL, 3, true)];
    Memory::new(&Setup { ports: vec![port(1, 9000), port(2, 9300), port(3, 300)], flows, ..Setup::default() }, 0)
}

/// Where the octets that a routed hop may change stand: the time to live and checksum of IPv4, the hop limit of IPv6,
/// behind at most two tags. Written without looking at how the pipeline does it.
fn may_change(frame: &[u8]) -> Vec<usize> {
    let mut at = 12;
    let mut tags = 0;
    while let Some(ethertype) = frame.get(at..at + 2) {
        match ethertype {
            [0x81, 0x00] | [0x88, 0xa8] if tags < 2 => (at, tags) = (at + 4, tags + 1),
            [0x08, 0x00] => return vec![at + 10, at + 12, at + 13],
            [0x86, 0xdd] => return vec![at + 9],
            _ => break,
        }
    }
    Vec::new()
}

fn check(memory: &Memory, original: &[u8]) {
    let mut frame = Buffer::plain(original.to_vec());
    let verdict = run(&mut frame, PortId(1), memory, &mut ());
    let now = frame.octets;
    assert_eq!(now.len(), original.len());
    let routed = original.get(5).is_some_and(|slot| *slot != DIRECT);
    let may_change = if routed { may_change(original) } else { Vec::new() };
    let changed = |(place, (a, b)): (usize, (&u8, &u8))| (a != b).then_some(place);
    let changed: Vec<usize> = original.iter().zip(&now).enumerate().filter_map(changed).collect();
    let changed_behind: Vec<usize> = changed.iter().copied().filter(|place| *place >= 12).collect();
    match verdict {
        Verdict::Forward { .. } => {
            assert_eq!(now[..6], HOP.0);
            assert_eq!(now[6..12], original[..6]);
            assert!(changed_behind.iter().all(|place| may_change.contains(place)), "{changed:?} of {original:02x?}");
        }
        Verdict::ToLinux(_) => {
            assert_eq!(now[..6], [2, 0, 0, 0, 0, 1]);
            assert!(changed.iter().all(|place| *place < 6), "{changed:?} of {original:02x?}");
        }
        _ => assert!(changed.is_empty(), "{changed:?} of {original:02x?} that is {verdict:?}"),
    }
}

/// The start of a frame, in the ways that matter, followed by anything.
fn starts() -> Vec<Vec<u8>> {
    let mut starts = vec![Vec::new()];
    for slot in [ROUTED, DIRECT, SMALL] {
        for behind in
            [&[0x08, 0x00, 0x45][..], &[0x86, 0xdd, 0x60], &[0x81, 0x00], &[0x88, 0xa8, 0, 1, 0x81, 0x00, 0, 1]]
        {
            let mut start = flow_address(0, slot).mac().0.to_vec();
            start.extend(HOST.0);
            start.extend(behind);
            starts.push(start);
        }
    }
    starts
}

#[test]
fn no_length_panics_and_only_addresses_time_to_live_and_checksum_change() {
    let (memory, mut random) = (tables(), 0x9e37_79b9_7f4a_7c15u64);
    let starts = starts();
    for len in 0..=9216 {
        for start in &starts {
            let mut frame: Vec<u8> = start.iter().copied().take(len).collect();
            while frame.len() < len {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                frame.extend(random.to_ne_bytes().iter().take(len - frame.len()));
            }
            check(&memory, &frame);
        }
    }
}

fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let tag = (prop_oneof![Just(ethertype::CUSTOMER), Just(ethertype::SERVICE)], any::<u16>());
    prop::collection::vec(tag, 0..=2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_octets_change_as_allowed(mut frame in prop::collection::vec(any::<u8>(), 0..200), slot in 1u8..=3, cut: bool) {
        if !cut && frame.len() >= 6 {
            frame[..6].copy_from_slice(&flow_address(0, slot).mac().0);
        }
        check(&tables(), &frame);
    }

    #[test]
    fn a_right_ipv4_checksum_stays_right(
        ttl in 2u8..,
        identification: u16,
        options in 0usize..=10,
        addresses: [u8; 8],
        tags in tags(),
    ) {
        let mut packet = ipv4(ttl, 17, &vec![1; options * 4], 0, &[0xab; 30]);
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        packet[12..20].copy_from_slice(&addresses);
        let header = 20 + options * 4;
        let sum = internet_checksum(&packet[..header]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let frame = ethernet(flow_address(0, ROUTED).mac(), HOST, &tags, ethertype::IPV4, &packet);
        let mut sent = Buffer::plain(frame);
        let verdict = run(&mut sent, PortId(1), &tables(), &mut ());
        prop_assert!(matches!(verdict, Verdict::Forward { .. }), "{:?}", verdict);
        let at = 14 + 4 * tags.len();
        prop_assert_eq!(sent.octets[at + 8], ttl - 1);
        let expected = internet_checksum(&sent.octets[at..at + header]);
        prop_assert_eq!(u16::from_be_bytes([sent.octets[at + 10], sent.octets[at + 11]]), expected);
    }

    #[test]
    fn a_wrong_ipv4_checksum_stays_as_wrong(ttl in 2u8.., sum: u16) {
        let mut packet = ipv4(ttl, 17, &[], 0, &[]);
        let right = internet_checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut sent = Buffer::plain(ethernet(flow_address(0, ROUTED).mac(), HOST, &[], ethertype::IPV4, &packet));
        run(&mut sent, PortId(1), &tables(), &mut ());
        let right_now = internet_checksum(&sent.octets[14..34]);
        let now = u16::from_be_bytes([sent.octets[24], sent.octets[25]]);
        // In one's complement, 0000 and ffff are the same.
        let error = |sum: u16, right: u16| (u32::from(sum) + 0xffff - u32::from(right)) % 0xffff;
        prop_assert_eq!(error(now, right_now), error(sum, right));
    }

    #[test]
    fn a_hop_limit_is_one_less(limit in 2u8.., tags in tags(), next in any::<u8>()) {
        let packet = ipv6(limit, next, &[1, 2, 3, 4]);
        let mut sent = Buffer::plain(ethernet(flow_address(0, ROUTED).mac(), HOST, &tags, ethertype::IPV6, &packet));
        run(&mut sent, PortId(1), &tables(), &mut ());
        let mut expected = packet;
        expected[7] -= 1;
        prop_assert_eq!(&sent.octets[14 + 4 * tags.len()..], &expected[..]);
    }

    #[test]
    fn a_tag_beside_the_frame_is_as_good_as_one_in_it(
        tags in prop::collection::vec((prop_oneof![Just(ethertype::CUSTOMER), Just(ethertype::SERVICE)], any::<u16>()), 1..=4),
        slot in 1u8..=3,
        len in 20usize..400,
        ttl in 0u8..4,
    ) {
        let packet = ipv4(ttl, 17, &[], 0, &vec![7; len - 20]);
        let destination = flow_address(0, slot).mac();
        let mut within = Buffer::plain(ethernet(destination, HOST, &tags, ethertype::IPV4, &packet));
        let mut beside = Buffer::plain(ethernet(destination, HOST, &tags[1..], ethertype::IPV4, &packet));
        beside.tag_beside = true;
        let (a, b) = (tables(), tables());
        prop_assert_eq!(run(&mut within, PortId(1), &a, &mut ()), run(&mut beside, PortId(1), &b, &mut ()));
        prop_assert_eq!(&within.octets[..12], &beside.octets[..12]);
        prop_assert_eq!(&within.octets[16..], &beside.octets[12..]);
        for (a, b) in a.slots.iter().zip(&b.slots) {
            prop_assert_eq!(a.flow(), b.flow());
        }
    }
}
