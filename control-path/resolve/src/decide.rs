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

/// What the kernel's routing says about a destination, with all next hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routes {
    /// The kernel's choice.
    pub chosen: RouteAnswer,
    /// All ways that can be chosen from, in an order that stays; none where they were not asked for.
    pub all: Option<Vec<RouteAnswer>>,
}

impl Routes {
    /// The answer for a path, and how many there are. None: all of them are not known.
    pub fn of(&self, path: Option<u8>) -> Option<(RouteAnswer, u8)> {
        let Some(path) = path else { return Some((self.chosen, 1)) };
        let all = self.all.as_ref()?;
        match u8::try_from(all.len()).unwrap_or(u8::MAX) {
            0 => Some((self.chosen, 1)),
            count => Some((*all.get(usize::from(path % count))?, count)),
        }
    }
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
    /// The interface that the route leaves by.
    pub interface: Option<u32>,
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
        let host = NextHost { mac: route.mac, interface: route.interface, routed: route.routed, gateway: false };
        let interface = Some(route.interface);
        return Some(Decision { resolution: leave(query, host, tables), neighbour: None, interface });
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
    let refused = |reason| Decision { interface: Some(interface), ..unreachable(reason) };
    let kind = match tables.links.get(&interface) {
        Some(link) if link.state.up => link.kind,
        _ => return refused(Reason::InterfaceDown { interface }),
    };
    if kind == LinkKind::Other {
        return refused(Reason::NotEthernet { interface });
    }
    let key = NeighbourKey { interface, address: next_hop };
    let neighbour = tables.neighbours.get(&key).copied().unwrap_or_default();
    let on = |resolution, need| Decision { resolution, neighbour: Some((key, need)), interface: Some(interface) };
    if neighbour.failed.is_some() {
        return on(Resolution::Unreachable(Reason::NoAnswer { next_hop }), Need::Resolve);
    }
    let Some(mac) = neighbour.mac else { return on(Resolution::Pending, Need::Resolve) };
    let need = if neighbour.gone { Need::Resolve } else { Need::Refresh };
    // A fixed neighbour is never probed: the kernel would take it for an ordinary one from then on.
    let learn = if need == Need::Refresh && !neighbour.fixed { Need::Learn } else { need };

