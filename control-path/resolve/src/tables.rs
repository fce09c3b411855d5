//! What the kernel said: interfaces, neighbours, and the forwarding tables of bridges.
//!
//! Neighbours and forwarding entries outlive the kernel's own: forwarded frames bypass Linux, so that its entries
//! may age out while the flow lives. Such an entry is `gone`, and still good until the kernel says otherwise.

use crate::LinkState;
use flowlane_wire::Mac;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A neighbour that failed and is removed at once was removed by the administrator, not by its silence: the kernel
/// marks an entry as failed before it deletes it.
const REMOVED_AT_ONCE: Duration = Duration::from_millis(100);

/// One change of the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Link(Link),
    LinkGone(u32),
    Neighbour(NeighbourKey, NeighbourState),
    NeighbourGone(NeighbourKey),
    Fdb(FdbKey, u32),
    FdbGone(FdbKey, u32),
    /// Routes to the prefix may have changed; to any destination without one.
    Routes(Option<IpNet>),
    /// Notices were lost.
    Overrun,
}

/// An interface, and what it means to a route through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub state: LinkState,
    pub kind: LinkKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Ethernet,
    Bridge,
    /// No Ethernet addresses.
    Other,
}

/// A neighbour: the interface index and the IP address on that link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NeighbourKey {
    pub interface: u32,
    pub address: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeighbourState {
    /// Any state in which the kernel would send to this address.
    Usable(Mac),
    /// Usable, and set by the administrator or a routing daemon: the kernel asks nobody for it.
    Fixed(Mac),
    /// Being resolved.
    Incomplete,
    /// Did not answer.
    Failed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// The last address that was usable.
    pub mac: Option<Mac>,
    /// Since when it does not answer.
    pub failed: Option<Instant>,
    /// The kernel has no entry any more.
    pub gone: bool,
    /// The kernel does not resolve it.
    pub fixed: bool,
}

/// An address in the forwarding table of a bridge. VLAN 0 is the table of a bridge without VLAN filtering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FdbKey {
    pub bridge: u32,
    pub mac: Mac,
    pub vlan: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdbEntry {
    pub vlan: u16,
    pub port: u32,
    pub gone: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub links: HashMap<u32, Link>,
    pub neighbours: HashMap<NeighbourKey, Neighbour>,
    /// By bridge and address; nearly always one entry.
    pub fdb: HashMap<(u32, Mac), Vec<FdbEntry>>,
}

impl Tables {
    /// Whether frames can pass through an interface.
    pub fn is_up(&self, interface: u32) -> bool {
        self.links.get(&interface).is_some_and(|link| link.state.up)
    }

    /// Where a bridge saw an address: a live entry before one that is gone, the lowest VLAN first.
    pub fn bridge_port(&self, bridge: u32, mac: Mac) -> Option<FdbEntry> {
        self.fdb.get(&(bridge, mac))?.iter().copied().min_by_key(|entry| (entry.gone, entry.vlan))
    }

    /// The bridge that a port belongs to.
    pub fn bridge_of(&self, port: u32) -> Option<u32> {
        let master = self.links.get(&port)?.state.master?;
        self.links.get(&master).filter(|link| link.kind == LinkKind::Bridge).map(|link| link.state.ifindex)
    }

    /// Takes an interface as it is now; returns what it was.
    pub fn set_link(&mut self, link: Link) -> Option<Link> {
        let (ifindex, up, master) = (link.state.ifindex, link.state.up, link.state.master);
        let before = self.links.insert(ifindex, link);
        if !up {
            // Behind a cable that was unplugged may be another host.
            self.neighbours.retain(|key, neighbour| key.interface != ifindex || !neighbour.gone);
        }
        if before.as_ref().is_some_and(|before| before.state.master != master) {
            self.forget_port(ifindex);
        }
        before
    }

    pub fn remove_link(&mut self, ifindex: u32) -> Option<Link> {
        self.neighbours.retain(|key, _| key.interface != ifindex);
        self.fdb.retain(|(bridge, _), _| *bridge != ifindex);
        self.forget_port(ifindex);
        self.links.remove(&ifindex)
    }

    pub fn set_neighbour(&mut self, key: NeighbourKey, state: NeighbourState, now: Instant) {
        let neighbour = self.neighbours.entry(key).or_default();
        neighbour.gone = false;
        neighbour.fixed = matches!(state, NeighbourState::Fixed(_));
        match state {
            NeighbourState::Usable(mac) | NeighbourState::Fixed(mac) => {
                (neighbour.mac, neighbour.failed) = (Some(mac), None)
            }
            NeighbourState::Failed => neighbour.failed = Some(now),
            NeighbourState::Incomplete => {}
        }
    }

    pub fn neighbour_gone(&mut self, key: NeighbourKey, now: Instant) {
        let up = self.is_up(key.interface);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        if !up {
            self.neighbours.remove(&key);
            return;
        }
        neighbour.gone = true;
        neighbour.failed = neighbour.failed.filter(|since| now.saturating_duration_since(*since) > REMOVED_AT_ONCE);
    }

