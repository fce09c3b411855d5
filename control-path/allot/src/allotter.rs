//! The state machine that allots flow addresses.

use crate::free::FreeSlots;
use crate::receivers::{GROUPS_MAX, Receivers, ReceiversError, Regroup};
use crate::usage::Usage;
use crate::{Change, ClientId, FlowSpec, Lease, LeaseKey, LeaseState, Policy, Refusal, Request};
use flowlane_wire::{Block, PortId, SlotIndex};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The longest client identifier: a DUID with its type (RFC 8415 section 11.1).
const MAX_CLIENT_ID: usize = 130;
/// The longest name of a flow, in octets.
const MAX_NAME: usize = 64;

/// Allots the flow addresses of one block, and knows who holds which.
///
/// Addresses are allotted in sequence: a number counts up through the slots, and the tag is how often it has gone
/// round. So a slot has another tag on each use, until all tags of the block have had their turn, and the address that
/// was freed first waits longest. A lease of several addresses takes slots in a row in one round; one that does not fit
/// before the end of the table starts in the next round, wherever there is room.
///
/// There is no clock, no randomness and no I/O inside: the same calls give the same answers. `now` is in milliseconds
/// of the boot-time clock and does not go back. Each call that changes anything first does what [`Allotter::expire`]
/// does. It queues its changes; make those of [`Allotter::take_changes`] durable, or [`Allotter::undo`] them, before
/// anybody is told of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allotter {
    block: Block,
    policy: Policy,
    next: u64,
    /// All leases, active or in quarantine, by their first slot.
    leases: BTreeMap<SlotIndex, Lease>,
    /// The active leases by key.
    keys: HashMap<LeaseKey, SlotIndex>,
    /// Those that an operator has closed, while they are in quarantine, by key.
    closed: HashMap<LeaseKey, SlotIndex>,
    /// When each lease, or its quarantine, ends. Leases without end are not in here.
    deadlines: BTreeSet<(u64, SlotIndex)>,
    free: FreeSlots,
    usage: Usage,
    changes: Vec<Change>,
}

/// How many addresses are what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Active leases; each has one or more addresses.
    pub leases: u32,
    /// Addresses in use.
    pub leased: u32,
    /// Addresses that wait until no late frame can be under way any more.
    pub quarantined: u32,
    /// Addresses that can be allotted.
    pub free: u32,
    /// All addresses that can be in use at a time.
    pub slots: u32,
}

/// Why a stored lease can not be taken over: the store is damaged, or was written for another block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The lease lies outside of the block, crosses the end of the table, or has no address.
    #[error(
        "the stored lease of {count} addresses from number {first} does not fit block {block} of {slots} slots: \
         configure the block that the store was written for, or move the store aside"
    )]
    DoesNotFit {
        /// The lease's first sequence number.
        first: u64,
        /// The lease's size.
        count: u32,
        /// The block.
        block: Block,
        /// The block's slots.
        slots: u32,
    },
    /// A slot belongs to two stored leases.
    #[error("two stored leases share slot {}: the store is damaged, move it aside (its leases are lost, hosts ask again)", .0.0)]
    Overlap(SlotIndex),
    /// Two active leases have the same key, or two closed ones.
    #[error(
        "client {client} has two stored leases with IAID {iaid}: the store is damaged, move it aside (its leases are \
         lost, hosts ask again)"
    )]
    SameKey {
        /// The client.
        client: ClientId,
        /// The client's number for the lease.
        iaid: u32,
    },
}

impl Allotter {
    /// An allotter of all addresses of `block`, which gives the address of sequence number `next` first.
    ///
    /// `next` is what [`Allotter::next`] was when the store was last written. Where there is no store, take a random
    /// number, so that a switch that lost its store does not start with the addresses which it gave before.
    pub fn new(block: Block, policy: Policy, next: u64) -> Self {
        Self {
            next: next % space(&block),
            leases: BTreeMap::new(),
            keys: HashMap::new(),
            closed: HashMap::new(),
            deadlines: BTreeSet::new(),
            free: FreeSlots::new(block.slots()),
            usage: Usage::default(),
            changes: Vec::new(),
            block,
            policy,
        }
    }

