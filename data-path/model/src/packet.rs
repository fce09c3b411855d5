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

    /// The octets of the IP header, with IPv4's options and without IPv6's extension headers. None where it is cut
    /// short or makes no sense, or there is none.
    pub(crate) fn header(self, octets: &[u8]) -> Option<&[u8]> {
        let (start, len) = self.header_place(octets)?;
        octets.get(start..start + len)
    }

    /// Where the IP header starts, and its length.
    pub(crate) fn header_place(self, octets: &[u8]) -> Option<(usize, usize)> {
        let (start, len) = match self {
            Self::V4(start) => (
                start,
                match octets.get(start)? {
                    first @ 0x45..=0x4f => usize::from(first % 16) * 4,
                    _ => return None,
                },
            ),
            Self::V6(start) => (
                start,
                match octets.get(start)? {
                    0x60..=0x6f => 40,
                    _ => return None,
                },
            ),
            Self::Other | Self::Cut => return None,
        };
        (start + len <= octets.len()).then_some((start, len))
    }
}

/// Whether the frame has a tag at all, beside it or in it.
pub(crate) fn is_tagged(arrival: &Arrival) -> bool {
    arrival.tag_beside || is_tag(&arrival.octets, 12)
}

fn is_tag(octets: &[u8], at: usize) -> bool {
    matches!(octets.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]))
}
