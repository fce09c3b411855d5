//! The process of a switch: questions, commits, and what of them goes into the tables.

use super::links::Links;
use super::{Machine, Output};
use crate::Bug;
use crate::host::ip_of;
use crate::network::{Frame, Message, Node};
use crate::tables::Tables;
use flowlane_allot::{Allotter, Change, Lease, LeaseKey, Refusal};
use flowlane_dhcp6::{Operation, Peer, Transaction};
use flowlane_durability::Disk;
use flowlane_pipeline::{Tables as _, Verdict};
use flowlane_store::{Moment, Store, StoreError};
use flowlane_tables::{NextHop, Rate, Resolution};
use flowlane_wire::{Mac, PortId, SlotIndex};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

/// How long expiry waits after a commit has failed, in milliseconds.
const RETRY: u64 = 1_000;
/// The longest that a commit takes.
const COMMIT_MAX: u64 = 40;

/// What is lost with the process. Times are milliseconds since boot.
pub struct Process {
    pub allotter: Allotter,
    pub(super) links: Links,
    store: Store,
    queue: VecDeque<Question>,
    commit: Option<Commit>,
    /// After a failed commit, expired leases are tried again only from here on.
    not_before: u64,
    /// A commit that was to end a lease has failed: its end may be on disk all the same, so nothing is promised until a commit
    /// has put that right.
    unsure: bool,
    waiting: BTreeMap<SlotIndex, Vec<Waiting>>,
}

/// A frame that waits for its next hop.
pub struct Waiting {
    pub ingress: u16,
    pub address: Mac,
    pub frame: Frame,
}

/// What is to be answered when it is durable.
enum Question {
    Client(u16, Transaction),
    Close(SlotIndex, LeaseKey),
}

type Results = Vec<Result<Lease, Refusal>>;

/// A commit under way.
struct Commit {
    changes: Vec<Change>,
    next: u64,
    answers: Vec<(Question, Results)>,
    ends: u64,
}

impl Process {
    /// Takes over what the store and the tables say.
    pub fn start(now: &Moment, machine: &mut Machine, outbox: &mut Vec<Output>) -> Result<Self, StoreError> {
        let (store, allotter) = open(&machine.disk, machine, now)?;
        let mut process = Self {
            allotter,
            links: Links::new(machine.id),
            store,
            queue: VecDeque::new(),
            commit: None,
            not_before: 0,
            unsure: false,
            waiting: BTreeMap::new(),
        };
        process.adopt(now.boot_ms, machine, outbox);
        Ok(process)
    }

    /// The process ends. If a commit was under way, it goes as far as the disk lets it.
    pub fn crash(mut self, now: &Moment) {
        if let Some(commit) = self.commit {
            // Whether it failed, nobody is told any more.
            let _ = commit.write(&mut self.store, now);
        }
    }

    /// Takes a DHCPv6 message.
    pub fn receive(&mut self, port: u16, message: &Message, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        if message.to_servers {
            let peer = Peer { port: PortId(port), host: message.from };
            if let Ok(transaction) = machine.server().plan(&message.payload, peer) {
                self.queue.push_back(Question::Client(port, transaction));
            }
            self.pump(now, machine, outbox);
        } else {
            self.links.receive(port, &message.payload, now);
            self.follow_links(now, machine, outbox);
        }
    }

    /// An operator closes the flow in a slot. Whose it is.
    pub fn close(&mut self, slot: SlotIndex) -> Option<LeaseKey> {
        let key = self.allotter.lease_at(slot)?.key.clone();
        self.queue.push_back(Question::Close(slot, key.clone()));
        Some(key)
    }

    /// A frame waits for the next hop of its flow.
    pub fn wait(&mut self, slot: SlotIndex, frame: Waiting) {
        self.waiting.entry(slot).or_default().push(frame);
    }

