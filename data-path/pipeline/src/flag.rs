//! The virtual-circuit flag (claims 23 and 24): added to packets, or read from them to find the flow that they ask for.

use crate::{
    Frame, Network, Observer, Step, Tables, Verdict,
    lookup::{Ours, Place},
    network,
    parse::Addresses,
};
use flowlane_tables::{ASKING_LIMIT, End, PASS, PortEntry, PortFlags, Tuple};
use flowlane_wire::{
    Flag, Mac, PortId,
    header::{ipv4, ipv6, protocol},
};

/// How often a frame tries to be counted as asking against others on other processors.
const TRIES: u32 = 4;
/// How often a frame tries to be taken off that count again: giving up would leave it counted for good.
const WITHDRAW_TRIES: u32 = 32;
/// A packet with so many IPv6 extension headers goes by its addresses and what is behind the last of them alone.
const EXTENSIONS_MAX: u32 = 8;

/// The flow of a frame that carries no flow address: that of its addresses and ports, where it is flagged and the ingress
/// port reads the flag. A frame that is not passes. Where the port adds the flag, it is added.
///
/// Frames to groups pass: a flow leads to one host.
#[inline(always)]
pub(crate) fn ours<F: Frame, T: Tables, O: Observer>(
    frame: &mut F,
    addresses: Addresses,
    ingress: PortId,
    tables: &T,
    observer: &mut O,
) -> Result<Ours, Verdict> {
    let port = tables.port(ingress);
    let Some((port, flag)) = port.and_then(|port| Some((port, port.flag()?))) else { return pass(observer) };
    if Mac::from_u64(addresses.destination).is_group() {
        return pass(observer);
    }
    let Some(dscp) = dscp(frame) else { return pass(observer) };
    if port.flags().has(PortFlags::MARKS) {
        return Err(mark(frame, flag, dscp, observer));
    }
    if !flag.is_in(dscp) {
        return pass(observer);
    }
    let tuple = tuple(frame, ingress).ok_or(Verdict::Drop(End::FlagMalformed))?;
    let found = tables.tuple(&tuple);
    observer.step(Step::Flagged { tuple, found });
    match found {
        Some(PASS) => Err(Verdict::Pass),
        Some(address) => Ok(Ours { address, place: Place::Flag, source_too: None }),
        None => Err(ask(port)),
    }
}

#[inline(always)]
fn pass<O: Observer>(observer: &mut O) -> Result<Ours, Verdict> {
    observer.step(Step::NotOurs);
    Err(Verdict::Pass)
}

/// Whether a frame to one host carries an IP packet with this flag.
#[inline(always)]
pub fn is_flagged<F: Frame>(frame: &mut F, flag: Flag) -> bool {
    let to_group = frame.addresses().is_none_or(|(destination, _)| Mac::from_u64(destination).is_group());
    !to_group && dscp(frame).is_some_and(|dscp| flag.is_in(dscp))
}

/// Adds the flag to an IP packet that does not have it (claim 23), before it comes to a switch.
#[inline(always)]
pub fn add_flag<F: Frame>(frame: &mut F, flag: Flag) {
    if let Some(before) = dscp(frame) {
        mark(frame, flag, before, &mut ());
    }
}

/// Adds the flag to a packet that does not have it (claim 23).
#[inline(always)]
fn mark<F: Frame, O: Observer>(frame: &mut F, flag: Flag, before: u8, observer: &mut O) -> Verdict {
    if flag.is_in(before) {
        return Verdict::Pass;
    }
    let after = flag.add_to(before);
    if !set_dscp(frame, before, after) {
        return Verdict::Pass;
    }
    observer.step(Step::Dscp { before, after });
    Verdict::Marked
}

/// Counts the frame among those that the control path is to find a flow for, if there are not too many.
#[inline(always)]
fn ask(port: &PortEntry) -> Verdict {
    if port.flags().has(PortFlags::NO_NEW_FLOWS) {
        return Verdict::Drop(End::FlagRefused);
    }
    for _ in 0..TRIES {
        let asking = port.asking().load();
        if asking >= ASKING_LIMIT {
            break;
        }
        if port.asking().swap(asking, asking + 1) {
            return Verdict::Ask;
        }
    }
    Verdict::Drop(End::FlagRefused)
}

/// Takes a frame off the count of those that ask: the queue did not take it, or the control path has answered it.
#[inline(always)]
pub fn withdraw(port: &PortEntry) {
    for _ in 0..WITHDRAW_TRIES {
        let asking = port.asking().load();
        if asking == 0 || port.asking().swap(asking, asking - 1) {
            return;
        }
    }
}

