//! What the local interface asks of the switch.

use super::{
    Switch, boot_ms, boot_nanos,
    command::{Command, Reply},
    explain,
    flagged::tuple_of,
    leases::{Done, Failure, Task, Transaction},
    verify, views,
};
use crate::{
    api::{FlowView, LeaseView, OpenFlow, Problem, Status, Verification},
    config::Executor,
};
use flowlane_allot::{ClientId, FlowSpec, Lease, LeaseKey, Request};
use flowlane_dhcp6::Operation;
use flowlane_store::StoreError;
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
            Command::Close(mac, reply) => self.on_lease(mac, reply, |lease, slot| {
                // A host would ask for its lease again, so that only a refusal ends the flow. Who has a lease by the
                // local interface gives it back so.
                if is_of_switch(&lease.key) { Task::End(slot) } else { Task::Close(slot) }
            }),
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
                path: open.path,
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

    /// Compares when no commit is under way: leases that are not durable yet are not in the table. What was repaired is
    /// compared again before the answer.
    fn verify(&mut self, repair: bool, reply: Reply<Verification>) {
        self.leases.read_back(Box::new(move |rows, switch| {
            let found = verify::compare(switch, &rows);
            if !repair || found.ok {
                return drop(reply.send(Ok(found)));
            }
            switch.repair(&rows);
            switch.leases.read_back(Box::new(move |rows, switch| {
                let Verification { ok, .. } = verify::compare(switch, &rows);
                drop(reply.send(Ok(Verification { ok, ..found })));
            }));
        }));
    }

    /// Makes tables and store what they should be, wherever they are not; what is right goes on undisturbed.
    fn repair(&mut self, rows: &Result<Vec<Lease>, StoreError>) {
        let now = boot_ms();
        self.ports.repair();
        let leases: Vec<&Lease> = self.leases.allotter().leases().collect();
        self.flows.repair(&leases, &mut self.hops, &self.ports);
        self.groups.adopt(leases.into_iter(), &mut self.hops, &self.ports);
        if let Err(error) = self.tables.tuples().read_again() {
            tracing::warn!("the table of tuples can not be read: {error}");
        }
        self.adopt_tuples();
        if let Ok(rows) = rows {
            self.leases.write_again(rows, now);
        }
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
            clock_steps: self.leases.clock_steps(),
            ports: self
                .ports
                .iter()
                .map(|(number, port)| views::port(number, port, &self.tables, &self.flagged))
                .collect(),
            neighbours: views::neighbours(&self.hops, &self.ports),
            confinement: self.confinement.view().clone(),
            problems: self.problems(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let of_ports = self.ports.iter().filter_map(|(_, port)| {
            let problem = port.problem.as_ref()?;
            Some(format!("port {}: {problem}", port.config.interface))
        });
        let of_leases = self.leases.problem().map(|problem| format!("leases: {problem}"));
        let kernel = self.ports.iter().any(|(_, port)| port.executor.is_some_and(Executor::is_in_kernel));
        let of_pins = (kernel && !self.pins_outlive)
            .then(|| "the BPF file system ends with this process: flows stop when it is killed".into());
        of_ports.chain(of_leases).chain(of_pins).collect()
    }
}

/// Whether a lease is nobody's on the network: it was asked for by the local interface, or for flagged packets. Hosts must
/// not take such names.
pub fn is_of_switch(key: &LeaseKey) -> bool {
    key.client.0.starts_with(LOCAL) || tuple_of(key).is_some()
}

/// How the clients of the local interface begin.
const LOCAL: &[u8] = b"local:";

/// Who asks by the local interface: whom the request names, so that asking again finds the same lease; else somebody new.
fn local_key(open: &OpenFlow) -> LeaseKey {
    let name = open.client.clone().unwrap_or_else(|| boot_nanos().to_string());
    LeaseKey { client: ClientId([LOCAL, name.as_bytes()].concat()), iaid: open.iaid.unwrap_or(0) }
}
