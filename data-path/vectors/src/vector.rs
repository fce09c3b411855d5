//! One golden frame.

use crate::{Outcome, Served, Setup, block, frames};
use flowlane_tables::{End, Resolution};
use flowlane_wire::{PortId, SlotIndex};

/// A frame, the tables that it meets, and what must become of it.
#[derive(Clone, Debug)]
pub struct Vector {
    /// Its name, unique in the list.
    pub name: String,
    /// What happens, as a sentence.
    pub sentence: String,
    /// The claims that it shows.
    pub claims: &'static [u8],
    /// The tables.
    pub setup: Setup,
    /// The port that the frame comes in by.
    pub ingress: PortId,
    /// The frame, from its destination address on, without check sequence.
    pub frame: Vec<u8>,
    /// What travels beside the frame.
    pub offload: Offload,
    /// What must become of it.
    pub expect: Expect,
}

/// What the kernel keeps beside a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The payload of each segment of a super-packet, else 0.
    pub gso_size: u32,
    /// A VLAN tag (protocol, tag) that does not stand in the frame's octets.
    pub tag: Option<(u16, u16)>,
}

/// What must become of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// How it ends.
    pub end: End,
    /// The port that it leaves by, if it does.
    pub egress: Option<PortId>,
    /// Its octets afterwards. A frame that is not sent is as it came, but for [`End::TtlExpired`] and
    /// [`End::TooBigRouted`].
    pub frame: Vec<u8>,
    /// The copies that are sent, in their order, with the port of each. Where there are any, `frame` means nothing.
    pub copies: Vec<(PortId, Vec<u8>)>,
    /// What the receivers of groups count. The others count nothing.
    pub served: Vec<Served>,
    /// Whether it joins those of its port that wait for a flow.
    pub asks: bool,
    /// The flow that counts it. No other flow counts anything.
    pub counted: Option<Counted>,
    /// The slot whose queue it joins. No other queue changes.
    pub joined: Option<SlotIndex>,
}

/// What a flow counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The flow's slot.
    pub slot: SlotIndex,
    /// Frames on the wire.
    pub frames: u64,
    /// Their octets.
    pub octets: u64,
}

impl Vector {
    /// A frame that comes in by port 1 of `setup`. Without further ado it must pass untouched.
    pub fn new(name: impl Into<String>, sentence: impl Into<String>, setup: &Setup, frame: Vec<u8>) -> Self {
        let expect = Expect {
            end: End::Pass,
            egress: None,
            frame: frame.clone(),
            copies: Vec::new(),
            served: Vec::new(),
            asks: false,
            counted: None,
            joined: None,
        };
        Self {
            name: name.into(),
            sentence: sentence.into(),
            claims: &[],
            setup: setup.clone(),
            ingress: PortId(1),
            frame,
            offload: Offload::default(),
            expect,
        }
    }

    /// Names the claims that the vector shows.
    #[must_use]
    pub fn claims(mut self, claims: &'static [u8]) -> Self {
        self.claims = claims;
        self
    }

    /// Lets the frame come in by another port.
    #[must_use]
    pub fn by_port(mut self, ingress: u16) -> Self {
        self.ingress = PortId(ingress);
        self
    }

    /// Puts a VLAN tag beside the frame.
    #[must_use]
    pub fn tag_beside(mut self, protocol: u16, tag: u16) -> Self {
        self.offload.tag = Some((protocol, tag));
        self
    }

    /// Makes the frame a super-packet.
    #[must_use]
    pub fn segments_of(mut self, gso_size: u32) -> Self {
        self.offload.gso_size = gso_size;
        self
    }

    /// It must end so, as it came, and be counted by no flow.
    #[must_use]
    pub fn ends(mut self, end: End) -> Self {
        self.expect.end = end;
        self
    }

    /// It must wait in the queue of a slot.
    #[must_use]
    pub fn waits(mut self, slot: u8) -> Self {
        self.expect.end = End::Resolve;
        self.expect.joined = Some(SlotIndex(u32::from(slot)));
        self
    }

    /// It must go to Linux with the destination address of its ingress port.
    #[must_use]
    pub fn goes_to_linux(mut self, end: End) -> Self {
        let own = self.setup.ports.iter().find(|port| port.id == self.ingress).expect("the ingress port is set up");
        self.expect.end = end;
        self.expect.frame = frames::with_destination(&self.frame, own.mac);
        self
    }

    /// It must be sent as `frame` by a port, and be counted by the flow of `slot` as one frame.
    #[must_use]
    pub fn leaves(mut self, slot: u8, egress: u16, frame: Vec<u8>) -> Self {
        let tag = if self.offload.tag.is_some() { 4 } else { 0 };
        let octets = frame.len() as u64 + tag;
        self.expect.end = End::Forward;
        self.expect.egress = Some(PortId(egress));
        self.expect.frame = frame;
        self.expect.counted = Some(Counted { slot: SlotIndex(u32::from(slot)), frames: 1, octets });
        self
    }

