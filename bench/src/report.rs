//! What came out.

use crate::{
    Case, Contestant, Control, Error, Machine, Plan, Progress, contestant::Sink, measure::Sample, run::Series,
};
use serde::Serialize;

/// A row does not count if a greater share of its frames was lost: the figure would be of another work.
const LOST_MAX: f64 = 0.01;

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// Millions of frames a second that the generator makes by itself: it is not what limits a contestant.
    pub generator_mpps: f64,
    /// How often each case was measured.
    pub repeats: u32,
    /// How long each measurement took, in milliseconds.
    pub window_ms: u64,
    /// One row for each contestant, number of flows and length of frames.
    pub rows: Vec<Row>,
    /// What was to be measured and can not be, and why.
    pub left_out: Vec<LeftOut>,
    /// One TCP connection through each contestant, if it was asked for.
    pub tcp: Vec<TcpRow>,
    /// Why TCP can not be measured, where it was asked for.
    pub tcp_left_out: Option<String>,
    /// How fast tables are filled, if it was asked for.
    pub control: Option<Control>,
}

/// What was to be measured and can not be.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// Who.
    pub contestant: &'static str,
    /// What it had to do.
    pub work: &'static str,
    /// Among how many flows.
    pub flows: u32,
    /// Why, and what to do about it.
    pub why: String,
}

impl Report {
    /// Nothing has been measured yet.
    pub(crate) fn new(plan: &Plan, machine: Machine, generator_mpps: f64) -> Self {
        Self {
            machine,
            generator_mpps,
            repeats: plan.repeats,
            window_ms: u64::try_from(plan.window.as_millis()).unwrap_or(u64::MAX),
            rows: Vec::new(),
            left_out: Vec::new(),
            tcp: Vec::new(),
            tcp_left_out: None,
            control: None,
        }
    }

    /// Whether all was measured, and every row counts.
    pub fn is_whole(&self) -> bool {
        self.left_out.is_empty() && self.tcp_left_out.is_none() && self.rows.iter().all(|row| row.valid)
    }
}

impl LeftOut {
    /// A case that fails, of which so many steps will not be. It is told at once.
    pub(crate) fn tell(case: &Case, why: &Error, steps: u64, progress: &mut dyn Progress) -> Self {
        let Case { contestant, work, flows, .. } = *case;
        let why = why.to_string();
        progress.left_out(contestant.name(), &why, steps);
        Self { contestant: contestant.name(), work: work.name(), flows, why }
    }
}

/// One TCP connection through one contestant. Figures are medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct TcpRow {
    /// Who forwarded.
    pub contestant: &'static str,
    /// What arrived, in 10^9 bits of payload a second.
    pub gbit_per_second: f64,
    /// The least of the rounds.
    pub gbit_min: f64,
    /// The greatest of the rounds.
    pub gbit_max: f64,
    /// This one's throughput divided by that of the bare redirect in tc in the same round.
    pub ratio_to_tc_limit: Option<f64>,
    /// How often it was measured.
    pub repeats: usize,
}

/// Measurements of one contestant with TCP, by round.
pub(crate) struct TcpSeries {
    pub contestant: Contestant,
    pub gbit: Vec<f64>,
}

/// One contestant with one work. Figures are medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who forwarded.
    pub contestant: &'static str,
    /// What it had to do.
    pub work: &'static str,
    /// Among how many flows, at random.
    pub flows: u32,
    /// Length of the frames in octets, with the check sequence.
    pub frame_bytes: u32,
    /// What the time is of: `solo` is generator, contestant and sink on one processor; `duo` is a contestant that
    /// polls, and the sink, on a processor of their own; `micro` is a contestant on memory, without interfaces.
    pub mode: &'static str,
    /// Nanoseconds of processor time for each frame delivered.
    pub ns_per_packet: f64,
    /// The least of the rounds.
    pub ns_min: f64,
    /// The greatest of the rounds.
    pub ns_max: f64,
    /// Millions of frames delivered in a second of processor time.
    pub mpps: f64,
    /// Time of the bare redirect with the same frames in the same round, divided by this one's: 1 is as fast.
    pub ratio_to_limit: Option<f64>,
    /// The same against the bare redirect in tc, for contestants that send socket buffers.
    pub ratio_to_tc_limit: Option<f64>,
    /// Nanoseconds more than the bare redirect with the same frames in the same round: what look-up, checks and rewriting
    /// cost.
    pub ns_above_limit: Option<f64>,
    /// Nanoseconds besides the floor, which is generator and sink alone.
    pub ns_above_floor: Option<f64>,
    /// Share of the frames that did not arrive with the right addresses.
    pub lost: f64,
    /// Frames that arrived with wrong addresses.
    pub wrong: u64,
    /// Whether the row counts: no more than 1 % of the frames were lost, and none had wrong addresses.
    pub valid: bool,
    /// How often it was measured.
    pub repeats: usize,
}

/// The rows of what was measured in turns.
pub(crate) fn rows(all: &[Series]) -> Vec<Row> {
    all.iter().map(|series| row(series, all)).collect()
}

