//! What would happen to a frame: the pipeline itself, on copies of the slots that it would touch.

use super::ports::Ports;
use crate::api::{Problem, Trace, TraceCopy, TraceRequest, TraceStep, TupleView};
use flowlane_pipeline::{Place, Step, Tables as _, Verdict, replicate, run, tuple};
use flowlane_program::Tables;
use flowlane_tables::{Group, GroupIndex, PASS, PortEntry, Resolution, Slot, Tuple};
use flowlane_wire::{Block, Mac, PortId, SlotIndex, header::ethernet};
use std::collections::HashMap;

/// Explains a frame without touching anything.
///
/// # Errors
/// A [`Problem`] where the port does not exist or the frame is not hexadecimal.
pub fn explain(request: &TraceRequest, tables: &Tables, ports: &Ports) -> Result<Trace, Problem> {
    let number = ports.iter().find(|(_, port)| port.config.interface == request.port).map(|(number, _)| number);
    let ingress = number.ok_or_else(|| super::views::no_such_port(&request.port, ports))?;
    let mut frame = octets(&request.frame)?;
    let copy = Copy::of(&mut frame, ingress, tables);
    let mut steps = Vec::new();
    let verdict = run(&mut &mut frame[..], ingress, &copy, &mut |step| steps.push(sentence(step, ports)));
    let (end, copies) = match verdict {
        Verdict::Replicate { slot, group } => {
            let mut copies = Vec::new();
            let copied = &mut |step| steps.push(sentence(step, ports));
            let end = replicate(&mut &mut frame[..], ingress, slot, group, &copy, copied, |frame, port| {
                copies.push(TraceCopy { egress: ports.interface(port), sent: hex(frame) });
                true
            });
            (end, copies)
        }
        verdict => (verdict.end(), Vec::new()),
    };
    let egress = match verdict {
        Verdict::Forward { port, .. } => Some(ports.interface(port)),
        _ => None,
    };
    Ok(Trace {
        steps,
        verdict: end.name().into(),
        sentence: end.sentence().into(),
        sent: egress.is_some().then(|| hex(&frame)),
        egress,
        copies,
    })
}

/// The table with copies of what a frame touches: the slots that its addresses or its tuple point to, their groups, and its
/// port.
struct Copy<'a> {
    tables: &'a Tables,
    slots: HashMap<SlotIndex, Slot>,
    groups: HashMap<GroupIndex, Group>,
    ingress: (PortId, PortEntry),
}

impl<'a> Copy<'a> {
    fn of(frame: &mut [u8], ingress: PortId, tables: &'a Tables) -> Self {
        let flagged = tuple(&mut &mut *frame, ingress).and_then(|tuple| tables.tuple(&tuple));
        let addresses = [ethernet::DESTINATION, ethernet::SOURCE].into_iter();
        let macs = addresses.filter_map(|at| frame.get(at..)?.first_chunk().map(|octets| Mac(*octets).to_u64()));
        let indices =
            macs.chain(flagged).filter(|mac| tables.block().contains(*mac)).map(|mac| tables.block().slot_of(mac));
        let slots: HashMap<SlotIndex, Slot> =
            indices.filter_map(|index| Some((index, tables.slot(index)?.clone()))).collect();
        let groups = slots.values().filter_map(|slot| match slot.next() {
            Resolution::Group(index) => Some((index, copy_of(tables.group(index)?))),
            _ => None,
        });
        let groups = groups.collect();
        Self { tables, slots, groups, ingress: (ingress, copy_of_port(tables, ingress)) }
    }
}

impl flowlane_pipeline::Tables for Copy<'_> {
    fn block(&self) -> Block {
        self.tables.block()
    }

    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.slots.get(&index)
    }

    fn port(&self, port: PortId) -> Option<&PortEntry> {
        if port == self.ingress.0 { Some(&self.ingress.1) } else { self.tables.port(port) }
    }

    fn group(&self, group: GroupIndex) -> Option<&Group> {
        self.groups.get(&group)
    }

    fn tuple(&self, tuple: &Tuple) -> Option<u64> {
        self.tables.tuple(tuple)
    }

    fn tick(&self) -> u32 {
        self.tables.tick()
    }

    fn nanos(&self) -> u64 {
        self.tables.nanos()
    }
}

