//! Chains of switches: where the next hop is a gateway, it is asked for a flow address of its own (claims 14 and 22).
//!
//! ```text
//!     gateway --> unknown --> asked --> a switch --> one client for each flow --> flow address
//!                                 `---> plain   --> its own address; asked again by a flow a minute later
//! ```
//!
//! A flow waits a moment for the answer and then goes to the gateway's own address, where Linux routes it; it is sent to
//! the flow address when one comes. What serves goes on to serve until something better does.

use super::{
    Answer, Gateway, Target, Wish,
    link::{Before, Link, Refusal, client_for, spec},
    neighbour::{Finding, Kind, Neighbour, flow_addresses},
    timers::Timers,
};
use crate::switch::ports::Ports;
use flowlane_allot::SwitchId;
use flowlane_dhcp6::{Client, Duid, Event, LlAddr, Message};
use flowlane_ports::control::Datagram;
use flowlane_tables::{GroupIndex, NextHop};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};
use std::collections::{BTreeMap, HashMap};

/// The links from this switch to the next ones.
pub struct Chains {
    id: SwitchId,
    block: Block,
    links: HashMap<Target, Link>,
    neighbours: BTreeMap<Gateway, Neighbour>,
    /// Leases that are being given back, by the neighbour and the number for them.
    leaving: HashMap<(Gateway, u32), Leaving>,
    /// Which of them a transaction is about: the answer does not say.
    releases: HashMap<(Gateway, [u8; 3]), u32>,
    timers: Timers<Timer>,
}

/// A lease that is being given back. It may have to be got first: a predecessor had it, or the answer is on its way.
struct Leaving {
    client: Client,
    /// Then it is left to its end (boot-time milliseconds).
    until: u64,
    /// The transaction under way.
    transaction: Option<[u8; 3]>,
}

/// Whose time it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    Link(Target),
    Neighbour(Gateway),
    Leaving(Gateway, u32),
}

/// How long the first packet waits for a gateway of which nothing is known.
const UNKNOWN: u64 = 150;
/// How long it waits for a switch.
const KNOWN: u64 = 1_000;
/// How long a flow address that a predecessor was given serves without an answer.
const ADOPTED: u64 = 5_000;
/// How long a lease is tried to be given back: as long as four messages take (RFC 9915 section 18.2.7).
const LEAVING: u64 = 20_000;
/// Gateways that are remembered without flows.
const NEIGHBOURS: usize = 4_096;

impl Chains {
    /// No links yet, of the switch with this identifier and these addresses.
    pub fn new(id: SwitchId, block: Block) -> Self {
        let (links, neighbours, leaving, releases) = Default::default();
        Self { id, block, links, neighbours, leaving, releases, timers: Timers::new() }
    }

    /// A target's frames go by a gateway: asks there, unless it was asked already. `adopted` is where a predecessor sent
    /// them.
    pub fn follow(&mut self, target: Target, gateway: Gateway, wish: &Wish, adopted: Option<NextHop>, now: u64) {
        let spec = spec(wish, self.id);
        if let Some(link) = self.links.get_mut(&target).filter(|link| link.gateway == gateway) {
            if link.spec != spec {
                link.spec = spec;
                self.ask(target, now);
            }
            return;
        }
        // A lease of the same gateway is asked for again, and must not be given back.
        let before = self.detach(target, now).filter(|before| before.gateway != gateway);
        let mut link = Link::new(gateway, spec, before);
        let adopted = adopted.map(|hop| hop.mac).filter(|mac| self.is_next_flow(*mac, gateway));
        let neighbour = self.neighbours.entry(gateway).or_insert_with(Neighbour::new);
        if let Some(at) = neighbour.join(target, now) {
            self.timers.set(Timer::Neighbour(gateway), Some(at));
        }
        let kind = neighbour.kind;
        link.patience = match (kind, adopted) {
            (_, Some(_)) => Some(now + ADOPTED),
            (Kind::Unknown, None) => Some(neighbour.asked() + UNKNOWN),
            _ => None,
        };
        link.address = adopted;
        self.links.insert(target, link);
        if kind == Kind::Switch {
            self.ask(target, now);
        }
        self.schedule(target);
        self.release_before(target, now);
        self.forget_unused();
    }

    /// A target's frames go by no gateway any more: gives back what was granted.
    pub fn leave(&mut self, target: Target, now: u64) {
        if let Some(before) = self.detach(target, now) {
            self.release(target, before, now);
        }
    }

