//! T3: a frame that is held back until its flow has ended and its slot is another one's.

use crate::{
    Error, Outcome, Stage,
    network::{Network, injector, mac_of, settings, udp, watch},
    switch::{address, wait},
};
use flowlane_lab::Mac;
use serde_json::json;
use std::{
    thread,
    time::{Duration, Instant},
};

/// A table that is soon full, so that slots are used again.
const SLOTS: u32 = 8;
const QUARANTINE: Duration = Duration::from_secs(2);
const HELD: &[u8] = b"held";
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let quarantine = format!("[lease]\nquarantine = \"{}s\"\n", QUARANTINE.as_secs());
    let switch = network.switch_with(stage.program, &format!("{}{quarantine}", settings("tc", SLOTS, "")))?;
    let open = |client: &str| json!({ "port": "pa", "client": client, "destination": "10.3.0.2" });
    let flows: Vec<Mac> = (0..SLOTS).map(|n| switch.open(&open(&format!("first {n}")))).collect::<Result<_, _>>()?;
    let (_tap, arrived) = watch(network.receiver.link(), HELD)?;
    let injector = injector(&network.attacker)?;
    let held = |flow: &Mac| udp(*flow, mac_of(1), [1, 3], HELD);
    let mut outcome = Outcome::default();
    injector.send(&held(&flows[0]))?;
    outcome.must(arrived.recv_timeout(SOON).is_ok(), || "a live flow forwards nothing".into());

    // Quarantines begin one after the other, from now on.
    let ending = Instant::now();
    for flow in &flows {
        let closed = switch.call("DELETE", &format!("/v1/flows/{flow}"), None)?;
        outcome.must(closed.is_ok(), || format!("{closed:?}"));
    }
    let ended = Instant::now();
    let before = switch.counts("pa")?;
    let (mut sent, mut refused) = (0, 0);
    let ask = |client: String| switch.call("POST", "/v1/flows", Some(open(&client).to_string().as_bytes()));
    let mut next = Vec::new();
    while next.is_empty() && ending.elapsed() < QUARANTINE {
        for flow in &flows {
            injector.send(&held(flow))?;
            sent += 1;
        }
        match ask(format!("second {refused}"))? {
            Err(_) => refused += 1,
            Ok(lease) => {
                outcome.must(ending.elapsed() >= QUARANTINE, || "an address in quarantine was granted".into());
                next.push(address(&lease["addresses"][0])?);
            }
        }
    }
    thread::sleep(QUARANTINE.saturating_sub(ended.elapsed()) + Duration::from_millis(200));
    while next.len() < flows.len() {
        let lease = ask(format!("third {}", next.len()))?.map_err(|problem| Error::Switch(problem.to_string()))?;
        next.push(address(&lease["addresses"][0])?);
    }
    for flow in &flows {
        injector.send(&held(flow))?;
        sent += 1;
    }
    outcome.must(flows.iter().all(|flow| !next.contains(flow)), || "an address was used again at once".into());
    let _ = wait(|| Ok(switch.counts("pa")?.since(&before).of("unknown-flow") >= sent))?;
    let counts = switch.counts("pa")?.since(&before);
    outcome.must(counts.of("unknown-flow") == sent, || format!("{sent} late frames: {counts}"));
    let accepted: u64 = next
        .iter()
        .map(|flow| Ok(switch.get(&format!("/v1/flows/{flow}"))?["packets"].as_u64().unwrap_or(0)))
        .sum::<Result<_, Error>>()?;
    let arrived = arrived.try_iter().count();
    outcome.must((accepted, arrived) == (0, 0), || format!("{accepted} late frames counted, {arrived} arrived"));
    outcome.say(format!("{sent} late frames, in quarantine and after all {SLOTS} slots had new owners: {counts}"));
    outcome.say(format!("{refused} requests refused in quarantine"));
    Ok(outcome)
}
