//! What a switch knows: flows, ports, groups, and whose flow a flagged packet is of.

use crate::Meter;
use std::{collections::BTreeMap, net::IpAddr};

/// An Ethernet address, first octet on the wire first.
pub type Mac = [u8; 6];

/// A port of the switch, 1 and up.
pub type PortNumber = u16;

/// All that the data path of a switch knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// The addresses that the switch allots.
    pub block: Block,
    /// The flows, by their flow addresses.
    pub flows: BTreeMap<Mac, Flow>,
    /// The ports, by number.
    pub ports: BTreeMap<PortNumber, Port>,
    /// The multicast groups, by number: the receivers, by place.
    pub groups: BTreeMap<u32, BTreeMap<usize, Receiver>>,
    /// The flow addresses of flagged packets; none for packets that get no flow.
    pub tuples: BTreeMap<Tuple, Option<Mac>>,
}

/// The addresses that start with the first `bits` of `prefix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The first address.
    pub prefix: Mac,
    /// How many bits all addresses have in common.
    pub bits: usize,
}

/// A flow: who may send it, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The port that its frames come in by (claim 19).
    pub port: PortNumber,
    /// The tick of 2^30 ns of the monotonic clock at which the lease ends; none for a lease that does not.
    pub expires: Option<u32>,
    /// Where its frames go.
    pub next: Next,
    /// Where they go while the port of the next hop is down.
    pub backup: Option<Hop>,
    /// How fast it may send; none for a flow without limit.
    pub meter: Option<Meter>,
    /// What is done to the DSCP of its packets when they are sent.
    pub restore: Restore,
    /// Frames sent, as they are on the wire.
    pub packets: u64,
    /// Their octets, without preamble and check sequence.
    pub bytes: u64,
}

/// Where the frames of a flow go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nobody knows yet; so many frames wait (claim 13).
    Waiting(u32),
    /// There is no way.
    Unreachable,
    /// To one host (claim 17).
    Hop(Hop),
    /// To the receivers of a group (claim 20).
    Group(u32),
}

/// The second host address, and the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The Ethernet address that frames are sent to: a host's, or a flow address of the next switch.
    pub mac: Mac,
    /// The port that they leave by.
    pub port: PortNumber,
    /// Whether the hop leads to another subnet.
    pub routed: bool,
}

/// What is done to the DSCP: the far edge takes the virtual-circuit flag off again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    /// Nothing.
    Keep,
    /// These bits are cleared.
    Clear(u8),
    /// It becomes this.
    Set(u8),
}

/// A port. One that is not in the table is like the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Its own Ethernet address.
    pub mac: Mac,
    /// The most octets of a packet, without the Ethernet header.
    pub mtu: u32,
    /// Whether frames can be sent by it now.
    pub up: bool,
    /// Whether frames leave with the port's own address as their source.
    pub own_source: bool,
    /// By what the virtual-circuit flag is known; none where nobody looks for it.
    pub flag: Option<Flag>,
    /// Whether the flag is added to packets that come in, instead of being read (claim 23).
    pub marks: bool,
    /// Whether flagged packets that have no flow yet are refused.
    pub no_new_flows: bool,
    /// How many flagged frames wait for a flow of their own.
    pub asking: u64,
}

/// A packet is flagged if the bits of its DSCP under `mask` are `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// 1 to 63.
    pub mask: u8,
    /// 0 to 63.
    pub value: u8,
}

/// One receiver of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Where its copies go.
    pub hop: Hop,
    /// Copies sent, as frames on the wire.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Frames of which there was no copy.
    pub missed: u64,
}

/// Whose packet a flagged one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// The port that it came in by.
    pub ingress: PortNumber,
    /// IP source.
    pub source: IpAddr,
    /// IP destination.
    pub destination: IpAddr,
    /// The protocol behind all IPv6 extension headers.
    pub protocol: u8,
    /// Source and destination port, 0 where there are none, and in fragments.
    pub ports: (u16, u16),
}

impl Switch {
    /// A port, whether it is in the table or not.
    pub fn port(&self, number: PortNumber) -> Port {
        self.ports.get(&number).copied().unwrap_or_default()
    }
}

impl Receiver {
    /// One that has counted nothing yet.
    pub fn new(hop: Hop) -> Self {
        Self { hop, packets: 0, bytes: 0, missed: 0 }
    }
}

impl Block {
    /// Whether an address is one of these.
    pub fn contains(&self, address: Mac) -> bool {
        let bit = |mac: Mac, place: usize| mac[place / 8] >> (7 - place % 8) & 1;
        (0..self.bits).all(|place| bit(address, place) == bit(self.prefix, place))
    }
}
