//! Where frames go next: the next hop of each flow, and of each receiver of a group.
//!
//! Linux's routing and neighbour tables say it, and go on to say it: every change is another answer. Where they say that it
//! is a gateway, the gateway may be a switch, and have a flow address for the frames ([`chain`]).

mod chain;
mod link;
mod neighbour;
mod timers;

use super::{boot_ms, ports::Ports};
use chain::Chains;
use flowlane_allot::{Lease, PathSoFar, SwitchId};
use flowlane_ports::control::Datagram;
use flowlane_resolve::{NextHost, Query, Resolution, Resolver};
use flowlane_tables::{GroupIndex, NextHop};
use flowlane_wire::{Block, Mac, PortId, Restore, SlotIndex};
pub use neighbour::Neighbour;
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
    /// Which of several equal next hops they take.
    pub path: Option<u8>,
    /// Where the flow has come by before this switch.
    pub so_far: PathSoFar,
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

/// A gateway, by the port to it and its Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gateway {
    /// The port.
    pub port: PortId,
    /// The address.
    pub mac: Mac,
}

/// The next hops that are looked for.
pub struct Hops {
    resolver: Resolver,
    chains: Chains,
    watched: HashMap<Target, Watched>,
    targets: HashMap<Query, Targets>,
}

/// Those whose frames go where the answer to one question says.
#[derive(Default)]
struct Targets {
    all: BTreeSet<Target>,
    /// Those that have come since the last answer.
    new: Vec<Target>,
    answer: Option<Resolution>,
}

/// What is known of a target.
struct Watched {
    wish: Wish,
    query: Query,
    /// What the resolver says.
    resolution: Option<Resolution>,
    /// Where a predecessor sent the frames.
    adopted: Option<NextHop>,
}

impl Wish {
    /// What a lease wishes for its flows, on their way to `destination`.
    pub fn of(lease: &Lease, destination: IpAddr) -> Self {
        let (port, spec) = (lease.port, &lease.spec);
        let so_far = spec.so_far.clone();
        Self { destination, port, rate: spec.rate, restore: spec.restore, path: spec.path, so_far }
    }
}

impl Hops {
    /// Nothing is looked for yet, by the switch with this identifier and these addresses.
    pub fn new(resolver: Resolver, id: SwitchId, block: Block) -> Self {
        Self { resolver, chains: Chains::new(id, block), watched: HashMap::new(), targets: HashMap::new() }
    }

    /// Looks for the next hop of a target, until [`Hops::unwatch`]. Answers follow; watching again with the same wish
    /// changes nothing.
    pub fn watch(&mut self, target: Target, wish: Wish, ports: &Ports) {
        // Without an interface there is nothing to come in by; the question is asked when it is back.
        let ingress = ports.ifindex(wish.port).unwrap_or(0);
        let query = Query { destination: wish.destination, ingress, path: wish.path };
        match self.watched.get_mut(&target) {
            Some(watched) if watched.query == query => {
                if watched.wish != wish {
                    watched.wish = wish;
                    self.follow(target, ports);
                }
            }
            _ => {
                self.forget(target);
                self.watched.insert(target, Watched { wish, query, resolution: None, adopted: None });
                self.targets.entry(query).or_default().insert(target);
                self.resolver.watch(query);
            }
        }
    }

    /// A predecessor sent the target's frames there, and they still go there: a flow address of the next switch is kept while
    /// that switch is asked again. To be said right after [`Hops::watch`].
    pub fn adopt(&mut self, target: Target, hop: NextHop) {
        if let Some(watched) = self.watched.get_mut(&target).filter(|watched| watched.resolution.is_none()) {
            watched.adopted = Some(hop);
        }
    }

    /// Nobody wants to know the next hop any more.
    pub fn unwatch(&mut self, target: Target) {
        self.chains.leave(target, boot_ms());
        self.forget(target);
    }

    fn forget(&mut self, target: Target) {
        let Some(Watched { query, .. }) = self.watched.remove(&target) else { return };
        self.resolver.unwatch(query);
        if let Some(targets) = self.targets.get_mut(&query) {
            targets.all.remove(&target);
            if targets.all.is_empty() {
                self.targets.remove(&query);
            }
        }
    }

    /// Takes what the resolver says: the answers to all who have asked for it, and did not know it yet.
    pub fn resolved(&mut self, query: Query, resolution: Resolution, ports: &Ports) -> Vec<(Target, Answer)> {
        let targets = self.targets.get_mut(&query).map(|targets| targets.answered(resolution)).unwrap_or_default();
        let news = targets.into_iter().filter(|target| {
            let watched = self.watched.get_mut(target).filter(|watched| watched.query == query);
            watched.is_some_and(|watched| watched.resolution.replace(resolution) != Some(resolution))
        });
        let news: Vec<Target> = news.collect();
        news.iter().for_each(|target| self.follow(*target, ports));
        self.answers(news, ports)
    }

