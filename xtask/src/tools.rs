//! Cargo's tools by others: built once, into `target/tools`.

use crate::{error::Error, process, repository::Repository};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A tool, by its package and version.
pub struct Tool {
    /// The package, and its program.
    pub name: &'static str,
    /// The only version that is used: another may say something else of the same sources.
    pub version: &'static str,
}

impl Tool {
    /// The program, built if it is not there, with the dependencies that its authors tested it with.
    ///
    /// Without optimisation: what these tools do takes seconds, an optimised build minutes.
    pub fn install(&self, repository: &Repository) -> Result<PathBuf, Error> {
        let root = repository.target.join("tools");
        if let Some(program) = self.find(repository) {
            return Ok(program);
        }
        let mut cargo = process::cargo();
        cargo.args(["install", "--locked", "--debug", "--force", self.name, "--version", self.version, "--root"]);
        process::run(cargo.arg(&root).env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0"))?;
        Ok(self.program(&root))
    }

    /// The program, if it is there in the right version.
    pub fn find(&self, repository: &Repository) -> Option<PathBuf> {
        let root = repository.target.join("tools");
        // Where cargo keeps what it has installed: `"cargo-deny 0.20.2 (registry+…)" = ["cargo-deny"]`.
        let installed = fs::read_to_string(root.join(".crates.toml")).ok()?;
        let line = format!("\"{} {} ", self.name, self.version);
        Some(self.program(&root)).filter(|program| installed.contains(&line) && program.is_file())
    }

    fn program(&self, root: &Path) -> PathBuf {
        root.join("bin").join(self.name)
    }
}

/// A command of a tool, started as cargo starts it.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    command.env_remove("LD_LIBRARY_PATH").arg(name.trim_start_matches("cargo-"));
    command
}
