//! A bystander: two hosts at other ports than the attacker's, who notice whether they lose frames and how long they wait.
//!
//! One thread sends numbered frames in a flow, another asks for one new flow after the other and sends its first frame.
//! How long it takes from the request until that frame has come out is the latency: it goes through everything that ports
//! share, the control loop, the store, the queue of first packets and the table.

use crate::{
    Error,
    network::{Network, injector, mac_of, udp, watch},
    switch::Switch,
};
use flowlane_dhcp6::{ALL_SERVERS, CLIENT_PORT, Client, Config, Duid, Event, SERVER_PORT};
use flowlane_lab::{Host, Injector, Mac};
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    sync::{
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

/// How long something that gets through at all may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client waits for an answer before it looks whether to ask again.
const LOOK: Duration = Duration::from_millis(100);
/// Between two numbered frames.
const PACE: Duration = Duration::from_millis(1);
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the traces of an attack may last: what is measured then is neither idle nor attacked.
const SETTLING: Duration = Duration::from_millis(200);
/// How long a bystander looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// Turns, each of which is first idle and then attacked.
    pub turns: u32,
    /// How long each half of a turn takes.
    pub half: Duration,
}

/// What the bystander notices of an attack.
#[derive(Clone, Debug, Default)]
pub(crate) struct Impact {
    /// Frames sent.
    pub sent: u64,
    /// Frames that did not arrive.
    pub lost: u64,
    /// How long requests took, turn by turn.
    pub turns: Vec<Turn>,
    /// Requests without an answer, and new flows whose first frame was lost.
    pub unserved: u64,
}

/// Milliseconds from requests to first frames, in one turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    /// While nobody attacked.
    pub idle: Vec<f64>,
    /// While somebody did.
    pub attacked: Vec<f64>,
}

/// What the threads know of each other.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    phase: AtomicU32,
    sent: AtomicU64,
}

/// The phases of a turn. They are counted on from turn to turn.
const SETTLES: u32 = 0;
const IDLE: u32 = 1;
const ATTACKED: u32 = 2;
const PHASES: u32 = 3;

/// Lets somebody attack in turns, and says what the bystander noticed. `attack` does a piece of the attack each time; a
/// piece takes a tenth of a second at most.
pub(crate) fn under(
    network: &Network,
    switch: &Switch,
    rounds: Rounds,
    mut attack: impl FnMut() -> Result<(), Error>,
) -> Result<Impact, Error> {
    let steady = Steady::open(network, switch)?;
    let mut asking = Asking::open(network)?;
    asking.first_frame()?;
    let shared = &Shared::default();
    thread::scope(|scope| {
        let sender = scope.spawn(move || steady.send(shared).map(|()| steady));
        let asker = scope.spawn(move || asking.ask(shared));
        let attacked = (0..rounds.turns).try_for_each(|number| turn(shared, number, rounds.half, &mut attack));
        thread::sleep(SETTLING);
        shared.over.store(true, Ordering::Relaxed);
        let (sent, asked) = (sender.join(), asker.join());
        attacked?;
        let ended = |_| Error::Switch("a bystander's thread has ended".into());
        let steady = sent.map_err(ended)??;
        let mut impact = asked.map_err(ended)??;
        impact.sent += shared.sent.load(Ordering::Relaxed);
        impact.lost += steady.lost(shared.sent.load(Ordering::Relaxed)) + impact.unserved;
        Ok(impact)
    })
}

fn turn(
    shared: &Shared,
    number: u32,
    half: Duration,
    attack: &mut impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let begins = |phase| shared.phase.store(number * PHASES + phase, Ordering::Relaxed);
    begins(SETTLES);
    thread::sleep(SETTLING);
    begins(IDLE);
    thread::sleep(half);
    begins(ATTACKED);
    let start = Instant::now();
    while start.elapsed() < half {
        attack()?;
    }
    begins(SETTLES);
    Ok(())
}

impl Impact {
    /// Adds what was noticed of another part of the attack.
    pub(crate) fn add(&mut self, other: Self) {
        (self.sent, self.lost) = (self.sent + other.sent, self.lost + other.lost);
        self.unserved += other.unserved;
        self.turns.extend(other.turns);
    }

    /// Whether nothing was lost, and requests took at most twice as long as idle.
    pub(crate) fn is_none(&self) -> bool {
        self.lost == 0 && self.is_as_fast()
    }

    /// Whether requests took at most twice as long as idle. What the slowest of them took is told, but decides nothing: on
    /// processors that other programs use, too, it is these that it measures.
    pub(crate) fn is_as_fast(&self) -> bool {
        self.slowdown().is_some_and(|slowdown| slowdown <= 2.0)
    }

