//! Namespaces across processes: owners that are killed, users without rights, names.
#![allow(clippy::unwrap_used)]

use flowlane_lab::Netns;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

const HELPER: &str = env!("CARGO_BIN_EXE_lab-helper");
const NOBODY: u32 = 65_534;

#[test]
fn a_killed_owner_leaves_nothing_behind() {
    let outside = Netns::new("outside").unwrap();
    let mut owner = outside.command(HELPER).arg("own").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let link = outside.link("outside").unwrap();
    assert!(link.exists().unwrap());

    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while link.exists().unwrap() {
        assert!(Instant::now() < deadline, "the dead owner's namespace still holds the other end");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_user_without_rights_gets_hosts_that_reach_each_other() {
    let (text, success) = as_nobody("nobody");
    assert!(success, "{text}");
    assert_eq!(text, "10.9.0.2: 1 of 1\nfd00:9::2: 1 of 1\nframes: true\n");
}

#[test]
fn a_process_with_threads_is_told_to_enter_earlier() {
    let (text, success) = as_nobody("threads");
    assert!(!success, "{text}");
    assert!(text.contains("several threads") && text.contains("first thing in main"), "{text}");
}

#[test]
fn a_used_up_limit_is_named() {
    let (text, success) = as_nobody("limit");
    assert!(success, "{text}");
    assert!(text.contains("user.max_user_namespaces"), "{text}");
}

#[test]
fn a_namespace_is_found_by_its_name_and_nothing_else_is() {
    let output = Command::new(HELPER).arg("named").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], "blue: true");
    assert!(lines[1].starts_with("file: can not "), "{text}");
    assert!(lines[2].contains("/run/netns/red") && lines[2].contains("No such file"), "{text}");
    assert!(lines[3].contains("use the name of a file in /run/netns"), "{text}");
}

/// Runs the helper as a user who owns nothing; returns what it printed, and whether it succeeded.
fn as_nobody(mode: &str) -> (String, bool) {
    // The build directory may be closed to that user.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("lab-helper");
    fs::copy(HELPER, &program).unwrap();
    for path in [dir.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(program);
    command.arg(mode).uid(NOBODY).gid(NOBODY).current_dir("/");
    let output = loop {
        match command.output() {
            // A child of another test holds the copy open for writing from its fork until it executes its own program.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::sleep(Duration::from_millis(1)),
            output => break output.unwrap(),
        }
    };
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}
