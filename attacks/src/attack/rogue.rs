//! T9: a host that answers as a DHCPv6 server, although nobody has asked it, and relays that nobody has set up.

use crate::{
    Error, Outcome, Stage,
    bystander::under,
    network::{Network, mac_of},
};
use etherparse::PacketBuilder;
use flowlane_dhcp6::{CLIENT_PORT, SERVER_PORT};
use flowlane_lab::{Injector, Mac};
use std::time::{Duration, Instant};

/// Message types of RFC 9915 section 7.3 that only servers and relays send: Advertise, Reply, Reconfigure, Relay-forward,
/// Relay-reply; and those of others beyond.
const TYPES: [u8; 7] = [2, 7, 10, 12, 13, 36, 255];

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let switch = network.switch(stage.program, "tc")?;
    let port = network.attacker.port().mac()?;
    let injector = Injector::open(network.attacker.link())?;
    switch.open(&serde_json::json!({ "port": "pb", "client": "asked", "destination": "10.3.0.2" }))?;
    let before = switch.get("/v1/status")?["neighbours"].clone();
    let mut random = fastrand::Rng::with_seed(9);
    let mut sent = 0u64;
    let impact = under(&network, &switch, stage.rounds(), || {
        let piece = Instant::now() + Duration::from_millis(50);
        while Instant::now() < piece {
            injector.send(&message(port, &mut random))?;
            sent += 1;
        }
        Ok(())
    })?;
    let mut outcome = Outcome::of(impact);
    let neighbours = switch.get("/v1/status")?["neighbours"].clone();
    outcome.must(neighbours == before, || format!("a neighbour has come of it: {neighbours}"));
    let flows = switch.get("/v1/flows")?;
    let flows: Vec<_> = flows.as_array().into_iter().flatten().collect();
    outcome.must(flows.iter().all(|flow| flow["via"].is_null()), || "a flow goes by the rogue".into());
    outcome.must(flows.iter().all(|flow| flow["port"] != "pa"), || "the rogue has a flow".into());
    let ignored = switch.port("pa")?["dhcp6_ignored"].clone();
    outcome.must(ignored.as_object().is_some_and(|reasons| !reasons.is_empty()), || "nothing was counted".into());
    outcome.say(format!("{sent} messages of servers and relays; ignored: {ignored}"));
    Ok(outcome)
}

/// A message from a server's port, to the port that clients listen on or to the servers' own.
fn message(port: Mac, random: &mut fastrand::Rng) -> Vec<u8> {
    let own = mac_of(1);
    let link_local = |mac: Mac| {
        let Mac([a, b, c, d, e, f]) = mac;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    };
    let to = if random.bool() { CLIENT_PORT } else { SERVER_PORT };
    let mut payload = vec![TYPES[random.usize(..TYPES.len())], random.u8(..), random.u8(..), random.u8(..)];
    // Server identifier (DUID-LL), then an IA_LL with one address of the switch's own block, RFC 8947 section 11.
    payload.extend([0, 2, 0, 10, 0, 3, 0, 1, own.0[0], own.0[1], own.0[2], own.0[3], own.0[4], own.0[5]]);
    payload.extend([0, 138, 0, 34, 0, 0, 0, 1, 0, 0, 0, 60, 0, 0, 0, 90]);
    payload.extend([0, 139, 0, 18, 0, 1, 0, 6, 0xa2, 0xf1, 0, 0, 0, random.u8(..), 0, 0, 0, 0, 0, 0, 0, 120]);
    payload.truncate(random.usize(4..=payload.len()));
    let mut frame = Vec::new();
    let packet =
        PacketBuilder::ethernet2(own.0, port.0).ipv6(link_local(own), link_local(port), 255).udp(SERVER_PORT, to);
    // As in `network::udp_to`.
    let _ = packet.write(&mut frame, &payload);
    frame
}
