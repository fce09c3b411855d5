//! Leases: requests in, durable grants out.
//!
//! Requests that come while a commit is under way wait and are committed together: one fsync for all of them. Nobody is
//! told of a lease, and no table has it, before it is on disk.
//!
//! While the store can not be written, leases are prolonged as far as they are reserved on disk, and all else is refused
//! or waits. The store is tried again by itself.

mod trouble;

use super::Switch;
use flowlane_allot::{Allotter, Change, Lease, LeaseKey, Refusal, Regroup};
use flowlane_dhcp6::Operation;
use flowlane_store::{Moment, Store, StoreError};
use flowlane_wire::{PortId, SlotIndex};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedSender;
use trouble::Trouble;

/// Something to do with a lease.
#[derive(Clone, Debug)]
pub enum Task {
    /// What a client asked for.
    Client(Operation),
    /// Nothing: what a client asked for is refused.
    Refuse(Refusal),
    /// Prolong, whoever's it is.
    Renew(LeaseKey, PortId, Option<u32>),
    /// End the lease that a slot belongs to.
    End(SlotIndex),
    /// End it for good: its client gets no other one under the same key while the addresses are in quarantine.
    Close(SlotIndex),
    /// Let receivers of the group in a slot come or go.
    Regroup(SlotIndex, Regroup),
}

/// Why a task was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The allotter says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The lease could not be made durable.
    #[error("the lease can not be made durable: {0}")]
    Store(String),
}

impl Failure {
    /// As the allotter would have put it.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Store(_) => Refusal::Invalid("the lease can not be made durable"),
        }
    }
}

/// Is called with what became of the tasks, on the switch, at boot-time milliseconds.
pub type Done = Box<dyn FnOnce(Vec<Result<Lease, Failure>>, &mut Switch, u64)>;

/// Tasks that are answered together.
pub struct Transaction {
    /// The tasks, in order.
    pub tasks: Vec<Task>,
    /// Told when all is durable.
    pub done: Done,
}

impl Transaction {
    /// The port of the client that asks, where it is one.
    fn port(&self) -> Option<PortId> {
        match self.tasks.first()? {
            Task::Client(operation) => Some(operation.port()),
            _ => None,
        }
    }
}

/// What became of the tasks of a transaction, in order.
type Results = Vec<Result<Lease, Failure>>;

/// Answers that can be given, and what became of the tasks.
pub type Answers = Vec<(Done, Results)>;

/// Is called with what is in the store, on the switch. Until then no lease changes.
pub type WithRows = Box<dyn FnOnce(Result<Vec<Lease>, StoreError>, &mut Switch)>;

/// What the store's thread has to say.
pub enum FromStore {
    /// A commit has ended: for [`Leases::committed`].
    Committed(Result<(), StoreError>),
    /// All leases as they are on disk: for [`Leases::reader`].
    Rows(Result<Vec<Lease>, StoreError>),
}

/// The allotter and the store behind it.
pub struct Leases {
    allotter: Allotter,
    queue: VecDeque<Transaction>,
    in_flight: Option<InFlight>,
    /// Who wants to know what is in the store.
    readers: VecDeque<WithRows>,
    /// Whom it is being read for.
    reading: Option<WithRows>,
    committer: mpsc::Sender<Work>,
    /// Set while the store can not be written.
    trouble: Option<Trouble>,
    /// When the store is written again even if nothing has changed (boot-time milliseconds).
    write_by: u64,
    clock_steps: Arc<AtomicU64>,
}

/// What the store's thread is to do.
enum Work {
    Commit(Batch),
    Read,
}

struct Batch {
    changes: Vec<Change>,
    next: u64,
}

struct InFlight {
    /// When it began, in boot-time milliseconds.
    since: u64,
    /// The same, to be exact.
    began: Instant,
    changes: Vec<Change>,
    carried_out: Vec<(Transaction, Results)>,
}

/// The most tasks of one commit, so that the first does not wait for ever.
const BATCH: usize = 4_096;
/// The most of them for clients at one port, so that those at others do not wait behind them.
const BATCH_OF_PORT: usize = 64;
/// How long after a commit an empty one follows where no other does, in milliseconds. Damage to the pages of the last commit
/// looks as if the power had failed in it, so that there is none of the leases' among them for long.
const SEAL: u64 = 1_000;
/// How often the store is written at least, in milliseconds: what was left of the leases then is left after a reboot.
const HEARTBEAT: u64 = 600_000;
/// By how much the wall clock must be set to be counted, in milliseconds.
const STEP: u64 = 2_000;

