//! For the userspace executor on AF_XDP sockets: what carries a flow address goes to this port's socket, all else is the
//! kernel's.

use crate::maps::Kernel;
use aya_ebpf::{Global, bindings::xdp_action::XDP_ABORTED, btf_maps::XskMap, macros::btf_map};
use flowlane_kernel::frame::XdpFrame;
use flowlane_pipeline::{Tables, is_ours};
use flowlane_tables::QUEUES_MAX;

/// Whether this copy of the program is for a port with sockets. Where it is not, the kernel leaves the question out.
#[unsafe(no_mangle)]
pub static HAS_SOCKETS: Global<u8> = Global::new(0);

/// The sockets of this port, by receive queue. Each port has its own copy of the map, and the kernel takes a socket out of
/// it when its process ends.
#[btf_map]
pub static SOCKETS: XskMap<{ QUEUES_MAX as usize }> = XskMap::new();

/// Gives a frame to the process, if it is of a flow. Whether it was.
///
/// The pipeline runs in the kernel on the others, which are left to Linux without being copied out and in, or whose flow is
/// found by their flag; and on all frames while no process has a socket here.
#[inline(always)]
pub fn give(frame: &mut XdpFrame<'_>, kernel: &Kernel) -> bool {
    HAS_SOCKETS.load() != 0
        && is_ours(frame, kernel.block())
        && SOCKETS.redirect(frame.queue(), u64::from(XDP_ABORTED)).is_ok()
}
