//! Announcements: where flow addresses are, for the learning bridges between hosts and switch.
//!
//! Nothing ever comes *from* a flow address by the port that its frames come in by, so a bridge there would never learn
//! it, and flood every frame to it. So the switch sends a frame from each address: when it is granted, and then before
//! bridges forget it (IEEE 802.1Q: after 300 s; some after less).

use super::{flagged::tuple_of, ports::Ports, userspace::Senders};
use flowlane_allot::{Allotter, Change, Field, Lease};
use flowlane_ports::af_packet::Offload;
use flowlane_wire::{Block, FlowAddress, Mac, SlotIndex};
use std::time::{Duration, Instant};

/// Sends announcements.
pub struct Announcements {
    senders: Senders,
    /// The next slot to look at.
    from: u32,
    /// When the round began.
    round: Instant,
    /// When to go on.
    next: Instant,
}

/// From the beginning of a round through all addresses to the next one.
const PERIOD: Duration = Duration::from_secs(80);
/// Between two pieces of a round: with [`BURST`], 2,000 frames in a second.
const PAUSE: Duration = Duration::from_millis(10);
/// Frames of a piece.
const BURST: usize = 20;
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
    pub fn new(now: Instant) -> Self {
        Self { senders: Senders::default(), from: 0, round: now, next: now }
    }

    /// Announces the addresses that have been granted just now.
    pub fn granted(&mut self, changes: &[Change], block: Block, ports: &Ports) {
        let new = |change: &&Change| {
            let same = |before: &Lease, after: &Lease| (before.first, before.port) == (after.first, after.port);
            let before = change.before.as_ref().filter(|lease| lease.is_active());
            change.after.as_ref().is_some_and(|after| before.is_none_or(|before| !same(before, after)))
        };
        for lease in changes.iter().filter(new).filter_map(|change| change.after.as_ref()) {
            lease.addresses(block).for_each(|address| self.announce(address, lease, ports));
        }
    }

    /// Goes on with the round.
    pub fn timeout(&mut self, now: Instant, allotter: &Allotter, ports: &Ports) {
        if now < self.next {
            return;
        }
        let slots = allotter.block().slots();
        let (end, mut sent) = (self.from.saturating_add(PIECE).min(slots), 0);
        while self.from < end && sent < BURST {
            if let Some((address, lease)) = address_at(SlotIndex(self.from), allotter) {
                self.announce(address, lease, ports);
                sent += 1;
            }
            self.from += 1;
        }
        self.go_on(now, slots);
    }

    /// When [`Announcements::timeout`] has something to do.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    fn go_on(&mut self, now: Instant, slots: u32) {
        self.next = now + PAUSE;
        if self.from >= slots {
            self.next = self.next.max(self.round + PERIOD);
            (self.from, self.round) = (0, self.next);
        }
    }

    fn announce(&mut self, address: FlowAddress, lease: &Lease, ports: &Ports) {
        let port = ports.get(lease.port).filter(|port| port.config.announce);
        let link = port.and_then(|port| port.link.as_ref()).filter(|link| link.up);
        if let Some(link) = link.filter(|_| is_sent_to(lease)) {
            self.senders.send(link.ifindex, &[(&frame(address.mac()), Offload::default())]);
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
fn frame(address: Mac) -> Vec<u8> {
    let no_ip = [0; 4];
    let mut frame =
        [&Mac::BROADCAST.0[..], &address.0, &RARP, &REQUEST, &address.0, &no_ip, &address.0, &no_ip].concat();
    frame.resize(SHORTEST, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_eighty_seconds_or_as_long_as_its_pieces_do() {
        let start = Instant::now();
        let mut announcements = Announcements::new(start);
        announcements.from = 1_024;
        announcements.go_on(start, 4_096);
        assert_eq!(announcements.deadline(), start + PAUSE);
        announcements.from = 4_096;
        announcements.go_on(start + PAUSE, 4_096);
        assert_eq!((announcements.deadline(), announcements.from), (start + PERIOD, 0));
        let late = start + PERIOD * 3;
        announcements.from = 4_096;
        announcements.go_on(late, 4_096);
        assert_eq!(announcements.deadline(), late + PAUSE, "it does not fall further behind");
    }
}
