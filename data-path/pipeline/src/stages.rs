//! The steps of [`crate::run`] one at a time, for a benchmark that counts what each of them takes. Copies for a group are
//! [`crate::replicate`].

use crate::{Frame, Size, Tables, check, egress, flag, lookup, meter, parse, parse::Addresses, resolve, rewrite};
use flowlane_tables::{NextHop, PortEntry, Slot};
use flowlane_wire::PortId;

/// Reads the addresses, destination first, and how much the frame is on the wire.
#[inline(always)]
pub fn parse<F: Frame>(frame: &mut F) -> Option<(u64, u64, Size)> {
    let Addresses { destination, source } = parse::addresses(frame, &mut ()).ok()?;
    Some((destination, source, parse::size(frame)))
}

/// Finds the slot of the flow that one of the addresses is, and its key.
#[inline(always)]
pub fn look_up<T: Tables>(destination: u64, source: u64, tables: &T) -> Option<(&Slot, u64)> {
    let ours = lookup::ours(Addresses { destination, source }, tables.block())?;
    lookup::slot(ours.address, ours.place, tables, &mut ()).ok()
}

/// Finds the flow address of a flagged packet.
#[inline(always)]
pub fn flag<F: Frame, T: Tables>(
    frame: &mut F,
    (destination, source): (u64, u64),
    ingress: PortId,
    tables: &T,
) -> Option<u64> {
    flag::ours(frame, Addresses { destination, source }, ingress, tables, &mut ()).ok().map(|ours| ours.address)
}

/// Whether the frame may be in the flow: the port that is in the slot's key, and the lease.
#[inline(always)]
pub fn check<T: Tables>(slot: &Slot, key: u64, ingress: PortId, tables: &T) -> bool {
    check::port(key, ingress, &mut ()).is_ok() && check::lease(slot, tables, &mut ()).is_ok()
}

/// Where the frame goes, and by which port: one that is up, and has room for it.
#[inline(always)]
pub fn resolve<'a, F: Frame, T: Tables>(
    frame: &mut F,
    size: &Size,
    slot: &Slot,
    ingress: PortId,
    tables: &'a T,
) -> Option<(NextHop, &'a PortEntry)> {
    let next = resolve::next_hop(slot, tables.block().slot_of(slot.key() >> 16), &mut ()).ok()?;
    let egress = egress::choose(slot, next, ingress, tables, &mut ()).ok()?;
    egress::fits(frame, size, ingress, &egress, tables).ok()?;
    Some((egress.hop, egress.port))
}

/// Whether the flow keeps to its rate.
#[inline(always)]
pub fn meter<T: Tables>(slot: &Slot, size: &Size, tables: &T) -> bool {
    meter::conforms(slot, size, tables, &mut ()).is_ok()
}

/// Writes the addresses, and counts the frame for the flow.
#[inline(always)]
pub fn rewrite<F: Frame>(frame: &mut F, size: &Size, slot: &Slot, (hop, port): (NextHop, &PortEntry)) -> bool {
    rewrite::dscp(frame, slot.restore(), &mut ());
    let is_written = rewrite::addresses(frame, slot, hop, port, &mut ()).is_ok();
    slot.packets().add(size.frames);
    slot.bytes().add(size.octets);
    is_written
}
