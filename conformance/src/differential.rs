//! Generated tables, frames and changes, run through the model and through every executor, and compared bit for bit.
//!
//! - [`flowlane_model`] says what must become of each frame;
//! - userspace meets all frames; XDP and tc run by `BPF_PROG_TEST_RUN` and meet those that a test run can show
//!   ([`crate::InKernel`]). What an executor can not meet is written into its tables, so that it goes on with the others.
//! - After each frame its octets, the verdict and the copies are compared; after 500 frames the counters, all words of
//!   slots, receivers and ports, and what was given to the control path. Where these differ the batch is done again, and
//!   all of it compared after each frame.
//!
//! What is not compared: the egress port of a frame that the kernel sends, which a test run does not tell. It is known by
//! the destination address, which no two next hops share, and by the port's own source address where it has one; the golden
//! vectors compare it.
//!
//! Frames, tables and ends depend on the seed alone. Needs root.

mod batch;
mod executor;
mod install;
mod step;
mod traffic;
mod world;

use crate::{Error, Interfaces, now};
use batch::Broken;
use executor::Executor;
use flowlane_program::Counts;
use flowlane_tables::{ENDS, End};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};
use world::World;

/// Frames that come to one table, changes included, before the next table is made.
const FRAMES_PER_TABLE: u64 = 2_500;
/// How often a table is begun again when the machine was too busy to finish it in time.
const TRIES: u32 = 20;

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many frames.
    pub frames: u64,
    /// From which seed.
    pub seed: u64,
    /// How they ended.
    pub ends: BTreeMap<&'static str, u64>,
    /// The first difference of each thread that found one; the others stop then.
    pub differences: Vec<Difference>,
}

/// A frame that an executor did not treat as the model does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The seed of the table: the run's, and one more for each table after the first.
    pub seed: u64,
    /// Which frame of that table, from 0.
    pub frame: u64,
    /// Which executor.
    pub executor: String,
    /// What it did, and what it should have done.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, frame, executor, text } = self;
        write!(f, "{executor}, seed {seed}, frame {frame}: {text}")
    }
}

/// Compares so many frames, from a seed on, in as many threads as there are processors. `progress` is told now and then how
/// many are done.
///
/// # Errors
/// [`Error`] where an executor can not be made: without root, or where the kernel does not take the programs.
pub fn run(frames: u64, seed: u64, progress: impl Fn(u64) + Sync) -> Result<Report, Error> {
    let shared =
        Shared { frames, seed, next: AtomicU64::new(0), done: AtomicU64::new(0), stop: AtomicBool::new(false) };
    let report = Mutex::new(Report { seed, ..Report::default() });
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let work = || Interfaces::with(|interfaces| shared.tables(Executor::all(interfaces)?, &report, &progress));
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
    })?;
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What the threads share.
struct Shared {
    frames: u64,
    seed: u64,
    /// The number of the next table.
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    /// Takes one table after the other, until there are no more.
    fn tables(
        &self,
        mut executors: Vec<Executor>,
        report: &Mutex<Report>,
        progress: &impl Fn(u64),
    ) -> Result<(), Error> {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let frames = self.frames.saturating_sub(number * FRAMES_PER_TABLE).min(FRAMES_PER_TABLE);
            if frames == 0 {
                break;
            }
            let seed = self.seed.wrapping_add(number);
            let (ends, difference) = table(seed, frames, &mut executors)?;
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(&ends);
            if let Some(difference) = difference {
                self.stop.store(true, Ordering::Relaxed);
                report.differences.push(difference);
            }
            progress(self.done.fetch_add(frames, Ordering::Relaxed) + frames);
        }
        Ok(())
    }
}

/// All frames of one table. How they end, and the first difference.
fn table(seed: u64, frames: u64, executors: &mut [Executor]) -> Result<(Counts, Option<Difference>), Error> {
    for _ in 0..TRIES {
        let mut ends = [0; ENDS];
        match batches(seed, frames, executors, &mut ends)? {
            Ok(()) => return Ok((ends, None)),
            Err((done, Broken::Differs(batch::Difference { executor, frame, text }))) => {
                let frame = done + frame.unwrap_or(0) as u64;
                return Ok((ends, Some(Difference { seed, frame, executor, text })));
            }
            Err((_, Broken::Late)) => {}
        }
    }
    Err(Error::TooBusy)
}

/// How far it came, where it did not come to its end.
fn batches(
    seed: u64,
    frames: u64,
    executors: &mut [Executor],
    ends: &mut Counts,
) -> Result<Result<(), (u64, Broken)>, Error> {
    let mut world = World::new(seed, now());
    for executor in executors.iter_mut() {
        install::everything(executor.tables(), &world.switch)?;
        executor.waiting();
    }
    let mut done = 0;
    while done < frames {
        let some = batch::BATCH.min(frames - done);
        match batch::run(&mut world, executors, some) {
            Ok(counts) => ends.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count),
            Err(broken) => return Ok(Err((done, broken))),
        }
        done += some;
    }
    Ok(Ok(()))
}

impl Report {
    fn add(&mut self, ends: &Counts) {
        for end in End::ALL {
            let frames = ends[*end as usize];
            self.frames += frames;
            *self.ends.entry(end.name()).or_default() += frames;
        }
    }
}

/// How many seeds a run of so many frames takes: the next run starts behind them.
pub const fn seeds(frames: u64) -> u64 {
    frames.div_ceil(FRAMES_PER_TABLE)
}
