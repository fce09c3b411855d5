//! Flows: from a durable lease to a slot, and from a first packet or a route to a next hop.

use super::{
    flagged::tuple_of,
    hops::{Answer, Hops, Target, Wish},
    ports::Ports,
    show::SeenFrame,
    slow_path::{SlowPath, Waiting},
};
use crate::config::meter;
use flowlane_allot::{Change, Lease};
use flowlane_pipeline::give_back;
use flowlane_program::{Destinations, Tables};
use flowlane_tables::{End, NEVER, NextHop, PENDING_LIMIT, Rate, Resolution, Slot};
use flowlane_wire::{FlowAddress, Restore, SlotIndex};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the control path knows of a flow beyond its slot.
#[derive(Default)]
struct Progress {
    /// Whether a next hop is being looked for.
    watched: bool,
    /// What is done to the DSCP where the next hop is the receiver's side.
    restore: Restore,
    /// Whether it is.
    last: bool,
    /// Frames that wait, oldest first.
    waiting: VecDeque<Waiting>,
    /// How many frames have come since the flow had no next hop.
    arrived: u32,
    /// The next hop, when it is known but not in the table yet, because frames are still on their way to this queue.
    unpublished: Option<(NextHop, Instant)>,
    /// Why there is no next hop.
    reason: Option<String>,
}

/// The flows of a switch, as far as they are more than slots.
pub struct Flows {
    tables: Arc<Tables>,
    destinations: Destinations,
    progress: HashMap<SlotIndex, Progress>,
    unpublished: BTreeSet<SlotIndex>,
    /// Flows whose next hop must not be published yet: frames that asked for the flow may still be under way.
    held: BTreeSet<SlotIndex>,
    slow_path: SlowPath,
    /// Octets of all frames that wait.
    octets: usize,
}

/// All frames that wait have so many octets at most: hosts that no neighbour answers for do not fill the memory.
const OCTETS_MAX: usize = 64 << 20;

/// How long the table waits for frames that have been counted but do not come.
const PATIENCE: Duration = Duration::from_millis(100);

impl Flows {
    /// No flows yet.
    pub fn new(tables: Arc<Tables>, destinations: Destinations, slow_path: SlowPath) -> Self {
        let (progress, unpublished, held) = Default::default();
        Self { tables, destinations, progress, unpublished, held, slow_path, octets: 0 }
    }

