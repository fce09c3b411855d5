//! Cases worked out by hand.

use crate::{
    Arrival, Block, Change, Flag, Flow, Hop, Mac, Meter, Next, Outcome, Port, Receiver, Restore, Switch, Tuple, receive,
};
use flowlane_tables::{ASKING_LIMIT, End, PENDING_LIMIT};
use std::collections::BTreeMap;

const FLOW: Mac = [0xa2, 0xf1, 0, 0, 0, 1];
const OTHER: Mac = [0xa2, 0xf1, 0, 0, 0, 2];
const HOST: Mac = [2, 0, 0, 0, 0xaa, 1];
const NEXT: Mac = [2, 0, 0, 0, 0xbb, 2];
const NOW: u64 = 1 << 40;

fn hop(port: u16, routed: bool) -> Hop {
    Hop { mac: NEXT, port, routed }
}

fn flow(next: Next) -> Flow {
    Flow { port: 1, expires: None, next, backup: None, meter: None, restore: Restore::Keep, packets: 0, bytes: 0 }
}

/// Ports 1 to 4, all up, with an MTU of 1500; the flag is read on port 1.
fn switch(flows: &[(Mac, Flow)]) -> Switch {
    let port = |number: u16| Port { mac: [2, 0, 0, 0, 0, number as u8], mtu: 1500, up: true, ..Port::default() };
    let mut ports: BTreeMap<u16, Port> = (1..=4).map(|number| (number, port(number))).collect();
    ports.entry(1).or_default().flag = Some(Flag { mask: 3, value: 3 });
    Switch {
        block: Block { prefix: [0xa2, 0xf1, 0, 0, 0, 0], bits: 16 },
        flows: flows.iter().cloned().collect(),
        ports,
        ..Switch::default()
    }
}

/// An IPv4 header with this DSCP, time to live and checksum, in a frame.
fn v4(destination: Mac, source: Mac, dscp: u8, ttl: u8, checksum: u16) -> Vec<u8> {
    let [high, low] = checksum.to_be_bytes();
    let header =
        [0x45, dscp << 2, 0, 24, 0, 0, 0, 0, ttl, 17, high, low, 10, 0, 0, 1, 10, 0, 9, 9, 0x0f, 0xa0, 0x13, 0x88];
    [&destination[..], &source, &[8, 0], &header].concat()
}

/// A packet of IPv6 with the flag, these headers and no more.
fn v6(first: u8, headers: &[u8]) -> Vec<u8> {
    let mut frame = [&NEXT[..], &HOST, &[0x86, 0xdd, 0x60, 0xc0, 0, 0, 0, 0, first, 9]].concat();
    frame.extend([0; 15]);
    frame.push(1);
    frame.extend([0; 15]);
    frame.push(2);
    frame.extend(headers);
    frame
}

fn arrival(octets: Vec<u8>) -> Arrival {
    Arrival { ingress: 1, octets, ..Arrival::default() }
}

fn received(switch: &Switch, octets: Vec<u8>) -> Outcome {
    receive(switch, &arrival(octets), NOW)
}

fn checksum(octets: &[u8]) -> [u8; 2] {
    [octets[24], octets[25]]
}

#[test]
fn a_block_may_end_within_an_octet() {
    let block = Block { prefix: [0xa2, 0xf0, 0, 0, 0, 0], bits: 13 };
    assert!(block.contains([0xa2, 0xf7, 1, 2, 3, 4]) && !block.contains([0xa2, 0xf8, 0, 0, 0, 0]));
}

#[test]
fn the_destinations_flow_decides_and_the_sources_must_be_live_as_well() {
    let to = |port| flow(Next::Hop(hop(port, false)));
    let both = switch(&[(FLOW, to(2)), (OTHER, to(3))]);
    assert_eq!(received(&both, v4(FLOW, OTHER, 0, 9, 0)).egress, Some(2));
    assert_eq!(received(&both, v4(HOST, OTHER, 0, 9, 0)).egress, Some(3));
    let wrong = switch(&[(FLOW, to(2)), (OTHER, Flow { port: 4, ..to(3) })]);
    assert_eq!(received(&wrong, v4(FLOW, OTHER, 0, 9, 0)).end, End::WrongPort);
    let gone = switch(&[(FLOW, to(2))]);
    assert_eq!(received(&gone, v4(FLOW, OTHER, 0, 9, 0)).end, End::UnknownFlow);
}

