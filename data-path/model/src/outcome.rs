//! What comes in, and what comes of it.

use crate::{Flow, Mac, Next, PortNumber, Switch};
use flowlane_tables::End;

/// A frame that comes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The port that it comes in by.
    pub ingress: PortNumber,
    /// The frame from its destination address on, without check sequence, and without a tag that is beside it.
    pub octets: Vec<u8>,
    /// The payload of each segment of a super-packet, else 0.
    pub gso_size: u32,
    /// Whether the kernel keeps the outermost VLAN tag beside the octets.
    pub tag_beside: bool,
}

/// What comes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ends.
    pub end: End,
    /// As how many frames the ingress port counts that.
    pub frames: u64,
    /// The port that it is sent by, if it is sent to one next hop.
    pub egress: Option<PortNumber>,
    /// Its octets afterwards. They mean nothing where it was given to a group.
    pub octets: Vec<u8>,
    /// The group that it was given to.
    pub group: Option<u32>,
    /// The copies that are sent, in their order, and the port of each.
    pub copies: Vec<(PortNumber, Vec<u8>)>,
    /// By what the tables are different afterwards.
    pub changes: Vec<Change>,
}

/// A change of the tables by a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One more frame waits for the flow's next hop.
    Joined {
        /// The flow.
        flow: Mac,
    },
    /// One more flagged frame of the port waits for a flow of its own.
    Asked {
        /// The port.
        port: PortNumber,
    },
    /// The flow's meter has let frames through.
    Metered {
        /// The flow.
        flow: Mac,
        /// When the bucket is full again.
        full_at: u64,
    },
    /// The flow counts frames that were sent.
    Sent {
        /// The flow.
        flow: Mac,
        /// Frames on the wire.
        frames: u64,
        /// Their octets.
        octets: u64,
    },
    /// A receiver of a group counts a copy.
    Copied {
        /// Group and place.
        receiver: (u32, usize),
        /// Frames on the wire.
        frames: u64,
        /// Their octets.
        octets: u64,
    },
    /// A receiver of a group counts a frame of which there was no copy.
    Missed {
        /// Group and place.
        receiver: (u32, usize),
        /// Frames on the wire.
        frames: u64,
    },
}

impl Outcome {
    /// The frame as it came.
    pub(crate) fn untouched(arrival: &Arrival) -> Self {
        Self {
            end: End::Pass,
            frames: 0,
            egress: None,
            octets: arrival.octets.clone(),
            group: None,
            copies: Vec::new(),
            changes: Vec::new(),
        }
    }
}

impl Switch {
    /// Makes the changes that a frame brings.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Joined { flow } => self.change(flow, |flow| {
                    if let Next::Waiting(frames) = &mut flow.next {
                        *frames += 1;
                    }
                }),
                Change::Asked { port } => self.ports.entry(port).or_default().asking += 1,
                Change::Metered { flow, full_at } => self.change(flow, |flow| {
                    flow.meter.iter_mut().for_each(|meter| meter.full_at = full_at);
                }),
                Change::Sent { flow, frames, octets } => self.change(flow, |flow| {
                    flow.packets = flow.packets.wrapping_add(frames);
                    flow.bytes = flow.bytes.wrapping_add(octets);
                }),
                Change::Copied { receiver: (group, place), frames, octets } => {
                    let receiver = self.groups.get_mut(&group).and_then(|group| group.get_mut(&place));
                    receiver.into_iter().for_each(|receiver| {
                        receiver.packets = receiver.packets.wrapping_add(frames);
                        receiver.bytes = receiver.bytes.wrapping_add(octets);
                    });
                }
                Change::Missed { receiver: (group, place), frames } => {
                    let receiver = self.groups.get_mut(&group).and_then(|group| group.get_mut(&place));
                    receiver.into_iter().for_each(|receiver| receiver.missed = receiver.missed.wrapping_add(frames));
                }
            }
        }
    }

    fn change(&mut self, flow: Mac, change: impl FnOnce(&mut Flow)) {
        if let Some(flow) = self.flows.get_mut(&flow) {
            change(flow);
        }
    }
}
