//! What the data path must do with a frame, written to be read.
//!
//! This is the specification in a form that runs: plain data, no care for speed, and no code in common with the pipeline.
//! The differential test (`flowlane-conformance differential`) holds every executor of the pipeline against it.
//!
//! [`receive`] is the whole of it, a list of steps. It changes nothing: it says what is sent, and by which
//! [`Change`]s the tables are different afterwards.
//!
//! | step | file |
//! | --- | --- |
//! | what the switch knows | `switch.rs` |
//! | where the packet stands in the frame | `packet.rs` |
//! | how a frame counts on the wire | `size.rs` |
//! | whose frame it is | `ours.rs` |
//! | the virtual-circuit flag (claims 23 to 28) | `flag.rs` |
//! | address, port, lease (claim 19) | `admit.rs` |
//! | first packets (claim 13) | `receive`, below |
//! | next hop, backup, MTU | `egress.rs` |
//! | how fast a flow may send | `meter.rs` |
//! | time to live, DSCP, checksum | `header.rs` |
//! | one next hop (claims 17 and 18) | `forward.rs` |
//! | several (claims 20 to 22) | `replicate.rs` |
//! | the tables' memory, as the model sees it | `memory.rs` |
#![forbid(unsafe_code)]

mod admit;
mod egress;
mod flag;
mod forward;
mod header;
mod memory;
mod meter;
mod ours;
mod outcome;
mod packet;
mod replicate;
mod size;
mod switch;
#[cfg(test)]
mod tests;

pub use meter::Meter;
pub use outcome::{Arrival, Change, Outcome};
pub use switch::{Block, Flag, Flow, Hop, Mac, Next, Port, PortNumber, Receiver, Restore, Switch, Tuple};

use flowlane_tables::{End, PENDING_LIMIT};

/// What becomes of a frame that comes in at `nanos` of the monotonic clock.
pub fn receive(switch: &Switch, arrival: &Arrival, nanos: u64) -> Outcome {
    let mut outcome = Outcome::untouched(arrival);
    outcome.end = course(switch, arrival, nanos, &mut outcome).unwrap_or_else(|end| end);
    outcome.frames = size::Size::of(arrival).frames;
    outcome
}

/// The steps. Each may be the frame's last, and then says how it ends; so `Ok` is the end after all steps, and `Err` one
/// before.
fn course(switch: &Switch, arrival: &Arrival, nanos: u64, outcome: &mut Outcome) -> Result<End, End> {
    let ours = ours::claim(switch, arrival, outcome)?;
    let flow = admit::admit(switch, ours.flow, arrival.ingress, nanos)?;
    if let Some(source) = ours.source {
        admit::admit(switch, source, arrival.ingress, nanos)?;
    }
    match flow.next {
        Next::Waiting(frames) if frames < PENDING_LIMIT => {
            outcome.changes.push(Change::Joined { flow: ours.flow });
            Ok(End::Resolve)
        }
        Next::Waiting(_) => Err(End::QueueFull),
        Next::Unreachable => Err(End::NoRoute),
        Next::Hop(hop) => forward::forward(switch, arrival, nanos, (ours.flow, flow), hop, outcome),
        Next::Group(group) => replicate::replicate(switch, arrival, nanos, (ours.flow, flow), group, outcome),
    }
}
