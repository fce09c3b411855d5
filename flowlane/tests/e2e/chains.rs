//! Flows that go on from switch to switch, over learning bridges: virtual addresses at each hop (claims 14 and 22).

use crate::{
    daemon::Daemon,
    lab::{SOON, alone, as_a_wire, eventually, ip, mac, mac_of, net, ping, use_flow},
    on,
    packet::{sent_on, udp},
    stream::{Outcome, Stream},
};
use flowlane_dhcp6::{ALL_SERVERS, DhcpOption, Duid, FlowOption, IaLl, LlAddr, Message, MessageType, SERVER_PORT};
use flowlane_lab::{Direction, End, Frame, Host, Injector, Link, Netns, Tap, Via, bridge, traffic, veth};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    net::{SocketAddrV6, UdpSocket},
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

on! {
    a_flow_crosses_two_switches_with_virtual_addresses_between on tc, af_packet, af_xdp, xdp;
    the_end_of_a_flow_travels_along on tc;
    a_flow_that_is_closed_at_the_next_switch_is_cut on tc;
    a_receiver_of_a_group_is_reached_by_the_next_switch on tc, af_packet, af_xdp;
    a_middle_switch_that_is_killed_loses_nothing on tc;
    a_middle_switch_that_lost_its_leases_gives_others on tc, af_packet, af_xdp;
    a_route_that_changes_in_the_middle_loses_nothing on tc;
    a_switch_that_answers_late_gets_the_flow_without_loss on tc;
}

/// A learning bridge with a cable to each switch.
pub struct Lan {
    netns: Netns,
    bridge: Link,
    number: u8,
}

/// A switch with a host of its own, and ports to LANs.
pub struct Node {
    pub number: u8,
    pub netns: Netns,
    pub host: Host,
    ports: Vec<String>,
}

/// `a`, switch 1, LAN 1, switch 2, LAN 2, switch 3 ...: each switch has a host in subnet 10.N.0.0/24 and fd0N::/64, at port
/// `pa`; switch N has address N in LAN M's 10.10M.0.0/24 and fd1M::/64, at port `lanM`.
pub struct Row {
    pub nodes: Vec<Node>,
    pub lans: Vec<Lan>,
    _alone: MutexGuard<'static, ()>,
}

impl Row {
    /// So many switches in a row, with routes from the first host to the last and back.
    pub fn new(count: u8) -> Self {
        let alone = alone();
        let lans: Vec<Lan> = (1..count).map(Lan::new).collect();
        let mut nodes: Vec<Node> = (1..=count).map(Node::new).collect();
        for (lan, at) in lans.iter().zip(0..) {
            for node in &mut nodes[at..at + 2] {
                node.join(lan);
            }
        }
        let row = Self { nodes, lans, _alone: alone };
        for at in 1..count {
            row.route(at, count, at + 1, at);
            row.route(at + 1, 1, at, at);
        }
        row
    }

    /// Joins two switches by one more LAN, whose number is given.
    pub fn join(&mut self, lan: u8, switches: [u8; 2]) {
        let lan = Lan::new(lan);
        for number in switches {
            self.nodes[usize::from(number) - 1].join(&lan);
        }
        self.lans.push(lan);
    }

    /// Switch `at` sends packets for host `to` to switch `next`, by a LAN.
    pub fn route(&self, at: u8, to: u8, next: u8, lan: u8) {
        for (to, next) in [
            (format!("10.{to}.0.0/24"), format!("10.10{lan}.0.{next}")),
            (format!("fd0{to}::/64"), format!("fd1{lan}::{next}")),
        ] {
            self.node(at).netns.add_route(net(&to), Via::Gateway(ip(&next))).expect("a route");
        }
    }

    pub fn node(&self, number: u8) -> &Node {
        &self.nodes[usize::from(number) - 1]
    }

    /// Where the bridge of a LAN sends frames to a switch.
    pub fn wire(&self, lan: u8, node: u8) -> Link {
        self.lans[usize::from(lan) - 1].netns.link(&format!("to{node}")).expect("a cable")
    }

