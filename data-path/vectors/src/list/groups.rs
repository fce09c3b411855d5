//! Multicast (claims 20 to 22): one copy for each receiver, and what becomes of those that get none.

use super::{
    HOST_A, HOST_B, HOST_C, JUMBO, NEXT_SWITCH, PORT_5, ROUTER, SMALL, claims::datagram, flow, hop, routed_hop,
};
use crate::{
    Flow, Lease, Meter, Setup, Vector, flow_address,
    frames::{
        ethernet, ethertype, hop_limit_less_one, ipv4, ipv6, payload, readdressed, tcp, ttl_less_one, udp, with_tos,
    },
};
use flowlane_tables::{End, GroupIndex, NextHop, RECEIVERS_MAX, Resolution};
use flowlane_wire::{Mac, PortId, Restore};

/// A second receiver on port 3.
const HOST_D: Mac = Mac([0x02, 0, 0, 0, 0xcc, 0x04]);
/// A receiver on port 1, where the sender is.
const NEIGHBOUR: Mac = Mac([0x02, 0, 0, 0, 0xaa, 0x09]);
/// A flow address of another switch, behind port 3.
const OTHER_SWITCH: Mac = Mac([0xa2, 0xf3, 0, 0, 0, 0x78]);

const CUSTOMER: (u16, u16) = (ethertype::CUSTOMER, 0x2064);
const SERVICE: (u16, u16) = (ethertype::SERVICE, 0x0fff);

/// The groups, by number. The flow of group *n* has slot `0x40 + n`.
mod group {
    pub const THREE: usize = 0;
    pub const ONE: usize = 1;
    pub const VIRTUAL: usize = 2;
    pub const BOTH_KINDS: usize = 3;
    pub const SENDER_TOO: usize = 4;
    pub const SENDER_ALONE: usize = 5;
    pub const EMPTY: usize = 6;
    pub const ONE_DOWN: usize = 7;
    pub const ALL_DOWN: usize = 8;
    pub const ONE_SMALL: usize = 9;
    pub const OWN_SOURCE: usize = 10;
    pub const MIXED: usize = 11;
    pub const ROUTED: usize = 12;
    pub const OWN_FLOW: usize = 13;
    pub const FULL: usize = 14;
    pub const GAPS: usize = 15;
    pub const NO_SUCH_PORT: usize = 16;
    pub const JUMBO: usize = 17;
    pub const ALL_SMALL: usize = 18;
    pub const ROUTED_BEHIND_SENDER: usize = 19;
    pub const ROUTED_SMALL: usize = 20;
    pub const SAME_ADDRESS: usize = 21;
}

/// Slots of other flows that go to groups.
mod slot {
    pub const NO_SUCH_GROUP: u8 = 0x60;
    pub const METERED: u8 = 0x61;
    pub const NARROW: u8 = 0x62;
    pub const EXHAUSTED: u8 = 0x63;
    pub const EXPIRED: u8 = 0x64;
    /// Comes in by port 2.
    pub const BACK: u8 = 0x65;
    pub const CLEARED: u8 = 0x66;
    pub const CLEARED_ROUTED: u8 = 0x67;
    pub const LEASED: u8 = 0x68;
    /// A second flow of the group `THREE`.
    pub const SECOND: u8 = 0x69;
}

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let setup = with_groups(setup);
    let mut vectors = claims(&setup);
    vectors.extend(addressed(&setup));
    vectors.extend(never_back(&setup));
    vectors.extend(without_copy(&setup));
    vectors.extend(routed(&setup));
    vectors.extend(metered(&setup));
    vectors.extend(contents(&setup));
    vectors.extend(sizes(&setup));
    vectors.extend(restored(&setup));
    vectors
}

