//! A host's runs in the kernel: whose packets are put into flows, and into which.
//!
//! One program on each interface, and tables that all share. What outlives the process is pinned: packets go on to be put into
//! flows while nobody runs, until the time is over that each flow's entry says.

mod held;

pub use held::{Held, HeldPackets};

use crate::{
    Mapped, ProgramError, bpffs,
    object::{
        access, attach_when_free, fd, keep, namespace, pin, pinned, program_of, remove_if_there, take, uninterrupted,
    },
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, RingBuf},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::PinnedLink,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use flowlane_tables::{RUN_FLOWS, RUN_LAYOUT, RunFlow, RunKey, RunScope, RunScopes};
use flowlane_wire::Mac;
use nix::{
    ifaddrs::getifaddrs,
    time::{ClockId, clock_gettime},
};
use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

/// A host's programs as built for the kernel, from `data-path/kernel`.
pub static HOST_OBJECT: &[u8] = aya::include_bytes_aligned!("../../../data-path/kernel/host.bpf.o");

const PROGRAM: &str = "flowlane_run";

/// The size of the queue to userspace in octets: room for 2,000 packets, or for 60 super-packets.
const QUEUE: u32 = 4 << 20;

/// The maps, and the files that they are pinned to.
const SHARED: [(&str, &str); 7] = [
    ("SCOPES", "scopes"),
    ("CGROUPS", "cgroups"),
    ("SOCKETS", "sockets"),
    ("INTERFACES", "interfaces"),
    ("DESTINATIONS", "destinations"),
    ("FLOWS", "flows"),
    ("HELD", "held"),
];

/// The runs of one host. Interfaces are those of the network namespace of the thread that opened it, and all calls are to be
/// made there.
pub struct Runs {
    object: Ebpf,
    directory: bpffs::Directory,
    namespace: u64,
    attached: BTreeMap<u32, PinnedLink>,
    scopes: Mapped<RunScopes>,
    flows: Mapped<RunFlow>,
    /// By the cgroup's number: a [`RunScope`], and its depth in the octet from bit 40.
    cgroups: HashMap<MapData, u64, u64>,
    sockets: HashMap<MapData, u64, u64>,
    interfaces: HashMap<MapData, u32, u64>,
    destinations: HashMap<MapData, [u8; 24], u32>,
}

const LEVEL_SHIFT: u32 = 40;

impl Runs {
    /// Makes the tables, or adopts those that a predecessor of the same name has pinned. Whether they were adopted is the
    /// last of what is returned.
    ///
    /// # Errors
    /// [`ProgramError::NoBpffs`], and [`ProgramError::Load`] or [`ProgramError::Attach`] where the kernel refuses the
    /// program; [`ProgramError::OldKernel`] where it could not be attached (before Linux 6.6).
    pub fn open(name: &str) -> Result<(Self, HeldPackets, bool), ProgramError> {
        let directory = bpffs::Directory::make(&directory_of(name))?;
        let maps = maps_in(&directory);
        let adopted = maps.join("flows").exists();
        if !adopted {
            remove_all(&directory)?;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&maps).map_err(ProgramError::file(&maps))?;
        let mut object = load(&maps)?;
        SchedClassifier::query_tcx("lo", TcAttachType::Egress).map_err(|_| ProgramError::OldKernel)?;
        let held = RingBuf::try_from(take(&mut object, "HELD")?).map_err(access("held"))?;
        let runs = Self {
            namespace: namespace()?,
            attached: BTreeMap::new(),
            scopes: Mapped::shared(fd(&take(&mut object, "SCOPES")?)?, 1)?,
            flows: Mapped::shared(fd(&take(&mut object, "FLOWS")?)?, RUN_FLOWS as usize)?,
            cgroups: HashMap::try_from(take(&mut object, "CGROUPS")?).map_err(access("cgroups"))?,
            sockets: HashMap::try_from(take(&mut object, "SOCKETS")?).map_err(access("sockets"))?,
            interfaces: HashMap::try_from(take(&mut object, "INTERFACES")?).map_err(access("interfaces"))?,
            destinations: HashMap::try_from(take(&mut object, "DESTINATIONS")?).map_err(access("destinations"))?,
            object,
            directory,
        };
        // A predecessor may have been killed between a table and what is said of it.
        runs.look_for_cgroups()?;
        runs.look_for_sockets()?;
        Ok((runs, HeldPackets::new(held), adopted))
    }

