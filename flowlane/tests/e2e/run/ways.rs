//! Over more than one switch, and by more than one way.

use super::{
    host::{FlowHost, Going, output, text, within},
    packets::{Packet, Watch, assert_in_flows},
    services::{HTTP, IPERF, PAGE, Services},
    site::CLEAN,
};
use crate::{
    chains::Row,
    daemon::Daemon,
    lab::{Lab, eventually, net, settings},
    on,
};
use flowlane_lab::{Direction, End, Link, Netns, veth};
use serde_json::{Value, json};

on! {
    real_programs_run_over_two_switches_with_a_bridge_between on tc, xdp, af_packet;
    connections_are_spread_over_disjoint_paths on tc;
}

fn real_programs_run_over_two_switches_with_a_bridge_between(executor: &str) {
    let row = Row::new(2);
    let switches = row.switches(executor);
    for switch in &switches {
        eventually("Linux says that the cables are up", || switch.api.port("lan1")["up"] == true);
    }
    let services = Services::new(&row.node(2).host).nginx().iperf3();
    let host = FlowHost::start(&row.node(1).host);
    for to in ["10.2.0.2", "[fd02::2]"] {
        let page = format!("http://{to}:{HTTP}/");
        assert_eq!(text(&output(&mut host.require(&["--", "curl", "-sSf", &page]))), PAGE);
    }
    eventually("the flows of the requests are gone", || host.flows().is_empty());
    let iperf3 = "read go; exec iperf3 -c 10.2.0.2 -n 4M -b 50M";
    let mut going = Going::told(&mut host.run(&["--to", "10.2.0.2", "--", "sh", "-c", iperf3]));
    let flow = host.open_flow("10.2.0.2");
    let flows = |switch: &Daemon| switch.api.get("/v1/flows").as_array().expect("flows").clone();
    let to_iperf3 =
        |all: Vec<Value>| all.into_iter().find(|one| one["address"] == flow.address.expect("one").to_string());
    // Until the second switch has answered, the first one uses its neighbour's own address.
    eventually("it goes on at the next switch", || {
        to_iperf3(flows(&switches[0])).is_some_and(|one| one["via"].is_string() && one["next"] != one["via"])
    });
    // The bridge sees what the first switch sends to the second, whatever executes it.
    let between = Watch::start(&row.wire(1, 1), Direction::In);
    going.tell();
    text(&going.wait());
    let packets = between.stop(|packet| packet.to_port == IPERF[0]);
    let chained = |packet: &&Packet| {
        packet.destination.0.starts_with(&[0xa2, 0xf2]) && packet.source.0.starts_with(&[0xa2, 0xf1])
    };
    let stranger = packets.iter().find(|packet| !chained(packet));
    assert!(packets.len() > 20 && stranger.is_none(), "{} packets, {stranger:?}", packets.len());
    within(CLEAN, "nothing is left at either switch", || {
        switches.iter().all(|switch| switch.api.get("/v1/flows") == json!([])) && host.left_by_runs().is_empty()
    });
    drop(services);
}

/// The switch has two routers between itself and host `b`'s other address, 10.50.0.1.
fn two_ways(lab: &Lab) -> [Link; 2] {
    let ways = [1, 2].map(|number: u8| {
        let router = Netns::new("router").expect("root");
        router.sysctl("net/ipv4/ip_forward", "1").expect("a router");
        let cable = |netns: &Netns, name: &str, near: &str, subnet: u8| {
            let ends = (End { netns, name, mac: None }, End { netns: &router, name: near, mac: None });
            let (far, near) = veth(ends.0, ends.1).expect("a cable");
            far.add_address(net(&format!("10.{subnet}.0.1/24"))).expect("an address");
            near.add_address(net(&format!("10.{subnet}.0.2/24"))).expect("an address");
            far.connect(&near).expect("up");
            near
        };
        let in_link = cable(&lab.netns, &format!("w{number}"), "in", 20 + number);
        cable(lab.b.netns(), &format!("w{number}"), "out", 30 + number);
        ip(&router, &format!("route add 10.50.0.1/32 via 10.3{number}.0.1"));
        ip(&router, &format!("route add 10.1.0.0/24 via 10.2{number}.0.1"));
        in_link
    });
    ip(lab.b.netns(), "address add 10.50.0.1/32 dev lo");
    ip(&lab.netns, "route add 10.50.0.1/32 nexthop via 10.21.0.2 dev w1 nexthop via 10.22.0.2 dev w2");
    ways
}

/// Runs ip(8), which must succeed.
fn ip(netns: &Netns, arguments: &str) {
    text(&output(netns.command("ip").args(arguments.split(' '))));
}

fn connections_are_spread_over_disjoint_paths(executor: &str) {
    let lab = Lab::new();
    let ways = two_ways(&lab);
    let ports = ["w1", "w2"].map(|port| format!("[[port]]\ninterface = \"{port}\"\n")).concat();
    let switch = lab.switch_with(&format!("{}{ports}", settings(executor)));
    let services = Services::new(&lab.b).also_at("10.50.0.1").nginx();
    let host = FlowHost::start(&lab.a);
    let requests = "read go; for n in $(seq 40); do curl -sSf http://10.50.0.1:8080/ || exit 1; done";
    let watches = ways.map(|way| Watch::start(&way, Direction::In));
    let mut going = Going::told(&mut host.run(&["--paths", "3", "--to", "10.50.0.1", "--", "sh", "-c", requests]));
    host.open_flow("10.50.0.1");
    eventually("two paths, for there are no more", || {
        let mut paths: Vec<u8> =
            host.flows().iter().filter(|flow| flow.state == "open").map(|flow| flow.path).collect();
        paths.sort_unstable();
        paths == [0, 1]
    });
    let egress = |flow: &Value| flow["egress"].as_str().map(str::to_owned);
    eventually("one by each way", || {
        let flows = switch.api.get("/v1/flows");
        let mut by: Vec<_> = flows.as_array().expect("flows").iter().filter_map(egress).collect();
        by.sort_unstable();
        by == ["w1", "w2"]
    });
    going.tell();
    let pages = text(&going.wait());
    assert_eq!(pages, PAGE.repeat(40));
    let by_way = watches.map(|watch| watch.stop(|packet| packet.to_port == HTTP));
    let ports_of =
        |packets: &[Packet]| packets.iter().map(|packet| packet.from_port).collect::<std::collections::BTreeSet<_>>();
    let [one, two] = [ports_of(&by_way[0]), ports_of(&by_way[1])];
    assert!(one.len() > 3 && two.len() > 3, "{} and {} connections", one.len(), two.len());
    assert!(one.is_disjoint(&two), "a connection keeps its path");
    by_way.iter().for_each(assert_in_flows);
    within(CLEAN, "nothing is left", || switch.api.get("/v1/flows") == json!([]) && host.left_by_runs().is_empty());
    drop(services);
}
