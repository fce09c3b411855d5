//! Seeds that hold, seeds that show a bug, and that the same seed is the same run. `cargo xtask simulate --seeds 10000` is
//! the long mode.

use flowlane_simulation::{Bug, Invariant, Options, Report, run};

const STEPS: u64 = 3_000;

fn simulate(seed: u64, bug: Option<Bug>) -> Report {
    run(Options { seed, steps: STEPS, bug, trace: false })
}

#[test]
fn no_seed_breaks_an_invariant_and_everything_happens() {
    let mut sums = std::collections::BTreeMap::<String, u64>::new();
    for seed in 0..300 {
        let report = simulate(seed, None);
        assert_eq!(report.violation, None, "{:#?}", report.violation);
        let counts = serde_json::to_value(&report.counts).expect("an object");
        for (name, count) in counts.as_object().expect("an object") {
            *sums.entry(name.clone()).or_default() += count.as_u64().expect("a number");
        }
    }
    let never: Vec<_> = sums.iter().filter(|(_, count)| **count < 300).collect();
    assert!(never.is_empty(), "hardly ever: {never:?}");
    assert!(sums["frames_delivered"] * 4 > sums["frames_sent"], "{sums:?}");
}

/// The first seed that shows a bug, and what it breaks.
fn found(bug: Bug, seeds: u64) -> (u64, Invariant) {
    let broken = (0..seeds).find_map(|seed| Some((seed, simulate(seed, Some(bug)).violation?.invariant)));
    broken.unwrap_or_else(|| panic!("{bug:?} is not found in {seeds} seeds"))
}

#[test]
fn addresses_that_do_not_rest_are_found() {
    assert_eq!(found(Bug::NoQuarantine, 10).1, Invariant::AddressRests);
}

#[test]
fn leases_that_are_acknowledged_before_they_are_written_are_found() {
    assert_eq!(found(Bug::AcknowledgedUnwritten, 10).1, Invariant::LeaseKept);
}

#[test]
fn frames_that_are_taken_from_any_port_are_found() {
    assert_eq!(found(Bug::PortUnchecked, 10).1, Invariant::PortCheck);
}

#[test]
fn closed_flows_that_open_again_are_found() {
    assert_eq!(found(Bug::ClosedForgotten, 10).1, Invariant::StaysClosed);
}

#[test]
fn loops_of_switches_that_do_not_say_which_way_a_flow_came_are_found() {
    assert_eq!(found(Bug::PathUntold, 100).1, Invariant::NoLoop);
}

#[test]
fn next_hops_in_the_slots_of_others_are_found() {
    assert_eq!(found(Bug::NextHopMisplaced, 20).1, Invariant::RightReceiver);
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    for seed in [0, 7, u64::MAX] {
        let report = simulate(seed, None);
        assert_eq!(report, simulate(seed, None));
        assert_ne!(report.trace_hash, simulate(seed ^ 1, None).trace_hash);
    }
}

#[test]
fn a_violation_is_seen_again_at_the_step_that_it_names() {
    let (seed, _) = found(Bug::PortUnchecked, 10);
    let report = simulate(seed, Some(Bug::PortUnchecked));
    let violation = report.violation.clone().expect("found");
    let steps = violation.step;
    assert_eq!(violation.replay, format!("cargo xtask simulate --seed {seed} --steps {steps} --bug port-unchecked"));
    assert_eq!(run(Options { seed, steps, bug: Some(Bug::PortUnchecked), trace: false }), report);
    assert_eq!(run(Options { seed, steps: steps - 1, bug: Some(Bug::PortUnchecked), trace: false }).violation, None);
    assert!(violation.trace.last().is_some_and(|line| line.contains(&violation.text)), "{:?}", violation.trace);
}
