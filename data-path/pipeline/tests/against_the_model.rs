//! The pipeline against the model, on tables and frames from seeds. What the differential test does with every executor is done
//! here with the crate alone: no kernel, no root, in seconds.

use fastrand::Rng;
use flowlane_model::{Arrival, Outcome, Switch, receive};
use flowlane_pipeline::{Verdict, is_ours, replicate, run, run_batch, size, tuple};
use flowlane_tables::{
    ASKING_LIMIT, End, Group, GroupIndex, NEVER, NextHop, PASS, PENDING_LIMIT, PortEntry, PortFlags, RECEIVERS_MAX,
    Rate, Resolution, Slot, Tuple, ticks,
};
use flowlane_vectors::{
    Buffer, Memory,
    frames::{ethernet, ethertype, ipv4, ipv6, tcp, udp},
};
use flowlane_wire::{Block, Flag, Mac, PortId, Restore, SlotIndex};
use std::collections::BTreeMap;

const SEEDS: u64 = 60_000;
const SLOTS: u32 = 8;
const PORTS: u16 = 5;
const GROUPS: u32 = 2;

#[test]
fn generated_frames_end_as_the_model_says() {
    let mut ends = BTreeMap::new();
    for seed in 0..SEEDS {
        let end = compare(seed);
        *ends.entry(end).or_insert(0) += 1;
    }
    // Only an executor can say that the port did not take the frame.
    let missing: Vec<_> = End::ALL.iter().filter(|end| !matches!(end, End::NotSent | End::RingFull)).collect();
    assert!(missing.iter().all(|end| ends.get(end).is_some_and(|met| *met > 20)), "hardly met: {ends:?}");
}

/// One frame, by [`run`] and by [`run_batch`]. How it ends.
fn compare(seed: u64) -> End {
    let mut random = Rng::with_seed(seed);
    let nanos = random.u64(1 << 34..1 << 40);
    let tables = random.u64(..);
    let arrival = arrival(&mut random);
    let answer = answer(&mut random);
    // As often as not, what the tables know is of another packet.
    let known = if random.u8(..) < 230 { &arrival } else { &self::arrival(&mut random) };
    let known = flowlane_model::Tuple::of(known).map(|tuple| tuple.to_table()).zip(answer);
    let memory = || memory(&mut Rng::with_seed(tables), nanos, known);

    let mut switch = read(&memory());
    let expected = receive(&switch, &arrival, nanos);
    switch.apply(&expected.changes);
    let ingress = PortId(arrival.ingress);
    check_reading(seed, &arrival);

    let (alone, mut frame) = (memory(), buffer(&arrival));
    let verdict = run(&mut frame, ingress, &alone, &mut ());
    check(seed, "alone", (verdict, frame, ingress), &alone, &expected, &switch);

    let (batch, mut frames, mut decided) = (memory(), vec![buffer(&arrival)], None);
    run_batch(&mut frames, ingress, &batch, |frame, verdict| decided = Some((verdict, frame.clone(), ingress)));
    check(seed, "in a batch", decided.expect("a verdict"), &batch, &expected, &switch);
    if arrival.gso_size == 0 && !arrival.tag_beside {
        in_plain_memory(seed, &arrival, &memory(), &expected, &switch);
    }
    expected.end
}

/// The same, for a frame that is nothing but octets.
fn in_plain_memory(seed: u64, arrival: &Arrival, memory: &Memory, expected: &Outcome, switch: &Switch) {
    let mut octets = arrival.octets.clone();
    let verdict = run(&mut octets.as_mut_slice(), PortId(arrival.ingress), memory, &mut ());
    // Copies are made by whoever runs the pipeline; there is none here.
    if !matches!(verdict, Verdict::Replicate { .. }) {
        assert_eq!((verdict.end(), &octets), (expected.end, &expected.octets), "seed {seed}, in plain memory");
        assert_eq!(read(memory), *switch, "seed {seed}, in plain memory");
    }
}

/// What the pipeline says of a frame without doing anything to it.
fn check_reading(seed: u64, arrival: &Arrival) {
    let mut frame = buffer(arrival);
    let expected = flowlane_model::Tuple::of(arrival).map(|tuple| tuple.to_table());
    // What is no IP packet of sense is no concern of the tuple's.
    if expected.is_some() {
        assert_eq!(tuple(&mut frame, PortId(arrival.ingress)), expected, "seed {seed}: {arrival:02x?}");
    }
    let starts = |place: usize| arrival.octets.len() >= 14 && arrival.octets[place..].starts_with(&[0xa2, 0xf1]);
    assert_eq!(is_ours(&mut frame, block()), starts(0) || starts(6), "seed {seed}: {arrival:02x?}");
    assert_eq!(frame, buffer(arrival));
}

