//! `flowlane host`: this host's daemon, which puts programs into flows.

use crate::{
    cli::{Global, HostOptions},
    commands::{or_hyphen, rate_for_people, run},
    config::HostConfig,
    exit,
    output::Output,
    privileges,
};
use caps::Capability;
use flowlane_client::socket;
use flowlane_host::{
    daemon::{Daemon, DaemonError, Ended, Options},
    guard::guard,
    server::Server,
};
use miette::{Diagnostic, Result};
use nix::unistd::geteuid;
use serde_json::json;
use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};
use tokio::sync::mpsc;

/// How many requests wait for the daemon at most; who asks more waits.
const COMMANDS: usize = 64;

/// What the daemon keeps of root's capabilities: to load programs and attach them, to ask by DHCPv6, to look at all users'
/// processes and enter their namespaces, and to move them between cgroups, whoever's these are.
const KEPT: [Capability; 12] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RESOURCE,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_KILL,
];

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum HostError {
    /// It can not begin, or go on.
    #[error(transparent)]
    #[diagnostic(code(FL0911), help("run it as root; `flowlane doctor` checks what it needs"))]
    Daemon(#[from] DaemonError),
    /// It can not be asked.
    #[error("can not listen on {}", path.display())]
    #[diagnostic(code(FL0912), help("the runtime directory is named by --runtime-directory; it must be root's"))]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system did not do it.
    #[error("the system does not do it")]
    #[diagnostic(code(FL0913), help("run it as root, with /proc mounted"))]
    System(#[from] io::Error),
}

impl HostError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Daemon(DaemonError::Running(_)) => exit::CONFLICT,
            _ if !geteuid().is_root() => exit::DENIED,
            _ => exit::FAILED,
        }
    }
}

/// Runs it until it is told to end, or starts it.
///
/// # Errors
/// A [`crate::config::ConfigError`], [`HostError`].
pub fn run(global: &Global, options: &HostOptions, output: Output) -> Result<ExitCode> {
    if options.guard {
        guard(&global.runtime_directory).map_err(HostError::System)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = HostConfig::read(options.config.as_deref())?;
    if options.check_config {
        describe(global, &config, output)?;
    } else if options.background {
        run::transient(global, &arguments(options))?;
    } else {
        if options.detached {
            run::leave_session();
        }
        serve(global, config, options.transient)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves until a signal ends it, or until the last run has ended if it is there for one. After SIGHUP this process executes
/// itself anew, and goes on with what is in the kernel.
fn serve(global: &Global, config: HostConfig, transient: bool) -> Result<(), HostError> {
    if let Err(error) = flowlane_host::cgroup::make_visible() {
        tracing::warn!("no program can be put into flows: {error}");
    }
    give_up();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(daemon(global, config, transient))? {
        Ended::Undone | Ended::Succeeded => Ok(()),
        Ended::Reload => Err(execute_anew().into()),
    }
}

/// Gives up what a daemon does not need, also for what it executes: its guard, nft, and itself anew. Before the first
/// thread.
fn give_up() {
    let done = privileges::no_new().map_err(|error| error.to_string());
    let done = done.and_then(|()| privileges::keep(KEPT).map_err(|error| error.to_string()));
    if let Err(error) = done {
        tracing::warn!("the daemon keeps more privileges than it needs: {error}");
    }
}

async fn daemon(global: &Global, config: HostConfig, transient: bool) -> Result<Ended, HostError> {
    let runtime_directory = std::path::absolute(&global.runtime_directory)?;
    let guard = vec![env::current_exe()?.into(), "--runtime-directory".into(), runtime_directory.clone().into()];
    let guard = [guard, vec!["host".into(), "--guard".into()]].concat();
    let HostConfig { policy, interfaces, max_runs, mechanism } = config;
    let options = Options { runtime_directory, transient, interfaces, max_runs, mechanism, guard };
    let daemon = Daemon::start(options).await?;
    let socket = daemon.socket().to_owned();
    let listening = Server::listen(&socket).map_err(|source| HostError::Socket { path: socket.clone(), source })?;
    tracing::info!(socket = %socket.display(), "programs may ask for flows");
    let (commands, asked) = mpsc::channel(COMMANDS);
    let serving = async move { listening.serve(policy, commands).await };
    tokio::select! {
        never = serving => match never {},
        ended = daemon.serve(asked) => Ok(ended?),
    }
}

/// Returns only where it fails.
fn execute_anew() -> io::Error {
    let arguments = env::args_os().skip(1);
    match env::current_exe() {
        Ok(program) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}

/// What a daemon in the background is told.
fn arguments(options: &HostOptions) -> Vec<OsString> {
    let config = options.config.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    let config = config.flat_map(|path| [OsString::from("--config"), path.into()]);
    let transient = options.transient.then(|| "--transient".into());
    config.chain(transient).collect()
}

fn describe(global: &Global, config: &HostConfig, output: Output) -> Result<()> {
    let HostConfig { policy, interfaces, max_runs, mechanism } = config;
    let socket = socket(&global.runtime_directory).ok();
    if output.json {
        return output.document(&json!({
            "allow_users": policy.users,
            "allow_groups": policy.groups,
            "max_rate": policy.max_rate,
            "max_paths": policy.max_paths,
            "max_runs": max_runs,
            "require": policy.require,
            "interfaces": interfaces,
            "mechanism": mechanism,
            "socket": socket,
        }));
    }
    let numbers = |numbers: &[u32]| match numbers {
        [] => "none".to_owned(),
        some => some.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    };
    let lines = [
        ("users", format!("root, and by number: {}", numbers(&policy.users))),
        ("groups", format!("by number: {}", numbers(&policy.groups))),
        ("rate", policy.max_rate.map_or("any".to_owned(), |rate| format!("at most {}bit/s", rate_for_people(rate)))),
        ("paths", format!("at most {}", policy.max_paths)),
        ("runs", format!("at most {max_runs} of a user")),
        ("flows", if policy.require { "required" } else { "used where there are any" }.to_owned()),
        ("interfaces", interfaces.as_ref().map_or("all".to_owned(), |names| names.join(", "))),
        ("mechanism", mechanism.name().to_owned()),
        ("socket", or_hyphen(socket.as_deref().map(Path::display))),
    ];
    lines.into_iter().try_for_each(|(name, value)| output.line(format!("{name:<11} {value}")))
}
