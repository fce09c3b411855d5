//! What became of each fault, kept from one round to the next.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// Where the results are kept, in the folder of a package.
const FILE: &str = "results.json";
/// Where cargo-mutants puts its own.
const THEIRS: &str = "mutants.out";

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing yet.
    Untried,
    /// A test failed.
    Caught,
    /// A test did not end in time: whoever runs it notices that.
    Timeout,
    /// All tests passed.
    Missed,
    /// The compiler refused it.
    Unviable,
}

/// What became of all faults of a package.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// How many were left out.
    excluded: usize,
    /// The others, by name.
    faults: BTreeMap<String, Outcome>,
}

/// How many ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// A test failed.
    pub caught: usize,
    /// A test did not end in time.
    pub timeout: usize,
    /// All tests passed.
    pub missed: usize,
    /// Not tried yet.
    pub untried: usize,
    /// The compiler refused it: no fault.
    pub unviable: usize,
    /// Left out, with a reason.
    pub excluded: usize,
}

impl Results {
    /// Those of an earlier run; none where there are none.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        fs::read(folder.join(FILE))
            .map_or_else(|_| Ok(Self::default()), |text| serde_json::from_slice(&text).map_err(Error::json(FILE)))
    }

    /// Keeps them.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(Error::json(FILE))?;
        fs::write(folder.join(FILE), text + "\n").map_err(Error::file("written", folder.join(FILE)))
    }

    /// Goes on with these faults: what is known of others is forgotten.
    pub fn begin(&mut self, all: &[String], excluded: usize) {
        let known = |name: &String| self.faults.get(name).copied().unwrap_or(Outcome::Untried);
        self.faults = all.iter().map(|name| (name.clone(), known(name))).collect();
        self.excluded = excluded;
    }

    /// How many are still to be tried, or to be tried with other tests.
    pub fn left(&self) -> usize {
        self.faults.values().filter(|outcome| outcome.is_left()).count()
    }

    /// Writes the others where cargo-mutants looks for what need not be tried again.
    pub fn tell_what_is_known(&self, folder: &Path) -> Result<(), Error> {
        let theirs = folder.join(THEIRS);
        for before in [theirs.clone(), folder.join("mutants.out.old")].iter().filter(|folder| folder.exists()) {
            fs::remove_dir_all(before).map_err(Error::file("removed", before))?;
        }
        fs::create_dir_all(&theirs).map_err(Error::file("made", &theirs))?;
        let known = self.faults.iter().filter(|(_, outcome)| !outcome.is_left());
        let text: String = known.map(|(name, _)| format!("{name}\n")).collect();
        fs::write(theirs.join("caught.txt"), text).map_err(Error::file("written", theirs))
    }

    /// Adds what the last round of cargo-mutants has found out, to its end or to where it was stopped; nothing without one.
    pub fn add(&mut self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(THEIRS).join("outcomes.json");
        match fs::read_to_string(&path) {
            Ok(text) => self.add_outcomes(&text),
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    fn add_outcomes(&mut self, text: &str) -> Result<(), Error> {
        let round: Round = serde_json::from_str(text).map_err(Error::json("what cargo-mutants says"))?;
        for Tried { scenario, summary } in round.outcomes {
            let Scenario::Mutant { name } = scenario else { continue };
            if let Some(outcome) = self.faults.get_mut(&name) {
                *outcome = match summary.as_str() {
                    "CaughtMutant" => Outcome::Caught,
                    "Timeout" => Outcome::Timeout,
                    "Unviable" => Outcome::Unviable,
                    _ => Outcome::Missed,
                };
            }
        }
        Ok(())
    }

    /// The names of those that no test has noticed.
    pub fn missed(&self) -> impl Iterator<Item = &str> {
        self.faults.iter().filter(|(_, outcome)| **outcome == Outcome::Missed).map(|(name, _)| name.as_str())
    }

    /// How many ended how.
    pub fn counts(&self) -> Counts {
        let count = |outcome| self.faults.values().filter(|one| **one == outcome).count();
        Counts {
            caught: count(Outcome::Caught),
            timeout: count(Outcome::Timeout),
            missed: count(Outcome::Missed),
            untried: count(Outcome::Untried),
            unviable: count(Outcome::Unviable),
            excluded: self.excluded,
        }
    }
}

impl Outcome {
    fn is_left(self) -> bool {
        matches!(self, Self::Untried | Self::Missed)
    }
}

impl Counts {
    /// All that compile, as far as is known.
    pub fn faults(&self) -> usize {
        self.tried() + self.untried
    }

    /// Those that tests were run on.
    pub fn tried(&self) -> usize {
        self.noticed() + self.missed
    }

    /// Those that tests notice.
    pub fn noticed(&self) -> usize {
        self.caught + self.timeout
    }

    /// How many of a hundred that were tried are noticed.
    pub fn percent(&self) -> f64 {
        100.0 * self.noticed() as f64 / self.tried().max(1) as f64
    }

    /// Whether at least so many of a hundred are noticed: one that was not tried is not.
    pub fn suffice(&self, least: u32) -> bool {
        self.noticed() * 100 >= self.faults() * least as usize
    }
}

/// `outcomes.json`.
#[derive(Deserialize)]
struct Round {
    outcomes: Vec<Tried>,
}

#[derive(Deserialize)]
struct Tried {
    scenario: Scenario,
    summary: String,
}

#[derive(Deserialize)]
enum Scenario {
    Baseline,
    Mutant { name: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: &str = r#"{ "outcomes": [
        { "scenario": "Baseline", "summary": "Success" },
        { "scenario": { "Mutant": { "name": "a", "file": "x" } }, "summary": "CaughtMutant" },
        { "scenario": { "Mutant": { "name": "b", "file": "x" } }, "summary": "MissedMutant" },
        { "scenario": { "Mutant": { "name": "c", "file": "x" } }, "summary": "Timeout" },
        { "scenario": { "Mutant": { "name": "d", "file": "x" } }, "summary": "Unviable" },
        { "scenario": { "Mutant": { "name": "of another package", "file": "x" } }, "summary": "MissedMutant" }
    ], "total_mutants": 5 }"#;

    fn results() -> Results {
        let mut results = Results::default();
        results.begin(&["a", "b", "c", "d", "e"].map(String::from), 7);
        results.add_outcomes(ROUND).expect("a round");
        results
    }

    #[test]
    fn what_was_not_tried_is_not_noticed() {
        let counts = Counts { caught: 1, timeout: 1, missed: 1, untried: 1, unviable: 1, excluded: 7 };
        assert_eq!(results().counts(), counts);
        assert_eq!((counts.faults(), counts.tried(), results().left()), (4, 3, 2));
        assert!(counts.percent() > 66.0 && counts.suffice(50) && !counts.suffice(51));
        assert_eq!(results().missed().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_later_round_tries_what_is_left_and_forgets_what_is_gone() {
        let mut results = results();
        let again = r#"{ "outcomes": [{ "scenario": { "Mutant": { "name": "b" } }, "summary": "CaughtMutant" }] }"#;
        results.add_outcomes(again).expect("a round");
        assert_eq!(results.left(), 1);
        results.begin(&["b", "d", "f"].map(String::from), 0);
        let counts = Counts { caught: 1, unviable: 1, untried: 1, ..Counts::default() };
        assert_eq!(results.counts(), counts);
    }

    #[test]
    fn only_what_is_known_is_told_and_all_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        results().tell_what_is_known(folder.path()).expect("written");
        let told = fs::read_to_string(folder.path().join("mutants.out/caught.txt")).expect("told");
        assert_eq!(told, "a\nc\nd\n");
        results().write(folder.path()).expect("kept");
        assert_eq!(Results::read(folder.path()).expect("kept"), results());
    }

    #[test]
    fn what_a_stopped_round_has_found_is_added() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut stopped = Results::default();
        stopped.begin(&["a", "b", "c", "d", "e"].map(String::from), 7);
        stopped.add(folder.path()).expect("no round yet");
        assert_eq!(stopped.counts().untried, 5);
        fs::create_dir(folder.path().join(THEIRS)).expect("a folder");
        fs::write(folder.path().join(THEIRS).join("outcomes.json"), ROUND).expect("a round");
        stopped.add(folder.path()).expect("a round");
        assert_eq!(stopped, results());
    }
}
