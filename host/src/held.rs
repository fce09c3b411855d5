//! Packets that wait for their flow: kept in their order, and sent with its address or as they are.

use flowlane_allot::Field;
use flowlane_ports::af_packet::{Offload, Sender};
use flowlane_program::Held;
use flowlane_tables::RunFlow;
use flowlane_wire::{Mac, header::ethernet};
use std::collections::{HashMap, hash_map::Entry};

/// How many octets wait at most; what comes then is sent as it is.
const OCTETS_MAX: usize = 64 << 20;

/// What becomes of packets that have waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They are sent with this address in this field.
    Flow(Mac, Field),
    /// They are sent as they are.
    Plain,
    /// They are dropped.
    Drop,
}

/// The packets, by the number of their destination's entry.
#[derive(Default)]
pub struct Waiting {
    packets: HashMap<u32, Vec<Packet>>,
    octets: usize,
    senders: HashMap<u32, Sender>,
}

/// One that waits.
pub struct Packet {
    ifindex: u32,
    frame: Vec<u8>,
    offload: Offload,
}

impl From<&Held<'_>> for Packet {
    fn from(held: &Held<'_>) -> Self {
        let offload = Offload::describe(held.frame, held.gso_size);
        Self { ifindex: held.ifindex, frame: held.frame.to_vec(), offload }
    }
}

impl Waiting {
    /// Keeps a packet. Nothing, or the packet, where too many wait.
    pub fn keep(&mut self, index: u32, packet: Packet) -> Option<Packet> {
        if self.octets + packet.frame.len() > OCTETS_MAX {
            return Some(packet);
        }
        self.octets += packet.frame.len();
        self.packets.entry(index).or_default().push(packet);
        None
    }

    /// Whether packets of an entry wait.
    pub fn has(&self, index: u32) -> bool {
        self.packets.contains_key(&index)
    }

    /// Sends the packets of an entry, and counts them there. How many there were.
    pub fn send(&mut self, index: u32, flow: &RunFlow, way: Way) -> u32 {
        let packets = self.packets.remove(&index).unwrap_or_default();
        let count = packets.len() as u32;
        for packet in packets {
            self.octets -= packet.frame.len();
            self.send_one(packet, flow, way);
        }
        count
    }

    /// Sends one packet that is not kept here.
    pub fn send_one(&mut self, mut packet: Packet, flow: &RunFlow, way: Way) {
        let (segments, octets) = packet.on_the_wire();
        match way {
            Way::Drop => return,
            Way::Plain => flow.passed().add(segments),
            Way::Flow(mac, field) => {
                packet.readdress(mac, field);
                if let Some(path) = flow.paths().first() {
                    path.packets().add(segments);
                    path.bytes().add(octets);
                }
            }
        }
        let sender = match self.senders.entry(packet.ifindex) {
            Entry::Occupied(sender) => sender.into_mut(),
            Entry::Vacant(place) => match Sender::open_past_queue(packet.ifindex) {
                Ok(sender) => place.insert(sender),
                Err(error) => return tracing::debug!(%error, "a packet that waited is lost"),
            },
        };
        if let Err(error) = sender.send_one(&packet.frame, packet.offload) {
            tracing::debug!(%error, "a packet that waited is lost");
            self.senders.remove(&packet.ifindex);
        }
    }

    /// An interface is gone; another may get its number.
    pub fn interface_gone(&mut self, ifindex: u32) {
        self.senders.remove(&ifindex);
    }
}

impl Packet {
    fn readdress(&mut self, mac: Mac, field: Field) {
        let at = match field {
            Field::Destination => ethernet::DESTINATION,
            Field::Source => ethernet::SOURCE,
        };
        if let Some(octets) = self.frame.get_mut(at..at + mac.0.len()) {
            octets.copy_from_slice(&mac.0);
        }
    }

    /// How many packets it is on the wire, and how many octets they have together.
    fn on_the_wire(&self) -> (u64, u64) {
        let length = self.frame.len() as u64;
        let Some(of) = self.offload.segmentation.filter(|of| of.size != 0) else { return (1, length) };
        let headers = u64::from(of.header_len).min(length);
        let segments = (length - headers).div_ceil(u64::from(of.size)).max(1);
        (segments, length + (segments - 1) * headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowlane_ports::af_packet::{SegmentKind, Segmentation};

    fn packet(len: usize, segmentation: Option<Segmentation>) -> Packet {
        Packet { ifindex: 1, frame: vec![0; len], offload: Offload { checksum: None, segmentation } }
    }

    #[test]
    fn a_super_packet_counts_as_its_segments() {
        let of = Segmentation { kind: SegmentKind::Tcp4, size: 1000, header_len: 54, ecn: false };
        assert_eq!(packet(54 + 2500, Some(of)).on_the_wire(), (3, 2500 + 3 * 54));
        assert_eq!(packet(60, None).on_the_wire(), (1, 60));
    }

    #[test]
    fn the_flow_address_stands_in_the_field_that_was_asked_for() {
        let mac = Mac([1, 2, 3, 4, 5, 6]);
        for (field, at) in [(Field::Destination, 0), (Field::Source, 6)] {
            let mut packet = packet(14, None);
            packet.readdress(mac, field);
            let mut expected = vec![0; 14];
            expected[at..at + 6].copy_from_slice(&mac.0);
            assert_eq!(packet.frame, expected);
        }
    }

    #[test]
    fn no_more_packets_wait_than_there_is_memory_for() {
        let mut waiting = Waiting::default();
        assert!((0..1_024).all(|_| waiting.keep(7, packet(65_536, None)).is_none()));
        assert!(waiting.keep(8, packet(14, None)).is_some());
        assert_eq!(waiting.send(7, &RunFlow::default(), Way::Drop), 1_024);
        assert!(waiting.keep(8, packet(14, None)).is_none());
    }
}
