//! Reading a frame: its two addresses always, what is behind them only where a step needs it.

use crate::{Frame, Observer, Step, Verdict};
use flowlane_tables::End;
use flowlane_wire::{
    Mac,
    header::{ethernet, ipv4, ipv6, protocol},
};

/// The two addresses of a frame, as numbers.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub destination: u64,
    pub source: u64,
}

/// Reads the addresses. A frame without a whole Ethernet header is dropped.
#[inline(always)]
pub(crate) fn addresses<F: Frame, O: Observer>(frame: &mut F, observer: &mut O) -> Result<Addresses, Verdict> {
    let (destination, source) = frame.addresses().ok_or(Verdict::Drop(End::Truncated))?;
    observer.step(Step::Parsed { destination: Mac::from_u64(destination), source: Mac::from_u64(source) });
    Ok(Addresses { destination, source })
}

/// The network header of a frame, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4(usize),
    /// IPv6.
    V6(usize),
    /// Anything else: untouched.
    Other,
    /// The frame ends within its EtherType or tags.
    Truncated,
}

/// How many VLAN tags are looked behind for an IP header. A frame with more of them is forwarded, but as one without IP.
const TAGS_MAX: usize = 2;

/// Finds the network header behind at most two VLAN tags, one beside the frame included.
#[inline(always)]
pub fn network<F: Frame>(frame: &mut F) -> Network {
    let mut offset = ethernet::ETHERTYPE;
    let tags_max = if frame.has_tag_beside() { TAGS_MAX - 1 } else { TAGS_MAX };
    for _ in 0..=tags_max {
        let Some(ethertype) = frame.at::<2>(offset) else { return Network::Truncated };
        match u16::from_be_bytes(*ethertype) {
            ethernet::IPV4 => return Network::V4(offset + 2),
            ethernet::IPV6 => return Network::V6(offset + 2),
            ethernet::VLAN | ethernet::SERVICE_VLAN => offset += ethernet::TAG_LEN,
            _ => return Network::Other,
        }
    }
    Network::Other
}

/// How much a frame is on the wire: once, or as the segments that a super-packet will be split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Frames on the wire.
    pub frames: u64,
    /// Octets on the wire, over all frames, with Ethernet headers.
    pub octets: u64,
    /// The length of the largest of them.
    pub largest: u32,
}

/// Counts the segments of a frame, and their octets with the headers that each of them repeats.
#[inline(always)]
pub fn size<F: Frame>(frame: &mut F) -> Size {
    let (len, segment) = (frame.len(), frame.gso_size());
    if segment == 0 {
        return Size { frames: 1, octets: u64::from(len), largest: len };
    }
    super_packet(frame, len, segment)
}

/// The same for a super-packet: every segment repeats the headers up to the end of TCP's or UDP's.
#[inline(always)]
fn super_packet<F: Frame>(frame: &mut F, len: u32, segment: u32) -> Size {
    let beside = if frame.has_tag_beside() { ethernet::TAG_LEN as u32 } else { 0 };
    let headers = headers_len(frame).unwrap_or(0) as u32 + beside;
    if headers == beside || len <= headers + segment {
        return Size { frames: 1, octets: u64::from(len), largest: len };
    }
    let frames = u64::from((len - headers).div_ceil(segment));
    Size { frames, octets: u64::from(len) + (frames - 1) * u64::from(headers), largest: headers + segment }
}

/// The length of all headers up to the end of TCP's or UDP's.
#[inline(always)]
fn headers_len<F: Frame>(frame: &mut F) -> Option<usize> {
    let (transport, kind) = match network(frame) {
        Network::V4(offset) => {
            let header = frame.at::<{ ipv4::LEN }>(offset)?;
            (offset + 4 * usize::from(header[0] & 0xf), header[ipv4::PROTOCOL])
        }
        Network::V6(offset) => (offset + ipv6::LEN, frame.at::<{ ipv6::LEN }>(offset)?[ipv6::NEXT_HEADER]),
        Network::Other | Network::Truncated => return None,
    };
    match kind {
        protocol::TCP => Some(transport + 4 * usize::from(frame.at::<1>(transport + 12)?[0] >> 4)),
        protocol::UDP => Some(transport + 8),
        _ => None,
    }
}