    /// Where frames go whose next hop is `hop`.
    pub fn hop(&self, target: Target, hop: NextHop) -> Answer {
        let Some(link) = self.links.get(&target) else { return Answer::Found { hop, last: true } };
        match link {
            Link { address: Some(mac), .. } => Answer::Found { hop: NextHop { mac: *mac, ..hop }, last: false },
            Link { refusal: Some(Refusal { text, no_way: true }), gateway, .. } => {
                Answer::Unreachable(format!("the next switch {} says: {text}", gateway.mac))
            }
            Link { patience: Some(_), .. } => Answer::Pending,
            _ => Answer::Found { hop, last: true },
        }
    }

    /// The next switch of a target, if it has given an address.
    pub fn via(&self, target: Target) -> Option<Gateway> {
        self.links.get(&target).filter(|link| link.address.is_some()).map(|link| link.gateway)
    }

    /// What the next switch refused, while frames go to its own address.
    pub fn refusal(&self, target: Target) -> Option<String> {
        let link = self.links.get(&target)?;
        let refusal = link.refusal.as_ref()?;
        Some(format!("no flow address from the next switch {}: {}", link.gateway.mac, refusal.text))
    }

    /// What is known of gateways.
    pub fn neighbours(&self) -> impl Iterator<Item = (Gateway, &Neighbour)> {
        self.neighbours.iter().map(|(gateway, neighbour)| (*gateway, neighbour))
    }