    /// Does what is due.
    pub fn advance(&mut self, now: u64, moment: &Moment, machine: &mut Machine, outbox: &mut Vec<Output>) {
        if let Some(commit) = self.commit.take_if(|commit| commit.ends <= now) {
            self.end_commit(commit, moment, machine, outbox);
        }
        self.pump(now, machine, outbox);
        self.follow_links(now, machine, outbox);
    }

    /// When [`Process::advance`] is to be called next.
    pub fn deadline(&self) -> Option<u64> {
        let leases = match &self.commit {
            Some(commit) => Some(commit.ends),
            None if !self.queue.is_empty() => Some(0),
            None => self.allotter.poll_timeout().map(|at| at.max(self.not_before)),
        };
        leases.into_iter().chain(self.links.deadline()).min()
    }

    /// The way to a host has changed.
    pub fn route_changed(&mut self, to: usize, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        let to = std::net::IpAddr::from(ip_of(to));
        let leases: Vec<Lease> =
            self.allotter.leases().filter(|lease| lease.spec.destination == Some(to)).cloned().collect();
        for lease in leases {
            let slot = machine.block.slot_of(lease.first);
            // One that is not durable yet is not in the table.
            let installed = machine.tables.slot(slot).and_then(|slot| slot.flow());
            if installed.is_some_and(|flow| lease.addresses(machine.block).any(|own| own.mac() == flow.address)) {
                self.follow(slot, &lease, now, machine, outbox);
            }
        }
        self.follow_links(now, machine, outbox);
    }

    /// Carries out what waits, unless a commit is under way.
    fn pump(&mut self, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        if self.commit.is_some() {
            return;
        }
        if now >= self.not_before {
            self.allotter.expire(now);
        }
        let questions: Vec<Question> = self.queue.drain(..).collect();
        let answers: Vec<(Question, Results)> = questions
            .into_iter()
            .map(|question| {
                let results = self.carry_out(&question, now, machine);
                (question, results)
            })
            .collect();
        let changes = self.allotter.take_changes();
        if !self.unsure && !changes.iter().any(Change::needs_writing) {
            // Renewals as far as the rows on disk go.
            changes.iter().for_each(|change| self.apply(change, now, machine, outbox));
            return answer_all(answers, now, machine, outbox);
        }
        let (next, ends) = (self.allotter.next(), now + machine.random.u64(1..=COMMIT_MAX));
        let mut commit = Commit { changes, next, answers, ends };
        if machine.bug == Some(Bug::AcknowledgedUnwritten) {
            answer_all(std::mem::take(&mut commit.answers), now, machine, outbox);
        }
        self.commit = Some(commit);
    }

    fn carry_out(&mut self, question: &Question, now: u64, machine: &Machine) -> Results {
        match question {
            Question::Client(_, transaction) => {
                transaction.operations().iter().map(|operation| self.client(operation, now)).collect()
            }
            Question::Close(slot, _) if machine.bug == Some(Bug::ClosedForgotten) => {
                vec![self.allotter.end(*slot, now)]
            }
            Question::Close(slot, key) => {
                // It may have become somebody else's flow since the operator asked.
                let same = self.allotter.lease_at(*slot).is_some_and(|lease| lease.key == *key);
                vec![if same { self.allotter.close(*slot, now) } else { Err(Refusal::NoBinding) }]
            }
        }
    }

    fn client(&mut self, operation: &Operation, now: u64) -> Result<Lease, Refusal> {
        let lease = self.allotter.lease(operation.key());
        if !lease.is_none_or(|lease| operation.is_about(lease, self.allotter.block())) {
            return Err(Refusal::NoBinding);
        }
        match operation {
            Operation::Offer(request) => self.allotter.offer(request, now),
            Operation::Request(request) => self.allotter.request(request, now),
            Operation::Renew(held) => self.allotter.renew(&held.key, held.port, None, now),
            Operation::Release(held) => self.allotter.release(&held.key, held.port, now),
            Operation::Decline(held) => self.allotter.decline(&held.key, held.port, now),
        }
    }

