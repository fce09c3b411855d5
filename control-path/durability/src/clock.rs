//! Time as it is, and as the switch's clocks say.

use fastrand::Rng;
use flowlane_store::Moment;

/// Ten years, in milliseconds.
const DECADE: u64 = 3_652 * 86_400_000;

/// True time, which nobody in the machine knows, and the machine's clocks.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Milliseconds since the history began.
    pub now: u64,
    /// When the present boot began.
    booted: u64,
    boots: u64,
    /// What the wall clock said when the history began, as far as it is right.
    wall_at_start: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { now: 0, booted: 0, boots: 0, wall_at_start: 2 * DECADE }
    }

    /// What a switch sees.
    pub(crate) fn moment(&self) -> Moment {
        Moment { boot_id: self.boots.to_string(), boot_ms: self.boot_ms(), wall_ms: self.wall_at_start + self.now }
    }

    /// The clock that leases run on.
    pub(crate) fn boot_ms(&self) -> u64 {
        self.now - self.booted
    }

    /// True time of a reading of the clock that leases run on.
    pub(crate) fn of_boot_ms(&self, boot_ms: u64) -> u64 {
        self.booted.saturating_add(boot_ms)
    }

    pub(crate) fn advance(&mut self, milliseconds: u64) {
        self.now += milliseconds;
    }

    /// The machine is off for some time, and boots.
    pub(crate) fn reboot(&mut self, off: u64) {
        self.booted = self.now + off;
        self.boots += 1;
        // What comes before the switch.
        self.now = self.booted + 2_000;
    }

    /// Sets the wall clock up to ten years forth or back.
    pub(crate) fn jump(&mut self, random: &mut Rng) {
        self.wall_at_start = random.u64(DECADE..=3 * DECADE);
    }
}
