//! What becomes of a run's packets.

use crate::setup::{
    Answering, FLOW, MAC_A, PATIENCE, REAL_B, Run, Setup, answered, leave_by_flow, never, open, socket_to, udp,
    wait_for_ever,
};
use flowlane_lab::traffic;
use flowlane_tables::RunState;
use flowlane_wire::Mac;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
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
        cgroup.run(|| udp(net, &[0]));
        let index = runs.index_of(&net.key(1)).expect("an entry that the program took") as usize;
        // The others wait however long it takes to send them.
        runs.flows()[index].until().store(never());
        cgroup.run(|| (1..5).for_each(|number| udp(net, &[number])));
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
        wait_for_ever(net, &mut runs);
        let tap = net.tap_unicast();
        let bytes = 20_000_000;
        let to = SocketAddr::new(net.to, 0);
        let work = || cgroup.run(|| traffic::tcp_transfer(&net.a, &net.b, to, bytes, PATIENCE));
        answered(net, &runs, &mut held, work).expect("every octet arrives");
        let frames = tap.stop().expect("a capture").frames;
        assert!(leave_by_flow(net, &frames));
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
        wait_for_ever(net, &mut runs);
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
