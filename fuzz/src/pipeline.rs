//! The pipeline: any frame, by any port, over any tables.

use bolero::{TypeGenerator, check, produce};
use flowlane_pipeline::{Tables, Verdict, run};
use flowlane_tables::{Flow, NEVER, NextHop, PortEntry, PortFlags, Rate, Resolution, Slot, ticks};
use flowlane_vectors::Buffer;
use flowlane_wire::{Block, Mac, PortId, SlotIndex};

#[derive(Clone, Debug, TypeGenerator)]
struct Case {
    slots: [Option<Entry>; 4],
    ports: [Port; 4],
    frame: Frame,
    #[generator(0u16..5)]
    ingress: u16,
    /// Of the monotonic clock: 36 years since the machine was started.
    #[generator(0u64..1 << 60)]
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
    next: Hop,
    backup: Option<(u8, [u8; 6], bool)>,
    rate: Option<u64>,
    /// In sixteenths of a nanosecond; the meter alone writes it, and never a time further ahead than a burst lasts.
    #[generator(0u64..1 << 63)]
    full_at: u64,
    packets: u64,
    bytes: u64,
}

#[derive(Clone, Debug, TypeGenerator)]
enum Hop {
    Word(u64),
    Known {
        mac: [u8; 6],
        #[generator(0u16..5)]
        port: u16,
        routed: bool,
    },
}

#[derive(Clone, Debug, TypeGenerator)]
struct Port {
    /// Small ones are as interesting as large ones.
    #[generator(0u32..2_000)]
    mtu: u32,
    mac: [u8; 6],
    #[generator(0u16..8)]
    flags: u16,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Frame {
    destination: Address,
    source: Address,
    #[generator(0usize..5)]
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
const STARTS: [&[u8]; 5] = [
    &[],
    &[0x08, 0x00, 0x45],
    &[0x86, 0xdd, 0x60],
    &[0x81, 0x00, 0, 1, 0x08, 0x00, 0x46],
    &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1],
];

struct Memory {
    slots: Vec<Slot>,
    ports: Vec<PortEntry>,
    nanos: u64,
}

impl Tables for Memory {
    fn block(&self) -> Block {
        block()
    }

    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.slots.get(index.0 as usize)
    }

    fn port(&self, port: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(port.0))
    }

    fn tick(&self) -> u32 {
        ticks(self.nanos)
    }

    fn nanos(&self) -> u64 {
        self.nanos
    }
}

#[test]
fn only_frames_of_a_flow_on_its_port_are_forwarded_and_only_what_must_change_does() {
    check!().with_type::<Case>().for_each(|case| {
        let (memory, original) = (memory(case), case.frame.octets());
        let before: Vec<_> = memory.slots.iter().map(Slot::flow).collect();
        let mut frame = Buffer::plain(original.clone());
        frame.gso_size = case.frame.gso_size.map_or(0, u32::from);
        frame.tag_beside = case.frame.tag_beside;
        let verdict = run(&mut frame, PortId(case.ingress), &memory, &mut ());
        let after: Vec<_> = memory.slots.iter().map(Slot::flow).collect();
        let forwarded = match verdict {
            Verdict::Forward { port, .. } => Some(check_forwarded(case, &memory, &original, &frame.octets, port)),
            _ => None,
        };
        check_counters(&before, &after, forwarded, original.len() as u64);
        check_octets(case, &memory, &original, &frame.octets, verdict);
    });
}

/// The slot of a forwarded frame, which may be forwarded.
fn check_forwarded(case: &Case, memory: &Memory, original: &[u8], now: &[u8], egress: PortId) -> usize {
    let ours = |mac: &&[u8]| mac.starts_with(&[0xa2, 0xf1]);
    let (destination, source) = (Some(&original[..6]).filter(ours), Some(&original[6..12]).filter(ours));
    for mac in destination.into_iter().chain(source) {
        let flow = memory.slots[slot(mac)].flow().expect("a flow in the slot");
        assert_eq!(flow.address.0[..], *mac);
        assert_eq!(flow.port.0, case.ingress);
        assert!(flow.expires == NEVER || memory.tick() < flow.expires, "{flow:?}");
    }
    assert_ne!(egress.0, case.ingress);
    let port = memory.port(egress).expect("a port that is there");
    assert!(port.flags().has(PortFlags::UP));
    let decides = slot(destination.or(source).expect("a flow address"));
    let flow = memory.slots[decides].flow().expect("a flow in the slot");
    let hop = |hop: NextHop| hop.port == egress && hop.mac.0[..] == now[..6];
    let next = matches!(flow.next, Resolution::Resolved(next) if hop(next));
    assert!(next || flow.backup.is_some_and(hop), "{flow:?}");
    let source = if port.flags().has(PortFlags::OWN_SOURCE) { port.mac() } else { flow.address };
    assert_eq!(now[6..12], source.0);
    decides
}

