//! What the kernel has of our tables: libnftables-json(5).

use super::{Flow, MARK_BASE, MARK_MASK, Result, program::Nft};
use flowlane_tables::RunKey;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

/// What a predecessor has left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) interfaces: BTreeSet<u32>,
    pub(super) flows: HashMap<RunKey, Flow>,
    /// Chains that no flow has.
    pub(super) free: Vec<u32>,
}

impl Listing {
    /// Reads the tables of a name; nothing if there are none.
    pub(super) fn read(nft: &Nft, table: &str) -> Result<Option<Self>> {
        let tables = nft.list(&["tables", "netdev"])?;
        if !objects(&tables, "table").any(|found| found["name"] == table) {
            return Ok(None);
        }
        Ok(Some(Self::parse(&nft.list(&["table", "netdev", table])?)))
    }

    fn parse(listing: &Value) -> Self {
        let flows: HashMap<RunKey, Flow> =
            objects(listing, "map").flat_map(elements).filter_map(|e| flow(listing, e)).collect();
        let taken: BTreeSet<u32> = flows.values().map(|flow| flow.index).collect();
        let free = numbers(listing, "chain", "f").filter(|index| !taken.contains(index)).collect();
        Self { interfaces: numbers(listing, "chain", "if").collect(), flows, free }
    }
}

/// Packets and octets of all counters of a table, by name.
pub(super) fn counters(nft: &Nft, table: &str) -> Result<HashMap<String, (u64, u64)>> {
    let listing = nft.list(&["counters", "table", "netdev", table])?;
    let counters = objects(&listing, "counter").filter_map(|counter| {
        Some((counter["name"].as_str()?.to_owned(), (counter["packets"].as_u64()?, counter["bytes"].as_u64()?)))
    });
    Ok(counters.collect())
}

/// The objects of a kind.
fn objects<'a>(listing: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    listing["nftables"].as_array().into_iter().flatten().filter_map(move |object| object.get(kind))
}

/// The numbers of all objects of a kind whose name is a prefix and a number.
fn numbers<'a>(listing: &'a Value, kind: &'a str, prefix: &'a str) -> impl Iterator<Item = u32> {
    objects(listing, kind).filter_map(move |object| object["name"].as_str()?.strip_prefix(prefix)?.parse().ok())
}

fn elements(map: &Value) -> impl Iterator<Item = &Value> {
    map["elem"].as_array().into_iter().flatten()
}

/// One element, `[KEY, {"goto": {"target": "f5"}}]`.
fn flow(listing: &Value, element: &Value) -> Option<(RunKey, Flow)> {
    let key = &element[0]["elem"];
    let ifindex = key["comment"].as_str()?.parse().ok()?;
    let parts = key["val"]["concat"].as_array()?;
    let mark = u32::try_from(parts.get(1)?.as_u64()?).ok()?;
    let run = (mark & MARK_MASK == MARK_BASE).then_some(mark & !MARK_MASK)?;
    let destination = match parts.get(2)?.as_str()?.parse().ok()? {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let index: u32 = element[1]["goto"]["target"].as_str()?.strip_prefix('f')?.parse().ok()?;
    let paths = numbers(listing, "counter", &format!("f{index}p")).count();
    Some((RunKey { destination: destination.octets(), ifindex, run }, Flow { index, paths, verdict: None }))
}
