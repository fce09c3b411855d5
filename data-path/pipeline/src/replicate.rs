//! Multicast: one copy of a frame for each receiver of its flow's group (claims 20 to 22).

use crate::{Frame, Observer, Size, Step, Tables, egress, meter, parse, rewrite};
use flowlane_tables::{End, Group, GroupIndex, NextHop, PortFlags, Receiver, Slot};
use flowlane_wire::{PortId, SlotIndex};

/// Sends the copies of a frame for which [`crate::run`] has said [`crate::Verdict::Replicate`], and counts them. How the
/// frame ends.
///
/// `send` is called with the frame as each receiver is to get it; it sends a copy by a port and says whether the port took
/// it. No copy goes to the port that the frame came in by. Afterwards the frame is what the last copy was.
pub fn replicate<F: Frame, T: Tables, O: Observer>(
    frame: &mut F,
    ingress: PortId,
    slot: SlotIndex,
    group: GroupIndex,
    tables: &T,
    observer: &mut O,
    mut send: impl FnMut(&mut F, PortId) -> bool,
) -> End {
    let mut copies = match Copies::begin(frame, ingress, slot, group, tables, observer) {
        Ok(copies) => copies,
        Err(end) => return end,
    };
    (0..copies.places()).for_each(|place| copies.copy(frame, place, tables, observer, &mut send));
    if copies.go_on(frame, observer) {
        (0..copies.places()).for_each(|place| copies.copy(frame, place, tables, observer, &mut send));
    }
    copies.end()
}

/// The copies of one frame, step by step, as [`replicate`] makes them: for whoever can not loop as it does.
pub struct Copies<'a> {
    slot: &'a Slot,
    group: &'a Group,
    ingress: PortId,
    size: Size,
    turn: Turn,
    /// Whether there was any. Not how many: the kernel's verifier would follow each number on its own.
    sent: bool,
    /// Whether there are receivers in other subnets.
    routed: bool,
}

/// Which receivers have their turn. Those in other subnets come last: their copies have a lower time to live.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Those in the same subnet.
    Bridged,
    /// Those in other subnets.
    Routed,
    /// Those in other subnets, for which the time to live does not suffice.
    TooOld,
}

impl<'a> Copies<'a> {
    /// Takes the frame out of the flow's meter and takes the flag off.
    ///
    /// # Errors
    /// How the frame ends, if there are no copies to be made.
    #[inline(always)]
    pub fn begin<F: Frame, T: Tables, O: Observer>(
        frame: &mut F,
        ingress: PortId,
        slot: SlotIndex,
        group: GroupIndex,
        tables: &'a T,
        observer: &mut O,
    ) -> Result<Self, End> {
        let (Some(slot), Some(group)) = (tables.slot(slot), tables.group(group)) else { return Err(End::NoReceiver) };
        let size = parse::size(frame);
        meter::conforms(slot, &size, tables, observer).map_err(|verdict| verdict.end())?;
        rewrite::dscp(frame, slot.restore(), observer);
        Ok(Self { slot, group, ingress, size, turn: Turn::Bridged, sent: false, routed: false })
    }

    /// How many places have to be looked at.
    #[inline(always)]
    pub fn places(&self) -> usize {
        self.group.places()
    }

    /// Sends a copy to the receiver in a place, if there is one whose turn it is.
    #[inline(always)]
    pub fn copy<F: Frame, T: Tables, O: Observer>(
        &mut self,
        frame: &mut F,
        place: usize,
        tables: &T,
        observer: &mut O,
        send: &mut impl FnMut(&mut F, PortId) -> bool,
    ) {
        let Some(receiver) = self.group.receivers().get(place) else { return };
        let Some(hop) = receiver.hop().filter(|hop| hop.port.0 != self.ingress.0) else { return };
        self.routed |= hop.routed;
        if hop.routed == (self.turn == Turn::Bridged) {
            return;
        }
        let sent = self.turn != Turn::TooOld && self.send(frame, hop, tables, observer, send);
        observer.step(Step::Receiver { place, hop, sent });
        self.count(receiver, sent);
    }

    /// Makes the frame one for receivers in other subnets. Whether there are any: then every place has to be looked at again.
    #[inline(always)]
    pub fn go_on<F: Frame, O: Observer>(&mut self, frame: &mut F, observer: &mut O) -> bool {
        if self.routed {
            let may = rewrite::decrement(frame, observer) == Some(true);
            self.turn = if may { Turn::Routed } else { Turn::TooOld };
        }
        self.routed
    }

    /// Counts the frame for the flow. How it ends.
    #[inline(always)]
    pub fn end(&self) -> End {
        if !self.sent {
            return End::NoReceiver;
        }
        self.slot.packets().add(self.size.frames);
        self.slot.bytes().add(self.size.octets);
        End::Replicate
    }

    /// Rewrites the frame for one receiver and sends it. Whether it was sent.
    #[inline(always)]
    fn send<F: Frame, T: Tables, O: Observer>(
        &self,
        frame: &mut F,
        hop: NextHop,
        tables: &T,
        observer: &mut O,
        send: &mut impl FnMut(&mut F, PortId) -> bool,
    ) -> bool {
        let Some(port) = tables.port(hop.port).filter(|port| port.flags().has(PortFlags::UP)) else { return false };
        egress::within(frame, &self.size, port)
            && rewrite::addresses(frame, self.slot, hop, port, observer).is_ok()
            && send(frame, hop.port)
    }

    #[inline(always)]
    fn count(&mut self, receiver: &Receiver, sent: bool) {
        if sent {
            self.sent = true;
            receiver.packets().add(self.size.frames);
            receiver.bytes().add(self.size.octets);
        } else {
            receiver.missed().add(self.size.frames);
        }
    }
}
