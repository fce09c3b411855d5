//! First packets: the next host is found, frames wait for it in order, and what is found is followed (claims 13 to 16).

use crate::{
    api::text,
    lab::{Lab, eventually, flow_from_a, host, ip, mac_of, net, ping, settings, use_flow},
    on, packet,
    stream::Stream,
};
use flowlane_lab::{End, Injector, Mac, Netns, Via, veth};
use serde_json::json;
use std::time::Duration;

on! {
    a_burst_that_waits_for_arp_arrives_whole_and_in_order on tc, af_packet, af_xdp, xdp;
    a_burst_that_waits_for_neighbour_discovery_arrives_whole_and_in_order on tc, af_packet, af_xdp, xdp;
    a_new_route_and_a_new_neighbour_are_followed_under_traffic on tc, af_packet, af_xdp;
    a_host_that_is_away_is_counted_and_found_when_it_is_back on tc, af_packet, af_xdp;
    frames_that_say_no_destination_do_not_decide_it on tc, af_packet, af_xdp;
}

fn a_burst_that_waits_for_arp_arrives_whole_and_in_order(executor: &str) {
    a_burst_arrives(executor, "10.1.0.1", "10.2.0.2");
}

fn a_burst_that_waits_for_neighbour_discovery_arrives_whole_and_in_order(executor: &str) {
    a_burst_arrives(executor, "fd01::1", "fd02::2");
}

fn a_burst_arrives(executor: &str, router: &str, to: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let flow = flow_from_a(&lab, &switch, router);
    assert_eq!(switch.api.flow(&flow)["state"], "pending");

    let burst = Stream::burst(lab.a.netns(), lab.b.netns(), ip(to), 50);
    eventually("all arrive", || burst.arrived() >= 50);
    let outcome = burst.stop();
    assert!(outcome.is_perfect(), "{outcome:?}");

    let known = switch.api.flow(&flow);
    assert_eq!((text(&known["state"]), text(&known["destination"])), ("resolved".into(), to.into()));
    assert_eq!(known["packets"], 50);
    let waited = switch.api.count("pa", "resolve");
    assert!((1..=50).contains(&waited), "{waited} waited");
    eventually("those that waited are counted again when they are sent", || switch.api.count("pa", "forward") >= 50);
    assert_eq!(switch.api.count("pa", "forward"), 50);
}

fn a_new_route_and_a_new_neighbour_are_followed_under_traffic(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    // 10.9.0.1 is an address of both B and C; the route decides which of them is meant.
    for host in [&lab.b, &lab.c] {
        host.link().add_address(net("10.9.0.1/32")).expect("an address");
    }
    lab.netns.add_route(net("10.9.0.0/16"), Via::Gateway(ip("10.2.0.2"))).expect("a route");
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    let next = || switch.api.flow(&flow)["next"].clone();

    let to_b = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.9.0.1"), 2_000);
    eventually("B receives", || to_b.flows());
    assert_eq!(next(), mac_of(2).to_string());

    let other = Mac([2, 0, 0, 0, 9, 9]);
    lab.b.link().set_mac(other).expect("another address");
    lab.a.port().netns().link("pb").expect("a port").set_neighbour(ip("10.2.0.2"), other).expect("a neighbour");
    eventually("the new address is followed", || next() == other.to_string());
    eventually("B receives", || to_b.flows());
    let outcome = to_b.stop();
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");

    let to_c = Stream::start(lab.a.netns(), lab.c.netns(), ip("10.9.0.1"), 2_000);
    lab.netns.add_route(net("10.9.0.0/24"), Via::Gateway(ip("10.3.0.2"))).expect("a route");
    eventually("C receives", || to_c.flows());
    assert_eq!(next(), mac_of(3).to_string());
    let outcome = to_c.stop();
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");
    switch.api.verify();
}

