//! The tables as userspace sees them: the same memory as the kernel's programs.

use crate::{Mapped, ProgramError, Tuples};
use aya::maps::{MapData, PerCpuArray};
use flowlane_tables::{
    ENDS, End, GROUPS, Group, GroupIndex, MAX_PORTS, PortEntry, Slot, TICK_NANOS, Tuple, Word, ticks,
};
use flowlane_wire::{Block, PortId, SlotIndex};
use nix::time::{ClockId, clock_gettime};
use std::path::Path;

/// How many frames of a port came to each end.
pub type Counts = [u64; ENDS];

/// Slots, ports and counters of one switch.
///
/// The pipeline runs on it in userspace as it does in the kernel: same slots, same ports.
pub struct Tables {
    block: Block,
    slots: Mapped<Slot>,
    ports: Mapped<PortEntry>,
    groups: Mapped<Group>,
    tuples: Tuples,
    /// What userspace has counted.
    counts: Mapped<[Word; ENDS]>,
    /// What the kernel has counted, where it runs the pipeline.
    kernel_counts: Option<PerCpuArray<MapData, [u64; ENDS]>>,
}

impl Tables {
    /// The name of the directory of a block's tables, of files or of pins. It says the layout and the size: tables that differ
    /// in one of them are not adopted.
    pub fn directory_name(block: Block) -> String {
        format!("tables-{}-{}", flowlane_tables::LAYOUT, block.slots())
    }

    /// Tables in files below `directory`, for a switch without the kernel. They outlive the process.
    pub fn in_files(block: Block, directory: &Path) -> Result<Self, ProgramError> {
        let directory = directory.join(Self::directory_name(block));
        std::fs::create_dir_all(&directory).map_err(ProgramError::file(&directory))?;
        Ok(Self {
            block,
            slots: Mapped::file(&directory.join("slots"), block.slots() as usize)?,
            ports: Mapped::file(&directory.join("ports"), usize::from(MAX_PORTS))?,
            groups: Mapped::file(&directory.join("groups"), GROUPS as usize)?,
            tuples: Tuples::default(),
            counts: Mapped::file(&directory.join("counts"), usize::from(MAX_PORTS))?,
            kernel_counts: None,
        })
    }

    /// Tables in this process's own memory, for `replay`, `trace` and tests.
    pub fn in_memory(block: Block) -> Result<Self, ProgramError> {
        Ok(Self {
            block,
            slots: Mapped::private(block.slots() as usize)?,
            ports: Mapped::private(usize::from(MAX_PORTS))?,
            groups: Mapped::private(GROUPS as usize)?,
            tuples: Tuples::default(),
            counts: Mapped::private(usize::from(MAX_PORTS))?,
            kernel_counts: None,
        })
    }

    /// Tables that are BPF maps.
    pub(crate) fn in_kernel(
        block: Block,
        slots: Mapped<Slot>,
        ports: Mapped<PortEntry>,
        groups: Mapped<Group>,
        tuples: Tuples,
        kernel_counts: PerCpuArray<MapData, [u64; ENDS]>,
    ) -> Result<Self, ProgramError> {
        let counts = Mapped::private(usize::from(MAX_PORTS))?;
        Ok(Self { block, slots, ports, groups, tuples, counts, kernel_counts: Some(kernel_counts) })
    }

    /// The switch's addresses.
    pub fn block(&self) -> Block {
        self.block
    }

    /// The flow table.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The ports, by number; 0 is none.
    pub fn ports(&self) -> &[PortEntry] {
        &self.ports
    }

    /// The multicast groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The flow addresses of flagged packets.
    pub fn tuples(&self) -> &Tuples {
        &self.tuples
    }

    /// Counts frames that userspace has brought to an end.
    pub fn count(&self, ingress: PortId, end: End, frames: u64) {
        if let Some(count) = self.counts.get(usize::from(ingress.0)).and_then(|counts| counts.get(end as usize)) {
            count.add(frames);
        }
    }

    /// How many frames that came in by a port came to each end, in the kernel and in userspace.
    pub fn counts(&self, ingress: PortId) -> Result<Counts, ProgramError> {
        let mut sums = [0u64; ENDS];
        if let Some(counts) = self.counts.get(usize::from(ingress.0)) {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count.load();
            }
        }
        if let Some(kernel) = &self.kernel_counts {
            let processors = kernel
                .get(&u32::from(ingress.0), 0)
                .map_err(|source| ProgramError::MapAccess { name: "counts", source })?;
            for counts in processors.iter() {
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        Ok(sums)
    }

    /// The tick of the data path's clock in which a lease ends that has `millis` to go. Rounded up: a frame within the
    /// lease is never rejected.
    pub fn tick_in(millis: u64) -> u32 {
        let end = monotonic_nanos().saturating_add(millis.saturating_mul(1_000_000));
        u32::try_from(end.div_ceil(TICK_NANOS)).unwrap_or(flowlane_tables::NEVER).min(flowlane_tables::NEVER - 1)
    }

    /// The milliseconds until a tick begins, rounded up; 0 where it has begun. It undoes [`Tables::tick_in`], but for the
    /// tick at most by which that rounds up.
    pub fn millis_until(tick: u32) -> u64 {
        (u64::from(tick) * TICK_NANOS).saturating_sub(monotonic_nanos()).div_ceil(1_000_000)
    }
}

/// The kernel's monotonic clock, as its programs read it.
pub(crate) fn monotonic_nanos() -> u64 {
    nanos_of(ClockId::CLOCK_MONOTONIC)
}

fn nanos_of(clock: ClockId) -> u64 {
    // The clocks used here exist on every Linux; reading them can not fail.
    let now = clock_gettime(clock).map_or(std::time::Duration::ZERO, std::time::Duration::from);
    now.as_nanos() as u64
}

impl flowlane_pipeline::Tables for Tables {
    #[inline(always)]
    fn block(&self) -> Block {
        self.block
    }

    #[inline(always)]
    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.slots.get(index.0 as usize)
    }

    #[inline(always)]
    fn prefetch(&self, slot: &Slot) {
        Mapped::prefetch(slot);
    }

    #[inline(always)]
    fn port(&self, port: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(port.0))
    }

    #[inline(always)]
    fn group(&self, group: GroupIndex) -> Option<&Group> {
        self.groups.get(group.0 as usize)
    }

    #[inline(always)]
    fn tuple(&self, tuple: &Tuple) -> Option<u64> {
        self.tuples.get(tuple)
    }

    fn tick(&self) -> u32 {
        ticks(nanos_of(ClockId::CLOCK_MONOTONIC_COARSE))
    }

    fn nanos(&self) -> u64 {
        monotonic_nanos()
    }
}
