//! The kernel's programs: loaded, attached, pinned, adopted.
//!
//! Every port has a copy of the program with its own number and the switch's block as constants. What outlives the
//! process is pinned: the maps, and a link for each port. A successor finds them, loads its own programs on the same
//! maps and replaces the program behind each link: the kernel forwards at every moment.
//!
//! Tables of another layout can not be adopted. A successor makes its own beside them and fills them, while the links go on
//! to run the predecessor's programs on the predecessor's tables; then it replaces the program behind each link as ever.

use crate::{
    KernelOptions, Mapped, ProgramError, Punts, Tables, Tuples, bpffs,
    loader::Loader,
    object::{
        access, attach_when_free, fd, keep, namespace, pin, pinned, program_of, remove_if_there, take, uninterrupted,
    },
};
use aya::{
    Ebpf,
    maps::{DevMap, HashMap, MapData, MapError, PerCpuArray, RingBuf, XskMap, xdp::XdpMapError},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::PinnedLink,
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use flowlane_tables::{GROUPS, MAX_PORTS};
use flowlane_wire::PortId;
use std::{
    collections::BTreeMap,
    fs,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::fs::DirBuilderExt,
    },
    path::PathBuf,
};

/// Where in the kernel a port's program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At the driver. For network cards.
    Xdp,
    /// On socket buffers, before the network stack. For virtual ports: super-packets stay whole.
    Tc,
}

/// A port whose frames the kernel handles.
pub struct Attachment {
    /// Where.
    pub mode: Mode,
    /// To which interface, by index.
    pub ifindex: u32,
    /// Whether a predecessor's link was adopted.
    pub adopted: bool,
    /// Held so that the programs are not unloaded before the links are pinned, and the links not closed.
    _links: Vec<PinnedLink>,
    /// Where the program finds the sockets of this process, if frames go to such.
    sockets: Option<XskMap<MapData>>,
}

/// The kernel's side of a switch.
pub struct Kernel {
    loader: Loader,
    directory: bpffs::Directory,
    /// The network namespace, by number: interface indices mean something within it only.
    namespace: u64,
    devices: DevMap<MapData>,
    attached: BTreeMap<PortId, Attachment>,
    /// The programs of ports that were attached before: an interface that comes back waits for no verifier.
    loaded: BTreeMap<PortId, (Mode, Ebpf)>,
}