    let same_link = interface == query.ingress || tables.bridge_of(query.ingress) == Some(interface);
    let gateway = next_hop != query.destination;
    let host = NextHost { mac, interface, routed: gateway || !same_link, gateway };
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
    Decision { resolution: Resolution::Unreachable(reason), neighbour: None, interface: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinkState;
    use crate::tables::{FdbKey, Link, NeighbourState};
    use proptest::prelude::*;
    use std::time::Instant;

    const PORTS: std::ops::Range<u32> = 1..4;
    const BRIDGE: u32 = 4;
    const TUNNEL: u32 = 5;

    fn host(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn link(ifindex: u32, up: bool, master: Option<u32>) -> Link {
        let kind = match ifindex {
            BRIDGE => LinkKind::Bridge,
            TUNNEL => LinkKind::Other,
            _ => LinkKind::Ethernet,
        };
        let state = LinkState { ifindex, name: format!("i{ifindex}"), up, mtu: 1500, mac: mac(0), master, kind: None };
        Link { state, kind }
    }

    #[derive(Clone, Copy, Debug)]
    enum Seen {
        Nothing,
        Usable,
        Fixed,
        Failed,
        Gone,
    }

    prop_compose! {
        /// Ports 1 to 3, each perhaps in the bridge, and hosts 0 to 3 whose Ethernet address tells their number.
        fn tables()(
            links in proptest::collection::vec((any::<bool>(), any::<bool>()), 5),
            neighbours in proptest::collection::vec((1u32..6, 0u8..4, seen()), 0..12),
            fdb in proptest::collection::vec((0u8..4, PORTS, 0u16..2, any::<bool>()), 0..8),
        ) -> Tables {
            let (mut tables, now) = (Tables::default(), Instant::now());
            for (ifindex, (up, bridged)) in (1..).zip(links) {
                tables.set_link(link(ifindex, up, (bridged && PORTS.contains(&ifindex)).then_some(BRIDGE)));
            }
            for (interface, n, seen) in neighbours {
                let key = NeighbourKey { interface, address: host(n) };
                match seen {
                    Seen::Nothing => tables.set_neighbour(key, NeighbourState::Incomplete, now),
                    Seen::Usable => tables.set_neighbour(key, NeighbourState::Usable(mac(n)), now),
                    Seen::Fixed => tables.set_neighbour(key, NeighbourState::Fixed(mac(n)), now),
                    Seen::Failed => tables.set_neighbour(key, NeighbourState::Failed, now),
                    Seen::Gone => tables.neighbour_gone(key, now),
                }
            }
            for (n, port, vlan, gone) in fdb {
                let key = FdbKey { bridge: BRIDGE, mac: mac(n), vlan };
                tables.set_fdb(key, port);
                if gone {
                    tables.fdb_gone(key, port);
                }
            }
            tables
        }
    }

    fn seen() -> impl Strategy<Value = Seen> {
        prop_oneof![Just(Seen::Nothing), Just(Seen::Usable), Just(Seen::Fixed), Just(Seen::Failed), Just(Seen::Gone)]
    }

    fn route() -> impl Strategy<Value = RouteAnswer> {
        (1u32..7, 0u8..4).prop_map(|(interface, n)| RouteAnswer::Via { interface, next_hop: host(n) })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn frames_leave_by_another_port_that_is_up_and_leads_to_the_next_hop(
            tables in tables(), route in route(), n in 0u8..4, ingress in 0u32..4,
        ) {
            let query = Query::new(host(n), ingress);
            let decision = decide(query, &[], Some(route), &tables).expect("the route is known");
            let RouteAnswer::Via { interface, next_hop } = route else { unreachable!() };
            if let Resolution::Found(found) = decision.resolution {
                let neighbour = tables.neighbours[&NeighbourKey { interface, address: next_hop }];
                prop_assert!(is_host(found.mac) && neighbour.mac == Some(found.mac) && neighbour.failed.is_none());
                prop_assert!(found.interface != ingress && PORTS.contains(&found.interface));
                prop_assert!(tables.is_up(interface) && tables.is_up(found.interface));
                if interface == BRIDGE {
                    let ports = &tables.fdb[&(BRIDGE, found.mac)];
                    prop_assert!(ports.iter().any(|entry| entry.port == found.interface));
                } else {
                    prop_assert_eq!(found.interface, interface);
                }
                let bridged = tables.links.get(&ingress).is_some_and(|link| link.state.master == Some(interface));
                prop_assert_eq!(found.routed, !(bridged && next_hop == query.destination));
                prop_assert_eq!(found.gateway, next_hop != query.destination);
            }
        }

        #[test]
        fn whatever_is_pending_asks_for_what_it_lacks(
            tables in tables(), route in route(), n in 0u8..4, ingress in 0u32..4,
        ) {
            let decision = decide(Query::new(host(n), ingress), &[], Some(route), &tables);
            let Decision { resolution, neighbour, .. } = decision.expect("the route is known");
            if let Some((key, need)) = neighbour {
                let known = tables.neighbours.get(&key).copied().unwrap_or_default();
                match need {
                    Need::Learn => prop_assert!(!known.fixed && !known.gone && key.interface == BRIDGE),
                    Need::Resolve => prop_assert!(known.mac.is_none() || known.gone || known.failed.is_some()),
                    Need::Refresh => prop_assert!(resolution != Resolution::Pending || known.fixed),
                }
            } else {
                prop_assert!(matches!(resolution, Resolution::Unreachable(_)));
            }
        }

        #[test]
        fn longest_static_prefix_wins_over_any_route(
            tables in tables(), route in proptest::option::of(route()), lens in proptest::collection::vec(0u8..33, 1..5),
        ) {
            let mut lens = lens;
            lens.sort_unstable_by(|a, b| b.cmp(a));
            let to = |len| ipnet::IpNet::new(host(1), len).expect("a length up to 32").trunc();
            let statics: Vec<StaticRoute> = lens
                .iter()
                .map(|len| StaticRoute { to: to(*len), interface: 1, mac: mac(*len), routed: false })
                .collect();
            let query = Query::new(host(1), 2);
            let decision = decide(query, &statics, route, &tables).expect("a static route is known");
            let wanted = if tables.is_up(1) {
                Resolution::Found(NextHost { mac: mac(lens[0]), interface: 1, routed: false, gateway: false })
            } else {
                Resolution::Unreachable(Reason::InterfaceDown { interface: 1 })
            };
            prop_assert_eq!(decision, Decision { resolution: wanted, neighbour: None, interface: Some(1) });
        }

        #[test]
        fn address_of_several_hosts_is_never_a_flow(tables in tables(), route in route(), low: [u8; 3]) {
            for destination in [
                IpAddr::from([224 + low[0] % 16, low[1], low[2], 1]),
                IpAddr::from([255; 4]),
                IpAddr::from([0; 4]),
                IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, u16::from(low[0])]),
            ] {
                let decision = decide(Query::new(destination, 1), &[], Some(route), &tables);
                prop_assert_eq!(decision, Some(unreachable(Reason::NotUnicast)));
            }
        }
    }

    #[test]
    fn nothing_is_decided_before_the_route_is_known() {
        let query = Query::new(host(1), 1);
        assert_eq!(decide(query, &[], None, &Tables::default()), None);
    }

    #[test]
    fn link_local_destination_needs_no_route() {
        let mut tables = Tables::default();
        tables.set_link(link(BRIDGE, true, None));
        tables.set_link(link(1, true, Some(BRIDGE)));
        let address = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 9]);
        let decision = decide(Query::new(address, 1), &[], None, &tables).expect("decided");
        assert_eq!(decision.neighbour, Some((NeighbourKey { interface: BRIDGE, address }, Need::Resolve)));
    }
}