    /// Takes over a lease from the store. It queues no change. Its client may have been promised all that was reserved, so
    /// it ends then.
    ///
    /// # Errors
    /// A [`RestoreError`] where the lease contradicts the block or the leases restored before it; nothing is changed.
    pub fn restore(&mut self, lease: Lease) -> Result<(), RestoreError> {
        let Lease { first, count, .. } = lease;
        let slot = slot_of(&self.block, first);
        let slots = self.block.slots();
        if count == 0 || first >= space(&self.block) || count > slots - slot.0 {
            return Err(RestoreError::DoesNotFit { first, count, block: self.block, slots });
        }
        if !self.free.are_free(slot.0, count) {
            let taken = (slot.0..slot.0 + count).find(|&slot| !self.free.are_free(slot, 1)).unwrap_or(slot.0);
            return Err(RestoreError::Overlap(SlotIndex(taken)));
        }
        let same = match lease.state {
            LeaseState::Active => self.keys.contains_key(&lease.key),
            LeaseState::Closed { .. } => self.closed.contains_key(&lease.key),
            LeaseState::Quarantined { .. } => false,
        };
        if same {
            return Err(RestoreError::SameKey { client: lease.key.client, iaid: lease.key.iaid });
        }
        self.replace(slot, Some(Lease { expires: lease.reserved, ..lease }));
        Ok(())
    }

    /// Ends a restored lease at `expires`, where that is before the end that it was restored with: for whoever knows that its
    /// client was promised no more. It queues no change.
    pub fn restore_end(&mut self, slot: SlotIndex, expires: u64) {
        let Some(lease) = self.leases.get(&slot).filter(|lease| lease.is_active() && expires < lease.expires) else {
            return;
        };
        let lease = Lease { expires, ..lease.clone() };
        self.replace(slot, Some(lease));
    }

    /// What [`Allotter::request`] would grant, without granting it: for an Advertise, which promises nothing
    /// (RFC 8947 section 8). Leases whose time has come count until [`Allotter::expire`] is called.
    ///
    /// # Errors
    /// As [`Allotter::request`].
    pub fn offer(&self, request: &Request, now: u64) -> Result<Lease, Refusal> {
        check(request)?;
        request.spec.receivers.as_ref().map_or(Ok(()), |receivers| receivers.check(self.block))?;
        match self.lease(&request.key) {
            Some(lease) => self.extended(lease, request, now),
            None => self.open(&request.key).and_then(|()| self.fresh(request, now)),
        }
    }

    /// Grants a request.
    ///
    /// Where the client holds a lease under the same key already (its message was repeated, or it was restarted), that
    /// lease is extended and its host and purpose become the request's; its addresses never change (RFC 8947
    /// section 9). Else the client gets the addresses whose turn it is: as many as asked for, or fewer where the
    /// policy, a quota, or the longest run of free slots allows no more.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::OtherPort`] for a lease of another port, [`Refusal::Closed`] for one that an
    /// operator has closed, [`Refusal::PortQuota`] and [`Refusal::ClientQuota`] where nothing is left of them,
    /// [`Refusal::Full`].
    pub fn request(&mut self, request: &Request, now: u64) -> Result<Lease, Refusal> {
        self.expire(now);
        let lease = self.offer(request, now)?;
        if !self.keys.contains_key(&lease.key) {
            self.next = (lease.first + u64::from(lease.count)) % space(&self.block);
        }
        self.set(slot_of(&self.block, lease.first), Some(lease.clone()));
        Ok(lease)
    }

