//! Frames for injectors, and what taps see of them.

use etherparse::{PacketBuilder, VlanId};
use flowlane_lab::{Direction, Frame, Link, Mac, Tap};

/// A UDP packet of 10.1.0.2 to 10.2.0.2 with time to live 64 and this payload, in a frame with these addresses.
pub fn udp(destination: Mac, source: Mac, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(source.0, destination.0)
        .ipv4([10, 1, 0, 2], [10, 2, 0, 2], 64)
        .udp(1111, 2222)
        .write(&mut frame, payload)
        .expect("a frame");
    frame
}

/// The same over IPv6, of fd01::2 to fd02::2 with hop limit 64.
pub fn udp6(destination: Mac, source: Mac, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let address = |subnet: u8| [0xfd, subnet, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    PacketBuilder::ethernet2(source.0, destination.0)
        .ipv6(address(1), address(2), 64)
        .udp(1111, 2222)
        .write(&mut frame, payload)
        .expect("a frame");
    frame
}

/// A frame of IPv4 with a VLAN tag.
pub fn tagged(destination: Mac, source: Mac, vlan: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(source.0, destination.0)
        .single_vlan(VlanId::try_new(vlan).expect("12 bits"))
        .ipv4([10, 1, 0, 2], [10, 2, 0, 2], 64)
        .udp(1111, 2222)
        .write(&mut frame, payload)
        .expect("a frame");
    frame
}

/// Sees the frames that come in by a link and end with this payload.
pub fn tap(link: &Link, payload: &'static [u8]) -> Tap {
    let wanted = move |frame: &Frame| frame.direction == Direction::In && frame.bytes.ends_with(payload);
    Tap::start(link, wanted).expect("a tap")
}

/// What a frame becomes: other addresses, and where it is routed a time to live one less, checksum corrected.
pub fn sent_on(frame: &[u8], destination: Mac, source: Mac, routed: bool) -> Vec<u8> {
    let mut sent = frame.to_vec();
    sent[..6].copy_from_slice(&destination.0);
    sent[6..12].copy_from_slice(&source.0);
    if routed && sent[12..14] == [0x08, 0x00] {
        sent[22] -= 1;
        let header = etherparse::Ipv4HeaderSlice::from_slice(&sent[14..34]).expect("an IPv4 header").to_header();
        sent[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else if routed {
        sent[21] -= 1;
    }
    sent
}
