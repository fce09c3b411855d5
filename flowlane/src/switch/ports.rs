//! The switch's ports: which interface each is now, and who handles its frames.

use super::{
    Input,
    dhcp6::Dhcp6Port,
    slow_path::ToLinux,
    userspace::{FromWorker, Work, Worker},
};
use crate::config::{Config, Executor, FlagConfig, FlagRole, PortConfig, SourceAddress};
use flowlane_ports::{PortError, exclusive::Exclusive};
use flowlane_program::{Kernel, ProgramError, Tables};
use flowlane_resolve::{LinkState, StaticRoute};
use flowlane_tables::PortFlags;
use flowlane_wire::{Mac, PortId};
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
}

/// All ports.
pub struct Ports {
    ports: BTreeMap<PortId, Port>,
    tables: Arc<Tables>,
    /// The kernel's programs, or why there are none.
    kernel: Result<Kernel, String>,
    config: Arc<Config>,
    to_linux: ToLinux,
    from_workers: Sender<FromWorker>,
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
            full: false,
            ignored: BTreeMap::new(),
            overload: 0,
            worker: None,
            dhcp6: None,
        };
        let ports = config.ports.iter().map(|(number, config)| (*number, port(config))).collect();
        Self { ports, tables, kernel, config, to_linux, from_workers, inputs }
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
        (port.link, port.executor, port.adopted, port.worker) = (None, None, false, None);
        port.listen(None);
        if let Ok(kernel) = &mut self.kernel
            && let Err(error) = kernel.detach(number)
        {
            tracing::warn!("links of the port can not be removed: {error}");
        }
        self.program_port(number);
        Some(number)
    }

    /// The thread of a port has failed: another one is tried, and if there can be none, the port says why.
    pub fn worker_ended(&mut self, number: PortId, error: &PortError) {
        let Some(port) = self.ports.get_mut(&number) else { return };
        tracing::error!(port = port.config.interface, "the port has failed: {error}");
        (port.worker, port.executor) = (None, None);
        port.problem = Some(error.to_string());
        if let Some(link) = port.link.clone() {
            // What is wrong is the port's problem now, and is logged where it attaches.
            let _ = self.attach(number, &link);
        }
    }

    /// Removes what a predecessor has left in the kernel for ports that are configured no more.
    pub fn forget_others(&mut self) {
        let Ok(kernel) = &mut self.kernel else { return };
        for number in kernel.pinned_ports() {
            let unused = self.ports.get(&number).is_none_or(|port| port.executor.and_then(Executor::mode).is_none());
            if unused && let Err(error) = kernel.detach(number) {
                tracing::warn!("links of a former port can not be removed: {error}");
            }
        }
        if let Err(error) = kernel.remove_old_tables() {
            tracing::warn!("tables of an earlier layout can not be removed: {error}");
        }
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
        let when = |so: bool, flag: PortFlags| if so { flag } else { PortFlags::default() };
        let own = when(port.config.source == SourceAddress::Port, PortFlags::OWN_SOURCE)
            .with(when(port.adds_flag(), PortFlags::MARKS))
            .with(when(port.full, PortFlags::NO_NEW_FLOWS));
        match &port.link {
            Some(link) => {
                let up = when(link.up, PortFlags::UP);
                let executor = port.executor.or(choices(port.config.executor, link).first().copied());
                let takes_xdp = executor == Some(Executor::Xdp);
                let buffers = when(!takes_xdp, PortFlags::BUFFERS);
                entry.set(link.ifindex, link.mtu, link.mac, own.with(up).with(buffers));
            }
            None => entry.set(0, 0, Mac::default(), own),
        }
        // Behind the flags: a port that adds the flag does not read it for a moment.
        entry.set_flag(port.config.flag.map(|flag| flag.flag));
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
        let Some(port) = self.ports.get_mut(&number) else { return Ok(()) };
        if let Ok(kernel) = &mut self.kernel {
            kernel.set_device(number, link.ifindex)?;
        }
        match (executor.mode(), &mut self.kernel) {
            (Some(mode), Ok(kernel)) => {
                kernel.attach(number, &link.name, link.ifindex, mode)?;
                port.adopted = kernel.attached().get(&number).is_some_and(|attachment| attachment.adopted);
                port.worker = None;
                // A predecessor that handled the port in userspace may have left its filter.
                let _ = Exclusive::remove(link.ifindex);
            }
            (Some(_), Err(reason)) => return Err(AttachError::NoKernel(reason.clone())),
            (None, _) if port.adds_flag() => return Err(AttachError::AddsFlag),
            (None, kernel) => {
                port.worker = None;
                port.worker = Some(Worker::start(Work {
                    port: number,
                    ifindex: link.ifindex,
                    tables: Arc::clone(&self.tables),
                    queue: self.from_workers.clone(),
                    to_linux: self.to_linux.clone(),
                    flag: port.config.flag.map(|flag| flag.flag),
                    show: self.config.capture.is_some(),
                })?);
                if let Ok(kernel) = kernel {
                    kernel.detach(number)?;
                }
                port.adopted = false;
            }
        }
        port.executor = Some(executor);
        self.program_port(number);
        Ok(())
    }
}

/// Who may handle the frames of an interface, the best first.
fn choices(wanted: Executor, link: &LinkState) -> &'static [Executor] {
    match wanted {
        Executor::Auto if link.kind.is_some() => &[Executor::Tc, Executor::Xdp, Executor::AfPacket],
        Executor::Auto => &[Executor::Xdp, Executor::Tc, Executor::AfPacket],
        Executor::Xdp => &[Executor::Xdp],
        Executor::Tc => &[Executor::Tc],
        Executor::AfPacket => &[Executor::AfPacket],
    }
}

impl Port {
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
