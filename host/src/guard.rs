//! Undoing: at the daemon's end, and by a guard when it was killed.
//!
//! The guard is a process of its own that waits for the end of a pipe whose other end the daemon has. If no successor has
//! taken the lock some seconds later, it undoes what is written.

use crate::{
    boot_millis,
    cgroup::Cgroup,
    dhcp6::{self, Dhcp6, Held, Interface},
    mechanism::Mechanism,
    state::{Directory, Holder, State},
};
use flowlane_allot::FlowSpec;
use nix::{
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, setsid},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, PipeWriter, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How long a successor is waited for.
pub const SUCCESSOR: Duration = Duration::from_secs(3);
/// How long switches may take to confirm that leases are given back.
pub const GIVE_BACK: Duration = Duration::from_secs(2);

/// A guard's process, and the pipe that it waits on. Let go, the guard begins.
#[derive(Debug)]
pub struct Guard {
    _pipe: PipeWriter,
    child: Child,
}

impl Guard {
    /// Starts the guard: this program and arguments, with its end of the pipe as standard input.
    ///
    /// # Errors
    /// Where it can not be started.
    pub fn start(command: &[OsString]) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(reader).stdout(Stdio::null()).current_dir("/");
        Ok(Self { child: command.spawn()?, _pipe: writer })
    }
}

impl Guard {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

/// Takes notice of the end of a guard that this process had started before it was executed anew; whether that was it.
pub(crate) fn has_ended(pid: i32) -> bool {
    // The child of another, or of nobody, is none to wait for.
    pid <= 0 || !matches!(waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

impl Drop for Guard {
    fn drop(&mut self) {
        // One that has ended before is not left as a zombie.
        let _ = self.child.try_wait();
    }
}

/// The guard's work, of the daemon of the calling thread's network namespace: waits until standard input ends, then for a
/// successor, and undoes everything if none comes.
///
/// # Errors
/// Where the directory can not be read or the lock not be taken.
pub fn guard(runtime_directory: &Path) -> io::Result<()> {
    // A hang-up, a Ctrl-C or a service manager that stops the daemon is not meant for its guard.
    let _ = setsid();
    let signals: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE].into_iter().collect();
    signals.thread_block()?;
    let directory = Directory::of_namespace(runtime_directory)?;
    let daemon = directory.holding()?;
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let Some(_lock) = succeed(&directory, &daemon)? else { return Ok(()) };
    let Some(state) = directory.read() else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(undo(&directory, &state));
    match fs::remove_file(directory.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The lock, if nobody else takes it and there is something to undo. `daemon` is the lock's word while the daemon had it: a
/// process that ends lets go of the pipe before it lets go of the lock.
fn succeed(directory: &Directory, daemon: &[u8]) -> io::Result<Option<crate::state::Lock>> {
    let give_up = Instant::now() + SUCCESSOR;
    while Instant::now() < give_up {
        let has_successor = directory.is_locked()? && directory.holding()? != daemon;
        if directory.read().is_none() || has_successor {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
    directory.try_lock(Holder::Guard)
}

/// Undoes all that a daemon did: packets leave as they are again, leases are given back, who is in a run's cgroup is moved out
/// and the cgroup removed. What can not be undone is told, and the rest goes on.
pub async fn undo(directory: &Directory, state: &State) {
    if let Err(error) = Mechanism::remove(&directory.name(), state.mechanism) {
        // Packets would go on to carry addresses that lead nowhere: the leases stay, and so does what a successor needs.
        return tracing::error!(%error, "what was put into the kernel could not be removed; nothing is undone");
    }
    for run in state.runs.iter().filter(|run| run.kind == "program") {
        let cgroup = run.cgroup.as_deref().and_then(|path| Cgroup::open(path).ok());
        if let Some(Err(error)) = cgroup.map(Cgroup::dissolve) {
            tracing::warn!(%error, run = run.run, "a run's cgroup could not be removed");
        }
    }
    give_back(state).await;
    directory.clear();
}

/// Gives back the leases of all destinations.
pub(crate) async fn give_back(state: &State) {
    give_back_granted(state).await;
    give_back_asked(state).await;
}

async fn give_back_granted(state: &State) {
    let mut by_interface: BTreeMap<&str, Vec<Held>> = BTreeMap::new();
    for destination in &state.destinations {
        let held = destination.leases.iter().filter_map(|lease| {
            let granted = lease.granted.as_ref()?;
            let server = dhcp6::duid_of(granted.server.as_deref()?)?;
            Some(Held { server, iaid: lease.iaid, first: granted.address, count: 1 })
        });
        by_interface.entry(&destination.interface).or_default().extend(held);
    }
    let work = by_interface.iter().filter(|(_, held)| !held.is_empty()).map(async |(name, held)| {
        let interface = Interface::find(name, dhcp6::RUNS)?;
        dhcp6::release(&interface, held, GIVE_BACK).await
    });
    for result in futures_util::future::join_all(work).await {
        match result {
            Ok(0) => {}
            Ok(left) => tracing::warn!(left, "leases were not confirmed as given back; they end by themselves"),
            Err(error) => tracing::warn!(%error, "leases could not be given back; they end by themselves"),
        }
    }
}

/// Gives back what was asked for, and may have been granted since: asked for again under its number, it is answered with the
/// same address.
async fn give_back_asked(state: &State) {
    let (mut dhcp6, now) = (Dhcp6::default(), boot_millis());
    for destination in &state.destinations {
        let asked = || destination.leases.iter().filter(|lease| lease.asked && lease.granted.is_none());
        let Some(Ok(interface)) = asked().next().map(|_| Interface::find(&destination.interface, dhcp6::RUNS)) else {
            continue;
        };
        let ifindex = interface.index;
        dhcp6.interface(interface);
        for lease in asked() {
            let to = Some(destination.destination);
            let spec = FlowSpec { destination: to, path: Some(lease.path), ..FlowSpec::default() };
            dhcp6.ask(lease.iaid, ifindex, spec, now);
            dhcp6.release(lease.iaid, now);
        }
    }
    if timeout(GIVE_BACK, dhcp6.finish()).await.is_err() {
        tracing::warn!("what was asked for last was not answered; it ends by itself if it is granted");
    }
}
