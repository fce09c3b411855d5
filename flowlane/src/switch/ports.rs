//! The switch's ports: which interface each is now, and who handles its frames.

use super::{
    Input,
    dhcp6::Dhcp6Port,
    slow_path::ToLinux,
    userspace::{FromWorker, ToLoop},
};
use crate::config::{Config, Executor, FlagConfig, FlagRole, PortConfig, SourceAddress};
use flowlane_ports::{
    PortError,
    af_xdp::{self, MTU_MAX},
    exclusive::Exclusive,
};
use flowlane_program::{Kernel, Mode, ProgramError, Tables};
use flowlane_resolve::{LinkState, StaticRoute};
use flowlane_tables::{PortEntry, PortFlags};
use flowlane_userspace::{Transmitters, Work, Worker};
use flowlane_wire::{Flag, Mac, PortId};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::mpsc::{Sender, UnboundedSender};

/// One port.
pub struct Port {
    /// What the configuration says.
    pub config: PortConfig,
    /// The interface, while there is one.
    pub link: Option<LinkState>,
    /// Who handles its frames, while somebody does.
    pub executor: Option<Executor>,
    /// Whether a predecessor's program was taken over.
    pub adopted: bool,
    /// What is wrong.
    pub problem: Option<String>,
    /// Flows whose frames had stopped, and came again when their address was announced for that.
    pub restored: u64,
    /// Whether it has as many flows of flagged packets as it may have.
    full: bool,
    ignored: BTreeMap<&'static str, u64>,
    /// DHCPv6 messages that listeners before this one have dropped.
    overload: u64,
    worker: Option<Worker>,
    dhcp6: Option<Dhcp6Port>,
}

/// Why a port's frames are not handled.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel does not do it.
    #[error(transparent)]
    Kernel(#[from] ProgramError),
    /// This process can not do it.
    #[error(transparent)]
    Userspace(#[from] PortError),
    /// The kernel is asked to, but there are no tables in it.
    #[error("the kernel's executors can not be used here, as the tables are not in the kernel: {0}")]
    NoKernel(String),
    /// Packet sockets see copies only: what goes on to Linux can not be changed by them.
    #[error("af-packet can not add the virtual-circuit flag to packets that pass; use tc or xdp on the port")]
    AddsFlag,
    /// Its frames would be in several buffers.
    #[error(
        "af-xdp takes frames of an MTU of up to {MTU_MAX} octets, and the port's is {0}: lower it, or use xdp or tc"
    )]
    TooLong(u32),
}

/// All ports.
pub struct Ports {
    ports: BTreeMap<PortId, Port>,
    tables: Arc<Tables>,
    /// The kernel's programs, or why there are none.
    kernel: Result<Kernel, String>,
    config: Arc<Config>,
    to_loop: ToLoop,
    transmitters: Transmitters,
    inputs: UnboundedSender<Input>,
}

impl Ports {
    /// The configured ports, without interfaces yet.
    pub fn new(
        config: Arc<Config>,
        tables: Arc<Tables>,
        kernel: Result<Kernel, String>,
        to_linux: ToLinux,
        from_workers: Sender<FromWorker>,
        inputs: UnboundedSender<Input>,
    ) -> Self {
        let port = |config: &PortConfig| Port {
            config: config.clone(),
            link: None,
            executor: None,
            adopted: false,
            problem: Some(format!("there is no interface {}", config.interface)),
            restored: 0,
            full: false,
            ignored: BTreeMap::new(),
            overload: 0,
            worker: None,
            dhcp6: None,
        };
        let ports = config.ports.iter().map(|(number, config)| (*number, port(config))).collect();
        let to_loop = ToLoop { queue: from_workers, to_linux };
        Self { ports, tables, kernel, config, to_loop, transmitters: Transmitters::default(), inputs }
    }

