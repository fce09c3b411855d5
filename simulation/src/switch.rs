//! A switch: tables and a disk that outlive its process, a clock, and the process.
//!
//! The data path goes on without the process, as it does in the kernel. What the process does with the cores is what the
//! running switch does with them (`flowlane/src/switch`), without its threads and sockets.

mod links;
mod process;

use crate::Bug;
use crate::network::{Frame, Message, Node, Place};
use crate::tables::Tables;
use fastrand::Rng;
use flowlane_allot::{Lease, LeaseKey, Policy, SwitchId};
use flowlane_dhcp6::Server;
use flowlane_durability::Disk;
use flowlane_pipeline::{Tables as _, Verdict};
use flowlane_store::{Moment, StoreError};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};
use process::{Process, Waiting};

/// How long flow addresses rest: longer than a frame can be under way (see the world), in seconds.
pub const QUARANTINE: u32 = 40;

/// How far rows are ahead of their leases at least, in seconds.
const RESERVE: u32 = 20;

/// A switch. Times that come in and go out are milliseconds of the run.
pub struct Switch {
    /// Its number.
    pub number: usize,
    /// What it has for others, the first first.
    pub outbox: Vec<Output>,
    machine: Machine,
    process: Option<Process>,
    /// When the process is back.
    restart: Option<u64>,
}

/// All of a switch that is not its process.
struct Machine {
    id: SwitchId,
    block: Block,
    policy: Policy,
    ports: Vec<Port>,
    /// The port to each host.
    routes: Vec<u16>,
    tables: Tables,
    disk: Disk,
    clock: Clock,
    bug: Option<Bug>,
    random: Rng,
}

/// A port, and who is behind it.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// The port's own address.
    pub own: Mac,
    /// Who is behind it.
    pub node: Node,
    /// Their address.
    pub mac: Mac,
}

/// What a switch has for others.
pub enum Output {
    /// A DHCPv6 message to be sent by a port.
    Dhcp6(u16, Message),
    /// A frame of the flow with this address, to be sent.
    Forward {
        /// The port that it came in by.
        ingress: u16,
        /// The port that it leaves by.
        egress: u16,
        /// The flow's address here.
        address: Mac,
        /// The frame, rewritten.
        frame: Frame,
    },
    /// A frame has ended here.
    Dropped(u64, &'static str),
    /// A commit has ended well, or not.
    Committed(bool),
    /// The operator is told that the lease is closed; its client can ask again after so many milliseconds.
    Closed(LeaseKey, Mac, u64),
    /// The operator is told that it could not be closed.
    NotClosed(LeaseKey),
    /// The process has started anew, with these leases.
    Started(Vec<(LeaseKey, Mac)>),
}

/// The clocks of a machine.
struct Clock {
    boot: u32,
    booted: u64,
    /// How wrong the wall clock is, in milliseconds.
    wall_error: i64,
}

/// The wall clock at the beginning of each run, in milliseconds since 1970.
const EPOCH: i64 = 1_800_000_000_000;
/// What the boot-time clock shows when a process can first read it.
const AT_BOOT: u64 = 1_000;

impl Switch {
    /// A switch with these ports, numbered from 1, and a port for each host. It has an empty disk, and starts at 0.
    pub fn new(number: usize, block: Block, ports: Vec<Port>, routes: Vec<u16>, bug: Option<Bug>, seed: u64) -> Self {
        let own: Vec<Mac> = ports.iter().map(|port| port.own).collect();
        let quarantine = if bug == Some(Bug::NoQuarantine) { 0 } else { QUARANTINE };
        let policy = Policy {
            quarantine,
            default_lifetime: 60,
            min_lifetime: 20,
            max_lifetime: 120,
            reserve: RESERVE,
            ..Policy::default()
        };
        let machine = Machine {
            id: SwitchId([number as u8 + 101; 16]),
            block,
            policy,
            tables: Tables::new(block, &own),
            ports,
            routes,
            disk: Disk::default(),
            clock: Clock { boot: 1, booted: 0, wall_error: 0 },
            bug,
            random: Rng::with_seed(seed),
        };
        Self { number, outbox: Vec::new(), machine, process: None, restart: Some(0) }
    }

