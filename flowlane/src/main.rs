//! Flowlane: every network flow has an Ethernet address of its own.

mod api;
mod cli;
mod commands;
mod config;
mod exit;
mod output;
mod privileges;
mod switch;

use clap::Parser as _;
use cli::{Cli, Command};
use flowlane_lab::Netns;
use miette::{IntoDiagnostic as _, Report, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{SigHandler, Signal, signal},
};
use output::{Output, no_color, print_error};
use std::{
    fs::File,
    io::{IsTerminal as _, stderr},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => code,
        Err(report) => {
            print_error(&report, json);
            ExitCode::from(commands::exit_code(&report))
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { global, command } = cli;
    let output = Output::new(global.json);
    prepare(command.as_ref())?;
    if let Some(name) = &global.netns {
        enter(name)?;
    }
    match command.unwrap_or(Command::Status { host: false }) {
        Command::Demo(options) => commands::demo::run(&options, output),
        Command::Run(options) => commands::run::run(&global, &options, output),
        Command::Host(options) => commands::host::run(&global, &options, output),
        Command::Switch(options) => commands::switch::run(&options, output),
        Command::Flow(command) => commands::flow::run(&global, command, output),
        Command::Group(command) => commands::group::run(&global, command, output),
        Command::Table(command) => commands::table::run(&global, &command, output),
        Command::Trace(options) => commands::trace::run(&global, &options, output),
        Command::Replay(options) => commands::replay::run(&options, output),
        Command::Mark(options) => commands::mark::run(&options, output),
        Command::Status { host } => commands::status::run(&global, host, output),
        Command::Doctor(options) => commands::doctor::run(&global, &options, output),
        Command::Bench(options) => commands::bench::run(&options, output),
    }
}

/// Enters a network namespace, by its name or its path.
fn enter(name: &str) -> Result<()> {
    let entered = match name.contains('/') {
        true => File::open(name)
            .and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?))
            .map_err(|error| error.to_string()),
        false => Netns::named(name).and_then(|netns| netns.enter()).map_err(|error| error.to_string()),
    };
    entered.map_err(|error| {
        miette::miette!(
            code = "FL0002",
            help = "`ip netns` lists the namespaces; entering one takes root",
            "can not enter the network namespace {name}: {error}"
        )
    })
}

/// Errors, log and signals, before anything is done.
fn prepare(command: Option<&Command>) -> Result<()> {
    let colors = stderr().is_terminal() && !no_color();
    miette::set_hook(Box::new(move |_| Box::new(miette::MietteHandlerOpts::new().color(colors).build())))
        .into_diagnostic()?;
    let serves = matches!(command, Some(Command::Switch(_) | Command::Host(_)));
    let level = if serves { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colors).init();
    if !serves {
        // A command whose reader has gone ends in silence; a switch must not end with a client's connection.
        // SAFETY: the process has one thread, and the default action runs no code of ours.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.into_diagnostic()?;
    }
    Ok(())
}

/// A wrong command line, or a question for help or version.
fn not_understood(error: &clap::Error) -> ExitCode {
    let json = std::env::args().skip(1).any(|argument| argument == "-j" || argument == "--json");
    if json && error.use_stderr() {
        let text = error.to_string();
        let text = text.trim_start_matches("error: ").split("\n\nUsage:").next().unwrap_or_default().trim();
        print_error(&usage(text), true);
    } else {
        // Nothing can be done where even this fails.
        let _ = error.print();
    }
    ExitCode::from(error.exit_code() as u8)
}

fn usage(text: &str) -> Report {
    miette::miette!(code = "FL0001", help = "see: flowlane help", "{text}")
}
