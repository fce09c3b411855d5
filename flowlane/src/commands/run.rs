//! `flowlane run`: a program in flows of its own, or a cgroup, or a network namespace.

mod hold;
mod program;

pub use program::{leave_session, transient};

use crate::{
    cli::{Global, RunOptions},
    commands::daemon::DaemonError,
    exit,
    output::{Output, message},
};
use flowlane_client::RunRequest;
use flowlane_host::cgroup::CgroupError;
use miette::{Diagnostic, Result};
use std::{io, path::PathBuf, process::ExitCode};

/// Why nothing was run.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum RunError {
    /// The command line names nothing.
    #[error("nothing is named that could be put into flows")]
    #[diagnostic(
        code(FL0902),
        help("flowlane run -- CMD, or --cgroup PATH, or --netns NAME for all of a network namespace")
    )]
    Nothing,
    /// The program can not be executed.
    #[error("can not run {program}")]
    #[diagnostic(code(FL0903), help("name a program that is in PATH, or its path"))]
    Program {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A daemon could not be started for it.
    #[error("the daemon could not be started: {reason}")]
    #[diagnostic(code(FL0904), help("`flowlane doctor` checks what it needs; its log is {}", log.display()))]
    Daemon {
        /// What it said.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// The daemon has gone, and none has come in its place.
    #[error("the daemon has ended, and with it the flows")]
    #[diagnostic(code(FL0905), help("start it again as root, by `flowlane host`, and then this command"))]
    Ended,
    /// The cgroup can not be used.
    #[error(transparent)]
    #[diagnostic(code(FL0906), help("/proc/PID/cgroup and `systemd-cgls` name the cgroups that there are"))]
    Cgroup(#[from] CgroupError),
    /// The cgroup's processes do not share a network.
    #[error("the processes of {} are in {count} network namespaces", cgroup.display())]
    #[diagnostic(code(FL0907), help("name a cgroup below it, or say which one is meant by --netns /proc/PID/ns/net"))]
    Namespaces {
        /// The cgroup.
        cgroup: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// What only root may do.
    #[error("only root may put {0} into flows")]
    #[diagnostic(code(FL0908), help("sudo flowlane run ..."))]
    RootOnly(&'static str),
    /// The system did not do it.
    #[error("can not {what}")]
    #[diagnostic(code(FL0909), help("run as root, with /proc mounted"))]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl RunError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Nothing | Self::Namespaces { .. } => exit::USAGE,
            Self::Program { source, .. } if source.kind() == io::ErrorKind::NotFound => exit::NOT_FOUND,
            Self::Program { .. } => exit::NOT_EXECUTABLE,
            Self::Daemon { .. } | Self::Ended => exit::UNREACHABLE,
            Self::Cgroup(CgroupError::NoCgroup(_)) => exit::USAGE,
            Self::RootOnly(_) => exit::DENIED,
            Self::Cgroup(_) | Self::System { .. } => exit::FAILED,
        }
    }

    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Puts something into flows. Where it is a program, this process becomes it.
///
/// # Errors
/// [`RunError`], [`DaemonError`].
pub fn run(global: &Global, options: &RunOptions, output: Output) -> Result<ExitCode> {
    match (&options.cgroup, options.command.is_empty()) {
        (_, false) => become_program(global, options, output),
        (Some(path), true) => hold::cgroup(global, path, options, output),
        (None, true) if global.netns.is_some() => hold::namespace(global, options, output),
        (None, true) => Err(RunError::Nothing.into()),
    }
}

/// Asks for flows, and executes the program. Where there are none to be had, it is executed without, unless they are
/// required or somebody says that it must not be.
fn become_program(global: &Global, options: &RunOptions, output: Output) -> Result<ExitCode> {
    let words: Vec<_> = options.command.iter().map(|word| word.to_string_lossy()).collect();
    let request = RunRequest { command: words.join(" "), wishes: options.wishes() };
    let asked = program::daemon(global).and_then(|client| Ok(client.run(&request).map_err(DaemonError)?));
    if let Err(report) = asked {
        if options.require || report.downcast_ref().is_some_and(DaemonError::forbids) {
            return Err(report);
        }
        let program = words.first().map(AsRef::as_ref).unwrap_or_default();
        output.say(format!("flowlane: {program} runs without flows: {}", message(&report)));
    }
    Err(program::execute(&options.command).into())
}
