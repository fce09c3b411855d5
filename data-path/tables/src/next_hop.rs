//! Where a flow goes next, in one word.

use flowlane_wire::{Mac, PortId};

/// The next hop of a flow: the second host address (claim 13) and the port to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The Ethernet address that frames are sent to.
    pub mac: Mac,
    /// The port that frames leave by.
    pub port: PortId,
    /// Whether the hop leads to another subnet, so that the time to live (hop limit) is decremented.
    pub routed: bool,
}

/// A multicast group of the switch: its place in the table of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub u32);

/// What a slot knows of its next hop.
///
/// ```text
///     bits 0..48                  bits 48..63   bit 63
///     Ethernet address            port          routed       resolved
///     group                       0x7fff        0            group
///     frames waiting              0             0            pending
///     0                           0             1            unreachable
/// ```
///
/// The address is as on the wire ([`Mac::to_wire`]), so that it is written into frames as it stands here.
///
/// The count of waiting frames shares the word with the answer, so that one compare-and-swap decides for each frame
/// whether it waits or is sent: none overtakes those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Frames go here.
    Resolved(NextHop),
    /// One copy of each frame goes to each receiver of this group (claim 20).
    Group(GroupIndex),
    /// Nobody knows yet; so many frames wait.
    Pending(u32),
    /// There is no way.
    Unreachable,
}

/// How many frames of one flow may wait for its next hop.
pub const PENDING_LIMIT: u32 = 64;

const PORT_SHIFT: u32 = 48;
const ROUTED: u64 = 1 << 63;
const PORT_MASK: u16 = 0x7fff;
/// No port: port numbers end far below ([`crate::MAX_PORTS`]).
const GROUP: u16 = PORT_MASK;

impl Resolution {
    /// Nothing known, nobody waiting.
    pub const UNKNOWN: Self = Self::Pending(0);

    /// The word as it stands in the table.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Resolved(hop) => {
                hop.mac.to_wire()
                    | ((hop.port.0 & PORT_MASK) as u64) << PORT_SHIFT
                    | if hop.routed { ROUTED } else { 0 }
            }
            Self::Group(group) => (GROUP as u64) << PORT_SHIFT | group.0 as u64,
            Self::Pending(waiting) => waiting as u64,
            Self::Unreachable => ROUTED,
        }
    }

    /// What a word of the table means.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let port = (word >> PORT_SHIFT) as u16 & PORT_MASK;
        if port == GROUP {
            return Self::Group(GroupIndex(word as u32));
        }
        if port != 0 {
            return Self::Resolved(NextHop {
                mac: Mac::from_wire(word),
                port: PortId(port),
                routed: word & ROUTED != 0,
            });
        }
        if word & ROUTED != 0 { Self::Unreachable } else { Self::Pending(word as u32) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_next_hop_survives_its_word(mac: [u8; 6], port in 1u16..0x7fff, routed: bool, waiting: u32) {
            let hop = Resolution::Resolved(NextHop { mac: Mac(mac), port: PortId(port), routed });
            let group = Resolution::Group(GroupIndex(waiting));
            for resolution in [hop, group, Resolution::Pending(waiting), Resolution::Unreachable] {
                prop_assert_eq!(Resolution::from_word(resolution.to_word()), resolution);
            }
        }
    }
}
