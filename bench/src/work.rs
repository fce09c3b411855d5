//! What a switch has to do with the frames.

use crate::frame::{GROUP, INGRESS, NEXT_HOP, SOURCE, Traffic, addresses, destination_of};
use flowlane_program::{ProgramError, Tables};
use flowlane_tables::{GroupIndex, NEVER, NextHop, Rate, Resolution, Tuple};
use flowlane_wire::{Flag, Mac, PortId, header::protocol};
use serde::Serialize;

/// The ports of a switch that is measured.
pub(crate) const IN: PortId = PortId(1);
pub(crate) const OUT: PortId = PortId(2);

/// The tick at which leases end: long after the measurement, but where a lease has no end, the clock is not read.
pub(crate) const EXPIRES: u32 = NEVER - 1;

/// Receivers of a group.
const RECEIVERS: u64 = 4;
/// Theirs.
pub(crate) const ONLY_GROUP: GroupIndex = GroupIndex(1);
/// Far more than is ever sent, so that the meter is read and written and no frame is dropped.
const METER: u64 = 1_000_000_000_000;
const BURST: u64 = 1 << 30;

/// What a switch has to do with the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// The destination is the flow's address (claim 10).
    Unicast,
    /// The source is the flow's address (claim 7).
    Source,
    /// The flow has a meter.
    Metered,
    /// The flow goes to a group of four receivers, behind one port (claim 20). Each copy counts as a frame delivered.
    Group,
    /// Packets carry the virtual-circuit flag and no flow address (claim 24).
    Flagged,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unicast, Self::Source, Self::Metered, Self::Group, Self::Flagged];

    /// The work of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.name() == name)
    }

    /// The name, as it stands in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Source => "source",
            Self::Metered => "metered",
            Self::Group => "group",
            Self::Flagged => "flagged",
        }
    }

    /// How many frames arrive for each that is sent.
    pub fn copies(self) -> u64 {
        if self == Self::Group { RECEIVERS } else { 1 }
    }

    /// What is sent to a switch with this work, and what is to arrive.
    pub(crate) fn traffic(self, flows: u32) -> Traffic {
        let plain = Traffic::rewritten(flows);
        match self {
            Self::Unicast | Self::Metered => plain,
            Self::Source => Traffic { destination: Some(INGRESS), source: None, ..plain },
            Self::Group => Traffic { arriving_destination: Some(GROUP), arriving_mask: !(RECEIVERS - 1), ..plain },
            Self::Flagged => Traffic {
                destination: Some(INGRESS),
                source: Some(SOURCE),
                traffic_class: Flag::DEFAULT.add_to(0) << 2,
                ..plain
            },
        }
    }

    /// Installs the flows.
    pub(crate) fn install(self, tables: &Tables, flows: u32) -> Result<(), ProgramError> {
        let next = self.next(tables);
        let rate = if self == Self::Metered { Rate::new(METER, BURST) } else { Rate::UNLIMITED };
        for address in addresses(flows) {
            let slot = &tables.slots()[tables.block().slot(address).0 as usize];
            slot.install(address, IN, EXPIRES, rate, next);
        }
        if self == Self::Flagged {
            tables.ports()[usize::from(IN.0)].set_flag(Some(Flag::DEFAULT));
            for (number, address) in (0..).zip(addresses(flows)) {
                tables.tuples().set(tuple(number), address.mac().to_u64())?;
            }
        }
        Ok(())
    }

    fn next(self, tables: &Tables) -> Resolution {
        let hop = |mac| NextHop { mac, port: OUT, routed: false };
        if self != Self::Group {
            return Resolution::Resolved(hop(NEXT_HOP));
        }
        for receiver in 0..RECEIVERS {
            let mac = Mac::from_u64(GROUP.to_u64() + receiver);
            tables.groups()[ONLY_GROUP.0 as usize].put(receiver as usize, hop(mac));
        }
        Resolution::Group(ONLY_GROUP)
    }
}

/// Whose packet a flagged frame of that number is.
fn tuple(number: u32) -> Tuple {
    let address = |octets: [u8; 4]| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&octets);
        address
    };
    Tuple {
        source: address(crate::frame::FROM),
        destination: address(destination_of(number)),
        source_port: crate::frame::SOURCE_PORT,
        destination_port: crate::frame::DESTINATION_PORT,
        protocol: protocol::UDP,
        version: 4,
        ingress: IN.0.to_be_bytes(),
    }
}
