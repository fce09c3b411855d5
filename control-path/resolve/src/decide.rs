//! The decision: a query, a route and the tables give the next host. No I/O, no clock, no state.

use crate::tables::{LinkKind, NeighbourKey, Tables};
use crate::{NextHost, Query, Reason, Resolution, StaticRoute};
use flowlane_wire::Mac;
use std::net::IpAddr;

/// What the kernel's routing says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteAnswer {
    Via {
        interface: u32,
        /// The gateway, or the destination itself where that is on the link.
        next_hop: IpAddr,
    },
    Refused(Reason),
}

/// What the kernel should be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// All is known; now and then check that the neighbour is still there.
    Refresh,
    /// The neighbour's Ethernet address.
    Resolve,
    /// A frame from the neighbour, so that the bridge learns the port.
    Learn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub resolution: Resolution,
    /// The neighbour that the resolution rests on.
    pub neighbour: Option<(NeighbourKey, Need)>,
}

/// Decides where a flow goes. `statics` stand longest prefix first. None: the route is not known yet.
pub(crate) fn decide(
    query: Query,
    statics: &[StaticRoute],
    route: Option<RouteAnswer>,
    tables: &Tables,
) -> Option<Decision> {
    if !is_unicast(query.destination) {
        return Some(unreachable(Reason::NotUnicast));
    }
    if let Some(route) = statics.iter().find(|route| route.to.contains(&query.destination)) {
        let host = NextHost { mac: route.mac, interface: route.interface, routed: route.routed };
        return Some(Decision { resolution: leave(query, host, tables), neighbour: None });
    }
    Some(match link_local_route(query, tables).or(route)? {
        RouteAnswer::Refused(reason) => unreachable(reason),
        RouteAnswer::Via { interface, next_hop } => through(query, interface, next_hop, tables),
    })
}

/// A link-local address (RFC 4291 section 2.5.6) means something on the flow's own link alone, and has no other route.
fn link_local_route(query: Query, tables: &Tables) -> Option<RouteAnswer> {
    match query.destination {
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(RouteAnswer::Via {
            interface: tables.bridge_of(query.ingress).unwrap_or(query.ingress),
            next_hop: query.destination,
        }),
        _ => None,
    }
}

fn through(query: Query, interface: u32, next_hop: IpAddr, tables: &Tables) -> Decision {
    let kind = match tables.links.get(&interface) {
        Some(link) if link.state.up => link.kind,
        _ => return unreachable(Reason::InterfaceDown { interface }),
    };
    if kind == LinkKind::Other {
        return unreachable(Reason::NotEthernet { interface });
    }
    let key = NeighbourKey { interface, address: next_hop };
    let neighbour = tables.neighbours.get(&key).copied().unwrap_or_default();
    let on = |resolution, need| Decision { resolution, neighbour: Some((key, need)) };
    if neighbour.failed.is_some() {
        return on(Resolution::Unreachable(Reason::NoAnswer { next_hop }), Need::Resolve);
    }
    let Some(mac) = neighbour.mac else { return on(Resolution::Pending, Need::Resolve) };
    let need = if neighbour.gone { Need::Resolve } else { Need::Refresh };
    // A fixed neighbour is never probed: the kernel would take it for an ordinary one from then on.
    let learn = if need == Need::Refresh && !neighbour.fixed { Need::Learn } else { need };

    let same_link = interface == query.ingress || tables.bridge_of(query.ingress) == Some(interface);
    let host = NextHost { mac, interface, routed: next_hop != query.destination || !same_link };
    if kind != LinkKind::Bridge {
        return on(leave(query, host, tables), need);
    }
    match tables.bridge_port(interface, mac) {
        None => on(Resolution::Pending, learn),
        Some(entry) => {
            let need = if entry.gone || !tables.is_up(entry.port) { learn } else { need };
            on(leave(query, NextHost { interface: entry.port, ..host }, tables), need)
        }
    }
}

fn leave(query: Query, host: NextHost, tables: &Tables) -> Resolution {
    if host.interface == query.ingress {
        Resolution::Unreachable(Reason::SamePort)
    } else if !tables.is_up(host.interface) {
        Resolution::Unreachable(Reason::InterfaceDown { interface: host.interface })
    } else {
        Resolution::Found(host)
    }
}

/// Whether an address can be a neighbour's own.
pub(crate) fn is_host(mac: Mac) -> bool {
    !mac.is_group() && mac != Mac::default()
}

/// Whether an address can be one host's. A subnet's broadcast address is known to the routing alone.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_multicast() || address.is_unspecified() || broadcast)
}

fn unreachable(reason: Reason) -> Decision {
    Decision { resolution: Resolution::Unreachable(reason), neighbour: None }
}
