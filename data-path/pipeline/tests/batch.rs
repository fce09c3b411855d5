//! Frames in a batch are treated as the same frames one by one.
#![allow(missing_docs)]

use flowlane_pipeline::{Tables, Verdict, run, run_batch};
use flowlane_tables::{Group, GroupIndex, PortEntry, Slot, Tuple};
use flowlane_vectors::{Buffer, Memory, Setup, all, flow_address, frames::ethernet};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};
use std::cell::RefCell;

const HOUR: u64 = 3_600_000_000_000;

/// On the tables of each vector, the frames of all vectors that come in by the same port: more than are looked up ahead.
#[test]
fn a_batch_ends_as_its_frames_one_by_one() {
    let (vectors, mut most) = (all(), 0);
    for vector in &vectors {
        let same_port = vectors.iter().filter(|other| other.ingress == vector.ingress);
        let frames: Vec<Buffer> = same_port.map(Buffer::of).collect();
        assert_eq!(
            together(&vector.setup, vector.ingress, &frames),
            one_by_one(&vector.setup, vector.ingress, &frames)
        );
        most = most.max(frames.len());
    }
    assert!(most > 100, "a batch of {most}");
}

/// Every frame of a flow is counted where it waits for the next hop, and metered, also by those right behind it.
#[test]
fn frames_of_one_flow_in_a_batch_see_each_other() {
    for vector in all() {
        let frames = vec![Buffer::of(&vector); 40];
        let expected = one_by_one(&vector.setup, vector.ingress, &frames);
        assert_eq!(together(&vector.setup, vector.ingress, &frames), expected, "{}", vector.name);
    }
}

/// Every frame's slot is on its way before the frame is looked at, and no other slot is.
#[test]
fn slots_are_asked_for_once_each_in_order_and_ahead_of_their_frames() {
    const FRAMES: u8 = 100;
    let (flow, host) = (|number: u8| flow_address(0, number).mac(), Mac([2, 0, 0, 0, 0, 1]));
    let frame = |number| match number % 2 {
        0 => ethernet(flow(number), host, &[], 0x88b5, &[]),
        _ => ethernet(host, flow(number), &[], 0x88b5, &[]),
    };
    let mut frames: Vec<Buffer> = (0..FRAMES).map(|number| Buffer::plain(frame(number))).collect();
    let tables = Watched { memory: Memory::new(&Setup::default(), HOUR), asked_for: RefCell::default() };
    let mut decided = 0;
    run_batch(&mut frames, PortId(1), &tables, |_, _| {
        let expected: Vec<_> = (0..usize::from(FRAMES).min(decided + 16)).collect();
        assert_eq!(*tables.asked_for.borrow(), expected, "when frame {decided} is decided");
        decided += 1;
    });
    assert_eq!(decided, usize::from(FRAMES));
}

/// Tables that know which slots were asked for.
struct Watched {
    memory: Memory,
    asked_for: RefCell<Vec<usize>>,
}

impl Tables for Watched {
    fn block(&self) -> Block {
        self.memory.block()
    }

    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.memory.slot(index)
    }

    fn prefetch(&self, slot: &Slot) {
        let index = self.memory.slots().iter().position(|one| std::ptr::eq(one, slot));
        self.asked_for.borrow_mut().extend(index);
    }

    fn port(&self, port: PortId) -> Option<&PortEntry> {
        self.memory.port(port)
    }

    fn group(&self, group: GroupIndex) -> Option<&Group> {
        self.memory.group(group)
    }

    fn tuple(&self, tuple: &Tuple) -> Option<u64> {
        self.memory.tuple(tuple)
    }

    fn tick(&self) -> u32 {
        self.memory.tick()
    }

    fn nanos(&self) -> u64 {
        self.memory.nanos()
    }
}

/// Verdicts, frames and slots afterwards.
type Ended = (Vec<Verdict>, Vec<Buffer>, String);

fn together(setup: &Setup, ingress: PortId, frames: &[Buffer]) -> Ended {
    let (memory, mut frames, mut verdicts) = (Memory::new(setup, HOUR), frames.to_vec(), Vec::new());
    run_batch(&mut frames, ingress, &memory, |_, verdict| verdicts.push(verdict));
    (verdicts, frames, words(&memory))
}

fn one_by_one(setup: &Setup, ingress: PortId, frames: &[Buffer]) -> Ended {
    let (memory, mut frames) = (Memory::new(setup, HOUR), frames.to_vec());
    let verdicts = frames.iter_mut().map(|frame| run(frame, ingress, &memory, &mut ())).collect();
    (verdicts, frames, words(&memory))
}

/// All words of slots and ports.
fn words(memory: &Memory) -> String {
    let live: Vec<_> = memory.slots().iter().filter(|slot| slot.key() != 0).collect();
    format!("{live:?} {:?}", &memory.ports()[..16])
}
