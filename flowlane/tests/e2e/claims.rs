//! What the claims say about frames, on real wires: fields, ports, tags, subnets, the end of a lease.

use crate::{
    lab::{Lab, SOON, eventually, flow_from_a, ip, known_flow_from_a_to_b, mac, mac_of, net, ping, settings, use_flow},
    on,
    packet::{sent_on, tagged, tap, udp, udp6},
};
use flowlane_lab::{Injector, Mac, Offload, bridge, traffic};
use serde_json::json;
use std::{thread, time::Duration};

on! {
    the_flow_address_may_be_destination_or_source on tc, af_packet, af_xdp, xdp;
    frames_of_another_port_or_of_a_released_flow_are_rejected on tc, af_packet, af_xdp, xdp;
    routed_hops_count_and_linux_answers_where_the_count_ends on tc, af_packet, af_xdp, xdp;
    on_a_bridge_nothing_but_the_addresses_changes on tc, af_packet, af_xdp;
    tags_stay_as_they_are on tc, af_packet, af_xdp, xdp;
    the_port_may_lend_its_own_address on tc, af_packet, af_xdp, xdp;
}

/// Claims 2, 3, 7 to 11 and 17.
fn the_flow_address_may_be_destination_or_source(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    ping(&lab.b, "10.2.0.1", 1);
    let flow = mac(&switch.api.open_on("pa", "test"));
    let router = lab.a.port().mac().expect("a port");
    let injector = Injector::open(lab.a.link()).expect("root");

    let arrived = tap(lab.b.link(), b"to the flow");
    let frame = udp(flow, mac_of(1), b"to the flow");
    injector.send(&frame).expect("sent");
    let frames = arrived.wait_for(1, SOON).expect("it arrives");
    assert_eq!(frames[0].bytes, sent_on(&frame, mac_of(2), flow, true));

    let arrived = tap(lab.b.link(), b"from the flow");
    let frame = udp(router, flow, b"from the flow");
    injector.send(&frame).expect("sent");
    let frames = arrived.wait_for(1, SOON).expect("it arrives");
    assert_eq!(
        frames[0].bytes,
        sent_on(&frame, mac_of(2), flow, true),
        "claim 17: the first host address is the flow's"
    );

    thread::sleep(Duration::from_millis(50));
    assert_eq!(arrived.stop().expect("a tap").frames.len(), 1, "Linux did not route it a second time");
}

/// Claim 19, and late frames.
fn frames_of_another_port_or_of_a_released_flow_are_rejected(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    ping(&lab.a, "10.2.0.2", 1);
    let arrived = tap(lab.b.link(), b"rejected");

    let intruder = Injector::open(lab.c.link()).expect("root");
    for frame in [udp(mac(&flow), mac_of(3), b"rejected"), udp(mac_of(9), mac(&flow), b"rejected")] {
        intruder.send(&frame).expect("sent");
    }
    eventually("both are counted", || switch.api.count("pc", "wrong-port") == 2);

    let own = Injector::open(lab.a.link()).expect("root");
    own.send(&udp(Mac::from_u64(mac(&flow).to_u64() + 1), mac_of(1), b"rejected")).expect("sent");
    eventually("a guessed address is counted", || switch.api.count("pa", "unknown-flow") == 1);

    switch.api.close(&flow);
    own.send(&udp(mac(&flow), mac_of(1), b"rejected")).expect("sent");
    eventually("a late frame is counted", || switch.api.count("pa", "unknown-flow") == 2);
    assert_eq!(arrived.stop().expect("a tap").frames, []);
}

