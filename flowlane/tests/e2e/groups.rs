//! Multicast (claims 20 to 22): one sender, a copy for each receiver.

use crate::{
    api::text,
    daemon::{Daemon, PROGRAM},
    lab::{Lab, SOON, as_a_wire, eventually, ip, mac, mac_of, net, ping, settings, use_flow},
    on,
    packet::{sent_on, tap, udp},
    stream::{Outcome, outcome, stay_here},
};
use flowlane_lab::{Direction, Host, Injector, Link, Mac, Offload, Tap, Via, bridge};
use hyper::Method;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

on! {
    each_receiver_gets_a_copy_of_its_own on tc, xdp, af_packet, af_xdp;
    receivers_come_and_go_without_disturbing_the_others on tc, xdp, af_packet, af_xdp;
    a_group_has_64_receivers_and_no_more on tc, xdp, af_packet, af_xdp;
    a_receiver_behind_a_router_gets_copies_with_one_less_to_live on tc, xdp, af_packet, af_xdp;
    a_receiver_whose_port_is_down_misses_copies_and_the_others_do_not on tc, xdp, af_packet, af_xdp;
    a_receiver_that_is_found_later_gets_copies_from_then_on on tc, af_packet, af_xdp;
    super_packets_to_a_group_arrive_whole on tc, af_packet;
    killed_under_traffic_it_loses_no_copies on tc, xdp;
    killed_it_resumes_its_groups on af_packet, af_xdp;
    a_group_ends_with_its_lease on tc, xdp, af_packet, af_xdp;
}

/// The payload of a numbered frame is this and the number, in 8 octets.
const NUMBERED: &[u8; 8] = b"numbered";
/// Numbered frames in a second.
const RATE: u64 = 1_000;
/// How long frames may be on their way when the last one has been sent.
const ON_THEIR_WAY: Duration = Duration::from_secs(3);

/// The lab, with two more hosts behind one port: a Linux bridge is between.
struct Wide {
    lab: Lab,
    d: Host,
    e: Host,
    _hub: Host,
}

impl Wide {
    fn new() -> Self {
        let lab = Lab::new();
        let hub = Host::new("hub", &lab.netns, "pd", None, &[]).expect("a hub");
        let br = bridge(hub.netns(), "br0").expect("a bridge");
        hub.link().attach(&br).expect("a port of the bridge");
        as_a_wire(hub.link());
        hub.port().add_address(net("10.4.0.1/24")).expect("an address");
        let [d, e] = [(4, "d"), (5, "e")].map(|(number, name)| {
            let own = net(&format!("10.4.0.{number}/24"));
            let port = format!("to-{name}");
            let host = Host::new(name, hub.netns(), &port, Some(mac_of(number)), &[own]).expect("a host");
            host.port().attach(&br).expect("a port of the bridge");
            host.netns().add_default_route(ip("10.4.0.1")).expect("a route");
            as_a_wire(host.link());
            as_a_wire(host.port());
            host
        });
        Self { lab, d, e, _hub: hub }
    }

    fn switch(&self, executor: &str) -> Daemon {
        self.lab.switch_with(&format!("{}[[port]]\ninterface = \"pd\"\n", settings(executor)))
    }

    /// Host B by its IP address, D and E behind one port by theirs, C by its Ethernet address.
    fn receivers() -> Value {
        json!(["10.2.0.2", "10.4.0.4", "10.4.0.5", at(mac_of(3), "pc")])
    }
}

/// An Ethernet address as a receiver.
fn at(mac: Mac, port: &str) -> String {
    format!("{mac}@{port}")
}

fn open(switch: &Daemon, receivers: &Value) -> Value {
    let request = json!({ "port": "pa", "client": "test", "name": "film", "receivers": receivers });
    switch.api.call(Method::POST, "/v1/groups", Some(request)).expect("a group")
}

/// Opens a group all of whose receivers have a way; its address.
fn open_resolved(switch: &Daemon, receivers: &Value) -> String {
    let address = text(&open(switch, receivers)["address"]);
    eventually("all receivers have a way", || {
        let group = group(switch, &address);
        group["receivers"].as_array().expect("receivers").iter().all(|receiver| receiver["state"] == "resolved")
    });
    address
}

fn group(switch: &Daemon, address: &str) -> Value {
    switch.api.get(&format!("/v1/groups/{address}"))
}

fn add(switch: &Daemon, address: &str, receivers: &Value) -> Result<Value, Value> {
    let path = format!("/v1/groups/{address}/receivers");
    switch.api.call(Method::POST, &path, Some(json!({ "receivers": receivers })))
}

