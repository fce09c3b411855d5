//! The executors that are held against the model, with nothing done for a frame that can be done for many.

use crate::{Action, Error, InKernel, Input, Interfaces, Program, Record, Switch, is_cut_ip};
use flowlane_model::{Arrival, Outcome};
use flowlane_pipeline::{Verdict, replicate, run, size};
use flowlane_program::Tables;
use flowlane_vectors::{Buffer, block};
use flowlane_wire::PortId;
use std::{mem, sync::Arc};

/// Octets of the frames of a batch that wait.
const QUEUE: u32 = 1 << 24;

/// So much of a frame is in the first of XDP's buffers at least. XDP reads no headers behind it, as an IPv6 packet with
/// kilobytes of extension headers may have them.
const FIRST_BUFFER: usize = 3_400;

/// One of them.
pub(super) enum Executor {
    /// The pipeline in this process.
    Userspace {
        /// Its tables.
        tables: Box<Tables>,
        /// What would go to the control path.
        waiting: Vec<Record>,
    },
    /// The kernel's program.
    Kernel {
        /// Which one.
        program: Program,
        /// Its tables and programs.
        switch: Box<InKernel>,
        /// The interfaces that copies are sent by.
        interfaces: Arc<Interfaces>,
    },
}

/// What an executor did with a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) action: Action,
    /// The frame afterwards.
    pub(super) octets: Vec<u8>,
    pub(super) copies: Vec<(PortId, Vec<u8>)>,
}

impl Done {
    /// For people to see.
    pub(super) fn describe(&self) -> String {
        let Self { action, octets, copies } = self;
        let copies: Vec<String> =
            copies.iter().map(|(port, octets)| format!("\n    copy by {port}: {}", hex(octets))).collect();
        format!("{action:?} {}{}", hex(octets), copies.concat())
    }
}

/// Octets without anything between them, as text2pcap and wireshark take them.
pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

impl Executor {
    /// All of them.
    pub(super) fn all(interfaces: &Arc<Interfaces>) -> Result<Vec<Self>, Error> {
        let kernel = |program| {
            let switch = Box::new(InKernel::quiet(program, interfaces, QUEUE)?);
            Ok::<_, Error>(Self::Kernel { program, switch, interfaces: Arc::clone(interfaces) })
        };
        let userspace = Self::Userspace { tables: Box::new(Tables::in_memory(block())?), waiting: Vec::new() };
        let all = vec![userspace, kernel(Program::Xdp)?, kernel(Program::Tc)?];
        for executor in &all {
            for port in interfaces.ports() {
                executor.tables().ports()[usize::from(port.0)].set(
                    interfaces.index(port),
                    0,
                    Default::default(),
                    Default::default(),
                );
            }
        }
        Ok(all)
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Userspace { .. } => "userspace".to_owned(),
            Self::Kernel { switch, .. } => switch.name(),
        }
    }

    pub(super) fn tables(&self) -> &Tables {
        match self {
            Self::Userspace { tables, .. } => tables,
            Self::Kernel { switch, .. } => switch.tables(),
        }
    }

    /// Whether the executor can meet such a frame: see [`crate::InKernel`] for what test runs can not show.
    pub(super) fn meets(&self, arrival: &Arrival, outcome: &Outcome) -> bool {
        let Self::Kernel { program, .. } = self else { return true };
        let (len, is_copied) = (arrival.octets.len(), outcome.group.is_some());
        if len < 14 || arrival.tag_beside || (arrival.gso_size > 0 && (*program == Program::Xdp || is_copied)) {
            return false;
        }
        if *program == Program::Xdp && len > FIRST_BUFFER && !has_flow_address(arrival) {
            return false;
        }
        // What XDP hands up is tc's.
        let is_tcs = *program == Program::Tc || is_copied;
        !is_tcs || (len <= Program::Tc.longest() && !is_cut_ip(&arrival.octets))
    }

    /// Lets a frame come in. `is_copied` says whether copies are expected, so that they are looked for.
    pub(super) fn run(&mut self, arrival: &Arrival, is_copied: bool) -> Result<Done, String> {
        match self {
            Self::Userspace { tables, waiting } => Ok(in_userspace(tables, waiting, arrival)),
            Self::Kernel { switch, interfaces, .. } => {
                let input = Input {
                    ingress: PortId(arrival.ingress),
                    octets: arrival.octets.clone(),
                    gso_size: arrival.gso_size,
                };
                let (action, octets) = switch.run(&input)?;
                let copies = if is_copied { sent(interfaces)? } else { Vec::new() };
                Ok(Done { action, octets, copies })
            }
        }
    }

    /// The frames that have been given to the control path since this was last asked.
    pub(super) fn waiting(&mut self) -> Vec<Record> {
        match self {
            Self::Userspace { waiting, .. } => mem::take(waiting),
            Self::Kernel { switch, .. } => switch.records(),
        }
    }

    /// Copies that nobody expected.
    pub(super) fn stray(&self) -> Result<Vec<(PortId, Vec<u8>)>, String> {
        match self {
            Self::Userspace { .. } => Ok(Vec::new()),
            Self::Kernel { interfaces, .. } => sent(interfaces),
        }
    }
}

/// Whether the flag is not looked for.
fn has_flow_address(arrival: &Arrival) -> bool {
    arrival.octets[..12].chunks(6).any(|address| address.starts_with(&block().prefix().0[..2]))
}

fn sent(interfaces: &Interfaces) -> Result<Vec<(PortId, Vec<u8>)>, String> {
    interfaces.sent().map_err(|error| error.to_string())
}

/// The pipeline as a function, and what an executor does around it.
fn in_userspace(tables: &Tables, waiting: &mut Vec<Record>, arrival: &Arrival) -> Done {
    let ingress = PortId(arrival.ingress);
    let mut frame =
        Buffer { octets: arrival.octets.clone(), gso_size: arrival.gso_size, tag_beside: arrival.tag_beside };
    let frames = size(&mut frame).frames;
    let verdict = run(&mut frame, ingress, tables, &mut ());
    let (mut end, mut copies) = (verdict.end(), Vec::new());
    let action = match verdict {
        Verdict::Pass | Verdict::Marked | Verdict::ToLinux(_) => Action::Pass,
        Verdict::Forward { .. } => Action::Redirect,
        Verdict::Replicate { slot, group } => {
            let send = |frame: &mut Buffer, port| {
                copies.push((port, frame.octets.clone()));
                true
            };
            end = replicate(&mut frame, ingress, slot, group, tables, &mut (), send);
            Action::Drop
        }
        Verdict::Resolve { slot } => {
            waiting.push(waits(arrival, Some(slot.0)));
            Action::Drop
        }
        Verdict::Ask => {
            waiting.push(waits(arrival, None));
            Action::Drop
        }
        Verdict::Drop(_) => Action::Drop,
    };
    tables.count(ingress, end, frames);
    Done { action, octets: frame.octets, copies }
}

/// What goes to the control path for a frame that waits for the next hop of a slot, or for a flow.
pub(super) fn waits(arrival: &Arrival, slot: Option<u32>) -> Record {
    let (ingress, frame, tag) = (PortId(arrival.ingress), arrival.octets.clone(), 0);
    let gso_size = arrival.gso_size as u16;
    match slot {
        Some(slot) => Record::Waiting { slot, ingress, frame, tag, gso_size },
        None => Record::Asking { ingress, frame, tag, gso_size },
    }
}
