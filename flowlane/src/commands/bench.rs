//! `flowlane bench`: how fast frames are forwarded here, and by what users would take instead.

use crate::{cli::BenchOptions, exit, output::Output};
use caps::{CapSet, Capability, has_cap};
use flowlane_bench::{Bar, CleanUp, LeftOut, Plan, Report, Row, TcpRow, run as measure};
use miette::{Diagnostic, Result};
use std::process::ExitCode;

/// Why nothing is measured.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum BenchError {
    /// The process lacks a privilege.
    #[error("measuring takes root: this process may not load programs into the kernel, or not make network namespaces")]
    #[diagnostic(code(FL1001), help("run it as root: sudo flowlane bench"))]
    NotPermitted,
    /// Something does not work.
    #[error(transparent)]
    #[diagnostic(code(FL1002), help("`flowlane doctor` says what the kernel lacks"))]
    Bench(#[from] flowlane_bench::Error),
}

impl BenchError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotPermitted => exit::DENIED,
            Self::Bench(_) => exit::FAILED,
        }
    }
}

/// Measures and prints. Exit code 1 if something could not be measured, or does not count.
///
/// # Errors
/// [`BenchError`].
pub fn run(options: &BenchOptions, output: Output) -> Result<ExitCode> {
    let needed = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_SYS_NICE];
    if needed.iter().any(|needed| !has_cap(None, CapSet::Effective, *needed).unwrap_or(false)) {
        return Err(BenchError::NotPermitted.into());
    }
    let plan = Plan { repeats: options.repeats, ..if options.quick { Plan::quick() } else { Plan::whole() } };
    let plan = if options.only.is_empty() { plan } else { plan.only(&options.only).map_err(BenchError::from)? };
    let report = in_sight(&plan).map_err(BenchError::from)?;
    print(&report, output)?;
    Ok(super::passed(report.is_whole()))
}

/// Measures, shows how far it has come, and leaves nothing behind when a signal ends it.
fn in_sight(plan: &Plan) -> Result<Report, flowlane_bench::Error> {
    let mut bar = Bar::default();
    let cleanup = CleanUp::on_signals(bar.end())?;
    let report = measure(plan, &mut bar);
    cleanup.wait_for_the_end();
    report
}

fn print(report: &Report, output: Output) -> Result<()> {
    if output.json {
        return output.document(report);
    }
    let machine = &report.machine;
    let kind = if machine.is_virtual { "virtual processors" } else { "processors" };
    output.line(format!("{}, {} {kind}, Linux {}", machine.processor, machine.processors, machine.kernel))?;
    output.line(format!(
        "Processor time of generator, contestant and sink per frame; medians of {} measurements of {} ms.",
        report.repeats, report.window_ms
    ))?;
    output.line(format!("The generator alone makes {:.1} million frames a second.\n", report.generator_mpps))?;
    let heads =
        ["CONTESTANT", "WORK", "FLOWS", "OCTETS", "NS/FRAME", "MIN-MAX", "ABOVE FLOOR", "MFRAMES/S", "OF LIMIT"];
    output.table(&heads, report.rows.iter().map(columns))?;
    if !report.tcp.is_empty() {
        output.line("\nOne TCP connection, 10^9 bits a second:\n")?;
        output.table(&["CONTESTANT", "GBIT/S", "MIN-MAX", "OF TC LIMIT"], report.tcp.iter().map(tcp_columns))?;
    }
    for row in report.rows.iter().filter(|row| !row.valid) {
        let (lost, wrong) = (100.0 * row.lost, row.wrong);
        output.line(format!(
            "does not count: {}, {} flows, {} octets: {lost:.1} % lost, {wrong} with wrong addresses",
            row.contestant, row.flows, row.frame_bytes
        ))?;
    }
    for LeftOut { contestant, work, flows, why } in &report.left_out {
        output.line(format!("not measured: {contestant}, {work}, {flows} flows: {why}"))?;
    }
    if let Some(why) = &report.tcp_left_out {
        output.line(format!("not measured: one TCP connection: {why}"))?;
    }
    Ok(())
}

fn tcp_columns(row: &TcpRow) -> Vec<String> {
    vec![
        row.contestant.to_owned(),
        format!("{:.1}", row.gbit_per_second),
        format!("{:.1}-{:.1}", row.gbit_min, row.gbit_max),
        super::or_hyphen(row.ratio_to_tc_limit.map(|ratio| format!("{ratio:.2}"))),
    ]
}

fn columns(row: &Row) -> Vec<String> {
    vec![
        row.contestant.to_owned(),
        row.work.to_owned(),
        row.flows.to_string(),
        row.frame_bytes.to_string(),
        format!("{:.0}", row.ns_per_packet),
        format!("{:.0}-{:.0}", row.ns_min, row.ns_max),
        super::or_hyphen(row.ns_above_floor.map(|ns| format!("{ns:.0}"))),
        format!("{:.2}", row.mpps),
        super::or_hyphen(row.ratio_to_limit.filter(|_| row.valid).map(|ratio| format!("{ratio:.2}"))),
    ]
}
