//! The pipeline: any frame, by any port, over any tables, against the model.

use bolero::{TypeGenerator, check, produce};
use flowlane_model::{Arrival, Switch, receive};
use flowlane_pipeline::{Verdict, replicate, run, size};
use flowlane_tables::{Group, GroupIndex, NEVER, NextHop, PASS, PortEntry, PortFlags, Rate, Resolution, Slot};
use flowlane_vectors::{Buffer, Memory};
use flowlane_wire::{Block, Flag, Mac, PortId, Restore, SlotIndex};

#[derive(Clone, Debug, TypeGenerator)]
struct Case {
    slots: [Option<Entry>; 4],
    ports: [Port; 5],
    groups: [[Option<Hop>; 3]; 2],
    /// Whose the frame is, if it is a flagged packet.
    answer: Answer,
    frame: Frame,
    #[generator(0u16..5)]
    ingress: u16,
    /// Of the monotonic clock: 18 years since the machine was started.
    #[generator(0u64..1 << 59)]
    nanos: u64,
}

/// The words of a slot.
#[derive(Clone, Debug, TypeGenerator)]
struct Entry {
    #[generator(0u8..2)]
    tag: u8,
    #[generator(0u16..5)]
    port: u16,
    expires: Option<u32>,
    next: Next,
    backup: Option<Hop>,
    rate: Option<u64>,
    /// In sixteenths of a nanosecond; the meter alone writes it, and never a time further ahead than a burst lasts.
    #[generator(0u64..1 << 63)]
    full_at: u64,
    restore: u32,
    packets: u64,
    bytes: u64,
}

#[derive(Clone, Debug, TypeGenerator)]
enum Next {
    Word(u64),
    Hop(Hop),
    /// Of these there are two.
    Group(#[generator(0u32..3)] u32),
}

#[derive(Clone, Debug, TypeGenerator)]
struct Hop {
    mac: [u8; 6],
    #[generator(0u16..6)]
    port: u16,
    routed: bool,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Port {
    /// Small ones are as interesting as large ones.
    #[generator(0u32..2_000)]
    mtu: u32,
    mac: [u8; 6],
    #[generator(0u16..32)]
    flags: u16,
    flag: Option<u16>,
    #[generator(250u64..260)]
    asking: u64,
}

#[derive(Clone, Debug, TypeGenerator)]
enum Answer {
    Unknown,
    Pass,
    Flow(Address),
}

#[derive(Clone, Debug, TypeGenerator)]
struct Frame {
    destination: Address,
    source: Address,
    #[generator(0usize..7)]
    start: usize,
    #[generator(produce::<Vec<u8>>().with().len(0usize..=200))]
    behind: Vec<u8>,
    /// Cut off behind so many octets.
    len: Option<u8>,
    gso_size: Option<u16>,
    tag_beside: bool,
}

#[derive(Clone, Debug, TypeGenerator)]
enum Address {
    Flow {
        #[generator(0u8..2)]
        tag: u8,
        #[generator(0u8..4)]
        slot: u8,
    },
    Any([u8; 6]),
}

/// EtherTypes and the octets that headers start with, in the ways that matter.
const STARTS: [&[u8]; 7] = [
    &[],
    &[0x08, 0x00, 0x45],
    &[0x86, 0xdd, 0x60],
    &[0x81, 0x00, 0, 1, 0x08, 0x00, 0x46],
    &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1],
    // With all bits of the DSCP set.
    &[0x08, 0x00, 0x45, 0xfc, 0, 60, 0, 0, 0, 0, 64, 17],
    &[0x86, 0xdd, 0x6f, 0xc0, 0, 0, 0, 60, 0, 64],
];

#[test]
fn the_pipeline_does_what_the_model_does() {
    check!().with_type::<Case>().for_each(compare);
}

fn compare(case: &Case) {
    let arrival = case.arrival();
    let memory = case.memory(&arrival);
    let mut switch = read(&memory);
    let expected = receive(&switch, &arrival, case.nanos);
    switch.apply(&expected.changes);

    let Arrival { octets, gso_size, tag_beside, .. } = arrival;
    let (mut frame, ingress) = (Buffer { octets, gso_size, tag_beside }, PortId(case.ingress));
    let frames = size(&mut frame).frames;
    let verdict = run(&mut frame, ingress, &memory, &mut ());
    let (mut end, mut egress, mut group, mut copies) = (verdict.end(), None, None, Vec::new());
    match verdict {
        Verdict::Forward { port, .. } => egress = Some(port.0),
        Verdict::Replicate { slot, group: number } => {
            let send = |frame: &mut Buffer, port: PortId| {
                copies.push((port.0, frame.octets.clone()));
                true
            };
            group = Some(number.0);
            end = replicate(&mut frame, ingress, slot, number, &memory, &mut (), send);
        }
        _ => {}
    }
    assert_eq!((end, frames, egress, group), (expected.end, expected.frames, expected.egress, expected.group));
    assert_eq!(copies, expected.copies);
    if group.is_none() {
        assert_eq!(frame.octets, expected.octets);
    }
    assert_eq!(read(&memory), switch);
}

impl Case {
    fn arrival(&self) -> Arrival {
        Arrival {
            ingress: self.ingress,
            octets: self.frame.octets(),
            gso_size: self.frame.gso_size.map_or(0, u32::from),
            tag_beside: self.frame.tag_beside,
        }
    }