/// The standard switch with groups and their flows.
fn with_groups(setup: &Setup) -> Setup {
    let groups = groups();
    let mut flows = setup.flows.clone();
    flows.extend((0..groups.len()).map(|group| to(of(group), group)));
    flows.extend([
        to(slot::NO_SUCH_GROUP, 5_000),
        Flow { meter: Meter::Wide, ..to(slot::METERED, group::THREE) },
        Flow { meter: Meter::Narrow, ..to(slot::NARROW, group::THREE) },
        Flow { meter: Meter::Exhausted, ..to(slot::EXHAUSTED, group::THREE) },
        Flow { lease: Lease::Past, ..to(slot::EXPIRED, group::THREE) },
        Flow { lease: Lease::Future, ..to(slot::LEASED, group::ONE) },
        Flow { port: PortId(2), ..to(slot::BACK, group::SENDER_TOO) },
        Flow { restore: Restore::Clear(3), ..to(slot::CLEARED, group::THREE) },
        Flow { restore: Restore::Clear(3), ..to(slot::CLEARED_ROUTED, group::MIXED) },
        to(slot::SECOND, group::THREE),
    ]);
    Setup { groups, flows, ..setup.clone() }
}

/// The slot of a group's flow.
fn of(group: usize) -> u8 {
    0x40 + group as u8
}

fn to(slot: u8, group: usize) -> Flow {
    Flow {
        address: flow_address(0, slot),
        port: PortId(1),
        lease: Lease::Never,
        next: Resolution::Group(GroupIndex(group as u32)),
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Keep,
    }
}

fn groups() -> Vec<Vec<Option<NextHop>>> {
    let far_router = NextHop { mac: HOST_D, ..routed_hop(3) };
    let groups: [&[Option<NextHop>]; 22] = [
        &[Some(hop(HOST_B, 2)), Some(hop(HOST_C, 3)), Some(hop(HOST_D, 3))],
        &[Some(hop(HOST_B, 2))],
        &[Some(hop(NEXT_SWITCH, 2)), Some(hop(OTHER_SWITCH, 3))],
        &[Some(hop(HOST_B, 2)), Some(hop(OTHER_SWITCH, 3))],
        &[Some(hop(NEIGHBOUR, 1)), Some(hop(HOST_B, 2)), Some(hop(HOST_C, 3))],
        &[Some(hop(NEIGHBOUR, 1))],
        &[],
        &[Some(hop(HOST_C, super::DOWN)), Some(hop(HOST_B, 2))],
        &[Some(hop(HOST_C, super::DOWN)), Some(hop(HOST_D, super::DOWN))],
        &[Some(hop(HOST_C, SMALL)), Some(hop(HOST_B, 2))],
        &[Some(hop(HOST_B, 5)), Some(hop(HOST_C, 3))],
        &[Some(routed_hop(2)), Some(hop(HOST_C, 3)), Some(far_router), Some(hop(HOST_B, 2))],
        &[Some(routed_hop(2)), Some(far_router)],
        &[Some(hop(flow(super::slot::PLAIN), 3)), Some(hop(HOST_B, 2))],
        &full(),
        &[None, Some(hop(HOST_B, 2)), None, None, Some(hop(HOST_C, 3))],
        &[Some(hop(HOST_C, 2_000)), Some(hop(HOST_B, 2)), Some(hop(HOST_D, 9))],
        &[Some(hop(HOST_B, JUMBO)), Some(hop(HOST_C, 3))],
        &[Some(hop(HOST_C, SMALL))],
        &[Some(NextHop { mac: NEIGHBOUR, ..routed_hop(1) }), Some(hop(HOST_B, 2))],
        &[Some(routed_hop(SMALL)), Some(hop(HOST_B, 2))],
        &[Some(hop(HOST_B, 2)), Some(hop(HOST_B, 3))],
    ];
    groups.into_iter().map(<[_]>::to_vec).collect()
}

/// As many receivers as a group may have, by turns on ports 2 and 3.
fn full() -> Vec<Option<NextHop>> {
    (0..RECEIVERS_MAX).map(|place| Some(hop(receiver(place), 2 + place as u16 % 2))).collect()
}

/// The receiver in a place of the group `FULL`.
fn receiver(place: usize) -> Mac {
    Mac([0x02, 0, 0, 0, 0xdd, place as u8])
}

/// A datagram to a group's flow from the sender on port 1.
fn new(setup: &Setup, name: &str, sentence: &str, group: usize) -> Vector {
    Vector::new(name, sentence, setup, datagram(flow(of(group)), HOST_A))
}

