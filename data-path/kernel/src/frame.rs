//! The kernel's two kinds of frame: XDP's buffer and tc's socket buffer.

use crate::maps::Kernel;
use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{bpf_skb_pull_data, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use flowlane_pipeline::{Frame, Tables};
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

/// The two addresses by halfwords: frames are aligned to two octets, and the target has no unaligned loads.
#[inline(always)]
fn addresses(words: &[u16; 7]) -> (u64, u64) {
    let join = |a: u16, b: u16, c: u16| u64::from(a.to_be()) << 32 | u64::from(b.to_be()) << 16 | u64::from(c.to_be());
    (join(words[0], words[1], words[2]), join(words[3], words[4], words[5]))
}

#[inline(always)]
fn set_addresses(words: &mut [u16; 7], destination: u64, source: u64) {
    for (index, address) in [destination, source].into_iter().enumerate() {
        words[3 * index] = ((address >> 32) as u16).to_be();
        words[3 * index + 1] = ((address >> 16) as u16).to_be();
        words[3 * index + 2] = (address as u16).to_be();
    }
}

#[inline(always)]
fn header<'a>(data: usize, data_end: usize) -> Option<&'a mut [u16; 7]> {
    let header: &mut [u8; ethernet::LEN] = octets(data, data_end, 0)?;
    // SAFETY: the same octets; the start of a frame is aligned to two octets in every driver's buffer.
    Some(unsafe { &mut *header.as_mut_ptr().cast() })
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
    fn addresses(&mut self) -> Option<(u64, u64)> {
        header(self.ctx.data(), self.ctx.data_end()).map(|words| addresses(words))
    }

    #[inline(always)]
    fn set_addresses(&mut self, destination: u64, source: u64) -> Option<()> {
        header(self.ctx.data(), self.ctx.data_end()).map(|words| set_addresses(words, destination, source))
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

    /// Whether the frame's destination is the port's own address.
    #[inline(always)]
    pub fn is_to_port(&mut self, kernel: &Kernel, port: PortId) -> bool {
        let (Some((destination, _)), Some(port)) = (self.addresses(), kernel.port(port)) else { return false };
        destination == port.mac().to_u64()
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
    fn addresses(&mut self) -> Option<(u64, u64)> {
        header(self.ctx.data(), self.ctx.data_end()).map(|words| addresses(words))
    }

    #[inline(always)]
    fn set_addresses(&mut self, destination: u64, source: u64) -> Option<()> {
        header(self.ctx.data(), self.ctx.data_end()).map(|words| set_addresses(words, destination, source))
    }
}
