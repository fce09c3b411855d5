//! How a frame counts: as the frames that it is on the wire.

use crate::{
    Arrival,
    packet::{Packet, is_tagged},
};

/// Addresses and EtherType.
const ETHERNET: u64 = 14;
const TAG: u64 = 4;

/// The size of what goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// How many frames.
    pub(crate) frames: u64,
    /// All their octets, without preamble and check sequence.
    pub(crate) octets: u64,
    /// What the largest of them takes of an MTU: neither the Ethernet header counts, nor the outermost tag.
    pub(crate) largest: u64,
}

impl Size {
    /// A super-packet is cut into frames of `gso_size` octets of payload each; the last may have less. Every one of
    /// them has the headers of the whole.
    pub(crate) fn of(arrival: &Arrival) -> Self {
        let len = arrival.octets.len() as u64 + if arrival.tag_beside { TAG } else { 0 };
        let outside = ETHERNET + if is_tagged(arrival) { TAG } else { 0 };
        let whole = Self { frames: 1, octets: len, largest: len.saturating_sub(outside) };
        let (Some(headers), segment) = (headers(arrival), u64::from(arrival.gso_size)) else { return whole };
        if segment == 0 || len <= headers + segment {
            return whole;
        }
        let frames = (len - headers).div_ceil(segment);
        Self { frames, octets: len + (frames - 1) * headers, largest: headers + segment - outside }
    }
}

/// The length of all headers of a TCP segment or a UDP datagram, a tag beside included. None for other packets.
///
/// Whether the IP header makes sense is not asked: super-packets are made by the kernel.
fn headers(arrival: &Arrival) -> Option<u64> {
    let octets = &arrival.octets;
    let (transport, protocol) = match Packet::of(arrival) {
        Packet::V4(start) => {
            let header = octets.get(start..start + 20)?;
            (start + usize::from(header[0] % 16) * 4, header[9])
        }
        Packet::V6(start) => (start + 40, octets.get(start..start + 40)?[6]),
        Packet::Other | Packet::Cut => return None,
    };
    let len = match protocol {
        TCP => usize::from(octets.get(transport + 12)? / 16) * 4,
        UDP => 8,
        _ => return None,
    };
    Some((transport + len) as u64 + if arrival.tag_beside { TAG } else { 0 })
}

/// RFC 9293.
const TCP: u8 = 6;
/// RFC 768.
const UDP: u8 = 17;
