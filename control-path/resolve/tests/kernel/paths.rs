//! Routes with several next hops: each has a number, and a flow may choose one.

use crate::ELSEWHERE;
use crate::lab::{Namespace, Observer, address};
use flowlane_resolve::Query;
use flowlane_wire::Mac;

/// A switch with two ways: hosts behind the ports `p1` and `p2`.
fn two_ways() -> (Namespace, [Namespace; 2], [Mac; 2]) {
    let switch = Namespace::new("switch");
    let hosts = [1, 2].map(|n| {
        let host = Namespace::new(&format!("host{n}"));
        let mac = switch.connect(&format!("p{n}"), &host, "eth0", &format!("02:00:00:00:00:1{n}"));
        switch.ip(&format!("addr add 10.0.{n}.1/24 dev p{n}"));
        switch.ip(&format!("addr add fd0{n}::1/64 dev p{n} nodad"));
        host.ip(&format!("addr add 10.0.{n}.2/24 dev eth0"));
        host.ip(&format!("addr add fd0{n}::2/64 dev eth0 nodad"));
        (host, mac)
    });
    let [(one, mac_one), (two, mac_two)] = hosts;
    (switch, [one, two], [mac_one, mac_two])
}

fn by(destination: &str, path: u8) -> Query {
    Query { path: Some(path), ..Query::new(address(destination), ELSEWHERE) }
}

/// How many paths there are, once a query has been told so.
async fn paths(observer: &mut Observer, query: Query, count: u8) {
    observer.until(|observer| (observer.routes.get(&query)?.as_ref()?.paths == count).then_some(())).await;
}

#[test]
fn each_next_hop_of_a_route_has_its_number_however_the_route_is_made() {
    let (switch, _hosts, macs) = two_ways();
    switch.ip("route add 10.1.0.0/16 nexthop via 10.0.2.2 dev p2 nexthop via 10.0.1.2 dev p1");
    switch.ip("route add fd11::/64 nexthop via fd02::2 dev p2 nexthop via fd01::2 dev p1");
    for (family, id, net) in [("10.0", 10, "10.2.0.0/16"), ("fd0", 20, "fd12::/64")] {
        let via = |n: u8| if family == "10.0" { format!("10.0.{n}.2") } else { format!("fd0{n}::2") };
        switch.ip(&format!("nexthop add id {} via {} dev p1", id + 1, via(1)));
        switch.ip(&format!("nexthop add id {} via {} dev p2", id + 2, via(2)));
        switch.ip(&format!("nexthop add id {id} group {}/{}", id + 2, id + 1));
        switch.ip(&format!("route add {net} nhid {id}"));
    }
    switch.run(async {
        let mut observer = Observer::start();
        for destination in ["10.1.0.1", "fd11::1", "10.2.0.1", "fd12::1"] {
            for path in 0..5 {
                let query = by(destination, path);
                observer.resolver.watch(query);
                let n = usize::from(path % 2);
                observer.found(query, macs[n], ["p1", "p2"][n], true).await;
                paths(&mut observer, query, 2).await;
            }
        }
    });
}

#[test]
fn path_whose_link_goes_down_is_replaced_by_another_and_comes_back() {
    let (switch, hosts, macs) = two_ways();
    switch.ip("route add 10.1.0.0/16 nexthop via 10.0.1.2 dev p1 nexthop via 10.0.2.2 dev p2");
    switch.ip("route add fd11::/64 nexthop via fd01::2 dev p1 nexthop via fd02::2 dev p2");
    let queries = ["10.1.0.1", "fd11::1"].map(|destination| by(destination, 1));
    switch.run(async {
        let mut observer = Observer::start();
        for query in queries {
            observer.resolver.watch(query);
            observer.found(query, macs[1], "p2", true).await;
        }
        // The cable at the far end: the kernel keeps the route, as one of a link without carrier.
        hosts[1].ip("link set eth0 down");
        for query in queries {
            observer.found(query, macs[0], "p1", true).await;
            paths(&mut observer, query, 1).await;
        }
        hosts[1].ip("link set eth0 up");
        // Linux takes IPv6 addresses away with the link.
        hosts[1].ip("addr add fd02::2/64 dev eth0 nodad");
        for query in queries {
            observer.found(query, macs[1], "p2", true).await;
        }
        switch.ip("link set p2 down");
        for query in queries {
            observer.found(query, macs[0], "p1", true).await;
        }
    });
}

#[test]
fn route_with_a_single_next_hop_has_one_path() {
    let (switch, _hosts, macs) = two_ways();
    switch.ip("route add 10.1.0.0/16 via 10.0.2.2");
    switch.run(async {
        let mut observer = Observer::start();
        for destination in ["10.1.0.1", "10.0.2.2", "fd02::2"] {
            let query = by(destination, 9);
            observer.resolver.watch(query);
            observer.found(query, macs[1], "p2", true).await;
            paths(&mut observer, query, 1).await;
        }
    });
}