    /// All ports, by number.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.ports.iter().map(|(number, port)| (*number, port))
    }

    /// A port.
    pub fn get(&self, number: PortId) -> Option<&Port> {
        self.ports.get(&number)
    }

    /// A port, to change it.
    pub fn get_mut(&mut self, number: PortId) -> Option<&mut Port> {
        self.ports.get_mut(&number)
    }

    /// The port of an interface by its name, and its Ethernet address while there is one.
    pub fn named(&self, interface: &str) -> Option<(PortId, Mac)> {
        let (number, port) = self.iter().find(|(_, port)| port.config.interface == interface)?;
        Some((number, port.link.as_ref().map_or(Mac::default(), |link| link.mac)))
    }

    /// The port of an interface that exists.
    pub fn of_ifindex(&self, ifindex: u32) -> Option<PortId> {
        self.iter().find(|(_, port)| port.ifindex() == Some(ifindex)).map(|(number, _)| number)
    }

    /// The interface index of a port.
    pub fn ifindex(&self, number: PortId) -> Option<u32> {
        self.ports.get(&number)?.ifindex()
    }

    /// The interface's name of a port.
    pub fn interface(&self, number: PortId) -> String {
        self.ports.get(&number).map_or_else(|| number.to_string(), |port| port.config.interface.clone())
    }

    /// What a port does with the virtual-circuit flag.
    pub fn flag(&self, number: PortId) -> Option<FlagConfig> {
        self.ports.get(&number)?.config.flag
    }

    /// Says whether a port has as many flows of flagged packets as it may have: then the data path refuses more.
    pub fn set_full(&mut self, number: PortId, full: bool) {
        if let Some(port) = self.ports.get_mut(&number).filter(|port| port.full != full) {
            port.full = full;
            self.program_port(number);
        }
    }

    /// The static routes, for the interfaces as they are now.
    pub fn static_routes(&self) -> Vec<StaticRoute> {
        let route = |route: &crate::config::RouteConfig| {
            let interface = self.ifindex(route.port)?;
            Some(StaticRoute { to: route.to, interface, mac: route.next, routed: route.routed })
        };
        self.config.routes.iter().filter_map(route).collect()
    }

    /// Takes note of an interface, without touching its frames.
    pub fn note(&mut self, link: &LinkState) {
        let found = self.ports.iter_mut().find(|(_, port)| port.config.interface == link.name);
        if let Some((number, port)) = found {
            let number = *number;
            port.link = Some(link.clone());
            self.program_port(number);
        }
    }

    /// Takes note of an interface, and lets its frames be handled where it is new. Whether the port has another interface
    /// index than before.
    ///
    /// # Errors
    /// [`AttachError`]: nobody handles the port's frames; the port remembers why.
    pub fn link_changed(&mut self, link: &LinkState) -> Result<bool, AttachError> {
        let Some((number, port)) = self.ports.iter_mut().find(|(_, port)| port.config.interface == link.name) else {
            return Ok(false);
        };
        let number = *number;
        let before = port.link.replace(link.clone());
        let unhandled = port.executor.is_none() && port.worker.is_none();
        let moved = unhandled || before.as_ref().is_none_or(|before| before.ifindex != link.ifindex);
        self.program_port(number);
        if moved {
            self.attach(number, link)?;
            tracing::info!(port = link.name, executor = self.executor(number).map(Executor::name), "port attached");
        }
        Ok(moved)
    }

    /// Takes note that an interface is gone. The port it was, if it was one.
    pub fn link_gone(&mut self, ifindex: u32) -> Option<PortId> {
        let number = self.of_ifindex(ifindex)?;
        let port = self.ports.get_mut(&number)?;
        tracing::warn!(port = port.config.interface, "the interface is gone; its flows wait for its return");
        port.problem = Some(format!("there is no interface {}", port.config.interface));
        (port.link, port.executor) = (None, None);
        port.listen(None);
        if let Ok(kernel) = &mut self.kernel
            && let Err(error) = kernel.detach(number)
        {
            tracing::warn!("links of the port can not be removed: {error}");
        }
        self.end_worker(number);
        self.program_port(number);
        Some(number)
    }

    /// The thread of a port has failed: another one is tried, and if there can be none, the port says why.
    pub fn worker_ended(&mut self, number: PortId, error: &PortError) {
        let Some(port) = self.ports.get_mut(&number) else { return };
        tracing::error!(port = port.config.interface, "the port has failed: {error}");
        port.executor = None;
        port.problem = Some(error.to_string());
        let link = port.link.clone();
        self.end_worker(number);
        if let Some(link) = link {
            // What is wrong is the port's problem now, and is logged where it attaches.
            let _ = self.attach(number, &link);
        }
    }

    /// Whether the kernel runs ports on tables of another layout, which a predecessor has left.
    pub fn run_on_old_tables(&self) -> bool {
        let Ok(kernel) = &self.kernel else { return false };
        kernel.runs_on_old_tables().unwrap_or_else(|error| {
            tracing::warn!("it can not be told whether there are tables of another layout: {error}");
            false
        })
    }

    /// Names the interfaces that XDP sends by, before the first port is attached: it may send by any other one at once.
    pub fn name_devices(&mut self) {
        let Ok(kernel) = &mut self.kernel else { return };
        let present = self.ports.iter().filter_map(|(number, port)| Some((*number, port.ifindex()?)));
        for (number, ifindex) in present {
            if let Err(error) = kernel.set_device(number, ifindex) {
                // Attaching the port fails for the same reason, and that is told.
                tracing::debug!(%number, "the interface can not be named to XDP: {error}");
            }
        }
    }

    /// What the tables say of ports otherwise than they should, as sentences.
    pub fn differences(&self) -> Vec<String> {
        let entries = (0..).map(PortId).zip(self.tables.ports()).skip(1);
        let wrong = entries.filter_map(|(number, entry)| {
            let port = self.ports.get(&number);
            let (wanted, found) = (port.map_or_else(Wanted::nothing, Port::wanted), Wanted::read(entry));
            (wanted != found).then(|| match port {
                Some(port) => {
                    let name = &port.config.interface;
                    format!("port {number}: the table says {found:?} of {name}, not {wanted:?}")
                }
                None => format!("port {number}: the table says {found:?}, but there is no such port"),
            })
        });
        wrong.chain(self.wrong_devices()).collect()
    }

    /// Makes the tables say of all ports what they should.
    pub fn repair(&mut self) {
        let numbers: Vec<PortId> = self.ports.keys().copied().collect();
        for (number, entry) in (0..).map(PortId).zip(self.tables.ports()).skip(1) {
            if !self.ports.contains_key(&number) && Wanted::read(entry) != Wanted::nothing() {
                entry.set(0, 0, Mac::default(), PortFlags::default());
                entry.set_flag(None);
            }
        }
        numbers.into_iter().for_each(|number| self.program_port(number));
        self.name_devices();
    }

    fn wrong_devices(&self) -> impl Iterator<Item = String> {
        let kernel = self.kernel.as_ref().ok();
        self.ports.iter().filter_map(move |(number, port)| {
            let (kernel, wanted) = (kernel?, port.ifindex()?);
            match kernel.device(*number) {
                Ok(Some(found)) if found == wanted => None,
                Ok(found) => {
                    let found = found.map_or_else(|| "no interface".into(), |found| format!("interface {found}"));
                    Some(format!("port {number}: XDP sends by {found}, not by interface {wanted}"))
                }
                Err(error) => Some(format!("port {number}: {error}")),
            }
        })
    }

    /// Removes what a predecessor has left in the kernel for ports that are configured no more.
    pub fn forget_others(&mut self) {
        let Ok(kernel) = &mut self.kernel else { return };
        for number in kernel.pinned_ports() {
            let unused = self.ports.get(&number).is_none_or(|port| !port.executor.is_some_and(Executor::is_in_kernel));
            if unused && let Err(error) = kernel.detach(number) {
                tracing::warn!("links of a former port can not be removed: {error}");
            }
        }
        if let Err(error) = kernel.remove_old_tables() {
            tracing::warn!("tables of another layout can not be removed: {error}");
        }
        self.repair();
    }

    fn executor(&self, number: PortId) -> Option<Executor> {
        self.ports.get(&number)?.executor
    }

    /// Writes what the pipeline must know of the port.
    fn program_port(&mut self, number: PortId) {
        let (Some(port), Some(entry)) = (self.ports.get(&number), self.tables.ports().get(usize::from(number.0)))
        else {
            return;
        };
        let Wanted { ifindex, mtu, mac, flags, flag } = port.wanted();
        entry.set(ifindex, mtu, mac, flags);
        // Behind the flags: a port that adds the flag does not read it for a moment.
        entry.set_flag(flag);
    }

    /// Lets somebody handle the port's frames: whom the configuration says, or the best that works.
    fn attach(&mut self, number: PortId, link: &LinkState) -> Result<(), AttachError> {
        let wanted = self.ports.get(&number).map_or(Executor::Auto, |port| port.config.executor);
        let dhcp6 = self.start_dhcp6(number, link);
        let mut result = Ok(());
        for executor in choices(wanted, link) {
            result = self.attach_as(number, link, *executor);
            match &result {
                Ok(()) => break,
                Err(error) => tracing::debug!(port = link.name, executor = executor.name(), "not attached: {error}"),
            }
        }
        if result.is_err() {
            self.program_port(number);
        }
        let Some(port) = self.ports.get_mut(&number) else { return result };
        let problem = result.as_ref().err().map(ToString::to_string);
        let (dhcp6, no_dhcp6) = match dhcp6 {
            Ok(dhcp6) => (dhcp6, None),
            Err(error) => (None, Some(format!("no DHCPv6 on the port: {error}"))),
        };
        port.listen(dhcp6);
        port.problem = problem.or(no_dhcp6);
        result
    }

    fn start_dhcp6(&self, number: PortId, link: &LinkState) -> Result<Option<Dhcp6Port>, PortError> {
        let Some(PortConfig { dhcp6, chain, .. }) = self.ports.get(&number).map(|port| &port.config) else {
            return Ok(None);
        };
        let listen = || Dhcp6Port::listen(number, link.ifindex, *dhcp6, self.inputs.clone());
        (*dhcp6 || *chain).then(listen).transpose()
    }

    fn attach_as(&mut self, number: PortId, link: &LinkState, executor: Executor) -> Result<(), AttachError> {
        if let Ok(kernel) = &mut self.kernel {
            kernel.set_device(number, link.ifindex)?;
        }
        match executor.mode() {
            Some(mode) => self.attach_in_kernel(number, link, mode)?,
            None if executor == Executor::AfXdp => self.attach_af_xdp(number, link)?,
            None => self.attach_af_packet(number, link)?,
        }
        if let Some(port) = self.ports.get_mut(&number) {
            port.executor = Some(executor);
        }
        self.program_port(number);
        Ok(())
    }

    fn attach_in_kernel(&mut self, number: PortId, link: &LinkState, mode: Mode) -> Result<(), AttachError> {
        let kernel = self.kernel.as_mut().map_err(|reason| AttachError::NoKernel(reason.clone()))?;
        kernel.attach(number, &link.name, link.ifindex, mode)?;
        self.end_worker(number);
        // A predecessor that handled the port in userspace may have left its filter.
        let _ = Exclusive::remove(link.ifindex);
        Ok(())
    }

    fn attach_af_xdp(&mut self, number: PortId, link: &LinkState) -> Result<(), AttachError> {
        if link.mtu > MTU_MAX {
            return Err(AttachError::TooLong(link.mtu));
        }
        // A queue has one socket at a time.
        self.end_worker(number);
        let work = self.work(number, link);
        let kernel = self.kernel.as_mut().map_err(|reason| AttachError::NoKernel(reason.clone()))?;
        let sockets = af_xdp::open(link.ifindex)?;
        let receivers: Vec<_> = sockets.iter().map(|(receiver, _)| receiver).collect();
        kernel.attach_sockets(number, &link.name, link.ifindex, &receivers)?;
        self.set_worker(number, Some(Worker::on_af_xdp(&work, sockets)?));
        let _ = Exclusive::remove(link.ifindex);
        Ok(())
    }

    fn attach_af_packet(&mut self, number: PortId, link: &LinkState) -> Result<(), AttachError> {
        if self.ports.get(&number).is_some_and(Port::adds_flag) {
            return Err(AttachError::AddsFlag);
        }
        self.end_worker(number);
        // Before the ring is there: else it would see frames that the kernel's programs send, and send them again.
        if let Ok(kernel) = &mut self.kernel {
            kernel.detach(number)?;
        }
        let worker = Worker::on_af_packet(&self.work(number, link))?;
        self.set_worker(number, Some(worker));
        if let Some(port) = self.ports.get_mut(&number) {
            port.adopted = false;
        }
        Ok(())
    }

    /// Puts other threads in place of those that handle the port's frames.
    fn set_worker(&mut self, number: PortId, worker: Option<Worker>) {
        let Some(port) = self.ports.get_mut(&number) else { return };
        let attachment = self.kernel.as_ref().ok().and_then(|kernel| kernel.attached().get(&number));
        port.adopted = attachment.is_some_and(|attachment| attachment.adopted);
        port.worker = worker;
    }

    /// Ends the threads that handle the port's frames, if there are any. On AF_XDP the kernel takes over before, so that they can
    /// handle all that has come.
    fn end_worker(&mut self, number: PortId) {
        if let Ok(kernel) = &mut self.kernel {
            kernel.release_sockets(number);
        }
        self.set_worker(number, None);
    }

    fn work(&self, number: PortId, link: &LinkState) -> Work<ToLoop> {
        Work {
            port: number,
            ifindex: link.ifindex,
            tables: Arc::clone(&self.tables),
            control: self.to_loop.clone(),
            transmitters: self.transmitters.clone(),
            flag: self.flag(number).map(|flag| flag.flag),
            show: self.config.capture.is_some(),
        }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        for number in self.ports.keys().copied().collect::<Vec<_>>() {
            self.end_worker(number);
        }
    }
}

