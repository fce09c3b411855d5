//! T6: requests of every form, odd ones among them, each of which must come to exactly the entries that were granted.

use crate::{
    Error, Outcome, Stage,
    bystander::under,
    network::{Network, injector, mac_of, udp, watch},
    switch::{Switch, address, wait},
};
use flowlane_lab::Mac;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Requests before one of the flows is given back.
const KEPT: usize = 256;
const ODD: &[u8] = b"odd entry";
/// The attacker's port, as the table names it.
const NUMBER: u64 = 1;
/// Flows to the neighbours of whose addresses frames are sent.
const PROBED: usize = 128;

/// What the switch has said that it has granted.
#[derive(Default)]
struct Granted {
    /// Addresses by client and its number: who asks again under the same gets the same, or something else instead.
    flows: BTreeMap<(String, u64), BTreeSet<Mac>>,
    refused: usize,
    asked: usize,
}

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let switch = network.switch(stage.program, "tc")?;
    let mut random = fastrand::Rng::with_seed(6);
    let (mut granted, mut wrong) = (Granted::default(), Vec::new());
    let impact = under(&network, &switch, stage.rounds(), || {
        for _ in 0..16 {
            granted.ask(&switch, &mut random)?;
        }
        wrong.extend(granted.difference(&switch)?);
        Ok(())
    })?;
    let mut outcome = Outcome::of(impact);
    outcome.must(wrong.is_empty(), || format!("{} times entries are not what was granted: {}", wrong.len(), wrong[0]));
    let (accepted, refused) = (granted.asked - granted.refused, granted.refused);
    outcome.must(accepted > 0 && refused > 0, || format!("{accepted} requests were granted, {refused} refused"));
    let differences = switch.differences()?;
    outcome.must(differences.is_empty(), || format!("leases and table differ: {differences:?}"));
    outcome
        .say(format!("{accepted} requests granted, {refused} refused: the table holds what was granted and no more"));
    probe(&network, &switch, &granted, &mut outcome)?;
    Ok(outcome)
}

impl Granted {
    /// Asks for something, or gives something back.
    fn ask(&mut self, switch: &Switch, random: &mut fastrand::Rng) -> Result<(), Error> {
        self.asked += 1;
        if self.flows.len() >= KEPT {
            let client = self.flows.keys().nth(random.usize(..KEPT)).cloned();
            let given_back = client.and_then(|client| self.flows.remove(&client));
            let first = given_back.and_then(|flow| flow.first().map(Mac::to_string)).unwrap_or_default();
            let closed = switch.call("DELETE", &format!("/v1/flows/{first}"), None)?;
            closed.map_err(|problem| Error::Switch(format!("{first} can not be given back: {problem}")))?;
        }
        match switch.call("POST", "/v1/flows", Some(request(random).as_bytes()))? {
            Ok(lease) => {
                let client = lease["client"].as_str().unwrap_or_default().to_owned();
                let client = (client, lease["iaid"].as_u64().unwrap_or_default());
                self.flows.insert(client, addresses(&lease)?);
            }
            Err(_) => self.refused += 1,
        }
        Ok(())
    }

    /// How the table differs from what was granted to the port.
    fn difference(&self, switch: &Switch) -> Result<Option<String>, Error> {
        let mut installed = BTreeSet::new();
        for entry in switch.get("/v1/table")?.as_array().into_iter().flatten() {
            if entry["port"] == NUMBER {
                installed.insert(address(&entry["address"])?);
            }
        }
        let granted: BTreeSet<Mac> = self.flows.values().flatten().copied().collect();
        if installed == granted {
            return Ok(None);
        }
        let named = |mac: Option<&Mac>| mac.map_or_else(|| "nothing".into(), Mac::to_string);
        let too_many = named(installed.difference(&granted).next());
        let missing = named(granted.difference(&installed).next());
        Ok(Some(format!("{too_many} is too much, {missing} is missing")))
    }
}

