//! T14: requests that must be refused, by the local interface and by DHCPv6, change nothing at all.

use crate::{
    Error, Outcome, Stage,
    bystander::{Dhcp6, client},
    network::Network,
    switch::Switch,
};
use serde_json::{Value, json};

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let mut switch = network.switch(stage.program, "tc")?;
    for number in 0..16 {
        switch.open(&json!({ "port": "pb", "client": format!("client {number}"), "destination": "10.3.0.2" }))?;
    }
    let receivers = json!({ "port": "pb", "client": "group", "receivers": ["02:00:00:00:03:02@pc"] }).to_string();
    let group = switch.call("POST", "/v1/groups", Some(receivers.as_bytes()))?;
    let group = group.map_err(|problem| Error::Switch(format!("a group: {problem}")))?["address"].clone();
    let group = group.as_str().unwrap_or_default().to_owned();
    let socket = Dhcp6::open(&network.attacker)?;
    let mut outcome = Outcome::default();
    settle(&switch)?;
    let before = state(&switch)?;
    let mut random = fastrand::Rng::with_seed(14);
    let (mut refused, mut accepted) = (0u32, Vec::new());
    for _ in 0..stage.pick(500, 5_000, 100_000) {
        let (path, body) = invalid(&group, &mut random);
        match switch.call("POST", &path, Some(body.as_bytes()))? {
            Ok(answer) => accepted.push(format!("{path} {body}: {answer}")),
            Err(_) => refused += 1,
        }
        socket.send(&garbled(random.u32(..), &mut random)?)?;
    }
    outcome.must(accepted.is_empty(), || format!("{} accepted, such as {}", accepted.len(), accepted[0]));
    outcome.must(switch.is_running(), || format!("it has ended: {}", switch.log()));
    let after = state(&switch)?;
    outcome.must(before == after, || difference(&before, &after));
    outcome.must(switch.differences()?.is_empty(), || "leases and table differ".into());
    outcome.say(format!("{refused} requests refused, and as many DHCPv6 messages with changed octets"));
    outcome.say(format!("{} octets of state are the same", after.len()));
    Ok(outcome)
}

/// Waits until next hops are known: they are part of the state.
pub(super) fn settle(switch: &Switch) -> Result<(), Error> {
    for _ in 0..200 {
        let (flows, groups) = (switch.get("/v1/flows")?.to_string(), switch.get("/v1/groups")?.to_string());
        if !flows.contains("\"pending\"") && !groups.contains("\"pending\"") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

/// Leases, groups and table as text, without the seconds that are left.
fn state(switch: &Switch) -> Result<String, Error> {
    let mut text = String::new();
    for path in ["/v1/flows", "/v1/groups", "/v1/table"] {
        let mut value = switch.get(path)?;
        for entry in value.as_array_mut().into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("remaining");
            }
        }
        text += &format!("{value:#}\n");
    }
    Ok(text)
}

fn difference(before: &str, after: &str) -> String {
    let line = before.lines().zip(after.lines()).find(|(before, after)| before != after);
    format!("state has changed: {line:?}, {} octets were {}", after.len(), before.len())
}

/// A request that can not be granted: something in it is wrong, and most of it is right.
fn invalid(group: &str, random: &mut fastrand::Rng) -> (String, String) {
    let right = json!({ "port": "pb", "client": format!("new {}", random.u32(..)), "destination": "10.3.0.2" });
    let receivers = |receivers: Value| json!({ "port": "pb", "client": "group", "receivers": receivers }).to_string();
    let with = |key: &str, value: Value| {
        let mut request = right.clone();
        request[key] = value;
        ("/v1/flows".to_owned(), request.to_string())
    };
    let many: Vec<String> = (0..65).map(|n| format!("02:00:00:00:05:{n:02x}@pc")).collect();
    match random.u32(..13) {
        0 => with("port", json!("nowhere")),
        1 => with("port", Value::Null),
        2 => with("count", json!(-1)),
        3 => with("count", json!(1u64 << 40)),
        4 => with("destination", json!("10.3.0")),
        5 => with("rate", json!("fast")),
        6 => with("field", json!("both")),
        7 => with("lifetime", json!(u64::MAX)),
        8 => with("unknown", json!(random.u32(..))),
        9 => (
            format!("/v1/groups/{group}/receivers"),
            json!({ "receivers": ["02:00:00:00:03:09@pc", "10.3.0"] }).to_string(),
        ),
        10 => ("/v1/groups".into(), receivers(json!(many))),
        11 => ("/v1/groups".into(), receivers(json!(["02:00:00:00:03:02@pc", "02:00:00:00:03:03@nowhere"]))),
        _ => {
            let mut text = right.to_string().into_bytes();
            text.truncate(random.usize(1..text.len()));
            ("/v1/flows".into(), String::from_utf8_lossy(&text).into_owned())
        }
    }
}

/// A client's Solicit of which nothing can come any more.
fn garbled(number: u32, random: &mut fastrand::Rng) -> Result<Vec<u8>, Error> {
    let mut message = client(14, number)?.poll_transmit(0).unwrap_or_default();
    let (place, octet) = match random.u32(..3) {
        // A type that is no question of a client that has nothing.
        0 => (0, [0, 2, 7, 9, 10, 12, 13, 200][random.usize(..8)]),
        // An option that is longer than the message.
        1 => (6, 0xff),
        // Cut short within the client identifier, or before it.
        _ => {
            message.truncate(random.usize(..8));
            return Ok(message);
        }
    };
    message.get_mut(place).into_iter().for_each(|changed| *changed = octet);
    Ok(message)
}