/// The copy of a datagram for one receiver.
fn copy(group: usize, receiver: Mac) -> Vec<u8> {
    datagram(receiver, flow(of(group)))
}

fn claims(setup: &Setup) -> Vec<Vector> {
    let three = |slot: u8| {
        let copy = |receiver| datagram(receiver, flow(slot));
        vec![(0, copy(HOST_B)), (1, copy(HOST_C)), (2, copy(HOST_D))]
    };
    vec![
        octet_by_octet(setup),
        new(
            setup,
            "claim_20_a_copy_for_each_receiver",
            "Three receivers on two ports get a copy each, in their order; the sender gets none.",
            group::THREE,
        )
        .claims(&[20, 21])
        .is_copied(of(group::THREE), group::THREE, three(of(group::THREE))),
        Vector::new(
            "claim_20_two_flows_of_one_group",
            "The source of the copies is the flow's address, not the group's: two flows can share a group.",
            setup,
            datagram(flow(slot::SECOND), HOST_A),
        )
        .claims(&[20])
        .is_copied(slot::SECOND, group::THREE, three(slot::SECOND)),
        new(setup, "claim_20_a_group_of_one", "One receiver is a group as well.", group::ONE)
            .claims(&[20, 21])
            .is_copied(of(group::ONE), group::ONE, vec![(0, copy(group::ONE, HOST_B))]),
        new(setup, "claim_20_a_full_group", "As many receivers as a group may have: each gets its copy.", group::FULL)
            .claims(&[20])
            .is_copied(
                of(group::FULL),
                group::FULL,
                (0..RECEIVERS_MAX).map(|place| (place, copy(group::FULL, receiver(place)))).collect(),
            ),
        new(
            setup,
            "claim_21_real_receivers",
            "The forwarding host addresses are those of network cards.",
            group::SAME_ADDRESS,
        )
        .claims(&[20, 21])
        .is_copied(
            of(group::SAME_ADDRESS),
            group::SAME_ADDRESS,
            vec![(0, copy(group::SAME_ADDRESS, HOST_B)), (1, copy(group::SAME_ADDRESS, HOST_B))],
        ),
        new(
            setup,
            "claim_22_virtual_receivers",
            "The forwarding host addresses are flow addresses of the next switches, which may replicate in turn.",
            group::VIRTUAL,
        )
        .claims(&[20, 22])
        .is_copied(
            of(group::VIRTUAL),
            group::VIRTUAL,
            vec![(0, copy(group::VIRTUAL, NEXT_SWITCH)), (1, copy(group::VIRTUAL, OTHER_SWITCH))],
        ),
        new(
            setup,
            "claim_22_a_virtual_and_a_real_receiver",
            "A branch point may have a receiver of its own, and another switch behind it.",
            group::BOTH_KINDS,
        )
        .claims(&[20, 21, 22])
        .is_copied(
            of(group::BOTH_KINDS),
            group::BOTH_KINDS,
            vec![(0, copy(group::BOTH_KINDS, HOST_B)), (1, copy(group::BOTH_KINDS, OTHER_SWITCH))],
        ),
        new(
            setup,
            "claim_22_a_receiver_that_is_a_flow_of_this_switch",
            "A receiver may be a flow address of this very block: the copy is sent out, not looked up again.",
            group::OWN_FLOW,
        )
        .claims(&[20, 22])
        .is_copied(
            of(group::OWN_FLOW),
            group::OWN_FLOW,
            vec![(0, copy(group::OWN_FLOW, flow(super::slot::PLAIN))), (1, copy(group::OWN_FLOW, HOST_B))],
        ),
    ]
}

