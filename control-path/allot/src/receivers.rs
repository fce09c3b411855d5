//! Who receives the frames of a multicast flow (claims 20 to 22).

use core::fmt;
use flowlane_wire::{Block, Mac, PortId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many receivers a group has at most: the places of a group in the table.
pub const RECEIVERS_MAX: usize = 64;

/// How many groups there are at most.
pub const GROUPS_MAX: u32 = 1024;

/// A receiver of a group, as it was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Receiver {
    /// A host by its IP address; Linux's tables say where it is.
    Ip(IpAddr),
    /// An Ethernet address behind a port: a real host's (claim 21), or another switch's flow address (claim 22).
    Host(Mac, PortId),
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host(mac, port) => write!(f, "{mac} behind port {port}"),
        }
    }
}

/// The receivers of a group, each in a place of its own. The place is the one that it has in the table; a receiver that
/// stays keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receivers(BTreeMap<u8, Receiver>);

/// What is to become of a group's receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regroup {
    /// These come.
    Add(Vec<Receiver>),
    /// These go.
    Remove(Vec<Receiver>),
}

/// Why a group can not have these receivers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiversError {
    /// More than [`RECEIVERS_MAX`].
    #[error(
        "a group has at most {RECEIVERS_MAX} receivers, this one would have {0}: let groups of other switches be its \
         receivers, and spread the rest over them"
    )]
    TooMany(usize),
    /// All groups are in use.
    #[error("there are {GROUPS_MAX} groups already, and no more can be")]
    TooManyGroups,
    /// It is a receiver already, or is named twice.
    #[error("{0} is a receiver of the group already, or is named twice")]
    Twice(Receiver),
    /// There is no such receiver.
    #[error("{0} is no receiver of the group")]
    NotThere(Receiver),
    /// A flow address of the switch itself: the group would, sooner or later, send to itself.
    #[error("{0} is a flow address of this switch: a group can not contain itself or another of its flows")]
    OwnFlow(Receiver),
    /// An address that names no single host.
    #[error("{0} names no single host: a receiver is one host's IP or Ethernet address")]
    NoHost(Receiver),
    /// The lease is not one of a group.
    #[error("the flow leads to one host: it is not the address of a group")]
    NoGroup,
}

impl ReceiversError {
    /// The receiver that it is about.
    pub fn receiver(&self) -> Option<Receiver> {
        match self {
            Self::Twice(receiver) | Self::NotThere(receiver) | Self::OwnFlow(receiver) | Self::NoHost(receiver) => {
                Some(*receiver)
            }
            Self::TooMany(_) | Self::TooManyGroups | Self::NoGroup => None,
        }
    }
}

impl Receivers {
    /// These receivers, in the places from 0 on.
    ///
    /// # Errors
    /// [`ReceiversError::TooMany`], [`ReceiversError::Twice`], [`ReceiversError::NoHost`].
    pub fn new(receivers: &[Receiver]) -> Result<Self, ReceiversError> {
        Self::default().with(receivers)
    }

    /// All receivers, by place.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Receiver)> {
        self.0.iter().map(|(place, receiver)| (*place, *receiver))
    }

    /// The receiver in a place.
    pub fn get(&self, place: u8) -> Option<Receiver> {
        self.0.get(&place).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With other receivers coming or going; all of the change, or nothing.
    ///
    /// # Errors
    /// As [`Receivers::new`], and [`ReceiversError::NotThere`].
    pub fn changed(&self, regroup: &Regroup) -> Result<Self, ReceiversError> {
        match regroup {
            Regroup::Add(receivers) => self.with(receivers),
            Regroup::Remove(receivers) => self.without(receivers),
        }
    }

    /// Exactly the receivers of `wanted`; those that are here already keep their places.
    pub(crate) fn become_those_of(&self, wanted: &Self) -> Result<Self, ReceiversError> {
        let is_wanted = |receiver: &Receiver| wanted.0.values().any(|wanted| wanted == receiver);
        let stay: BTreeMap<u8, Receiver> = self.iter().filter(|(_, receiver)| is_wanted(receiver)).collect();
        let come: Vec<Receiver> = wanted.0.values().filter(|wanted| !self.contains(wanted)).copied().collect();
        Self(stay).with(&come)
    }

    /// Whether none of them leads back to the switch that has `block`.
    pub(crate) fn check(&self, block: Block) -> Result<(), ReceiversError> {
        let own = |receiver: &Receiver| matches!(receiver, Receiver::Host(mac, _) if block.contains(mac.to_u64()));
        match self.0.values().find(|receiver| own(receiver)) {
            Some(receiver) => Err(ReceiversError::OwnFlow(*receiver)),
            None => Ok(()),
        }
    }

    fn with(&self, receivers: &[Receiver]) -> Result<Self, ReceiversError> {
        let count = self.len() + receivers.len();
        if count > RECEIVERS_MAX {
            return Err(ReceiversError::TooMany(count));
        }
        let mut all = self.clone();
        for receiver in receivers {
            if !is_host(receiver) {
                return Err(ReceiversError::NoHost(*receiver));
            }
            if all.contains(receiver) {
                return Err(ReceiversError::Twice(*receiver));
            }
            let free = (0..RECEIVERS_MAX as u8).find(|place| !all.0.contains_key(place));
            all.0.insert(free.ok_or(ReceiversError::TooMany(count))?, *receiver);
        }
        Ok(all)
    }

    fn without(&self, receivers: &[Receiver]) -> Result<Self, ReceiversError> {
        let mut rest = self.clone();
        for receiver in receivers {
            let place = rest.iter().find(|(_, found)| found == receiver).map(|(place, _)| place);
            rest.0.remove(&place.ok_or(ReceiversError::NotThere(*receiver))?);
        }
        Ok(rest)
    }

    fn contains(&self, receiver: &Receiver) -> bool {
        self.0.values().any(|found| found == receiver)
    }
}

