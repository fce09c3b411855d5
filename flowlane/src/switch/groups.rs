//! Multicast groups: from a durable lease to a group of the table, and from its receivers to their next hops
//! (claims 20 to 22).
//!
//! The receivers are part of the lease, each with its place in the table, so that they are durable in the same commit and a
//! successor finds every place again. A group's index is not: the slot in the table says it, and where the table is lost
//! another one is as good.

mod requests;
mod views;

pub use requests::GroupCommand;

use super::{
    flows::{rate, set_rate, tick},
    hops::{Answer, Hops, Target, Wish},
    ports::Ports,
};
use flowlane_allot::{Change, Lease, Receiver};
use flowlane_program::Tables;
use flowlane_tables::{GROUPS, Group, GroupIndex, NextHop, PortFlags, RECEIVERS_MAX, Resolution};
use flowlane_wire::{FlowAddress, SlotIndex};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

const _: () = assert!(flowlane_allot::RECEIVERS_MAX == RECEIVERS_MAX && flowlane_allot::GROUPS_MAX == GROUPS);

/// The groups of a switch.
pub struct Groups {
    tables: Arc<Tables>,
    active: HashMap<GroupIndex, Active>,
    of_slot: HashMap<SlotIndex, GroupIndex>,
    /// Indices of no group. The one that was freed first is used first: a frame on its way through the data path may
    /// still read a group that has just ended.
    free: VecDeque<GroupIndex>,
}

/// What the control path knows of a group beyond the table.
#[derive(Default)]
struct Active {
    receivers: BTreeMap<u8, Known>,
}

/// What is known of a receiver.
struct Known {
    receiver: Receiver,
    /// Where it is, as far as anybody has said.
    answer: Answer,
}

impl Groups {
    /// No groups yet.
    pub fn new(tables: Arc<Tables>) -> Self {
        let free = (0..GROUPS).map(GroupIndex).collect();
        Self { tables, active: HashMap::new(), of_slot: HashMap::new(), free }
    }

