//! What the kernel hands to userspace through the ring buffer: a header, and octets of a frame.
//!
//! All numbers are in the machine's own byte order.

/// Why a frame comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PuntKind {
    /// The frame waits for the next host of its flow: [`PuntHeader`], then `captured` octets.
    Waiting = 1,
    /// A frame that has ended, for people to see: [`PuntHeader`], then the first [`SNAP`] octets as they came, then
    /// the first [`SNAP`] octets as they were sent.
    Seen = 2,
    /// A flagged frame whose addresses and ports have no flow yet: [`PuntHeader`], then `captured` octets.
    Asking = 3,
}

/// How many octets of a frame are kept for people to see.
pub const SNAP: usize = 256;

/// What precedes the octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PuntHeader {
    /// When, in nanoseconds of the monotonic clock.
    pub nanos: u64,
    /// A [`PuntKind`].
    pub kind: u32,
    /// The slot of a flow that waits.
    pub slot: u32,
    /// How many octets of the frame follow.
    pub captured: u32,
    /// The frame's length, without a tag beside it.
    pub length: u32,
    /// The VLAN tag that the kernel keeps beside the frame: protocol in the high 16 bits, tag in the low, both as
    /// numbers; 0 is none.
    pub tag: u32,
    /// The port that the frame came in by.
    pub ingress: u16,
    /// The port that a seen frame was sent by, else 0.
    pub egress: u16,
    /// The payload of each segment where the frame is a super-packet, else 0.
    pub gso_size: u16,
    /// The number of the [`End`](crate::End) of a seen frame.
    pub end: u8,
    /// Nothing.
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<PuntHeader>() == 40);

impl PuntHeader {
    /// Its size in octets.
    pub const LEN: usize = size_of::<Self>();

    /// Reads a header from the start of a record. Nothing where the record is shorter.
    pub fn parse(record: &[u8]) -> Option<Self> {
        fn take<const N: usize>(record: &[u8], offset: usize) -> Option<[u8; N]> {
            record.get(offset..)?.first_chunk().copied()
        }
        let record = record.get(..Self::LEN)?;
        Some(Self {
            nanos: u64::from_ne_bytes(take(record, 0)?),
            kind: u32::from_ne_bytes(take(record, 8)?),
            slot: u32::from_ne_bytes(take(record, 12)?),
            captured: u32::from_ne_bytes(take(record, 16)?),
            length: u32::from_ne_bytes(take(record, 20)?),
            tag: u32::from_ne_bytes(take(record, 24)?),
            ingress: u16::from_ne_bytes(take(record, 28)?),
            egress: u16::from_ne_bytes(take(record, 30)?),
            gso_size: u16::from_ne_bytes(take(record, 32)?),
            end: *record.get(34)?,
            reserved: [0; 5],
        })
    }
}

/// The most octets of a frame that may wait: a super-packet with its headers.
pub const WAITING_MAX: usize = 66_048;
