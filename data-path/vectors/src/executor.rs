//! Running the list.

use crate::Vector;
use flowlane_tables::{End, Flow};
use flowlane_wire::PortId;

/// Whoever runs the pipeline.
pub trait Executor {
    /// Why this executor can never meet such a frame; nothing where it can.
    fn refuses(&self, vector: &Vector) -> Option<&'static str>;

    /// Makes the tables those of the vector, lets the frame come in, and says what became of it.
    ///
    /// # Errors
    /// What about the executor made no sense, as a sentence.
    fn execute(&mut self, vector: &Vector) -> Result<Outcome, String>;
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended, by the counter of its ingress port.
    pub end: End,
    /// The port that it left by.
    pub egress: Option<PortId>,
    /// Its octets afterwards; nothing where the executor can not see them.
    pub frame: Option<Vec<u8>>,
    /// The copies that were sent, in their order, with the port of each.
    pub copies: Vec<(PortId, Vec<u8>)>,
    /// What the receivers of groups have counted, those that have.
    pub served: Vec<Served>,
    /// How many flagged frames of the ingress port wait for a flow.
    pub asking: u64,
    /// The flow table afterwards.
    pub slots: Vec<Option<Flow>>,
}

/// What a receiver of a group has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// The group.
    pub group: usize,
    /// The receiver's place in it.
    pub place: usize,
    /// Copies sent.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Frames of which there was no copy.
    pub missed: u64,
}

/// What the list gave.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many frames were as expected.
    pub passed: usize,
    /// Vectors that the executor can never meet, and why.
    pub refused: Vec<(String, &'static str)>,
    /// Vectors that went wrong, and how.
    pub failed: Vec<String>,
}

/// Runs vectors on an executor.
pub fn run(vectors: &[Vector], executor: &mut (impl Executor + ?Sized)) -> Report {
    let mut report = Report::default();
    for vector in vectors {
        if let Some(reason) = executor.refuses(vector) {
            report.refused.push((vector.name.clone(), reason));
            continue;
        }
        match executor.execute(vector).and_then(|outcome| vector.check(&outcome)) {
            Ok(()) => report.passed += 1,
            Err(wrong) => report.failed.push(format!("{}: {}\n  {wrong}", vector.name, vector.sentence)),
        }
    }
    report
}