    /// Lets receivers of a group come or go. Returns the lease as it is now.
    ///
    /// # Errors
    /// [`Refusal::NoBinding`] where no active lease holds the slot; [`Refusal::Receivers`], and nothing is changed.
    pub fn regroup(&mut self, slot: SlotIndex, regroup: &Regroup, now: u64) -> Result<Lease, Refusal> {
        self.expire(now);
        let mut lease = self.lease_at(slot).ok_or(Refusal::NoBinding)?.clone();
        let receivers = lease.spec.receivers.as_ref().ok_or(ReceiversError::NoGroup)?.changed(regroup)?;
        receivers.check(self.block)?;
        lease.spec.receivers = Some(receivers);
        self.set(slot_of(&self.block, lease.first), Some(lease.clone()));
        Ok(lease)
    }

    /// Extends a lease by `lifetime` seconds from now; none is as long as before.
    ///
    /// # Errors
    /// [`Refusal::NoBinding`], [`Refusal::OtherPort`]; [`Refusal::Closed`] for a lease that an operator has closed.
    pub fn renew(&mut self, key: &LeaseKey, port: PortId, lifetime: Option<u32>, now: u64) -> Result<Lease, Refusal> {
        self.expire(now);
        self.open(key)?;
        let mut lease = self.held(key, port)?.clone();
        self.extend(&mut lease, lifetime, now);
        self.set(slot_of(&self.block, lease.first), Some(lease.clone()));
        Ok(lease)
    }

    /// Extends a lease as [`Allotter::renew`] does, but only so far that nothing has to be written: for as long as nothing
    /// can be. Returns the lease with the end that its client may be promised, and the lifetime until then in whole seconds.
    /// Nothing else happens: leases whose time has come wait until their end can be written.
    ///
    /// # Errors
    /// As [`Allotter::renew`]; [`Refusal::NoBinding`] also where the lease's time is over, or less than a second is left.
    pub fn prolong(&mut self, key: &LeaseKey, port: PortId, lifetime: Option<u32>, now: u64) -> Result<Lease, Refusal> {
        self.open(key)?;
        let mut lease = self.held(key, port)?.clone();
        let until = end(self.policy.lifetime(lifetime, lease.lifetime), now).min(lease.reserved);
        let seconds = until.saturating_sub(now) / 1000;
        if lease.expires <= now || seconds == 0 {
            return Err(Refusal::NoBinding);
        }
        let promised = if until == u64::MAX { until } else { now + seconds * 1000 };
        // It may have been promised more before.
        lease.expires = lease.expires.max(promised);
        self.set(slot_of(&self.block, lease.first), Some(lease.clone()));
        Ok(Lease { lifetime: u32::try_from(seconds).unwrap_or(u32::MAX), expires: promised, ..lease })
    }

    /// Whether a request asks for nothing new: for a lease that its client has, only longer.
    pub fn is_repeated(&self, request: &Request) -> bool {
        self.lease(&request.key).is_some_and(|lease| {
            (request.port, request.host) == (lease.port, lease.host)
                && receivers_of(lease, request)
                    .is_ok_and(|receivers| FlowSpec { receivers, ..request.spec.clone() } == lease.spec)
        })
    }

    /// Ends a lease that its client gives back; its addresses go to quarantine. Returns the lease as it is now.
    ///
    /// # Errors
    /// [`Refusal::NoBinding`], [`Refusal::OtherPort`].
    pub fn release(&mut self, key: &LeaseKey, port: PortId, now: u64) -> Result<Lease, Refusal> {
        self.expire(now);
        let slot = slot_of(&self.block, self.held(key, port)?.first);
        self.quarantine(slot, LeaseState::quarantined, now).ok_or(Refusal::NoBinding)
    }

    /// Ends a lease whose addresses the client can not use (RFC 8415 section 18.3.8). The addresses go to quarantine,
    /// as released ones do: an address that somebody else uses must not be given to the next client.
    ///
    /// # Errors
    /// As [`Allotter::release`].
    pub fn decline(&mut self, key: &LeaseKey, port: PortId, now: u64) -> Result<Lease, Refusal> {
        self.release(key, port, now)
    }

