//! Running the list.

use crate::Vector;
use flowlane_tables::{End, Flow};
use flowlane_wire::PortId;

/// Whoever runs the pipeline.
pub trait Executor {
    /// Why this executor can never meet such a frame; nothing where it can.
    fn refuses(&self, vector: &Vector) -> Option<&'static str>;

    /// Makes the tables those of the vector, lets the frame come in, and says what became of it.
    fn execute(&mut self, vector: &Vector) -> Outcome;
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
    /// Frames of which receivers of groups got no copy: group, place, frames.
    pub missed: Vec<(usize, usize, u64)>,
    /// The flow table afterwards.
    pub slots: Vec<Option<Flow>>,
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
pub fn run(vectors: &[Vector], executor: &mut impl Executor) -> Report {
    let mut report = Report::default();
    for vector in vectors {
        if let Some(reason) = executor.refuses(vector) {
            report.refused.push((vector.name.clone(), reason));
            continue;
        }
        match vector.check(&executor.execute(vector)) {
            Ok(()) => report.passed += 1,
            Err(wrong) => report.failed.push(format!("{}: {}\n  {wrong}", vector.name, vector.sentence)),
        }
    }
    report
}
