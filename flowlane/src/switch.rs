//! The running switch: one loop that everything comes together in.
//!
//! ```text
//!     DHCPv6 ---.                                      .--> tables (slots, ports)
//!     local API -+--> leases -> commit -> flows -------+--> answers
//!     netlink --------------------------^              |
//!     first packets ------------------->'--------------'--> frames that waited
//! ```
//!
//! The data path does not come by here: the kernel, or the ports' own threads, forward by the tables.

mod announcements;
pub mod api;
pub mod command;
mod confine;
mod dhcp6;
pub mod error;
mod explain;
mod flagged;
mod flows;
mod frame;
mod groups;
mod hops;
mod leases;
mod ports;
mod requests;
mod show;
mod slow_path;
mod start;
mod turns;
mod userspace;
mod verify;
mod views;
mod ways;

use crate::config::Config;
use announcements::Announcements;
use api::{Doors, Remote};
use command::Command;
use confine::Confinement;
use flagged::{Asked, Flagged};
use flowlane_allot::Change;
use flowlane_dhcp6::{Peer, Server};
use flowlane_ports::control::Datagram;
use flowlane_program::{Punts, Tables};
use flowlane_resolve::{Event, Events};
use flowlane_store::StoreError;
use flowlane_wire::PortId;
use flows::Flows;
use groups::Groups;
use hops::{Answer, Hops, Target};
use leases::{Answers, FromStore, Leases};
use miette::{IntoDiagnostic, Report, miette};
use nix::time::{ClockId, clock_gettime};
use ports::Ports;
use requests::{Listing, is_of_switch};
use show::{SeenFrame, Show};
use slow_path::Waiting;
use start::Locks;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::unix::{AsyncFd, AsyncFdReadyMutGuard},
    signal::unix::{SignalKind, signal},
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::yield_now,
};
use turns::Turns;
use userspace::FromWorker;
use ways::{Question, Ways};

/// What comes to the loop from tasks of its own.
pub enum Input {
    /// A host's message, or an answer to the switch's own. The permit is the port's, for as long as the message is not
    /// answered.
    Dhcp6(PortId, Datagram, OwnedSemaphorePermit),
}

/// A switch with all that belongs to it.
struct Switch {
    config: Arc<Config>,
    tables: Arc<Tables>,
    ports: Ports,
    leases: Leases,
    flows: Flows,
    groups: Groups,
    flagged: Flagged,
    server: Server,
    announcements: Announcements,
    hops: Hops,
    ways: Ways,
    turns: Turns,
    show: Option<Show>,
    /// Lists of flows that are being written.
    listings: VecDeque<Listing>,
    /// Whether tables of a predecessor were found.
    adopted: bool,
    /// Whether pins outlive this process, which it can not see any more when it is confined.
    pins_outlive: bool,
    confinement: Confinement,
    started: Instant,
    _locks: Locks,
}

/// What the loop listens to.
struct Sources {
    commands: mpsc::Receiver<Command>,
    inputs: mpsc::UnboundedReceiver<Input>,
    from_store: mpsc::UnboundedReceiver<FromStore>,
    from_workers: mpsc::Receiver<FromWorker>,
    events: Events,
    punts: Option<AsyncFd<Punts>>,
}

/// Records of the kernel, or requests, that are taken at a time.
const BURST: usize = 64;
/// How often what was captured goes to the file.
const FLUSH: Duration = Duration::from_millis(100);

/// Runs a switch until it is told to end by SIGINT or SIGTERM. Its programs stay in the kernel and go on to forward, for
/// a successor to adopt.
///
/// # Errors
/// [`error::StartError`], [`api::ServeError`] or [`api::RemoteError`] where the switch can not start, or a report of what
/// ended it.
pub fn run(config: Config) -> Result<(), Report> {
    runtime()?.block_on(async {
        let socket = config.socket();
        let remote = config.remote.as_ref().map(Remote::read).transpose()?;
        let doors = Doors { socket: socket.clone(), access: config.access.clone(), remote };
        let (mut switch, sources, commands) = start::start(config).await?;
        let ended = serve_api(doors, commands)?;
        let result = switch.serve(sources, ended).await;
        // The runtime directory is this process's alone, and so is the socket.
        let _ = std::fs::remove_file(socket);
        result
    })
}