    /// By the backup.
    #[must_use]
    pub fn by_backup(mut self) -> Self {
        self.expect.end = End::Backup;
        self
    }

    /// It must be sent as these copies, in this order, one for the receiver in each place of the group, and be counted by
    /// the flow of `slot` as one frame.
    #[must_use]
    pub fn is_copied(mut self, slot: u8, group: usize, copies: Vec<(usize, Vec<u8>)>) -> Self {
        let tag = if self.offload.tag.is_some() { 4 } else { 0 };
        let octets = self.frame.len() as u64 + tag;
        let receivers = &self.setup.groups[group];
        let port = |place: usize| receivers[place].expect("a receiver").port;
        self.expect.end = End::Replicate;
        let served = |place| Served { group, place, packets: 1, bytes: octets, missed: 0 };
        self.expect.served = copies.iter().map(|(place, _)| served(*place)).collect();
        self.expect.copies = copies.into_iter().map(|(place, frame)| (port(place), frame)).collect();
        self.expect.counted = Some(Counted { slot: SlotIndex(u32::from(slot)), frames: 1, octets });
        self.expect.served.sort_unstable();
        self
    }

    /// The receivers in these places of a group must miss it.
    #[must_use]
    pub fn is_missed_by(mut self, group: usize, places: &[usize]) -> Self {
        let missed = places.iter().map(|place| Served { group, place: *place, packets: 0, bytes: 0, missed: 1 });
        self.expect.served.extend(missed);
        self.expect.served.sort_unstable();
        self
    }

    /// It must wait until its addresses and ports have a flow.
    #[must_use]
    pub fn asks(mut self) -> Self {
        self.expect.end = End::AskFlow;
        self.expect.asks = true;
        self
    }

    /// It must be left to Linux as `frame`, with the virtual-circuit flag.
    #[must_use]
    pub fn is_marked(mut self, frame: Vec<u8>) -> Self {
        self.expect.end = End::Marked;
        self.expect.frame = frame;
        self
    }

    /// Counted as so many frames and octets on the wire, by the flow and by each receiver.
    #[must_use]
    pub fn counted_as(mut self, frames: u64, octets: u64) -> Self {
        let slot = self.expect.counted.expect("a frame that leaves").slot;
        self.expect.counted = Some(Counted { slot, frames, octets });
        for served in &mut self.expect.served {
            (served.packets, served.bytes) = (served.packets * frames, served.packets * octets);
            served.missed *= frames;
        }
        self
    }

    /// Compares what became of the frame with what was to. All differences, one a line.
    ///
    /// # Errors
    /// The differences.
    pub fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let mut wrong = Vec::new();
        let Expect { end, egress, frame, copies, served, asks, counted, joined } = &self.expect;
        if outcome.end != *end {
            wrong.push(format!("ends as {}, not as {end}", outcome.end));
        }
        if outcome.egress != *egress {
            wrong.push(format!("leaves by {:?}, not by {egress:?}", outcome.egress));
        }
        if outcome.copies != *copies {
            wrong.push(format!("is copied as\n    {:02x?}\n  and not\n    {copies:02x?}", outcome.copies));
        }
        if outcome.served != *served {
            wrong.push(format!("is counted by the receivers {:?}, not by {served:?}", outcome.served));
        }
        let asked = self.setup.ports.iter().find(|port| port.id == self.ingress).map_or(0, |port| port.asking);
        let asking = asked + u64::from(*asks);
        if outcome.asking != asking {
            wrong.push(format!("leaves {} frames asking, not {asking}", outcome.asking));
        }
        let kept = !matches!(end, End::Replicate | End::NoReceiver);
        if let Some(octets) = outcome.frame.as_ref().filter(|octets| kept && *octets != frame) {
            wrong.push(format!("is\n    {octets:02x?}\n  and not\n    {frame:02x?}"));
        }
        for flow in &self.setup.flows {
            let slot = block().slot(flow.address);
            let frames = counted.filter(|counted| counted.slot == slot).map_or((0, 0), |c| (c.frames, c.octets));
            let next = match flow.next {
                Resolution::Pending(waiting) if *joined == Some(slot) => Resolution::Pending(waiting + 1),
                other => other,
            };
            let expected = Some((frames, next));
            let found = outcome.slots.get(slot.0 as usize).and_then(|slot| slot.as_ref());
            let found = found.map(|found| ((found.packets, found.bytes), found.next));
            if found != expected {
                wrong.push(format!("leaves flow {} with {found:?}, not with {expected:?}", flow.address));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    }
}
