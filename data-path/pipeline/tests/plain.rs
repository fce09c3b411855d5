//! What is forwarded at once ends as it does by the list of steps.
#![allow(missing_docs)]

use flowlane_pipeline::{Verdict, forward, run};
use flowlane_tables::{End, NextHop, PortFlags, Resolution, ticks};
use flowlane_vectors::{Buffer, Flow, Lease, Memory, Meter, Port, Setup, all, flow_address, frames::ethernet};
use flowlane_wire::{Mac, PortId, Restore};

const HOUR: u64 = 3_600_000_000_000;

#[test]
fn a_plain_frame_ends_as_by_the_list_and_no_other_is_touched() {
    let (mut plain, vectors) = (0, all());
    for vector in &vectors {
        let (at_once, by_list) = (Memory::new(&vector.setup, HOUR), Memory::new(&vector.setup, HOUR));
        let (mut frame, mut same) = (Buffer::of(vector), Buffer::of(vector));
        let before = words(&at_once);
        match forward(&mut frame, vector.ingress, &at_once) {
            Some(port) => {
                let verdict = run(&mut same, vector.ingress, &by_list, &mut ());
                assert_eq!(verdict, Verdict::Forward { port, end: End::Forward }, "{}", vector.name);
                assert_eq!(words(&at_once), words(&by_list), "{}", vector.name);
                plain += 1;
            }
            None => assert_eq!(words(&at_once), before, "{}", vector.name),
        }
        assert_eq!(frame, same, "{}", vector.name);
    }
    assert!(plain > 10 && plain < vectors.len() / 2, "{plain} of {} are plain", vectors.len());
}

const HOST: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
const MTU: u32 = 200;

/// Two flows to port 2, of which the second is there to be in the other address.
fn setup() -> Setup {
    let port = |id, mtu| {
        let (mac, flags) = (Mac([2, 0, 0, 0, 1, id as u8]), PortFlags::UP);
        Port { id: PortId(id), mac, mtu, flags, flag: None, asking: 0 }
    };
    let hop = NextHop { mac: Mac([2, 0, 0, 0, 0, 0xbb]), port: PortId(2), routed: false };
    let flow = |slot| Flow {
        address: flow_address(0, slot),
        port: PortId(1),
        lease: Lease::Never,
        next: Resolution::Resolved(hop),
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Keep,
    };
    Setup { ports: vec![port(1, 1500), port(2, MTU)], flows: vec![flow(1), flow(2)], ..Setup::default() }
}

/// Whether a frame is forwarded at once, with tables that are a little different.
fn is_plain(mut frame: Buffer, change: impl FnOnce(&mut Setup)) -> bool {
    let mut setup = setup();
    change(&mut setup);
    forward(&mut frame, PortId(1), &Memory::new(&setup, HOUR)).is_some()
}

fn frame(destination: Mac, source: Mac, payload: u32) -> Buffer {
    Buffer::plain(ethernet(destination, source, &[], 0x88b5, &vec![0; payload as usize]))
}

/// Otherwise all would be right, and slow.
#[test]
fn what_nearly_every_frame_is_like_is_plain() {
    let flow = flow_address(0, 1).mac();
    let to_flow = || frame(flow, HOST, 46);
    assert!(is_plain(to_flow(), |_| {}));
    assert!(is_plain(frame(HOST, flow, 46), |_| {}), "of the flow, not to it");
    assert!(is_plain(frame(flow, HOST, MTU), |_| {}), "as long as the port takes it");
    assert!(is_plain(to_flow(), |setup| setup.flows[0].lease = Lease::Future));
    assert!(is_plain(to_flow(), |setup| setup.flows[0].meter = Meter::Wide));
}

#[test]
fn what_needs_a_closer_look_is_not_plain() {
    let [flow, other] = [1, 2].map(|slot| flow_address(0, slot).mac());
    let to_flow = || frame(flow, HOST, 46);
    assert!(!is_plain(frame(flow, other, 46), |_| {}), "both addresses are of flows");
    assert!(!is_plain(frame(flow, HOST, MTU + 1), |_| {}), "too long");
    assert!(!is_plain(Buffer { gso_size: 20, ..to_flow() }, |_| {}), "several frames on the wire");
    assert!(!is_plain(to_flow(), |setup| setup.flows[0].lease = Lease::Past));
    assert!(!is_plain(to_flow(), |setup| setup.flows[0].meter = Meter::Exhausted));
    assert!(!is_plain(to_flow(), |setup| setup.flows[0].port = PortId(2)));
    assert!(!is_plain(to_flow(), |setup| setup.flows[0].restore = Restore::Clear(3)));
    assert!(!is_plain(to_flow(), |setup| setup.ports[1].flags = PortFlags::default()));
    let back = NextHop { mac: HOST, port: PortId(1), routed: false };
    assert!(!is_plain(to_flow(), |setup| setup.flows[0].next = Resolution::Resolved(back)), "whence it came");
}

#[test]
fn a_lease_has_ended_when_its_tick_has_come() {
    for meter in [Meter::Unlimited, Meter::Wide] {
        let mut setup = setup();
        setup.flows[0].meter = meter;
        let memory = Memory::new(&setup, HOUR);
        let is_plain = |expires| {
            memory.slots[1].set_expires(expires);
            forward(&mut frame(flow_address(0, 1).mac(), HOST, 46), PortId(1), &memory).is_some()
        };
        let now = ticks(HOUR);
        assert_eq!([now - 1, now, now + 1].map(is_plain), [false, false, true], "{meter:?}");
    }
}

/// All words of slots and ports.
fn words(memory: &Memory) -> String {
    let live: Vec<_> = memory.slots.iter().filter(|slot| slot.key() != 0).collect();
    format!("{live:?} {:?}", &memory.ports[..16])
}
