//! Leases: requests in, durable grants out.
//!
//! Requests that come while a commit is under way wait and are committed together: one fsync for all of them. Nobody is
//! told of a lease, and no table has it, before it is on disk.

use super::Switch;
use flowlane_allot::{Allotter, Change, Lease, LeaseKey, Refusal, Regroup, Request};
use flowlane_dhcp6::Operation;
use flowlane_store::{Moment, Store, StoreError};
use flowlane_wire::{PortId, SlotIndex};
use std::{collections::VecDeque, sync::mpsc, thread};
use tokio::sync::mpsc::UnboundedSender;

/// Something to do with a lease.
#[derive(Clone, Debug)]
pub enum Task {
    /// What a client asked for.
    Client(Operation),
    /// Prolong, whoever's it is.
    Renew(LeaseKey, PortId, Option<u32>),
    /// End the lease that a slot belongs to.
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

/// Answers that can be given, and what became of the tasks.
pub type Answers = Vec<(Done, Vec<Result<Lease, Failure>>)>;

/// A commit that has ended, for [`Leases::committed`].
pub struct Committed(Result<(), StoreError>);

/// The allotter and the store behind it.
pub struct Leases {
    allotter: Allotter,
    queue: VecDeque<Transaction>,
    in_flight: Option<InFlight>,
    committer: mpsc::Sender<Batch>,
    problem: Option<String>,
    /// After a failed commit, expired leases are tried again only from here on (boot-time milliseconds).
    not_before: u64,
}

struct Batch {
    changes: Vec<Change>,
    next: u64,
}

struct InFlight {
    changes: Vec<Change>,
    answers: Answers,
}

/// The most transactions of one commit, so that the first does not wait for ever.
const BATCH: usize = 4_096;
/// How long expiry waits after a commit has failed, in milliseconds.
const RETRY: u64 = 1_000;

impl Leases {
    /// Starts the thread that commits. It tells `committed` when a commit has ended.
    pub fn start(allotter: Allotter, mut store: Store, committed: UnboundedSender<Committed>) -> std::io::Result<Self> {
        let (committer, batches) = mpsc::channel::<Batch>();
        thread::Builder::new().name("commit".into()).spawn(move || {
            for batch in batches {
                let result = Moment::now()
                    .map_err(|source| StoreError::Io { path: store.path().to_owned(), source })
                    .and_then(|now| store.commit(&batch.changes, batch.next, &now));
                if committed.send(Committed(result)).is_err() {
                    return;
                }
            }
        })?;
        let queue = VecDeque::new();
        Ok(Self { allotter, queue, in_flight: None, committer, problem: None, not_before: 0 })
    }

    /// The leases as they are, also those that are not durable yet.
    pub fn allotter(&self) -> &Allotter {
        &self.allotter
    }

    /// What is wrong with the store, since the last commit failed.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Accepts tasks; [`Leases::pump`] starts them.
    pub fn submit(&mut self, transaction: Transaction) {
        self.queue.push_back(transaction);
    }

    /// What a request would be granted, without keeping anything.
    fn offer(&mut self, request: &Request, now: u64) -> Result<Lease, Refusal> {
        self.allotter.offer(request, now)
    }

    /// Carries out what waits, unless a commit is under way; returns answers that need no commit.
    pub fn pump(&mut self, now: u64) -> Answers {
        if self.in_flight.is_some() {
            return Vec::new();
        }
        if now >= self.not_before {
            self.allotter.expire(now);
        }
        let waiting = self.queue.len().min(BATCH);
        let transactions: Vec<Transaction> = self.queue.drain(..waiting).collect();
        let answers: Vec<_> = transactions
            .into_iter()
            .map(|transaction| {
                let results = transaction.tasks.iter().map(|task| self.carry_out(task, now)).collect();
                (transaction.done, results)
            })
            .collect();
        let changes = self.allotter.take_changes();
        if changes.is_empty() {
            return answers;
        }
        let batch = Batch { changes: changes.clone(), next: self.allotter.next() };
        if self.committer.send(batch).is_err() {
            self.allotter.undo(changes);
            return failed(answers, "the committing thread has ended");
        }
        self.in_flight = Some(InFlight { changes, answers });
        Vec::new()
    }

    /// Ends the commit under way: the changes that are durable now, for the table, and the answers.
    pub fn committed(&mut self, committed: Committed, now: u64) -> (Vec<Change>, Answers) {
        let Some(InFlight { changes, answers }) = self.in_flight.take() else { return (Vec::new(), Vec::new()) };
        match committed.0 {
            Ok(()) => {
                self.problem = None;
                (changes, answers)
            }
            Err(error) => {
                self.allotter.undo(changes);
                self.not_before = now + RETRY;
                let problem = error.to_string();
                let answers = failed(answers, &problem);
                self.problem = Some(problem);
                (Vec::new(), answers)
            }
        }
    }

    /// When the next lease ends or quarantine is over, in boot-time milliseconds; not before a commit under way has ended.
    pub fn deadline(&self) -> Option<u64> {
        if self.in_flight.is_some() {
            return None;
        }
        self.allotter.poll_timeout().map(|deadline| deadline.max(self.not_before))
    }

    fn carry_out(&mut self, task: &Task, now: u64) -> Result<Lease, Failure> {
        match task {
            Task::Client(operation) => self.client(operation, now),
            Task::Renew(key, port, lifetime) => self.allotter.renew(key, *port, *lifetime, now),
            Task::Close(slot) => self.allotter.close(*slot, now),
            Task::Regroup(slot, regroup) => self.allotter.regroup(*slot, regroup, now),
        }
        .map_err(Failure::Refused)
    }

    fn client(&mut self, operation: &Operation, now: u64) -> Result<Lease, Refusal> {
        let about =
            self.allotter.lease(operation.key()).is_none_or(|lease| operation.is_about(lease, self.allotter.block()));
        if !about {
            return Err(Refusal::NoBinding);
        }
        match operation {
            Operation::Offer(request) => self.offer(request, now),
            Operation::Request(request) => self.allotter.request(request, now),
            Operation::Renew(held) => self.allotter.renew(&held.key, held.port, None, now),
            Operation::Release(held) => self.allotter.release(&held.key, held.port, now),
            Operation::Decline(held) => self.allotter.decline(&held.key, held.port, now),
        }
    }
}

fn failed(answers: Answers, problem: &str) -> Answers {
    let fail = |results: Vec<Result<Lease, Failure>>| {
        results.into_iter().map(|result| result.and(Err(Failure::Store(problem.to_owned())))).collect()
    };
    answers.into_iter().map(|(done, results)| (done, fail(results))).collect()
}