/// Takes everything of a stopped switch out of the kernel; its leases are kept.
///
/// # Errors
/// [`error::StartError`], where it runs or for want of privileges.
pub fn remove(config: &Config) -> Result<(), Report> {
    Ok(runtime()?.block_on(start::remove(config))?)
}

fn runtime() -> Result<tokio::runtime::Runtime, Report> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()
}

/// Answers requests on a thread of its own, so that a long answer does not hold up the loop. Tells when it ends.
fn serve_api(doors: Doors, commands: mpsc::Sender<Command>) -> Result<oneshot::Receiver<Result<(), Report>>, Report> {
    let (ending, ended) = oneshot::channel();
    let runtime = runtime()?;
    let serve = move || {
        let result = runtime.block_on(api::serve(doors, commands));
        // Nobody listens any more where the switch ends first.
        let _ = ending.send(result.map_err(Report::from));
    };
    std::thread::Builder::new().name("api".into()).spawn(serve).into_diagnostic()?;
    Ok(ended)
}

impl Switch {
    async fn serve(
        &mut self,
        mut sources: Sources,
        mut api: oneshot::Receiver<Result<(), Report>>,
    ) -> Result<(), Report> {
        // Kept over all turns: a signal that comes while another source has its turn is not lost.
        let mut interrupt = signal(SignalKind::interrupt()).into_diagnostic()?;
        let mut terminate = signal(SignalKind::terminate()).into_diagnostic()?;
        let mut flush = tokio::time::interval(FLUSH);
        // What is due at the start comes before what others ask for.
        self.timeout(Instant::now());
        loop {
            let now = Instant::now();
            let deadline = self.deadline(now);
            tokio::select! {
                Some(command) = sources.commands.recv() => {
                    self.command(command);
                    // As with messages of hosts; callers that do not wait for answers have a bound, too.
                    for command in std::iter::from_fn(|| sources.commands.try_recv().ok()).take(BURST) {
                        self.command(command);
                    }
                }
                Some(input) = sources.inputs.recv() => {
                    // Whatever else has come by now may go into the same commit. The ports' permits are a bound.
                    let others = std::iter::from_fn(|| sources.inputs.try_recv().ok());
                    let now = Instant::now();
                    std::iter::once(input).chain(others).for_each(|input| self.turns.push(input, now));
                }
                Some(from) = sources.from_store.recv() => self.of_store(from),
                event = sources.events.recv() => match event {
                    Some(event) => self.event(event),
                    None => return Err(deaf()),
                },
                Some(from) = sources.from_workers.recv() => self.of_worker(from),
                ready = readable(&mut sources.punts) => self.drain(ready.into_diagnostic()?),
                () = tokio::time::sleep_until(deadline.into()) => self.timeout(Instant::now()),
                _ = flush.tick(), if self.show.is_some() => self.flush(),
                () = std::future::ready(()), if !self.listings.is_empty() => self.list_on(),
                // The clock of timers is too coarse for what can be done at once.
                () = yield_now(), if deadline <= now => self.timeout(now),
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                ended = &mut api => return ended.into_diagnostic()?,
            }
            let began = Instant::now();
            self.take_turns(began);
            self.settle(&mut sources);
            self.pump();
            self.show_waited();
            let now = Instant::now();
            self.turns.took(now - began, self.leases.committing_for().is_some(), now);
        }
        self.flush();
        tracing::info!("switch ends; what it has put into the kernel goes on to forward");
        Ok(())
    }

