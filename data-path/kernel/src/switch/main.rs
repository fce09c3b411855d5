//! The pipeline in the kernel. This file holds the programs and what each verdict becomes there; `af_xdp` says what a
//! process gets instead, `maps` holds the tables, `replicate` the copies for groups, `slow_path` what goes to userspace.
#![no_std]
#![no_main]

mod af_xdp;
mod maps;
mod replicate;
mod slow_path;

use crate::{
    maps::{DEVICES, Kernel, PORT},
    replicate::replicate,
    slow_path::{Seen, Why},
};
use aya_ebpf::{
    bindings::{
        __sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT},
    },
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_skb_change_type},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use flowlane_kernel::frame::{SkbFrame, XdpFrame};
use flowlane_pipeline::{Frame, Tables, Verdict, forward, give_back, run, withdraw};
use flowlane_tables::{End, PortFlags};
use flowlane_wire::PortId;

/// `PACKET_HOST` and `PACKET_OTHERHOST` of `linux/if_packet.h`.
const TO_THIS_HOST: u32 = 0;
const TO_ANOTHER_HOST: u32 = 3;

/// For network cards: at the driver, before the kernel has made a socket buffer. A frame may be spread over several
/// buffers, as those of an MTU above 3,506 octets are.
///
/// There is no second program for frames in one buffer: the kernel wants all programs that share a map of devices to be
/// of one kind in this.
#[xdp(frags)]
pub fn flowlane_xdp(ctx: XdpContext) -> u32 {
    let (kernel, ingress) = (Kernel::new(), PortId(PORT.load()));
    let mut frame = XdpFrame::new(&ctx);
    if af_xdp::give(&mut frame, &kernel) {
        return XDP_REDIRECT;
    }
    if !Seen::is_wanted()
        && let Some(port) = forward(&mut frame, ingress, &kernel)
    {
        let sent = DEVICES.redirect(u32::from(port.0), u64::from(XDP_DROP)).is_ok();
        let (end, action) = if sent { (End::Forward, XDP_REDIRECT) } else { (End::PortDown, XDP_DROP) };
        kernel.count(ingress, end, 1);
        return action;
    }
    let mut seen = Seen::begin(&frame);
    let verdict = run(&mut frame, ingress, &kernel, &mut ());
    let mut end = verdict.end();
    let action = match verdict {
        Verdict::Pass | Verdict::Marked | Verdict::ToLinux(_) => XDP_PASS,
        Verdict::Forward { port, .. } => match send(&frame, &kernel, port) {
            Some(action) => action,
            // The interface has gone, or has no room for a word to tc.
            None => {
                end = End::PortDown;
                XDP_DROP
            }
        },
        // XDP has no copies: tc behind it starts again with the frame as it came, and counts it.
        Verdict::Replicate { .. } if frame.hand_up(PortId::NONE) => {
            seen.forget();
            return XDP_PASS;
        }
        Verdict::Replicate { .. } => {
            end = End::NoReceiver;
            XDP_DROP
        }
        Verdict::Resolve { .. } | Verdict::Ask => {
            if !slow_path::wait_xdp(&frame, ingress, why(verdict)) {
                end = not_queued(&kernel, ingress, verdict);
            }
            XDP_DROP
        }
        Verdict::Drop(_) => XDP_DROP,
    };
    kernel.count(ingress, end, 1);
    seen.finish(&frame, ingress, verdict, end);
    action
}

/// For virtual ports: on socket buffers, so that super-packets stay whole.
#[classifier]
pub fn flowlane_tc(ctx: TcContext) -> i32 {
    tc(ctx)
}

#[inline(always)]
fn tc(ctx: TcContext) -> i32 {
    let (kernel, ingress) = (Kernel::new(), PortId(PORT.load()));
    let mut frame = SkbFrame::new(ctx);
    let mut seen = Seen::begin(&frame);
    let verdict = match forward(&mut frame, ingress, &kernel) {
        Some(port) => Verdict::Forward { port, end: End::Forward },
        None => run(&mut frame, ingress, &kernel, &mut ()),
    };
    let mut end = verdict.end();
    let action = match verdict {
        Verdict::Pass | Verdict::Marked => TC_ACT_UNSPEC,
        Verdict::Forward { port, .. } => match kernel.port(port) {
            // SAFETY: a helper that takes two numbers.
            Some(entry) => unsafe { bpf_redirect(entry.ifindex(), 0) as i32 },
            None => {
                end = End::PortDown;
                TC_ACT_SHOT
            }
        },
        Verdict::Replicate { slot, group } => {
            end = replicate(&mut frame, ingress, slot, group, &kernel);
            TC_ACT_SHOT
        }
        Verdict::Resolve { .. } | Verdict::Ask => {
            if !slow_path::wait_skb(&frame, ingress, why(verdict)) {
                end = not_queued(&kernel, ingress, verdict);
            }
            TC_ACT_SHOT
        }
        Verdict::ToLinux(_) => {
            to_this_host(frame.raw());
            TC_ACT_UNSPEC
        }
        Verdict::Drop(_) => TC_ACT_SHOT,
    };
    kernel.count(ingress, end, frame.segments());
    seen.finish(&frame, ingress, verdict, end);
    action
}

