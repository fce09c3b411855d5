//! The contestants on real interfaces. Needs root.
#![allow(missing_docs)]

use flowlane_bench::{Case, Contestant, Micro, MicroCase, Plan, Progress, Report, Row, Work, run};
use std::time::Duration;

struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _steps: u64) {}
    fn step(&mut self, what: &str) {
        println!("{what}");
    }
    fn left_out(&mut self, contestant: &str, why: &str, _steps: u64) {
        println!("left out: {contestant}: {why}");
    }
}

/// What is too short for good figures.
const BRIEF: Plan = Plan {
    cases: Vec::new(),
    micro: Vec::new(),
    tcp: false,
    install: false,
    repeats: 2,
    window: Duration::from_millis(20),
};

fn measured(plan: &Plan) -> Report {
    let report = run(plan, &mut Silent).expect("measured");
    println!("{report:?}");
    assert!(report.is_whole(), "{report:?}");
    report
}

fn forwarded(cases: Vec<Case>) -> Vec<Row> {
    let report = measured(&Plan { cases, ..BRIEF });
    assert!(report.generator_mpps > 0.1, "{report:?}");
    for row in &report.rows {
        assert!(row.valid && row.lost.abs() <= 0.01 && row.wrong == 0, "{row:?}");
        assert!(row.ns_per_packet > 10.0 && row.repeats == 2, "{row:?}");
    }
    report.rows
}

#[test]
fn every_contestant_delivers_every_frame_with_the_right_addresses() {
    for flows in [1, 1_000] {
        let case = |contestant| Case { contestant, work: Work::Unicast, flows, frame_bytes: &[64, 1500] };
        let rows = forwarded(Contestant::PLAIN.map(case).into());
        assert_eq!(rows.len(), 2 * Contestant::PLAIN.len());
        assert!(rows.iter().all(|row| row.ratio_to_limit.is_some()));
    }
}

#[test]
fn every_switch_of_ours_does_every_work() {
    for contestant in Contestant::PLAIN.into_iter().filter(|contestant| contestant.is_flowlane()) {
        let case = |work| Case { contestant, work, flows: 100, frame_bytes: &[64] };
        assert_eq!(forwarded(Work::ALL.map(case).into()).len(), Work::ALL.len());
    }
}

#[test]
fn a_tcp_connection_passes_through_every_contestant_of_tc() {
    let report = measured(&Plan { tcp: true, repeats: 1, ..BRIEF });
    assert_eq!(report.tcp.len(), 3, "iperf3 is installed");
    assert!(report.tcp.iter().all(|row| row.gbit_per_second > 0.1 && row.ratio_to_tc_limit > Some(0.0)));
}

#[test]
fn open_vswitch_delivers_every_frame_with_the_right_addresses_or_the_report_says_why_not() {
    let case = |contestant| Case { contestant, work: Work::Unicast, flows: 100, frame_bytes: &[64] };
    let plan = Plan { cases: [Contestant::OvsAfPacket, Contestant::OvsAfXdp].map(case).into(), ..BRIEF };
    let report = run(&plan, &mut Silent).expect("measured");
    assert!(report.rows.iter().all(|row| row.valid && row.wrong == 0), "{report:?}");
    assert!(report.left_out.iter().all(|left_out| left_out.why.contains("openvswitch-switch")), "{report:?}");
    assert_eq!(report.rows.len() + report.left_out.len(), 2, "{report:?}");
}

#[test]
fn a_contestant_that_forwards_nothing_is_left_out_and_the_others_are_measured() {
    let case = |contestant, frame_bytes| Case { contestant, work: Work::Unicast, flows: 1, frame_bytes };
    // Longer than the cable takes.
    let cases = vec![case(Contestant::LinuxBridge, &[3_000]), case(Contestant::Limit, &[64])];
    let report = run(&Plan { cases, ..BRIEF }, &mut Silent).expect("measured");
    let names: Vec<&str> = report.rows.iter().map(|row| row.contestant).collect();
    assert_eq!(names, ["limit"]);
    assert_eq!(report.left_out.first().map(|left_out| left_out.contestant), Some("linux-bridge"), "{report:?}");
    assert!(!report.is_whole());
}

#[test]
fn the_pipeline_runs_without_interfaces_and_a_table_takes_a_million_flows() {
    let micro = [1, 1_000_000].map(|flows| MicroCase { contestant: Micro::FlowlaneUserspace, flows }).into();
    let report = measured(&Plan { micro, install: true, repeats: 1, ..BRIEF });
    assert_eq!(report.rows.iter().map(|row| row.flows).collect::<Vec<u32>>(), [1, 1_000_000]);
    assert!(report.rows.iter().all(|row| row.mode == "micro" && row.ns_per_packet > 1.0), "{report:?}");
    assert!(report.control.is_some_and(|control| control.install_ms > 1.0));
}
