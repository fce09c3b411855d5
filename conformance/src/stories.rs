//! The stories: what one frame can not show.

use crate::story::{Act, Story};
use flowlane_allot::{Allotter, Lease as Granted, Policy};
use flowlane_dhcp6::{Operation, Peer, Server};
use flowlane_tables::{End, NextHop, PortFlags, Resolution, Tuple};
use flowlane_vectors::{
    Flow, Lease, Meter, Port, Setup, Vector, block, flow_address,
    frames::{ethernet, ethertype, ipv4, payload, readdressed, ttl_less_one, udp, with_tos},
};
use flowlane_wire::{Flag, FlowAddress, Mac, PortId, Restore, SlotIndex};

/// The sender, on port 1.
const SENDER: Mac = Mac([0x02, 0, 0, 0, 0xaa, 0x01]);
/// The receiver, on port 2.
const RECEIVER: Mac = Mac([0x02, 0, 0, 0, 0xbb, 0x02]);
/// A router on port 2.
const ROUTER: Mac = Mac([0x00, 0x1b, 0x21, 0x0e, 0x0f, 0x10]);
/// A flow address of the next switch, behind port 2.
const NEXT_SWITCH: Mac = Mac([0xa2, 0xf2, 0, 0, 0, 0x77]);
/// The flag in a traffic class.
const FLAG: u8 = 0x0c;

/// All stories.
pub fn stories() -> Vec<Story> {
    vec![
        asked_over_dhcpv6(),
        first_and_later(),
        first_and_later_to_the_next_switch(),
        first_and_later_by_source(),
        marked_and_read(),
        asked_by_the_flag(),
    ]
}

/// Claim 1, with the server and the allotter of the switch, and the messages that docs/dhcpv6.md prints.
fn asked_over_dhcpv6() -> Story {
    let (addresses, failed) = match ask() {
        Ok(lease) => (lease.addresses(block()).collect(), None),
        Err(why) => (Vec::new(), Some(Act::Failed(why))),
    };
    let flows = addresses.iter().map(|address| flow(*address, Resolution::Resolved(hop(RECEIVER)))).collect();
    let setup = setup(flows);
    let beyond = flow_address(0, addresses.len() as u8).mac();
    let to =
        |name: &str, sentence: &str, destination| Vector::new(name, sentence, &setup, datagram(destination, SENDER));
    let mut acts: Vec<Act> = failed.into_iter().collect();
    for slot in [0, 7, 15] {
        let first = flow_address(0, slot).mac();
        acts.push(act(to("granted", "A granted address is the destination.", first).leaves(
            slot,
            2,
            datagram(RECEIVER, first),
        )));
    }
    let first = flow_address(0, 3).mac();
    acts.push(act(Vector::new("granted_source", "One is the source.", &setup, datagram(RECEIVER, first)).leaves(
        3,
        2,
        datagram(RECEIVER, first),
    )));
    acts.push(act(to("neighbour", "The address behind the granted ones is nobody's.", beyond).ends(End::UnknownFlow)));
    acts.push(act(to("other_port", "A granted address by another port.", first).by_port(2).ends(End::WrongPort)));
    Story {
        name: "claim_01_asked_over_dhcpv6",
        sentence: "A host asks for 16 flow addresses and is sent them; frames with them are forwarded, others are not.",
        claims: &[1, 2, 3, 4, 5, 6, 17, 18, 19],
        setup,
        acts,
    }
}

