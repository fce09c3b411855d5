//! The simulation: one seed, or many.

use crate::{error::Error, process};
use clap::Args;

/// What to simulate.
#[derive(Args)]
pub struct Options {
    /// What says all that happens, any number; the first seed where there are several
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other: 10000 are the long mode
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How many steps of each seed
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    steps: u64,
    /// A fault in the simulated switch, which must be found: no-quarantine, acknowledged-unwritten, port-unchecked,
    /// closed-forgotten, path-untold or next-hop-misplaced
    #[arg(long)]
    bug: Option<String>,
    /// All that happens, a line each, on standard error
    #[arg(long)]
    trace: bool,
    /// The result as a line of JSON on standard output
    #[arg(long)]
    json: bool,
}

/// So many seeds take longer than an optimised build.
const MANY: u64 = 1_000;

/// Builds the simulation, optimised for many seeds, and runs it.
///
/// # Errors
/// [`Error::Failed`] where an invariant does not hold; what was broken has been told then.
pub fn run(options: &Options) -> Result<(), Error> {
    let mut cargo = process::cargo();
    let profile = if options.seeds.is_some_and(|seeds| seeds >= MANY) { "fast" } else { "dev" };
    cargo.args(["run", "--quiet", "--profile", profile, "--package", "flowlane-simulation", "--"]);
    cargo.args(["--seed", &options.seed.to_string(), "--steps", &options.steps.to_string()]);
    if let Some(seeds) = options.seeds {
        cargo.args(["--seeds", &seeds.to_string()]);
    }
    if let Some(bug) = &options.bug {
        cargo.args(["--bug", bug]);
    }
    let flags = [(options.trace, "--trace"), (options.json, "--json")];
    cargo.args(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag));
    process::run(&mut cargo)
}
