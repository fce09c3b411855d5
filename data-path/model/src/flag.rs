//! The virtual-circuit flag (claims 23 to 28): a value in the DSCP asks the network to recognise the flow.

use crate::{
    Arrival, Change, Flag, Mac, Outcome, Switch, Tuple,
    header::{dscp, set_dscp},
    packet::Packet,
};
use flowlane_tables::{ASKING_LIMIT, End};
use std::net::IpAddr;

/// The flow of a frame without a flow address, if it is an IP packet with the flag, sent to one host, and the port looks
/// for the flag.
pub(crate) fn flow(switch: &Switch, arrival: &Arrival, destination: Mac, outcome: &mut Outcome) -> Result<Mac, End> {
    let port = switch.port(arrival.ingress);
    let (octets, packet) = (&arrival.octets, Packet::of(arrival));
    let flag = port.flag.ok_or(End::Pass)?;
    if is_group(destination) {
        return Err(End::Pass);
    }
    let dscp = dscp(octets, packet).ok_or(End::Pass)?;
    if port.marks && !is_in(flag, dscp) {
        let marked = set_dscp(&mut outcome.octets, packet, dscp & !flag.mask | flag.value);
        return Err(if marked { End::Marked } else { End::Pass });
    }
    if port.marks || !is_in(flag, dscp) {
        return Err(End::Pass);
    }
    let tuple = Tuple::of(arrival).ok_or(End::FlagMalformed)?;
    match switch.tuples.get(&tuple) {
        Some(flow) => flow.ok_or(End::Pass),
        None if port.no_new_flows || port.asking >= ASKING_LIMIT => Err(End::FlagRefused),
        None => {
            outcome.changes.push(Change::Asked { port: arrival.ingress });
            Err(End::AskFlow)
        }
    }
}

fn is_group(address: Mac) -> bool {
    address[0] % 2 == 1
}

fn is_in(flag: Flag, dscp: u8) -> bool {
    dscp & flag.mask == flag.value
}

impl Tuple {
    /// Whose packet a frame carries. None where a header is cut short before what is looked for in it, or makes no sense.
    pub fn of(arrival: &Arrival) -> Option<Self> {
        let (octets, packet) = (&arrival.octets, Packet::of(arrival));
        let (start, len) = packet.header_place(octets)?;
        let header = &octets[start..];
        let behind = header.get(len..).unwrap_or_default();
        let (source, destination, transport) = match packet {
            Packet::V4(_) => (address_4(&header[12..16])?, address_4(&header[16..20])?, transport_4(header, behind)?),
            _ => (address_6(&header[8..24])?, address_6(&header[24..40])?, transport_6(header[6], behind)?),
        };
        let (protocol, ports) = transport;
        Some(Self { ingress: arrival.ingress, source, destination, protocol, ports })
    }
}

fn address_4(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).ok().map(IpAddr::from)
}

fn address_6(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

/// Protocol and ports.
type Transport = (u8, (u16, u16));

/// RFC 791 section 3.1: a packet is a fragment if more of them follow, or if it does not start at the beginning.
fn transport_4(header: &[u8], behind: &[u8]) -> Option<Transport> {
    let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
    transport(header[9], is_fragment, behind)
}

/// RFC 8200 section 4: extension headers say what follows them, and how long they are.
///
/// Behind a fragment header nobody looks: what it says to follow is there in the first fragment only, and all fragments must
/// have the same tuple. Nor does anybody look for ports behind eight headers.
fn transport_6(mut next: u8, mut behind: &[u8]) -> Option<Transport> {
    for _ in 0..EXTENSIONS {
        if ![HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, AUTHENTICATION, FRAGMENT].contains(&next) {
            return transport(next, false, behind);
        }
        let [following, len] = *behind.first_chunk()?;
        if next == FRAGMENT {
            return transport(following, true, &[]);
        }
        let unit = if next == AUTHENTICATION { 4 } else { 8 };
        behind = behind.get(8 + unit * usize::from(len)..).unwrap_or_default();
        next = following;
    }
    Some((next, (0, 0)))
}

/// Ports are looked for in whole packets of protocols that have them.
fn transport(protocol: u8, is_fragment: bool, behind: &[u8]) -> Option<Transport> {
    if is_fragment || !WITH_PORTS.contains(&protocol) {
        return Some((protocol, (0, 0)));
    }
    let [a, b, c, d] = *behind.first_chunk()?;
    Some((protocol, (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))))
}

/// How many IPv6 extension headers are looked behind.
const EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// TCP, UDP, DCCP, SCTP, UDP-Lite: both ports stand first in their headers.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
