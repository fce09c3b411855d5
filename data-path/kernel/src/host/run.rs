//! Puts the packets of a host's runs into flows, where they leave it (claims 1 to 3).
//!
//! Nobody else's packet is touched, or looked at beyond its socket.

use crate::maps::{CGROUPS, DESTINATIONS, FLOWS, HELD, INTERFACES, SCOPES, SOCKETS};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{
        bpf_get_hash_recalc, bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_redirect, bpf_skb_ancestor_cgroup_id,
        bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    macros::classifier,
    programs::TcContext,
};
use core::hint::black_box;
use flowlane_kernel::{frame::SkbFrame, ring};
use flowlane_pipeline::{Frame, size};
use flowlane_tables::{
    HELD_NANOS, HeldHeader, PATHS_MAX, RUN_FLOWS, RUN_LEVELS, RunAction, RunFlow, RunKey, RunScope, RunScopes,
};
use flowlane_wire::{
    Mac,
    header::{ethernet, ipv4, ipv6},
};

/// How many entries a new destination looks at for a free one.
const PROBES: u32 = 8;

/// For tc egress.
#[classifier]
pub fn flowlane_run(ctx: TcContext) -> i32 {
    let mut frame = SkbFrame::again(ctx.skb.skb);
    let Some(scopes) = SCOPES.get(0) else { return TC_ACT_UNSPEC };
    let Some(scope) = scope_of(frame.raw(), scopes) else { return TC_ACT_UNSPEC };
    let Some(key) = key(&mut frame, scope.run) else { return TC_ACT_UNSPEC };
    let now = now();
    let found = find(&key);
    let is_new = found.is_none();
    let found = found.or_else(|| take(&key, scope.required, scopes, now));
    let Some((index, flow)) = found else { return without_flow(scope.required) };
    let mut action = flow.action(now);
    if action == RunAction::Hold {
        if hold(&frame, index, &key, flow) {
            return taken();
        }
        if is_new {
            give_up(&key, flow);
        }
        // The answer has come in between, or there is no room for more.
        action = flow.action(now);
    }
    match action {
        RunAction::Send { paths, source } if send(&mut frame, flow, paths, source) => TC_ACT_UNSPEC,
        RunAction::Drop => TC_ACT_SHOT,
        _ => {
            flow.passed().add(frame.segments());
            without_flow(scope.required)
        }
    }
}

/// Whose packet it is: that of a socket, else that of the innermost cgroup that is a run, else the namespace's.
#[inline(always)]
fn scope_of(skb: *mut __sk_buff, scopes: &RunScopes) -> Option<RunScope> {
    if scopes.sockets().load() != 0 {
        // SAFETY: the context that the program was called with.
        let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
        if let Some(scope) = scope(SOCKETS.get_ptr(cookie)) {
            return Some(scope);
        }
    }
    let mut levels = scopes.levels().load();
    for _ in 0..RUN_LEVELS {
        let Some(level) = RunScopes::first_level(levels) else { break };
        // SAFETY: the context that the program was called with.
        let cgroup = unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) };
        if let Some(scope) = scope(CGROUPS.get_ptr(cgroup)) {
            return Some(scope);
        }
        levels >>= 8;
    }
    RunScope::from_word(scopes.namespace().load())
}

#[inline(always)]
fn scope(word: Option<*const u64>) -> Option<RunScope> {
    // SAFETY: the map returned the pointer; 64 bits are read at once, whatever becomes of the entry.
    word.and_then(|word| RunScope::from_word(unsafe { word.read_volatile() }))
}

/// The destination of an IP packet that flows are for. Nothing for what is left alone: what goes to groups, to neighbours
/// only, or to this host; what is no IP; tagged frames, for the VLAN's interface has the program itself; and what another
/// interface sends by this one.
#[inline(always)]
fn key(frame: &mut SkbFrame, run: u32) -> Option<RunKey> {
    const V4: usize = ethernet::LEN + ipv4::LEN;
    const V6: usize = ethernet::LEN + ipv6::LEN;
    if frame.tag() != 0 {
        return None;
    }
    // SAFETY: the context that the program was called with.
    let ifindex = unsafe { (*frame.raw()).ifindex };
    let start = reach::<{ ethernet::LEN }>(frame)?;
    let ethertype = u16::from_be_bytes([start[12], start[13]]);
    let (to, from) = frame.addresses()?;
    if Mac::from_u64(to).is_group() || !is_own(ifindex, from) {
        return None;
    }
    let mut destination = [0; 16];
    match ethertype {
        ethernet::IPV4 => {
            let octets = &reach::<V4>(frame)?[ethernet::LEN + ipv4::DESTINATION..];
            if matches!(octets, [0 | 127 | 224.., ..] | [169, 254, ..]) {
                return None;
            }
            (destination[10], destination[11]) = (0xff, 0xff);
            destination[12..].copy_from_slice(octets);
        }
        ethernet::IPV6 => {
            let header = reach::<V6>(frame)?;
            let is_icmp = header[ethernet::LEN + ipv6::NEXT_HEADER] == ICMPV6;
            destination.copy_from_slice(&header[ethernet::LEN + ipv6::DESTINATION..]);
            let is_near = destination[0] == 0xff || destination[0] == 0xfe && destination[1] & 0xc0 == 0x80;
            if is_near || destination[..8] == [0; 8] || is_icmp && is_neighbour_discovery(frame) {
                return None;
            }
        }
        _ => return None,
    }
    Some(RunKey { destination, ifindex, run })
}

