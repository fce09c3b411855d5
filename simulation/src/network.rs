//! Links, and what is under way on them.

use fastrand::Rng;
use flowlane_wire::Mac;
use std::collections::BTreeMap;
use std::fmt;

/// The longest that a link keeps anything, in milliseconds.
pub const LINK_MAX: u64 = 4_000;

/// A host or a switch, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A host. It has one port, number 1.
    Host(usize),
    /// A switch. Its ports are numbered from 1.
    Switch(usize),
}

/// Where a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Whose port.
    pub node: Node,
    /// Which port.
    pub port: u16,
}

/// What is on a link.
#[derive(Clone, Debug)]
pub enum Payload {
    /// An Ethernet frame with an IP packet.
    Frame(Frame),
    /// A DHCPv6 message.
    Dhcp6(Message),
}

/// A frame, and what the simulation knows of it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The octets, from the destination address on.
    pub octets: Vec<u8>,
    /// Its number in the run.
    pub number: u64,
    /// Who has to get it; nobody, if it was forged.
    pub to: Option<usize>,
    /// The switches that have forwarded it.
    pub crossed: Vec<usize>,
}

/// A DHCPv6 message, and where it came from and goes to.
#[derive(Clone, Debug)]
pub struct Message {
    /// The source address of its frame.
    pub from: Mac,
    /// To servers, or else to clients.
    pub to_servers: bool,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// How often links do what they should not, of 1,000.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Lose it.
    pub lose: u32,
    /// Deliver it twice.
    pub duplicate: u32,
    /// Keep it, so that others overtake it.
    pub delay: u32,
}

/// All links: point to point.
#[derive(Default)]
pub struct Network {
    peers: BTreeMap<Place, Place>,
    /// Until when a link is cut, by either end.
    cut: BTreeMap<Place, u64>,
}

impl Network {
    /// Connects two ports.
    pub fn connect(&mut self, a: Place, b: Place) {
        self.peers.insert(a, b);
        self.peers.insert(b, a);
    }

    /// All ports that a link ends at.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.peers.keys().copied()
    }

    /// Who is at the other end.
    pub fn peer(&self, place: Place) -> Option<Place> {
        self.peers.get(&place).copied()
    }

    /// Cuts a link for a time.
    pub fn cut(&mut self, place: Place, until: u64) {
        if let Some(peer) = self.peer(place) {
            self.cut.extend([(place, until), (peer, until)]);
        }
    }

    /// When what is sent now arrives: never, once or twice.
    pub fn arrivals(&self, from: Place, faults: Faults, now: u64, random: &mut Rng) -> Vec<u64> {
        let is_cut = self.cut.get(&from).is_some_and(|until| *until > now);
        let happens = |often: u32, random: &mut Rng| random.u32(0..1000) < often;
        if is_cut || happens(faults.lose, random) {
            return Vec::new();
        }
        let copies = if happens(faults.duplicate, random) { 2 } else { 1 };
        let arrival = |random: &mut Rng| {
            let most = if happens(faults.delay, random) { LINK_MAX } else { 5 };
            now + random.u64(1..=most)
        };
        (0..copies).map(|_| arrival(random)).collect()
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(number) => write!(f, "host {number}"),
            Self::Switch(number) => write!(f, "switch {number}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.node, self.port)
    }
}
