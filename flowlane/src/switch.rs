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

pub mod api;
pub mod command;
mod dhcp6;
mod explain;
mod flows;
mod frame;
mod leases;
mod ports;
mod show;
mod slow_path;
mod userspace;
mod verify;
mod views;

use crate::{
    api::{LeaseView, OpenFlow, Problem, Status},
    config::{Config, Executor},
};
use command::{Command, Reply};
use flowlane_allot::{Allotter, ClientId, FlowSpec, Lease, LeaseKey, Request};
use flowlane_dhcp6::{Operation, Peer, Server};
use flowlane_ports::control::Datagram;
use flowlane_program::{Destinations, Kernel, KernelOptions, Punts, Tables};
use flowlane_resolve::{Event, Events, Resolver, list_links};
use flowlane_store::{Moment, Store};
use flowlane_wire::{Mac, PortId};
use flows::Flows;
use leases::{Committed, Done, Failure, Leases, Task, Transaction};
use miette::{IntoDiagnostic, Report, WrapErr, miette};
use nix::time::{ClockId, clock_gettime};
use ports::Ports;
use show::{SeenFrame, Show};
use slow_path::{ToLinux, Waiting};
use std::{
    fs::{self, DirBuilder},
    io::Read,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use userspace::FromWorker;

/// What comes to the loop from tasks of its own.
pub enum Input {
    /// A host's message.
    Dhcp6(PortId, Datagram),
}

/// A switch with all that belongs to it.
struct Switch {
    config: Arc<Config>,
    tables: Arc<Tables>,
    ports: Ports,
    leases: Leases,
    flows: Flows,
    server: Server,
    resolver: Resolver,
    show: Option<Show>,
    adopted: bool,
    started: Instant,
}

/// What the loop listens to.
struct Sources {
    commands: mpsc::Receiver<Command>,
    inputs: mpsc::UnboundedReceiver<Input>,
    committed: mpsc::UnboundedReceiver<Committed>,
    from_workers: mpsc::Receiver<FromWorker>,
    events: Events,
    punts: Option<AsyncFd<Punts>>,
}

/// Frames that the ports' threads may have on their way to the loop.
const WORKER_QUEUE: usize = 4_096;
/// The queue from the kernel, in octets.
const KERNEL_QUEUE: u32 = 8 << 20;
/// How often what was captured goes to the file.
const FLUSH: Duration = Duration::from_millis(100);

/// Runs a switch until it is told to end by SIGINT or SIGTERM. Its programs stay in the kernel and go on to forward, for
/// a successor to adopt.
///
/// # Errors
/// A report that says what to do, where the switch can not start.
pub fn run(config: Config) -> Result<(), Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    runtime.block_on(async {
        let (mut switch, sources, commands) = Switch::start(config).await?;
        let socket = switch.config.socket();
        let api = tokio::spawn(async move { api::serve(&socket, commands).await.into_diagnostic() });
        let result = switch.serve(sources, api).await;
        let _ = fs::remove_file(switch.config.socket());
        result
    })
}

impl Switch {
    async fn start(config: Config) -> Result<(Self, Sources, mpsc::Sender<Command>), Report> {
        let config = Arc::new(config);
        make_directory(&config.state_directory, 0o700)?;
        make_directory(&config.runtime_directory, 0o755)?;
        let moment = Moment::now().into_diagnostic()?;
        let (store, restored) = Store::open(&config.state_directory.join("leases.redb"), config.block, &moment).into_diagnostic()?;
        let first = match restored.next {
            Some(next) => next,
            None => random_tag(&config)?,
        };
        let mut allotter = Allotter::new(config.block, config.policy.clone(), first);
        for lease in restored.leases {
            allotter.restore(lease).into_diagnostic().wrap_err("the lease store contradicts itself; move it aside, and hosts will ask again")?;
        }
        let (kernel, tables, punts, adopted) = open_tables(&config)?;
        let tables = Arc::new(tables);
        let (commands_in, commands) = mpsc::channel(1024);
        let (inputs_in, inputs) = mpsc::unbounded_channel();
        let (committed_in, committed) = mpsc::unbounded_channel();
        let (workers_in, from_workers) = mpsc::channel(WORKER_QUEUE);
        let leases = Leases::start(allotter, store, committed_in).into_diagnostic()?;
        let destinations = Destinations::open(&config.runtime_directory.join("destinations"), config.block.slots()).into_diagnostic()?;
        let to_linux = ToLinux::new();
        let flows = Flows::new(Arc::clone(&tables), destinations, to_linux.clone());
        let ports = Ports::new(Arc::clone(&config), Arc::clone(&tables), kernel, to_linux, workers_in, inputs_in);
        let (resolver, events) = Resolver::start(Vec::new()).into_diagnostic()?;
        let server = Server::new(server_uuid(&config.state_directory)?, config.block);
        let show = Show::start(&config).into_diagnostic().wrap_err("the capture file can not be written")?;
        let mut switch = Self { config, tables, ports, leases, flows, server, resolver, show, adopted, started: Instant::now() };
        switch.take_over().await?;
        #[expect(deprecated, reason = "the queue owns its descriptor, and it is always the same one")]
        let readable = |punts| AsyncFd::with_interest(punts, Interest::READABLE);
        let punts = punts.map(readable).transpose().into_diagnostic()?;
        Ok((switch, Sources { commands, inputs, committed, from_workers, events, punts }, commands_in))
    }

