//! The tables of a switch, shared by the kernel and userspace through one piece of memory.
//!
//! Everything here has a fixed layout ([`LAYOUT`]) and consists of 64-bit words, so that a reader never sees half of a
//! next hop while a writer replaces it, and a million entries are installed without a system call each.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod end;
mod meter;
mod next_hop;
mod port;
mod punt;
mod slot;

pub use end::{ENDS, End, Kind};
pub use meter::Rate;
pub use next_hop::{NextHop, PENDING_LIMIT, Resolution};
pub use port::{MAX_PORTS, PortEntry, PortFlags};
pub use punt::{PUNT_FRAME_MAX, PuntHeader, PuntKind};
pub use slot::{Flow, NEVER, Slot, TICK_NANOS, ticks};

/// The version of all that is laid out here. Pinned tables of another version are not adopted but rebuilt.
pub const LAYOUT: u32 = 1;
