//! The golden frames in userspace, and what the list must cover.

use flowlane_tables::End;
use flowlane_vectors::{Userspace, all, run};
use std::collections::HashSet;

#[test]
fn every_vector_is_as_expected_in_userspace() {
    let report = run(&all(), &mut Userspace);
    assert!(report.failed.is_empty(), "{} failed:\n{}", report.failed.len(), report.failed.join("\n"));
    assert_eq!(report.passed, all().len());
}

#[test]
fn names_are_unique_and_every_sentence_ends() {
    let mut names = HashSet::new();
    for vector in all() {
        assert!(vector.sentence.ends_with('.'), "{}", vector.name);
        assert!(names.insert(vector.name.clone()), "{} twice", vector.name);
    }
}

#[test]
fn the_list_covers_every_end_of_the_pipeline() {
    let covered: HashSet<End> = all().iter().map(|vector| vector.expect.end).collect();
    // Only an executor can say that the port did not take the frame.
    let missing: Vec<_> =
        End::ALL.iter().filter(|end| !matches!(end, End::NotSent | End::RingFull) && !covered.contains(end)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_list_covers_the_claims_by_name() {
    let vectors = all();
    for claim in 2..=28 {
        let name = format!("claim_{claim:02}_");
        let shown = vectors.iter().any(|vector| vector.name.starts_with(&name) && vector.claims.contains(&claim));
        assert!(shown, "no vector of claim {claim}");
    }
}