/// Only the counters of the slot that a frame was forwarded by grow, and by the whole frame.
fn check_counters(before: &[Option<Flow>], after: &[Option<Flow>], forwarded: Option<usize>, len: u64) {
    for (slot, (before, after)) in before.iter().zip(after).enumerate() {
        let (Some(before), Some(after)) = (before, after) else {
            assert_eq!(before, after);
            continue;
        };
        let packets = after.packets.wrapping_sub(before.packets);
        let bytes = after.bytes.wrapping_sub(before.bytes);
        if forwarded == Some(slot) {
            assert!(packets >= 1 && bytes >= len, "{packets} frames, {bytes} octets");
        } else {
            assert_eq!((packets, bytes), (0, 0));
        }
    }
}

fn check_octets(case: &Case, memory: &Memory, original: &[u8], now: &[u8], verdict: Verdict) {
    assert_eq!(now.len(), original.len());
    let changed = original.iter().zip(now).enumerate().filter(|(_, (a, b))| a != b).map(|(place, _)| place);
    let may_change = match verdict {
        Verdict::Forward { .. } => [(0..12).collect(), hop_limit(original, case.frame.tag_beside)].concat(),
        Verdict::ToLinux(_) => {
            let ingress = memory.port(PortId(case.ingress)).expect("a port that is there");
            assert_eq!(now[..6], ingress.mac().0);
            (0..6).collect()
        }
        _ => Vec::new(),
    };
    let changed: Vec<_> = changed.filter(|place| !may_change.contains(place)).collect();
    assert!(changed.is_empty(), "octets {changed:?} are changed by {verdict:?}");
    if let Some(ttl) = hop_limit(original, case.frame.tag_beside).first() {
        let (before, after) = (original.get(*ttl), now.get(*ttl));
        assert!(
            after == before || after.copied() == before.and_then(|ttl| ttl.checked_sub(1)),
            "{before:?}: {after:?}"
        );
    }
}

/// Where the time to live and the checksum of IPv4 stand, or the hop limit of IPv6, behind at most two tags. Written
/// without looking at how the pipeline does it.
fn hop_limit(frame: &[u8], tag_beside: bool) -> Vec<usize> {
    let (mut at, mut tags) = (12, usize::from(tag_beside));
    while let Some(ethertype) = frame.get(at..at + 2) {
        match ethertype {
            [0x81, 0x00] | [0x88, 0xa8] if tags < 2 => (at, tags) = (at + 4, tags + 1),
            [0x08, 0x00] => return vec![at + 10, at + 12, at + 13],
            [0x86, 0xdd] => return vec![at + 9],
            _ => break,
        }
    }
    Vec::new()
}

fn block() -> Block {
    Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 8).expect("a good block")
}

/// The slot that a flow address points to: of the eight, four are there.
fn slot(mac: &[u8]) -> usize {
    usize::from(mac[5] & 7)
}

fn memory(case: &Case) -> Memory {
    let slots = case
        .slots
        .iter()
        .enumerate()
        .map(|(index, entry)| entry.as_ref().map_or_else(Slot::default, |entry| entry.slot(index)));
    let ports = case.ports.iter().enumerate().map(|(index, port)| {
        let entry = PortEntry::default();
        entry.set(index as u32, port.mtu, Mac(port.mac), PortFlags(port.flags));
        entry
    });
    Memory { slots: slots.collect(), ports: ports.collect(), nanos: case.nanos }
}

impl Entry {
    fn slot(&self, index: usize) -> Slot {
        let slot = Slot::default();
        let address = block().address(self.tag.into(), SlotIndex(index as u32));
        let rate = self.rate.map_or(Rate::UNLIMITED, Rate::from_word);
        slot.install(address, PortId(self.port), self.expires.unwrap_or(NEVER), rate, Resolution::UNKNOWN);
        slot.next_word().store(match self.next {
            Hop::Word(word) => word,
            Hop::Known { mac, port, routed } => {
                Resolution::Resolved(NextHop { mac: Mac(mac), port: PortId(port), routed }).to_word()
            }
        });
        let hop = |(port, mac, routed)| NextHop { mac: Mac(mac), port: PortId(u16::from(port) % 5), routed };
        slot.set_backup(self.backup.map(hop));
        slot.full_at().store(self.full_at);
        slot.packets().store(self.packets);
        slot.bytes().store(self.bytes);
        slot
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