    /// Writes, then changes the tables, then answers.
    fn end_commit(&mut self, commit: Commit, moment: &Moment, machine: &mut Machine, outbox: &mut Vec<Output>) {
        let written = commit.write(&mut self.store, moment).is_ok();
        let (Commit { changes, answers, .. }, now) = (commit, moment.boot_ms);
        outbox.push(Output::Committed(written));
        if written {
            self.unsure = false;
            changes.iter().for_each(|change| self.apply(change, now, machine, outbox));
            answer_all(answers, now, machine, outbox);
        } else {
            self.unsure |= changes.iter().any(Change::ends);
            self.allotter.undo(changes);
            self.not_before = now + RETRY;
            let fail =
                |result: Result<Lease, _>| result.and(Err(Refusal::Invalid("the lease can not be made durable")));
            let failed =
                answers.into_iter().map(|(question, results)| (question, results.into_iter().map(fail).collect()));
            answer_all(failed.collect(), now, machine, outbox);
        }
    }

    /// Brings the tables to what the leases say, and keeps what is right.
    fn adopt(&mut self, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        let leases: Vec<Lease> = self.allotter.leases().cloned().collect();
        for index in (0..machine.block.slots()).map(SlotIndex) {
            if self.allotter.lease_at(index).is_none() {
                machine.tables.slot(index).into_iter().for_each(|slot| slot.remove());
            }
        }
        for lease in &leases {
            for address in lease.addresses(machine.block) {
                let index = machine.block.slot(address);
                let Some(slot) = machine.tables.slot(index) else { continue };
                let same = slot.flow().is_some_and(|flow| flow.address == address.mac() && flow.port == lease.port);
                if !same {
                    self.install(lease, now, machine, outbox);
                    continue;
                }
                slot.set_expires(Tables::tick_at(lease.expires));
                if !matches!(slot.next(), Resolution::Resolved(_)) {
                    slot.set_next(Resolution::UNKNOWN);
                }
                self.follow(index, lease, now, machine, outbox);
            }
        }
        self.follow_links(now, machine, outbox);
    }

    /// Carries a durable change over to the tables.
    fn apply(&mut self, change: &Change, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        let active = |lease: &Option<Lease>| lease.clone().filter(Lease::is_active);
        let (before, after) = (active(&change.before), active(&change.after));
        let identity = |lease: &Lease| (lease.first, lease.port, lease.count, lease.spec.destination);
        if let (Some(before), Some(after)) = (&before, &after)
            && identity(before) == identity(after)
        {
            if let Some(slot) = machine.tables.slot(change.slot) {
                slot.set_expires(Tables::tick_at(after.expires));
            }
            // What the next switch was told of the flow may have changed.
            return self.follow(change.slot, after, now, machine, outbox);
        }
        if before.is_some() {
            self.remove(change.slot, now, machine);
        }
        if let Some(lease) = &after {
            self.install(lease, now, machine, outbox);
        }
    }

    fn install(&mut self, lease: &Lease, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        for address in lease.addresses(machine.block) {
            let index = machine.block.slot(address);
            self.remove(index, now, machine);
            if let Some(slot) = machine.tables.slot(index) {
                let expires = Tables::tick_at(lease.expires);
                slot.install(address, lease.port, expires, Rate::UNLIMITED, Resolution::UNKNOWN);
            }
            self.follow(index, lease, now, machine, outbox);
        }
    }

    fn remove(&mut self, index: SlotIndex, now: u64, machine: &Machine) {
        if let Some(slot) = machine.tables.slot(index) {
            slot.remove();
        }
        self.waiting.remove(&index);
        self.links.leave(index, now);
    }