/// Two copies written out in hexadecimal digits.
fn octet_by_octet(setup: &Setup) -> Vector {
    let frame = |addresses: [u8; 12]| {
        let mut frame = addresses.to_vec();
        frame.extend([0x88, 0xb5, 0xde, 0xad]);
        frame
    };
    let arrives = frame([0xa2, 0xf1, 0x00, 0x00, 0x00, 0x43, 0x02, 0x00, 0x00, 0x00, 0xaa, 0x01]);
    let first = frame([0x02, 0x00, 0x00, 0x00, 0xbb, 0x02, 0xa2, 0xf1, 0x00, 0x00, 0x00, 0x43]);
    let second = frame([0xa2, 0xf3, 0x00, 0x00, 0x00, 0x78, 0xa2, 0xf1, 0x00, 0x00, 0x00, 0x43]);
    let sentence = "The source of both copies is the flow's address, the destination the receiver's.";
    Vector::new("claim_20_octet_by_octet", sentence, setup, arrives).claims(&[20, 21, 22]).is_copied(
        0x43,
        group::BOTH_KINDS,
        vec![(0, first), (1, second)],
    )
}

/// Which field the flow address stands in, and whose port the frame came in by.
fn addressed(setup: &Setup) -> Vec<Vector> {
    let one = of(group::ONE);
    let copies = || vec![(0, copy(group::ONE, HOST_B))];
    let new = |name, sentence, destination, source| Vector::new(name, sentence, setup, datagram(destination, source));
    vec![
        new("claim_20_group_by_source", "The flow address stands in the source field.", HOST_C, flow(one))
            .claims(&[2, 20])
            .is_copied(one, group::ONE, copies()),
        new(
            "group_by_source_to_broadcast",
            "A broadcast from a flow of a group goes to the receivers alone.",
            Mac::BROADCAST,
            flow(one),
        )
        .is_copied(one, group::ONE, copies()),
        new("group_in_both_fields", "Source and destination are the flow's address.", flow(one), flow(one)).is_copied(
            one,
            group::ONE,
            copies(),
        ),
        new(
            "group_from_a_plain_flow",
            "The destination's flow decides: the group's receivers get it.",
            flow(one),
            flow(super::slot::PLAIN),
        )
        .is_copied(one, group::ONE, copies()),
        new(
            "plain_flow_from_a_group",
            "The destination's flow decides: the group does not matter.",
            flow(super::slot::PLAIN),
            flow(one),
        )
        .leaves(super::slot::PLAIN, 2, datagram(HOST_B, flow(super::slot::PLAIN))),
        new("group_from_an_expired_flow", "The source's flow must be live.", flow(one), flow(slot::EXPIRED))
            .ends(End::Expired),
        new("group_from_an_unknown_flow", "The source's flow must exist.", flow(one), flow(super::slot::FREE))
            .ends(End::UnknownFlow),
        new("group_from_another_port", "The port is checked as for any flow.", flow(one), HOST_A)
            .claims(&[19])
            .by_port(3)
            .ends(End::WrongPort),
        new("group_with_a_stale_tag", "An earlier flow of the slot.", flow_address(1, one).mac(), HOST_A)
            .ends(End::UnknownFlow),
        new("group_whose_lease_has_ended", "Nobody gets a copy.", flow(slot::EXPIRED), HOST_A).ends(End::Expired),
        new("group_whose_lease_is_good", "The lease has time to go.", flow(slot::LEASED), HOST_A).is_copied(
            slot::LEASED,
            group::ONE,
            vec![(0, datagram(HOST_B, flow(slot::LEASED)))],
        ),
        new(
            "group_by_an_ethernet_multicast",
            "A frame to an IPv4 multicast address from a flow of a group: the receivers' own addresses replace it.",
            Mac([1, 0, 0x5e, 1, 2, 3]),
            flow(one),
        )
        .is_copied(one, group::ONE, copies()),
    ]
}