    /// Ends the lease that holds `slot`, whoever's it is. Its client may ask anew.
    ///
    /// # Errors
    /// [`Refusal::NoBinding`] where no active lease holds the slot.
    pub fn end(&mut self, slot: SlotIndex, now: u64) -> Result<Lease, Refusal> {
        self.end_as(slot, LeaseState::quarantined, now)
    }

    /// Ends the lease that holds `slot` for good: until its quarantine is over, its client gets no lease under this key
    /// ([`Refusal::Closed`]). For an operator who takes a flow off the network.
    ///
    /// # Errors
    /// [`Refusal::NoBinding`] where no active lease holds the slot.
    pub fn close(&mut self, slot: SlotIndex, now: u64) -> Result<Lease, Refusal> {
        self.end_as(slot, |until| LeaseState::Closed { until }, now)
    }

    /// Does everything whose time has come: leases end and go to quarantine, quarantines end. A quarantine is counted
    /// from `now`, not from the end of the lease: the tables held the flow until now.
    pub fn expire(&mut self, now: u64) {
        while let Some(&(deadline, slot)) = self.deadlines.first()
            && deadline <= now
        {
            if self.quarantine(slot, LeaseState::quarantined, now).is_none() {
                self.set(slot, None);
            }
        }
    }

    /// When [`Allotter::expire`] has something to do next, in milliseconds of the boot-time clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The changes since the last call, oldest first.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Takes back `changes`, which could not be made durable, and those queued after them. Everything is then as it
    /// was before them, but for [`Allotter::next`], which stays: the addresses are not offered to the next client.
    ///
    /// `changes` are those taken last and not made durable, in the order in which they were taken.
    pub fn undo(&mut self, changes: Vec<Change>) {
        let queued = self.take_changes();
        for change in changes.into_iter().chain(queued).rev() {
            debug_assert_eq!(self.leases.get(&change.slot), change.after.as_ref());
            self.replace(change.slot, change.before);
        }
    }

    /// The sequence number that is looked at next: what the store keeps.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The block whose addresses are allotted.
    pub fn block(&self) -> Block {
        self.block
    }

    /// What the administrator allows.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Puts another policy in force. Leases stay as they are until they are renewed.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The client's active lease under this key.
    pub fn lease(&self, key: &LeaseKey) -> Option<&Lease> {
        self.leases.get(self.keys.get(key)?)
    }

    /// The active lease that holds a slot, be it the lease's first or not.
    pub fn lease_at(&self, slot: SlotIndex) -> Option<&Lease> {
        let (first, lease) = self.leases.range(..=slot).next_back()?;
        (lease.is_active() && slot.0 - first.0 < lease.count).then_some(lease)
    }

