//! A host asks for a flow only where there is a way, and which of several ways it takes.

use crate::{
    chains::Row,
    daemon::{Daemon, PROGRAM},
    hosts_ask::Asking,
    lab::{Lab, alone, eventually, ip, mac_of, net, ping, use_flow},
    on,
};
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{Event, StatusCode};
use flowlane_lab::{Host, Netns, bridge};
use serde_json::Value;
use std::time::{Duration, Instant};

on! {
    a_flow_is_granted_where_the_switch_can_forward_and_refused_elsewhere on tc, af_packet;
    flows_take_different_ways_by_their_paths on tc, af_packet;
}

/// Runs ip(8), which must succeed.
fn run_ip(netns: &Netns, arguments: &str) {
    let done = netns.command("ip").args(arguments.split(' ')).status().expect("ip runs");
    assert!(done.success(), "ip {arguments}");
}

fn only_with_a_way(destination: &str) -> FlowSpec {
    FlowSpec { destination: Some(ip(destination)), only_with_a_way: true, ..FlowSpec::default() }
}

/// The routes of the lab: what leads where no flow can go.
fn dead_ends(lab: &Lab) {
    for arguments in [
        "route add 10.60.0.0/24 dev lo",
        "link add office type veth peer name desk",
        "link set desk up",
        "link set office up",
        "addr add 192.0.2.1/24 dev office",
        "route add prohibit 10.61.0.0/24",
        "route add 10.62.0.0/24 via 10.1.0.2",
    ] {
        run_ip(&lab.netns, arguments);
    }
    for cable in ["office", "desk"] {
        lab.netns.link(cable).and_then(|link| link.until_operational()).expect("up");
    }
}

fn a_flow_is_granted_where_the_switch_can_forward_and_refused_elsewhere(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    dead_ends(&lab);
    let refused = [
        ("198.51.100.1", "no route leads to the destination"),
        ("2001:db8::1", "no route leads to the destination"),
        ("10.2.0.1", "this switch itself"),
        ("fd02::1", "this switch itself"),
        ("10.1.0.9", "behind the port that the flow comes in by"),
        ("fd01::9", "behind the port that the flow comes in by"),
        ("10.62.0.1", "behind the port that the flow comes in by"),
        ("10.60.0.1", "tunnel or other non-Ethernet interface"),
        ("10.61.0.1", "prohibits"),
        ("192.0.2.9", "the route leaves by office, which is no port of this switch"),
    ];
    for (iaid, (destination, why)) in (1..).zip(refused) {
        for rapid_commit in [true, false] {
            let (code, text) = Asking::for_flow(&lab.a, iaid, rapid_commit, only_with_a_way(destination)).refused();
            assert_eq!(code, StatusCode::UnspecFail, "{destination}: {text}");
            assert!(text.starts_with("no way to the destination: ") && text.contains(why), "{destination}: {text}");
        }
    }
    assert_eq!(switch.api.status()["leased"], 0);
    run_ip(&lab.netns, "route add default via 192.0.2.254");
    let (_, text) = Asking::for_flow(&lab.a, 1, true, only_with_a_way("198.51.100.1")).refused();
    assert!(text.contains("office"), "a default route that is another network's: {text}");

    for (iaid, destination) in (100..).zip(["10.2.0.2", "fd02::2", "10.2.0.77", "10.3.0.2"]) {
        Asking::for_flow(&lab.a, iaid, true, only_with_a_way(destination)).leased();
    }
    let anyhow = FlowSpec { only_with_a_way: false, ..only_with_a_way("10.60.0.1") };
    Asking::for_flow(&lab.a, 1, true, anyhow).leased();
    assert_eq!(switch.api.status()["leased"], 5);
    switch.api.verify();
}

#[test]
fn a_neighbour_that_did_not_answer_is_asked_once_more_before_the_flow_is_refused() {
    let (lab, switch) = Lab::with_switch("tc");
    let spec = only_with_a_way("10.2.0.77");
    let flow = Asking::for_flow(&lab.a, 1, true, spec.clone()).leased().addresses[0].to_string();
    eventually("it does not answer", || switch.api.flow(&flow)["state"] == "unreachable");
    let (code, text) = Asking::for_flow(&lab.a, 2, true, spec.clone()).refused();
    assert_eq!(code, StatusCode::UnspecFail);
    assert!(text.contains("10.2.0.77 does not answer on its link"), "{text}");
    switch.api.close(&flow);
    run_ip(lab.b.netns(), "addr add 10.2.0.77/24 dev eth0");
    leased_in_the_end(&lab.a, 2, &spec);
}

