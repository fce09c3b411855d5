//! The command `flowlane replay`, as anybody can run it: a configuration and a capture go in, a report and captures come
//! out.

use crate::{
    Error,
    story::{Act, Story},
};
use flowlane_pipeline::Step;
use flowlane_ports::capture::{CaptureError, CaptureReader, CaptureWriter, FrameRecord, Interface};
use flowlane_tables::{End, Flow as Found, NEVER, NextHop, PASS, PortFlags, Rate, Resolution, Tuple};
use flowlane_vectors::{Buffer, Executor, Flow, Lease, Memory, Meter, Outcome, Served, Setup, Vector, block};
use flowlane_wire::{PortId, Restore, SlotIndex};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// `flowlane replay`, started once for each vector or story.
pub struct Replay {
    program: PathBuf,
    directory: TempDir,
}

/// What came out.
struct Replayed {
    report: Value,
    /// The frames that each port sent.
    sent: BTreeMap<PortId, VecDeque<Vec<u8>>>,
    /// The frames that were marked.
    marked: Vec<Vec<u8>>,
}

/// A frame, and the port that it comes in by.
type Arriving<'a> = (PortId, &'a [u8]);

impl Replay {
    /// `program` is the binary `flowlane`.
    ///
    /// # Errors
    /// [`Error::Directory`] where no temporary directory can be made.
    pub fn new(program: &Path) -> Result<Self, Error> {
        Ok(Self { program: program.to_owned(), directory: tempfile::tempdir().map_err(Error::Directory)? })
    }

    /// Why a story can not be replayed; nothing where it can.
    pub fn refuses_story(&self, story: &Story) -> Option<&'static str> {
        let given = |act: &Act| matches!(act, Act::Given { .. });
        story.acts.iter().any(given).then_some("replay gives no flows to flagged packets")
    }

    /// Plays a story, and compares what is sent, what is marked, and how the frames end.
    ///
    /// # Errors
    /// What was different, as a sentence.
    pub fn play(&self, story: &Story) -> Result<(), String> {
        let (mut frames, mut routes, mut expected) = (Vec::new(), String::new(), Course::default());
        for act in &story.acts {
            match act {
                Act::Frame(vector) => {
                    frames.push((vector.ingress, &vector.frame[..]));
                    expected.frame(vector);
                }
                Act::Found { destination, hop, sent, .. } => {
                    routes.push_str(&route_config(*destination, hop));
                    expected.sends(hop.port, sent);
                }
                Act::Given { .. } => return Err("replay gives no flows".to_owned()),
                Act::Failed(why) => return Err(why.clone()),
            }
        }
        let config = config(&story.setup, &story.setup.flows, &story.setup.tuples) + &routes;
        let replayed = self.run(&config, &frames)?;
        let found = Course {
            ends: ends(&replayed.report)?,
            first_packets: replayed.report["first_packets"].as_u64().unwrap_or(u64::MAX),
            sent: replayed.sent,
            marked: replayed.marked,
        };
        if found == expected {
            Ok(())
        } else {
            Err(format!("came to\n    {found:02x?}\n  and not\n    {expected:02x?}"))
        }
    }

    fn run(&self, config: &str, frames: &[Arriving<'_>]) -> Result<Replayed, String> {
        let file = |name: &str| self.directory.path().join(name);
        let (config_file, capture, out) = (file("switch.toml"), file("in.pcapng"), file("out"));
        if out.exists() {
            fs::remove_dir_all(&out).map_err(|error| error.to_string())?;
        }
        fs::write(&config_file, config).map_err(|error| error.to_string())?;
        write_capture(&capture, frames).map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.program);
        command.args(["--json", "replay", "--config"]).arg(&config_file).arg("--out").arg(&out).arg(&capture);
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("flowlane replay ended with {}: {said}{config}", output.status));
        }
        let report = serde_json::from_slice(&output.stdout).map_err(|error| format!("the report: {error}"))?;
        let mut sent = BTreeMap::new();
        for port in 1..=PORTS {
            let frames = read_capture(&out.join(format!("p{port}.pcapng")))?;
            if !frames.is_empty() {
                sent.insert(PortId(port), frames.into());
            }
        }
        Ok(Replayed { report, sent, marked: read_capture(&out.join("marked.pcapng"))? })
    }
}

