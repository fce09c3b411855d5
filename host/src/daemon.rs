//! The daemon: one loop that everything comes together in.
//!
//! ```text
//!     first packets --.                                .--> what becomes of packets
//!     requests --------+--> engine ---> commands ------+--> DHCPv6
//!     DHCPv6 ---------'    (what there is to be)       '--> answers, state.json
//!     interfaces, empty cgroups --^
//! ```
//!
//! The kernel sends by itself as long as nothing changes; nothing here is in the way of a packet whose flow is open.

mod runs;
mod views;

use crate::{
    boot_millis,
    cgroup::{CgroupError, Emptied},
    command::{Command, Reply},
    dhcp6::{self, Answer, Dhcp6, Interface},
    engine::{self, Engine},
    guard::{self, Guard, undo},
    interfaces::{Change, Interfaces, Link},
    mechanism::{Mechanism, MechanismChoice, MechanismError, fate_of},
    state::{Directory, Lock, State},
};
use flowlane_client::protocol::RunView;
use flowlane_tables::RunKey;
use flowlane_wire::Mac;
use runs::Run;
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    future::poll_fn,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// What a daemon is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its directory is to be.
    pub runtime_directory: PathBuf,
    /// It ends when its last run has ended.
    pub transient: bool,
    /// The interfaces that may be used; none are all.
    pub interfaces: Option<Vec<String>>,
    /// How many runs each user may have at a time; root may have more.
    pub max_runs: usize,
    /// How packets are put into flows.
    pub mechanism: MechanismChoice,
    /// The program and arguments that call [`guard`](crate::guard::guard); empty for no guard.
    pub guard: Vec<OsString>,
}

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another one is at work.
    #[error("a daemon looks after this network namespace already; its directory is {}", .0.display())]
    Running(PathBuf),
    /// Its directory can not be used.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing can be put into flows.
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    /// Cgroups can not be watched.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The interfaces can not be followed, or signals not be received.
    #[error("the system does not do it: {0}")]
    System(#[from] io::Error),
}

/// How a daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything is undone.
    Undone,
    /// A successor goes on with it.
    Succeeded,
    /// It is to be executed anew, and goes on with it then.
    Reload,
}

/// How long a predecessor or its guard may take to end.
const LOCK: Duration = Duration::from_secs(10);
/// How long a successor is waited for after SIGTERM.
const SUCCESSOR: u64 = 2_000;
/// How long changes are collected before the state is written, and how much more time than writing takes passes in between:
/// always, and where something is about to be asked for.
const WRITE: Duration = Duration::from_millis(20);
const WRITE_PAUSE: u32 = 20;
const ASK_PAUSE: u32 = 4;
/// With how many destinations it is little to write, and is always written before more is asked for.
const FEW: usize = 256;
/// How many numbers a successor leaves out: those that its predecessor may have used without writing so.
const UNWRITTEN_IAIDS: u32 = 1 << 16;
const UNWRITTEN_RUNS: u32 = 1_000;
/// When it is tried again to look at the packets of an interface.
const ATTACH_AGAIN: u64 = 5_000;
/// How often packets are counted, to find destinations that nobody sends to.
const COUNT: u64 = 30_000;
/// How long a transient daemon waits for its first run, and after its last.
const FIRST_RUN: u64 = 10_000;
const LAST_RUN: u64 = 1_000;

/// The daemon of a network namespace.
pub struct Daemon {
    options: Options,
    directory: Directory,
    lock: Option<Lock>,
    engine: Engine,
    dhcp6: Dhcp6,
    mechanism: Mechanism,
    interfaces: Interfaces,
    emptied: Emptied,
    runs: BTreeMap<u32, Run>,
    next_run: u32,
    /// Who waits for a run to begin.
    beginning: HashMap<u32, Reply<RunView>>,
    /// The interfaces whose packets are looked at, with their addresses then.
    attached: BTreeMap<u32, Mac>,
    /// The interfaces whose packets can not be looked at: when it is tried again, and why.
    unattached: BTreeMap<u32, (u64, String)>,
    /// When the state is written next.
    write: Option<u64>,
    /// When it was written last, and how long that took.
    written: (Instant, Duration),
    /// Something is about to be asked for that is not written yet.
    asks: bool,
    count: u64,
    /// When a transient daemon ends.
    end: Option<u64>,
    /// Until when a successor is waited for.
    succession: Option<u64>,
    guard: Option<Guard>,
    /// The one that this process had started before it was executed anew.
    former_guard: Option<i32>,
}

