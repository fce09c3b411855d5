//! What the pipeline did, for people. The kernel runs it with the observer `()`, of which nothing remains.

use crate::Place;
use flowlane_tables::{NextHop, Rate, Resolution, Tuple};
use flowlane_wire::{Mac, PortId, SlotIndex};

/// One step of the pipeline, with what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The frame's addresses were read.
    Parsed {
        /// Destination address.
        destination: Mac,
        /// Source address.
        source: Mac,
    },
    /// Neither address is in the switch's block.
    NotOurs,
    /// The frame is flagged; its addresses and ports were looked up.
    Flagged {
        /// Whose packet it is.
        tuple: Tuple,
        /// The flow address of the tuple, [`flowlane_tables::PASS`] if it gets none; nothing if nobody has decided yet.
        found: Option<u64>,
    },
    /// The virtual-circuit flag was added, or taken off: the DSCP was replaced.
    Dscp {
        /// The DSCP on arrival.
        before: u8,
        /// The DSCP as sent.
        after: u8,
    },
    /// A receiver of the group was looked at.
    Receiver {
        /// Its place in the group.
        place: usize,
        /// Where its copy goes.
        hop: NextHop,
        /// Whether a copy was sent.
        sent: bool,
    },
    /// A flow address was found in the frame.
    Ours {
        /// In which field.
        place: Place,
        /// The address.
        address: Mac,
        /// The slot that it points to.
        slot: SlotIndex,
    },
    /// The slot was compared with the address.
    LookedUp {
        /// Whose the slot is; nothing for a free one.
        holder: Option<Mac>,
    },
    /// The slot's port was compared with the ingress port.
    PortChecked {
        /// The flow's port.
        expected: PortId,
        /// The port that the frame came in by.
        ingress: PortId,
    },
    /// The end of the lease was compared with the clock.
    LeaseChecked {
        /// The tick at which the lease ends.
        expires: u32,
        /// The tick now.
        now: u32,
    },
    /// The next hop was read from the slot.
    NextHop {
        /// What the slot says.
        resolution: Resolution,
    },
    /// The port to send by was chosen.
    Egress {
        /// The hop.
        hop: NextHop,
        /// Whether it is the backup.
        backup: bool,
        /// Whether its port is up.
        up: bool,
    },
    /// The frame was taken out of the flow's token bucket.
    Metered {
        /// The flow's rate.
        rate: Rate,
        /// Whether the frame is within it.
        conforms: bool,
    },
    /// The time to live (hop limit) was read.
    HopLimit {
        /// Its value on arrival.
        value: u8,
    },
    /// The addresses were replaced.
    Rewritten {
        /// Destination address as sent.
        destination: Mac,
        /// Source address as sent.
        source: Mac,
    },
}

/// Is told each step.
pub trait Observer {
    /// A step was taken.
    fn step(&mut self, step: Step);
}

impl Observer for () {
    #[inline(always)]
    fn step(&mut self, _: Step) {}
}

impl<T: FnMut(Step)> Observer for T {
    fn step(&mut self, step: Step) {
        self(step);
    }
}