/// A neighbour is waited for a moment only: who is refused meanwhile asks again.
fn leased_in_the_end(host: &Host, iaid: u32, spec: &FlowSpec) {
    eventually("it is granted", || {
        matches!(Asking::for_flow(host, iaid, true, spec.clone()).event(), Event::Leased(_))
    });
}

/// Refused with these words, when the neighbour has been found.
fn refused_in_the_end(host: &Host, iaid: u32, spec: &FlowSpec, words: &str) {
    eventually(words, || Asking::for_flow(host, iaid, true, spec.clone()).refused().1.contains(words));
}

#[test]
fn the_question_for_a_way_takes_little_time() {
    let (lab, _switch) = Lab::with_switch("tc");
    let time = |iaid, spec: FlowSpec| {
        let started = Instant::now();
        Asking::for_flow(&lab.a, iaid, true, spec).leased();
        started.elapsed()
    };
    let (plain, with_a_way): (Vec<_>, Vec<_>) = (1..=10)
        .map(|iaid| {
            let plain = FlowSpec { only_with_a_way: false, ..only_with_a_way("10.2.0.2") };
            (time(iaid, plain), time(100 + iaid, only_with_a_way("10.2.0.2")))
        })
        .unzip();
    let (plain, with_a_way) = (plain.iter().min().expect("some"), with_a_way.iter().min().expect("some"));
    println!("without the question {plain:?}, with it {with_a_way:?}");
    // It is answered as soon as the route is known, not when there has been time enough for it: 700 ms.
    assert!(*with_a_way < *plain + Duration::from_millis(50), "{plain:?} {with_a_way:?}");
}

#[test]
fn on_a_bridge_it_is_found_out_behind_which_port_the_destination_is() {
    let _alone = alone();
    let netns = Netns::new("switch").expect("root");
    let lan = bridge(&netns, "br0").expect("a bridge");
    lan.add_address(net("10.9.0.1/24")).expect("an address, to ask neighbours from");
    let [a, b] = [(1, "a"), (2, "b")].map(|(number, name)| {
        let own = net(&format!("10.9.0.{}/24", number + 10));
        let host = Host::new(name, &netns, &format!("p{name}"), Some(mac_of(number)), &[own]).expect("a host");
        host.port().attach(&lan).expect("a port of the bridge");
        host
    });
    lan.until_operational().expect("up");
    a.link().add_address(net("10.9.0.21/24")).expect("another address of the same host");
    let ports = "[[port]]\ninterface = \"pa\"\n[[port]]\ninterface = \"pb\"\n";
    let switch = Daemon::start(&netns, &format!("slots = 64\nexecutor = \"tc\"\n{ports}"));
    leased_in_the_end(&a, 1, &only_with_a_way("10.9.0.12"));
    refused_in_the_end(&a, 2, &only_with_a_way("10.9.0.21"), "behind the port that the flow comes in by");
    let (_, text) = Asking::for_flow(&a, 3, true, only_with_a_way("10.9.0.99")).refused();
    assert!(text.contains("it is not known behind which port"), "{text}");
    leased_in_the_end(&b, 4, &only_with_a_way("10.9.0.21"));
    switch.api.verify();
}

/// A row of three switches, where the first has two equal next hops towards the last one's host: the second switch
/// (path 0) and the last one itself, by a LAN of their own (path 1).
fn two_ways(row: &mut Row) {
    row.join(3, [1, 3]);
    let hops = [("10.101.0.2", "lan1"), ("10.103.0.3", "lan3")];
    let hops = hops.map(|(via, dev)| format!("nexthop via {via} dev {dev}")).join(" ");
    run_ip(&row.node(1).netns, &format!("route replace 10.3.0.0/24 {hops}"));
}

