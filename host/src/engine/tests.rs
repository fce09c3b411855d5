use super::*;
use flowlane_dhcp6::{Duid, StatusCode};
use proptest::prelude::*;

const IF: u32 = 7;

fn key(run: u32, last: u8) -> RunKey {
    RunKey { destination: std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets(), ifindex: IF, run }
}

fn mac(n: u8) -> Mac {
    Mac([0xa2, 0xf1, 0, 0, 0, n])
}

fn grant(n: u8) -> Event {
    let server = Duid::from_uuid([1; 16]);
    let spec = FlowSpec { rate: Some(5), ..FlowSpec::default() };
    Event::Leased(Grant { addresses: vec![mac(n)], t1: 300, t2: 480, valid: 600, spec, paths: None, server })
}

fn status(code: u16, text: &str) -> Status {
    Status::new(StatusCode::from_u16(code), text)
}

fn commands(engine: &mut Engine) -> Vec<Command> {
    std::iter::from_fn(|| engine.command()).collect()
}

fn asked(commands: &[Command]) -> Vec<u32> {
    commands
        .iter()
        .filter_map(|command| if let Command::Ask(iaid, ..) = command { Some(*iaid) } else { None })
        .collect()
}

/// An interface with a switch, and a run.
fn running(spec: RunSpec) -> Engine {
    let mut engine = Engine::new(100);
    engine.interface(IF, true, 0);
    assert_eq!(commands(&mut engine), [Command::Probe(IF, None)]);
    engine.probed(IF, None, 1);
    engine.begin(1, spec, Vec::new(), 1);
    assert_eq!(commands(&mut engine), [Command::Ready(1)]);
    engine
}

/// A grant that says how many different paths there are.
fn grant_of_paths(n: u8, paths: u8) -> Event {
    let Event::Leased(grant) = grant(n) else { unreachable!() };
    Event::Leased(Grant { paths: Some(paths), ..grant })
}

fn open(engine: &mut Engine, last: u8, n: u8) -> u32 {
    engine.wanted(key(1, last), 10);
    let iaid = asked(&commands(engine))[0];
    engine.lease(iaid, grant(n), 20);
    let opened =
        Command::Open { key: key(1, last), addresses: vec![mac(n)], field: Field::Destination, until: 600_020 };
    assert_eq!(commands(engine), [opened]);
    iaid
}

#[test]
fn a_first_packet_asks_for_a_flow_of_its_destination_and_gets_it() {
    let spec = RunSpec { name: "ping[1]".into(), rate: Some(9), field: Field::Source, ..RunSpec::default() };
    let mut engine = running(spec);
    engine.wanted(key(1, 2), 10);
    let asked = FlowSpec {
        destination: Some("10.0.0.2".parse().expect("an address")),
        rate: Some(9),
        field: Field::Source,
        name: Some("ping[1]".into()),
        only_with_a_way: true,
        ..FlowSpec::default()
    };
    assert_eq!(commands(&mut engine), [Command::Ask(100, IF, asked)]);
    engine.lease(100, grant(1), 20);
    let open = Command::Open { key: key(1, 2), addresses: vec![mac(1)], field: Field::Source, until: 600_020 };
    assert_eq!(commands(&mut engine), [open]);
}

#[test]
fn packets_wait_no_longer_than_the_deadline_and_the_flow_opens_when_the_answer_comes_late() {
    let mut engine = running(RunSpec::default());
    engine.wanted(key(1, 2), 10);
    commands(&mut engine);
    engine.advance(10 + ASK_PATIENCE - 1);
    assert_eq!(commands(&mut engine), []);
    engine.advance(10 + ASK_PATIENCE);
    assert!(commands(&mut engine).contains(&Command::Plain(key(1, 2))));
    engine.lease(100, grant(1), 1_000);
    assert!(matches!(commands(&mut engine)[..], [Command::Open { .. }]));
}

