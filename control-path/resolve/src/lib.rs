//! The next host of a flow, from the Linux routing, neighbour and forwarding tables (claims 13 to 16).
//!
//! A [`Resolver`] watches [`Query`]s: where does a flow to this IP address go, that comes in by this port? The
//! answer is what the kernel itself would do with the packet: its route, its neighbour, and, behind a bridge, the
//! port where the bridge saw that neighbour. [`Events`] tells the first answer and every change of it.
//!
//! ```text
//!   netlink ──> notice ──> tables ──> decide ──> events
//!                            ^                     │ needs a route, a neighbour, a bridge entry
//!                            └──── netlink <───────┘
//! ```
//!
//! The engine between netlink and the events does no I/O and reads no clock.
#![forbid(unsafe_code)]

mod decide;
mod engine;
mod netlink;
mod query;
mod resolver;
mod tables;

pub use query::{Error, Event, LinkState, NextHost, Query, Reason, Resolution, Route, StaticRoute};
pub use resolver::{Events, Resolver, list_links};
