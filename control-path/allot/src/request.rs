//! The words of the control path: what is asked, what is granted, what is refused.

use crate::{PathSoFar, Receivers, ReceiversError};
use core::fmt;
use flowlane_wire::{FlowAddress, Mac, PortId, Restore, SlotIndex};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Which field of the Ethernet header carries the flow address (claims 2 and 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    /// The destination field: the host sends *to* the flow address.
    #[default]
    Destination,
    /// The source field: the host sends *from* the flow address, to a real host.
    Source,
}

/// What a flow is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowSpec {
    /// Where the flow's packets go. Without it the flow is resolved by the IP destination of its first packet.
    pub destination: Option<IpAddr>,
    /// The rate at which the flow is metered, in bits per second of Ethernet frames; none is unmetered.
    pub rate: Option<u64>,
    /// Which field carries the flow address.
    pub field: Field,
    /// A name for people, at most 64 octets of UTF-8.
    pub name: Option<String>,
    /// The receivers, if the flow is multicast: its frames are copied to each of them (claim 20). Then `destination` is
    /// nobody's.
    #[serde(default)]
    pub receivers: Option<Receivers>,
    /// What the last switch before the receiver does to the DSCP of the flow's packets.
    #[serde(default)]
    pub restore: Restore,
    /// Which of several equal next hops the flow takes, at each switch: this number modulo how many there are. None is the
    /// switch's choice.
    #[serde(default)]
    pub path: Option<u8>,
    /// Whether the flow is of use only if the switch can forward to the destination when it grants it: the host has another
    /// way for its packets.
    #[serde(default)]
    pub only_with_a_way: bool,
    /// Where the request has come by: other switches before this one, if any.
    #[serde(default)]
    pub so_far: PathSoFar,
}

/// Who asks. Two requests with the same client and IAID are about the same lease.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientId(pub Vec<u8>);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What identifies a lease for its holder: the client's identifier (a DUID, RFC 8415 section 11) and the number
/// that the client gave to this request (an IAID, RFC 8415 section 12).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseKey {
    /// The client.
    pub client: ClientId,
    /// The client's number for this lease.
    pub iaid: u32,
}

/// A request for a block of flow addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whose it will be.
    pub key: LeaseKey,
    /// The port that the request came in by, and the only one that the flow's frames may come in by (claim 19).
    pub port: PortId,
    /// The Ethernet address of the host that asks.
    pub host: Mac,
    /// How many addresses, 1 and up. The allotter may give fewer.
    pub count: u32,
    /// How long, in seconds; none is the switch's default.
    pub lifetime: Option<u32>,
    /// What for.
    pub spec: FlowSpec,
}

/// Addresses granted to a client for a time: `count` consecutive flow addresses that share one tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub key: LeaseKey,
    /// The port that the flows' frames come in by.
    pub port: PortId,
    /// The Ethernet address of the host that asked.
    pub host: Mac,
    /// The sequence number of the first address: slot number in the low bits, tag above them.
    pub first: u64,
    /// How many addresses.
    pub count: u32,
    /// How long the lease was granted for, in seconds; `u32::MAX` is for ever (RFC 8415 section 7.7).
    pub lifetime: u32,
    /// When it ends, in milliseconds of the boot-time clock; `u64::MAX` is never. It is not kept on disk: a renewal up to
    /// `reserved` needs no write.
    #[serde(skip)]
    pub expires: u64,
    /// Until when the store keeps the addresses for the client, in milliseconds of the boot-time clock; `u64::MAX` is for
    /// ever. `expires` is never later, so that a restarted switch, which knows this only, ends no lease early.
    pub reserved: u64,
    /// What for.
    pub spec: FlowSpec,
    /// Whether the addresses are in use, or wait until no late frame can be under way any more.
    pub state: LeaseState,
}

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseState {
    /// The client may use the addresses.
    Active,
    /// Released, declined or expired: nobody may use the addresses before `until` (boot-time milliseconds).
    Quarantined {
        /// When the addresses may be allotted again.
        until: u64,
    },
    /// Ended by an operator: as [`LeaseState::Quarantined`], and the client gets no other lease under this key before
    /// `until`.
    Closed {
        /// When the addresses may be allotted again, and the client may ask again.
        until: u64,
    },
}

