//! Runs in the real kernel: real sockets, in real cgroups, whose packets are put into flows. Needs root.
#![allow(missing_docs)]

#[path = "runs/setup.rs"]
mod setup;

use aya::programs::{SchedClassifier, TcAttachType};
use flowlane_lab::{Injector, IpNet, traffic};
use flowlane_program::{Marking, ProgramError, Runs};
use flowlane_tables::{HELD_MAX, MarkRule, RUN_FLOWS, RUN_LEVELS, RunKey, RunState};
use flowlane_vectors::frames::{ethernet, ethertype};
use flowlane_wire::{Flag, Mac};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use setup::{Answering, FLOW, MAC_A, PATIENCE, REAL_B, Run, Setup, answered, never, open, socket_to, udp};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

#[test]
fn a_runs_packets_carry_the_flow_address_and_those_of_others_do_not() {
    Setup::both_families(|net| {
        let (mut runs, _held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let index = open(&mut runs, net.key(1), &[FLOW], false);
        let tap = net.tap();
        cgroup.run(|| udp(net, b"run"));
        udp(net, b"other");
        assert_eq!(net.seen(tap, 2), [(FLOW, MAC_A, b"run".to_vec()), (REAL_B, MAC_A, b"other".to_vec())]);
        let path = &runs.flows()[index].paths()[0];
        assert_eq!((path.packets().load(), path.bytes().load()), (1, 3 + net.headers()));
    });
}

#[test]
fn the_flow_address_may_stand_in_the_source_field() {
    Setup::both_families(|net| {
        let (mut runs, _held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        open(&mut runs, net.key(1), &[FLOW], true);
        let tap = net.tap();
        cgroup.run(|| udp(net, b"run"));
        assert_eq!(net.seen(tap, 1), [(REAL_B, FLOW, b"run".to_vec())]);
    });
}

#[test]
fn the_first_packets_wait_and_arrive_in_order_before_those_behind_them() {
    Setup::both_families(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let tap = net.tap();
        cgroup.run(|| (0..5).for_each(|number| udp(net, &[number])));
        let index = runs.index_of(&net.key(1)).expect("an entry that the program took") as usize;
        assert_eq!(runs.flows()[index].state(), (RunState::Waiting { held: 5 }, false));
        assert_eq!(runs.flows()[index].key(), net.key(1));
        assert!(tap.frames().is_empty());
        let mut answering = Answering::new(net, &[FLOW]);
        assert_eq!(answering.take(&mut held), 5);
        answering.open(&runs);
        assert_eq!(runs.flows()[index].state(), (RunState::Open { paths: 1, source: false }, false));
        cgroup.run(|| udp(net, &[5]));
        let expected: Vec<_> = (0..6).map(|number| (FLOW, MAC_A, vec![number])).collect();
        assert_eq!(net.seen(tap, 6), expected);
    });
}

/// A queue that drops tells the sender, and the sender slows down: a packet that waits is not dropped.
#[test]
fn a_sender_is_not_told_that_its_packet_waits() {
    Setup::ipv4(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        cgroup.run(|| {
            let socket = socket_to(net);
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).expect("errors are asked for");
            assert_eq!(socket.send(b"held").expect("no error"), 4);
        });
        assert_eq!(Answering::new(net, &[FLOW]).take(&mut held), 1);
    });
}

#[test]
fn tcp_arrives_whole_from_its_first_packet_on_and_super_packets_stay_whole() {
    Setup::both_families(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let tap = net.tap_unicast();
        let bytes = 20_000_000;
        let to = SocketAddr::new(net.to, 0);
        let work = || cgroup.run(|| traffic::tcp_transfer(&net.a, &net.b, to, bytes, PATIENCE));
        answered(net, &runs, &mut held, work).expect("every octet arrives");
        let frames = tap.stop().expect("a capture").frames;
        // The last acknowledgement is of a connection whose socket is gone: the kernel's own, and without payload.
        let outside = frames.iter().filter(|frame| frame.bytes[..6] != FLOW.0);
        assert!(outside.clone().count() <= 1 && outside.clone().all(|frame| frame.bytes.len() < 100));
        let largest = frames.iter().map(|frame| frame.bytes.len()).max().unwrap_or_default();
        assert!(largest > 10_000, "a super-packet was cut: {largest}");
        let index = runs.index_of(&net.key(1)).expect("an entry") as usize;
        let path = &runs.flows()[index].paths()[0];
        assert!(path.packets().load() >= bytes / 1_448, "{} packets", path.packets().load());
        assert!(path.bytes().load() > bytes + 66 * (bytes / 1_448));
    });
}

