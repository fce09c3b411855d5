//! The executors against the model, on generated frames. Needs root.

use flowlane_conformance::differential::run;
use flowlane_tables::End;

#[test]
fn the_executors_do_what_the_model_does_and_every_end_occurs() {
    let report = run(60_000, 1, |_| {}).expect("these tests need root");
    let differences: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(report.frames, 60_000);
    // Nothing is sent here, and no ring can be full.
    for end in End::ALL.iter().filter(|end| !matches!(end, End::NotSent | End::RingFull)) {
        let frames = report.ends[end.name()];
        assert!(frames > 50, "only {frames} frames end as {end}: {:?}", report.ends);
    }
}