/// A request of the attacker's port. Most keys may be left out, be nothing, or be what nobody would write.
fn request(random: &mut fastrand::Rng) -> String {
    let mut request = BTreeMap::from([("port", json!("pa"))]);
    let odd = |random: &mut fastrand::Rng, right: Value| match random.u32(..12) {
        0 => json!(null),
        1 => json!(""),
        2 => json!([]),
        3 => json!({}),
        4 => json!(0),
        5 => json!(-1),
        6 => json!(u64::from(u32::MAX) + 1),
        7 => json!("*"),
        _ => right,
    };
    let destination = ["10.3.0.2", "10.2.0.2", "0.0.0.0", "::", "10.3.0.0/24", "255.255.255.255", "fe80::1"];
    let right: [(&'static str, Value); 8] = [
        ("client", json!(format!("client {}", random.u32(..)))),
        ("iaid", json!(random.u32(..))),
        ("count", json!(random.u32(..20))),
        ("destination", json!(destination[random.usize(..destination.len())])),
        ("field", json!(["destination", "source"][random.usize(..2)])),
        ("lifetime", json!(random.u32(..))),
        ("rate", json!(random.u64(..))),
        ("path", json!(random.u8(..))),
    ];
    for (key, value) in right {
        if random.bool() {
            let value = if random.u32(..4) == 0 { odd(random, value) } else { value };
            request.insert(key, value);
        }
    }
    json!(request).to_string()
}

fn addresses(lease: &Value) -> Result<BTreeSet<Mac>, Error> {
    lease["addresses"].as_array().into_iter().flatten().map(address).collect()
}

/// Sends frames to the addresses beside those that were granted, by the port that has these, and to these by another port.
fn probe(network: &Network, switch: &Switch, granted: &Granted, outcome: &mut Outcome) -> Result<(), Error> {
    let all: BTreeSet<u64> = granted.flows.values().flatten().map(|mac| mac.to_u64()).collect();
    let beside = |flow: &BTreeSet<Mac>| {
        let ends = [flow.first().map(|mac| mac.to_u64().wrapping_sub(1)), flow.last().map(|mac| mac.to_u64() + 1)];
        ends.into_iter().flatten().filter(|address| !all.contains(address)).collect::<Vec<_>>()
    };
    let probed: Vec<&BTreeSet<Mac>> = granted.flows.values().take(PROBED).collect();
    let beside: Vec<u64> = probed.iter().copied().flat_map(beside).collect();
    let (_tap, arrived) = watch(network.receiver.link(), ODD)?;
    let (before, before_other) = (switch.counts("pa")?, switch.counts("pb")?);
    let (own, other) = (injector(&network.attacker)?, injector(&network.sender)?);
    for to in &beside {
        own.send(&udp(Mac::from_u64(*to), mac_of(1), [1, 3], ODD))?;
    }
    for flow in probed.iter().copied().flatten() {
        other.send(&udp(*flow, mac_of(2), [2, 3], ODD))?;
    }
    let sent = probed.iter().copied().flatten().count() as u64;
    let _ = wait(|| {
        let beside_are =
            switch.counts("pa")?.since(&before).of_all(&["unknown-flow", "wrong-port"]) >= beside.len() as u64;
        Ok(beside_are && switch.counts("pb")?.since(&before_other).of("wrong-port") >= sent)
    })?;
    let (counts, counts_other) = (switch.counts("pa")?.since(&before), switch.counts("pb")?.since(&before_other));
    let rejected = counts.of_all(&["unknown-flow", "wrong-port"]);
    outcome
        .must(rejected == beside.len() as u64, || format!("{} frames beside what was granted: {counts}", beside.len()));
    let wrong_port = counts_other.of("wrong-port");
    outcome.must(wrong_port == sent, || format!("{sent} frames by another port: {counts_other}"));
    let arrived = arrived.try_iter().count();
    outcome.must(arrived == 0, || format!("{arrived} of them were delivered"));
    outcome.say(format!("{} frames to addresses beside, and {sent} by another port: all rejected", beside.len()));
    Ok(())
}
