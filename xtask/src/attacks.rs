//! The attacks of a hostile port (`flowlane-attacks`), on the switch as it is now.

use crate::{error::Error, process, repository::Repository};
use clap::Args;
use std::process::Command;

/// What to try.
#[derive(Args)]
pub struct Options {
    /// Which attacks, by name or threat (T1 to T14); all where none is named
    names: Vec<String>,
    /// Seconds for each attack
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// Minutes for each attack
    #[arg(long)]
    long: bool,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Builds the attacks and the switch that they are on, as users run it, and tries them.
///
/// # Errors
/// [`Error::Failed`] where an attack does harm, and where it can not be tried, as without root.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    let packages = ["--package", "flowlane", "--package", "flowlane-attacks"];
    process::run(process::cargo().args(["build", "--quiet", "--release"]).args(packages))?;
    let built = repository.target.join("release");
    let mut attacks = Command::new(built.join("flowlane-attacks"));
    attacks.arg("--flowlane").arg(built.join("flowlane")).args(&options.names);
    let flags = [(options.quick, "--quick"), (options.long, "--long"), (options.json, "--json")];
    attacks.args(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag));
    process::run(&mut attacks)
}
