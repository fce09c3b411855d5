use super::*;
use crate::decide::RouteAnswer;
use crate::tables::{LinkKind, NeighbourState};
use crate::{LinkState, NextHost, Reason};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);

fn destination(n: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, n])
}

fn query(n: u8) -> Query {
    Query::new(destination(n), 1)
}

fn gateway(n: u8) -> NeighbourKey {
    NeighbourKey { interface: 2 + u32::from(n), address: IpAddr::from([10, 0, n, 2]) }
}

fn chosen(chosen: RouteAnswer) -> Routes {
    Routes { chosen, all: None }
}

fn via(n: u8) -> RouteAnswer {
    RouteAnswer::Via { interface: gateway(n).interface, next_hop: gateway(n).address }
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn found(gateway_n: u8, mac_n: u8) -> Resolution {
    Resolution::Found(NextHost {
        mac: mac(mac_n),
        interface: gateway(gateway_n).interface,
        routed: true,
        gateway: true,
    })
}

/// Ports 1 to 4, all up.
fn snapshot() -> Vec<Notice> {
    let link = |ifindex: u32| {
        let name = format!("p{ifindex}");
        let state = LinkState { ifindex, name, up: true, mtu: 1500, mac: mac(0), master: None, kind: None };
        Notice::Link(Link { state, kind: LinkKind::Ethernet })
    };
    (1..5).map(link).collect()
}

/// An engine that has told its links, at rest.
fn engine(now: Instant) -> Engine {
    let mut engine = Engine::new(Vec::new());
    engine.resync(snapshot(), now - SECOND);
    engine.settle(now);
    while engine.next_event().is_some() {}
    engine
}

fn lookup(engine: &mut Engine) -> LookupId {
    match engine.next_work() {
        Some(Work::Lookup(id)) => id,
        other => panic!("a look-up was due, not {other:?}"),
    }
}

fn told(engine: &mut Engine) -> Vec<Resolution> {
    std::iter::from_fn(|| engine.next_event())
        .map(|event| match event {
            Event::Resolved { resolution, .. } => resolution,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// An engine with one query, resolved through gateway 0.
fn resolved(now: Instant) -> Engine {
    let mut engine = engine(now);
    engine.watch(query(1));
    let id = lookup(&mut engine);
    engine.looked_up(id, Some(chosen(via(0))), now);
    engine.settle(now);
    engine.notice(Notice::Neighbour(gateway(0), NeighbourState::Usable(mac(1))), now);
    engine.settle(now);
    assert_eq!(told(&mut engine), [found(0, 1)]);
    while engine.next_work().is_some() {}
    engine
}

#[test]
fn change_during_a_look_up_makes_its_destination_due_again() {
    let now = Instant::now();
    let mut engine = engine(now);
    engine.watch(query(1));
    let early = lookup(&mut engine);
    engine.notice(Notice::Routes(None), now);
    engine.settle(now + GATHER);
    assert_eq!(engine.next_work(), None, "one look-up of a destination at a time");
    engine.looked_up(early, Some(chosen(via(0))), now + GATHER);
    assert_eq!(lookup(&mut engine).address, destination(1));
}

#[test]
fn answer_for_a_dropped_watch_is_not_taken_for_a_new_one() {
    let now = Instant::now();
    let mut engine = engine(now);
    engine.watch(query(1));
    let old = lookup(&mut engine);
    engine.unwatch(query(1));
    engine.watch(query(1));
    let new = lookup(&mut engine);
    engine.looked_up(old, Some(chosen(RouteAnswer::Refused(Reason::NoRoute))), now);
    engine.settle(now);
    assert_eq!(told(&mut engine), []);
    engine.looked_up(new, Some(chosen(RouteAnswer::Refused(Reason::Local))), now);
    engine.settle(now);
    assert_eq!(told(&mut engine), [Resolution::Unreachable(Reason::Local)]);
}

#[test]
fn look_up_without_an_answer_is_repeated() {
    let now = Instant::now();
    let mut engine = engine(now);
    engine.watch(query(1));
    let id = lookup(&mut engine);
    engine.looked_up(id, None, now);
    engine.settle(now + RETRY.0);
    assert_eq!(lookup(&mut engine).address, destination(1));
}

#[test]
fn path_is_chosen_from_all_next_hops_which_are_asked_for_when_it_is_watched() {
    let now = Instant::now();
    let mut engine = resolved(now);
    let by = |path| Query { path: Some(path), ..query(1) };
    [0, 1, 2].into_iter().for_each(|path| engine.watch(by(path)));
    engine.settle(now);
    assert_eq!(told(&mut engine), [], "the kernel's choice is known, its alternatives are not");
    let id = lookup(&mut engine);
    assert!(id.all);
    engine.looked_up(id, Some(Routes { chosen: via(0), all: Some(vec![via(0), via(1)]) }), now);
    engine.settle(now);
    engine.notice(Notice::Neighbour(gateway(1), NeighbourState::Usable(mac(2))), now);
    engine.settle(now);
    let mut last = BTreeMap::new();
    while let Some(Event::Resolved { query, resolution, route }) = engine.next_event() {
        last.insert(query.path, (resolution, route));
    }
    let by_gateway = |n: u8| (found(n, n + 1), Some(Route { interface: gateway(n).interface, paths: 2 }));
    assert_eq!(last, BTreeMap::from([(Some(0), by_gateway(0)), (Some(1), by_gateway(1)), (Some(2), by_gateway(0))]));

    engine.notice(Notice::Routes(None), now);
    engine.settle(now + GATHER);
    let id = lookup(&mut engine);
    engine.looked_up(id, Some(Routes { chosen: via(1), all: Some(vec![via(1)]) }), now);
    engine.settle(now);
    assert_eq!(told(&mut engine), [found(1, 2); 4], "one of the ways is gone");
}

#[test]
fn path_of_a_route_with_a_single_next_hop_is_that_one() {
    let now = Instant::now();
    let mut engine = engine(now);
    engine.watch(Query { path: Some(7), ..query(1) });
    let id = lookup(&mut engine);
    engine.looked_up(id, Some(Routes { chosen: RouteAnswer::Refused(Reason::Local), all: Some(Vec::new()) }), now);
    engine.settle(now);
    assert_eq!(told(&mut engine), [Resolution::Unreachable(Reason::Local)]);
}

#[test]
fn route_change_elsewhere_looks_up_nothing() {
    let now = Instant::now();
    let mut engine = resolved(now);
    engine.notice(Notice::Routes("10.8.0.0/16".parse().ok()), now);
    engine.settle(now + GATHER);
    assert_eq!(engine.next_work(), None);
    engine.notice(Notice::Routes("10.9.0.0/24".parse().ok()), now);
    engine.settle(now + GATHER);
    assert_eq!(lookup(&mut engine).address, destination(1));
}

#[test]
fn many_route_changes_look_up_everything_once() {
    let now = Instant::now();
    let mut engine = resolved(now);
    for n in 0..=MAX_PREFIXES {
        engine.notice(Notice::Routes(format!("10.8.{n}.0/24").parse().ok()), now);
    }
    engine.settle(now + GATHER);
    assert_eq!(lookup(&mut engine).address, destination(1));
    assert_eq!(engine.next_work(), None);
}

#[test]
fn query_that_changes_twice_before_it_is_told_is_told_once() {
    let now = Instant::now();
    let mut engine = resolved(now);
    for n in [2, 3] {
        engine.notice(Notice::Neighbour(gateway(0), NeighbourState::Usable(mac(n))), now);
        engine.settle(now);
    }
    assert_eq!(told(&mut engine), [found(0, 3)]);
    for n in [4, 3] {
        engine.notice(Notice::Neighbour(gateway(0), NeighbourState::Usable(mac(n))), now);
        engine.settle(now);
    }
    assert_eq!(told(&mut engine), [], "what was told is true again");
}

#[test]
fn neighbour_in_use_is_checked_every_thirty_to_sixty_seconds() {
    let now = Instant::now();
    let mut engine = resolved(now);
    let mut last = now;
    for _ in 0..5 {
        let due = engine.deadline().expect("a check is planned");
        assert!((30 * SECOND..=60 * SECOND).contains(&(due - last)), "after {:?}", due - last);
        engine.settle(due);
        assert_eq!(engine.next_work(), Some(Work::Use(gateway(0))));
        last = due;
    }
}

#[test]
fn silent_neighbour_is_tried_ever_less_often() {
    let now = Instant::now();
    let mut engine = resolved(now);
    engine.notice(Notice::Neighbour(gateway(0), NeighbourState::Failed), now);
    engine.settle(now);
    let (mut last, mut pauses) = (now, Vec::new());
    for _ in 0..9 {
        let due = engine.deadline().expect("a try is planned");
        engine.settle(due);
        assert_eq!(engine.next_work(), Some(Work::Use(gateway(0))));
        pauses.push((due - last).as_secs());
        last = due;
    }
    assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn nothing_is_left_to_do_when_nobody_watches() {
    let now = Instant::now();
    let mut engine = resolved(now);
    engine.watch(query(1));
    engine.unwatch(query(1));
    assert!(engine.deadline().is_some(), "one watcher is left");
    engine.unwatch(query(1));
    engine.unwatch(query(1));
    assert_eq!(engine.deadline(), None);
    engine.settle(now);
    assert_eq!((engine.next_work(), engine.has_events()), (None, false));
}

#[test]
fn link_missing_from_a_new_snapshot_is_told_as_gone() {
    let now = Instant::now();
    let mut engine = engine(now);
    let without_p3 = snapshot().into_iter().filter(|notice| notice.link_index() != Some(3)).collect();
    engine.resync(without_p3, now);
    assert_eq!(engine.next_event(), Some(Event::LinkGone { ifindex: 3, name: "p3".into() }));
    assert_eq!(engine.next_event(), None);
}

#[test]
fn neighbour_missing_from_a_new_snapshot_is_asked_for_and_keeps_its_address() {
    let now = Instant::now();
    let mut engine = resolved(now);
    engine.resync(snapshot(), now);
    engine.settle(now + RETRY.0);
    assert_eq!(told(&mut engine), []);
    let works: Vec<Work> = std::iter::from_fn(|| engine.next_work()).collect();
    assert!(works.contains(&Work::Use(gateway(0))), "{works:?}");
}

/// What may happen to the engine and to the kernel it looks at.
#[derive(Clone, Copy, Debug)]
enum Step {
    Watch(u8),
    Unwatch(u8),
    /// A destination's route changes to a gateway, or to none; the notice may come before the change, and a
    /// whole round of look-ups between them.
    Route {
        destination: u8,
        gateway: Option<u8>,
        notice_first: bool,
    },
    Neighbour {
        gateway: u8,
        mac: Option<u8>,
    },
    LostNotices {
        destination: u8,
        gateway: u8,
        mac: u8,
    },
    /// The kernel reads its tables for the next request.
    Read,
    /// The oldest answer arrives.
    Answer,
    Tell,
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let gateways = || proptest::option::of(0u8..2);
    prop_oneof![
        3 => (0u8..4).prop_map(Step::Watch),
        1 => (0u8..4).prop_map(Step::Unwatch),
        3 => (0u8..4, gateways(), any::<bool>()).prop_map(|(destination, gateway, notice_first)| Step::Route { destination, gateway, notice_first }),
        2 => (0u8..2, proptest::option::of(1u8..4)).prop_map(|(gateway, mac)| Step::Neighbour { gateway, mac }),
        1 => (0u8..4, 0u8..2, 1u8..4).prop_map(|(destination, gateway, mac)| Step::LostNotices { destination, gateway, mac }),
        5 => Just(Step::Read),
        5 => Just(Step::Answer),
        2 => Just(Step::Tell),
        3 => (0u16..400).prop_map(Step::Pass),
    ]
}

/// A kernel in miniature, and a reader of the events.
struct Model {
    engine: Engine,
    now: Instant,
    routes: BTreeMap<IpAddr, RouteAnswer>,
    neighbours: BTreeMap<NeighbourKey, NeighbourState>,
    under_way: VecDeque<(LookupId, RouteAnswer)>,
    watchers: BTreeMap<Query, usize>,
    told: BTreeMap<Query, Resolution>,
}

impl Model {
    fn new() -> Self {
        let now = Instant::now();
        let engine = engine(now);
        Self {
            engine,
            now,
            routes: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            under_way: VecDeque::new(),
            watchers: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Watch(n) => {
                *self.watchers.entry(query(n)).or_default() += 1;
                self.engine.watch(query(n));
            }
            Step::Unwatch(n) => {
                if let Some(watchers) = self.watchers.get_mut(&query(n)) {
                    *watchers -= 1;
                    self.engine.unwatch(query(n));
                }
                self.watchers.retain(|_, watchers| *watchers > 0);
            }
            Step::Route { destination: n, gateway, notice_first } => {
                if notice_first {
                    self.engine.notice(Notice::Routes(Some(destination(n).into())), self.now);
                    self.pass(GATHER);
                    self.work();
                }
                self.set_route(n, gateway);
                if !notice_first {
                    self.engine.notice(Notice::Routes(Some(destination(n).into())), self.now);
                }
            }
            Step::Neighbour { gateway: n, mac: m } => {
                let state = m.map_or(NeighbourState::Failed, |m| NeighbourState::Usable(mac(m)));
                self.neighbours.insert(gateway(n), state);
                self.engine.notice(Notice::Neighbour(gateway(n), state), self.now);
            }
            Step::LostNotices { destination, gateway: n, mac: m } => {
                self.set_route(destination, Some(n));
                self.neighbours.insert(gateway(n), NeighbourState::Usable(mac(m)));
                self.engine.resync(self.snapshot(), self.now);
            }
            Step::Read => self.read(),
            Step::Answer => self.answer(),
            Step::Tell => self.tell(),
            Step::Pass(milliseconds) => self.pass(Duration::from_millis(milliseconds.into())),
        }
        self.engine.settle(self.now);
    }

    fn snapshot(&self) -> Vec<Notice> {
        let neighbours = self.neighbours.iter().map(|(key, state)| Notice::Neighbour(*key, *state));
        snapshot().into_iter().chain(neighbours).collect()
    }

    fn set_route(&mut self, n: u8, gateway: Option<u8>) {
        let answer = gateway.map_or(RouteAnswer::Refused(Reason::NoRoute), via);
        self.routes.insert(destination(n), answer);
    }

    fn route(&self, address: IpAddr) -> RouteAnswer {
        self.routes.get(&address).copied().unwrap_or(RouteAnswer::Refused(Reason::NoRoute))
    }

    fn read(&mut self) {
        if let Some(Work::Lookup(id)) = self.engine.next_work() {
            self.under_way.push_back((id, self.route(id.address)));
        }
    }

    fn answer(&mut self) {
        if let Some((id, answer)) = self.under_way.pop_front() {
            self.engine.looked_up(id, Some(chosen(answer)), self.now);
        }
    }

    /// All requests, answered at once.
    fn work(&mut self) {
        loop {
            self.read();
            if self.under_way.is_empty() && self.engine.lookups.is_empty() {
                return;
            }
            self.answer();
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.settle(self.now);
    }

    fn tell(&mut self) {
        if let Some(Event::Resolved { query, resolution, .. }) = self.engine.next_event() {
            self.told.insert(query, resolution);
        }
    }

    /// Lets everything come to rest.
    fn rest(&mut self) {
        for _ in 0..4 {
            self.work();
            self.pass(SECOND);
        }
        self.engine.asks.clear();
        while self.engine.has_events() {
            self.tell();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_told_last_is_what_the_kernel_says(steps in proptest::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        steps.into_iter().for_each(|step| model.step(step));
        model.rest();
        let mut truth = Tables::default();
        model.snapshot().into_iter().for_each(|notice| match notice {
            Notice::Link(link) => drop(truth.set_link(link)),
            Notice::Neighbour(key, state) => truth.set_neighbour(key, state, model.now),
            other => panic!("{other:?}"),
        });
        for query in model.watchers.keys() {
            let decision = decide(*query, &[], Some(model.route(query.destination)), &truth);
            prop_assert_eq!(model.told.get(query).copied(), decision.map(|d| d.resolution), "{:?}", query);
        }
        let used: HashSet<NeighbourKey> = model.engine.queries.values().filter_map(|w| w.neighbour).collect();
        prop_assert_eq!(used, model.engine.neighbours.keys().copied().collect());
        prop_assert_eq!(model.engine.timers.len(), model.engine.neighbours.len());
    }
}