    /// Brings the groups of the table to what the leases say, keeping what is right: places, next hops and counters of a
    /// predecessor. How many groups were kept, and how many installed.
    pub fn adopt<'a>(&mut self, leases: impl Iterator<Item = &'a Lease>, hops: &mut Hops, ports: &Ports) -> (u32, u32) {
        let (mut others, mut kept) = (Vec::new(), HashSet::new());
        for lease in leases.filter(|lease| lease.is_group()) {
            match self.index_in_table(lease).filter(|index| !kept.contains(index)) {
                Some(index) => {
                    kept.insert(index);
                    self.keep(lease, index, hops, ports);
                }
                None => others.push(lease),
            }
        }
        self.free.retain(|index| !kept.contains(index));
        for group in self.free.iter().filter_map(|index| self.group(*index)).filter(|group| group.places() > 0) {
            group.clear_all();
        }
        others.iter().for_each(|lease| self.install(lease, hops, ports));
        (kept.len() as u32, others.len() as u32)
    }

    /// Carries a durable change of a group's lease over to the table.
    pub fn apply(&mut self, change: &Change, hops: &mut Hops, ports: &Ports) {
        let active = |lease: &Option<Lease>| lease.clone().filter(Lease::is_active);
        match (active(&change.before), active(&change.after)) {
            (Some(before), Some(after)) if before.first == after.first && before.port == after.port => {
                self.prolong(&after);
                self.set_receivers(&after, hops, ports);
            }
            (before, after) => {
                before.iter().for_each(|lease| self.remove(lease, hops));
                after.iter().for_each(|lease| self.install(lease, hops, ports));
            }
        }
    }

    /// Takes the answer to the question where a receiver is.
    pub fn answered(&mut self, index: GroupIndex, place: usize, answer: Answer) {
        let Ok(place) = u8::try_from(place) else { return };
        let receivers = self.active.get_mut(&index).map(|active| &mut active.receivers);
        let Some(known) = receivers.and_then(|receivers| receivers.get_mut(&place)) else { return };
        // What is known holds until something else is.
        if answer != Answer::Pending || !matches!(known.answer, Answer::Found { .. }) {
            known.answer = answer;
            self.write(index, place);
        }
    }

    /// What differs between the leases and the groups of the table, as sentences.
    pub fn differences<'a>(&self, leases: impl Iterator<Item = &'a Lease>) -> Vec<String> {
        let mut differences = Vec::new();
        for lease in leases.filter(|lease| lease.is_group()) {
            let Some((address, slot)) = self.address_of(lease) else { continue };
            let own = self.of_slot.get(&slot).copied();
            let Some((index, group)) = own.and_then(|index| Some((index, self.group(index)?))) else {
                differences.push(format!("slot {}: {} is a group's, but it has none", slot.0, address.mac()));
                continue;
            };
            let next = self.tables.slots().get(slot.0 as usize).map(|slot| slot.next());
            if next != Some(Resolution::Group(index)) {
                differences.push(format!("slot {}: {} does not lead to its group {}", slot.0, address.mac(), index.0));
            }
            for (place, receiver) in (0..).zip(group.receivers()) {
                let (found, wanted) = (receiver.hop(), self.wanted(index, place));
                if wanted.is_some_and(|wanted| wanted != found) {
                    let text = |hop: Option<NextHop>| {
                        hop.map_or_else(|| "nobody".into(), |hop| format!("{} by port {}", hop.mac, hop.port))
                    };
                    let (wanted, found) = (text(wanted.flatten()), text(found));
                    differences.push(format!("group {}: place {place} leads to {found}, not to {wanted}", index.0));
                }
            }
        }
        differences
    }

    /// The index of the group that a lease has in the table, where the table can be trusted in it.
    fn index_in_table(&self, lease: &Lease) -> Option<GroupIndex> {
        let (address, index) = self.address_of(lease)?;
        let flow = self.tables.slots().get(index.0 as usize)?.flow()?;
        match flow.next {
            Resolution::Group(group) if flow.address == address.mac() && flow.port == lease.port => {
                let whose = self.of_slot.iter().find(|(slot, known)| **slot == index || **known == group);
                let trusted = group.0 < GROUPS && whose.is_none_or(|whose| whose == (&index, &group));
                trusted.then_some(group)
            }
            _ => None,
        }
    }

    /// Takes over a group that is in the table.
    fn keep(&mut self, lease: &Lease, index: GroupIndex, hops: &mut Hops, ports: &Ports) {
        let Some((_, slot)) = self.address_of(lease) else { return };
        if self.of_slot.get(&slot) != Some(&index) {
            self.forget(slot, hops);
            self.of_slot.insert(slot, index);
            self.active.insert(index, Active::default());
        }
        self.prolong(lease);
        self.set_receivers(lease, hops, ports);
        for (place, receiver) in self.group(index).into_iter().flat_map(|group| group.receivers().iter().enumerate()) {
            if let Some(hop) = receiver.hop() {
                hops.adopt(Target::Receiver(index, place), hop);
            }
        }
        for place in 0..RECEIVERS_MAX as u8 {
            self.write(index, place);
            if lease.spec.receivers.as_ref().is_some_and(|receivers| receivers.get(place).is_none()) {
                self.reset_counters(index, place);
            }
        }
    }

    /// Makes a group what the lease says, and then lets the slot lead to it.
    fn install(&mut self, lease: &Lease, hops: &mut Hops, ports: &Ports) {
        let Some((address, slot)) = self.address_of(lease) else { return };
        self.forget(slot, hops);
        let Some(index) = self.free.pop_front() else {
            // There are as many groups as the allotter grants.
            return tracing::error!(address = %address.mac(), "no group of the table is free");
        };
        (0..RECEIVERS_MAX as u8).for_each(|place| self.reset_counters(index, place));
        self.of_slot.insert(slot, index);
        self.active.insert(index, Active::default());
        self.set_receivers(lease, hops, ports);
        if let Some(slot) = self.tables.slots().get(slot.0 as usize) {
            slot.install(address, lease.port, tick(lease), rate(lease), Resolution::Group(index));
        }
    }

    /// Ends a group: first nobody finds it, and then it is cleared.
    fn remove(&mut self, lease: &Lease, hops: &mut Hops) {
        let Some((address, index)) = self.address_of(lease) else { return };
        let slot = self.tables.slots().get(index.0 as usize);
        if let Some(slot) = slot.filter(|slot| slot.flow().is_some_and(|flow| flow.address == address.mac())) {
            slot.remove();
        }
        self.forget(index, hops);
    }

    fn forget(&mut self, slot: SlotIndex, hops: &mut Hops) {
        let Some(index) = self.of_slot.remove(&slot) else { return };
        for place in self.active.remove(&index).into_iter().flat_map(|active| active.receivers.into_keys()) {
            hops.unwatch(Target::Receiver(index, place.into()));
        }
        self.group(index).inspect(|group| group.clear_all());
        self.free.push_back(index);
    }

    fn prolong(&self, lease: &Lease) {
        let slot = self.address_of(lease).and_then(|(_, index)| self.tables.slots().get(index.0 as usize));
        if let Some(slot) = slot {
            slot.set_expires(tick(lease));
            set_rate(slot, rate(lease));
        }
    }

    /// Lets receivers go that the lease does not have any more, and come that it has now. The others are not touched.
    fn set_receivers(&mut self, lease: &Lease, hops: &mut Hops, ports: &Ports) {
        let Some((index, receivers)) = self.index_of(lease).zip(lease.spec.receivers.as_ref()) else { return };
        let known = self.active.entry(index).or_default().receivers.iter();
        let gone: Vec<u8> = known
            .filter(|(place, known)| receivers.get(**place) != Some(known.receiver))
            .map(|(place, _)| *place)
            .collect();
        for place in gone {
            self.active.entry(index).or_default().receivers.remove(&place);
            hops.unwatch(Target::Receiver(index, place.into()));
            self.write(index, place);
            self.reset_counters(index, place);
        }
        for (place, receiver) in receivers.iter() {
            let answer = match receiver {
                Receiver::Ip(_) => Answer::Pending,
                Receiver::Host(mac, port) => Answer::Found { hop: NextHop { mac, port, routed: false }, last: true },
            };
            let known = &mut self.active.entry(index).or_default().receivers;
            known.entry(place).or_insert(Known { receiver, answer });
            if let Receiver::Ip(destination) = receiver {
                hops.watch(Target::Receiver(index, place.into()), Wish::of(lease, destination), ports);
            }
            self.write(index, place);
        }
    }

    /// Writes a place of the table as it is wanted, and leaves it alone where that is not known yet or is so already.
    fn write(&self, index: GroupIndex, place: u8) {
        let Some((group, receiver)) =
            self.group(index).and_then(|group| Some((group, group.receivers().get(usize::from(place))?)))
        else {
            return;
        };
        match (self.wanted(index, place), receiver.hop()) {
            (Some(Some(wanted)), Some(found)) if wanted != found => group.redirect(place.into(), wanted),
            (Some(Some(wanted)), None) => {
                // The receiver had a next hop before, perhaps: its counters go on.
                let counters = [receiver.packets(), receiver.bytes(), receiver.missed()];
                let before = counters.map(|counter| counter.load());
                group.put(place.into(), wanted);
                counters.iter().zip(before).for_each(|(counter, before)| counter.add(before));
            }
            (Some(None), Some(_)) => group.clear(place.into()),
            _ => {}
        }
    }

    /// What a place of the table is to be: a next hop, or free. Nothing where nobody knows yet.
    fn wanted(&self, index: GroupIndex, place: u8) -> Option<Option<NextHop>> {
        let Some(known) = self.active.get(&index).and_then(|active| active.receivers.get(&place)) else {
            return Some(None);
        };
        match &known.answer {
            Answer::Found { hop, .. } => Some(Some(*hop)),
            // Frames that a port can not send while it is down are counted as missed.
            Answer::Unreachable(_) if self.is_behind_port_that_is_down(index, place) => None,
            Answer::Unreachable(_) => Some(None),
            Answer::Pending => None,
        }
    }

    fn is_behind_port_that_is_down(&self, index: GroupIndex, place: u8) -> bool {
        let hop = self.group(index).and_then(|group| group.receivers().get(usize::from(place))?.hop());
        hop.is_some_and(|hop| !self.is_up(hop))
    }

    /// Whether the port of a next hop is up.
    fn is_up(&self, hop: NextHop) -> bool {
        self.tables.ports().get(usize::from(hop.port.0)).is_some_and(|port| port.flags().has(PortFlags::UP))
    }

    /// Free places count from zero.
    fn reset_counters(&self, index: GroupIndex, place: u8) {
        if let Some(receiver) = self.group(index).and_then(|group| group.receivers().get(usize::from(place))) {
            [receiver.packets(), receiver.bytes(), receiver.missed()].iter().for_each(|counter| counter.store(0));
        }
    }

    fn index_of(&self, lease: &Lease) -> Option<GroupIndex> {
        self.of_slot.get(&self.address_of(lease)?.1).copied()
    }

    fn group(&self, index: GroupIndex) -> Option<&Group> {
        self.tables.groups().get(index.0 as usize)
    }

    /// The address of a group's lease, and its slot.
    fn address_of(&self, lease: &Lease) -> Option<(FlowAddress, SlotIndex)> {
        let address = lease.addresses(self.tables.block()).next()?;
        Some((address, self.tables.block().slot(address)))
    }
}

/// The IP addresses of this switch, in its network namespace.
fn own_addresses() -> Vec<IpAddr> {
    let entries = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = entries.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    addresses.collect()
}