/// No copy goes back to the port that the frame came in by.
fn never_back(setup: &Setup) -> Vec<Vector> {
    let back = |receiver| datagram(receiver, flow(slot::BACK));
    let too_old = ipv4(1, 17, &[], 0, &udp(&payload(20)));
    let frame = |destination, source| ethernet(destination, source, &[], ethertype::IPV4, &too_old);
    let routed = of(group::ROUTED_BEHIND_SENDER);
    vec![
        new(
            setup,
            "claim_20_never_back_to_the_sender",
            "The receiver behind the sender's port gets no copy, and has not missed one.",
            group::SENDER_TOO,
        )
        .claims(&[20])
        .is_copied(
            of(group::SENDER_TOO),
            group::SENDER_TOO,
            vec![(1, copy(group::SENDER_TOO, HOST_B)), (2, copy(group::SENDER_TOO, HOST_C))],
        ),
        Vector::new(
            "group_from_a_receivers_port",
            "From port 2, the copies go to ports 1 and 3.",
            setup,
            datagram(flow(slot::BACK), HOST_B),
        )
        .claims(&[20])
        .by_port(2)
        .is_copied(slot::BACK, group::SENDER_TOO, vec![(0, back(NEIGHBOUR)), (2, back(HOST_C))]),
        new(
            setup,
            "only_receiver_is_behind_the_sender",
            "There is nobody else to send to, and nobody has missed anything.",
            group::SENDER_ALONE,
        )
        .ends(End::NoReceiver),
        new(
            setup,
            "routed_receiver_is_behind_the_sender",
            "The other one gets its copy with the time to live as it came.",
            group::ROUTED_BEHIND_SENDER,
        )
        .is_copied(routed, group::ROUTED_BEHIND_SENDER, vec![(1, copy(group::ROUTED_BEHIND_SENDER, HOST_B))]),
        Vector::new(
            "routed_receiver_is_behind_the_sender_ttl_1",
            "Who would get no copy anyway has not missed one.",
            setup,
            frame(flow(routed), HOST_A),
        )
        .is_copied(routed, group::ROUTED_BEHIND_SENDER, vec![(1, frame(HOST_B, flow(routed)))]),
    ]
}

/// Receivers that can not be sent a copy.
fn without_copy(setup: &Setup) -> Vec<Vector> {
    vec![
        new(setup, "group_without_receivers", "Nobody has joined.", group::EMPTY).ends(End::NoReceiver),
        Vector::new(
            "group_that_does_not_exist",
            "The number is beyond the last group's.",
            setup,
            datagram(flow(slot::NO_SUCH_GROUP), HOST_A),
        )
        .ends(End::NoReceiver),
        new(setup, "receivers_port_is_down", "Its receiver misses the frame, the other gets it.", group::ONE_DOWN)
            .claims(&[20])
            .is_copied(of(group::ONE_DOWN), group::ONE_DOWN, vec![(1, copy(group::ONE_DOWN, HOST_B))])
            .is_missed_by(group::ONE_DOWN, &[0]),
        new(setup, "all_receivers_ports_are_down", "Both miss it.", group::ALL_DOWN)
            .ends(End::NoReceiver)
            .is_missed_by(group::ALL_DOWN, &[0, 1]),
        new(
            setup,
            "receivers_ports_do_not_exist",
            "One is beyond the last port, the other is not set up: both miss it.",
            group::NO_SUCH_PORT,
        )
        .is_copied(of(group::NO_SUCH_PORT), group::NO_SUCH_PORT, vec![(1, copy(group::NO_SUCH_PORT, HOST_B))])
        .is_missed_by(group::NO_SUCH_PORT, &[0, 2]),
        new(setup, "group_with_free_places", "Receivers have left; the places of the others stay.", group::GAPS)
            .claims(&[20])
            .is_copied(
                of(group::GAPS),
                group::GAPS,
                vec![(1, copy(group::GAPS, HOST_B)), (4, copy(group::GAPS, HOST_C))],
            ),
        new(
            setup,
            "claim_20_port_that_sends_with_its_own_source",
            "One port is set to send with its own address; the other's copy has the flow's.",
            group::OWN_SOURCE,
        )
        .claims(&[20])
        .is_copied(
            of(group::OWN_SOURCE),
            group::OWN_SOURCE,
            vec![(0, datagram(HOST_B, PORT_5)), (1, copy(group::OWN_SOURCE, HOST_C))],
        ),
    ]
}

