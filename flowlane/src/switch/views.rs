//! The switch's state in the words of its local interface.

use super::leases::Failure;
use super::{
    flagged::{Flagged, tuple_of},
    flows::Flows,
    hops::{Gateway, Hops, Neighbour, Target},
    ports::{Port, Ports},
};
use crate::{
    api::{
        EntryView, FlaggedView, FlowView, LeaseView, NeighbourView, PortView, Problem, TupleView,
        groups::ReceiverEntryView,
    },
    config::FlagRole,
};
use flowlane_allot::{Field, Lease, LeaseState, ReceiversError, Refusal};
use flowlane_program::Tables;
use flowlane_tables::{End, GroupIndex, NEVER, Resolution};
use flowlane_wire::{FlowAddress, Mac, PortId, SlotIndex};

/// A lease.
pub fn lease(lease: &Lease, tables: &Tables, ports: &Ports, now: u64) -> LeaseView {
    LeaseView {
        addresses: lease.addresses(tables.block()).map(|address| address.to_string()).collect(),
        port: ports.interface(lease.port),
        client: lease.key.client.to_string(),
        iaid: lease.key.iaid,
        remaining: remaining(lease, now),
        lifetime: lease.lifetime,
        closed_for: closed_for(lease, now),
    }
}

/// One flow of a lease.
pub fn flow(
    address: FlowAddress,
    lease: &Lease,
    tables: &Tables,
    flows: &Flows,
    hops: &Hops,
    ports: &Ports,
    now: u64,
) -> Option<FlowView> {
    let index = tables.block().slot(address);
    let slot = tables.slots().get(index.0 as usize)?;
    let hop = match slot.next() {
        Resolution::Resolved(hop) => Some(hop),
        _ => None,
    };
    let tuple = tuple_of(&lease.key);
    Some(FlowView {
        address: address.to_string(),
        slot: index.0,
        name: lease.spec.name.clone(),
        port: ports.interface(lease.port),
        field: if tuple.is_some() { "flag" } else { field(lease.spec.field) }.into(),
        tuple: tuple.map(TupleView::from),
        destination: flows.destination(index).or(lease.spec.destination),
        state: state(slot.next()).into(),
        reason: flows.reason(index).map(str::to_owned).or_else(|| hops.refusal(Target::Flow(index))),
        next: hop.map(|hop| hop.mac.to_string()),
        egress: hop.map(|hop| ports.interface(hop.port)),
        routed: hop.is_some_and(|hop| hop.routed),
        path: lease.spec.path,
        via: hop.and(hops.via(Target::Flow(index))).map(|gateway| gateway.mac.to_string()),
        rate: lease.spec.rate,
        packets: slot.packets().load(),
        bytes: slot.bytes().load(),
        host: lease.host.to_string(),
        client: lease.key.client.to_string(),
        iaid: lease.key.iaid,
        remaining: remaining(lease, now),
    })
}

/// All entries of the table.
pub fn entries(tables: &Tables) -> Vec<EntryView> {
    let entry = |(index, slot): (usize, &flowlane_tables::Slot)| {
        let flow = slot.flow()?;
        let (hop, group) = match flow.next {
            Resolution::Resolved(hop) => (Some(hop), None),
            Resolution::Group(group) => (None, Some(group)),
            _ => (None, None),
        };
        Some(EntryView {
            slot: index as u32,
            address: flow.address.to_string(),
            port: flow.port.0,
            expires: (flow.expires != NEVER).then_some(flow.expires),
            state: state(flow.next).into(),
            next: hop.map(|hop| hop.mac.to_string()),
            egress: hop.map(|hop| hop.port.0),
            routed: hop.is_some_and(|hop| hop.routed),
            group: group.map(|group| group.0),
            receivers: group.map(|group| receivers(group, tables)).unwrap_or_default(),
            backup: flow.backup.map(|hop| (hop.mac.to_string(), hop.port.0)),
            packets: flow.packets,
            bytes: flow.bytes,
        })
    };
    tables.slots().iter().enumerate().filter_map(entry).collect()
}

/// The receivers of a group that have a next hop.
fn receivers(group: GroupIndex, tables: &Tables) -> Vec<ReceiverEntryView> {
    let places = (0..).zip(tables.groups().get(group.0 as usize).into_iter().flat_map(|group| group.receivers()));
    let entry = |(place, receiver): (u8, &flowlane_tables::Receiver)| {
        let hop = receiver.hop()?;
        Some(ReceiverEntryView {
            place,
            next: hop.mac.to_string(),
            egress: hop.port.0,
            routed: hop.routed,
            packets: receiver.packets().load(),
            bytes: receiver.bytes().load(),
            missed: receiver.missed().load(),
        })
    };
    places.filter_map(entry).collect()
}

