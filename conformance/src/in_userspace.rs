//! The pipeline in this process, and what an executor does around it.

use crate::observe::{Action, Input, Observed, Record, Switch, growth, now, set_up, snap};
use flowlane_pipeline::{Frame, Verdict, replicate, run_batch, size};
use flowlane_program::{ProgramError, Tables};
use flowlane_vectors::{Buffer, Executor, Outcome, Setup, Vector, block};
use flowlane_wire::PortId;
use std::slice;

/// The pipeline as a function, on tables in this process's memory.
pub struct InUserspace {
    tables: Tables,
}

impl InUserspace {
    /// A switch without ports and flows.
    ///
    /// # Errors
    /// [`ProgramError::Map`] without memory.
    pub fn new() -> Result<Self, ProgramError> {
        Ok(Self { tables: Tables::in_memory(block())? })
    }

    fn observe(&self, mut frame: Buffer, ingress: PortId) -> Result<Observed, String> {
        let counts = || self.tables.counts(ingress).map_err(|error| error.to_string());
        let (original, before, mut copies) = (frame.clone(), counts()?, Vec::new());
        let mut verdict = Verdict::Pass;
        run_batch(slice::from_mut(&mut frame), ingress, &self.tables, |_, decided| verdict = decided);
        let mut end = verdict.end();
        let (action, egress) = match verdict {
            Verdict::Pass | Verdict::Marked | Verdict::ToLinux(_) => (Action::Pass, None),
            Verdict::Forward { port, .. } => (Action::Redirect, Some(port)),
            Verdict::Replicate { slot, group } => {
                let send = |frame: &mut Buffer, port| {
                    copies.push((port, frame.octets.clone()));
                    true
                };
                end = replicate(&mut frame, ingress, slot, group, &self.tables, &mut (), send);
                (Action::Drop, None)
            }
            Verdict::Resolve { .. } | Verdict::Ask | Verdict::Drop(_) => (Action::Drop, None),
        };
        self.tables.count(ingress, end, size(&mut frame).frames);
        let mut records = vec![Record::Seen {
            ingress,
            egress,
            end,
            length: original.octets.len() as u32,
            before: snap(&original.octets),
            after: snap(&frame.octets),
        }];
        let gso_size = frame.gso_size() as u16;
        match verdict {
            Verdict::Resolve { slot } => {
                records.push(Record::Waiting { slot: slot.0, ingress, frame: original.octets, tag: 0, gso_size });
            }
            Verdict::Ask => records.push(Record::Asking { ingress, frame: original.octets, tag: 0, gso_size }),
            _ => {}
        }
        Ok(Observed { action, frame: frame.octets, counted: growth(&before, &counts()?)?, records, copies })
    }
}

impl Switch for InUserspace {
    fn name(&self) -> String {
        "userspace".to_owned()
    }

    fn set_up(&mut self, setup: &Setup, nanos: u64) -> Result<(), String> {
        set_up(&self.tables, setup, |port| u32::from(port.0), nanos)
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn offer(&mut self, input: &Input) -> Result<Observed, String> {
        let frame = Buffer { octets: input.octets.clone(), gso_size: input.gso_size, tag_beside: false };
        self.observe(frame, input.ingress)
    }
}

impl Executor for InUserspace {
    fn refuses(&self, _: &Vector) -> Option<&'static str> {
        None
    }

    fn execute(&mut self, vector: &Vector) -> Result<Outcome, String> {
        self.set_up(&vector.setup, now())?;
        self.observe(Buffer::of(vector), vector.ingress)?.outcome(vector, &self.tables)
    }
}
