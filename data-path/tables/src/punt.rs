//! What the kernel hands to the slow path: a header and a frame.

/// Why a frame comes to the slow path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PuntKind {
    /// The frame waits for the next host of its flow.
    Resolve = 1,
    /// A copy of a frame that ended, for `capture`.
    Capture = 2,
}

/// What precedes the frame in the ring buffer. All numbers in the machine's own byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PuntHeader {
    /// A [`PuntKind`].
    pub kind: u32,
    /// The ingress port.
    pub port: u16,
    /// The [`End`](crate::End) of the frame, for a capture.
    pub end: u8,
    /// The egress port's low octets are in `egress`; this says whether `rewritten` holds the header as sent.
    pub sent: u8,
    /// The slot of the flow, for a frame that waits.
    pub slot: u32,
    /// How many octets of the frame follow.
    pub captured: u32,
    /// The frame's length, tags included.
    pub length: u32,
    /// The segment size where the frame is a super-packet of the segmentation offload, else 0.
    pub gso_size: u16,
    /// The egress port of a frame that was sent.
    pub egress: u16,
    /// The VLAN tag that the kernel keeps beside the frame: protocol (high 16 bits) and tag, else 0.
    pub vlan: u32,
    /// Destination and source address as the frame was sent.
    pub rewritten: [u8; 12],
    /// When, in nanoseconds of the monotonic clock.
    pub time: u64,
}

/// The most octets of a frame that go to the slow path: a super-packet with its headers.
pub const PUNT_FRAME_MAX: usize = 65_536 + 256;
