//! What is wanted, and what was measured of it.

use super::report::{Report, Row};
use serde_json::Value;

const MILLION: u32 = 1_000_000;
const TEN_THOUSAND: u32 = 10_000;

/// One figure that is wanted.
#[derive(Debug)]
pub(super) struct Figure {
    /// What is measured.
    pub what: &'static str,
    pub wanted: Wanted,
    /// None where it was not measured.
    pub measured: Option<f64>,
    /// What the number is of, after it.
    pub unit: &'static str,
    /// What keeps it from being better.
    pub limited_by: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    AtLeast(f64),
    Above(f64),
    Below(f64),
    AtMost(f64),
}

impl Figure {
    /// None where it was not measured.
    pub(super) fn is_met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.wanted {
            Wanted::AtLeast(wanted) => measured >= wanted,
            Wanted::Above(wanted) => measured > wanted,
            Wanted::Below(wanted) => measured < wanted,
            Wanted::AtMost(wanted) => measured <= wanted,
        })
    }
}

/// All figures that are wanted, of what a report and bench/cost.json have.
pub(super) fn all(report: &Report, cost: &Value) -> Vec<Figure> {
    [xdp(report), socket_buffers(report), userspace(report, cost), control(report)].into_iter().flatten().collect()
}

fn xdp(report: &Report) -> Vec<Figure> {
    use Wanted::AtLeast;
    let ours = |flows| report.unicast("flowlane-xdp", flows);
    let hash = report.unicast("hash-map", MILLION);
    let of_limit = |row: Option<&Row>| row.and_then(|row| row.ratio_to_limit);
    vec![
        figure("XDP, 1 flow: of the bare redirect's speed", AtLeast(0.95), of_limit(ours(1)), "")
            .limited_by("the pipeline's own instructions: port, lease and meter are checked, and the frame is counted"),
        figure("XDP, 1 M random flows: of the bare redirect's speed", AtLeast(0.80), of_limit(ours(MILLION)), "")
            .limited_by("one miss of the caches for the slot; nothing of the same frame can be done meanwhile"),
        figure(
            "XDP, 1 M random flows: time above the bare redirect, a BPF hash map's divided by ours",
            AtLeast(2.0),
            quotient(above_limit(hash), above_limit(ours(MILLION))),
            " x",
        )
        .limited_by("ours holds checks and counters too, the hash map's only look-up and rewriting"),
        against(report, "XDP against the Linux bridge, 1 flow", 4.0, "linux-bridge"),
        against(report, "XDP against Open vSwitch on AF_XDP, 1 flow", 5.0, "ovs-af-xdp"),
        against(report, "XDP against Open vSwitch on AF_PACKET, 1 flow", 20.0, "ovs-af-packet"),
    ]
}

/// How much longer a peer takes for a frame than Flowlane in XDP.
fn against(report: &Report, what: &'static str, wanted: f64, peer: &str) -> Figure {
    let (peer, ours) = (report.unicast(peer, 1), report.unicast("flowlane-xdp", 1));
    let measured = quotient(peer.map(|row| row.ns_per_packet), ours.map(|row| row.ns_per_packet));
    let alone = quotient(above_floor(peer), above_floor(ours));
    let limit = alone.map(|alone| format!("generator and sink are in both times; without them {alone:.1} x"));
    figure(what, Wanted::AtLeast(wanted), measured, " x").limited_by(limit.unwrap_or_default())
}

fn socket_buffers(report: &Report) -> Vec<Figure> {
    let ours = report.tcp("flowlane-tc");
    let of_bridge =
        quotient(ours.map(|row| row.gbit_per_second), report.tcp("linux-bridge").map(|row| row.gbit_per_second));
    let shared = "the ends of the connection: TCP takes most of both processors' time";
    vec![
        figure(
            "tc, one TCP connection: of a bare tc redirect's throughput",
            Wanted::AtLeast(0.95),
            ours.and_then(|row| row.ratio_to_tc_limit),
            "",
        )
        .limited_by(shared),
        figure("tc, one TCP connection: against the Linux bridge", Wanted::Above(1.0), of_bridge, " x")
            .limited_by(shared),
    ]
}

