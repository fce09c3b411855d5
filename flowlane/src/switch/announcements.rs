//! Announcements: where flow addresses are, for the learning bridges between hosts and switch.
//!
//! Nothing ever comes *from* a flow address by the port that its frames come in by, so a bridge there would never learn
//! it, and flood every frame to it. So the switch sends a frame from each address: when it is granted, and then before
//! bridges forget it (IEEE 802.1Q: after 300 s; some after less), and when its frames stop ([`stopped`]).

mod stopped;

use super::{flagged::tuple_of, ports::Ports};
use flowlane_allot::{Allotter, Change, Field, Lease};
use flowlane_ports::af_packet::Offload;
use flowlane_program::Tables;
use flowlane_userspace::Senders;
use flowlane_wire::{Block, FlowAddress, Mac, SlotIndex};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use stopped::{Found, Stopped};

/// Sends announcements.
pub struct Announcements {
    senders: Senders,
    /// The next slot to look at.
    from: u32,
    /// When the round began.
    round: Instant,
    /// When to go on.
    next: Instant,
    stopped: Stopped,
}

/// From the beginning of a round through all addresses to the next one.
const PERIOD: Duration = Duration::from_secs(80);
/// Between two pieces of a round: with [`BURST`], 2,000 frames in a second.
const PAUSE: Duration = Duration::from_millis(10);
/// Frames of a piece.
const BURST: usize = 20;
/// Frames for flows that are found to have stopped at a time.
const STOPPED_BURST: usize = 256;
/// Slots that are looked at for a piece.
const PIECE: u32 = 1_024;

/// Reverse ARP (RFC 903): bridges learn from it, and hosts ignore it.
const RARP: [u8; 2] = [0x80, 0x35];
/// Ethernet, IPv4, lengths of their addresses, "request reverse".
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];
/// The shortest frame, without check sequence.
const SHORTEST: usize = 60;

impl Announcements {
    /// The first round begins at once: the addresses of a predecessor may be forgotten soon.
    pub fn new(slots: u32, now: Instant) -> Self {
        let stopped = Stopped::new(slots, now);
        Self { senders: Senders::default(), from: 0, round: now, next: now, stopped }
    }

    /// Announces the addresses that have been granted just now.
    pub fn granted(&mut self, changes: &[Change], block: Block, ports: &Ports) {
        let new = |change: &&Change| {
            let same = |before: &Lease, after: &Lease| (before.first, before.port) == (after.first, after.port);
            let before = change.before.as_ref().filter(|lease| lease.is_active());
            change.after.as_ref().is_some_and(|after| before.is_none_or(|before| !same(before, after)))
        };
        let leases = changes.iter().filter(new).filter_map(|change| change.after.as_ref());
        self.announce(leases.flat_map(|lease| lease.addresses(block).map(move |address| (address, lease))), ports);
    }

    /// Goes on with the round, and looks for flows that have stopped.
    pub fn timeout(&mut self, now: Instant, allotter: &Allotter, tables: &Tables, ports: &mut Ports) {
        self.look_for_stopped(now, allotter, tables, ports);
        if now >= self.next {
            self.announce_piece(now, allotter, ports);
        }
    }

    /// When [`Announcements::timeout`] has something to do.
    pub fn deadline(&self) -> Instant {
        self.next.min(self.stopped.deadline())
    }

    fn look_for_stopped(&mut self, now: Instant, allotter: &Allotter, tables: &Tables, ports: &mut Ports) {
        let mut stopped = Vec::new();
        for index in self.stopped.piece(now).map(SlotIndex) {
            let Some(slot) = tables.slots().get(index.0 as usize).filter(|slot| slot.key() != 0) else { continue };
            match self.stopped.look(index, slot.packets().load(), stopped.len() < STOPPED_BURST) {
                Found::Nothing => {}
                Found::Stopped => stopped.extend(address_at(index, allotter)),
                Found::Restored => {
                    if let Some((address, lease)) = address_at(index, allotter).filter(|(_, lease)| is_sent_to(lease)) {
                        tracing::debug!(%address, "its frames had stopped, and came again when it was announced");
                        ports.get_mut(lease.port).into_iter().for_each(|port| port.restored += 1);
                    }
                }
            }
        }
        self.announce(stopped.into_iter(), ports);
    }

    fn announce_piece(&mut self, now: Instant, allotter: &Allotter, ports: &Ports) {
        let slots = allotter.block().slots();
        let end = self.from.saturating_add(PIECE).min(slots);
        let mut piece = Vec::new();
        while self.from < end && piece.len() < BURST {
            piece.extend(address_at(SlotIndex(self.from), allotter));
            self.from += 1;
        }
        self.announce(piece.into_iter(), ports);
        self.go_on(now, slots);
    }

    fn go_on(&mut self, now: Instant, slots: u32) {
        self.next = now + PAUSE;
        if self.from >= slots {
            self.next = self.next.max(self.round + PERIOD);
            (self.from, self.round) = (0, self.next);
        }
    }

    /// Sends the frames of these addresses, those of one port together.
    fn announce<'a>(&mut self, addresses: impl Iterator<Item = (FlowAddress, &'a Lease)>, ports: &Ports) {
        let mut frames: BTreeMap<u32, Vec<[u8; SHORTEST]>> = BTreeMap::new();
        for (address, lease) in addresses.filter(|(_, lease)| is_sent_to(lease)) {
            let port = ports.get(lease.port).filter(|port| port.config.announce);
            if let Some(link) = port.and_then(|port| port.link.as_ref()).filter(|link| link.up) {
                frames.entry(link.ifindex).or_default().push(frame(address.mac()));
            }
        }
        for (ifindex, frames) in frames {
            let frames: Vec<_> = frames.iter().map(|frame| (frame.as_slice(), Offload::default())).collect();
            self.senders.send(ifindex, &frames);
        }
    }
}

/// Whether frames are sent *to* the lease's addresses. Where hosts send from them, bridges must look for them there; and
/// senders of flagged packets do not know them.
fn is_sent_to(lease: &Lease) -> bool {
    lease.is_active() && lease.spec.field == Field::Destination && tuple_of(&lease.key).is_none()
}

fn address_at(slot: SlotIndex, allotter: &Allotter) -> Option<(FlowAddress, &Lease)> {
    let lease = allotter.lease_at(slot)?;
    let address = lease.addresses(allotter.block()).find(|address| allotter.block().slot(*address) == slot)?;
    Some((address, lease))
}

/// A broadcast from a flow address that asks for nothing.
fn frame(address: Mac) -> [u8; SHORTEST] {
    let no_ip = [0; 4];
    let parts = [&Mac::BROADCAST.0[..], &address.0, &RARP, &REQUEST, &address.0, &no_ip, &address.0, &no_ip];
    let mut frame = [0; SHORTEST];
    frame.iter_mut().zip(parts.into_iter().flatten()).for_each(|(octet, value)| *octet = *value);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_eighty_seconds_or_as_long_as_its_pieces_do() {
        let start = Instant::now();
        let mut announcements = Announcements::new(4_096, start);
        announcements.from = 1_024;
        announcements.go_on(start, 4_096);
        assert_eq!(announcements.next, start + PAUSE);
        announcements.from = 4_096;
        announcements.go_on(start + PAUSE, 4_096);
        assert_eq!((announcements.next, announcements.from), (start + PERIOD, 0));
        let late = start + PERIOD * 3;
        announcements.from = 4_096;
        announcements.go_on(late, 4_096);
        assert_eq!(announcements.next, late + PAUSE, "it does not fall further behind");
    }
}
