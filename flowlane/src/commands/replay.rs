//! `flowlane replay`: a capture through the pipeline, without privileges.
//!
//! Ports, routes and flows come from the configuration, the clock from the capture: meters see the frames as fast as they
//! came then. The next host of a first packet comes from the configuration's routes, at once. A flagged packet that is no
//! flow's is counted as one that asks; nobody gives it one.

mod files;
mod frame;

use crate::{
    cli::ReplayOptions,
    commands::or_hyphen,
    config::{Config, FlagRole, FlowConfig, PortConfig, SourceAddress, meter},
    exit,
    output::Output,
};
use files::Files;
use flowlane_pipeline::{Tables as _, Verdict, give_back, replicate, run as run_pipeline, send, withdraw};
use flowlane_ports::capture::{CaptureError, CaptureReader, CapturedFrame};
use flowlane_program::{ProgramError, Tables};
use flowlane_tables::{
    End, Group, GroupIndex, Kind, NEVER, NextHop, PortEntry, PortFlags, Receiver, Resolution, Slot, Tuple, ticks,
};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};
use frame::Replayed;
use miette::Result;
use serde::Serialize;
use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// Why a capture is not replayed, or not to its end.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReplayError {
    /// The capture can not be read any further.
    #[error("can not read {} any further", path.display())]
    #[diagnostic(
        code(FL0501),
        help("what was read until there is reported; `capinfos FILE` shows what is in a capture")
    )]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CaptureError,
    },
    /// A frame came in by an interface that is no port.
    #[error("frame {number} came in by interface {interface:?}, which is no port of this configuration")]
    #[diagnostic(code(FL0502), help("say by which port the frames come in: --port NAME"))]
    NoPort {
        /// The frame, from 1.
        number: u64,
        /// The interface that the capture names; empty where it names none.
        interface: String,
    },
    /// `--port` names no port.
    #[error("there is no port {0} in this configuration")]
    #[diagnostic(code(FL0503), help("name the interface of a [[port]]"))]
    UnknownPort(String),
    /// Two flows of the configuration have one slot.
    #[error("flows {first} and {second} have the same slot {slot}")]
    #[diagnostic(code(FL0504), help("give one of them other low bits: the slot is the last bits of the address"))]
    SameSlot {
        /// One flow.
        first: Mac,
        /// The other.
        second: Mac,
        /// Their slot.
        slot: u32,
    },
    /// The tables can not be made.
    #[error(transparent)]
    #[diagnostic(code(FL0505), help("use a smaller `slots` in the configuration"))]
    Tables(#[from] ProgramError),
    /// A file of what was sent can not be written.
    #[error("can not write {}", path.display())]
    #[diagnostic(code(FL0506), help("name a directory that can be written with --out"))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: CaptureError,
    },
}

impl ReplayError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoPort { .. } | Self::UnknownPort(_) | Self::SameSlot { .. } => exit::USAGE,
            Self::Capture { .. } | Self::Tables(_) | Self::Write { .. } => exit::FAILED,
        }
    }
}

/// What became of the frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Frames read. The counts of `verdicts` add up to it.
    pub frames: u64,
    /// Frames of which the capture has the beginning only. They are run as far as that goes.
    pub cut_by_capture: u64,
    /// First packets: frames that had to wait for the next host of their flow.
    pub first_packets: u64,
    /// Frames by end, all ends, and `captured-short` for those whose verdict depends on octets that the capture lacks.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Frames by the port that they leave by.
    pub sent: BTreeMap<String, u64>,
    /// The flows at the end, by slot.
    pub flows: Vec<FlowReport>,
}

/// A flow at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// Its address.
    pub address: Mac,
    /// Its slot.
    pub slot: u32,
    /// The port that its frames come in by.
    pub port: String,
    /// `pending`, `resolved`, `group` or `unreachable`.
    pub state: &'static str,
    /// The next host's address.
    pub next: Option<Mac>,
    /// The port to it.
    pub egress: Option<String>,
    /// Frames forwarded.
    pub packets: u64,
    /// Octets forwarded.
    pub bytes: u64,
    /// The receivers of its group, where it has one.
    pub receivers: Vec<ReceiverReport>,
}

/// A receiver of a group at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiverReport {
    /// Its address.
    pub mac: Mac,
    /// The port to it.
    pub port: String,
    /// Copies sent.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Frames of which it got no copy.
    pub missed: u64,
}

/// The name of a verdict that can not be given.
const CAPTURED_SHORT: &str = "captured-short";