impl Leases {
    /// Starts the thread that has the store. It tells `from_store` what has become of its work. The store was last `written` then.
    pub fn start(
        allotter: Allotter,
        store: Store,
        written: Moment,
        from_store: UnboundedSender<FromStore>,
    ) -> std::io::Result<Self> {
        let (committer, work) = mpsc::channel::<Work>();
        let clock_steps = Arc::new(AtomicU64::new(0));
        let steps = Arc::clone(&clock_steps);
        let commit = move || work_on(store, written, &work, &from_store, &steps);
        thread::Builder::new().name("commit".into()).spawn(commit)?;
        let (queue, readers) = Default::default();
        let (in_flight, reading) = (None, None);
        Ok(Self { allotter, queue, in_flight, readers, reading, committer, trouble: None, write_by: 0, clock_steps })
    }

    /// The leases as they are, also those that are not durable yet.
    pub fn allotter(&self) -> &Allotter {
        &self.allotter
    }

    /// What is wrong with the store, since the last commit failed.
    pub fn problem(&self) -> Option<&str> {
        self.trouble.as_ref().map(Trouble::problem)
    }

    /// How long the commit has been under way, if one is.
    pub fn committing_for(&self) -> Option<Duration> {
        self.in_flight.as_ref().map(|in_flight| in_flight.began.elapsed())
    }

    /// How often the wall clock was set. Leases do not depend on it.
    pub fn clock_steps(&self) -> u64 {
        self.clock_steps.load(Ordering::Relaxed)
    }

    /// Accepts tasks; [`Leases::pump`] starts them.
    pub fn submit(&mut self, transaction: Transaction) {
        self.queue.push_back(transaction);
    }

    /// Reads the store when no commit is under way.
    pub fn read_back(&mut self, done: WithRows) {
        self.readers.push_back(done);
    }

    /// Writes leases to disk that are there otherwise, or not at all; `rows` is what is there.
    pub fn write_again(&mut self, rows: &[Lease], now: u64) {
        let changes = self.differences(rows);
        if changes.is_empty() || self.in_flight.is_some() {
            return;
        }
        let batch = Batch { changes, next: self.allotter.next() };
        if self.committer.send(Work::Commit(batch)).is_ok() {
            // The table has them already: it is told nothing when this has been done.
            self.in_flight =
                Some(InFlight { since: now, began: Instant::now(), changes: Vec::new(), carried_out: Vec::new() });
        }
    }

    /// Who wanted to know what is in the store, now that it has been read.
    pub fn reader(&mut self) -> Option<WithRows> {
        self.reading.take()
    }

    /// What is on disk before, and should be there after. What need not be written may differ.
    pub fn differences(&self, rows: &[Lease]) -> Vec<Change> {
        let slot = |lease: &Lease| self.allotter.block().slot_of(lease.first);
        let mut on_disk: HashMap<SlotIndex, &Lease> = rows.iter().map(|lease| (slot(lease), lease)).collect();
        let mut changes = Vec::new();
        for lease in self.allotter.occupied() {
            let (slot, before) = (slot(lease), on_disk.remove(&slot(lease)));
            if before != Some(lease) {
                changes.push(Change { slot, before: before.cloned(), after: Some(lease.clone()) });
            }
        }
        let too_many =
            on_disk.into_iter().map(|(slot, lease)| Change { slot, before: Some(lease.clone()), after: None });
        changes.extend(too_many);
        changes.retain(Change::needs_writing);
        changes
    }

    /// Carries out what waits, unless a commit is under way: changes for the table, and answers, that need no commit.
    pub fn pump(&mut self, now: u64) -> (Vec<Change>, Answers) {
        if self.in_flight.is_some() || self.reading.is_some() {
            return Default::default();
        }
        if let Some(done) = self.readers.pop_front() {
            // A thread that has ended says nothing; who waits is told that nobody answers.
            self.reading = self.committer.send(Work::Read).is_ok().then_some(done);
            return Default::default();
        }
        let transactions = self.next_transactions();
        if self.trouble.as_ref().is_some_and(|trouble| now < trouble.retry()) {
            return self.do_without_store(transactions, now);
        }
        self.allotter.expire(now);
        let carried_out = self.carry_out_all(transactions, now);
        let changes = self.allotter.take_changes();
        let to_write: Vec<Change> = changes.iter().filter(|change| change.needs_writing()).cloned().collect();
        if to_write.is_empty() && now < self.write_by {
            return (changes, answers(carried_out));
        }
        self.write_by = now + if to_write.is_empty() { HEARTBEAT } else { SEAL };
        let sent = self.committer.send(Work::Commit(Batch { changes: to_write, next: self.allotter.next() }));
        self.in_flight = Some(InFlight { since: now, began: Instant::now(), changes, carried_out });
        match sent {
            Ok(()) => Default::default(),
            Err(_) => self.failed("the committing thread has ended".into(), now),
        }
    }

