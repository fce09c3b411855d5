//! Packets that wait for their flow, and what is done when there is none.

use crate::setup::{Answering, Cgroup, FLOW, MAC_A, PATIENCE, REAL_B, Run, Setup, never, open, socket_to, udp};
use flowlane_program::{HeldPackets, ProgramError, Runs};
use flowlane_tables::{HELD_MAX, HELD_NANOS, RUN_FLOWS, RunKey, RunState};
use flowlane_wire::Mac;
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

#[test]
fn packets_pass_as_they_are_when_the_time_is_over_and_are_dropped_where_flows_are_required() {
    Setup::both_families(|net| {
        let (mut runs, _held) = net.start();
        let (may, must) = (net.cgroup(), net.cgroup());
        may.add(&mut runs, Run::of(1));
        must.add(&mut runs, Run::requiring(2));
        let over = Runs::boot_nanos();
        let entries = [1, 2].map(|run| runs.want(&net.key(run), run == 2, over).expect("room") as usize);
        let send = |expected: &[(Mac, Mac, Vec<u8>)]| {
            let tap = net.tap();
            may.run(|| udp(net, b"may"));
            must.run(|| net.try_udp(b"must"));
            assert_eq!(net.seen(tap, expected.len()), expected);
        };
        send(&[(REAL_B, MAC_A, b"may".to_vec())]);
        for (run, entry) in (1..).zip(entries) {
            open(&mut runs, net.key(run), &[FLOW], false);
            runs.flows()[entry].until().store(over);
        }
        send(&[(REAL_B, MAC_A, b"may".to_vec())]);
        assert_eq!(entries.map(|entry| runs.flows()[entry].passed().load()), [2, 0]);
        entries.into_iter().for_each(|entry| runs.flows()[entry].until().store(never()));
        send(&[(FLOW, MAC_A, b"may".to_vec()), (FLOW, MAC_A, b"must".to_vec())]);
        for entry in entries {
            let (_, required) = runs.flows()[entry].state();
            runs.flows()[entry].state_word().store(RunState::Plain.to_word(required));
        }
        send(&[(REAL_B, MAC_A, b"may".to_vec())]);
        runs.flows()[entries[0]].state_word().store(RunState::Cut.to_word(false));
        send(&[]);
    });
}

