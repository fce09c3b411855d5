//! What is in flows for as long as this process says so: a cgroup, a network namespace.

use super::{RunError, program};
use crate::{
    cli::{Global, RunOptions},
    commands::daemon::DaemonError,
    output::Output,
};
use flowlane_client::{Binding, Client, ClientError};
use flowlane_host::cgroup::Cgroup;
use miette::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::{
        signal::{SigSet, Signal},
        signalfd::SignalFd,
    },
    unistd::geteuid,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a daemon that has gone may take to come back.
const RETURN: Duration = Duration::from_secs(5);

/// All processes of a cgroup and those below it, in the network namespace that they share.
pub fn cgroup(global: &Global, path: &Path, options: &RunOptions, output: Output) -> Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(RunError::RootOnly("a cgroup").into());
    }
    let path = std::path::absolute(path).map_err(RunError::system("look at the cgroup"))?;
    let cgroup = Cgroup::open(&path).map_err(RunError::from)?;
    if global.netns.is_none() {
        enter_network_of(&cgroup)?;
    }
    let what = format!("cgroup {}", cgroup.path().display());
    hold(global, &what, output, |client| client.cgroup(cgroup.path(), &options.wishes()))
}

/// All that this network namespace sends.
pub fn namespace(global: &Global, options: &RunOptions, output: Output) -> Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(RunError::RootOnly("a network namespace").into());
    }
    let what = format!("network namespace {}", global.netns.as_deref().unwrap_or_default());
    hold(global, &what, output, |client| client.namespace(&options.wishes()))
}

/// Stays until Ctrl-C or SIGTERM. A daemon that is started anew is asked again.
fn hold(
    global: &Global,
    what: &str,
    output: Output,
    begin: impl Fn(&Client) -> Result<Binding, ClientError>,
) -> Result<ExitCode> {
    let client = program::daemon(global)?;
    // Not before: a daemon that is started must not inherit that they are blocked.
    let signals = signals().map_err(io::Error::from).map_err(RunError::system("wait for signals"))?;
    let mut binding = begin(&client).map_err(DaemonError)?;
    output.say(format!("{what}: in flows until Ctrl-C"));
    loop {
        let told = wait(&binding, &signals).map_err(io::Error::from).map_err(RunError::system("wait for signals"))?;
        if told {
            return Ok(ExitCode::SUCCESS);
        }
        binding = begin_again(global, &begin)?;
    }
}

/// The signals that end this command, taken from a descriptor instead of being delivered.
fn signals() -> nix::Result<SignalFd> {
    let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    ends.thread_block()?;
    SignalFd::new(&ends)
}

/// Whether it is this command that was told to end, and not the run that has ended.
fn wait(binding: &Binding, signals: &SignalFd) -> nix::Result<bool> {
    loop {
        let mut waited = [signals.as_fd(), binding.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut waited, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(waited.first().and_then(PollFd::any).unwrap_or(true)),
        }
    }
}

fn begin_again(global: &Global, begin: &impl Fn(&Client) -> Result<Binding, ClientError>) -> Result<Binding, RunError> {
    let start = Instant::now();
    while start.elapsed() < RETURN {
        let client = crate::commands::daemon::connect(global);
        if let Some(binding) = client.ok().and_then(|client| begin(&client).ok()) {
            return Ok(binding);
        }
        sleep(Duration::from_millis(50));
    }
    Err(RunError::Ended)
}

/// Enters the network namespace that the cgroup's processes are in: its interfaces are those that they send by.
fn enter_network_of(cgroup: &Cgroup) -> Result<(), RunError> {
    let namespaces: BTreeMap<u64, String> = cgroup
        .processes()
        .into_iter()
        .map(|pid| format!("/proc/{pid}/ns/net"))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path)))
        .collect();
    match namespaces.values().collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        [only] => File::open(only)
            .and_then(|namespace| Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?))
            .map_err(RunError::system("enter the network namespace of the cgroup's processes")),
        several => Err(RunError::Namespaces { cgroup: cgroup.path().to_owned(), count: several.len() }),
    }
}
