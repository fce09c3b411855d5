//! TCP in bulk: super-packets stay whole, and octets are counted as a wire would carry them. How fast that is: `flowlane bench`.

use crate::lab::{Lab, SOON, eventually, flow_from_a, ip, ping, use_flow};
use flowlane_lab::{Capture, Direction, Link, Offload, Tap, traffic};
use serde_json::json;

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
        let sent = tap_tcp(lab.a.link(), Direction::Out);
        let seen = tap_tcp(lab.b.link(), Direction::In);

        let to = "10.2.0.2:0".parse().expect("an address");
        let done = traffic::tcp_transfer(lab.a.netns(), lab.b.netns(), to, 8 << 20, SOON * 2).expect("whole");
        assert_eq!(done.bytes, 8 << 20);

        // The connection's last acknowledgements are still under way.
        eventually("all has arrived", || {
            let then = sent.frames().len();
            std::thread::sleep(std::time::Duration::from_millis(200));
            [&sent, &seen].iter().all(|tap| tap.frames().len() == then)
        });
        let (sent, seen) = (sent.stop().expect("a tap"), seen.stop().expect("a tap"));
        assert_eq!((sent.lost, seen.lost), (0, 0));
        let [left, arrived] = [&sent, &seen].map(lengths);
        assert!(left.iter().any(|len| *len > 1514), "{executor}: the host makes super-packets");
        assert_eq!(left, arrived, "{executor}: each stays whole");
        let (frames, octets) =
            seen.frames.iter().map(|frame| on_the_wire(&frame.bytes)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let after = switch.api.flow(&there);
        let counted = |name: &str| after[name].as_u64().expect("a number") - before[name].as_u64().expect("a number");
        assert_eq!((counted("packets"), counted("bytes")), (frames, octets), "{executor}");
        assert!(switch.api.flow(&back)["packets"].as_u64() > Some(0), "answers go by the other flow");
    }
}

/// The TCP segments that pass an interface that way.
fn tap_tcp(link: &Link, direction: Direction) -> Tap {
    Tap::start(link, move |frame| frame.direction == direction && frame.bytes.get(23) == Some(&6)).expect("a tap")
}

fn lengths(capture: &Capture) -> Vec<usize> {
    let mut lengths: Vec<_> = capture.frames.iter().map(|frame| frame.bytes.len()).collect();
    lengths.sort_unstable();
    lengths
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
        let modest = crate::stream::Stream::start_evenly(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 10_000);
        std::thread::sleep(std::time::Duration::from_millis(500));
        let outcome = modest.stop();
        eventually("what is lost came too fast", || switch.api.count("pa", "ring-full") == outcome.lost);
        assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0));
        assert_eq!(switch.api.count("pa", "over-rate"), 0);

        let before = switch.api.count("pa", "ring-full");
        let greedy = crate::stream::Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 50_000);
        std::thread::sleep(std::time::Duration::from_millis(300)); // The bucket is empty by now.
        // More is never passed, and that much as soon as the machine lets so much be sent for two seconds on end.
        let of_rate = || {
            let (start, from) = (std::time::Instant::now(), bytes());
            std::thread::sleep(std::time::Duration::from_secs(2));
            let rate = (bytes() - from) as f64 * 8.0 / start.elapsed().as_secs_f64();
            println!("{executor}: a meter of 10 Mbit/s passes {:.2} Mbit/s", rate / 1e6);
            assert!(rate < RATE as f64 * 1.1, "{rate}");
            rate / RATE as f64
        };
        assert!((0..5).any(|_| of_rate() > 0.9), "less than the meter's rate passes");
        let outcome = greedy.stop();
        let counted = || switch.api.count("pa", "over-rate") + switch.api.count("pa", "ring-full") - before;
        eventually("every frame that is lost is counted", || counted() == outcome.lost);
        assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0));
    }
}