/// Behind an XDP program: sends the frames that leave by a port which takes socket buffers only, and the copies of frames to
/// groups. And some drivers decide whom a frame is for before XDP rewrites it, so that Linux would not take a frame that
/// XDP has addressed to this host: looks again.
#[classifier]
pub fn flowlane_host(ctx: TcContext) -> i32 {
    let mut frame = SkbFrame::new(ctx);
    match frame.handed_up() {
        Some(PortId::NONE) => return tc(TcContext::new(frame.raw())),
        Some(egress) => {
            return match Kernel::new().port(egress) {
                // SAFETY: a helper that takes two numbers.
                Some(entry) => unsafe { bpf_redirect(entry.ifindex(), 0) as i32 },
                None => TC_ACT_SHOT,
            };
        }
        None => {}
    }
    if frame.packet_type() == TO_ANOTHER_HOST && is_to_port(&mut frame, PortId(PORT.load())) {
        to_this_host(frame.raw());
    }
    TC_ACT_UNSPEC
}

/// What a frame waits for, by its verdict.
#[inline(always)]
fn why(verdict: Verdict) -> Why {
    match verdict {
        Verdict::Resolve { slot } => Why::resolve(slot),
        _ => Why::ASK,
    }
}

/// Takes a frame that the queue did not take off the count of those that wait. How it ends.
#[inline(always)]
fn not_queued(kernel: &Kernel, ingress: PortId, verdict: Verdict) -> End {
    if let Verdict::Resolve { slot } = verdict {
        if let Some(slot) = kernel.slot(slot) {
            give_back(slot);
        }
        return End::QueueFull;
    }
    if let Some(port) = kernel.port(ingress) {
        withdraw(port);
    }
    End::FlagRefused
}

/// Lets everything pass. A veth interface takes redirected frames only while its peer has an XDP program.
#[xdp(frags)]
pub fn flowlane_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Writes what two clocks say into the frame: jiffies, and the monotonic clock's nanoseconds as of the last jiffy. For the
/// loader, which runs this and tells the other programs by it what a jiffy is.
#[classifier]
pub fn flowlane_clock(ctx: TcContext) -> i32 {
    let mut frame = SkbFrame::again(ctx.skb.skb);
    // SAFETY: helpers without arguments.
    let clocks = unsafe { [bpf_jiffies64(), bpf_ktime_get_coarse_ns()] };
    for (at, clock) in [0, 8].into_iter().zip(clocks) {
        let Some(word) = frame.at(at) else { return TC_ACT_SHOT };
        *word = clock.to_ne_bytes();
    }
    TC_ACT_UNSPEC
}

/// Sends a frame by a port: directly, or by way of tc. Nothing where there is no such interface.
#[inline(always)]
fn send(frame: &XdpFrame<'_>, kernel: &Kernel, port: PortId) -> Option<u32> {
    if kernel.port(port)?.flags().has(PortFlags::BUFFERS) {
        return frame.hand_up(port).then_some(XDP_PASS);
    }
    DEVICES.redirect(u32::from(port.0), u64::from(XDP_DROP)).ok().map(|_| XDP_REDIRECT)
}

/// Whether the frame's destination is the port's own address.
#[inline(always)]
fn is_to_port(frame: &mut SkbFrame, port: PortId) -> bool {
    let kernel = Kernel::new();
    let (Some((destination, _)), Some(port)) = (frame.addresses(), kernel.port(port)) else { return false };
    destination == port.mac().to_u64()
}

#[inline(always)]
fn to_this_host(skb: *mut __sk_buff) {
    // SAFETY: the context that the program was called with. The helper fails only for other types than these.
    unsafe { bpf_skb_change_type(skb, TO_THIS_HOST) };
}

/// Lets the kernel use helpers that are for GPL-compatible programs only; this program is under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
