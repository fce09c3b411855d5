//! Flowlane: every network flow has an Ethernet address of its own.

mod api;
mod cli;
mod commands;
mod config;
mod exit;
mod output;
mod switch;

use clap::Parser as _;
use cli::{Cli, Command};
use miette::{IntoDiagnostic as _, Report, Result};
use nix::sys::signal::{SigHandler, Signal, signal};
use output::{Output, no_color, print_error};
use std::{
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
        flowlane_lab::Netns::named(name).and_then(|netns| netns.enter()).map_err(|error| {
            miette::miette!(
                code = "FL0002",
                help = "`ip netns` lists the namespaces; entering one takes root",
                "{error}"
            )
        })?;
    }
    match command.unwrap_or(Command::Status) {
        Command::Demo(options) => commands::demo::run(&options, output),
        Command::Switch(options) => commands::switch::run(&options, output),
        Command::Flow(command) => commands::flow::run(&global, command, output),
        Command::Group(command) => commands::group::run(&global, command, output),
        Command::Table(command) => commands::table::run(&global, &command, output),
        Command::Trace(options) => commands::trace::run(&global, &options, output),
        Command::Replay(options) => commands::replay::run(&options, output),
        Command::Mark(options) => commands::mark::run(&options, output),
        Command::Status => commands::status::run(&global, output),
        Command::Doctor(options) => commands::doctor::run(&options, output),
    }
}

/// Errors, log and signals, before anything is done.
fn prepare(command: Option<&Command>) -> Result<()> {
    let colors = stderr().is_terminal() && !no_color();
    miette::set_hook(Box::new(move |_| Box::new(miette::MietteHandlerOpts::new().color(colors).build())))
        .into_diagnostic()?;
    let serves = matches!(command, Some(Command::Switch(_)));
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
