//! T11: counters that are about to overflow.

use crate::{
    Error, Outcome, Stage,
    network::{Network, injector, mac_of, udp, watch},
};
use flowlane_program::{Kernel, KernelOptions};
use flowlane_wire::Block;
use serde_json::json;
use std::time::Duration;

const FULL: &[u8] = b"full";
const SOON: Duration = Duration::from_secs(10);
/// What the switch makes its queue of.
const QUEUE_BYTES: u32 = 8 << 20;
const SLOTS: u32 = 65_536;

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let mut switch = network.switch(stage.program, "tc")?;
    let flow = switch.open(&json!({ "port": "pa", "client": "test", "destination": "10.3.0.2" }))?;
    let (_tap, arrived) = watch(network.receiver.link(), FULL)?;
    let injector = injector(&network.attacker)?;
    let frame = udp(flow, mac_of(1), [1, 3], FULL);
    let mut outcome = Outcome::default();
    injector.send(&frame)?;
    outcome.must(arrived.recv_timeout(SOON).is_ok(), || "a live flow forwards nothing".into());

    switch.end();
    fill(&switch.name, flow)?;
    switch.start_again()?;
    let of_flow = || switch.get(&format!("/v1/flows/{flow}"));
    let before = of_flow()?;
    outcome.must(before["packets"] == u64::MAX && before["bytes"] == u64::MAX, || format!("not adopted: {before}"));
    for _ in 0..3 {
        injector.send(&frame)?;
        outcome.must(arrived.recv_timeout(SOON).is_ok(), || "a frame is lost at the overflow".into());
    }
    let after = of_flow()?;
    let octets = u64::MAX.wrapping_add(3 * frame.len() as u64);
    outcome.must(after["packets"] == 2 && after["bytes"] == octets, || format!("wrapped wrongly: {after}"));
    let counts = switch.counts("pa")?;
    outcome.must(switch.get("/v1/flows").is_ok() && switch.differences()?.is_empty(), || "the table is damaged".into());
    outcome.say(format!("a flow's counters went from 2^64-1 to 2 and {octets}; the port's: {counts}"));
    Ok(outcome)
}

/// Sets a flow's counters, in the tables that a switch has left in the kernel.
fn fill(name: &str, flow: flowlane_lab::Mac) -> Result<(), Error> {
    let block = Block::new(flowlane_lab::Mac([0xa2, 0xf1, 0, 0, 0, 0]), 24, SLOTS);
    let block = block.map_err(|error| Error::Switch(format!("its block: {error}")))?;
    let options = KernelOptions { name: name.into(), block, queue_bytes: QUEUE_BYTES, show: false };
    let (_kernel, tables, _punts, _) = Kernel::open(options)?;
    if let Some(slot) = tables.slots().get(block.slot_of(flow.to_u64()).0 as usize) {
        slot.packets().store(u64::MAX);
        slot.bytes().store(u64::MAX);
    }
    Ok(())
}
