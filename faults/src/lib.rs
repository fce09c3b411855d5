//! What may go wrong, done to a switch that forwards.
//!
//! Each fault ([`FAULTS`]) runs the built program on a path of its own, in network namespaces, under a load of frames that are
//! counted at both ends, and while leases are asked for. Its [`Row`] says what was lost.

mod api;
mod error;
mod faults;
mod ledger;
mod row;
mod scene;
mod switch;

pub use error::Error;
pub use faults::{FAULTS, Fault};
pub use row::Row;

use std::path::PathBuf;

/// How often faults are injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// As often as fits into the test command: under a minute for all.
    Brief,
    /// Some twenty times: minutes.
    Quick,
    /// A thousand times, and on a million flows.
    Long,
}

/// What is tested, and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program `flowlane`.
    pub program: PathBuf,
    /// Another build of it, that takes turns with the first where a switch is replaced.
    pub other: Option<PathBuf>,
    /// How often faults are injected.
    pub extent: Extent,
    /// The same seed injects faults after the same pauses.
    pub seed: u64,
}

impl Options {
    /// How often, by extent.
    fn times(&self, brief: u32, quick: u32, long: u32) -> u32 {
        match self.extent {
            Extent::Brief => brief,
            Extent::Quick => quick,
            Extent::Long => long,
        }
    }
}