#[test]
fn without_a_switch_no_packet_waits() {
    let mut engine = Engine::new(1);
    engine.interface(IF, true, 0);
    for now in [300, 600] {
        engine.advance(now);
    }
    engine.begin(1, RunSpec::default(), Vec::new(), 700);
    commands(&mut engine);
    engine.wanted(key(1, 2), 700);
    assert_eq!(commands(&mut engine), [Command::Plain(key(1, 2))]);
    // The switch comes: what is plain gets its flow.
    engine.probed(IF, None, 900);
    assert_eq!(asked(&commands(&mut engine)).len(), 1);
}

#[test]
fn a_run_waits_until_it_is_known_whether_there_is_a_switch() {
    let mut engine = Engine::new(1);
    engine.interface(IF, true, 0);
    engine.begin(1, RunSpec { require: true, ..RunSpec::default() }, Vec::new(), 10);
    assert_eq!(commands(&mut engine), [Command::Probe(IF, None)]);
    engine.advance(300);
    engine.advance(600);
    assert!(commands(&mut engine).contains(&Command::Failed(1, Failure::NoService)));
}

#[test]
fn a_run_begins_when_its_destinations_are_open() {
    let mut engine = running(RunSpec::default());
    engine.begin(2, RunSpec { require: true, ..RunSpec::default() }, vec![key(2, 9)], 10);
    let iaid = asked(&commands(&mut engine))[0];
    engine.lease(iaid, grant(1), 20);
    assert!(matches!(commands(&mut engine)[..], [Command::Open { .. }, Command::Ready(2)]));
}

#[test]
fn a_run_that_requires_a_flow_fails_when_it_is_refused() {
    let mut engine = running(RunSpec::default());
    engine.begin(2, RunSpec { require: true, ..RunSpec::default() }, vec![key(2, 9)], 10);
    let iaid = asked(&commands(&mut engine))[0];
    engine.lease(iaid, Event::Refused(status(2, "full")), 20);
    let failed = Failure::Refused("10.0.0.9".parse().expect("an address"), "full".into());
    assert_eq!(commands(&mut engine), [Command::Drop(iaid), Command::Cut(key(2, 9)), Command::Failed(2, failed)]);
}

#[test]
fn a_refusal_leaves_packets_plain_and_is_asked_again_later() {
    let mut engine = running(RunSpec::default());
    engine.wanted(key(1, 2), 10);
    commands(&mut engine);
    engine.lease(100, Event::Refused(status(2, "full")), 20);
    assert_eq!(commands(&mut engine), [Command::Drop(100), Command::Plain(key(1, 2))]);
    engine.advance(20 + AGAIN);
    assert_eq!(asked(&commands(&mut engine)), [100]);
}

#[test]
fn a_refusal_cuts_off_who_requires_flows() {
    let mut engine = running(RunSpec { require: true, ..RunSpec::default() });
    engine.wanted(key(1, 2), 10);
    commands(&mut engine);
    engine.lease(100, Event::Refused(status(2, "full")), 20);
    assert_eq!(commands(&mut engine), [Command::Drop(100), Command::Cut(key(1, 2))]);
}

#[test]
fn a_flow_that_an_operator_closes_is_cut_off_and_never_asked_for_again() {
    let mut engine = running(RunSpec::default());
    let iaid = open(&mut engine, 2, 1);
    engine.lease(iaid, Event::Closed(status(10, "closed")), 30);
    assert_eq!(commands(&mut engine), [Command::Drop(iaid), Command::Cut(key(1, 2))]);
    engine.counted(key(1, 2), 0, 10 * IDLE);
    engine.probed(IF, None, 10 * IDLE);
    assert!(!commands(&mut engine).iter().any(|command| matches!(command, Command::Ask(..) | Command::Forget(..))));
}

