//! The golden vectors hold for the model as they do for every executor.

use flowlane_model::{Arrival, Change, Switch, receive};
use flowlane_tables::{Slot, Tuple};
use flowlane_vectors::{Executor, Memory, Outcome, Vector, all, block, missed, run};
use flowlane_wire::{Mac, PortId};

const HOUR: u64 = 3_600_000_000_000;

struct Model;

impl Executor for Model {
    fn refuses(&self, _: &Vector) -> Option<&'static str> {
        None
    }

    fn execute(&mut self, vector: &Vector) -> Outcome {
        let memory = Memory::new(&vector.setup, HOUR);
        let tuples: Vec<(Tuple, u64)> = vector.setup.tuples.clone();
        let switch = Switch::read(block(), memory.slots(), memory.ports(), memory.groups(), tuples);
        let arrival = Arrival {
            ingress: vector.ingress.0,
            octets: vector.frame.clone(),
            gso_size: vector.offload.gso_size,
            tag_beside: vector.offload.tag.is_some(),
        };
        let outcome = receive(&switch, &arrival, HOUR);
        outcome.changes.iter().for_each(|change| write(&memory, *change));
        Outcome {
            end: outcome.end,
            egress: outcome.egress.map(PortId),
            frame: Some(outcome.octets),
            copies: outcome.copies.into_iter().map(|(port, octets)| (PortId(port), octets)).collect(),
            missed: missed(memory.groups()),
            slots: memory.slots().iter().map(Slot::flow).collect(),
        }
    }
}

/// Writes what a vector can expect into the tables.
fn write(memory: &Memory, change: Change) {
    let slot = |flow: [u8; 6]| &memory.slots()[block().slot_of(Mac(flow).to_u64()).0 as usize];
    match change {
        Change::Joined { flow } => slot(flow).next_word().add(1 << 16),
        Change::Sent { flow, frames, octets } => {
            slot(flow).packets().add(frames);
            slot(flow).bytes().add(octets);
        }
        Change::Missed { receiver: (group, place), frames } => {
            memory.groups()[group as usize].receivers()[place].missed().add(frames);
        }
        Change::Asked { .. } | Change::Metered { .. } | Change::Copied { .. } => {}
    }
}

#[test]
fn every_vector_holds_for_the_model() {
    let report = run(&all(), &mut Model);
    assert!(report.failed.is_empty(), "{} failed:\n{}", report.failed.len(), report.failed.join("\n"));
    assert_eq!(report.passed, all().len());
}
