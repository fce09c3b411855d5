//! Whose packets are a run's.

use crate::setup::{FLOW, PATIENCE, REAL_B, Run, Setup, answered, leave_by_flow, open, socket_to, udp, wait_for_ever};
use flowlane_lab::traffic;
use flowlane_program::ProgramError;
use flowlane_tables::RUN_LEVELS;
use flowlane_wire::Mac;
use std::{net::SocketAddr, os::fd::AsRawFd};

#[test]
fn what_a_cgroup_below_sends_belongs_to_the_run_and_the_innermost_run_decides() {
    Setup::ipv4(|net| {
        let (mut runs, _held) = net.start();
        let outer = net.cgroup();
        let inner = outer.child("inner");
        let innermost = inner.child("innermost");
        let other = Mac([0x02, 0xf1, 0, 0, 0, 0x43]);
        outer.add(&mut runs, Run::of(1));
        open(&mut runs, net.key(1), &[FLOW], false);
        open(&mut runs, net.key(2), &[other], false);
        let send = || {
            let tap = net.tap();
            [&outer, &inner, &innermost].into_iter().for_each(|cgroup| cgroup.run(|| udp(net, b"")));
            net.seen(tap, 3).into_iter().map(|(to, ..)| to).collect::<Vec<_>>()
        };
        assert_eq!(send(), [FLOW, FLOW, FLOW]);
        inner.add(&mut runs, Run::of(2));
        assert_eq!(send(), [FLOW, other, other]);
        runs.remove_cgroup(outer.id()).expect("removed");
        assert_eq!(send(), [REAL_B, other, other]);
        runs.remove_cgroup(inner.id()).expect("removed");
        assert_eq!(send(), [REAL_B; 3]);
    });
}

#[test]
fn runs_at_too_many_depths_are_refused_and_those_there_are_stay() {
    Setup::ipv4(|net| {
        let (mut runs, _held) = net.start();
        for level in 1..=RUN_LEVELS as u32 {
            runs.add_cgroup(u64::from(level), level, 1, false).expect("added");
        }
        let refused = runs.add_cgroup(100, 100, 1, false);
        assert!(matches!(refused, Err(ProgramError::TooManyLevels)), "{refused:?}");
        runs.add_cgroup(101, 1, 1, false).expect("one more of a depth that there is");
        runs.remove_cgroup(1).and_then(|()| runs.remove_cgroup(101)).expect("removed");
        runs.add_cgroup(100, 100, 1, false).expect("a depth has become free");
    });
}

#[test]
fn a_listening_server_answers_by_way_of_the_flow_from_its_first_packet_on() {
    Setup::both_families(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let own = SocketAddr::new(net.from(), 0);
        let server = cgroup.run(|| traffic::tcp_echo(&net.a, own)).expect("a server");
        wait_for_ever(net, &mut runs);
        let tap = net.tap_unicast();
        let payload = vec![9; 200_000];
        let work = || traffic::tcp_request(&net.b, server.address(), &payload, PATIENCE);
        assert!(answered(net, &runs, &mut held, work).expect("an answer") == payload);
        drop(server);
        let frames = tap.stop().expect("a capture").frames;
        let flags = |frame: &[u8]| frame[net.headers() as usize - 8 + 13];
        assert_eq!(flags(&frames[0].bytes) & 0x12, 0x12, "the first is SYN-ACK");
        assert!(leave_by_flow(net, &frames));
        assert!(frames[0].bytes[..6] == FLOW.0);
    });
}

#[test]
fn a_socket_is_a_run_by_its_cookie() {
    Setup::both_families(|net| {
        let (mut runs, _held) = net.start();
        open(&mut runs, net.key(1), &[FLOW], false);
        let [one, other] = [socket_to(net), socket_to(net)];
        let mut cookie = 0u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` octets, the length of the number.
        let got = unsafe {
            let value = (&raw mut cookie).cast();
            libc::getsockopt(one.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, value, &mut length)
        };
        assert_eq!(got, 0);
        let tap = net.tap();
        runs.add_socket(cookie, 1, false).expect("added");
        one.send(b"1").and_then(|_| other.send(b"2")).expect("sent");
        runs.remove_socket(cookie).expect("removed");
        one.send(b"3").expect("sent");
        let seen: Vec<_> = net.seen(tap, 3).into_iter().map(|(to, _, payload)| (to, payload[0])).collect();
        assert_eq!(seen, [(FLOW, b'1'), (REAL_B, b'2'), (REAL_B, b'3')]);
    });
}

#[test]
fn the_whole_namespace_is_a_run_but_for_those_within_that_are_others() {
    Setup::both_families(|net| {
        let (mut runs, _held) = net.start();
        let cgroup = net.cgroup();
        let other = Mac([0x02, 0xf1, 0, 0, 0, 0x43]);
        cgroup.add(&mut runs, Run::of(2));
        open(&mut runs, net.key(1), &[FLOW], false);
        open(&mut runs, net.key(2), &[other], false);
        let tap = net.tap();
        runs.set_namespace(Some((1, false))).expect("set");
        udp(net, b"1");
        cgroup.run(|| udp(net, b"2"));
        runs.set_namespace(None).expect("set");
        udp(net, b"3");
        let seen: Vec<_> = net.seen(tap, 3).into_iter().map(|(to, _, payload)| (to, payload[0])).collect();
        assert_eq!(seen, [(FLOW, b'1'), (other, b'2'), (REAL_B, b'3')]);
    });
}
