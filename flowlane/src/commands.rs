//! What each command does.

pub mod bench;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod flow;
pub mod group;
pub mod host;
pub mod mark;
pub mod replay;
pub mod run;
pub mod status;
pub mod switch;
pub mod table;
pub mod trace;

use crate::{
    api::client::{Client, ClientError},
    cli::{Global, RemoteOptionsError},
    config::ConfigError,
    exit,
    switch::{
        api::{RemoteError, ServeError},
        error::StartError,
    },
};
use bench::BenchError;
use daemon::DaemonError;
use flow::dhcp6::Dhcp6Error;
use host::HostError;
use mark::MarkError;
use miette::{IntoDiagnostic as _, Report, Result};
use replay::ReplayError;
use run::RunError;
use std::process::ExitCode;
use trace::TraceError;

/// The exit code of a command that ends with an error.
pub fn exit_code(report: &Report) -> u8 {
    let codes = [
        report.downcast_ref().map(ClientError::exit_code),
        report.downcast_ref().map(Dhcp6Error::exit_code),
        report.downcast_ref().map(BenchError::exit_code),
        report.downcast_ref().map(DaemonError::exit_code),
        report.downcast_ref().map(HostError::exit_code),
        report.downcast_ref().map(RunError::exit_code),
        report.downcast_ref().map(MarkError::exit_code),
        report.downcast_ref().map(StartError::exit_code),
        report.downcast_ref().map(ServeError::exit_code),
        report.downcast_ref().map(ReplayError::exit_code),
        report.downcast_ref().map(TraceError::exit_code),
        report.downcast_ref::<ConfigError>().map(|_| exit::USAGE),
        report.downcast_ref::<RemoteError>().map(|_| exit::USAGE),
        report.downcast_ref::<RemoteOptionsError>().map(|_| exit::USAGE),
    ];
    codes.into_iter().flatten().next().unwrap_or(exit::FAILED)
}

/// Asks the switch.
fn ask<T>(global: &Global, work: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T> {
    let address = global.address()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    let done = runtime.block_on(async { work(&mut Client::connect(&address).await?).await });
    Ok(done?)
}

/// The exit code of a check.
fn passed(ok: bool) -> ExitCode {
    ExitCode::from(if ok { exit::DONE } else { exit::FAILED })
}

/// A duration for people: its two largest units.
fn for_people(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

/// A rate for people, in bits per second.
fn rate_for_people(rate: u64) -> String {
    match rate {
        r if r >= 1_000_000_000 && r % 100_000_000 == 0 => format!("{}G", r as f64 / 1e9),
        r if r >= 1_000_000 && r % 100_000 == 0 => format!("{}M", r as f64 / 1e6),
        r if r >= 1_000 && r % 100 == 0 => format!("{}k", r as f64 / 1e3),
        r => r.to_string(),
    }
}

/// A value, or a hyphen in its place.
fn or_hyphen(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
