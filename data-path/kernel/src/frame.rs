//! The kernel's two kinds of frame: XDP's buffer and tc's socket buffer.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{bpf_skb_pull_data, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use core::arch::asm;
use flowlane_pipeline::Frame;
use flowlane_wire::{PortId, header::ethernet};

/// The octets between two pointers of a context, as the verifier understands them: an access is within bounds when it
/// was compared with the end just before.
#[inline(always)]
fn octets<'a, const N: usize>(data: usize, data_end: usize, offset: usize) -> Option<&'a mut [u8; N]> {
    let start = data + offset;
    if start + N > data_end {
        return None;
    }
    // SAFETY: within the frame, as just compared; a program is the only one to touch its frame while it runs.
    Some(unsafe { &mut *(start as *mut [u8; N]) })
}

/// The two addresses as on the wire, eight octets at a time wherever they stand, of which two are not the address's. The target
/// has no unaligned loads in Rust; the kernel allows them where the processor does, as x86-64 and arm64 do.
#[inline(always)]
fn addresses(header: &[u8; ethernet::LEN]) -> (u64, u64) {
    let (destination, source): (u64, u64);
    // SAFETY: reads the fourteen octets of the header.
    unsafe {
        asm!(
            "{destination} = *(u64 *)({header} + 0)",
            "{source} = *(u64 *)({header} + 6)",
            header = in(reg) header.as_ptr(),
            destination = out(reg) destination,
            source = out(reg) source,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    (destination, source)
}

/// Writes the two addresses likewise: eight octets of which two are written over, then the source.
#[inline(always)]
fn set_addresses(header: &mut [u8; ethernet::LEN], destination: u64, source: u64) {
    // SAFETY: writes the first twelve octets of the header.
    unsafe {
        asm!(
            "*(u64 *)({header} + 0) = {destination}",
            "*(u16 *)({header} + 6) = {source}",
            "*(u32 *)({header} + 8) = {last}",
            header = in(reg) header.as_mut_ptr(),
            destination = in(reg) destination,
            source = in(reg) source,
            last = in(reg) source >> 16,
            options(nostack, preserves_flags),
        );
    }
}

/// A frame at the driver.
pub struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    pub fn raw(&self) -> *mut xdp_md {
        self.ctx.ctx
    }

    /// The receive queue that the frame came in by.
    #[inline(always)]
    pub fn queue(&self) -> u32 {
        // SAFETY: the context that the program was called with.
        unsafe { (*self.raw()).rx_queue_index }
    }
}

/// What XDP leaves before a frame for tc: this mark, with the egress port in its low 16 bits.
const HANDED_UP: u32 = 0xf10a_0000;

impl XdpFrame<'_> {
    /// Leaves word for tc by which port the frame is to be sent. Whether there was room for it.
    #[inline(always)]
    pub fn hand_up(&self, egress: PortId) -> bool {
        // SAFETY: the context that the program was called with.
        if unsafe { bpf_xdp_adjust_meta(self.ctx.ctx, -(size_of::<u32>() as i32)) } != 0 {
            return false;
        }
        let (start, end) = (self.ctx.metadata(), self.ctx.metadata_end());
        if start + size_of::<u32>() > end {
            return false;
        }
        // SAFETY: within the room before the frame, as just compared; it is aligned to four octets.
        unsafe { (start as *mut u32).write(HANDED_UP | u32::from(egress.0)) };
        true
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        octets(self.ctx.data(), self.ctx.data_end(), offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context that the program was called with.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as u32 }
    }

    #[inline(always)]
    fn wire_addresses(&mut self) -> Option<(u64, u64)> {
        octets(self.ctx.data(), self.ctx.data_end(), 0).map(|header| addresses(header))
    }

    #[inline(always)]
    fn set_wire_addresses(&mut self, destination: u64, source: u64) -> Option<()> {
        octets(self.ctx.data(), self.ctx.data_end(), 0).map(|header| set_addresses(header, destination, source))
    }
}

/// A socket buffer at tc ingress.
pub struct SkbFrame {
    ctx: TcContext,
}

/// Headers up to here are made readable where a buffer has them elsewhere: Ethernet, two tags, IPv6 with some extension
/// headers, ports.
const HEADERS: u32 = 14 + 8 + 40 + 64 + 4;

impl SkbFrame {
    /// The buffer that a program was called with. Its headers are made readable.
    #[inline(always)]
    pub fn new(ctx: TcContext) -> Self {
        let linear = (ctx.data_end() - ctx.data()) as u32;
        if linear < HEADERS && linear < ctx.len() {
            // SAFETY: the context that the program was called with. Where it fails, reads are out of bounds and say so.
            unsafe { bpf_skb_pull_data(ctx.skb.skb, HEADERS.min(ctx.len())) };
        }
        Self { ctx }
    }

    /// A buffer whose headers have been made readable before.
    #[inline(always)]
    pub fn again(skb: *mut __sk_buff) -> Self {
        Self { ctx: TcContext::new(skb) }
    }

    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Octets in the buffer; a tag beside it is not among them.
    #[inline(always)]
    pub fn buffer_len(&self) -> u32 {
        self.ctx.len()
    }

    /// The tag beside the frame: protocol (high 16 bits) and tag as numbers; 0 is none.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        // SAFETY: the context that the program was called with.
        let skb = unsafe { &*self.raw() };
        if skb.vlan_present == 0 {
            return 0;
        }
        u32::from((skb.vlan_proto as u16).to_be()) << 16 | (skb.vlan_tci & 0xffff)
    }

    /// How many frames the buffer is on the wire.
    #[inline(always)]
    pub fn segments(&mut self) -> u64 {
        flowlane_pipeline::size(self).frames
    }

    /// The port that XDP has left word to send the frame by.
    #[inline(always)]
    pub fn handed_up(&self) -> Option<PortId> {
        // SAFETY: the context that the program was called with.
        let skb = unsafe { &*self.raw() };
        let (start, end) = (skb.data_meta as usize, skb.data as usize);
        if start + size_of::<u32>() > end {
            return None;
        }
        // SAFETY: within the room before the frame, as just compared; it is aligned to four octets.
        let word = unsafe { (start as *const u32).read() };
        (word & 0xffff_0000 == HANDED_UP).then_some(PortId(word as u16))
    }

    /// For whom Linux takes the frame to be, `linux/if_packet.h`.
    #[inline(always)]
    pub fn packet_type(&self) -> u32 {
        // SAFETY: the context that the program was called with.
        unsafe { (*self.raw()).pkt_type }
    }
}

impl Frame for SkbFrame {
    #[inline(always)]
    fn at<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        octets(self.ctx.data(), self.ctx.data_end(), offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        let beside = if self.has_tag_beside() { ethernet::TAG_LEN as u32 } else { 0 };
        self.ctx.len() + beside
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: the context that the program was called with.
        unsafe { (*self.raw()).gso_size }
    }

    #[inline(always)]
    fn has_tag_beside(&self) -> bool {
        // SAFETY: the context that the program was called with.
        unsafe { (*self.raw()).vlan_present != 0 }
    }

    #[inline(always)]
    fn wire_addresses(&mut self) -> Option<(u64, u64)> {
        octets(self.ctx.data(), self.ctx.data_end(), 0).map(|header| addresses(header))
    }

    #[inline(always)]
    fn set_wire_addresses(&mut self, destination: u64, source: u64) -> Option<()> {
        octets(self.ctx.data(), self.ctx.data_end(), 0).map(|header| set_addresses(header, destination, source))
    }
}
