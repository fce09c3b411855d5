//! T2: frames to guessed addresses, as fast as one processor makes them. Guessing finds live ones, and then the port is wrong.

use crate::{Error, Outcome, Stage, bystander::under, network::Network};
use flowlane_bench::Flood;

/// Flow addresses that there are to guess.
const FLOWS: u32 = 256;
const PIECE: u32 = 20_000;

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let switch = network.switch(stage.program, "xdp")?;
    for number in 0..FLOWS {
        switch.open_on("pc", &format!("client {number}"))?;
    }
    let mut flood = Flood::of_addresses(network.attacker.link())?;
    let before = switch.counts("pa")?;
    let mut sent = 0;
    let impact = under(&network, &switch, stage.rounds(), || {
        sent += flood.send(PIECE)?;
        Ok(())
    })?;
    let counts = switch.counts("pa")?.since(&before);
    let rejected = counts.of_all(&["unknown-flow", "wrong-port"]);
    let mut outcome = Outcome::of(impact);
    let others = counts.of_all(&["forward", "resolve", "queue-full", "expired"]);
    outcome.must(others == 0, || format!("{counts}"));
    // A cable takes as many frames at a time as its ring has room for; the others are lost on it, before the switch.
    outcome.must(rejected > 0 && rejected <= sent, || format!("{sent} sent, {counts}"));
    outcome.say(format!("{sent} frames sent, {counts}"));
    Ok(outcome)
}
