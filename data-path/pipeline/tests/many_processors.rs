//! Several processors at one flow.

use flowlane_pipeline::{Step, Verdict, give_back, run, send};
use flowlane_tables::{End, NextHop, PENDING_LIMIT, PortFlags, Rate, Resolution, Slot};
use flowlane_vectors::{
    Buffer, Flow, Lease, Memory, Meter, Port, Setup, flow_address,
    frames::{ethernet, ethertype, ipv4},
};
use flowlane_wire::{Mac, PortId, Restore};
use std::{
    sync::{
        Barrier, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

const THREADS: u64 = 4;
const SLOT: u8 = 1;
const NANOS: u64 = 1_000_000_000;

fn hop() -> NextHop {
    NextHop { mac: Mac([2, 0, 0, 0, 0, 0xbb]), port: PortId(2), routed: false }
}

fn tables(next: Resolution) -> Memory {
    let port = |id: u8| Port {
        id: PortId(u16::from(id)),
        mac: Mac([2, 0, 0, 0, 0, id]),
        mtu: 1500,
        flags: PortFlags::UP,
        flag: None,
        asking: 0,
    };
    let address = flow_address(0, SLOT);
    let (lease, meter) = (Lease::Never, Meter::Unlimited);
    let flow = Flow { address, port: PortId(1), lease, next, backup: None, meter, restore: Restore::Keep };
    Memory::new(&Setup { ports: vec![port(1), port(2)], flows: vec![flow], ..Setup::default() }, NANOS)
}

fn slot(memory: &Memory) -> &Slot {
    &memory.slots[usize::from(SLOT)]
}

/// A frame of 134 octets.
fn frame() -> Buffer {
    let packet = ipv4(64, 17, &[], 0, &[0; 100]);
    let source = Mac([2, 0, 0, 0, 0, 0xaa]);
    Buffer::plain(ethernet(flow_address(0, SLOT).mac(), source, &[], ethertype::IPV4, &packet))
}

fn is_forwarded(memory: &Memory) -> bool {
    matches!(run(&mut frame(), PortId(1), memory, &mut ()), Verdict::Forward { .. })
}

#[test]
fn no_count_is_lost() {
    const FRAMES: u64 = 300_000;
    let (memory, together) = (tables(Resolution::Resolved(hop())), Barrier::new(THREADS as usize));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                together.wait();
                assert!((0..FRAMES).all(|_| is_forwarded(&memory)));
            });
        }
    });
    let flow = slot(&memory).flow().expect("the flow");
    assert_eq!((flow.packets, flow.bytes), (THREADS * FRAMES, THREADS * FRAMES * 134));
}

#[test]
fn a_meter_gives_out_its_burst_once_and_no_token_more() {
    const BURST: u64 = 490_000;
    let memory = tables(Resolution::Resolved(hop()));
    // A megabyte in a second, and the clock stands still: what there is, is the burst. A frame costs 134 µs, rounded up
    // by a sixteenth of a nanosecond.
    slot(&memory).set_rate(Rate::new(8_000_000, BURST * 134 + 60));
    let (passed, together) = (AtomicU64::new(0), Barrier::new(THREADS as usize));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                together.wait();
                let own = (0..BURST / 2).filter(|_| is_forwarded(&memory)).count();
                passed.fetch_add(own as u64, Ordering::Relaxed);
            });
        }
    });
    // A frame that was pushed aside eight times is dropped, its tokens stay: they are for the frames after it.
    let last = (0..BURST).filter(|_| is_forwarded(&memory)).count() as u64;
    assert_eq!(passed.into_inner() + last, BURST);
    assert_eq!(slot(&memory).packets().load(), BURST);
    assert_eq!(slot(&memory).full_at().load(), 16 * NANOS + BURST * (134_000 * 16 + 1));
}

/// Runs a frame, and `meanwhile` each time that the pipeline has read the next hop and not yet acted on it.
fn run_while(memory: &Memory, mut meanwhile: impl FnMut()) -> Verdict {
    let mut observer = |step| {
        if matches!(step, Step::NextHop { .. }) {
            meanwhile();
        }
    };
    run(&mut frame(), PortId(1), memory, &mut observer)
}

#[test]
fn a_frame_that_joins_just_before_another_is_counted_too() {
    let (memory, mut others) = (tables(Resolution::UNKNOWN), 1);
    let verdict = run_while(&memory, || {
        if others > 0 {
            others -= 1;
            assert!(matches!(run(&mut frame(), PortId(1), &memory, &mut ()), Verdict::Resolve { .. }));
        }
    });
    assert!(matches!(verdict, Verdict::Resolve { .. }), "{verdict:?}");
    assert_eq!(slot(&memory).next(), Resolution::Pending(2));
}

#[test]
fn a_frame_does_not_wait_for_a_next_hop_that_is_stored_just_before() {
    let memory = tables(Resolution::UNKNOWN);
    let verdict = run_while(&memory, || slot(&memory).set_next(Resolution::Resolved(hop())));
    assert_eq!(verdict, Verdict::Forward { port: PortId(2), end: End::Forward });
    assert_eq!(slot(&memory).next(), Resolution::Resolved(hop()));
}

