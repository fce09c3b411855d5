//! One next hop (claims 17 and 18).

use crate::{
    Arrival, Change, Flow, Hop, Mac, Outcome, Port, Switch, egress,
    header::{self, Spent},
    packet::Packet,
    size::Size,
};
use flowlane_tables::End;

/// Sends a frame to the flow's next hop, with source := flow address and destination := the hop's.
///
/// Nothing is written to a frame that is not sent, but for the destination of one that Linux answers.
pub(crate) fn forward(
    switch: &Switch,
    arrival: &Arrival,
    nanos: u64,
    (address, flow): (Mac, &Flow),
    hop: Hop,
    outcome: &mut Outcome,
) -> Result<End, End> {
    let (hop, end) = egress::choose(switch, hop, flow.backup, arrival.ingress)?;
    let (port, size, packet) = (switch.port(hop.port), Size::of(arrival), Packet::of(arrival));
    if !egress::fits(port, size) {
        return Err(too_big(switch, arrival, hop, packet, outcome));
    }
    meter(address, flow, size, nanos, outcome)?;
    let mut octets = arrival.octets.clone();
    if hop.routed {
        header::decrement(&mut octets, packet).map_err(|spent| match spent {
            Spent::Malformed => End::Malformed,
            Spent::Expired => to_linux(switch, arrival, End::TtlExpired, outcome),
        })?;
    }
    header::restore(&mut octets, packet, flow.restore);
    address_to(&mut octets, hop, port, address);
    outcome.octets = octets;
    outcome.egress = Some(hop.port);
    outcome.changes.push(Change::Sent { flow: address, frames: size.frames, octets: size.octets });
    Ok(end)
}

/// Takes tokens for all frames on the wire, or none.
pub(crate) fn meter(address: Mac, flow: &Flow, size: Size, nanos: u64, outcome: &mut Outcome) -> Result<(), End> {
    if let Some(meter) = &flow.meter {
        let full_at = meter.take(size.octets, nanos).ok_or(End::OverRate)?;
        outcome.changes.push(Change::Metered { flow: address, full_at });
    }
    Ok(())
}

/// Rewrites the two addresses. The source is the flow's, or the egress port's own where the port says so.
pub(crate) fn address_to(octets: &mut [u8], hop: Hop, port: Port, flow: Mac) {
    octets[..6].copy_from_slice(&hop.mac);
    octets[6..12].copy_from_slice(if port.own_source { &port.mac } else { &flow });
}

/// A router tells the sender of an IP packet how much fits; a switch does not.
fn too_big(switch: &Switch, arrival: &Arrival, hop: Hop, packet: Packet, outcome: &mut Outcome) -> End {
    match packet {
        Packet::V4(_) | Packet::V6(_) if hop.routed => to_linux(switch, arrival, End::TooBigRouted, outcome),
        _ => End::TooBig,
    }
}

/// Gives a packet to Linux, which answers: to it, the packet must look as if it were sent to the ingress port.
fn to_linux(switch: &Switch, arrival: &Arrival, end: End, outcome: &mut Outcome) -> End {
    outcome.octets[..6].copy_from_slice(&switch.port(arrival.ingress).mac);
    end
}