    /// Starts all switches.
    pub fn switches(&self, executor: &str) -> Vec<Daemon> {
        self.nodes.iter().map(|node| Daemon::start(&node.netns, &node.settings(executor))).collect()
    }
}

impl Lan {
    fn new(number: u8) -> Self {
        let netns = Netns::new("lan").expect("root");
        let bridge = bridge(&netns, "br0").expect("a bridge");
        Self { netns, bridge, number }
    }

    /// A host that has no part in it.
    pub fn bystander(&self) -> Host {
        let own = net(&format!("10.10{}.0.99/24", self.number));
        let host = Host::new("x", &self.netns, "tox", Some(mac_of(99)), &[own]).expect("a host");
        host.port().attach(&self.bridge).expect("a port of the bridge");
        host
    }
}

impl Node {
    fn new(number: u8) -> Self {
        let netns = Netns::new(&format!("switch{number}")).expect("root");
        netns.sysctl("net/ipv4/ip_forward", "1").expect("a router");
        netns.sysctl("net/ipv6/conf/all/forwarding", "1").expect("a router");
        let addresses = |host: u8| [net(&format!("10.{number}.0.{host}/24")), net(&format!("fd0{number}::{host}/64"))];
        let host = Host::new("host", &netns, "pa", Some(mac_of(number)), &addresses(2)).expect("a host");
        for address in addresses(1) {
            host.port().add_address(address).expect("the router's address");
            host.netns().add_default_route(address.addr()).expect("a route");
        }
        as_a_wire(host.link());
        Self { number, netns, host, ports: vec!["pa".into()] }
    }

    fn join(&mut self, lan: &Lan) {
        let (name, far) = (format!("lan{}", lan.number), format!("to{}", self.number));
        let ends =
            (End { netns: &self.netns, name: &name, mac: None }, End { netns: &lan.netns, name: &far, mac: None });
        let (port, wire) = veth(ends.0, ends.1).expect("a cable");
        wire.attach(&lan.bridge).expect("a port of the bridge");
        for address in
            [format!("10.10{}.0.{}/24", lan.number, self.number), format!("fd1{}::{}/64", lan.number, self.number)]
        {
            port.add_address(net(&address)).expect("an address");
        }
        wire.connect(&port).expect("up");
        as_a_wire(&wire);
        as_a_wire(&port);
        self.ports.push(name);
    }

    /// Runs ip(8), which must succeed.
    fn ip(&self, arguments: &str) {
        let done = self.netns.command("ip").args(arguments.split(' ')).status().expect("ip runs");
        assert!(done.success(), "ip {arguments}");
    }

    /// The settings of a switch of all its ports, with a block of its own.
    pub fn settings(&self, executor: &str) -> String {
        let ports: String = self.ports.iter().map(|port| format!("[[port]]\ninterface = \"{port}\"\n")).collect();
        format!("block = \"a2:f{}:00:00:00:00/16\"\nslots = 1024\nexecutor = \"{executor}\"\n{ports}", self.number)
    }
}

/// Sees the frames that leave by a link and end with this payload.
fn tap_out(link: &Link, payload: &'static [u8]) -> Tap {
    let wanted = move |frame: &Frame| frame.direction == Direction::Out && frame.bytes.ends_with(payload);
    Tap::start(link, wanted).expect("a tap")
}

/// The first host's packets by its router go into a new flow of switch 1, which goes on at switch 2.
fn chained_flow(row: &Row, switches: &[Daemon]) -> String {
    let last = row.nodes.last().expect("a switch").number;
    let destination = format!("10.{last}.0.2");
    let flow = switches[0].api.open(json!({ "port": "pa", "client": "test", "destination": destination }));
    eventually("it goes on at the next switch", || switches[0].api.flow(&flow)["via"].is_string());
    use_flow(&row.node(1).host, "10.1.0.1", &flow);
    flow
}

/// The only flow of a switch.
fn only_flow(switch: &Daemon) -> serde_json::Value {
    let flows = switch.api.get("/v1/flows");
    assert_eq!(flows.as_array().map(Vec::len), Some(1), "{flows}");
    flows[0].clone()
}