#[test]
fn a_lease_ends_with_the_tick_that_it_names() {
    let at = |tick| Flow { expires: Some(tick), ..flow(Next::Unreachable) };
    // 2^40 ns are 2^10 ticks.
    assert_eq!(received(&switch(&[(FLOW, at(1024))]), v4(FLOW, HOST, 0, 9, 0)).end, End::Expired);
    assert_eq!(received(&switch(&[(FLOW, at(1025))]), v4(FLOW, HOST, 0, 9, 0)).end, End::NoRoute);
}

#[test]
fn first_packets_join_the_queue_until_it_is_full() {
    let mut switch = switch(&[(FLOW, flow(Next::Waiting(PENDING_LIMIT - 1)))]);
    let outcome = received(&switch, v4(FLOW, HOST, 0, 9, 0));
    assert_eq!((outcome.end, outcome.changes.clone()), (End::Resolve, vec![Change::Joined { flow: FLOW }]));
    switch.apply(&outcome.changes);
    assert_eq!(switch.flows[&FLOW].next, Next::Waiting(PENDING_LIMIT));
    assert_eq!(received(&switch, v4(FLOW, HOST, 0, 9, 0)).end, End::QueueFull);
}

#[test]
fn a_checksum_is_as_right_or_as_wrong_afterwards_as_before() {
    let switch = switch(&[(FLOW, flow(Next::Hop(hop(2, true))))]);
    let sent = |sum| checksum(&received(&switch, v4(FLOW, HOST, 0, 64, sum)).octets);
    for (before, after) in [(0x1234, 0x1334), (0xfeff, 0x0000), (0xff00, 0x0001), (0xffff, 0x0100), (0x0000, 0x0100)] {
        assert_eq!(u16::from_be_bytes(sent(before)), after, "{before:04x}");
    }
}

#[test]
fn a_dscp_that_stays_the_same_leaves_the_checksum_as_it_stands() {
    let keeps = Flow { restore: Restore::Clear(3), ..flow(Next::Hop(hop(2, false))) };
    let switch = switch(&[(FLOW, keeps)]);
    let sent = |dscp, sum| received(&switch, v4(FLOW, HOST, dscp, 64, sum)).octets;
    assert_eq!(checksum(&sent(0, 0xffff)), [0xff, 0xff]);
    // From 3 to 0 the octet is less by 12, and the sum of all ones more by as much.
    let cleared = sent(3, 0x1000);
    assert_eq!((cleared[15], checksum(&cleared)), (0, [0x10, 0x0c]));
}

#[test]
fn tokens_are_spent_before_the_time_to_live_is_looked_at() {
    let meter = Meter { mantissa: 1, shift: 0, burst: 1_000, full_at: 0 };
    let switch = switch(&[(FLOW, Flow { meter: Some(meter), ..flow(Next::Hop(hop(2, true))) })]);
    let outcome = received(&switch, v4(FLOW, HOST, 0, 1, 0));
    assert_eq!(outcome.end, End::TtlExpired);
    assert_eq!(outcome.octets[..6], switch.port(1).mac, "Linux is to take it");
    // One sixteenth for each of 38 octets, and one.
    assert_eq!(outcome.changes, [Change::Metered { flow: FLOW, full_at: NOW * 16 + 39 }]);
}

#[test]
fn a_meter_lets_through_what_the_bucket_holds_to_the_last_token() {
    let meter = Meter { mantissa: 16_000, shift: 0, burst: 38, full_at: 0 };
    // 38 us hold 38 octets of a microsecond each, but for the sixteenth of a nanosecond that rounding up costs.
    assert_eq!(meter.take(38, NOW), None);
    assert_eq!(meter.take(37, NOW), Some(NOW * 16 + 37 * 16_000 + 1));
}

