//! Routes and neighbours that change under watched queries.

use crate::lab::{Namespace, Observer, address};
use crate::{ELSEWHERE, switch_and_host};
use flowlane_resolve::{Reason, Resolution};
use flowlane_wire::Mac;
use std::time::Duration;

/// A switch with two gateways, `10.0.1.2` on p1 and `10.0.2.2` on p2.
fn switch_and_gateways() -> (Namespace, [Namespace; 2], [Mac; 2]) {
    let switch = Namespace::new("switch");
    let gateways = [Namespace::new("gateway"), Namespace::new("gateway")];
    let macs = [1, 2].map(|n| {
        let gateway = &gateways[n - 1];
        let mac = switch.connect(&format!("p{n}"), gateway, "eth", &format!("02:00:00:00:01:0{n}"));
        switch.ip(&format!("addr add 10.0.{n}.1/24 dev p{n}"));
        gateway.ip(&format!("addr add 10.0.{n}.2/24 dev eth"));
        mac
    });
    (switch, gateways, macs)
}

#[test]
fn changed_route_gives_a_new_answer() {
    let (switch, _gateways, macs) = switch_and_gateways();
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.9.0.1", ELSEWHERE).await;
        observer.unreachable(query, Reason::NoRoute).await;
        switch.ip("route add 10.9.0.0/16 via 10.0.1.2");
        observer.found(query, macs[0], "p1", true).await;
        switch.ip("route replace 10.9.0.0/16 via 10.0.2.2");
        observer.found(query, macs[1], "p2", true).await;
        switch.ip("route add 10.9.0.0/24 via 10.0.1.2");
        observer.found(query, macs[0], "p1", true).await;
        switch.ip("route del 10.9.0.0/24");
        observer.found(query, macs[1], "p2", true).await;
        switch.ip("route del 10.9.0.0/16");
        observer.unreachable(query, Reason::NoRoute).await;
    });
}

#[test]
fn changed_rule_gives_a_new_answer() {
    let (switch, _gateways, macs) = switch_and_gateways();
    switch.ip("route add 10.9.0.0/16 via 10.0.1.2");
    switch.ip("route add 10.9.0.0/16 via 10.0.2.2 table 100");
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.9.0.1", ELSEWHERE).await;
        observer.found(query, macs[0], "p1", true).await;
        switch.ip("rule add to 10.9.0.0/16 lookup 100");
        observer.found(query, macs[1], "p2", true).await;
        switch.ip("rule del to 10.9.0.0/16 lookup 100");
        observer.found(query, macs[0], "p1", true).await;
    });
}

#[test]
fn changed_nexthop_object_gives_a_new_answer() {
    let (switch, _gateways, macs) = switch_and_gateways();
    switch.ip("nexthop add id 7 via 10.0.1.2 dev p1");
    switch.ip("route add 10.9.0.0/16 nhid 7");
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.9.0.1", ELSEWHERE).await;
        observer.found(query, macs[0], "p1", true).await;
        switch.ip("nexthop replace id 7 via 10.0.2.2 dev p2");
        observer.found(query, macs[1], "p2", true).await;
    });
}

#[test]
fn route_through_an_interface_that_goes_down_gives_way_to_the_next_best() {
    let (switch, _gateways, macs) = switch_and_gateways();
    switch.ip("route add 10.9.0.0/16 via 10.0.1.2 metric 1");
    switch.ip("route add 10.9.0.0/16 via 10.0.2.2 metric 2");
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.9.0.1", ELSEWHERE).await;
        observer.found(query, macs[0], "p1", true).await;
        switch.ip("link set p1 down");
        observer.found(query, macs[1], "p2", true).await;
    });
}

