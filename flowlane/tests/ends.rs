//! The list of ends in the documents is the list in the code.
#![allow(missing_docs)]

use flowlane_tables::{End, Kind};
use std::{fmt::Write as _, fs, path::Path};

const INTRODUCTION: &str = "\
# How a frame can end

Every frame that comes in by a port of a switch is counted there under one of these names (`flowlane status`). A frame that
waited for its next host is counted twice: as `resolve` when it was queued, and again at its end. Super-packets count as
the frames that they are on the wire.

This page is made from the list in the code: `UPDATE_DOCS=1 cargo test -p flowlane --test ends`.

";

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Passed => "passed to Linux",
        Kind::Forwarded => "forwarded",
        Kind::Queued => "queued",
        Kind::ToLinux => "answered by Linux",
        Kind::Dropped => "rejected",
    }
}

#[test]
fn the_page_of_ends_says_what_the_code_says() {
    let mut page = String::from(INTRODUCTION);
    page.push_str("| name | the frame is | |\n| --- | --- | --- |\n");
    for end in End::ALL {
        writeln!(page, "| `{}` | {} | {} |", end.name(), kind(end.kind()), end.sentence()).expect("a string");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ends.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).expect("docs/ends.md");
    assert_eq!(written, page, "run: UPDATE_DOCS=1 cargo test -p flowlane --test ends");
}