/// Receivers in other subnets come last, with a time to live less by one.
fn routed(setup: &Setup) -> Vec<Vector> {
    let mixed = |name: &str, sentence: &str, frame: Vec<u8>, less: &dyn Fn(&[u8]) -> Vec<u8>| {
        let first = flow(of(group::MIXED));
        let to = |receiver| readdressed(&frame, receiver, first);
        let copies = vec![(1, to(HOST_C)), (3, to(HOST_B)), (0, less(&to(ROUTER))), (2, less(&to(HOST_D)))];
        Vector::new(name, sentence, setup, readdressed(&frame, first, HOST_A)).is_copied(
            of(group::MIXED),
            group::MIXED,
            copies,
        )
    };
    let too_old = |name: &str, sentence: &str, frame: Vec<u8>| {
        let first = flow(of(group::MIXED));
        let to = |receiver| readdressed(&frame, receiver, first);
        Vector::new(name, sentence, setup, readdressed(&frame, first, HOST_A))
            .is_copied(of(group::MIXED), group::MIXED, vec![(1, to(HOST_C)), (3, to(HOST_B))])
            .is_missed_by(group::MIXED, &[0, 2])
    };
    let alone = |name: &str, sentence: &str, frame: Vec<u8>| {
        Vector::new(name, sentence, setup, readdressed(&frame, flow(of(group::ROUTED)), HOST_A))
    };
    let carries = |ethertype, payload: &[u8]| ethernet(HOST_B, HOST_A, &[], ethertype, payload);
    let v4 = |ttl| carries(ethertype::IPV4, &ipv4(ttl, 17, &[], 0, &udp(&payload(20))));
    let v6 = |limit| carries(ethertype::IPV6, &ipv6(limit, 17, &udp(&payload(20))));
    let less = |frame: &[u8]| ttl_less_one(frame, 14);
    let same = |frame: &[u8]| frame.to_vec();
    let tagged = ethernet(HOST_B, HOST_A, &[SERVICE, CUSTOMER], ethertype::IPV4, &ipv4(64, 17, &[], 0, &udp(&[])));
    let wrong_version = carries(ethertype::IPV4, &{
        let mut packet = ipv4(64, 17, &[], 0, &udp(&[]));
        packet[0] = 0x65;
        packet
    });
    let small = of(group::ROUTED_SMALL);
    let large = ethernet(flow(small), HOST_A, &[], ethertype::IPV4, &ipv4(64, 17, &[], 0, &payload(1_000)));
    vec![
        mixed(
            "claim_20_routed_receivers_come_last",
            "Two in the same subnet get the packet as it came, then two in others with a time to live less by one.",
            v4(64),
            &less,
        )
        .claims(&[20, 21]),
        mixed("routed_receivers_ttl_2", "2 becomes 1, once for all of them.", v4(2), &less),
        mixed("routed_receivers_ipv6", "The hop limit does so, too.", v6(64), &|frame| hop_limit_less_one(frame, 14)),
        mixed("routed_receivers_behind_tags", "Behind two tags.", tagged, &|frame| ttl_less_one(frame, 22)),
        mixed("routed_receivers_arp", "There is no time to live in ARP.", carries(ethertype::ARP, &payload(46)), &same),
        too_old("routed_receivers_ttl_1", "Those in other subnets miss it; nobody is told why.", v4(1)),
        too_old("routed_receivers_ttl_0", "Nor does 0 go on.", v4(0)),
        too_old("routed_receivers_hop_limit_1", "Nor does a hop limit of 1.", v6(1)),
        too_old("routed_receivers_malformed", "What makes no sense is not routed.", wrong_version),
        too_old("routed_receivers_cut_short", "Nor what ends within its tag.", {
            ethernet(HOST_B, HOST_A, &[], ethertype::CUSTOMER, &[0, 100, 8])
        }),
        alone("routed_receivers_alone", "All are in other subnets.", v4(64)).is_copied(
            of(group::ROUTED),
            group::ROUTED,
            vec![
                (0, less(&readdressed(&v4(64), ROUTER, flow(of(group::ROUTED))))),
                (1, less(&readdressed(&v4(64), HOST_D, flow(of(group::ROUTED))))),
            ],
        ),
        alone("routed_receivers_alone_ttl_1", "All are in other subnets, and miss it.", v4(1))
            .ends(End::NoReceiver)
            .is_missed_by(group::ROUTED, &[0, 1]),
        Vector::new(
            "routed_receivers_port_is_too_small",
            "There is no ICMP error to a group: the receiver misses it.",
            setup,
            large.clone(),
        )
        .is_copied(small, group::ROUTED_SMALL, vec![(1, readdressed(&large, HOST_B, flow(small)))])
        .is_missed_by(group::ROUTED_SMALL, &[0]),
    ]
}

