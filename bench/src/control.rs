//! How fast tables are filled.

use crate::{Error, Work, frame::block, switch::InKernel};
use serde::Serialize;
use std::time::Instant;

const FLOWS: u32 = 1_000_000;

/// How fast tables are filled. Times are medians.
#[derive(Clone, Debug, Serialize)]
pub struct Control {
    /// How many flows are installed.
    pub flows: u32,
    /// Milliseconds until all of them are in the kernel's live table.
    pub install_ms: f64,
    /// The least of the rounds.
    pub install_ms_min: f64,
    /// The greatest of the rounds.
    pub install_ms_max: f64,
}

impl Control {
    /// Fills fresh tables, so often.
    pub(crate) fn measure(repeats: u32) -> Result<Self, Error> {
        let mut times = (0..repeats).map(|_| install()).collect::<Result<Vec<f64>, Error>>()?;
        times.sort_by(f64::total_cmp);
        let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
        let last = times.len().saturating_sub(1);
        Ok(Self { flows: FLOWS, install_ms: at(last / 2), install_ms_min: at(0), install_ms_max: at(last) })
    }
}

/// Milliseconds to fill a table that no page of has been touched.
fn install() -> Result<f64, Error> {
    let switch = InKernel::open(FLOWS)?;
    let start = Instant::now();
    Work::Unicast.install(&switch.tables, FLOWS)?;
    let took = start.elapsed();
    let last = block(FLOWS).slots().min(FLOWS) as usize - 1;
    // What is read back was installed.
    match switch.tables.slots()[last].flow() {
        Some(_) => Ok(took.as_secs_f64() * 1e3),
        None => Err(Error::Incomplete("last flow")),
    }
}
