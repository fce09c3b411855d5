//! One contestant on its path, and what a measurement of it gives.

use crate::{
    Case, Contestant, Error, Work,
    contestant::SetUp,
    ends::{Ends, Seen, Sent},
    path::Path,
    processor::{Processor, clock_of_process, now},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Frames that are sent before a measurement: code and tables get into the caches, as far as they fit.
const WARM_UP: u32 = 20_000;
/// Nanoseconds: no turn of the generator is shorter, though it seems so where a contestant does not get its processor.
const TURN_MIN: f64 = 50.0;
/// Frames of each flow that a contestant sees before which learns.
const SEEN_BEFORE: u32 = 8;
/// It is measured as it is after this time at the latest.
const LEARNING: Duration = Duration::from_secs(20);
/// How long frames may still be on the way after the last was sent.
const PATIENCE: Duration = Duration::from_millis(200);

/// A contestant that stands ready.
pub(crate) struct Course {
    pub case: Case,
    ends: Ends,
    // Dropped in this order: programs before the interfaces that they are attached to.
    set_up: SetUp,
    _path: Path,
}

/// What a measurement gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Frames that were to arrive.
    pub expected: u64,
    /// Frames that arrived with the right addresses.
    pub delivered: u64,
    /// Frames that arrived with others.
    pub wrong: u64,
    /// Processor time of generator, contestant and sink.
    pub busy: Duration,
}

impl Sample {
    /// Nanoseconds of processor time for each frame delivered.
    pub(crate) fn ns(&self) -> f64 {
        self.busy.as_nanos() as f64 / self.delivered.max(1) as f64
    }
}

impl Course {
    pub(crate) fn set_up(case: &Case, on: &Processor) -> Result<Self, Error> {
        let Case { contestant, work, flows, .. } = *case;
        let path = Path::new()?;
        let destination = if contestant == Contestant::Floor { &path.ingress } else { &path.destination };
        let (traffic, sink) = (contestant.traffic(work, flows), contestant.sink(work));
        let ends = Ends::join(&traffic, &path.source, destination, sink, contestant.window())?;
        let set_up = contestant.set_up(&path, work, flows, on)?;
        Ok(Self { case: *case, ends, set_up, _path: path })
    }

    /// How many frames fill a window, by a first look.
    pub(crate) fn frames_in(&mut self, window: Duration, frame_bytes: u32, on: &Processor) -> Result<u32, Error> {
        self.learn(frame_bytes, on)?;
        let sample = self.measure(WARM_UP, frame_bytes, 1, on)?;
        if sample.delivered == 0 {
            let contestant = self.case.contestant.name();
            return Err(Error::Nothing { contestant, expected: sample.expected, wrong: sample.wrong });
        }
        // The generator's turns, in some of which it may send nothing.
        let turn = sample.busy.as_nanos() as f64 / f64::from(WARM_UP);
        Ok((window.as_nanos() as f64 / turn.max(TURN_MIN)) as u32)
    }

    /// Lets a contestant see every flow some times that keeps what it has found out about one. The generator has to be called
    /// again and again: in most of its turns it waits.
    fn learn(&mut self, frame_bytes: u32, on: &Processor) -> Result<(), Error> {
        let (wanted, start) = (u64::from(SEEN_BEFORE * self.case.flows), Instant::now());
        let (mut seen, mut seed) = (0, 0);
        while self.case.contestant.learns() && seen < wanted && start.elapsed() < LEARNING {
            seed += 1;
            seen += self.sample(WARM_UP, frame_bytes, seed, on)?.delivered;
        }
        Ok(())
    }

    /// Measures once.
    pub(crate) fn measure(
        &mut self,
        frames: u32,
        frame_bytes: u32,
        seed: u32,
        on: &Processor,
    ) -> Result<Sample, Error> {
        self.sample(WARM_UP, frame_bytes, !seed, on)?;
        self.sample(frames, frame_bytes, seed, on)
    }

    fn sample(&mut self, frames: u32, frame_bytes: u32, seed: u32, on: &Processor) -> Result<Sample, Error> {
        let (before, left_undone, process) = (self.ends.seen()?, on.left_undone()?, self.process(on)?);
        let generator = if self.case.contestant.never_rests() { &Processor::first()? } else { on };
        let Sent { frames: sent, busy, took } = self.ends.send(frames, frame_bytes, seed, generator)?;
        let polled = self.process(on)? - process;
        let expected = sent * self.case.work.copies();
        let after = self.wait_for(before, expected)?;
        let process = self.process(on)? - process;
        let busy = match self.set_up.process {
            // It polls before the first frame and after the last one, too, which is not counted.
            Some(_) if self.case.contestant.never_rests() => polled.min(took),
            Some(_) => busy + process,
            // The generator is a thread of this process as well.
            None if self.case.contestant.is_in_this_process() => process,
            None => busy,
        };
        Ok(Sample {
            expected,
            delivered: after.right - before.right,
            wrong: after.wrong - before.wrong,
            busy: busy + (on.left_undone()? - left_undone),
        })
    }

    /// Processor time of the process that forwards, where one does.
    fn process(&self, on: &Processor) -> Result<Duration, Error> {
        self.set_up.process.map_or_else(|| on.of_this_process(), |process| now(clock_of_process(process)?))
    }

    /// What the sink has seen when all frames have arrived, or none has for a while.
    fn wait_for(&self, before: Seen, frames: u64) -> Result<Seen, Error> {
        let (mut seen, mut since) = (self.ends.seen()?, Instant::now());
        while seen.right - before.right < frames && since.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
            let now = self.ends.seen()?;
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        Ok(seen)
    }
}

/// How many frames the generator makes a second by itself, where nobody takes them.
pub(crate) fn generator_mpps(on: &Processor) -> Result<f64, Error> {
    const FRAMES: u32 = 500_000;
    let path = Path::new()?;
    let mut generator = Ends::alone(&Contestant::Floor.traffic(Work::Unicast, 1), &path.source)?;
    generator.send(WARM_UP, 64, 1, on)?;
    let sent = generator.send(FRAMES, 64, 1, on)?;
    Ok(sent.frames as f64 / sent.busy.as_micros().max(1) as f64)
}
