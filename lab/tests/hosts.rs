//! Hosts in namespaces of their own, and the traffic between them.
#![allow(clippy::unwrap_used)]

use flowlane_lab::{Direction, Error, Host, Mac, Netns, Tap, Via, traffic};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);
const ARP: [u8; 2] = [0x08, 0x06];

#[test]
fn two_hosts_ping_each_other_over_ipv4_and_ipv6() {
    let (h1, h2) = pair();
    for (from, to) in [(&h1, h2.ipv4()), (&h1, h2.ipv6())] {
        let report = traffic::ping(from, to.unwrap(), 3, None, TIMEOUT).unwrap();
        assert_eq!((report.sent, report.received, report.rtts.len()), (3, 3, 3), "{report:?}");
    }
    for to in ["10.0.0.1", "fd00::1"] {
        let report = traffic::ping(h2.netns(), ip(to), 1, None, TIMEOUT).unwrap();
        assert_eq!(report.received, 1, "{report:?}");
    }
}

#[test]
fn ten_megabytes_arrive_whole_over_ipv4_and_ipv6() {
    let (h1, h2) = pair();
    for address in [h2.ipv4(), h2.ipv6()] {
        let address = SocketAddr::new(address.unwrap(), 0);
        let before = h2.link().statistics().unwrap().rx_bytes;
        let transfer = traffic::tcp_transfer(&h1, h2.netns(), address, 10_000_000, Duration::from_secs(30)).unwrap();
        assert_eq!(transfer.bytes, 10_000_000);
        assert!(transfer.bits_per_second() > 1e6);
        let carried = h2.link().statistics().unwrap().rx_bytes - before;
        assert!(carried >= 10_000_000, "the octets went elsewhere: the interface counted {carried}");
    }
}

#[test]
fn echo_servers_return_what_they_get_until_they_are_dropped() {
    let (h1, h2) = pair();
    let any_port = SocketAddr::new(h2.ipv4().unwrap(), 0);
    let udp = traffic::udp_echo(h2.netns(), any_port).unwrap();
    let tcp = traffic::tcp_echo(h2.netns(), any_port).unwrap();
    let large = vec![7; 3_000_000];
    assert_eq!(traffic::udp_request(&h1, udp.address(), b"flow", TIMEOUT).unwrap(), b"flow");
    assert_eq!(traffic::tcp_request(&h1, tcp.address(), &large, TIMEOUT).unwrap(), large);

    let (udp_address, tcp_address) = (udp.address(), tcp.address());
    drop((udp, tcp));
    for error in [
        traffic::udp_request(&h1, udp_address, b"flow", TIMEOUT).unwrap_err(),
        traffic::tcp_request(&h1, tcp_address, b"flow", TIMEOUT).unwrap_err(),
    ] {
        assert!(error.to_string().contains("Connection refused"), "{error}");
    }
}

#[test]
fn a_router_forwards_and_says_when_the_time_to_live_is_used_up() {
    let router = Netns::new("router").unwrap();
    router.sysctl("net/ipv4/ip_forward", "1").unwrap();
    router.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    let host = |label, port, net: u8| {
        let (v4, v6) = (format!("10.0.{net}.2/24"), format!("fd00:{net}::2/64"));
        let host = Host::new(label, &router, port, None, &[v4.parse().unwrap(), v6.parse().unwrap()]).unwrap();
        for (address, gateway) in [(v4, format!("10.0.{net}.1")), (v6, format!("fd00:{net}::1"))] {
            host.port().add_address(address.replace("2/", "1/").parse().unwrap()).unwrap();
            host.netns().add_default_route(ip(&gateway)).unwrap();
        }
        host
    };
    let (h1, h2) = (host("h1", "port1", 1), host("h2", "port2", 2));

    for (to, router_address) in [(h2.ipv4(), ip("10.0.1.1")), (h2.ipv6(), ip("fd00:1::1"))] {
        let report = traffic::ping(h1.netns(), to.unwrap(), 2, Some(2), TIMEOUT).unwrap();
        assert_eq!(report.received, 2, "{report:?}");
        let report = traffic::ping(h1.netns(), to.unwrap(), 1, Some(1), TIMEOUT).unwrap();
        assert_eq!((report.received, report.time_exceeded_from), (0, vec![router_address]));
    }
    for (to, router_address) in [("10.0.3.2", ip("10.0.1.1")), ("fd00:3::2", ip("fd00:1::1"))] {
        let report = traffic::ping(h1.netns(), ip(to), 1, None, TIMEOUT).unwrap();
        assert_eq!((report.received, report.unreachable_from), (0, vec![router_address]));
    }
}

