//! The resolver against the kernel that runs the tests. Needs root, iproute2 and ping.

mod bridge;
mod change;
mod lab;
mod links;
mod paths;
mod scale;

use flowlane_resolve::{Reason, StaticRoute};
use lab::{Namespace, Observer, address};

/// Where flows come in that do not come from anybody in the test.
const ELSEWHERE: u32 = 0;

fn switch_and_host() -> (Namespace, Namespace, flowlane_wire::Mac) {
    let (switch, host) = (Namespace::new("switch"), Namespace::new("host"));
    let mac = switch.connect("p1", &host, "h1", "02:00:00:00:00:11");
    switch.ip("addr add 10.0.0.1/24 dev p1");
    switch.ip("addr add fd00::1/64 dev p1 nodad");
    host.ip("addr add 10.0.0.11/24 dev h1");
    host.ip("addr add fd00::11/64 dev h1 nodad");
    (switch, host, mac)
}

#[test]
fn host_behind_a_port_is_resolved_by_arp() {
    let (switch, _host, mac) = switch_and_host();
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.0.0.11", ELSEWHERE).await;
        observer.found(query, mac, "p1", true).await;
    });
}

#[test]
fn host_behind_a_port_is_resolved_by_neighbour_discovery() {
    let (switch, _host, mac) = switch_and_host();
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("fd00::11", ELSEWHERE).await;
        observer.found(query, mac, "p1", true).await;
    });
}

#[test]
fn destination_behind_a_gateway_goes_to_the_gateway() {
    let (switch, _host, mac) = switch_and_host();
    switch.ip("route add 10.9.0.0/16 via 10.0.0.11");
    switch.ip("route add 10.8.0.0/16 via inet6 fd00::11");
    switch.ip("route add fd09::/16 via fd00::11");
    switch.run(async {
        let mut observer = Observer::start();
        for destination in ["10.9.1.2", "10.8.1.2", "fd09::2"] {
            let query = observer.watch(destination, ELSEWHERE).await;
            observer.found(query, mac, "p1", true).await;
        }
    });
}

#[test]
fn flow_that_would_leave_by_the_port_it_came_in_by_is_refused() {
    let (switch, _host, _) = switch_and_host();
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.0.0.11", ingress).await;
        observer.unreachable(query, Reason::SamePort).await;
    });
}

#[test]
fn destination_that_is_no_other_host_is_refused_with_its_reason() {
    let (switch, _host, _) = switch_and_host();
    switch.ip("route add blackhole 10.1.0.0/16");
    switch.ip("route add prohibit 10.2.0.0/16");
    switch.ip("route add unreachable 10.3.0.0/16");
    switch.ip("route add blackhole fd01::/64");
    switch.ip("route add prohibit fd02::/64");
    switch.ip("route add unreachable fd03::/64");
    switch.run(async {
        let mut observer = Observer::start();
        for (destination, reason) in [
            ("10.1.0.1", Reason::Blackhole),
            ("10.2.0.1", Reason::Prohibited),
            ("10.3.0.1", Reason::Rejected),
            ("10.4.0.1", Reason::NoRoute),
            ("10.0.0.1", Reason::Local),
            ("127.0.0.1", Reason::Local),
            ("10.0.0.255", Reason::NotUnicast),
            ("255.255.255.255", Reason::NotUnicast),
            ("224.0.0.9", Reason::NotUnicast),
            ("0.0.0.0", Reason::NotUnicast),
            ("fd01::1", Reason::Blackhole),
            ("fd02::1", Reason::Prohibited),
            ("fd03::1", Reason::Rejected),
            ("fd04::1", Reason::NoRoute),
            ("fd00::1", Reason::Local),
            ("::1", Reason::Local),
            ("ff02::1", Reason::NotUnicast),
        ] {
            let query = observer.watch(destination, ELSEWHERE).await;
            observer.unreachable(query, reason).await;
        }
    });
}

#[test]
fn route_through_an_interface_without_ethernet_addresses_is_refused() {
    let (switch, _host, _) = switch_and_host();
    switch.ip("route add 10.5.0.0/16 dev lo");
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.5.0.1", ELSEWHERE).await;
        let interface = observer.index("lo").await;
        observer.unreachable(query, Reason::NotEthernet { interface }).await;
    });
}

#[test]
fn static_route_wins_over_the_kernels() {
    let (switch, _host, _) = switch_and_host();
    let mac = "02:00:00:00:00:99".parse().expect("an Ethernet address");
    switch.run(async {
        let links = flowlane_resolve::list_links().await.expect("the kernel answers");
        let interface = links.iter().find(|link| link.name == "p1").expect("p1").ifindex;
        let route = |to: &str, mac, routed| StaticRoute { to: to.parse().expect("a prefix"), interface, mac, routed };
        let narrow = route("10.0.0.11/32", mac, false);
        let wide = route("10.0.0.0/8", "02:00:00:00:00:98".parse().expect("an Ethernet address"), true);
        let mut observer = Observer::with_static_routes(vec![wide, narrow]);
        let query = observer.watch("10.0.0.11", ELSEWHERE).await;
        observer.found(query, mac, "p1", false).await;
        observer.resolver.set_static_routes(vec![wide]);
        observer.found(query, wide.mac, "p1", true).await;
    });
}

#[test]
fn query_watched_twice_is_told_twice_and_lives_until_unwatched_twice() {
    let (switch, _host, mac) = switch_and_host();
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.0.0.11", ELSEWHERE).await;
        observer.found(query, mac, "p1", true).await;
        observer.answers.clear();
        observer.watch("10.0.0.11", ELSEWHERE).await;
        observer.found(query, mac, "p1", true).await;

        observer.resolver.unwatch(query);
        switch.ip("link set p1 down");
        observer.unreachable(query, Reason::NoRoute).await;
        observer.resolver.unwatch(query);
        observer.pass(std::time::Duration::from_millis(50)).await;
        let told = observer.history.len();
        switch.ip("link set p1 up");
        observer.pass(std::time::Duration::from_secs(2)).await;
        assert_eq!(observer.history.len(), told, "{:?}", &observer.history[told..]);
    });
}

#[test]
fn events_end_when_the_resolver_is_dropped() {
    let (switch, _host, _) = switch_and_host();
    switch.run(async {
        let Observer { resolver, mut events, .. } = Observer::start();
        drop(resolver);
        let all_events = async { while events.recv().await.is_some() {} };
        tokio::time::timeout(lab::PATIENCE, all_events).await.expect("the events end");
    });
}

#[test]
fn silent_host_is_unreachable_until_it_appears() {
    let (switch, host, mac) = switch_and_host();
    switch.run(async {
        let mut observer = Observer::start();
        let started = std::time::Instant::now();
        let query = observer.watch("10.0.0.12", ELSEWHERE).await;
        observer.unreachable(query, Reason::NoAnswer { next_hop: address("10.0.0.12") }).await;
        assert!(started.elapsed().as_secs() < 15, "after {:?}", started.elapsed());
        host.ip("addr add 10.0.0.12/24 dev h1");
        observer.found(query, mac, "p1", true).await;
    });
}
