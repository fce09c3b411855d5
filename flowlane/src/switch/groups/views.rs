//! Groups in the words of the local interface.

use super::{Groups, Known};
use crate::api::groups::{GroupView, ReceiverView};
use crate::switch::{hops::Answer, ports::Ports, views::remaining};
use flowlane_allot::{Lease, Receiver};
use flowlane_tables::{Group, NextHop};
use flowlane_wire::PortId;

/// A group, if the lease is one's.
pub fn group(lease: &Lease, groups: &Groups, ports: &Ports, now: u64) -> Option<GroupView> {
    let (address, slot) = groups.address_of(lease)?;
    let index = groups.index_of(lease)?;
    let (entry, table) = (groups.tables.slots().get(slot.0 as usize)?, groups.group(index)?);
    let known = groups.active.get(&index)?.receivers.iter();
    Some(GroupView {
        address: address.to_string(),
        slot: slot.0,
        group: index.0,
        name: lease.spec.name.clone(),
        port: ports.interface(lease.port),
        rate: lease.spec.rate,
        packets: entry.packets().load(),
        bytes: entry.bytes().load(),
        receivers: known
            .filter_map(|(place, known)| receiver_view(*place, known, lease.port, table, groups, ports))
            .collect(),
        client: lease.key.client.to_string(),
        iaid: lease.key.iaid,
        remaining: remaining(lease, now),
        lifetime: lease.lifetime,
    })
}

/// A receiver as people name it.
pub fn receiver(receiver: Receiver, ports: &Ports) -> String {
    match receiver {
        Receiver::Ip(address) => address.to_string(),
        Receiver::Host(mac, port) => format!("{mac}@{}", ports.interface(port)),
    }
}

fn receiver_view(
    place: u8,
    known: &Known,
    ingress: PortId,
    table: &Group,
    groups: &Groups,
    ports: &Ports,
) -> Option<ReceiverView> {
    let entry = table.receivers().get(usize::from(place))?;
    let hop = entry.hop();
    let (state, reason) = state(known, hop, groups, ports);
    let behind_ingress = hop.is_some_and(|hop| hop.port == ingress);
    Some(ReceiverView {
        receiver: receiver(known.receiver, ports),
        place,
        state: state.into(),
        reason,
        warning: behind_ingress.then(|| {
            let port = ports.interface(ingress);
            format!("it gets nothing: it is behind {port}, the group's own port, and no copy goes back there")
        }),
        next: hop.map(|hop| hop.mac.to_string()),
        egress: hop.map(|hop| ports.interface(hop.port)),
        routed: hop.is_some_and(|hop| hop.routed),
        packets: entry.packets().load(),
        bytes: entry.bytes().load(),
        missed: entry.missed().load(),
    })
}

/// What is known of a receiver, in a word, and why it gets no copies.
fn state(known: &Known, hop: Option<NextHop>, groups: &Groups, ports: &Ports) -> (&'static str, Option<String>) {
    match (&known.answer, hop) {
        (Answer::Unreachable(reason), _) => ("unreachable", Some(reason.clone())),
        (_, Some(hop)) if !groups.is_up(hop) => {
            ("unreachable", Some(format!("port {} is down", ports.interface(hop.port))))
        }
        (_, Some(_)) => ("resolved", None),
        (_, None) => ("pending", None),
    }
}
