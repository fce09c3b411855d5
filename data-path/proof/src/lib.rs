//! The compiled pipeline, with entries by which it is executed on symbols instead of values.
//!
//! `cargo xtask prove` builds this library as any executor of the pipeline is built, and follows its machine code along every
//! path (`prove.py`): no octet of the frame and no word of the tables has a value, but all that it could have. What is shown,
//! and under which assumptions, is in `docs/proof.md`.

mod frame;
mod given;

pub use frame::Given;
pub use given::Switch;

use flowlane_pipeline::Verdict;
use flowlane_tables::GroupIndex;
use flowlane_wire::{PortId, SlotIndex};
use frame::Octets;

/// A verdict as a number: what it is, the end of the frame, and the port or slot.
fn number(verdict: Verdict) -> u64 {
    let (kind, which) = match verdict {
        Verdict::Pass => (0, 0),
        Verdict::Marked => (1, 0),
        Verdict::Replicate { slot, .. } => (2, slot.0),
        Verdict::Forward { port, .. } => (3, u32::from(port.0)),
        Verdict::Resolve { slot } => (4, slot.0),
        Verdict::Ask => (5, 0),
        Verdict::ToLinux(_) => (6, 0),
        Verdict::Drop(_) => (7, 0),
    };
    kind | (verdict.end() as u64) << 8 | u64::from(which) << 32
}

/// [`flowlane_pipeline::run`]: its verdict as a number.
///
/// # Safety
/// There are as many octets as the frame says, used by nobody else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowlane_run(given: &Given, ingress: u16, switch: &Switch) -> u64 {
    // SAFETY: as the caller promises.
    let mut frame = unsafe { Octets::of(given) };
    number(flowlane_pipeline::run(&mut frame, PortId(ingress), switch, &mut ()))
}

/// [`flowlane_pipeline::forward`]: the port, or `u64::MAX` where the frame is not plain.
///
/// # Safety
/// There are as many octets as the frame says, used by nobody else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowlane_forward(given: &Given, ingress: u16, switch: &Switch) -> u64 {
    // SAFETY: as the caller promises.
    let mut frame = unsafe { Octets::of(given) };
    flowlane_pipeline::forward(&mut frame, PortId(ingress), switch).map_or(u64::MAX, |port| u64::from(port.0))
}

/// Tries a frame the short way, and if it is plain, a copy of it with a copy of the tables the long way: the verdict of the
/// latter as a number, `u64::MAX` where the frame is not plain.
///
/// # Safety
/// There are as many octets as the frames say, used by nobody else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowlane_both(
    given: &Given,
    ingress: u16,
    switch: &Switch,
    given_again: &Given,
    switch_again: &Switch,
) -> u64 {
    // SAFETY: as the caller promises.
    let (mut frame, mut again) = unsafe { (Octets::of(given), Octets::of(given_again)) };
    match flowlane_pipeline::forward(&mut frame, PortId(ingress), switch) {
        Some(_) => number(flowlane_pipeline::run(&mut again, PortId(ingress), switch_again, &mut ())),
        None => u64::MAX,
    }
}

/// [`flowlane_pipeline::replicate`]: how the frame ends.
///
/// # Safety
/// There are as many octets as the frame says, used by nobody else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowlane_replicate(
    given: &Given,
    ingress: u16,
    switch: &Switch,
    slot: u32,
    group: u32,
) -> u64 {
    // SAFETY: as the caller promises.
    let mut frame = unsafe { Octets::of(given) };
    let (slot, group) = (SlotIndex(slot), GroupIndex(group));
    let send = |_: &mut Octets<'_>, port: PortId| flowlane_sent(port.0, switch);
    flowlane_pipeline::replicate(&mut frame, PortId(ingress), slot, group, switch, &mut (), send) as u64
}

/// Here the proof looks at each copy of a frame. Whether the port takes it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flowlane_sent(port: u16, switch: &Switch) -> bool {
    switch.takes(PortId(port))
}
