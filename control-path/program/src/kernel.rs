//! The kernel's programs: loaded, attached, pinned, adopted.
//!
//! Every port has a copy of the program with its own number and the switch's block as constants. What outlives the
//! process is pinned: the maps, and a link for each port. A successor finds them, loads its own programs on the same
//! maps and replaces the program behind each link: the kernel forwards at every moment.

use crate::{Mapped, ProgramError, Punts, Tables, Tuples, bpffs};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{DevMap, HashMap, Map, MapData, PerCpuArray, RingBuf, xdp::XdpMapError},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use flowlane_tables::{GROUPS, LAYOUT, MAX_PORTS};
use flowlane_wire::{Block, PortId};
use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// The programs as built for the kernel, from `data-path/kernel`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../data-path/kernel/flowlane.bpf.o");

/// Where in the kernel a port's program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At the driver. For network cards.
    Xdp,
    /// On socket buffers, before the network stack. For virtual ports: super-packets stay whole.
    Tc,
}

/// What a kernel is started with.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// The switch's name: the directory of its pins.
    pub name: String,
    /// The switch's addresses.
    pub block: Block,
    /// The size of the queue to userspace in octets; a power of two, at least a page.
    pub queue_bytes: u32,
    /// Whether every frame is shown to userspace.
    pub show: bool,
}

/// A port whose frames the kernel handles.
#[derive(Debug)]
pub struct Attachment {
    /// Where.
    pub mode: Mode,
    /// To which interface, by index.
    pub ifindex: u32,
    /// Whether a predecessor's link was adopted.
    pub adopted: bool,
    /// Held so that the programs are not unloaded before the links are pinned, and the links not closed.
    _links: Vec<PinnedLink>,
}

/// The kernel's side of a switch.
pub struct Kernel {
    options: KernelOptions,
    directory: bpffs::Directory,
    maps: PathBuf,
    /// The network namespace, by number: interface indices mean something within it only.
    namespace: u64,
    devices: DevMap<MapData>,
    attached: BTreeMap<PortId, Attachment>,
}

const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The maps that all programs share, and the files that they are pinned to.
const SHARED: [(&str, &str); 7] = [
    ("SLOTS", "slots"),
    ("PORTS", "ports"),
    ("MULTICAST", "groups"),
    ("TUPLES", "tuples"),
    ("DEVICES", "devices"),
    ("COUNTS", "counts"),
    ("PUNTS", "punts"),
];

/// Words of a block, as the loader takes them.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct BlockWords([u64; 3]);

// SAFETY: plain numbers without padding.
unsafe impl Pod for BlockWords {}