    /// The active leases, by slot.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.occupied().filter(|lease| lease.is_active())
    }

    /// All that is not free, by slot: active leases and those in quarantine, as the store holds them.
    pub fn occupied(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// How many addresses are what.
    pub fn counts(&self) -> Counts {
        let (Usage { leased, quarantined, .. }, slots) = (&self.usage, self.block.slots());
        Counts {
            leases: self.keys.len() as u32,
            leased: *leased,
            quarantined: *quarantined,
            free: slots - leased - quarantined,
            slots,
        }
    }

    /// How many addresses the clients behind a port hold.
    pub fn held_by_port(&self, port: PortId) -> u32 {
        self.usage.of_port(port)
    }

    /// How many addresses a client holds.
    pub fn held_by_client(&self, client: &ClientId) -> u32 {
        self.usage.of_client(client)
    }

    /// The client's lease, if it came by that port.
    fn held(&self, key: &LeaseKey, port: PortId) -> Result<&Lease, Refusal> {
        let lease = self.lease(key).ok_or(Refusal::NoBinding)?;
        if lease.port == port { Ok(lease) } else { Err(Refusal::OtherPort(lease.port)) }
    }

    /// Whether the client may have a lease under this key: no operator has closed one.
    fn open(&self, key: &LeaseKey) -> Result<(), Refusal> {
        if self.closed.contains_key(key) { Err(Refusal::Closed) } else { Ok(()) }
    }

    /// `lease` as the request makes it: the same addresses, for longer.
    fn extended(&self, lease: &Lease, request: &Request, now: u64) -> Result<Lease, Refusal> {
        if lease.port != request.port {
            return Err(Refusal::OtherPort(lease.port));
        }
        let receivers = receivers_of(lease, request)?;
        let mut lease = Lease { host: request.host, spec: request.spec.clone(), ..lease.clone() };
        lease.spec.receivers = receivers;
        self.extend(&mut lease, request.lifetime, now);
        Ok(lease)
    }

    /// Whoever does not hear of a lease that has become shorter relies on the end that it had: that much stays reserved.
    fn extend(&self, lease: &mut Lease, lifetime: Option<u32>, now: u64) {
        let promised = lease.expires;
        lease.lifetime = self.policy.lifetime(lifetime, lease.lifetime);
        lease.expires = end(lease.lifetime, now);
        lease.reserved = self.policy.reserved(lease.lifetime, lease.expires, lease.reserved).max(promised);
    }

    /// A new lease for the request, of the addresses whose turn it is.
    fn fresh(&self, request: &Request, now: u64) -> Result<Lease, Refusal> {
        if request.spec.receivers.is_some() && self.usage.groups >= GROUPS_MAX {
            return Err(ReceiversError::TooManyGroups.into());
        }
        let room = self.usage.room(&self.policy, request.port, &request.key.client)?;
        // A group has one address: that of its flow.
        let wanted = if request.spec.receivers.is_some() { 1 } else { request.count };
        let count = wanted.min(self.policy.max_addresses).min(room);
        let (first, count) = self.find(count).ok_or_else(|| self.full())?;
        let lifetime = self.policy.lifetime(request.lifetime, self.policy.default_lifetime);
        let expires = end(lifetime, now);
        Ok(Lease {
            key: request.key.clone(),
            port: request.port,
            host: request.host,
            first,
            count,
            lifetime,
            expires,
            reserved: self.policy.reserved(lifetime, expires, 0),
            spec: request.spec.clone(),
            state: LeaseState::Active,
        })
    }

    /// The sequence number from which `count` slots are free, or fewer where no run is as long.
    fn find(&self, count: u32) -> Option<(u64, u32)> {
        let count = count.min(self.free.longest());
        if count == 0 {
            return None;
        }
        let slots = u64::from(self.block.slots());
        let round = self.next - self.next % slots;
        let in_this_round = self.free.find(slot_of(&self.block, self.next).0, count);
        let first = match in_this_round {
            Some(slot) => round + u64::from(slot),
            None => (round + slots + u64::from(self.free.find(0, count)?)) % space(&self.block),
        };
        Some((first, count))
    }

    fn full(&self) -> Refusal {
        let Counts { leased, quarantined, slots, .. } = self.counts();
        Refusal::Full { leased, quarantined, slots }
    }

    fn end_as(&mut self, slot: SlotIndex, state: fn(u64) -> LeaseState, now: u64) -> Result<Lease, Refusal> {
        self.expire(now);
        let first = self.lease_at(slot).ok_or(Refusal::NoBinding)?.first;
        self.quarantine(slot_of(&self.block, first), state, now).ok_or(Refusal::NoBinding)
    }

    /// Moves the active lease at `slot` to quarantine, of the `state` that it has until then; none if there is no
    /// active one.
    fn quarantine(&mut self, slot: SlotIndex, state: fn(u64) -> LeaseState, now: u64) -> Option<Lease> {
        let lease = self.leases.get(&slot).filter(|lease| lease.is_active())?;
        let lease = Lease { state: state(self.policy.quarantine_end(now)), ..lease.clone() };
        self.set(slot, Some(lease.clone()));
        Some(lease)
    }

    /// Replaces what is at `slot`, and queues the change.
    fn set(&mut self, slot: SlotIndex, after: Option<Lease>) {
        let before = self.replace(slot, after.clone());
        self.changes.push(Change { slot, before, after });
    }

    /// Replaces what is at `slot`, in all indices. The only place that writes them.
    fn replace(&mut self, slot: SlotIndex, after: Option<Lease>) -> Option<Lease> {
        let before = self.leases.remove(&slot);
        if let Some(lease) = &before {
            self.usage.remove(lease);
            self.free.give(slot.0, lease.count);
            self.deadlines.remove(&(deadline(lease), slot));
            match lease.state {
                LeaseState::Active => self.keys.remove(&lease.key),
                LeaseState::Closed { .. } => self.closed.remove(&lease.key),
                LeaseState::Quarantined { .. } => None,
            };
        }
        if let Some(lease) = after {
            self.usage.add(&lease);
            self.free.take(slot.0, lease.count);
            if deadline(&lease) != u64::MAX {
                self.deadlines.insert((deadline(&lease), slot));
            }
            match lease.state {
                LeaseState::Active => self.keys.insert(lease.key.clone(), slot),
                LeaseState::Closed { .. } => self.closed.insert(lease.key.clone(), slot),
                LeaseState::Quarantined { .. } => None,
            };
            self.leases.insert(slot, lease);
        }
        before
    }
}

