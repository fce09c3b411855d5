//! Leases and quarantine: the real allotter, clients that come and go, and frames that are late. A tick is a second.

use flowlane_allot::{Allotter, ClientId, FlowSpec, LeaseKey, LeaseState, Policy, Request};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};
use stateright::{Checker, Model, Property};
use std::hash::{Hash, Hasher};

/// How long a frame is under way at most, in ticks.
const FRAME_LIFETIME: u8 = 3;
/// How long leases last.
const LEASE: u8 = 2;
/// Clients, one after the other on the same port.
const CLIENTS: u8 = 3;
/// Frames under way at a time.
const FRAMES: usize = 3;
/// The last tick that is looked at: enough for each address to come round.
const END: u8 = 18;

/// Clients of a switch with a single slot, of two tags.
struct Clients {
    quarantine: u32,
}

#[derive(Clone, Debug)]
struct State {
    now: u8,
    allotter: Allotter,
    /// The address that each client sends to, until it gives it back or the lease ends.
    held: [Option<(Mac, u8)>; CLIENTS as usize],
    /// Frames under way: whose, to which address, when they were sent.
    frames: Vec<(u8, Mac, u8)>,
    /// A frame was taken for another client's.
    misdelivered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Request(u8),
    Release(u8),
    Send(u8),
    /// A frame arrives, however late.
    Arrive(usize),
    Tick,
}

impl State {
    fn milliseconds(&self) -> u64 {
        u64::from(self.now) * 1000
    }

    /// What tells states apart. The allotter's leases and number are all that its answers depend on.
    fn identity(&self) -> impl Hash + PartialEq {
        let leases = self.allotter.occupied().map(|lease| {
            let until = match lease.state {
                LeaseState::Active => lease.expires,
                LeaseState::Quarantined { until } | LeaseState::Closed { until } => until,
            };
            (lease.first, lease.key.clone(), lease.is_active(), until)
        });
        let leases: Vec<_> = leases.collect();
        (self.now, leases, self.allotter.next(), self.held, self.frames.clone(), self.misdelivered)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.identity().hash(hasher);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Model for Clients {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let block = Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 47, 1).expect("a block of two addresses");
        let lease = u32::from(LEASE);
        let policy = Policy {
            quarantine: self.quarantine,
            default_lifetime: lease,
            min_lifetime: 1,
            max_lifetime: lease,
            ..Policy::default()
        };
        let allotter = Allotter::new(block, policy, 0);
        vec![State { now: 0, allotter, held: Default::default(), frames: Vec::new(), misdelivered: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for client in 0..CLIENTS {
            match state.held[usize::from(client)] {
                None => actions.push(Action::Request(client)),
                Some(_) => {
                    actions.push(Action::Release(client));
                    if state.frames.len() < FRAMES {
                        actions.push(Action::Send(client));
                    }
                }
            }
        }
        actions.extend((0..state.frames.len()).map(Action::Arrive));
        if state.now < END {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let (mut next, now) = (state.clone(), state.milliseconds());
        match action {
            Action::Request(client) => {
                let lease = next.allotter.request(&request(client), now).ok()?;
                let address = lease.addresses(next.allotter.block()).next()?.mac();
                next.held[usize::from(client)] = Some((address, state.now + LEASE));
            }
            Action::Release(client) => {
                next.held[usize::from(client)] = None;
                next.allotter.release(&key(client), PortId(1), now).ok()?;
            }
            Action::Send(client) => {
                let (address, _) = state.held[usize::from(client)]?;
                next.frames.push((client, address, state.now));
                next.frames.sort_unstable_by_key(|(client, address, sent)| (*sent, *client, address.to_u64()));
            }
            Action::Arrive(frame) => {
                let (client, address, _) = next.frames.remove(frame);
                next.misdelivered |= owner(&next.allotter, address).is_some_and(|owner| owner != key(client));
            }
            Action::Tick => {
                next.now += 1;
                next.allotter.expire(next.milliseconds());
                next.held = next.held.map(|held| held.filter(|(_, until)| *until > next.now));
                next.frames.retain(|(_, _, sent)| next.now - sent < FRAME_LIFETIME);
            }
        }
        // Nothing here is undone.
        next.allotter.take_changes();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no late frame is another's", |_, state: &State| !state.misdelivered),
            Property::sometimes("an address has a second owner", |_, state: &State| {
                state.allotter.leases().any(|lease| lease.key == key(2) && lease.first == 0)
            }),
        ]
    }
}

/// Whose flow an address is now.
fn owner(allotter: &Allotter, address: Mac) -> Option<LeaseKey> {
    let lease = allotter.lease_at(SlotIndex(0))?;
    let is_its = lease.addresses(allotter.block()).any(|own| own.mac() == address);
    is_its.then(|| lease.key.clone())
}

fn key(client: u8) -> LeaseKey {
    LeaseKey { client: ClientId(vec![0, 4, client]), iaid: 1 }
}

fn request(client: u8) -> Request {
    let host = Mac([2, 0, 0, 0, 0, 1]);
    Request { key: key(client), port: PortId(1), host, count: 1, lifetime: None, spec: FlowSpec::default() }
}

#[test]
fn no_late_frame_is_taken_for_the_next_owners_when_addresses_rest_longer_than_frames_live() {
    let checker = Clients { quarantine: u32::from(FRAME_LIFETIME) + 1 }.checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

/// Two tags are two rests: even so, one tick is too short.
#[test]
fn late_frames_are_taken_for_the_next_owners_when_addresses_rest_for_less() {
    let checker = Clients { quarantine: 1 }.checker().spawn_bfs().join();
    let path = checker.assert_any_discovery("no late frame is another's");
    assert_eq!(path.into_actions().last().map(|action| matches!(action, Action::Arrive(_))), Some(true));
}