#[test]
fn a_frame_that_is_always_too_late_is_dropped_and_not_waited_for() {
    let (memory, mut others) = (tables(Resolution::UNKNOWN), 0);
    let verdict = run_while(&memory, || {
        others += 1;
        run(&mut frame(), PortId(1), &memory, &mut ());
    });
    assert_eq!(verdict, Verdict::Drop(End::QueueFull));
    assert_eq!(slot(&memory).next(), Resolution::Pending(others));
}

#[test]
fn exactly_as_many_frames_wait_as_there_is_room_for() {
    let memory = tables(Resolution::UNKNOWN);
    let waiting = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    match run(&mut frame(), PortId(1), &memory, &mut ()) {
                        Verdict::Resolve { .. } => drop(waiting.fetch_add(1, Ordering::Relaxed)),
                        verdict => assert_eq!(verdict, Verdict::Drop(End::QueueFull)),
                    }
                }
            });
        }
    });
    assert_eq!(waiting.into_inner(), u64::from(PENDING_LIMIT));
    assert_eq!(slot(&memory).next(), Resolution::Pending(PENDING_LIMIT));
}

#[test]
fn what_the_queue_did_not_take_is_not_waited_for() {
    let memory = tables(Resolution::UNKNOWN);
    for _ in 0..3 {
        run(&mut frame(), PortId(1), &memory, &mut ());
    }
    give_back(slot(&memory));
    assert_eq!(slot(&memory).next(), Resolution::Pending(2));
    give_back(slot(&memory));
    give_back(slot(&memory));
    give_back(slot(&memory));
    assert_eq!(slot(&memory).next(), Resolution::UNKNOWN, "never below none");
    slot(&memory).set_next(Resolution::Resolved(hop()));
    give_back(slot(&memory));
    assert_eq!(slot(&memory).next(), Resolution::Resolved(hop()), "nor takes it anything off a next hop");
}

/// The slow path as the counting word asks for it: it sends what waits, and stores the next hop by a compare with as
/// many frames as it has sent. Whoever joined meanwhile makes that fail, and is sent first.
#[test]
fn frames_that_wait_are_neither_lost_nor_overtaken_while_the_flow_is_resolved() {
    for round in 0..200 {
        resolve_under_load(round);
    }
}

/// (thread, number of its frame).
type Label = (usize, u32);

fn resolve_under_load(round: u32) {
    const FRAMES: u32 = 60;
    let memory = tables(Resolution::UNKNOWN);
    let sent: Mutex<Vec<Label>> = Mutex::new(Vec::new());
    let dropped = AtomicU64::new(0);
    let (queue, waiting) = mpsc::channel::<Label>();
    thread::scope(|scope| {
        for thread in 0..THREADS as usize {
            let (queue, memory, sent, dropped) = (queue.clone(), &memory, &sent, &dropped);
            scope.spawn(move || {
                for number in 0..FRAMES {
                    match run(&mut frame(), PortId(1), memory, &mut ()) {
                        Verdict::Resolve { .. } => queue.send((thread, number)).expect("the slow path listens"),
                        Verdict::Forward { .. } => sent.lock().expect("no panic").push((thread, number)),
                        Verdict::Drop(End::QueueFull) => drop(dropped.fetch_add(1, Ordering::Relaxed)),
                        verdict => panic!("{verdict:?}"),
                    }
                }
            });
        }
        drop(queue);
        slow_path(&memory, &waiting, &sent, round % 40);
        assert_eq!(waiting.iter().count(), 0, "nobody joins once the next hop is stored");
    });
    let sent = sent.into_inner().expect("no panic");
    assert_eq!(sent.len() as u64 + dropped.into_inner(), THREADS * u64::from(FRAMES));
    assert_eq!(slot(&memory).packets().load(), sent.len() as u64);
    for thread in 0..THREADS as usize {
        let own: Vec<u32> = sent.iter().filter(|label| label.0 == thread).map(|label| label.1).collect();
        assert!(own.is_sorted_by(|a, b| a < b), "overtaken: {own:?}");
    }
}

/// Waits until `patience` frames wait, then resolves the flow.
fn slow_path(memory: &Memory, waiting: &mpsc::Receiver<Label>, sent: &Mutex<Vec<Label>>, patience: u32) {
    let slot = slot(memory);
    let mut done = 0;
    loop {
        let joined = match slot.next() {
            Resolution::Pending(joined) => joined,
            other => panic!("{other:?} before it was stored"),
        };
        if done == joined && joined > patience {
            let (old, new) = (Resolution::Pending(done).to_word(), Resolution::Resolved(hop()).to_word());
            if slot.next_word().swap(old, new) {
                return;
            }
        }
        if done < joined {
            let label = waiting.recv().expect("who has joined, queues");
            let verdict = send(&mut frame(), PortId(1), slot, hop(), memory, &mut ());
            assert!(matches!(verdict, Ok(Verdict::Forward { .. })), "{verdict:?}");
            sent.lock().expect("no panic").push(label);
            done += 1;
        }
    }
}