    /// Looks at the packets that leave by an interface. A link that is pinned for it is adopted: its program is replaced and
    /// at no time absent. To be called again when the interface's own address has changed.
    ///
    /// The program comes before all others of the interface, and leaves packets to them.
    ///
    /// # Errors
    /// [`ProgramError::NoInterface`], [`ProgramError::Attach`] (before Linux 6.6, or without privileges).
    pub fn attach(&mut self, interface: &str, ifindex: u32) -> Result<(), ProgramError> {
        let mac = mac_of(interface).ok_or_else(|| ProgramError::NoInterface(interface.to_owned()))?;
        self.interfaces.insert(ifindex, mac.to_u64(), 0).map_err(access("interfaces"))?;
        let path = self.link_path(ifindex);
        let link = attach(program(&mut self.object)?, interface, &path)?;
        self.attached.insert(ifindex, link);
        Ok(())
    }

    /// Looks at an interface's packets no longer.
    ///
    /// # Errors
    /// [`ProgramError::File`] where the link can not be unpinned.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), ProgramError> {
        self.attached.remove(&ifindex);
        remove_if_there(&self.link_path(ifindex))?;
        gone(self.interfaces.remove(&ifindex)).map_err(access("interfaces"))
    }

    /// The interfaces of this namespace whose packets are looked at, for this process or a predecessor. Some may have been
    /// removed since.
    pub fn attached(&self) -> Vec<u32> {
        let suffix = format!("-ns{}", self.namespace);
        let files = fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let ifindex = |name: &str| name.strip_prefix("if")?.strip_suffix(&suffix)?.parse().ok();
        let mut interfaces: Vec<u32> = files.filter_map(|file| ifindex(file.file_name().to_str()?)).collect();
        interfaces.sort_unstable();
        interfaces
    }

    /// Makes a run of all that the processes in a cgroup and in those below it send. `id` is the inode of the cgroup's
    /// directory, `level` its depth below the root of the hierarchy, which is 0. The innermost cgroup decides.
    ///
    /// # Errors
    /// [`ProgramError::TooManyLevels`]; [`ProgramError::MapAccess`] where there are too many cgroups.
    pub fn add_cgroup(&mut self, id: u64, level: u32, run: u32, required: bool) -> Result<(), ProgramError> {
        let octet = u8::try_from(level).map_err(|_| ProgramError::TooManyLevels)?;
        let levels = RunScopes::levels_word(self.levels()?.into_iter().chain([octet]));
        levels.ok_or(ProgramError::TooManyLevels)?;
        let word = RunScope { run, required }.to_word() | u64::from(octet) << LEVEL_SHIFT;
        self.cgroups.insert(id, word, 0).map_err(access("cgroups"))?;
        self.look_for_cgroups()
    }

    /// A cgroup is a run no longer.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the kernel fails.
    pub fn remove_cgroup(&mut self, id: u64) -> Result<(), ProgramError> {
        gone(self.cgroups.remove(&id)).map_err(access("cgroups"))?;
        self.look_for_cgroups()
    }

    /// Makes a run of all that a socket sends, by its cookie (`SO_COOKIE` of socket(7)); of no socket that it accepts.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where there are too many.
    pub fn add_socket(&mut self, cookie: u64, run: u32, required: bool) -> Result<(), ProgramError> {
        self.sockets.insert(cookie, RunScope { run, required }.to_word(), 0).map_err(access("sockets"))?;
        self.look_for_sockets()
    }

    /// A socket is a run no longer.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the kernel fails.
    pub fn remove_socket(&mut self, cookie: u64) -> Result<(), ProgramError> {
        gone(self.sockets.remove(&cookie)).map_err(access("sockets"))?;
        self.look_for_sockets()
    }

    /// Makes a run, and says whether flows are required, of all that leaves the network namespace and is of no other run; or
    /// of nothing.
    ///
    /// # Errors
    /// [`ProgramError::Incomplete`] if the tables are not what they should be.
    pub fn set_namespace(&mut self, run: Option<(u32, bool)>) -> Result<(), ProgramError> {
        let word = run.map_or(0, |(run, required)| RunScope { run, required }.to_word());
        self.scopes()?.namespace().store(word);
        Ok(())
    }

    /// What becomes of the packets to each destination; shared with the kernel, which takes entries by itself.
    pub fn flows(&self) -> &[RunFlow] {
        &self.flows
    }

    /// The entry of a destination.
    pub fn index_of(&self, key: &RunKey) -> Option<u32> {
        self.destinations.get(&key.to_octets(), 0).ok()
    }

    /// The entry of a destination. One is made where there is none: its packets wait until the time `until` of the boot-time
    /// clock.
    ///
    /// # Errors
    /// [`ProgramError::RunsFull`].
    pub fn want(&mut self, key: &RunKey, required: bool, until: u64) -> Result<u32, ProgramError> {
        const NOEXIST: u64 = 1;
        if let Some(index) = self.index_of(key) {
            return Ok(index);
        }
        let index = self.take_free(key, required, until)?;
        match self.destinations.insert(key.to_octets(), index, NOEXIST) {
            Ok(()) => Ok(index),
            Err(source) => {
                self.free(index);
                // The program was faster.
                self.index_of(key).ok_or(ProgramError::MapAccess { name: "destinations", source })
            }
        }
    }

    /// Frees an entry: the next packet to its destination is the first.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the kernel fails.
    pub fn forget(&mut self, index: u32) -> Result<(), ProgramError> {
        let Some(key) = self.flows.get(index as usize).map(RunFlow::key) else { return Ok(()) };
        if self.index_of(&key) == Some(index) {
            gone(self.destinations.remove(&key.to_octets())).map_err(access("destinations"))?;
        }
        self.free(index);
        Ok(())
    }

    /// Removes everything that a host of this name has pinned: its packets leave as they are.
    ///
    /// # Errors
    /// [`ProgramError::File`] where something can not be removed.
    pub fn remove(name: &str) -> Result<(), ProgramError> {
        let name = directory_of(name);
        // The kernel takes its time to let go of a program: from now on it finds nobody whose packets it would change.
        bpffs::Directory::existing(&name)
            .iter()
            .filter_map(pinned_scopes)
            .for_each(|scopes| scopes.iter().for_each(empty));
        bpffs::Directory::remove(&name)
    }

    /// The kernel's boot-time clock, by which entries end, in nanoseconds.
    pub fn boot_nanos() -> u64 {
        // The clock exists on every Linux; reading it can not fail.
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(std::time::Duration::ZERO, Into::into);
        now.as_nanos() as u64
    }

    fn take_free(&self, key: &RunKey, required: bool, until: u64) -> Result<u32, ProgramError> {
        let scopes = self.scopes()?;
        let takes = |index: &u32| self.flows.get(*index as usize).is_some_and(|flow| flow.take(key, required, until));
        let mut entries = (0..RUN_FLOWS).map(|_| scopes.next_entry() % RUN_FLOWS);
        entries.find(takes).ok_or(ProgramError::RunsFull)
    }

    fn free(&self, index: u32) {
        if let Some(flow) = self.flows.get(index as usize) {
            flow.free();
        }
    }

    fn scopes(&self) -> Result<&RunScopes, ProgramError> {
        self.scopes.first().ok_or(ProgramError::Incomplete("SCOPES"))
    }

    fn levels(&self) -> Result<Vec<u8>, ProgramError> {
        let level = |entry: Result<(u64, u64), MapError>| entry.map(|(_, word)| (word >> LEVEL_SHIFT) as u8);
        self.cgroups.iter().map(level).collect::<Result<_, _>>().map_err(access("cgroups"))
    }

    /// Tells the program at which depths there are cgroups to look for.
    fn look_for_cgroups(&self) -> Result<(), ProgramError> {
        let levels = RunScopes::levels_word(self.levels()?).ok_or(ProgramError::TooManyLevels)?;
        self.scopes()?.levels().store(levels);
        Ok(())
    }

    /// Tells the program whether there are sockets to look for.
    fn look_for_sockets(&self) -> Result<(), ProgramError> {
        let any = self.sockets.keys().next().transpose().map_err(access("sockets"))?.is_some();
        self.scopes()?.sockets().store(u64::from(any));
        Ok(())
    }

    /// The file of a link names all that it depends on, so that one for another interface is never adopted.
    fn link_path(&self, ifindex: u32) -> PathBuf {
        self.directory.path().join(format!("if{ifindex}-ns{}", self.namespace))
    }
}

