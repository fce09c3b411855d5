//! The tables of a switch as plain data, and the one that the vectors share.

use flowlane_tables::{Group, NEVER, NextHop, PortEntry, PortFlags, Rate, Resolution, Slot, Tuple};
use flowlane_wire::{Block, Flag, FlowAddress, Mac, PortId, Restore, SlotIndex};

/// The block of addresses that all vectors use: `a2:f1:00:00:00:00/16`, with 256 slots.
///
/// An address in it is `a2:f1`, three octets of tag, one octet of slot.
pub fn block() -> Block {
    Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 256).expect("a locally administered block with room for 256 slots")
}

/// The flow address of a slot in its generation `tag`.
pub fn flow_address(tag: u32, slot: u8) -> FlowAddress {
    block().address(u64::from(tag), SlotIndex(u32::from(slot)))
}

/// Ports and flows of one switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// The ports; all others do not exist.
    pub ports: Vec<Port>,
    /// The flows; all other slots are free.
    pub flows: Vec<Flow>,
    /// The multicast groups, by number: the receiver in each place.
    pub groups: Vec<Vec<Option<NextHop>>>,
    /// The flow addresses of flagged packets, as numbers; [`flowlane_tables::PASS`] for those that get none.
    pub tuples: Vec<(Tuple, u64)>,
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Its own Ethernet address.
    pub mac: Mac,
    /// Octets without the Ethernet header.
    pub mtu: u32,
    /// Up, and whether it sends with its own source address.
    pub flags: PortFlags,
    /// By what it knows the virtual-circuit flag.
    pub flag: Option<Flag>,
    /// How many flagged frames wait for a flow.
    pub asking: u64,
}

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its address.
    pub address: FlowAddress,
    /// The port that its frames come in by.
    pub port: PortId,
    /// When its lease ends.
    pub lease: Lease,
    /// Where its frames go.
    pub next: Resolution,
    /// Where they go while the port of `next` is down.
    pub backup: Option<NextHop>,
    /// How fast it may send.
    pub meter: Meter,
    /// What is done to the DSCP.
    pub restore: Restore,
}

/// The end of a lease, so far from now that the moment of the test does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// There is none.
    Never,
    /// It has passed.
    Past,
    /// It is to come.
    Future,
}

/// A meter, such that the moment of the test does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    /// None.
    Unlimited,
    /// 1 Gbit/s; the bucket holds 65 s of that and lacks 20 s, so that it is not filled up while a test runs and its
    /// state depends on the frames alone.
    Wide,
    /// 8 kbit/s, and a burst of one octet: no frame fits.
    Narrow,
    /// 1 Gbit/s, but the bucket has been emptied for an hour to come.
    Exhausted,
}

impl Setup {
    /// Writes the tables, all slots, ports and groups of them. `device` tells the interface index of a port;
    /// `nanos` is the monotonic clock. The tuples are left to the caller.
    pub fn install(
        &self,
        slots: &[Slot],
        ports: &[PortEntry],
        groups: &[Group],
        device: impl Fn(PortId) -> u32,
        nanos: u64,
    ) {
        for port in ports {
            port.set(0, 0, Mac::default(), PortFlags::default());
            port.set_flag(None);
            port.asking().store(0);
        }
        for (number, group) in groups.iter().enumerate() {
            group.clear_all();
            for (place, hop) in self.groups.get(number).into_iter().flatten().enumerate() {
                hop.iter().for_each(|hop| group.put(place, *hop));
            }
        }
        for port in &self.ports {
            if let Some(entry) = ports.get(usize::from(port.id.0)) {
                entry.set(device(port.id), port.mtu, port.mac, port.flags);
                entry.set_flag(port.flag);
                entry.asking().store(port.asking);
            }
        }
        slots.iter().for_each(Slot::remove);
        for flow in &self.flows {
            if let Some(slot) = slots.get(block().slot(flow.address).0 as usize) {
                flow.install(slot, nanos);
            }
        }
    }
}

impl Flow {
    /// Writes the flow into its slot; `nanos` is the monotonic clock.
    pub fn install(&self, slot: &Slot, nanos: u64) {
        slot.install(self.address, self.port, self.lease.tick(), self.meter.rate(), self.next);
        slot.set_backup(self.backup);
        slot.set_restore(self.restore);
        slot.full_at().store(self.meter.full_at(nanos));
    }
}

impl Lease {
    fn tick(self) -> u32 {
        match self {
            Self::Never => NEVER,
            Self::Past => 0,
            Self::Future => NEVER - 1,
        }
    }
}

impl Meter {
    fn rate(self) -> Rate {
        match self {
            Self::Unlimited => Rate::UNLIMITED,
            Self::Wide | Self::Exhausted => Rate::new(1_000_000_000, 65 * 125_000_000),
            Self::Narrow => Rate::new(8_000, 1),
        }
    }

    /// The state of the bucket, in sixteenths of a nanosecond.
    fn full_at(self, nanos: u64) -> u64 {
        let seconds = match self {
            Self::Unlimited | Self::Narrow => return 0,
            Self::Wide => 20,
            Self::Exhausted => 3_600,
        };
        16 * (nanos + seconds * 1_000_000_000)
    }
}
