//! Flowlane.
fn main() {}
