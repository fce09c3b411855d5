//! What the pipeline needs of whoever runs it: a frame and the tables.

use flowlane_tables::{Group, GroupIndex, PortEntry, Slot, Tuple};
use flowlane_wire::{Block, PortId, SlotIndex};

/// A frame in somebody's buffer, from its destination address on.
pub trait Frame {
    /// The `N` octets at `offset`, or nothing where the frame is shorter.
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// The frame's length in octets, with tags, without the check sequence.
    fn len(&self) -> u32;

    /// Whether the frame has no octets.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload of each segment where the frame is a super-packet that the segmentation offload will split; else 0.
    fn gso_size(&self) -> u32 {
        0
    }

    /// Whether a VLAN tag travels beside the frame, as the kernel does it, and so does not stand in its octets.
    fn has_tag_beside(&self) -> bool {
        false
    }

    /// Destination and source address as numbers, or nothing where the frame is shorter than an Ethernet header.
    #[inline(always)]
    fn addresses(&mut self) -> Option<(u64, u64)> {
        let &mut [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.at::<14>(0)?;
        Some((u64::from_be_bytes([0, 0, a, b, c, d, e, f]), u64::from_be_bytes([0, 0, g, h, i, j, k, l])))
    }

    /// Replaces destination and source address. Nothing where the frame is too short.
    #[inline(always)]
    fn set_addresses(&mut self, destination: u64, source: u64) -> Option<()> {
        let octets = self.at::<12>(0)?;
        let ([_, _, a, b, c, d, e, f], [_, _, g, h, i, j, k, l]) = (destination.to_be_bytes(), source.to_be_bytes());
        *octets = [a, b, c, d, e, f, g, h, i, j, k, l];
        Some(())
    }
}

/// A frame in plain memory.
impl Frame for &mut [u8] {
    #[inline(always)]
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.get_mut(offset..)?.first_chunk_mut()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }
}

/// The tables of the switch, and the clock.
pub trait Tables {
    /// The switch's own addresses.
    fn block(&self) -> Block;

    /// A slot of the flow table.
    fn slot(&self, index: SlotIndex) -> Option<&Slot>;

    /// A port.
    fn port(&self, port: PortId) -> Option<&PortEntry>;

    /// A multicast group.
    fn group(&self, group: GroupIndex) -> Option<&Group>;

    /// The flow address that a flagged packet's addresses and ports have, [`flowlane_tables::PASS`] where they get none,
    /// or nothing where nobody has decided yet.
    fn tuple(&self, tuple: &Tuple) -> Option<u64>;

    /// The tick of the monotonic clock ([`flowlane_tables::ticks`]); a coarse clock will do.
    fn tick(&self) -> u32;

    /// Nanoseconds of the monotonic clock, exact: meters need them.
    fn nanos(&self) -> u64;
}
