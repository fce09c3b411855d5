//! What happens to a frame.
//!
//! One crate for every executor: compiled to eBPF it runs in the kernel, as XDP and as tc; in userspace it runs over
//! AF_XDP sockets, AF_PACKET rings and capture files. It touches a frame only through [`Frame`] and the tables only through [`Tables`];
//! it has no state, allocates nothing and contains no unsafe code.
//!
//! The order of work is the list in [`run`]; each step is a file. Executors try [`forward`] first, which is all that nearly every
//! frame needs.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod batch;
mod check;
mod egress;
mod environment;
mod flag;
mod lookup;
mod meter;
mod parse;
mod plain;
mod replicate;
mod resolve;
mod rewrite;
pub mod stages;
mod trace;
mod verdict;

pub use batch::run_batch;
pub use environment::{Frame, Tables};
pub use flag::{add_flag, is_flagged, tuple, withdraw};
pub use lookup::{Place, is_ours};
pub use parse::{Network, Size, network, size};
pub use plain::forward;
pub use replicate::{Copies, replicate};
pub use resolve::give_back;
pub use trace::{Observer, Step};
pub use verdict::Verdict;

use crate::lookup::Ours;
use flowlane_tables::{NextHop, Slot};
use flowlane_wire::PortId;

/// Decides what happens to a frame that came in by port `ingress`, and rewrites it accordingly.
///
/// Counts the flow's frames and octets. The executor carries the verdict out and counts it for the port.
#[inline(always)]
pub fn run<F: Frame, T: Tables, O: Observer>(frame: &mut F, ingress: PortId, tables: &T, observer: &mut O) -> Verdict {
    decide(frame, ingress, tables, observer).unwrap_or_else(|verdict| verdict)
}

/// The order of work. `Err` is a verdict too: the one that ends the work early.
#[inline(always)]
fn decide<F: Frame, T: Tables, O: Observer>(
    frame: &mut F,
    ingress: PortId,
    tables: &T,
    observer: &mut O,
) -> Result<Verdict, Verdict> {
    let addresses = parse::addresses(frame, observer)?;
    let ours = match lookup::ours(addresses, tables.block()) {
        Some(ours) => ours,
        None => flag::ours(frame, addresses, ingress, tables, observer)?,
    };
    follow(frame, ours, ingress, tables, observer)
}

/// Sends a frame of a flow the way that its slot says.
#[inline(always)]
fn follow<F: Frame, T: Tables, O: Observer>(
    frame: &mut F,
    ours: Ours,
    ingress: PortId,
    tables: &T,
    observer: &mut O,
) -> Result<Verdict, Verdict> {
    let (slot, key) = lookup::slot(ours.address, ours.place, tables, observer)?;
    check::port(key, ingress, observer)?;
    check::lease(slot, tables, observer)?;
    if let Some(source) = ours.source_too {
        let (slot, key) = lookup::slot(source, Place::Source, tables, observer)?;
        check::port(key, ingress, observer)?;
        check::lease(slot, tables, observer)?;
    }
    let next = resolve::next_hop(slot, tables.block().slot_of(ours.address), observer)?;
    send(frame, ingress, slot, next, tables, observer)
}

/// Sends a frame of a checked flow to `next`: the last steps of [`run`], and what the slow path does with a frame that
/// has waited for its next hop.
#[inline(always)]
pub fn send<F: Frame, T: Tables, O: Observer>(
    frame: &mut F,
    ingress: PortId,
    slot: &Slot,
    next: NextHop,
    tables: &T,
    observer: &mut O,
) -> Result<Verdict, Verdict> {
    let size = parse::size(frame);
    let egress = egress::choose(slot, next, ingress, tables, observer)?;
    egress::fits(frame, &size, ingress, &egress, tables)?;
    meter::conforms(slot, &size, tables, observer)?;
    if egress.hop.routed {
        rewrite::hop_limit(frame, ingress, tables, observer)?;
    }
    rewrite::dscp(frame, slot.restore(), observer);
    rewrite::addresses(frame, slot, egress.hop, egress.port, observer)?;
    slot.packets().add(size.frames);
    slot.bytes().add(size.octets);
    Ok(Verdict::Forward { port: egress.hop.port, end: egress.end })
}
