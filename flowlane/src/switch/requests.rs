//! What the local interface asks of the switch.

use super::{
    Switch, boot_ms, boot_nanos,
    command::{Command, Reply},
    explain,
    leases::{Done, Failure, Task, Transaction},
    verify, views,
};
use crate::{
    api::{FlowView, LeaseView, OpenFlow, Problem, Status, Verification},
    config::Executor,
};
use flowlane_allot::{ClientId, FlowSpec, Lease, LeaseKey, Request};
use flowlane_dhcp6::Operation;
use flowlane_wire::{Mac, SlotIndex};
use std::{sync::Arc, time::Instant};
use tokio::task::spawn_blocking;

/// A list of all flows that is written a piece at a time, so that the loop has its turn in between.
pub struct Listing {
    /// The next slot to look at.
    from: u32,
    views: Vec<FlowView>,
    reply: Reply<Vec<FlowView>>,
}

/// Slots that are looked at for a list before the loop has its turn.
const PIECE: u32 = 1_024;

impl Switch {
    /// Does what is asked. Who asked may have gone; then the answer is for nobody.
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Open(open, reply) => self.open(open, reply),
            Command::Renew(mac, lifetime, reply) => {
                self.on_lease(mac, reply, |lease, _| Task::Renew(lease.key.clone(), lease.port, lifetime));
            }
            Command::Close(mac, reply) => self.on_lease(mac, reply, |_, slot| Task::Close(slot)),
            Command::Flows(reply) => self.listings.push_back(Listing { from: 0, views: Vec::new(), reply }),
            Command::Flow(mac, reply) => drop(reply.send(self.flow(mac))),
            Command::Group(command) => self.group_command(command),
            Command::Entries(reply) => {
                let tables = Arc::clone(&self.tables);
                spawn_blocking(move || reply.send(Ok(views::entries(&tables))));
            }
            Command::Verify(repair, reply) => self.verify(repair, reply),
            Command::Trace(request, reply) => drop(reply.send(explain::explain(&request, &self.tables, &self.ports))),
            Command::Status(reply) => drop(reply.send(Ok(self.status()))),
        }
    }

    /// Writes the next piece of the list that was asked for first.
    pub(super) fn list_on(&mut self) {
        let Some(mut listing) = self.listings.pop_front() else { return };
        let slots = self.tables.block().slots();
        let piece = listing.from..listing.from.saturating_add(PIECE).min(slots);
        let now = boot_ms();
        listing.views.extend(piece.clone().filter_map(|index| {
            let lease = self.leases.allotter().lease_at(SlotIndex(index))?;
            let address = lease.addresses(self.tables.block()).find(|own| self.tables.block().slot(*own).0 == index)?;
            views::flow(address, lease, &self.tables, &self.flows, &self.hops, &self.ports, now)
        }));
        listing.from = piece.end;
        if listing.from < slots && !listing.reply.is_closed() {
            self.listings.push_front(listing);
        } else {
            drop(listing.reply.send(Ok(listing.views)));
        }
    }

    fn open(&mut self, open: OpenFlow, reply: Reply<LeaseView>) {
        let Some((port, host)) = self.ports.named(&open.port) else {
            return drop(reply.send(Err(views::no_such_port(&open.port, &self.ports))));
        };
        let request = Request {
            key: local_key(&open),
            port,
            host,
            count: open.count.unwrap_or(1),
            lifetime: open.lifetime,
            spec: FlowSpec {
                destination: open.destination,
                rate: open.rate,
                field: open.field,
                name: open.name,
                ..FlowSpec::default()
            },
        };
        self.submit(Task::Client(Operation::Request(request)), reply);
    }

    /// Does something with the lease of a flow address.
    fn on_lease(&mut self, mac: Mac, reply: Reply<LeaseView>, task: impl FnOnce(&Lease, SlotIndex) -> Task) {
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
    fn lease_of(&self, mac: Mac) -> Option<(&Lease, SlotIndex)> {
        let (address, slot) = views::address_of(mac, &self.tables)?;
        let lease = self.leases.allotter().lease_at(slot)?;
        lease.addresses(self.tables.block()).any(|own| own == address).then_some((lease, slot))
    }

    fn flow(&self, mac: Mac) -> Result<FlowView, Problem> {
        let view = || {
            let (address, _) = views::address_of(mac, &self.tables)?;
            let (lease, _) = self.lease_of(mac)?;
            views::flow(address, lease, &self.tables, &self.flows, &self.hops, &self.ports, boot_ms())
        };
        view().ok_or_else(|| views::no_such_flow(mac))
    }

    /// Compares when no commit is under way: leases that are not durable yet are not in the table.
    fn verify(&mut self, repair: bool, reply: Reply<Verification>) {
        let done: Done = Box::new(move |_, switch, _| drop(reply.send(Ok(switch.compare(repair)))));
        self.leases.submit(Transaction { tasks: Vec::new(), done });
    }

    fn compare(&mut self, repair: bool) -> Verification {
        let found = self.differences();
        if !repair || found.ok {
            return found;
        }
        let leases = self.leases.allotter().leases();
        self.flows.adopt(leases, boot_ms(), &mut self.hops, &self.ports);
        let leases = self.leases.allotter().leases();
        self.groups.adopt(leases, boot_ms(), &mut self.hops, &self.ports);
        self.adopt_tuples();
        Verification { ok: self.differences().ok, ..found }
    }

    fn differences(&self) -> Verification {
        let mut found = verify::compare(self.leases.allotter(), &self.tables);
        found.differences.extend(self.groups.differences(self.leases.allotter().leases()));
        found.ok &= found.differences.is_empty();
        found
    }

    fn status(&self) -> Status {
        let counts = self.leases.allotter().counts();
        Status {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: Instant::now().duration_since(self.started).as_secs(),
            block: self.config.block.to_string(),
            slots: counts.slots,
            leased: counts.leased,
            quarantined: counts.quarantined,
            adopted: self.adopted,
            store: self.config.state_directory.join("leases.redb").display().to_string(),
            ports: self
                .ports
                .iter()
                .map(|(number, port)| views::port(number, port, &self.tables, &self.flagged))
                .collect(),
            neighbours: views::neighbours(&self.hops, &self.ports),
            problems: self.problems(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let of_ports = self.ports.iter().filter_map(|(_, port)| {
            let problem = port.problem.as_ref()?;
            Some(format!("port {}: {problem}", port.config.interface))
        });
        let of_leases = self.leases.problem().map(|problem| format!("leases: {problem}"));
        let kernel = self.ports.iter().any(|(_, port)| port.executor.and_then(Executor::mode).is_some());
        let of_pins = (kernel && !flowlane_program::bpffs::outlives_this_process())
            .then(|| "the BPF file system ends with this process: flows stop when it is killed".into());
        of_ports.chain(of_leases).chain(of_pins).collect()
    }
}

/// Who asks by the local interface: whom the request names, so that asking again finds the same lease; else somebody new.
fn local_key(open: &OpenFlow) -> LeaseKey {
    let client = match &open.client {
        Some(client) => format!("local:{client}"),
        None => format!("local:{}", boot_nanos()),
    };
    LeaseKey { client: ClientId(client.into_bytes()), iaid: open.iaid.unwrap_or(0) }
}
