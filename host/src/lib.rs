//! The host's side of Flowlane: the packets of unmodified programs get flow addresses where they leave the host.

pub mod cgroup;
pub mod command;
pub mod daemon;
pub mod dhcp6;
pub mod engine;
pub mod guard;
mod held;
pub mod interfaces;
pub mod mechanism;
pub mod nft;
pub mod policy;
pub mod process;
pub mod server;
pub mod state;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of the boot-time clock, which goes on while the machine sleeps, as leases do.
pub fn boot_millis() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |now| now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}