fn remove(switch: &Daemon, address: &str, receiver: &str) -> Result<Value, Value> {
    switch.api.call(Method::DELETE, &format!("/v1/groups/{address}/receivers/{receiver}"), None)
}

/// A receiver of a group, by the name it was given.
fn receiver(switch: &Daemon, address: &str, name: &str) -> Value {
    let group = group(switch, address);
    let receivers = group["receivers"].as_array().expect("receivers");
    receivers.iter().find(|receiver| receiver["receiver"] == name).expect("the receiver").clone()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().expect("a number")
}

/// A running stream of numbered frames from host A.
struct Numbered {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
}

impl Numbered {
    fn start(lab: &Lab, group: &str) -> Self {
        let (injector, destination) = (Injector::open(lab.a.link()).expect("root"), mac(group));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            stay_here();
            let (start, mut sent) = (Instant::now(), 0u64);
            while !stopped.load(Ordering::Relaxed) {
                let due = start.elapsed().as_micros() as u64 * RATE / 1_000_000;
                let due = due.min(sent + 100);
                (sent..due).for_each(|number| injector.send(&numbered(destination, number)).expect("sent"));
                sent = due.max(sent);
                thread::sleep(Duration::from_micros(500));
            }
            sent
        });
        Self { stop, sender }
    }

    /// How many frames were sent.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().expect("the sender")
    }
}

fn numbered(group: Mac, number: u64) -> Vec<u8> {
    udp(group, mac_of(1), &[&NUMBERED[..], &number.to_be_bytes()].concat())
}

/// Sees the numbered frames that come in by a link.
fn tap_numbered(link: &Link) -> Tap {
    Tap::start(link, |frame| frame.direction == Direction::In && number_of(&frame.bytes).is_some()).expect("a tap")
}

/// The number of a numbered frame.
fn number_of(frame: &[u8]) -> Option<u64> {
    let payload = frame.get(14 + 20 + 8..)?.strip_prefix(NUMBERED)?;
    payload.first_chunk().map(|octets| u64::from_be_bytes(*octets))
}

/// What has become of `sent` numbered frames.
fn arrived(tap: Tap, sent: u64) -> Outcome {
    // For those that are on their way, and any that are too many.
    let _ = tap.wait_for(sent as usize, ON_THEIR_WAY);
    thread::sleep(Duration::from_millis(100));
    let capture = tap.stop().expect("a tap");
    assert_eq!(capture.lost, 0, "the tap was too slow");
    let numbers: Vec<u64> = capture.frames.iter().filter_map(|frame| number_of(&frame.bytes)).collect();
    outcome(sent, &numbers)
}

/// What came back is not the frame. It may be an ICMP error of a receiver that quotes it.
fn assert_none_came_back(tap: Tap, frame: &[u8]) {
    let frames = tap.stop().expect("a tap").frames;
    let copies: Vec<_> = frames.iter().filter(|back| back.bytes.len() == frame.len()).collect();
    assert!(copies.is_empty(), "{copies:?}");
}