#[test]
fn a_lease_that_is_lost_leaves_packets_plain_until_there_is_another() {
    let mut engine = running(RunSpec::default());
    let iaid = open(&mut engine, 2, 1);
    engine.lease(iaid, Event::Lost, 30);
    assert_eq!(commands(&mut engine), [Command::Plain(key(1, 2))]);
    engine.lease(iaid, grant(2), 40);
    assert!(matches!(&commands(&mut engine)[..], [Command::Open { addresses, .. }] if *addresses == [mac(2)]));
}

#[test]
fn a_switch_that_has_lost_its_leases_is_asked_for_all_of_them() {
    let mut engine = running(RunSpec::default());
    let (one, two) = (open(&mut engine, 2, 1), open(&mut engine, 3, 2));
    engine.advance(5_020);
    let probes = commands(&mut engine);
    assert!(matches!(&probes[..], [Command::Probe(IF, Some(Question { iaid, .. }))] if *iaid == one), "{probes:?}");
    engine.probed(IF, Some((one, Ok(Some(mac(9))))), 5_021);
    assert_eq!(asked(&commands(&mut engine)), [one, two]);
}

#[test]
fn what_another_switch_has_granted_is_kept_where_one_has_lost_its_leases() {
    let mut engine = running(RunSpec::default());
    let one = open(&mut engine, 2, 1);
    engine.wanted(key(1, 3), 10);
    let two = asked(&commands(&mut engine))[0];
    let Event::Leased(granted) = grant(2) else { unreachable!() };
    engine.lease(two, Event::Leased(Grant { server: Duid::from_uuid([2; 16]), ..granted }), 20);
    commands(&mut engine);
    engine.probed(IF, Some((one, Ok(Some(mac(9))))), 5_021);
    assert_eq!(asked(&commands(&mut engine)), [one]);
}

#[test]
fn a_switch_that_knows_its_leases_is_left_alone() {
    let mut engine = running(RunSpec::default());
    let iaid = open(&mut engine, 2, 1);
    engine.probed(IF, Some((iaid, Ok(Some(mac(1))))), 5_021);
    assert_eq!(commands(&mut engine), []);
}

#[test]
fn flows_go_on_by_a_silent_switch_for_a_minute() {
    let mut engine = running(RunSpec::default());
    open(&mut engine, 2, 1);
    let mut plain = None;
    while plain.is_none() {
        let now = engine.poll_timeout().expect("probes");
        engine.advance(now);
        plain = commands(&mut engine).contains(&Command::Plain(key(1, 2))).then_some(now);
    }
    assert!(plain.is_some_and(|at| (60_000..120_000).contains(&at)), "{plain:?}");
}

#[test]
fn flows_that_are_required_go_on_by_a_silent_switch_until_their_leases_end() {
    let mut engine = running(RunSpec { require: true, ..RunSpec::default() });
    open(&mut engine, 2, 1);
    let mut cut = None;
    while cut.is_none() {
        let now = engine.poll_timeout().expect("probes");
        engine.advance(now);
        cut = commands(&mut engine).contains(&Command::Cut(key(1, 2))).then_some(now);
    }
    assert_eq!(cut, Some(600_020));
}

#[test]
fn an_interface_that_goes_down_takes_its_flows_along_and_brings_them_back() {
    let mut engine = running(RunSpec::default());
    let iaid = open(&mut engine, 2, 1);
    engine.interface(IF, false, 30);
    assert_eq!(commands(&mut engine), [Command::Drop(iaid), Command::Plain(key(1, 2))]);
    engine.interface(IF, true, 40);
    engine.probed(IF, None, 41);
    assert_eq!(asked(&commands(&mut engine)), [iaid]);
}

#[test]
fn a_destination_that_nobody_sends_to_is_given_back_and_one_in_use_is_kept() {
    let mut engine = running(RunSpec::default());
    let (one, _) = (open(&mut engine, 2, 1), open(&mut engine, 3, 2));
    engine.counted(key(1, 3), 4, IDLE);
    for last in [2, 3] {
        engine.counted(key(1, last), if last == 3 { 4 } else { 0 }, IDLE + 10);
    }
    assert_eq!(commands(&mut engine), [Command::Forget(key(1, 2)), Command::Release(one)]);
}