    fn timeout(&mut self, now: Instant) {
        self.flows.timeout(now);
        self.flagged_timeout(now);
        self.end_ways(now);
        let answers = self.hops.timeout(&self.ports);
        self.answered_all(answers);
        self.announcements.timeout(now, self.leases.allotter(), &self.tables, &mut self.ports);
    }

    fn deadline(&self, now: Instant) -> Instant {
        let at = |at: u64| now + Duration::from_millis(at.saturating_sub(boot_ms()));
        let hour = now + Duration::from_secs(3600);
        let leases_and_hops = [self.leases.deadline(), self.hops.deadline()].map(|deadline| deadline.map(at));
        let (ways, turns) = (self.ways.deadline(), self.turns.deadline(now));
        let others = [self.flows.deadline(), self.flagged.deadline(), ways, turns, Some(self.announcements.deadline())];
        leases_and_hops.into_iter().chain(others).flatten().min().unwrap_or(hour).min(hour)
    }

    /// Starts what waits for leases, and gives the answers that need no commit.
    fn pump(&mut self) {
        let now = boot_ms();
        let (changes, answers) = self.leases.pump(now);
        self.settled(&changes, answers, now);
    }

    fn of_store(&mut self, from: FromStore) {
        match from {
            FromStore::Committed(result) => self.committed(result),
            FromStore::Rows(rows) => {
                if let Some(done) = self.leases.reader() {
                    done(rows, self);
                }
            }
        }
    }

    fn committed(&mut self, result: Result<(), StoreError>) {
        if let Some(took) = self.leases.committing_for() {
            self.turns.committed(took, Instant::now());
        }
        let now = boot_ms();
        let (changes, answers) = self.leases.committed(result, now);
        self.settled(&changes, answers, now);
    }

    /// Brings the table to what the leases are now, and tells who has asked.
    fn settled(&mut self, changes: &[Change], answers: Answers, now: u64) {
        self.flagged.ended(changes, &mut self.ports);
        for change in changes {
            if change.is_of_group() {
                self.groups.apply(change, &mut self.hops, &self.ports);
            } else {
                self.flows.apply(std::slice::from_ref(change), &mut self.hops, &self.ports);
            }
        }
        self.flagged.begun(changes, &mut self.ports);
        self.announcements.granted(changes, self.tables.block(), &self.ports);
        for (done, results) in answers {
            done(results, self, now);
        }
    }

    /// Takes the messages whose turn it is.
    fn take_turns(&mut self, now: Instant) {
        for input in self.turns.take(now) {
            self.input(input);
        }
    }

    fn input(&mut self, Input::Dhcp6(port, datagram, permit): Input) {
        if datagram.answer {
            return self.answer(port, &datagram);
        }
        let peer = Peer { port, host: datagram.host };
        let transaction = match self.server.plan(&datagram.payload, peer) {
            Ok(transaction) => transaction,
            Err(ignore) => {
                tracing::debug!(%port, host = %datagram.host, "DHCPv6 message ignored: {ignore}");
                if let Some(port) = self.ports.get_mut(port) {
                    port.ignore(ignore.name());
                }
                return;
            }
        };
        if transaction.operations().iter().any(|operation| is_of_switch(operation.key())) {
            // The names of local callers and of the flows of flagged packets are not for hosts.
            return self.ports.get_mut(port).map_or((), |port| port.ignore("reserved-client"));
        }
        self.ask(Question { port, datagram, exchange: transaction, permit });
    }

