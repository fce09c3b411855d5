//! A chain of three switches that is set up, renewed and given back hop by hop, while messages are lost and processes
//! forget what they did. The rules are those of `flowlane/src/switch/hops/chain.rs`, in few words.

use stateright::{Checker, Model, Property};

/// Switches in the chain.
const SWITCHES: usize = 3;
/// How long a lease lasts without a renewal, in ticks.
const LEASE: u8 = 4;
/// The last tick that is looked at.
const END: u8 = 13;
/// Messages that are lost, and processes that forget, in one run.
const LOSSES: u8 = 2;
const RESTARTS: u8 = 1;
/// How often a lease is tried to be given back.
const RELEASES: u8 = 2;
/// How long after its cause anything may last: a lease, at each of the switches behind the first.
const SETTLED: u8 = LEASE * SWITCHES as u8;
/// How long after trouble a flow that is wanted may lack a part: a Release that is overtaken by a Request for the same
/// lease ends the new one, which shows when it is renewed.
const HEALED: u8 = 2 * LEASE;

/// The first switch serves a host that wants a flow, and at some time does no more.
struct Chain {
    /// Whether leases end by themselves.
    leases_end: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    /// When the host stopped to want the flow.
    stopped: Option<u8>,
    switches: [Switch; SWITCHES],
    /// What is under way, in order of switch and kind: each is there once at most, as a repetition says nothing new.
    messages: Vec<Message>,
    losses: u8,
    restarts: u8,
    /// When the last message was lost, or the last process forgot.
    trouble: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Switch {
    /// How long the flow's lease lasts here, if there is one.
    lease: Option<u8>,
    link: Link,
}

/// What a switch does about the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Link {
    #[default]
    None,
    /// It has asked, and waits.
    Asking,
    /// It has an address, for so long.
    Open(u8),
    /// It gives the address back, and tries so often still.
    Leaving(u8),
}

/// A message between a switch and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    /// From this switch to the next.
    Request(usize),
    /// To this switch from the next.
    Reply(usize),
    /// From this switch to the next.
    Release(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Deliver(Message),
    Lose(Message),
    Stop,
    /// The process forgets its link, and keeps its lease.
    Restart(usize),
    Tick,
}

impl State {
    fn send(&mut self, message: Message) {
        if let Err(place) = self.messages.binary_search(&message) {
            self.messages.insert(place, message);
        }
    }

    fn take(&mut self, message: Message) {
        self.messages.retain(|other| *other != message);
    }

    /// A lease begins or is renewed: the switch sees to its link.
    fn grant(&mut self, switch: usize) {
        self.switches[switch].lease = Some(LEASE);
        if switch + 1 < SWITCHES && matches!(self.switches[switch].link, Link::None | Link::Leaving(_)) {
            self.switches[switch].link = Link::Asking;
            self.send(Message::Request(switch));
        }
    }

    /// A lease ends: the switch gives back what it got for it. It may have got it, and not know yet.
    fn end(&mut self, switch: usize) {
        self.switches[switch].lease = None;
        if switch + 1 < SWITCHES && self.switches[switch].link != Link::None {
            self.switches[switch].link = Link::Leaving(RELEASES);
            self.send(Message::Release(switch));
        }
    }

    fn deliver(&mut self, message: Message) {
        self.take(message);
        match message {
            Message::Request(from) => {
                self.grant(from + 1);
                self.send(Message::Reply(from));
            }
            Message::Reply(to) => match self.switches[to].link {
                Link::Asking | Link::Open(_) => self.switches[to].link = Link::Open(LEASE),
                // What nobody wants any more is given back as soon as it is granted.
                Link::Leaving(_) => self.send(Message::Release(to)),
                Link::None => {}
            },
            Message::Release(from) => self.end(from + 1),
        }
    }

    /// Time goes by: leases end, messages are repeated, links are renewed when half of their time is over.
    fn tick(&mut self, leases_end: bool) {
        self.now += 1;
        if self.stopped.is_none() {
            self.grant(0);
        }
        for switch in 0..SWITCHES {
            match self.switches[switch].lease {
                Some(1) if leases_end => self.end(switch),
                Some(left) if leases_end => self.switches[switch].lease = Some(left - 1),
                _ => {}
            }
            self.switches[switch].link = match self.switches[switch].link {
                Link::Asking | Link::Open(1) => {
                    self.send(Message::Request(switch));
                    Link::Asking
                }
                Link::Open(left) => {
                    if left <= LEASE / 2 {
                        self.send(Message::Request(switch));
                    }
                    Link::Open(left - 1)
                }
                Link::Leaving(0) | Link::None => Link::None,
                Link::Leaving(tries) => {
                    self.send(Message::Release(switch));
                    Link::Leaving(tries - 1)
                }
            };
        }
    }

    fn is_whole(&self) -> bool {
        let leased = self.switches.iter().all(|switch| switch.lease.is_some());
        leased && self.switches[..SWITCHES - 1].iter().all(|switch| matches!(switch.link, Link::Open(_)))
    }

    fn is_empty(&self) -> bool {
        self.switches.iter().all(|switch| switch.lease.is_none())
    }
}

impl Model for Chain {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (switches, messages) = Default::default();
        let mut state = State { now: 0, stopped: None, switches, messages, losses: 0, restarts: 0, trouble: 0 };
        state.grant(0);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.messages.iter().copied().map(Action::Deliver));
        if state.losses < LOSSES {
            actions.extend(state.messages.iter().copied().map(Action::Lose));
        }
        if state.stopped.is_none() {
            actions.push(Action::Stop);
        }
        if state.restarts < RESTARTS {
            actions.extend((0..SWITCHES - 1).map(Action::Restart));
        }
        // No message is under way for longer than a tick.
        if state.messages.is_empty() && state.now < END + SETTLED {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Deliver(message) => next.deliver(message),
            Action::Lose(message) => {
                next.take(message);
                (next.losses, next.trouble) = (state.losses + 1, state.now);
            }
            Action::Stop => {
                next.stopped = Some(state.now);
                next.end(0);
            }
            Action::Restart(switch) => {
                next.switches[switch].link = Link::None;
                (next.restarts, next.trouble) = (state.restarts + 1, state.now);
                if next.switches[switch].lease.is_some() {
                    next.switches[switch].link = Link::Asking;
                    next.send(Message::Request(switch));
                }
            }
            Action::Tick => next.tick(self.leases_end),
        }
        Some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        // Trouble late in the run would say nothing about its end.
        state.trouble <= END && state.stopped.is_none_or(|at| at <= END)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is left of a flow that nobody wants", |_, state: &State| {
                let since = state.stopped.map(|at| at.max(state.trouble));
                since.is_none_or(|since| state.now < since + SETTLED || state.is_empty())
            }),
            Property::always("a flow that is wanted is whole, or in trouble", |_, state: &State| {
                let quiet = state.messages.is_empty() && state.now >= state.trouble + HEALED;
                state.stopped.is_some() || !quiet || state.is_whole()
            }),
            Property::sometimes("a flow is whole", |_, state: &State| state.is_whole()),
            Property::sometimes("a switch has a lease that the one before knows nothing of", |_, state: &State| {
                state.switches.windows(2).any(|pair| pair[1].lease.is_some() && pair[0].link == Link::None)
            }),
        ]
    }
}

#[test]
fn no_half_open_flow_is_left_of_a_chain() {
    let checker = Chain { leases_end: true }.checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn half_open_flows_are_left_where_leases_do_not_end() {
    let checker = Chain { leases_end: false }.checker().spawn_bfs().join();
    checker.assert_any_discovery("nothing is left of a flow that nobody wants");
}
