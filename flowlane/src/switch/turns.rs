//! Whose turn it is: DHCPv6 messages wait here, port by port, until the loop takes them.
//!
//! A port where little is asked is taken at once. One that asks without end is taken as fast as the loop can while all others
//! that ask do so too; else, where another asks for little, at its rate, a few messages at a time, and with a rest after each turn
//! that is longer than the turn was, and longer than the commit of what was granted in it. So what hosts at one port ask for holds up those at others for a few messages at most, and
//! takes a bounded share of the loop's time and of the disk's from them, however slow the machine is just now; and where all hosts of a switch
//! ask at once, as after a power cut, none is limited.

use super::Input;
use crate::config::Config;
use flowlane_wire::PortId;
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// The messages that wait.
pub struct Turns {
    queues: BTreeMap<Source, Queue>,
}

/// A port, and whether its messages are answers to what the switch has asked: hosts that flood the port keep none away.
type Source = (PortId, bool);

/// Messages of one kind from one port, and a token bucket.
struct Queue {
    waiting: VecDeque<Input>,
    /// How long it takes until one more message may be taken.
    interval: Duration,
    /// When the bucket is full again.
    full_at: Instant,
    /// Whether it was taken from in the present turn, and more wait.
    goes_on: bool,
    /// Nothing is taken before, where hosts at other ports ask, too.
    rests_until: Instant,
    /// Nor before the end of a commit, which may hold what the last turn has granted.
    awaits_commit: bool,
    /// When the last message came.
    asked: Option<Instant>,
}

/// The most messages that are taken in a turn from a port, where hosts at others ask, too.
const TURN: usize = 16;
/// The most of a port that asks alone: as many as a commit holds of it.
const TURN_ALONE: usize = 64;
/// What a bucket holds.
const BUCKET: u32 = 64;
/// For so long after its last message a port counts as one whose hosts ask.
const LATELY: Duration = Duration::from_millis(100);
/// How many times as long as a turn took a port rests that has more to ask for: so it has a quarter of the loop's time.
const RESTS: u32 = 3;

impl Turns {
    /// No messages yet.
    pub fn new(config: &Config, now: Instant) -> Self {
        let queue = |rate: u32| Queue {
            waiting: VecDeque::new(),
            interval: Duration::from_secs(1) / rate.max(1),
            full_at: now,
            goes_on: false,
            rests_until: now,
            awaits_commit: false,
            asked: None,
        };
        let kinds = |(number, rate)| [false, true].map(|answer| ((number, answer), queue(rate)));
        let ports = config.ports.iter().map(|(number, port)| (*number, port.dhcp6_rate));
        Self { queues: ports.flat_map(kinds).collect() }
    }

    /// Lets a message wait for its turn.
    pub fn push(&mut self, input: Input, now: Instant) {
        let Input::Dhcp6(port, datagram, _) = &input;
        // There is a queue for each port that listens.
        if let Some(queue) = self.queues.get_mut(&(*port, datagram.answer)) {
            queue.asked = Some(now);
            queue.waiting.push_back(input);
        }
    }

    /// Takes those whose turn it is.
    pub fn take(&mut self, now: Instant) -> Vec<Input> {
        let light = self.light(now);
        let mut taken = Vec::new();
        for ((port, _), queue) in &mut self.queues {
            let most = if light.is_beside(*port) { queue.tokens(now).min(TURN) } else { TURN_ALONE };
            let count = taken.len();
            taken.extend(queue.take(most, now));
            queue.goes_on = taken.len() > count && !queue.waiting.is_empty();
        }
        taken
    }

    /// Takes note of how long the turn took, until all that was taken was dealt with, and whether leases are being committed.
    pub fn took(&mut self, turn: Duration, is_committing: bool, now: Instant) {
        for queue in self.queues.values_mut().filter(|queue| queue.goes_on) {
            (queue.goes_on, queue.rests_until) = (false, now + turn * RESTS);
            queue.awaits_commit = is_committing;
        }
    }

    /// Takes note of how long a commit took, which has ended.
    pub fn committed(&mut self, commit: Duration, now: Instant) {
        for queue in self.queues.values_mut().filter(|queue| queue.awaits_commit) {
            queue.awaits_commit = false;
            queue.rests_until = queue.rests_until.max(now + commit * RESTS);
        }
    }

