//! Frames for userspace, copied whole into a ring buffer.

use crate::frame::{SkbFrame, XdpFrame};
use aya_ebpf::{
    btf_maps::RingBuf,
    helpers::{bpf_skb_load_bytes, bpf_xdp_load_bytes},
};
use core::ffi::c_long;
use flowlane_pipeline::Frame;
use flowlane_tables::WAITING_MAX;

/// A ring buffer of records that differ in size. The loader sets its own size.
pub type Ring = RingBuf<u8, 4096>;

/// Room for frames comes in three sizes, because the verifier wants each reservation's to be a constant: a plain frame, a
/// jumbo frame, a super-packet.
const PLAIN: usize = 2_048;
const JUMBO: usize = 10_240;

#[repr(C)]
struct Record<H, const N: usize> {
    header: H,
    frame: [u8; N],
}

/// Copies octets out of a frame's buffers.
pub trait Load {
    fn load(&self, to: *mut u8, len: u32) -> c_long;
    fn buffer_len(&self) -> u32;
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
}

/// Queues an XDP frame behind a header. Whether the ring took it.
#[inline(always)]
pub fn put_xdp<H: 'static>(ring: &Ring, frame: &XdpFrame<'_>, header: H) -> bool {
    let (len, sure) = (frame.buffer_len() as usize, || true);
    if len <= PLAIN {
        put::<H, PLAIN, _>(ring, frame, header, sure)
    } else {
        put::<H, JUMBO, _>(ring, frame, header, sure)
    }
}

/// Queues a socket buffer behind a header. `sure` is asked last, when the record is whole, and may still call it off.
/// Whether the ring took it.
#[inline(always)]
pub fn put_skb<H: 'static>(ring: &Ring, frame: &SkbFrame, header: H, sure: impl FnOnce() -> bool) -> bool {
    let len = frame.buffer_len() as usize;
    if len <= PLAIN {
        put::<H, PLAIN, _>(ring, frame, header, sure)
    } else if len <= JUMBO {
        put::<H, JUMBO, _>(ring, frame, header, sure)
    } else {
        put::<H, WAITING_MAX, _>(ring, frame, header, sure)
    }
}

#[inline(always)]
fn put<H: 'static, const N: usize, L: Load>(ring: &Ring, frame: &L, header: H, sure: impl FnOnce() -> bool) -> bool {
    let Some(len) = bounded(frame.buffer_len(), N as u32) else { return false };
    let Some(mut entry) = ring.reserve_untyped::<Record<H, N>>(0) else { return false };
    let record = entry.as_mut_ptr();
    // SAFETY: the record was just reserved, and `len` is at most its room.
    let loaded = unsafe {
        (&raw mut (*record).header).write(header);
        frame.load((&raw mut (*record).frame).cast(), len)
    };
    let whole = loaded == 0 && sure();
    if whole {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
    whole
}

/// A length from 1 to `most`, in a form whose bounds the verifier sees: one compare of the very register that the
/// helper is called with.
#[inline(always)]
pub fn bounded(len: u32, most: u32) -> Option<u32> {
    let last = core::hint::black_box(len.wrapping_sub(1));
    if last < most { Some(last + 1) } else { None }
}