    /// The switch's addresses.
    pub fn block(&self) -> Block {
        self.machine.block
    }

    /// Where a port is.
    pub fn place(&self, port: u16) -> Place {
        Place { node: Node::Switch(self.number), port }
    }

    /// Whether the process runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the process has this lease with this address; nothing while there is no process.
    pub fn holds(&self, key: &LeaseKey, address: Mac) -> Option<bool> {
        let process = self.process.as_ref()?;
        let lease = process.allotter.lease(key);
        let first = lease.and_then(|lease| lease.addresses(self.machine.block).next());
        Some(first.is_some_and(|first| first.mac() == address))
    }

    /// The addresses that are leased now, and the ports that they are for.
    pub fn leased(&self) -> Vec<(Mac, u16)> {
        let flows = self.machine.tables.slots().iter().filter_map(|slot| slot.flow());
        flows.map(|flow| (flow.address, flow.port.0)).collect()
    }

    /// A frame arrives.
    pub fn arrive(&mut self, port: u16, mut frame: Frame, now: u64) {
        self.machine.tables.set_clock(self.machine.clock.boot_ms(now));
        let number = frame.number;
        let Some((address, slot)) = self.machine.flow_of(&frame) else {
            return self.outbox.push(Output::Dropped(number, "pass"));
        };
        let ingress = self.machine.ingress(port, slot);
        let mut octets = frame.octets.as_mut_slice();
        match flowlane_pipeline::run(&mut octets, ingress, &self.machine.tables, &mut ()) {
            Verdict::Forward { port: egress, .. } => {
                self.outbox.push(Output::Forward { ingress: port, egress: egress.0, address, frame });
            }
            Verdict::Resolve { slot } => match &mut self.process {
                Some(process) => process.wait(slot, Waiting { ingress: port, address, frame }),
                None => self.outbox.push(Output::Dropped(number, "no-process")),
            },
            other => self.outbox.push(Output::Dropped(number, other.end().name())),
        }
    }