#[test]
fn as_many_paths_are_asked_for_as_there_are_different_ones() {
    let mut engine = running(RunSpec { paths: 4, ..RunSpec::default() });
    engine.wanted(key(1, 2), 10);
    let path = |command: &Command| if let Command::Ask(_, _, spec) = command { spec.path } else { None };
    assert_eq!(commands(&mut engine).iter().map(path).collect::<Vec<_>>(), [Some(0)]);
    engine.lease(100, grant_of_paths(1, 3), 20);
    let more = commands(&mut engine);
    assert_eq!(more.iter().filter_map(path).collect::<Vec<_>>(), [1, 2]);
    assert!(matches!(&more[2], Command::Open { addresses, .. } if *addresses == [mac(1)]), "{more:?}");
    engine.lease(101, grant_of_paths(2, 3), 30);
    engine.lease(102, grant_of_paths(3, 3), 40);
    let opened = commands(&mut engine);
    assert!(
        matches!(&opened[..], [_, Command::Open { addresses, .. }] if *addresses == [mac(1), mac(2), mac(3)]),
        "{opened:?}"
    );
    // One that is lost leaves the others.
    engine.lease(101, Event::Lost, 50);
    let left = commands(&mut engine);
    assert!(matches!(&left[..], [Command::Open { addresses, .. }] if *addresses == [mac(1), mac(3)]), "{left:?}");
}

#[test]
fn a_switch_that_knows_of_one_path_is_asked_for_one() {
    let mut engine = running(RunSpec { paths: 4, ..RunSpec::default() });
    engine.wanted(key(1, 2), 10);
    commands(&mut engine);
    engine.lease(100, grant(1), 20);
    assert_eq!(asked(&commands(&mut engine)), [0; 0]);
}

#[test]
fn the_end_of_a_run_gives_everything_back() {
    let mut engine = running(RunSpec::default());
    let (one, two) = (open(&mut engine, 2, 1), open(&mut engine, 3, 2));
    assert!(engine.wants_program(IF));
    engine.end(1, 50);
    let expected =
        [Command::Forget(key(1, 2)), Command::Release(one), Command::Forget(key(1, 3)), Command::Release(two)];
    assert_eq!(commands(&mut engine), expected);
    assert!(!engine.wants_program(IF));
}

#[test]
fn packets_that_wait_when_their_program_ends_are_sent_in_their_flow() {
    let mut engine = running(RunSpec { require: true, ..RunSpec::default() });
    engine.wanted(key(1, 2), 10);
    engine.wanted(key(1, 3), 10);
    let asked = asked(&commands(&mut engine));
    engine.end(1, 11);
    assert_eq!(commands(&mut engine), [], "they have no answer yet");
    assert!(engine.requires(1));
    engine.lease(asked[0], grant(1), 20);
    let done = commands(&mut engine);
    assert!(
        matches!(&done[..], [Command::Open { .. }, Command::Forget(_), Command::Release(iaid)] if *iaid == asked[0]),
        "{done:?}"
    );
    engine.advance(10 + ASK_PATIENCE);
    let done = commands(&mut engine);
    assert!(done.contains(&Command::Cut(key(1, 3))) && done.contains(&Command::Forget(key(1, 3))), "{done:?}");
    assert!(!engine.wants_program(IF) && !engine.requires(1));
}

#[test]
fn what_a_predecessor_opened_stays_open_and_is_confirmed() {
    let mut engine = Engine::new(1);
    engine.adopt(1, RunSpec::default());
    let lease = Lease { address: mac(1), until: 9_000, rate: None, server: None };
    engine.adopt_destination(key(1, 2), None, vec![Path::adopted(55, 0, Some(lease))], 0);
    engine.interface(IF, true, 0);
    engine.probed(IF, Some((55, Ok(Some(mac(1))))), 1);
    let done = commands(&mut engine);
    assert!(matches!(&done[0], Command::Open { until: 9_000, .. }), "{done:?}");
    assert_eq!(asked(&done), [55]);
    assert!(engine.next_iaid() > 55);
}

