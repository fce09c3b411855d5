//! The userspace pipeline on frames in memory, without interfaces: what it costs by itself.

use crate::{
    Error, Work,
    frame::{Traffic, block, template, write},
    random,
    work::{IN, OUT},
};
use flowlane_pipeline::{Verdict, replicate, run_batch};
use flowlane_ports::af_packet::{Offload, RxFrame};
use flowlane_program::Tables;
use flowlane_tables::{GroupIndex, PortFlags};
use flowlane_wire::{PortId, SlotIndex};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Frames that are decided on at once, as many as a ring hands over.
pub const BATCH: u32 = 256;
const FRAME_BYTES: u32 = 64;
const MTU: u32 = 1_500;

/// A switch in this process's memory, and frames for it.
pub struct OnMemory {
    tables: Tables,
    /// By which frames come in: known at run time alone, as to every executor.
    port: PortId,
    traffic: Traffic,
    frames: Vec<Vec<u8>>,
    random: u32,
}

impl OnMemory {
    /// A switch with so many flows.
    ///
    /// # Errors
    /// [`Error::Switch`] where there is no memory for it.
    pub fn new(work: Work, flows: u32) -> Result<Self, Error> {
        let tables = Tables::in_memory(block(flows))?;
        for port in [IN, OUT] {
            // By no interface: nothing is sent.
            tables.ports()[usize::from(port.0)].set(0, MTU, crate::frame::EGRESS, PortFlags::UP);
        }
        work.install(&tables, flows)?;
        let frames = (0..BATCH).map(|_| template(FRAME_BYTES)).collect();
        Ok(Self { tables, port: black_box(IN), traffic: work.traffic(flows), frames, random: random::SEED })
    }

    /// Decides on so many batches of frames of random flows. The time of the decisions alone, and how many frames would have
    /// been sent, copies counted.
    pub fn run(&mut self, batches: u32) -> (Duration, u64) {
        let (port, mut time, mut sent) = (self.port, Duration::ZERO, 0);
        for _ in 0..batches {
            self.batch(|frames, tables| {
                let start = Instant::now();
                sent += decide_on_memory(frames, port, tables);
                time += start.elapsed();
            });
        }
        (time, sent)
    }

    /// Writes a batch of frames of random flows, as they would come from a ring.
    pub(crate) fn batch(&mut self, work: impl FnOnce(&mut [RxFrame<'_>], &Tables)) {
        for frame in &mut self.frames {
            self.random = random::next(self.random);
            write(frame, &self.traffic, random::below(self.random, self.traffic.flows));
        }
        let frame = |bytes| RxFrame { bytes, offload: Offload::default(), timestamp: Duration::ZERO };
        let mut frames: Vec<RxFrame<'_>> = self.frames.iter_mut().map(|octets| frame(octets.as_mut_slice())).collect();
        work(&mut frames, &self.tables);
    }
}

/// What is measured. It has a symbol of its own, by which callgrind finds it.
#[inline(never)]
fn decide_on_memory(frames: &mut [RxFrame<'_>], port: PortId, tables: &Tables) -> u64 {
    let mut sent = 0;
    run_batch(frames, port, tables, |frame, verdict| match verdict {
        Verdict::Forward { .. } => sent += 1,
        Verdict::Replicate { slot, group } => sent += copies(frame, port, slot, group, tables),
        _ => {}
    });
    sent
}

/// How many copies of a frame would have been sent. Out of line, as what is done for a single frame is in a switch.
#[inline(never)]
fn copies(frame: &mut RxFrame<'_>, port: PortId, slot: SlotIndex, group: GroupIndex, tables: &Tables) -> u64 {
    let mut sent = 0;
    replicate(frame, port, slot, group, tables, &mut (), |_, _| {
        sent += 1;
        true
    });
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_every_work_is_sent() {
        for work in Work::ALL {
            let mut memory = OnMemory::new(work, 1_000).expect("memory");
            let (time, sent) = memory.run(4);
            assert_eq!(sent, u64::from(4 * BATCH) * work.copies(), "{work:?}");
            assert!(time > Duration::ZERO);
        }
    }
}