fn a_flow_crosses_two_switches_with_virtual_addresses_between(executor: &str) {
    let row = Row::new(2);
    let switches = row.switches(executor);
    let first = chained_flow(&row, &switches);
    let (view, next) = (switches[0].api.flow(&first), only_flow(&switches[1]));
    let second = next["address"].as_str().expect("an address");
    let gateway = row.node(2).netns.link("lan1").and_then(|link| link.mac()).expect("a port");
    assert_eq!((view["next"].as_str(), view["via"].as_str()), (Some(second), Some(gateway.to_string().as_str())));
    assert_eq!((next["port"].as_str(), next["destination"].as_str()), (Some("lan1"), Some("10.2.0.2")));
    eventually("the last switch knows the host", || only_flow(&switches[1])["next"] == mac_of(2).to_string());
    assert!(only_flow(&switches[1])["via"].is_null());

    let between = tap_out(&row.wire(1, 2), b"by two switches");
    let arrived = crate::packet::tap(row.node(2).host.link(), b"by two switches");
    let frame = udp(mac(&first), mac_of(1), b"by two switches");
    Injector::open(row.node(1).host.link()).expect("root").send(&frame).expect("sent");
    let crossing = sent_on(&frame, mac(second), mac(&first), true);
    assert_eq!(between.wait_for(1, SOON).expect("it crosses")[0].bytes, crossing);
    let at_last = sent_on(&crossing, mac_of(2), mac(second), true);
    assert_eq!(arrived.wait_for(1, SOON).expect("it arrives")[0].bytes, at_last);

    ping(&row.node(1).host, "10.2.0.2", 3);
    assert_eq!(switches[1].api.flow(second)["packets"], 4);
    let status = switches[0].api.status();
    let neighbour =
        json!({ "port": "lan1", "address": gateway.to_string(), "kind": "switch", "flows": 1, "nonsense": 0 });
    assert_eq!(status["neighbours"], json!([neighbour]));
    switches.iter().for_each(|switch| switch.api.verify());
}

fn the_end_of_a_flow_travels_along(executor: &str) {
    let row = Row::new(3);
    let switches = row.switches(executor);
    let flow = chained_flow(&row, &switches);
    eventually("all know the way", || switches.iter().all(|switch| only_flow_or_none(switch)["state"] == "resolved"));
    ping(&row.node(1).host, "10.3.0.2", 3);
    eventually("the chain is made", || only_flow_or_none(&switches[1])["via"].is_string());
    switches[0].api.close(&flow);
    eventually("no switch has it any more", || switches.iter().all(|switch| switch.api.get("/v1/flows") == json!([])));
}

