//! Where frames go next: the next hop of each flow, and of each receiver of a group.
//!
//! Linux's routing and neighbour tables say it, and go on to say it: every change is another answer.

use super::ports::Ports;
use flowlane_allot::{Lease, PathSoFar};
use flowlane_resolve::{Query, Resolution, Resolver};
use flowlane_tables::{GroupIndex, NextHop};
use flowlane_wire::{PortId, Restore, SlotIndex};
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

/// Whose frames go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Those of the flow in a slot.
    Flow(SlotIndex),
    /// The copies for the receiver at this place of a group.
    Receiver(GroupIndex, usize),
}

/// What is wished for: the way of frames to a destination, and what the switches on it are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The IP destination.
    pub destination: IpAddr,
    /// The port that the frames come in by.
    pub port: PortId,
    /// How fast they may come, in bits per second.
    pub rate: Option<u64>,
    /// What the last switch does to the DSCP.
    pub restore: Restore,
    /// Where the flow has come by before this switch.
    pub path: PathSoFar,
}

/// What is known of the next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet: another answer follows.
    Pending,
    /// Frames go there.
    Found {
        /// The next hop.
        hop: NextHop,
        /// Whether it is on the receiver's side, and not the flow address that another switch has given.
        last: bool,
    },
    /// There is no way for now, and why. Another answer follows when there is one.
    Unreachable(String),
}

/// The next hops that are looked for.
pub struct Hops {
    resolver: Resolver,
    watched: HashMap<Target, Watched>,
    targets: HashMap<Query, BTreeSet<Target>>,
}

/// What is known of a target.
struct Watched {
    wish: Wish,
    query: Query,
}

impl Wish {
    /// What a lease wishes for its flows, on their way to `destination`.
    pub fn of(lease: &Lease, destination: IpAddr) -> Self {
        let (port, spec) = (lease.port, &lease.spec);
        Self { destination, port, rate: spec.rate, restore: spec.restore, path: spec.path.clone() }
    }
}

impl Hops {
    /// Nothing is looked for yet.
    pub fn new(resolver: Resolver) -> Self {
        Self { resolver, watched: HashMap::new(), targets: HashMap::new() }
    }

    /// Looks for the next hop of a target, until [`Hops::unwatch`]. Answers follow; watching again with the same wish
    /// changes nothing.
    pub fn watch(&mut self, target: Target, wish: Wish, ports: &Ports) {
        // Without an interface there is nothing to come in by; the question is asked when it is back.
        let query = Query { destination: wish.destination, ingress: ports.ifindex(wish.port).unwrap_or(0) };
        match self.watched.get_mut(&target) {
            Some(watched) if watched.query == query => watched.wish = wish,
            _ => {
                self.unwatch(target);
                self.watched.insert(target, Watched { wish, query });
                self.targets.entry(query).or_default().insert(target);
                self.resolver.watch(query);
            }
        }
    }

    /// Nobody wants to know the next hop any more.
    pub fn unwatch(&mut self, target: Target) {
        let Some(Watched { query, .. }) = self.watched.remove(&target) else { return };
        self.resolver.unwatch(query);
        if let Some(targets) = self.targets.get_mut(&query) {
            targets.remove(&target);
            if targets.is_empty() {
                self.targets.remove(&query);
            }
        }
    }

    /// Takes what the resolver says: the answers to all who have asked for it.
    pub fn resolved(&mut self, query: Query, resolution: Resolution, ports: &Ports) -> Vec<(Target, Answer)> {
        let answer = answer(resolution, ports);
        self.targets.get(&query).into_iter().flatten().map(|target| (*target, answer.clone())).collect()
    }

    /// An interface has another index: questions that named the old one are asked anew.
    pub fn port_moved(&mut self, port: PortId, ports: &Ports) {
        let moved = self.watched.iter().filter(|(_, watched)| watched.wish.port == port);
        let moved: Vec<(Target, Wish)> = moved.map(|(target, watched)| (*target, watched.wish.clone())).collect();
        for (target, wish) in moved {
            self.watch(target, wish, ports);
        }
    }

    /// Looks for the route of a question that nobody's next hop depends on yet, until [`Hops::unwatch_route`]: what the
    /// resolver says follows.
    pub fn watch_route(&self, query: Query) {
        self.resolver.watch(query);
    }

    /// Takes back one [`Hops::watch_route`].
    pub fn unwatch_route(&self, query: Query) {
        self.resolver.unwatch(query);
    }

    /// Static routes name interfaces by their index: tells it as it is now.
    pub fn set_static_routes(&self, ports: &Ports) {
        self.resolver.set_static_routes(ports.static_routes());
    }
}

fn answer(resolution: Resolution, ports: &Ports) -> Answer {
    match resolution {
        Resolution::Pending => Answer::Pending,
        Resolution::Unreachable(reason) => Answer::Unreachable(reason.to_string()),
        Resolution::Found(host) => match ports.of_ifindex(host.interface) {
            Some(port) => Answer::Found { hop: NextHop { mac: host.mac, port, routed: host.routed }, last: true },
            None => {
                let behind = interface_name(host.interface);
                let reason = format!("the next host {} is behind {behind}, which is no port of this switch", host.mac);
                Answer::Unreachable(reason)
            }
        },
    }
}

/// The name of an interface that is no port; its number, if it is gone.
fn interface_name(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("interface {ifindex}"))
}
