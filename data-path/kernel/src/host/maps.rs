//! What a host's daemon tells the kernel, and the other way round.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use flowlane_kernel::ring::Ring;
use flowlane_tables::{RUN_FLOWS, RUN_INTERFACES, RUN_SCOPES, RunFlow, RunKey, RunScopes};

/// Which runs there are to look for; one entry.
#[btf_map]
pub static SCOPES: Array<RunScopes, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The runs of cgroups, by the cgroup's number.
#[btf_map]
pub static CGROUPS: HashMap<u64, u64, { RUN_SCOPES as usize }> = HashMap::new();

/// The runs of sockets, by the socket's cookie.
#[btf_map]
pub static SOCKETS: HashMap<u64, u64, { RUN_SCOPES as usize }> = HashMap::new();

/// The interfaces' own addresses, by index.
#[btf_map]
pub static INTERFACES: HashMap<u32, u64, { RUN_INTERFACES as usize }> = HashMap::new();

/// The entry of each destination.
#[btf_map]
pub static DESTINATIONS: HashMap<RunKey, u32, { RUN_FLOWS as usize }> = HashMap::new();

/// What becomes of the packets to each.
#[btf_map]
pub static FLOWS: Array<RunFlow, { RUN_FLOWS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Packets that wait for their flow. The loader sets its size.
#[btf_map]
pub static HELD: Ring = Ring::new();
