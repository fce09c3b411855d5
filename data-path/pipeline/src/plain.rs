//! Plain forwarding: what is done with nearly every frame, in as few instructions as it can be.
//!
//! A plain frame is one on the wire, of a flow with a next hop in the same subnet and nothing else to be done but to meter it,
//! and leaves by a port that is up and has room for it. All of that is asked at once; who answers no to any of it is left to
//! [`crate::run`], which would do the same with a plain frame and finds out what is so with others.

use crate::{Frame, Size, Tables, meter};
use flowlane_tables::{Plain, Slot};
use flowlane_wire::{PortId, Restore};

/// Forwards a plain frame that came in by port `ingress`, and counts it for its flow: rewritten, it is to be sent by the port
/// that is returned, as with [`crate::Verdict::Forward`] to the next hop. Nothing is done with others.
#[inline(always)]
pub fn forward<F: Frame, T: Tables>(frame: &mut F, ingress: PortId, tables: &T) -> Option<PortId> {
    let address = address(frame, tables)?;
    // The slot first: it may be far away. That it has this very key says that the address is of the block.
    let slot = tables.slot(tables.block().slot_of_wire(address))?;
    match Way::of(slot, Slot::key_of(address, ingress), ingress, tables)? {
        (way, Meter::None) => way.send(frame, slot, address),
        (way, Meter::Some) => way.send_metered(frame, slot, address, tables),
    }
}

/// The address, as on the wire, that is the flow's if the frame is plain. Whether it is of the block is not looked at; nothing
/// where both are.
#[inline(always)]
pub(crate) fn address<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Option<u64> {
    let (destination, source) = frame.wire_addresses()?;
    let block = tables.block();
    if !block.contains_wire(source) {
        return Some(destination);
    }
    if block.contains_wire(destination) { None } else { Some(source) }
}

/// The way of a flow's plain frames.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// The key of the flow's slot.
    pub(crate) key: u64,
    /// The next hop's address, as on the wire.
    next: u64,
    egress: PortId,
    /// The length of the longest frame that can be sent.
    room: u32,
}

/// Whether frames have to be taken out of a flow's meter.
pub(crate) enum Meter {
    None,
    Some,
}

impl Way {
    /// Of no flow: none has that key.
    pub(crate) const NONE: Self = Self { key: 0, next: 0, egress: PortId::NONE, room: 0 };

    /// The way of the flow with this key, which is in that slot if it is anywhere: its lease has not ended, its packets keep
    /// their DSCP, and its next hop is in the same subnet and behind another port.
    #[inline(always)]
    pub(crate) fn of<T: Tables>(slot: &Slot, key: u64, ingress: PortId, tables: &T) -> Option<(Self, Meter)> {
        let Plain { next, egress, until } = slot.plain(key)?;
        let meter = if tables.is_to_come(until) {
            Meter::None
        } else if slot.restore() == Restore::Keep && tables.is_to_come(i64::from(slot.expires())) {
            Meter::Some
        } else {
            return None;
        };
        let room = tables.port(egress)?.plain_room();
        if egress.0 == ingress.0 { None } else { Some((Self { key, next, egress, room }, meter)) }
    }

    /// Rewrites and counts a frame of the flow, if it is one on the wire, and there is room for it.
    #[inline(always)]
    pub(crate) fn send<F: Frame>(self, frame: &mut F, slot: &Slot, address: u64) -> Option<PortId> {
        let octets = self.fits(frame)?;
        self.rewrite(frame, slot, address, octets)
    }

    /// The same, if the frame is within the flow's meter as well.
    #[inline(always)]
    pub(crate) fn send_metered<F: Frame, T: Tables>(
        self,
        frame: &mut F,
        slot: &Slot,
        address: u64,
        tables: &T,
    ) -> Option<PortId> {
        let octets = self.fits(frame)?;
        let size = Size { frames: 1, octets: u64::from(octets), largest: octets };
        meter::conforms(slot, &size, tables, &mut ()).ok()?;
        self.rewrite(frame, slot, address, octets)
    }

    /// The frame's length.
    #[inline(always)]
    fn fits<F: Frame>(self, frame: &mut F) -> Option<u32> {
        let octets = frame.len();
        if octets > self.room || frame.gso_size() != 0 { None } else { Some(octets) }
    }

    #[inline(always)]
    fn rewrite<F: Frame>(self, frame: &mut F, slot: &Slot, address: u64, octets: u32) -> Option<PortId> {
        frame.set_wire_addresses(self.next, address)?;
        slot.packets().add(1);
        slot.bytes().add(u64::from(octets));
        Some(self.egress)
    }
}
