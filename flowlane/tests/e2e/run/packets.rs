//! What a host has sent, packet by packet.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use flowlane_host::engine::ASK_PATIENCE;
use flowlane_lab::{Direction, Frame, Link, Mac, Tap};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// The first two octets of the flow addresses that a switch of the default block allots.
pub const BLOCK: [u8; 2] = [0xa2, 0xf1];

/// The addresses of an IP packet, and of its frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When it left, since it was begun to watch.
    pub after: Duration,
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
}

impl Packet {
    fn of(frame: &Frame, start: SystemTime) -> Option<Self> {
        let after = frame.at.duration_since(start).unwrap_or_default();
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
        let (from_port, to_port, syn, bare) = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let bare = tcp.payload().is_empty() && !tcp.syn() && !tcp.fin();
                (tcp.source_port(), tcp.destination_port(), tcp.syn(), bare)
            }
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port(), false, false),
            _ => (0, 0, false, false),
        };
        Some(Self { after, destination: address(0)?, source: address(6)?, to, protocol, from_port, to_port, syn, bare })
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
        let (seen, start) = (Arc::new(Mutex::new(Vec::new())), SystemTime::now());
        let tap = Tap::start(link, {
            let seen = Arc::clone(&seen);
            move |frame| {
                if frame.direction == direction
                    && let Some(packet) = Packet::of(frame, start).filter(|packet| !packet.to.is_multicast())
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

    /// All packets that `wanted` is true of, but for bare acknowledgements.
    pub fn stop(self, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let capture = self.tap.stop().expect("a capture");
        assert_eq!(capture.lost, 0, "the tap was too slow");
        lock(&self.seen).drain(..).filter(|packet| !packet.bare && wanted(packet)).collect()
    }
}

/// All packets to a destination carry a flow address, from the first one that does. Those before it left plainly because the
/// switch did not answer in time, as it may on a busy machine; with `--require` there are none.
pub fn assert_in_flows<'a>(packets: impl IntoIterator<Item = &'a Packet>) {
    let mut by_destination = BTreeMap::<IpAddr, Vec<&Packet>>::new();
    packets.into_iter().for_each(|packet| by_destination.entry(packet.to).or_default().push(packet));
    assert!(!by_destination.is_empty(), "there are none");
    by_destination.values().for_each(|packets| assert_in_a_flow(packets));
}

fn assert_in_a_flow(packets: &[&Packet]) {
    let late = packets.iter().take_while(|packet| packet.is_plain()).count();
    if late > 0 {
        println!("{late} of {} packets left before the switch had answered", packets.len());
    }
    assert!(late < packets.len(), "none of {late} packets is in a flow");
    let patience = Duration::from_millis(ASK_PATIENCE);
    assert!(packets[..late].iter().all(|packet| packet.after >= patience), "they did not wait: {packets:?}");
    let stranger = packets[late..].iter().find(|packet| packet.is_plain());
    assert!(stranger.is_none(), "{stranger:?}");
}

fn lock(seen: &Mutex<Vec<Packet>>) -> MutexGuard<'_, Vec<Packet>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