/// What woke the loop.
enum Happening {
    Command(Option<Command>),
    Interface(Change),
    Emptied(u32),
    Stop,
    Succession,
    Reload,
    Work,
}

impl Daemon {
    /// Takes over from a predecessor, or begins. Must be called in a tokio runtime of one thread; all is done in the network
    /// namespace of that thread.
    ///
    /// # Errors
    /// [`DaemonError`].
    pub async fn start(options: Options) -> Result<Self, DaemonError> {
        let runtime_directory = options.runtime_directory.clone();
        let failed = |source| DaemonError::Directory { path: runtime_directory.clone(), source };
        let directory = Directory::make(&options.runtime_directory).map_err(failed)?;
        let lock = directory.lock(LOCK).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => DaemonError::Running(directory.path().to_owned()),
            _ => failed(source),
        })?;
        // From here on there is something to undo, whatever fails.
        let guard = if options.guard.is_empty() { None } else { Some(Guard::start(&options.guard)?) };
        let state = directory.read();
        let predecessor = state.as_ref().map(|state| state.mechanism);
        let mechanism = Mechanism::open(&directory.name(), options.mechanism, predecessor)?;
        if state.is_none() {
            directory.write(&State { mechanism: mechanism.kind(), ..State::default() }).map_err(failed)?;
        }
        let next_iaid = state.as_ref().map_or_else(|| fastrand::u32(1..1 << 30), after_unwritten);
        let now = boot_millis();
        let mut daemon = Self {
            lock: Some(lock),
            engine: Engine::new(next_iaid),
            dhcp6: Dhcp6::default(),
            mechanism,
            interfaces: Interfaces::open().await?,
            emptied: Emptied::new()?,
            runs: BTreeMap::new(),
            next_run: 1,
            beginning: HashMap::new(),
            attached: BTreeMap::new(),
            unattached: BTreeMap::new(),
            write: Some(now),
            written: (Instant::now(), Duration::ZERO),
            asks: false,
            count: now + COUNT,
            end: options.transient.then_some(now + FIRST_RUN),
            succession: None,
            guard,
            former_guard: state.as_ref().and_then(|state| state.guard),
            directory,
            options,
        };
        daemon.adopt(state.unwrap_or_default(), now);
        daemon.remove_strays();
        Ok(daemon)
    }

    /// Where programs are to be listened to.
    pub fn socket(&self) -> &Path {
        self.directory.socket()
    }

    /// Works until a signal ends it, nobody sends commands any more, or a transient daemon's last run has ended. SIGINT: all
    /// is undone. SIGTERM: the same, if no successor comes in time. SIGHUP: everything is kept for the same program, executed
    /// anew.
    ///
    /// # Errors
    /// [`DaemonError::System`].
    pub async fn serve(mut self, mut commands: mpsc::Receiver<Command>) -> Result<Ended, DaemonError> {
        let mut signals = Signals::new()?;
        loop {
            self.work();
            if self.is_succeeded() {
                return Ok(self.hand_over(Ended::Succeeded));
            }
            match self.happening(&mut commands, &mut signals).await {
                Happening::Command(Some(command)) => self.command(command).await,
                Happening::Interface(change) => self.interface(change),
                Happening::Emptied(run) => {
                    // What it has sent last is here by now, and is to be sent in its flows.
                    self.work();
                    self.end(run);
                }
                Happening::Work if self.is_over() => return Ok(self.undo().await),
                Happening::Work => {}
                Happening::Succession => {
                    self.save();
                    self.lock = None;
                    self.succession = Some(boot_millis() + SUCCESSOR);
                }
                Happening::Reload => return Ok(self.hand_over(Ended::Reload)),
                Happening::Command(None) | Happening::Stop => return Ok(self.undo().await),
            }
        }
    }

    async fn happening(&mut self, commands: &mut mpsc::Receiver<Command>, signals: &mut Signals) -> Happening {
        let due = self.due();
        let wait = Duration::from_millis(due.saturating_sub(boot_millis()));
        let Self { interfaces, emptied, mechanism, dhcp6, .. } = self;
        tokio::select! {
            () = mechanism.ready() => Happening::Work,
            () = poll_fn(|context| dhcp6.poll_readable(context)) => Happening::Work,
            command = commands.recv() => Happening::Command(command),
            change = interfaces.next() => Happening::Interface(change),
            run = emptied.next() => Happening::Emptied(run),
            _ = signals.interrupt.recv() => Happening::Stop,
            _ = signals.terminate.recv() => Happening::Succession,
            _ = signals.hang_up.recv() => Happening::Reload,
            () = sleep_until(Instant::now() + wait) => Happening::Work,
        }
    }

    fn due(&self) -> u64 {
        let beat = self.succession.map(|_| boot_millis() + 10);
        let attach = self.unattached.values().map(|(again, _)| *again).min();
        let times = [
            attach,
            self.engine.poll_timeout(),
            self.dhcp6.poll_timeout(),
            self.write,
            self.end,
            self.succession,
            beat,
        ];
        times.into_iter().flatten().chain([self.count]).min().unwrap_or(self.count)
    }

    /// Does everything that there is to do now.
    fn work(&mut self) {
        loop {
            let now = boot_millis();
            if !self.is_succeeded() {
                for key in self.mechanism.work() {
                    self.engine.wanted(key, now);
                }
            }
            self.record_asked();
            self.dhcp6.work(now);
            while let Some(answer) = self.dhcp6.answer() {
                match answer {
                    Answer::Lease(iaid, event) => self.engine.lease(iaid, event, now),
                    Answer::Probed(ifindex, offer) => self.engine.probed(ifindex, offer, now),
                }
            }
            if now >= self.count {
                self.count_packets(now);
            }
            self.engine.advance(now);
            let mut quiet = true;
            while let Some(command) = self.engine.command() {
                quiet = false;
                self.carry_out(command, now);
            }
            if quiet {
                break;
            }
        }
        self.attach();
        if self.write.is_some_and(|at| at <= boot_millis()) {
            self.save();
        }
    }

    fn carry_out(&mut self, command: engine::Command, now: u64) {
        use engine::Command::*;
        match command {
            Probe(ifindex, about) => return self.dhcp6.probe(ifindex, about),
            Ask(iaid, ifindex, spec) => {
                self.asks = true;
                self.dhcp6.ask(iaid, ifindex, spec, now);
            }
            Drop(iaid) => self.dhcp6.forget(iaid),
            Release(iaid) => self.dhcp6.release(iaid, now),
            Forget(key) => report(self.mechanism.forget(&key), "an entry could not be removed"),
            Ready(run) => self.ready(run),
            Failed(run, failure) => self.failed(run, failure),
            Open { .. } | Plain(_) | Cut(_) => {
                let Some((key, fate)) = fate_of(command) else { return };
                let required = self.requires(&key);
                report(self.mechanism.decide(key, required, fate), "packets leave as they are");
            }
        }
        self.change();
    }

    /// The state is another than the one written.
    fn change(&mut self) {
        let (at, took) = self.written;
        let wait = WRITE.max(took * WRITE_PAUSE).saturating_sub(at.elapsed());
        self.write = self.write.or(Some(boot_millis() + wait.as_millis() as u64));
    }

    /// Writes what is about to be asked for before it is: what is granted to a daemon that does not hear of it any more is
    /// given back by its guard. Where there is so much to write that it would take all the time, it is written later.
    fn record_asked(&mut self) {
        let (at, took) = self.written;
        let is_little = || self.engine.destinations().nth(FEW).is_none();
        if std::mem::take(&mut self.asks) && (at.elapsed() >= took * ASK_PAUSE || is_little()) {
            self.save();
        }
    }

    fn save(&mut self) {
        if self.lock.is_none() {
            // A successor may have written already.
            self.write = None;
            return;
        }
        let begin = Instant::now();
        if let Err(error) = self.directory.write(&self.state()) {
            tracing::warn!(%error, "the state could not be written; a successor will not go on with this");
        }
        (self.write, self.written) = (None, (Instant::now(), begin.elapsed()));
    }

    fn requires(&self, key: &RunKey) -> bool {
        self.engine.requires(key.run)
    }

    fn count_packets(&mut self, now: u64) {
        self.count = now + COUNT;
        self.former_guard.take_if(|pid| guard::has_ended(*pid));
        let keys: Vec<RunKey> = self.engine.destinations().map(|(key, _)| *key).collect();
        for key in keys {
            let packets = self.mechanism.counters(&key).packets();
            self.engine.counted(key, packets, now);
        }
    }

    fn interface(&mut self, change: Change) {
        let now = boot_millis();
        match change {
            Change::Link(link) => self.link(&link, now),
            Change::Gone(ifindex) => {
                self.engine.interface_gone(ifindex, now);
                // What follows for its destinations is done before its number means nothing any more.
                self.work();
                self.dhcp6.interface_gone(ifindex);
                self.mechanism.interface_gone(ifindex);
                self.attached.remove(&ifindex);
                self.unattached.remove(&ifindex);
            }
        }
    }

    fn link(&mut self, link: &Link, now: u64) {
        let usable = self.options.interfaces.as_ref().is_none_or(|names| names.contains(&link.name));
        match Interface::find(&link.name, dhcp6::RUNS) {
            Ok(interface) if interface.index == link.ifindex => self.dhcp6.interface(interface),
            // It has been renamed or removed since: another change follows.
            _ => return,
        }
        self.engine.interface(link.ifindex, link.up && usable, now);
    }

    /// Looks at the packets of those interfaces where there is a use for it.
    fn attach(&mut self) {
        for link in self.interfaces.known() {
            let (wanted, attached) = (self.engine.wants_program(link.ifindex), self.attached.get(&link.ifindex));
            let now = boot_millis();
            let waits = self.unattached.get(&link.ifindex).is_some_and(|(again, _)| *again > now);
            if wanted && !waits && attached != Some(&link.mac) {
                match self.mechanism.attach(&link.name, link.ifindex) {
                    Ok(()) => {
                        self.attached.insert(link.ifindex, link.mac);
                        self.unattached.remove(&link.ifindex);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "packets by {} leave as they are", link.name);
                        let why = format!("packets by {} can not be put into flows: {error}", link.name);
                        self.unattached.insert(link.ifindex, (now + ATTACH_AGAIN, why));
                    }
                }
            } else if !wanted {
                self.unattached.remove(&link.ifindex);
                if self.attached.remove(&link.ifindex).is_some() {
                    report(self.mechanism.detach(link.ifindex), "a program could not be detached");
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let now = boot_millis();
        [self.end, self.succession].into_iter().flatten().any(|at| at <= now)
    }

    /// Whether somebody else has taken the lock that was given up.
    fn is_succeeded(&self) -> bool {
        self.succession.is_some() && self.directory.is_locked().unwrap_or(false)
    }

    fn hand_over(mut self, how: Ended) -> Ended {
        match how {
            Ended::Reload => {
                self.mechanism.flush();
                self.save();
            }
            Ended::Succeeded | Ended::Undone => self.mechanism.let_go(),
        }
        how
    }

    async fn undo(mut self) -> Ended {
        self.mechanism.flush();
        let state = self.state();
        if self.lock.is_none() {
            // A successor that comes only now has to wait until this is over.
            self.lock = self.directory.try_lock(crate::state::Holder::Guard).ok().flatten();
            if self.lock.is_none() {
                return Ended::Succeeded;
            }
        }
        let Self { directory, lock, mechanism, dhcp6, emptied, guard, .. } = self;
        drop((mechanism, dhcp6, emptied));
        undo(&directory, &state).await;
        drop((lock, guard));
        Ended::Undone
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// The first number for leases that a predecessor has not used, whenever it was killed.
fn after_unwritten(state: &State) -> u32 {
    state.next_iaid.wrapping_add(UNWRITTEN_IAIDS)
}

/// What does not end the daemon is told.
fn report(done: Result<(), MechanismError>, consequence: &str) {
    if let Err(error) = done {
        tracing::warn!(%error, "{consequence}");
    }
}