fn routed_hops_count_and_linux_answers_where_the_count_ends(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    for (router, to) in [("10.1.0.1", "10.2.0.2"), ("fd01::1", "fd02::2")] {
        let flow = flow_from_a(&lab, &switch, router);
        ping(&lab.a, to, 1);
        let injector = Injector::open(lab.a.link()).expect("root");
        let arrived = tap(lab.b.link(), b"one less");
        let frame = if to.contains(':') { udp6 } else { udp }(mac(&flow), mac_of(1), b"one less");
        injector.send(&frame).expect("sent");
        let frames = arrived.wait_for(1, SOON).expect("it arrives");
        assert_eq!(frames[0].bytes, sent_on(&frame, mac_of(2), mac(&flow), true));

        let report = traffic::ping(lab.a.netns(), ip(to), 1, Some(1), SOON).expect("sent");
        assert_eq!(report.time_exceeded_from.len(), 1, "{report:?}");
        assert!(
            lab.a.port().addresses().expect("addresses").iter().any(|net| net.addr() == report.time_exceeded_from[0])
        );
    }
    eventually("both are counted", || switch.api.count("pa", "ttl-expired") == 2);
}

fn on_a_bridge_nothing_but_the_addresses_changes(executor: &str) {
    let lab = Lab::new();
    let br = bridge(&lab.netns, "br0").expect("a bridge");
    let [x, y] = [(7, "x"), (8, "y")].map(|(number, name)| {
        let own = net(&format!("10.5.0.{number}/24"));
        let host = flowlane_lab::Host::new(name, &lab.netns, &format!("p{name}"), Some(mac_of(number)), &[own])
            .expect("a host");
        host.port().attach(&br).expect("a port of the bridge");
        host
    });
    br.add_address(net("10.5.0.1/24")).expect("an address");
    let ports = "[[port]]\ninterface = \"px\"\n[[port]]\ninterface = \"py\"\n";
    let switch = lab.switch_with(&format!("slots = 64\nexecutor = \"{executor}\"\n{ports}"));
    ping(&x, "10.5.0.8", 1);

    let flow = switch.api.open(json!({ "port": "px", "client": "test", "destination": "10.5.0.8" }));
    eventually("it is resolved", || switch.api.flow(&flow)["state"] == "resolved");
    let known = switch.api.flow(&flow);
    assert_eq!((known["egress"].as_str(), known["routed"].as_bool()), (Some("py"), Some(false)));
    let arrived = tap(y.link(), b"as it was");
    let frame = udp(mac(&flow), mac_of(7), b"as it was");
    Injector::open(x.link()).expect("root").send(&frame).expect("sent");
    let frames = arrived.wait_for(1, SOON).expect("it arrives");
    assert_eq!(frames[0].bytes, sent_on(&frame, mac_of(8), mac(&flow), false));

    use_flow(&x, "10.5.0.8", &flow);
    ping(&x, "10.5.0.8", 3);
    assert_eq!(arrived.stop().expect("a tap").frames.len(), 1, "the bridge did not send a second one");
}

fn tags_stay_as_they_are(executor: &str) {
    let lab = Lab::new();
    let route = format!("[[route]]\nto = \"10.2.0.0/24\"\nport = \"pb\"\nnext = \"{}\"\n", mac_of(2));
    let switch = lab.switch_with(&format!("{}{route}", settings(executor)));
    let flow = mac(&switch.api.open(json!({ "port": "pa", "client": "test", "destination": "10.2.0.2" })));
    eventually("it is resolved", || switch.api.flow(&flow.to_string())["state"] == "resolved");
    let injector = Injector::open(lab.a.link()).expect("root");
    for vlan in [1, 100, 4094] {
        let arrived = tap(lab.b.link(), b"tagged");
        let frame = tagged(flow, mac_of(1), vlan, b"tagged");
        injector.send(&frame).expect("sent");
        let frames = arrived.wait_for(1, SOON).expect("it arrives");
        assert_eq!(frames[0].bytes, sent_on(&frame, mac_of(2), flow, false), "VLAN {vlan}");
    }
}