fn by_path(path: u8) -> FlowSpec {
    FlowSpec { destination: Some(ip("10.3.0.2")), path: Some(path), ..FlowSpec::default() }
}

fn flows_take_different_ways_by_their_paths(executor: &str) {
    let mut row = Row::new(3);
    two_ways(&mut row);
    let mut switches = row.switches(executor);
    let host = &row.node(1).host;
    let flows = [0, 1, 2].map(|path| {
        let ask = || Asking::for_flow(host, path.into(), true, by_path(path)).leased();
        // Where Linux is slow to say how many there are, a grant does not say it either; the next one does.
        eventually("it is said how many paths there are", || ask().paths.is_some());
        let grant = ask();
        assert_eq!((grant.spec.path, grant.paths), (Some(path), Some(2)));
        grant.addresses[0].to_string()
    });
    let leaves_by = |switches: &[Daemon], flow: &str, lan: &str| {
        eventually(&format!("{flow} goes on by {lan}"), || {
            let view = switches[0].api.flow(flow);
            view["egress"] == lan && view["via"].is_string()
        });
    };
    for (flow, lan) in flows.iter().zip(["lan1", "lan3", "lan1"]) {
        leaves_by(&switches, flow, lan);
    }
    assert_eq!(paths_of(&switches[1]), [Value::from(0), Value::from(2)], "passed on to the next switch");
    for flow in &flows {
        use_flow(host, "10.1.0.1", flow);
        ping(host, "10.3.0.2", 2);
        assert_eq!(switches[0].api.flow(flow)["packets"], 2);
    }
    switches[0].kill();
    switches[0].start_again();
    for (flow, lan) in flows.iter().zip(["lan1", "lan3", "lan1"]) {
        leaves_by(&switches, flow, lan);
    }

    row.node(1).netns.link("lan3").and_then(|link| link.down()).expect("down");
    leaves_by(&switches, &flows[1], "lan1");
    use_flow(host, "10.1.0.1", &flows[1]);
    ping(host, "10.3.0.2", 2);
    row.node(1).netns.link("lan3").and_then(|link| link.up()).expect("up");
    run_ip(
        &row.node(1).netns,
        "route replace 10.3.0.0/24 nexthop via 10.101.0.2 dev lan1 nexthop via 10.103.0.3 dev lan3",
    );
    leaves_by(&switches, &flows[1], "lan3");
    ping(host, "10.3.0.2", 2);
    run_ip(&row.node(1).netns, "route replace 10.3.0.0/24 via 10.103.0.3");
    leaves_by(&switches, &flows[0], "lan3");
    eventually("the middle switch is left", || paths_of(&switches[1]).is_empty());
    switches.iter().for_each(|switch| switch.api.verify());
}

/// The paths of all flows of a switch, in order.
fn paths_of(switch: &Daemon) -> Vec<Value> {
    let flows = switch.api.get("/v1/flows");
    let mut paths: Vec<Value> = flows.as_array().expect("flows").iter().map(|flow| flow["path"].clone()).collect();
    paths.sort_by_key(Value::as_u64);
    paths
}

#[test]
fn a_path_is_chosen_at_the_switch_and_from_a_host() {
    let lab = Lab::new();
    run_ip(&lab.netns, "route add 10.50.0.0/24 nexthop via 10.2.0.2 dev pb nexthop via 10.3.0.2 dev pc");
    let switch = lab.switch("tc");
    for (path, egress) in [("0", "pb"), ("1", "pc"), ("7", "pc")] {
        let mut at_switch = lab.netns.command(PROGRAM);
        at_switch.arg("--socket").arg(switch.path("run/switch.sock")).args(["--json", "flow", "open", "--port", "pa"]);
        let mut from_host = lab.a.netns().command(PROGRAM);
        from_host
            .arg("--json")
            .arg("--runtime-directory")
            .arg(switch.path("host"))
            .args(["flow", "open", "-i", "eth0"]);
        for mut command in [at_switch, from_host] {
            let output = command.args(["--to", "10.50.0.1", "--path", path]).output().expect("the program runs");
            let lease: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let flow = lease["addresses"][0].as_str().expect("an address").to_owned();
            eventually("it has its next hop", || switch.api.flow(&flow)["egress"] == egress);
        }
    }
}
