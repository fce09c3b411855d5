//! The suite: all cases of all claims on all executors.

use crate::{
    CLAIMS, Claim, Error, InKernel, InUserspace, Interfaces, Live, Place, Program, Replay,
    stories::stories,
    story::{Story, play},
};
use flowlane_program::Mode;
use flowlane_vectors::{Executor, Vector, all};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// The executors, by the names that reports use.
pub const EXECUTORS: [&str; 5] = ["xdp", "tc", "af-xdp", "userspace", "replay"];

/// What became of the cases of one claim on one executor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// How many passed.
    pub passed: usize,
    /// How many the executor can never meet.
    pub refused: usize,
    /// What failed, each as `name: how`.
    pub failed: Vec<String>,
}

/// A claim, with its cells by executor.
#[derive(Clone, Debug)]
pub struct Row {
    /// The claim.
    pub claim: Claim,
    /// What became of its cases.
    pub cells: BTreeMap<&'static str, Cell>,
}

/// What the suite gave.
#[derive(Clone, Debug)]
pub struct Results {
    /// By claim, in order.
    pub rows: Vec<Row>,
    /// Cases of no claim that failed: executor, then `name: how`.
    pub others: Vec<(&'static str, String)>,
}

/// How a case ended on an executor.
enum Ending {
    Passed,
    Refused,
    Failed(String),
}

/// Something that cases can be run on.
trait Stage: Executor {
    /// Plays a story; nothing where it can not be played here.
    fn play(&mut self, story: &Story) -> Option<Result<(), String>>;
}

impl Stage for InKernel {
    fn play(&mut self, story: &Story) -> Option<Result<(), String>> {
        Some(play(self, story))
    }
}

impl Stage for InUserspace {
    fn play(&mut self, story: &Story) -> Option<Result<(), String>> {
        Some(play(self, story))
    }
}

impl Stage for Live {
    fn play(&mut self, story: &Story) -> Option<Result<(), String>> {
        Some(play(self, story))
    }
}

impl Stage for Replay {
    fn play(&mut self, story: &Story) -> Option<Result<(), String>> {
        self.refuses_story(story).is_none().then(|| Self::play(self, story))
    }
}

/// Runs everything; `flowlane` is the binary, and `progress` is told what comes next.
///
/// # Errors
/// [`Error`] where an executor can not be made at all.
pub fn run(flowlane: &Path, progress: impl Fn(&str) + Sync) -> Result<Results, Error> {
    Interfaces::with(|interfaces| {
        let mut results = Results::new();
        for executor in EXECUTORS {
            progress(executor);
            let mut stages = stages(executor, interfaces, flowlane)?;
            all()
                .iter()
                .for_each(|vector| results.add(executor, &vector.name, vector.claims, &on(&mut stages, vector)));
            for story in stories() {
                results.add(executor, story.name, story.claims, &played(&mut stages, &story));
            }
        }
        Ok(results)
    })?
}

/// What stands behind the name of an executor. Where the first refuses, the next is tried.
fn stages(executor: &str, interfaces: &Arc<Interfaces>, flowlane: &Path) -> Result<Vec<Box<dyn Stage>>, Error> {
    const QUEUE: u32 = 1 << 20;
    let kernel = |program, mode| -> Result<Vec<Box<dyn Stage>>, Error> {
        Ok(vec![Box::new(InKernel::new(program, interfaces, QUEUE)?), Box::new(Live::new(Place::Kernel(mode))?)])
    };
    match executor {
        "xdp" => kernel(Program::Xdp, Mode::Xdp),
        "tc" => kernel(Program::Tc, Mode::Tc),
        "af-xdp" => Ok(vec![Box::new(Live::new(Place::AfXdp)?)]),
        "userspace" => Ok(vec![Box::new(InUserspace::new()?)]),
        _ => Ok(vec![Box::new(Replay::new(flowlane)?)]),
    }
}

fn on(stages: &mut [Box<dyn Stage>], vector: &Vector) -> Ending {
    let Some(stage) = stages.iter_mut().find(|stage| stage.refuses(vector).is_none()) else { return Ending::Refused };
    ending(stage.execute(vector).and_then(|outcome| vector.check(&outcome)))
}

fn played(stages: &mut [Box<dyn Stage>], story: &Story) -> Ending {
    stages.iter_mut().find_map(|stage| stage.play(story)).map_or(Ending::Refused, ending)
}

fn ending(result: Result<(), String>) -> Ending {
    result.map_or_else(Ending::Failed, |()| Ending::Passed)
}

impl Results {
    fn new() -> Self {
        let cells = || EXECUTORS.into_iter().map(|executor| (executor, Cell::default())).collect();
        let rows = CLAIMS.into_iter().map(|claim| Row { claim, cells: cells() }).collect();
        Self { rows, others: Vec::new() }
    }

