//! What the switch is compared with: redirects that look nothing up, which are the limit, and a label switch whose labels
//! are keys of a hash table.

use crate::path::OUT;
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_REDIRECT},
    btf_maps::{DevMap, HashMap},
    helpers::bpf_redirect,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use flowlane_kernel::frame::XdpFrame;
use flowlane_pipeline::Frame;

/// The interfaces that frames leave by.
#[btf_map]
pub static WAYS_OUT: DevMap<8> = DevMap::new();

/// Label to next hop's address and way out. The loader sets its size.
#[btf_map]
pub static LABELS: HashMap<u64, [u64; 2], 1> = HashMap::new();

/// The limit at the driver.
#[xdp(frags)]
pub fn bench_redirect_xdp(_ctx: XdpContext) -> u32 {
    leave(0)
}

/// The limit on socket buffers.
#[classifier]
pub fn bench_redirect_tc(_ctx: TcContext) -> i32 {
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(OUT.load(), 0) as i32 }
}

/// Looks the destination up, rewrites as a switch does and sends. Checks nothing and counts nothing.
#[xdp(frags)]
pub fn bench_hash_xdp(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let Some((label, _)) = frame.addresses() else { return XDP_DROP };
    // SAFETY: nobody changes the table while frames are sent.
    let Some([next_hop, way_out]) = (unsafe { LABELS.get(&label) }) else { return XDP_DROP };
    match frame.set_addresses(*next_hop, label) {
        Some(()) => leave(*way_out as u32),
        None => XDP_DROP,
    }
}

#[inline(always)]
fn leave(way_out: u32) -> u32 {
    WAYS_OUT.redirect(way_out, u64::from(XDP_DROP)).map_or(XDP_DROP, |_| XDP_REDIRECT)
}