#[test]
fn what_a_predecessor_opened_is_given_back_also_before_it_is_confirmed() {
    let mut engine = Engine::new(1);
    engine.adopt(1, RunSpec::default());
    let lease = Lease { address: mac(1), until: 9_000, rate: None, server: None };
    engine.adopt_destination(key(1, 2), None, vec![Path::adopted(55, 0, Some(lease))], 0);
    commands(&mut engine);
    engine.end(1, 10);
    let done = commands(&mut engine);
    assert!(matches!(done[..], [Command::Forget(_), Command::Ask(55, IF, _), Command::Release(55)]), "{done:?}");
}

#[test]
fn a_flow_whose_lease_nobody_confirms_ends_with_it() {
    let mut engine = Engine::new(1);
    engine.adopt(1, RunSpec::default());
    let lease = Lease { address: mac(1), until: 9_000, rate: None, server: None };
    engine.adopt_destination(key(1, 2), None, vec![Path::adopted(55, 0, Some(lease))], 0);
    engine.advance(9_000);
    assert!(commands(&mut engine).contains(&Command::Plain(key(1, 2))));
}

#[test]
fn one_of_two_flows_with_the_same_address_is_closed() {
    let mut engine = running(RunSpec::default());
    open(&mut engine, 3, 1);
    let iaid = open(&mut engine, 2, 1);
    engine.close(key(1, 9), "closed");
    assert_eq!(commands(&mut engine), []);
    engine.close(key(1, 2), "closed");
    assert_eq!(commands(&mut engine), [Command::Release(iaid), Command::Cut(key(1, 2))]);
}

#[test]
fn a_run_gets_flows_to_so_many_destinations_and_another_is_not_disturbed() {
    let mut engine = running(RunSpec::default());
    engine.begin(2, RunSpec::default(), Vec::new(), 2);
    commands(&mut engine);
    let nth = |n: usize| RunKey { destination: std::net::Ipv6Addr::from(n as u128).octets(), ifindex: IF, run: 1 };
    (1..=DESTINATIONS_MAX).for_each(|n| engine.wanted(nth(n), 10));
    assert_eq!(asked(&commands(&mut engine)).len(), DESTINATIONS_MAX);
    let other = nth(DESTINATIONS_MAX + 1);
    engine.wanted(other, 10);
    assert_eq!(commands(&mut engine), [Command::Plain(other)]);
    engine.wanted(key(2, 2), 10);
    assert_eq!(asked(&commands(&mut engine)).len(), 1);
    // There is room for it when it is wanted anew.
    engine.counted(other, 0, 10 + IDLE_OTHER);
    assert_eq!(commands(&mut engine), [Command::Forget(other)]);
    engine.end(1, 20);
    engine.advance(10 + ASK_PATIENCE);
    assert!(engine.destinations().all(|(key, _)| key.run == 2));
}

/// What may happen.
#[derive(Clone, Debug)]
enum Happening {
    Up(bool),
    Gone,
    Probed(bool),
    Begin(u32, bool, u8),
    End(u32),
    Wanted(u32, u8),
    Lease(usize, u8),
    Counted(u32, u8, u64),
    Close(u8),
    Time,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        any::<bool>().prop_map(Up),
        Just(Gone),
        any::<bool>().prop_map(Probed),
        (1u32..4, any::<bool>(), 0u8..4).prop_map(|(run, require, paths)| Begin(run, require, paths)),
        (1u32..4).prop_map(End),
        (1u32..4, 0u8..4).prop_map(|(run, last)| Wanted(run, last)),
        (0usize..8, 0u8..5).prop_map(|(which, what)| Lease(which, what)),
        (1u32..4, 0u8..4, 0u64..3).prop_map(|(run, last, packets)| Counted(run, last, packets)),
        any::<u8>().prop_map(Close),
        Just(Time),
    ]
}

