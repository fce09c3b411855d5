//! A switch's leases over many boots: the real allotter, the real store, and who asks.

use crate::clock::Clock;
use crate::disk::Disk;
use crate::promises::Promises;
use crate::row::Row;
use fastrand::Rng;
use flowlane_allot::{Allotter, Change, ClientId, FlowSpec, Lease, LeaseKey, LeaseState, Policy, Refusal, Request};
use flowlane_store::{Moment, Restored, Store, StoreError};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the store is called in errors.
pub(crate) const NAME: &str = "leases.redb";
/// Few slots, so that each is used many times.
const SLOTS: u32 = 64;
const CLIENTS: u8 = 6;
const PORT: PortId = PortId(1);

/// A history, from its first boot on.
pub(crate) struct History {
    pub random: Rng,
    pub clock: Clock,
    pub disk: Disk,
    pub row: Row,
    allotter: Allotter,
    /// None while the machine is off.
    store: Option<Store>,
    promises: Promises,
    /// When the store was last written, by true time.
    written: u64,
    /// Whether the disk is full, and not without power: then a switch goes on.
    full: bool,
    /// Whether the last commit failed.
    trouble: bool,
    /// Leases whose end was to be written, and may be on disk although the commit has failed.
    ended: BTreeSet<SlotIndex>,
}

/// What somebody asks for.
#[derive(Clone, Debug)]
enum Task {
    Request(Request),
    Renew(LeaseKey),
    Release(LeaseKey),
    Close(SlotIndex),
}

