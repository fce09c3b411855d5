//! One instant, on both clocks.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::io;

/// An instant, by the clock that leases run on and by the one that outlives a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot `boot_ms` belongs to: the text of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Milliseconds since boot, suspended time included (`CLOCK_BOOTTIME`).
    pub boot_ms: u64,
    /// Milliseconds since 1970 (`CLOCK_REALTIME`). Used only across boots: people and NTP set it.
    pub wall_ms: u64,
}

impl Moment {
    /// The present instant.
    ///
    /// # Errors
    /// Where a clock or `/proc` can not be read.
    pub fn now() -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot_id, boot_ms: read(ClockId::CLOCK_BOOTTIME)?, wall_ms: read(ClockId::CLOCK_REALTIME)? })
    }

    /// What `deadline`, written at `self`, is on the clock of `now`: unchanged in the same boot.
    ///
    /// In another boot, the wall clock says how much time went by since `self`. It is trusted no further than
    /// necessary: where it went back, no time went by, so that nothing ever lasts longer than it still had to last at
    /// `self`. `u64::MAX` is never, on all clocks.
    pub(crate) fn translate(&self, deadline: u64, now: &Self) -> u64 {
        if self.boot_id == now.boot_id || deadline == u64::MAX {
            return deadline;
        }
        let elapsed = now.wall_ms.saturating_sub(self.wall_ms);
        let remaining = deadline.saturating_sub(self.boot_ms).saturating_sub(elapsed);
        now.boot_ms.saturating_add(remaining)
    }
}

fn read(clock: ClockId) -> io::Result<u64> {
    let time = clock_gettime(clock)?;
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_nsec()));
    // Before 1970 or before boot: a clock that was never set.
    Ok(seconds.unwrap_or(0).saturating_mul(1000) + nanoseconds.unwrap_or(0) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: &str, boot_ms: u64, wall_ms: u64) -> Moment {
        Moment { boot_id: boot.into(), boot_ms, wall_ms }
    }

    #[test]
    fn time_goes_on_between_two_readings() {
        let first = Moment::now().expect("clocks");
        std::thread::sleep(std::time::Duration::from_millis(5));
        let second = Moment::now().expect("clocks");
        assert_eq!(first.boot_id.len(), 36);
        assert_eq!(first.boot_id, second.boot_id);
        assert!(second.boot_ms >= first.boot_ms + 5);
        assert!(first.wall_ms > 1_700_000_000_000);
    }

    #[test]
    fn a_deadline_stays_in_the_same_boot_whatever_the_wall_clock_does() {
        let saved = moment("a", 1_000, 50_000);
        assert_eq!(saved.translate(9_000, &moment("a", 2_000, 0)), 9_000);
        assert_eq!(saved.translate(9_000, &moment("a", 2_000, u64::MAX)), 9_000);
    }

    #[test]
    fn the_remaining_time_survives_a_boot() {
        let saved = moment("a", 1_000, 50_000);
        // 8,000 ms were left, 3,000 ms went by.
        assert_eq!(saved.translate(9_000, &moment("b", 100, 53_000)), 5_100);
        assert_eq!(saved.translate(9_000, &moment("b", 100, 58_001)), 100);
        assert_eq!(saved.translate(500, &moment("b", 100, 50_000)), 100);
    }

    #[test]
    fn a_wall_clock_that_went_back_makes_nothing_last_longer() {
        let saved = moment("a", 1_000, 50_000);
        assert_eq!(saved.translate(9_000, &moment("b", 100, 0)), 8_100);
    }

    #[test]
    fn never_is_never_in_all_boots() {
        assert_eq!(moment("a", 1_000, 50_000).translate(u64::MAX, &moment("b", 1, 1)), u64::MAX);
    }
}