/// The row of what was measured without interfaces.
pub(crate) fn micro_row(contestant: &'static str, flows: u32, ns: &[f64]) -> Row {
    let ns_per_packet = median(ns.iter().copied());
    Row {
        contestant,
        work: "unicast",
        flows,
        frame_bytes: 64,
        mode: "micro",
        ns_per_packet,
        ns_min: ns.iter().copied().fold(f64::INFINITY, f64::min),
        ns_max: ns.iter().copied().fold(0.0, f64::max),
        mpps: 1e3 / ns_per_packet,
        ratio_to_limit: None,
        ratio_to_tc_limit: None,
        ns_above_limit: None,
        ns_above_floor: None,
        lost: 0.0,
        wrong: 0,
        valid: true,
        repeats: ns.len(),
    }
}

/// The rows of what was measured with TCP.
pub(crate) fn tcp_rows(all: &[TcpSeries]) -> Vec<TcpRow> {
    let limit = all.iter().find(|series| series.contestant == Contestant::TcLimit);
    let row = |TcpSeries { contestant, gbit }: &TcpSeries| TcpRow {
        contestant: contestant.name(),
        gbit_per_second: median(gbit.iter().copied()),
        gbit_min: gbit.iter().copied().fold(f64::INFINITY, f64::min),
        gbit_max: gbit.iter().copied().fold(0.0, f64::max),
        ratio_to_tc_limit: limit.map(|limit| ratio(gbit.iter().copied().zip(limit.gbit.iter().copied()))),
        repeats: gbit.len(),
    };
    all.iter().map(row).collect()
}

fn row(series: &Series, all: &[Series]) -> Row {
    let Series { contestant, work, flows, frame_bytes, ref samples } = *series;
    let ns: Vec<f64> = samples.iter().map(Sample::ns).collect();
    let beside = |contestant| {
        let with = |other: &&Series| other.contestant == contestant && other.frame_bytes == frame_bytes;
        all.iter().find(with).map(|other| other.samples.iter().zip(&ns).map(|(other, ns)| (other.ns(), *ns)))
    };
    let ns_per_packet = median(ns.iter().copied());
    let (expected, delivered, wrong) = totals(samples);
    let lost = 1.0 - delivered as f64 / expected.max(1) as f64;
    Row {
        contestant: contestant.name(),
        work: work.name(),
        flows,
        frame_bytes,
        mode: contestant.mode(),
        ns_per_packet,
        ns_min: ns.iter().copied().fold(f64::INFINITY, f64::min),
        ns_max: ns.iter().copied().fold(0.0, f64::max),
        mpps: 1e3 / ns_per_packet,
        ratio_to_limit: beside(Contestant::Limit).map(ratio),
        ratio_to_tc_limit: beside(Contestant::TcLimit).filter(|_| contestant.sink(work) == Sink::Tc).map(ratio),
        ns_above_limit: beside(Contestant::Limit).map(more),
        ns_above_floor: beside(Contestant::Floor).map(more),
        lost,
        wrong,
        valid: lost <= LOST_MAX && wrong == 0,
        repeats: samples.len(),
    }
}

/// The first divided by the second: the median of the rounds.
fn ratio(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    median(pairs.map(|(first, second)| first / second))
}

/// The second less the first: the median of the rounds.
fn more(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    median(pairs.map(|(first, second)| second - first))
}

fn totals(samples: &[Sample]) -> (u64, u64, u64) {
    samples.iter().fold((0, 0, 0), |(expected, delivered, wrong), sample| {
        (expected + sample.expected, delivered + sample.delivered, wrong + sample.wrong)
    })
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => f64::NAN,
        (1, Some(value)) => *value,
        (_, Some(value)) => (values[middle - 1] + value) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Work;
    use std::time::Duration;

    fn series(contestant: Contestant, ns: &[u64]) -> Series {
        let sample =
            |ns: &u64| Sample { expected: 100, delivered: 100, wrong: 0, busy: Duration::from_nanos(100 * ns) };
        Series { contestant, work: Work::Unicast, flows: 1, frame_bytes: 64, samples: ns.iter().map(sample).collect() }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios() {
        // Twice as slow in every round, whatever the machine did meanwhile.
        let all = [series(Contestant::Limit, &[300, 900, 100]), series(Contestant::HashMap, &[600, 1800, 200])];
        let rows = rows(&all);
        assert_eq!(rows[1].ratio_to_limit, Some(0.5));
        assert_eq!((rows[1].ns_per_packet, rows[1].ns_min, rows[1].ns_max), (600.0, 200.0, 1800.0));
        assert_eq!(rows[0].ratio_to_limit, Some(1.0));
        assert_eq!(rows[1].ns_above_limit, Some(300.0));
        assert_eq!(rows[0].ns_above_floor, None);
    }

    #[test]
    fn a_row_that_lost_frames_does_not_count() {
        let mut lossy = series(Contestant::Limit, &[300, 300]);
        lossy.samples[0].delivered = 97;
        assert!(!rows(&[lossy])[0].valid);
        let mut nearly = series(Contestant::Limit, &[300, 300]);
        nearly.samples[0].delivered = 99;
        assert!(rows(&[nearly])[0].valid);
    }

    #[test]
    fn a_row_with_a_wrong_address_does_not_count() {
        let mut astray = series(Contestant::Limit, &[300, 300]);
        astray.samples[1].wrong = 1;
        assert!(!rows(&[astray])[0].valid);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), 2.5);
    }
}
