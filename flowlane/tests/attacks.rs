//! Attacks of a hostile port on the built program: those of `cargo xtask attacks` that are quick. How long bystanders
//! wait is not looked at here, for other tests run at the same time.
//!
//! They need root, and run one at a time.

use flowlane_attacks::{Attack, Length};
use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

/// One at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn does_no_harm(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for attack in Attack::named(&[name.to_owned()]).expect("there is one") {
        let row = attack.run(Path::new(env!("CARGO_BIN_EXE_flowlane")), Length::Quick);
        println!("{row:?}");
        assert!(row.is_harmless(), "{:?}: {}", row.failures, row.detail);
    }
}

#[test]
fn a_late_frame_of_a_dead_flow_reaches_nobody() {
    does_no_harm("dead-flows");
}

#[test]
fn a_host_that_takes_an_address_at_a_bridge_does_not_keep_it() {
    does_no_harm("learned-elsewhere");
}

#[test]
fn malformed_frames_end_the_same_way_on_every_executor() {
    does_no_harm("malformed-frames");
}

#[test]
fn full_counters_wrap_and_frames_go_on() {
    does_no_harm("full-counters");
}

#[test]
fn refused_requests_change_nothing() {
    does_no_harm("invalid-requests");
}

#[test]
fn what_is_granted_is_in_the_table_and_nothing_else() {
    does_no_harm("exact-entries");
}

#[test]
fn a_user_without_privileges_can_not_touch_tables_programs_and_links() {
    does_no_harm("tampering");
}
