//! What the network offers, refuses, or ends.

use super::{
    host::{FlowHost, Going, output, text, within},
    packets::{Packet, Watch, assert_in_flows},
    services::{HTTP, PAGE, Services},
    site::{CLEAN, Site},
};
use crate::{
    daemon::{Daemon, PROGRAM},
    lab::{Lab, as_a_wire, eventually, ip, mac_of, net, settings},
};
use flowlane_lab::{Direction, End, Host, Netns, bridge, veth};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    thread,
    time::{Duration, Instant},
};

const REQUEST: [&str; 4] = ["--", "curl", "-sSf", "http://10.2.0.2:8080/"];

#[test]
fn where_no_switch_is_a_program_runs_as_usual_and_at_once() {
    let lab = Lab::new();
    let services = Services::new(&lab.b).nginx();
    let mut host = FlowHost::without_daemon(&lab.a);
    host.start_daemon();
    host.wait_for_service(false);
    let watch = Watch::start(lab.a.port(), Direction::In);
    // A busy machine can be late once.
    assert!((0..3).any(|_| request_takes(&host) < Duration::from_secs(2)));
    assert!(watch.stop(|_| true).iter().all(Packet::is_plain));
    let refused = output(&mut host.run(&[&["--require"], &REQUEST[..]].concat()));
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    assert!(matches!(refused.status.code(), Some(5 | 6)), "{refused:?}");

    // A switch is switched on: what runs already gets flows.
    let going = Going::ping(&host, &[], "10.2.0.2");
    let watch = Watch::start(lab.a.port(), Direction::In);
    eventually("it is under way", || watch.packets().len() > 3);
    assert!(watch.stop(|_| true).iter().all(Packet::is_plain));
    let switch = lab.switch("tc");
    within(Duration::from_secs(60), "the switch is found, which is looked for ever more seldom", || {
        host.status().is_some_and(|status| status.interfaces.iter().any(|one| one.service == Some(true)))
    });
    assert_eq!(text(&output(&mut host.require(&REQUEST))), PAGE);
    host.open_flow("10.2.0.2");
    assert_eq!(going.lost().1, 0);
    within(CLEAN, "nothing is left", || switch.api.get("/v1/flows") == json!([]) && host.left_by_runs().is_empty());
    drop(services);
}

/// How long a request takes, with all that belongs to a run.
fn request_takes(host: &FlowHost) -> Duration {
    let start = Instant::now();
    assert_eq!(text(&output(&mut host.run(&REQUEST))), PAGE);
    println!("without a service: {} ms", start.elapsed().as_millis());
    start.elapsed()
}

