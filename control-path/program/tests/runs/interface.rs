//! Attached, adopted by a successor, detached.

use crate::setup::{Answering, FLOW, MAC_A, PATIENCE, REAL_B, Run, Setup, open, udp};
use aya::programs::{SchedClassifier, TcAttachType};
use flowlane_program::{Marking, ProgramError};
use flowlane_tables::MarkRule;
use flowlane_wire::{Flag, Mac};
use std::{
    thread,
    time::{Duration, Instant},
};

#[test]
fn other_programs_of_the_interface_run_as_well() {
    Setup::ipv4(|net| {
        let rule = MarkRule { flag: Flag::DEFAULT.to_word(), ..MarkRule::default() };
        let before = Marking::start("eth0", &[rule]).expect("marking");
        let (mut runs, _held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        open(&mut runs, net.key(1), &[FLOW], false);
        let send = || {
            let tap = net.tap_unicast();
            cgroup.run(|| udp(net, b"both"));
            let frames = tap.wait_for(1, PATIENCE).expect("a frame");
            (frames[0].bytes[..6] == FLOW.0, frames[0].bytes[15] >> 2)
        };
        let marked = Flag::DEFAULT.add_to(0);
        assert!(marked != 0);
        assert_eq!(send(), (true, marked));
        drop(before);
        assert_eq!(send(), (true, 0));
        let _behind = Marking::start("eth0", &[rule]).expect("marking");
        assert_eq!(send(), (true, marked));
    });
}

#[test]
fn flows_stay_open_while_nobody_runs_and_a_successor_adopts_them() {
    Setup::both_families(|net| {
        let (mut runs, held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let index = open(&mut runs, net.key(1), &[FLOW], false);
        drop((runs, held));
        let tap = net.tap();
        cgroup.run(|| udp(net, b"alone"));
        let (mut runs, _held, adopted) = net.open();
        assert!(adopted);
        assert_eq!(runs.attached(), [net.ifindex()]);
        assert_eq!(runs.index_of(&net.key(1)), Some(index as u32));
        runs.attach("eth0", net.ifindex()).expect("attached");
        runs.attach("eth0", net.ifindex()).expect("attached once more");
        assert_eq!(programs(), 1);
        cgroup.run(|| udp(net, b"again"));
        assert_eq!(net.seen(tap, 2), [b"alone", b"again"].map(|payload| (FLOW, MAC_A, payload.to_vec())));
        assert_eq!(runs.flows()[index].paths()[0].packets().load(), 2);
    });
}

#[test]
fn packets_that_wait_are_found_by_a_successor() {
    Setup::ipv4(|net| {
        let (mut runs, held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        cgroup.run(|| udp(net, b"left behind"));
        drop((runs, held));
        let (runs, mut held, _) = net.open();
        let tap = net.tap();
        let mut answering = Answering::new(net, &[FLOW]);
        assert_eq!(answering.take(&mut held), 1);
        answering.open(&runs);
        assert_eq!(net.seen(tap, 1), [(FLOW, MAC_A, b"left behind".to_vec())]);
    });
}

#[test]
fn a_detached_interface_and_a_removed_host_leave_nothing() {
    Setup::ipv4(|net| {
        let (mut runs, held) = net.start();
        runs.set_namespace(Some((1, true))).expect("set");
        runs.detach(net.ifindex()).expect("detached");
        wait_until_detached();
        assert_eq!(runs.attached(), []);
        runs.detach(net.ifindex()).expect("it is not attached");
        runs.attach("eth0", net.ifindex()).expect("attached");
        assert_eq!(programs(), 1);
        drop((runs, held));
        net.remove();
        assert!(!net.pins().exists());
        wait_until_detached();
        let tap = net.tap();
        udp(net, b"plain");
        assert_eq!(net.seen(tap, 1), [(REAL_B, MAC_A, b"plain".to_vec())]);
        net.remove();
    });
}

/// Links outlive their pins: for a moment in the kernel, or for as long as a process has them open.
#[test]
fn what_is_removed_puts_nothing_into_flows_though_its_program_is_still_attached() {
    Setup::both_families(|net| {
        let (mut runs, _held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        runs.set_namespace(Some((1, true))).expect("set");
        open(&mut runs, net.key(1), &[FLOW], false);
        let tap = net.tap();
        cgroup.run(|| udp(net, b"before"));
        net.remove();
        assert_eq!(programs(), 1);
        cgroup.run(|| udp(net, b"of the cgroup"));
        udp(net, b"of the namespace");
        let plain = [b"of the cgroup".to_vec(), b"of the namespace".to_vec()].map(|payload| (REAL_B, MAC_A, payload));
        assert_eq!(net.seen(tap, 3), [&[(FLOW, MAC_A, b"before".to_vec())], &plain[..]].concat());
    });
}

/// How many programs look at what leaves by the interface.
fn programs() -> usize {
    SchedClassifier::query_tcx("eth0", TcAttachType::Egress).expect("a query").1.len()
}

/// The kernel takes unpinned links off their interface a moment later.
fn wait_until_detached() {
    let start = Instant::now();
    while programs() > 0 {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_interface_has_the_address_that_it_had_when_it_was_attached_last() {
    Setup::ipv4(|net| {
        let (mut runs, _held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        open(&mut runs, net.key(1), &[FLOW], false);
        let other = Mac([2, 0, 0, 0, 0, 0xa1]);
        net.eth0.set_mac(other).expect("set");
        net.eth0.set_neighbour(net.to, REAL_B).expect("the kernel has forgotten it");
        let tap = net.tap();
        cgroup.run(|| udp(net, b"1"));
        runs.attach("eth0", net.ifindex()).expect("attached");
        cgroup.run(|| udp(net, b"2"));
        assert_eq!(net.seen(tap, 2), [(REAL_B, other, b"1".to_vec()), (FLOW, other, b"2".to_vec())]);
    });
}

/// The kernel ends a link a moment after its file is removed.
#[test]
fn a_program_is_attached_again_right_after_it_was_detached() {
    Setup::ipv4(|net| {
        let (mut runs, _held) = net.start();
        for _ in 0..50 {
            runs.detach(net.ifindex()).expect("detached");
            runs.attach("eth0", net.ifindex()).expect("attached");
        }
    });
}

#[test]
fn there_is_no_attaching_to_what_is_no_ethernet() {
    Setup::ipv4(|net| {
        let (mut runs, _held) = net.start();
        let refused = runs.attach("nothing", 77);
        assert!(matches!(&refused, Err(ProgramError::NoInterface(name)) if name == "nothing"), "{refused:?}");
    });
}