/// Replays a capture and prints what became of the frames.
///
/// # Errors
/// A [`crate::config::ConfigError`], or a [`ReplayError`] after what was read until then has been reported.
pub fn run(options: &ReplayOptions, output: Output) -> Result<ExitCode> {
    let config = Config::read(&options.config)?;
    let mut replay = Replay::new(&config, options.port.as_deref(), options.out.as_deref())?;
    let ended = open(&options.capture).and_then(|capture| replay.read(&options.capture, capture));
    let closed = replay.files.close();
    print(&replay.report(), output)?;
    ended?;
    closed?;
    Ok(ExitCode::from(exit::DONE))
}

fn open(path: &Path) -> Result<CaptureReader<Box<dyn Read>>, ReplayError> {
    let failed = |source| ReplayError::Capture { path: path.to_owned(), source };
    let input: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(path).map_err(|error| failed(error.into()))?)),
    };
    CaptureReader::new(input).map_err(failed)
}

fn print(report: &Report, output: Output) -> Result<()> {
    if output.json {
        return output.document(report);
    }
    output.line(format!(
        "{} frames, {} of them cut by the capture, {} first packets",
        report.frames, report.cut_by_capture, report.first_packets
    ))?;
    output.line("")?;
    let counted = report.verdicts.iter().filter(|(_, count)| **count > 0);
    output.table(&["VERDICT", "FRAMES"], counted.map(|(name, count)| vec![name.to_string(), count.to_string()]))?;
    if !report.sent.is_empty() {
        let sent = report.sent.iter().map(|(port, count)| vec![port.clone(), count.to_string()]);
        output.line("")?;
        output.table(&["SENT BY", "FRAMES"], sent)?;
    }
    output.line("")?;
    let flows = report.flows.iter().map(|flow| {
        let next = flow.next.zip(flow.egress.as_ref()).map(|(next, egress)| format!("{next}@{egress}"));
        let (packets, bytes) = (flow.packets.to_string(), flow.bytes.to_string());
        vec![flow.address.to_string(), flow.port.clone(), flow.state.to_owned(), or_hyphen(next), packets, bytes]
    });
    output.table(&["FLOW", "PORT", "STATE", "NEXT", "PACKETS", "BYTES"], flows)
}

/// A switch made of a configuration, and what has become of the frames so far.
struct Replay<'a> {
    config: &'a Config,
    tables: Clocked,
    /// The port that all frames come in by, where it was named.
    port: Option<PortId>,
    files: Files,
    report: Report,
}

impl<'a> Replay<'a> {
    fn new(config: &'a Config, port: Option<&str>, out: Option<&Path>) -> Result<Self, ReplayError> {
        let known = |name: &str| config.port_of(name).ok_or_else(|| ReplayError::UnknownPort(name.to_owned()));
        let port = port.map(known).transpose()?;
        let tables = Clocked { tables: Tables::in_memory(config.block)?, nanos: Cell::new(0), first: Cell::new(None) };
        config.ports.iter().for_each(|(number, port)| set_port(&tables, *number, port));
        let mut groups = (0..).map(GroupIndex);
        config.flows.iter().try_for_each(|flow| install(&tables, flow, &mut groups))?;
        let verdicts = End::ALL.iter().map(|end| (end.name(), 0)).chain([(CAPTURED_SHORT, 0)]).collect();
        let report = Report { verdicts, ..Report::default() };
        Ok(Self { config, tables, port, files: Files::in_directory(out), report })
    }

    /// Runs all frames of a capture; `path` is for errors.
    fn read<R: Read>(&mut self, path: &Path, mut capture: CaptureReader<R>) -> Result<(), ReplayError> {
        while let Some(frame) = capture.next() {
            let frame = frame.map_err(|source| ReplayError::Capture { path: path.to_owned(), source })?;
            let interface = capture.interfaces().get(frame.interface).map_or("", |interface| interface.name.as_str());
            let port = self.port.or_else(|| self.config.port_of(interface));
            let no_port = || ReplayError::NoPort { number: self.report.frames + 1, interface: interface.to_owned() };
            self.frame(port.ok_or_else(no_port)?, &frame)?;
        }
        Ok(())
    }

