//! The list, and the switch that its frames meet.

mod claims;
mod contents;
mod ends;
mod flags;
mod groups;
mod routed;
mod sizes;

use crate::{Flow, Lease, Meter, Port, Setup, Vector, flow_address};
use flowlane_tables::{NextHop, PENDING_LIMIT, PortFlags, Resolution};
use flowlane_wire::{Mac, PortId, Restore};

/// All vectors.
pub fn all() -> Vec<Vector> {
    let setup = standard();
    let lists = [claims::list, contents::list, ends::list, flags::list, groups::list, routed::list, sizes::list];
    lists.into_iter().flat_map(|list| list(&setup)).collect()
}

/// A sender on port 1.
const HOST_A: Mac = Mac([0x02, 0, 0, 0, 0xaa, 0x01]);
/// A receiver on port 2.
const HOST_B: Mac = Mac([0x02, 0, 0, 0, 0xbb, 0x02]);
/// A receiver on port 3.
const HOST_C: Mac = Mac([0x02, 0, 0, 0, 0xcc, 0x03]);
/// A router on port 2.
const ROUTER: Mac = Mac([0x00, 0x1b, 0x21, 0x0e, 0x0f, 0x10]);
/// A flow address of the next switch, behind port 2.
const NEXT_SWITCH: Mac = Mac([0xa2, 0xf2, 0, 0, 0, 0x77]);
/// The address of port 5, which sends with its own.
const PORT_5: Mac = Mac([0x02, 0, 0, 0, 0, 5]);

/// A port without a link.
const DOWN: u16 = 4;
/// A port for jumbo frames.
const JUMBO: u16 = 6;
/// A port for small frames: MTU 600.
const SMALL: u16 = 7;

/// The slots of the standard switch's flows. All come in by port 1 except those that say otherwise.
mod slot {
    pub const PLAIN: u8 = 0x01;
    pub const ROUTED: u8 = 0x02;
    pub const TO_SWITCH: u8 = 0x03;
    pub const EXPIRED: u8 = 0x04;
    pub const LEASED: u8 = 0x05;
    pub const PENDING: u8 = 0x06;
    pub const ALMOST_FULL: u8 = 0x07;
    pub const FULL: u8 = 0x08;
    pub const UNREACHABLE: u8 = 0x09;
    pub const BACKUP: u8 = 0x0a;
    pub const NO_BACKUP: u8 = 0x0b;
    pub const BOTH_DOWN: u8 = 0x0c;
    pub const SAME_PORT: u8 = 0x0d;
    pub const OWN_SOURCE: u8 = 0x0e;
    pub const JUMBO: u8 = 0x0f;
    pub const METERED: u8 = 0x10;
    pub const NARROW: u8 = 0x11;
    pub const EXHAUSTED: u8 = 0x12;
    /// Comes in by port 2, goes to port 1.
    pub const BACK: u8 = 0x13;
    pub const ROUTED_JUMBO: u8 = 0x14;
    pub const ROUTED_BACKUP: u8 = 0x15;
    pub const BACKUP_SAME_PORT: u8 = 0x16;
    /// With the tag 0xabcdef.
    pub const TAGGED: u8 = 0x17;
    pub const ROUTED_NARROW: u8 = 0x18;
    pub const NO_SUCH_PORT: u8 = 0x19;
    pub const SMALL: u8 = 0x1a;
    pub const ROUTED_SMALL: u8 = 0x1b;
    pub const ROUTED_OWN_SOURCE: u8 = 0x1c;
    pub const PENDING_EXPIRED: u8 = 0x1d;
    pub const HAS_UNUSED_BACKUP: u8 = 0x1e;
    pub const PENDING_NARROW: u8 = 0x1f;
    pub const UNREACHABLE_WITH_BACKUP: u8 = 0x20;
    pub const ROUTED_SAME_PORT: u8 = 0x21;
    pub const ROUTED_EXHAUSTED_SMALL: u8 = 0x22;
    pub const FIRST: u8 = 0x00;
    pub const LAST: u8 = 0xff;
    /// Has no flow.
    pub const FREE: u8 = 0x80;
}

/// The tag of the flow in [`slot::TAGGED`]; that of all others is 0.
const TAG: u32 = 0x00ab_cdef;

/// The address of one of the flows with tag 0.
fn flow(slot: u8) -> Mac {
    flow_address(0, slot).mac()
}

fn hop(mac: Mac, port: u16) -> NextHop {
    NextHop { mac, port: PortId(port), routed: false }
}

fn routed_hop(port: u16) -> NextHop {
    NextHop { mac: ROUTER, port: PortId(port), routed: true }
}

fn standard() -> Setup {
    Setup { ports: ports(), flows: flows(), ..Setup::default() }
}

