//! Clients and a server over a network that loses, doubles, delays and reorders, in virtual time.

use crate::table::Table;
use crate::{SERVER, block};
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{Client, Config, Duid, Event, Peer, Server};
use flowlane_wire::{Mac, PortId};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const CLIENTS: usize = 5;
const LIFETIME: u32 = 600;
const MINUTE: u64 = 60_000;
/// The longest time that a message is under way, in milliseconds.
const DELAY: u64 = 3_000;

struct World {
    server: Server,
    table: Table,
    hosts: Vec<Host>,
    wire: BinaryHeap<Reverse<Flight>>,
    serial: u64,
    random: fastrand::Rng,
    loss: f64,
    now: u64,
}

/// When it arrives, a serial number to tell them apart, which host's it is, whether it goes to the server, what it is.
type Flight = (u64, u64, usize, bool, Vec<u8>);

struct Host {
    client: Client,
    peer: Peer,
    /// The addresses that the client may use, and until when.
    holds: Option<(Vec<Mac>, u64)>,
    leases: u32,
    released: bool,
}

impl World {
    fn new(seed: u64, loss: f64, rapid_commit: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let hosts = (1..=CLIENTS).map(|n| Host::new(u8::try_from(n).unwrap(), random.u64(..), rapid_commit)).collect();
        let table = Table::new(block(), LIFETIME);
        let server = Server::new(SERVER, block());
        Self { server, table, hosts, wire: BinaryHeap::new(), serial: 0, random, loss, now: 0 }
    }

    /// Lets everything happen until `end`.
    fn run(&mut self, end: u64) {
        loop {
            let arrival = self.wire.peek().map(|Reverse(message)| message.0);
            let timeout = self.hosts.iter().filter_map(|host| host.client.poll_timeout()).min();
            match arrival.into_iter().chain(timeout).min() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => break,
            }
            self.deliver();
            for host in 0..self.hosts.len() {
                while let Some(payload) = self.hosts[host].client.poll_transmit(self.now) {
                    self.send(host, true, &payload);
                }
                self.hosts[host].note_events(self.now);
            }
            self.assert_nobody_shares();
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        while self.wire.peek().is_some_and(|Reverse(message)| message.0 <= self.now) {
            let Some(Reverse((_, _, host, to_server, payload))) = self.wire.pop() else { return };
            if !to_server {
                // Whatever is discarded is discarded with a reason; the rest shows in the events.
                let _ = self.hosts[host].client.handle(&payload, self.now);
            } else if let Some(reply) = self.table.serve(&self.server, &payload, self.hosts[host].peer, self.now) {
                self.send(host, false, &reply);
            }
        }
    }

    fn send(&mut self, host: usize, to_server: bool, payload: &[u8]) {
        for _ in 0..self.random.usize(1..=2) {
            if self.random.f64() >= self.loss {
                self.serial += 1;
                let at = self.now + self.random.u64(0..=DELAY);
                self.wire.push(Reverse((at, self.serial, host, to_server, payload.to_vec())));
            }
        }
    }

    /// No address is in two hands, and what a client may use is what the table says. The client counts a lifetime from
    /// the arrival of the answer, which is up to `DELAY` after the server did.
    fn assert_nobody_shares(&self) {
        let mut owners = BTreeMap::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let Some((addresses, end)) = host.holds.as_ref().filter(|(_, end)| self.now + DELAY < *end) else {
                continue;
            };
            for address in addresses {
                assert_eq!(owners.insert(*address, number), None, "{address} twice at {}", self.now);
            }
            let lease = self.table.leases.values().find(|lease| lease.host == host.peer.host).expect("a lease");
            let leased: Vec<_> = lease.addresses(block()).map(|address| address.mac()).collect();
            assert_eq!(&leased, addresses);
            assert!(*end <= lease.expires + DELAY);
        }
    }
}