    pub fn set_fdb(&mut self, key: FdbKey, port: u32) {
        let entries = self.fdb.entry((key.bridge, key.mac)).or_default();
        entries.retain(|entry| entry.vlan != key.vlan);
        entries.push(FdbEntry { vlan: key.vlan, port, gone: false });
    }

    pub fn fdb_gone(&mut self, key: FdbKey, port: u32) {
        let entries = self.fdb.get_mut(&(key.bridge, key.mac)).into_iter().flatten();
        entries.filter(|entry| entry.vlan == key.vlan && entry.port == port).for_each(|entry| entry.gone = true);
    }

    /// Drops what is gone and not in use.
    pub fn prune(&mut self, neighbour_used: impl Fn(&NeighbourKey) -> bool, mac_used: impl Fn(&(u32, Mac)) -> bool) {
        self.neighbours.retain(|key, neighbour| !neighbour.gone || neighbour_used(key));
        self.fdb.retain(|key, entries| {
            if !mac_used(key) {
                entries.retain(|entry| !entry.gone);
            }
            !entries.is_empty()
        });
    }

    fn forget_port(&mut self, port: u32) {
        self.fdb.retain(|_, entries| {
            entries.retain(|entry| entry.port != port);
            !entries.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NeighbourKey = NeighbourKey { interface: 1, address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)) };
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn tables_with_a_link() -> Tables {
        let mut tables = Tables::default();
        tables.set_link(link(true));
        tables
    }

    fn link(up: bool) -> Link {
        let state = LinkState {
            ifindex: 1,
            name: "p1".into(),
            up,
            mtu: 1500,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            master: None,
            kind: None,
        };
        Link { state, kind: LinkKind::Ethernet }
    }

    #[test]
    fn neighbour_collected_as_garbage_keeps_its_address() {
        let (mut tables, now) = (tables_with_a_link(), Instant::now());
        tables.set_neighbour(KEY, NeighbourState::Usable(MAC), now);
        tables.neighbour_gone(KEY, now);
        assert_eq!(tables.neighbours[&KEY], Neighbour { mac: Some(MAC), failed: None, gone: true, fixed: false });
    }

    #[test]
    fn neighbour_that_failed_long_ago_stays_failed_when_it_is_collected() {
        let (mut tables, now) = (tables_with_a_link(), Instant::now());
        tables.set_neighbour(KEY, NeighbourState::Failed, now);
        tables.neighbour_gone(KEY, now + Duration::from_secs(15));
        assert_eq!(tables.neighbours[&KEY].failed, Some(now));
    }

    #[test]
    fn neighbour_removed_by_the_administrator_has_not_failed() {
        let (mut tables, now) = (tables_with_a_link(), Instant::now());
        tables.set_neighbour(KEY, NeighbourState::Usable(MAC), now);
        tables.set_neighbour(KEY, NeighbourState::Failed, now);
        tables.neighbour_gone(KEY, now);
        assert_eq!(tables.neighbours[&KEY], Neighbour { mac: Some(MAC), failed: None, gone: true, fixed: false });
    }

    #[test]
    fn neighbour_behind_an_unplugged_cable_is_forgotten_whichever_notice_comes_first() {
        let now = Instant::now();
        for link_first in [true, false] {
            let mut tables = tables_with_a_link();
            tables.set_neighbour(KEY, NeighbourState::Usable(MAC), now);
            if link_first {
                tables.set_link(link(false));
                tables.neighbour_gone(KEY, now);
            } else {
                tables.neighbour_gone(KEY, now);
                tables.set_link(link(false));
            }
            assert!(tables.neighbours.is_empty(), "link first: {link_first}");
        }
    }

    #[test]
    fn permanent_neighbour_survives_a_lost_carrier() {
        let (mut tables, now) = (tables_with_a_link(), Instant::now());
        tables.set_neighbour(KEY, NeighbourState::Usable(MAC), now);
        tables.set_link(link(false));
        assert_eq!(tables.neighbours[&KEY].mac, Some(MAC));
    }

    #[test]
    fn late_removal_of_the_old_port_does_not_touch_a_moved_address() {
        let mut tables = Tables::default();
        let key = FdbKey { bridge: 9, mac: MAC, vlan: 0 };
        tables.set_fdb(key, 1);
        tables.set_fdb(key, 2);
        tables.fdb_gone(key, 1);
        assert_eq!(tables.bridge_port(9, MAC), Some(FdbEntry { vlan: 0, port: 2, gone: false }));
    }

    #[test]
    fn live_entry_wins_over_one_that_is_gone() {
        let mut tables = Tables::default();
        tables.set_fdb(FdbKey { bridge: 9, mac: MAC, vlan: 1 }, 1);
        tables.set_fdb(FdbKey { bridge: 9, mac: MAC, vlan: 2 }, 2);
        tables.fdb_gone(FdbKey { bridge: 9, mac: MAC, vlan: 1 }, 1);
        assert_eq!(tables.bridge_port(9, MAC).map(|entry| entry.port), Some(2));
    }
}
