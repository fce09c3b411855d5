//! Multicast: the receivers of a group (claims 20 to 22).

use crate::{NextHop, Resolution, Word};

/// How many groups a switch has.
pub const GROUPS: u32 = 1024;

/// How many receivers a group has at one switch. A group with more of them spreads over several switches: a receiver may
/// be a group's flow address at the next one.
pub const RECEIVERS_MAX: usize = 64;

/// One receiver of a group: where its copy goes, and what has become of its copies. 32 octets.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct Receiver {
    /// A [`Resolution`]; only a resolved one is sent a copy. 0 is a free place.
    hop: Word,
    /// Copies sent.
    packets: Word,
    /// Their octets.
    bytes: Word,
    /// Frames of which there was no copy: the port was down, or too small, or did not take it.
    missed: Word,
}

/// A group's receivers. Places are filled and cleared one word at a time, so that no other receiver is disturbed.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Group {
    /// Behind this place there are no receivers.
    places: Word,
    reserved: [Word; 7],
    receivers: [Receiver; RECEIVERS_MAX],
}

const _: () = assert!(size_of::<Group>() == 64 + 32 * RECEIVERS_MAX);

impl Default for Group {
    fn default() -> Self {
        let receivers = core::array::from_fn(|_| Receiver::default());
        Self { places: Word::default(), reserved: Default::default(), receivers }
    }
}

impl Group {
    /// The number of places that have to be looked at: all receivers stand before it. At most [`RECEIVERS_MAX`].
    #[inline(always)]
    pub fn places(&self) -> usize {
        (self.places.load() as usize).min(RECEIVERS_MAX)
    }

    /// All places, also those behind [`Group::places`].
    #[inline(always)]
    pub fn receivers(&self) -> &[Receiver; RECEIVERS_MAX] {
        &self.receivers
    }

    /// Puts a receiver into a free place, with its counters at zero.
    pub fn put(&self, place: usize, hop: NextHop) {
        let Some(receiver) = self.receivers.get(place) else { return };
        receiver.hop.publish(0);
        receiver.packets.store(0);
        receiver.bytes.store(0);
        receiver.missed.store(0);
        receiver.hop.publish(Resolution::Resolved(hop).to_word());
        if place >= self.places() {
            self.places.publish(place as u64 + 1);
        }
    }

    /// Sends a receiver's copies elsewhere; its counters go on.
    pub fn redirect(&self, place: usize, hop: NextHop) {
        if let Some(receiver) = self.receivers.get(place) {
            receiver.hop.publish(Resolution::Resolved(hop).to_word());
        }
    }

    /// Clears a place.
    pub fn clear(&self, place: usize) {
        let Some(receiver) = self.receivers.get(place) else { return };
        receiver.hop.publish(0);
        let last = self.receivers.iter().rposition(|receiver| receiver.hop().is_some());
        self.places.publish(last.map_or(0, |last| last as u64 + 1));
    }

    /// Clears all places.
    pub fn clear_all(&self) {
        self.places.publish(0);
        self.receivers.iter().for_each(|receiver| receiver.hop.publish(0));
    }
}

impl Receiver {
    /// Where the copy goes; nothing for a free place.
    #[inline(always)]
    pub fn hop(&self) -> Option<NextHop> {
        match Resolution::from_word(self.hop.load_published()) {
            Resolution::Resolved(hop) => Some(hop),
            _ => None,
        }
    }

    /// The counter of copies sent.
    #[inline(always)]
    pub fn packets(&self) -> &Word {
        &self.packets
    }

    /// The counter of their octets, as on the wire without preamble and check sequence.
    #[inline(always)]
    pub fn bytes(&self) -> &Word {
        &self.bytes
    }

    /// The counter of frames of which there was no copy.
    #[inline(always)]
    pub fn missed(&self) -> &Word {
        &self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowlane_wire::{Mac, PortId};

    fn hop(port: u16) -> NextHop {
        NextHop { mac: Mac([2, 0, 0, 0, 0, port as u8]), port: PortId(port), routed: false }
    }

    #[test]
    fn receivers_come_and_go_without_moving_the_others() {
        let group = Group::default();
        for place in 0..3 {
            group.put(place, hop(place as u16 + 1));
        }
        group.receivers()[2].packets().add(7);
        group.clear(1);
        assert_eq!(group.places(), 3);
        assert_eq!(group.receivers()[1].hop(), None);
        assert_eq!((group.receivers()[2].hop(), group.receivers()[2].packets().load()), (Some(hop(3)), 7));
        group.redirect(2, hop(9));
        assert_eq!((group.receivers()[2].hop(), group.receivers()[2].packets().load()), (Some(hop(9)), 7));
        group.clear(2);
        assert_eq!(group.places(), 1);
        group.put(RECEIVERS_MAX, hop(1));
        assert_eq!(group.places(), 1, "there is no such place");
    }
}
