//! What a fault has done.

use crate::{Error, ledger::Ledger};
use flowlane_bench::Counted;
use serde::Serialize;
use std::time::Duration;

/// What a fault has done to a switch on one executor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The fault.
    pub name: &'static str,
    /// Who handled the frames; `-` where there were none.
    pub executor: &'static str,
    /// Whether all is as it has to be.
    pub ok: bool,
    /// How often the fault was injected.
    pub times: u32,
    /// Frames that were sent to the switch.
    pub frames_sent: u64,
    /// Frames that did not come out with the right addresses.
    pub frames_lost: u64,
    /// Frames that came out more than once.
    pub frames_duplicated: u64,
    /// The load, in frames a second.
    pub frames_per_second: u64,
    /// Leases that were acknowledged, and that a switch did not know later.
    pub leases_lost: u64,
    /// Addresses that were given to two clients.
    pub double_owners: u64,
    /// Leases that were acknowledged meanwhile.
    pub leases: u64,
    /// The longest time until all was well again, in milliseconds, where there is one to measure.
    pub recovery_ms: Option<u64>,
    /// What is not as it has to be; or what is to be known of a row that is.
    pub note: Option<String>,
}

impl Row {
    /// Of a fault that has done nothing yet.
    pub(crate) fn new(name: &'static str, executor: &'static str) -> Self {
        Self {
            name,
            executor,
            ok: true,
            times: 0,
            frames_sent: 0,
            frames_lost: 0,
            frames_duplicated: 0,
            frames_per_second: 0,
            leases_lost: 0,
            double_owners: 0,
            leases: 0,
            recovery_ms: None,
            note: None,
        }
    }

    /// Of a fault that could not be injected, or not be counted.
    pub(crate) fn failed(name: &'static str, executor: &'static str, error: &Error) -> Self {
        let mut row = Self::new(name, executor);
        row.wrong(error.to_string());
        row
    }

    /// Takes note of what has become of frames, none of which may be lost.
    pub(crate) fn count(&mut self, counted: Counted) {
        self.count_only(counted);
        self.ok &= (counted.lost(), counted.duplicated()) == (0, 0);
    }

    /// Takes note of what has become of frames, some of which have to be lost.
    pub(crate) fn count_only(&mut self, counted: Counted) {
        let before = self.frames_sent as f64 / self.frames_per_second.max(1) as f64;
        self.frames_sent += counted.sent;
        self.frames_lost += counted.lost();
        self.frames_duplicated += counted.duplicated();
        self.frames_per_second = (self.frames_sent as f64 / (before + counted.took.as_secs_f64())) as u64;
    }

    /// Takes note of what has become of leases.
    pub(crate) fn leases(&mut self, ledger: &Ledger) {
        (self.leases, self.leases_lost, self.double_owners) = (ledger.acknowledged(), ledger.lost, ledger.doubled);
        self.ok &= (self.leases_lost, self.double_owners) == (0, 0);
    }

    /// Takes note of a time until all was well again.
    pub(crate) fn recovered(&mut self, took: Duration) {
        self.recovery_ms = self.recovery_ms.max(u64::try_from(took.as_millis()).ok());
    }

    /// Says what is not as it has to be; the first such thing is kept.
    pub(crate) fn wrong(&mut self, what: impl Into<String>) {
        if self.ok || self.note.is_none() {
            self.note = Some(what.into());
        }
        self.ok = false;
    }
}
