//! The tables of the switch as BPF maps, and the pipeline's view of them.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, DevMap, HashMap, PerCpuArray},
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::btf_map,
};
use flowlane_kernel::ring::Ring;
use flowlane_pipeline::Tables;
use flowlane_tables::{ENDS, End, GROUPS, Group, GroupIndex, MAX_PORTS, PortEntry, Slot, Tuple, ticks};
use flowlane_wire::{Block, PortId, SlotIndex};

/// The flow table, one slot for each slot number of the block. The loader sets its size.
#[btf_map]
pub static SLOTS: Array<Slot, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The ports, by number.
#[btf_map]
pub static PORTS: Array<PortEntry, { MAX_PORTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The multicast groups.
#[btf_map]
pub static MULTICAST: Array<Group, { GROUPS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The flow addresses of flagged packets. The loader sets its size.
#[btf_map]
pub static TUPLES: HashMap<Tuple, u64, 1> = HashMap::new();

/// The interfaces of the ports, for XDP.
#[btf_map]
pub static DEVICES: DevMap<{ MAX_PORTS as usize }> = DevMap::new();

/// Frames by ingress port and end.
#[btf_map]
pub static COUNTS: PerCpuArray<[u64; ENDS], { MAX_PORTS as usize }> = PerCpuArray::new();

/// Frames for userspace. The loader sets its size.
#[btf_map]
pub static PUNTS: Ring = Ring::new();

/// The switch's block of addresses, as words.
#[unsafe(no_mangle)]
pub static BLOCK: Global<[u64; 5]> = Global::new([0; 5]);

/// The port that this copy of the program is attached to.
#[unsafe(no_mangle)]
pub static PORT: Global<u16> = Global::new(0);

/// Whether every frame is shown to userspace.
#[unsafe(no_mangle)]
pub static SHOW: Global<u8> = Global::new(0);

/// How long a jiffy is, in nanoseconds, and how many there were at nanosecond 0 of the monotonic clock. A jiffy of 0 where
/// jiffies do not keep pace with that clock.
#[unsafe(no_mangle)]
pub static JIFFIES: Global<[u64; 2]> = Global::new([0; 2]);

/// The tables as the pipeline sees them.
pub struct Kernel {
    block: Block,
}

impl Kernel {
    #[inline(always)]
    pub fn new() -> Self {
        Self { block: Block::from_words(BLOCK.load()) }
    }

    /// Counts frames that came in by a port and ended so.
    #[inline(always)]
    pub fn count(&self, port: PortId, end: End, frames: u64) {
        let Some(counts) = COUNTS.get_ptr_mut(u32::from(port.0)) else { return };
        // The compiler knows that an end is less than ENDS and would leave out the check; the verifier wants to see it.
        let end = core::hint::black_box(end as usize) & (ENDS - 1);
        // SAFETY: the map returned the pointer for this processor's own copy, and no other program
        // runs on this processor's ports before this one is done.
        if let Some(count) = unsafe { &mut *counts }.get_mut(end) {
            *count += frames;
        }
    }
}

impl Tables for Kernel {
    #[inline(always)]
    fn block(&self) -> Block {
        self.block
    }

    #[inline(always)]
    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        SLOTS.get(index.0)
    }

    #[inline(always)]
    fn port(&self, port: PortId) -> Option<&PortEntry> {
        PORTS.get(u32::from(port.0))
    }

    #[inline(always)]
    fn group(&self, group: GroupIndex) -> Option<&Group> {
        MULTICAST.get(group.0)
    }

    #[inline(always)]
    fn tuple(&self, tuple: &Tuple) -> Option<u64> {
        // SAFETY: an entry may be freed for another tuple while it is read, as any that is looked up at the wrong moment; its
        // 64 bits are read at once.
        unsafe { TUPLES.get(tuple) }.copied()
    }

    /// By jiffies, which the kernel makes a read of one word; to ask for the time is a call of a function that calls others.
    #[inline(always)]
    fn tick(&self) -> u32 {
        let [jiffy, first] = JIFFIES.load();
        // SAFETY: helpers without arguments.
        let nanos = unsafe {
            if jiffy == 0 { bpf_ktime_get_coarse_ns() } else { bpf_jiffies64().wrapping_sub(first).wrapping_mul(jiffy) }
        };
        ticks(nanos)
    }

    #[inline(always)]
    fn nanos(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }
}