impl LeaseState {
    /// In quarantine until then.
    pub(crate) fn quarantined(until: u64) -> Self {
        Self::Quarantined { until }
    }
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All addresses are leased or in quarantine.
    #[error("no flow address is free: {leased} leased, {quarantined} in quarantine of {slots}")]
    Full {
        /// Leased addresses.
        leased: u32,
        /// Addresses in quarantine.
        quarantined: u32,
        /// All addresses.
        slots: u32,
    },
    /// The port has as many addresses as it may have.
    #[error("port {port} holds {held} flow addresses of at most {quota}")]
    PortQuota {
        /// The port.
        port: PortId,
        /// How many it holds.
        held: u32,
        /// How many it may hold.
        quota: u32,
    },
    /// The client has as many addresses as it may have.
    #[error("the client holds {held} flow addresses of at most {quota}")]
    ClientQuota {
        /// How many it holds.
        held: u32,
        /// How many it may hold.
        quota: u32,
    },
    /// There is no such lease, or it is another client's.
    #[error("there is no such lease")]
    NoBinding,
    /// An operator has closed the client's lease of this number.
    #[error("an operator has closed this flow")]
    Closed,
    /// The lease belongs to another port than the request came in by.
    #[error("the lease belongs to port {0}")]
    OtherPort(PortId),
    /// The switch can not forward to the destination, and the request is for no flow then.
    #[error("no way to the destination: {0}")]
    NoWay(String),
    /// A group can not have these receivers.
    #[error(transparent)]
    Receivers(#[from] ReceiversError),
    /// The request asks for no address, or for something that the switch does not do.
    #[error("{0}")]
    Invalid(&'static str),
}

/// One difference between what was and what is, to be made durable before anybody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The lease's first slot: its place in the store.
    pub slot: SlotIndex,
    /// The lease there before.
    pub before: Option<Lease>,
    /// The lease there now.
    pub after: Option<Lease>,
}

impl Change {
    /// Whether a lease is over by it.
    pub fn ends(&self) -> bool {
        self.before.as_ref().is_some_and(Lease::is_active) && !self.after.as_ref().is_some_and(Lease::is_active)
    }

    /// Whether the store does not know it yet: all but the end of a lease, as long as that is not after
    /// [`Lease::reserved`].
    pub fn needs_writing(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => !before.is_same_on_disk(after),
            (before, after) => before != after,
        }
    }

    /// Whether it is about a group's lease. None changes a group into a flow to one host, or back.
    pub fn is_of_group(&self) -> bool {
        [&self.before, &self.after].into_iter().flatten().any(Lease::is_group)
    }
}

impl Lease {
    /// The flow addresses of the lease in `block`.
    pub fn addresses(&self, block: flowlane_wire::Block) -> impl Iterator<Item = FlowAddress> {
        let (first, slots) = (self.first, u64::from(block.slots()));
        (first..first + u64::from(self.count)).map(move |n| block.address(n / slots, SlotIndex((n % slots) as u32)))
    }

    /// Whether its flow is multicast.
    pub fn is_group(&self) -> bool {
        self.spec.receivers.is_some()
    }

    /// Whether the client may use the addresses.
    pub fn is_active(&self) -> bool {
        self.state == LeaseState::Active
    }

    /// Whether both have one row in the store: they differ in their ends at most.
    fn is_same_on_disk(&self, other: &Self) -> bool {
        let Self { key, port, host, first, count, lifetime, expires: _, reserved, spec, state } = self;
        (reserved, state, lifetime) == (&other.reserved, &other.state, &other.lifetime)
            && (first, count, port, host) == (&other.first, &other.count, &other.port, &other.host)
            && (key, spec) == (&other.key, &other.spec)
    }
}