/// `source = "port"`: where a learning bridge is on both sides.
fn the_port_may_lend_its_own_address(executor: &str) {
    let lab = Lab::new();
    let own = settings(executor).replace("interface = \"pb\"", "interface = \"pb\"\nsource = \"port\"");
    let switch = lab.switch_with(&own);
    ping(&lab.b, "10.2.0.1", 1);
    let flow = mac(&switch.api.open_on("pa", "test"));
    let arrived = tap(lab.b.link(), b"lent");
    let frame = udp(flow, mac_of(1), b"lent");
    Injector::open(lab.a.link()).expect("root").send(&frame).expect("sent");
    let frames = arrived.wait_for(1, SOON).expect("it arrives");
    assert_eq!(frames[0].bytes, sent_on(&frame, mac_of(2), lab.b.port().mac().expect("a port"), true));
}

#[test]
fn a_flow_ends_with_its_lease_and_lives_on_when_it_is_renewed() {
    let lab = Lab::new();
    let switch = lab.switch_with(&format!("{}[lease]\nmin = \"6s\"\ndefault = \"6s\"\n", settings("tc")));
    let ends = flow_from_a(&lab, &switch, "10.1.0.1");
    let renewed = flow_from_a(&lab, &switch, "fd01::1");
    let renewal =
        switch.api.call(hyper::Method::POST, &format!("/v1/flows/{renewed}/renew"), Some(json!({ "lifetime": 60 })));
    assert_eq!(renewal.expect("renewed")["lifetime"], 60);
    ping(&lab.a, "10.2.0.2", 1);
    ping(&lab.a, "fd02::2", 1);

    eventually("the other has ended", || switch.api.get("/v1/table").as_array().map(Vec::len) == Some(1));
    assert_eq!(switch.api.status()["leased"], 1);
    let late = traffic::ping(lab.a.netns(), ip("10.2.0.2"), 1, None, Duration::from_millis(300)).expect("sent");
    assert_eq!(late.received, 0);
    assert_eq!(switch.api.count("pa", "unknown-flow") + switch.api.count("pa", "expired"), 1);
    assert!(switch.api.call(hyper::Method::GET, &format!("/v1/flows/{ends}"), None).is_err());
    ping(&lab.a, "fd02::2", 3);
    switch.api.verify();
}

/// The data path knows the end of a lease by itself: the switch may be dead.
#[test]
fn a_flow_ends_with_its_lease_while_the_switch_is_dead() {
    let lab = Lab::new();
    let mut switch = lab.switch_with(&format!("{}[lease]\nmin = \"6s\"\ndefault = \"6s\"\n", settings("tc")));
    known_flow_from_a_to_b(&lab, &switch);
    switch.kill();
    ping(&lab.a, "10.2.0.2", 1);
    thread::sleep(Duration::from_millis(7_500));
    let late = traffic::ping(lab.a.netns(), ip("10.2.0.2"), 2, None, Duration::from_millis(200)).expect("sent");
    assert_eq!(late.received, 0);
    switch.start_again();
    assert_eq!(switch.api.count("pa", "expired"), 2);
    assert_eq!(switch.api.status()["leased"], 0);
}

/// Super-packets: a frame that the sender did not cut into segments counts as what a wire would carry.
#[test]
fn a_host_without_offloads_switched_off_works_on_tc_and_af_packet() {
    for executor in ["tc", "af-packet"] {
        let (lab, switch) = Lab::with_switch(executor);
        for host in [&lab.a, &lab.b] {
            host.link().set_offload(Offload::TxChecksum, true).expect("veth knows it");
        }
        let flow = flow_from_a(&lab, &switch, "10.1.0.1");
        let done = traffic::tcp_transfer(
            lab.a.netns(),
            lab.b.netns(),
            "10.2.0.2:0".parse().expect("an address"),
            4 << 20,
            SOON,
        );
        assert_eq!(done.expect("whole").bytes, 4 << 20);
        assert!(switch.api.flow(&flow)["packets"].as_u64().expect("a number") >= (4 << 20) / 1448, "as on the wire");
    }
}