/// Claims 20 and 21; claim 22 differs in nothing but whose address it is.
fn each_receiver_gets_a_copy_of_its_own(executor: &str) {
    const FRAMES: usize = 20;
    let wide = Wide::new();
    let switch = wide.switch(executor);
    let address = open_resolved(&switch, &Wide::receivers());
    // Another switch's flow address is behind the same port as C.
    let virtual_host = mac("a6:00:00:00:00:07");
    add(&switch, &address, &json!([at(virtual_host, "pc")])).expect("added");
    let flow = mac(&address);

    let lab = &wide.lab;
    let links = [lab.b.link(), wide.d.link(), wide.e.link(), lab.c.link()];
    let taps = links.map(|link| tap(link, b"to all"));
    let back = tap(lab.a.link(), b"to all");
    let frame = udp(flow, mac_of(1), b"to all");
    let injector = Injector::open(lab.a.link()).expect("root");
    (0..FRAMES).for_each(|_| injector.send(&frame).expect("sent"));
    eventually("all frames are counted", || switch.api.count("pa", "replicate") == FRAMES as u64);
    for (tap, copies) in taps.iter().zip([1, 1, 1, 2]) {
        tap.wait_for(FRAMES * copies, SOON).expect("copies of all");
    }
    thread::sleep(Duration::from_millis(100));

    let wanted: [&[(u8, bool)]; 3] = [&[(2, true)], &[(4, true)], &[(5, true)]];
    let mut taps = taps.into_iter().map(|tap| tap.stop().expect("a tap").frames);
    for (wanted, frames) in wanted.iter().zip(taps.by_ref()) {
        let copies: Vec<Vec<u8>> =
            wanted.iter().map(|(number, routed)| sent_on(&frame, mac_of(*number), flow, *routed)).collect();
        assert_eq!(frames.len(), FRAMES * copies.len(), "no more, and no fewer");
        assert!(frames.iter().all(|frame| copies.contains(&frame.bytes)), "claim 20: each to its own address");
    }
    let at_c: Vec<Vec<u8>> = taps.flatten().map(|frame| frame.bytes).collect();
    for to in [mac_of(3), virtual_host] {
        let copy = sent_on(&frame, to, flow, false);
        assert_eq!(at_c.iter().filter(|bytes| **bytes == copy).count(), FRAMES, "claims 21 and 22: {to}");
    }
    assert_eq!(at_c.len(), 2 * FRAMES);
    assert_none_came_back(back, &frame);

    let group = group(&switch, &address);
    let counted = |view: &Value| (number(view, "packets"), number(view, "bytes"));
    let all = (FRAMES as u64, (FRAMES * frame.len()) as u64);
    assert_eq!(counted(&group), all);
    for receiver in group["receivers"].as_array().expect("receivers") {
        assert_eq!((counted(receiver), number(receiver, "missed")), (all, 0), "{receiver}");
    }
    let entries = switch.api.get("/v1/table");
    assert_eq!((&entries[0]["state"], entries[0]["receivers"].as_array().map(Vec::len)), (&json!("group"), Some(5)));
    switch.api.verify();
}

fn receivers_come_and_go_without_disturbing_the_others(executor: &str) {
    let wide = Wide::new();
    let switch = wide.switch(executor);
    let address = open_resolved(&switch, &json!(["10.2.0.2", at(mac_of(4), "pd")]));
    let taps = [tap_numbered(wide.lab.b.link()), tap_numbered(wide.d.link())];
    let late = tap_numbered(wide.lab.c.link());
    let stream = Numbered::start(&wide.lab, &address);
    for _ in 0..20 {
        add(&switch, &address, &json!(["10.4.0.5", at(mac_of(3), "pc")])).expect("added");
        thread::sleep(Duration::from_millis(30));
        for gone in ["10.4.0.5", &at(mac_of(3), "pc")] {
            remove(&switch, &address, gone).expect("removed");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let sent = stream.stop();
    for tap in taps {
        let outcome = arrived(tap, sent);
        assert!(outcome.is_perfect(), "{executor}: {outcome:?}");
    }
    let outcome = arrived(late, sent);
    assert!(outcome.lost > 0 && outcome.lost < sent, "it came and went: {outcome:?}");
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0));
    switch.api.verify();
}

