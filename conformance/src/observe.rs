//! What a switch shows of itself, in a form that can be compared.

use flowlane_program::Tables;
use flowlane_tables::{End, Resolution, SNAP, Slot};
use flowlane_vectors::{Outcome, Setup, Vector, block, served};
use flowlane_wire::{Mac, PortId};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A frame that comes in.
#[derive(Clone, Debug)]
pub struct Input {
    /// The port that it comes in by.
    pub ingress: PortId,
    /// The frame from its destination address on, without check sequence.
    pub octets: Vec<u8>,
    /// The payload of each segment of a super-packet, else 0.
    pub gso_size: u32,
}

/// What the executor did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Left it to the Linux stack or bridge.
    Pass,
    /// Sent it.
    Redirect,
    /// Kept it: dropped, queued or copied.
    Drop,
}

/// A record of the queue to userspace, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A frame that waits for the next host of its flow.
    Waiting {
        /// The flow's slot.
        slot: u32,
        /// The port that the frame came in by.
        ingress: PortId,
        /// Its octets.
        frame: Vec<u8>,
        /// The tag beside it: protocol (high 16 bits) and tag; 0 is none.
        tag: u32,
        /// The payload of each segment of a super-packet, else 0.
        gso_size: u16,
    },
    /// A flagged frame that waits for a flow.
    Asking {
        /// The port that the frame came in by.
        ingress: PortId,
        /// Its octets.
        frame: Vec<u8>,
        /// The tag beside it, as above.
        tag: u32,
        /// The payload of each segment of a super-packet, else 0.
        gso_size: u16,
    },
    /// A frame that was shown, with how it ended.
    Seen {
        /// The port that it came in by.
        ingress: PortId,
        /// The port that it left by.
        egress: Option<PortId>,
        /// How it ended.
        end: End,
        /// Its length, without a tag beside it.
        length: u32,
        /// Its start as it came.
        before: Vec<u8>,
        /// Its start as it was left.
        after: Vec<u8>,
    },
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What was done with it.
    pub action: Action,
    /// Its octets afterwards.
    pub frame: Vec<u8>,
    /// By how much the counters of the ingress port have grown, those that have.
    pub counted: Vec<(End, u64)>,
    /// What went to userspace.
    pub records: Vec<Record>,
    /// The copies that were sent, in their order, with the port of each.
    pub copies: Vec<(PortId, Vec<u8>)>,
}

/// A switch that frames can be offered to. Errors are sentences: what about the switch made no sense.
pub trait Switch {
    /// The name of the executor.
    fn name(&self) -> String;

    /// Makes the tables those of `setup`, at `nanos` of the monotonic clock.
    ///
    /// # Errors
    /// A sentence.
    fn set_up(&mut self, setup: &Setup, nanos: u64) -> Result<(), String>;

    /// The tables.
    fn tables(&self) -> &Tables;

    /// Lets a frame come in.
    ///
    /// # Errors
    /// A sentence.
    fn offer(&mut self, input: &Input) -> Result<Observed, String>;
}

impl Input {
    /// The frame of a vector, without what is beside it.
    pub fn of(vector: &Vector) -> Self {
        Self { ingress: vector.ingress, octets: vector.frame.clone(), gso_size: vector.offload.gso_size }
    }

    /// The slots that the frame's addresses name.
    pub fn slots(&self) -> Vec<usize> {
        let addresses = [self.octets.get(..6), self.octets.get(6..12)];
        let slot = |octets: &[u8]| {
            let mac = Mac(octets.try_into().ok()?);
            block().flow_address(mac).map(|address| block().slot(address).0 as usize)
        };
        addresses.into_iter().flatten().filter_map(slot).collect()
    }
}

impl Observed {
    /// Reads the observation as an outcome, after checking that its parts say the same.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn outcome(self, vector: &Vector, tables: &Tables) -> Result<Outcome, String> {
        let Self { action, frame, counted, records, copies } = self;
        let [(end, _)] = counted[..] else { return Err(format!("is counted as {counted:?}")) };
        let Some(Record::Seen { ingress, egress, end: shown, length, before, .. }) = records.first() else {
            return Err(format!("is not shown: {records:?}"));
        };
        if (*ingress, *shown, *length as usize) != (vector.ingress, end, vector.frame.len()) {
            return Err(format!("is shown as {:?}, but ended as {end}", records[0]));
        }
        if *before != snap(&vector.frame) {
            return Err(format!("is shown as {before:02x?} on arrival"));
        }
        if egress.is_some() != (action == Action::Redirect) {
            return Err(format!("is shown to leave by {egress:?}, but the action is {action:?}"));
        }
        let queued = match records.get(1) {
            Some(Record::Waiting { frame, .. }) if *frame == vector.frame => Some(End::Resolve),
            Some(Record::Asking { frame, .. }) if *frame == vector.frame => Some(End::AskFlow),
            _ => None,
        };
        if queued != Some(end).filter(|end| matches!(end, End::Resolve | End::AskFlow)) {
            return Err(format!("ended as {end}, with {:?} in the queue", &records[1..]));
        }
        Ok(Outcome {
            end,
            egress: *egress,
            frame: Some(frame),
            copies,
            served: served(tables.groups()),
            asking: asking(tables, vector.ingress),
            slots: tables.slots().iter().map(Slot::flow).collect(),
        })
    }
}

/// The clock of the data path, in nanoseconds.
pub fn now() -> u64 {
    // This clock exists on every Linux; reading it can not fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

/// All words of a slot.
pub fn words(tables: &Tables, index: usize) -> [u64; 8] {
    let slot = &tables.slots()[index];
    [
        slot.key(),
        u64::from(slot.expires()) << 32 | u64::from(slot.restore().to_word()),
        slot.next_word().load(),
        Resolution::to_word(slot.backup()),
        slot.packets().load(),
        slot.bytes().load(),
        slot.rate().to_word(),
        slot.full_at().load(),
    ]
}

/// Whether an untagged frame ends within the header that its EtherType promises.
pub fn is_cut_ip(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.len() < 14 + 20,
        Some([0x86, 0xdd]) => frame.len() < 14 + 40,
        _ => false,
    }
}

/// Writes the tables of a set-up, the tuples included.
pub(crate) fn set_up(tables: &Tables, setup: &Setup, device: impl Fn(PortId) -> u32, nanos: u64) -> Result<(), String> {
    setup.install(tables.slots(), tables.ports(), tables.groups(), device, nanos);
    let former = tables.tuples().all().into_iter();
    let removed = former.map(|(tuple, _)| tables.tuples().remove(&tuple));
    let set = setup.tuples.iter().map(|(tuple, address)| tables.tuples().set(*tuple, *address));
    removed.chain(set).collect::<Result<(), _>>().map_err(|error| error.to_string())
}

/// How many flagged frames of a port wait for a flow.
pub(crate) fn asking(tables: &Tables, port: PortId) -> u64 {
    tables.ports().get(usize::from(port.0)).map_or(0, |entry| entry.asking().load())
}

/// As much of a frame as is shown.
pub(crate) fn snap(octets: &[u8]) -> Vec<u8> {
    octets[..octets.len().min(SNAP)].to_vec()
}

/// By how much counters have grown.
pub(crate) fn growth(before: &[u64], after: &[u64]) -> Result<Vec<(End, u64)>, String> {
    let grown = End::ALL.iter().map(|end| (*end, after[*end as usize] - before[*end as usize]));
    match after[End::ALL.len()..].iter().sum() {
        0u64 => Ok(grown.filter(|(_, by)| *by > 0).collect()),
        other => Err(format!("{other} frames are counted by a counter that is no end's")),
    }
}
