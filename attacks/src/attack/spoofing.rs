//! T1: frames with live flow addresses by every port that is not theirs.

use crate::{
    Error, Outcome, Stage,
    bystander::under,
    network::{Network, injector, mac_of, udp, watch},
};
use flowlane_lab::Mac;
use std::time::{Duration, Instant};

/// Flow addresses at each of the bystanders' ports.
const FLOWS: u32 = 64;
/// How each of them must end.
const REJECTED: &str = "wrong-port";

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let mut outcome = Outcome::default();
    for executor in ["tc", "xdp"] {
        let switch = network.switch(stage.program, executor)?;
        let flows = |port: &str| {
            (0..FLOWS).map(|n| switch.open_on(port, &format!("{port} {n}"))).collect::<Result<Vec<_>, _>>()
        };
        let live = [flows("pb")?, flows("pc")?].concat();
        let (_tap, delivered) = watch(network.receiver.link(), SPOOFED)?;
        let (_tap, delivered_too) = watch(network.sender.link(), SPOOFED)?;
        let injector = injector(&network.attacker)?;
        let frames: Vec<Vec<u8>> = live.iter().flat_map(|flow| disguises(*flow)).collect();
        let before = switch.counts("pa")?;
        let mut sent = 0;
        let impact = under(&network, &switch, stage.rounds(), || {
            let piece = Instant::now() + Duration::from_millis(50);
            while Instant::now() < piece {
                for frame in frames.iter().skip(sent as usize % frames.len()).take(32) {
                    injector.send(frame)?;
                    sent += 1;
                }
            }
            Ok(())
        })?;
        let counts = switch.counts("pa")?.since(&before);
        outcome.must(counts.of(REJECTED) == sent, || format!("{executor}: {sent} sent, {counts}"));
        let ended_elsewhere = counts.of_all(&["resolve", "forward", "unknown-flow"]);
        outcome.must(ended_elsewhere == 0, || format!("{executor}: {counts}"));
        let arrived = delivered.try_iter().chain(delivered_too.try_iter()).count();
        outcome.must(arrived == 0, || format!("{executor}: {arrived} were delivered"));
        outcome.say(format!("{executor}: {sent} frames with {} addresses, {counts}", live.len()));
        outcome.add(impact);
    }
    Ok(outcome)
}

const SPOOFED: &[u8] = b"spoofed";

/// A frame to the flow, one from it, and one both.
fn disguises(flow: Mac) -> [Vec<u8>; 3] {
    let own = mac_of(1);
    [(flow, own), (mac_of(2), flow), (flow, flow)].map(|(to, from)| udp(to, from, [1, 3], SPOOFED))
}