/// It does not go round the refusal by the gateway's own address, where Linux would route its packets.
fn a_flow_that_is_closed_at_the_next_switch_is_cut(executor: &str) {
    let row = Row::new(2);
    let mut switches = row.switches(executor);
    let flow = chained_flow(&row, &switches);
    let host = row.node(1).host.netns();
    ping(&row.node(1).host, "10.2.0.2", 1);
    let answered = || traffic::ping(host, ip("10.2.0.2"), 2, None, Duration::from_millis(300)).expect("sent").received;
    let closed = switches[1].api.close(only_flow(&switches[1])["address"].as_str().expect("an address"));
    assert_eq!(closed["closed_for"], 24 * 3600);
    assert_eq!(answered(), 0, "at once, where it was closed");
    eventually("the first switch has heard of it", || switches[0].api.flow(&flow)["state"] == "unreachable");
    let reason = switches[0].api.flow(&flow)["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.ends_with("says: an operator has closed this flow"), "{reason}");
    let dropped = switches[0].api.count("pa", "no-route");
    assert_eq!(answered(), 0);
    assert!(switches[0].api.count("pa", "no-route") > dropped, "at the first switch now");
    switches[1].kill();
    switches[1].start_again();
    assert_eq!(switches[1].api.get("/v1/flows"), json!([]));
    let other = switches[0].api.open(json!({ "port": "pa", "client": "other", "destination": "10.2.0.2" }));
    eventually("another flow goes on there", || switches[0].api.flow(&other)["via"].is_string());
    assert_eq!((answered(), switches[0].api.flow(&flow)["state"].as_str()), (0, Some("unreachable")));
}

/// Claim 22: a forwarding host address of a group is virtual, and stays so when the switch is started again.
fn a_receiver_of_a_group_is_reached_by_the_next_switch(executor: &str) {
    let row = Row::new(2);
    let mut switches = row.switches(executor);
    let request = json!({ "port": "pa", "client": "test", "receivers": ["10.2.0.2"] });
    let group = switches[0].api.call(hyper::Method::POST, "/v1/groups", Some(request)).expect("a group");
    let group = group["address"].as_str().expect("an address").to_owned();
    let next = |switch: &Daemon| switch.api.get(&format!("/v1/groups/{group}"))["receivers"][0]["next"].clone();
    eventually("it goes on at the next switch", || {
        let there = only_flow_or_none(&switches[1]);
        there["address"].is_string() && there["state"] == "resolved" && next(&switches[0]) == there["address"]
    });
    let second = only_flow(&switches[1])["address"].as_str().expect("an address").to_owned();
    let injector = Injector::open(row.node(1).host.link()).expect("root");
    for payload in [&b"a copy"[..], b"a copy after a restart"] {
        let wanted = payload.to_vec();
        let arrived = Tap::start(row.node(2).host.link(), move |frame| {
            frame.direction == Direction::In && frame.bytes.ends_with(&wanted)
        });
        let frame = udp(mac(&group), mac_of(1), payload);
        injector.send(&frame).expect("sent");
        let crossing = sent_on(&frame, mac(&second), mac(&group), true);
        let at_last = sent_on(&crossing, mac_of(2), mac(&second), true);
        assert_eq!(arrived.expect("a tap").wait_for(1, SOON).expect("it arrives")[0].bytes, at_last);
        switches[0].kill();
        switches[0].start_again();
        assert_eq!(next(&switches[0]), second.as_str(), "adopted, or asked for again");
    }
    eventually("it knows whom it has asked", || switches[0].api.status()["neighbours"][0]["flows"] == 1);
    switches[0].api.call(hyper::Method::DELETE, &format!("/v1/groups/{group}"), None).expect("closed");
    eventually("its end travels along", || switches[1].api.get("/v1/flows") == json!([]));
}

fn a_middle_switch_that_is_killed_loses_nothing(executor: &str) {
    let row = Row::new(3);
    let mut switches = row.switches(executor);
    chained_flow(&row, &switches);
    ping(&row.node(1).host, "10.3.0.2", 3);
    eventually("the chain is made", || only_flow_or_none(&switches[1])["via"].is_string());
    eventually("the last one knows the host", || only_flow_or_none(&switches[2])["state"] == "resolved");
    let before = only_flow(&switches[1]);
    let stream = Stream::start(row.node(1).host.netns(), row.node(3).host.netns(), ip("10.3.0.2"), 2_000);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(100));
        switches[1].kill();
        eventually("it flows without the switch's process", || stream.flows());
        switches[1].start_again();
        eventually("the successor's flow leads where it led", || {
            let after = only_flow(&switches[1]);
            ["address", "next", "via"].iter().all(|field| after[field] == before[field])
        });
        thread::sleep(Duration::from_millis(500));
    }
    let outcome = stream.stop();
    println!("{executor}: {outcome:?}");
    assert!(outcome.is_perfect(), "{outcome:?}");
    switches.iter().for_each(|switch| switch.api.verify());
}

fn a_middle_switch_that_lost_its_leases_gives_others(executor: &str) {
    let row = Row::new(3);
    let mut switches = row.switches(executor);
    chained_flow(&row, &switches);
    ping(&row.node(1).host, "10.3.0.2", 3);
    let before = only_flow(&switches[1])["address"].clone();
    switches[1].terminate();
    std::fs::remove_file(switches[1].path("state/leases.redb")).expect("a store");
    switches[1].start_again();
    eventually("the first switch has heard of it", || {
        let flows = switches[1].api.get("/v1/flows");
        flows[0]["address"].is_string() && flows[0]["address"] != before && flows[0]["via"].is_string()
    });
    let anew = only_flow(&switches[1]);
    eventually("frames go there", || switches[0].api.get("/v1/flows")[0]["next"] == anew["address"]);
    ping(&row.node(1).host, "10.3.0.2", 3);
    switches.iter().for_each(|switch| switch.api.verify());
}