/// The highest port of any set-up.
const PORTS: u16 = 9;

/// What the frames of a story come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Course {
    ends: BTreeMap<String, u64>,
    first_packets: u64,
    sent: BTreeMap<PortId, VecDeque<Vec<u8>>>,
    marked: Vec<Vec<u8>>,
}

impl Course {
    fn frame(&mut self, vector: &Vector) {
        let expect = &vector.expect;
        let end = match expect.end {
            // Replay finds the next hop at once.
            End::Resolve => {
                self.first_packets += 1;
                End::Forward
            }
            other => other,
        };
        *self.ends.entry(end.to_string()).or_default() += 1;
        if end == End::Marked {
            self.marked.push(expect.frame.clone());
        }
        expect.egress.iter().for_each(|port| self.sends(*port, &expect.frame));
        expect.copies.iter().for_each(|(port, copy)| self.sends(*port, copy));
    }

    fn sends(&mut self, port: PortId, frame: &[u8]) {
        self.sent.entry(port).or_default().push_back(frame.to_vec());
    }
}

impl Executor for Replay {
    fn refuses(&self, vector: &Vector) -> Option<&'static str> {
        let offload = vector.offload;
        if offload.gso_size > 0 {
            return Some("a capture has no word for super-packets");
        }
        if offload.tag.is_some() {
            return Some("a capture has all tags in the frame");
        }
        let concerned = Concerned::of(vector);
        refuses_ports(vector, &concerned).or_else(|| refuses_flows(vector, &concerned))
    }

    fn execute(&mut self, vector: &Vector) -> Result<Outcome, String> {
        let concerned = Concerned::of(vector);
        let tuples: Vec<_> = concerned.tuple.into_iter().collect();
        let config = config(&vector.setup, &concerned.flows, &tuples);
        let mut replayed = self.run(&config, &[(vector.ingress, &vector.frame)])?;
        let end = ends(&replayed.report)?
            .into_iter()
            .find(|(_, frames)| *frames == 1)
            .and_then(|(name, _)| End::ALL.iter().find(|end| end.name() == name).copied())
            .ok_or_else(|| format!("the verdicts are {}", replayed.report["verdicts"]))?;
        // Each port has a file of its own, so nobody sees the order of frames by different ports.
        let expected = vector.expect.copies.iter().map(|(port, _)| *port).chain(vector.expect.egress);
        let next = |port: PortId| replayed.sent.get_mut(&port)?.pop_front().map(|frame| (port, frame));
        let mut copies: Vec<_> = expected.filter_map(next).collect();
        let others = replayed.sent.into_iter();
        copies.extend(others.flat_map(|(port, frames)| frames.into_iter().map(move |frame| (port, frame))));
        let leaves = matches!(end, End::Forward | End::Backup).then(|| copies.pop()).flatten();
        let frame = leaves.as_ref().map(|(_, frame)| frame.clone()).or(replayed.marked.pop());
        let asked = vector.setup.ports.iter().find(|port| port.id == vector.ingress).map_or(0, |port| port.asking);
        Ok(Outcome {
            end,
            egress: leaves.map(|(port, _)| port),
            frame,
            copies,
            served: served(&replayed.report, &concerned),
            // Replay takes a frame that asks off the count at once, for nobody answers.
            asking: asked + u64::from(end == End::AskFlow),
            slots: slots(&replayed.report, &vector.setup, &concerned),
        })
    }
}

/// What of a set-up a frame has to do with. Replay gets no more than that, so that what it can not be told of other flows
/// does not matter.
struct Concerned {
    flows: Vec<Flow>,
    tuple: Option<(Tuple, u64)>,
}