    /// The tables. What they know of the frame's own tuple is as the case says; of others they know nothing.
    fn memory(&self, arrival: &Arrival) -> Memory {
        let slot = |(index, entry): (usize, &Option<Entry>)| {
            entry.as_ref().map_or_else(Slot::default, |entry| entry.slot(index))
        };
        let address = match &self.answer {
            Answer::Unknown => None,
            Answer::Pass => Some(PASS),
            Answer::Flow(address) => Some(Mac(address.octets()).to_u64()),
        };
        let tuple = flowlane_model::Tuple::of(arrival).map(|tuple| tuple.to_table());
        Memory {
            block: block(),
            slots: self.slots.iter().enumerate().map(slot).collect(),
            ports: (0..).zip(&self.ports).map(|(index, port)| port.entry(index)).collect(),
            groups: self.groups.iter().map(|receivers| group(receivers)).collect(),
            tuples: tuple.zip(address).into_iter().collect(),
            nanos: self.nanos,
        }
    }
}

fn read(memory: &Memory) -> Switch {
    Switch::read(memory.block, &memory.slots, &memory.ports, &memory.groups, memory.tuples.clone())
}

fn block() -> Block {
    Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 8).expect("a good block")
}

fn group(receivers: &[Option<Hop>]) -> Group {
    let group = Group::default();
    for (place, hop) in receivers.iter().enumerate() {
        // The last stands in the last place that there is.
        let place = if place == 2 { flowlane_tables::RECEIVERS_MAX - 1 } else { place };
        hop.iter().for_each(|hop| group.put(place, hop.hop()));
    }
    group
}

impl Entry {
    fn slot(&self, index: usize) -> Slot {
        let slot = Slot::default();
        let address = block().address(self.tag.into(), SlotIndex(index as u32));
        let rate = self.rate.map_or(Rate::UNLIMITED, Rate::from_word);
        slot.install(address, PortId(self.port), self.expires.unwrap_or(NEVER), rate, Resolution::UNKNOWN);
        slot.next_word().store(match &self.next {
            Next::Word(word) => *word,
            Next::Hop(hop) => Resolution::Resolved(hop.hop()).to_word(),
            Next::Group(group) => Resolution::Group(GroupIndex(*group)).to_word(),
        });
        slot.set_backup(self.backup.as_ref().map(Hop::hop));
        slot.set_restore(Restore::from_word(self.restore));
        slot.full_at().store(self.full_at);
        slot.packets().store(self.packets);
        slot.bytes().store(self.bytes);
        slot
    }
}

impl Hop {
    fn hop(&self) -> NextHop {
        NextHop { mac: Mac(self.mac), port: PortId(self.port), routed: self.routed }
    }
}

impl Port {
    fn entry(&self, index: u32) -> PortEntry {
        let entry = PortEntry::default();
        entry.set(index, self.mtu, Mac(self.mac), PortFlags(self.flags));
        entry.set_flag(self.flag.and_then(|word| Flag::from_word(word.into())));
        entry.asking().store(self.asking);
        entry
    }
}

impl Frame {
    fn octets(&self) -> Vec<u8> {
        let mut octets = [&self.destination.octets(), &self.source.octets(), STARTS[self.start], &self.behind].concat();
        octets.truncate(self.len.map_or(usize::MAX, usize::from));
        octets
    }
}

impl Address {
    fn octets(&self) -> [u8; 6] {
        match self {
            Self::Flow { tag, slot } => block().address((*tag).into(), SlotIndex((*slot).into())).mac().0,
            Self::Any(octets) => *octets,
        }
    }
}