fn a_route_that_changes_in_the_middle_loses_nothing(executor: &str) {
    let mut row = Row::new(3);
    row.join(3, [2, 3]);
    let switches = row.switches(executor);
    chained_flow(&row, &switches);
    ping(&row.node(1).host, "10.3.0.2", 3);
    let lans = [("lan3", "10.103.0.3"), ("lan2", "10.102.0.3")];
    let changes = lans.iter().cycle().take(CHANGES).filter(|(lan, via)| {
        let before = without_room(&switches);
        let stream = Stream::start(row.node(1).host.netns(), row.node(3).host.netns(), ip("10.3.0.2"), 2_000);
        eventually("it flows", || stream.flows());
        row.node(2).ip(&format!("route replace 10.3.0.0/24 via {via}"));
        eventually("the last switch has one flow, by the other port", || {
            let flows = switches[2].api.get("/v1/flows");
            flows.as_array().is_some_and(|flows| flows.len() == 1 && flows[0]["port"] == *lan)
        });
        eventually("the middle one sends there", || {
            only_flow(&switches[1])["next"] == only_flow(&switches[2])["address"]
        });
        let outcome = stream.stop();
        println!("{executor}: {outcome:?}");
        loses_only_without_room(&outcome, &switches, before);
        outcome.is_perfect()
    });
    assert_eq!(changes.take(3).count(), 3, "three of {CHANGES} changes lose nothing at all");
}

/// How many times a route is changed at most, until it has three times been seen that nothing is lost: the last switch keeps
/// 64 frames until it knows the host, which at 2,000 in a second is not enough where its process does not get the processor.
const CHANGES: usize = 10;

/// How many frames found a queue full.
fn without_room(switches: &[Daemon]) -> u64 {
    let ports = switches.iter().map(|switch| switch.api.status()["ports"].clone());
    let counts = ports.flat_map(|ports| ports.as_array().cloned().unwrap_or_default());
    counts.filter_map(|port| port["counts"]["queue-full"].as_u64()).sum()
}

/// What is lost has found a queue full, and is counted.
fn loses_only_without_room(outcome: &Outcome, switches: &[Daemon], before: u64) {
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");
    eventually("what is lost is counted", || without_room(switches) - before == outcome.lost);
}

/// The first packet waits until it is known what the gateway is; none is lost.
fn first_packets_arrive(row: &Row, switch: &Daemon) {
    eventually("Linux says that the cable is up", || switch.api.port("lan1")["up"] == true);
    let report = traffic::ping(row.node(1).host.netns(), ip("10.2.0.2"), 3, None, SOON).expect("sent");
    assert_eq!(report.received, 3, "{report:?}\n{}\n{}", switch.api.status(), switch.api.get("/v1/flows"));
    assert!(report.rtts[0] < Duration::from_secs(4), "{report:?}");
}

fn a_switch_that_answers_late_gets_the_flow_without_loss(executor: &str) {
    let row = Row::new(2);
    let switches = row.switches(executor);
    let (first, second) = (&switches[0], &switches[1]);
    // It is there, and does not answer: Linux routes what is not for a flow.
    second.signal(Signal::SIGSTOP);
    let flow = first.api.open(json!({ "port": "pa", "client": "test" }));
    use_flow(&row.node(1).host, "10.1.0.1", &flow);
    first_packets_arrive(&row, first);
    let gateway = row.node(2).netns.link("lan1").and_then(|link| link.mac()).expect("a port").to_string();
    let view = first.api.flow(&flow);
    assert_eq!(
        (view["next"].as_str(), &view["via"]),
        (Some(gateway.as_str()), &json!(null)),
        "the gateway's own address"
    );
    let stream = Stream::start(row.node(1).host.netns(), row.node(2).host.netns(), ip("10.2.0.2"), 500);
    eventually("it flows", || stream.flows());
    second.signal(Signal::SIGCONT);
    eventually("it is found", || first.api.flow(&flow)["via"] == gateway.as_str());
    eventually("frames go by it", || only_flow(second)["packets"].as_u64() > Some(100));
    let outcome = stream.stop();
    println!("{executor}: {outcome:?}");
    assert_eq!(outcome.doubled, 0, "{outcome:?}");
    eventually("what is lost has found a queue full", || without_room(&switches) == outcome.lost);
}