impl History {
    /// The first boot, of a machine with an empty disk.
    pub(crate) fn new(name: &'static str, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let policy = Policy {
            quarantine: random.u32(60..600),
            default_lifetime: random.u32(60..600),
            reserve: random.u32(..1_200),
            max_addresses: 4,
            ..Policy::default()
        };
        let (clock, disk) = (Clock::new(), Disk::default());
        let (store, _) = open(&disk, &clock.moment()).expect("a new store");
        Self {
            promises: Promises::new(policy.quarantine, SLOTS),
            allotter: Allotter::new(block(), policy, random.u64(..1 << 20)),
            store: Some(store),
            row: Row::new(name),
            written: 0,
            full: false,
            trouble: false,
            ended: BTreeSet::new(),
            random,
            clock,
            disk,
        }
    }

    /// Some time goes by, and then some requests come, which are committed together. Nobody hears of what comes of them
    /// where the power has failed meanwhile.
    pub(crate) fn turn(&mut self) {
        self.clock.advance(self.random.u64(..40_000));
        let tasks: Vec<Task> = (0..self.random.usize(..6)).map(|_| self.task()).collect();
        let now = self.clock.boot_ms();
        self.allotter.expire(now);
        let results: Vec<_> = tasks.iter().map(|task| self.carry_out(task, now)).collect();
        let changes = self.allotter.take_changes();
        let to_write: Vec<Change> = changes.iter().filter(|change| change.needs_writing()).cloned().collect();
        self.row.count("without_write", u64::from(!tasks.is_empty() && to_write.is_empty()));
        // An empty commit now and then is what a switch does, too.
        if to_write.is_empty() && !self.trouble && self.random.bool() {
            return self.acknowledge(&tasks, results);
        }
        let Some(store) = &mut self.store else { return };
        match store.commit(&to_write, self.allotter.next(), &self.clock.moment()) {
            Ok(()) => {
                (self.trouble, self.written) = (false, self.clock.now);
                self.ended.clear();
                self.acknowledge(&tasks, results);
            }
            Err(error) => self.failed(&tasks, changes, &error),
        }
    }

    /// Lets so many more writes succeed, before the disk is full or the power is off.
    pub(crate) fn fail_after(&mut self, writes: u32, full: bool) {
        self.full = full;
        self.disk.fail_after(writes);
    }

    /// There is space on the disk again.
    pub(crate) fn heal(&mut self) {
        self.full = false;
        self.disk.heal();
    }

    /// Whether the last commit failed.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble
    }

    /// The power fails; the machine is off for some time, and boots, perhaps more than once. What was acknowledged must be
    /// there.
    pub(crate) fn power_cut(&mut self) {
        self.row.count("cuts", 1);
        let mut left = self.disk.after_power_cut(&mut self.random);
        self.store = None;
        loop {
            let off = self.random.u64(..60_000);
            self.clock.reboot(off);
            if self.random.u8(..4) > 0 {
                break;
            }
            // Again, while the store is opened.
            left.fail_after(self.random.u32(..12));
            drop(open(&left, &self.clock.moment()));
            self.row.count("cuts", 1);
            left = left.after_power_cut(&mut self.random);
        }
        left.heal();
        self.disk = left;
        self.restart();
    }

    /// The process is killed, after the empty commit that follows the last one.
    pub(crate) fn kill(&mut self) -> Disk {
        let store = self.store.as_mut().expect("it runs");
        store.commit(&[], self.allotter.next(), &self.clock.moment()).expect("a good disk");
        Disk::with(self.disk.image())
    }

    /// The process ends in order.
    pub(crate) fn stop(&mut self) -> Disk {
        self.store = None;
        Disk::with(self.disk.image())
    }

    /// The machine boots, with all that was written on its disk. Each lease must last as long as it was reserved, and
    /// longer by the time that nobody could measure: from the last write to the boot.
    pub(crate) fn reboot(&mut self, off: u64) {
        let ends = |history: &Self| -> BTreeMap<u64, u64> {
            let rows = history.leases().into_iter();
            rows.map(|lease| (lease.first, history.clock.of_boot_ms(until(&lease)))).collect()
        };
        let (before, written) = (ends(self), self.written);
        self.store = None;
        self.clock.reboot(off);
        self.restart();
        let unknown = self.clock.of_boot_ms(0) - written;
        for (first, end) in ends(self) {
            self.row.count("ends_compared", 1);
            let expected = before.get(&first).map(|end| (end + unknown).max(self.clock.now));
            if expected != Some(end) {
                self.row.wrong(|| format!("lease {first} ends at {end} instead of {expected:?}"));
            }
        }
        self.written = self.clock.now;
    }

    /// The leases as the store gives them back, by slot.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.allotter.occupied().map(|lease| Lease { expires: lease.reserved, ..lease.clone() }).collect()
    }

    /// Every lease that was promised is there.
    pub(crate) fn compare(&mut self) {
        let leases: BTreeMap<_, _> = self.allotter.leases().map(|lease| (lease.key.clone(), lease.clone())).collect();
        let clock = &self.clock;
        self.promises.compare(&leases, |end| clock.of_boot_ms(end), clock.now, &mut self.row);
    }

    /// A switch starts with what is on the disk.
    fn restart(&mut self) {
        (self.trouble, self.ended) = (false, BTreeSet::new());
        let (store, restored) = match open(&self.disk, &self.clock.moment()) {
            Ok(opened) => opened,
            Err(error) => {
                self.row.leases_lost += 1;
                return self.row.wrong(|| format!("the store can not be opened: {error}"));
            }
        };
        let next = restored.next.unwrap_or_else(|| self.allotter.next());
        self.allotter = Allotter::new(block(), self.allotter.policy().clone(), next);
        for lease in restored.leases {
            if let Err(error) = self.allotter.restore(lease) {
                self.row.leases_lost += 1;
                self.row.wrong(|| error.to_string());
            }
        }
        self.store = Some(store);
        self.compare();
    }

    fn task(&mut self) -> Task {
        let client = ClientId(vec![self.random.u8(..CLIENTS)]);
        let key = LeaseKey { client, iaid: self.random.u32(..4) };
        match self.random.u8(..10) {
            0..4 => {
                let lifetime = self.random.bool().then(|| self.random.u32(60..900));
                let (count, host) = (self.random.u32(1..5), Mac([2, 0, 0, 0, 0, 1]));
                Task::Request(Request { key, port: PORT, host, count, lifetime, spec: FlowSpec::default() })
            }
            4..8 => Task::Renew(key),
            8 => Task::Release(key),
            _ => Task::Close(SlotIndex(self.random.u32(..SLOTS))),
        }
    }

    fn carry_out(&mut self, task: &Task, now: u64) -> Result<Lease, Refusal> {
        match task {
            Task::Request(request) => self.allotter.request(request, now),
            Task::Renew(key) => self.allotter.renew(key, PORT, None, now),
            Task::Release(key) => self.allotter.release(key, PORT, now),
            Task::Close(slot) => self.allotter.close(*slot, now),
        }
    }

    /// Tells everybody what has become of what they asked for.
    fn acknowledge(&mut self, tasks: &[Task], results: Vec<Result<Lease, Refusal>>) {
        for (task, lease) in tasks.iter().zip(results).filter_map(|(task, result)| Some((task, result.ok()?))) {
            match task {
                Task::Request(_) | Task::Renew(_) => self.promise(&lease),
                Task::Release(_) | Task::Close(_) => self.promises.ended(&lease.key, self.clock.now),
            }
            self.row.count("acknowledged", 1);
        }
    }

    fn promise(&mut self, lease: &Lease) {
        let ends = self.clock.of_boot_ms(lease.expires);
        self.promises.granted(lease, ends, self.clock.now, &mut self.row);
    }

    /// What a switch does when the store can not be written: it takes everything back, and prolongs.
    fn failed(&mut self, tasks: &[Task], changes: Vec<Change>, error: &StoreError) {
        if !matches!(error, StoreError::Full { .. } | StoreError::Io { .. }) {
            self.row.wrong(|| format!("a full disk is called: {error}"));
        }
        self.trouble = true;
        let active = |lease: &Option<Lease>| lease.as_ref().is_some_and(Lease::is_active);
        let ended = changes.iter().filter(|change| active(&change.before) && !active(&change.after));
        self.ended.extend(ended.map(|change| change.slot));
        self.allotter.undo(changes);
        // What somebody wanted to end may be over on disk.
        for task in tasks {
            match task {
                Task::Release(key) => self.promises.ended(key, self.clock.now),
                Task::Close(slot) => {
                    let key = self.allotter.lease_at(*slot).map(|lease| lease.key.clone());
                    key.iter().for_each(|key| self.promises.ended(key, self.clock.now));
                }
                Task::Request(_) | Task::Renew(_) => {}
            }
        }
        if self.full {
            tasks.iter().for_each(|task| self.prolong(task));
        }
    }

    fn prolong(&mut self, task: &Task) {
        let (key, lifetime) = match task {
            Task::Renew(key) => (key, None),
            Task::Request(request) if self.allotter.is_repeated(request) => (&request.key, request.lifetime),
            _ => return self.row.count("refused_while_full", 1),
        };
        let Some(lease) = self.allotter.lease(key).cloned() else { return };
        let now = self.clock.boot_ms();
        if self.ended.contains(&block().slot_of(lease.first)) {
            return self.row.count("refused_while_full", 1);
        }
        match self.allotter.prolong(key, PORT, lifetime, now) {
            Ok(prolonged) => {
                self.promise(&prolonged);
                self.row.count("renewed_while_full", 1);
                self.row.count("to_the_end_of_the_reserve", u64::from(prolonged.reserved - prolonged.expires < 1_000));
            }
            Err(_) if lease.reserved >= now + 1_000 => {
                self.row.wrong(|| format!("{lease:?} was not prolonged at {now}"))
            }
            Err(_) => self.row.count("refused_while_full", 1),
        }
        if self.allotter.take_changes().iter().any(Change::needs_writing) {
            self.row.wrong(|| "what was prolonged needs to be written".into());
        }
    }
}

