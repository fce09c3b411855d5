//! Some hundreds of each fault. `durability --long` tries ten thousand.

use flowlane_durability::{Row, clock_jump, flipped_bytes, full_disk, power_cuts};

fn assert_ok(row: &Row) {
    println!("{row:?}");
    assert!(row.ok, "{row:?}");
    assert_eq!((row.leases_lost, row.double_owners), (0, 0));
}

#[test]
fn no_power_cut_loses_an_acknowledged_lease_or_gives_it_to_two() {
    assert_ok(&power_cuts(1_000, 1, |_| ()));
}

#[test]
fn leases_are_renewed_while_the_disk_is_full_and_nothing_is_lost_after_it() {
    assert_ok(&full_disk(400, 1, |_| ()));
}

#[test]
fn a_flipped_byte_is_never_served_as_a_lease() {
    assert_ok(&flipped_bytes(29, 1, |_| ()));
}

#[test]
fn no_wall_clock_ends_a_lease_early() {
    assert_ok(&clock_jump(400, 1, |_| ()));
}

#[test]
fn a_seed_is_a_history() {
    assert_eq!(power_cuts(60, 7, |_| ()), power_cuts(60, 7, |_| ()));
    assert_ne!(power_cuts(60, 7, |_| ()), power_cuts(60, 8, |_| ()));
}