    /// How many times as long half of the requests took at most while somebody attacked, in the turn that is worse than
    /// half of them. Each turn is compared with itself, so that what else the machine does for some of the time is
    /// outvoted, and what an attack does, which is in every turn, is not.
    pub(crate) fn slowdown(&self) -> Option<f64> {
        let mut of_turns: Vec<f64> = self.turns.iter().filter_map(Turn::slowdown).collect();
        of_turns.sort_by(f64::total_cmp);
        quantile(&of_turns, 0.5)
    }

    /// Milliseconds that so many of the requests took at most, while nobody attacked.
    pub(crate) fn idle(&self, part: f64) -> Option<f64> {
        quantile(&sorted(self.turns.iter().flat_map(|turn| &turn.idle)), part)
    }

    /// The same while somebody attacked.
    pub(crate) fn attacked(&self, part: f64) -> Option<f64> {
        quantile(&sorted(self.turns.iter().flat_map(|turn| &turn.attacked)), part)
    }

    fn turn(&mut self, phase: u32) -> &mut Turn {
        let number = (phase / PHASES) as usize;
        self.turns.resize_with(self.turns.len().max(number + 1), Turn::default);
        &mut self.turns[number]
    }
}

impl Turn {
    /// How many times as long half of the requests took at most. Requests of which none was served took for ever.
    fn slowdown(&self) -> Option<f64> {
        let idle = quantile(&sorted(&self.idle), 0.5)?;
        Some(quantile(&sorted(&self.attacked), 0.5).unwrap_or(f64::INFINITY) / idle)
    }
}

fn sorted<'a>(values: impl IntoIterator<Item = &'a f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().copied().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value that so many of the sorted values do not exceed.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

/// Numbered frames in one flow.
struct Steady {
    injector: Injector,
    flow: Mac,
    arrived: Receiver<Vec<u8>>,
    _tap: flowlane_lab::Tap,
}

const STEADY: &[u8] = b"steady";

impl Steady {
    fn open(network: &Network, switch: &Switch) -> Result<Self, Error> {
        let flow = switch.open(&json!({ "port": "pb", "client": "steady", "destination": "10.3.0.2" }))?;
        let (tap, arrived) = watch(network.receiver.link(), STEADY)?;
        let steady = Self { injector: injector(&network.sender)?, flow, arrived, _tap: tap };
        // Until its next hop is known.
        steady.send_one(u64::MAX)?;
        let first = steady.arrived.recv_timeout(PATIENCE);
        first.map(|_| steady).map_err(|_| Error::Switch("no frame of the bystander arrives".into()))
    }

    fn send(&self, shared: &Shared) -> Result<(), Error> {
        while !shared.over.load(Ordering::Relaxed) {
            let number = shared.sent.load(Ordering::Relaxed);
            self.send_one(number)?;
            shared.sent.store(number + 1, Ordering::Relaxed);
            thread::sleep(PACE);
        }
        Ok(())
    }

    fn send_one(&self, number: u64) -> Result<(), Error> {
        let payload = [STEADY, &number.to_be_bytes()].concat();
        Ok(self.injector.send(&udp(self.flow, mac_of(2), [2, 3], &payload))?)
    }

    /// How many of the frames have not arrived.
    fn lost(&self, sent: u64) -> u64 {
        let mut missing: BTreeSet<u64> = (0..sent).collect();
        let until = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            match self.arrived.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(payload) => drop(missing.remove(&number(&payload))),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        missing.len() as u64
    }
}

fn number(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(u64::MAX, |octets| u64::from_be_bytes(*octets))
}

/// One new flow after the other.
struct Asking {
    socket: Dhcp6,
    injector: Injector,
    arrived: Receiver<Vec<u8>>,
    clients: u32,
    _tap: flowlane_lab::Tap,
}

const FIRST: &[u8] = b"first!";

impl Asking {
    fn open(network: &Network) -> Result<Self, Error> {
        let (tap, arrived) = watch(network.receiver.link(), FIRST)?;
        let socket = Dhcp6::open(&network.sender)?;
        Ok(Self { socket, injector: injector(&network.sender)?, arrived, clients: 0, _tap: tap })
    }

    fn ask(&mut self, shared: &Shared) -> Result<Impact, Error> {
        let mut impact = Impact::default();
        while !shared.over.load(Ordering::Relaxed) {
            let phase = shared.phase.load(Ordering::Relaxed);
            let took = self.first_frame()?;
            impact.sent += 1;
            match (took, phase % PHASES) {
                (None, _) => impact.unserved += 1,
                // Part of the time somebody attacked.
                _ if phase != shared.phase.load(Ordering::Relaxed) => {}
                (Some(took), IDLE) => impact.turn(phase).idle.push(took),
                (Some(took), ATTACKED) => impact.turn(phase).attacked.push(took),
                _ => {}
            }
            thread::sleep(PAUSE);
        }
        Ok(impact)
    }