/// The flow of a connection that stands is asked for anew, as after a lease that the network has lost.
#[test]
fn tcp_arrives_whole_when_its_super_packets_wait() {
    Setup::both_families(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let index = open(&mut runs, net.key(1), &[FLOW], false);
        let to = SocketAddr::new(net.to, 0);
        let mut largest = 0;
        thread::scope(|scope| {
            let work = || cgroup.run(|| traffic::tcp_transfer(&net.a, &net.b, to, 200_000_000, 6 * PATIENCE));
            let work = scope.spawn(work);
            let (open, waiting) = (RunState::Open { paths: 1, source: false }, RunState::Waiting { held: 0 });
            while !work.is_finished() {
                runs.flows()[index].state_word().swap(open.to_word(false), waiting.to_word(false));
                thread::sleep(Duration::from_millis(3));
                let mut answering = Answering::new(net, &[FLOW]);
                answering.expect(index as u32);
                while runs.flows()[index].state().0 != open {
                    answering.take(&mut held);
                    answering.open(&runs);
                }
                largest = largest.max(answering.largest);
                thread::sleep(Duration::from_millis(3));
            }
            work.join().expect("the thread's work").expect("every octet arrives");
        });
        assert!(largest > 10_000, "no super-packet had to wait: {largest}");
    });
}

#[test]
fn connected_udp_is_answered_by_way_of_the_flow() {
    Setup::both_families(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let server = traffic::udp_echo(&net.b, SocketAddr::new(net.to, 0)).expect("a server");
        let work = || cgroup.run(|| traffic::udp_request(&net.a, server.address(), &[7; 1_400], PATIENCE));
        assert_eq!(answered(net, &runs, &mut held, work).expect("an answer"), [7; 1_400]);
    });
}