impl Kernel {
    /// Makes the tables, or adopts those that a predecessor of the same name has pinned.
    /// Whether they were adopted is the last of what is returned.
    pub fn open(options: KernelOptions) -> Result<(Self, Tables, Punts, bool), ProgramError> {
        let directory = bpffs::Directory::make(&options.name)?;
        let maps = directory.path().join(Tables::directory_name(options.block));
        let adopted = maps.join("slots").exists();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&maps).map_err(ProgramError::file(&maps))?;
        let block = options.block;
        let (loader, mut object) = Loader::open(options, maps)?;
        let slots = Mapped::shared(fd(&take(&mut object, "SLOTS")?)?, block.slots() as usize)?;
        let ports = Mapped::shared(fd(&take(&mut object, "PORTS")?)?, usize::from(MAX_PORTS))?;
        let groups = Mapped::shared(fd(&take(&mut object, "MULTICAST")?)?, GROUPS as usize)?;
        let tuples = HashMap::try_from(take(&mut object, "TUPLES")?).map_err(access("tuples"))?;
        let counts = PerCpuArray::try_from(take(&mut object, "COUNTS")?).map_err(access("counts"))?;
        let punts = RingBuf::try_from(take(&mut object, "PUNTS")?).map_err(access("punts"))?;
        let devices = DevMap::try_from(take(&mut object, "DEVICES")?).map_err(access("devices"))?;
        let namespace = namespace()?;
        let tables = Tables::in_kernel(block, slots, ports, groups, Tuples::in_kernel(tuples)?, counts)?;
        let (attached, loaded) = Default::default();
        let kernel = Self { loader, directory, namespace, devices, attached, loaded };
        Ok((kernel, tables, Punts::new(punts), adopted))
    }

    /// Runs the pipeline on the frames that come in by an interface. A link that a predecessor pinned for the port is
    /// adopted: its program is replaced and at no time absent.
    pub fn attach(&mut self, port: PortId, interface: &str, ifindex: u32, mode: Mode) -> Result<(), ProgramError> {
        let mut object = match self.loaded.remove(&port) {
            Some((of, object)) if of == mode => object,
            _ => self.loader.load(port)?,
        };
        self.detach_former_port(port, ifindex)?;
        match mode {
            Mode::Tc => {
                let (link, adopted) = self.attach_tc(&mut object, "flowlane_tc", port, interface, ifindex, "tc")?;
                self.note(port, ifindex, mode, adopted, vec![link])?;
            }
            Mode::Xdp => self.attach_at_driver(&mut object, port, interface, ifindex)?,
        }
        close_maps(&mut object);
        self.loaded.insert(port, (mode, object));
        Ok(())
    }

    /// Gives the frames with flow addresses that come in by an interface to this process, by an AF_XDP socket for each of
    /// its receive queues. The kernel runs the pipeline on the others, and on all while the sockets are closed: also when
    /// this process has been killed.
    ///
    /// # Errors
    /// As [`Kernel::attach`]; [`ProgramError::MapAccess`] for more than [`flowlane_tables::QUEUES_MAX`] sockets.
    pub fn attach_sockets(
        &mut self,
        port: PortId,
        interface: &str,
        ifindex: u32,
        sockets: &[impl AsFd],
    ) -> Result<(), ProgramError> {
        let mut object = self.loader.load_for_sockets(port)?;
        self.detach_former_port(port, ifindex)?;
        let mut map = XskMap::try_from(take(&mut object, "SOCKETS")?).map_err(access("sockets"))?;
        for (queue, socket) in (0..).zip(sockets) {
            map.set(queue, socket.as_fd().as_raw_fd(), 0).map_err(access("sockets"))?;
        }
        self.attach_at_driver(&mut object, port, interface, ifindex)?;
        if let Some(attachment) = self.attached.get_mut(&port) {
            attachment.sockets = Some(map);
        }
        Ok(())
    }

    /// Gives a port's sockets no more frames: the kernel runs the pipeline on all of them from the next one on. What the
    /// sockets have got already is still to be taken from them.
    pub fn release_sockets(&mut self, port: PortId) {
        let Some(mut map) = self.attached.get_mut(&port).and_then(|attachment| attachment.sockets.take()) else {
            return;
        };
        for queue in 0..map.len() {
            // There are fewer queues than the map has room for.
            let _ = map.unset(queue);
        }
    }

    fn attach_at_driver(
        &mut self,
        object: &mut Ebpf,
        port: PortId,
        interface: &str,
        ifindex: u32,
    ) -> Result<(), ProgramError> {
        let (host, _) = self.attach_tc(object, "flowlane_host", port, interface, ifindex, "host")?;
        let (link, adopted) = self.attach_xdp(object, port, interface, ifindex)?;
        self.note(port, ifindex, Mode::Xdp, adopted, vec![host, link])
    }

    /// Takes note of a port's links, and ends what else it had.
    fn note(
        &mut self,
        port: PortId,
        ifindex: u32,
        mode: Mode,
        adopted: bool,
        links: Vec<PinnedLink>,
    ) -> Result<(), ProgramError> {
        let kinds: &[&str] = if mode == Mode::Tc { &["tc"] } else { &["xdp", "host"] };
        let keep: Vec<PathBuf> = kinds.iter().map(|kind| self.link_path(port, ifindex, kind)).collect();
        self.unpin_others(port, &keep)?;
        self.attached.insert(port, Attachment { mode, ifindex, adopted, _links: links, sockets: None });
        Ok(())
    }

    /// Loads a port's copy of the programs on the switch's tables and attaches none of them: for `BPF_PROG_TEST_RUN`,
    /// which runs a program (`flowlane_xdp`, `flowlane_tc`) on a frame without an interface.
    ///
    /// # Errors
    /// [`ProgramError::Load`] where the kernel refuses the object.
    pub fn programs(&self, port: PortId) -> Result<Ebpf, ProgramError> {
        self.loader.load(port)
    }

    /// Names the interface that XDP sends a port's frames by. To an interface without XDP frames can be sent as well.
    pub fn set_device(&mut self, port: PortId, ifindex: u32) -> Result<(), ProgramError> {
        self.devices.set(u32::from(port.0), ifindex, None, 0).map_err(|error| match error {
            XdpMapError::MapError(source) => ProgramError::MapAccess { name: "devices", source },
            XdpMapError::ChainedProgramNotSupported => ProgramError::OldKernel,
        })
    }

    /// The interface that XDP sends a port's frames by, by index; none where none was named.
    ///
    /// # Errors
    /// [`ProgramError::MapAccess`] where the kernel fails.
    pub fn device(&self, port: PortId) -> Result<Option<u32>, ProgramError> {
        match self.devices.get(u32::from(port.0), 0) {
            Ok(device) => Ok(Some(device.if_index)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(ProgramError::MapAccess { name: "devices", source }),
        }
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

    /// Whether ports run on tables of another layout or size, which a predecessor has left: they forward by those until they
    /// are attached to this one's. So it is also where a successor was killed before it had attached all of them.
    ///
    /// # Errors
    /// [`ProgramError::File`] where the pins can not be listed.
    pub fn runs_on_old_tables(&self) -> Result<bool, ProgramError> {
        Ok(!self.old_tables()?.is_empty() && !self.pinned_ports().is_empty())
    }

    /// Removes tables that predecessors with another layout or size have left. To be called when all ports run on this
    /// one's tables.
    ///
    /// # Errors
    /// [`ProgramError::File`] where they can not be removed.
    pub fn remove_old_tables(&self) -> Result<(), ProgramError> {
        for path in self.old_tables()? {
            fs::remove_dir_all(&path).map_err(ProgramError::file(&path))?;
        }
        Ok(())
    }

    fn old_tables(&self) -> Result<Vec<PathBuf>, ProgramError> {
        let files = fs::read_dir(self.directory.path()).map_err(ProgramError::file(self.directory.path()))?;
        let paths = files.flatten().map(|file| file.path());
        Ok(paths.filter(|path| path.is_dir() && path != self.loader.maps()).collect())
    }

    /// Removes everything that a switch of this name has pinned: its ports are plain interfaces again.
    pub fn remove(name: &str) -> Result<(), ProgramError> {
        bpffs::Directory::remove(name)
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
        if program.fd().is_err() {
            uninterrupted(|| program.load()).map_err(failed)?;
        }
        let path = self.link_path(port, ifindex, kind);
        if let Some(link) = pinned(&path) {
            let link: SchedClassifierLink = link.try_into().map_err(|_| ProgramError::Incomplete("tcx link"))?;
            if let Ok(id) = program.attach_to_link(link) {
                return Ok((keep(program.take_link(id).map_err(failed)?, &path)?, true));
            }
            // The interface has been removed since; its link is dead.
            remove_if_there(&path)?;
        }
        let first = || TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = attach_when_free(|| program.attach_with_options(interface, TcAttachType::Ingress, first()));
        let id = id.map_err(failed)?;
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
        if program.fd().is_err() {
            uninterrupted(|| program.load()).map_err(failed)?;
        }
        let path = self.link_path(port, ifindex, "xdp");
        if let Some(link) = pinned(&path) {
            let link: XdpLink = link.try_into().map_err(|_| ProgramError::Incomplete("XDP link"))?;
            if let Ok(id) = program.attach_to_link(link) {
                return Ok((keep(program.take_link(id).map_err(failed)?, &path)?, true));
            }
            // The interface has been removed since; its link is dead.
            remove_if_there(&path)?;
        }
        let id = match attach_when_free(|| program.attach_to_if_index(ifindex, XdpMode::Driver)) {
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

/// Closes the maps of an object, of which the loaded programs have no need: many ports would have many open files.
fn close_maps(object: &mut Ebpf) {
    let names: Vec<String> = object.maps().map(|(name, _)| name.to_owned()).collect();
    names.iter().for_each(|name| drop(object.take_map(name)));
}