impl Concerned {
    fn of(vector: &Vector) -> Self {
        let (mut slots, mut tuple) = (BTreeSet::new(), None);
        let mut observer = |step: Step| match step {
            Step::Ours { slot, .. } => drop(slots.insert(slot)),
            Step::Flagged { tuple: asked, found } => tuple = found.map(|address| (asked, address)),
            _ => {}
        };
        let memory = Memory::new(&vector.setup, 0);
        flowlane_pipeline::run(&mut Buffer::of(vector), vector.ingress, &memory, &mut observer);
        let flows = vector.setup.flows.iter().filter(|flow| slots.contains(&block().slot(flow.address)));
        Self { flows: flows.copied().collect(), tuple }
    }

    /// The hops that the flows may take.
    fn hops(&self, setup: &Setup) -> Vec<NextHop> {
        let hops = |flow: &Flow| {
            let next = match flow.next {
                Resolution::Resolved(hop) => vec![hop],
                Resolution::Group(group) => {
                    setup.groups.get(group.0 as usize).into_iter().flatten().flatten().copied().collect()
                }
                Resolution::Pending(_) | Resolution::Unreachable => Vec::new(),
            };
            next.into_iter().chain(flow.backup).collect::<Vec<_>>()
        };
        self.flows.iter().flat_map(hops).collect()
    }
}

fn refuses_ports(vector: &Vector, concerned: &Concerned) -> Option<&'static str> {
    let find = |id: PortId| vector.setup.ports.iter().find(|port| port.id == id);
    let Some(ingress) = find(vector.ingress) else { return Some("replay takes frames of ports only") };
    if ingress.asking > 0 || ingress.flags.has(PortFlags::NO_NEW_FLOWS) {
        return Some("replay gives no flows, and so refuses none");
    }
    let up = |hop: &NextHop| find(hop.port).is_some_and(|port| port.flags.has(PortFlags::UP));
    (!concerned.hops(&vector.setup).iter().all(up)).then_some("the ports of a replay exist and are up")
}

fn refuses_flows(vector: &Vector, concerned: &Concerned) -> Option<&'static str> {
    if let Some((_, address)) = concerned.tuple {
        if address == PASS || !concerned.flows.iter().any(|flow| flow.address.mac().to_u64() == address) {
            return Some("a flagged packet of a configuration has a flow");
        }
        if !concerned.flows.iter().any(|flow| Some(flow.port) == concerned.tuple.map(|(tuple, _)| tuple.port())) {
            return Some("the flagged packets of a flow come in by its port");
        }
    }
    for flow in &concerned.flows {
        if flow.lease != Lease::Never {
            return Some("flows of a configuration have no lease");
        }
        if matches!(flow.meter, Meter::Narrow | Meter::Exhausted) {
            return Some("the bucket of a configured flow is full at first, and holds a super-packet");
        }
        let flag = vector.setup.ports.iter().find(|port| port.id == flow.port).and_then(|port| port.flag);
        if matches!(flow.restore, Restore::Clear(mask) if mask != flag.map_or(3, |flag| flag.mask)) {
            return Some("a configuration clears the bits of the port's flag");
        }
        match flow.next {
            Resolution::Pending(_) | Resolution::Unreachable => return Some("replay finds next hops at once"),
            Resolution::Group(group) if vector.setup.groups.get(group.0 as usize).is_none() => {
                return Some("a configured group exists");
            }
            Resolution::Group(group) if vector.setup.groups[group.0 as usize].contains(&None) => {
                return Some("nobody has left a configured group");
            }
            Resolution::Group(_) | Resolution::Resolved(_) => {}
        }
    }
    None
}