impl Host {
    fn new(number: u8, seed: u64, rapid_commit: bool) -> Self {
        let spec = FlowSpec { name: Some(format!("flow {number}")), ..FlowSpec::default() };
        let duid = Duid::from_machine([number; 16], b"eth0");
        let config = Config { duid, iaid: 1, count: u32::from(number), spec, rapid_commit, seed };
        let peer = Peer { port: PortId(number.into()), host: Mac([2, 0, 0, 0, 0, number]) };
        Self { client: Client::new(config, 0), peer, holds: None, leases: 0, released: false }
    }

    fn note_events(&mut self, now: u64) {
        while let Some(event) = self.client.event() {
            match event {
                Event::Leased(grant) => {
                    self.holds = Some((grant.addresses, now + u64::from(grant.valid) * 1000));
                    self.leases += 1;
                }
                Event::Lost => self.holds = None,
                Event::Released => self.released = true,
                Event::Refused(status) | Event::NoWay(status) | Event::Closed(status) => panic!("{status:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_client_gets_its_lease_keeps_it_and_gives_it_back(
        seed: u64, loss in 0.0..0.5f64, rapid_commit in any::<bool>(),
    ) {
        let mut world = World::new(seed, loss, rapid_commit);
        world.run(30 * MINUTE);
        // From now on nothing is lost, so that what must happen in the end does, whatever the seed: the longest time
        // between two Solicits is an hour and a tenth.
        world.loss = 0.0;
        world.run(120 * MINUTE);
        world.loss = loss;
        for (count, host) in (1..).zip(&world.hosts) {
            prop_assert!(host.leases > 1, "host {count} has {} leases", host.leases);
            prop_assert_eq!(host.holds.as_ref().map(|(addresses, _)| addresses.len()), Some(count));
        }
        let now = world.now;
        for host in &mut world.hosts {
            host.holds = None;
            host.client.release(now);
        }
        world.run(now + MINUTE);
        prop_assert!(world.hosts.iter().all(|host| host.released && host.client.is_closed()));
        // A release that was lost each time, or overtaken by an older request, ends with the lease: nobody renews it.
        let end = world.now + u64::from(LIFETIME) * 1000 + DELAY;
        world.run(end);
        prop_assert!(world.table.leases.values().all(|lease| lease.expires <= end));
    }

    #[test]
    fn on_a_network_without_loss_a_release_leaves_no_lease(seed: u64, rapid_commit in any::<bool>()) {
        let mut world = World::new(seed, 0.0, rapid_commit);
        world.run(MINUTE);
        prop_assert_eq!(world.table.leases.len(), CLIENTS);
        let now = world.now;
        for host in &mut world.hosts {
            host.holds = None;
            host.client.release(now);
        }
        world.run(now + MINUTE);
        prop_assert!(world.table.leases.is_empty());
    }
}

#[test]
fn a_server_that_forgets_its_leases_gives_new_ones_within_a_lifetime() {
    let mut world = World::new(3, 0.1, true);
    world.run(MINUTE);
    world.table.leases.clear();
    for host in &mut world.hosts {
        // They hold what no table knows; the check of that rests until they notice.
        host.holds = None;
    }
    world.run(MINUTE + u64::from(LIFETIME) * 1000);
    assert!(world.hosts.iter().all(|host| host.holds.is_some()));
    assert_eq!(world.table.leases.len(), CLIENTS);
}

#[test]
fn a_full_server_refuses_and_serves_when_it_has_room_again() {
    let (mut table, server) = (Table::new(block(), 60), Server::new(SERVER, block()));
    table.refuse = Some(flowlane_allot::Refusal::Full { leased: 1024, quarantined: 0, slots: 1024 });
    let Host { mut client, peer, .. } = Host::new(1, 1, true);
    let serve = |table: &mut Table, client: &mut Client, now| {
        let question = client.poll_transmit(now).unwrap();
        client.handle(&table.serve(&server, &question, peer, now).unwrap(), now).unwrap();
        client.event().unwrap()
    };
    let Event::Refused(status) = serve(&mut table, &mut client, 0) else { panic!("not refused") };
    assert_eq!(status.text, "no flow address is free: 1024 leased, 0 in quarantine of 1024");
    table.refuse = None;
    let again = client.poll_timeout().unwrap();
    assert!(matches!(serve(&mut table, &mut client, again), Event::Leased(_)));
}