proptest! {
    /// What the data path and the switches were told agrees with what the engine says, whatever happens.
    #[test]
    fn nothing_is_left_behind(happenings in prop::collection::vec((happening(), 0u64..400), 1..120)) {
        let (mut engine, mut now) = (Engine::new(1), 0);
        let mut kernel = BTreeMap::new();
        let mut held = BTreeSet::new();
        for (what, later) in happenings {
            now += later;
            match what {
                Happening::Up(up) => engine.interface(IF, up, now),
                Happening::Gone => engine.interface_gone(IF, now),
                Happening::Probed(same) => {
                    let about = held.first().copied();
                    let offer = Ok(same.then_some(mac(1)));
                    engine.probed(IF, about.map(|iaid| (iaid, offer)), now);
                }
                Happening::Begin(run, ..) if engine.runs.contains_key(&run) => {}
                Happening::Begin(run, require, paths) => {
                    engine.begin(run, RunSpec { require, paths, ..RunSpec::default() }, Vec::new(), now);
                }
                Happening::End(run) => engine.end(run, now),
                Happening::Wanted(run, last) => {
                    kernel.entry(key(run, last)).or_insert(None);
                    engine.wanted(key(run, last), now);
                }
                Happening::Lease(which, what) => {
                    let Some(iaid) = held.iter().nth(which).copied() else { continue };
                    let event = match what {
                        0 => Event::Lost,
                        1 => Event::Refused(status(2, "")),
                        2 => Event::Closed(status(10, "")),
                        n => grant_of_paths(n, 3),
                    };
                    engine.lease(iaid, event, now);
                }
                Happening::Counted(run, last, packets) => engine.counted(key(run, last), packets, now),
                Happening::Close(n) => engine.close(key(u32::from(n % 3) + 1, n % 4), ""),
                Happening::Time => {
                    now = engine.poll_timeout().unwrap_or(now).max(now);
                    engine.advance(now);
                }
            }
            engine.advance(now);
            for command in commands(&mut engine) {
                match command {
                    Command::Ask(iaid, ..) => drop(held.insert(iaid)),
                    Command::Drop(iaid) | Command::Release(iaid) => drop(held.remove(&iaid)),
                    Command::Open { key, addresses, until, .. } => {
                        prop_assert!(!addresses.is_empty() && until > now);
                        kernel.insert(key, Some("open"));
                    }
                    Command::Plain(key) => drop(kernel.insert(key, Some("plain"))),
                    Command::Cut(key) => drop(kernel.insert(key, Some("cut"))),
                    Command::Forget(key) => drop(kernel.remove(&key)),
                    Command::Probe(..) | Command::Ready(_) | Command::Failed(..) => {}
                }
            }
            let known: Vec<_> = engine.destinations().map(|(key, _)| *key).collect();
            prop_assert_eq!(known, kernel.keys().copied().collect::<Vec<_>>());
            for (key, destination) in engine.destinations() {
                let told = match destination.state {
                    State::Waiting(until) => { prop_assert!(until <= now + ASK_PATIENCE); None }
                    State::Open => Some("open"),
                    State::Without { .. } => Some(if engine.runs[&key.run].spec.require { "cut" } else { "plain" }),
                    State::Closed(_) => Some("cut"),
                };
                prop_assert_eq!(kernel[key], told);
            }
            let asked: BTreeSet<u32> = engine.destinations()
                .flat_map(|(_, of)| &of.paths).filter(|path| path.asked).map(|path| path.iaid).collect();
            prop_assert_eq!(&asked, &held);
            prop_assert!(engine.poll_timeout().is_none_or(|next| next > now));
        }
    }
}