/// How many sequence numbers there are: all tags of all slots.
fn space(block: &Block) -> u64 {
    block.tags() * u64::from(block.slots())
}

fn slot_of(block: &Block, number: u64) -> SlotIndex {
    block.slot_of(number)
}

/// When a lease of `lifetime` seconds ends that begins `now`.
fn end(lifetime: u32, now: u64) -> u64 {
    if lifetime == u32::MAX { u64::MAX } else { now.saturating_add(u64::from(lifetime) * 1000) }
}

/// When something has to be done about a lease; `u64::MAX` is never.
fn deadline(lease: &Lease) -> u64 {
    match lease.state {
        LeaseState::Active => lease.expires,
        LeaseState::Quarantined { until } | LeaseState::Closed { until } => until,
    }
}

/// The receivers of a lease that is asked for again: a group stays one, and so does a flow to one host.
fn receivers_of(lease: &Lease, request: &Request) -> Result<Option<Receivers>, Refusal> {
    match (&lease.spec.receivers, &request.spec.receivers) {
        (None, None) => Ok(None),
        (Some(held), Some(wanted)) => Ok(Some(held.become_those_of(wanted)?)),
        (Some(_), None) => Err(Refusal::Invalid("the client's lease of this number is a group's: use another number")),
        (None, Some(_)) => Err(Refusal::Invalid("the client's lease of this number is no group's: use another number")),
    }
}

fn check(request: &Request) -> Result<(), Refusal> {
    let Request { key, port, host, count, spec, .. } = request;
    let refused = [
        (*count == 0, "no address is asked for: ask for 1 or more"),
        (*port == PortId::NONE, "the request came in by no port"),
        (host.is_group(), "the host's address is a group address"),
        (key.client.0.is_empty(), "the client's identifier is empty"),
        (key.client.0.len() > MAX_CLIENT_ID, "the client's identifier is over 130 octets"),
        (spec.rate == Some(0), "the rate is 0: ask for 1 bit/s or more, or for no rate"),
        (spec.name.as_ref().is_some_and(|name| name.len() > MAX_NAME), "the name is over 64 octets"),
    ];
    refused.iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |&(_, why)| Err(Refusal::Invalid(why)))
}

#[cfg(test)]
mod tests;
