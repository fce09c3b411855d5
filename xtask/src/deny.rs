//! What may be depended on, and from where: cargo-deny, by `deny.toml`, on every lock file of the repository.

use crate::{
    error::Error,
    process,
    repository::Repository,
    tools::{self, Tool},
};
use clap::Args;

const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
/// The product, what is in its objects for the kernel, and what looks for inputs: workspaces of their own.
const WORKSPACES: [&str; 3] = ["Cargo.toml", "data-path/kernel/Cargo.toml", "fuzz/Cargo.toml"];
/// What is known without asking anybody.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// What to check.
#[derive(Args, Default)]
pub struct Options {
    /// Known vulnerabilities too: asks the RustSec database, which is fetched from GitHub
    #[arg(long)]
    advisories: bool,
}

/// Checks the dependencies of all workspaces.
///
/// # Errors
/// [`Error::Failed`] where something is depended on that `deny.toml` does not allow; cargo-deny has said what and by whom.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    let program = CARGO_DENY.install(repository)?;
    for workspace in WORKSPACES {
        println!("{workspace}");
        let mut deny = tools::command(&program);
        deny.current_dir(&repository.root).args(["--locked", "--log-level", "error", "--manifest-path", workspace]);
        deny.arg("--config").arg(repository.path("deny.toml")).arg("check").args(CHECKS);
        process::run(deny.args(options.advisories.then_some("advisories")))?;
    }
    Ok(())
}

/// Whether [`run`] needs nothing to be built.
pub fn is_installed(repository: &Repository) -> bool {
    CARGO_DENY.find(repository).is_some()
}