/// The configuration of a switch with these flows.
fn config(setup: &Setup, flows: &[Flow], tuples: &[(Tuple, u64)]) -> String {
    let mut text = format!("block = \"{}/16\"\nslots = {}\n", block().prefix(), block().slots());
    for port in &setup.ports {
        let source = if port.flags.has(PortFlags::OWN_SOURCE) { "port" } else { "flow" };
        let (id, mac, mtu) = (port.id, port.mac, port.mtu);
        let _ = writeln!(text, "[[port]]\ninterface = \"p{id}\"\nnumber = {id}\nmac = \"{mac}\"\nmtu = {mtu}");
        let _ = writeln!(text, "source = \"{source}\"");
        if let Some(flag) = port.flag {
            let role = if port.flags.has(PortFlags::MARKS) { "add" } else { "read" };
            let character = |bit: u8| match (flag.mask >> bit & 1, flag.value >> bit & 1) {
                (0, _) => 'x',
                (_, 0) => '0',
                _ => '1',
            };
            let dscp: String = (0..6).rev().map(character).collect();
            let _ = writeln!(text, "flag = \"{role}\"\nflag_dscp = \"{dscp}\"");
        }
    }
    flows.iter().for_each(|flow| text.push_str(&flow_config(flow, setup, tuples)));
    text
}

fn flow_config(flow: &Flow, setup: &Setup, tuples: &[(Tuple, u64)]) -> String {
    let address = flow.address.mac();
    let mut text = format!("[[flow]]\naddress = \"{address}\"\nport = \"p{}\"\n", flow.port);
    if flow.meter == Meter::Wide {
        text.push_str("rate = \"1G\"\n");
    }
    let hop = |hop: &NextHop| {
        let NextHop { mac, port, routed } = hop;
        format!("{{ mac = \"{mac}\", port = \"p{port}\", routed = {routed} }}")
    };
    let _ = match flow.next {
        Resolution::Resolved(next) => writeln!(text, "next = {}", hop(&next)),
        Resolution::Group(group) => {
            let receivers = setup.groups.get(group.0 as usize).into_iter().flatten().flatten();
            writeln!(text, "receivers = [{}]", receivers.map(hop).collect::<Vec<_>>().join(", "))
        }
        Resolution::Pending(_) | Resolution::Unreachable => Ok(()),
    };
    let _ = match flow.restore {
        Restore::Keep => writeln!(text, "restore = \"keep\""),
        Restore::Clear(_) => writeln!(text, "restore = \"clear\""),
        Restore::Set(dscp) => writeln!(text, "restore = {dscp}"),
    };
    if let Some(backup) = &flow.backup {
        let _ = writeln!(text, "backup = {}", hop(backup));
    }
    let own = tuples.iter().filter(|(_, of)| *of == address.to_u64());
    let flagged: Vec<String> = own.map(|(tuple, _)| tuple_config(tuple)).collect();
    if !flagged.is_empty() {
        let _ = writeln!(text, "flagged = [{}]", flagged.join(", "));
    }
    text
}

fn route_config(destination: IpAddr, hop: &NextHop) -> String {
    let NextHop { mac, port, routed } = hop;
    format!("[[route]]\nto = \"{destination}\"\nport = \"p{port}\"\nnext = \"{mac}\"\nrouted = {routed}\n")
}

fn tuple_config(tuple: &Tuple) -> String {
    let end = |address: IpAddr, port: [u8; 2]| match u16::from_be_bytes(port) {
        0 => address.to_string(),
        port => SocketAddr::new(address, port).to_string(),
    };
    let source = end(tuple.source(), tuple.source_port);
    let destination = end(tuple.destination(), tuple.destination_port);
    let protocol = tuple.protocol;
    format!("{{ protocol = {protocol}, source = \"{source}\", destination = \"{destination}\" }}")
}

