//! The userspace executor: a thread for each queue of a port, from its socket through the pipeline to the senders.
//!
//! It is the same on AF_PACKET rings and on AF_XDP sockets. Frames are handled in batches: decided for together
//! ([`flowlane_pipeline::run_batch`]), then carried out in the order in which they came. What the control path has to do
//! with is behind [`Control`].
#![forbid(unsafe_code)]

mod batch;
mod copies;
mod senders;
mod source;
mod worker;

pub use senders::{Senders, Transmitters};
pub use source::Source;
pub use worker::{Work, Worker};

use flowlane_ports::{PortError, af_packet::RxFrame};
use flowlane_tables::End;
use flowlane_wire::{PortId, SlotIndex};
use std::time::Duration;

/// What a port's threads have for others. None of it may block.
pub trait Control: Clone + Send + 'static {
    /// A frame waits for the next hop of the flow in a slot. Whether somebody takes it; else it is dropped.
    fn wait(&self, slot: SlotIndex, ingress: PortId, frame: &RxFrame<'_>) -> bool;

    /// A flagged frame asks for a flow (claim 24). Whether somebody takes it; else it is dropped.
    fn ask(&self, ingress: PortId, frame: &RxFrame<'_>) -> bool;

    /// The packet in a frame is Linux's to handle.
    fn give_to_linux(&self, frame: &[u8]);

    /// A frame has ended; told only where [`Work::show`] says so.
    fn show(&self, seen: Seen);

    /// A thread of the port has ended, for this reason.
    fn ended(&self, port: PortId, error: PortError);
}

/// A frame that has ended, to be shown.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it came, since 1970.
    pub at: Duration,
    /// The port that it came in by.
    pub ingress: PortId,
    /// The port that it left by.
    pub egress: Option<PortId>,
    /// How it ended.
    pub end: End,
    /// Whether it is the copy for one receiver of a group: the frame itself is shown as well.
    pub copy: bool,
    /// Its length in octets.
    pub length: usize,
    /// Its first octets as it came; none of a copy.
    pub before: Vec<u8>,
    /// Its first octets as it was left.
    pub after: Vec<u8>,
}