    /// When [`Turns::take`] has something to take next.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let light = self.light(now);
        let waiting = self.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty());
        let next = |((port, _), queue): (&Source, &Queue)| match light.is_beside(*port) {
            // The loop is woken when the commit has ended.
            true if queue.awaits_commit => None,
            true => Some(queue.next_turn(now)),
            false => Some(now),
        };
        waiting.filter_map(next).min()
    }

    /// The ports whose hosts ask, and for little. Answers do not count: they come as fast as the switch itself has asked.
    fn light(&self, now: Instant) -> Light {
        let is_light =
            |queue: &Queue| queue.asked.is_some_and(|asked| now < asked + LATELY) && queue.waiting.len() < TURN;
        let mut light = self.queues.iter().filter(|((_, answer), queue)| !answer && is_light(queue));
        Light { first: light.next().map(|((port, _), _)| *port), are_several: light.next().is_some() }
    }
}

/// Ports whose hosts ask for little.
struct Light {
    first: Option<PortId>,
    are_several: bool,
}

impl Light {
    /// Whether there is one beside this port.
    fn is_beside(&self, port: PortId) -> bool {
        self.are_several || self.first.is_some_and(|first| first != port)
    }
}

impl Queue {
    /// How many messages may be taken now.
    fn tokens(&self, now: Instant) -> usize {
        if now < self.rests_until || self.awaits_commit {
            return 0;
        }
        let missing = self.full_at.saturating_duration_since(now).as_nanos().div_ceil(self.interval.as_nanos().max(1));
        (BUCKET as usize).saturating_sub(missing as usize)
    }

    fn take(&mut self, most: usize, now: Instant) -> impl Iterator<Item = Input> {
        let count = most.min(self.waiting.len());
        // Who was alone has taken more than the bucket holds: that is not held against him.
        let taken = self.full_at.max(now) + self.interval * count as u32;
        self.full_at = taken.min(now + self.interval * BUCKET);
        self.waiting.drain(..count)
    }

