//! The kernel's jiffies as a clock for the programs: they read them with one load.

use crate::object::uninterrupted;
use aya::{
    Ebpf, Pod, TestRun as _,
    programs::{ProgramError, SchedClassifier, TestRunOptions},
};
use nix::{
    sys::time::TimeValLike as _,
    time::{ClockId, clock_getres},
};

/// What a jiffy is: its nanoseconds, and how many there were at nanosecond 0 of the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(crate) struct Jiffies([u64; 2]);

// SAFETY: plain numbers without padding.
unsafe impl Pod for Jiffies {}

impl Jiffies {
    /// The program that reads both clocks.
    const PROGRAM: &str = "flowlane_clock";

    /// By a look at both clocks; a jiffy of 0 nanoseconds, by which the programs ask for the time instead, where that can not
    /// be had.
    pub(crate) fn look(object: &mut Ebpf) -> Self {
        let Some(nanos) = nanos_of_a_jiffy() else {
            return Self::default();
        };
        match clocks(object) {
            Ok([jiffies, monotonic]) => Self([nanos, jiffies.wrapping_sub(monotonic / nanos)]),
            Err(error) => {
                tracing::warn!(%error, "the kernel's clocks can not be compared: the time is asked for with each frame, which is slower");
                Self::default()
            }
        }
    }
}

/// Nothing where jiffies are counted by interrupts, of which some may be missed. A kernel with high-resolution timers derives
/// them from the monotonic clock.
fn nanos_of_a_jiffy() -> Option<u64> {
    let resolution = |clock| clock_getres(clock).ok().map(|time| time.num_nanoseconds() as u64);
    let is_high = resolution(ClockId::CLOCK_MONOTONIC)? == 1;
    // A coarse clock moves once in a jiffy.
    resolution(ClockId::CLOCK_MONOTONIC_COARSE).filter(|nanos| is_high && *nanos > 0)
}

/// Jiffies, and nanoseconds of the monotonic clock, at the same jiffy.
fn clocks(object: &mut Ebpf) -> Result<[u64; 2], ProgramError> {
    // The kernel runs a program on a frame with an Ethernet header at least; the program writes its two words into it.
    let (frame, mut out) = ([0; 64], [0; 64]);
    let program = object.program_mut(Jiffies::PROGRAM).ok_or(ProgramError::NotLoaded)?;
    let program: &mut SchedClassifier = program.try_into()?;
    uninterrupted(|| program.load())?;
    uninterrupted(|| {
        program.test_run(TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })
    })?;
    program.unload()?;
    let word = |at: usize| out[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or_default();
    Ok([word(0), word(8)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OBJECT;
    use std::{error::Error, thread, time::Duration};

    /// Otherwise leases would end early, or late.
    #[test]
    fn jiffies_keep_pace_with_the_monotonic_clock() -> Result<(), Box<dyn Error>> {
        let mut object = Ebpf::load(OBJECT)?;
        let Jiffies([nanos, first]) = Jiffies::look(&mut object);
        assert!((1_000_000..=10_000_000).contains(&nanos), "a jiffy of {nanos} ns");
        for _ in 0..4 {
            let [jiffies, monotonic] = clocks(&mut object)?;
            let apart = jiffies.wrapping_sub(first).wrapping_mul(nanos).abs_diff(monotonic);
            assert!(apart <= 2 * nanos, "{apart} ns apart");
            thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }
}
