//! Tables whose every word is anything.

use flowlane_pipeline::Tables;
use flowlane_tables::{Group, GroupIndex, PortEntry, Slot, Tuple};
use flowlane_wire::{Block, PortId, SlotIndex};

/// How many slots the pipeline can ask for on the way of one frame: destination's and source's.
const SLOTS: usize = 2;
/// How many ports: ingress, that of the next hop, and that of the backup.
const PORTS: usize = 3;

/// All of a switch's tables that one frame can meet, with the numbers under which they stand. What has another number does
/// not exist; so this is any table of any size, as one frame sees it.
///
/// Every field is a word, and words lie at fixed places: `switch.py` knows them.
#[repr(C, align(64))]
pub struct Switch {
    block: [u64; 5],
    tick: u64,
    nanos: u64,
    /// Whether the tuple of a flagged packet is known, and its flow address.
    tuple_known: u64,
    tuple: u64,
    group_number: u64,
    slot_numbers: [u64; SLOTS],
    port_numbers: [u64; PORTS],
    /// Which ports take a frame: bit `n` is that of all whose numbers are `n` modulo 64.
    taking: u64,
    slots: [Slot; SLOTS],
    ports: [PortEntry; PORTS],
    group: Group,
}

impl Switch {
    /// Whether a port takes the frame that is sent by it.
    pub(crate) fn takes(&self, port: PortId) -> bool {
        self.taking >> (port.0 & 63) & 1 != 0
    }
}

// Where the proof looks for them.
const _: () = assert!(core::mem::offset_of!(Switch, slot_numbers) == 80);
const _: () = assert!(core::mem::offset_of!(Switch, port_numbers) == 96);
const _: () = assert!(core::mem::offset_of!(Switch, slots) == 128);
const _: () = assert!(core::mem::offset_of!(Switch, ports) == 256);
const _: () = assert!(core::mem::offset_of!(Switch, group) == 448);
const _: () = assert!(size_of::<Switch>() == 2560);

impl Tables for Switch {
    #[inline(always)]
    fn block(&self) -> Block {
        Block::from_words(self.block)
    }

    #[inline(always)]
    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        numbered(u64::from(index.0), &self.slot_numbers, &self.slots)
    }

    #[inline(always)]
    fn port(&self, port: PortId) -> Option<&PortEntry> {
        numbered(u64::from(port.0), &self.port_numbers, &self.ports)
    }

    #[inline(always)]
    fn group(&self, group: GroupIndex) -> Option<&Group> {
        (u64::from(group.0) == self.group_number).then_some(&self.group)
    }

    #[inline(always)]
    fn tuple(&self, _: &Tuple) -> Option<u64> {
        (self.tuple_known != 0).then_some(self.tuple)
    }

    #[inline(always)]
    fn tick(&self) -> u32 {
        self.tick as u32
    }

    #[inline(always)]
    fn nanos(&self) -> u64 {
        self.nanos
    }
}

/// The first entry that has a number.
#[inline(always)]
fn numbered<'a, T>(wanted: u64, numbers: &[u64], entries: &'a [T]) -> Option<&'a T> {
    numbers.iter().zip(entries).find_map(|(number, entry)| (*number == wanted).then_some(entry))
}