impl Kernel {
    /// Makes the tables, or adopts those that a predecessor of the same name has pinned.
    /// Whether they were adopted is the last of what is returned.
    pub fn open(options: KernelOptions) -> Result<(Self, Tables, Punts, bool), ProgramError> {
        let directory = bpffs::Directory::make(&options.name)?;
        let maps = directory.path().join(format!("tables-{LAYOUT}-{}", options.block.slots()));
        let adopted = maps.join("slots").exists();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&maps).map_err(ProgramError::file(&maps))?;
        let mut object = load(&options, &maps, PortId::NONE)?;
        let slots = Mapped::shared(fd(&take(&mut object, "SLOTS")?)?, options.block.slots() as usize)?;
        let ports = Mapped::shared(fd(&take(&mut object, "PORTS")?)?, usize::from(MAX_PORTS))?;
        let groups = Mapped::shared(fd(&take(&mut object, "MULTICAST")?)?, GROUPS as usize)?;
        let tuples = HashMap::try_from(take(&mut object, "TUPLES")?).map_err(access("tuples"))?;
        let counts = PerCpuArray::try_from(take(&mut object, "COUNTS")?).map_err(access("counts"))?;
        let punts = RingBuf::try_from(take(&mut object, "PUNTS")?).map_err(access("punts"))?;
        let devices = DevMap::try_from(take(&mut object, "DEVICES")?).map_err(access("devices"))?;
        let namespace = fs::metadata(NAMESPACE).map_err(ProgramError::file(NAMESPACE))?.ino();
        let tables = Tables::in_kernel(options.block, slots, ports, groups, Tuples::in_kernel(tuples)?, counts)?;
        let kernel = Self { options, directory, maps, namespace, devices, attached: BTreeMap::new() };
        Ok((kernel, tables, Punts::new(punts), adopted))
    }

    /// Runs the pipeline on the frames that come in by an interface. A link that a predecessor pinned for the port is
    /// adopted: its program is replaced and at no time absent.
    pub fn attach(&mut self, port: PortId, interface: &str, ifindex: u32, mode: Mode) -> Result<(), ProgramError> {
        let mut object = load(&self.options, &self.maps, port)?;
        self.detach_former_port(port, ifindex)?;
        let (links, adopted) = match mode {
            Mode::Tc => {
                let (link, adopted) = self.attach_tc(&mut object, "flowlane_tc", port, interface, ifindex, "tc")?;
                (vec![link], adopted)
            }
            Mode::Xdp => {
                let (host, _) = self.attach_tc(&mut object, "flowlane_host", port, interface, ifindex, "host")?;
                let (link, adopted) = self.attach_xdp(&mut object, port, interface, ifindex)?;
                (vec![host, link], adopted)
            }
        };
        let kinds: &[&str] = if mode == Mode::Tc { &["tc"] } else { &["xdp", "host"] };
        let keep: Vec<PathBuf> = kinds.iter().map(|kind| self.link_path(port, ifindex, kind)).collect();
        self.unpin_others(port, &keep)?;
        self.attached.insert(port, Attachment { mode, ifindex, adopted, _links: links });
        Ok(())
    }

    /// Loads a port's copy of the programs on the switch's tables and attaches none of them: for `BPF_PROG_TEST_RUN`,
    /// which runs a program (`flowlane_xdp`, `flowlane_tc`) on a frame without an interface.
    ///
    /// # Errors
    /// [`ProgramError::Load`] where the kernel refuses the object.
    pub fn programs(&self, port: PortId) -> Result<Ebpf, ProgramError> {
        load(&self.options, &self.maps, port)
    }

    /// Names the interface that XDP sends a port's frames by. To an interface without XDP frames can be sent as well.
    pub fn set_device(&mut self, port: PortId, ifindex: u32) -> Result<(), ProgramError> {
        self.devices.set(u32::from(port.0), ifindex, None, 0).map_err(|error| match error {
            XdpMapError::MapError(source) => ProgramError::MapAccess { name: "devices", source },
            XdpMapError::ChainedProgramNotSupported => ProgramError::OldKernel,
        })
    }

    /// Ends the pipeline on a port: the link is unpinned, and so detached.
    pub fn detach(&mut self, port: PortId) -> Result<(), ProgramError> {
        self.attached.remove(&port);
        self.unpin_others(port, &[])
    }

    /// The ports whose frames the kernel handles.
    pub fn attached(&self) -> &BTreeMap<PortId, Attachment> {
        &self.attached
    }

    /// The ports for which links are pinned, by this process or by a predecessor.
    pub fn pinned_ports(&self) -> Vec<PortId> {
        let files = fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let mut ports: Vec<PortId> = files
            .filter_map(|file| file.file_name().to_str()?.strip_prefix("port-")?.split('-').next()?.parse().ok())
            .map(PortId)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Removes tables that predecessors with another layout or size have left. To be called when all ports run on this
    /// one's tables.
    pub fn remove_old_tables(&self) -> Result<(), ProgramError> {
        for file in fs::read_dir(self.directory.path()).map_err(ProgramError::file(self.directory.path()))?.flatten() {
            let path = file.path();
            if path.is_dir() && path != self.maps {
                fs::remove_dir_all(&path).map_err(ProgramError::file(&path))?;
            }
        }
        Ok(())
    }

    /// Removes everything that a switch of this name has pinned: its ports are plain interfaces again.
    pub fn remove(name: &str) -> Result<(), ProgramError> {
        let Some(root) = bpffs::find() else { return Ok(()) };
        let directory = root.join("flowlane").join(name);
        match fs::remove_dir_all(&directory) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(ProgramError::File { path: directory, source }),
            _ => Ok(()),
        }
    }

    fn attach_tc(
        &self,
        object: &mut Ebpf,
        program: &'static str,
        port: PortId,
        interface: &str,
        ifindex: u32,
        kind: &str,
    ) -> Result<(PinnedLink, bool), ProgramError> {
        let failed =
            |source| ProgramError::Attach { program, interface: interface.to_owned(), source: Box::new(source) };
        let program: &mut SchedClassifier = program_of(object, program)?.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let path = self.link_path(port, ifindex, kind);
        if let Some(link) = pinned(&path) {
            let link: SchedClassifierLink = link.try_into().map_err(|_| ProgramError::Incomplete("tcx link"))?;
            if let Ok(id) = program.attach_to_link(link) {
                return Ok((keep(program.take_link(id).map_err(failed)?, &path)?, true));
            }
            // The interface has been removed since; its link is dead.
            remove_if_there(&path)?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(interface, TcAttachType::Ingress, options).map_err(failed)?;
        Ok((pin(program.take_link(id).map_err(failed)?, &path)?, false))
    }

    fn attach_xdp(
        &self,
        object: &mut Ebpf,
        port: PortId,
        interface: &str,
        ifindex: u32,
    ) -> Result<(PinnedLink, bool), ProgramError> {
        let program = "flowlane_xdp";
        let failed =
            |source| ProgramError::Attach { program, interface: interface.to_owned(), source: Box::new(source) };
        let program: &mut Xdp = program_of(object, program)?.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let path = self.link_path(port, ifindex, "xdp");
        if let Some(link) = pinned(&path) {
            let link: XdpLink = link.try_into().map_err(|_| ProgramError::Incomplete("XDP link"))?;
            if let Ok(id) = program.attach_to_link(link) {
                return Ok((keep(program.take_link(id).map_err(failed)?, &path)?, true));
            }
            // The interface has been removed since; its link is dead.
            remove_if_there(&path)?;
        }
        let id = match program.attach_to_if_index(ifindex, XdpMode::Driver) {
            Ok(id) => id,
            // The driver has no XDP of its own: the kernel's generic one does the same, slower.
            Err(_) => program.attach_to_if_index(ifindex, XdpMode::Skb).map_err(failed)?,
        };
        Ok((pin(program.take_link(id).map_err(failed)?, &path)?, false))
    }

    /// The file of a link names all that it depends on, so that one for another interface is never adopted.
    fn link_path(&self, port: PortId, ifindex: u32, kind: &str) -> PathBuf {
        self.directory.path().join(format!("port-{port}-if{ifindex}-ns{}-{kind}", self.namespace))
    }

    /// Ends the pipeline that an interface has as another port: its number has changed in the configuration. An interface
    /// takes only one XDP program.
    fn detach_former_port(&mut self, port: PortId, ifindex: u32) -> Result<(), ProgramError> {
        self.attached.retain(|number, attachment| *number == port || attachment.ifindex != ifindex);
        for number in self.pinned_ports().into_iter().filter(|number| *number != port) {
            for kind in ["tc", "xdp", "host"] {
                remove_if_there(&self.link_path(number, ifindex, kind))?;
            }
        }
        Ok(())
    }

    /// Unpins the links of a port except those named.
    fn unpin_others(&self, port: PortId, keep: &[PathBuf]) -> Result<(), ProgramError> {
        let prefix = format!("port-{port}-");
        for file in fs::read_dir(self.directory.path()).map_err(ProgramError::file(self.directory.path()))?.flatten() {
            let of_port = file.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
            if of_port && !keep.contains(&file.path()) {
                remove_if_there(&file.path())?;
            }
        }
        Ok(())
    }
}

