//! DHCPv6 for flow addresses, seen from outside: octets in, octets out.
#![allow(clippy::unwrap_used, missing_docs)]

mod client;
mod codec;
mod exchange;
mod malformed;
mod server;
mod table;

use flowlane_dhcp6::{DhcpOption, Duid, Message, MessageType, Peer, Server, TransactionId};
use flowlane_wire::{Block, Mac, PortId};

/// The client of the examples in `docs/dhcpv6.md`.
const CLIENT: [u8; 16] = *b"\x5f\x1e\x0c\x8a\x7b\x2d\x4e\x3f\x9a\x6b\x1c\x2d\x3e\x4f\x5a\x6b";
/// Their server.
const SERVER: [u8; 16] = *b"\x00\x11\x22\x33\x44\x55\x56\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
const PEER: Peer = Peer { port: PortId(3), host: Mac([2, 0, 0, 0, 0, 1]) };

fn block() -> Block {
    Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 1024).unwrap()
}

fn server() -> Server {
    Server::new(SERVER, block())
}

fn client_id() -> DhcpOption {
    DhcpOption::ClientId(Duid::from_uuid(CLIENT))
}

fn server_id() -> DhcpOption {
    DhcpOption::ServerId(Duid::from_uuid(SERVER))
}

fn message(kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Message {
    Message { kind, transaction: TransactionId([0xc0, 0xff, 0xee]), options: options.into_iter().collect() }
}

/// Octets written as hexadecimal digits; what stands behind `|` in a line is a comment.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .lines()
        .filter_map(|line| line.split('|').next())
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap())
        .collect();
    assert_eq!(digits.len() % 2, 0, "half an octet");
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// An example of `docs/dhcpv6.md`.
fn example(name: &str) -> Vec<u8> {
    let page = include_str!("../../../../docs/dhcpv6.md");
    let (_, rest) = page.split_once(&format!("```hex {name}\n")).unwrap();
    hex(rest.split_once("```").unwrap().0)
}