/// Whether the address can be one host's.
fn is_host(receiver: &Receiver) -> bool {
    match receiver {
        Receiver::Ip(IpAddr::V4(v4)) => !(v4.is_multicast() || v4.is_unspecified() || v4.is_broadcast()),
        Receiver::Ip(IpAddr::V6(v6)) => !(v6.is_multicast() || v6.is_unspecified()),
        Receiver::Host(mac, port) => !mac.is_group() && *mac != Mac::default() && *port != PortId::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn receiver(number: u8) -> Receiver {
        Receiver::Ip(IpAddr::from([10, 0, 0, number]))
    }

    fn receivers(numbers: &[u8]) -> Vec<Receiver> {
        numbers.iter().copied().map(receiver).collect()
    }

    #[test]
    fn receivers_that_stay_keep_their_places() {
        let group = Receivers::new(&receivers(&[1, 2, 3])).expect("three");
        assert!(!group.is_empty() && Receivers::default().is_empty());
        let group = group.changed(&Regroup::Remove(receivers(&[2]))).expect("there");
        assert_eq!((group.get(0), group.get(1), group.get(2)), (Some(receiver(1)), None, Some(receiver(3))));
        let group = group.changed(&Regroup::Add(receivers(&[9]))).expect("room");
        assert_eq!(group.get(1), Some(receiver(9)), "the first free place");
        let wanted = Receivers::new(&receivers(&[7, 3])).expect("two");
        let group = group.become_those_of(&wanted).expect("room");
        assert_eq!(group.iter().collect::<Vec<_>>(), [(0, receiver(7)), (2, receiver(3))]);
    }

    #[test]
    fn what_is_refused_says_why() {
        let group = Receivers::new(&receivers(&[1, 2])).expect("two");
        let twice = group.changed(&Regroup::Add(receivers(&[3, 1])));
        assert_eq!(twice, Err(ReceiversError::Twice(receiver(1))));
        assert_eq!(ReceiversError::Twice(receiver(1)).receiver(), Some(receiver(1)), "whom it is about");
        assert_eq!(ReceiversError::NoGroup.receiver(), None, "nobody");
        let missing = group.changed(&Regroup::Remove(receivers(&[1, 3])));
        assert_eq!(missing, Err(ReceiversError::NotThere(receiver(3))));
        let many: Vec<u8> = (1..=65).collect();
        assert_eq!(Receivers::new(&receivers(&many)), Err(ReceiversError::TooMany(65)));
        let full = Receivers::new(&receivers(&many[..64])).expect("as many as there may be");
        let two_more = full.changed(&Regroup::Add(receivers(&[70, 71])));
        assert_eq!(two_more, Err(ReceiversError::TooMany(66)));
        for nobody in [
            Receiver::Ip(IpAddr::from([239, 1, 1, 1])),
            Receiver::Ip(IpAddr::from([0, 0, 0, 0])),
            Receiver::Ip(IpAddr::from([255, 255, 255, 255])),
            Receiver::Ip(IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1])),
            Receiver::Ip(IpAddr::from([0_u16; 8])),
            Receiver::Host(Mac([2, 0, 0, 0, 0, 1]), PortId::NONE),
            Receiver::Host(Mac::BROADCAST, PortId(1)),
            Receiver::Host(Mac::default(), PortId(1)),
        ] {
            assert_eq!(Receivers::new(&[nobody]), Err(ReceiversError::NoHost(nobody)));
        }
        for host in [
            Receiver::Ip(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])),
            Receiver::Host(Mac([2, 0, 0, 0, 0, 1]), PortId(1)),
        ] {
            assert_eq!(Receivers::new(&[host]).expect("a host").get(0), Some(host));
        }
        let block = Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 64).expect("a block");
        let own = Receiver::Host(Mac([0xa2, 0xf1, 0, 0, 0, 7]), PortId(1));
        assert_eq!(Receivers::new(&[own]).expect("one").check(block), Err(ReceiversError::OwnFlow(own)));
    }

    proptest! {
        #[test]
        fn whoever_is_not_named_keeps_the_place(
            first in proptest::collection::btree_set(0u8..100, 0..64), second in proptest::collection::btree_set(0u8..100, 0..64),
        ) {
            let of = |numbers: &std::collections::BTreeSet<u8>| numbers.iter().copied().map(receiver).collect::<Vec<_>>();
            let before = Receivers::new(&of(&first)).expect("at most 64");
            let after = before.become_those_of(&Receivers::new(&of(&second)).expect("at most 64")).expect("room");
            prop_assert_eq!(after.len(), second.len());
            for (place, receiver) in before.iter().filter(|(_, receiver)| after.contains(receiver)) {
                prop_assert_eq!(after.get(place), Some(receiver));
            }
        }
    }
}
