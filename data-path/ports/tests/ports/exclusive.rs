//! The filter that keeps frames of the block away from the Linux stack.

use crate::netns::{Netns, collect, collect_all, ip, run};
use flowlane_ports::PortError;
use flowlane_ports::af_packet::{Offload, Ring, RingOptions, Sender};
use flowlane_ports::exclusive::{Exclusive, PRIORITY};
use flowlane_wire::{Block, Flag, Mac};
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

    /// Sends frames into the port, of which the bridge has to pass on so many. Those that a packet socket at the port saw, and
    /// those that the bridge passed on.
    fn pass(&mut self, frames: &[Vec<u8>], on: usize) -> [Vec<Vec<u8>>; 2] {
        for frame in frames {
            assert_eq!(self.into.send_one(frame, Offload::default()).expect("up").sent, 1);
        }
        [collect(&mut self.tap, frames.len()), collect_all(&mut self.out, on)]
    }
}

#[test]
fn frames_of_the_block_reach_only_packet_sockets() {
    let mut bridge = Bridge::new();
    let [to, from] = [frame(FLOW, HOST), frame(OTHER, FLOW)];
    let tagged = [&to[..12], &[0x81, 0, 0, 7], &to[12..]].concat();
    let others = vec![frame(OTHER, HOST), frame(BESIDE, HOST), frame(OTHER, BESIDE)];
    let all = [&[to, from, tagged][..], &others].concat();
    assert_eq!(bridge.pass(&all, all.len()), [all.clone(), all.clone()]);

    let exclusive = bridge.netns.enter(|| Exclusive::install(bridge.port, &block(), None)).expect("installed");
    assert_eq!(bridge.pass(&all, others.len()), [all.clone(), others]);

    drop(exclusive);
    assert_eq!(bridge.pass(&all, all.len()), [all.clone(), all]);
}

#[test]
fn a_filter_left_by_an_earlier_run_is_replaced() {
    let bridge = Bridge::new();
    let show = || bridge.netns.enter(|| run("tc", "filter show dev p1 ingress"));
    let install = || bridge.netns.enter(|| Exclusive::install(bridge.port, &block(), None)).expect("installed");
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
    std::mem::forget(bridge.netns.enter(|| Exclusive::install(bridge.port, &block(), None)).expect("installed"));
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
    drop(bridge.netns.enter(|| Exclusive::install(bridge.port, &block(), None)).expect("installed"));
    let left = bridge.netns.enter(|| run("tc", "filter show dev p1 ingress"));
    assert!(left.contains("pref 5 u32") && !left.contains("bpf"), "{left}");
}

#[test]
fn a_missing_interface_is_named() {
    let netns = Netns::new();
    let missing = netns.enter(|| Exclusive::install(4711, &block(), None).map(drop));
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

/// IPv4 and IPv6 packets of this DSCP, plain and behind tags.
fn packets(destination: [u8; 6], dscp: u8) -> Vec<Vec<u8>> {
    let mut v4 = [0x45, dscp << 2 | 1, 0, 46, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum: u32 = v4.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    v4[10..12].copy_from_slice(&(!(((sum >> 16) + sum) & 0xffff) as u16).to_be_bytes());
    let mut v6 = [0; 40];
    v6[..8].copy_from_slice(&[0x60 | dscp >> 2, dscp << 6 | 0x2a, 0, 0, 0, 6, 59, 64]);
    (v6[8], v6[23], v6[24], v6[39]) = (0xfd, 1, 0xfd, 2);
    let packet = |kind: [u8; 2], header: &[u8]| {
        let mut frame = frame(destination, HOST);
        frame[12..14].copy_from_slice(&kind);
        frame[14..14 + header.len()].copy_from_slice(header);
        frame
    };
    let plain = [packet([0x08, 0x00], &v4), packet([0x86, 0xdd], &v6)];
    let tag = |tags: &[u8], frame: &Vec<u8>| [&frame[..12], tags, &frame[12..]].concat();
    let once = plain.iter().map(|frame| tag(&[0x81, 0, 0, 7], frame));
    let twice = plain.iter().map(|frame| tag(&[0x88, 0xa8, 0, 8, 0x81, 0, 0, 7], frame));
    plain.iter().cloned().chain(once).chain(twice).collect()
}

#[test]
fn flagged_packets_to_one_host_reach_only_packet_sockets_where_the_flag_is_read() {
    let mut bridge = Bridge::new();
    let flagged: Vec<_> = [0b00_0011, 0b10_1111, 0b11_1111].map(|dscp| packets(OTHER, dscp)).concat();
    let mut others = [0b00_0000, 0b00_0001, 0b10_1110, 0b11_1100].map(|dscp| packets(OTHER, dscp)).concat();
    others.extend(packets([1, 0, 0x5e, 0, 0, 1], 0b00_0011));
    // Not IP, and IP whose header says another version.
    others.extend([frame(OTHER, HOST), {
        let mut wrong = packets(OTHER, 3).swap_remove(2);
        wrong[18] = 0x65;
        wrong
    }]);
    let all = [flagged, others.clone()].concat();
    assert!(bridge.pass(&all, all.len()) == [all.clone(), all.clone()]);
    let exclusive = bridge.netns.enter(|| Exclusive::install(bridge.port, &block(), Some(Flag::DEFAULT)));
    let exclusive = exclusive.expect("installed");
    assert!(bridge.pass(&all, others.len()) == [all.clone(), others]);
    drop(exclusive);
    assert!(bridge.pass(&all, all.len()) == [all.clone(), all]);
}