/// A group with the same receivers, and counters of its own.
fn copy_of(group: &Group) -> Group {
    let copy = Group::default();
    for (place, receiver) in group.receivers().iter().enumerate() {
        receiver.hop().into_iter().for_each(|hop| copy.put(place, hop));
    }
    copy
}

/// A port as it is now: a frame that asks for a flow is counted there.
fn copy_of_port(tables: &Tables, number: PortId) -> PortEntry {
    let copy = PortEntry::default();
    if let Some(port) = tables.port(number) {
        copy.set(port.ifindex(), port.mtu(), port.mac(), port.flags());
        copy.set_flag(port.flag());
        copy.asking().store(port.asking().load());
    }
    copy
}

fn octets(text: &str) -> Result<Vec<u8>, Problem> {
    let invalid = |message: &str| Problem { code: "invalid".into(), message: message.into() };
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':' && *c != '-')
        .map(|c| c.to_digit(16).ok_or_else(|| invalid(&format!("the frame is not hexadecimal: {c:?}"))))
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err(invalid("the frame has an odd number of hexadecimal digits"));
    }
    if digits.len() > 2 * 65_536 {
        return Err(invalid("the frame is longer than 65536 octets"));
    }
    Ok(digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn sentence(step: Step, ports: &Ports) -> TraceStep {
    let (stage, finding) = match step {
        Step::Parsed { destination, source } => ("parse", format!("destination {destination}, source {source}")),
        Step::NotOurs => ("look up", "neither address is in the block of this switch".into()),
        Step::Ours { place, address, slot } => {
            let field = match place {
                Place::Destination => "destination",
                Place::Source => "source",
                Place::Flag => "flow address of the flagged packet,",
            };
            ("look up", format!("the {field} {address} is in the block and points to slot {}", slot.0))
        }
        Step::Flagged { tuple, found } => {
            let found = match found {
                None => "which has no flow yet".to_owned(),
                Some(PASS) => "which no flow can carry: left to Linux".to_owned(),
                Some(address) => format!("whose flow is {}", Mac::from_u64(address)),
            };
            ("flag", format!("flagged: {}, {found}", TupleView::from(tuple)))
        }
        Step::Dscp { before, after } => ("rewrite", format!("DSCP {before:06b} := {after:06b}")),
        Step::Receiver { place, hop, sent } => {
            let sent = if sent { "sent" } else { "missed" };
            ("replicate", format!("receiver {place}, {} by port {}: {sent}", hop.mac, ports.interface(hop.port)))
        }
        Step::LookedUp { holder: None } => ("look up", "the slot is free".into()),
        Step::LookedUp { holder: Some(holder) } => ("look up", format!("the slot holds flow {holder}")),
        Step::PortChecked { expected, ingress } => {
            let (expected, ingress) = (ports.interface(expected), ports.interface(ingress));
            let same = if expected == ingress { "as it should" } else { "the wrong port" };
            ("check", format!("the flow comes in by {expected}; the frame came in by {ingress}: {same}"))
        }
        Step::LeaseChecked { expires, now } if now < expires => ("check", "the lease is alive".into()),
        Step::LeaseChecked { .. } => ("check", "the lease has ended".into()),
        Step::NextHop { resolution: Resolution::Resolved(hop) } => {
            let routed = if hop.routed { ", routed" } else { "" };
            ("resolve", format!("the table has next hop {} by port {}{routed}", hop.mac, ports.interface(hop.port)))
        }
        Step::NextHop { resolution: Resolution::Pending(waiting) } => {
            ("resolve", format!("no next hop is known yet; {waiting} frames wait for it"))
        }
        Step::NextHop { resolution: Resolution::Group(group) } => {
            ("resolve", format!("the flow leads to the receivers of group {}", group.0))
        }
        Step::NextHop { resolution: Resolution::Unreachable } => ("resolve", "the next host can not be reached".into()),
        Step::Egress { hop, backup, up } => {
            let which = if backup { "the backup's port" } else { "port" };
            ("egress", format!("{which} {} is {}", ports.interface(hop.port), if up { "up" } else { "down" }))
        }
        Step::Metered { conforms, .. } => {
            ("meter", if conforms { "within the flow's rate" } else { "over the flow's rate" }.into())
        }
        Step::HopLimit { value } => ("rewrite", format!("time to live {value}")),
        Step::Rewritten { destination, source } => {
            ("rewrite", format!("destination := {destination}, source := {source}"))
        }
    };
    TraceStep { stage: stage.into(), finding }
}
