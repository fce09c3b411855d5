//! Many flows are adopted.

use crate::{Error, Options, Row, scene::Scene};
use std::time::{Duration, Instant};

const FLOWS: u32 = 1_000_000;
const SLOTS: u32 = 1 << 20;
const AT_ONCE: u32 = 4_096;
/// How long a successor may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Kills a switch with a million flows, and waits until its successor answers, which it does when it has adopted them.
pub(super) fn adopted(options: &Options, mut row: Row) -> Result<Row, Error> {
    let mut scene = Scene::new(options, row.executor, SLOTS)?;
    for client in 0..FLOWS.div_ceil(AT_ONCE) {
        scene.switch.api.open("p2", &format!("client {client}"), AT_ONCE.min(FLOWS - client * AT_ONCE))?;
    }
    let before = leased(&scene)?;
    while row.times < options.times(1, 1, 3) {
        let took = scene.under_load(&mut row, |switch| {
            switch.kill()?;
            let start = Instant::now();
            switch.spawn()?;
            switch.wait_until_it_answers()?;
            Ok(start.elapsed())
        })?;
        row.times += 1;
        row.recovered(took);
        if took > LIMIT {
            row.wrong(format!("the flows were adopted after {:.1} s, not within 5 s", took.as_secs_f64()));
        }
        let after = leased(&scene)?;
        row.leases_lost += before.saturating_sub(after);
        scene.verify(&mut row)?;
    }
    row.leases = before;
    row.ok &= row.leases_lost == 0;
    Ok(row)
}

fn leased(scene: &Scene) -> Result<u64, Error> {
    Ok(scene.switch.api.get("/v1/status")?["leased"].as_u64().unwrap_or(0))
}