fn a_group_has_64_receivers_and_no_more(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let all: Vec<String> = (0..1_000).map(|n: u16| at(Mac([2, 0, 0, 9, (n >> 8) as u8, n as u8]), "pb")).collect();
    let request = json!({ "port": "pa", "client": "test", "receivers": all });
    let refused = switch.api.call(Method::POST, "/v1/groups", Some(request)).expect_err("too many");
    assert_eq!(refused["code"], "full", "{refused}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("64")), "{refused}");
    assert_eq!((switch.api.get("/v1/groups"), switch.api.get("/v1/flows")), (json!([]), json!([])), "nothing changed");

    let address = text(&open(&switch, &json!([]))["address"]);
    for (count, receiver) in (1..).zip(&all) {
        match add(&switch, &address, &json!([receiver])) {
            Ok(_) => assert!(count <= 64, "{count} receivers"),
            Err(problem) => {
                assert_eq!((count > 64, &problem["code"]), (true, &json!("full")), "{count}: {problem}");
            }
        }
    }
    assert_eq!(group(&switch, &address)["receivers"].as_array().map(Vec::len), Some(64));

    let seen = tap(lab.b.link(), b"to 64");
    let frame = udp(mac(&address), mac_of(1), b"to 64");
    Injector::open(lab.a.link()).expect("root").send(&frame).expect("sent");
    seen.wait_for(64, SOON).expect("64 copies");
    thread::sleep(Duration::from_millis(50));
    let mut copies = BTreeMap::new();
    for copy in seen.stop().expect("a tap").frames {
        *copies.entry(copy.bytes).or_insert(0) += 1;
    }
    let wanted: BTreeMap<Vec<u8>, i32> =
        (0..64).map(|n| (sent_on(&frame, Mac([2, 0, 0, 9, 0, n]), mac(&address), false), 1)).collect();
    assert_eq!(copies, wanted, "one for each");

    for gone in [&all[6], &all[7]] {
        remove(&switch, &address, gone).expect("removed");
    }
    let twice = add(&switch, &address, &json!([all[900], all[8]]));
    assert_eq!(twice.expect_err("it is there")["code"], "conflict");
    assert_eq!(group(&switch, &address)["receivers"].as_array().map(Vec::len), Some(62), "all come, or none");
    assert_eq!(remove(&switch, &address, &all[7]).expect_err("it is gone")["code"], "no-such-receiver");
    switch.api.verify();
}

#[test]
fn a_group_that_would_contain_itself_is_refused() {
    let (lab, switch) = Lab::with_switch("tc");
    let address = text(&open(&switch, &json!(["10.2.0.2"]))["address"]);
    let other = switch.api.open_on("pb", "another flow");
    let own_port = lab.b.port().mac().expect("a port");
    for itself in [
        at(mac(&address), "pb"),
        at(mac(&other), "pb"),
        at(own_port, "pc"),
        "10.1.0.1".into(),
        "10.3.0.1".into(),
        "fd02::1".into(),
        "127.0.0.1".into(),
    ] {
        let problem = add(&switch, &address, &json!(["10.3.0.2", itself])).expect_err("a loop");
        assert_eq!(problem["code"], "invalid", "{problem}");
        let message = text(&problem["message"]);
        assert!(message.contains("contain itself") && message.contains(&itself), "{message}");
    }
    for (nobody, code) in [
        ("239.1.1.1".to_owned(), "invalid"),
        ("ff02::1".into(), "invalid"),
        (at(Mac::BROADCAST, "pb"), "invalid"),
        ("host-b".into(), "invalid"),
        ("02:00@pb".into(), "invalid"),
        (at(mac_of(2), "eth9"), "no-such-port"),
    ] {
        let problem = add(&switch, &address, &json!([nobody])).expect_err("nobody");
        assert_eq!(problem["code"], code, "{problem}");
    }
    assert_eq!(group(&switch, &address)["receivers"].as_array().map(Vec::len), Some(1), "nothing changed");
    let missing = switch.api.call(Method::GET, &format!("/v1/groups/{other}"), None).expect_err("a plain flow");
    assert_eq!(missing["code"], "no-such-group");
}

/// Whoever is behind the group's own port is told so, and gets nothing.
#[test]
fn a_receiver_behind_the_groups_own_port_is_taken_and_told() {
    let (lab, switch) = Lab::with_switch("tc");
    let own = at(mac("02:00:00:00:01:99"), "pa");
    let address = text(&open(&switch, &json!([own, "10.1.0.2", at(mac_of(2), "pb")]))["address"]);
    let warned = receiver(&switch, &address, &own);
    assert!(text(&warned["warning"]).contains("own port"), "{warned}");
    eventually("the sender itself has no way", || receiver(&switch, &address, "10.1.0.2")["state"] == "unreachable");
    assert!(text(&receiver(&switch, &address, "10.1.0.2")["reason"]).contains("behind the port"));
    let (back, there) = (tap(lab.a.link(), b"not back"), tap(lab.b.link(), b"not back"));
    Injector::open(lab.a.link()).expect("root").send(&udp(mac(&address), mac_of(1), b"not back")).expect("sent");
    there.wait_for(1, SOON).expect("a copy");
    assert_none_came_back(back, &udp(mac(&address), mac_of(1), b"not back"));
    let warned = receiver(&switch, &address, &own);
    assert_eq!((number(&warned, "packets"), number(&warned, "missed")), (0, 0), "{warned}");
}

fn a_receiver_behind_a_router_gets_copies_with_one_less_to_live(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    lab.netns.add_route(net("10.9.0.0/24"), Via::Gateway(ip("10.2.0.2"))).expect("a route");
    let address = open_resolved(&switch, &json!(["10.9.0.7", at(mac_of(3), "pc")]));
    let known = receiver(&switch, &address, "10.9.0.7");
    assert_eq!((&known["next"], &known["routed"]), (&json!(mac_of(2).to_string()), &json!(true)));
    let (behind, beside) = (tap(lab.b.link(), b"one less"), tap(lab.c.link(), b"one less"));
    let frame = udp(mac(&address), mac_of(1), b"one less");
    Injector::open(lab.a.link()).expect("root").send(&frame).expect("sent");
    let frames = behind.wait_for(1, SOON).expect("a copy");
    assert_eq!(frames[0].bytes, sent_on(&frame, mac_of(2), mac(&address), true));
    let frames = beside.wait_for(1, SOON).expect("a copy");
    assert_eq!(frames[0].bytes, sent_on(&frame, mac_of(3), mac(&address), false), "the same subnet");

    // One with no time left: those in the same subnet get it, the others miss it.
    let mut last = frame;
    last[22] = 1;
    Injector::open(lab.a.link()).expect("root").send(&last).expect("sent");
    beside.wait_for(2, SOON).expect("a copy");
    eventually("the other has missed it", || number(&receiver(&switch, &address, "10.9.0.7"), "missed") == 1);
    assert_eq!(behind.stop().expect("a tap").frames.len(), 1);
}

fn a_receiver_whose_port_is_down_misses_copies_and_the_others_do_not(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let by_mac = at(mac_of(3), "pc");
    let address = open_resolved(&switch, &json!(["10.2.0.2", by_mac, "10.3.0.2"]));
    let (undisturbed, at_c) = (tap_numbered(lab.b.link()), tap_numbered(lab.c.link()));
    let stream = Numbered::start(&lab, &address);
    let c = || {
        ["packets", "missed"]
            .map(|name| [&by_mac, "10.3.0.2"].map(|who| number(&receiver(&switch, &address, who), name)))
    };
    eventually("C gets copies", || c()[0].iter().all(|copies| *copies > 100));

    lab.c.link().down().expect("down");
    eventually("C misses copies", || c()[1].iter().all(|missed| *missed > 100));
    // Frames are lost at once; Linux says a moment later why.
    eventually("the switch says so", || receiver(&switch, &address, &by_mac)["state"] == "unreachable");
    let down = receiver(&switch, &address, &by_mac);
    assert!(text(&down["reason"]).contains("pc is down"), "{down}");
    let before = c()[0];
    thread::sleep(Duration::from_millis(50));
    assert_eq!(c()[0], before, "no copies are counted");

    lab.c.link().up().expect("up");
    eventually("C gets copies again", || c()[0].iter().zip(before).all(|(now, before)| *now > before + 100));
    eventually("and is resolved", || receiver(&switch, &address, &by_mac)["state"] == "resolved");
    let sent = stream.stop();
    let outcome = arrived(undisturbed, sent);
    assert!(outcome.is_perfect(), "{executor}: {outcome:?}");
    drop(at_c);
    eventually("every frame was sent or missed", || {
        let [packets, missed] = c();
        packets[0] + missed[0] == sent
    });
    switch.api.verify();
}

fn a_receiver_that_is_found_later_gets_copies_from_then_on(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let address = text(&open(&switch, &json!(["10.2.0.77", at(mac_of(3), "pc")]))["address"]);
    let (there, later) = (tap_numbered(lab.c.link()), tap_numbered(lab.b.link()));
    let stream = Numbered::start(&lab, &address);
    there.wait_for(1, SOON).expect("the first packet does not wait for the other receiver");
    eventually("nobody answers", || receiver(&switch, &address, "10.2.0.77")["state"] == "unreachable");
    assert!(text(&receiver(&switch, &address, "10.2.0.77")["reason"]).contains("does not answer"));
    assert_eq!(later.frames(), []);
    lab.b.link().add_address(net("10.2.0.77/24")).expect("an address");
    // What the host says itself is heard sooner than the next question.
    ping(&lab.b, "10.2.0.1", 1);
    let hello = UdpSocket::bind_in(&lab.b);
    eventually("it is found", || {
        hello.say();
        receiver(&switch, &address, "10.2.0.77")["state"] == "resolved"
    });
    later.wait_for(100, SOON).expect("copies");
    let sent = stream.stop();
    assert!(arrived(there, sent).is_perfect());
    let outcome = arrived(later, sent);
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");
    switch.api.verify();
}

/// Says something from the address that was added.
trait Hello {
    fn bind_in(host: &Host) -> Self;
    fn say(&self);
}

impl Hello for UdpSocket {
    fn bind_in(host: &Host) -> Self {
        host.netns().run(|| Self::bind("10.2.0.77:0")).expect("the namespace").expect("the address")
    }

    fn say(&self) {
        let _ = self.send_to(b"here", "10.2.0.1:9");
    }
}

/// Datagrams that the sender's stack did not cut (UDP segmentation offload).
fn super_packets_to_a_group_arrive_whole(executor: &str) {
    const SEGMENT: usize = 1_400;
    const SEGMENTS: usize = 40;
    const TIMES: usize = 25;
    let (lab, switch) = Lab::with_switch(executor);
    for host in [&lab.a, &lab.b, &lab.c] {
        host.link().set_offload(Offload::TxChecksum, true).expect("veth knows it");
    }
    let address = open_resolved(&switch, &json!(["10.2.0.2", at(mac_of(3), "pc"), at(mac("a6:00:00:00:00:01"), "pb")]));
    use_flow(&lab.a, "10.1.0.1", &address);
    let receiver_socket = lab.b.netns().run(|| UdpSocket::bind("10.2.0.2:4322")).expect("in B").expect("a socket");
    setsockopt(&receiver_socket, sockopt::RcvBufForce, &(64 << 20)).expect("root");
    receiver_socket.set_read_timeout(Some(SOON)).expect("a timeout");
    let large = |frame: &flowlane_lab::Frame| frame.direction == Direction::In && frame.bytes.len() > SEGMENT;
    let seen = Tap::start(lab.c.link(), large).expect("a tap");

    let sender = lab.a.netns().run(|| UdpSocket::bind("10.1.0.2:0")).expect("in A").expect("a socket");
    setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT as i32)).expect("Linux knows it");
    let payload: Vec<u8> = (0..SEGMENT * SEGMENTS).map(|n| (n % 251) as u8).collect();
    for _ in 0..TIMES {
        sender.send_to(&payload, "10.2.0.2:4322").expect("sent");
    }

    let (mut datagrams, mut buffer) = (0, [0; 2 * SEGMENT]);
    while datagrams < SEGMENTS * TIMES {
        let length = receiver_socket.recv(&mut buffer).expect("all arrive");
        let from = datagrams % SEGMENTS * SEGMENT;
        assert_eq!(buffer[..length], payload[from..from + SEGMENT], "datagram {datagrams}, checksum and all");
        datagrams += 1;
    }
    receiver_socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    assert!(receiver_socket.recv(&mut buffer).is_err(), "no more than were sent");
    let seen = seen.stop().expect("a tap");
    assert!(seen.frames.iter().any(|frame| frame.bytes.len() > SEGMENT * SEGMENTS), "{executor}: they stay whole");
    let (frames, octets) = (SEGMENTS * TIMES, SEGMENTS * TIMES * (14 + 20 + 8 + SEGMENT));
    eventually("all are counted", || switch.api.count("pa", "replicate") >= frames as u64);
    let group = group(&switch, &address);
    for view in group["receivers"].as_array().expect("receivers").iter().chain([&group]) {
        assert_eq!(
            (number(view, "packets"), number(view, "bytes")),
            (frames as u64, octets as u64),
            "counted as a wire would carry them: {view}"
        );
    }
    assert_eq!(switch.api.count("pa", "replicate"), frames as u64);
}

