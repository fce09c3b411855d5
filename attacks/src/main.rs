//! `flowlane-attacks`: tries attacks on a built switch, and shows what came of them.

use clap::Parser;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use flowlane_attacks::{Attack, Length, Row};
use std::{path::PathBuf, process::ExitCode};

/// Tries what a hostile port can do to a switch and to the hosts at its other ports; needs root.
///
/// Exits with 0 if no attack did harm, with 1 if one did.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The binary `flowlane` that is attacked
    #[arg(long, value_name = "PATH")]
    flowlane: PathBuf,
    /// Which attacks, by name or threat (T1 to T14); all where none is named
    names: Vec<String>,
    /// Seconds for each attack
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// Minutes for each attack
    #[arg(long)]
    long: bool,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> miette::Result<ExitCode> {
    let cli = Cli::parse();
    let attacks = Attack::named(&cli.names).map_err(|error| miette::miette!(help = "name one of those", "{error}"))?;
    let length = match (cli.quick, cli.long) {
        (true, _) => Length::Quick,
        (_, true) => Length::Long,
        _ => Length::Usual,
    };
    let rows: Vec<Row> = attacks.into_iter().map(|attack| run(attack, &cli, length)).collect();
    if cli.json {
        println!("{:#}", serde_json::json!({ "attacks": rows }));
    } else {
        println!("{}", table(&rows));
    }
    Ok(if rows.iter().all(|row| row.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(attack: &Attack, cli: &Cli, length: Length) -> Row {
    eprintln!("{} {}: {}", attack.threat, attack.name, attack.sentence);
    attack.run(&cli.flowlane, length)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "",
        "ATTACK",
        "OK",
        "SENT",
        "LOST",
        "MS IDLE (50 %, 99 %)",
        "MS ATTACKED",
        "SLOWDOWN",
        "WHAT CAME OF IT",
    ]);
    let latency = |median: Option<f64>, most: Option<f64>| match (median, most) {
        (Some(median), Some(most)) => format!("{median:.1}, {most:.1}"),
        _ => "-".into(),
    };
    for row in rows {
        table.add_row([
            row.threat.to_owned(),
            row.name.to_owned(),
            if row.ok { "yes" } else { "NO" }.to_owned(),
            row.bystander_frames_sent.to_string(),
            row.bystander_frames_lost.to_string(),
            latency(row.median_ms_idle, row.latency_ms_idle),
            latency(row.median_ms_attacked, row.latency_ms_attacked),
            row.slowdown.map_or("-".into(), |slowdown| format!("{slowdown:.2}")),
            what_came(row),
        ]);
    }
    table
}

fn what_came(row: &Row) -> String {
    let failures = row.failures.iter().map(|failure| format!("FAILED: {failure}"));
    failures.chain([row.detail.clone()]).collect::<Vec<_>>().join("; ")
}
