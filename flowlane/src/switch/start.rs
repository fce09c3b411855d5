//! From a configuration to a running switch, without disturbing what a predecessor has left in the kernel.

use super::{
    Sources, Switch, announcements::Announcements, boot_ms, confine::Confinement, error::StartError, flagged::Flagged,
    flows::Flows, groups::Groups, hops::Hops, leases::Leases, ports::Ports, ways::Ways,
};
use super::{
    command::Command,
    show::Show,
    slow_path::{SlowPath, ToLinux},
    turns::Turns,
};
use crate::config::{Config, Executor};
use flowlane_allot::{Allotter, Lease};
use flowlane_dhcp6::Server;
use flowlane_ports::exclusive::Exclusive;
use flowlane_program::{Destinations, Kernel, KernelOptions, Punts, Tables, bpffs};
use flowlane_resolve::{Event, Events, LinkState, Resolver, list_links};
use flowlane_store::{Moment, Store};
use flowlane_tables::NEVER;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

/// Frames that the ports' threads may have on their way to the loop.
const WORKER_QUEUE: usize = 4_096;
/// Requests of the local interface that wait for the loop.
const COMMAND_QUEUE: usize = 1_024;
/// The file beside the tables that says where flows go.
const DESTINATIONS: &str = "destinations";
/// How long the next hops are waited for that new tables need: a neighbour that does not answer is given up after three
/// seconds.
const FILL: Duration = Duration::from_secs(5);
/// How often it is looked whether all are known.
const LOOK: Duration = Duration::from_millis(10);
/// The queue from the kernel, in octets.
const KERNEL_QUEUE: u32 = 8 << 20;

/// Proof that this is the only process with the switch's name and directories. The kernel takes it back when the process
/// ends, however it ends.
pub struct Locks {
    _held: Vec<Flock<File>>,
}

/// The tables, and who else has to do with them.
struct Opened {
    tables: Tables,
    /// The kernel's programs, or why there are none.
    kernel: Result<Kernel, String>,
    punts: Option<Punts>,
    /// Whether a predecessor has left them.
    adopted: bool,
}

/// Starts a switch. What a predecessor left forwards all the while.
///
/// # Errors
/// [`StartError`]. Nothing was changed then, but where no port at all can be attached: then the tables are there.
pub async fn start(config: Config) -> Result<(Switch, Sources, mpsc::Sender<Command>), StartError> {
    let config = Arc::new(config);
    let mut locks = lock_directories(&config)?;
    let (store, mut allotter, written) = open_leases(&config)?;
    let Opened { tables, kernel, punts, adopted } = open_tables(&config, &mut locks)?;
    if adopted && kernel.is_ok() {
        restore_ends(&mut allotter, &tables);
    }
    let destinations = Destinations::open(&config.runtime_directory.join(DESTINATIONS), config.block.slots())?;
    let server = Server::new(server_uuid(&config.state_directory)?, config.block);
    let show = Show::start(&config)?;
    let pins_outlive = bpffs::outlives_this_process();
    // All files are open, and no thread is there yet.
    let confinement = Confinement::of(&config);
    let tables = Arc::new(tables);
    let (commands_in, commands) = mpsc::channel(COMMAND_QUEUE);
    let (inputs_in, inputs) = mpsc::unbounded_channel();
    let (to_loop, from_store) = mpsc::unbounded_channel();
    let (workers_in, from_workers) = mpsc::channel(WORKER_QUEUE);
    let leases = Leases::start(allotter, store, written, to_loop).map_err(StartError::system("starting a thread"))?;
    let to_linux = ToLinux::new(&config.name);
    let slow_path = SlowPath::new(Arc::clone(&tables), to_linux.clone(), config.capture.is_some());
    let groups = Groups::new(Arc::clone(&tables));
    let flows = Flows::new(Arc::clone(&tables), destinations, slow_path);
    let flagged = Flagged::new(Arc::clone(&tables));
    let ports = Ports::new(Arc::clone(&config), Arc::clone(&tables), kernel, to_linux, workers_in, inputs_in);
    let (resolver, events) = Resolver::start(Vec::new())?;
    let hops = Hops::new(resolver, server.id(), config.block);
    let started = Instant::now();
    let listings = std::collections::VecDeque::new();
    let turns = Turns::new(&config, started);
    #[expect(deprecated, reason = "the queue owns its descriptor, and it is always the same one")]
    let readable = |punts| AsyncFd::with_interest(punts, Interest::READABLE);
    let punts = punts.map(readable).transpose().map_err(StartError::system("waiting for the kernel's frames"))?;
    let mut sources = Sources { commands, inputs, from_store, from_workers, events, punts };
    let announcements = Announcements::new(config.block.slots(), started);
    let mut switch = Switch {
        config,
        tables,
        ports,
        leases,
        flows,
        groups,
        flagged,
        server,
        announcements,
        hops,
        ways: Ways::default(),
        turns,
        show,
        listings,
        adopted,
        pins_outlive,
        confinement,
        started,
        _locks: locks,
    };
    take_over(&mut switch, &mut sources.events).await?;
    Ok((switch, sources, commands_in))
}