/// Loads a copy of the programs for one port, on the shared maps: pinned ones are used, missing ones made and pinned.
fn load(options: &KernelOptions, maps: &Path, port: PortId) -> Result<Ebpf, ProgramError> {
    let words = BlockWords(options.block.to_words());
    let (number, show) = (port.0, u8::from(options.show));
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .override_global("BLOCK", &words, true)
        .override_global("PORT", &number, true)
        .override_global("SHOW", &show, true)
        .map_max_entries("SLOTS", options.block.slots())
        .map_max_entries("TUPLES", options.block.slots())
        .map_max_entries("PUNTS", options.queue_bytes);
    for (name, file) in SHARED {
        loader.map_pin_path(name, maps.join(file));
    }
    Ok(loader.load(OBJECT).map_err(Box::new)?)
}

/// A link that a predecessor has pinned.
fn pinned(path: &Path) -> Option<FdLink> {
    PinnedLink::from_pin(path).ok().map(FdLink::from)
}

/// Pins a new link.
fn pin(link: impl TryInto<FdLink>, path: &Path) -> Result<PinnedLink, ProgramError> {
    let link = link.try_into().map_err(|_| ProgramError::OldKernel)?;
    link.pin(path).map_err(|error| ProgramError::Pin { path: path.into(), reason: error.to_string() })
}

/// An adopted link is pinned already; only the handle is made anew.
fn keep(link: impl TryInto<FdLink>, path: &Path) -> Result<PinnedLink, ProgramError> {
    drop(link.try_into());
    PinnedLink::from_pin(path).map_err(|error| ProgramError::Pin { path: path.into(), reason: error.to_string() })
}

fn remove_if_there(path: &Path) -> Result<(), ProgramError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(ProgramError::File { path: path.into(), source }),
        _ => Ok(()),
    }
}

fn program_of<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut aya::programs::Program, ProgramError> {
    object.program_mut(name).ok_or(ProgramError::Incomplete(name))
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, ProgramError> {
    object.take_map(name).ok_or(ProgramError::Incomplete(name))
}

fn access(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> ProgramError {
    move |source| ProgramError::MapAccess { name, source }
}

fn fd(map: &Map) -> Result<std::os::fd::BorrowedFd<'_>, ProgramError> {
    use std::os::fd::AsFd as _;
    match map {
        Map::Array(data) => Ok(data.fd().as_fd()),
        _ => Err(ProgramError::Incomplete("array map")),
    }
}
