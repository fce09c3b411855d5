//! Does the table say what the leases say?

use crate::api::Verification;
use flowlane_allot::Allotter;
use flowlane_program::Tables;
use flowlane_wire::SlotIndex;

/// Differences are listed up to here; more of them say no more.
const MOST: usize = 1_000;

/// Compares every slot with the leases.
pub fn compare(allotter: &Allotter, tables: &Tables) -> Verification {
    let block = tables.block();
    let mut differences = Vec::new();
    let mut ok = true;
    for (index, slot) in (0..).zip(tables.slots()) {
        let lease = allotter.lease_at(SlotIndex(index));
        let wanted = lease.and_then(|lease| {
            let address = lease.addresses(block).find(|address| block.slot(*address).0 == index)?;
            Some((address.mac(), lease.port))
        });
        let found = slot.flow().map(|flow| (flow.address, flow.port));
        let difference = match (wanted, found) {
            (wanted, found) if wanted == found => continue,
            (Some((address, _)), None) => format!("slot {index}: {address} is leased, but the slot is free"),
            (None, Some((address, _))) => format!("slot {index}: {address} is in the table, but nobody has leased it"),
            (Some((wanted, by)), Some((found, of))) => {
                format!("slot {index}: {wanted} of port {by} is leased, but {found} of port {of} is in the table")
            }
            (None, None) => continue,
        };
        ok = false;
        if differences.len() < MOST {
            differences.push(difference);
        }
    }
    Verification { ok, compared: tables.slots().len() as u32, differences }
}