#[test]
fn a_lost_request_is_counted_and_does_not_hang() {
    let (h1, _h2) = pair();
    h1.link("eth0").unwrap().set_neighbour(ip("10.0.0.9"), Mac([2, 0, 0, 0, 0, 9])).unwrap();
    let start = Instant::now();
    let report = traffic::ping(&h1, ip("10.0.0.9"), 2, None, Duration::from_millis(100)).unwrap();
    assert_eq!((report.sent, report.received), (2, 0));
    assert!(start.elapsed() < Duration::from_secs(15), "took {:?}", start.elapsed());
}

#[test]
fn requests_without_an_answer_end_by_their_deadline() {
    let (h1, h2) = pair();
    h1.link("eth0").unwrap().set_neighbour(h2.ipv4().unwrap(), Mac([2, 0, 0, 0, 0, 9])).unwrap();
    let short = Duration::from_millis(200);
    let to = SocketAddr::new(h2.ipv4().unwrap(), 7);
    let start = Instant::now();
    for error in [
        traffic::udp_request(&h1, to, b"flow", short).unwrap_err(),
        traffic::tcp_request(&h1, to, b"flow", short).unwrap_err(),
        traffic::tcp_transfer(&h1, h2.netns(), to, 1, short).unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Timeout { after, .. } if *after == short), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(15), "took {:?}", start.elapsed());
}

#[test]
fn a_destination_without_a_route_is_refused_with_advice() {
    let (h1, _h2) = pair();
    let text = traffic::ping(&h1, ip("192.0.2.1"), 1, None, TIMEOUT).unwrap_err().to_string();
    assert!(text.starts_with("h1: can not ping 192.0.2.1: Network is unreachable"), "{text}");
    assert!(text.contains("add a route"), "{text}");
}

#[test]
fn a_host_route_out_of_an_interface_makes_the_neighbour_reachable() {
    let (h1, h2) = pair();
    h2.link().add_address("192.0.2.7/32".parse().unwrap()).unwrap();
    h2.link().add_address("2001:db8::7/128".parse().unwrap()).unwrap();
    for address in ["192.0.2.7", "2001:db8::7"] {
        assert!(traffic::ping(&h1, ip(address), 1, None, TIMEOUT).is_err(), "{address} is reachable already");
        h1.add_route(ip(address).into(), Via::Link("eth0")).unwrap();
        assert_eq!(traffic::ping(&h1, ip(address), 1, None, TIMEOUT).unwrap().received, 1, "{address}");
    }
    let mixed = h1.add_route("203.0.113.0/24".parse().unwrap(), Via::Gateway(ip("fd00::2"))).unwrap_err();
    assert!(matches!(mixed, Error::Route { .. }), "{mixed}");
}

#[test]
fn a_permanent_neighbour_needs_no_arp() {
    let (h1, h2) = pair();
    let own = h1.link("eth0").unwrap();
    own.set_neighbour(h2.ipv4().unwrap(), Mac([2, 0, 0, 0, 0, 9])).unwrap();
    own.set_neighbour(h2.ipv4().unwrap(), h2.link().mac().unwrap()).unwrap();
    h2.link().set_neighbour(ip("10.0.0.1"), own.mac().unwrap()).unwrap();
    let tap = Tap::start(h2.link(), |frame| frame.bytes[12..14] == ARP || frame.bytes[12..14] == [0x08, 0x00]).unwrap();
    assert_eq!(traffic::ping(&h1, h2.ipv4().unwrap(), 1, None, TIMEOUT).unwrap().received, 1);
    let directions: Vec<_> =
        tap.stop().unwrap().frames.iter().map(|f| (f.direction, f.bytes[12] == 8 && f.bytes[13] == 6)).collect();
    assert_eq!(directions, [(Direction::In, false), (Direction::Out, false)]);
}

/// A namespace with `eth0`, and a host at its other end.
fn pair() -> (Netns, Host) {
    let h1 = Netns::new("h1").unwrap();
    let addresses = ["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
    let h2 = Host::new("h2", &h1, "eth0", None, &addresses).unwrap();
    h1.link("eth0").unwrap().add_address("10.0.0.1/24".parse().unwrap()).unwrap();
    h1.link("eth0").unwrap().add_address("fd00::1/64".parse().unwrap()).unwrap();
    (h1, h2)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
