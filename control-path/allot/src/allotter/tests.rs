//! What the tests of the allotter begin with.

mod ends;
mod grants;
mod groups;
mod model;
mod reserve;

use super::*;
use crate::{FlowSpec, LeaseState};
use flowlane_wire::Mac;

const PORT: PortId = PortId(1);
const OTHER: PortId = PortId(2);

fn block(slots: u32) -> Block {
    Block::new(Mac::from_u64(0xa2f1_0000_0000), 16, slots).expect("a good block")
}

fn policy() -> Policy {
    Policy { quarantine: 100, default_lifetime: 60, min_lifetime: 10, max_lifetime: 600, ..Policy::default() }
}

fn key(client: u8, iaid: u32) -> LeaseKey {
    LeaseKey { client: ClientId(vec![client]), iaid }
}

fn request(key: LeaseKey, count: u32) -> Request {
    let host = Mac([2, 0, 0, 0, 0, 1]);
    Request { key, port: PORT, host, count, lifetime: None, spec: FlowSpec::default() }
}

/// Asks under a key of its own.
fn ask(allotter: &mut Allotter, iaid: u32, count: u32, now: u64) -> Result<Lease, Refusal> {
    allotter.request(&request(key(1, iaid), count), now)
}