#[test]
fn multipath_route_gives_each_destination_one_steady_next_host() {
    let (switch, _gateways, macs) = switch_and_gateways();
    switch.ip("route add 10.9.0.0/16 nexthop via 10.0.1.2 nexthop via 10.0.2.2");
    switch.run(async {
        let mut observer = Observer::start();
        for n in 0..64 {
            observer.watch(&format!("10.9.0.{n}"), ELSEWHERE).await;
        }
        let found = |resolution: &Resolution| matches!(resolution, Resolution::Found(_));
        observer.until(|seen| (seen.answers.values().filter(|answer| found(answer)).count() == 64).then_some(())).await;
        let first = observer.answers.clone();
        for mac in macs {
            let uses = |answer: &&Resolution| matches!(answer, Resolution::Found(host) if host.mac == mac);
            assert!(first.values().filter(uses).count() > 8, "{mac} is one of two");
        }
        switch.ip("route add 10.10.0.0/16 via 10.0.1.2");
        switch.ip("addr add 10.77.0.1/24 dev p1");
        observer.pass(Duration::from_secs(1)).await;
        assert_eq!(observer.answers, first);
    });
}

#[test]
fn neighbour_with_another_address_gives_a_new_answer() {
    let (switch, host, mac) = switch_and_host();
    host.sysctl("net.ipv4.conf.h1.arp_notify=1");
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.0.0.11", ELSEWHERE).await;
        observer.found(query, mac, "p1", true).await;
        host.ip("link set h1 address 02:00:00:00:00:77");
        observer.found(query, "02:00:00:00:00:77".parse().expect("an address"), "p1", true).await;
    });
}

#[test]
fn neighbour_set_by_the_administrator_is_taken_as_it_is() {
    let (switch, _host, _) = switch_and_host();
    switch.ip("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev p1 nud permanent");
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.0.0.50", ELSEWHERE).await;
        observer.found(query, "02:00:00:00:00:50".parse().expect("an address"), "p1", true).await;
        observer.pass(Duration::from_millis(100)).await;
        assert!(switch.neighbours().contains("02:00:00:00:00:50 PERMANENT"), "it stays the administrator's");
        switch.ip("neigh replace 10.0.0.50 lladdr 02:00:00:00:00:51 dev p1 nud permanent");
        observer.found(query, "02:00:00:00:00:51".parse().expect("an address"), "p1", true).await;
    });
}

#[test]
fn neighbour_removed_from_the_kernel_is_resolved_again_without_a_gap() {
    let (switch, host, mac) = switch_and_host();
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.0.0.11", ELSEWHERE).await;
        observer.found(query, mac, "p1", true).await;
        let no_answer = Resolution::Unreachable(Reason::NoAnswer { next_hop: address("10.0.0.11") });
        let gap = [(query, no_answer), (query, observer.answers[&query])];
        let mut gaps = 0;
        for _ in 0..3 {
            let told = observer.history.len();
            switch.ip("neigh del 10.0.0.11 dev p1");
            observer.pass(Duration::from_millis(1200)).await;
            // A gap is at its end then, or soon.
            observer.found(query, mac, "p1", true).await;
            let told = &observer.history[told..];
            assert!(told.is_empty() || told == gap, "{told:?}");
            gaps += told.len() / 2;
        }
        // The kernel says that it failed, and at once that it is gone; a busy machine may come to a halt between the two.
        assert!(gaps <= 1, "{gaps} times");
        // The kernel was asked again, and so a host that is there no more is found out.
        host.ip("link set h1 arp off");
        host.ip("addr flush dev h1");
        switch.ip("neigh del 10.0.0.11 dev p1");
        observer.unreachable(query, Reason::NoAnswer { next_hop: address("10.0.0.11") }).await;
    });
}

#[test]
fn neighbour_behind_a_replugged_cable_is_resolved_anew() {
    let (switch, host, mac) = switch_and_host();
    switch.run(async {
        let mut observer = Observer::start();
        let query = observer.watch("10.0.0.11", ELSEWHERE).await;
        observer.found(query, mac, "p1", true).await;
        let interface = observer.index("p1").await;
        host.ip("link set h1 down");
        observer.unreachable(query, Reason::InterfaceDown { interface }).await;
        host.ip("link set h1 address 02:00:00:00:00:78");
        host.ip("link set h1 up");
        observer.found(query, "02:00:00:00:00:78".parse().expect("an address"), "p1", true).await;
        let stale = observer
            .history
            .iter()
            .rev()
            .take_while(|(_, seen)| !matches!(seen, Resolution::Unreachable(Reason::InterfaceDown { .. })));
        assert!(stale.into_iter().all(|(_, seen)| !matches!(seen, Resolution::Found(host) if host.mac == mac)));
    });
}
