//! What has happened: a hash of all of it, and the last of it as text.

use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fmt;

/// Lines that are kept as text.
const TAIL: usize = 40;

/// The trace of a run. The hash covers every line; two runs with the same hash did the same.
#[derive(Default)]
pub struct Trace {
    hash: Sha256,
    tail: VecDeque<String>,
    is_printed: bool,
}

impl Trace {
    /// No lines yet. They are printed on standard error as they come, if that is wanted.
    pub fn new(is_printed: bool) -> Self {
        Self { is_printed, ..Self::default() }
    }

    /// Adds a line: what happened at this time, in milliseconds since the run began.
    pub fn note(&mut self, now: u64, what: fmt::Arguments<'_>) {
        let line = format!("{}.{:03} {what}", now / 1000, now % 1000);
        self.hash.update(&line);
        self.hash.update("\n");
        if self.is_printed {
            eprintln!("{line}");
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// The hash of all lines, and the last ones.
    pub fn finish(self) -> (String, Vec<String>) {
        let digest = self.hash.finalize();
        let hash = digest.iter().take(16).map(|octet| format!("{octet:02x}")).collect();
        (hash, self.tail.into())
    }
}