/// Sends the Solicit of docs/dhcpv6.md to the server, and compares its Reply.
fn ask() -> Result<Granted, String> {
    const UUID: [u8; 16] =
        [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x56, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    const NOW: u64 = 1_000_000;
    let server = Server::new(UUID, block());
    let peer = Peer { port: PortId(1), host: SENDER };
    let transaction = server.plan(&example("solicit")?, peer).map_err(|error| format!("no transaction: {error}"))?;
    let [Operation::Request(request)] = transaction.operations() else {
        return Err(format!("the message asks for {:?}", transaction.operations()));
    };
    let granted = Allotter::new(block(), Policy::default(), 0).request(request, NOW);
    let reply = transaction.reply(std::slice::from_ref(&granted), NOW).ok_or("no reply")?;
    let expected = example("reply")?;
    if reply != expected {
        return Err(format!("the reply is {reply:02x?}, and not {expected:02x?}"));
    }
    granted.map_err(|refusal| format!("refused: {refusal}"))
}

/// A message that docs/dhcpv6.md prints: hexadecimal digits to the left of a bar.
fn example(name: &str) -> Result<Vec<u8>, String> {
    let page = include_str!("../../docs/dhcpv6.md");
    let lines = page.lines().skip_while(|line| *line != format!("```hex {name}")).skip(1);
    let digits: String = lines
        .take_while(|line| !line.starts_with("```"))
        .flat_map(|line| line.split('|').next().unwrap_or_default().chars().filter(|character| *character != ' '))
        .collect();
    let octets = digits.as_bytes().chunks(2).map(|pair| {
        let pair = str::from_utf8(pair).map_err(|error| error.to_string())?;
        u8::from_str_radix(pair, 16).map_err(|error| format!("{pair:?}: {error}"))
    });
    octets.collect::<Result<Vec<_>, _>>().and_then(|octets| {
        if octets.is_empty() { Err(format!("docs/dhcpv6.md has no example {name:?}")) } else { Ok(octets) }
    })
}

/// Claims 13 and 18: to a receiver behind a router.
fn first_and_later() -> Story {
    let first = flow_address(0, 1);
    let hop = NextHop { mac: ROUTER, port: PortId(2), routed: true };
    let sent = |frame: &[u8]| ttl_less_one(&readdressed(frame, ROUTER, first.mac()), 14);
    let not_ip = ethernet(first.mac(), SENDER, &[], ethertype::LOCAL, &payload(46));
    let not_ip_sent = readdressed(&not_ip, ROUTER, first.mac());
    first_packet(
        "claim_13_and_18_first_and_later_packets",
        "The first packet waits for its next host; later ones are sent by the table, whatever their IP destination.",
        &[3, 13, 16, 17, 18],
        datagram(first.mac(), SENDER),
        hop,
        sent,
        vec![(not_ip, not_ip_sent)],
    )
}

/// Claim 14: the second host is the next switch's flow address.
fn first_and_later_to_the_next_switch() -> Story {
    let first = flow_address(0, 1);
    first_packet(
        "claim_14_first_packet_to_the_next_switch",
        "The second host that is found for the first packet is the next switch's flow address.",
        &[13, 14, 17, 18],
        datagram(first.mac(), SENDER),
        hop(NEXT_SWITCH),
        |frame| readdressed(frame, NEXT_SWITCH, first.mac()),
        Vec::new(),
    )
}

/// Claim 13, with the flow address in the source field.
fn first_and_later_by_source() -> Story {
    let first = flow_address(0, 1);
    first_packet(
        "claim_13_first_packet_by_source",
        "The flow address is the source; where the flow goes is found by the IP destination all the same.",
        &[2, 7, 11, 13, 18],
        datagram(ROUTER, first.mac()),
        hop(RECEIVER),
        |frame| readdressed(frame, RECEIVER, first.mac()),
        Vec::new(),
    )
}

/// A first packet of the flow in slot 1, and later ones: the same again, one to another IP destination, and those of
/// `more` as they come and as they are sent.
fn first_packet(
    name: &'static str,
    sentence: &'static str,
    claims: &'static [u8],
    frame: Vec<u8>,
    hop: NextHop,
    sent: impl Fn(&[u8]) -> Vec<u8>,
    more: Vec<(Vec<u8>, Vec<u8>)>,
) -> Story {
    let first = flow_address(0, 1);
    let pending = setup(vec![flow(first, Resolution::UNKNOWN)]);
    let resolved = setup(vec![flow(first, Resolution::Resolved(hop))]);
    let mut elsewhere = frame.clone();
    elsewhere[33] = 77;
    let elsewhere = with_tos(&elsewhere, 14, 0);
    let mut later = vec![(frame.clone(), sent(&frame)), (elsewhere.clone(), sent(&elsewhere))];
    later.extend(more);
    let found = Act::Found { slot: SlotIndex(1), destination: [10, 0, 9, 9].into(), hop, sent: sent(&frame) };
    let mut acts = vec![act(Vector::new("first", "It waits.", &pending, frame).waits(1)), found];
    acts.extend(later.into_iter().map(|(frame, sent)| {
        act(Vector::new("later", "The table says where to.", &resolved, frame).leaves(1, 2, sent))
    }));
    Story { name, sentence, claims, setup: pending, acts }
}

/// Claims 23 and 24: what one port adds, another reads.
fn marked_and_read() -> Story {
    let first = flow_address(0, 1);
    let read = Flow { restore: Restore::Clear(3), ..flow(first, Resolution::Resolved(hop(RECEIVER))) };
    let mut setup = setup(vec![read]);
    setup.ports[0].flag = Some(Flag::DEFAULT);
    setup.ports[2].flag = Some(Flag::DEFAULT);
    setup.ports[2].flags = PortFlags::UP.with(PortFlags::MARKS);
    setup.tuples = vec![(tuple(), first.mac().to_u64())];
    let plain = datagram(ROUTER, SENDER);
    let marked = with_tos(&plain, 14, FLAG);
    let sent = readdressed(&plain, RECEIVER, first.mac());
    let acts = vec![
        act(Vector::new("plain", "Without the flag it is in no flow.", &setup, plain.clone())),
        act(Vector::new("marked", "Port 3 adds the flag.", &setup, plain).by_port(3).is_marked(marked.clone())),
        act(Vector::new("read", "Port 1 reads it, and takes it off.", &setup, marked).leaves(1, 2, sent)),
    ];
    Story {
        name: "claim_23_and_24_flag_is_added_and_read",
        sentence: "What one port marks, another puts into its flow; the receiver sees the packet as it was before.",
        claims: &[15, 23, 24, 25, 26, 27],
        setup,
        acts,
    }
}

/// Claim 24: a flagged packet asks the network to recognise its flow.
fn asked_by_the_flag() -> Story {
    let first = flow_address(0, 1);
    let given = flow(first, Resolution::Resolved(hop(NEXT_SWITCH)));
    let mut before = setup(Vec::new());
    before.ports[0].flag = Some(Flag::DEFAULT);
    let after = Setup { flows: vec![given], tuples: vec![(tuple(), first.mac().to_u64())], ..before.clone() };
    let frame = with_tos(&datagram(ROUTER, SENDER), 14, FLAG);
    let sent = readdressed(&frame, NEXT_SWITCH, first.mac());
    let acts = vec![
        act(Vector::new("asks", "Nobody knows it.", &before, frame.clone()).asks()),
        Act::Given { tuple: tuple(), flow: given },
        act(Vector::new("known", "It has a flow.", &after, frame.clone()).leaves(1, 2, sent.clone())),
        act(Vector::new("again", "And keeps it.", &after, frame).leaves(1, 2, sent)),
    ];
    Story {
        name: "claim_24_a_flag_asks_for_a_flow",
        sentence: "The first flagged packet asks for a flow; when it has one, later packets are in it.",
        claims: &[1, 24, 25, 26, 28],
        setup: before,
        acts,
    }
}

fn act(vector: Vector) -> Act {
    Act::Frame(Box::new(vector))
}

/// A switch with three ports and these flows.
fn setup(flows: Vec<Flow>) -> Setup {
    let port = |id: u8| Port {
        id: PortId(u16::from(id)),
        mac: Mac([2, 0, 0, 0, 0, id]),
        mtu: 1500,
        flags: PortFlags::UP,
        flag: None,
        asking: 0,
    };
    Setup { ports: (1..=3).map(port).collect(), flows, ..Setup::default() }
}

fn flow(address: FlowAddress, next: Resolution) -> Flow {
    Flow {
        address,
        port: PortId(1),
        lease: Lease::Never,
        next,
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Keep,
    }
}

fn hop(mac: Mac) -> NextHop {
    NextHop { mac, port: PortId(2), routed: false }
}

/// A UDP datagram from 10.0.0.1, port 4000, to 10.0.9.9, port 5000.
fn datagram(destination: Mac, source: Mac) -> Vec<u8> {
    ethernet(destination, source, &[], ethertype::IPV4, &ipv4(64, 17, &[], 0, &udp(&payload(40))))
}

/// Whose it is, where it comes in by port 1.
fn tuple() -> Tuple {
    let mut tuple = Tuple {
        source_port: 4_000u16.to_be_bytes(),
        destination_port: 5_000u16.to_be_bytes(),
        protocol: 17,
        version: 4,
        ingress: [0, 1],
        ..Tuple::default()
    };
    tuple.source[..4].copy_from_slice(&[10, 0, 0, 1]);
    tuple.destination[..4].copy_from_slice(&[10, 0, 9, 9]);
    tuple
}
