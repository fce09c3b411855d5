//! Bridges learn where flow addresses are, and do not flood.

use crate::{
    api::text,
    chains::Row,
    daemon::{Daemon, PROGRAM},
    lab::{Lab, SOON, eventually, mac, mac_of, settings},
    packet::{tap, udp},
};
use flowlane_lab::{Direction, Frame, Injector, Link, Tap};
use serde_json::{Value, json};
use std::{thread, time::Duration};

const RARP: [u8; 2] = [0x80, 0x35];

fn announced(link: &Link) -> Tap {
    let wanted = |frame: &Frame| frame.direction == Direction::In && frame.bytes.get(12..14) == Some(&RARP);
    Tap::start(link, wanted).expect("a tap")
}

/// The flow addresses that frames are from.
fn sources(frames: &[Frame]) -> Vec<String> {
    frames
        .iter()
        .map(|frame| flowlane_lab::Mac(*frame.bytes[6..].first_chunk().expect("a source")).to_string())
        .collect()
}

#[test]
fn an_address_is_announced_at_its_port_when_it_is_granted() {
    let (lab, switch) = Lab::with_switch("tc");
    let (at_a, at_b) = (announced(lab.a.link()), announced(lab.b.link()));
    let flow = switch.api.open(json!({ "port": "pa", "client": "test" }));
    let frames = at_a.wait_for(1, SOON).expect("announced");
    let own = mac(&flow).0;
    let rarp = [&[0, 1, 8, 0, 6, 4, 0, 3], &own[..], &[0; 4], &own, &[0; 4]].concat();
    let mut expected = [&[0xff; 6][..], &own, &RARP, &rarp].concat();
    expected.resize(60, 0);
    assert_eq!(frames[0].bytes, expected);

    let renewed = switch.api.open(json!({ "port": "pa", "client": "test" }));
    assert_eq!(renewed, flow, "the same lease");
    switch.api.open(json!({ "port": "pa", "client": "other", "field": "source" }));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(sources(&at_a.stop().expect("a tap").frames), [flow], "once, and not where hosts send from the address");
    assert_eq!(at_b.stop().expect("a tap").frames, [], "nowhere else");
}

#[test]
fn an_address_is_announced_before_the_host_hears_of_it() {
    let (lab, switch) = Lab::with_switch("tc");
    let is_reply = |frame: &Frame| frame.bytes.get(54..58) == Some(&[2, 35, 2, 34]) && frame.bytes.get(62) == Some(&7);
    let wanted = move |frame: &Frame| {
        frame.direction == Direction::In && (frame.bytes.get(12..14) == Some(&RARP) || is_reply(frame))
    };
    let seen = Tap::start(lab.a.link(), wanted).expect("a tap");
    let mut command = lab.a.netns().command(PROGRAM);
    command.arg("--json").arg("--runtime-directory").arg(switch.path("host"));
    let output = command.args(["flow", "open", "-i", "eth0", "--count", "3"]).output().expect("the program runs");
    let lease: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let granted: Vec<String> = lease["addresses"].as_array().expect("addresses").iter().map(text).collect();
    let frames = seen.wait_for(4, SOON).expect("three announcements and a Reply");
    assert_eq!(sources(&frames[..3]), granted);
    assert_eq!(frames[3].bytes[12..14], [0x86, 0xdd], "and then the Reply");
}

#[test]
fn a_new_round_begins_with_the_switch_and_leaves_out_what_was_given_back() {
    let (lab, mut switch) = Lab::with_switch("tc");
    let flows: Vec<String> = (0..30).map(|n| switch.api.open_on("pa", &format!("client {n}"))).collect();
    switch.api.close(&flows[3]);
    switch.kill();
    let seen = announced(lab.a.link());
    switch.start_again();
    seen.wait_for(29, SOON).expect("all are announced");
    thread::sleep(Duration::from_millis(200));
    let mut left = flows;
    left.remove(3);
    let mut announced = sources(&seen.stop().expect("a tap").frames);
    announced.sort();
    left.sort();
    assert_eq!(announced, left);
}

#[test]
fn a_port_may_be_silent() {
    let lab = Lab::new();
    let switch = lab.switch_with(&settings("tc").replace("interface = \"pa\"", "interface = \"pa\"\nannounce = false"));
    let seen = announced(lab.a.link());
    switch.api.open_on("pa", "test");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(seen.stop().expect("a tap").frames, []);
}

/// A chained flow over a learning bridge; whether a bystander at the bridge sees its frames.
fn is_flooded(announce: bool) -> bool {
    let row = Row::new(2);
    let silent = if announce { "" } else { "announce = false\n" };
    let settings = |number| {
        row.node(number).settings("tc").replace("interface = \"lan1\"\n", &format!("interface = \"lan1\"\n{silent}"))
    };
    let switches = [1, 2].map(|number| Daemon::start(&row.node(number).netns, &settings(number)));
    let bystander = row.lans[0].bystander();
    let flow = switches[0].api.open(json!({ "port": "pa", "client": "test", "destination": "10.2.0.2" }));
    eventually("it goes on at the next switch", || switches[0].api.flow(&flow)["via"].is_string());
    eventually("and knows the host", || switches[1].api.get("/v1/flows")[0]["state"] == "resolved");
    let (seen, arrived) = (tap(bystander.link(), b"quiet"), tap(row.node(2).host.link(), b"quiet"));
    let injector = Injector::open(row.node(1).host.link()).expect("root");
    for _ in 0..10 {
        injector.send(&udp(mac(&flow), mac_of(1), b"quiet")).expect("sent");
    }
    arrived.wait_for(10, SOON).expect("all arrive");
    !seen.stop().expect("a tap").frames.is_empty()
}

#[test]
fn a_third_host_at_a_bridge_sees_nothing_of_a_chained_flow() {
    assert!(!is_flooded(true));
    assert!(is_flooded(false), "without announcements the bridge floods: it is what this test would see");
}
