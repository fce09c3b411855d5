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
    /// Milliseconds since 1970 (`CLOCK_REALTIME`), to see when it is set. No lease depends on it: people and NTP set it.
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

    /// By how much the wall clock was set between `self` and `later`, in milliseconds. In another boot nobody knows how
    /// long the machine was off: then only what is certain, that the clock went back.
    pub fn wall_step(&self, later: &Self) -> i64 {
        let by_wall = i128::from(later.wall_ms) - i128::from(self.wall_ms);
        let step = if self.is_boot_of(later) {
            by_wall - i128::from(later.boot_ms - self.boot_ms)
        } else {
            // The boot began after `self`.
            (by_wall - i128::from(later.boot_ms)).min(0)
        };
        i64::try_from(step).unwrap_or(if step < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether `later` is on the same boot-time clock. One that went back is another, whatever it is called: that of a
    /// virtual machine that was set back, or of another time namespace.
    pub(crate) fn is_boot_of(&self, later: &Self) -> bool {
        self.boot_id == later.boot_id && self.boot_ms <= later.boot_ms
    }

    /// What `deadline`, written at `self`, is on the clock of `now`: unchanged in the same boot.
    ///
    /// In another boot, what was left of it at `self` begins anew when the boot began, for so much time has passed for
    /// certain. The wall clock may know of more, but may as well be wrong by years: a lease that lasts longer harms
    /// nobody, one that ends early can get a second owner. `u64::MAX` is never, on all clocks.
    pub(crate) fn translate(&self, deadline: u64, now: &Self) -> u64 {
        if self.is_boot_of(now) || deadline == u64::MAX {
            return deadline;
        }
        let remaining = deadline.saturating_sub(self.boot_ms);
        let began = if self.boot_id == now.boot_id { now.boot_ms } else { 0 };
        began.saturating_add(remaining).max(now.boot_ms)
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

    const YEARS: u64 = 10 * 365 * 86_400_000;

    fn moment(boot: &str, boot_ms: u64, wall_ms: u64) -> Moment {
        Moment { boot_id: boot.into(), boot_ms, wall_ms }
    }

    #[test]
    fn the_wall_clock_is_read_to_the_millisecond() {
        let wall_ms = || {
            let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
            u64::try_from(since.as_millis()).expect("before the end of time")
        };
        for _ in 0..20 {
            let (before, now, after) = (wall_ms(), Moment::now().expect("clocks"), wall_ms());
            assert!((before..=after).contains(&now.wall_ms), "{now:?} is not within {before} and {after}");
        }
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
    fn what_was_left_begins_anew_with_the_boot() {
        let saved = moment("a", 1_000, 50_000);
        // 8,000 ms were left; 100 ms at least have gone by, and then 8,001.
        assert_eq!(saved.translate(9_000, &moment("b", 100, 53_000)), 8_000);
        assert_eq!(saved.translate(9_000, &moment("b", 8_001, 53_000)), 8_001);
        assert_eq!(saved.translate(500, &moment("b", 100, 50_000)), 100);
    }

    #[test]
    fn a_wall_clock_that_is_years_off_changes_no_deadline() {
        let saved = moment("a", 1_000, YEARS);
        for wall_ms in [0, YEARS, 2 * YEARS, u64::MAX] {
            assert_eq!(saved.translate(9_000, &moment("b", 100, wall_ms)), 8_000);
        }
    }

    #[test]
    fn a_boot_time_clock_that_went_back_is_another() {
        let saved = moment("a", 1_000, 50_000);
        assert_eq!(saved.translate(9_000, &moment("a", 400, 60_000)), 8_400);
    }

    #[test]
    fn a_wall_clock_that_is_set_is_seen() {
        let saved = moment("a", 1_000, YEARS);
        assert_eq!(saved.wall_step(&moment("a", 6_000, YEARS + 5_000)), 0);
        assert_eq!(saved.wall_step(&moment("a", 6_000, 2 * YEARS + 5_000)), YEARS as i64);
        assert_eq!(saved.wall_step(&moment("a", 6_000, 5_000)), -(YEARS as i64));
        assert_eq!(saved.wall_step(&moment("b", 6_000, 2 * YEARS)), 0, "it may have been off for so long");
        assert_eq!(saved.wall_step(&moment("b", 6_000, 6_000)), -(YEARS as i64));
        assert_eq!(moment("a", 0, u64::MAX).wall_step(&moment("a", 0, 0)), i64::MIN);
    }

    #[test]
    fn never_is_never_in_all_boots() {
        assert_eq!(moment("a", 1_000, 50_000).translate(u64::MAX, &moment("b", 1, 1)), u64::MAX);
    }
}