    fn frame(&mut self, ingress: PortId, captured: &CapturedFrame) -> Result<(), ReplayError> {
        self.tables.set(captured.timestamp);
        let mut frame = Replayed::of(captured);
        let (end, sent) = self.decide(&mut frame, ingress);
        let by_length = matches!(end, End::Truncated | End::Malformed | End::FlagMalformed);
        let short = captured.is_truncated() && by_length;
        let name = if short { CAPTURED_SHORT } else { end.name() };
        self.report.frames += 1;
        self.report.cut_by_capture += u64::from(captured.is_truncated());
        *self.report.verdicts.entry(name).or_default() += 1;
        let comment = format!("{name}: came in by {}", self.interface(ingress));
        for (port, octets) in &sent {
            let interface = self.interface(*port);
            self.files.sent(&interface, captured, octets, &comment)?;
            *self.report.sent.entry(interface).or_default() += 1;
        }
        match end {
            End::Marked => self.files.marked(captured, frame.octets(), &comment),
            _ if matches!(end.kind(), Kind::Passed | Kind::Forwarded) => Ok(()),
            _ => self.files.dropped(captured, &comment),
        }
    }

    /// The pipeline, and what an executor does around it. How the frame ends, and what is sent, by port.
    fn decide(&mut self, frame: &mut Replayed, ingress: PortId) -> (End, Vec<(PortId, Vec<u8>)>) {
        let mut sent = Vec::new();
        let end = match self.verdict(frame, ingress) {
            Verdict::Forward { port, end } => {
                sent.push((port, frame.octets().to_vec()));
                end
            }
            Verdict::Replicate { slot, group } => {
                let send = |frame: &mut Replayed, port| {
                    sent.push((port, frame.octets().to_vec()));
                    true
                };
                replicate(frame, ingress, slot, group, &self.tables, &mut (), send)
            }
            Verdict::Ask => {
                self.tables.port(ingress).into_iter().for_each(withdraw);
                End::AskFlow
            }
            other => other.end(),
        };
        (end, sent)
    }

    /// The pipeline, and the slow path where it asks for it.
    fn verdict(&mut self, frame: &mut Replayed, ingress: PortId) -> Verdict {
        match run_pipeline(frame, ingress, &self.tables, &mut ()) {
            Verdict::Resolve { slot } => {
                self.report.first_packets += 1;
                self.first_packet(frame, ingress, slot)
            }
            other => other,
        }
    }

    /// Finds the next host and sends the frame to it. As the answer is there at once, no other frame ever waits.
    fn first_packet(&self, frame: &mut Replayed, ingress: PortId, index: SlotIndex) -> Verdict {
        let no_route = Verdict::Drop(End::NoRoute);
        let Some(slot) = self.tables.slot(index) else { return no_route };
        let Some(destination) = frame.destination() else {
            // Not an IP packet: the next one may say where the flow goes.
            give_back(slot);
            return no_route;
        };
        match self.route(destination) {
            Some(hop) => {
                slot.set_next(Resolution::Resolved(hop));
                send(frame, ingress, slot, hop, &self.tables, &mut ()).unwrap_or_else(|verdict| verdict)
            }
            None => {
                slot.set_next(Resolution::Unreachable);
                no_route
            }
        }
    }

    /// The next host by the longest prefix; of equals, the first.
    fn route(&self, destination: IpAddr) -> Option<NextHop> {
        let matching = self.config.routes.iter().rev().filter(|route| route.to.contains(&destination));
        let route = matching.max_by_key(|route| route.to.prefix_len())?;
        Some(NextHop { mac: route.next, port: route.port, routed: route.routed })
    }

    fn report(&self) -> Report {
        let flows = self.config.flows.iter().filter_map(|flow| self.flow(flow)).collect();
        let mut report = Report { flows, ..self.report.clone() };
        report.flows.sort_by_key(|flow| flow.slot);
        report
    }

    fn flow(&self, config: &FlowConfig) -> Option<FlowReport> {
        let slot = self.config.block.slot(config.address);
        let flow = self.tables.slot(slot)?.flow()?;
        let (state, hop) = match flow.next {
            Resolution::Pending(_) => ("pending", None),
            Resolution::Resolved(hop) => ("resolved", Some(hop)),
            Resolution::Group(_) => ("group", None),
            Resolution::Unreachable => ("unreachable", None),
        };
        Some(FlowReport {
            address: flow.address,
            slot: slot.0,
            port: self.interface(flow.port),
            state,
            next: hop.map(|hop| hop.mac),
            egress: hop.map(|hop| self.interface(hop.port)),
            packets: flow.packets,
            bytes: flow.bytes,
            receivers: self.receivers(flow.next),
        })
    }

