//! Injects faults into a switch that forwards, and says what was lost: what `cargo xtask faults` runs.

use clap::{ArgGroup, Parser};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use flowlane_faults::{Extent, FAULTS, Fault, Options, Row};
use std::{path::PathBuf, process::ExitCode};

/// Injects faults into a switch that forwards, and says what was lost. Needs root.
#[derive(Parser)]
#[command(name = "flowlane-faults", group = ArgGroup::new("extent"))]
struct Arguments {
    /// Faults by name; without, all
    #[arg(value_parser = fault)]
    names: Vec<&'static Fault>,
    /// The program `flowlane`
    #[arg(long)]
    flowlane: PathBuf,
    /// Another build of it, which takes turns with the first in `replace`, `layout-up` and `layout-down`
    #[arg(long)]
    other: Option<PathBuf>,
    /// As often as fits into the test command
    #[arg(long, group = "extent")]
    brief: bool,
    /// Some twenty times; the default
    #[arg(long, group = "extent")]
    quick: bool,
    /// A thousand times, and with a million flows
    #[arg(long, group = "extent")]
    long: bool,
    /// The same seed injects faults after the same pauses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let extent = match (arguments.brief, arguments.long) {
        (true, _) => Extent::Brief,
        (_, true) => Extent::Long,
        _ => Extent::Quick,
    };
    let Arguments { flowlane: program, other, seed, .. } = arguments;
    let options = Options { program, other, extent, seed };
    let all = FAULTS.iter().filter(|fault| !fault.is_long || extent == Extent::Long).collect();
    let faults: Vec<&Fault> = if arguments.names.is_empty() { all } else { arguments.names };
    let rows: Vec<Row> = faults.into_iter().flat_map(|fault| inject(fault, &options)).collect();
    if arguments.json {
        println!("{:#}", serde_json::json!({ "faults": rows }));
    } else {
        println!("{}", table(&rows));
    }
    if rows.iter().all(|row| row.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn inject(fault: &Fault, options: &Options) -> Vec<Row> {
    let one = |executor: &&'static str| {
        let on = if *executor == "-" { String::new() } else { format!(" on {executor}") };
        eprintln!("{}{on}: {}", fault.name, fault.about);
        fault.inject(options, executor)
    };
    fault.executors.iter().map(one).collect()
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "FAULT",
        "EXECUTOR",
        "OK",
        "TIMES",
        "SENT",
        "LOST",
        "DOUBLED",
        "FRAMES/S",
        "LEASES",
        "LOST",
        "TWO OWNERS",
        "MS",
        "",
    ]);
    for row in rows {
        table.add_row([
            row.name.to_owned(),
            row.executor.to_owned(),
            if row.ok { "yes" } else { "NO" }.to_owned(),
            row.times.to_string(),
            row.frames_sent.to_string(),
            row.frames_lost.to_string(),
            row.frames_duplicated.to_string(),
            row.frames_per_second.to_string(),
            row.leases.to_string(),
            row.leases_lost.to_string(),
            row.double_owners.to_string(),
            row.recovery_ms.map_or_else(|| "-".into(), |ms| ms.to_string()),
            row.note.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn fault(name: &str) -> Result<&'static Fault, String> {
    let all = || FAULTS.iter().map(|fault| fault.name).collect::<Vec<_>>().join(", ");
    Fault::named(name).ok_or_else(|| format!("there are: {}", all()))
}