/// What of a group must be the same afterwards.
fn what_stays(switch: &Daemon, address: &str) -> Vec<Value> {
    let group = group(switch, address);
    let fields = ["receiver", "place", "state", "next", "egress", "routed"];
    let receivers = group["receivers"].as_array().expect("receivers").iter();
    let receivers = receivers.flat_map(|receiver| fields.map(|field| receiver[field].clone()));
    ["address", "slot", "group", "name", "client", "iaid"]
        .map(|field| group[field].clone())
        .into_iter()
        .chain(receivers)
        .collect()
}

fn killed_under_traffic_it_loses_no_copies(executor: &str) {
    let wide = Wide::new();
    let mut switch = wide.switch(executor);
    let address = open_resolved(&switch, &Wide::receivers());
    remove(&switch, &address, "10.4.0.4").expect("removed: its place is empty");
    let before = what_stays(&switch, &address);
    let links = [wide.lab.b.link(), wide.e.link(), wide.lab.c.link()];
    let taps = links.map(tap_numbered);
    let gone = tap_numbered(wide.d.link());
    let stream = Numbered::start(&wide.lab, &address);
    for _ in 0..5 {
        let count = number(&receiver(&switch, &address, "10.2.0.2"), "packets");
        switch.kill();
        thread::sleep(Duration::from_millis(50));
        switch.start_again();
        assert_eq!(switch.api.status()["adopted"], true);
        eventually("all is as it was", || what_stays(&switch, &address) == before);
        eventually("counters go on", || number(&receiver(&switch, &address, "10.2.0.2"), "packets") > count);
        switch.api.verify();
    }
    let sent = stream.stop();
    for tap in taps {
        let outcome = arrived(tap, sent);
        assert!(outcome.is_perfect(), "{executor}: {outcome:?}");
    }
    assert_eq!(gone.stop().expect("a tap").frames, []);
    let counted = |view: &Value| number(view, "packets") == sent;
    eventually("all are counted", || {
        let group = group(&switch, &address);
        counted(&group) && group["receivers"].as_array().is_some_and(|receivers| receivers.iter().all(counted))
    });
}

