//! The whole benchmark, with peers that have to be installed: measures, and writes docs/performance.{json,md,svg}.

mod figures;
mod page;
mod picture;
mod report;

use self::report::Report;
use crate::{apt, error::Error, process, repository::Repository};
use caps::{CapSet, Capability, has_cap};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fs,
    process::{Command, ExitCode, Stdio},
};

const PACKAGES: [&str; 6] =
    ["dpdk-dev", "iperf3", "kea-admin", "kea-dhcp6-server", "openvswitch-switch", "openvswitch-switch-dpdk"];
const JSON: &str = "docs/performance.json";
const PAGE: &str = "docs/performance.md";
const PICTURE: &str = "docs/performance.svg";
/// Instructions of the userspace pipeline, which `cargo xtask cost` counts.
const COST: &str = "bench/cost.json";
/// What is measured by a process of its own, with the program `flowlane`.
const REQUESTS: &str = "requests";

/// How to measure.
#[derive(Args)]
pub struct Options {
    /// Print the report as JSON on standard output
    #[arg(long)]
    json: bool,
    /// How often each contestant is measured, in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Measure only these, and write no file: contestants as the table names them, `tcp`, `install`, `requests`
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure nothing; draw the tables and the picture anew from docs/performance.json
    #[arg(long, conflicts_with = "only")]
    draw: bool,
}

/// Measures unless told otherwise, and draws. The exit code is 1 where something could not be measured, or does not count.
///
/// # Errors
/// [`Error::Failed`] where nothing can be measured, [`Error::Measuring`] without root.
pub fn run(repository: &Repository, options: &Options) -> Result<ExitCode, Error> {
    let path = repository.path(JSON);
    let document = if options.draw {
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        serde_json::from_str(&text).map_err(Error::json(JSON))?
    } else {
        measure(repository, options)?
    };
    let report: Report = serde_json::from_value(document.clone()).map_err(Error::json("the report"))?;
    let cost = repository.path(COST);
    let cost = fs::read_to_string(&cost).map_err(Error::file("read", &cost))?;
    let cost = serde_json::from_str(&cost).map_err(Error::json(COST))?;
    let figures = figures::all(&report, &cost);
    if options.only.is_empty() {
        write(repository, &document, &report, &figures)?;
    }
    if options.json {
        println!("{document:#}");
    } else {
        print!("{}", page::tables(&report, &figures));
    }
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(repository: &Repository, options: &Options) -> Result<Value, Error> {
    let needed = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_SYS_NICE];
    if needed.iter().any(|needed| !has_cap(None, CapSet::Effective, *needed).unwrap_or(false)) {
        return Err(Error::Measuring);
    }
    if let Err(error) = apt::install(&PACKAGES) {
        eprintln!("warning: {error}\nwhat needs one that is missing is left out");
    }
    let packages = ["--package", "flowlane-bench", "--package", "flowlane"];
    process::run(process::cargo().args(["build", "--quiet", "--release"]).args(packages))?;
    let program = repository.target.join("release/flowlane-bench");
    let mut all = Command::new(&program);
    all.args(["all", "--repeats", &options.repeats.to_string()]);
    if !options.only.is_empty() {
        all.args(["--only", &options.only.join(",")]);
    }
    let mut document = said(&mut all)?;
    if options.only.is_empty() || options.only.iter().any(|name| name == REQUESTS) {
        eprintln!("leases by DHCPv6, of the switch and of Kea");
        match said(Command::new(&program).arg(REQUESTS).arg(repository.target.join("release/flowlane"))) {
            Ok(requests) => document[REQUESTS] = requests,
            Err(error) => leave_out(&mut document, &error),
        }
    }
    Ok(document)
}

/// What a part of the benchmark prints. What it is at is said meanwhile.
fn said(command: &mut Command) -> Result<Value, Error> {
    let text = process::output(command.stderr(Stdio::inherit()))?;
    serde_json::from_str(&text).map_err(Error::json("the report"))
}

fn leave_out(document: &mut Value, error: &Error) {
    if let Some(left_out) = document["left_out"].as_array_mut() {
        left_out.push(json!({ "contestant": REQUESTS, "work": "leases", "flows": 0, "why": error.to_string() }));
    }
}

fn write(repository: &Repository, document: &Value, report: &Report, figures: &[figures::Figure]) -> Result<(), Error> {
    let write = |name: &str, text: String| {
        let path = repository.path(name);
        fs::write(&path, text).map_err(Error::file("written", &path))
    };
    let page = repository.path(PAGE);
    let before = fs::read_to_string(&page).map_err(Error::file("read", &page))?;
    let after = page::with_tables(&before, &page::tables(report, figures)).ok_or(Error::NoPlace(PAGE))?;
    write(JSON, format!("{document:#}\n"))?;
    write(PAGE, after)?;
    write(PICTURE, picture::draw(report).map_err(Error::Picture)?)
}
