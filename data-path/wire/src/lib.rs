//! Addresses and header offsets: what a frame looks like on the wire.
//!
//! Everything else of Flowlane builds on these types. The crate has no state, no allocation and no unsafe code,
//! so that the same definitions compile for the kernel, for userspace and for the fuzzers.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod block;
mod flag;
pub mod header;
mod mac;

pub use block::{Block, BlockError, FlowAddress, SlotIndex};
pub use flag::{Flag, Restore};
pub use mac::{Mac, ParseMacError};

/// A port of a switch, by the switch's own number: 1 and up. 0 is no port at all.
///
/// Tables hold these numbers and not the kernel's interface indices, which change when an interface is re-created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PortId(pub u16);

impl PortId {
    /// No port: the egress of a flow that has no next hop yet.
    pub const NONE: Self = Self(0);
}

impl core::fmt::Display for PortId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}
