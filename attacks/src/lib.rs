//! What a hostile port can do to a switch and to the hosts at its other ports: tried, and measured.
//!
//! Each attack has a network of its own: a built `flowlane switch` between an attacker and two bystanders, in network
//! namespaces, with real frames. While the attack goes on and while it does not, in turns, one bystander sends numbered
//! frames to the other and asks for new flows. An attack has failed, as it should, when what it aims at has not happened, no
//! frame of a bystander was lost, and their requests took at most twice as long as while nobody attacked: in the median of the
//! turns, each of which compares its own medians. What 99 % of the requests took is told, too.

pub mod access;
mod attack;
mod bystander;
mod error;
mod network;
mod switch;

pub use error::Error;

use bystander::{Impact, Rounds};
use serde::Serialize;
use std::{path::Path, time::Duration};

/// How thorough to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// Seconds for each attack.
    Quick,
    /// Up to half a minute for each.
    #[default]
    Usual,
    /// Minutes for each, and as many frames as the threat model names.
    Long,
}

/// An attack.
#[derive(Clone, Copy)]
pub struct Attack {
    /// The threat that it is of, T1 to T14.
    pub threat: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What must not happen.
    pub sentence: &'static str,
    run: fn(&Stage<'_>) -> Result<Outcome, Error>,
}

/// What came of an attack.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The threat.
    pub threat: &'static str,
    /// The attack.
    pub name: &'static str,
    /// Whether it has done no harm.
    pub ok: bool,
    /// Frames that bystanders have sent meanwhile. Some attacks are about the attacker's own frames: then there are none.
    pub bystander_frames_sent: u64,
    /// Those that did not arrive.
    pub bystander_frames_lost: u64,
    /// Milliseconds from a request for a flow until its first frame has come out, for 99 % of the requests while nobody
    /// attacked; none where it was not measured.
    pub latency_ms_idle: Option<f64>,
    /// The same while somebody attacked.
    pub latency_ms_attacked: Option<f64>,
    /// The same for half of the requests, idle.
    pub median_ms_idle: Option<f64>,
    /// The same for half of the requests, attacked.
    pub median_ms_attacked: Option<f64>,
    /// How many times as long half of the requests took while somebody attacked, in the median of all turns.
    pub slowdown: Option<f64>,
    /// How often it was tried before requests took no more than they may, or for the last time.
    pub tries: u32,
    /// What has happened that must not.
    pub failures: Vec<String>,
    /// What was done, and what came of it.
    pub detail: String,
}

impl Row {
    /// Whether it has done no harm, but perhaps that bystanders had to wait: how long does not only depend on the switch.
    pub fn is_harmless(&self) -> bool {
        self.failures.is_empty() && self.bystander_frames_lost == 0
    }
}

impl Attack {
    /// All attacks, in the order of their threats.
    pub const ALL: &'static [Self] = attack::ALL;

    /// The attacks of these names or threats; all where none is named.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn named(names: &[String]) -> Result<Vec<&'static Self>, Error> {
        let is = |attack: &Self, name: &str| attack.name == name || attack.threat.eq_ignore_ascii_case(name);
        if let Some(wanted) = names.iter().find(|name| !Self::ALL.iter().any(|attack| is(attack, name))) {
            let all: Vec<&str> = Self::ALL.iter().map(|attack| attack.name).collect();
            return Err(Error::Unknown { wanted: wanted.clone(), all: all.join(", ") });
        }
        let is_wanted = |attack: &&Self| names.is_empty() || names.iter().any(|name| is(attack, name));
        Ok(Self::ALL.iter().filter(is_wanted).collect())
    }

    /// Tries it on the program `flowlane` in this file. What can not be tried is not ok.
    ///
    /// Where requests took too long and nothing else is wrong, it is tried again, up to three times: other programs on
    /// the machine do that to one run, and an attack to all.
    pub fn run(&self, program: &Path, length: Length) -> Row {
        let (mut outcome, mut tries) = (self.once(program, length), 1);
        while outcome.is_only_slow() && tries < TRIES {
            outcome = self.once(program, length);
            tries += 1;
        }
        self.row(&outcome, tries)
    }

    fn once(&self, program: &Path, length: Length) -> Outcome {
        (self.run)(&Stage { program, length }).unwrap_or_else(|error| {
            let mut outcome = Outcome::default();
            outcome.must(false, || error.to_string());
            outcome
        })
    }

    fn row(&self, outcome: &Outcome, tries: u32) -> Row {
        let Outcome { impact, failures, said, .. } = outcome;
        let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
        Row {
            threat: self.threat,
            name: self.name,
            ok: outcome.is_ok(),
            bystander_frames_sent: impact.sent,
            bystander_frames_lost: impact.lost,
            latency_ms_idle: impact.idle(0.99).map(rounded),
            latency_ms_attacked: impact.attacked(0.99).map(rounded),
            median_ms_idle: impact.idle(0.5).map(rounded),
            median_ms_attacked: impact.attacked(0.5).map(rounded),
            slowdown: impact.slowdown().map(rounded),
            tries,
            failures: failures.clone(),
            detail: said.join("; "),
        }
    }
}

/// How often an attack is tried before requests took too long.
const TRIES: u32 = 3;

/// What an attack is given.
struct Stage<'a> {
    program: &'a Path,
    length: Length,
}

impl Stage<'_> {
    /// One of three numbers.
    fn pick<T>(&self, quick: T, usual: T, long: T) -> T {
        match self.length {
            Length::Quick => quick,
            Length::Usual => usual,
            Length::Long => long,
        }
    }

    fn rounds(&self) -> Rounds {
        let (turns, milliseconds) = self.pick((5, 500), (9, 1_000), (25, 2_500));
        Rounds { turns, half: Duration::from_millis(milliseconds) }
    }
}

/// What came of an attack, so far.
#[derive(Default)]
struct Outcome {
    impact: Impact,
    measured: bool,
    failures: Vec<String>,
    said: Vec<String>,
}

impl Outcome {
    fn of(impact: Impact) -> Self {
        Self { impact, measured: true, ..Self::default() }
    }

    fn is_ok(&self) -> bool {
        self.failures.is_empty() && (!self.measured || self.impact.is_none())
    }

    /// Whether all that is wrong is how long requests took.
    fn is_only_slow(&self) -> bool {
        self.measured && self.failures.is_empty() && self.impact.lost == 0 && !self.impact.is_as_fast()
    }

    /// Adds what bystanders noticed in one more part of the attack.
    fn add(&mut self, impact: Impact) {
        self.impact.add(impact);
        self.measured = true;
    }

    /// Notes a failure unless something is so.
    fn must(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.failures.push(what());
        }
    }

    /// Notes what happened.
    fn say(&mut self, what: impl Into<String>) {
        self.said.push(what.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_found_by_name_and_by_threat() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            Attack::named(&wanted).map(|found| found.iter().map(|attack| attack.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["t1"]).expect("there is one"), ["spoofed-addresses"]);
        assert_eq!(names(&["spoofed-addresses"]).expect("there is one"), ["spoofed-addresses"]);
        assert_eq!(names(&[]).expect("all").len(), Attack::ALL.len());
        assert!(names(&["t99"]).expect_err("there is none").to_string().contains("spoofed-addresses"));
    }

    #[test]
    fn no_two_attacks_have_one_name() {
        let names: std::collections::BTreeSet<&str> = Attack::ALL.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), Attack::ALL.len());
    }
}
