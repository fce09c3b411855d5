//! Several next hops (claims 20 to 22).

use crate::{
    Arrival, Change, Flow, Mac, Outcome, Receiver, Switch, egress, forward, header, packet::Packet, size::Size,
};
use flowlane_tables::End;
use std::collections::BTreeMap;

/// Sends a copy of a frame to each receiver of a group but those behind the port that it came in by.
///
/// The meter is asked once, unless there is no such group. The flow counts the frame once, if a copy was sent at all.
pub(crate) fn replicate(
    switch: &Switch,
    arrival: &Arrival,
    nanos: u64,
    (address, flow): (Mac, &Flow),
    group: u32,
    outcome: &mut Outcome,
) -> Result<End, End> {
    outcome.group = Some(group);
    let receivers = switch.groups.get(&group).ok_or(End::NoReceiver)?;
    let size = Size::of(arrival);
    forward::meter(address, flow, size, nanos, outcome)?;
    for (place, receiver) in in_order(receivers) {
        if receiver.hop.port == arrival.ingress {
            continue;
        }
        let receiver_place = (group, place);
        match copy(switch, arrival, (address, flow), receiver, size) {
            Some(octets) => {
                outcome.copies.push((receiver.hop.port, octets));
                let (frames, octets) = (size.frames, size.octets);
                outcome.changes.push(Change::Copied { receiver: receiver_place, frames, octets });
            }
            None => outcome.changes.push(Change::Missed { receiver: receiver_place, frames: size.frames }),
        }
    }
    if outcome.copies.is_empty() {
        return Err(End::NoReceiver);
    }
    outcome.changes.push(Change::Sent { flow: address, frames: size.frames, octets: size.octets });
    Ok(End::Replicate)
}

/// The receivers in the same subnet, then those behind a router; each by place.
fn in_order(receivers: &BTreeMap<usize, Receiver>) -> Vec<(usize, Receiver)> {
    let all = receivers.iter().map(|(place, receiver)| (*place, *receiver));
    let (routed, near): (Vec<_>, Vec<_>) = all.partition(|(_, receiver)| receiver.hop.routed);
    [near, routed].concat()
}

/// The copy for one receiver. None where its port is down or too small for it, or where it is behind a router and the time
/// to live is spent.
fn copy(
    switch: &Switch,
    arrival: &Arrival,
    (address, flow): (Mac, &Flow),
    receiver: Receiver,
    size: Size,
) -> Option<Vec<u8>> {
    let (hop, port, packet) = (receiver.hop, switch.port(receiver.hop.port), Packet::of(arrival));
    if !port.up || !egress::fits(port, size) {
        return None;
    }
    let mut octets = arrival.octets.clone();
    header::restore(&mut octets, packet, flow.restore);
    if hop.routed {
        header::decrement(&mut octets, packet).ok()?;
    }
    forward::address_to(&mut octets, hop, port, address);
    Some(octets)
}
