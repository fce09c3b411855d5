//! XDP, tc and userspace give every frame the same verdict, the same octets and the same counters.
//!
//! The kernel's programs run by `BPF_PROG_TEST_RUN`, and, for what that can not show, on real interfaces. Needs root.
#![allow(missing_docs)]

use flowlane_conformance::{
    Action, Generator, InKernel, InUserspace, Input, Interfaces, Live, Place, Program, Switch, now, words,
};
use flowlane_program::{Counts, Mode};
use flowlane_tables::{End, PENDING_LIMIT, Resolution};
use flowlane_vectors::{Executor, Vector, all, block, run};
use flowlane_wire::PortId;
use std::{ops::Range, sync::Arc};

const QUEUE: u32 = 1 << 20;

/// Runs `work` where it may do test runs.
fn with_interfaces(work: impl FnOnce(&Arc<Interfaces>) + Send) {
    Interfaces::with(work).expect("these tests need root");
}

fn in_kernel(program: Program, interfaces: &Arc<Interfaces>) -> InKernel {
    InKernel::new(program, interfaces, QUEUE).expect("the kernel takes the tables")
}

fn in_userspace() -> InUserspace {
    InUserspace::new().expect("memory")
}

/// Every vector passes, but for a few that the executor can never meet.
fn assert_all_pass(executor: &mut impl Executor) {
    let vectors = all();
    let report = run(&vectors, executor);
    assert!(report.failed.is_empty(), "{} failed:\n{}", report.failed.len(), report.failed.join("\n"));
    assert!(report.refused.len() < vectors.len() / 5, "{}: {:?}", report.refused.len(), report.refused);
}

#[test]
fn every_vector_is_as_expected_in_xdp() {
    with_interfaces(|interfaces| assert_all_pass(&mut in_kernel(Program::Xdp, interfaces)));
}

#[test]
fn every_vector_is_as_expected_in_tc() {
    with_interfaces(|interfaces| assert_all_pass(&mut in_kernel(Program::Tc, interfaces)));
}

#[test]
fn every_vector_is_as_expected_in_userspace() {
    assert_all_pass(&mut in_userspace());
}

#[test]
fn every_vector_is_as_expected_on_real_interfaces_by_tc() {
    assert_all_pass(&mut Live::new(Place::Kernel(Mode::Tc)).expect("these tests need root"));
}

#[test]
fn every_vector_is_as_expected_on_real_interfaces_by_xdp() {
    assert_all_pass(&mut Live::new(Place::Kernel(Mode::Xdp)).expect("these tests need root"));
}

#[test]
fn every_vector_is_as_expected_on_real_interfaces_by_af_xdp() {
    assert_all_pass(&mut Live::new(Place::AfXdp).expect("these tests need root"));
}

/// Each of the kernel's executors can refuse a vector, but all do only where a super-packet has a tag beside it or goes to a
/// group, or where the frame is too short for any interface.
#[test]
fn every_vector_is_met_by_the_kernel() {
    with_interfaces(|interfaces| {
        let executors: Vec<Box<dyn Executor>> = vec![
            Box::new(in_kernel(Program::Xdp, interfaces)),
            Box::new(in_kernel(Program::Tc, interfaces)),
            Box::new(Live::new(Place::Kernel(Mode::Tc)).expect("these tests need root")),
        ];
        let refused = |vector: &Vector| {
            let copied = !vector.expect.copies.is_empty();
            vector.offload.gso_size > 0 && (vector.offload.tag.is_some() || copied)
        };
        for vector in all().iter().filter(|vector| vector.frame.len() >= 20 && !refused(vector)) {
            assert!(executors.iter().any(|executor| executor.refuses(vector).is_none()), "{}", vector.name);
        }
    });
}

/// Frames as every executor may meet them.
#[test]
fn executors_agree_on_generated_frames() {
    with_interfaces(|interfaces| {
        let mut switches: Vec<Box<dyn Switch>> = vec![Box::new(in_userspace())];
        for program in [Program::Xdp, Program::Tc] {
            switches.push(Box::new(in_kernel(program, interfaces)));
        }
        let counts = compare(&mut switches, 0..140, Generator::plain);
        // Frames without a whole header come from no interface, and nothing is sent here. Groups and flags are in
        // no generated table.
        let never = [End::Truncated, End::NotSent, End::RingFull];
        let never = [&never[..], &End::ALL[End::Replicate as usize..]].concat();
        for end in End::ALL.iter().filter(|end| !never.contains(end)) {
            assert!(counts[*end as usize] > 100, "only {} frames end as {end}", counts[*end as usize]);
        }
    });
}

#[test]
fn executors_agree_on_generated_frames_that_end_anywhere() {
    with_interfaces(|interfaces| {
        let xdp = in_kernel(Program::Xdp, interfaces);
        let switches = &mut [Box::new(in_userspace()) as Box<dyn Switch>, Box::new(xdp)];
        let counts = compare(switches, 500..520, Generator::cut);
        assert!(counts[End::Malformed as usize] > 100, "{counts:?}");
    });
}

#[test]
fn executors_agree_on_generated_jumbo_frames() {
    with_interfaces(|interfaces| {
        let xdp = in_kernel(Program::Xdp, interfaces);
        let counts = compare(&mut [Box::new(in_userspace()), Box::new(xdp)], 1_000..1_020, Generator::jumbo);
        assert!(counts[End::TooBigRouted as usize] > 100 && counts[End::Forward as usize] > 1_000, "{counts:?}");
    });
}