    /// A DHCPv6 message arrives.
    pub fn receive(&mut self, port: u16, message: &Message, now: u64) {
        let now = self.machine.clock.boot_ms(now);
        if let Some(process) = &mut self.process {
            process.receive(port, message, now, &mut self.machine, &mut self.outbox);
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// [`StoreError`] where the process starts anew and can not read its store.
    pub fn advance(&mut self, now: u64) -> Result<(), StoreError> {
        if self.restart.is_some_and(|at| at <= now) {
            self.restart = None;
            self.start(now)?;
        }
        let boot_ms = self.machine.clock.boot_ms(now);
        if let Some(process) = &mut self.process {
            let moment = self.machine.clock.moment(now);
            process.advance(boot_ms, &moment, &mut self.machine, &mut self.outbox);
        }
        Ok(())
    }

    /// When [`Switch::advance`] is to be called next.
    pub fn deadline(&self) -> Option<u64> {
        let process = self.process.as_ref().and_then(Process::deadline).map(|at| self.machine.clock.run_ms(at));
        process.into_iter().chain(self.restart).min()
    }

    /// An operator closes the flow with this address. The lease, if there is one.
    pub fn close(&mut self, address: Mac) -> Option<LeaseKey> {
        let flow = self.machine.block.flow_address(address)?;
        self.process.as_mut()?.close(self.machine.block.slot(flow))
    }

    /// Routes to a host change.
    pub fn set_route(&mut self, to: usize, port: u16, now: u64) {
        self.machine.routes[to] = port;
        let now = self.machine.clock.boot_ms(now);
        if let Some(process) = &mut self.process {
            process.route_changed(to, now, &mut self.machine, &mut self.outbox);
        }
    }

    /// The disk is full after so many more operations, or has room again.
    pub fn set_disk_full(&mut self, after: Option<u32>) {
        match after {
            Some(operations) => self.machine.disk.fail_after(operations),
            None => self.machine.disk.heal(),
        }
    }

    /// Somebody sets the wall clock, by so many milliseconds.
    pub fn set_wall_clock(&mut self, by: i64) {
        self.machine.clock.wall_error += by;
    }

    /// The process is killed, if it runs; a commit may be under way. Tables and machine go on.
    pub fn kill(&mut self, now: u64, back: u64) {
        self.crash(now);
        // The system's cache is not lost.
        self.machine.disk = Disk::with(self.machine.disk.image());
        self.restart = Some(back);
    }

    /// The power fails: the tables are gone, and what was written and not synced is there in parts.
    pub fn cut_power(&mut self, now: u64, back: u64) {
        self.crash(now);
        let machine = &mut self.machine;
        machine.disk = machine.disk.after_power_cut(&mut machine.random);
        let own: Vec<Mac> = machine.ports.iter().map(|port| port.own).collect();
        machine.tables = Tables::new(machine.block, &own);
        (machine.clock.boot, machine.clock.booted) = (machine.clock.boot + 1, back);
        self.restart = Some(back);
    }

    /// The process ends, maybe in the middle of a commit.
    fn crash(&mut self, now: u64) {
        let machine = &mut self.machine;
        if let Some(process) = self.process.take() {
            machine.disk.fail_after(machine.random.u32(0..16));
            process.crash(&machine.clock.moment(now));
        }
    }

    fn start(&mut self, now: u64) -> Result<(), StoreError> {
        let moment = self.machine.clock.moment(now);
        // On a full disk a switch does not start: that is told, and no promise is broken.
        self.machine.disk.heal();
        let process = Process::start(&moment, &mut self.machine, &mut self.outbox)?;
        let first =
            |lease: &Lease| lease.addresses(self.machine.block).next().map(|first| (lease.key.clone(), first.mac()));
        let leases = process.allotter.leases().filter_map(first).collect();
        self.outbox.push(Output::Started(leases));
        self.process = Some(process);
        Ok(())
    }
}

impl Machine {
    /// The flow address in a frame that counts, and its slot: the destination's, else the source's.
    fn flow_of(&self, frame: &Frame) -> Option<(Mac, SlotIndex)> {
        let field = |at: usize| frame.octets.get(at..at + 6).and_then(|octets| octets.try_into().ok()).map(Mac);
        let flow = |mac: Mac| self.block.flow_address(mac).map(|flow| (mac, self.block.slot(flow)));
        field(0).and_then(flow).or_else(|| field(6).and_then(flow))
    }

    /// The port that the pipeline is told.
    fn ingress(&self, port: u16, slot: SlotIndex) -> PortId {
        let of_flow = self.tables.slot(slot).and_then(|slot| slot.flow()).map(|flow| flow.port);
        of_flow.filter(|_| self.bug == Some(Bug::PortUnchecked)).unwrap_or(PortId(port))
    }

    fn port(&self, port: u16) -> Option<&Port> {
        self.ports.get(usize::from(port).checked_sub(1)?)
    }

    fn server(&self) -> Server {
        Server::new(self.id.0, self.block)
    }

    /// A DHCPv6 message from this switch.
    fn message(&self, port: u16, to_servers: bool, payload: Vec<u8>) -> Output {
        let from = self.port(port).map_or(Mac::default(), |port| port.own);
        Output::Dhcp6(port, Message { from, to_servers, payload })
    }
}

impl Clock {
    fn boot_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.booted) + AT_BOOT
    }

    fn run_ms(&self, boot_ms: u64) -> u64 {
        boot_ms.saturating_sub(AT_BOOT).saturating_add(self.booted)
    }

    fn moment(&self, now: u64) -> Moment {
        let wall_ms = (EPOCH + self.wall_error).saturating_add_unsigned(now).max(0) as u64;
        Moment { boot_id: format!("boot {}", self.boot), boot_ms: self.boot_ms(now), wall_ms }
    }
}
