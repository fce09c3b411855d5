//! Faults: what may go wrong, done to the built switch while it forwards (`flowlane-faults`).

use crate::{error::Error, process, repository::Repository};
use clap::{ArgGroup, Args};
use std::{path::PathBuf, process::Command};

/// Which faults, and how often.
#[derive(Args)]
#[command(group = ArgGroup::new("extent"))]
pub struct Options {
    /// Faults by name; without, all that are not for --long alone
    names: Vec<String>,
    /// Each some ten times; the default
    #[arg(long, group = "extent")]
    quick: bool,
    /// A thousand kills, a hundred replacements, a million flows; built with optimisation. Takes about an hour
    #[arg(long, group = "extent")]
    long: bool,
    /// Another build of `flowlane`, such as an earlier release: the two take turns in replace, layout-up and layout-down
    #[arg(long, value_name = "PROGRAM")]
    other: Option<PathBuf>,
    /// The same seed injects faults after the same pauses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Builds the switch and what harms it, and runs it.
///
/// # Errors
/// [`Error::Failed`] where something was lost, or could not be counted, as without root.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    let (profile, directory) = if options.long { ("fast", "fast") } else { ("dev", "debug") };
    let packages = ["--package", "flowlane", "--package", "flowlane-faults"];
    process::run(process::cargo().args(["build", "--quiet", "--profile", profile]).args(packages))?;
    let built = repository.target.join(directory);
    let mut faults = Command::new(built.join("flowlane-faults"));
    faults.args(&options.names).arg("--flowlane").arg(built.join("flowlane"));
    faults.args(["--seed", &options.seed.to_string()]);
    if let Some(other) = &options.other {
        faults.arg("--other").arg(other);
    }
    faults.arg(if options.long { "--long" } else { "--quick" }).args(options.json.then_some("--json"));
    process::run(&mut faults)
}
