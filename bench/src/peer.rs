//! The contestants in `data-path/kernel/src/bench/peers.rs`.

use crate::{
    Error, OBJECT,
    contestant::SetUp,
    ends::{attach_tc, attach_xdp},
    frame::{NEXT_HOP, addresses},
    path::Path,
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{DevMap, HashMap, xdp::XdpMapError},
};
use flowlane_lab::Link;

/// Where the programs send frames to.
const WAY_OUT: u32 = 0;

/// A redirect that looks at nothing.
pub(crate) fn redirect(path: &Path) -> Result<SetUp, Error> {
    let object = EbpfLoader::new().btf(None).load(OBJECT)?;
    between(path, object, "bench_redirect_xdp")
}

/// A redirect in tc that looks at nothing.
pub(crate) fn redirect_tc(path: &Path) -> Result<SetUp, Error> {
    Ok(SetUp::of(one_way(path, &path.ingress, &path.egress)?))
}

/// The same in both directions.
pub(crate) fn both_ways(path: &Path) -> Result<SetUp, Error> {
    Ok(SetUp::of([one_way(path, &path.ingress, &path.egress)?, one_way(path, &path.egress, &path.ingress)?]))
}

fn one_way(path: &Path, from: &Link, to: &Link) -> Result<Ebpf, Error> {
    let out = to.index()?;
    let mut object = EbpfLoader::new().btf(None).override_global("OUT", &out, true).load(OBJECT)?;
    path.switch.run(|| attach_tc(&mut object, "bench_redirect_tc", from.name()))??;
    Ok(object)
}

/// A label switch by hash map.
pub(crate) fn hash_map(path: &Path, flows: u32) -> Result<SetUp, Error> {
    const LABELS: &str = "LABELS";
    let mut object = EbpfLoader::new().btf(None).map_max_entries(LABELS, flows).load(OBJECT)?;
    let map = object.map_mut(LABELS).ok_or(Error::Incomplete(LABELS))?;
    let mut labels: HashMap<_, u64, [u64; 2]> = map.try_into().map_err(Error::map(LABELS))?;
    let entry = [NEXT_HOP.to_u64(), u64::from(WAY_OUT)];
    for address in addresses(flows) {
        labels.insert(address.mac().to_u64(), entry, 0).map_err(Error::map(LABELS))?;
    }
    between(path, object, "bench_hash_xdp")
}

/// Attaches a program to the ingress, from where it sends to the egress.
fn between(path: &Path, mut object: Ebpf, program: &'static str) -> Result<SetUp, Error> {
    const WAYS_OUT: &str = "WAYS_OUT";
    let (ingress, egress) = (path.ingress.index()?, path.egress.index()?);
    path.switch.run(|| {
        let map = object.map_mut(WAYS_OUT).ok_or(Error::Incomplete(WAYS_OUT))?;
        let mut ways_out = DevMap::try_from(map).map_err(Error::map(WAYS_OUT))?;
        ways_out.set(WAY_OUT, egress, None, 0).map_err(|error| match error {
            XdpMapError::MapError(source) => Error::map(WAYS_OUT)(source),
            XdpMapError::ChainedProgramNotSupported => Error::Incomplete(WAYS_OUT),
        })?;
        attach_xdp(&mut object, program, ingress)
    })??;
    Ok(SetUp::of(object))
}