/// The DSCP of an IP packet, RFC 2474 section 3.
#[inline(always)]
pub(crate) fn dscp<F: Frame>(frame: &mut F) -> Option<u8> {
    let (version, offset) = match network(frame) {
        Network::V4(offset) => (4, offset),
        Network::V6(offset) => (6, offset),
        Network::Other | Network::Truncated => return None,
    };
    let &mut [first, second] = frame.at::<2>(offset)?;
    if first >> 4 != version {
        return None;
    }
    Some(if version == 4 { second >> 2 } else { (first & 0xf) << 2 | second >> 6 })
}

/// Replaces the DSCP of an IP packet, and corrects the checksum of an IPv4 header (RFC 1624). Whether it could: a header
/// that is cut short stays as it is.
#[inline(always)]
pub(crate) fn set_dscp<F: Frame>(frame: &mut F, before: u8, after: u8) -> bool {
    match network(frame) {
        Network::V4(offset) => {
            let Some(header) = frame.at::<{ ipv4::LEN }>(offset) else { return false };
            header[ipv4::TRAFFIC_CLASS] = after << 2 | header[ipv4::TRAFFIC_CLASS] & 3;
            // HC' = ~(~HC + ~m + m') of RFC 1624; the fields differ in the low octet only, by less than 0x100.
            let sum = u32::from(!u16::from_be_bytes([header[ipv4::CHECKSUM], header[ipv4::CHECKSUM + 1]]))
                + u32::from(!(u16::from(before) << 2))
                + (u32::from(after) << 2);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            let [high, low] = (!(sum as u16)).to_be_bytes();
            header[ipv4::CHECKSUM] = high;
            header[ipv4::CHECKSUM + 1] = low;
        }
        Network::V6(offset) => {
            let Some([first, second]) = frame.at::<2>(offset) else { return false };
            *first = *first & 0xf0 | after >> 2;
            *second = after << 6 | *second & 0x3f;
        }
        Network::Other | Network::Truncated => return false,
    }
    true
}

/// Whose packet a frame is. Nothing where its headers are cut short or make no sense.
#[inline(always)]
pub fn tuple<F: Frame>(frame: &mut F, ingress: PortId) -> Option<Tuple> {
    let (tuple, ports) = match network(frame) {
        Network::V4(offset) => v4(frame, offset)?,
        Network::V6(offset) => v6(frame, offset)?,
        Network::Other | Network::Truncated => return None,
    };
    let tuple = Tuple { ingress: ingress.0.to_be_bytes(), ..tuple };
    let has_ports =
        matches!(tuple.protocol, protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDP_LITE);
    match ports.filter(|_| has_ports) {
        Some(offset) => {
            let &mut [a, b, c, d] = frame.at::<4>(offset)?;
            Some(Tuple { source_port: [a, b], destination_port: [c, d], ..tuple })
        }
        None => Some(tuple),
    }
}

/// Addresses and protocol of an IPv4 packet, and where its ports stand; nowhere in a fragment.
#[inline(always)]
fn v4<F: Frame>(frame: &mut F, offset: usize) -> Option<(Tuple, Option<usize>)> {
    let header = frame.at::<{ ipv4::LEN }>(offset)?;
    let words = usize::from(header[0] & 0xf);
    if words < 5 {
        return None;
    }
    let mut tuple = Tuple { protocol: header[ipv4::PROTOCOL], version: 4, ..Tuple::default() };
    tuple.source[..4].copy_from_slice(&header[ipv4::SOURCE..ipv4::DESTINATION]);
    tuple.destination[..4].copy_from_slice(&header[ipv4::DESTINATION..]);
    let fragment = u16::from_be_bytes([header[ipv4::FRAGMENT], header[ipv4::FRAGMENT + 1]]) & ipv4::FRAGMENT_MASK;
    Some((tuple, (fragment == 0).then_some(offset + 4 * words)))
}

/// The same of an IPv6 packet, behind its extension headers.
#[inline(always)]
fn v6<F: Frame>(frame: &mut F, offset: usize) -> Option<(Tuple, Option<usize>)> {
    let header = frame.at::<{ ipv6::LEN }>(offset)?;
    let mut tuple = Tuple { protocol: header[ipv6::NEXT_HEADER], version: 6, ..Tuple::default() };
    tuple.source.copy_from_slice(&header[ipv6::SOURCE..ipv6::DESTINATION]);
    tuple.destination.copy_from_slice(&header[ipv6::DESTINATION..]);
    let mut at = offset + ipv6::LEN;
    for _ in 0..EXTENSIONS_MAX {
        let is_fragment = tuple.protocol == protocol::FRAGMENT;
        let unit = match tuple.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => 8,
            protocol::AUTHENTICATION => 4,
            protocol::FRAGMENT => 0,
            _ => return Some((tuple, Some(at))),
        };
        let &mut [next, length] = frame.at::<2>(at)?;
        tuple.protocol = next;
        if is_fragment {
            return Some((tuple, None));
        }
        // RFC 8200 counts units of 8 octets without the first, RFC 4302 units of 4 without the first two.
        at += 8 + unit * usize::from(length);
    }
    Some((tuple, None))
}
