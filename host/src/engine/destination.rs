//! What is known of a destination.

use flowlane_dhcp6::Duid;
use flowlane_wire::Mac;

/// A flow address that a run holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The flow address.
    pub address: Mac,
    /// When it ends; `u64::MAX` is never.
    pub until: u64,
    /// The rate granted, in bits per second.
    pub rate: Option<u64>,
    /// Who granted it; nothing of a predecessor's lease that was not confirmed yet.
    pub server: Option<Duid>,
}

/// One of a destination's paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The number that it is asked for under (IAID).
    pub iaid: u32,
    /// Which path it is, from 0.
    pub number: u8,
    /// What was granted.
    pub lease: Option<Lease>,
    /// Whether it is being asked for, or kept.
    pub asked: bool,
}

/// What a destination's packets do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// They wait, until this time at most.
    Waiting(u64),
    /// They get flow addresses.
    Open,
    /// There is no flow: they leave as they are, or are dropped where flows are required.
    Without {
        /// Why.
        reason: String,
        /// When to ask again; nothing: when a switch is there, or an answer still comes.
        again: Option<u64>,
    },
    /// An operator has closed the flow: they are dropped.
    Closed(String),
}

/// One destination of a run.
#[derive(Clone, Debug)]
pub struct Destination {
    /// What its packets do.
    pub state: State,
    /// Its paths, the first first.
    pub paths: Vec<Path>,
    /// Named before anything was sent: kept as long as the run.
    pub(super) kept: bool,
    /// Packets so far, and when there were fewer.
    pub(super) packets: u64,
    pub(super) active: u64,
}

impl Destination {
    /// What it holds, the first path first.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.paths.iter().filter_map(|path| path.lease.as_ref())
    }

    /// The addresses that it holds, in the order of the paths in the data path.
    pub fn addresses(&self) -> Vec<Mac> {
        let mut addresses: Vec<Mac> = Vec::new();
        for lease in self.leases() {
            if !addresses.contains(&lease.address) {
                addresses.push(lease.address);
            }
        }
        addresses
    }

    /// Forgets what has ended. Whether something has.
    pub(super) fn end_leases(&mut self, now: u64) -> bool {
        let mut over = false;
        for path in &mut self.paths {
            over |= path.lease.take_if(|lease| lease.until <= now).is_some();
        }
        over
    }

    pub(super) fn has_lease(&self) -> bool {
        self.leases().next().is_some()
    }
}

impl Path {
    /// A predecessor's.
    pub fn adopted(iaid: u32, number: u8, lease: Option<Lease>) -> Self {
        Self { iaid, number, lease, asked: false }
    }
}

pub(super) fn without(reason: &str, again: Option<u64>) -> State {
    State::Without { reason: reason.to_owned(), again }
}