fn killed_it_resumes_its_groups(executor: &str) {
    let (lab, mut switch) = Lab::with_switch(executor);
    let address = open_resolved(&switch, &json!(["10.2.0.2", at(mac_of(3), "pc")]));
    let before = what_stays(&switch, &address);
    let links = [lab.b.link(), lab.c.link()];
    let stream = Numbered::start(&lab, &address);
    for end in [Daemon::kill, Daemon::terminate] {
        end(&mut switch);
        switch.start_again();
        eventually("all is as it was", || what_stays(&switch, &address) == before);
        let taps = links.map(tap_numbered);
        taps.iter().for_each(|tap| drop(tap.wait_for(100, SOON).expect("copies")));
        switch.api.verify();
    }
    stream.stop();
}

/// Nothing of a group is left for the next one.
fn a_group_ends_with_its_lease(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&format!("{}[lease]\nmin = \"3s\"\n", settings(executor)));
    let address = open_resolved(&switch, &json!([at(mac_of(2), "pb"), "10.3.0.2"]));
    let request = json!({ "port": "pa", "client": "short", "lifetime": 5, "receivers": [at(mac_of(2), "pb")] });
    let short = switch.api.call(Method::POST, "/v1/groups", Some(request)).expect("a group");
    let injector = Injector::open(lab.a.link()).expect("root");
    for group in [&text(&short["address"]), &address] {
        injector.send(&udp(mac(group), mac_of(1), b"in time")).expect("sent");
    }
    eventually("both are copied", || switch.api.count("pa", "replicate") == 2);
    let closed = switch.api.call(Method::DELETE, &format!("/v1/groups/{address}"), None).expect("closed");
    assert_eq!(closed["address"], address);
    eventually("the other has ended", || switch.api.get("/v1/groups") == json!([]));
    // It leaves the table when its end is durable.
    eventually("the table is empty", || switch.api.get("/v1/table") == json!([]));
    let late = [lab.b.link(), lab.c.link()].map(|link| tap(link, b"late"));
    for group in [&text(&short["address"]), &address] {
        injector.send(&udp(mac(group), mac_of(1), b"late")).expect("sent");
    }
    eventually("late frames are counted", || switch.api.count("pa", "unknown-flow") == 2);
    late.into_iter().for_each(|tap| assert_eq!(tap.stop().expect("a tap").frames, []));
    let next = open(&switch, &json!([at(mac_of(2), "pb"), "10.3.0.2"]));
    assert_ne!(next["address"], json!(address));
    for receiver in next["receivers"].as_array().expect("receivers") {
        assert_eq!(number(receiver, "packets"), 0, "counted from the beginning: {receiver}");
    }
    switch.api.verify();
}

