//! TCP in bulk: super-packets stay whole, octets are counted as a wire would carry them, and a switch is as fast as a
//! bridge.

use crate::lab::{Lab, SOON, eventually, flow_from_a, ip, net, ping, use_flow};
use flowlane_lab::{Direction, Host, Offload, Tap, bridge, traffic};
use serde_json::{Value, json};
use std::process::{Child, Stdio};

/// How often each way is measured.
const REPEATS: usize = 3;
/// A busy machine measures other things as well; a switch that cuts super-packets has a quarter.
const ENOUGH: f64 = 0.8;

/// Waits for an `iperf3 -s` that listens.
struct Iperf(Child);

impl Iperf {
    fn serve(host: &Host) -> Self {
        let mut command = host.netns().command("iperf3");
        let server = command.args(["-s", "-p", "5201"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(server.expect("iperf3 is installed"))
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bits per second of one connection that sends for a second.
fn throughput(from: &Host, to: &str) -> f64 {
    let mut done = None;
    eventually("iperf3 answers", || {
        let output = from.netns().command("iperf3").args(["-J", "-c", to, "-p", "5201", "-t", "1"]).output();
        let report: Value = serde_json::from_slice(&output.expect("iperf3 is installed").stdout).expect("JSON");
        done = report["end"]["sum_received"]["bits_per_second"].as_f64();
        done.is_some()
    });
    done.expect("measured")
}

fn median(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    measured[measured.len() / 2]
}

#[test]
fn tcp_by_flows_is_as_fast_as_by_a_bridge() {
    let lab = Lab::new();
    // Host X and host Y, as they come: offloads on. Each has a second interface, and the bridge is between those.
    let hosts = [(7, "x"), (8, "y")].map(|(number, name)| {
        let own = net(&format!("10.5.{number}.2/24"));
        let host = Host::new(name, &lab.netns, &format!("p{name}"), None, &[own]).expect("a host");
        host.port().add_address(net(&format!("10.5.{number}.1/24"))).expect("an address");
        host.netns().add_default_route(ip(&format!("10.5.{number}.1"))).expect("a route");
        host
    });
    let br = bridge(&lab.netns, "br0").expect("a bridge");
    for (host, number) in hosts.iter().zip([7, 8]) {
        let second = flowlane_lab::End { netns: host.netns(), name: "eth1", mac: None };
        let port = format!("bridged{number}");
        let (own, other) = flowlane_lab::veth(second, flowlane_lab::End { netns: &lab.netns, name: &port, mac: None })
            .expect("a pair");
        own.add_address(net(&format!("10.6.0.{number}/24"))).expect("an address");
        own.up().expect("up");
        other.up().expect("up");
        other.attach(&br).expect("a port of the bridge");
    }
    let [x, y] = &hosts;
    let switch =
        lab.switch_with("slots = 64\nexecutor = \"tc\"\n[[port]]\ninterface = \"px\"\n[[port]]\ninterface = \"py\"\n");
    for (host, port, router) in [(x, "px", "10.5.7.1"), (y, "py", "10.5.8.1")] {
        use_flow(host, router, &switch.api.open_on(port, port));
    }
    ping(x, "10.5.8.2", 1);
    ping(x, "10.6.0.8", 1);

    let _server = Iperf::serve(y);
    let (mut by_flows, mut by_bridge) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        by_flows.push(throughput(x, "10.5.8.2"));
        by_bridge.push(throughput(x, "10.6.0.8"));
    }
    let (by_flows, by_bridge) = (median(by_flows), median(by_bridge));
    let ratio = by_flows / by_bridge;
    println!(
        "TCP, medians of {REPEATS}: {:.2} Gbit/s by flows, {:.2} Gbit/s by a bridge, ratio {ratio:.2}",
        by_flows / 1e9,
        by_bridge / 1e9
    );
    assert!(ratio >= ENOUGH, "{ratio}");
}

#[test]
fn super_packets_stay_whole_and_are_counted_as_a_wire_would_carry_them() {
    for executor in ["tc", "af-packet"] {
        let (lab, switch) = Lab::with_switch(executor);
        for host in [&lab.a, &lab.b] {
            host.link().set_offload(Offload::TxChecksum, true).expect("veth knows it");
            host.link().set_offload(Offload::Tso, true).expect("veth knows it");
        }
        let there = flow_from_a(&lab, &switch, "10.1.0.1");
        let back = switch.api.open(json!({ "port": "pb", "client": "back" }));
        use_flow(&lab.b, "10.2.0.1", &back);
        ping(&lab.a, "10.2.0.2", 1);
        let before = switch.api.flow(&there);
        let seen =
            Tap::start(lab.b.link(), |frame| frame.direction == Direction::In && frame.bytes.get(23) == Some(&6))
                .expect("a tap");

        let to = "10.2.0.2:0".parse().expect("an address");
        let done = traffic::tcp_transfer(lab.a.netns(), lab.b.netns(), to, 8 << 20, SOON * 2).expect("whole");
        assert_eq!(done.bytes, 8 << 20);

        // The connection's last acknowledgements are still under way.
        let packets = || switch.api.flow(&there)["packets"].clone();
        eventually("the flow is quiet", || {
            let then = packets();
            std::thread::sleep(std::time::Duration::from_millis(200));
            packets() == then
        });
        let seen = seen.stop().expect("a tap");
        assert_eq!(seen.lost, 0);
        let longest = seen.frames.iter().map(|frame| frame.bytes.len()).max();
        assert!(longest > Some(1514), "{executor}: some super-packets stay whole: {longest:?}");
        let (frames, octets) =
            seen.frames.iter().map(|frame| on_the_wire(&frame.bytes)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let after = switch.api.flow(&there);
        let counted = |name: &str| after[name].as_u64().expect("a number") - before[name].as_u64().expect("a number");
        assert_eq!((counted("packets"), counted("bytes")), (frames, octets), "{executor}");
        assert!(switch.api.flow(&back)["packets"].as_u64() > Some(0), "answers go by the other flow");
    }
}

/// How many frames, of how many octets, a TCP super-packet becomes on a wire whose MTU is 1500.
fn on_the_wire(frame: &[u8]) -> (u64, u64) {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).expect("whole");
    let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
    let payload = tcp.payload().len();
    let headers = frame.len() - payload;
    // The segment size is the MTU's, less the headers of IP and TCP.
    let segments = payload.div_ceil(1514 - headers).max(1);
    (segments as u64, (payload + segments * headers) as u64)
}

#[test]
fn a_metered_flow_has_its_rate_and_no_more() {
    const RATE: u64 = 10_000_000;
    for executor in ["tc", "af-packet"] {
        let (lab, switch) = Lab::with_switch(executor);
        let flow =
            switch.api.open(json!({ "port": "pa", "client": "metered", "rate": RATE, "destination": "10.2.0.2" }));
        use_flow(&lab.a, "10.1.0.1", &flow);
        eventually("it is resolved", || switch.api.flow(&flow)["state"] == "resolved");
        let bytes = || switch.api.flow(&flow)["bytes"].as_u64().expect("a number");

        // A packet of the stream has 50 octets: 10,000 in a second are 4 Mbit/s, 50,000 are 20.
        let modest = crate::stream::Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 10_000);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(modest.stop().is_perfect(), "{executor}");
        assert_eq!(switch.api.count("pa", "over-rate"), 0);

        let greedy = crate::stream::Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 50_000);
        std::thread::sleep(std::time::Duration::from_millis(300)); // The bucket is empty by now.
        let (from, start) = (bytes(), std::time::Instant::now());
        std::thread::sleep(std::time::Duration::from_secs(2));
        let rate = (bytes() - from) as f64 * 8.0 / start.elapsed().as_secs_f64();
        let outcome = greedy.stop();
        println!("{executor}: a meter of 10 Mbit/s passes {:.2} Mbit/s", rate / 1e6);
        assert!((rate / RATE as f64 - 1.0).abs() < 0.1, "{rate}");
        assert_eq!(switch.api.count("pa", "over-rate"), outcome.lost, "every frame that is lost is counted");
        assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0));
    }
}