    /// Brings ports and table to what configuration and leases say. What a predecessor left forwards all the while.
    async fn take_over(&mut self) -> Result<(), Report> {
        // Ports first as numbers, so that the flows' questions name the right interfaces; then the flows; and the
        // programs last, so that they find a table that is whole.
        let links = list_links().await.into_diagnostic()?;
        let now = boot_ms();
        for link in &links {
            self.ports.note(link);
        }
        self.resolver.set_static_routes(self.ports.static_routes());
        let leases: Vec<Lease> = self.leases.allotter().leases().cloned().collect();
        let (kept, installed, removed) = self.flows.adopt(leases.iter(), now, &self.resolver, &self.ports);
        for link in links {
            let name = link.name.clone();
            self.ports.link_changed(link).map_err(|error| {
                miette!(code = "FL0201", help = "`flowlane doctor` says what is missing", "port {name}: {error}")
            })?;
        }
        self.ports.forget_others();
        for (_, port) in self.ports.iter().filter(|(_, port)| port.link.is_none()) {
            tracing::warn!(port = port.config.interface, "there is no such interface; the port waits for it");
        }
        tracing::info!(name = self.config.name, block = %self.config.block, kept, installed, removed, "switch ready");
        Ok(())
    }

    async fn serve(&mut self, mut sources: Sources, mut api: tokio::task::JoinHandle<Result<(), Report>>) -> Result<(), Report> {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).into_diagnostic()?;
        let mut flush = tokio::time::interval(FLUSH);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                Some(command) = sources.commands.recv() => self.command(command),
                Some(input) = sources.inputs.recv() => {
                    self.input(input);
                    // Whatever else has come by now goes into the same commit.
                    while let Ok(input) = sources.inputs.try_recv() {
                        self.input(input);
                    }
                }
                Some(committed) = sources.committed.recv() => self.committed(committed),
                Some(event) = sources.events.recv() => self.event(event),
                Some(from) = sources.from_workers.recv() => self.from_worker(from),
                ready = readable(&mut sources.punts) => self.drain(ready?),
                () = tokio::time::sleep_until(deadline.into()) => self.flows.timeout(Instant::now()),
                _ = flush.tick(), if self.show.is_some() => self.flush(),
                _ = tokio::signal::ctrl_c() => break,
                _ = terminate.recv() => break,
                ended = &mut api => return ended.into_diagnostic()?,
            }
            self.pump();
        }
        self.flush();
        tracing::info!("switch ends; what it has put into the kernel goes on to forward");
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let lease = self.leases.deadline().map(|at| now + Duration::from_millis(at.saturating_sub(boot_ms())));
        let hour = now + Duration::from_secs(3600);
        [lease, self.flows.deadline()].into_iter().flatten().min().unwrap_or(hour).min(hour)
    }

    /// Starts what waits for leases, and gives the answers that need no commit.
    fn pump(&mut self) {
        let now = boot_ms();
        for (done, results) in self.leases.pump(now) {
            done(results, self, now);
        }
    }

    fn committed(&mut self, committed: Committed) {
        let now = boot_ms();
        let (changes, answers) = self.leases.committed(committed, now);
        self.flows.apply(&changes, now, &self.resolver, &self.ports);
        for (done, results) in answers {
            done(results, self, now);
        }
    }

    fn input(&mut self, Input::Dhcp6(port, datagram): Input) {
        let peer = Peer { port, host: datagram.host };
        let transaction = match self.server.plan(&datagram.payload, peer) {
            Ok(transaction) => transaction,
            Err(ignore) => {
                tracing::debug!(%port, host = %datagram.host, "DHCPv6 message ignored: {ignore}");
                if let Some(port) = self.ports.get_mut(port) {
                    *port.ignored.entry(ignore.name()).or_default() += 1;
                }
                return;
            }
        };
        let tasks = transaction.operations().iter().cloned().map(Task::Client).collect();
        let done: Done = Box::new(move |results, switch, now| {
            if let Some(Failure::Store(problem)) = results.iter().find_map(|result| result.as_ref().err()) {
                // No answer: the client asks again, and may find the store well.
                tracing::warn!("a host's request goes without an answer: {problem}");
                return;
            }
            let results: Vec<_> = results.into_iter().map(|result| result.map_err(Failure::into_refusal)).collect();
            if let (Some(payload), Some(port)) = (transaction.reply(&results, now), switch.ports.get_mut(port)) {
                port.answer(datagram, payload);
            }
        });
        self.leases.submit(Transaction { tasks, done });
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Resolved { query, resolution } => self.flows.resolved(query, resolution, &self.ports),
            Event::LinkGone { ifindex, .. } => {
                self.ports.link_gone(ifindex);
            }
            Event::Link(link) => {
                let (name, ifindex) = (link.name.clone(), link.ifindex);
                let moved = self.ports.link_changed(link).unwrap_or_else(|error| {
                    tracing::error!(port = name, "{error}");
                    true
                });
                if let Some(port) = self.ports.of_ifindex(ifindex).filter(|_| moved) {
                    self.resolver.set_static_routes(self.ports.static_routes());
                    self.flows.port_moved(port, &self.resolver, &self.ports);
                }
            }
        }
    }

    fn drain(&mut self, punts: &mut AsyncFd<Punts>) {
        let mut waiting = Vec::new();
        let mut seen = Vec::new();
        punts.get_mut().drain(|punt| {
            waiting.extend(Waiting::from_kernel(&punt));
            seen.extend(SeenFrame::from_kernel(&punt));
        });
        waiting.into_iter().for_each(|frame| self.waiting(frame));
        seen.iter().for_each(|frame| self.seen(frame));
    }

    fn from_worker(&mut self, from: FromWorker) {
        match from {
            FromWorker::Waiting(frame) => self.waiting(frame),
            FromWorker::Seen(frame) => self.seen(&frame),
        }
    }

    fn waiting(&mut self, frame: Waiting) {
        let lease = self.leases.allotter().lease_at(frame.slot);
        self.flows.waiting(frame, lease, &self.resolver, &self.ports);
    }

    fn seen(&mut self, frame: &SeenFrame) {
        if let Some(Err(error)) = self.show.as_mut().map(|show| show.write(frame)) {
            tracing::error!("the capture ends here: {error}");
            self.show = None;
        }
    }

    fn flush(&mut self) {
        if let Some(Err(error)) = self.show.as_mut().map(Show::flush) {
            tracing::error!("the capture ends here: {error}");
            self.show = None;
        }
    }

    fn command(&mut self, command: Command) {
        // Who asked may have gone; then the answer is for nobody.
        match command {
            Command::Open(open, reply) => self.open(open, reply),
            Command::Renew(mac, lifetime, reply) => {
                self.on_lease(mac, reply, |lease, _| Task::Renew(lease.key.clone(), lease.port, lifetime));
            }
            Command::Close(mac, reply) => self.on_lease(mac, reply, |_, slot| Task::Close(slot)),
            Command::Flows(reply) => drop(reply.send(Ok(self.flow_views()))),
            Command::Flow(mac, reply) => drop(reply.send(self.flow_view(mac))),
            Command::Entries(reply) => drop(reply.send(Ok(views::entries(&self.tables)))),
            Command::Verify(repair, reply) => drop(reply.send(Ok(self.verify(repair)))),
            Command::Trace(request, reply) => drop(reply.send(explain::explain(&request, &self.tables, &self.ports))),
            Command::Status(reply) => drop(reply.send(Ok(self.status()))),
        }
    }

    fn open(&mut self, open: OpenFlow, reply: Reply<LeaseView>) {
        let found = self.ports.iter().find(|(_, port)| port.config.interface == open.port).map(|(number, port)| {
            (number, port.link.as_ref().map_or(Mac::default(), |link| link.mac))
        });
        let Some((port, host)) = found else {
            return drop(reply.send(Err(views::no_such_port(&open.port, &self.ports))));
        };
        let request = Request {
            key: local_key(&open),
            port,
            host,
            count: open.count.unwrap_or(1),
            lifetime: open.lifetime,
            spec: FlowSpec { destination: open.destination, rate: open.rate, field: open.field, name: open.name },
        };
        if let Err(message) = check(&request) {
            return drop(reply.send(Err(Problem { code: "invalid".into(), message: message.into() })));
        }
        self.submit(Task::Client(Operation::Request(request)), reply);
    }

    /// Does something with the lease of a flow address.
    fn on_lease(&mut self, mac: Mac, reply: Reply<LeaseView>, task: impl FnOnce(&Lease, flowlane_wire::SlotIndex) -> Task) {
        let task = self.lease_of(mac).map(|(lease, slot)| task(lease, slot));
        match task {
            Some(task) => self.submit(task, reply),
            None => drop(reply.send(Err(views::no_such_flow(mac)))),
        }
    }

    fn submit(&mut self, task: Task, reply: Reply<LeaseView>) {
        let done: Done = Box::new(move |results, switch, now| {
            let result = results.into_iter().next().unwrap_or(Err(Failure::Store("no result".into())));
            let view = |lease: Lease| views::lease(&lease, &switch.tables, &switch.ports, now);
            drop(reply.send(result.map(view).map_err(|failure| views::failure(&failure))));
        });
        self.leases.submit(Transaction { tasks: vec![task], done });
    }

    /// The lease that a flow address belongs to, tag and all.
    fn lease_of(&self, mac: Mac) -> Option<(&Lease, flowlane_wire::SlotIndex)> {
        let (address, slot) = views::address_of(mac, &self.tables)?;
        let lease = self.leases.allotter().lease_at(slot)?;
        lease.addresses(self.tables.block()).any(|own| own == address).then_some((lease, slot))
    }

    fn flow_views(&self) -> Vec<crate::api::FlowView> {
        let now = boot_ms();
        let leases = self.leases.allotter().leases();
        let mut views: Vec<_> = leases
            .flat_map(|lease| lease.addresses(self.tables.block()).map(move |address| (address, lease)))
            .filter_map(|(address, lease)| views::flow(address, lease, &self.tables, &self.flows, &self.ports, now))
            .collect();
        views.sort_by_key(|view| view.slot);
        views
    }

    fn flow_view(&self, mac: Mac) -> Result<crate::api::FlowView, Problem> {
        let view = || {
            let (address, _) = views::address_of(mac, &self.tables)?;
            let (lease, _) = self.lease_of(mac)?;
            views::flow(address, lease, &self.tables, &self.flows, &self.ports, boot_ms())
        };
        view().ok_or_else(|| views::no_such_flow(mac))
    }

    fn verify(&mut self, repair: bool) -> crate::api::Verification {
        let leases: Vec<Lease> = self.leases.allotter().leases().cloned().collect();
        let now = boot_ms();
        let found = verify::compare(&leases, &self.tables);
        if repair && !found.ok {
            self.flows.adopt(leases.iter(), now, &self.resolver, &self.ports);
            let after = verify::compare(&leases, &self.tables);
            return crate::api::Verification { ok: after.ok, ..found };
        }
        found
    }

    fn status(&self) -> Status {
        let counts = self.leases.allotter().counts();
        let mut problems: Vec<String> = self
            .ports
            .iter()
            .filter_map(|(_, port)| Some(format!("port {}: {}", port.config.interface, port.problem.as_ref()?)))
            .collect();
        problems.extend(self.leases.problem().map(|problem| format!("leases: {problem}")));
        let kernel = self.ports.iter().any(|(_, port)| port.executor.and_then(Executor::mode).is_some());
        if kernel && !flowlane_program::bpffs::outlives_this_process() {
            problems.push("the BPF file system ends with this process: flows stop when it is killed".into());
        }
        Status {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            block: self.config.block.to_string(),
            slots: counts.slots,
            leased: counts.leased,
            quarantined: counts.quarantined,
            adopted: self.adopted,
            store: self.config.state_directory.join("leases.redb").display().to_string(),
            ports: self.ports.iter().map(|(number, port)| views::port(number, port, &self.tables)).collect(),
            problems,
        }
    }
}