    /// Brings the table to what the leases say, keeping what is right: the flows of a predecessor go on. How many were
    /// kept, installed and removed. Slots of groups are left to [`super::groups`].
    pub fn adopt<'a>(
        &mut self,
        leases: impl Iterator<Item = &'a Lease>,
        now: u64,
        hops: &mut Hops,
        ports: &Ports,
    ) -> (u32, u32, u32) {
        let mut leased: Vec<bool> = vec![false; self.tables.slots().len()];
        let (mut kept, mut installed, mut removed) = (0, 0, 0);
        for lease in leases {
            for address in lease.addresses(self.tables.block()) {
                let index = self.tables.block().slot(address);
                if let Some(leased) = leased.get_mut(index.0 as usize) {
                    *leased = true;
                }
                if lease.is_group() {
                    continue;
                }
                if self.adopt_one(address, lease, now, hops, ports) { kept += 1 } else { installed += 1 }
            }
        }
        for (index, slot) in self.tables.slots().iter().enumerate() {
            if slot.key() != 0 && !leased.get(index).copied().unwrap_or(false) {
                slot.remove();
                self.destinations.set(SlotIndex(index as u32), None);
                removed += 1;
            }
        }
        (kept, installed, removed)
    }

    fn adopt_one(&mut self, address: FlowAddress, lease: &Lease, now: u64, hops: &mut Hops, ports: &Ports) -> bool {
        let index = self.tables.block().slot(address);
        let Some(slot) = self.tables.slots().get(index.0 as usize) else { return false };
        let same = slot.flow().is_some_and(|flow| flow.address == address.mac() && flow.port == lease.port);
        if !same {
            self.install(address, lease, now, hops, ports);
            return false;
        }
        slot.set_expires(tick(lease, now));
        set_rate(slot, rate(lease));
        if !matches!(slot.next(), Resolution::Resolved(_)) && !self.progress.contains_key(&index) {
            // Nobody here has asked yet. Frames that waited in a predecessor are lost; they must not be waited for.
            slot.set_next(Resolution::UNKNOWN);
        }
        if let Some(destination) = lease.spec.destination.or_else(|| self.destinations.get(index)) {
            self.watch(index, destination, lease, hops, ports);
            if let Some(Resolution::Resolved(hop)) = self.tables.slots().get(index.0 as usize).map(Slot::next) {
                hops.adopt(Target::Flow(index), hop);
            }
        }
        true
    }

    /// Carries durable changes of leases over to the table, but for those of groups.
    pub fn apply(&mut self, changes: &[Change], now: u64, hops: &mut Hops, ports: &Ports) {
        for change in changes {
            let active = |lease: &Option<Lease>| lease.clone().filter(Lease::is_active);
            let (before, after) = (active(&change.before), active(&change.after));
            let same = matches!((&before, &after), (Some(before), Some(after))
                if before.first == after.first && before.port == after.port && before.count == after.count);
            if same
                && before.as_ref().map(|lease| &lease.spec.destination)
                    == after.as_ref().map(|lease| &lease.spec.destination)
            {
                after.iter().for_each(|lease| self.prolong(lease, now, hops, ports));
                continue;
            }
            before.iter().for_each(|lease| self.remove(lease, hops));
            if let Some(lease) = &after {
                for address in lease.addresses(self.tables.block()) {
                    self.install(address, lease, now, hops, ports);
                }
            }
        }
    }

    /// Takes a frame that waits for its next host.
    pub fn waiting(&mut self, mut frame: Waiting, lease: Option<&Lease>, hops: &mut Hops, ports: &Ports) {
        let index = frame.slot;
        let tables = Arc::clone(&self.tables);
        let Some(slot) = tables.slots().get(index.0 as usize) else { return };
        // The slot may be another flow's by now.
        let Some(lease) = lease.filter(|_| slot.flow().is_some_and(|flow| frame.is_of(flow.address, &tables))) else {
            return self.slow_path.drop(frame, End::UnknownFlow);
        };
        match slot.next() {
            Resolution::Resolved(hop) => return self.slow_path.send(frame, hop),
            Resolution::Group(_) => return self.slow_path.drop(frame, End::NoReceiver),
            Resolution::Unreachable => return self.slow_path.drop(frame, End::NoRoute),
            Resolution::Pending(_) => {}
        }
        let known = self.progress.get(&index).is_some_and(|progress| progress.watched);
        if !known {
            let Some(destination) = lease.spec.destination.or_else(|| frame.destination()) else {
                if frame.counted {
                    give_back(slot);
                }
                return self.slow_path.drop(frame, End::NoRoute);
            };
            self.destinations.set(index, Some(destination));
            self.watch(index, destination, lease, hops, ports);
        }
        let progress = self.progress.entry(index).or_default();
        progress.arrived += u32::from(frame.counted);
        if let Some((hop, _)) = progress.unpublished {
            self.slow_path.send(frame, hop);
            self.publish(index);
        } else if progress.waiting.len() < PENDING_LIMIT as usize && self.octets + frame.len() <= OCTETS_MAX {
            self.octets += frame.len();
            progress.waiting.push_back(frame);
        } else {
            self.slow_path.drop(frame, End::QueueFull);
        }
    }

    /// Takes the answer to the question where a flow's frames go.
    pub fn answered(&mut self, index: SlotIndex, answer: Answer) {
        match answer {
            Answer::Pending => {}
            Answer::Found { hop, last } => self.found(index, hop, last),
            Answer::Unreachable(reason) => self.unreachable(index, reason),
        }
    }

    /// Publishes next hops whose last frames have not come in time.
    pub fn timeout(&mut self, now: Instant) {
        let overdue: Vec<SlotIndex> =
            self.unpublished.iter().copied().filter(|index| self.overdue(*index, now)).collect();
        for index in overdue {
            self.unpublished.remove(&index);
            self.held.remove(&index);
            let Some(progress) = self.progress.get_mut(&index) else { continue };
            progress.arrived = 0;
            let Some((hop, _)) = progress.unpublished.take() else { continue };
            if let Some(slot) = self.tables.slots().get(index.0 as usize) {
                slot.set_next(Resolution::Resolved(hop));
            }
        }
    }

    /// When [`Flows::timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.unpublished
            .iter()
            .filter_map(|index| self.progress.get(index)?.unpublished)
            .map(|(_, since)| since + PATIENCE)
            .min()
    }

    /// Leaves a packet to Linux.
    pub fn pass(&mut self, frame: Waiting) {
        self.slow_path.pass(frame);
    }

    /// Drops a frame.
    pub fn drop(&mut self, frame: Waiting, end: End) {
        self.slow_path.drop(frame, end);
    }

    /// Whether there are flows whose next hops are kept back until [`Flows::release_held`]: those of flagged packets,
    /// from when they are installed.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets all next hops be published.
    pub fn release_held(&mut self) {
        for index in std::mem::take(&mut self.held) {
            self.publish(index);
        }
    }

    /// What has become of frames that had waited, since the last call.
    pub fn seen(&mut self) -> Vec<SeenFrame> {
        self.slow_path.seen()
    }

    /// Where a flow's packets go, as was asked for or as its first packet said.
    pub fn destination(&self, index: SlotIndex) -> Option<IpAddr> {
        self.destinations.get(index)
    }

    /// Why a flow has no next hop.
    pub fn reason(&self, index: SlotIndex) -> Option<&str> {
        self.progress.get(&index)?.reason.as_deref()
    }

    /// Makes a slot what the lease says, whatever it was.
    pub fn install(&mut self, address: FlowAddress, lease: &Lease, now: u64, hops: &mut Hops, ports: &Ports) {
        let index = self.tables.block().slot(address);
        self.unwatch(index, hops);
        self.forget(index);
        if let Some(slot) = self.tables.slots().get(index.0 as usize) {
            slot.install(address, lease.port, tick(lease, now), rate(lease), Resolution::UNKNOWN);
        }
        if tuple_of(&lease.key).is_some() {
            self.held.insert(index);
        }
        self.destinations.set(index, lease.spec.destination);
        if let Some(destination) = lease.spec.destination {
            self.watch(index, destination, lease, hops, ports);
        }
    }

    fn prolong(&mut self, lease: &Lease, now: u64, hops: &mut Hops, ports: &Ports) {
        for address in lease.addresses(self.tables.block()) {
            if let Some(slot) = self.slot(address) {
                slot.set_expires(tick(lease, now));
                set_rate(slot, rate(lease));
            }
            let index = self.tables.block().slot(address);
            let watched = self.progress.get(&index).is_some_and(|progress| progress.watched);
            if let Some(destination) = self.destinations.get(index).filter(|_| watched) {
                // What a next switch was told of the flow may have changed.
                self.watch(index, destination, lease, hops, ports);
            }
        }
    }

    fn remove(&mut self, lease: &Lease, hops: &mut Hops) {
        for address in lease.addresses(self.tables.block()) {
            let index = self.tables.block().slot(address);
            if let Some(slot) = self.slot(address) {
                slot.remove();
            }
            self.unwatch(index, hops);
            self.destinations.set(index, None);
            self.forget(index);
        }
    }

    /// Drops what waits for a flow, and all that is known of its progress.
    fn forget(&mut self, index: SlotIndex) {
        for frame in self.take_waiting(index) {
            self.slow_path.drop(frame, End::UnknownFlow);
        }
        self.progress.remove(&index);
        self.unpublished.remove(&index);
        self.held.remove(&index);
    }

    fn take_waiting(&mut self, index: SlotIndex) -> VecDeque<Waiting> {
        let waiting = self.progress.get_mut(&index).map(|progress| std::mem::take(&mut progress.waiting));
        let waiting = waiting.unwrap_or_default();
        self.octets -= waiting.iter().map(Waiting::len).sum::<usize>();
        waiting
    }

    fn slot(&self, address: FlowAddress) -> Option<&Slot> {
        self.tables.slots().get(self.tables.block().slot(address).0 as usize)
    }

    fn watch(&mut self, index: SlotIndex, destination: IpAddr, lease: &Lease, hops: &mut Hops, ports: &Ports) {
        let progress = self.progress.entry(index).or_default();
        (progress.watched, progress.restore) = (true, lease.spec.restore);
        if let Some(slot) = self.tables.slots().get(index.0 as usize).filter(|_| progress.last) {
            slot.set_restore(lease.spec.restore);
        }
        hops.watch(Target::Flow(index), Wish::of(lease, destination), ports);
    }

    fn unwatch(&mut self, index: SlotIndex, hops: &mut Hops) {
        if let Some(progress) = self.progress.get_mut(&index) {
            progress.watched = false;
            hops.unwatch(Target::Flow(index));
        }
    }

    /// Sends the frames that wait, in order, and only then lets the data path send by itself.
    fn found(&mut self, index: SlotIndex, hop: NextHop, last: bool) {
        let tables = Arc::clone(&self.tables);
        let (Some(slot), Some(progress)) = (tables.slots().get(index.0 as usize), self.progress.get_mut(&index)) else {
            return;
        };
        (progress.reason, progress.last) = (None, last);
        let restore = if last { progress.restore } else { Restore::Keep };
        if !matches!(slot.next(), Resolution::Pending(_)) {
            // No receiver gets a packet with the flag still on it.
            slot.set_restore(if last { restore } else { slot.restore() });
            slot.set_next(Resolution::Resolved(hop));
            slot.set_restore(restore);
            return;
        }
        slot.set_restore(restore);
        for frame in self.take_waiting(index) {
            self.slow_path.send(frame, hop);
        }
        self.progress.entry(index).or_default().unpublished = Some((hop, Instant::now()));
        self.publish(index);
    }

    /// Stores the next hop, if all frames that have been counted as waiting have been sent.
    fn publish(&mut self, index: SlotIndex) {
        let (Some(slot), Some(progress)) = (self.tables.slots().get(index.0 as usize), self.progress.get_mut(&index))
        else {
            return;
        };
        let Some((hop, _)) = progress.unpublished else { return };
        while let Resolution::Pending(counted) = slot.next() {
            if counted > progress.arrived || self.held.contains(&index) {
                self.unpublished.insert(index);
                return;
            }
            slot.next_word().swap(Resolution::Pending(counted).to_word(), Resolution::Resolved(hop).to_word());
        }
        (progress.unpublished, progress.arrived) = (None, 0);
        self.unpublished.remove(&index);
    }

    fn overdue(&self, index: SlotIndex, now: Instant) -> bool {
        let since = self.progress.get(&index).and_then(|progress| progress.unpublished);
        since.is_none_or(|(_, since)| now >= since + PATIENCE)
    }

    fn unreachable(&mut self, index: SlotIndex, reason: String) {
        let Some(progress) = self.progress.get_mut(&index) else { return };
        progress.reason = Some(reason);
        (progress.arrived, progress.unpublished) = (0, None);
        self.unpublished.remove(&index);
        let waiting = self.take_waiting(index);
        if let Some(slot) = self.tables.slots().get(index.0 as usize).filter(|slot| slot.key() != 0) {
            slot.set_next(Resolution::Unreachable);
        }
        waiting.into_iter().for_each(|frame| self.slow_path.drop(frame, End::NoRoute));
    }
}

