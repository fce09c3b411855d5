//! A switch's tables in plain memory, with the simulation's clock.

use flowlane_pipeline as pipeline;
use flowlane_tables::{Group, GroupIndex, NEVER, PortEntry, PortFlags, Slot, TICK_NANOS, Tuple, ticks};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};

/// What one port takes, in octets without the Ethernet header.
const MTU: u32 = 1500;

/// Slots and ports, as the data path reads them.
#[derive(Debug)]
pub struct Tables {
    block: Block,
    slots: Vec<Slot>,
    ports: Vec<PortEntry>,
    /// The monotonic clock.
    nanos: u64,
}

impl Tables {
    /// Empty tables with these ports, numbered from 1; all are up.
    pub fn new(block: Block, ports: &[Mac]) -> Self {
        let slots = (0..block.slots()).map(|_| Slot::default()).collect();
        let entry = |(number, mac): (u32, &Mac)| {
            let entry = PortEntry::default();
            entry.set(number, MTU, *mac, PortFlags::UP);
            entry
        };
        let ports = std::iter::once(PortEntry::default()).chain((1..).zip(ports).map(entry)).collect();
        Self { block, slots, ports, nanos: 0 }
    }

    /// Sets the clock, in milliseconds since boot.
    pub fn set_clock(&mut self, boot_ms: u64) {
        self.nanos = boot_ms * 1_000_000;
    }

    /// All slots, by number.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The tick in which something ends that ends at this boot time, rounded up; `u64::MAX` is never.
    pub fn tick_at(end_ms: u64) -> u32 {
        let tick = end_ms.saturating_mul(1_000_000).div_ceil(TICK_NANOS);
        if end_ms == u64::MAX { NEVER } else { u32::try_from(tick).unwrap_or(NEVER).min(NEVER - 1) }
    }
}

impl pipeline::Tables for Tables {
    fn block(&self) -> Block {
        self.block
    }

    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.slots.get(index.0 as usize)
    }

    fn port(&self, port: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(port.0))
    }

    fn group(&self, _: GroupIndex) -> Option<&Group> {
        None
    }

    fn tuple(&self, _: &Tuple) -> Option<u64> {
        None
    }

    fn tick(&self) -> u32 {
        ticks(self.nanos)
    }

    fn nanos(&self) -> u64 {
        self.nanos
    }
}