/// The flow pays once, however many copies there are.
fn metered(setup: &Setup) -> Vec<Vector> {
    let new = |name, sentence, slot: u8| Vector::new(name, sentence, setup, datagram(flow(slot), HOST_A));
    let copy = |receiver| datagram(receiver, flow(slot::METERED));
    vec![
        new("claim_20_group_within_its_rate", "The flow pays for one frame.", slot::METERED).claims(&[20]).is_copied(
            slot::METERED,
            group::THREE,
            vec![(0, copy(HOST_B)), (1, copy(HOST_C)), (2, copy(HOST_D))],
        ),
        new("group_larger_than_its_burst", "No copy is sent, and no receiver counts it.", slot::NARROW)
            .ends(End::OverRate),
        new("group_whose_bucket_is_empty", "The bucket has been emptied.", slot::EXHAUSTED).ends(End::OverRate),
        Vector::new(
            "group_over_its_rate_by_source",
            "The flow address is the source, and its bucket is empty.",
            setup,
            datagram(HOST_B, flow(slot::EXHAUSTED)),
        )
        .ends(End::OverRate),
    ]
}

/// What a frame to a group carries does not matter.
fn contents(setup: &Setup) -> Vec<Vector> {
    let v4 = ipv4(64, 17, &[], 0, &udp(&payload(20)));
    let v6 = ipv6(64, 17, &udp(&payload(20)));
    let slot = of(group::THREE);
    let vector = |name: &str, sentence: &str, tags: &[(u16, u16)], ethertype, payload: &[u8]| {
        let frame = |destination, source| ethernet(destination, source, tags, ethertype, payload);
        let copy = |receiver| frame(receiver, flow(slot));
        (
            Vector::new(format!("group_carries_{name}"), sentence, setup, frame(flow(slot), HOST_A)).claims(&[20]),
            vec![(0, copy(HOST_B)), (1, copy(HOST_C)), (2, copy(HOST_D))],
        )
    };
    let plain = [
        vector("ipv6", "IPv6.", &[], ethertype::IPV6, &v6),
        vector("arp", "ARP.", &[], ethertype::ARP, &payload(46)),
        vector("mpls", "Labels stay as they are.", &[], ethertype::MPLS, &payload(50)),
        vector("macsec", "What is encrypted can be copied, too.", &[], ethertype::MACSEC, &payload(64)),
        vector("unheard_of_ethertype", "Who knows.", &[], 0xfffe, &payload(46)),
        vector("nothing", "Two addresses and an EtherType.", &[], ethertype::LOCAL, &[]),
        vector("length_instead_of_ethertype", "IEEE 802.3 frames, too.", &[], 46, &payload(46)),
        vector("ttl_1", "In the same subnet the time to live does not matter.", &[], ethertype::IPV4, &{
            ipv4(1, 17, &[], 0, &udp(&[]))
        }),
        vector("customer_tag", "Each copy has the tag.", &[CUSTOMER], ethertype::IPV4, &v4),
        vector("two_tags", "Each copy has both.", &[SERVICE, CUSTOMER], ethertype::IPV4, &v4),
        vector("fragment", "A fragment is a packet.", &[], ethertype::IPV4, &ipv4(64, 17, &[], 0x2010, &[7; 64])),
    ];
    let beside = [
        vector("tag_beside", "A tag beside the frame is beside each copy.", &[], ethertype::IPV4, &v4),
        vector("tag_beside_and_one", "A tag beside the frame and one in it.", &[CUSTOMER], ethertype::IPV6, &v6),
    ];
    let plain = plain.into_iter();
    let beside = beside.into_iter().map(|(vector, copies)| (vector.tag_beside(SERVICE.0, SERVICE.1), copies));
    plain.chain(beside).map(|(vector, copies)| vector.is_copied(slot, group::THREE, copies)).collect()
}