/// The tick of the data path's clock at which a lease ends.
pub(super) fn tick(lease: &Lease, now: u64) -> u32 {
    if lease.expires == u64::MAX { NEVER } else { Tables::tick_in(lease.expires.saturating_sub(now)) }
}

/// Changes how fast a flow may send. Its bucket is full then: what was taken at the former rate says nothing about this one,
/// and could close a flow that is made faster for a minute.
pub(super) fn set_rate(slot: &Slot, rate: Rate) {
    if slot.rate() != rate {
        slot.set_rate(rate);
        slot.full_at().store(0);
    }
}

/// The meter of a lease's flows.
pub(super) fn rate(lease: &Lease) -> Rate {
    meter(lease.spec.rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowlane_wire::{Block, PortId};

    #[test]
    fn a_flow_that_is_made_faster_sends_at_once() {
        const NOW: u64 = 1_000_000_000;
        let block = Block::new("a2:f1:00:00:00:00".parse().expect("an address"), 16, 16).expect("a block");
        let (slot, slow, fast) = (Slot::default(), meter(Some(10_000)), meter(Some(1_000_000_000)));
        slot.install(block.address(0, SlotIndex(1)), PortId(1), NEVER, slow, Resolution::UNKNOWN);
        let emptied = slow.take(0, NOW, 60_000).expect("within the burst");
        slot.full_at().store(emptied);
        set_rate(&slot, slow);
        assert_eq!(slot.full_at().load(), emptied, "a renewal at the same rate gives no tokens");
        set_rate(&slot, fast);
        assert!(fast.take(slot.full_at().load(), NOW, 1_500).is_some());
    }
}
