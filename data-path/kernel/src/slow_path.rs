//! What goes to userspace: frames that wait for their next host, and, while somebody looks, every frame.

use crate::{
    frame::{SkbFrame, XdpFrame},
    maps::{PUNTS, SHOW},
};
use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes, bpf_xdp_load_bytes},
    maps::ring_buf::RingBufEntry,
};
use core::ffi::c_long;
use flowlane_pipeline::{Frame, Verdict};
use flowlane_tables::{End, Kind, PuntHeader, PuntKind, SNAP, WAITING_MAX};
use flowlane_wire::{PortId, SlotIndex};

/// Room for waiting frames comes in three sizes, because the verifier wants each reservation's to be a constant: a plain
/// frame, a jumbo frame, a super-packet.
const PLAIN: usize = 2_048;
const JUMBO: usize = 10_240;

#[repr(C)]
struct Record<const N: usize> {
    header: PuntHeader,
    frame: [u8; N],
}

#[repr(C)]
struct SeenRecord {
    header: PuntHeader,
    before: [u8; SNAP],
    after: [u8; SNAP],
}

/// Copies octets out of a frame's buffers.
pub trait Load {
    fn load(&self, to: *mut u8, len: u32) -> c_long;
    fn buffer_len(&self) -> u32;
    fn describe(&self, header: &mut PuntHeader);
}

impl Load for XdpFrame<'_> {
    #[inline(always)]
    fn load(&self, to: *mut u8, len: u32) -> c_long {
        // SAFETY: the caller reserved `len` octets at `to`; the verifier checks it again.
        unsafe { bpf_xdp_load_bytes(self.raw(), 0, to.cast(), len) }
    }

    #[inline(always)]
    fn buffer_len(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn describe(&self, _: &mut PuntHeader) {}
}

impl Load for SkbFrame {
    #[inline(always)]
    fn load(&self, to: *mut u8, len: u32) -> c_long {
        // SAFETY: the caller reserved `len` octets at `to`; the verifier checks it again.
        unsafe { bpf_skb_load_bytes(self.raw().cast(), 0, to.cast(), len) }
    }

    #[inline(always)]
    fn buffer_len(&self) -> u32 {
        SkbFrame::buffer_len(self)
    }

    #[inline(always)]
    fn describe(&self, header: &mut PuntHeader) {
        header.tag = self.tag();
        header.gso_size = self.gso_size() as u16;
    }
}

/// Queues an XDP frame for the slow path. Whether the queue took it.
#[inline(always)]
pub fn wait_xdp(frame: &XdpFrame<'_>, ingress: PortId, why: Why) -> bool {
    let len = frame.buffer_len() as usize;
    if len <= PLAIN { wait::<PLAIN, _>(frame, ingress, why) } else { wait::<JUMBO, _>(frame, ingress, why) }
}

/// What a frame waits for.
#[derive(Clone, Copy)]
pub enum Why {
    /// For the next host of the flow in this slot.
    Resolve(SlotIndex),
    /// For a flow.
    Ask,
}

/// Queues a socket buffer for the slow path. Whether the queue took it.
#[inline(always)]
pub fn wait_skb(frame: &SkbFrame, ingress: PortId, why: Why) -> bool {
    let len = frame.buffer_len() as usize;
    if len <= PLAIN {
        wait::<PLAIN, _>(frame, ingress, why)
    } else if len <= JUMBO {
        wait::<JUMBO, _>(frame, ingress, why)
    } else {
        wait::<WAITING_MAX, _>(frame, ingress, why)
    }
}

#[inline(always)]
fn wait<const N: usize, L: Load>(frame: &L, ingress: PortId, why: Why) -> bool {
    let Some(len) = bounded(frame.buffer_len(), N as u32) else { return false };
    let Some(mut entry) = PUNTS.reserve_untyped::<Record<N>>(0) else { return false };
    let record = entry.as_mut_ptr();
    let (kind, slot) = match why {
        Why::Resolve(slot) => (PuntKind::Waiting as u32, slot.0),
        Why::Ask => (PuntKind::Asking as u32, 0),
    };
    let mut header = PuntHeader {
        nanos: now(),
        kind,
        slot,
        captured: len,
        length: len,
        ingress: ingress.0,
        ..PuntHeader::default()
    };
    frame.describe(&mut header);
    // SAFETY: the record was just reserved, and `len` is at most its room.
    let loaded = unsafe {
        (&raw mut (*record).header).write(header);
        frame.load((&raw mut (*record).frame).cast(), len)
    };
    if loaded == 0 {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
    loaded == 0
}

/// A frame that is shown to userspace: its octets as it came are taken before the pipeline touches it.
pub struct Seen(Option<RingBufEntry<SeenRecord>>);

impl Seen {
    /// Takes the octets of a frame that has just come.
    #[inline(always)]
    pub fn begin<L: Load>(frame: &L) -> Self {
        if SHOW.load() == 0 {
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
    pub fn finish<L: Load>(&mut self, frame: &L, ingress: PortId, verdict: Verdict, end: End) {
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

/// A length from 1 to `most`, in a form whose bounds the verifier sees: one compare of the very register that the
/// helper is called with.
#[inline(always)]
fn bounded(len: u32, most: u32) -> Option<u32> {
    let last = core::hint::black_box(len.wrapping_sub(1));
    if last < most { Some(last + 1) } else { None }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