fn userspace(report: &Report, cost: &Value) -> Vec<Figure> {
    let time = |contestant, flows| report.unicast(contestant, flows).map(|row| row.ns_per_packet);
    let ours = time("flowlane-userspace", MILLION);
    let instructions = cost["instructions_per_frame"]["unicast, 1 flow"].as_f64();
    vec![
        figure(
            "userspace pipeline, 1 M random flows: time against testpmd macswap's",
            Wanted::AtMost(1.5),
            quotient(ours, time("dpdk-testpmd-macswap", 1)),
            " x",
        )
        .limited_by("macswap looks nothing up, checks nothing and has one frame's memory in its caches"),
        figure(
            "userspace pipeline, 1 M random flows: time of Open vSwitch with DPDK, 10 k flows, divided by ours",
            Wanted::AtLeast(5.0),
            quotient(time("ovs-dpdk", TEN_THOUSAND), ours),
            " x",
        )
        .limited_by("the pipeline's own instructions; slots are fetched ahead for a whole batch"),
        figure("userspace pipeline, hot flow: instructions for each frame", Wanted::Below(60.0), instructions, "")
            .limited_by("the checks that make the frame the flow's, and its counters"),
    ]
}

fn control(report: &Report) -> Vec<Figure> {
    let requests = report.requests.as_ref();
    let kea = requests.and_then(|requests| requests.kea_leases_per_second);
    let of_kea = quotient(requests.map(|requests| requests.leases_per_second), kea);
    let limit = quotient(requests.and_then(|requests| requests.limit_per_second), kea);
    let limit = limit.map(|limit| format!("the messages: a server that keeps nothing reaches {limit:.1} x"));
    vec![
        figure(
            "1 M flows into the live table",
            Wanted::Below(1_000.0),
            report.control.as_ref().map(|control| control.install_ms),
            " ms",
        )
        .limited_by("pages that are touched for the first time"),
        figure("durable leases a second, four messages: against Kea", Wanted::AtLeast(10.0), of_kea, " x")
            .limited_by(limit.unwrap_or_default()),
        figure(
            "request to first forwarded frame",
            Wanted::Below(5.0),
            requests.map(|requests| requests.first_frame_ms),
            " ms",
        )
        .limited_by("the lease is on disk before it is acknowledged"),
    ]
}

fn figure(what: &'static str, wanted: Wanted, measured: Option<f64>, unit: &'static str) -> Figure {
    Figure { what, wanted, measured, unit, limited_by: String::new() }
}

impl Figure {
    fn limited_by(self, limited_by: impl Into<String>) -> Self {
        Self { limited_by: limited_by.into(), ..self }
    }
}

fn above_limit(row: Option<&Row>) -> Option<f64> {
    row.and_then(|row| row.ns_above_limit)
}

fn above_floor(row: Option<&Row>) -> Option<f64> {
    row.and_then(|row| row.ns_above_floor)
}

fn quotient(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? / other.filter(|other| *other > 0.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{empty, row};
    use serde_json::json;

    fn measured(figures: &[Figure], what: &str) -> (Option<f64>, Option<bool>) {
        let figure = figures.iter().find(|figure| figure.what.starts_with(what)).expect("there is such a figure");
        (figure.measured, figure.is_met())
    }

    #[test]
    fn figures_are_of_the_rows_they_are_about() {
        let rows = [("flowlane-xdp", 1, 250.0), ("flowlane-xdp", MILLION, 300.0), ("hash-map", MILLION, 500.0)];
        let mut rows: Vec<Row> = rows.map(|(name, flows, ns)| row(name, flows, ns)).into();
        rows.push(row("linux-bridge", 1, 900.0));
        let report = Report { rows, ..empty() };
        let figures = all(&report, &json!({ "instructions_per_frame": { "unicast, 1 flow": 59.0 } }));
        assert_eq!(measured(&figures, "XDP, 1 flow"), (Some(0.8), Some(false)));
        assert_eq!(measured(&figures, "XDP, 1 M random flows: time above"), (Some(3.0), Some(true)));
        assert_eq!(measured(&figures, "XDP against the Linux bridge"), (Some(3.6), Some(false)));
        assert_eq!(measured(&figures, "userspace pipeline, hot flow"), (Some(59.0), Some(true)));
        assert_eq!(measured(&figures, "XDP against Open vSwitch on AF_XDP"), (None, None), "it was not measured");
    }

    #[test]
    fn a_row_that_does_not_count_gives_no_figure() {
        let report = Report { rows: vec![Row { valid: false, ..row("flowlane-xdp", 1, 210.0) }], ..empty() };
        assert_eq!(measured(&all(&report, &json!({})), "XDP, 1 flow"), (None, None));
    }
}
