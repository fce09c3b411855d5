//! Links to the next switches: one DHCPv6 client for each flow that goes on there (claims 14 and 22).
//!
//! The running switch's `hops/chain.rs` does this with more: it finds out whether a gateway is a switch at all, and uses
//! the gateway's own address until it knows. Here all gateways are switches, and a flow without an address has no way.

use fastrand::Rng;
use flowlane_allot::{FlowSpec, Lease, PathSoFar, SwitchId};
use flowlane_dhcp6::{Client, Config, Duid, Event};
use flowlane_tables::NextHop;
use flowlane_wire::{Mac, PortId, SlotIndex};
use std::collections::BTreeMap;

/// How long the first packets of a flow wait for the next switch.
const PATIENCE: u64 = 1_000;
/// How long a client that has got nothing goes on before another one starts.
const RETRY: u64 = 60_000;
/// How long a lease is tried to be given back.
const LEAVING: u64 = 20_000;

/// All links of a switch. Times are milliseconds since boot.
pub struct Links {
    id: SwitchId,
    links: BTreeMap<SlotIndex, Link>,
    /// Leases that are being given back, by the port and the number for them, and until when that is tried.
    leaving: BTreeMap<(u16, u32), (Client, u64)>,
    /// Next hops that have been found, or lost.
    news: Vec<(SlotIndex, Option<NextHop>)>,
}

struct Link {
    port: u16,
    spec: FlowSpec,
    client: Client,
    address: Option<Mac>,
    /// Until then nothing else is said of the next hop.
    patience: Option<u64>,
    started: u64,
    /// What served before, until it is known what this one does.
    before: Option<(u16, Client, bool)>,
}

impl Links {
    /// No links, of this switch.
    pub fn new(id: SwitchId) -> Self {
        Self { id, links: BTreeMap::new(), leaving: BTreeMap::new(), news: Vec::new() }
    }

    /// What the next switch is asked for.
    pub fn spec(&self, lease: &Lease, path_told: bool) -> FlowSpec {
        let PathSoFar { hop_limit, crossed } = lease.spec.so_far.clone();
        let so_far = match path_told {
            true => PathSoFar {
                hop_limit: hop_limit.saturating_sub(1),
                crossed: crossed.into_iter().chain([self.id]).collect(),
            },
            false => PathSoFar::default(),
        };
        FlowSpec { destination: lease.spec.destination, so_far, ..FlowSpec::default() }
    }

    /// A flow goes on by a port: asks there, unless it was asked for the same already.
    pub fn follow(&mut self, index: SlotIndex, port: u16, spec: FlowSpec, now: u64, random: &mut Rng) {
        if let Some(link) = self.links.get_mut(&index).filter(|link| link.port == port) {
            if link.spec != spec {
                link.spec = spec;
                link.ask(self.id, index, now, random);
            }
            return;
        }
        let before = self.links.remove(&index).map(|link| {
            let Link { port, client, address, before, .. } = link;
            before.into_iter().for_each(|before| self.release(index, before, now));
            (port, client, address.is_some())
        });
        // The lease that is being given back may become this one: it must not be ended any more.
        self.leaving.remove(&(port, index.0));
        let client = client(self.id, port, index, &spec, now, random);
        let patience = Some(now + PATIENCE);
        self.links.insert(index, Link { port, spec, client, address: None, patience, started: now, before });
    }

    /// A flow goes on by no switch any more: gives back what was granted.
    pub fn leave(&mut self, index: SlotIndex, now: u64) {
        if let Some(Link { port, client, address, before, .. }) = self.links.remove(&index) {
            self.release(index, (port, client, address.is_some()), now);
            before.into_iter().for_each(|before| self.release(index, before, now));
        }
        self.news.retain(|(slot, _)| *slot != index);
    }

