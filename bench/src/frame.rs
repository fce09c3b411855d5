//! The frames: who they are from and to, and what they look like when they arrive.

use flowlane_wire::{Block, FlowAddress, Mac, SlotIndex};

/// The first flow's address, which is the prefix of the switch's block.
const PREFIX: Mac = Mac([0x02, 0xf1, 0, 0, 0, 0]);
const PREFIX_LEN: u32 = 16;
/// Addresses of the interfaces along the path.
pub(crate) const SOURCE: Mac = Mac([0x02, 0xbb, 0, 0, 0, 0x01]);
pub(crate) const INGRESS: Mac = Mac([0x02, 0xcc, 0, 0, 0, 0x01]);
pub(crate) const EGRESS: Mac = Mac([0x02, 0xcc, 0, 0, 0, 0x02]);
pub(crate) const NEXT_HOP: Mac = Mac([0x02, 0xaa, 0, 0, 0, 0x02]);
/// The first receiver of a group; the others follow.
pub(crate) const GROUP: Mac = Mac([0x02, 0xaa, 0, 0, 0, 0x40]);
/// The packets' IPv4 source and ports. The destination is 10.0.0.0 plus the flow's number.
pub(crate) const FROM: [u8; 4] = [192, 0, 2, 1];
pub(crate) const SOURCE_PORT: [u8; 2] = 8080u16.to_be_bytes();
pub(crate) const DESTINATION_PORT: [u8; 2] = 8081u16.to_be_bytes();

const CHECK_SEQUENCE: usize = 4;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const EVERY_BIT: u64 = (1 << 48) - 1;

/// What is sent, and what is to arrive. Where an address is none, it is that of the frame's flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// The first flow's address; the others follow.
    pub first: Mac,
    pub flows: u32,
    pub destination: Option<Mac>,
    pub source: Option<Mac>,
    pub arriving_destination: Option<Mac>,
    pub arriving_mask: u64,
    pub arriving_source: Option<Mac>,
    /// DSCP and ECN of the packets sent.
    pub traffic_class: u8,
}

impl Traffic {
    /// Frames to the flow's address that arrive as they were sent.
    pub(crate) fn unchanged(flows: u32) -> Self {
        Self {
            first: PREFIX,
            flows,
            destination: None,
            source: Some(SOURCE),
            arriving_destination: None,
            arriving_mask: EVERY_BIT,
            arriving_source: Some(SOURCE),
            traffic_class: 0,
        }
    }

    /// Frames to the flow's address that arrive from it, and at the next hop's (claim 17).
    pub(crate) fn rewritten(flows: u32) -> Self {
        Self { arriving_destination: Some(NEXT_HOP), arriving_source: None, ..Self::unchanged(flows) }
    }

    /// Frames to a router, which sends them on in its own name.
    pub(crate) fn routed(flows: u32) -> Self {
        let (destination, arriving_source) = (Some(INGRESS), Some(EGRESS));
        Self { destination, arriving_source, ..Self::rewritten(flows) }
    }
}

/// The switch's addresses, for so many flows.
pub(crate) fn block(flows: u32) -> Block {
    Block::new(PREFIX, PREFIX_LEN, flows).unwrap_or_else(|error| unreachable!("{flows} flows: {error}"))
}

/// The addresses of so many flows, from the first.
pub(crate) fn addresses(flows: u32) -> impl Iterator<Item = FlowAddress> {
    let block = block(flows);
    (0..flows).map(move |number| block.address(0, SlotIndex(number)))
}

/// The IPv4 destination of a flow's packets.
pub(crate) fn destination_of(number: u32) -> [u8; 4] {
    (10 << 24 | number).to_be_bytes()
}

/// Makes a template a frame of a flow, as the generator does, but for the checksum, which switches do not look at.
pub(crate) fn write(frame: &mut [u8], traffic: &Traffic, number: u32) {
    let flow = Mac::from_u64(PREFIX.to_u64() + u64::from(number));
    frame[..6].copy_from_slice(&traffic.destination.unwrap_or(flow).0);
    frame[6..12].copy_from_slice(&traffic.source.unwrap_or(flow).0);
    frame[15] = traffic.traffic_class;
    frame[30..34].copy_from_slice(&destination_of(number));
}

/// A UDP packet over IPv4. The generator fills in both Ethernet addresses, the IPv4 destination and the
/// checksum that depends on it. The length counts the check sequence, which is not there.
pub(crate) fn template(frame_bytes: u32) -> Vec<u8> {
    let mut frame = vec![0; frame_bytes as usize - CHECK_SEQUENCE];
    let packet = frame.len() - ETHERNET;
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(packet as u16).to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..30].copy_from_slice(&FROM);
    frame[34..36].copy_from_slice(&SOURCE_PORT);
    frame[36..38].copy_from_slice(&DESTINATION_PORT);
    frame[38..40].copy_from_slice(&((packet - IPV4) as u16).to_be_bytes());
    frame
}

/// The sum of the halfwords of the template's IPv4 header.
pub(crate) fn header_sum(template: &[u8]) -> u32 {
    let header = &template[ETHERNET..ETHERNET + IPV4];
    header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}
