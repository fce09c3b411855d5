//! Flows: from a durable lease to a slot, and from a first packet or a route to a next hop.

use super::{
    boot_ms,
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
use flowlane_wire::{FlowAddress, PortId, Restore, SlotIndex};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
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
    /// Octets of the frames that wait, by the port that they came in by.
    octets: BTreeMap<PortId, usize>,
}

/// All frames that wait have so many octets at most: hosts that no neighbour answers for do not fill the memory.
const OCTETS_MAX: usize = 64 << 20;
/// Those that came in by one port, so that others have room.
const OCTETS_OF_PORT: usize = OCTETS_MAX / 4;

/// How long the table waits for frames that have been counted but do not come: those of a thread that ended in between. One
/// that only does not get the processor brings them later, and until then none may overtake them.
const PATIENCE: Duration = Duration::from_secs(1);

impl Flows {
    /// No flows yet.
    pub fn new(tables: Arc<Tables>, destinations: Destinations, slow_path: SlowPath) -> Self {
        let (progress, unpublished, held) = Default::default();
        Self { tables, destinations, progress, unpublished, held, slow_path, octets: BTreeMap::new() }
    }

    /// Brings the table to what the leases say, keeping what is right: the flows of a predecessor go on. How many were
    /// kept, installed and removed. Slots of groups are left to [`super::groups`].
    pub fn adopt<'a>(
        &mut self,
        leases: impl Iterator<Item = &'a Lease>,
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
                if self.adopt_one(address, lease, hops, ports) { kept += 1 } else { installed += 1 }
            }
        }
        for ((index, slot), leased) in (0..).map(SlotIndex).zip(self.tables.slots()).zip(leased) {
            if leased {
                continue;
            }
            if slot.key() != 0 {
                slot.remove();
                removed += 1;
            }
            if self.destinations.get(index).is_some() {
                self.destinations.set(index, None);
            }
        }
        (kept, installed, removed)
    }

    fn adopt_one(&mut self, address: FlowAddress, lease: &Lease, hops: &mut Hops, ports: &Ports) -> bool {
        let index = self.tables.block().slot(address);
        let Some(slot) = self.tables.slots().get(index.0 as usize) else { return false };
        let same = slot.flow().is_some_and(|flow| flow.address == address.mac() && flow.port == lease.port);
        if !same {
            // What is noted beside a free slot is the flow's own: these tables are new, and those before had another layout.
            let noted = self.destinations.get(index).filter(|_| slot.key() == 0 && lease.spec.destination.is_none());
            self.install(address, lease, hops, ports);
            if let Some(destination) = noted {
                self.destinations.set(index, noted);
                self.watch(index, destination, lease, hops, ports);
            }
            return false;
        }
        slot.set_backup(None);
        slot.set_expires(tick(lease));
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

    /// What a slot says otherwise than it should, where it is the flow's at all: address and port are right.
    pub fn difference(&self, address: FlowAddress, lease: &Lease, hops: &Hops, ports: &Ports) -> Option<String> {
        let index = self.tables.block().slot(address);
        let slot = self.tables.slots().get(index.0 as usize)?;
        let ends = tick(lease);
        // Rounded up to a tick whenever it is written.
        if slot.expires().abs_diff(ends) > 1 {
            return Some(format!("its lease ends at tick {ends}, not at {}", slot.expires()));
        }
        if slot.rate() != rate(lease) {
            return Some("its meter is not that of its lease".into());
        }
        if !slot.is_signed_right() {
            return Some("whether it has a meter or another DSCP is written otherwise beside its lease".into());
        }
        if lease.is_group() {
            return None;
        }
        if slot.backup() != Resolution::Pending(0) {
            return Some("it has a backup that nobody has given it".into());
        }
        let progress = self.progress.get(&index)?;
        match hops.answer(Target::Flow(index), ports) {
            // Frames that wait go first.
            _ if progress.unpublished.is_some() || self.held.contains(&index) => None,
            Answer::Found { hop, .. } if slot.next() != Resolution::Resolved(hop) => {
                Some(format!("it leads to {}, not to {} by port {}", describe(slot.next()), hop.mac, hop.port))
            }
            Answer::Found { last, .. } if slot.restore() != if last { progress.restore } else { Restore::Keep } => {
                Some("what it does to the DSCP is not what its lease says".into())
            }
            Answer::Unreachable(_) if slot.next() != Resolution::Unreachable => {
                Some(format!("it leads to {}, but there is no way", describe(slot.next())))
            }
            _ => None,
        }
    }

    /// Makes all slots what the leases and the next hops say; those that are right are not touched.
    pub fn repair(&mut self, leases: &[&Lease], hops: &mut Hops, ports: &Ports) {
        let block = self.tables.block();
        let flows = || leases.iter().flat_map(|lease| lease.addresses(block).map(move |address| (address, *lease)));
        // One that is another flow's is freed first: what is noted beside it is of the flow that should be there.
        for (address, lease) in flows() {
            let is_right =
                |slot: &&Slot| slot.flow().is_some_and(|flow| (flow.address, flow.port) == (address.mac(), lease.port));
            self.slot(address).filter(|slot| !is_right(slot)).inspect(|slot| slot.remove());
        }
        self.adopt(leases.iter().copied(), hops, ports);
        for (address, lease) in flows().filter(|(_, lease)| !lease.is_group()) {
            if self.difference(address, lease, hops, ports).is_some() {
                let index = block.slot(address);
                self.answered(index, hops.answer(Target::Flow(index), ports));
            }
        }
    }

    /// Carries durable changes of leases over to the table, but for those of groups.
    pub fn apply(&mut self, changes: &[Change], hops: &mut Hops, ports: &Ports) {
        for change in changes {
            let active = |lease: &Option<Lease>| lease.clone().filter(Lease::is_active);
            let (before, after) = (active(&change.before), active(&change.after));
            let same = matches!((&before, &after), (Some(before), Some(after))
                if before.first == after.first && before.port == after.port && before.count == after.count);
            if same
                && before.as_ref().map(|lease| &lease.spec.destination)
                    == after.as_ref().map(|lease| &lease.spec.destination)
            {
                after.iter().for_each(|lease| self.prolong(lease, hops, ports));
                continue;
            }
            before.iter().for_each(|lease| self.remove(lease, hops));
            if let Some(lease) = &after {
                for address in lease.addresses(self.tables.block()) {
                    self.install(address, lease, hops, ports);
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
        } else if progress.waiting.len() < PENDING_LIMIT as usize && has_room(&self.octets, &frame) {
            *self.octets.entry(frame.ingress).or_default() += frame.len();
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
    pub fn install(&mut self, address: FlowAddress, lease: &Lease, hops: &mut Hops, ports: &Ports) {
        let index = self.tables.block().slot(address);
        self.unwatch(index, hops);
        self.forget(index);
        if let Some(slot) = self.tables.slots().get(index.0 as usize) {
            slot.install(address, lease.port, tick(lease), rate(lease), Resolution::UNKNOWN);
        }
        if tuple_of(&lease.key).is_some() {
            self.held.insert(index);
        }
        self.destinations.set(index, lease.spec.destination);
        if let Some(destination) = lease.spec.destination {
            self.watch(index, destination, lease, hops, ports);
        }
    }

    fn prolong(&mut self, lease: &Lease, hops: &mut Hops, ports: &Ports) {
        for address in lease.addresses(self.tables.block()) {
            if let Some(slot) = self.slot(address) {
                slot.set_expires(tick(lease));
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
        for frame in &waiting {
            *self.octets.entry(frame.ingress).or_default() -= frame.len();
        }
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

/// Where a slot says that frames go, for people.
fn describe(next: Resolution) -> String {
    match next {
        Resolution::Resolved(hop) => format!("{} by port {}", hop.mac, hop.port),
        Resolution::Group(group) => format!("group {}", group.0),
        Resolution::Pending(_) => "nobody yet".into(),
        Resolution::Unreachable => "nobody".into(),
    }
}

/// Whether one more frame may wait.
fn has_room(octets: &BTreeMap<PortId, usize>, frame: &Waiting) -> bool {
    let of_port = octets.get(&frame.ingress).copied().unwrap_or(0);
    let all: usize = octets.values().sum();
    of_port + frame.len() <= OCTETS_OF_PORT && all + frame.len() <= OCTETS_MAX
}

/// The tick of the data path's clock at which a lease ends. Both clocks are read now: a million leases take a while.
pub(super) fn tick(lease: &Lease) -> u32 {
    if lease.expires == u64::MAX { NEVER } else { Tables::tick_in(lease.expires.saturating_sub(boot_ms())) }
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
    use flowlane_ports::af_packet::Offload;
    use flowlane_wire::Block;

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

    #[test]
    fn frames_of_one_port_leave_room_for_those_of_others() {
        const LEN: usize = 1_000;
        let frame = |port| {
            let (bytes, offload) = (vec![0; LEN], Offload::default());
            Waiting { slot: SlotIndex(0), ingress: PortId(port), bytes, offload, counted: true }
        };
        let mut octets = BTreeMap::from([(PortId(1), OCTETS_OF_PORT - LEN)]);
        assert!(has_room(&octets, &frame(1)));
        octets.insert(PortId(1), OCTETS_OF_PORT);
        assert!(!has_room(&octets, &frame(1)) && has_room(&octets, &frame(2)));
        octets.extend((2..=4).map(|port| (PortId(port), OCTETS_OF_PORT)));
        assert!(!has_room(&octets, &frame(5)), "all of the memory that there is for them");
    }
}
