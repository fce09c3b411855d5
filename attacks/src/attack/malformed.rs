//! T10: frames of every length, with tags and headers that make no sense, by every executor.

use crate::{
    Error, Outcome, Stage,
    network::{Network, injector, mac_of, settings, udp},
    switch::{Counts, wait},
};
use flowlane_lab::Mac;
use serde_json::json;
use std::{net::IpAddr, thread, time::Duration};

const EXECUTORS: [&str; 4] = ["tc", "xdp", "af-xdp", "af-packet"];
/// The shortest frame that Linux sends is an Ethernet header.
const SHORTEST: usize = 14;
const MTU: usize = 1_500;
/// Addresses, a tag, and the type behind it.
const TAGGED_MIN: usize = 20;
/// Frames after which the executors are waited for: a ring's length.
const BURST: usize = 64;

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut first: Option<Counts> = None;
    for executor in EXECUTORS {
        let (sent, counts) = on(executor, stage, &mut outcome)?;
        outcome.must(counts.sum() == sent, || format!("{executor}: {sent} sent, {} counted: {counts}", counts.sum()));
        let first = first.get_or_insert_with(|| {
            outcome.say(format!("{sent} frames each on {}: {counts}", EXECUTORS.join(", ")));
            counts.clone()
        });
        outcome.must(*first == counts, || format!("{executor}: {counts}, but {}: {first}", EXECUTORS[0]));
    }
    Ok(outcome)
}

/// Sends all frames. How many, and how they ended.
fn on(executor: &str, stage: &Stage<'_>, outcome: &mut Outcome) -> Result<(u64, Counts), Error> {
    let network = Network::new()?;
    // What the hosts' own IPv6 says is not to be counted.
    for netns in [network.attacker.netns(), &network.netns] {
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    }
    // Nor do they ask for each other's addresses in between.
    let (host, router) = (IpAddr::from([10, 1, 0, 2]), IpAddr::from([10, 1, 0, 1]));
    network.attacker.port().set_neighbour(host, mac_of(1))?;
    network.attacker.link().set_neighbour(router, network.attacker.port().mac()?)?;
    let flagged = "flag = \"read\"\ndhcp6 = false\nchain = false\n[port.flagged]\nlimit = 1\n";
    let mut switch = network.switch_with(stage.program, &settings(executor, 1_024, flagged))?;
    let flow = switch.open(&json!({ "port": "pa", "client": "test", "destination": "10.3.0.2" }))?;
    let source =
        switch.open(&json!({ "port": "pa", "client": "from", "field": "source", "destination": "10.2.0.2" }))?;
    for address in [flow, source] {
        resolved(&switch, address)?;
    }
    // The bound of one flagged flow is used up, so that each flagged packet that makes sense is refused at once.
    let injector = injector(&network.attacker)?;
    injector.send(&flagged_packet())?;
    let _ = wait(|| Ok(switch.port("pa")?["flagged"]["flows"] == 1 && switch.counts("pa")?.of("forward") >= 1))?;
    let before = switch.counts("pa")?;
    let frames = frames(flow, source, stage.pick(7, 3, 1));
    for burst in frames.chunks(BURST) {
        burst.iter().try_for_each(|frame| injector.send(frame))?;
        if executor.starts_with("af-") {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let sent = frames.len() as u64;
    let _ = wait(|| Ok(switch.counts("pa")?.since(&before).sum() >= sent))?;
    outcome.must(switch.is_running(), || format!("{executor}: the switch has ended: {}", switch.log()));
    outcome.must(switch.differences()?.is_empty(), || format!("{executor}: leases and table differ"));
    Ok((sent, switch.counts("pa")?.since(&before)))
}

fn resolved(switch: &crate::switch::Switch, flow: Mac) -> Result<(), Error> {
    let is_resolved = wait(|| Ok(switch.get(&format!("/v1/flows/{flow}"))?["state"] == "resolved"))?;
    if is_resolved { Ok(()) } else { Err(Error::Switch(format!("{flow} has no next hop"))) }
}

const FLAGGED: u8 = 0b11 << 2;

fn flagged_packet() -> Vec<u8> {
    let mut frame = udp(Mac([2, 0, 0, 0, 9, 9]), mac_of(1), [1, 3], b"flagged");
    frame[15] = FLAGGED;
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..34]).map(|header| header.to_header());
    if let Ok(header) = header {
        frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    }
    frame
}

/// Lengths, every `step`th, with: each of the ways to carry a flow address or the flag, none to four tags, and headers whose
/// fields say anything.
fn frames(flow: Mac, source: Mac, step: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(10);
    let other = Mac([2, 0, 0, 0, 9, 9]);
    let addresses =
        [(flow, mac_of(1)), (other, source), (other, mac_of(1)), (Mac([0xa2, 0xf1, 0, 9, 9, 9]), mac_of(1))];
    let mut frames = Vec::new();
    for length in (SHORTEST..=MTU + SHORTEST).step_by(step) {
        let (to, from) = addresses[random.usize(..addresses.len())];
        frames.push(frame(to, from, length, &mut random));
    }
    for length in SHORTEST..140 {
        for (to, from) in addresses {
            frames.push(frame(to, from, length, &mut random));
        }
    }
    frames
}

/// A frame that looks like an IP packet, with tags, for as long as it goes.
fn frame(to: Mac, from: Mac, length: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    // Linux itself drops a frame that ends within its first tag, before tc and packet sockets see it.
    let tags = if length < TAGGED_MIN { 0 } else { random.usize(..5) };
    for _ in 0..tags {
        frame.extend(if random.bool() { [0x81, 0x00] } else { [0x88, 0xa8] });
        frame.extend([random.u8(..), random.u8(..)]);
    }
    let is_v4 = random.bool();
    frame.extend(if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    let class = if random.bool() { FLAGGED } else { random.u8(..) };
    if is_v4 {
        // Version, options of any length, any total length, fragments, any protocol.
        frame.extend([0x40 | random.u8(..16), class, random.u8(..), random.u8(..), 0, 0]);
        frame.extend([if random.bool() { random.u8(..) } else { 0 }, random.u8(..), 64, random.u8(..), 0, 0]);
    } else {
        // Any next header, among them chains of extension headers and fragments.
        let next = [0, 6, 17, 43, 44, 50, 51, 60, 255][random.usize(..9)];
        frame.extend([0x60 | class >> 4, class << 4, 0, 0, random.u8(..), random.u8(..), next, 64]);
    }
    frame.extend(std::iter::repeat_with(|| random.u8(..8)).take(2_000));
    frame.truncate(length);
    frame
}