/// Who may handle the frames of an interface, the best first.
fn choices(wanted: Executor, link: &LinkState) -> &'static [Executor] {
    match wanted {
        Executor::Auto if link.kind.is_some() => &[Executor::Tc, Executor::Xdp, Executor::AfPacket],
        Executor::Auto => &[Executor::Xdp, Executor::Tc, Executor::AfPacket],
        Executor::Xdp => &[Executor::Xdp],
        Executor::Tc => &[Executor::Tc],
        Executor::AfXdp => &[Executor::AfXdp],
        Executor::AfPacket => &[Executor::AfPacket],
    }
}

/// What the data path is told of a port.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    ifindex: u32,
    mtu: u32,
    mac: Mac,
    flags: PortFlags,
    flag: Option<Flag>,
}

impl Wanted {
    /// What the table says.
    fn read(entry: &PortEntry) -> Self {
        Self { ifindex: entry.ifindex(), mtu: entry.mtu(), mac: entry.mac(), flags: entry.flags(), flag: entry.flag() }
    }

    /// What the table says of a number that is no port's.
    fn nothing() -> Self {
        Self { ifindex: 0, mtu: 0, mac: Mac::default(), flags: PortFlags::default(), flag: None }
    }
}

impl Port {
    fn wanted(&self) -> Wanted {
        let when = |so: bool, flag: PortFlags| if so { flag } else { PortFlags::default() };
        let own = when(self.config.source == SourceAddress::Port, PortFlags::OWN_SOURCE)
            .with(when(self.adds_flag(), PortFlags::MARKS))
            .with(when(self.full, PortFlags::NO_NEW_FLOWS));
        let flag = self.config.flag.map(|flag| flag.flag);
        let Some(link) = &self.link else { return Wanted { flags: own, flag, ..Wanted::nothing() } };
        let up = when(link.up, PortFlags::UP);
        let executor = self.executor.or(choices(self.config.executor, link).first().copied());
        let takes_xdp = match executor {
            Some(Executor::Xdp) => true,
            // What the kernel sends by it: not every virtual interface takes the frames of XDP.
            Some(Executor::AfXdp) => link.kind.is_none(),
            _ => false,
        };
        let flags = own.with(up).with(when(!takes_xdp, PortFlags::BUFFERS));
        Wanted { ifindex: link.ifindex, mtu: link.mtu, mac: link.mac, flags, flag }
    }