#[test]
fn who_asks_for_a_group_again_gets_the_same_with_the_receivers_named_now() {
    let (_lab, switch) = Lab::with_switch("tc");
    let first = open(&switch, &json!(["10.2.0.2", at(mac_of(3), "pc")]));
    let again = open(&switch, &json!([at(mac_of(3), "pc"), "10.3.0.2"]));
    assert_eq!((&first["address"], &first["group"]), (&again["address"], &again["group"]));
    let names: Vec<_> = again["receivers"].as_array().expect("receivers").iter().map(|r| &r["receiver"]).collect();
    assert_eq!(names, [&json!("10.3.0.2"), &json!(at(mac_of(3), "pc"))], "the one that stays keeps its place");
    let flow = switch.api.open_on("pa", "test");
    assert_ne!(json!(flow), first["address"], "a flow of the same client is another lease");
    let flows = switch.api.get("/v1/flows");
    let states: Vec<_> = flows.as_array().expect("flows").iter().map(|flow| &flow["state"]).collect();
    assert_eq!(states, [&json!("group"), &json!("pending")]);
    let renewal = json!({ "lifetime": 7200 });
    let path = format!("/v1/flows/{}/renew", text(&first["address"]));
    switch.api.call(Method::POST, &path, Some(renewal)).expect("a group is renewed like any flow");
    assert_eq!(group(&switch, &text(&first["address"]))["lifetime"], 7200);
}

