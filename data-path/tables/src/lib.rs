//! The tables of a switch, shared by the kernel and userspace through one piece of memory.
//!
//! Everything here has a fixed layout ([`LAYOUT`]) and consists of 64-bit words, so that a reader never sees half of a
//! next hop while a writer replaces it, and a million entries are installed without a system call each.
#![no_std]
#![cfg_attr(not(target_arch = "bpf"), forbid(unsafe_code))]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features))]

#[cfg(test)]
extern crate std;

mod end;
mod flag;
mod group;
mod mark;
mod meter;
mod next_hop;
mod port;
mod punt;
mod run;
mod slot;
mod word;

pub use end::{ENDS, End, Kind};
pub use flag::{ASKING_LIMIT, PASS, Tuple};
pub use group::{GROUPS, Group, RECEIVERS_MAX, Receiver};
pub use mark::{MARK_RULES, MarkRule};
pub use meter::Rate;
pub use next_hop::{GroupIndex, NextHop, PENDING_LIMIT, Resolution};
pub use port::{MAX_PORTS, PortEntry, PortFlags, QUEUES_MAX};
pub use punt::{PuntHeader, PuntKind, SNAP, WAITING_MAX};
pub use run::{
    HELD_MAX, HELD_NANOS, HeldHeader, PATHS_MAX, RUN_FLOWS, RUN_INTERFACES, RUN_LAYOUT, RUN_LEVELS, RUN_SCOPES,
    RunAction, RunFlow, RunKey, RunPath, RunScope, RunScopes, RunState,
};
pub use slot::{Flow, NEVER, Plain, Slot, TICK_NANOS, ticks};
pub use word::Word;

/// The version of all that is laid out here. Pinned tables of another version are not adopted but rebuilt.
pub const LAYOUT: u32 = 4;