const ICMPV6: u8 = 58;

/// Types 133 to 137 of ICMPv6, RFC 4861 section 4: they are for the link alone, and the address of the frame matters.
#[inline(always)]
fn is_neighbour_discovery(frame: &mut SkbFrame) -> bool {
    const TYPE: usize = ethernet::LEN + ipv6::LEN;
    reach::<{ TYPE + 1 }>(frame).is_some_and(|octets| matches!(octets[TYPE], 133..=137))
}

/// Whether an address is the interface's own.
#[inline(always)]
fn is_own(ifindex: u32, address: u64) -> bool {
    // SAFETY: the map returned the pointer; 64 bits are read at once, whatever becomes of the entry.
    INTERFACES.get_ptr(ifindex).is_some_and(|own| unsafe { own.read_volatile() } == address)
}

/// The first octets of a frame. They are made readable where the buffer has them elsewhere, as it may have those of a frame
/// that a packet socket sends.
#[inline(always)]
fn reach<const N: usize>(frame: &mut SkbFrame) -> Option<&[u8; N]> {
    if frame.at::<N>(0).is_none() {
        // SAFETY: the context that the program was called with. Where it fails, there are no such octets.
        unsafe { bpf_skb_pull_data(frame.raw(), N as u32) };
    }
    frame.at::<N>(0).map(|octets| &*octets)
}

#[inline(always)]
fn find(key: &RunKey) -> Option<(u32, &'static RunFlow)> {
    // SAFETY: the map returned the pointer; 32 bits are read at once, whatever becomes of the entry.
    let index = unsafe { DESTINATIONS.get_ptr(key)?.read_volatile() };
    Some((index, FLOWS.get(index)?))
}

/// Takes a free entry for a destination that has none. Where another processor was faster, its entry is the one.
#[inline(always)]
fn take(key: &RunKey, required: bool, scopes: &RunScopes, now: u64) -> Option<(u32, &'static RunFlow)> {
    for _ in 0..PROBES {
        let index = scopes.next_entry() % RUN_FLOWS;
        let flow = FLOWS.get(index)?;
        if !flow.take(key, required, now + HELD_NANOS) {
            continue;
        }
        if DESTINATIONS.insert(key, index, u64::from(BPF_NOEXIST)).is_ok() {
            return Some((index, flow));
        }
        flow.free();
        return find(key);
    }
    None
}

/// Takes a new entry back whose first packet the queue has no room for: userspace would never hear of it.
#[inline(always)]
fn give_up(key: &RunKey, flow: &RunFlow) {
    if flow.give_up() && DESTINATIONS.remove(key).is_ok() {
        flow.free();
    }
}

/// Gives the packet to userspace, which will send it. Whether it was counted among those that wait, and queued.
#[inline(always)]
fn hold(frame: &SkbFrame, index: u32, key: &RunKey, flow: &RunFlow) -> bool {
    let header = HeldHeader {
        index,
        ifindex: key.ifindex,
        length: frame.buffer_len(),
        run: key.run,
        gso_size: frame.gso_size() as u16,
        ..HeldHeader::default()
    };
    ring::put_skb(&HELD, frame, header, || flow.hold())
}

/// Ends a packet of which userspace has a copy: its sender is to believe it sent. A tc program that is attached by a link may
/// not say so; but a packet for an interface that there is none of ends just like this.
#[inline(always)]
fn taken() -> i32 {
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(0, 0) as i32 }
}

/// Writes a flow address, and counts the packet. Whether there was one to write.
///
/// By a helper, and not into the buffer: the verifier would have every packet's headers copied at the start of a program that
/// does, also those of nobody's run.
#[inline(always)]
fn send(frame: &mut SkbFrame, flow: &RunFlow, paths: u8, source: bool) -> bool {
    let place = if paths > 1 {
        // SAFETY: the context that the program was called with. All packets of a connection have one hash.
        let hash = unsafe { bpf_get_hash_recalc(frame.raw()) };
        hash % u32::from(paths)
    } else {
        0
    };
    // The verifier wants to see that it is within bounds.
    let Some(path) = flow.paths().get(black_box(place as usize) & (PATHS_MAX - 1)) else { return false };
    let address = path.address().load();
    if address == 0 {
        return false;
    }
    let size = size(frame);
    let field = if source { ethernet::SOURCE } else { ethernet::DESTINATION };
    let octets = Mac::from_u64(address).0;
    // SAFETY: the context that the program was called with, and six octets.
    let stored = unsafe { bpf_skb_store_bytes(frame.raw(), field as u32, octets.as_ptr().cast(), 6, 0) };
    if stored != 0 {
        return false;
    }
    path.packets().add(size.frames);
    path.bytes().add(size.octets);
    true
}

#[inline(always)]
fn without_flow(required: bool) -> i32 {
    if required { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
