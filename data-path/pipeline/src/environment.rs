//! What the pipeline needs of whoever runs it: a frame and the tables.

use flowlane_tables::{Group, GroupIndex, NEVER, PortEntry, Slot, Tuple};
use flowlane_wire::{Block, Mac, PortId, SlotIndex, header::ethernet};

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

    /// Destination and source address as on the wire ([`Mac::to_wire`]), or nothing where the frame is shorter than an Ethernet
    /// header. The high 16 bits are what comes after the address in the frame.
    #[inline(always)]
    fn wire_addresses(&mut self) -> Option<(u64, u64)> {
        let octets = self.at::<{ ethernet::LEN }>(0)?;
        let (destination, source) = (octets.first_chunk()?, octets.last_chunk()?);
        Some((u64::from_le_bytes(*destination), u64::from_le_bytes(*source)))
    }

    /// Replaces destination and source address by what is in the low 48 bits of two words, as on the wire. Nothing where the
    /// frame is too short.
    #[inline(always)]
    fn set_wire_addresses(&mut self, destination: u64, source: u64) -> Option<()> {
        let octets = self.at::<12>(0)?;
        *octets.first_chunk_mut()? = destination.to_le_bytes();
        let source_octets: &mut [u8; 6] = octets.last_chunk_mut()?;
        *source_octets.first_chunk_mut()? = (source as u16).to_le_bytes();
        *source_octets.last_chunk_mut()? = ((source >> 16) as u32).to_le_bytes();
        Some(())
    }

    /// Destination and source address as numbers, or nothing where the frame is shorter than an Ethernet header.
    #[inline(always)]
    fn addresses(&mut self) -> Option<(u64, u64)> {
        let (destination, source) = self.wire_addresses()?;
        Some((Mac::from_wire(destination).to_u64(), Mac::from_wire(source).to_u64()))
    }

    /// Replaces destination and source address. Nothing where the frame is too short.
    #[inline(always)]
    fn set_addresses(&mut self, destination: u64, source: u64) -> Option<()> {
        self.set_wire_addresses(Mac::from_u64(destination).to_wire(), Mac::from_u64(source).to_wire())
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

    /// Says that a slot will be read soon, so that it can be fetched from memory meanwhile.
    #[inline(always)]
    fn prefetch(&self, _: &Slot) {}

    /// A port.
    fn port(&self, port: PortId) -> Option<&PortEntry>;

    /// A multicast group.
    fn group(&self, group: GroupIndex) -> Option<&Group>;

    /// The flow address that a flagged packet's addresses and ports have, [`flowlane_tables::PASS`] where they get none,
    /// or nothing where nobody has decided yet.
    fn tuple(&self, tuple: &Tuple) -> Option<u64>;

    /// The tick of the monotonic clock ([`flowlane_tables::ticks`]); a coarse clock will do.
    fn tick(&self) -> u32;

    /// Whether a tick is still to come. [`NEVER`] always is, and the clock is not read for it.
    #[inline(always)]
    fn is_to_come(&self, tick: i64) -> bool {
        tick == i64::from(NEVER) || i64::from(self.tick()) < tick
    }

    /// Nanoseconds of the monotonic clock, exact: meters need them.
    fn nanos(&self) -> u64;
}
