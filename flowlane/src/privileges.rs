//! Privileges of this process: what its daemons do without.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{errno::Errno, sys::prctl};

/// Gives up all capabilities but these, for this thread and those that it will start. Ones that it does not have stay so.
///
/// # Errors
/// The kernel's; then it may have more than these.
pub fn keep(wanted: impl IntoIterator<Item = Capability>) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = wanted.into_iter().filter(|wanted| permitted.contains(wanted)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// The names of the capabilities that this thread has, or may take.
pub fn kept() -> Vec<String> {
    let kept = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

/// No program that this thread, or one that it will start, executes has more privileges than they have: not by its mode,
/// and not because user 0 executes it.
///
/// # Errors
/// The kernel's.
pub fn no_new() -> Result<(), Errno> {
    prctl::set_no_new_privs()
}
