//! The golden vectors hold for the model as they do for every executor.

use flowlane_model::{Arrival, Change, Receiver, Switch, receive};
use flowlane_tables::Slot;
use flowlane_vectors::{Executor, Memory, Outcome, Served, Vector, all, block, run};
use flowlane_wire::{Mac, PortId};
use std::collections::BTreeMap;

const HOUR: u64 = 3_600_000_000_000;

struct Model;

impl Executor for Model {
    fn refuses(&self, _: &Vector) -> Option<&'static str> {
        None
    }

    fn execute(&mut self, vector: &Vector) -> Result<Outcome, String> {
        let memory = Memory::new(&vector.setup, HOUR);
        let tuples = vector.setup.tuples.iter().copied();
        let mut switch = Switch::read(memory.block, &memory.slots, &memory.ports, &memory.groups, tuples);
        let arrival = Arrival {
            ingress: vector.ingress.0,
            octets: vector.frame.clone(),
            gso_size: vector.offload.gso_size,
            tag_beside: vector.offload.tag.is_some(),
        };
        let outcome = receive(&switch, &arrival, HOUR);
        switch.apply(&outcome.changes);
        outcome.changes.iter().for_each(|change| write(&memory, *change));
        Ok(Outcome {
            end: outcome.end,
            egress: outcome.egress.map(PortId),
            frame: Some(outcome.octets),
            copies: outcome.copies.into_iter().map(|(port, octets)| (PortId(port), octets)).collect(),
            served: served(&switch),
            asking: switch.port(vector.ingress.0).asking,
            slots: memory.slots.iter().map(Slot::flow).collect(),
        })
    }
}

/// Writes what vectors look at in a slot.
fn write(memory: &Memory, change: Change) {
    let slot = |flow: [u8; 6]| &memory.slots[block().slot_of(Mac(flow).to_u64()).0 as usize];
    match change {
        Change::Joined { flow } => slot(flow).next_word().add(1),
        Change::Sent { flow, frames, octets } => {
            slot(flow).packets().add(frames);
            slot(flow).bytes().add(octets);
        }
        Change::Asked { .. } | Change::Metered { .. } | Change::Copied { .. } | Change::Missed { .. } => {}
    }
}

/// What receivers have counted, those that have.
fn served(switch: &Switch) -> Vec<Served> {
    let of_group = |(group, receivers): (&u32, &BTreeMap<usize, Receiver>)| {
        let served = receivers.iter().map(|(place, receiver)| Served {
            group: *group as usize,
            place: *place,
            packets: receiver.packets,
            bytes: receiver.bytes,
            missed: receiver.missed,
        });
        served.filter(|served| served.packets + served.missed > 0).collect::<Vec<_>>()
    };
    switch.groups.iter().flat_map(of_group).collect()
}

#[test]
fn every_vector_holds_for_the_model() {
    let report = run(&all(), &mut Model);
    assert!(report.failed.is_empty(), "{} failed:\n{}", report.failed.len(), report.failed.join("\n"));
    assert_eq!(report.passed, all().len());
}