    /// Takes note of a DHCPv6 message without an answer.
    pub fn ignore(&mut self, reason: &'static str) {
        *self.ignored.entry(reason).or_default() += 1;
    }

    /// Whether it adds the virtual-circuit flag to packets (claim 23).
    fn adds_flag(&self) -> bool {
        self.config.flag.is_some_and(|flag| flag.role == FlagRole::Add)
    }

    /// Puts another listener in place of the one that is there.
    fn listen(&mut self, dhcp6: Option<Dhcp6Port>) {
        self.overload += self.dhcp6.as_ref().map_or(0, Dhcp6Port::dropped);
        self.dhcp6 = dhcp6;
    }

    /// The kernel's number of its interface.
    pub fn ifindex(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.ifindex)
    }

    /// DHCPv6 messages without an answer, by reason.
    pub fn ignored(&self) -> BTreeMap<String, u64> {
        let overload = self.overload + self.dhcp6.as_ref().map_or(0, Dhcp6Port::dropped);
        let overload = (overload > 0).then_some(("overload", overload));
        let counts = self.ignored.iter().map(|(reason, count)| (*reason, *count)).chain(overload);
        counts.map(|(reason, count)| (reason.to_owned(), count)).collect()
    }

    /// Asks the server at a neighbour by DHCPv6.
    pub fn ask(&self, neighbour: Mac, payload: Vec<u8>) {
        if let Some(dhcp6) = &self.dhcp6 {
            dhcp6.ask(neighbour, payload);
        }
    }

    /// Answers a host that asked by DHCPv6.
    pub fn answer(&self, to: flowlane_ports::control::Datagram, payload: Vec<u8>) {
        if let Some(dhcp6) = &self.dhcp6 {
            dhcp6.send(to, payload);
        }
    }
}
