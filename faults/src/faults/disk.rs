//! What leases survive: the allotter and the store, on a disk that fails. No frame is sent.

use crate::{Error, Options, Row};
use flowlane_durability::{clock_jump, flipped_bytes, full_disk, power_cuts};
use std::panic;

/// Cuts the power in the middle of writes.
pub(super) fn power_cut(options: &Options, row: Row) -> Result<Row, Error> {
    let times = times(options);
    Ok(taken(row, times, &power_cuts(times.into(), options.seed, progress(times))))
}

/// Fills the disk, and makes room again.
pub(super) fn filled(options: &Options, row: Row) -> Result<Row, Error> {
    let times = times(options);
    Ok(taken(row, times, &full_disk(times.into(), options.seed, progress(times))))
}

/// Boots with a wall clock that is years wrong.
pub(super) fn clock_set(options: &Options, row: Row) -> Result<Row, Error> {
    let times = times(options);
    Ok(taken(row, times, &clock_jump(times.into(), options.seed, progress(times))))
}

/// Flips a bit of each octet, or of each so many.
pub(super) fn flipped(options: &Options, row: Row) -> Result<Row, Error> {
    let stride = options.times(1_999, 499, 1);
    // A damaged file makes the storage engine panic here and there; the store makes an error of it.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let found = flipped_bytes(stride as usize, options.seed, progress(0));
    panic::set_hook(hook);
    let times = found.counts.get("flips").copied().unwrap_or(0);
    Ok(taken(row, u32::try_from(times).unwrap_or(u32::MAX), &found))
}

fn times(options: &Options) -> u32 {
    options.times(100, 1_000, 10_000)
}

fn progress(times: u32) -> impl Fn(u64) {
    move |done| {
        if done > 0 && done.is_multiple_of(2_000) {
            eprintln!("  {done} of {}", if times > 0 { times.to_string() } else { "all octets".to_owned() });
        }
    }
}

fn taken(mut row: Row, times: u32, found: &flowlane_durability::Row) -> Row {
    (row.times, row.leases_lost, row.double_owners) = (times, found.leases_lost, found.double_owners);
    row.leases = found.counts.get("acknowledged").copied().unwrap_or(0);
    row.ok &= found.ok;
    row.note = found.problem.clone();
    row
}