    fn receivers(&self, next: Resolution) -> Vec<ReceiverReport> {
        let Resolution::Group(group) = next else { return Vec::new() };
        let receivers = self.tables.group(group).into_iter().flat_map(Group::receivers);
        let report = |receiver: &Receiver| {
            let hop = receiver.hop()?;
            Some(ReceiverReport {
                mac: hop.mac,
                port: self.interface(hop.port),
                packets: receiver.packets().load(),
                bytes: receiver.bytes().load(),
                missed: receiver.missed().load(),
            })
        };
        receivers.filter_map(report).collect()
    }

    fn interface(&self, port: PortId) -> String {
        self.config.ports.get(&port).map_or_else(|| port.to_string(), |port| port.interface.clone())
    }
}

fn set_port(tables: &Clocked, number: PortId, port: &PortConfig) {
    let Some(entry) = tables.port(number) else { return };
    let own = if port.source == SourceAddress::Port { PortFlags::OWN_SOURCE } else { PortFlags::default() };
    let adds = port.flag.is_some_and(|flag| flag.role == FlagRole::Add);
    let marks = if adds { PortFlags::MARKS } else { PortFlags::default() };
    let [high, low] = number.0.to_be_bytes();
    let mac = port.mac.unwrap_or(Mac([2, 0, 0, 0, high, low]));
    entry.set(number.0.into(), port.mtu, mac, PortFlags::UP.with(own).with(marks));
    entry.set_flag(port.flag.map(|flag| flag.flag));
}

/// Installs a flow, its group under the next number, and what leads flagged packets to it.
fn install(
    tables: &Clocked,
    flow: &FlowConfig,
    groups: &mut impl Iterator<Item = GroupIndex>,
) -> Result<(), ReplayError> {
    let index = tables.block().slot(flow.address);
    let Some(slot) = tables.slot(index) else { return Ok(()) };
    if let Some(other) = slot.flow() {
        return Err(ReplayError::SameSlot { first: other.address, second: flow.address.mac(), slot: index.0 });
    }
    let group = flow.receivers.as_ref().and_then(|receivers| Some((groups.next()?, receivers)));
    let next = match group {
        Some((group, _)) => Resolution::Group(group),
        None => flow.next.map_or(Resolution::UNKNOWN, Resolution::Resolved),
    };
    if let Some((entry, receivers)) = group.and_then(|(group, receivers)| Some((tables.group(group)?, receivers))) {
        receivers.iter().enumerate().for_each(|(place, hop)| entry.put(place, *hop));
    }
    slot.install(flow.address, flow.port, NEVER, meter(flow.rate), next);
    slot.set_backup(flow.backup);
    slot.set_restore(flow.restore);
    let address = flow.address.mac().to_u64();
    flow.flagged.iter().try_for_each(|tuple| tables.tables.tuples().set(*tuple, address))?;
    Ok(())
}

/// Tables whose clock is that of a capture.
struct Clocked {
    tables: Tables,
    nanos: Cell<u64>,
    first: Cell<Option<Duration>>,
}

/// The longest time that a capture may take, in nanoseconds: nine years. Meters count in sixteenths of it.
const LONGEST: u64 = 1 << 58;

impl Clocked {
    /// Sets the clock to the time of a frame, counted from the first one. It never goes back.
    fn set(&self, timestamp: Option<Duration>) {
        let Some(timestamp) = timestamp else { return };
        let first = self.first.get().unwrap_or(timestamp);
        self.first.set(Some(first));
        let nanos = timestamp.saturating_sub(first).as_nanos().min(LONGEST.into()) as u64;
        self.nanos.set(nanos.max(self.nanos.get()));
    }
}

impl flowlane_pipeline::Tables for Clocked {
    fn block(&self) -> Block {
        self.tables.block()
    }

    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.tables.slot(index)
    }

    fn port(&self, port: PortId) -> Option<&PortEntry> {
        flowlane_pipeline::Tables::port(&self.tables, port)
    }

    fn group(&self, group: GroupIndex) -> Option<&Group> {
        flowlane_pipeline::Tables::group(&self.tables, group)
    }

    fn tuple(&self, tuple: &Tuple) -> Option<u64> {
        flowlane_pipeline::Tables::tuple(&self.tables, tuple)
    }

    fn tick(&self) -> u32 {
        ticks(self.nanos.get())
    }

    fn nanos(&self) -> u64 {
        self.nanos.get()
    }
}

#[cfg(test)]
mod tests;
