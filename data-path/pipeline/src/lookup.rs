//! Is the frame ours, and which flow is it? One array load and one compare.

use crate::{Frame, Observer, Step, Tables, Verdict, parse::Addresses};
use flowlane_tables::{End, Slot};
use flowlane_wire::{Block, Mac};

/// Which field of the frame a flow address was found in (claims 2 and 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The Ethernet destination.
    Destination,
    /// The Ethernet source.
    Source,
    /// Neither: the packet is flagged, and its addresses and ports have the flow (claim 24).
    Flag,
}

/// The flow addresses of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Ours {
    /// The address that decides where the frame goes.
    pub address: u64,
    /// Where it stands.
    pub place: Place,
    /// A flow address in the source field of a frame whose destination decides: it must be live as well.
    pub source_too: Option<u64>,
}

/// Finds the flow address: in the destination, else in the source.
#[inline(always)]
pub(crate) fn ours(addresses: Addresses, block: Block) -> Option<Ours> {
    let Addresses { destination, source } = addresses;
    if block.contains(destination) {
        let source_too = if block.contains(source) { Some(source) } else { None };
        return Some(Ours { address: destination, place: Place::Destination, source_too });
    }
    if block.contains(source) {
        return Some(Ours { address: source, place: Place::Source, source_too: None });
    }
    None
}

/// Whether a frame carries a flow address of the block, in either field.
#[inline(always)]
pub fn is_ours<F: Frame>(frame: &mut F, block: Block) -> bool {
    frame.addresses().is_some_and(|(destination, source)| block.contains(destination) || block.contains(source))
}

/// The slot of a flow address, if the slot holds that very flow, and the slot's key as it was compared.
#[inline(always)]
pub(crate) fn slot<'a, T: Tables, O: Observer>(
    address: u64,
    place: Place,
    tables: &'a T,
    observer: &mut O,
) -> Result<(&'a Slot, u64), Verdict> {
    let index = tables.block().slot_of(address);
    observer.step(Step::Ours { place, address: Mac::from_u64(address), slot: index });
    let slot = tables.slot(index).ok_or(Verdict::Drop(End::UnknownFlow))?;
    let key = slot.key();
    let holder = key >> 16;
    observer.step(Step::LookedUp { holder: if holder == 0 { None } else { Some(Mac::from_u64(holder)) } });
    if holder == address { Ok((slot, key)) } else { Err(Verdict::Drop(End::UnknownFlow)) }
}