fn check(
    seed: u64,
    how: &str,
    (verdict, mut frame, ingress): (Verdict, Buffer, PortId),
    memory: &Memory,
    expected: &Outcome,
    switch: &Switch,
) {
    let (mut end, mut egress, mut group, mut copies) = (verdict.end(), None, None, Vec::new());
    match verdict {
        Verdict::Forward { port, .. } => egress = Some(port.0),
        Verdict::Replicate { slot, group: number } => {
            let send = |frame: &mut Buffer, port: PortId| {
                copies.push((port.0, frame.octets.clone()));
                true
            };
            group = Some(number.0);
            end = replicate(&mut frame, ingress, slot, number, memory, &mut (), send);
        }
        _ => {}
    }
    assert_eq!((end, egress, group), (expected.end, expected.egress, expected.group), "seed {seed}, {how}");
    assert_eq!(copies, expected.copies, "seed {seed}, {how}");
    if group.is_none() {
        assert_eq!(frame.octets, expected.octets, "seed {seed}, {how}: {end}");
    }
    assert_eq!(size(&mut frame).frames, expected.frames, "seed {seed}, {how}: {end}");
    assert_eq!(read(memory), *switch, "seed {seed}, {how}: {end}");
}

fn buffer(arrival: &Arrival) -> Buffer {
    Buffer { octets: arrival.octets.clone(), gso_size: arrival.gso_size, tag_beside: arrival.tag_beside }
}

fn block() -> Block {
    Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, SLOTS).expect("a good block")
}

/// Small tables.
fn memory(random: &mut Rng, nanos: u64, tuple: Option<(Tuple, u64)>) -> Memory {
    Memory {
        block: block(),
        slots: (0..SLOTS).map(|index| slot(random, SlotIndex(index), nanos)).collect(),
        ports: (0..=PORTS).map(|number| port(random, number)).collect(),
        groups: (0..GROUPS).map(|_| group(random)).collect(),
        tuples: tuple.into_iter().collect(),
        nanos,
    }
}

/// What they say.
fn read(memory: &Memory) -> Switch {
    Switch::read(memory.block, &memory.slots, &memory.ports, &memory.groups, memory.tuples.clone())
}

fn slot(random: &mut Rng, index: SlotIndex, nanos: u64) -> Slot {
    let slot = Slot::default();
    if random.u8(..) < 10 {
        return slot;
    }
    let now = ticks(nanos);
    let expires = *random.choice(&[NEVER, NEVER, NEVER, now + 1, now + 9, now, now - 1]).expect("a choice");
    let rate = match random.u8(..) {
        0..=150 => Rate::UNLIMITED,
        // A millisecond of it: some frames fit, and some do not.
        _ => Rate::new(random.u64(1_000_000..20_000_000), random.u64(200..3_000)),
    };
    slot.install(block().address(tag(random), index), ingress(random), expires, rate, resolution(random));
    slot.set_backup((random.u8(..) < 100).then(|| hop(random)));
    slot.set_restore(match random.u8(..) {
        0..=150 => Restore::Keep,
        151..=200 => Restore::Clear(random.u8(..64)),
        _ => Restore::Set(random.u8(..64)),
    });
    slot.full_at().store((nanos + random.u64(..1_000_000)) * 16);
    slot.packets().store(random.u64(..));
    slot.bytes().store(random.u64(..));
    slot
}

fn resolution(random: &mut Rng) -> Resolution {
    match random.u8(..) {
        0..=20 => Resolution::Pending(random.u32(PENDING_LIMIT - 2..=PENDING_LIMIT)),
        21..=30 => Resolution::Unreachable,
        31..=90 => Resolution::Group(GroupIndex(random.u32(..=GROUPS))),
        _ => Resolution::Resolved(hop(random)),
    }
}

/// Sometimes to a port that there is not.
fn hop(random: &mut Rng) -> NextHop {
    NextHop { mac: mac(random), port: PortId(random.u16(1..=PORTS + 1)), routed: random.bool() }
}

fn mac(random: &mut Rng) -> Mac {
    let mut octets = [0; 6];
    random.fill(&mut octets);
    Mac(octets)
}

fn port(random: &mut Rng, number: u16) -> PortEntry {
    let entry = PortEntry::default();
    if number == 0 {
        // That is no port.
        return entry;
    }
    let mut flags = PortFlags(0);
    for (flag, often) in
        [(PortFlags::UP, 220), (PortFlags::OWN_SOURCE, 50), (PortFlags::MARKS, 50), (PortFlags::NO_NEW_FLOWS, 50)]
    {
        if random.u8(..) < often {
            flags = flags.with(flag);
        }
    }
    let mtu = *random.choice(&[68, 100, 200, 400, 1_500, 1_500, 9_000]).expect("a choice");
    entry.set(number.into(), mtu, mac(random), flags);
    entry.set_flag((random.u8(..) < 220).then(|| flag(random)));
    entry.asking().store(random.u64(ASKING_LIMIT - 2..=ASKING_LIMIT));
    entry
}

fn flag(random: &mut Rng) -> Flag {
    if random.bool() {
        return Flag::DEFAULT;
    }
    let mask = random.u8(1..64);
    Flag { mask, value: random.u8(..64) & mask }
}