fn a_host_that_is_away_is_counted_and_found_when_it_is_back(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    lab.b.link().down().expect("down");
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 500);
    eventually("frames without a next host are counted", || switch.api.count("pa", "no-route") > 0);
    let away = switch.api.flow(&flow);
    assert_eq!(away["state"], "unreachable");
    assert!(away["reason"].is_string(), "{away}");

    lab.b.link().up().expect("up");
    eventually("B receives", || stream.flows());
    assert_eq!(switch.api.flow(&flow)["state"], "resolved");
    let outcome = stream.stop();
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");
}

fn frames_that_say_no_destination_do_not_decide_it(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    let injector = Injector::open(lab.a.link()).expect("root");
    let mut frame = packet::udp(crate::lab::mac(&flow), mac_of(1), b"no IP");
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for _ in 0..3 {
        injector.send(&frame).expect("sent");
    }
    eventually("they are counted", || switch.api.count("pa", "no-route") == 3);
    assert_eq!(switch.api.flow(&flow)["state"], "pending");

    let burst = Stream::burst(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 20);
    eventually("all arrive", || burst.arrived() >= 20);
    assert!(burst.stop().is_perfect());
}

#[test]
fn a_static_route_needs_nothing_of_linux() {
    let lab = Lab::new();
    lab.netns.sysctl("net/ipv4/ip_forward", "0").expect("no router");
    let route = format!("[[route]]\nto = \"192.0.2.0/24\"\nport = \"pb\"\nnext = \"{}\"\n", mac_of(2));
    let switch = lab.switch_with(&format!("{}{route}", settings("tc")));
    lab.b.link().add_address(net("192.0.2.1/32")).expect("an address");
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");

    let burst = Stream::burst(lab.a.netns(), lab.b.netns(), ip("192.0.2.1"), 20);
    eventually("all arrive", || burst.arrived() >= 20);
    assert!(burst.stop().is_perfect());
    let known = switch.api.flow(&flow);
    assert_eq!((known["next"].as_str(), known["routed"].as_bool()), (Some(&*mac_of(2).to_string()), Some(false)));
}

#[test]
fn a_next_host_behind_no_port_is_named_as_the_reason() {
    let lab = Lab::new();
    let elsewhere = Netns::new("elsewhere").expect("root");
    let own = End { netns: &elsewhere, name: "eth0", mac: None };
    let (far, near) = veth(own, End { netns: &lab.netns, name: "other", mac: None }).expect("a pair");
    far.add_address(net("10.7.0.2/24")).expect("an address");
    near.add_address(net("10.7.0.1/24")).expect("an address");
    far.connect(&near).expect("up");
    let switch = lab.switch("tc");

    let flow = switch.api.open(json!({ "port": "pa", "client": "test", "destination": "10.7.0.2" }));
    eventually("it is unreachable", || switch.api.flow(&flow)["state"] == "unreachable");
    let reason = text(&switch.api.flow(&flow)["reason"]);
    assert!(reason.contains("other") && reason.contains("no port"), "{reason}");
}

#[test]
fn a_flow_to_a_port_that_appears_later_is_found_then() {
    let lab = Lab::new();
    let switch = lab.switch_with(&format!("{}[[port]]\ninterface = \"pd\"\n", settings("tc")));
    assert_eq!(switch.api.port("pd")["executor"], json!(null));
    let problems = switch.api.status()["problems"].to_string();
    assert!(problems.contains("pd"), "{problems}");
    let flow = switch.api.open(json!({ "port": "pa", "client": "test", "destination": "10.4.0.2" }));
    use_flow(&lab.a, "10.1.0.1", &flow);

    let d = host(&lab.netns, 4, "d");
    eventually("the port is attached", || switch.api.port("pd")["executor"] == "tc");
    eventually("the flow is resolved", || switch.api.flow(&flow)["state"] == "resolved");
    ping(&lab.a, "10.4.0.2", 1);
    eventually("it works the other way round", || {
        let back = switch.api.open_on("pd", "back");
        use_flow(&d, "10.4.0.1", &back);
        flowlane_lab::traffic::ping(d.netns(), ip("10.1.0.2"), 1, None, Duration::from_secs(1))
            .is_ok_and(|r| r.received == 1)
    });
}
