//! Packets that wait for their flow.

use aya::maps::{MapData, RingBuf};
use flowlane_tables::HeldHeader;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The queue of packets that wait. Its file descriptor is readable while there is something in it.
///
/// Each is counted in its entry ([`RunState::Waiting`](flowlane_tables::RunState::Waiting)) before it can be seen here, and
/// is nowhere else: who takes it out has to send it.
pub struct HeldPackets(RingBuf<MapData>);

/// A packet that waits.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// The entry of its destination.
    pub index: u32,
    /// Whose packet it is.
    pub run: u32,
    /// The interface that it leaves by, by index.
    pub ifindex: u32,
    /// All of it, with its Ethernet header. It has no VLAN tag; its checksum may still have to be computed.
    pub frame: &'a [u8],
    /// The payload of each segment of a super-packet, else 0.
    pub gso_size: u16,
}

impl HeldPackets {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// Takes at most so many packets out of the queue, in the order in which they were to leave. How many records there were:
    /// fewer than `most` say that it is empty.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(Held<'_>)) -> usize {
        let mut records = 0;
        while records < most {
            let Some(record) = self.0.next() else { break };
            records += 1;
            if let Some(held) = parse(&record) {
                take(held);
            }
        }
        records
    }
}

fn parse(record: &[u8]) -> Option<Held<'_>> {
    let HeldHeader { index, ifindex, length, run, gso_size, .. } = HeldHeader::parse(record)?;
    let frame = record.get(HeldHeader::LEN..)?.get(..length as usize)?;
    Some(Held { index, run, ifindex, frame, gso_size })
}

impl AsFd for HeldPackets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for HeldPackets {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
