//! The filter that keeps frames of the block away from the Linux stack.

use crate::netns::{Netns, collect, ip, run};
use flowlane_ports::PortError;
use flowlane_ports::af_packet::{Offload, Ring, RingOptions, Sender};
use flowlane_ports::exclusive::{Exclusive, PRIORITY};
use flowlane_wire::{Block, Mac};
use std::process::Command;

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FLOW: [u8; 6] = [0xa2, 0xf1, 0x12, 0x30, 0, 7];
/// Differs from the block's addresses in the last bit of the prefix alone.
const BESIDE: [u8; 6] = [0xa2, 0xf1, 0x12, 0x20, 0, 7];

fn block() -> Block {
    Block::new(Mac([0xa2, 0xf1, 0x12, 0x30, 0, 0]), 28, 1024).expect("a good block")
}

fn frame(destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(60, 0xee);
    frame
}

/// A bridge with two ports; frames sent into the one come out of the other, if the bridge sees them.
struct Bridge {
    netns: Netns,
    port: u32,
    into: Sender,
    tap: Ring,
    out: Ring,
}

impl Bridge {
    fn new() -> Self {
        let (netns, hosts) = (Netns::new(), Netns::new());
        netns.enter(|| {
            // A snooping bridge sends reports of its own.
            ip("link add name br0 type bridge mcast_snooping 0");
            ip("link set dev br0 up");
        });
        for (port, host) in [("p1", "h1"), ("p2", "h2")] {
            netns.connect(port, &hosts, host, 1500);
            netns.enter(|| {
                ip(&format!("link set dev {port} master br0"));
                // What the bridge learns from one frame must not decide about the next.
                ip(&format!("link set dev {port} type bridge_slave learning off"));
            });
        }
        let port = netns.index("p1");
        let [h1, h2] = ["h1", "h2"].map(|name| hosts.index(name));
        let ring = |netns: &Netns, index| netns.enter(|| Ring::open(index, RingOptions::default())).expect("opened");
        Self {
            port,
            into: hosts.enter(|| Sender::open(h1)).expect("opened"),
            tap: ring(&netns, port),
            out: ring(&hosts, h2),
            netns,
        }
    }

    /// Sends frames into the port. Those that a packet socket at the port saw, and those that the bridge passed on.
    fn pass(&mut self, frames: &[Vec<u8>]) -> [Vec<Vec<u8>>; 2] {
        for frame in frames {
            assert_eq!(self.into.send_one(frame, Offload::default()).expect("up").sent, 1);
        }
        [collect(&mut self.tap, frames.len()), collect(&mut self.out, frames.len())]
    }
}

#[test]
fn frames_of_the_block_reach_only_packet_sockets() {
    let mut bridge = Bridge::new();
    let [to, from] = [frame(FLOW, HOST), frame(OTHER, FLOW)];
    let tagged = [&to[..12], &[0x81, 0, 0, 7], &to[12..]].concat();
    let others = vec![frame(OTHER, HOST), frame(BESIDE, HOST), frame(OTHER, BESIDE)];
    let all = [&[to, from, tagged][..], &others].concat();
    assert_eq!(bridge.pass(&all), [all.clone(), all.clone()]);

    let exclusive = bridge.netns.enter(|| Exclusive::install(bridge.port, &block())).expect("installed");
    assert_eq!(bridge.pass(&all), [all.clone(), others]);

    drop(exclusive);
    assert_eq!(bridge.pass(&all), [all.clone(), all]);
}

#[test]
fn a_filter_left_by_an_earlier_run_is_replaced() {
    let bridge = Bridge::new();
    let show = || bridge.netns.enter(|| run("tc", "filter show dev p1 ingress"));
    let install = || bridge.netns.enter(|| Exclusive::install(bridge.port, &block())).expect("installed");
    std::mem::forget(install());
    let left = show();
    assert!(left.contains(&format!("pref {PRIORITY} bpf")) && left.contains("direct-action"), "{left}");
    let again = install();
    assert_eq!(show().matches("direct-action").count(), 1);
    drop(again);
    assert_eq!(show(), "");
}

#[test]
fn a_filter_left_by_an_earlier_run_can_be_removed() {
    let bridge = Bridge::new();
    bridge.netns.enter(|| Exclusive::remove(bridge.port)).expect("nothing to remove");
    std::mem::forget(bridge.netns.enter(|| Exclusive::install(bridge.port, &block())).expect("installed"));
    bridge.netns.enter(|| Exclusive::remove(bridge.port)).expect("removed");
    assert_eq!(bridge.netns.enter(|| run("tc", "filter show dev p1 ingress")), "");
    bridge.netns.enter(|| Exclusive::remove(bridge.port)).expect("nothing to remove");
}

#[test]
fn filters_of_others_stay() {
    let bridge = Bridge::new();
    bridge.netns.enter(|| {
        run("tc", "qdisc add dev p1 clsact");
        run("tc", "filter add dev p1 ingress prio 5 protocol all u32 match u32 0 0 flowid 1:1");
    });
    drop(bridge.netns.enter(|| Exclusive::install(bridge.port, &block())).expect("installed"));
    let left = bridge.netns.enter(|| run("tc", "filter show dev p1 ingress"));
    assert!(left.contains("pref 5 u32") && !left.contains("bpf"), "{left}");
}

#[test]
fn a_missing_interface_is_named() {
    let netns = Netns::new();
    let missing = netns.enter(|| Exclusive::install(4711, &block()).map(drop));
    assert!(matches!(missing, Err(PortError::NoSuchInterface(4711))), "{missing:?}");
}

#[test]
fn rings_senders_and_the_filter_work_in_a_user_namespace() {
    let this = std::env::current_exe().expect("this program");
    let test = "exclusive::frames_of_the_block_reach_only_packet_sockets";
    let output = Command::new("unshare").arg("-Ur").arg(this).args(["--exact", test]).output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
