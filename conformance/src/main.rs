//! `flowlane-conformance`: what takes longer than a test may.

use clap::{Args, Parser, Subcommand};
use flowlane_conformance::{
    Error,
    differential::{self, Report},
    report,
};
use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Shows that all executors of Flowlane's pipeline do what the specification says.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show every claim on every executor, and print what passed; needs root
    ///
    /// Exits with 0 if every claim is shown on every executor and nothing failed, with 1 if not.
    Claims(ClaimsOptions),
    /// Compare the model, userspace, XDP and tc on generated frames, bit for bit; needs root
    ///
    /// Exits with 0 if they are the same, with 1 if not, and then says which frame of which seed shows it.
    Differential(DifferentialOptions),
}

#[derive(Args)]
struct ClaimsOptions {
    /// The binary `flowlane`, whose replay is one of the executors
    #[arg(long, value_name = "PATH")]
    flowlane: PathBuf,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Write a page for the documents, if everything passed
    #[arg(long, value_name = "PATH")]
    page: Option<PathBuf>,
}

#[derive(Args)]
struct DifferentialOptions {
    /// How many frames
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    frames: u64,
    /// Where to start: the same seed gives the same tables and frames
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The result as a line of JSON
    #[arg(long)]
    json: bool,
    /// Go on with the next seeds, so many frames at a time, until there is a difference or somebody stops it
    #[arg(long)]
    forever: bool,
}

fn main() -> miette::Result<ExitCode> {
    match Cli::parse().command {
        Command::Claims(options) => claims(&options),
        Command::Differential(options) => differential(&options),
    }
}

fn claims(options: &ClaimsOptions) -> miette::Result<ExitCode> {
    let told = |executor: &str| eprintln!("running all cases: {executor}");
    let results = flowlane_conformance::run(&options.flowlane, told).map_err(|error| report_of(&error))?;
    if options.json {
        println!("{:#}", report::json(&results));
    } else {
        print!("{}", report::text(&results));
    }
    if !results.all_shown() {
        return Ok(ExitCode::FAILURE);
    }
    if let Some(page) = &options.page {
        let help = "name a file in a directory that exists and can be written";
        let failed = |error| miette::miette!(help = help, "can not write {}: {error}", page.display());
        fs::write(page, report::page(&results)).map_err(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn differential(options: &DifferentialOptions) -> miette::Result<ExitCode> {
    let mut seed = options.seed;
    loop {
        let report = compare(options.frames, seed).map_err(|error| report_of(&error))?;
        show(&report, options.json);
        if !report.differences.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        if !options.forever {
            return Ok(ExitCode::SUCCESS);
        }
        seed = seed.wrapping_add(differential::seeds(options.frames));
    }
}

fn compare(frames: u64, seed: u64) -> Result<Report, Error> {
    let start = Instant::now();
    let told = Mutex::new(start);
    differential::run(frames, seed, |done| {
        let Ok(mut told) = told.lock() else { return };
        if told.elapsed() > Duration::from_secs(5) || done == frames {
            *told = Instant::now();
            let rate = done as f64 / start.elapsed().as_secs_f64();
            eprintln!("seed {seed}: {done} of {frames} frames, {rate:.0} a second");
        }
    })
}

fn show(report: &Report, json: bool) {
    report.differences.iter().for_each(|difference| eprintln!("{difference}"));
    let Report { frames, seed, ends, differences } = report;
    let differing = differences.len();
    if json {
        println!("{}", serde_json::json!({ "frames": frames, "seed": seed, "differing": differing, "ends": ends }));
        return;
    }
    for (end, frames) in ends {
        println!("{end:15} {frames:>12}");
    }
    println!("{frames} frames from seed {seed}: {differing} differ");
}

fn report_of(error: &Error) -> miette::Report {
    let help =
        "namespaces, interfaces and programs in the kernel need root: run it with sudo, or in a privileged container";
    miette::miette!(help = help, "{error}")
}
