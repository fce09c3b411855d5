//! T5: what a port sends at the full rate of one processor: unknown addresses, first packets, flagged packets.

use crate::{
    Error, Outcome, Stage,
    bystander::under,
    network::{Network, injector, mac_of, settings, udp_to},
    switch::address,
};
use flowlane_bench::Flood;
use flowlane_lab::Mac;
use serde_json::json;
use std::time::{Duration, Instant};

const PIECE: u32 = 20_000;

/// Frames to addresses that nobody has.
pub(crate) fn unknown(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let switch = network.switch(stage.program, "tc")?;
    let mut flood = Flood::of_addresses(network.attacker.link())?;
    let before = switch.counts("pa")?;
    let (mut sent, mut took) = (0, Duration::ZERO);
    let impact = under(&network, &switch, stage.rounds(), || {
        let start = Instant::now();
        sent += flood.send(PIECE)?;
        took += start.elapsed();
        Ok(())
    })?;
    let counts = switch.counts("pa")?.since(&before);
    let mut outcome = Outcome::of(impact);
    outcome.must(counts.of_all(&["forward", "resolve", "queue-full"]) == 0, || format!("{counts}"));
    outcome.must(counts.of("unknown-flow") > 0, || format!("{sent} sent, {counts}"));
    outcome.say(format!("{sent} frames at {}: {counts}", rate(sent, took)));
    Ok(outcome)
}

/// First packets of many flows at a time, large ones, to a host that nobody answers for: as many as may wait, and more.
pub(crate) fn first_packets(stage: &Stage<'_>) -> Result<Outcome, Error> {
    const LARGE: [u8; 1_400] = [0; 1_400];
    let network = Network::new()?;
    let switch = network.switch(stage.program, "tc")?;
    let flows = (0..stage.pick(100, 100, 250)).map(|number| {
        let request = json!({ "port": "pa", "client": "attacker", "iaid": number, "count": 16 }).to_string();
        let lease = switch.call("POST", "/v1/flows", Some(request.as_bytes()))?;
        let lease = lease.map_err(|problem| Error::Switch(problem.to_string()))?;
        lease["addresses"].as_array().into_iter().flatten().map(address).collect()
    });
    let flows: Vec<Mac> = flows.collect::<Result<Vec<Vec<Mac>>, Error>>()?.concat();
    let injector = injector(&network.attacker)?;
    // To a hundred nobodies: Linux asks for each of them by itself.
    let frames: Vec<Vec<u8>> = flows
        .iter()
        .zip(0u32..)
        .map(|(flow, number)| udp_to(*flow, mac_of(1), 1, [10, 2, 0, 100 + (number % 100) as u8], &LARGE))
        .collect();
    let before = switch.counts("pa")?;
    let (mut sent, mut took) = (0u64, Duration::ZERO);
    let impact = under(&network, &switch, stage.rounds(), || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            for frame in frames.iter().cycle().skip(sent as usize % frames.len()).take(64) {
                injector.send(frame)?;
                sent += 1;
            }
        }
        took += start.elapsed();
        Ok(())
    })?;
    let counts = switch.counts("pa")?.since(&before);
    let mut outcome = Outcome::of(impact);
    outcome.must(counts.of("forward") == 0, || format!("{counts}"));
    let refused = counts.of_all(&["queue-full", "no-route"]);
    outcome.must(refused > 0, || format!("not more than may wait: {counts}"));
    outcome.say(format!("{sent} first packets of {} flows at {}: {counts}", flows.len(), rate(sent, took)));
    Ok(outcome)
}

/// Flagged packets, each of other addresses.
pub(crate) fn tuples(stage: &Stage<'_>) -> Result<Outcome, Error> {
    const LIMIT: u64 = 64;
    let network = Network::new()?;
    // They have a way, so that flows are leased for them.
    network.netns.add_route(flowlane_lab::IpNet::new_assert([10, 0, 0, 0].into(), 8), via("10.3.0.2"))?;
    let flagged = format!("flag = \"read\"\n[port.flagged]\nlimit = {LIMIT}\nidle = \"1s\"\n");
    let switch = network.switch_with(stage.program, &settings("tc", 65_536, &flagged))?;
    let mut flood = Flood::of_tuples(network.attacker.link())?;
    let before = switch.counts("pa")?;
    let (mut sent, mut took, mut most) = (0, Duration::ZERO, 0);
    let impact = under(&network, &switch, stage.rounds(), || {
        let start = Instant::now();
        sent += flood.send(PIECE)?;
        took += start.elapsed();
        most = most.max(switch.port("pa")?["flagged"]["flows"].as_u64().unwrap_or(u64::MAX));
        Ok(())
    })?;
    let counts = switch.counts("pa")?.since(&before);
    let mut outcome = Outcome::of(impact);
    outcome.must((1..=LIMIT).contains(&most), || format!("{most} flows of at most {LIMIT}"));
    outcome.must(counts.of("flag-refused") > 0, || format!("{counts}"));
    outcome.say(format!("{sent} frames at {}: {counts}", rate(sent, took)));
    outcome.say(format!("at most {most} flows at a time of {LIMIT}"));
    Ok(outcome)
}

fn via(gateway: &str) -> flowlane_lab::Via<'static> {
    flowlane_lab::Via::Gateway(gateway.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

/// Frames in a second.
fn rate(sent: u64, took: Duration) -> String {
    format!("{:.0} kpps", sent as f64 / took.as_secs_f64() / 1_000.0)
}
