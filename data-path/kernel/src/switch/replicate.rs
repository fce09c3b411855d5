//! Multicast in the kernel: a clone of the socket buffer for each receiver. A clone shares the payload; only its headers are
//! copied when they are rewritten.

use crate::maps::Kernel;
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_clone_redirect, bpf_loop},
};
use core::ffi::{c_long, c_void};
use flowlane_kernel::frame::SkbFrame;
use flowlane_pipeline::{Copies, Tables};
use flowlane_tables::{End, GroupIndex};
use flowlane_wire::{PortId, SlotIndex};

/// What the loop carries from receiver to receiver.
struct State<'a> {
    skb: *mut __sk_buff,
    copies: Copies<'a>,
}

/// Sends the copies of a frame. How the frame ends.
///
/// The helper loops, and not the program: the verifier then looks at one turn and not at 64 of them.
#[inline(always)]
pub fn replicate(frame: &mut SkbFrame, ingress: PortId, slot: SlotIndex, group: GroupIndex, kernel: &Kernel) -> End {
    let copies = match Copies::begin(frame, ingress, slot, group, kernel, &mut ()) {
        Ok(copies) => copies,
        Err(end) => return end,
    };
    let mut state = State { skb: frame.raw(), copies };
    each_place(&mut state);
    if state.copies.go_on(frame, &mut ()) {
        each_place(&mut state);
    }
    state.copies.end()
}

#[inline(always)]
fn each_place(state: &mut State<'_>) {
    let places = state.copies.places() as u32;
    // SAFETY: the callback has the form that the helper wants, and the state outlives the call.
    unsafe { bpf_loop(places, one_place as *mut c_void, (&raw mut *state).cast(), 0) };
}

/// The turn of one place.
///
/// # Safety
/// `state` is the one that [`each_place`] gave to the helper.
unsafe extern "C" fn one_place(place: u64, state: *mut c_void) -> c_long {
    // SAFETY: see above; nobody else has it while the helper loops.
    let state = unsafe { &mut *state.cast::<State<'_>>() };
    let kernel = Kernel::new();
    let mut frame = SkbFrame::again(state.skb);
    let send = &mut |frame: &mut SkbFrame, port| send(frame, &kernel, port);
    state.copies.copy(&mut frame, place as usize, &kernel, &mut (), send);
    0
}

/// Sends a copy of a socket buffer as it is now. Whether it was taken.
#[inline(always)]
fn send(frame: &SkbFrame, kernel: &Kernel, port: PortId) -> bool {
    let Some(entry) = kernel.port(port) else { return false };
    // SAFETY: the context that the program was called with. The helper makes a copy, and makes the headers of this one
    // writable again; pointers into it are read anew at each access.
    unsafe { bpf_clone_redirect(frame.raw(), entry.ifindex(), 0) == 0 }
}