/// The switch's own address, one that no route leads to, and a neighbour on the same segment.
#[test]
fn what_the_switch_can_not_serve_is_reached_as_ever() {
    let site = Site::new("tc", Services::nginx);
    let watch = site.watch("tc");
    for to in ["10.1.0.1", "10.3.0.1", "fd01::1"] {
        let going = Going::ping(&site.host, &[], to);
        let flow = site.host.flow_in("plain", to);
        assert!(flow.reason.is_some(), "it says why: {flow:?}");
        thread::sleep(Duration::from_millis(100));
        assert_eq!(going.lost().1, 0, "{to}");
    }
    assert!(watch.stop(|packet| packet.protocol != 17).iter().all(Packet::is_plain));
    let unreachable = output(&mut site.host.run(&["--", "ping", "-n", "-c", "1", "-W", "5", "192.0.2.1"]));
    assert_eq!(unreachable.status.code(), Some(1), "{unreachable:?}");
    assert!(String::from_utf8_lossy(&unreachable.stdout).contains("From 10.1.0.1"), "the router says so");
    assert_eq!(site.at_switch().len(), 0);
    site.is_clean();

    let refused = output(&mut site.host.require(&["--to", "10.1.0.1", "--", "echo", "run"]));
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    let lossy = ["--", "ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "10.1.0.1"];
    let cut = output(&mut site.host.require(&lossy));
    assert!(String::from_utf8_lossy(&cut.stdout).contains("3 packets transmitted, 0 received"), "{cut:?}");
    assert_eq!(text(&output(&mut site.host.require(&REQUEST))), PAGE);
    site.is_clean();
}

/// Two hosts behind a learning bridge at one port of the switch.
#[test]
fn hosts_behind_a_bridge_reach_each_other_plainly_and_others_by_flows() {
    let lab = Lab::new();
    let hub = Netns::new("hub").expect("root");
    let br = bridge(&hub, "br0").expect("a bridge");
    let uplink = End { netns: &hub, name: "up", mac: None };
    let (up, port) = veth(uplink, End { netns: &lab.netns, name: "ph", mac: None }).expect("a cable");
    up.attach(&br).expect("a port of the bridge");
    port.add_address(net("10.7.0.1/24")).expect("an address");
    up.connect(&port).expect("up");
    as_a_wire(&up);
    as_a_wire(&port);
    let behind = |number: u8| {
        let own = net(&format!("10.7.0.{number}/24"));
        let host = Host::new("h", &hub, &format!("to{number}"), Some(mac_of(number)), &[own]).expect("a host");
        host.port().attach(&br).expect("a port of the bridge");
        host.netns().add_default_route(ip("10.7.0.1")).expect("a route");
        as_a_wire(host.link());
        host
    };
    let (one, two) = (behind(71), behind(72));
    let switch = Daemon::start(&lab.netns, &format!("{}[[port]]\ninterface = \"ph\"\n", settings("tc")));
    let services = [Services::new(&lab.b).nginx(), Services::new(&two).nginx()];
    let host = FlowHost::start(&one);

    let pages = "read go; exec curl -sSf http://10.7.0.72:8080/ http://10.2.0.2:8080/";
    let mut going = Going::told(&mut host.run(&["--to", "10.2.0.2", "--", "sh", "-c", pages]));
    host.open_flow("10.2.0.2");
    let watch = Watch::start(one.port(), Direction::In);
    going.tell();
    assert_eq!(text(&going.wait()), PAGE.repeat(2));
    let packets = watch.stop(|packet| packet.to_port == HTTP);
    let (near, far): (Vec<_>, Vec<_>) = packets.iter().partition(|packet| packet.to == ip("10.7.0.72"));
    assert!(near.len() >= 3 && near.iter().all(|packet| packet.is_plain()), "{near:?}");
    assert!(far.len() >= 3, "{far:?}");
    assert_in_flows(far);
    within(CLEAN, "nothing is left", || switch.api.get("/v1/flows") == json!([]) && host.left_by_runs().is_empty());
    drop(services);
}

#[test]
fn an_operator_cuts_a_program_off_and_it_stays_so() {
    let mut site = Site::new("tc", Services::nginx);
    let going = Going::start(&mut site.host.run(&[
        "--",
        "sh",
        "-c",
        "ping -q -n -i 0.05 10.3.0.2 & ping -q -n -i 0.05 10.2.0.2",
    ]));
    let (flow, other) = (site.host.open_flow("10.2.0.2"), site.host.open_flow("10.3.0.2"));
    let address = flow.address.expect("an address").to_string();
    let mut close = site.lab.netns.command(PROGRAM);
    close.arg("--socket").arg(site.switch.path("run/switch.sock")).args(["flow", "close", &address]);
    text(&output(&mut close));
    let arrived = Watch::start(site.lab.b.link(), Direction::In);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(arrived.stop(|packet| packet.protocol == 1).len(), 0, "nothing arrives any more");

    // Neither the daemon's next question nor a successor opens it again.
    site.host.end(Signal::SIGKILL);
    site.host.start_daemon();
    site.host.wait_for_service(true);
    let arrived = Watch::start(site.lab.b.link(), Direction::In);
    let elsewhere = Watch::start(site.lab.c.link(), Direction::In);
    thread::sleep(Duration::from_secs(1));
    eventually("what it sends elsewhere goes on", || {
        elsewhere.packets().iter().filter(|packet| packet.protocol == 1).count() > 5
    });
    drop(elsewhere);
    assert_eq!(arrived.stop(|packet| packet.protocol == 1).len(), 0, "nor later");
    assert_eq!(site.host.open_flow("10.3.0.2").address, other.address);
    assert_eq!(text(&output(&mut site.host.run(&REQUEST))), PAGE, "other programs are not meant");
    drop(going);
    site.is_clean();
}

#[test]
fn a_user_closes_a_flow_at_his_own_host() {
    let site = Site::new("tc", |services| services);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let address = site.host.open_flow("10.2.0.2").address.expect("an address").to_string();
    let listed = text(&output(site.host.flowlane().args(["flow", "ls", "--host"])));
    assert!(listed.contains(&address) && listed.contains("ping["), "{listed}");
    text(&output(site.host.flowlane().args(["flow", "close", "--host", &address])));
    site.host.flow_in("cut", "10.2.0.2");
    eventually("the switch has heard of it", || site.at_switch().is_empty());
    let arrived = Watch::start(site.lab.b.link(), Direction::In);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(arrived.stop(|packet| packet.protocol == 1).len(), 0);
    drop(going);
    site.is_clean();
}

#[test]
fn the_network_meters_a_run_at_the_rate_asked_for() {
    /// What a switch lets pass at once at this rate, in octets.
    const BURST: f64 = 131_072.0;
    const RATE: u32 = 10_000_000;
    let site = Site::new("tc", Services::iperf3);
    let script = "read go; iperf3 -c 10.2.0.2 -u -b 40M -n 5M; read end || true";
    let command = ["--rate", "10M", "--to", "10.2.0.2", "--", "sh", "-ec", script];
    let mut going = Going::told(&mut site.host.run(&command));
    let flow = site.host.open_flow("10.2.0.2");
    let at_switch = || site.at_switch()[0].clone();
    assert_eq!((flow.rate, at_switch()["rate"].as_u64()), (Some(RATE.into()), Some(RATE.into())));
    let start = Instant::now();
    going.tell();
    within(Duration::from_secs(30), "it is too fast", || site.switch.api.count("pa", "over-rate") > 1_000);
    let passed = at_switch()["bytes"].as_f64().expect("a number");
    let allowed = f64::from(RATE) / 8.0 * start.elapsed().as_secs_f64() + BURST;
    println!("{passed} octets have passed, {allowed:.0} may");
    assert!(passed > BURST / 2.0 && passed <= allowed, "{passed} of {allowed}");
    text(&going.wait());
    site.is_clean();
}

#[test]
fn destinations_that_are_named_have_their_flows_before_the_program_runs() {
    let site = Site::new("tc", |services| services);
    let to = ["--to", "10.2.0.2", "--to", "fd02::2", "--to", "10.3.0.2", "--", "sleep", "60"];
    let going = Going::start(&mut site.host.run(&to));
    eventually("three flows", || site.at_switch().len() == 3);
    eventually("all are open", || site.host.flows().iter().filter(|flow| flow.state == "open").count() == 3);
    let flows = site.host.flows();
    assert!(flows.iter().all(|flow| flow.packets == 0), "{flows:?}");
    going.end(Signal::SIGTERM);
    site.is_clean();
}