/// Nobody answers: no daemon is left, and nobody to look after it.
#[test]
fn packets_wait_no_longer_than_a_moment_when_nobody_answers() {
    Setup::ipv4(|net| {
        let (mut runs, held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        drop((runs, held));
        let tap = net.tap();
        let start = Instant::now();
        while tap.frames().is_empty() {
            assert!(start.elapsed() < PATIENCE, "packets still wait");
            cgroup.run(|| udp(net, b"?"));
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(tap.frames()[0].bytes[..6], REAL_B.0);
    });
}

#[test]
fn what_comes_behind_those_that_wait_passes_as_it_is_or_is_dropped() {
    Setup::ipv4(|net| {
        let (mut runs, mut held) = net.start();
        let (may, must) = (net.cgroup(), net.cgroup());
        may.add(&mut runs, Run::of(1));
        must.add(&mut runs, Run::requiring(2));
        let entries = [1, 2].map(|run| runs.want(&net.key(run), run == 2, never()).expect("room") as usize);
        let tap = net.tap();
        for cgroup in [&may, &must] {
            cgroup.run(|| {
                let socket = socket_to(net);
                (0..HELD_MAX + 3).for_each(|_| drop(socket.send(b"behind")));
            });
        }
        let waiting = RunState::Waiting { held: HELD_MAX };
        assert_eq!(entries.map(|entry| runs.flows()[entry].state()), [(waiting, false), (waiting, true)]);
        assert_eq!(net.seen(tap, 3), vec![(REAL_B, MAC_A, b"behind".to_vec()); 3]);
        assert_eq!(Answering::new(net, &[FLOW]).take(&mut held), 2 * HELD_MAX as usize);
    });
}

#[test]
fn packets_pass_where_there_is_no_room_for_one_more_destination() {
    Setup::ipv4(|net| {
        let (mut runs, _held) = net.start();
        let (may, must) = (net.cgroup(), net.cgroup());
        may.add(&mut runs, Run::of(1));
        must.add(&mut runs, Run::requiring(2));
        let key = |run| RunKey { run, ..RunKey::default() };
        for run in 0..RUN_FLOWS {
            runs.want(&key(run), false, 0).expect("room");
        }
        assert!(matches!(runs.want(&net.key(1), false, 0), Err(ProgramError::RunsFull)));
        let tap = net.tap();
        may.run(|| udp(net, b"may"));
        must.run(|| net.try_udp(b"must"));
        assert_eq!(net.seen(tap, 1), [(REAL_B, MAC_A, b"may".to_vec())]);

        let index = runs.index_of(&key(77)).expect("an entry");
        runs.forget(index).expect("forgotten");
        assert_eq!(runs.index_of(&key(77)), None);
        assert_eq!(runs.want(&net.key(1), false, never()).expect("room again"), index);
    });
}

#[test]
fn a_destination_whose_first_packet_finds_the_queue_full_is_asked_for_with_a_later_one() {
    Setup::ipv4(|net| {
        let (mut runs, mut held) = net.start();
        let cgroups = [net.cgroup(), net.cgroup()];
        for (run, cgroup) in (1..).zip(&cgroups) {
            cgroup.add(&mut runs, Run::of(run));
        }
        runs.want(&net.key(1), false, never()).expect("room");
        let super_packet = || {
            let socket = socket_to(net);
            setsockopt(&socket, sockopt::UdpGsoSegment, &1_000).expect("Linux 4.18");
            assert_eq!(socket.send(&[5; 60_000]).expect("sent"), 60_000);
        };
        cgroups[0].run(|| (0..HELD_MAX).for_each(|_| super_packet()));
        let tap = net.tap();
        cgroups[1].run(super_packet);
        assert!(tap.wait_for(1, PATIENCE).expect("it passes")[0].bytes[..6] == REAL_B.0);
        assert_eq!(runs.index_of(&net.key(2)), None);
        assert_eq!(runs.flows().iter().filter(|flow| flow.state().0 != RunState::Free).count(), 1);
        let queued = held.drain(usize::MAX, |_| ());
        assert!(queued > 50 && queued < HELD_MAX as usize, "{queued} packets");
        cgroups[1].run(super_packet);
        held.drain(usize::MAX, |held| assert_eq!((held.run, held.gso_size, held.frame.len()), (2, 1_000, 60_042)));
        let index = runs.index_of(&net.key(2)).expect("an entry") as usize;
        assert_eq!(runs.flows()[index].state(), (RunState::Waiting { held: 1 }, false));
    });
}

/// What many processors do at the same time for a destination that none of them knows.
#[test]
fn a_destination_gets_one_entry_however_many_send_to_it_at_once() {
    Setup::ipv4(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        for round in 0..20 {
            let all_wait = (0..10).any(|_| all_wait_for_one_entry(net, &mut runs, &mut held, &cgroup, round));
            assert!(all_wait, "ten times it took a second to send");
        }
    });
}

/// Many send at once, and one entry is taken. Whether all of it waits: it may be otherwise only where the time to wait was over
/// before all was sent.
fn all_wait_for_one_entry(net: &Setup, runs: &mut Runs, held: &mut HeldPackets, cgroup: &Cgroup, round: u8) -> bool {
    let start = Instant::now();
    send_at_once(net, cgroup, round);
    let in_time = start.elapsed() < Duration::from_nanos(HELD_NANOS);
    let index = runs.index_of(&net.key(1)).expect("an entry");
    let state = runs.flows()[index as usize].state();
    let mut count = 0;
    held.drain(100, |held| {
        assert_eq!((held.index, held.run, held.ifindex), (index, 1, net.ifindex()));
        count += 1;
    });
    assert_eq!(state, (RunState::Waiting { held: count }, false));
    assert!(count == 32 || !in_time, "{count} wait");
    let taken = runs.flows().iter().filter(|flow| flow.state().0 != RunState::Free).count();
    assert_eq!(taken, 1, "no entry is left behind");
    runs.forget(index).expect("forgotten");
    count == 32
}

/// Four datagrams by each of eight threads.
fn send_at_once(net: &Setup, cgroup: &Cgroup, payload: u8) {
    cgroup.run(|| {
        let sockets: Vec<UdpSocket> = (0..8).map(|_| socket_to(net)).collect();
        thread::scope(|scope| {
            for socket in &sockets {
                scope.spawn(|| (0..4).for_each(|_| assert_eq!(socket.send(&[payload]).expect("sent"), 1)));
            }
        });
    });
}
