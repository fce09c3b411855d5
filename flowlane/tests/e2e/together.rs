//! Chains, the virtual-circuit flag and groups together: hosts that know nothing of flows across two switches (claims 14, 22
//! to 28), and one sender with receivers behind both.

use crate::{
    api::text,
    chains::Row,
    daemon::Daemon,
    lab::{SOON, as_a_wire, eventually, ip, mac, mac_of, net},
    on,
    packet::{sent_on, tap, udp},
};
use flowlane_lab::{Direction, Frame, Host, Injector, Link, Mac, Tap, bridge, traffic};
use hyper::Method;
use serde_json::json;
use std::net::UdpSocket;

on! {
    hosts_without_flowlane_talk_by_flows_across_two_switches on tc, xdp, af_packet, af_xdp;
    five_receivers_behind_two_switches_get_a_copy_each on tc, xdp, af_packet, af_xdp;
}

/// DSCP 000011: best effort, flagged.
const FLAGGED: u8 = 0x0c;

/// Sees the frames with this payload at an interface, in one direction.
fn watch(link: &Link, direction: Direction, payload: &'static [u8]) -> Tap {
    Tap::start(link, move |frame: &Frame| frame.direction == direction && frame.bytes.ends_with(payload))
        .expect("a tap")
}

fn addresses(frame: &Frame) -> (Mac, Mac) {
    let at = |start: usize| Mac(frame.bytes[start..start + 6].try_into().expect("6 octets"));
    (at(0), at(6))
}

/// The switches of a row; the ports of their hosts read the flag.
fn reading(row: &Row, executor: &str) -> Vec<Daemon> {
    let port = "interface = \"pa\"\n";
    let settings = |settings: String| settings.replace(port, &format!("{port}flag = \"read\"\n"));
    row.nodes.iter().map(|node| Daemon::start(&node.netns, &settings(node.settings(executor)))).collect()
}

fn hosts_without_flowlane_talk_by_flows_across_two_switches(executor: &str) {
    let row = Row::new(2);
    let switches = reading(&row, executor);
    for switch in &switches {
        eventually("Linux says that the cables are up", || switch.api.port("lan1")["up"] == true);
    }
    let receiver =
        row.node(2).host.netns().run(|| UdpSocket::bind("10.2.0.2:2222")).expect("a thread").expect("a port");
    receiver.set_read_timeout(Some(SOON)).expect("a time");
    let sender = row.node(1).host.netns().run(|| UdpSocket::bind("10.1.0.2:1111")).expect("a thread").expect("a port");
    crate::stream::set_class(&sender, ip("10.2.0.2"), FLAGGED);
    let crosses = || {
        sender.send_to(b"flagged", "10.2.0.2:2222").expect("sent");
        let mut buffer = [0; 16];
        let received = receiver.recv(&mut buffer);
        let told =
            || switches.iter().map(|switch| format!("{}\n{}\n", switch.api.status(), switch.api.get("/v1/flows")));
        assert_eq!(received.ok(), Some(b"flagged".len()), "{}", told().collect::<String>());
    };
    // The first may go to the gateway's own address, where that takes long to answer.
    crosses();
    eventually("the second switch has given an address", || switches[0].api.get("/v1/flows")[0]["via"].is_string());
    let between = watch(&row.wire(1, 2), Direction::Out, b"flagged");
    let arrived = tap(row.node(2).host.link(), b"flagged");
    (0..5).for_each(|_| crosses());

    let first = switches[0].api.get("/v1/flows")[0].clone();
    let second = switches[1].api.get("/v1/flows")[0].clone();
    let (first, second) = (mac(&text(&first["address"])), mac(&text(&second["address"])));
    for frame in between.wait_for(5, SOON).expect("they cross") {
        assert_eq!(addresses(&frame), (second, first), "flow addresses between the switches");
        assert_eq!(frame.bytes[15], FLAGGED, "the flag goes along");
    }
    for frame in arrived.wait_for(5, SOON).expect("they arrive") {
        assert_eq!(addresses(&frame), (mac_of(2), second), "the receiver's own address at the end");
        assert_eq!(frame.bytes[15], 0, "the DSCP is what it was before the flag");
    }
    let report = traffic::ping(row.node(1).host.netns(), ip("10.2.0.2"), 3, None, SOON).expect("sent");
    assert_eq!(report.received, 3, "what is not flagged goes on as ever");
    switches.iter().for_each(|switch| switch.api.verify());
}

