//! What people are told of the steps is what was done.
#![allow(missing_docs)]

use flowlane_pipeline::{Place, Step, Verdict, run};
use flowlane_tables::{End, NextHop, PortFlags, Resolution};
use flowlane_vectors::{
    Buffer, Flow, Lease, Memory, Meter, Port, Setup, flow_address,
    frames::{ethernet, ethertype, ipv4},
};
use flowlane_wire::{Mac, PortId, Restore, SlotIndex};

const HOST: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
const HOP: NextHop = NextHop { mac: Mac([2, 0, 0, 0, 0, 0xbb]), port: PortId(2), routed: true };
const HELD: u8 = 1;
const FREE: u8 = 2;

fn tables() -> Memory {
    let port = |id| Port {
        id: PortId(id),
        mac: Mac([2, 0, 0, 0, 1, id as u8]),
        mtu: 1500,
        flags: PortFlags::UP,
        flag: None,
        asking: 0,
    };
    let flow = Flow {
        address: flow_address(0, HELD),
        port: PortId(1),
        lease: Lease::Never,
        next: Resolution::Resolved(HOP),
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Keep,
    };
    Memory::new(&Setup { ports: vec![port(1), port(2)], flows: vec![flow], ..Setup::default() }, 0)
}

/// The steps of a frame to the flow of a slot.
fn steps(slot: u8) -> (Verdict, Vec<Step>) {
    let packet = ipv4(64, 17, &[], 0, &[]);
    let mut frame = Buffer::plain(ethernet(flow_address(0, slot).mac(), HOST, &[], ethertype::IPV4, &packet));
    let mut steps = Vec::new();
    let verdict = run(&mut frame, PortId(1), &tables(), &mut |step| steps.push(step));
    (verdict, steps)
}

fn begin(slot: u8) -> [Step; 2] {
    let address = flow_address(0, slot).mac();
    [
        Step::Parsed { destination: address, source: HOST },
        Step::Ours { place: Place::Destination, address, slot: SlotIndex(slot.into()) },
    ]
}

#[test]
fn every_step_of_a_frame_that_is_sent_is_told_in_order() {
    let address = flow_address(0, HELD).mac();
    let behind = [
        Step::LookedUp { holder: Some(address) },
        Step::PortChecked { expected: PortId(1), ingress: PortId(1) },
        Step::NextHop { resolution: Resolution::Resolved(HOP) },
        Step::Egress { hop: HOP, backup: false, up: true },
        Step::HopLimit { value: 64 },
        Step::Rewritten { destination: HOP.mac, source: address },
    ];
    let expected = Verdict::Forward { port: PortId(2), end: End::Forward };
    assert_eq!(steps(HELD), (expected, [&begin(HELD)[..], &behind].concat()));
}

#[test]
fn a_free_slot_is_nobodys() {
    let all = [&begin(FREE)[..], &[Step::LookedUp { holder: None }]].concat();
    assert_eq!(steps(FREE), (Verdict::Drop(End::UnknownFlow), all));
}