/// Waits until the kernel has something; for ever where it takes no part.
async fn readable(punts: &mut Option<AsyncFd<Punts>>) -> Result<&mut AsyncFd<Punts>, Report> {
    let Some(punts) = punts else { return std::future::pending().await };
    punts.readable().await.into_diagnostic()?.clear_ready();
    Ok(punts)
}

type Opened = (Result<Kernel, String>, Tables, Option<Punts>, bool);

/// The tables: in the kernel where a port may be handled there, else in files.
fn open_tables(config: &Config) -> Result<Opened, Report> {
    let wants_kernel = config.ports.values().any(|port| port.executor != Executor::AfPacket);
    let needs_kernel = config.ports.values().any(|port| port.executor.mode().is_some());
    let in_files = |reason: String| {
        let adopted = config.runtime_directory.join("destinations").exists();
        let tables = Tables::in_files(config.block, &config.runtime_directory).into_diagnostic()?;
        Ok((Err(reason), tables, None, adopted))
    };
    if !wants_kernel {
        if let Err(error) = Kernel::remove(&config.name) {
            // Without privileges there is nothing of ours to remove.
            tracing::debug!("programs of an earlier run are not removed: {error}");
        }
        return in_files("every port is configured for af-packet".into());
    }
    let options = KernelOptions {
        name: config.name.clone(),
        block: config.block,
        queue_bytes: KERNEL_QUEUE,
        show: config.capture.is_some(),
    };
    match Kernel::open(options) {
        Ok((kernel, tables, punts, adopted)) => Ok((Ok(kernel), tables, Some(punts), adopted)),
        Err(error) if needs_kernel => {
            Err(miette!(code = "FL0202", help = "run as root, or see what `flowlane doctor` finds", "{error}"))
        }
        Err(error) => {
            tracing::warn!("the kernel's executors can not be used ({error}); the ports are handled by this process");
            in_files(error.to_string())
        }
    }
}

