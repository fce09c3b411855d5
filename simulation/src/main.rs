//! `flowlane-simulation`: simulates one seed, or many. `cargo xtask simulate` builds it optimised and runs it.

use clap::Parser;
use flowlane_simulation::{Bug, Options, Report, run};
use serde::Serialize;
use std::process::ExitCode;

/// Simulates hosts, switches, disks and clocks, and checks after each step what must never happen.
#[derive(Parser)]
struct Cli {
    /// What says all that happens; the first seed where there are several
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How many steps of each seed
    #[arg(long, default_value_t = 3_000)]
    steps: u64,
    /// A fault in the simulated switch, which must be found
    #[arg(long)]
    bug: Option<Bug>,
    /// All that happens, a line each, on standard error
    #[arg(long)]
    trace: bool,
    /// The result as a line of JSON on standard output
    #[arg(long)]
    json: bool,
}

/// What came of many seeds.
#[derive(Serialize)]
struct Summary {
    /// The first seed.
    seed: u64,
    /// How many seeds.
    seeds: u64,
    /// The steps of all.
    steps: u64,
    /// The seeds that broke an invariant.
    violations: u64,
    /// All seeds' hashes, added as numbers of 128 bits.
    trace_hash: String,
    /// How much time went by for the simulated, in milliseconds.
    simulated_ms: u64,
    /// The reports of the seeds that broke an invariant.
    failed: Vec<Report>,
}

/// How often the progress is told, in seeds.
const PROGRESS: u64 = 500;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let violations = match cli.seeds {
        None => one(&cli),
        Some(seeds) => many(&cli, seeds),
    };
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Cli {
    fn options(&self, seed: u64) -> Options {
        Options { seed, steps: self.steps, bug: self.bug, trace: self.trace }
    }
}

fn one(cli: &Cli) -> u64 {
    let report = run(cli.options(cli.seed));
    if cli.json {
        print_json(&report);
    } else {
        print_rows(&report);
        report.violation.iter().for_each(|_| print_violation(&report));
    }
    report.violations
}

fn many(cli: &Cli, seeds: u64) -> u64 {
    let mut summary = Summary {
        seed: cli.seed,
        seeds,
        steps: 0,
        violations: 0,
        trace_hash: String::new(),
        simulated_ms: 0,
        failed: Vec::new(),
    };
    let mut hash = 0_u128;
    for done in 0..seeds {
        let report = run(cli.options(cli.seed.wrapping_add(done)));
        hash = hash.wrapping_add(u128::from_str_radix(&report.trace_hash, 16).unwrap_or(0));
        summary.steps += report.steps;
        summary.simulated_ms += report.simulated_ms;
        summary.violations += report.violations;
        if report.violation.is_some() {
            summary.failed.push(report);
        }
        if (done + 1) % PROGRESS == 0 {
            eprintln!("{} of {seeds} seeds, {} violations", done + 1, summary.violations);
        }
    }
    summary.trace_hash = format!("{hash:032x}");
    if cli.json {
        print_json(&summary);
    } else {
        summary.failed.iter().for_each(print_violation);
        print_rows(&Summary { failed: Vec::new(), ..summary });
    }
    summary.violations
}

fn print_json(result: &impl Serialize) {
    // Numbers, texts and lists of them: nothing that JSON can not say.
    println!("{}", serde_json::to_string(result).unwrap_or_default());
}

/// A row for each figure.
fn print_rows(result: &impl Serialize) {
    let value = serde_json::to_value(result).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    for (name, value) in fields.filter(|(name, _)| !matches!(name.as_str(), "failed" | "violation")) {
        match value.as_object() {
            Some(counts) => counts.iter().for_each(|(name, count)| println!("  {name:<18} {count}")),
            None => println!("{name:<20} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        }
    }
}

fn print_violation(report: &Report) {
    let Some(violation) = &report.violation else { return };
    println!("seed {}, step {}: {:?}: {}", report.seed, violation.step, violation.invariant, violation.text);
    violation.trace.iter().for_each(|line| println!("    {line}"));
    println!("  again: {}", violation.replay);
}
