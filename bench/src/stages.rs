//! What the pipeline does to a frame, a step at a time: for callgrind, which counts what each of these functions takes.

use crate::{
    Error, OnMemory, Work,
    work::{IN, ONLY_GROUP},
};
use flowlane_pipeline::{Frame, Size, replicate, stages};
use flowlane_ports::af_packet::RxFrame;
use flowlane_program::Tables;
use flowlane_tables::{End, NextHop, PortEntry, Slot};
use flowlane_wire::PortId;
use std::hint::black_box;

/// A step of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Addresses and size are read.
    Parse,
    /// The flow is found by its address.
    LookUp,
    /// Port and lease are checked.
    Check,
    /// Next hop and egress port are found.
    Resolve,
    /// The flow's meter is asked.
    Meter,
    /// Addresses are written, and the frame is counted.
    Rewrite,
    /// Copies are made for the four receivers of a group.
    Replicate,
    /// The flow of a flagged packet is found by its addresses and ports.
    Flag,
}

impl Stage {
    /// All of them, in the order in which a frame meets them.
    pub const ALL: [Self; 8] = [
        Self::Parse,
        Self::LookUp,
        Self::Flag,
        Self::Check,
        Self::Resolve,
        Self::Meter,
        Self::Rewrite,
        Self::Replicate,
    ];

    /// The name. The function that callgrind counts has it as well, behind `stage_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::LookUp => "look_up",
            Self::Check => "check",
            Self::Resolve => "resolve",
            Self::Meter => "meter",
            Self::Rewrite => "rewrite",
            Self::Replicate => "replicate",
            Self::Flag => "flag",
        }
    }

    /// The stage of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// What the switch has to do where frames meet the stage.
    fn work(self) -> Work {
        match self {
            Self::Meter => Work::Metered,
            Self::Replicate => Work::Group,
            Self::Flag => Work::Flagged,
            _ => Work::Unicast,
        }
    }

    /// Brings so many batches of frames of one flow to the stage, and to no other within the function that is counted. How many
    /// frames went on from there.
    ///
    /// # Errors
    /// [`Error::Switch`] where there is no memory for the switch.
    pub fn run(self, batches: u32) -> Result<u64, Error> {
        let mut memory = OnMemory::new(self.work(), 1)?;
        let (mut passed, port) = (0, black_box(IN));
        for _ in 0..batches {
            memory.batch(|frames, tables| {
                passed += frames.iter_mut().filter_map(|frame| self.meet(frame, port, tables)).count() as u64;
            });
        }
        Ok(passed)
    }

    /// Nothing where the frame does not go on.
    fn meet(self, frame: &mut RxFrame<'_>, port: PortId, tables: &Tables) -> Option<()> {
        let is_passed = |passed: bool| passed.then_some(());
        if self == Self::Parse {
            return stage_parse(frame).map(drop);
        }
        let (destination, source, size) = stages::parse(frame)?;
        match self {
            Self::Flag => return stage_flag(frame, (destination, source), port, tables).map(drop),
            Self::LookUp => return stage_look_up(destination, source, tables).map(drop),
            _ => {}
        }
        let (slot, key) = stages::look_up(destination, source, tables)?;
        match self {
            Self::Check => is_passed(stage_check(slot, key, port, tables)),
            Self::Meter => is_passed(stage_meter(slot, &size, tables)),
            Self::Resolve => stage_resolve(frame, &size, slot, port, tables).map(drop),
            Self::Replicate => is_passed(stage_replicate(frame, port, key, tables) == End::Replicate),
            _ => {
                let way = stages::resolve(frame, &size, slot, port, tables)?;
                is_passed(stage_rewrite(frame, &size, slot, way))
            }
        }
    }
}

#[inline(never)]
fn stage_parse(frame: &mut RxFrame<'_>) -> Option<(u64, u64, Size)> {
    stages::parse(frame)
}

#[inline(never)]
fn stage_look_up(destination: u64, source: u64, tables: &Tables) -> Option<(&Slot, u64)> {
    stages::look_up(destination, source, tables)
}

#[inline(never)]
fn stage_flag(frame: &mut RxFrame<'_>, addresses: (u64, u64), port: PortId, tables: &Tables) -> Option<u64> {
    stages::flag(frame, addresses, port, tables)
}

#[inline(never)]
fn stage_check(slot: &Slot, key: u64, port: PortId, tables: &Tables) -> bool {
    stages::check(slot, key, port, tables)
}

#[inline(never)]
fn stage_resolve<'a>(
    frame: &mut RxFrame<'_>,
    size: &Size,
    slot: &Slot,
    port: PortId,
    tables: &'a Tables,
) -> Option<(NextHop, &'a PortEntry)> {
    stages::resolve(frame, size, slot, port, tables)
}

#[inline(never)]
fn stage_meter(slot: &Slot, size: &Size, tables: &Tables) -> bool {
    stages::meter(slot, size, tables)
}

#[inline(never)]
fn stage_rewrite(frame: &mut RxFrame<'_>, size: &Size, slot: &Slot, way: (NextHop, &PortEntry)) -> bool {
    stages::rewrite(frame, size, slot, way)
}

#[inline(never)]
fn stage_replicate(frame: &mut RxFrame<'_>, port: PortId, key: u64, tables: &Tables) -> End {
    let slot = tables.block().slot_of(key >> 16);
    replicate(frame, port, slot, ONLY_GROUP, tables, &mut (), |frame, _| !frame.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BATCH;

    #[test]
    fn every_frame_goes_on_from_every_stage() {
        for stage in Stage::ALL {
            assert_eq!(stage.run(2).expect("memory"), u64::from(2 * BATCH), "{stage:?}");
            assert_eq!(Stage::named(stage.name()), Some(stage));
        }
    }
}