/// Until when a row says that the addresses are not free.
fn until(lease: &Lease) -> u64 {
    match lease.state {
        LeaseState::Active => lease.reserved,
        LeaseState::Quarantined { until } | LeaseState::Closed { until } => until,
    }
}

/// The block of all histories.
pub(crate) fn block() -> Block {
    Block::new(Mac::from_u64(0xa2f1_0000_0000), 16, SLOTS).expect("a good block")
}

/// Opens the store of a disk.
pub(crate) fn open(disk: &Disk, now: &Moment) -> Result<(Store, Restored), StoreError> {
    let disk = disk.clone();
    Store::on_storage(Path::new(NAME), move || disk.clone(), block(), now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_ten_times(mut history: History) -> Row {
        for _ in 0..10 {
            (0..20).for_each(|_| history.turn());
            history.power_cut();
        }
        history.row
    }

    #[test]
    fn a_disk_that_lies_about_its_syncs_is_found_out() {
        let history = History::new("lying", 1);
        history.disk.ignore_syncs();
        assert!(cut_ten_times(history).leases_lost > 0);
    }

    #[test]
    fn a_quarantine_that_is_too_short_is_found_out() {
        let mut history = History::new("short", 1);
        history.promises = Promises::new(100_000, SLOTS);
        let row = cut_ten_times(history);
        assert!(row.double_owners > 0 && row.leases_lost == 0, "{row:?}");
    }
}
