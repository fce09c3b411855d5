//! What the pipeline decides.

use flowlane_tables::{End, GroupIndex};
use flowlane_wire::{PortId, SlotIndex};

/// What the executor is to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it to the Linux stack or bridge, untouched.
    Pass,
    /// Leave it to the Linux stack or bridge; the virtual-circuit flag has been added to it (claim 23).
    Marked,
    /// Send a copy to each receiver of a group: the executor calls [`crate::replicate`], which says how the frame ends.
    Replicate {
        /// The flow's slot.
        slot: SlotIndex,
        /// The group.
        group: GroupIndex,
    },
    /// Send it by a port; it has been rewritten.
    Forward {
        /// The egress port.
        port: PortId,
        /// By the next hop or by its backup.
        end: End,
    },
    /// Queue it for the slow path: the next hop of its flow is not known yet.
    Resolve {
        /// The flow's slot.
        slot: SlotIndex,
    },
    /// Queue it for the slow path: it is flagged, and its addresses and ports have no flow yet.
    Ask,
    /// Give it to the Linux stack, which answers with an ICMP error; its destination is the port's own address now.
    ToLinux(End),
    /// Drop it.
    Drop(End),
}

impl Verdict {
    /// The end of the frame if the verdict is carried out; for [`Verdict::Replicate`] if a copy is sent.
    #[inline(always)]
    pub const fn end(self) -> End {
        match self {
            Self::Pass => End::Pass,
            Self::Marked => End::Marked,
            Self::Replicate { .. } => End::Replicate,
            Self::Ask => End::AskFlow,
            Self::Forward { end, .. } | Self::ToLinux(end) | Self::Drop(end) => end,
            Self::Resolve { .. } => End::Resolve,
        }
    }
}
