//! Do tables and store say what this switch means?
//!
//! What it means is in its memory: the leases, the next hops, the ports. Tables are compared as the data path reads them, and
//! the store as it is on disk.

use super::{Switch, flagged::tuple_of, leases::Leases};
use crate::api::{TupleView, Verification};
use flowlane_allot::{Allotter, Change, Lease};
use flowlane_program::{ProgramError, Tables};
use flowlane_store::StoreError;
use flowlane_tables::PASS;
use flowlane_wire::{Mac, SlotIndex};
use std::collections::HashMap;

/// Differences are listed up to here; more of them say no more.
const MOST: usize = 1_000;

/// Compares every slot, group, port and tuple of flagged packets with what this switch means, and the store's rows with its
/// leases.
pub(super) fn compare(switch: &Switch, rows: &Result<Vec<Lease>, StoreError>) -> Verification {
    let (allotter, tables) = (switch.leases.allotter(), &switch.tables);
    let tuples =
        tuples(allotter, tables).unwrap_or_else(|error| vec![format!("the table of tuples can not be read: {error}")]);
    let all = slots(switch)
        .chain(switch.groups.differences(allotter.leases()))
        .chain(switch.ports.differences())
        .chain(tuples)
        .chain(store(&switch.leases, rows));
    let mut differences: Vec<String> = all.take(MOST + 1).collect();
    let ok = differences.is_empty();
    differences.truncate(MOST);
    Verification { ok, compared: tables.slots().len() as u32, differences }
}

/// Compares every slot with the leases and their next hops.
fn slots(switch: &Switch) -> impl Iterator<Item = String> {
    (0..).map(SlotIndex).zip(switch.tables.slots()).filter_map(move |(index, slot)| {
        let (block, number) = (switch.tables.block(), index.0);
        let wanted = switch.leases.allotter().lease_at(index).and_then(|lease| {
            let address = lease.addresses(block).find(|address| block.slot(*address) == index)?;
            Some((address, lease))
        });
        let found = slot.flow().map(|flow| (flow.address, flow.port));
        match (wanted, found) {
            (None, None) => None,
            (Some((address, lease)), Some(found)) if (address.mac(), lease.port) == found => switch
                .flows
                .difference(address, lease, &switch.hops, &switch.ports)
                .map(|difference| format!("slot {number}: {}: {difference}", address.mac())),
            (Some((address, _)), None) => {
                Some(format!("slot {number}: {} is leased, but the slot is free", address.mac()))
            }
            (None, Some((address, _))) => {
                Some(format!("slot {number}: {address} is in the table, but nobody has leased it"))
            }
            (Some((wanted, lease)), Some((found, of))) => Some(format!(
                "slot {number}: {} of port {} is leased, but {found} of port {of} is in the table",
                wanted.mac(),
                lease.port
            )),
        }
    })
}

/// Compares the leases on disk with those in memory.
fn store(leases: &Leases, rows: &Result<Vec<Lease>, StoreError>) -> Vec<String> {
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => return vec![format!("store: {error}")],
    };
    let block = leases.allotter().block();
    let address = |lease: &Lease| lease.addresses(block).next().map_or(Mac::default(), |address| address.mac());
    let sentence = |Change { slot, before, after }: Change| match (&before, &after) {
        (Some(before), None) => {
            format!("store: slot {}: {} is on disk, but nobody has leased it", slot.0, address(before))
        }
        (None, Some(after)) => format!("store: slot {}: {} is leased, but not on disk", slot.0, address(after)),
        _ => format!("store: slot {}: the lease on disk is not the one that holds", slot.0),
    };
    leases.differences(rows).into_iter().map(sentence).collect()
}

/// Differences between the table of tuples and the leases of flagged flows.
fn tuples(allotter: &Allotter, tables: &Tables) -> Result<Vec<String>, ProgramError> {
    let leased = allotter.leases().filter_map(|lease| {
        let address = lease.addresses(tables.block()).next()?;
        Some((tuple_of(&lease.key)?, address.mac().to_u64()))
    });
    let mut leased: HashMap<_, _> = leased.collect();
    let mut differences = Vec::new();
    for (tuple, address) in tables.tuples().in_data_path()?.into_iter().filter(|(_, address)| *address != PASS) {
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
    Ok(differences)
}
