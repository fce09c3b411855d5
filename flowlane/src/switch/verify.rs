//! Does the table say what the leases say?

use crate::api::Verification;
use flowlane_allot::Lease;
use flowlane_program::Tables;
use std::collections::HashMap;

/// Differences are listed up to here; more of them say no more.
const MOST: usize = 1_000;

/// Compares every slot with the leases.
pub fn compare(leases: &[Lease], tables: &Tables) -> Verification {
    let block = tables.block();
    let mut wanted: HashMap<usize, (String, u16)> = HashMap::new();
    for lease in leases {
        for address in lease.addresses(block) {
            wanted.insert(block.slot(address).0 as usize, (address.to_string(), lease.port.0));
        }
    }
    let mut differences = Vec::new();
    for (index, slot) in tables.slots().iter().enumerate() {
        let found = slot.flow().map(|flow| (flow.address.to_string(), flow.port.0));
        let difference = match (wanted.get(&index), found) {
            (None, None) => continue,
            (Some(wanted), Some(found)) if *wanted == found => continue,
            (Some((address, _)), None) => format!("slot {index}: {address} is leased, but the slot is free"),
            (None, Some((address, _))) => format!("slot {index}: {address} is in the table, but nobody has leased it"),
            (Some(wanted), Some(found)) => format!(
                "slot {index}: {} of port {} is leased, but {} of port {} is in the table",
                wanted.0, wanted.1, found.0, found.1
            ),
        };
        differences.push(difference);
    }
    let ok = differences.is_empty();
    differences.truncate(MOST);
    Verification { ok, compared: tables.slots().len() as u32, differences }
}
