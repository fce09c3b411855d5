//! T8: switches in a ring whose routes lead round it, and a group that is sent along them.

use crate::{
    Error, Outcome, Stage,
    network::{host, injector, mac_of, udp_to},
    switch::Switch,
};
use flowlane_lab::{Direction, End, Host, IpNet, Netns, Offload, Tap, Via, veth};
use serde_json::json;
use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SWITCHES: u8 = 3;
const MARK: &[u8] = b"round and round";
/// Nobody's: each switch's route to it leads to the next one.
const NOWHERE: [u8; 4] = [10, 50, 0, 1];
/// How long something may still go round after the last frame was sent.
const SILENT: Duration = Duration::from_secs(1);
/// A packet is routed so often at most, by its time to live.
const ROUNDS_MAX: u64 = 64;
const RECEIVERS: u64 = 2;

/// A switch with its host, and what passes the cable to the next one.
struct Node {
    host: Host,
    switch: Switch,
}

/// What has passed the ring's cables.
#[derive(Clone, Default)]
struct Passed {
    frames: Arc<AtomicU64>,
    last: Arc<Mutex<Option<Instant>>>,
}

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let networks: Vec<_> = (1..=SWITCHES).map(network).collect::<Result<_, _>>()?;
    let passed = Passed::default();
    let taps = ring(&networks, &passed)?;
    let start = |(number, (netns, host)): (u8, (Netns, Host))| {
        let port = |name: &str| format!("[[port]]\ninterface = \"{name}\"\n");
        let block = format!("block = \"a2:f1:{number:02x}:00:00:00/24\"\n");
        let settings =
            format!("{block}slots = 1024\nexecutor = \"tc\"\n{}{}{}", port("pa"), port("right"), port("left"));
        Switch::start(stage.program, &netns, &settings).map(|switch| Node { host, switch })
    };
    let nodes = (1..).zip(networks).map(start).collect::<Result<Vec<_>, _>>()?;
    let (first, second) = (&nodes[0], &nodes[1]);
    let own = Ipv4Addr::from([10, 2, 0, 2]);
    let receivers = json!([Ipv4Addr::from(NOWHERE).to_string(), own.to_string()]);
    let request = json!({ "port": "pa", "client": "test", "receivers": receivers }).to_string();
    let group = first.switch.call("POST", "/v1/groups", Some(request.as_bytes()))?;
    let group = group.map_err(|problem| Error::Switch(format!("a group: {problem}")))?;
    let group = crate::switch::address(&group["address"])?;

    let mut outcome = Outcome::default();
    let injector = injector(&first.host)?;
    let frame = udp_to(group, mac_of(1), 1, NOWHERE, MARK);
    let count = stage.pick(100, 1_000, 10_000);
    // While the paths are being made, and when they are.
    for name in ["at once", "later"] {
        let before = passed.frames.load(Ordering::Relaxed);
        for _ in 0..count {
            injector.send(&frame)?;
            thread::sleep(Duration::from_micros(200));
        }
        let sent = Instant::now();
        thread::sleep(SILENT * 2);
        let frames = passed.frames.load(Ordering::Relaxed) - before;
        let last = *passed.last.lock().unwrap_or_else(PoisonError::into_inner);
        let after = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(sent));
        outcome.must(after < SILENT, || format!("{name}: frames still went round after {after:?}"));
        let most = count * RECEIVERS * ROUNDS_MAX;
        outcome
            .must(frames <= most, || format!("{name}: {frames} frames of {count} passed the ring, more than {most}"));
        outcome.say(format!("{name}: {count} frames to a group, {frames} passed the ring, the last {after:.0?} later"));
    }
    let at_second = second.switch.counts("left")?;
    outcome
        .must(at_second.of_all(&["forward", "pass"]) > 0, || format!("nothing came to the second switch: {at_second}"));
    for node in &nodes {
        let differences = node.switch.differences()?;
        outcome.must(differences.is_empty(), || format!("{differences:?}"));
    }
    drop(taps);
    Ok(outcome)
}

/// A router with a host.
fn network(number: u8) -> Result<(Netns, Host), Error> {
    let netns = Netns::new(&format!("switch {number}"))?;
    netns.sysctl("net/ipv4/ip_forward", "1")?;
    let host = host(&netns, number, "pa")?;
    Ok((netns, host))
}

/// Joins the routers to a ring, with routes round it. Sees what passes.
fn ring(networks: &[(Netns, Host)], passed: &Passed) -> Result<Vec<Tap>, Error> {
    let mut taps = Vec::new();
    for (number, (netns, _)) in (1u8..).zip(networks) {
        let next = number % SWITCHES + 1;
        let (next_netns, _) = &networks[usize::from(next) - 1];
        let end = |netns, name| End { netns, name, mac: None };
        let (right, left) = veth(end(netns, "right"), end(next_netns, "left"))?;
        for (link, own) in [(&right, number), (&left, next)] {
            link.set_offload(Offload::TxChecksum, false)?;
            link.set_offload(Offload::Gro, true)?;
            link.add_address(net([10, 100 + number, 0, own], 24))?;
        }
        right.connect(&left)?;
        let gateway = Via::Gateway(Ipv4Addr::new(10, 100 + number, 0, next).into());
        netns.add_route(net(NOWHERE, 32), gateway)?;
        if number == 1 {
            netns.add_route(net([10, 2, 0, 0], 24), gateway)?;
        }
        let passed = passed.clone();
        taps.push(Tap::start(&left, move |frame| {
            if frame.direction == Direction::In && frame.bytes.ends_with(MARK) {
                passed.frames.fetch_add(1, Ordering::Relaxed);
                *passed.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            false
        })?);
    }
    Ok(taps)
}

fn net(address: [u8; 4], length: u8) -> IpNet {
    IpNet::new_assert(Ipv4Addr::from(address).into(), length)
}