/// Who asks by the local interface: a name if there is one, else the flow's own name, so that asking again finds the
/// same lease; else a fresh identity.
fn local_key(open: &OpenFlow) -> LeaseKey {
    let client = match &open.client {
        Some(client) => format!("local:{client}"),
        None => format!("local:{}", boot_nanos()),
    };
    LeaseKey { client: ClientId(client.into_bytes()), iaid: open.iaid.unwrap_or(0) }
}

/// What a request must satisfy that does not come through DHCPv6, where the codec sees to it.
fn check(request: &Request) -> Result<(), &'static str> {
    if request.count == 0 {
        return Err("a flow needs at least one address");
    }
    if request.spec.name.as_ref().is_some_and(|name| name.len() > 64) {
        return Err("a name has at most 64 octets");
    }
    if request.key.client.0.len() > 128 {
        return Err("a client's name has at most 120 octets");
    }
    if request.spec.rate == Some(0) {
        return Err("a rate of 0 lets nothing through; leave it out for a flow without a meter");
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<(), Report> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| {
        miette!(code = "FL0203", help = "run as root, or name another directory in the configuration", "can not make {}: {error}", path.display())
    })
}

/// A first sequence number with a random tag: the addresses of a new switch are not those of the one before it.
fn random_tag(config: &Config) -> Result<u64, Report> {
    let tag = u64::from_le_bytes(random()?) % config.block.tags();
    Ok(tag * u64::from(config.block.slots()))
}

fn random<const N: usize>() -> Result<[u8; N], Report> {
    let mut octets = [0; N];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut octets)).into_diagnostic()?;
    Ok(octets)
}

/// The server's identity: made once, kept beside the leases.
fn server_uuid(directory: &Path) -> Result<[u8; 16], Report> {
    let path = directory.join("server-uuid");
    if let Ok(octets) = fs::read(&path) {
        if let Ok(uuid) = octets.try_into() {
            return Ok(uuid);
        }
    }
    let uuid: [u8; 16] = random()?;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, &uuid)).into_diagnostic()?;
    Ok(uuid)
}

fn boot_ms() -> u64 {
    boot_nanos() / 1_000_000
}

fn boot_nanos() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from).as_nanos() as u64
}
