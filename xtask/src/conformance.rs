//! Every claim on every executor.

use crate::{error::Error, process, repository::Repository};
use clap::Args;
use std::{fs, path::Path, process::Command};

/// How to show the claims.
#[derive(Args)]
pub struct Options {
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// The page that says how many cases each executor passes.
const PAGE: &str = "docs/conformance.md";

/// Runs the suite, and writes the page where everything passed.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    suite(repository, options.json, &repository.path(PAGE))
}

/// Runs the suite, and compares the page with the committed one.
pub fn check(repository: &Repository) -> Result<(), Error> {
    let (committed, present) = (repository.path(PAGE), repository.target.join("conformance.md"));
    suite(repository, false, &present)?;
    let read = |path: &Path| fs::read(path).map_err(Error::file("read", path));
    if read(&committed)? == read(&present)? { Ok(()) } else { Err(Error::StalePage(PAGE)) }
}

/// Builds the suite, and the binary whose replay is one of the executors.
fn suite(repository: &Repository, json: bool, page: &Path) -> Result<(), Error> {
    let packages = ["--package", "flowlane", "--package", "flowlane-conformance"];
    process::run(process::cargo().arg("build").args(packages))?;
    let built = repository.target.join("debug");
    let mut suite = Command::new(built.join("flowlane-conformance"));
    suite
        .args(["claims", "--flowlane"])
        .arg(built.join("flowlane"))
        .arg("--page")
        .arg(page)
        .args(json.then_some("--json"));
    process::run(&mut suite)
}