fn ports() -> Vec<Port> {
    let up = PortFlags::UP;
    let port = |id: u8, mtu, flags| Port {
        id: PortId(u16::from(id)),
        mac: Mac([2, 0, 0, 0, 0, id]),
        mtu,
        flags,
        flag: None,
        asking: 0,
    };
    vec![
        port(1, 1500, up),
        port(2, 1500, up),
        port(3, 1500, up),
        port(4, 1500, PortFlags::default()),
        port(5, 1500, up.with(PortFlags::OWN_SOURCE)),
        port(6, 9000, up),
        port(7, 600, up),
    ]
}

fn flows() -> Vec<Flow> {
    let to = |slot, next| Flow {
        address: flow_address(0, slot),
        port: PortId(1),
        lease: Lease::Never,
        next,
        backup: None,
        meter: Meter::Unlimited,
        restore: Restore::Keep,
    };
    let goes = |slot, next| to(slot, Resolution::Resolved(next));
    vec![
        goes(slot::PLAIN, hop(HOST_B, 2)),
        goes(slot::ROUTED, routed_hop(2)),
        goes(slot::TO_SWITCH, hop(NEXT_SWITCH, 2)),
        Flow { lease: Lease::Past, ..goes(slot::EXPIRED, hop(HOST_B, 2)) },
        Flow { lease: Lease::Future, ..goes(slot::LEASED, hop(HOST_B, 2)) },
        to(slot::PENDING, Resolution::UNKNOWN),
        to(slot::ALMOST_FULL, Resolution::Pending(PENDING_LIMIT - 1)),
        to(slot::FULL, Resolution::Pending(PENDING_LIMIT)),
        to(slot::UNREACHABLE, Resolution::Unreachable),
        Flow { backup: Some(hop(HOST_C, 3)), ..goes(slot::BACKUP, hop(HOST_B, DOWN)) },
        goes(slot::NO_BACKUP, hop(HOST_B, DOWN)),
        Flow { backup: Some(hop(HOST_C, DOWN)), ..goes(slot::BOTH_DOWN, hop(HOST_B, DOWN)) },
        goes(slot::SAME_PORT, hop(HOST_B, 1)),
        goes(slot::OWN_SOURCE, hop(HOST_B, 5)),
        goes(slot::JUMBO, hop(HOST_B, JUMBO)),
        Flow { meter: Meter::Wide, ..goes(slot::METERED, hop(HOST_B, 2)) },
        Flow { meter: Meter::Narrow, ..goes(slot::NARROW, hop(HOST_B, 2)) },
        Flow { meter: Meter::Exhausted, ..goes(slot::EXHAUSTED, hop(HOST_B, 2)) },
        Flow { port: PortId(2), ..goes(slot::BACK, hop(HOST_A, 1)) },
        goes(slot::ROUTED_JUMBO, routed_hop(JUMBO)),
        Flow { backup: Some(routed_hop(3)), ..goes(slot::ROUTED_BACKUP, hop(HOST_B, DOWN)) },
        Flow { backup: Some(hop(HOST_C, 1)), ..goes(slot::BACKUP_SAME_PORT, hop(HOST_B, DOWN)) },
        Flow { address: flow_address(TAG, slot::TAGGED), ..goes(slot::TAGGED, hop(HOST_B, 2)) },
        Flow { meter: Meter::Narrow, ..goes(slot::ROUTED_NARROW, routed_hop(2)) },
        goes(slot::NO_SUCH_PORT, hop(HOST_B, 2000)),
        goes(slot::SMALL, hop(HOST_B, SMALL)),
        goes(slot::ROUTED_SMALL, routed_hop(SMALL)),
        goes(slot::ROUTED_OWN_SOURCE, routed_hop(5)),
        Flow { lease: Lease::Past, ..to(slot::PENDING_EXPIRED, Resolution::UNKNOWN) },
        Flow { backup: Some(hop(HOST_C, 3)), ..goes(slot::HAS_UNUSED_BACKUP, hop(HOST_B, 2)) },
        Flow { meter: Meter::Narrow, ..to(slot::PENDING_NARROW, Resolution::UNKNOWN) },
        Flow { backup: Some(hop(HOST_C, 3)), ..to(slot::UNREACHABLE_WITH_BACKUP, Resolution::Unreachable) },
        goes(slot::ROUTED_SAME_PORT, routed_hop(1)),
        Flow { meter: Meter::Exhausted, ..goes(slot::ROUTED_EXHAUSTED_SMALL, routed_hop(SMALL)) },
        goes(slot::FIRST, hop(HOST_B, 2)),
        goes(slot::LAST, hop(HOST_C, 3)),
    ]
}