#[test]
fn a_flow_that_nobody_renews_ends_at_all_switches_behind() {
    let row = Row::new(3);
    let lease = "\n[lease]\ndefault = \"6s\"\nmin = \"1s\"\n";
    let settings = |number| format!("{}{lease}", row.node(number).settings("tc"));
    let mut switches: Vec<Daemon> =
        [1, 2, 3].map(|number| Daemon::start(&row.node(number).netns, &settings(number))).into();
    let open = json!({ "port": "pa", "client": "test", "destination": "10.3.0.2", "lifetime": 600 });
    let flow = switches[0].api.open(open);
    eventually("it goes on", || only_flow_or_none(&switches[1])["via"].is_string());
    use_flow(&row.node(1).host, "10.1.0.1", &flow);
    let address = only_flow(&switches[1])["address"].clone();
    thread::sleep(Duration::from_secs(9));
    ping(&row.node(1).host, "10.3.0.2", 3);
    assert_eq!(only_flow(&switches[1])["address"], address, "it was renewed meanwhile");
    switches[0].kill();
    eventually("they have ended", || switches[1..].iter().all(|switch| switch.api.get("/v1/flows") == json!([])));
}

fn only_flow_or_none(switch: &Daemon) -> serde_json::Value {
    switch.api.get("/v1/flows")[0].clone()
}

#[test]
fn a_loop_of_routes_is_told_and_mended() {
    let mut row = Row::new(3);
    row.join(3, [3, 1]);
    for (at, next, lan) in [(1, 2, 1), (2, 3, 2), (3, 1, 3)] {
        row.node(at).ip(&format!("route add 10.50.0.0/24 via 10.10{lan}.0.{next}"));
    }
    let switches = row.switches("tc");
    let flow = switches[0].api.open(json!({ "port": "pa", "client": "test", "destination": "10.50.0.1" }));
    eventually("the last switch says that it is a loop", || {
        let last = only_flow_or_none(&switches[2]);
        last["state"] == "unreachable" && last["reason"].as_str().is_some_and(|reason| reason.contains("loop"))
    });
    assert_eq!(only_flow(&switches[0])["address"], flow, "no other flow at the first");
    row.node(3).ip("route replace 10.50.0.0/24 via 10.3.0.2");
    eventually("it is no loop any more", || only_flow(&switches[2])["next"] == mac_of(3).to_string());
}

/// A neighbour that answers every question with nonsense, until it is dropped.
struct Liar {
    stop: Arc<AtomicBool>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Liar {
    fn start(node: &Node) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let index = node.netns.link("lan1").and_then(|link| link.index()).expect("a port");
        let socket = node.netns.run(|| {
            let any = SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, SERVER_PORT, 0, 0);
            let socket = UdpSocket::bind(any).expect("the port is free");
            socket.join_multicast_v6(&ALL_SERVERS, index).expect("a group");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            socket
        });
        let (socket, stopped) = (socket.expect("the namespace"), Arc::clone(&stop));
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                for lie in lies(&buffer[..len]) {
                    // A neighbour that is not known yet is a lie less.
                    let _ = socket.send_to(&lie, from);
                }
            }
        });
        Self { stop }
    }
}