    /// Takes a message that was sent to clients.
    pub fn receive(&mut self, port: u16, payload: &[u8], now: u64) {
        for link in self.links.values_mut().filter(|link| link.port == port) {
            // Most messages are for others.
            let _ = link.client.handle(payload, now);
        }
        for (_, (client, _)) in self.leaving.iter_mut().filter(|((of, _), _)| *of == port) {
            let _ = client.handle(payload, now);
        }
    }

    /// Does what is due. The messages to send, and by which ports.
    pub fn transmit(&mut self, now: u64, random: &mut Rng) -> Vec<(u16, Vec<u8>)> {
        let mut messages = Vec::new();
        let indices: Vec<SlotIndex> = self.links.keys().copied().collect();
        for index in indices {
            let Some(link) = self.links.get_mut(&index) else { continue };
            if link.address.is_none() && now >= link.started + RETRY {
                link.ask(self.id, index, now, random);
            }
            while let Some(payload) = link.client.poll_transmit(now) {
                messages.push((link.port, payload));
            }
            self.advance(index, now);
        }
        self.leaving.retain(|(port, _), (client, until)| {
            while let Some(event) = client.event() {
                if matches!(event, Event::Leased(_)) {
                    client.release(now);
                }
            }
            while let Some(payload) = client.poll_transmit(now) {
                messages.push((*port, payload));
            }
            !client.is_closed() && now < *until
        });
        messages
    }

    /// What has been found since: a next hop, or that there is none.
    pub fn take_news(&mut self) -> Vec<(SlotIndex, Option<NextHop>)> {
        std::mem::take(&mut self.news)
    }

    /// When [`Links::transmit`] is to be called next.
    pub fn deadline(&self) -> Option<u64> {
        let links = self.links.values().flat_map(|link| {
            let retry = link.address.is_none().then_some(link.started + RETRY);
            [link.client.poll_timeout(), link.patience, retry]
        });
        let leaving = self.leaving.values().flat_map(|(client, until)| [client.poll_timeout(), Some(*until)]);
        links.chain(leaving).flatten().min()
    }

    /// Takes note of what the client of a link says.
    fn advance(&mut self, index: SlotIndex, now: u64) {
        let Some(link) = self.links.get_mut(&index) else { return };
        let mut settled = link.patience.is_some_and(|until| until <= now);
        let mut changed = settled && link.address.is_none();
        while let Some(event) = link.client.event() {
            match event {
                Event::Leased(grant) => (link.address, settled) = (grant.addresses.first().copied(), true),
                Event::NoWay(_) | Event::Closed(_) => (link.address, settled) = (None, true),
                // An address that was granted is good until its end, whatever is said of more time.
                Event::Refused(_) => settled = true,
                Event::Lost => link.address = None,
                Event::Released => {}
            }
            changed = true;
        }
        if changed {
            let hop = link.address.map(|mac| NextHop { mac, port: PortId(link.port), routed: true });
            self.news.push((index, hop));
        }
        if settled {
            link.patience = None;
            let before = link.before.take();
            before.into_iter().for_each(|before| self.release(index, before, now));
        }
    }

    fn release(&mut self, index: SlotIndex, (port, mut client, granted): (u16, Client, bool), now: u64) {
        if granted {
            client.release(now);
        }
        self.leaving.insert((port, index.0), (client, now + LEAVING));
    }
}

impl Link {
    /// Asks anew. An address that was given serves until the answer.
    fn ask(&mut self, id: SwitchId, index: SlotIndex, now: u64, random: &mut Rng) {
        self.client = client(id, self.port, index, &self.spec, now, random);
        (self.patience, self.started) = (Some(now + PATIENCE), now);
    }
}

/// Who asks by a port for the flow in a slot: the same after a restart.
fn client(id: SwitchId, port: u16, index: SlotIndex, spec: &FlowSpec, now: u64, random: &mut Rng) -> Client {
    let duid = Duid::from_machine(id.0, &port.to_be_bytes());
    let (spec, seed) = (spec.clone(), random.u64(..));
    Client::new(Config { duid, iaid: index.0, count: 1, spec, rapid_commit: true, seed }, now)
}
