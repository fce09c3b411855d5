//! What leases survive, tried many times: power cuts, full disks, flipped bytes and wrong clocks.
//!
//! The real allotter and the real store run on a [`Disk`] that fails on purpose. A history of requests is played to them,
//! and what clients and operators were told is kept beside. After each fault both are compared: a lease that was
//! acknowledged and is not there is lost, and a slot that two clients may use has a double owner. One seed gives one
//! history.
#![forbid(unsafe_code)]

mod clock;
mod disk;
mod flips;
mod history;
mod promises;
mod row;
mod scenarios;

pub use disk::Disk;
pub use flips::flipped_bytes;
pub use row::Row;
pub use scenarios::{clock_jump, full_disk, power_cuts};