fn group(random: &mut Rng) -> Group {
    let group = Group::default();
    for place in [0, 1, 2, 5, RECEIVERS_MAX - 1] {
        if random.bool() {
            group.put(place, hop(random));
        }
    }
    group
}

fn tag(random: &mut Rng) -> u64 {
    random.u64(..2).saturating_sub(random.u64(..2))
}

fn ingress(random: &mut Rng) -> PortId {
    // Most frames come in by the port of most flows.
    PortId(if random.u8(..) < 200 { 1 } else { random.u16(1..=PORTS) })
}

/// The flow address of the tuple that the frame has.
fn answer(random: &mut Rng) -> Option<u64> {
    match random.u8(..) {
        0..=60 => None,
        61..=100 => Some(PASS),
        _ => Some(address(random, 250).to_u64()),
    }
}

fn address(random: &mut Rng, flows: u8) -> Mac {
    if random.u8(..) < flows { block().address(tag(random), SlotIndex(random.u32(..SLOTS))).mac() } else { mac(random) }
}

fn arrival(random: &mut Rng) -> Arrival {
    let (to_flow, from_flow) = *random.choice(&[(250, 5), (250, 250), (5, 250), (5, 5), (5, 5)]).expect("a choice");
    let (destination, source) = (address(random, to_flow), address(random, from_flow));
    let (ethertype, payload) = payload(random);
    let mut octets = ethernet(destination, source, &tags(random), ethertype, &payload);
    if random.u8(..) < 40 {
        octets.truncate(random.usize(..=octets.len().min(100)));
    }
    if random.u8(..) < 20 && octets.len() > 14 {
        let place = random.usize(12..octets.len().min(70));
        octets[place] = random.u8(..);
    }
    let gso_size = if random.u8(..) < 60 { random.u32(1..300) } else { 0 };
    let ingress = if random.u8(..) < 250 { ingress(random).0 } else { PORTS + 1 };
    Arrival { ingress, octets, gso_size, tag_beside: random.u8(..) < 40 }
}

fn tags(random: &mut Rng) -> Vec<(u16, u16)> {
    let number = match random.u8(..) {
        0..=150 => 0,
        151..=200 => 1,
        201..=240 => 2,
        _ => 3,
    };
    let protocols = [ethertype::CUSTOMER, ethertype::SERVICE];
    (0..number).map(|_| (*random.choice(&protocols).expect("a choice"), random.u16(..))).collect()
}

fn payload(random: &mut Rng) -> (u16, Vec<u8>) {
    match random.u8(..) {
        0..=120 => (ethertype::IPV4, version_4(random)),
        121..=230 => (ethertype::IPV6, version_6(random)),
        _ => (random.u16(..), content(random)),
    }
}

fn content(random: &mut Rng) -> Vec<u8> {
    let most = if random.u8(..) < 200 { 100 } else { 600 };
    let mut content = vec![0; random.usize(..most)];
    random.fill(&mut content);
    content
}

/// Half of them must not go on.
fn time_to_live(random: &mut Rng) -> u8 {
    if random.u8(..) < 60 { random.u8(..3) } else { random.u8(..) }
}

fn version_4(random: &mut Rng) -> Vec<u8> {
    let options = vec![1; 4 * random.usize(..=10).saturating_sub(7)];
    let fragment = if random.u8(..) < 30 { random.u16(..) } else { 0x4000 };
    let (protocol, payload) = transport(random);
    let mut packet = ipv4(time_to_live(random), protocol, &options, fragment, &payload);
    packet[1] = random.u8(..);
    packet[12..20].fill_with(|| random.u8(..));
    if random.bool() {
        packet[10..12].fill_with(|| random.u8(..));
    }
    packet
}

fn version_6(random: &mut Rng) -> Vec<u8> {
    let (mut next, mut payload) = transport(random);
    for _ in 0..extensions(random) {
        let kind = *random.choice(&[0, 43, 60, 51, 44]).expect("a choice");
        let units = random.u8(..3);
        let len = match kind {
            44 => 8,
            51 => 8 + 4 * usize::from(units),
            _ => 8 + 8 * usize::from(units),
        };
        let mut header = vec![0; len];
        random.fill(&mut header);
        (header[0], header[1]) = (next, units);
        payload = [header, payload].concat();
        next = kind;
    }
    let mut packet = ipv6(time_to_live(random), next, &payload);
    packet[0] = packet[0] & 0xf0 | random.u8(..16);
    packet[1] = random.u8(..);
    packet[8..40].fill_with(|| random.u8(..));
    packet
}

fn extensions(random: &mut Rng) -> usize {
    match random.u8(..) {
        0..=180 => 0,
        181..=230 => random.usize(1..4),
        _ => random.usize(6..10),
    }
}

fn transport(random: &mut Rng) -> (u8, Vec<u8>) {
    let content = content(random);
    let protocol = *random.choice(&[6, 6, 17, 17, 33, 132, 136, 1, 58]).expect("a choice");
    let mut payload = if protocol == 6 { tcp(4 * random.usize(..=10), &content) } else { udp(&content) };
    payload[..4].fill_with(|| random.u8(..));
    (protocol, payload)
}