fn write_capture(path: &Path, frames: &[Arriving<'_>]) -> Result<(), CaptureError> {
    let interface = |port| Interface { name: format!("p{port}"), description: String::new() };
    let interfaces: Vec<_> = (1..=PORTS).map(interface).collect();
    let mut writer = CaptureWriter::new(fs::File::create(path)?, &interfaces)?;
    for (place, (ingress, bytes)) in frames.iter().enumerate() {
        writer.write(&FrameRecord {
            timestamp: Duration::from_millis(1_700_000_000_000 + place as u64),
            interface: usize::from(ingress.0) - 1,
            bytes,
            original_len: bytes.len(),
            direction: None,
            comment: None,
        })?;
    }
    writer.flush()
}

/// The frames of a capture; none where there is no file.
fn read_capture(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let frames = CaptureReader::open(path).map_err(|error| error.to_string())?;
    frames.map(|frame| frame.map(|frame| frame.bytes).map_err(|error| error.to_string())).collect()
}

/// How many frames came to each end, those ends to which any did.
fn ends(report: &Value) -> Result<BTreeMap<String, u64>, String> {
    let verdicts = report["verdicts"].as_object().ok_or("the report has no verdicts")?;
    let counted = verdicts.iter().filter_map(|(name, frames)| Some((name.clone(), frames.as_u64()?)));
    Ok(counted.filter(|(_, frames)| *frames > 0).collect())
}

/// What the report says of the receivers of the frame's group.
fn served(report: &Value, concerned: &Concerned) -> Vec<Served> {
    let groups = concerned.flows.iter().filter_map(|flow| match flow.next {
        Resolution::Group(group) => Some((group.0 as usize, flow_report(report, flow)?["receivers"].as_array()?)),
        _ => None,
    });
    let of_group = |(group, receivers): (usize, &Vec<Value>)| {
        let count = |receiver: &Value, key: &str| receiver[key].as_u64().unwrap_or(u64::MAX);
        let served = receivers.iter().enumerate().map(|(place, receiver)| Served {
            group,
            place,
            packets: count(receiver, "packets"),
            bytes: count(receiver, "bytes"),
            missed: count(receiver, "missed"),
        });
        served.filter(|served| (served.packets, served.bytes, served.missed) != (0, 0, 0)).collect::<Vec<_>>()
    };
    groups.flat_map(of_group).collect()
}

/// The flow table as the report has it. Flows that replay was not told of are as they were.
fn slots(report: &Value, setup: &Setup, concerned: &Concerned) -> Vec<Option<Found>> {
    let mut slots = vec![None; block().slots() as usize];
    for flow in &setup.flows {
        let told = concerned.flows.contains(flow);
        let found = if told { flow_report(report, flow) } else { None };
        let count =
            |key: &str| found.map_or(u64::from(told) * u64::MAX, |found| found[key].as_u64().unwrap_or(u64::MAX));
        let SlotIndex(slot) = block().slot(flow.address);
        slots[slot as usize] = Some(Found {
            address: flow.address.mac(),
            port: flow.port,
            expires: NEVER,
            next: found.map_or(flow.next, |found| next(found, flow)),
            backup: flow.backup,
            rate: Rate::UNLIMITED,
            restore: flow.restore,
            packets: count("packets"),
            bytes: count("bytes"),
        });
    }
    slots
}

fn flow_report<'a>(report: &'a Value, flow: &Flow) -> Option<&'a Value> {
    let address = flow.address.mac().to_string();
    report["flows"].as_array()?.iter().find(|flow| flow["address"] == address.as_str())
}

/// The next hop as the report has it. It does not say which number a group has, nor whether a hop is routed.
fn next(found: &Value, flow: &Flow) -> Resolution {
    match (found["state"].as_str(), flow.next) {
        (Some("group"), Resolution::Group(group)) => Resolution::Group(group),
        (Some("resolved"), Resolution::Resolved(hop)) => {
            let same =
                found["next"] == hop.mac.to_string().as_str() && found["egress"] == format!("p{}", hop.port).as_str();
            if same { Resolution::Resolved(hop) } else { Resolution::Unreachable }
        }
        (Some("unreachable"), _) => Resolution::Unreachable,
        _ => Resolution::UNKNOWN,
    }
}