    /// When there are tokens for a turn, or for all that wait.
    fn next_turn(&self, now: Instant) -> Instant {
        let needed = TURN.min(self.waiting.len()) as u32;
        let at = self.full_at.checked_sub(self.interval * (BUCKET - needed)).unwrap_or(now);
        at.max(self.rests_until).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowlane_ports::control::Datagram;
    use std::{net::Ipv6Addr, sync::Arc};
    use tokio::sync::Semaphore;

    const PORTS: &str = "[[port]]\ninterface = \"a\"\ndhcp6_rate = 1000\n[[port]]\ninterface = \"b\"\n";
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn turns(now: Instant) -> Turns {
        Turns::new(&Config::parse("test", PORTS).expect("a configuration"), now)
    }

    fn ask(turns: &mut Turns, port: u16, count: usize, answer: bool, now: Instant) {
        let permits = Arc::new(Semaphore::new(count));
        for _ in 0..count {
            let permit = Arc::clone(&permits).try_acquire_owned().expect("one for each");
            let (host, client) = (flowlane_wire::Mac([2; 6]), Ipv6Addr::LOCALHOST);
            let datagram = Datagram { host, client, client_port: 546, answer, payload: Vec::new() };
            turns.push(Input::Dhcp6(PortId(port), datagram, permit), now);
        }
    }

    fn taken(turns: &mut Turns, now: Instant) -> [usize; 2] {
        let taken = turns.take(now);
        [1, 2].map(|number| taken.iter().filter(|Input::Dhcp6(port, ..)| port.0 == number).count())
    }

    #[test]
    fn a_port_that_asks_alone_is_not_limited() {
        let now = Instant::now();
        let mut turns = turns(now);
        ask(&mut turns, 1, 200, false, now);
        assert_eq!((0..4).map(|_| taken(&mut turns, now)[0]).collect::<Vec<_>>(), [64, 64, 64, 8]);
        assert_eq!(turns.deadline(now), None);
    }

    #[test]
    fn a_port_that_asks_without_end_has_its_rate_while_others_ask_and_they_are_taken_at_once() {
        let start = Instant::now();
        let mut turns = turns(start);
        ask(&mut turns, 1, 4_000, false, start);
        let (mut now, mut first) = (start, 0);
        for _ in 0..1_000 {
            now += MILLISECOND;
            ask(&mut turns, 2, 1, false, now);
            let [of_first, of_second] = taken(&mut turns, now);
            assert!(of_second == 1 && of_first <= TURN, "{of_first} {of_second}");
            first += of_first;
        }
        assert!((1_000..=1_000 + BUCKET as usize).contains(&first), "{first}");
        now += LATELY;
        assert_eq!(taken(&mut turns, now), [TURN_ALONE, 0], "nobody else asks any more");
    }

    #[test]
    fn where_all_ask_without_end_none_is_limited() {
        let now = Instant::now();
        let mut turns = turns(now);
        ask(&mut turns, 1, 150, false, now);
        ask(&mut turns, 2, 150, false, now);
        assert_eq!(taken(&mut turns, now), [TURN_ALONE, TURN_ALONE]);
        turns.took(MILLISECOND, true, now + MILLISECOND);
        assert_eq!(taken(&mut turns, now + MILLISECOND), [TURN_ALONE, TURN_ALONE], "and none rests");
    }

    #[test]
    fn it_is_said_when_the_next_turn_is() {
        let start = Instant::now();
        let mut turns = turns(start);
        ask(&mut turns, 2, 1, false, start);
        ask(&mut turns, 1, 200, false, start);
        while taken(&mut turns, start) != [0, 0] {}
        let next = turns.deadline(start).expect("more wait");
        assert_eq!(next, start + MILLISECOND * TURN as u32);
        assert_eq!(taken(&mut turns, next), [TURN, 0]);
    }

    #[test]
    fn a_port_that_asks_without_end_rests_for_longer_than_its_turn_took_while_others_ask() {
        let start = Instant::now();
        let mut turns = turns(start);
        ask(&mut turns, 2, 1, false, start);
        ask(&mut turns, 1, 200, false, start);
        assert_eq!(taken(&mut turns, start), [TURN, 1]);
        let now = start + MILLISECOND * 5;
        turns.took(MILLISECOND * 5, false, now);
        ask(&mut turns, 2, 1, false, now);
        assert_eq!(taken(&mut turns, now), [0, 1], "who has nothing more to ask for does not rest");
        turns.took(MILLISECOND, false, now);
        let next = now + MILLISECOND * 5 * RESTS;
        assert_eq!((turns.deadline(now), taken(&mut turns, next)), (Some(next), [TURN, 0]));
    }

    #[test]
    fn a_port_whose_flows_lead_to_another_switch_is_not_limited_by_the_answers_of_that() {
        let now = Instant::now();
        let mut turns = turns(now);
        ask(&mut turns, 2, 10, true, now);
        ask(&mut turns, 1, 200, false, now);
        assert_eq!(taken(&mut turns, now), [TURN_ALONE, 10]);
        assert_eq!(taken(&mut turns, now), [TURN_ALONE, 0]);
    }

    #[test]
    fn a_port_that_asks_without_end_rests_for_longer_than_the_commit_of_what_it_was_granted() {
        let start = Instant::now();
        let mut turns = turns(start);
        ask(&mut turns, 2, 1, false, start);
        ask(&mut turns, 1, 200, false, start);
        assert_eq!(taken(&mut turns, start), [TURN, 1]);
        turns.took(MILLISECOND, true, start);
        let now = start + MILLISECOND * 9;
        ask(&mut turns, 2, 1, false, now);
        assert_eq!(taken(&mut turns, now), [0, 1], "the commit has not ended");
        assert_eq!(turns.deadline(now), None);
        turns.committed(MILLISECOND * 9, now);
        let next = now + MILLISECOND * 9 * RESTS;
        assert_eq!((turns.deadline(now), taken(&mut turns, next)), (Some(next), [TURN, 0]));
    }

    #[test]
    fn questions_keep_no_answers_away() {
        let now = Instant::now();
        let mut turns = turns(now);
        ask(&mut turns, 2, 1, false, now);
        ask(&mut turns, 1, 200, false, now);
        while taken(&mut turns, now) != [0, 0] {}
        ask(&mut turns, 1, 3, true, now);
        assert_eq!(taken(&mut turns, now), [3, 0]);
    }
}
