//! Frames in a batch are treated as the same frames one by one.
#![allow(missing_docs)]

use flowlane_pipeline::{Tables, Verdict, run, run_batch};
use flowlane_tables::{Group, GroupIndex, NextHop, PortEntry, PortFlags, Resolution, Slot, Tuple};
use flowlane_vectors::{Buffer, Flow, Lease, Memory, Meter, Port, Setup, all, flow_address, frames::ethernet};
use flowlane_wire::{Block, Mac, PortId, Restore, SlotIndex};
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

/// However many are left over when those ahead have been asked for.
#[test]
fn each_frame_of_a_batch_goes_the_way_of_its_own_flow() {
    const MOST: u8 = 70;
    let mac = |last| Mac([2, 0, 0, 0, 0, last]);
    let ports = [1, 2].map(|id| Port {
        id: PortId(id),
        mac: mac(id as u8),
        mtu: 1500,
        flags: PortFlags::UP,
        flag: None,
        asking: 0,
    });
    let flows = (0..MOST).map(|slot| Flow {
        address: flow_address(0, slot),
        port: PortId(1),
        lease: Lease::Future,
        next: Resolution::Resolved(NextHop { mac: mac(100 + slot), port: PortId(2), routed: false }),
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Keep,
    });
    let setup = Setup { ports: ports.into(), flows: flows.collect(), ..Setup::default() };
    for frames in 0..=MOST {
        let to_flow = |slot| Buffer::plain(ethernet(flow_address(0, slot).mac(), mac(99), &[], 0x88b5, &[]));
        let frames: Vec<Buffer> = (0..frames).map(to_flow).collect();
        assert_eq!(together(&setup, PortId(1), &frames), one_by_one(&setup, PortId(1), &frames));
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
        let index = self.memory.slots.iter().position(|one| std::ptr::eq(one, slot));
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
    let live: Vec<_> = memory.slots.iter().filter(|slot| slot.key() != 0).collect();
    format!("{live:?} {:?}", &memory.ports[..16])
}