/// A host behind a bridge with others.
fn behind(hub: &Host, br: &Link, number: u8) -> Host {
    let port = format!("to{number}");
    let own = net(&format!("10.7.0.{number}/24"));
    let host = Host::new("r", hub.netns(), &port, Some(mac_of(number)), &[own]).expect("a host");
    host.port().attach(br).expect("a port of the bridge");
    host.netns().add_default_route(ip("10.7.0.1")).expect("a route");
    as_a_wire(host.link());
    as_a_wire(host.port());
    host
}

/// Two behind one port by a bridge, two behind ports of their own, one behind the second switch.
fn five_receivers_behind_two_switches_get_a_copy_each(executor: &str) {
    const COPIES: usize = 20;
    let row = Row::new(2);
    let near = &row.node(1).netns;
    let hub = Host::new("hub", near, "ph", None, &[]).expect("a hub");
    let br = bridge(hub.netns(), "br0").expect("a bridge");
    hub.link().attach(&br).expect("a port of the bridge");
    as_a_wire(hub.link());
    hub.port().add_address(net("10.7.0.1/24")).expect("an address");
    let mut receivers: Vec<Host> = [71, 72].map(|number| behind(&hub, &br, number)).into();
    for (number, port) in [(81, "p8"), (91, "p9")] {
        let subnet = number / 10;
        let host = Host::new("r", near, port, Some(mac_of(number)), &[net(&format!("10.{subnet}.0.{number}/24"))]);
        let host = host.expect("a host");
        host.port().add_address(net(&format!("10.{subnet}.0.1/24"))).expect("an address");
        host.netns().add_default_route(ip(&format!("10.{subnet}.0.1"))).expect("a route");
        as_a_wire(host.link());
        receivers.push(host);
    }
    let ports: String = ["ph", "p8", "p9"].map(|port| format!("[[port]]\ninterface = \"{port}\"\n")).concat();
    let first = Daemon::start(near, &format!("{}{ports}", row.node(1).settings(executor)));
    let second = Daemon::start(&row.node(2).netns, &row.node(2).settings(executor));

    let wanted = json!(["10.7.0.71", "10.7.0.72", "10.8.0.81", "10.9.0.91", "10.2.0.2"]);
    let request = json!({ "port": "pa", "client": "test", "receivers": wanted });
    let group = text(&first.api.call(Method::POST, "/v1/groups", Some(request)).expect("a group")["address"]);
    let of_receivers = || first.api.get(&format!("/v1/groups/{group}"))["receivers"].clone();
    let all =
        |is_so: &dyn Fn(&serde_json::Value) -> bool| of_receivers().as_array().is_some_and(|all| all.iter().all(is_so));
    eventually("all have a way", || all(&|receiver| receiver["state"] == "resolved"));
    eventually("the last one's is a flow of the second switch", || {
        let flows = second.api.get("/v1/flows");
        flows[0]["state"] == "resolved" && of_receivers()[4]["next"] == flows[0]["address"]
    });

    let taps: Vec<Tap> = receivers.iter().chain([&row.node(2).host]).map(|host| tap(host.link(), b"to all")).collect();
    // The receivers' hosts say by ICMP that nobody listens, and quote the packet: that is no copy of it.
    let is_copy =
        |frame: &Frame| frame.direction == Direction::In && frame.bytes.ends_with(b"to all") && frame.bytes[23] == 17;
    let returned = Tap::start(row.node(1).host.link(), is_copy).expect("a tap");
    let frame = udp(mac(&group), mac_of(1), b"to all");
    let injector = Injector::open(row.node(1).host.link()).expect("root");
    for _ in 0..COPIES {
        injector.send(&frame).expect("sent");
    }
    let at_last = mac(&text(&second.api.get("/v1/flows")[0]["address"]));
    for (tap, number) in taps.into_iter().zip([71, 72, 81, 91, 2]) {
        let frames = tap.wait_for(COPIES, SOON).expect("a copy each");
        let once = sent_on(&frame, mac_of(number), mac(&group), true);
        let expected = if number == 2 { sent_on(&once, mac_of(2), at_last, true) } else { once };
        assert!(frames.iter().all(|frame| frame.bytes == expected), "receiver {number}");
        assert_eq!(frames.len(), COPIES, "receiver {number}");
    }
    // A copy is counted when it has been sent.
    eventually("all are counted", || all(&|receiver| receiver["packets"] == COPIES && receiver["missed"] == 0));
    eventually("at the second switch, too", || second.api.get("/v1/flows")[0]["packets"] == COPIES);
    assert!(returned.stop().expect("a capture").frames.is_empty(), "none is returned");
}
