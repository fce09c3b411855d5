//! Both ends of the path: a generator, run by `BPF_PROG_TEST_RUN` with live frames, and a sink that looks at every frame.
//!
//! The flow's number is in the IPv4 destination, which nobody on the path touches; so the sink knows what addresses each
//! frame has to have.

use aya_ebpf::{
    Global,
    bindings::{
        TC_ACT_SHOT,
        xdp_action::{XDP_ABORTED, XDP_DROP},
    },
    btf_maps::Array,
    helpers::{bpf_get_smp_processor_id, bpf_redirect},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use flowlane_kernel::frame::{SkbFrame, XdpFrame};
use flowlane_pipeline::Frame;
use flowlane_wire::header::{ethernet, ipv4};

/// Words of the generator's state: the last random number; frames sent; frames that had arrived when it looked last; the sum
/// of the halfwords of the IPv4 header that all frames share, without checksum and destination.
const RANDOM: usize = 0;
const SENT: usize = 1;
const ARRIVED_BEFORE: usize = 2;
const SUM: usize = 3;
/// Words of the sink's count: frames with the right addresses, frames with others, octets of the former.
const RIGHT: usize = 0;
const WRONG: usize = 1;
const OCTETS: usize = 2;

/// A cache line, so that processors do not share one.
type Words = [u64; 8];

const PROCESSORS_MAX: usize = 256;
/// Ethernet and IPv4 header as halfwords: frames are aligned to two octets.
const HALFWORDS: usize = (ethernet::LEN + ipv4::LEN) / 2;
/// The IPv4 destination is 10.0.0.0 plus the flow's number.
const NETWORK: u32 = 10 << 24;
const NUMBER: u32 = (1 << 24) - 1;
const TTL: u16 = 64;
const UDP: u16 = 17;

/// The generator's state.
#[btf_map]
pub static STATE: Array<Words, 1> = Array::new();

/// What has arrived at the sink, by processor.
#[btf_map]
pub static ARRIVED: Array<Words, PROCESSORS_MAX> = Array::new();

/// How many flows there are.
#[unsafe(no_mangle)]
pub static FLOWS: Global<u32> = Global::new(1);

/// The address of flow 0; the others follow.
#[unsafe(no_mangle)]
pub static FIRST_FLOW: Global<u64> = Global::new(0);

/// By which interface frames are sent, by index. 0: by none, to see what the generator alone takes.
#[unsafe(no_mangle)]
pub static OUT: Global<u32> = Global::new(0);

/// Addresses of the frames sent. 0: that of the frame's flow.
#[unsafe(no_mangle)]
pub static DESTINATION: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub static SOURCE: Global<u64> = Global::new(0);

/// Addresses of the frames that are to arrive, and the destination's bits that count. 0: that of the frame's flow.
#[unsafe(no_mangle)]
pub static ARRIVING_DESTINATION: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub static ARRIVING_MASK: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub static ARRIVING_SOURCE: Global<u64> = Global::new(0);

/// Traffic class of the packets.
#[unsafe(no_mangle)]
pub static TRAFFIC_CLASS: Global<u8> = Global::new(0);

/// How many frames may be on the way at a time; 0 is any number. And on how many processors they may arrive.
#[unsafe(no_mangle)]
pub static WINDOW: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static PROCESSORS: Global<u32> = Global::new(1);

/// Sends a frame of a random flow. What others have changed in the buffer is written anew.
#[xdp]
pub fn bench_generate(ctx: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: one thread at a time runs the generator.
    let state = unsafe { &mut *state };
    if is_window_full(state) {
        return XDP_DROP;
    }
    let number = draw(state);
    if write(&mut XdpFrame::new(&ctx), number, state[SUM] as u32).is_none() {
        return XDP_ABORTED;
    }
    state[SENT] += 1;
    match OUT.load() {
        0 => XDP_DROP,
        // SAFETY: a helper that takes two numbers.
        interface => unsafe { bpf_redirect(interface, 0) as u32 },
    }
}

/// Counts and drops frames at the driver.
#[xdp(frags)]
pub fn bench_sink_xdp(ctx: XdpContext) -> u32 {
    count(&mut XdpFrame::new(&ctx));
    XDP_DROP
}

/// Counts and drops socket buffers.
#[classifier]
pub fn bench_sink_tc(ctx: TcContext) -> i32 {
    count(&mut SkbFrame::new(ctx));
    TC_ACT_SHOT
}

/// Whether as many frames as may be are on the way. It looks at the sink only if it must.
#[inline(always)]
fn is_window_full(state: &mut Words) -> bool {
    let window = u64::from(WINDOW.load());
    if window == 0 || state[SENT].wrapping_sub(state[ARRIVED_BEFORE]) < window {
        return false;
    }
    state[ARRIVED_BEFORE] = arrived();
    state[SENT].wrapping_sub(state[ARRIVED_BEFORE]) >= window
}

/// The next flow's number: Marsaglia's xorshift with 32 bits, scaled to the number of flows.
#[inline(always)]
fn draw(state: &mut Words) -> u32 {
    let mut random = state[RANDOM] as u32;
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    state[RANDOM] = u64::from(random);
    (u64::from(random) * u64::from(FLOWS.load()) >> 32) as u32
}

#[inline(always)]
fn write(frame: &mut impl Frame, number: u32, sum: u32) -> Option<()> {
    let flow = FIRST_FLOW.load() + u64::from(number);
    frame.set_addresses(or(DESTINATION.load(), flow), or(SOURCE.load(), flow))?;
    let header = halfwords(frame)?;
    let [high, low] = [(NETWORK | number) >> 16, (NETWORK | number) & 0xffff];
    header[7] = (0x4500 | u16::from(TRAFFIC_CLASS.load())).to_be();
    header[11] = (TTL << 8 | UDP).to_be();
    header[12] = (!fold(sum + high + low)).to_be();
    header[15] = (high as u16).to_be();
    header[16] = (low as u16).to_be();
    Some(())
}

/// The sum of the Internet checksum, RFC 1071.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

#[inline(always)]
fn count(frame: &mut impl Frame) {
    // SAFETY: a helper without arguments.
    let processor = unsafe { bpf_get_smp_processor_id() };
    let Some(words) = ARRIVED.get_ptr_mut(processor) else { return };
    // SAFETY: these are this processor's own, and the sink is not interrupted by itself.
    let words = unsafe { &mut *words };
    if is_right(frame).unwrap_or(false) {
        words[RIGHT] += 1;
        words[OCTETS] += u64::from(frame.len());
    } else {
        words[WRONG] += 1;
    }
}

#[inline(always)]
fn is_right(frame: &mut impl Frame) -> Option<bool> {
    let (destination, source) = frame.addresses()?;
    let header = halfwords(frame)?;
    let number = (u32::from(header[15].to_be()) << 16 | u32::from(header[16].to_be())) & NUMBER;
    let flow = FIRST_FLOW.load() + u64::from(number);
    let right = or(ARRIVING_DESTINATION.load(), flow) == destination & ARRIVING_MASK.load();
    Some(right && source == or(ARRIVING_SOURCE.load(), flow))
}

#[inline(always)]
fn arrived() -> u64 {
    let mut sum = 0;
    for processor in 0..PROCESSORS.load().min(PROCESSORS_MAX as u32) {
        if let Some(words) = ARRIVED.get(processor) {
            sum += words[RIGHT] + words[WRONG];
        }
    }
    sum
}

#[inline(always)]
fn halfwords(frame: &mut impl Frame) -> Option<&mut [u16; HALFWORDS]> {
    let header: &mut [u8; 2 * HALFWORDS] = frame.at(0)?;
    // SAFETY: the same octets; the start of a frame is aligned to two octets in every driver's buffer.
    Some(unsafe { &mut *header.as_mut_ptr().cast() })
}

#[inline(always)]
fn or(address: u64, flow: u64) -> u64 {
    if address == 0 { flow } else { address }
}