fn sizes(setup: &Setup) -> Vec<Vector> {
    let frame = |ip_len: usize| {
        move |destination, source| {
            ethernet(destination, source, &[], ethertype::IPV4, &ipv4(64, 17, &[], 0, &payload(ip_len - 20)))
        }
    };
    let new = |name: &str, sentence: &str, group, ip_len| {
        Vector::new(name, sentence, setup, frame(ip_len)(flow(of(group)), HOST_A))
    };
    let to = |receiver, group, ip_len| frame(ip_len)(receiver, flow(of(group)));
    let segments = |destination, source| {
        ethernet(destination, source, &[], ethertype::IPV4, &ipv4(64, 6, &[], 0, &tcp(0, &payload(3_000))))
    };
    let small = group::ONE_SMALL;
    vec![
        new("group_mtu_exactly", "600 octets fit both.", small, 600).is_copied(
            of(small),
            small,
            vec![(0, to(HOST_C, small, 600)), (1, to(HOST_B, small, 600))],
        ),
        new("receivers_port_is_too_small", "601 octets fit one port and not the other.", small, 601)
            .claims(&[20])
            .is_copied(of(small), small, vec![(1, to(HOST_B, small, 601))])
            .is_missed_by(small, &[0]),
        new("all_receivers_ports_are_too_small", "The only receiver misses it.", group::ALL_SMALL, 601)
            .ends(End::NoReceiver)
            .is_missed_by(group::ALL_SMALL, &[0]),
        new("group_jumbo", "2000 octets fit the port for jumbo frames alone.", group::JUMBO, 2_000)
            .is_copied(of(group::JUMBO), group::JUMBO, vec![(0, to(HOST_B, group::JUMBO, 2_000))])
            .is_missed_by(group::JUMBO, &[1]),
        Vector::new(
            "group_super_packet",
            "Three segments of 1000 octets are three frames of 1054 for each receiver, sent as one.",
            setup,
            segments(flow(of(group::ONE)), HOST_A),
        )
        .segments_of(1_000)
        .is_copied(of(group::ONE), group::ONE, vec![(0, segments(HOST_B, flow(of(group::ONE))))])
        .counted_as(3, 3 * 1_054),
        Vector::new(
            "group_super_packet_that_fits_one",
            "Segments of 1054 octets do not fit a port of MTU 600: three frames are missed there.",
            setup,
            segments(flow(of(small)), HOST_A),
        )
        .segments_of(1_000)
        .is_copied(of(small), small, vec![(1, segments(HOST_B, flow(of(small))))])
        .is_missed_by(small, &[0])
        .counted_as(3, 3 * 1_054),
    ]
}

/// The virtual-circuit flag is taken off before the first copy.
fn restored(setup: &Setup) -> Vec<Vector> {
    let frame = |destination, slot: u8| datagram(destination, flow(slot));
    let flagged = |slot: u8| with_tos(&datagram(flow(slot), HOST_A), 14, 0xbd);
    let plain = |receiver, slot| with_tos(&frame(receiver, slot), 14, 0xb1);
    let (cleared, mixed) = (slot::CLEARED, slot::CLEARED_ROUTED);
    vec![
        Vector::new("group_takes_the_flag_off", "All copies are without it.", setup, flagged(cleared))
            .claims(&[20])
            .is_copied(
                cleared,
                group::THREE,
                vec![(0, plain(HOST_B, cleared)), (1, plain(HOST_C, cleared)), (2, plain(HOST_D, cleared))],
            ),
        Vector::new(
            "group_takes_the_flag_off_and_routes",
            "The checksum is right after both changes.",
            setup,
            flagged(mixed),
        )
        .is_copied(
            mixed,
            group::MIXED,
            vec![
                (1, plain(HOST_C, mixed)),
                (3, plain(HOST_B, mixed)),
                (0, ttl_less_one(&plain(ROUTER, mixed), 14)),
                (2, ttl_less_one(&plain(HOST_D, mixed), 14)),
            ],
        ),
    ]
}