/// The directory of the pins.
fn directory_of(name: &str) -> String {
    format!("host-{name}")
}

/// Whose packets a program looks at that is pinned there, if it is of this layout.
fn pinned_scopes(directory: &bpffs::Directory) -> Option<Mapped<RunScopes>> {
    let map = MapData::from_pin(maps_in(directory).join("scopes")).ok()?;
    Mapped::shared(map.fd().as_fd(), 1).ok()
}

/// The directory of the maps of this layout.
fn maps_in(directory: &bpffs::Directory) -> PathBuf {
    directory.path().join(format!("runs-{RUN_LAYOUT}"))
}

/// Nobody's packets are looked at.
fn empty(scopes: &RunScopes) {
    [scopes.sockets(), scopes.levels(), scopes.namespace()].iter().for_each(|word| word.store(0));
}

/// Removes what a predecessor has pinned whose tables are of another layout.
fn remove_all(directory: &bpffs::Directory) -> Result<(), ProgramError> {
    for file in fs::read_dir(directory.path()).map_err(ProgramError::file(directory.path()))?.flatten() {
        let path = file.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(ProgramError::file(&path))?;
    }
    Ok(())
}

/// Loads the program on the pinned maps; missing ones are made and pinned.
fn load(maps: &Path) -> Result<Ebpf, ProgramError> {
    let mut loader = EbpfLoader::new();
    loader.btf(None).map_max_entries("HELD", QUEUE);
    for (name, file) in SHARED {
        loader.map_pin_path(name, maps.join(file));
    }
    let mut object = loader.load(HOST_OBJECT).map_err(Box::new)?;
    let program = program(&mut object)?;
    uninterrupted(|| program.load()).map_err(|source| failed("the kernel", source))?;
    Ok(object)
}