#[test]
fn executors_agree_on_generated_super_packets() {
    with_interfaces(|interfaces| {
        let tc = in_kernel(Program::Tc, interfaces);
        let counts = compare(&mut [Box::new(in_userspace()), Box::new(tc)], 2_000..2_020, Generator::super_packet);
        let frames: u64 = counts.iter().sum();
        assert!(frames > 25_000, "{frames} frames of 20,000 are too few super-packets");
    });
}

/// For each seed a table, and a thousand frames and changes of the table. All switches must be the same after each.
/// How many frames came to each end.
fn compare(switches: &mut [Box<dyn Switch>], seeds: Range<u64>, frame: fn(&mut Generator) -> Input) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds {
        let mut generator = Generator::new(seed);
        let (setup, mut nanos) = (generator.setup(), now());
        for switch in switches.iter_mut() {
            switch.set_up(&setup, nanos).expect("set up");
        }
        for step in 0..1_000 {
            if step % 10 == 9 {
                nanos = keep_meters_behind(switches, nanos);
            }
            if let Some(change) = generator.change() {
                switches.iter().for_each(|switch| change.apply(switch.tables()));
            }
            let input = frame(&mut generator);
            let (first, others) = switches.split_first_mut().expect("switches");
            let expected = first.offer(&input).expect("sense");
            expected.counted.iter().for_each(|(end, frames)| counts[*end as usize] += frames);
            for other in others {
                let found = other.offer(&input).expect("sense");
                assert_eq!(found, expected, "{}, seed {seed}, step {step}: {input:02x?}", other.name());
                for slot in input.slots() {
                    let (found, expected) = (words(other.tables(), slot), words(first.tables(), slot));
                    assert_eq!(
                        found,
                        expected,
                        "{}, seed {seed}, step {step}, slot {slot}: {input:02x?}",
                        other.name()
                    );
                }
            }
        }
        assert_same_tables(switches, seed);
    }
    counts
}

/// Takes from every meter what it has earned since the time `since`, so that its state depends on the frames alone however
/// long a busy machine takes. The time now.
fn keep_meters_behind(switches: &[Box<dyn Switch>], since: u64) -> u64 {
    const SIXTEENTHS: u64 = 16;
    let nanos = now();
    for switch in switches {
        let metered = switch.tables().slots().iter().filter(|slot| slot.full_at().load() != 0);
        metered.for_each(|slot| slot.full_at().add((nanos - since) * SIXTEENTHS));
    }
    nanos
}

fn assert_same_tables(switches: &[Box<dyn Switch>], seed: u64) {
    let (first, others) = switches.split_first().expect("switches");
    for other in others {
        for slot in 0..block().slots() as usize {
            assert_eq!(words(other.tables(), slot), words(first.tables(), slot), "{}, seed {seed}", other.name());
        }
        for port in 0..16 {
            let counts = |switch: &dyn Switch| switch.tables().counts(PortId(port)).expect("counters");
            assert_eq!(counts(&**other), counts(&**first), "{}, seed {seed}, port {port}", other.name());
        }
    }
}

/// A queue that is smaller than what waits: frames that it does not take are not waited for.
#[test]
fn frames_that_the_queue_does_not_take_are_counted_as_such_and_not_waited_for() {
    with_interfaces(|interfaces| {
        for program in [Program::Xdp, Program::Tc] {
            let mut switch = InKernel::new(program, interfaces, 16_384).expect("tables");
            let vectors = all();
            let vector = vectors.iter().find(|vector| vector.name == "claim_13_first_packet_waits").expect("a vector");
            switch.set_up(&vector.setup, now()).expect("set up");
            let ends: Vec<End> =
                (0..PENDING_LIMIT + 5).map(|_| switch.offer_undrained(&Input::of(vector)).expect("sense")).collect();
            let waiting = ends.iter().filter(|end| **end == End::Resolve).count();
            assert!((1..PENDING_LIMIT as usize).contains(&waiting), "{}: {waiting} fit", switch.name());
            assert!(ends[waiting..].iter().all(|end| *end == End::QueueFull), "{}: {ends:?}", switch.name());
            let slot = vector.expect.joined.expect("it waits").0 as usize;
            assert_eq!(switch.tables().slots()[slot].next(), Resolution::Pending(waiting as u32));
            assert_eq!(switch.drain_waiting(), waiting, "{}", switch.name());
        }
    });
}

/// A next hop whose port is up in the table but has no interface: the frame is counted as dropped, not as sent.
#[test]
fn a_port_that_has_no_interface_in_the_device_map_is_down() {
    with_interfaces(|interfaces| {
        let vectors = all();
        let vector = vectors.iter().find(|vector| vector.name == "claim_17_octet_by_octet").expect("a vector");
        let mut switch = InKernel::without_devices(Program::Xdp, interfaces, QUEUE).expect("tables");
        switch.set_up(&vector.setup, now()).expect("set up");
        let observed = switch.offer(&Input::of(vector)).expect("sense");
        assert_eq!(observed.action, Action::Drop);
        assert_eq!(observed.counted, [(End::PortDown, 1)]);
    });
}