#[test]
fn the_backup_is_for_a_port_that_is_down_only() {
    let backup = Some(hop(3, false));
    let mut switch = switch(&[(FLOW, Flow { backup, ..flow(Next::Hop(hop(2, false))) })]);
    assert_eq!(received(&switch, v4(FLOW, HOST, 0, 9, 0)).egress, Some(2));
    switch.ports.entry(2).or_default().up = false;
    let outcome = received(&switch, v4(FLOW, HOST, 0, 9, 0));
    assert_eq!((outcome.end, outcome.egress), (End::Backup, Some(3)));
    switch.flows.insert(FLOW, Flow { backup, ..flow(Next::Hop(hop(1, false))) });
    assert_eq!(received(&switch, v4(FLOW, HOST, 0, 9, 0)).end, End::SamePort);
}

#[test]
fn a_super_packet_counts_as_its_frames_and_fits_by_its_largest() {
    let switch = switch(&[(FLOW, flow(Next::Hop(hop(2, false))))]);
    let mut octets = v4(FLOW, HOST, 0, 9, 0);
    octets.resize(14 + 20 + 8 + 3_001, 0);
    let sized = |gso_size| receive(&switch, &Arrival { gso_size, ..arrival(octets.clone()) }, NOW);
    let outcome = sized(1_000);
    assert_eq!(outcome.frames, 4);
    assert_eq!(outcome.changes, [Change::Sent { flow: FLOW, frames: 4, octets: 3_001 + 4 * 42 }]);
    assert_eq!((sized(1_472).end, sized(1_473).end, sized(0).end), (End::Forward, End::TooBig, End::TooBig));
}

#[test]
fn copies_go_to_the_same_subnet_first_and_never_back() {
    let mut switch = switch(&[(FLOW, Flow { restore: Restore::Clear(3), ..flow(Next::Group(0)) })]);
    let receivers = [hop(2, true), hop(3, false), hop(1, false), hop(4, false), hop(3, true)];
    switch.groups.insert(0, receivers.map(Receiver::new).into_iter().enumerate().collect());
    switch.ports.entry(4).or_default().up = false;
    let outcome = received(&switch, v4(FLOW, HOST, 3, 9, 0));
    assert_eq!(outcome.end, End::Replicate);
    let copies: Vec<_> = outcome.copies.iter().map(|(port, octets)| (*port, octets[15], octets[22])).collect();
    assert_eq!(copies, [(3, 0, 9), (2, 0, 8), (3, 0, 8)], "port, DSCP, time to live");
    switch.apply(&outcome.changes);
    let counted = |place| (switch.groups[&0][&place].packets, switch.groups[&0][&place].missed);
    assert_eq!([0, 1, 2, 3, 4].map(counted), [(1, 0), (1, 0), (0, 0), (0, 1), (1, 0)]);
    assert_eq!((switch.flows[&FLOW].packets, switch.flows[&FLOW].bytes), (1, 38), "the flow counts the frame once");
}

#[test]
fn a_packet_that_is_too_old_has_copies_in_the_same_subnet_only() {
    let mut switch = switch(&[(FLOW, flow(Next::Group(0)))]);
    switch.groups.insert(0, [hop(2, true), hop(3, false)].map(Receiver::new).into_iter().enumerate().collect());
    let outcome = received(&switch, v4(FLOW, HOST, 0, 1, 0));
    assert_eq!(outcome.copies.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [3]);
    assert!(outcome.changes.contains(&Change::Missed { receiver: (0, 0), frames: 1 }));
}

#[test]
fn a_group_without_receivers_spends_tokens_and_one_that_there_is_not_does_not() {
    let meter = Some(Meter { mantissa: 1, shift: 0, burst: 1_000, full_at: 0 });
    let mut switch = switch(&[(FLOW, Flow { meter, ..flow(Next::Group(5)) })]);
    let outcome = received(&switch, v4(FLOW, HOST, 0, 9, 0));
    assert_eq!((outcome.end, outcome.changes.len()), (End::NoReceiver, 0));
    switch.groups.insert(5, BTreeMap::new());
    let outcome = received(&switch, v4(FLOW, HOST, 0, 9, 0));
    assert_eq!((outcome.end, outcome.changes.len()), (End::NoReceiver, 1));
}

