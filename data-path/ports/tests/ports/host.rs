//! Packets that are left to the Linux stack.

use crate::netns::{Netns, ip, set, until};
use flowlane_ports::PortError;
use flowlane_ports::af_packet::{Ring, RingOptions};
use flowlane_ports::host::HostTun;
use std::time::Duration;

/// A router, and the ring at the one host that it knows.
fn router() -> (Netns, Netns, Ring) {
    let (router, host) = (Netns::with_ipv6(), Netns::with_ipv6());
    router.connect("p1", &host, "e0", 1500);
    router.enter(|| {
        // The strictest: only the device's own setting lets the packets in.
        set("net/ipv4/conf/all/rp_filter", "1");
        set("net/ipv6/conf/all/forwarding", "1");
        ip("addr add 10.0.0.254/24 dev p1");
        ip("addr add fd00::fe/64 dev p1 nodad");
        ip("route add 10.9.9.0/24 dev p1");
        ip("route add fd99::/64 dev p1");
    });
    host.enter(|| {
        ip("addr add 10.0.0.1/24 dev e0");
        ip("addr add fd00::1/64 dev e0 nodad");
    });
    let index = host.index("e0");
    let ring = host.enter(|| Ring::open(index, RingOptions::default())).expect("opened");
    (router, host, ring)
}

/// An Ethernet frame of the host's with a packet whose hops are used up.
fn expired(ipv6: bool, tags: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xa2, 0xf1, 0, 0, 0, 42]);
    let ip = if ipv6 {
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
        link.ipv6(address("fd00::1"), address("fd99::9"), 1)
    } else {
        link.ipv4([10, 0, 0, 1], [10, 9, 9, 9], 1)
    };
    ip.udp(1, 33_434).write(&mut frame, b"traceroute").expect("built");
    frame.splice(12..12, tags.iter().copied());
    frame
}

/// Waits until the ring has a frame with this EtherType and, at this place, this ICMP type.
fn receives(ring: &mut Ring, ethertype: [u8; 2], at: usize, icmp: u8) {
    until(|| {
        let mut found = false;
        ring.wait(Duration::from_millis(100)).expect("up");
        ring.receive(|batch| {
            found = batch
                .iter()
                .any(|frame| frame.bytes.get(12..14) == Some(&ethertype) && frame.bytes.get(at) == Some(&icmp));
        });
        found
    });
}

#[test]
fn linux_answers_an_expired_ipv4_packet() {
    let (router, _host, mut ring) = router();
    let tun = router.enter(|| HostTun::open("fl-host")).expect("opened");
    tun.deliver(&expired(false, &[])).expect("taken");
    receives(&mut ring, [8, 0], 34, 11);
}

#[test]
fn linux_answers_an_expired_ipv6_packet_with_two_tags() {
    let (router, _host, mut ring) = router();
    let tun = router.enter(|| HostTun::open("fl-host")).expect("opened");
    tun.deliver(&expired(true, &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2])).expect("taken");
    receives(&mut ring, [0x86, 0xdd], 54, 3);
}

#[test]
fn the_device_goes_when_it_is_dropped() {
    let netns = Netns::new();
    let tun = netns.enter(|| HostTun::open("fl-host")).expect("opened");
    assert_eq!(netns.index("fl-host"), tun.ifindex());
    drop(tun);
    until(|| netns.enter(|| nix::net::if_::if_nametoindex("fl-host")).is_err());
}

#[test]
fn a_frame_without_ip_is_refused() {
    let netns = Netns::new();
    let tun = netns.enter(|| HostTun::open("fl-host")).expect("opened");
    let mut arp = expired(false, &[]);
    arp[13] = 6;
    for frame in [&arp[..], &arp[..13], &[], &expired(false, &[0x81, 0, 0, 1].repeat(3))] {
        let refused = tun.deliver(frame);
        assert!(matches!(refused, Err(PortError::Frame(_))), "{refused:?}");
    }
}

#[test]
fn names_that_are_none_are_refused() {
    for name in ["", ".", "..", "sixteen-octets-x", "a/b", "a b", "fl%d"] {
        assert!(matches!(HostTun::open(name).map(drop), Err(PortError::Options(_))), "{name:?}");
    }
}
