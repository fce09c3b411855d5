//! Fuzz targets: `fuzz/`, a workspace of its own.

use crate::{
    error::Error,
    process,
    repository::Repository,
    tools::{self, Tool},
};
use clap::Args;

const MANIFEST: &str = "fuzz/Cargo.toml";
/// The version that goes with the bolero of `fuzz/Cargo.lock`.
const CARGO_BOLERO: Tool = Tool { name: "cargo-bolero", version: "0.13.5" };

/// What to fuzz.
#[derive(Args)]
pub struct Options {
    /// Targets whose name has this in it, such as `dhcp6`; without it all, one after the other
    target: Option<String>,
    /// How long each of them is run
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// Lets libFuzzer look for inputs that make a target panic, for a time. Stops at the first that does.
///
/// # Errors
/// [`Error::NoFuzzTarget`] names the targets that there are; [`Error::Failed`] is a crash, whose input is then in
/// `fuzz/src/__fuzz__`.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    let all = targets()?;
    let wanted = options.target.as_deref().unwrap_or_default();
    let chosen: Vec<_> = all.iter().filter(|target| target.contains(wanted)).collect();
    if chosen.is_empty() {
        return Err(Error::NoFuzzTarget { wanted: wanted.into(), all: all.join(", ") });
    }
    let bolero = CARGO_BOLERO.install(repository)?;
    for target in chosen {
        println!("==> {target}");
        let mut command = tools::command(&bolero);
        command.current_dir(repository.path("fuzz"));
        // The sanitizers need a nightly compiler. There is nothing unsafe in what is fuzzed.
        command.args(["test", "--sanitizer", "NONE", "--target-dir"]).arg(repository.target.join("fuzz"));
        process::run(command.arg("-T").arg(format!("{}s", options.seconds)).arg(target))?;
    }
    Ok(())
}

/// The arguments for `cargo test` that try each target with random inputs for a second.
pub fn test_arguments() -> [&'static str; 3] {
    ["--locked", "--manifest-path", MANIFEST]
}

/// The names of all targets, as libtest lists them.
fn targets() -> Result<Vec<String>, Error> {
    let mut cargo = process::cargo();
    let listed = process::output(cargo.arg("test").args(test_arguments()).args(["--", "--list"]))?;
    Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(String::from).collect())
}