fn program(object: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramError> {
    program_of(object, PROGRAM)?.try_into().map_err(|source| failed("the kernel", source))
}

fn attach(program: &mut SchedClassifier, interface: &str, path: &Path) -> Result<PinnedLink, ProgramError> {
    let failed = |source| failed(interface, source);
    if let Some(link) = pinned(path) {
        let link: SchedClassifierLink = link.try_into().map_err(|_| ProgramError::Incomplete("tcx link"))?;
        if let Ok(id) = program.attach_to_link(link) {
            return keep(program.take_link(id).map_err(failed)?, path);
        }
        // The interface has been removed since; its link is dead.
        remove_if_there(path)?;
    }
    let first = || TcAttachOptions::TcxOrder(LinkOrder::first());
    let id =
        attach_when_free(|| program.attach_with_options(interface, TcAttachType::Egress, first())).map_err(failed)?;
    pin(program.take_link(id).map_err(failed)?, path)
}

fn failed(interface: &str, source: aya::programs::ProgramError) -> ProgramError {
    ProgramError::Attach { program: PROGRAM, interface: interface.to_owned(), source: Box::new(source) }
}

/// The Ethernet address of an interface.
fn mac_of(interface: &str) -> Option<Mac> {
    let mut addresses = getifaddrs().ok()?.filter(|of| of.interface_name == interface);
    addresses.find_map(|of| of.address?.as_link_addr()?.addr().map(Mac))
}

/// What is not there need not be removed.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
