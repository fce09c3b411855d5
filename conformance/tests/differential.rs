//! The executors against the model, on generated frames. Needs root.

use flowlane_conformance::differential::{Report, run};

fn compared(frames: u64, seed: u64) -> Report {
    run(frames, seed, |_| {}).expect("these tests need root")
}

#[cfg(not(feature = "seeded-bug"))]
#[test]
fn the_executors_do_what_the_model_does_and_every_end_occurs() {
    use flowlane_tables::End;

    let report = compared(60_000, 1);
    let differences: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(report.frames, 60_000);
    // Nothing is sent here, and no ring can be full.
    for end in End::ALL.iter().filter(|end| !matches!(end, End::NotSent | End::RingFull)) {
        let frames = report.ends[end.name()];
        assert!(frames > 50, "only {frames} frames end as {end}: {:?}", report.ends);
    }
}

#[cfg(not(feature = "seeded-bug"))]
#[test]
fn the_same_seed_gives_the_same_frames() {
    assert_eq!(compared(3_000, 7), compared(3_000, 7));
}

/// `cargo test -p flowlane-conformance --features seeded-bug --test differential`
#[cfg(feature = "seeded-bug")]
#[test]
fn a_carry_that_is_wrong_by_one_is_found_in_userspace() {
    let report = compared(200_000, 1);
    let difference = report.differences.first().expect("a difference");
    assert_eq!(difference.executor, "userspace", "{difference}");
    assert!(difference.text.contains("should end as"), "the frame is named: {difference}");
}