    /// Takes a message that was sent to clients. Whose next hop may have changed.
    ///
    /// # Errors
    /// A short reason why it is of no use, for counters.
    pub fn received(&mut self, port: PortId, datagram: &Datagram, now: u64) -> Result<Vec<Target>, &'static str> {
        let gateway = Gateway { port, mac: datagram.host };
        let answer = Message::parse(&datagram.payload).map_err(|_| "answer_malformed")?;
        if let Some(iaid) = self.releases.get(&(gateway, answer.transaction.0)).copied() {
            return self.released(gateway, iaid, &datagram.payload, now).map(|()| Vec::new());
        }
        if !self.neighbours.contains_key(&gateway) {
            return Err("answer_of_a_stranger");
        }
        self.check(gateway, &answer)?;
        if let Some(finding) = self.neighbours.get_mut(&gateway).and_then(|neighbour| neighbour.answered(&answer)) {
            return Ok(self.found(gateway, &finding, now));
        }
        let target = flow_addresses(&answer).and_then(|ia| self.target(gateway, ia.iaid)).ok_or("answer_unasked")?;
        let link = self.links.get_mut(&target).ok_or("answer_unasked")?;
        let client = link.client.as_mut().ok_or("answer_unasked")?;
        client.handle(&datagram.payload, now).map_err(|_| "answer_unasked")?;
        link.take_events();
        self.schedule(target);
        self.release_before(target, now);
        Ok(vec![target])
    }

    /// Does what is due, and sends what is to be sent. Whose next hop may have changed.
    pub fn timeout(&mut self, now: u64, ports: &Ports) -> Vec<Target> {
        let mut changed = Vec::new();
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Link(target) => {
                    self.advance(target, now, ports);
                    changed.push(target);
                }
                Timer::Neighbour(gateway) => changed.extend(self.beat(gateway, now, ports)),
                Timer::Leaving(gateway, iaid) => self.advance_release(gateway, iaid, now, ports),
            }
        }
        changed
    }

    /// When [`Chains::timeout`] has something to do, in boot-time milliseconds.
    pub fn deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    fn advance(&mut self, target: Target, now: u64, ports: &Ports) {
        if self.links.get(&target).is_some_and(|link| link.is_stuck(now)) {
            self.ask(target, now);
        }
        let Some(link) = self.links.get_mut(&target) else { return };
        let gateway = link.gateway;
        for message in link.advance(now) {
            send(ports, gateway, message);
        }
        self.schedule(target);
        self.release_before(target, now);
    }

    /// Asks a gateway whether it is a switch, or whether it still knows what it has granted.
    fn beat(&mut self, gateway: Gateway, now: u64, ports: &Ports) -> Vec<Target> {
        let Some(neighbour) = self.neighbours.get_mut(&gateway) else { return Vec::new() };
        let before = neighbour.kind;
        let next = neighbour.advance(now);
        self.timers.set(Timer::Neighbour(gateway), next);
        if let Some(target) = next.and_then(|_| neighbour.next())
            && let Some(link) = self.links.get(&target)
        {
            let duid = duid(self.id, gateway.port);
            let expected = link.address.filter(|_| link.confirmed);
            let message =
                self.neighbours.get_mut(&gateway).and_then(|it| it.probe(&duid, &link.spec, target, expected));
            message.into_iter().for_each(|message| send(ports, gateway, message));
        }
        let fell_silent = before == Kind::Switch && self.kind(gateway) == Some(Kind::Silent);
        if fell_silent { self.give_up(gateway) } else { Vec::new() }
    }

    fn kind(&self, gateway: Gateway) -> Option<Kind> {
        self.neighbours.get(&gateway).map(|neighbour| neighbour.kind)
    }

    /// What the answer to a probe means for those whose frames go by the gateway.
    fn found(&mut self, gateway: Gateway, finding: &Finding, now: u64) -> Vec<Target> {
        let anew = match finding {
            Finding::Switch => true,
            Finding::Same => false,
            Finding::Closed(target, text) => return self.closed(*target, gateway, text),
            Finding::Changed(target, held) => self
                .links
                .get(target)
                .is_some_and(|link| link.gateway == gateway && link.confirmed && link.address == Some(*held)),
        };
        let targets = self.neighbours.get(&gateway).filter(|_| anew).map(|neighbour| neighbour.targets.clone());
        let targets: Vec<Target> = targets.into_iter().flatten().collect();
        targets.iter().for_each(|target| self.ask(*target, now));
        targets
    }

    /// An operator has closed a target's flow at its gateway.
    fn closed(&mut self, target: Target, gateway: Gateway, text: &str) -> Vec<Target> {
        let Some(link) = self.links.get_mut(&target).filter(|link| link.gateway == gateway) else { return Vec::new() };
        link.closed(text.to_owned());
        self.schedule(target);
        vec![target]
    }

    /// A switch has fallen silent: frames go to its own address until it is heard of again.
    fn give_up(&mut self, gateway: Gateway) -> Vec<Target> {
        let targets = self.neighbours.get(&gateway).map(|neighbour| neighbour.targets.iter().copied().collect());
        let targets: Vec<Target> = targets.unwrap_or_default();
        for target in &targets {
            if let Some(link) = self.links.get_mut(target) {
                (link.client, link.address, link.patience) = (None, None, None);
            }
            self.schedule(*target);
        }
        tracing::warn!(gateway = %gateway.mac, port = %gateway.port, "the next switch answers no more; its flows go to its own address");
        targets
    }

    /// Asks the switch at a target's gateway for a flow address.
    fn ask(&mut self, target: Target, now: u64) {
        let Some(link) = self.links.get_mut(&target) else { return };
        if self.neighbours.get(&link.gateway).is_none_or(|neighbour| neighbour.kind != Kind::Switch) {
            return;
        }
        let gateway = link.gateway;
        let duid = duid(self.id, gateway.port);
        let patience = if link.address.is_some() && link.client.is_none() { ADOPTED } else { KNOWN };
        link.ask(duid, target, patience, now);
        // The lease that is being given back may become this one: it must not be ended any more.
        self.forget_release(gateway, target.iaid());
        self.schedule(target);
    }

    fn schedule(&mut self, target: Target) {
        self.timers.set(Timer::Link(target), self.links.get(&target).and_then(Link::due));
    }

    /// Takes a link out, with the lease that serves still.
    fn detach(&mut self, target: Target, now: u64) -> Option<Before> {
        let Link { gateway, client, spec, address, confirmed, before, .. } = self.links.remove(&target)?;
        self.timers.set(Timer::Link(target), None);
        if let Some(neighbour) = self.neighbours.get_mut(&gateway) {
            neighbour.targets.remove(&target);
        }
        let granted = address.is_some() && confirmed;
        let client = match (client, address) {
            (None, Some(_)) => Some(client_for(duid(self.id, gateway.port), target, spec, now)),
            (client, _) => client,
        };
        let own = client.map(|client| Before { gateway, client, granted });
        let (serves, other) = if address.is_some() { (own, before) } else { (before, own) };
        if let Some(other) = other {
            self.release(target, other, now);
        }
        serves
    }

    /// Gives back what served before, once it is known what does now.
    fn release_before(&mut self, target: Target, now: u64) {
        let link = self.links.get_mut(&target).filter(|link| link.patience.is_none());
        if let Some(before) = link.and_then(|link| link.before.take()) {
            self.release(target, before, now);
        }
    }

    fn release(&mut self, target: Target, before: Before, now: u64) {
        let Before { gateway, mut client, granted } = before;
        if granted {
            client.release(now);
        }
        self.leaving.insert((gateway, target.iaid()), Leaving { client, until: now + LEAVING, transaction: None });
        self.timers.set(Timer::Leaving(gateway, target.iaid()), Some(now));
    }

    fn advance_release(&mut self, gateway: Gateway, iaid: u32, now: u64, ports: &Ports) {
        let Some(Leaving { client, until, transaction }) = self.leaving.get_mut(&(gateway, iaid)) else { return };
        while let Some(message) = client.poll_transmit(now) {
            if let Some(id) = message.get(1..).and_then(|rest| rest.first_chunk()) {
                transaction.replace(*id).map(|before| self.releases.remove(&(gateway, before)));
                self.releases.insert((gateway, *id), iaid);
            }
            send(ports, gateway, message);
        }
        let next = client.poll_timeout().map_or(*until, |next| next.min(*until));
        if client.is_closed() || now >= *until {
            self.forget_release(gateway, iaid);
        } else {
            self.timers.set(Timer::Leaving(gateway, iaid), Some(next));
        }
    }

    fn released(&mut self, gateway: Gateway, iaid: u32, payload: &[u8], now: u64) -> Result<(), &'static str> {
        let Leaving { client, .. } = self.leaving.get_mut(&(gateway, iaid)).ok_or("answer_unasked")?;
        client.handle(payload, now).map_err(|_| "answer_unasked")?;
        while let Some(event) = client.event() {
            if matches!(event, Event::Leased(_)) {
                client.release(now);
            }
        }
        self.timers.set(Timer::Leaving(gateway, iaid), Some(now));
        Ok(())
    }

    fn forget_release(&mut self, gateway: Gateway, iaid: u32) {
        if let Some(Leaving { transaction, .. }) = self.leaving.remove(&(gateway, iaid)) {
            transaction.map(|id| self.releases.remove(&(gateway, id)));
            self.timers.set(Timer::Leaving(gateway, iaid), None);
        }
    }

    /// Gateways that nobody goes by are forgotten when there are many.
    fn forget_unused(&mut self) {
        if self.neighbours.len() > NEIGHBOURS {
            self.neighbours.retain(|_, neighbour| !neighbour.targets.is_empty());
        }
    }

    /// Refuses an answer with an address that can be no flow's at the gateway.
    fn check(&mut self, gateway: Gateway, answer: &Message) -> Result<(), &'static str> {
        let Some(ia) = flow_addresses(answer) else { return Ok(()) };
        let good = |address: &LlAddr| address.mac().is_some_and(|mac| self.is_next_flow(mac, gateway));
        if ia.blocks().all(good) && (ia.blocks().next().is_none() || ia.flow().is_some()) {
            return Ok(());
        }
        if let Some(neighbour) = self.neighbours.get_mut(&gateway) {
            neighbour.nonsense += 1;
            if neighbour.nonsense == 1 {
                let (gateway, port, answer) = (gateway.mac, gateway.port, ia);
                tracing::warn!(%gateway, %port, ?answer, "a neighbour gives addresses that are no flow's, or of this switch's own block");
            }
        }
        Err("answer_nonsense")
    }

    /// Whether an address may be a flow's at another switch.
    fn is_next_flow(&self, mac: Mac, gateway: Gateway) -> bool {
        !mac.is_group() && mac.is_local() && mac != gateway.mac && !self.block.contains(mac.to_u64())
    }

    /// The target that has a number at a gateway.
    fn target(&self, gateway: Gateway, iaid: u32) -> Option<Target> {
        let target = match iaid >> 31 {
            0 => Target::Flow(SlotIndex(iaid)),
            _ => Target::Receiver(GroupIndex((iaid & !(1 << 31)) >> 6), iaid as usize & 63),
        };
        self.links.get(&target).filter(|link| link.gateway == gateway).map(|_| target)
    }
}

/// Who asks by a port. Each port has a DUID of its own, since a lease belongs to the port that it was asked for by.
fn duid(id: SwitchId, port: PortId) -> Duid {
    Duid::from_machine(id.0, &port.0.to_be_bytes())
}

fn send(ports: &Ports, gateway: Gateway, message: Vec<u8>) {
    if let Some(port) = ports.get(gateway.port) {
        port.ask(gateway.mac, message);
    }
}
