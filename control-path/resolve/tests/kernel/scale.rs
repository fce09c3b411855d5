//! Many destinations, and more changes than a socket can hold.

use crate::ELSEWHERE;
use crate::lab::{Namespace, Observer};
use flowlane_resolve::{NextHost, Query, Resolution};
use flowlane_wire::Mac;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const MACS: [&str; 2] = ["02:00:00:00:01:01", "02:00:00:00:01:02"];

fn switch_and_gateways() -> (Namespace, Namespace, [Mac; 2]) {
    let (switch, gateways) = (Namespace::new("switch"), Namespace::new("gateways"));
    let macs = [1, 2].map(|n| {
        let mac = switch.connect(&format!("p{n}"), &gateways, &format!("g{n}"), MACS[n - 1]);
        switch.ip(&format!("addr add 10.0.{n}.1/24 dev p{n}"));
        gateways.ip(&format!("addr add 10.0.{n}.2/24 dev g{n}"));
        mac
    });
    (switch, gateways, macs)
}

fn destination(n: u32) -> Query {
    Query::new(IpAddr::V4(Ipv4Addr::from(0x0a09_0000 + n)), ELSEWHERE)
}

async fn all_go_to(observer: &mut Observer, queries: u32, mac: Mac, port: &str) {
    let interface = observer.index(port).await;
    let wanted = Resolution::Found(NextHost { mac, interface, routed: true, gateway: true });
    let mut next = 0;
    observer
        .until(|seen| {
            while next < queries && seen.answers.get(&destination(next)) == Some(&wanted) {
                next += 1;
            }
            (next == queries).then_some(())
        })
        .await;
}

#[test]
fn ten_thousand_destinations_follow_a_route_change() {
    const QUERIES: u32 = 10_000;
    let (switch, _gateways, macs) = switch_and_gateways();
    switch.ip("route add 10.9.0.0/16 via 10.0.1.2");
    switch.run(async {
        let mut observer = Observer::start();
        (0..QUERIES).for_each(|n| observer.resolver.watch(destination(n)));
        all_go_to(&mut observer, QUERIES, macs[0], "p1").await;
        let started = Instant::now();
        switch.ip("route replace 10.9.0.0/16 via 10.0.2.2");
        all_go_to(&mut observer, QUERIES, macs[1], "p2").await;
        println!("{QUERIES} destinations followed in {:?}", started.elapsed());

        // Changes while look-ups of the change before are under way: the last one counts, for all.
        for _ in 0..5 {
            switch.ip("route replace 10.9.0.0/16 via 10.0.1.2");
            observer.pass(Duration::from_millis(15)).await;
            switch.ip("route replace 10.9.0.0/16 via 10.0.2.2");
            observer.pass(Duration::from_millis(15)).await;
        }
        switch.ip("route replace 10.9.0.0/16 via 10.0.1.2");
        all_go_to(&mut observer, QUERIES, macs[0], "p1").await;
        observer.pass(Duration::from_secs(1)).await;
        all_go_to(&mut observer, QUERIES, macs[0], "p1").await;
    });
}

#[test]
fn change_among_lost_notifications_is_found_out() {
    let (switch, _gateways, macs) = switch_and_gateways();
    switch.ip("route add 10.9.0.0/16 via 10.0.1.2");
    // More notifications than the socket's buffer holds while nobody reads.
    let mut routes = String::new();
    for n in 0..40_000u32 {
        let prefix = Ipv4Addr::from(0x0b00_0000 + (n << 4));
        writeln!(routes, "route add {prefix}/28 via 10.0.1.2").expect("a string has room");
    }
    writeln!(routes, "route replace 10.9.0.0/16 via 10.0.2.2").expect("a string has room");
    writeln!(routes, "link set p1 mtu 1300").expect("a string has room");
    writeln!(routes, "link add late type bridge").expect("a string has room");
    writeln!(routes, "neigh replace 10.0.2.2 lladdr 02:00:00:00:01:77 dev p2 nud permanent")
        .expect("a string has room");
    switch.run(async {
        let mut observer = Observer::start();
        observer.resolver.watch(destination(0));
        all_go_to(&mut observer, 1, macs[0], "p1").await;
        // The runtime has one thread, and this keeps it busy.
        switch.ip_batch(&routes);
        let moved = "02:00:00:00:01:77".parse().expect("an address");
        all_go_to(&mut observer, 1, moved, "p2").await;
        observer.until(|seen| seen.links.get("p1").filter(|link| link.mtu == 1300).map(|_| ())).await;
        observer.index("late").await;
    });
}
