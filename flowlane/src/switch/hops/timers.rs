//! When something is to be done about whom.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// One time for each key, in milliseconds of the boot-time clock.
pub struct Timers<K> {
    by_time: BTreeSet<(u64, K)>,
    times: HashMap<K, u64>,
}

impl<K: Copy + Ord + Hash> Timers<K> {
    /// No times.
    pub fn new() -> Self {
        Self { by_time: BTreeSet::new(), times: HashMap::new() }
    }

    /// Sets the time of a key, or takes it away.
    pub fn set(&mut self, key: K, time: Option<u64>) {
        let before = match time {
            Some(time) => self.times.insert(key, time),
            None => self.times.remove(&key),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, key));
        }
        if let Some(time) = time {
            self.by_time.insert((time, key));
        }
    }

    /// Takes out a key whose time has come, the earliest first.
    pub fn take_due(&mut self, now: u64) -> Option<K> {
        let (_, key) = self.by_time.first().copied().filter(|(time, _)| *time <= now)?;
        self.set(key, None);
        Some(key)
    }

    /// The earliest time.
    pub fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_due_once_at_the_time_that_was_set_last() {
        let mut timers = Timers::new();
        timers.set("a", Some(5));
        timers.set("b", Some(3));
        timers.set("a", Some(4));
        timers.set("c", Some(1));
        timers.set("c", None);
        assert_eq!((timers.next(), timers.take_due(2)), (Some(3), None));
        assert_eq!([timers.take_due(9), timers.take_due(9), timers.take_due(9)], [Some("b"), Some("a"), None]);
        assert_eq!(timers.next(), None);
    }
}
