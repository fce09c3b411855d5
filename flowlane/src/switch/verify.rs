//! Does the table say what the leases say?

use super::flagged::tuple_of;
use crate::api::{TupleView, Verification};
use flowlane_allot::Allotter;
use flowlane_program::Tables;
use flowlane_tables::PASS;
use flowlane_wire::{Mac, SlotIndex};
use std::collections::HashMap;

/// Differences are listed up to here; more of them say no more.
const MOST: usize = 1_000;

/// Compares every slot, and every tuple of flagged packets, with the leases.
pub fn compare(allotter: &Allotter, tables: &Tables) -> Verification {
    let mut found = slots(allotter, tables);
    for difference in tuples(allotter, tables) {
        found.ok = false;
        if found.differences.len() < MOST {
            found.differences.push(difference);
        }
    }
    found
}

/// Differences between the table of tuples and the leases of flagged flows.
fn tuples(allotter: &Allotter, tables: &Tables) -> Vec<String> {
    let leased = allotter.leases().filter_map(|lease| {
        let address = lease.addresses(tables.block()).next()?;
        Some((tuple_of(&lease.key)?, address.mac().to_u64()))
    });
    let mut leased: HashMap<_, _> = leased.collect();
    let mut differences = Vec::new();
    for (tuple, address) in tables.tuples().all().into_iter().filter(|(_, address)| *address != PASS) {
        if leased.remove(&tuple) != Some(address) {
            let (packets, flow) = (TupleView::from(tuple), Mac::from_u64(address));
            differences.push(format!("packets {packets} go into {flow}, but their lease says otherwise"));
        }
    }
    let missing = leased.into_iter().map(|(tuple, address)| {
        let (packets, flow) = (TupleView::from(tuple), Mac::from_u64(address));
        format!("packets {packets} have a lease of {flow}, but do not go into it")
    });
    differences.extend(missing);
    differences
}

/// Compares every slot with the leases.
fn slots(allotter: &Allotter, tables: &Tables) -> Verification {
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
