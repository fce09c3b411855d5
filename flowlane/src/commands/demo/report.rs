//! What the demo says: for people as it happens, for programs as one document at the end.

use super::network::Packet;
use crate::{api::FlowView, output::Output};
use flowlane_wire::Mac;
use miette::Report as Failure;
use serde::Serialize;
use std::collections::BTreeMap;

/// The whole demo.
#[derive(Serialize)]
pub struct Report {
    /// Whether every step held.
    pub ok: bool,
    /// Who handled the frames.
    pub executor: String,
    /// The program's version.
    pub version: &'static str,
    /// The claims that were shown.
    pub claims: Vec<u8>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The flow table at the end.
    pub flows: Vec<FlowView>,
    /// Rejected frames by port and reason.
    pub drops: BTreeMap<String, BTreeMap<String, u64>>,
    /// Every frame with its verdict.
    pub capture: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// One step.
#[derive(Serialize)]
pub struct Step {
    /// A name for programs.
    pub name: &'static str,
    /// What happens, for people.
    pub title: &'static str,
    /// The claims that it shows.
    pub claims: &'static [u8],
    /// Whether all that it says was seen.
    pub ok: bool,
    /// What was seen.
    pub evidence: serde_json::Map<String, serde_json::Value>,
    /// What was not as it should be.
    pub failures: Vec<String>,
}

/// Names of Ethernet addresses.
#[derive(Default)]
pub struct Names(pub BTreeMap<Mac, String>);

impl Names {
    /// The address, and whose it is.
    fn of(&self, mac: Mac) -> String {
        match self.0.get(&mac) {
            Some(name) => format!("{mac} ({name})"),
            None => mac.to_string(),
        }
    }

    /// A header on one line.
    pub fn header(&self, packet: &Packet) -> String {
        let (to, from) = (self.of(packet.destination), self.of(packet.source));
        let (protocol, ttl) = (packet.protocol(), packet.ttl);
        format!("to {to:<28}  from {from:<28}  {protocol} {} > {}, ttl {ttl}", packet.from, packet.to)
    }
}

/// Says it.
pub struct Telling {
    output: Output,
    number: usize,
}

impl Telling {
    /// To somebody.
    pub fn new(output: Output) -> Self {
        Self { output, number: 0 }
    }

    /// What this is.
    pub fn title(&self) {
        self.line("Flowlane: every network flow has an Ethernet address of its own.");
        self.line("Two hosts, an intruder and a switch, each in a network namespace; real sockets, real frames.");
    }

    /// A step has been taken.
    pub fn step(&mut self, step: &Step, lines: &[String]) {
        self.number += 1;
        let mark = if step.ok { self.paint("32", "ok") } else { self.paint("31", "FAILED") };
        let claims: Vec<String> = step.claims.iter().map(u8::to_string).collect();
        let claims = if claims.is_empty() { String::new() } else { format!("  claims {}", claims.join(" ")) };
        self.line("");
        self.line(format!("{:>2}  {}  {mark}{}", self.number, self.paint("1", step.title), self.paint("2", &claims)));
        lines.iter().for_each(|line| self.line(format!("    {line}")));
        step.failures.iter().for_each(|failure| self.line(format!("    {} {failure}", self.paint("31", "not so:"))));
    }

    /// The end: tables for people, the document for programs.
    ///
    /// # Errors
    /// Where the standard output does not take it.
    pub fn end(&self, report: &Report) -> Result<(), Failure> {
        if self.output.json {
            return self.output.document(report);
        }
        self.line("");
        self.line("The flow table:");
        let heads = ["ADDRESS", "PORT", "FIELD", "DESTINATION", "NEXT HOST", "BY", "PACKETS", "BYTES"];
        self.output.table(&heads, report.flows.iter().map(row))?;
        self.line("");
        self.line("Rejected frames:");
        let rows = report.drops.iter().flat_map(|(port, reasons)| {
            reasons.iter().map(move |(reason, count)| vec![port.clone(), reason.clone(), count.to_string()])
        });
        self.output.table(&["PORT", "REASON", "FRAMES"], rows)?;
        self.line("");
        let held = if report.ok { "Every step held" } else { "Not every step held" };
        self.line(format!("{held}, on {}, in {:.1} s.", report.executor, report.seconds));
        self.line(format!("Every frame with its verdict: {} (open it with Wireshark)", report.capture));
        Ok(())
    }

    fn line(&self, text: impl std::fmt::Display) {
        if !self.output.json {
            // A reader that has gone away wants no more lines.
            let _ = self.output.line(text);
        }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.output.color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn row(flow: &FlowView) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    vec![
        flow.address.clone(),
        flow.port.clone(),
        flow.field.clone(),
        or_dash(flow.destination.map(|destination| destination.to_string())),
        or_dash(flow.next.clone().or((flow.state == "group").then(|| "its receivers".into()))),
        or_dash(flow.egress.clone()),
        flow.packets.to_string(),
        flow.bytes.to_string(),
    ]
}