    /// Ends the commit under way: the changes that are durable now, for the table, and the answers.
    pub fn committed(&mut self, result: Result<(), StoreError>, now: u64) -> (Vec<Change>, Answers) {
        if let Err(error) = result {
            return self.failed(error.to_string(), now);
        }
        if self.trouble.take().is_some() {
            tracing::info!("leases can be written again");
        }
        self.in_flight.take().map(|done| (done.changes, answers(done.carried_out))).unwrap_or_default()
    }

    /// When the next lease ends or quarantine is over, or the store is to be written, in boot-time milliseconds; not before
    /// a commit under way has ended.
    pub fn deadline(&self) -> Option<u64> {
        if self.in_flight.is_some() || self.reading.is_some() {
            return None;
        }
        if !(self.queue.is_empty() && self.readers.is_empty()) {
            return Some(0);
        }
        match &self.trouble {
            Some(trouble) => Some(trouble.retry()),
            None => Some(self.allotter.poll_timeout().map_or(self.write_by, |deadline| deadline.min(self.write_by))),
        }
    }

    /// Those that wait and are next; the others go on waiting, each behind those of its port that came earlier.
    fn next_transactions(&mut self) -> Vec<Transaction> {
        let mut tasks: HashMap<Option<PortId>, usize> = HashMap::new();
        let is_next = |transaction: &Transaction| {
            let port = transaction.port();
            let tasks = tasks.entry(port).or_default();
            *tasks += transaction.tasks.len().max(1);
            *tasks <= if port.is_some() { BATCH_OF_PORT.max(transaction.tasks.len()) } else { BATCH }
        };
        let (next, later): (Vec<_>, Vec<_>) = self.queue.drain(..).partition(is_next);
        self.queue = later.into();
        next
    }

    fn carry_out_all(&mut self, transactions: Vec<Transaction>, now: u64) -> Vec<(Transaction, Results)> {
        let mut carry_out = |transaction: Transaction| {
            let results = transaction.tasks.iter().map(|task| self.carry_out(task, now)).collect();
            (transaction, results)
        };
        transactions.into_iter().map(&mut carry_out).collect()
    }

    fn carry_out(&mut self, task: &Task, now: u64) -> Result<Lease, Failure> {
        match task {
            Task::Client(operation) => self.client(operation, now),
            Task::Refuse(refusal) => Err(refusal.clone()),
            Task::Renew(key, port, lifetime) => self.allotter.renew(key, *port, *lifetime, now),
            Task::End(slot) => self.allotter.end(*slot, now),
            Task::Close(slot) => self.allotter.close(*slot, now),
            Task::Regroup(slot, regroup) => self.allotter.regroup(*slot, regroup, now),
        }
        .map_err(Failure::Refused)
    }

