//! What goes to userspace: frames that wait for their next host, and, while somebody looks, every frame.

use crate::maps::{PUNTS, SHOW};
use aya_ebpf::{helpers::bpf_ktime_get_ns, maps::ring_buf::RingBufEntry};
use flowlane_kernel::{
    frame::{SkbFrame, XdpFrame},
    ring::{self, Load, bounded},
};
use flowlane_pipeline::{Frame, Verdict};
use flowlane_tables::{End, Kind, PuntHeader, PuntKind, SNAP};
use flowlane_wire::{PortId, SlotIndex};

#[repr(C)]
struct SeenRecord {
    header: PuntHeader,
    before: [u8; SNAP],
    after: [u8; SNAP],
}

/// What is said of a frame beside its octets.
pub trait Describe: Load {
    fn describe(&self, header: &mut PuntHeader);
}

impl Describe for XdpFrame<'_> {
    #[inline(always)]
    fn describe(&self, _: &mut PuntHeader) {}
}

impl Describe for SkbFrame {
    #[inline(always)]
    fn describe(&self, header: &mut PuntHeader) {
        header.tag = self.tag();
        header.gso_size = self.gso_size() as u16;
    }
}

/// What a frame waits for. No enum: the verifier would find parts of it that nobody has written.
#[derive(Clone, Copy)]
pub struct Why {
    kind: PuntKind,
    slot: SlotIndex,
}

impl Why {
    /// For a flow.
    pub const ASK: Self = Self { kind: PuntKind::Asking, slot: SlotIndex(0) };

    /// For the next host of the flow in this slot.
    #[inline(always)]
    pub fn resolve(slot: SlotIndex) -> Self {
        Self { kind: PuntKind::Waiting, slot }
    }
}

/// Queues an XDP frame for the slow path. Whether the queue took it.
#[inline(always)]
pub fn wait_xdp(frame: &XdpFrame<'_>, ingress: PortId, why: Why) -> bool {
    ring::put_xdp(&PUNTS, frame, header(frame, ingress, why))
}

/// Queues a socket buffer for the slow path. Whether the queue took it.
#[inline(always)]
pub fn wait_skb(frame: &SkbFrame, ingress: PortId, why: Why) -> bool {
    ring::put_skb(&PUNTS, frame, header(frame, ingress, why), || true)
}

#[inline(always)]
fn header<D: Describe>(frame: &D, ingress: PortId, why: Why) -> PuntHeader {
    let mut header = PuntHeader {
        nanos: now(),
        kind: why.kind as u32,
        slot: why.slot.0,
        captured: frame.buffer_len(),
        length: frame.buffer_len(),
        ingress: ingress.0,
        ..PuntHeader::default()
    };
    frame.describe(&mut header);
    header
}

/// A frame that is shown to userspace: its octets as it came are taken before the pipeline touches it.
pub struct Seen(Option<RingBufEntry<SeenRecord>>);

impl Seen {
    /// Whether frames are to be shown.
    #[inline(always)]
    pub fn is_wanted() -> bool {
        SHOW.load() != 0
    }

    /// Takes the octets of a frame that has just come.
    #[inline(always)]
    pub fn begin<L: Load>(frame: &L) -> Self {
        if !Self::is_wanted() {
            return Self(None);
        }
        let Some(mut entry) = PUNTS.reserve_untyped::<SeenRecord>(0) else { return Self(None) };
        let record = entry.as_mut_ptr();
        // SAFETY: the record was just reserved, and `snap` is at most its room.
        unsafe { load_snap(frame, (&raw mut (*record).before).cast()) };
        Self(Some(entry))
    }

    /// Does not show the frame: another program does.
    #[inline(always)]
    pub fn forget(&mut self) {
        if let Some(entry) = self.0.take() {
            entry.discard(0);
        }
    }

    /// Shows the frame, with how it ended.
    #[inline(always)]
    pub fn finish<D: Describe>(&mut self, frame: &D, ingress: PortId, verdict: Verdict, end: End) {
        let Some(mut entry) = self.0.take() else { return };
        let record = entry.as_mut_ptr();
        let length = frame.buffer_len();
        let mut header = PuntHeader {
            nanos: now(),
            kind: PuntKind::Seen as u32,
            captured: length.min(SNAP as u32),
            length,
            ingress: ingress.0,
            end: end as u8,
            ..PuntHeader::default()
        };
        if let (Verdict::Forward { port, .. }, Kind::Forwarded) = (verdict, end.kind()) {
            header.egress = port.0;
        }
        frame.describe(&mut header);
        // SAFETY: the record was reserved by `begin`.
        unsafe {
            (&raw mut (*record).header).write(header);
            load_snap(frame, (&raw mut (*record).after).cast());
        }
        entry.submit(0);
    }
}

/// Copies the start of a frame.
///
/// # Safety
/// `to` has room for [`SNAP`] octets.
#[inline(always)]
unsafe fn load_snap<L: Load>(frame: &L, to: *mut u8) {
    if let Some(snap) = bounded(frame.buffer_len().min(SNAP as u32), SNAP as u32) {
        frame.load(to, snap);
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
