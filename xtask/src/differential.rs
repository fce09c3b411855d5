//! The differential test: every executor of the pipeline against the model (`flowlane-conformance differential`).

use crate::{error::Error, process};
use clap::Args;

/// As many frames as `cargo xtask test` compares.
pub const FRAMES: u64 = 10_000_000;

/// What to compare.
#[derive(Args)]
pub struct Options {
    /// How many frames
    #[arg(long, default_value_t = FRAMES, value_parser = clap::value_parser!(u64).range(1..))]
    frames: u64,
    /// Where to start: the same seed gives the same tables and frames
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The result as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// Features of flowlane-conformance to build with: `seeded-bug` is a fault that must be found
    #[arg(long, value_name = "FEATURE")]
    features: Vec<String>,
    /// Go on with the next seeds, so many frames at a time, until there is a difference or somebody stops it
    #[arg(long)]
    forever: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { frames: FRAMES, seed: 1, json: false, features: Vec::new(), forever: false }
    }
}

/// Builds the comparison, optimised but without link-time optimisation, and runs it.
///
/// # Errors
/// [`Error::Failed`] where an executor differs, and where the comparison can not be made, as without root.
pub fn run(options: &Options) -> Result<(), Error> {
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--profile", "fast", "--package", "flowlane-conformance"]);
    for feature in &options.features {
        cargo.args(["--features", feature]);
    }
    cargo.args(["--", "differential", "--frames", &options.frames.to_string(), "--seed", &options.seed.to_string()]);
    let flags = [(options.json, "--json"), (options.forever, "--forever")];
    cargo.args(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag));
    process::run(&mut cargo)
}
