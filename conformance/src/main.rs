//! `flowlane-conformance`: every claim on every executor, and a table of what passed.

use clap::Parser;
use flowlane_conformance::{report, run};
use std::{fs, path::PathBuf, process::ExitCode};

/// Show every claim on every executor. Needs root.
///
/// Exit codes: 0 if every claim is shown on every executor and nothing failed, 1 if not, 2 if it could not be tried.
#[derive(Parser)]
struct Options {
    /// The binary `flowlane`, whose replay is one of the executors
    #[arg(long, value_name = "PATH")]
    flowlane: PathBuf,
    /// Print one JSON document
    #[arg(short, long)]
    json: bool,
    /// Write a page for the documents, if everything passed
    #[arg(long, value_name = "PATH")]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let results = match run(&options.flowlane, |executor| eprintln!("running all cases: {executor}")) {
        Ok(results) => results,
        Err(error) => {
            eprintln!("error: {error}; this needs root, and a kernel that takes the BPF object: see flowlane doctor");
            return ExitCode::from(2);
        }
    };
    if options.json {
        println!("{:#}", report::json(&results));
    } else {
        print!("{}", report::text(&results));
    }
    if !results.all_shown() {
        return ExitCode::from(1);
    }
    match options.page.map(|path| (fs::write(&path, report::page(&results)), path)) {
        Some((Err(error), path)) => {
            eprintln!("error: {} can not be written: {error}", path.display());
            ExitCode::from(2)
        }
        _ => ExitCode::SUCCESS,
    }
}
