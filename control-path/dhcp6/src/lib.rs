//! DHCPv6 link-layer address assignment (RFC 8947, RFC 8948): codec, server, client.
//!
//! Everything here is without I/O: UDP payloads go in, UDP payloads come out, and time is a number that the caller
//! passes. The base protocol is RFC 9915, which replaced RFC 8415; section numbers are the same in both unless a
//! comment says otherwise.
//!
//! - [`Message`] and [`DhcpOption`]: parse and emit.
//! - [`Server`]: a payload becomes a [`Transaction`], that is operations on leases; their results become the answer.
//!   The two halves are apart because a lease must be durable before anybody is told of it.
//! - [`Client`]: holds one lease: solicits, requests, renews, rebinds, releases, declines.
//! - [`FlowOption`]: what a flow is for, in a vendor option.
#![forbid(unsafe_code)]

mod client;
mod duid;
mod flow;
mod message;
mod option;
mod reader;
mod retransmit;
mod server;

use std::net::Ipv6Addr;

pub use client::{Client, Config, Discard, Event, Grant};
pub use duid::{Duid, DuidError};
pub use flow::{ENTERPRISE, FlowOption, MAX_CROSSED, MAX_NAME, RawOption};
pub use message::{Message, MessageType, TransactionId};
pub use option::{DhcpOption, IaLl, LlAddr, Quadrant, QuadrantPreference, Status, StatusCode, TooLong, code};
pub use reader::{ParseError, Problem};
pub use server::{Held, Ignore, MAX_IA_LL, Operation, Peer, Server, Transaction};

/// The UDP port that clients listen on, RFC 9915 section 7.2.
pub const CLIENT_PORT: u16 = 546;

/// The UDP port that servers listen on, RFC 9915 section 7.2.
pub const SERVER_PORT: u16 = 547;

/// Where clients send to, on the link (All_DHCP_Relay_Agents_and_Servers), RFC 9915 section 7.1.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// A time that never comes, in seconds, RFC 9915 section 7.7.
pub const INFINITY: u32 = u32::MAX;