/// A port.
pub fn port(number: PortId, port: &Port, tables: &Tables, flagged: &Flagged) -> PortView {
    let counts = tables.counts(number).unwrap_or_else(|error| {
        tracing::warn!("counters can not be read: {error}");
        Default::default()
    });
    let counted = End::ALL.iter().zip(counts).filter(|(_, count)| *count > 0);
    PortView {
        number: number.0,
        interface: port.config.interface.clone(),
        executor: port.executor,
        adopted: port.adopted,
        up: port.link.as_ref().is_some_and(|link| link.up),
        mac: port.link.as_ref().map(|link| link.mac.to_string()),
        mtu: port.link.as_ref().map(|link| link.mtu),
        counts: counted.map(|(end, count)| (end.name().to_owned(), count)).collect(),
        flagged: flagged_of(number, port, tables, flagged),
        dhcp6_ignored: port.ignored(),
        restored: port.restored,
        problem: port.problem.clone(),
    }
}

/// The gateways that flows go by.
pub fn neighbours(hops: &Hops, ports: &Ports) -> Vec<NeighbourView> {
    let used = hops.neighbours().filter(|(_, neighbour)| !neighbour.targets.is_empty());
    let view = |(gateway, neighbour): (Gateway, &Neighbour)| NeighbourView {
        port: ports.interface(gateway.port),
        address: gateway.mac.to_string(),
        kind: neighbour.kind.name().into(),
        flows: neighbour.targets.len(),
        nonsense: neighbour.nonsense,
    };
    used.map(view).collect()
}

fn flagged_of(number: PortId, port: &Port, tables: &Tables, flagged: &Flagged) -> Option<FlaggedView> {
    let config = port.config.flag.filter(|flag| flag.role == FlagRole::Read)?;
    let at = flagged.at(number);
    Some(FlaggedView {
        flows: at.flows,
        limit: config.policy.limit,
        asking: at.asking,
        waiting: tables.ports().get(usize::from(number.0)).map_or(0, |entry| entry.asking().load()),
        left_to_linux: at.passes,
    })
}

/// Why something was not done.
pub fn failure(failure: &Failure) -> Problem {
    let code = match failure {
        Failure::Store(_) => "store",
        Failure::Refused(Refusal::Full { .. }) => "full",
        Failure::Refused(Refusal::Receivers(error)) => of_receivers(error),
        Failure::Refused(Refusal::PortQuota { .. } | Refusal::ClientQuota { .. }) => "quota",
        Failure::Refused(Refusal::NoBinding) => "no-such-flow",
        Failure::Refused(Refusal::Closed) => "closed",
        Failure::Refused(Refusal::NoWay(_)) => "no-way",
        Failure::Refused(Refusal::OtherPort(_)) => "other-port",
        Failure::Refused(Refusal::Invalid(_)) => "invalid",
    };
    Problem { code: code.into(), message: failure.to_string() }
}

/// The word for what is wrong with a group's receivers.
fn of_receivers(error: &ReceiversError) -> &'static str {
    match error {
        ReceiversError::TooMany(_) | ReceiversError::TooManyGroups => "full",
        ReceiversError::Twice(_) => "conflict",
        ReceiversError::NotThere(_) => "no-such-receiver",
        ReceiversError::OwnFlow(_) | ReceiversError::NoHost(_) => "invalid",
        ReceiversError::NoGroup => "no-such-group",
    }
}

/// There is no such flow.
pub fn no_such_flow(address: Mac) -> Problem {
    Problem {
        code: "no-such-flow".into(),
        message: format!("there is no flow {address}; `flowlane flow ls` lists them"),
    }
}

/// There is no such port.
pub fn no_such_port(interface: &str, ports: &Ports) -> Problem {
    let known: Vec<&str> = ports.iter().map(|(_, port)| port.config.interface.as_str()).collect();
    Problem {
        code: "no-such-port".into(),
        message: format!("there is no port {interface}; the ports are: {}", known.join(", ")),
    }
}

/// The word for a field.
pub fn field(field: Field) -> &'static str {
    match field {
        Field::Destination => "destination",
        Field::Source => "source",
    }
}

/// The word for what is known of a next hop.
pub fn state(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Resolved(_) => "resolved",
        Resolution::Group(_) => "group",
        Resolution::Pending(_) => "pending",
        Resolution::Unreachable => "unreachable",
    }
}

/// The slot and address of a flow that a lease has.
pub fn address_of(mac: Mac, tables: &Tables) -> Option<(FlowAddress, SlotIndex)> {
    let address = tables.block().flow_address(mac)?;
    Some((address, tables.block().slot(address)))
}

/// The seconds until the client of a closed lease may ask for it again.
fn closed_for(lease: &Lease, now: u64) -> Option<u64> {
    match lease.state {
        LeaseState::Closed { until } => Some(until.saturating_sub(now).div_ceil(1000)),
        LeaseState::Active | LeaseState::Quarantined { .. } => None,
    }
}

/// The seconds that a lease has to go; nothing for one that does not end.
pub fn remaining(lease: &Lease, now: u64) -> Option<u64> {
    (lease.expires != u64::MAX).then(|| lease.expires.saturating_sub(now) / 1000)
}
