//! Next hosts behind the ports of a bridge.

use crate::ELSEWHERE;
use crate::lab::{Namespace, Observer, PATIENCE};
use flowlane_resolve::{Reason, Resolution};
use flowlane_wire::Mac;
use std::time::{Duration, Instant};

/// A switch with a bridge br0 (10.0.0.1) and hosts 10.0.0.11, .12, .13 on its ports p1, p2, p3.
fn bridge_and_hosts() -> (Namespace, [Namespace; 3], [Mac; 3]) {
    let switch = Namespace::new("switch");
    let hosts = [Namespace::new("host"), Namespace::new("host"), Namespace::new("host")];
    switch.ip("link add br0 type bridge");
    switch.ip("link set br0 up");
    switch.ip("addr add 10.0.0.1/24 dev br0");
    let macs = [1, 2, 3].map(|n| {
        let (port, host) = (format!("p{n}"), &hosts[n - 1]);
        let mac = switch.connect(&port, host, "eth", &format!("02:00:00:00:00:1{n}"));
        switch.ip(&format!("link set {port} master br0"));
        host.ip(&format!("addr add 10.0.0.1{n}/24 dev eth"));
        mac
    });
    (switch, hosts, macs)
}

#[test]
fn destination_on_the_same_subnet_is_bridged_to_its_port() {
    let (switch, _hosts, macs) = bridge_and_hosts();
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.0.0.12", ingress).await;
        observer.found(query, macs[1], "p2", false).await;
        let from_elsewhere = observer.watch("10.0.0.12", ELSEWHERE).await;
        observer.found(from_elsewhere, macs[1], "p2", true).await;
        let to_itself = observer.watch("10.0.0.11", ingress).await;
        observer.unreachable(to_itself, Reason::SamePort).await;
    });
}

#[test]
fn gateway_on_the_same_subnet_is_a_routed_hop() {
    let (switch, _hosts, macs) = bridge_and_hosts();
    switch.ip("route add 10.9.0.0/16 via 10.0.0.13");
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.9.0.1", ingress).await;
        observer.found(query, macs[2], "p3", true).await;
    });
}

#[test]
fn link_local_destination_is_looked_for_on_the_flows_own_link() {
    let (switch, hosts, macs) = bridge_and_hosts();
    hosts[1].ip("addr add fe80::12/64 dev eth nodad");
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("fe80::12", ingress).await;
        observer.found(query, macs[1], "p2", false).await;
    });
}

#[test]
fn host_that_moves_to_another_port_is_followed() {
    let (switch, hosts, macs) = bridge_and_hosts();
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.0.0.12", ingress).await;
        observer.found(query, macs[1], "p2", false).await;
        hosts[1].ip("link set eth down");
        let interface = observer.index("p2").await;
        observer.unreachable(query, Reason::InterfaceDown { interface }).await;
        hosts[2].ip(&format!("link set eth address {}", macs[1]));
        hosts[2].ip("addr add 10.0.0.12/24 dev eth");
        hosts[2].ping("10.0.0.11");
        observer.found(query, macs[1], "p3", false).await;
    });
}

#[test]
fn address_that_the_bridge_forgot_keeps_its_port_and_is_learned_again() {
    let (switch, _hosts, macs) = bridge_and_hosts();
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.0.0.12", ingress).await;
        observer.found(query, macs[1], "p2", false).await;
        observer.pass(Duration::from_millis(1500)).await;
        let told = observer.history.len();
        switch.ip("link set br0 type bridge fdb_flush");
        // The neighbour is asked, so that the bridge learns its port.
        let start = Instant::now();
        while !learned(&switch, macs[1]) {
            assert!(start.elapsed() < PATIENCE, "the bridge does not learn the port");
            observer.pass(Duration::from_millis(50)).await;
        }
        observer.pass(Duration::from_millis(1500)).await;
        assert_eq!(observer.history.len(), told, "{:?}", &observer.history[told..]);
    });
}

#[test]
fn address_that_the_bridge_never_saw_is_pending_until_the_bridge_learns_it() {
    let (switch, hosts, macs) = bridge_and_hosts();
    switch.ip(&format!("neigh add 10.0.0.12 lladdr {} dev br0 nud permanent", macs[1]));
    forget(&switch, &hosts[1]);
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.0.0.12", ingress).await;
        observer.answer(query, Resolution::Pending).await;
        hosts[1].ping("10.0.0.99");
        observer.found(query, macs[1], "p2", false).await;
    });
}

#[test]
fn reachable_neighbour_that_the_bridge_forgot_before_the_start_is_learned_by_a_probe() {
    let (switch, hosts, macs) = bridge_and_hosts();
    switch.ping("10.0.0.12");
    forget(&switch, &hosts[1]);
    assert!(!learned(&switch, macs[1]));
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.0.0.12", ingress).await;
        observer.found(query, macs[1], "p2", false).await;
    });
}

#[test]
fn port_that_leaves_the_bridge_takes_its_addresses_along() {
    let (switch, _hosts, macs) = bridge_and_hosts();
    switch.run(async {
        let mut observer = Observer::start();
        let ingress = observer.index("p1").await;
        let query = observer.watch("10.0.0.12", ingress).await;
        observer.found(query, macs[1], "p2", false).await;
        switch.ip("link set p2 nomaster");
        observer.answer(query, Resolution::Pending).await;
    });
}

/// Lets the bridge forget all addresses, and a host send nothing of its own accord, by which its address would be learned
/// again: IPv6 repeats its reports of multicast groups after random delays (RFC 3810 section 6.1).
fn forget(switch: &Namespace, host: &Namespace) {
    host.sysctl("net.ipv6.conf.all.disable_ipv6=1");
    switch.ip("link set br0 type bridge fdb_flush");
}

fn learned(switch: &Namespace, mac: Mac) -> bool {
    let mut bridge = std::process::Command::new("bridge");
    let output = bridge.args(["-n", &switch.name, "fdb", "show", "br", "br0", "dynamic"]).output().expect("bridge(8)");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).contains(&mac.to_string())
}