    /// Takes a neighbour's answer to what the switch has asked.
    fn answer(&mut self, port: PortId, datagram: &Datagram) {
        match self.hops.received(port, datagram, &self.ports) {
            Ok(answers) => self.answered_all(answers),
            Err(reason) => {
                tracing::debug!(%port, neighbour = %datagram.host, "DHCPv6 answer ignored: {reason}");
                if let Some(port) = self.ports.get_mut(port) {
                    port.ignore(reason);
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Resolved { query, resolution, route } => {
                self.way_of(query, resolution, route);
                let answers = self.hops.resolved(query, resolution, &self.ports);
                self.answered_all(answers);
                self.route_of_asking(query, resolution);
            }
            Event::LinkGone { ifindex, .. } => {
                self.ports.link_gone(ifindex);
            }
            Event::Link(link) => {
                let moved = self.ports.link_changed(&link).unwrap_or_else(|error| {
                    tracing::error!(port = link.name, "{error}");
                    true
                });
                if let Some(port) = self.ports.of_ifindex(link.ifindex).filter(|_| moved) {
                    self.hops.set_static_routes(&self.ports);
                    self.hops.port_moved(port, &self.ports);
                }
            }
        }
    }

    fn answered_all(&mut self, answers: Vec<(Target, Answer)>) {
        for (target, answer) in answers {
            self.answered(target, answer);
        }
    }

    /// Takes the answer to a question about the next hop of somebody's frames.
    fn answered(&mut self, target: Target, answer: Answer) {
        match target {
            Target::Flow(slot) => self.flows.answered(slot, answer),
            Target::Receiver(group, place) => self.groups.answered(group, place, answer),
        }
    }

    /// Takes some of what the kernel has, so that the other sources have their turn under a flood.
    fn drain(&mut self, mut ready: AsyncFdReadyMutGuard<'_, Punts>) {
        if self.take_punts(ready.get_inner_mut()) < BURST {
            ready.clear_ready();
        }
    }

    /// Takes at most [`BURST`] records of the kernel. How many there were.
    fn take_punts(&mut self, punts: &mut Punts) -> usize {
        let mut frames = Vec::new();
        let mut seen = Vec::new();
        let records = punts.drain(BURST, |punt| {
            frames.extend(Waiting::from_kernel(&punt).map(FromWorker::Waiting));
            frames.extend(Asked::from_kernel(&punt).map(FromWorker::Asking));
            seen.extend(SeenFrame::from_kernel(&punt));
        });
        frames.into_iter().for_each(|frame| self.of_worker(frame));
        seen.iter().for_each(|frame| self.seen(frame));
        records
    }

    fn of_worker(&mut self, from: FromWorker) {
        match from {
            FromWorker::Waiting(frame) => self.waiting(frame),
            FromWorker::Asking(frame) => self.asked(frame),
            FromWorker::Seen(frame) => self.seen(&frame),
            FromWorker::Ended(port, error) => self.ports.worker_ended(port, &error),
        }
    }

    fn waiting(&mut self, frame: Waiting) {
        let lease = self.leases.allotter().lease_at(frame.slot);
        self.flows.waiting(frame, lease, &mut self.hops, &self.ports);
    }

    fn seen(&mut self, frame: &SeenFrame) {
        if let Some(Err(error)) = self.show.as_mut().map(|show| show.write(frame)) {
            tracing::error!("the capture ends here: {error}");
            self.show = None;
        }
    }

    /// Writes what has become of frames that had waited.
    fn show_waited(&mut self) {
        if self.show.is_some() {
            self.flows.seen().iter().for_each(|frame| self.seen(frame));
        }
    }

    fn flush(&mut self) {
        if let Some(Err(error)) = self.show.as_mut().map(Show::flush) {
            tracing::error!("the capture ends here: {error}");
            self.show = None;
        }
    }
}

/// Waits until the kernel has something; for ever where it takes no part.
async fn readable(punts: &mut Option<AsyncFd<Punts>>) -> std::io::Result<AsyncFdReadyMutGuard<'_, Punts>> {
    match punts {
        Some(punts) => punts.readable_mut().await,
        None => std::future::pending().await,
    }
}

/// Without news of routes and neighbours, flows would be sent where nobody is any more: better to start anew.
fn deaf() -> Report {
    miette!(
        code = "FL0212",
        help = "start it again; what it has put into the kernel goes on to forward",
        "the connection to Linux's routing tables has ended"
    )
}

fn boot_ms() -> u64 {
    boot_nanos() / 1_000_000
}

fn boot_nanos() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from).as_nanos() as u64
}
