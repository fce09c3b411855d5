//! Multicast: one copy of a frame for each receiver of its flow's group (claims 20 to 22).

use crate::{Frame, Observer, Size, Step, Tables, egress, meter, parse, rewrite};
use flowlane_tables::{End, Group, GroupIndex, NextHop, PortFlags, RECEIVERS_MAX, Receiver, Slot};
use flowlane_wire::{PortId, SlotIndex};

/// Sends the copies of a frame for which [`crate::run`] has said [`crate::Verdict::Replicate`], and counts them. How the
/// frame ends.
///
/// `send` is called with the frame as each receiver is to get it; it sends a copy by a port and says whether the port took
/// it. No copy goes to the port that the frame came in by. Afterwards the frame is what the last copy was.
#[inline(always)]
pub fn replicate<F: Frame, T: Tables, O: Observer>(
    frame: &mut F,
    ingress: PortId,
    slot: SlotIndex,
    group: GroupIndex,
    tables: &T,
    observer: &mut O,
    mut send: impl FnMut(&mut F, PortId) -> bool,
) -> End {
    let (Some(slot), Some(group)) = (tables.slot(slot), tables.group(group)) else { return End::NoReceiver };
    let size = parse::size(frame);
    if let Err(verdict) = meter::conforms(slot, &size, tables, observer) {
        return verdict.end();
    }
    rewrite::dscp(frame, slot.restore(), observer);
    let mut copies = Copies { slot, group, ingress, size, sent: 0 };
    // Receivers in other subnets come last: their copies have a lower time to live.
    let routed = copies.send(frame, Pass::Bridged, tables, observer, &mut send);
    if routed > 0 {
        let may = rewrite::decrement(frame, observer) == Some(true);
        copies.send(frame, if may { Pass::Routed } else { Pass::TooOld }, tables, observer, &mut send);
    }
    if copies.sent == 0 {
        return End::NoReceiver;
    }
    slot.packets().add(copies.size.frames);
    slot.bytes().add(copies.size.octets);
    End::Replicate
}

/// Which receivers have their turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Those in the same subnet.
    Bridged,
    /// Those in other subnets.
    Routed,
    /// Those in other subnets, for which the time to live does not suffice.
    TooOld,
}

struct Copies<'a> {
    slot: &'a Slot,
    group: &'a Group,
    ingress: PortId,
    size: Size,
    sent: u32,
}

impl Copies<'_> {
    /// Sends a copy to each receiver whose turn it is. How many there are in other subnets.
    #[inline(always)]
    fn send<F: Frame, T: Tables, O: Observer>(
        &mut self,
        frame: &mut F,
        pass: Pass,
        tables: &T,
        observer: &mut O,
        send: &mut impl FnMut(&mut F, PortId) -> bool,
    ) -> u32 {
        let (places, mut routed) = (self.group.places(), 0);
        for (place, receiver) in self.group.receivers().iter().enumerate().take(RECEIVERS_MAX) {
            if place >= places {
                break;
            }
            let Some(hop) = receiver.hop().filter(|hop| hop.port.0 != self.ingress.0) else { continue };
            routed += u32::from(hop.routed);
            if hop.routed == (pass == Pass::Bridged) {
                continue;
            }
            let sent = pass != Pass::TooOld && self.copy(frame, hop, tables, observer, send);
            observer.step(Step::Receiver { place, hop, sent });
            self.count(receiver, sent);
        }
        routed
    }

    /// Rewrites the frame for one receiver and sends it. Whether it was sent.
    #[inline(always)]
    fn copy<F: Frame, T: Tables, O: Observer>(
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
            self.sent += 1;
            receiver.packets().add(self.size.frames);
            receiver.bytes().add(self.size.octets);
        } else {
            receiver.missed().add(self.size.frames);
        }
    }
}