#[test]
fn datagrams_sent_as_one_super_packet_arrive_when_they_wait_and_when_they_do_not() {
    Setup::both_families(|net| {
        let (mut runs, mut held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        net.receiver.set_read_timeout(Some(PATIENCE)).expect("set");
        let payload: Vec<u8> = (0..10_000u32).map(|number| number as u8).collect();
        let mut answering = Answering::new(net, &[FLOW]);
        for waits in [1, 0] {
            cgroup.run(|| {
                let socket = socket_to(net);
                setsockopt(&socket, sockopt::UdpGsoSegment, &1_000).expect("Linux 4.18");
                socket.send(&payload).expect("sent");
            });
            assert_eq!(answering.take(&mut held), waits, "all datagrams in one packet");
            answering.open(&runs);
            for expected in payload.chunks(1_000) {
                let mut buffer = [0; 2_000];
                let length = net.receiver.recv(&mut buffer).expect("a datagram with a right checksum");
                assert_eq!(&buffer[..length], expected);
            }
        }
        let path = &runs.flows()[runs.index_of(&net.key(1)).expect("an entry") as usize].paths()[0];
        assert_eq!(path.packets().load(), 10, "of those that did not wait");
        assert_eq!(path.bytes().load(), 10_000 + 10 * net.headers());
    });
}

#[test]
fn ping_is_answered_from_raw_sockets_and_from_ping_sockets() {
    Setup::both_families(|net| {
        let (mut runs, mut held) = net.start();
        net.a.sysctl("net/ipv4/ping_group_range", "0 0").expect("set");
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let tap = net.tap_unicast();
        let work = || cgroup.run(|| (traffic::ping(&net.a, net.to, 2, None, PATIENCE), ping_socket(net)));
        let (raw, ping) = answered(net, &runs, &mut held, work);
        assert_eq!(raw.expect("pinged").received, 2);
        assert!(ping, "an answer to the ping socket");
        let frames = tap.stop().expect("a capture").frames;
        assert!(frames.len() >= 3 && frames.iter().all(|frame| frame.bytes[..6] == FLOW.0), "{frames:02x?}");
    });
}

/// Sends an echo request from a ping socket. Whether it is answered.
fn ping_socket(net: &Setup) -> bool {
    let (family, protocol, request) = match net.to.is_ipv4() {
        true => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        false => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    let exchange = || {
        let socket = socket(family, SockType::Datagram, SockFlag::empty(), protocol).expect("a ping socket");
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket.send_to(&[request, 0, 0, 0, 0, 0, 0, 1, 5], SocketAddr::new(net.to, 0)).expect("sent");
        socket.recv(&mut [0; 64]).is_ok()
    };
    net.a.run(exchange).expect("a thread")
}

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
        let tap = net.tap_unicast();
        let payload = vec![9; 200_000];
        let work = || traffic::tcp_request(&net.b, server.address(), &payload, PATIENCE);
        assert!(answered(net, &runs, &mut held, work).expect("an answer") == payload);
        drop(server);
        let frames = tap.stop().expect("a capture").frames;
        let flags = |frame: &[u8]| frame[net.headers() as usize - 8 + 13];
        assert_eq!(flags(&frames[0].bytes) & 0x12, 0x12, "the first is SYN-ACK");
        // The last acknowledgement may be of a socket that is gone already, and then is the kernel's own.
        let of_run = frames.iter().filter(|frame| frame.bytes[..6] == FLOW.0).count();
        assert!(of_run + 1 >= frames.len(), "{of_run} of {}", frames.len());
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

/// A flow for each of several paths: all packets of a socket take the same one.
#[test]
fn connections_are_spread_over_the_paths_and_each_keeps_to_one() {
    Setup::both_families(|net| {
        let (mut runs, _held) = net.start();
        let cgroup = net.cgroup();
        cgroup.add(&mut runs, Run::of(1));
        let addresses = [1, 2, 3].map(|number| Mac([0x02, 0xf1, 0, 0, 1, number]));
        let index = open(&mut runs, net.key(1), &addresses, false);
        let tap = net.tap();
        cgroup.run(|| {
            for number in 0..30 {
                let socket = socket_to(net);
                (0..3).for_each(|_| assert_eq!(socket.send(&[number]).expect("sent"), 1));
            }
        });
        let mut taken: BTreeMap<u8, BTreeSet<[u8; 6]>> = BTreeMap::new();
        for (to, _, payload) in net.seen(tap, 90) {
            taken.entry(payload[0]).or_default().insert(to.0);
        }
        assert!(taken.values().all(|paths| paths.len() == 1), "{taken:02x?}");
        let all: BTreeSet<_> = taken.into_values().flatten().collect();
        assert_eq!(all, addresses.map(|address| address.0).into());
        let packets = runs.flows()[index].paths().iter().map(|path| path.packets().load()).sum::<u64>();
        assert_eq!(packets, 90);
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
            cgroup.run(|| {
                let sockets: Vec<UdpSocket> = (0..8).map(|_| socket_to(net)).collect();
                thread::scope(|scope| {
                    for socket in &sockets {
                        scope.spawn(|| (0..4).for_each(|_| assert_eq!(socket.send(&[round]).expect("sent"), 1)));
                    }
                });
            });
            let index = runs.index_of(&net.key(1)).expect("an entry");
            assert_eq!(runs.flows()[index as usize].state(), (RunState::Waiting { held: 32 }, false));
            let mut count = 0;
            held.drain(100, |held| {
                assert_eq!((held.index, held.run, held.ifindex), (index, 1, net.ifindex()));
                count += 1;
            });
            assert_eq!(count, 32);
            let taken = runs.flows().iter().filter(|flow| flow.state().0 != RunState::Free).count();
            assert_eq!(taken, 1, "no entry is left behind");
            runs.forget(index).expect("forgotten");
        }
    });
}

#[test]
fn what_is_for_groups_or_for_neighbours_is_left_alone_even_where_flows_are_required() {
    Setup::ipv4(|net| {
        let (mut runs, mut held) = net.start();
        runs.set_namespace(Some((1, true))).expect("set");
        let neighbour: IpNet = "10.1.0.9/24".parse().expect("an address");
        net.b0.add_address(neighbour).expect("an address without a known neighbour");
        let tap = net.tap_all();
        for to in ["224.0.0.251:5353", "[ff02::fb%2]:5353", "10.1.0.255:7", "169.254.7.7:7", "10.1.0.9:7"] {
            let to: SocketAddr = to.replace("%2", &format!("%{}", net.ifindex())).parse().expect("an address");
            net.a
                .run(|| {
                    let any = if to.is_ipv4() { "10.1.0.1:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).expect("a socket");
                    socket.set_broadcast(true).expect("set");
                    drop(socket.send_to(b"?", to));
                })
                .expect("a thread");
        }
        let injector = Injector::open(&net.eth0).expect("an injector");
        let advertisement = neighbour_discovery(136);
        let tagged = ethernet(REAL_B, MAC_A, &[(ethertype::CUSTOMER, 5)], ethertype::IPV4, &[0x45; 40]);
        let of_another = ethernet(REAL_B, Mac([2, 0, 0, 0, 0, 0xc0]), &[], ethertype::IPV4, &udp_packet());
        let not_ip = ethernet(REAL_B, MAC_A, &[], ethertype::LOCAL, &[1; 50]);
        let left_alone = [advertisement, tagged, of_another, not_ip];
        left_alone.iter().for_each(|frame| injector.send(frame).expect("sent"));
        // This one waits: the namespace is a run indeed.
        injector.send(&ethernet(REAL_B, MAC_A, &[], ethertype::IPV4, &udp_packet())).expect("sent");
        thread::sleep(Duration::from_millis(50));
        let frames: Vec<Vec<u8>> = tap.stop().expect("a capture").frames.into_iter().map(|frame| frame.bytes).collect();
        for frame in &left_alone {
            assert!(frames.contains(frame), "{frame:02x?}\nis not among\n{frames:02x?}");
        }
        let to_group = |address: [u8; 6]| frames.iter().any(|frame| frame[..6] == address && frame[6..12] == MAC_A.0);
        assert!(to_group([1, 0, 0x5e, 0, 0, 0xfb]), "IPv4 multicast");
        assert!(to_group([0x33, 0x33, 0, 0, 0, 0xfb]), "IPv6 multicast");
        assert!(frames.iter().any(|frame| frame[..6] == [0xff; 6] && frame[12..14] == [8, 6]), "ARP");
        assert!(frames.iter().any(|frame| frame[..6] == [0xff; 6] && frame[12..14] == [8, 0]), "broadcast");
        let mut waiting = Vec::new();
        held.drain(100, |held| waiting.push(held.frame[30..34].to_vec()));
        waiting.sort();
        assert_eq!(waiting, [[10, 1, 0, 2], [10, 1, 0, 9]]);
    });
}

/// An ICMPv6 message to one neighbour, by its global address.
fn neighbour_discovery(kind: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    packet.extend("fd01::1".parse::<std::net::Ipv6Addr>().expect("an address").octets());
    packet.extend("fd01::2".parse::<std::net::Ipv6Addr>().expect("an address").octets());
    packet.extend([kind, 0, 0, 0]);
    packet.extend([0; 20]);
    ethernet(REAL_B, MAC_A, &[], ethertype::IPV6, &packet)
}

fn udp_packet() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2];
    packet.extend([0x1e, 0x61, 0x1e, 0x61, 0, 8, 0, 0]);
    packet
}

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
