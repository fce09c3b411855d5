//! The pipeline in this process, over tables in plain memory.

use crate::{Executor, Outcome, Served, Setup, Vector, block};
use flowlane_pipeline::{Frame, Tables, Verdict};
use flowlane_tables::{Group, GroupIndex, MAX_PORTS, PortEntry, Slot, Tuple, ticks};
use flowlane_wire::{Block, PortId, SlotIndex};
use std::collections::HashMap;

/// Tables in plain memory, with a clock that stands still.
#[derive(Debug)]
pub struct Memory {
    /// The addresses of flows.
    pub block: Block,
    /// The flow table.
    pub slots: Vec<Slot>,
    /// The ports, by number.
    pub ports: Vec<PortEntry>,
    /// The groups.
    pub groups: Vec<Group>,
    /// The flow addresses of flagged packets, as numbers.
    pub tuples: HashMap<Tuple, u64>,
    /// The monotonic clock.
    pub nanos: u64,
}

impl Memory {
    /// The tables of `setup`, at `nanos` of the clock.
    pub fn new(setup: &Setup, nanos: u64) -> Self {
        let memory = Self {
            block: block(),
            slots: (0..block().slots()).map(|_| Slot::default()).collect(),
            ports: (0..MAX_PORTS).map(|_| PortEntry::default()).collect(),
            groups: setup.groups.iter().map(|_| Group::default()).collect(),
            tuples: setup.tuples.iter().copied().collect(),
            nanos,
        };
        setup.install(&memory.slots, &memory.ports, &memory.groups, |port| u32::from(port.0), nanos);
        memory
    }
}

impl Tables for Memory {
    fn block(&self) -> Block {
        self.block
    }

    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.slots.get(index.0 as usize)
    }

    fn port(&self, port: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(port.0))
    }

    fn group(&self, group: GroupIndex) -> Option<&Group> {
        self.groups.get(group.0 as usize)
    }

    fn tuple(&self, tuple: &Tuple) -> Option<u64> {
        self.tuples.get(tuple).copied()
    }

    fn tick(&self) -> u32 {
        ticks(self.nanos)
    }

    fn nanos(&self) -> u64 {
        self.nanos
    }
}

/// A frame in memory, with what the kernel would keep beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The octets, without a tag beside them.
    pub octets: Vec<u8>,
    /// The payload of each segment of a super-packet, else 0.
    pub gso_size: u32,
    /// Whether a VLAN tag is beside the octets.
    pub tag_beside: bool,
}

impl Buffer {
    /// A frame with all that is in its octets.
    pub fn plain(octets: Vec<u8>) -> Self {
        Self { octets, gso_size: 0, tag_beside: false }
    }

    /// The frame of a vector.
    pub fn of(vector: &Vector) -> Self {
        let (octets, offload) = (vector.frame.clone(), vector.offload);
        Self { octets, gso_size: offload.gso_size, tag_beside: offload.tag.is_some() }
    }
}

impl Frame for Buffer {
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.octets.get_mut(offset..)?.first_chunk_mut()
    }

    fn len(&self) -> u32 {
        self.octets.len() as u32 + if self.tag_beside { 4 } else { 0 }
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn has_tag_beside(&self) -> bool {
        self.tag_beside
    }
}

/// The pipeline as a function call.
#[derive(Debug, Default)]
pub struct Userspace;

impl Executor for Userspace {
    fn refuses(&self, _: &Vector) -> Option<&'static str> {
        None
    }

    fn execute(&mut self, vector: &Vector) -> Result<Outcome, String> {
        const HOUR: u64 = 3_600_000_000_000;
        let (memory, mut frame) = (Memory::new(&vector.setup, HOUR), Buffer::of(vector));
        let verdict = flowlane_pipeline::run(&mut frame, vector.ingress, &memory, &mut ());
        let (mut end, mut egress, mut copies) = (verdict.end(), None, Vec::new());
        match verdict {
            Verdict::Forward { port, .. } => egress = Some(port),
            Verdict::Replicate { slot, group } => {
                let send = |frame: &mut Buffer, port| {
                    copies.push((port, frame.octets.clone()));
                    true
                };
                end = flowlane_pipeline::replicate(&mut frame, vector.ingress, slot, group, &memory, &mut (), send);
            }
            _ => {}
        }
        let slots = memory.slots.iter().map(Slot::flow).collect();
        let asking = memory.port(vector.ingress).map_or(0, |port| port.asking().load());
        let served = served(&memory.groups);
        Ok(Outcome { end, egress, frame: Some(frame.octets), copies, served, asking, slots })
    }
}

/// What the receivers of groups have counted, those that have.
pub fn served(groups: &[Group]) -> Vec<Served> {
    let receivers = |(group, entry): (usize, &'_ Group)| {
        let places = entry.receivers().iter().enumerate().filter(|(_, receiver)| receiver.hop().is_some());
        let served = places.map(|(place, receiver)| Served {
            group,
            place,
            packets: receiver.packets().load(),
            bytes: receiver.bytes().load(),
            missed: receiver.missed().load(),
        });
        served.filter(|served| served.packets + served.bytes + served.missed > 0).collect::<Vec<_>>()
    };
    groups.iter().enumerate().flat_map(receivers).collect()
}