#[test]
fn what_is_wrong_in_the_table_of_groups_is_found_and_repaired() {
    let (lab, switch) = Lab::with_switch("af-packet");
    let address = open_resolved(&switch, &json!([at(mac_of(2), "pb"), "10.3.0.2"]));
    let table = fs::read_dir(switch.path("run")).expect("a directory").flatten().map(|entry| entry.path());
    let table = table.into_iter().find(|path| path.join("groups").exists()).expect("tables").join("groups");
    let file = fs::File::options().write(true).open(table).expect("the table");
    file.write_all_at(&[0; 64 + 2 * 32], 0).expect("written");
    let found = switch.api.call(Method::POST, "/v1/table/verify", None).expect("an answer");
    assert_eq!((&found["ok"], found["differences"].as_array().map(Vec::len)), (&json!(false), Some(2)), "{found}");
    let repaired = switch.api.call(Method::POST, "/v1/table/verify?repair=true", None).expect("an answer");
    assert_eq!(repaired["ok"], true, "{repaired}");
    let taps = [lab.b.link(), lab.c.link()].map(|link| tap(link, b"repaired"));
    Injector::open(lab.a.link()).expect("root").send(&udp(mac(&address), mac_of(1), b"repaired")).expect("sent");
    taps.iter().for_each(|tap| drop(tap.wait_for(1, SOON).expect("a copy")));
}

#[test]
fn a_trace_shows_the_copies_and_counts_nothing() {
    let (_lab, switch) = Lab::with_switch("tc");
    let address = open_resolved(&switch, &json!(["10.2.0.2", at(mac_of(3), "pc")]));
    let frame = udp(mac(&address), mac_of(1), b"traced");
    let hex: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
    let request = json!({ "port": "pa", "frame": hex });
    let trace = switch.api.call(Method::POST, "/v1/trace", Some(request)).expect("a trace");
    assert_eq!(trace["verdict"], "replicate", "{trace}");
    let copies = trace["copies"].as_array().expect("copies");
    let ports: Vec<_> = copies.iter().map(|copy| &copy["egress"]).collect();
    assert_eq!(ports, [&json!("pc"), &json!("pb")], "the same subnet first");
    let sent = sent_on(&frame, mac_of(2), mac(&address), true);
    let hex: String = sent.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(copies[1]["sent"], hex);
    assert_eq!(number(&group(&switch, &address), "packets"), 0);
    assert_eq!(number(&receiver(&switch, &address, "10.2.0.2"), "packets"), 0);
}

#[test]
fn every_verb_of_the_command_line_works() {
    let (lab, switch) = Lab::with_switch("tc");
    let run = |arguments: &[&str]| {
        let mut command = lab.netns.command(PROGRAM);
        command.arg("--socket").arg(switch.path("run/switch.sock")).args(arguments);
        command.output().expect("the program runs")
    };
    let lines = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let by_mac = at(mac_of(3), "pc");
    let opened =
        lines(&["group", "open", "--port", "pa", "--receiver", "10.2.0.2", "--receiver", &by_mac, "--name", "film"]);
    let address = opened.trim();
    assert!(lines(&["group", "ls"]).contains("film"));
    let own = at(mac("02:00:00:00:00:99"), "pa");
    assert!(lines(&["group", "add", address, &own, "10.3.0.2"]).contains(&own));
    let shown = lines(&["group", "show", address]);
    for receiver in ["10.2.0.2", &by_mac, &own, "10.3.0.2"] {
        assert!(shown.lines().any(|line| line.starts_with(receiver)), "{receiver} in {shown}");
    }
    assert!(lines(&["table", "dump"]).contains(&mac_of(3).to_string()));
    assert!(!lines(&["group", "remove", address, &own, "10.3.0.2"]).contains(&own));
    let document: Value = serde_json::from_str(&lines(&["--json", "group", "show", address])).expect("JSON");
    assert_eq!(document["receivers"].as_array().map(Vec::len), Some(2));
    let twice = run(&["--json", "group", "add", address, "10.2.0.2"]);
    assert_eq!(twice.status.code(), Some(5), "{twice:?}");
    let loops = run(&["group", "add", address, &at(mac(address), "pb")]);
    assert_eq!(loops.status.code(), Some(2), "{loops:?}");
    lines(&["group", "close", address]);
    assert_eq!(run(&["group", "show", address]).status.code(), Some(5));
    assert_eq!(lines(&["--json", "group", "ls"]).trim(), "[]");
}