    /// Takes a DHCPv6 message that was sent to clients, by a port. Its answers.
    ///
    /// # Errors
    /// A short reason why it is of no use, for counters.
    pub fn received(
        &mut self,
        port: PortId,
        datagram: &Datagram,
        ports: &Ports,
    ) -> Result<Vec<(Target, Answer)>, &'static str> {
        let targets = self.chains.received(port, datagram, boot_ms())?;
        Ok(self.answers(targets, ports))
    }

    /// Does what is due, and sends what is to be sent. The answers that follow from it.
    pub fn timeout(&mut self, ports: &Ports) -> Vec<(Target, Answer)> {
        let targets = self.chains.timeout(boot_ms(), ports);
        self.answers(targets, ports)
    }

    /// When [`Hops::timeout`] has something to do, in boot-time milliseconds.
    pub fn deadline(&self) -> Option<u64> {
        self.chains.deadline()
    }

    /// Whether it is known of every target where its frames go, or that there is no way.
    pub fn are_known(&self) -> bool {
        let is_known =
            |watched: &Watched| matches!(watched.resolution, Some(Resolution::Found(_) | Resolution::Unreachable(_)));
        self.watched.values().all(is_known)
    }

    /// What is known of a target's next hop.
    pub fn answer(&self, target: Target, ports: &Ports) -> Answer {
        self.answers(vec![target], ports).pop().map_or(Answer::Pending, |(_, answer)| answer)
    }

    /// The next switch of a target, if it has given a flow address.
    pub fn via(&self, target: Target) -> Option<Gateway> {
        self.chains.via(target)
    }

    /// What a next switch refused, while frames go to its own address.
    pub fn refusal(&self, target: Target) -> Option<String> {
        self.chains.refusal(target)
    }

    /// The gateways that frames go by, and what is known of them.
    pub fn neighbours(&self) -> impl Iterator<Item = (Gateway, &Neighbour)> {
        self.chains.neighbours()
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

    /// Asks the gateway on a target's way, where there is one and the port to it says so.
    fn follow(&mut self, target: Target, ports: &Ports) {
        let Some(watched) = self.watched.get_mut(&target) else { return };
        let now = boot_ms();
        match watched.resolution {
            Some(Resolution::Found(host)) => match gateway(host, ports) {
                Some(gateway) => {
                    let adopted =
                        watched.adopted.take().filter(|hop| hop.port == gateway.port && hop.mac != gateway.mac);
                    self.chains.follow(target, gateway, &watched.wish, adopted, now);
                }
                None => self.chains.leave(target, now),
            },
            // For a while, or for ever: what the next switch has granted is of use if it is for a while.
            Some(Resolution::Pending | Resolution::Unreachable(_)) | None => {}
        }
    }

    fn answers(&self, targets: Vec<Target>, ports: &Ports) -> Vec<(Target, Answer)> {
        let answer = |target: Target| {
            let answer = match answer(self.watched.get(&target)?.resolution?, ports) {
                Answer::Found { hop, .. } => self.chains.hop(target, hop),
                other => other,
            };
            Some((target, answer))
        };
        targets.into_iter().filter_map(answer).collect()
    }

    /// Static routes name interfaces by their index: tells it as it is now.
    pub fn set_static_routes(&self, ports: &Ports) {
        self.resolver.set_static_routes(ports.static_routes());
    }
}

impl Targets {
    fn insert(&mut self, target: Target) {
        self.all.insert(target);
        self.new.push(target);
    }

    /// Takes an answer. Whom it may be news to: all, or only those who have come since it was given last.
    fn answered(&mut self, answer: Resolution) -> Vec<Target> {
        let new = std::mem::take(&mut self.new);
        if self.answer.replace(answer) == Some(answer) { new } else { self.all.iter().copied().collect() }
    }
}

/// The gateway that a next host is, if it is to be asked.
fn gateway(host: NextHost, ports: &Ports) -> Option<Gateway> {
    let port = ports.of_ifindex(host.interface).filter(|_| host.gateway)?;
    let chains = ports.get(port).is_some_and(|port| port.config.chain);
    chains.then_some(Gateway { port, mac: host.mac })
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
pub fn interface_name(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("interface {ifindex}"))
}