/// Malformed and wrong answers to a question.
fn lies(question: &[u8]) -> Vec<Vec<u8>> {
    let Ok(asked) = Message::parse(question) else { return Vec::new() };
    let ia = asked.options.iter().find_map(|option| match option {
        DhcpOption::IaLl(ia) => Some(ia.iaid),
        _ => None,
    });
    let client = asked.options.iter().find(|option| matches!(option, DhcpOption::ClientId(_))).cloned();
    let (Some(iaid), Some(client)) = (ia, client) else { return Vec::new() };
    let rapid = asked.options.contains(&DhcpOption::RapidCommit);
    let kind = if rapid { MessageType::Reply } else { MessageType::Advertise };
    let answer = |address: &str, flow: bool| {
        let mut options = vec![DhcpOption::LlAddr(LlAddr::ethernet(mac(address), 0, 3600))];
        options.extend(flow.then(|| DhcpOption::Flow(FlowOption::default())));
        let ia = DhcpOption::IaLl(IaLl { iaid, t1: 1800, t2: 2880, options });
        let server = DhcpOption::ServerId(Duid::from_uuid([7; 16]));
        let mut options = vec![client.clone(), server, ia];
        options.extend(rapid.then_some(DhcpOption::RapidCommit));
        Message { kind, transaction: asked.transaction, options }.emit().expect("short")
    };
    // A group's, a manufacturer's, one of the asking switch's own block, none that a flow has.
    let addresses = ["03:00:00:00:00:01", "00:11:22:33:44:55", "a2:f1:00:00:00:07", "02:00:00:00:00:00"];
    let mut lies: Vec<Vec<u8>> =
        addresses.iter().map(|address| answer(address, *address != "02:00:00:00:00:00")).collect();
    let whole = lies[0].clone();
    lies.extend((0..whole.len()).step_by(7).map(|len| whole[..len].to_vec()));
    lies.push(vec![0xff; 1400]);
    let mut other = answer("a2:f9:00:00:00:01", true);
    other[2] ^= 1;
    lies.push(other);
    if !rapid {
        // At last what a switch would say to the first question, so that flows are asked for.
        lies.push(answer("a2:f9:00:00:00:01", true));
    }
    lies
}

#[test]
fn a_neighbour_that_answers_nonsense_gets_packets_at_its_own_address() {
    let row = Row::new(2);
    let _liar = Liar::start(row.node(2));
    let switch = Daemon::start(&row.node(1).netns, &row.node(1).settings("tc"));
    let flow = switch.api.open(json!({ "port": "pa", "client": "test" }));
    use_flow(&row.node(1).host, "10.1.0.1", &flow);
    first_packets_arrive(&row, &switch);
    let gateway = row.node(2).netns.link("lan1").and_then(|link| link.mac()).expect("a port").to_string();
    eventually("lies are counted", || {
        let neighbour = switch.api.status()["neighbours"][0].clone();
        neighbour["kind"] == "switch" && neighbour["nonsense"].as_u64() >= Some(8)
    });
    assert_eq!(switch.api.flow(&flow)["next"], gateway.as_str());
    let ignored = switch.api.port("lan1")["dhcp6_ignored"].clone();
    assert!(
        ["answer_malformed", "answer_nonsense", "answer_unasked"].iter().all(|reason| ignored[reason].is_u64()),
        "{ignored}"
    );
    ping(&row.node(1).host, "10.2.0.2", 3);

    let bystander = row.lans[0].bystander();
    let port = row.node(1).netns.link("lan1").and_then(|link| link.mac()).expect("a port").0;
    let to = std::net::Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        port[0] ^ 2,
        port[1],
        port[2],
        0xff,
        0xfe,
        port[3],
        port[4],
        port[5],
    ]);
    let mut frame = Vec::new();
    let built =
        etherparse::PacketBuilder::ethernet2(mac_of(99).0, port).ipv6([0xfd; 16], to.octets(), 1).udp(SERVER_PORT, 546);
    built.write(&mut frame, b"\x07abc").expect("a frame");
    Injector::open(bystander.link()).expect("root").send(&frame).expect("sent");
    eventually("a stranger's answer is counted", || {
        switch.api.port("lan1")["dhcp6_ignored"]["answer_of_a_stranger"] == 1
    });
}
