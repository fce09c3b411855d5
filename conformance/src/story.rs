//! Several frames, one after the other, with what the control path does in between.

use crate::{Input, Record, Switch, now};
use flowlane_pipeline::{Verdict, send, withdraw};
use flowlane_program::Tables;
use flowlane_tables::{NextHop, Resolution, Slot, Tuple};
use flowlane_vectors::{Buffer, Flow, Outcome, Setup, Vector, block};
use flowlane_wire::{PortId, SlotIndex};
use std::net::IpAddr;

/// What happens at one switch.
#[derive(Clone, Debug)]
pub struct Story {
    /// Its name, unique among all cases.
    pub name: &'static str,
    /// What happens, as a sentence.
    pub sentence: &'static str,
    /// The claims that it shows.
    pub claims: &'static [u8],
    /// The tables at the beginning.
    pub setup: Setup,
    /// What happens, in order.
    pub acts: Vec<Act>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// A frame comes in. Its set-up is what the tables are just before; its counters are those of this frame alone.
    Frame(Box<Vector>),
    /// The control path finds the next hop of a flow by the IP destination of the frame that waits for it, stores it, and
    /// sends the frame, which leaves as `sent`.
    Found {
        /// The flow's slot.
        slot: SlotIndex,
        /// The IP destination.
        destination: IpAddr,
        /// The next hop.
        hop: NextHop,
        /// The frame that waited, as it is sent.
        sent: Vec<u8>,
    },
    /// The control path gives a flow to the flagged packet that asks for one.
    Given {
        /// Whose packet it is.
        tuple: Tuple,
        /// Its flow.
        flow: Flow,
    },
    /// What went before has gone wrong.
    Failed(String),
}

/// Plays a story on a switch, and compares.
///
/// # Errors
/// What was different, as a sentence.
pub fn play(switch: &mut dyn Switch, story: &Story) -> Result<(), String> {
    switch.set_up(&story.setup, now())?;
    let mut waiting = None;
    for (place, act) in story.acts.iter().enumerate() {
        let done = match act {
            Act::Frame(vector) => frame(switch, vector).map(|waits| waiting = waits.or(waiting.take())),
            Act::Found { slot, hop, sent, .. } => found(switch.tables(), *slot, *hop, sent, waiting.take()),
            Act::Given { tuple, flow } => given(switch.tables(), *tuple, flow),
            Act::Failed(why) => Err(why.clone()),
        };
        done.map_err(|wrong| format!("act {}: {wrong}", place + 1))?;
    }
    Ok(())
}

/// A frame that waits, and the port that it came in by.
type Waiting = (Vec<u8>, PortId);

/// Lets a frame come in, and compares what becomes of it. The frame, if it waits.
fn frame(switch: &mut dyn Switch, vector: &Vector) -> Result<Option<Waiting>, String> {
    let before: Vec<_> = switch.tables().slots().iter().map(counters).collect();
    let observed = switch.offer(&Input::of(vector))?;
    let waiting = observed.records.iter().find_map(|record| match record {
        Record::Waiting { frame, ingress, .. } => Some((frame.clone(), *ingress)),
        _ => None,
    });
    let mut outcome: Outcome = observed.outcome(vector, switch.tables())?;
    for (flow, (packets, bytes)) in outcome.slots.iter_mut().zip(before) {
        if let Some(flow) = flow {
            (flow.packets, flow.bytes) = (flow.packets - packets, flow.bytes - bytes);
        }
    }
    vector.check(&outcome).map(|()| waiting)
}

fn counters(slot: &Slot) -> (u64, u64) {
    (slot.packets().load(), slot.bytes().load())
}

/// What the slow path does: the next hop is stored only while exactly those frames wait that are sent.
fn found(
    tables: &Tables,
    slot: SlotIndex,
    hop: NextHop,
    expected: &[u8],
    waiting: Option<Waiting>,
) -> Result<(), String> {
    let (frame, ingress) = waiting.ok_or("no frame waits")?;
    let slot = tables.slots().get(slot.0 as usize).ok_or("there is no such slot")?;
    let mut frame = Buffer::plain(frame);
    let verdict = send(&mut frame, ingress, slot, hop, tables, &mut ()).unwrap_or_else(|verdict| verdict);
    if !matches!(verdict, Verdict::Forward { port, .. } if port == hop.port) || frame.octets != expected {
        return Err(format!("{verdict:?}: the frame that waited is sent as {:02x?}", frame.octets));
    }
    let (pending, resolved) = (Resolution::Pending(1), Resolution::Resolved(hop));
    if slot.next_word().swap(pending.to_word(), resolved.to_word()) {
        Ok(())
    } else {
        Err(format!("the flow is {:?} and not {pending:?}", slot.next()))
    }
}

fn given(tables: &Tables, tuple: Tuple, flow: &Flow) -> Result<(), String> {
    let slot = tables.slots().get(block().slot(flow.address).0 as usize).ok_or("there is no such slot")?;
    flow.install(slot, now());
    tables.tuples().set(tuple, flow.address.mac().to_u64()).map_err(|error| error.to_string())?;
    tables.ports().get(usize::from(tuple.port().0)).into_iter().for_each(withdraw);
    Ok(())
}
