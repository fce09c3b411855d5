//! T4: requests for flows by ever new clients of one port.

use crate::{
    Error, Outcome, Stage,
    bystander::{Dhcp6, client, under},
    network::{Network, settings},
};
use std::time::{Duration, Instant};

/// Clients of the attacker have names of their own.
const ATTACKERS: u8 = 66;
const PIECE: Duration = Duration::from_millis(50);
/// Solicits a second, below which it was no flood.
const RATE_MIN: f64 = 10_000.0;

/// Requests until the quota is used up, and from then on in vain.
pub(crate) fn of_addresses(stage: &Stage<'_>) -> Result<Outcome, Error> {
    // The bystander gets a flow for each request, within the same quota.
    run(stage, 65_536, stage.pick(2_000, 8_000, 30_000))
}

/// Requests that are granted, each of which is to be written to disk, for as long as the quota lasts.
pub(crate) fn of_the_disk(stage: &Stage<'_>) -> Result<Outcome, Error> {
    run(stage, 1 << 18, 200_000)
}

fn run(stage: &Stage<'_>, slots: u32, per_port: u64) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let settings = format!("{}[lease]\nper_port = {per_port}\n", settings("tc", slots, ""));
    let switch = network.switch_with(stage.program, &settings)?;
    let socket = Dhcp6::open(&network.attacker)?;
    let (mut asked, mut took) = (0, Duration::ZERO);
    let impact = under(&network, &switch, stage.rounds(), || {
        let start = Instant::now();
        while start.elapsed() < PIECE {
            asked += 1;
            if let Some(solicit) = client(ATTACKERS, asked)?.poll_transmit(0) {
                socket.send(&solicit)?;
            }
        }
        took += start.elapsed();
        Ok(())
    })?;
    let flows = switch.get("/v1/flows")?;
    let held = flows.as_array().into_iter().flatten().filter(|flow| flow["port"] == "pa").count() as u64;
    let mut outcome = Outcome::of(impact);
    let rate = f64::from(asked) / took.as_secs_f64();
    outcome.must(rate >= RATE_MIN, || format!("only {rate:.0} Solicits a second were sent"));
    outcome.must(held <= per_port, || format!("the port holds {held} addresses of {per_port}"));
    let dropped = &switch.port("pa")?["dhcp6_ignored"]["overload"];
    outcome.say(format!("{asked} Solicits, {rate:.0} a second; the port holds {held} addresses of at most {per_port}"));
    outcome.say(format!("{} dropped unread", dropped.as_u64().unwrap_or(0)));
    Ok(outcome)
}
