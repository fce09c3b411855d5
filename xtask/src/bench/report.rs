//! What is drawn of a report, `flowlane_bench::Report`.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Report {
    pub machine: Machine,
    pub generator_mpps: f64,
    pub repeats: u32,
    pub rows: Vec<Row>,
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    pub tcp: Vec<TcpRow>,
    pub tcp_left_out: Option<String>,
    pub control: Option<Control>,
    pub requests: Option<Requests>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Machine {
    pub processor: String,
    pub processors: usize,
    pub is_virtual: bool,
    pub kernel: String,
    pub mitigation: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Row {
    pub contestant: String,
    pub work: String,
    pub flows: u32,
    pub frame_bytes: u32,
    pub mode: String,
    pub ns_per_packet: f64,
    pub ns_min: f64,
    pub ns_max: f64,
    pub ratio_to_limit: Option<f64>,
    pub ns_above_limit: Option<f64>,
    pub ns_above_floor: Option<f64>,
    pub valid: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeftOut {
    pub contestant: String,
    pub work: String,
    pub flows: u32,
    pub why: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct TcpRow {
    pub contestant: String,
    pub gbit_per_second: f64,
    pub gbit_min: f64,
    pub gbit_max: f64,
    pub ratio_to_tc_limit: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Control {
    pub flows: u32,
    pub install_ms: f64,
    pub install_ms_min: f64,
    pub install_ms_max: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Requests {
    pub leases_per_second: f64,
    pub rapid_leases_per_second: f64,
    pub limit_per_second: Option<f64>,
    pub rapid_limit_per_second: Option<f64>,
    pub kea_leases_per_second: Option<f64>,
    pub first_frame_ms: f64,
    pub first_frame_ms_max: f64,
}

impl Report {
    /// The plain forwarding of a contestant with the shortest frames, if that counts.
    pub(super) fn unicast(&self, contestant: &str, flows: u32) -> Option<&Row> {
        let is_it = |row: &&Row| {
            row.valid
                && (row.contestant.as_str(), row.flows) == (contestant, flows)
                && (row.work.as_str(), row.frame_bytes) == ("unicast", 64)
        };
        self.rows.iter().find(is_it)
    }

    /// The throughput of a TCP connection through a contestant.
    pub(super) fn tcp(&self, contestant: &str) -> Option<&TcpRow> {
        self.tcp.iter().find(|row| row.contestant == contestant)
    }

    /// Whether all was measured, and every row counts.
    pub(super) fn is_whole(&self) -> bool {
        self.left_out.is_empty() && self.tcp_left_out.is_none() && self.rows.iter().all(|row| row.valid)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report without measurements.
    pub(crate) fn empty() -> Report {
        let machine = Machine {
            processor: "P".into(),
            processors: 2,
            is_virtual: true,
            kernel: "6".into(),
            mitigation: "M".into(),
        };
        Report {
            machine,
            generator_mpps: 8.3,
            repeats: 5,
            rows: vec![],
            left_out: vec![],
            tcp: vec![],
            tcp_left_out: None,
            control: None,
            requests: None,
        }
    }

    /// A row of plain forwarding, with a floor of 100 ns and a limit of 200 ns.
    pub(crate) fn row(contestant: &str, flows: u32, ns: f64) -> Row {
        Row {
            contestant: contestant.into(),
            work: "unicast".into(),
            flows,
            frame_bytes: 64,
            mode: "solo".into(),
            ns_per_packet: ns,
            ns_min: ns,
            ns_max: ns,
            ratio_to_limit: Some(200.0 / ns),
            ns_above_limit: Some(ns - 200.0),
            ns_above_floor: Some(ns - 100.0),
            valid: true,
        }
    }
}
