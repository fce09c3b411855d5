//! `flowlane bench`. Needs root.

use crate::{as_nobody, finish, flowlane, run};
use flowlane_program::bpffs;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

const CONTESTANTS: [&str; 5] = ["floor", "limit", "hash-map", "flowlane-xdp", "linux-bridge"];

#[test]
fn the_quick_benchmark_has_a_row_for_every_contestant_and_loses_nothing() {
    let run = run(&["bench", "--quick", "--repeats", "1", "--json"]);
    assert_eq!(run.code, Some(0), "{} {}", run.out, run.err);
    let report = run.document();
    assert!(report["generator_mpps"].as_f64() > Some(0.1), "{report}");
    let rows = report["rows"].as_array().expect("rows");
    for (flows, frame_bytes) in [(1, 64), (1, 1500), (1_000_000, 64)] {
        let same = |row: &&Value| row["flows"] == flows && row["frame_bytes"] == frame_bytes;
        let names: Vec<&str> = rows.iter().filter(same).filter_map(|row| row["contestant"].as_str()).collect();
        assert_eq!(names, CONTESTANTS);
    }
    for row in rows {
        assert_eq!((&row["valid"], &row["wrong"]), (&true.into(), &0.into()), "{row}");
        for figure in ["ns_per_packet", "mpps", "ratio_to_limit"] {
            assert!(row[figure].as_f64() > Some(0.0), "{figure}: {row}");
        }
    }
}

#[test]
fn a_benchmark_that_is_interrupted_leaves_nothing_pinned() {
    let mut command = flowlane();
    let mut child =
        command.args(["bench", "--quick"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let start = Instant::now();
    while pinned_by(child.id()).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "the benchmark pins nothing");
        thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process number"));
    kill(pid, Signal::SIGINT).expect("told to stop");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert_eq!(pinned_by(child.id()), Vec::<String>::new());
}

#[test]
fn a_benchmark_without_privileges_says_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let run =
        finish(as_nobody(&directory).args(["bench", "--quick", "--json"]).output().expect("setpriv is installed"));
    assert_eq!(run.code, Some(4), "{} {}", run.out, run.err);
    assert_eq!(run.error()["code"], "FL1001");
    assert_eq!(run.error()["help"], "run it as root: sudo flowlane bench");
}

/// The names of the switches that a benchmark has pinned.
fn pinned_by(process: u32) -> Vec<String> {
    let Some(root) = bpffs::find() else { return Vec::new() };
    let names = fs::read_dir(root.join("flowlane")).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("bench-{process}-"))).collect()
}
