//! `flowlane demo`: two hosts, an intruder and a switch, in network namespaces of their own, with real traffic.

mod network;
mod report;
mod story;
mod switch;

use crate::{cli::DemoOptions, config::Executor, output::Output};
use flowlane_lab::Netns;
use miette::{IntoDiagnostic as _, Report, miette};
use report::Telling;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// Shows Flowlane at work. Every step is checked; a step that does not hold makes the command fail.
///
/// # Errors
/// Where the network of the demo can not be made, or the switch does not start.
pub fn run(options: &DemoOptions, output: Output) -> Result<ExitCode, Report> {
    let started = Instant::now();
    let capture = options.pcap.clone().unwrap_or_else(default_capture);
    let executor = enter(options.executor)?;
    let mut telling = Telling::new(output);
    telling.title();
    let story = story::Story::begin(executor, &capture)?;
    let report = story.tell(&mut telling, started)?;
    telling.end(&report)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Finds a place where network namespaces may be made: here, or in a user namespace of our own, where the kernel's
/// executors are out of reach. Must be called while the process has one thread.
fn enter(wanted: Executor) -> Result<Executor, Report> {
    if Netns::new("probe").is_ok() {
        return Ok(wanted);
    }
    if wanted.is_in_kernel() {
        let help = "run as root, or leave --executor out: the demo then uses af-packet in a user namespace";
        return Err(miette!(code = "FL0701", help = help, "the {} executor needs root", wanted.name()));
    }
    flowlane_lab::enter_user_namespace().into_diagnostic()?;
    Ok(Executor::AfPacket)
}

/// The capture goes to the current directory, or to the temporary one where that may not be written to: under a name of
/// the user's own, for others may have left theirs there.
fn default_capture() -> PathBuf {
    let here = Path::new("flowlane-demo.pcapng");
    let writable = std::fs::OpenOptions::new().append(true).create(true).open(here).is_ok();
    match std::env::current_dir() {
        Ok(directory) if writable => directory.join(here),
        _ => std::env::temp_dir().join(format!("flowlane-demo-{}.pcapng", nix::unistd::geteuid())),
    }
}