    /// Milliseconds from a request until the first frame of the new flow has come out; none if it does not.
    fn first_frame(&mut self) -> Result<Option<f64>, Error> {
        let start = Instant::now();
        self.clients += 1;
        let Some(flow) = self.socket.lease(1, self.clients, PATIENCE)? else { return Ok(None) };
        let payload = [FIRST, &u64::from(self.clients).to_be_bytes()].concat();
        self.injector.send(&udp(flow, mac_of(2), [2, 3], &payload))?;
        while start.elapsed() < PATIENCE {
            match self.arrived.recv_timeout(PATIENCE) {
                Ok(payload) if number(&payload) == u64::from(self.clients) => {
                    return Ok(Some(start.elapsed().as_secs_f64() * 1_000.0));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Ok(None)
    }
}

/// Clients of a host, behind one socket.
pub(crate) struct Dhcp6 {
    socket: UdpSocket,
    to: SocketAddrV6,
}

impl Dhcp6 {
    /// Asks by a host's interface.
    pub(crate) fn open(host: &Host) -> Result<Self, Error> {
        let interface = host.link().index()?;
        let from = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, interface);
        let socket = host.netns().run(|| UdpSocket::bind(from))?;
        let socket = socket.map_err(Error::system("listen for the switch's answers"))?;
        Ok(Self { socket, to: SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, interface) })
    }

    /// Sends a message.
    pub(crate) fn send(&self, payload: &[u8]) -> Result<(), Error> {
        self.socket.send_to(payload, self.to).map(drop).map_err(Error::system("ask the switch"))
    }

    /// A flow for a new client of a group of clients, which asks again as clients do (RFC 8415 section 15); none where nobody
    /// answers in time, or not with a flow.
    pub(crate) fn lease(&self, group: u8, number: u32, within: Duration) -> Result<Option<Mac>, Error> {
        let mut client = client(group, number)?;
        let (start, mut buffer) = (Instant::now(), [0; 2048]);
        let now = || start.elapsed().as_millis() as u64;
        self.socket.set_read_timeout(Some(LOOK)).map_err(Error::system("set a timeout"))?;
        while start.elapsed() < within {
            while let Some(payload) = client.poll_transmit(now()) {
                self.send(&payload)?;
            }
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            // Answers to earlier clients come late.
            let _ = client.handle(&buffer[..length], now());
            match client.event() {
                Some(Event::Leased(grant)) => return Ok(grant.addresses.first().copied()),
                Some(_) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }
}

/// A client that asks for a flow without a destination, by two messages.
pub(crate) fn client(group: u8, number: u32) -> Result<Client, Error> {
    let [a, b, c, d] = number.to_be_bytes();
    // DUID-LL, RFC 9915 section 11.4.
    let duid = Duid::new([0, 3, 0, 1, 2, group, a, b, c, d]);
    let duid = duid.map_err(|_| Error::Switch("a DUID of 10 octets is refused".into()))?;
    let seed = (u64::from(group) << 32) | (u64::from(number) + 1);
    let spec = flowlane_allot::FlowSpec::default();
    Ok(Client::new(Config { duid, iaid: number, count: 1, spec, rapid_commit: true, seed }, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| quantile(&sorted, part)), [Some(100.0), Some(198.0), Some(200.0)]);
        assert_eq!(quantile(&[], 0.5), None);
    }

    fn turns(turns: &[(f64, f64)]) -> Impact {
        let turn = |(idle, attacked): &(f64, f64)| Turn { idle: vec![*idle; 100], attacked: vec![*attacked; 100] };
        Impact { turns: turns.iter().map(turn).collect(), ..Impact::default() }
    }

    #[test]
    fn a_loss_or_twice_the_latency_is_an_impact() {
        let quiet = turns(&[(15.0, 30.0)]);
        assert!(quiet.is_none());
        assert!(!Impact { lost: 1, ..quiet }.is_none());
        assert!(!turns(&[(15.0, 30.1)]).is_none());
        assert!(!turns(&[(0.5, 1.1)]).is_none(), "nor is there a floor below which nothing counts");
        assert!(!Impact { turns: vec![Turn { idle: vec![1.0], attacked: Vec::new() }], ..Impact::default() }.is_none());
        assert!(!Impact::default().is_none(), "nothing was measured");
    }

    #[test]
    fn what_is_in_every_turn_counts_and_what_is_in_some_does_not() {
        assert_eq!(turns(&[(1.0, 1.5), (1.0, 9.0), (1.0, 1.4), (8.0, 1.5), (1.0, 1.6)]).slowdown(), Some(1.5));
        assert!(!turns(&[(1.0, 2.1), (9.0, 2.1), (1.0, 2.2), (1.0, 2.1), (9.0, 2.1)]).is_none());
    }
}