/// Takes everything of a stopped switch out of the kernel: its ports are plain interfaces again, and its tables are gone.
/// Leases are kept.
///
/// # Errors
/// [`StartError::Running`] while it runs; [`StartError::Tables`] or [`StartError::File`] for want of privileges.
pub async fn remove(config: &Config) -> Result<(), StartError> {
    let mut locks = Locks { _held: Vec::new() };
    if config.runtime_directory.exists() {
        locks.lock(&config.runtime_directory)?;
    }
    locks.lock_pins(&config.name)?;
    Kernel::remove(&config.name)?;
    for link in list_links().await? {
        if config.port_of(&link.name).is_some() {
            // Most ports have no filter, and then there is nothing to remove.
            let _ = Exclusive::remove(link.ifindex);
        }
    }
    remove_files(&config.runtime_directory, |name| is_table(name) || name == DESTINATIONS)
}

impl Locks {
    /// Locks a directory.
    fn lock(&mut self, path: &Path) -> Result<(), StartError> {
        let file = File::open(path).map_err(StartError::file(path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                self._held.push(lock);
                Ok(())
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(StartError::Running { held: path.to_owned() }),
            Err((_, errno)) => Err(StartError::File { path: path.to_owned(), source: errno.into() }),
        }
    }

    /// Locks the directory of pins of this name, if there is one: pins are the same in all network namespaces.
    fn lock_pins(&mut self, name: &str) -> Result<(), StartError> {
        let path = bpffs::find().map(|root| root.join("flowlane").join(name));
        match path.filter(|path| path.exists()) {
            Some(path) => self.lock(&path),
            None => Ok(()),
        }
    }
}

fn lock_directories(config: &Config) -> Result<Locks, StartError> {
    let mut locks = Locks { _held: Vec::new() };
    for (directory, mode) in [(&config.state_directory, 0o700), (&config.runtime_directory, 0o755)] {
        DirBuilder::new().recursive(true).mode(mode).create(directory).map_err(StartError::file(directory))?;
        locks.lock(directory)?;
    }
    // Whoever made it may have left it open to others.
    let own = Permissions::from_mode(0o700);
    fs::set_permissions(&config.state_directory, own).map_err(StartError::file(&config.state_directory))?;
    Ok(locks)
}

/// The leases on disk, and when they were last written.
fn open_leases(config: &Config) -> Result<(Store, Allotter, Moment), StartError> {
    let moment = Moment::now().map_err(StartError::system("reading the clocks"))?;
    let (store, restored) = Store::open(&config.state_directory.join("leases.redb"), config.block, &moment)?;
    let first = match restored.next {
        Some(next) => next,
        None => random_first(config)?,
    };
    let mut allotter = Allotter::new(config.block, config.policy.clone(), first);
    for lease in restored.leases {
        allotter.restore(lease)?;
    }
    Ok((store, allotter, restored.written))
}

/// Ends leases as their clients were promised: rows are ahead of that. The kernel's table knows it, for it has outlived the
/// predecessor, but no boot.
fn restore_ends(allotter: &mut Allotter, tables: &Tables) {
    let (block, now) = (tables.block(), boot_ms());
    let end = |lease: &Lease| {
        let address = lease.addresses(block).next()?;
        let index = block.slot(address);
        let flow = tables.slots().get(index.0 as usize)?.flow()?;
        let is_its = flow.address == address.mac() && flow.port == lease.port && flow.expires != NEVER;
        is_its.then(|| (index, now + Tables::millis_until(flow.expires)))
    };
    let ends: Vec<_> = allotter.leases().filter_map(end).collect();
    ends.into_iter().for_each(|(index, expires)| allotter.restore_end(index, expires));
}

/// Opens the tables: in the kernel where a port may be handled there, else in files.
fn open_tables(config: &Config, locks: &mut Locks) -> Result<Opened, StartError> {
    let wants_kernel = config.ports.values().any(|port| port.executor != Executor::AfPacket);
    let needs_kernel = config.ports.values().any(|port| port.executor.is_in_kernel());
    if !wants_kernel {
        locks.lock_pins(&config.name)?;
        if let Err(error) = Kernel::remove(&config.name) {
            tracing::warn!("what an earlier run may have left in the kernel can not be removed: {error}");
        }
        return tables_in_files(config, "every port is configured for af-packet".into());
    }
    match tables_in_kernel(config, locks) {
        Err(StartError::Tables(error)) if !needs_kernel => {
            tracing::warn!("the kernel's executors can not be used ({error}); the ports are handled by this process");
            tables_in_files(config, error.to_string())
        }
        opened => opened,
    }
}

fn tables_in_kernel(config: &Config, locks: &mut Locks) -> Result<Opened, StartError> {
    // Locked before anything in it is touched.
    bpffs::Directory::make(&config.name)?;
    locks.lock_pins(&config.name)?;
    let (name, show) = (config.name.clone(), config.capture.is_some());
    let options = KernelOptions { name, block: config.block, queue_bytes: KERNEL_QUEUE, show };
    let (kernel, tables, punts, adopted) = Kernel::open(options)?;
    remove_files(&config.runtime_directory, is_table)?;
    Ok(Opened { tables, kernel: Ok(kernel), punts: Some(punts), adopted })
}

fn tables_in_files(config: &Config, reason: String) -> Result<Opened, StartError> {
    let name = Tables::directory_name(config.block);
    let adopted = config.runtime_directory.join(&name).exists();
    let tables = Tables::in_files(config.block, &config.runtime_directory)?;
    // Of another layout.
    remove_files(&config.runtime_directory, |file| is_table(file) && file != name)?;
    Ok(Opened { tables, kernel: Err(reason), punts: None, adopted })
}

/// Whether a file of the runtime directory is a table that is not in the kernel.
fn is_table(name: &str) -> bool {
    name.starts_with("tables-")
}

fn remove_files(directory: &Path, which: impl Fn(&str) -> bool) -> Result<(), StartError> {
    for file in fs::read_dir(directory).into_iter().flatten().flatten() {
        if which(&file.file_name().to_string_lossy()) {
            let path = file.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(StartError::file(path))?;
        }
    }
    Ok(())
}

/// Brings ports and table to what configuration and leases say.
async fn take_over(switch: &mut Switch, events: &mut Events) -> Result<(), StartError> {
    // Ports first as numbers, so that the flows' questions name the right interfaces; then the flows; and the programs
    // last, so that they find a table that is whole.
    for link in &list_links().await? {
        switch.ports.note(link);
    }
    switch.hops.set_static_routes(&switch.ports);
    let leases: Vec<Lease> = switch.leases.allotter().leases().cloned().collect();
    let (kept, installed, removed) = switch.flows.adopt(leases.iter(), &mut switch.hops, &switch.ports);
    let (groups_kept, groups_installed) = switch.groups.adopt(leases.iter(), &mut switch.hops, &switch.ports);
    switch.forget_asking();
    switch.adopt_tuples();
    if switch.ports.run_on_old_tables() {
        fill(switch, events).await;
    }
    switch.ports.name_devices();
    attach_ports(switch, list_links().await?)?;
    switch.ports.forget_others();
    for (_, port) in switch.ports.iter().filter(|(_, port)| port.link.is_none()) {
        tracing::warn!(port = port.config.interface, "there is no such interface; the port waits for it");
    }
    if !switch.config.flows.is_empty() {
        tracing::warn!("the configuration's [[flow]] entries are for `replay`; flows of a switch have leases");
    }
    let Config { name, block, .. } = switch.config.as_ref();
    tracing::info!(name, %block, kept, installed, removed, groups_kept, groups_installed, "switch ready");
    Ok(())
}

/// Finds out where flows go before anything forwards by new tables: what a predecessor left forwards by its own meanwhile.
async fn fill(switch: &mut Switch, events: &mut Events) {
    // No frame has asked for a flow by these tables.
    switch.flows.release_held();
    let start = Instant::now();
    while !switch.hops.are_known() && start.elapsed() < FILL {
        let look = tokio::time::sleep(LOOK);
        tokio::pin!(look);
        loop {
            tokio::select! {
                Some(event) = events.recv() => match event {
                    // Attached below, as all others.
                    Event::Link(link) => switch.ports.note(&link),
                    event => switch.event(event),
                },
                () = &mut look => break,
            }
        }
    }
    let took = start.elapsed().as_millis();
    tracing::info!(milliseconds = took, "tables of another layout are replaced by new ones");
}

/// Lets the frames of all ports be handled. A port that can not be attached has a problem, and the others go on; only
/// where none can be is there no switch.
fn attach_ports(switch: &mut Switch, links: Vec<LinkState>) -> Result<(), StartError> {
    let mut failed = None;
    for link in links {
        if let Err(source) = switch.ports.link_changed(&link) {
            tracing::error!(port = link.name, "not attached: {source}");
            failed.get_or_insert(StartError::Port { interface: link.name, source });
        }
    }
    match failed {
        Some(error) if switch.ports.iter().all(|(_, port)| port.executor.is_none()) => Err(error),
        _ => Ok(()),
    }
}

/// A first sequence number with a random tag: the addresses of a new switch are not those of the one before it.
fn random_first(config: &Config) -> Result<u64, StartError> {
    let tag = u64::from_le_bytes(random()?) % config.block.tags();
    Ok(tag * u64::from(config.block.slots()))
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut octets = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut octets));
    read.map_err(StartError::system("reading /dev/urandom"))?;
    Ok(octets)
}

/// The server's identity: made once, kept beside the leases.
fn server_uuid(directory: &Path) -> Result<[u8; 16], StartError> {
    let path: PathBuf = directory.join("server-uuid");
    if let Some(uuid) = fs::read(&path).ok().and_then(|octets| octets.try_into().ok()) {
        return Ok(uuid);
    }
    let uuid: [u8; 16] = random()?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(&uuid)).map_err(StartError::file(&path))?;
    Ok(uuid)
}
