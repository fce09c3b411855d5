//! Many leases: asked for, listed, and taken over by a successor.

use crate::lab::{Lab, flow_from_a, ip, ping, settings};
use crate::stream::Stream;
use std::time::Instant;

const LEASES: u32 = 100_000;

#[test]
fn a_hundred_thousand_leases_are_durable_and_adopted() {
    let lab = Lab::new();
    let quotas = "[lease]\nper_port = 200000\nper_client = 200000\n";
    let mut switch = lab.switch_with(&format!("{}\n{quotas}", settings("tc").replace("1024", "131072")));
    flow_from_a(&lab, &switch, "10.1.0.1");
    // The first packet is resolved before the stream: a queue that overflows on a busy machine is not what is shown here.
    ping(&lab.a, "10.2.0.2", 1);
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 2_000);

    let start = Instant::now();
    switch.api.open_many("pa", LEASES, 100);
    let opened = start.elapsed();
    assert_eq!(switch.api.status()["leased"], LEASES + 1);

    switch.kill();
    let start = Instant::now();
    switch.start_again();
    let adopted = start.elapsed();
    let status = switch.api.status();
    assert_eq!((status["leased"].as_u64(), status["adopted"].as_bool()), (Some(u64::from(LEASES) + 1), Some(true)));
    switch.api.verify();
    let start = Instant::now();
    assert_eq!(switch.api.get("/v1/flows").as_array().map(Vec::len), Some(LEASES as usize + 1));
    println!("{LEASES} leases: opened in {opened:?}, adopted in {adopted:?}, listed in {:?}", start.elapsed());
    let outcome = stream.stop();
    assert!(outcome.is_perfect(), "{outcome:?}");
}
