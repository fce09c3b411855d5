//! Frames that the kernel hands to userspace.

use aya::maps::{MapData, RingBuf};
use flowlane_tables::{End, PuntHeader, PuntKind, SNAP};
use flowlane_wire::{PortId, SlotIndex};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The queue from the kernel. Its file descriptor is readable while there is something in it.
pub struct Punts(RingBuf<MapData>);

/// One record of the queue.
#[derive(Debug)]
pub enum Punt<'a> {
    /// A frame waits for the next host of its flow.
    Waiting {
        /// The flow's slot.
        slot: SlotIndex,
        /// The port that it came in by.
        ingress: PortId,
        /// The frame, without a tag beside it.
        frame: &'a [u8],
        /// The VLAN tag that travels beside the frame: protocol in the high 16 bits, tag in the low; 0 is none.
        tag: u32,
        /// The payload of each segment of a super-packet, else 0.
        gso_size: u16,
    },
    /// A flagged frame whose addresses and ports have no flow yet.
    Asking {
        /// The port that it came in by.
        ingress: PortId,
        /// The frame, without a tag beside it.
        frame: &'a [u8],
        /// The VLAN tag beside the frame, as of a waiting one.
        tag: u32,
        /// The payload of each segment of a super-packet, else 0.
        gso_size: u16,
    },
    /// A frame has ended.
    Seen {
        /// When, in nanoseconds of the monotonic clock.
        nanos: u64,
        /// The port that it came in by.
        ingress: PortId,
        /// The port that it left by, if it did.
        egress: Option<PortId>,
        /// How it ended.
        end: End,
        /// Its length in octets.
        length: u32,
        /// Its first octets as it came.
        before: &'a [u8],
        /// Its first octets as it was sent; meaningless if it was not.
        after: &'a [u8],
    },
}

impl Punts {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// Takes at most so many records out of the queue. How many there were: fewer than `most` say that it is empty.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(Punt<'_>)) -> usize {
        let mut records = 0;
        while records < most {
            let Some(record) = self.0.next() else { break };
            records += 1;
            if let Some(punt) = parse(&record) {
                take(punt);
            }
        }
        records
    }
}

fn parse(record: &[u8]) -> Option<Punt<'_>> {
    let header = PuntHeader::parse(record)?;
    let octets = record.get(PuntHeader::LEN..)?;
    let ingress = PortId(header.ingress);
    let (tag, gso_size) = (header.tag, header.gso_size);
    if header.kind == PuntKind::Waiting as u32 {
        let frame = octets.get(..header.captured as usize)?;
        return Some(Punt::Waiting { slot: SlotIndex(header.slot), ingress, frame, tag, gso_size });
    }
    if header.kind == PuntKind::Asking as u32 {
        let frame = octets.get(..header.captured as usize)?;
        return Some(Punt::Asking { ingress, frame, tag, gso_size });
    }
    if header.kind != PuntKind::Seen as u32 {
        return None;
    }
    let captured = header.captured as usize;
    Some(Punt::Seen {
        nanos: header.nanos,
        ingress,
        egress: Some(PortId(header.egress)).filter(|port| *port != PortId::NONE),
        end: End::from_number(header.end)?,
        length: header.length,
        before: octets.get(..SNAP)?.get(..captured)?,
        after: octets.get(SNAP..2 * SNAP)?.get(..captured)?,
    })
}

impl AsFd for Punts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Punts {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
