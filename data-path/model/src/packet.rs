//! Where the IP packet of a frame stands.

use crate::Arrival;

/// How many VLAN tags are looked behind, one beside the frame included.
const TAGS: usize = 2;

/// What a frame carries, by its EtherType.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// An IPv4 header should start at this octet (RFC 894).
    V4(usize),
    /// An IPv6 header should start at this octet (RFC 2464).
    V6(usize),
    /// Something else, or more tags than are looked behind.
    Other,
    /// The frame ends within a tag.
    Cut,
}

impl Packet {
    /// What a frame carries, behind at most two VLAN tags (IEEE 802.1Q, 802.1ad).
    pub(crate) fn of(arrival: &Arrival) -> Self {
        let mut at = 12;
        for _ in usize::from(arrival.tag_beside)..TAGS {
            if is_tag(&arrival.octets, at) {
                at += 4;
            }
        }
        match arrival.octets.get(at..at + 2) {
            Some([0x08, 0x00]) => Self::V4(at + 2),
            Some([0x86, 0xdd]) => Self::V6(at + 2),
            Some(_) => Self::Other,
            None => Self::Cut,
        }
    }

    /// Where the IP header starts, and its length with IPv4's options and without IPv6's extension headers. None where it
    /// makes no sense or its fixed part (20 or 40 octets) is cut short, or there is none.
    pub(crate) fn header_place(self, octets: &[u8]) -> Option<(usize, usize)> {
        match self {
            Self::V4(start) => match octets.get(start..start + 20)? {
                [first @ 0x45..=0x4f, ..] => Some((start, usize::from(first % 16) * 4)),
                _ => None,
            },
            Self::V6(start) => match octets.get(start..start + 40)? {
                [0x60..=0x6f, ..] => Some((start, 40)),
                _ => None,
            },
            Self::Other | Self::Cut => None,
        }
    }
}

/// Whether the frame has a tag at all, beside it or in it.
pub(crate) fn is_tagged(arrival: &Arrival) -> bool {
    arrival.tag_beside || is_tag(&arrival.octets, 12)
}

fn is_tag(octets: &[u8], at: usize) -> bool {
    matches!(octets.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]))
}
