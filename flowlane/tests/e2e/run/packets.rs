//! What a host has sent, packet by packet.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use flowlane_lab::{Direction, Frame, Link, Mac, Tap};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The first two octets of the flow addresses that a switch of the default block allots.
pub const BLOCK: [u8; 2] = [0xa2, 0xf1];

/// The addresses of an IP packet, and of its frame.
#[derive(Clone, Debug)]
pub struct Packet {
    pub destination: Mac,
    pub source: Mac,
    pub to: IpAddr,
    /// 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6.
    pub protocol: u8,
    pub from_port: u16,
    pub to_port: u16,
    /// A TCP segment that opens a connection, or answers one that does.
    pub syn: bool,
    /// A TCP segment that carries nothing and neither opens nor ends a connection. The kernel sends the last ones of a
    /// connection when its program has ended, and the run with it.
    pub bare: bool,
    /// The sequence number of a TCP segment that ends a connection.
    pub fin: Option<u32>,
}

impl Packet {
    fn of(frame: &Frame) -> Option<Self> {
        let address = |at: usize| Some(Mac(frame.bytes.get(at..at + 6)?.try_into().ok()?));
        let packet = LaxSlicedPacket::from_ethernet(&frame.bytes).ok()?;
        let (to, protocol) = match packet.net? {
            LaxNetSlice::Ipv4(ip) => {
                let header = ip.header();
                (header.destination_addr().into(), header.protocol().0)
            }
            LaxNetSlice::Ipv6(ip) => {
                let header = ip.header();
                (header.destination_addr().into(), ip.payload().ip_number.0)
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let (from_port, to_port, syn, bare, fin) = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let bare = tcp.payload().is_empty() && !tcp.syn() && !tcp.fin();
                let fin = tcp.fin().then_some(tcp.sequence_number());
                (tcp.source_port(), tcp.destination_port(), tcp.syn(), bare, fin)
            }
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port(), false, false, None),
            _ => (0, 0, false, false, None),
        };
        let (destination, source) = (address(0)?, address(6)?);
        Some(Self { destination, source, to, protocol, from_port, to_port, syn, bare, fin })
    }

    /// Whether it is sent *to* a flow address (claims 3 and 10).
    pub fn is_to_a_flow(&self) -> bool {
        self.destination.0.starts_with(&BLOCK)
    }

    /// Whether it is sent *from* a flow address (claims 2 and 7).
    pub fn is_from_a_flow(&self) -> bool {
        self.source.0.starts_with(&BLOCK)
    }

    /// Whether neither address is a flow's.
    pub fn is_plain(&self) -> bool {
        !self.is_to_a_flow() && !self.is_from_a_flow()
    }
}

/// Sees the unicast IP packets that pass an interface in one direction. Their payload is not kept.
pub struct Watch {
    tap: Tap,
    seen: Arc<Mutex<Vec<Packet>>>,
}

impl Watch {
    pub fn start(link: &Link, direction: Direction) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tap = Tap::start(link, {
            let seen = Arc::clone(&seen);
            move |frame| {
                if frame.direction == direction
                    && let Some(packet) = Packet::of(frame).filter(|packet| !packet.to.is_multicast())
                {
                    lock(&seen).push(packet);
                }
                false
            }
        });
        Self { tap: tap.expect("a tap"), seen }
    }

    /// The packets so far.
    pub fn packets(&self) -> Vec<Packet> {
        lock(&self.seen).clone()
    }

    /// All packets that `wanted` is true of, but for bare acknowledgements and for what ends a connection once more: the kernel
    /// repeats that when an answer is late, also after the run has ended.
    pub fn stop(self, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let capture = self.tap.stop().expect("a capture");
        assert_eq!(capture.lost, 0, "the tap was too slow");
        let mut ended = BTreeSet::new();
        let mut is_first = |packet: &Packet| {
            packet.fin.is_none_or(|fin| ended.insert((packet.to, packet.from_port, packet.to_port, fin)))
        };
        lock(&self.seen).drain(..).filter(|packet| !packet.bare && is_first(packet) && wanted(packet)).collect()
    }
}

/// All packets carry a flow address, and there are some. Where a switch answers late, as it may on a busy machine, those of a
/// program that neither requires flows nor has named its destinations leave plainly.
pub fn assert_in_flows<'a>(packets: impl IntoIterator<Item = &'a Packet>) {
    let mut packets = packets.into_iter().peekable();
    assert!(packets.peek().is_some(), "there are none");
    let stranger = packets.find(|packet| packet.is_plain());
    assert!(stranger.is_none(), "{stranger:?}");
}

/// How many connections packets belong to. Those that open one can be sent more than once.
pub fn connections<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> usize {
    let opening = packets.into_iter().filter(|packet| packet.syn);
    opening.map(|packet| (packet.to, packet.from_port, packet.to_port)).collect::<BTreeSet<_>>().len()
}

fn lock(seen: &Mutex<Vec<Packet>>) -> MutexGuard<'_, Vec<Packet>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