    /// Looks for the next hop of a flow: its receiver, or the next switch, which is asked for a flow of its own.
    fn follow(&mut self, index: SlotIndex, lease: &Lease, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        let to = (0..machine.routes.len()).find(|host| lease.spec.destination == Some(ip_of(*host).into()));
        let Some((number, port)) = to.map(|to| machine.routes[to]).and_then(|port| Some((port, *machine.port(port)?)))
        else {
            return self.unreachable(index, machine);
        };
        match port.node {
            Node::Host(_) => {
                self.links.leave(index, now);
                self.found(index, NextHop { mac: port.mac, port: PortId(number), routed: false }, machine, outbox);
            }
            Node::Switch(_) => {
                let told = machine.bug != Some(Bug::PathUntold);
                let spec = self.links.spec(lease, told);
                self.links.follow(index, number, spec, now, &mut machine.random);
            }
        }
    }

    /// Sends what links have to say, and takes what they have found.
    fn follow_links(&mut self, now: u64, machine: &mut Machine, outbox: &mut Vec<Output>) {
        for (port, payload) in self.links.transmit(now, &mut machine.random) {
            outbox.push(machine.message(port, true, payload));
        }
        for (index, hop) in self.links.take_news() {
            match hop {
                Some(hop) => self.found(index, hop, machine, outbox),
                None => self.unreachable(index, machine),
            }
        }
    }

    /// Sends the frames that wait, in order, and only then lets the data path send by itself.
    fn found(&mut self, index: SlotIndex, hop: NextHop, machine: &mut Machine, outbox: &mut Vec<Output>) {
        let index = if machine.bug == Some(Bug::NextHopMisplaced) { SlotIndex(index.0 ^ 1) } else { index };
        let Some(slot) = machine.tables.slot(index) else { return };
        for Waiting { ingress, address, mut frame } in self.waiting.remove(&index).into_iter().flatten() {
            let mut octets = frame.octets.as_mut_slice();
            let sent = flowlane_pipeline::send(&mut octets, PortId(ingress), slot, hop, &machine.tables, &mut ());
            outbox.push(match sent.unwrap_or_else(|verdict| verdict) {
                Verdict::Forward { port, .. } => Output::Forward { ingress, egress: port.0, address, frame },
                other => Output::Dropped(frame.number, other.end().name()),
            });
        }
        slot.set_next(Resolution::Resolved(hop));
    }

    fn unreachable(&mut self, index: SlotIndex, machine: &Machine) {
        self.waiting.remove(&index);
        if let Some(slot) = machine.tables.slot(index).filter(|slot| slot.key() != 0) {
            slot.set_next(Resolution::Unreachable);
        }
    }
}

impl Commit {
    fn write(&self, store: &mut Store, now: &Moment) -> Result<(), StoreError> {
        let to_write = self.changes.iter().filter(|change| change.needs_writing());
        store.commit(&to_write.cloned().collect::<Vec<Change>>(), self.next, now)
    }
}

/// Opens the store on a disk; an allotter with what is in it.
fn open(disk: &Disk, machine: &Machine, now: &Moment) -> Result<(Store, Allotter), StoreError> {
    let name = Path::new("simulated disk");
    let disk = disk.clone();
    let (store, restored) = Store::on_storage(name, move || disk.clone(), machine.block, now)?;
    let mut allotter = Allotter::new(machine.block, machine.policy.clone(), restored.next.unwrap_or(0));
    for lease in restored.leases {
        allotter
            .restore(lease)
            .map_err(|error| StoreError::Corrupt { path: name.into(), reason: error.to_string() })?;
    }
    Ok((store, allotter))
}

fn answer_all(answers: Vec<(Question, Results)>, now: u64, machine: &Machine, outbox: &mut Vec<Output>) {
    for (question, results) in answers {
        match (question, results.first()) {
            (Question::Client(port, transaction), _) => {
                outbox.extend(transaction.reply(&results, now).map(|payload| machine.message(port, false, payload)));
            }
            (Question::Close(_, key), Some(Ok(lease))) => {
                let address = lease.addresses(machine.block).next().map_or(Mac::default(), |address| address.mac());
                outbox.push(Output::Closed(key, address, u64::from(machine.policy.quarantine) * 1000));
            }
            (Question::Close(_, key), _) => outbox.push(Output::NotClosed(key)),
        }
    }
}
