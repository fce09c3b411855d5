//! What a switch shows of itself, in a form that can be compared.

use flowlane_program::Tables;
use flowlane_tables::{End, Resolution};
use flowlane_vectors::{Setup, Vector, block};
use flowlane_wire::{Mac, PortId};

/// A frame that comes in.
#[derive(Clone, Debug)]
pub struct Input {
    pub ingress: PortId,
    pub octets: Vec<u8>,
    /// The payload of each segment of a super-packet, else 0.
    pub gso_size: u32,
}

impl Input {
    pub fn of(vector: &Vector) -> Self {
        Self { ingress: vector.ingress, octets: vector.frame.clone(), gso_size: vector.offload.gso_size }
    }

    /// The slots that the frame may change.
    pub fn slots(&self) -> Vec<usize> {
        let addresses = [self.octets.get(..6), self.octets.get(6..12)];
        let slot = |octets: &[u8]| {
            let mac = Mac(octets.try_into().ok()?);
            block().flow_address(mac).map(|address| block().slot(address).0 as usize)
        };
        addresses.into_iter().flatten().filter_map(slot).collect()
    }
}

/// What the executor did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    Redirect,
    Drop,
}

/// A record of the queue to userspace, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Waiting { slot: u32, ingress: PortId, frame: Vec<u8>, tag: u32, gso_size: u16 },
    Seen { ingress: PortId, egress: Option<PortId>, end: End, length: u32, before: Vec<u8>, after: Vec<u8> },
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub action: Action,
    pub frame: Vec<u8>,
    /// By how much the counters of the ingress port have grown, those that have.
    pub counted: Vec<(End, u64)>,
    pub records: Vec<Record>,
}

/// A switch that frames can be offered to.
pub trait Switch {
    fn name(&self) -> String;
    fn set_up(&mut self, setup: &Setup, nanos: u64);
    fn tables(&self) -> &Tables;
    fn offer(&mut self, input: &Input) -> Observed;
}

/// All words of a slot.
pub fn words(tables: &Tables, index: usize) -> [u64; 8] {
    let slot = &tables.slots()[index];
    [
        slot.key(),
        u64::from(slot.expires()),
        slot.next_word().load(),
        Resolution::to_word(slot.backup()),
        slot.packets().load(),
        slot.bytes().load(),
        slot.rate().to_word(),
        slot.full_at().load(),
    ]
}

/// By how much counters have grown.
pub fn growth(before: &[u64], after: &[u64]) -> Vec<(End, u64)> {
    let grown = End::ALL.iter().map(|end| (*end, after[*end as usize] - before[*end as usize]));
    let other: u64 = after[End::ALL.len()..].iter().sum();
    assert_eq!(other, 0, "a counter that is no end's");
    grown.filter(|(_, by)| *by > 0).collect()
}