    fn client(&mut self, operation: &Operation, now: u64) -> Result<Lease, Refusal> {
        if !self.is_about_its_lease(operation) {
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

    /// Whether the client means the lease that it has, if it has one.
    fn is_about_its_lease(&self, operation: &Operation) -> bool {
        self.allotter.lease(operation.key()).is_none_or(|lease| operation.is_about(lease, self.allotter.block()))
    }
}

fn answers(carried_out: Vec<(Transaction, Results)>) -> Answers {
    carried_out.into_iter().map(|(transaction, results)| (transaction.done, results)).collect()
}

/// Commits and reads, one after the other, and sees when the wall clock is set.
fn work_on(
    mut store: Store,
    mut last: Moment,
    work: &mpsc::Receiver<Work>,
    from_store: &UnboundedSender<FromStore>,
    steps: &AtomicU64,
) {
    for work in work {
        let done = match work {
            Work::Read => FromStore::Rows(store.leases()),
            Work::Commit(batch) => {
                let now = Moment::now().map_err(|source| StoreError::Io { path: store.path().to_owned(), source });
                FromStore::Committed(now.and_then(|now| {
                    count_step(&last, &now, steps);
                    last = now;
                    store.commit(&batch.changes, batch.next, &last)
                }))
            }
        };
        if from_store.send(done).is_err() {
            return;
        }
    }
}

fn count_step(last: &Moment, now: &Moment, steps: &AtomicU64) {
    let step = last.wall_step(now);
    if step.unsigned_abs() >= STEP {
        steps.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(seconds = step / 1_000, "the wall clock was set; leases go on as granted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowlane_allot::{ClientId, FlowSpec, Policy, Request};
    use flowlane_wire::{Block, Mac};

    fn request(port: PortId, iaid: u32) -> Request {
        let key = LeaseKey { client: ClientId(vec![1]), iaid };
        let (host, spec) = (Mac([2, 0, 0, 0, 0, 1]), FlowSpec::default());
        Request { key, port, host, count: 1, lifetime: None, spec }
    }

    fn granted(allotter: &mut Allotter, iaid: u32) -> Lease {
        allotter.request(&request(PortId(1), iaid), 1_000).expect("granted")
    }

    #[test]
    fn nobody_waits_behind_the_many_requests_of_another_port() {
        let block = Block::new("a2:f1:00:00:00:00".parse().expect("an address"), 16, 1_024).expect("a block");
        let directory = tempfile::tempdir().expect("a directory");
        let moment = Moment::now().expect("clocks");
        let (store, _) = Store::open(&directory.path().join("leases.redb"), block, &moment).expect("a store");
        let (to_loop, _from_store) = tokio::sync::mpsc::unbounded_channel();
        let allotter = Allotter::new(block, Policy::default(), 0);
        let mut leases = Leases::start(allotter, store, moment, to_loop).expect("a thread");
        let asked = (0..300).map(|iaid| (PortId(1), iaid)).chain([(PortId(2), 300), (PortId(2), 301)]);
        for (port, iaid) in asked {
            let task = Task::Client(Operation::Request(request(port, iaid)));
            leases.submit(Transaction { tasks: vec![task], done: Box::new(|_, _, _| ()) });
        }
        let next = |leases: &mut Leases| -> Vec<u32> {
            let iaid = |transaction: &Transaction| match &transaction.tasks[0] {
                Task::Client(operation) => operation.key().iaid,
                other => panic!("{other:?}"),
            };
            leases.next_transactions().iter().map(iaid).collect()
        };
        let first: Vec<u32> = (0..64).chain([300, 301]).collect();
        assert_eq!(next(&mut leases), first);
        assert_eq!(next(&mut leases), (64..128).collect::<Vec<_>>(), "in order");
        assert_eq!((0..4).map(|_| next(&mut leases).len()).sum::<usize>(), 172, "nobody is forgotten");
        assert!(leases.queue.is_empty());
    }

    #[test]
    fn what_the_disk_has_otherwise_is_found_and_written_again() {
        let block = Block::new("a2:f1:00:00:00:00".parse().expect("an address"), 16, 16).expect("a block");
        let directory = tempfile::tempdir().expect("a directory");
        let moment = Moment::now().expect("clocks");
        let (store, _) = Store::open(&directory.path().join("leases.redb"), block, &moment).expect("a store");
        let mut allotter = Allotter::new(block, Policy::default(), 0);
        let [same, other, missing] = [1, 2, 3].map(|iaid| granted(&mut allotter, iaid));
        allotter.take_changes();
        let mut elsewhere = Allotter::new(block, Policy::default(), 8);
        let too_many = granted(&mut elsewhere, 9);
        let (to_loop, mut from_store) = tokio::sync::mpsc::unbounded_channel();
        let mut leases = Leases::start(allotter, store, moment, to_loop).expect("a thread");

        let rows = [same.clone(), Lease { port: PortId(2), ..other.clone() }, too_many];
        let mut found: Vec<_> =
            leases.differences(&rows).into_iter().map(|change| (change.slot.0, change.after)).collect();
        found.sort_by_key(|(slot, _)| *slot);
        assert_eq!(found, [(1, Some(other.clone())), (2, Some(missing.clone())), (8, None)]);

        leases.write_again(&[], 1_000);
        assert!(matches!(from_store.blocking_recv(), Some(FromStore::Committed(Ok(())))));
        assert!(leases.committed(Ok(()), 1_000).0.is_empty(), "the table is told nothing");
        leases.read_back(Box::new(|_, _| ()));
        assert!(leases.pump(1_000).1.is_empty());
        let Some(FromStore::Rows(Ok(rows))) = from_store.blocking_recv() else { panic!("rows") };
        let on_disk = |lease: Lease| Lease { expires: lease.reserved, ..lease };
        assert_eq!(rows, [same, other, missing].map(on_disk));
        assert_eq!(leases.differences(&rows), []);
    }
}
