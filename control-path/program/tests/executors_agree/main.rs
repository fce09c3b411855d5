//! XDP, tc and userspace give every frame the same verdict, the same octets and the same counters.
//!
//! The kernel's programs run by `BPF_PROG_TEST_RUN`, and, for what that can not show, on real interfaces. Needs root.
//!
//! What test runs can not show, and why:
//! - frames shorter than 14 octets: the kernel refuses them, as every driver does;
//! - a VLAN tag beside a socket buffer: the test run's context has no field for it (`live` shows it);
//! - socket buffers that end within the IP header that the EtherType promises: refused (`live` shows them);
//! - socket buffers of more than 3,712 octets: the test run puts them into one page (`live` shows them);
//! - whom Linux takes a frame to be for (`pkt_type`) after `ToLinux`: not part of the context that comes back.
#![allow(missing_docs)]

mod generate;
mod live;
mod observe;
mod test_run;

use flowlane_lab::{End as CableEnd, Netns, veth};
use flowlane_program::{Counts, Mode};
use flowlane_tables::{End, PENDING_LIMIT, Resolution};
use flowlane_vectors::{Executor, Report, Vector, all, block, run};
use flowlane_wire::PortId;
use generate::Generator;
use observe::{Input, Switch, words};
use std::ops::Range;
use test_run::{InKernel, InUserspace, Program, is_cut_ip};

const QUEUE: u32 = 1 << 20;

/// Runs `work` in a network namespace with an interface, whose index it is given.
fn with_interface(work: impl FnOnce(u32) + Send) {
    let netns = Netns::new("agree").expect("these tests need root");
    let end = |name| CableEnd { netns: &netns, name, mac: None };
    let (link, _) = veth(end("d0"), end("d1")).expect("a cable");
    let device = link.index().expect("an index");
    netns.run(|| work(device)).expect("a thread in the namespace");
}

fn assert_all_passed(report: &Report, refused: impl Fn(&Vector) -> bool) {
    assert!(report.failed.is_empty(), "{} failed:\n{}", report.failed.len(), report.failed.join("\n"));
    let expected: Vec<String> = all().into_iter().filter(refused).map(|vector| vector.name).collect();
    let found: Vec<String> = report.refused.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(found, expected, "vectors that can not be shown");
    assert_eq!(report.passed + expected.len(), all().len());
}

fn is_runt(vector: &Vector) -> bool {
    vector.frame.len() < 14
}

fn is_offloaded(vector: &Vector) -> bool {
    vector.offload.gso_size > 0 || vector.offload.tag.is_some()
}

#[test]
fn every_vector_is_as_expected_in_xdp() {
    with_interface(|device| {
        let report = run(&all(), &mut InKernel::new(Program::Xdp, device, QUEUE));
        assert_all_passed(&report, |vector| is_runt(vector) || is_offloaded(vector));
    });
}

#[test]
fn every_vector_is_as_expected_in_tc() {
    with_interface(|device| {
        let report = run(&all(), &mut InKernel::new(Program::Tc, device, QUEUE));
        let refused = |vector: &Vector| {
            let cut = is_runt(vector) || is_cut_ip(&vector.frame);
            cut || vector.offload.tag.is_some() || vector.frame.len() > 3_712
        };
        assert_all_passed(&report, refused);
    });
}

#[test]
fn every_vector_is_as_expected_in_userspace() {
    assert_all_passed(&run(&all(), &mut InUserspace::new()), |_| false);
}

#[test]
fn every_vector_is_as_expected_on_real_interfaces_by_tc() {
    let mut switch = live::Live::new(Mode::Tc);
    let report = run(&all(), &mut switch);
    assert_all_passed(&report, |vector| switch.refuses(vector).is_some());
    assert!(report.refused.len() < 45, "{:?}", report.refused);
}

#[test]
fn every_vector_is_as_expected_on_real_interfaces_by_xdp() {
    let mut switch = live::Live::new(Mode::Xdp);
    let report = run(&all(), &mut switch);
    assert_all_passed(&report, |vector| switch.refuses(vector).is_some());
    assert!(report.refused.len() < 45, "{:?}", report.refused);
}

/// Frames as every executor may meet them.
#[test]
fn executors_agree_on_generated_frames() {
    with_interface(|device| {
        let mut switches: Vec<Box<dyn Switch>> = vec![Box::new(InUserspace::new())];
        for program in [Program::Xdp, Program::Tc] {
            switches.push(Box::new(InKernel::new(program, device, QUEUE)));
        }
        let counts = compare(&mut switches, 0..140, Generator::plain);
        // Frames without a whole header come from no interface, and nothing is sent here.
        let never = [End::Truncated, End::NotSent, End::RingFull];
        for end in End::ALL.iter().filter(|end| !never.contains(end)) {
            assert!(counts[*end as usize] > 100, "only {} frames end as {end}", counts[*end as usize]);
        }
    });
}

#[test]
fn executors_agree_on_generated_frames_that_end_anywhere() {
    with_interface(|device| {
        let xdp = InKernel::new(Program::Xdp, device, QUEUE);
        let switches = &mut [Box::new(InUserspace::new()) as Box<dyn Switch>, Box::new(xdp)];
        let counts = compare(switches, 500..520, Generator::cut);
        assert!(counts[End::Malformed as usize] > 100, "{counts:?}");
    });
}

#[test]
fn executors_agree_on_generated_jumbo_frames() {
    with_interface(|device| {
        let xdp = InKernel::new(Program::Xdp, device, QUEUE);
        let counts = compare(&mut [Box::new(InUserspace::new()), Box::new(xdp)], 1_000..1_020, Generator::jumbo);
        assert!(counts[End::TooBigRouted as usize] > 100 && counts[End::Forward as usize] > 1_000, "{counts:?}");
    });
}

#[test]
fn executors_agree_on_generated_super_packets() {
    with_interface(|device| {
        let tc = InKernel::new(Program::Tc, device, QUEUE);
        let counts = compare(&mut [Box::new(InUserspace::new()), Box::new(tc)], 2_000..2_020, Generator::super_packet);
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
        let (setup, nanos) = (generator.setup(), test_run::now());
        for switch in switches.iter_mut() {
            switch.set_up(&setup, nanos);
        }
        for step in 0..1_000 {
            if let Some(change) = generator.change() {
                switches.iter().for_each(|switch| change.apply(switch.tables()));
            }
            let input = frame(&mut generator);
            let (first, others) = switches.split_first_mut().expect("switches");
            let expected = first.offer(&input);
            expected.counted.iter().for_each(|(end, frames)| counts[*end as usize] += frames);
            for other in others {
                let found = other.offer(&input);
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
    with_interface(|device| {
        for program in [Program::Xdp, Program::Tc] {
            let mut switch = InKernel::new(program, device, 16_384);
            let vectors = all();
            let vector = vectors.iter().find(|vector| vector.name == "claim_13_first_packet_waits").expect("a vector");
            switch.set_up(&vector.setup, test_run::now());
            let ends: Vec<End> = (0..PENDING_LIMIT + 5).map(|_| switch.offer_undrained(&Input::of(vector))).collect();
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
    with_interface(|device| {
        let vectors = all();
        let vector = vectors.iter().find(|vector| vector.name == "claim_17_octet_by_octet").expect("a vector");
        let mut switch = InKernel::without_devices(Program::Xdp, device, QUEUE);
        switch.set_up(&vector.setup, test_run::now());
        let observed = switch.offer(&Input::of(vector));
        assert_eq!(observed.action, observe::Action::Drop);
        assert_eq!(observed.counted, [(End::PortDown, 1)]);
    });
}
