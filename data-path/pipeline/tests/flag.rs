//! The virtual-circuit flag outside of a switch's own work: added by a host, asked of a frame, and frames that waited for a flow.
#![allow(missing_docs)]

use flowlane_pipeline::{Frame, add_flag, is_flagged, withdraw};
use flowlane_tables::PortEntry;
use flowlane_vectors::{
    Buffer,
    frames::{ethernet, ethertype, ipv4, ipv6, with_tos, with_traffic_class},
};
use flowlane_wire::{Flag, Mac};

const HOST: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);

fn version_4(destination: Mac, tos: u8) -> Buffer {
    let frame = ethernet(destination, HOST, &[], ethertype::IPV4, &ipv4(64, 17, &[], 0, &[1, 2, 3]));
    Buffer::plain(with_tos(&frame, 14, tos))
}

fn version_6(destination: Mac, class: u8) -> Buffer {
    let frame = ethernet(destination, HOST, &[], ethertype::IPV6, &ipv6(64, 17, &[1, 2, 3]));
    Buffer::plain(with_traffic_class(&frame, 14, class))
}

#[test]
fn only_ip_packets_with_the_flag_to_one_host_are_flagged() {
    let (with, without) = (3 << 2, 46 << 2);
    for packet in [version_4, version_6] {
        assert!(is_flagged(&mut packet(HOST, with), Flag::DEFAULT));
        assert!(!is_flagged(&mut packet(HOST, without), Flag::DEFAULT));
        assert!(!is_flagged(&mut packet(GROUP, with), Flag::DEFAULT));
        let cut = Buffer::plain(packet(HOST, with).octets[..13].to_vec());
        assert!(!is_flagged(&mut cut.clone(), Flag::DEFAULT));
    }
    let other = ethernet(HOST, HOST, &[], ethertype::ARP, &ipv4(64, 17, &[], 0, &[]));
    assert!(!is_flagged(&mut Buffer::plain(other), Flag::DEFAULT));
}

#[test]
fn a_host_adds_the_flag_and_changes_nothing_else() {
    for tos in 0..=255 {
        let flagged = tos | 3 << 2;
        for packet in [version_4, version_6] {
            let mut frame = packet(HOST, tos);
            add_flag(&mut frame, Flag::DEFAULT);
            assert_eq!(frame, packet(HOST, flagged), "{tos:#x}");
        }
    }
    let other = Buffer::plain(ethernet(HOST, HOST, &[], ethertype::ARP, &[0x45; 40]));
    let mut frame = other.clone();
    add_flag(&mut frame, Flag::DEFAULT);
    assert_eq!(frame, other);
}

/// In one's complement a sum has a carry that goes round, which may bring about another carry.
#[test]
fn a_checksum_is_as_wrong_with_the_flag_as_it_was_without() {
    let right = |frame: &Buffer| u32::from(u16::from_be_bytes([frame.octets[24], frame.octets[25]]));
    for tos in [0, 4, 46 << 2, 0xfc - 4] {
        let (before, after) = (version_4(HOST, tos), version_4(HOST, tos | 3 << 2));
        for sum in 0..=u16::MAX {
            let mut frame = before.clone();
            frame.octets[24..26].copy_from_slice(&sum.to_be_bytes());
            add_flag(&mut frame, Flag::DEFAULT);
            let error = |sum: u32, right: u32| (sum + 0xffff - right) % 0xffff;
            let expected = error(sum.into(), right(&before));
            assert_eq!(error(right(&frame), right(&after)), expected, "{tos:#x}, {sum:#x}");
        }
    }
}

#[test]
fn a_frame_that_asked_is_taken_off_the_count_and_the_count_never_falls_below_none() {
    let port = PortEntry::default();
    port.asking().store(2);
    for left in [1, 0, 0] {
        withdraw(&port);
        assert_eq!(port.asking().load(), left);
    }
}

#[test]
fn a_frame_is_empty_where_it_has_no_octets() {
    let none: &mut [u8] = &mut [];
    assert!(Frame::is_empty(&none) && Frame::is_empty(&Buffer::plain(Vec::new())));
    assert!(!Frame::is_empty(&version_4(HOST, 0)));
}
