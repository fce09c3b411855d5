//! Frames, made and altered octet by octet. Slow and plain on purpose: nothing here is shared with the pipeline.

use flowlane_wire::Mac;

/// EtherTypes and tag protocols.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Customer VLAN tag, IEEE 802.1Q.
    pub const CUSTOMER: u16 = 0x8100;
    /// Service VLAN tag, IEEE 802.1ad.
    pub const SERVICE: u16 = 0x88a8;
    /// LLDP, IEEE 802.1AB.
    pub const LLDP: u16 = 0x88cc;
    /// MPLS unicast.
    pub const MPLS: u16 = 0x8847;
    /// PPPoE session.
    pub const PPPOE: u16 = 0x8864;
    /// Experimental, IEEE 802 local 1.
    pub const LOCAL: u16 = 0x88b5;
    /// Precision time protocol.
    pub const PTP: u16 = 0x88f7;
    /// MACsec.
    pub const MACSEC: u16 = 0x88e5;
}

/// An Ethernet frame: addresses, VLAN tags from the outermost on as (protocol, tag), EtherType, payload.
pub fn ethernet(destination: Mac, source: Mac, tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(destination.0);
    frame.extend(source.0);
    for (protocol, tag) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet from 10.0.0.1 to 10.0.9.9 with a right header checksum.
///
/// # Panics
/// Where `options` is longer than 40 octets or not a multiple of four, or the packet does not fit its length field.
pub fn ipv4(ttl: u8, protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    assert!(options.len() <= 40 && options.len().is_multiple_of(4), "options fill whole words");
    let len = u16::try_from(20 + options.len() + payload.len()).expect("the packet fits its length field");
    let mut packet = vec![0x40 + 5 + (options.len() / 4) as u8, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([ttl, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 9, 9]);
    packet.extend(options);
    let sum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet from 2001:db8::1 to 2001:db8:9::9.
///
/// # Panics
/// Where the payload does not fit its length field.
pub fn ipv6(hop_limit: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("the payload fits its length field");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([next_header, hop_limit]);
    packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    packet.extend(payload);
    packet
}

/// A UDP datagram from port 4000 to port 5000, without checksum.
///
/// # Panics
/// Where the payload does not fit the length field.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("the datagram fits its length field");
    let mut datagram = vec![0x0f, 0xa0, 0x13, 0x88];
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A TCP segment with so many octets of options (whole words). Its checksum is left zero.
pub fn tcp(options: usize, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x0f, 0xa0, 0x13, 0x88, 0, 0, 0, 1, 0, 0, 0, 2];
    segment.push(((20 + options) / 4 * 16) as u8);
    segment.extend([0x10, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(vec![1; options]);
    segment.extend(payload);
    segment
}

/// Octets that differ from their neighbours.
pub fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place * 7 + 3) as u8).collect()
}

/// RFC 1071, over octets whose own checksum field counts as zero.
pub fn internet_checksum(header: &[u8]) -> u16 {
    let mut sum = 0u64;
    for (place, pair) in header.chunks(2).enumerate() {
        if place != 5 {
            sum += u64::from(pair[0]) * 256 + u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = sum % 0x10000 + sum / 0x10000;
    }
    0xffff - sum as u16
}

/// The frame with other addresses.
pub fn readdressed(frame: &[u8], destination: Mac, source: Mac) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[0..6].copy_from_slice(&destination.0);
    changed[6..12].copy_from_slice(&source.0);
    changed
}

/// The frame with another destination.
pub fn with_destination(frame: &[u8], destination: Mac) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[0..6].copy_from_slice(&destination.0);
    changed
}

/// The frame with a time to live less by one in the IPv4 header at `offset`, whose checksum is computed anew.
pub fn ttl_less_one(frame: &[u8], offset: usize) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[offset + 8] -= 1;
    let end = offset + usize::from(frame[offset] % 16) * 4;
    let sum = internet_checksum(&changed[offset..end]);
    changed[offset + 10..offset + 12].copy_from_slice(&sum.to_be_bytes());
    changed
}

/// The frame with a hop limit less by one in the IPv6 header at `offset`.
pub fn hop_limit_less_one(frame: &[u8], offset: usize) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[offset + 7] -= 1;
    changed
}

/// A UDP datagram to another port than [`udp`]'s.
///
/// # Panics
/// Where the payload does not fit the length field.
pub fn udp_to(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = udp(payload);
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram
}

/// The frame with another traffic class (DSCP and ECN) in the IPv4 header at `offset`, whose checksum is computed anew.
pub fn with_tos(frame: &[u8], offset: usize, tos: u8) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[offset + 1] = tos;
    let end = offset + usize::from(frame[offset] % 16) * 4;
    let sum = internet_checksum(&changed[offset..end]);
    changed[offset + 10..offset + 12].copy_from_slice(&sum.to_be_bytes());
    changed
}

/// The frame with another traffic class (DSCP and ECN) in the IPv6 header at `offset`.
pub fn with_traffic_class(frame: &[u8], offset: usize, class: u8) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[offset] = changed[offset] / 16 * 16 + class / 16;
    changed[offset + 1] = class % 16 * 16 + changed[offset + 1] % 16;
    changed
}