#[test]
fn flagged_packets_ask_for_a_flow_up_to_the_limit_of_their_port() {
    let mut switch = switch(&[]);
    let flagged = v4(NEXT, HOST, 3, 9, 0);
    assert_eq!(received(&switch, v4(NEXT, HOST, 2, 9, 0)).end, End::Pass);
    assert_eq!(received(&switch, v4([1, 0, 0x5e, 0, 0, 1], HOST, 3, 9, 0)).end, End::Pass);
    switch.ports.entry(1).or_default().asking = ASKING_LIMIT - 1;
    let outcome = received(&switch, flagged.clone());
    assert_eq!((outcome.end, outcome.changes.clone()), (End::AskFlow, vec![Change::Asked { port: 1 }]));
    switch.apply(&outcome.changes);
    assert_eq!(received(&switch, flagged.clone()).end, End::FlagRefused);
    let cut = flagged[..flagged.len() - 1].to_vec();
    assert_eq!(received(&switch, cut).end, End::FlagMalformed);
}

#[test]
fn a_flagged_packet_goes_by_its_tuples_flow() {
    let mut switch = switch(&[(FLOW, Flow { restore: Restore::Clear(3), ..flow(Next::Hop(hop(2, false))) })]);
    let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 9, 9].into());
    let tuple = Tuple { ingress: 1, source, destination, protocol: 17, ports: (4000, 5000) };
    switch.tuples.insert(tuple, Some(FLOW));
    let outcome = received(&switch, v4(NEXT, HOST, 3, 9, 0));
    assert_eq!((outcome.end, outcome.octets[15]), (End::Forward, 0));
    assert_eq!((&outcome.octets[..6], &outcome.octets[6..12]), (&NEXT[..], &FLOW[..]));
    switch.tuples.insert(tuple, None);
    assert_eq!(received(&switch, v4(NEXT, HOST, 3, 9, 0)).end, End::Pass);
}

#[test]
fn extension_headers_are_as_long_as_they_say() {
    let ports = [0x0f, 0xa0, 0x13, 0x88];
    let options = [&[51, 1][..], &[0; 14]].concat();
    let authentication = [&[17, 4][..], &[0; 22]].concat();
    let whole = [&options[..], &authentication, &ports].concat();
    let mut switch = switch(&[(FLOW, flow(Next::Hop(hop(2, false))))]);
    let address = |last| [0u16, 0, 0, 0, 0, 0, 0, last].into();
    let tuple = |protocol, ports| Tuple { ingress: 1, source: address(1), destination: address(2), protocol, ports };
    switch.tuples.insert(tuple(17, (4000, 5000)), Some(FLOW));
    assert_eq!(received(&switch, v6(0, &whole)).end, End::Forward);
    assert_eq!(received(&switch, v6(0, &whole[..whole.len() - 1])).end, End::FlagMalformed);
    switch.tuples = BTreeMap::from([(tuple(17, (0, 0)), Some(FLOW))]);
    assert_eq!(received(&switch, v6(0, &whole)).end, End::AskFlow);
    let fragment = [&[44, 0, 0, 0, 0, 0, 0, 0][..], &[17, 0, 0, 1, 0, 0, 0, 9], &ports].concat();
    assert_eq!(received(&switch, v6(60, &fragment)).end, End::Forward, "all fragments have one tuple");
}

#[test]
fn a_port_that_marks_adds_the_flag_once() {
    let mut switch = switch(&[]);
    switch.ports.entry(1).or_default().marks = true;
    let outcome = received(&switch, v4(NEXT, HOST, 0, 9, 0x1000));
    assert_eq!((outcome.end, outcome.octets[15], checksum(&outcome.octets)), (End::Marked, 12, [0x0f, 0xf4]));
    assert_eq!(received(&switch, outcome.octets).end, End::Pass);
}