    fn add(&mut self, executor: &'static str, name: &str, claims: &[u8], ending: &Ending) {
        if let (Ending::Failed(how), []) = (ending, claims) {
            self.others.push((executor, format!("{name}: {how}")));
        }
        let rows = self.rows.iter_mut().filter(|row| claims.contains(&row.claim.id));
        for cell in rows.filter_map(|row| row.cells.get_mut(executor)) {
            match ending {
                Ending::Passed => cell.passed += 1,
                Ending::Refused => cell.refused += 1,
                Ending::Failed(how) => cell.failed.push(format!("{name}: {how}")),
            }
        }
    }

    /// Whether every claim is shown on every executor, and nothing failed.
    pub fn all_shown(&self) -> bool {
        self.others.is_empty() && self.rows.iter().flat_map(|row| row.cells.values()).all(Cell::is_shown)
    }
}

impl Cell {
    /// Whether a case passed, and none failed.
    pub fn is_shown(&self) -> bool {
        self.passed > 0 && self.failed.is_empty()
    }

    /// `ok`, or what is wrong, as a sentence.
    pub fn sentence(&self) -> String {
        match &self.failed[..] {
            [] if self.passed > 0 => "ok".to_owned(),
            [] => "No case of this claim can be run here.".to_owned(),
            [first, ..] => {
                let first = first.lines().next().unwrap_or_default();
                format!(
                    "{} of {} cases failed, the first is {first}.",
                    self.failed.len(),
                    self.failed.len() + self.passed
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_has_a_case_that_has_its_number_in_its_name() {
        let vectors: Vec<_> = all().into_iter().map(|vector| (vector.name, vector.claims)).collect();
        let stories = stories().into_iter().map(|story| (story.name.to_owned(), story.claims));
        let cases: Vec<_> = vectors.into_iter().chain(stories).collect();
        for claim in CLAIMS {
            let number = format!("claim_{:02}", claim.id);
            let shown = cases.iter().any(|(name, claims)| name.starts_with(&number) && claims.contains(&claim.id));
            assert!(shown, "claim {}", claim.id);
        }
    }

    #[test]
    fn a_claim_without_a_case_that_passed_is_not_shown() {
        let mut results = Results::new();
        assert!(!results.all_shown());
        for executor in EXECUTORS {
            for claim in CLAIMS {
                results.add(executor, "good", &[claim.id], &Ending::Passed);
                results.add(executor, "never", &[claim.id], &Ending::Refused);
            }
        }
        assert!(results.all_shown());
        results.add("tc", "bad", &[7], &Ending::Failed("is late".to_owned()));
        assert!(!results.all_shown());
        assert_eq!(results.rows[6].cells["tc"].sentence(), "1 of 2 cases failed, the first is bad: is late.");
        assert_eq!(results.rows[6].cells["xdp"].sentence(), "ok");
    }

    #[test]
    fn a_failure_of_no_claim_is_a_failure() {
        let mut results = Results::new();
        for executor in EXECUTORS {
            CLAIMS.iter().for_each(|claim| results.add(executor, "good", &[claim.id], &Ending::Passed));
        }
        results.add("xdp", "bad", &[], &Ending::Failed("is late".to_owned()));
        assert!(!results.all_shown());
    }
}
