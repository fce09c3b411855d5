//! What is none of a run's.

use crate::setup::{MAC_A, PATIENCE, REAL_B, Setup};
use flowlane_lab::{Injector, IpNet};
use flowlane_vectors::frames::{ethernet, ethertype};
use flowlane_wire::Mac;
use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

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
        // The neighbour is looked for before there is a packet to it that waits.
        let (mut waiting, start) = (Vec::new(), Instant::now());
        while waiting.len() < 2 && start.elapsed() < PATIENCE {
            held.drain(100, |held| waiting.push(held.frame[30..34].to_vec()));
            thread::sleep(Duration::from_millis(1));
        }
        let has = |frame: &Vec<u8>| tap.frames().iter().any(|seen| seen.bytes == *frame);
        while !left_alone.iter().all(has) && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(50));
        held.drain(100, |held| waiting.push(held.frame[30..34].to_vec()));
        let frames: Vec<Vec<u8>> = tap.stop().expect("a capture").frames.into_iter().map(|frame| frame.bytes).collect();
        for frame in &left_alone {
            assert!(frames.contains(frame), "{frame:02x?}\nis not among\n{frames:02x?}");
        }
        let to_group = |address: [u8; 6]| frames.iter().any(|frame| frame[..6] == address && frame[6..12] == MAC_A.0);
        assert!(to_group([1, 0, 0x5e, 0, 0, 0xfb]), "IPv4 multicast");
        assert!(to_group([0x33, 0x33, 0, 0, 0, 0xfb]), "IPv6 multicast");
        assert!(frames.iter().any(|frame| frame[..6] == [0xff; 6] && frame[12..14] == [8, 6]), "ARP");
        assert!(frames.iter().any(|frame| frame[..6] == [0xff; 6] && frame[12..14] == [8, 0]), "broadcast");
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
