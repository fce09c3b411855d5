//! What the pipeline changes in a frame: its two addresses, and at a routed hop the time to live.

use crate::{Frame, Network, Observer, Step, Tables, Verdict, flag, network};
use flowlane_tables::{End, NextHop, PortEntry, PortFlags, Slot};
use flowlane_wire::{
    Mac, PortId, Restore,
    header::{ipv4, ipv6},
};

/// Source := first host address, destination := second host address (claim 17).
#[inline(always)]
pub(crate) fn addresses<F: Frame, O: Observer>(
    frame: &mut F,
    slot: &Slot,
    hop: NextHop,
    port: &PortEntry,
    observer: &mut O,
) -> Result<(), Verdict> {
    let source = if port.flags().has(PortFlags::OWN_SOURCE) { port.mac().to_u64() } else { slot.key() >> 16 };
    let destination = hop.mac.to_u64();
    frame.set_addresses(destination, source).ok_or(Verdict::Drop(End::Truncated))?;
    observer.step(Step::Rewritten { destination: Mac::from_u64(destination), source: Mac::from_u64(source) });
    Ok(())
}

/// Decrements the time to live (RFC 1812 section 5.3.1) or hop limit (RFC 8200 section 3) of an IP packet.
/// One that would reach zero goes to Linux; what is not IP stays as it is.
#[inline(always)]
pub(crate) fn hop_limit<F: Frame, T: Tables, O: Observer>(
    frame: &mut F,
    ingress: PortId,
    tables: &T,
    observer: &mut O,
) -> Result<(), Verdict> {
    match decrement(frame, observer) {
        None => Err(Verdict::Drop(End::Malformed)),
        Some(true) => Ok(()),
        Some(false) => Err(to_linux(frame, ingress, tables, End::TtlExpired)),
    }
}

/// Decrements unless the packet must not go on. Whether it may, or nothing where its header makes no sense.
#[inline(always)]
pub(crate) fn decrement<F: Frame, O: Observer>(frame: &mut F, observer: &mut O) -> Option<bool> {
    let value = match network(frame) {
        Network::V4(offset) => decrement_v4(frame.at::<{ ipv4::LEN }>(offset)?)?,
        Network::V6(offset) => decrement_v6(frame.at::<{ ipv6::LEN }>(offset)?)?,
        Network::Other => return Some(true),
        Network::Truncated => return None,
    };
    observer.step(Step::HopLimit { value });
    Some(value > 1)
}

/// Takes the virtual-circuit flag off, where the flow's slot says so. What is no IP packet stays as it is.
#[inline(always)]
pub(crate) fn dscp<F: Frame, O: Observer>(frame: &mut F, restore: Restore, observer: &mut O) {
    if restore != Restore::Keep
        && let Some(before) = flag::dscp(frame)
    {
        let after = restore.apply(before);
        if after != before && flag::set_dscp(frame, before, after) {
            observer.step(Step::Dscp { before, after });
        }
    }
}

/// A one's complement sum from this on has a carry, which goes round. With the feature `seeded-bug` that is wrong by one: the
/// differential test must find it.
const CARRIES: u32 = if cfg!(feature = "seeded-bug") { 0x1_0000 } else { 0xffff };

/// Decrements unless the packet must not go on. The value on arrival, or nothing where this is no IPv4 header.
#[inline(always)]
fn decrement_v4(header: &mut [u8; ipv4::LEN]) -> Option<u8> {
    if header[0] >> 4 != 4 || header[0] & 0xf < 5 {
        return None;
    }
    let ttl = header[ipv4::TTL];
    if ttl > 1 {
        header[ipv4::TTL] = ttl - 1;
        // RFC 1624 with m' = m - 0x0100: the one's complement sum grows by 0x0100. Zero is written 0x0000, never 0xffff.
        let sum = u32::from(u16::from_be_bytes([header[ipv4::CHECKSUM], header[ipv4::CHECKSUM + 1]])) + 0x0100;
        let [high, low] = ((sum + u32::from(sum >= CARRIES)) as u16).to_be_bytes();
        header[ipv4::CHECKSUM] = high;
        header[ipv4::CHECKSUM + 1] = low;
    }
    Some(ttl)
}

/// Decrements unless the packet must not go on. The value on arrival, or nothing where this is no IPv6 header.
#[inline(always)]
fn decrement_v6(header: &mut [u8; ipv6::LEN]) -> Option<u8> {
    if header[0] >> 4 != 6 {
        return None;
    }
    let limit = header[ipv6::HOP_LIMIT];
    if limit > 1 {
        header[ipv6::HOP_LIMIT] = limit - 1;
    }
    Some(limit)
}

/// Addresses the frame to the ingress port itself, so that the Linux stack takes it and answers with an ICMP error.
#[inline(always)]
pub(crate) fn to_linux<F: Frame, T: Tables>(frame: &mut F, ingress: PortId, tables: &T, end: End) -> Verdict {
    let (Some(port), Some((_, source))) = (tables.port(ingress), frame.addresses()) else {
        return Verdict::Drop(end);
    };
    match frame.set_addresses(port.mac().to_u64(), source) {
        Some(()) => Verdict::ToLinux(end),
        None => Verdict::Drop(end),
    }
}
