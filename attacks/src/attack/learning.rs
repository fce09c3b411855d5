//! T7: a host that takes a flow's address at the bridge between its neighbour and the switch.

use crate::{
    Error, Outcome, Stage,
    network::{Network, as_a_wire, host, injector, mac_of, settings, udp, watch},
    switch::wait,
};
use flowlane_lab::{Host, bridge};
use serde_json::json;
use std::{
    thread,
    time::{Duration, Instant},
};

const TAKEN: &[u8] = b"taken!";
/// Between two frames of the victim.
const PACE: Duration = Duration::from_millis(2);
/// How long the victim's frames may go astray after one frame of the attacker.
const WITHIN: Duration = Duration::from_secs(3);

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let switch =
        network.switch_with(stage.program, &format!("{}[[port]]\ninterface = \"pd\"\n", settings("tc", 4_096, "")))?;
    // Two more hosts, behind one port: a Linux bridge is between.
    let hub = host(&network.netns, 4, "pd")?;
    let bridge = bridge(hub.netns(), "br0")?;
    hub.link().attach(&bridge)?;
    let behind = |number: u8, name: &str| -> Result<Host, Error> {
        let host = Host::new(name, hub.netns(), name, Some(mac_of(number)), &[])?;
        host.port().attach(&bridge)?;
        as_a_wire(host.link())?;
        Ok(host)
    };
    let (victim, thief) = (behind(4, "victim")?, behind(5, "thief")?);
    bridge.up()?;
    let start = Instant::now();
    while switch.port("pd")?["executor"].is_null() && start.elapsed() < WITHIN {
        thread::sleep(Duration::from_millis(20));
    }
    let flow = switch.open(&json!({ "port": "pd", "client": "victim", "destination": "10.3.0.2" }))?;
    let (_tap, arrived) = watch(network.receiver.link(), TAKEN)?;
    let (_tap, stolen) = watch(thief.link(), TAKEN)?;
    let (victim, thief) = (injector(&victim)?, injector(&thief)?);
    let mut number = 0u64;
    let mut send = || {
        number += 1;
        victim.send(&udp(flow, mac_of(4), [4, 3], &[TAKEN, &number.to_be_bytes()].concat()))?;
        Ok::<_, Error>(number)
    };
    let mut outcome = Outcome::default();
    let mut worst = Duration::ZERO;
    let thefts = stage.pick(2, 5, 30);
    for _ in 0..thefts {
        // The flow is in use.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1_000) {
            send()?;
            thread::sleep(PACE);
        }
        outcome.must(arrived.try_iter().count() > 0, || "the victim's frames do not arrive before the theft".into());
        stolen.try_iter().for_each(drop);
        // From the flow's address to the victim: the bridge learns, and the switch sees nothing of it.
        thief.send(&udp(mac_of(4), flow, [5, 4], b"mine"))?;
        let (theft, first) = (Instant::now(), send()?);
        let mut back = None;
        while back.is_none() && theft.elapsed() < WITHIN {
            // Those that were sent before may still be on their way.
            let came = arrived.recv_timeout(PACE).is_ok_and(|rest| number_in(&rest) >= Some(first));
            back = came.then(|| theft.elapsed());
            send()?;
        }
        outcome.must(stolen.recv_timeout(WITHIN).is_ok(), || "the bridge did not learn: nothing was stolen".into());
        outcome.must(back.is_some(), || format!("the frames went astray for more than {WITHIN:?}"));
        worst = worst.max(back.unwrap_or(WITHIN));
    }
    // The switch looks again.
    let restored = || Ok::<_, Error>(switch.port("pd")?["restored"].as_u64().unwrap_or(0));
    let _ = wait(|| Ok(restored()? >= thefts))?;
    let restored = restored()?;
    outcome.must(restored >= thefts, || format!("{restored} of {thefts} thefts were counted"));
    outcome.say(format!(
        "{thefts} thefts by one frame each; frames were back after {} ms at most; {restored} counted",
        worst.as_millis()
    ));
    Ok(outcome)
}

/// The number of a frame of the victim, by what follows the mark.
fn number_in(rest: &[u8]) -> Option<u64> {
    rest.first_chunk().map(|octets| u64::from_be_bytes(*octets))
}
