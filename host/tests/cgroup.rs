//! Cgroups of runs, in the hierarchy of this machine. Need root.
#![allow(missing_docs)]

use flowlane_host::{
    cgroup::{Cgroup, CgroupError, Emptied, in_namespace, stray},
    process::Process,
};
use std::{
    fs,
    io::Write as _,
    mem,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// Run numbers are as good as process numbers for names that no other test has.
fn number(place: u32) -> u32 {
    std::process::id() * 100 + place
}

/// A program, in a process group of its own, that is killed with all that it started.
struct Program {
    child: Child,
    is_over: bool,
}

impl Program {
    fn start(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        Self { child: command.spawn().expect("starts"), is_over: false }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Says the word that it waits for, and waits until it has ended by itself.
    fn finish(&mut self) {
        self.child.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("it reads");
        self.child.wait().expect("ends");
    }

    /// Once: its number may be another test's afterwards.
    fn end(&mut self) {
        if mem::replace(&mut self.is_over, true) {
            return;
        }
        let group = nix::unistd::Pid::from_raw(self.pid());
        // Gone already, where it has ended by itself.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// A directory of the hierarchy that is removed in the end.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn line_of(pid: i32) -> String {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    lines.lines().find_map(|line| line.strip_prefix("0::")).expect("version 2").to_owned()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_process_is_moved_into_a_child_of_its_own_cgroup_and_back() {
    let mut program = Program::start("sleep 60 & sleep 60");
    let before = line_of(program.pid());
    let cgroup = Cgroup::make(program.pid(), number(1)).expect("root");
    cgroup.admit(program.pid()).expect("moved");
    let line = line_of(program.pid());
    assert!(line.starts_with(&before) && line.contains("/flowlane-"), "{line}");
    assert!(line.ends_with(&format!("-{}", number(1))), "{line}");
    assert_eq!(Path::new(&line).components().count() as u32 - 1, cgroup.level());
    assert!(!cgroup.is_empty().expect("read"));

    cgroup.clone().dissolve().expect("dissolved");
    assert_eq!(line_of(program.pid()), before);
    assert!(!cgroup.path().exists());
    assert!(cgroup.is_empty().expect("read"), "one that has been removed is empty");
    program.end();
}

#[test]
fn cgroups_below_are_dissolved_too_and_nobody_is_killed() {
    let outer = Program::start("sleep 60");
    let cgroup = Cgroup::make(outer.pid(), number(2)).expect("root");
    cgroup.admit(outer.pid()).expect("moved");
    let inner = Program::start("sleep 60");
    let below = cgroup.path().join("below");
    fs::create_dir(&below).expect("made");
    fs::write(below.join("cgroup.procs"), inner.pid().to_string()).expect("moved");

    cgroup.clone().dissolve().expect("dissolved");
    assert!(!cgroup.path().exists());
    assert_eq!(line_of(inner.pid()), line_of(outer.pid()));
}

#[test]
fn runs_within_runs_stand_beside_each_other() {
    let outer = Program::start("sleep 60");
    let mut before = Cgroup::make(outer.pid(), number(3)).expect("root");
    before.admit(outer.pid()).expect("moved");
    for place in 20..30 {
        let inner = Cgroup::make(outer.pid(), number(place)).expect("root");
        inner.admit(outer.pid()).expect("moved");
        assert_eq!((inner.level(), inner.path().parent()), (before.level(), before.path().parent()));
        before.dissolve().expect("dissolved");
        before = inner;
    }
    before.dissolve().expect("dissolved");
}

#[test]
fn a_process_is_not_taken_for_one_that_gets_its_number() {
    // The number is free when no child has it as its group's.
    let mut program = Program::start("exec sleep 60");
    let cgroup = Cgroup::make(program.pid(), number(30)).expect("root");
    let process = Process::open(program.pid(), 0).expect("it runs");
    let of_another = Process::open(program.pid(), 1).expect("it runs");
    let before = line_of(program.pid());
    assert!(matches!(cgroup.admit_process(&of_another), Err(CgroupError::NoProcess(_))), "another user's");
    assert_eq!(line_of(program.pid()), before);
    cgroup.admit_process(&process).expect("moved");
    program.end();
    assert!(matches!(cgroup.admit_process(&process), Err(CgroupError::NoProcess(_))));
    assert!(Process::open(program.pid(), 0).is_err());
    let again = with_number(program.pid());
    let before = line_of(again.pid());
    assert!(matches!(cgroup.admit_process(&process), Err(CgroupError::NoProcess(_))));
    assert_eq!((again.pid(), line_of(again.pid())), (program.pid(), before));
    cgroup.dissolve().expect("dissolved");
}

/// Another process of this number. Root may say which one is next.
fn with_number(pid: i32) -> Program {
    for _ in 0..1_000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("root");
        let program = Program::start("sleep 60");
        if program.pid() == pid {
            return program;
        }
    }
    panic!("others are faster");
}

#[test]
fn what_was_left_empty_is_found_and_what_somebody_is_in_is_not() {
    let network = fs::metadata("/proc/self/ns/net").expect("/proc").ino();
    let program = Program::start("sleep 60");
    let (left, taken) = (Cgroup::make(program.pid(), number(31)), Cgroup::make(program.pid(), number(32)));
    let (left, taken) = (left.expect("root"), taken.expect("root"));
    taken.admit(program.pid()).expect("moved");
    let found = stray(network);
    assert!(found.contains(&left) && !found.contains(&taken), "{found:?}");
    assert!(stray(network + 1).is_empty(), "of another network namespace");
    taken.dissolve().expect("dissolved");
    left.dissolve().expect("dissolved");
}

#[test]
fn one_that_is_there_is_found_by_its_directory_and_by_its_path_in_the_hierarchy() {
    let program = Program::start("sleep 60");
    let made = Cgroup::make(program.pid(), number(4)).expect("root");
    made.admit(program.pid()).expect("moved");
    for path in [made.path(), Path::new(&line_of(program.pid()))] {
        assert_eq!(Cgroup::open(path).expect("there"), made);
    }
    for path in ["/tmp", "/nonexistent", "relative"] {
        assert!(matches!(Cgroup::open(Path::new(path)), Err(CgroupError::NoCgroup(_))), "{path}");
    }
    let dots = made.path().join("../..");
    assert!(matches!(Cgroup::open(&dots), Err(CgroupError::NoCgroup(_))));
    made.dissolve().expect("dissolved");
}

#[test]
fn only_what_was_made_for_a_run_is_dissolved() {
    let program = Program::start("sleep 60");
    let made = Cgroup::make(program.pid(), number(5)).expect("root");
    let parent = Cgroup::open(made.path().parent().expect("a parent")).expect("there");
    assert!(matches!(parent.dissolve(), Err(CgroupError::NotOurs(_))));
    made.dissolve().expect("dissolved");
}

#[test]
fn what_a_predecessor_left_behind_is_used_where_nobody_is_in_it() {
    let program = Program::start("sleep 60");
    let left = Cgroup::make(program.pid(), number(6)).expect("root");
    let again = Cgroup::make(program.pid(), number(6)).expect("root");
    assert_eq!(left.path(), again.path());
    again.admit(program.pid()).expect("moved");
    let second = Program::start("sleep 60");
    let beside = Cgroup::make(second.pid(), number(6)).expect("root");
    assert_ne!(again.path(), beside.path());
    again.dissolve().expect("dissolved");
    beside.dissolve().expect("dissolved");
}

#[test]
fn a_process_that_has_ended_is_told_of() {
    let mut program = Program::start("sleep 60");
    let cgroup = Cgroup::make(program.pid(), number(7)).expect("root");
    program.end();
    assert!(matches!(cgroup.admit(program.pid()), Err(CgroupError::NoProcess(pid)) if pid == program.pid()));
    assert!(matches!(cgroup.admit(0), Err(CgroupError::NoProcess(0))), "0 would be the daemon itself");
    assert!(matches!(Cgroup::make(program.pid(), number(7)), Err(CgroupError::NoProcess(_))));
    cgroup.dissolve().expect("dissolved");
}

#[test]
fn a_process_of_a_threaded_cgroup_stays_where_it_is() {
    let mut program = Program::start("sleep 60");
    let top = Cgroup::open(Path::new(&line_of(program.pid()))).expect("there");
    let domain = Removed(top.path().join(format!("test-{}", number(8))));
    fs::create_dir(&domain.0).expect("made");
    let threaded = Removed(domain.0.join("threaded"));
    fs::create_dir(&threaded.0).expect("made");
    fs::write(threaded.0.join("cgroup.type"), "threaded").expect("set");
    // Its parent is the root of a threaded subtree now: cgroups that are made below it hold no processes.
    fs::write(domain.0.join("cgroup.procs"), program.pid().to_string()).expect("moved");
    let before = line_of(program.pid());
    assert!(matches!(Cgroup::make(program.pid(), number(9)), Err(CgroupError::Threaded(_))));
    assert_eq!(line_of(program.pid()), before);
    assert_eq!(fs::read_dir(&domain.0).expect("read").flatten().filter(|entry| entry.path().is_dir()).count(), 1);
    program.end();
    drop(threaded);
    eventually("it can be removed", || fs::remove_dir(&domain.0).is_ok());
}

#[tokio::test]
async fn a_cgroup_is_empty_when_the_last_of_its_processes_has_ended() {
    let mut first = Program::start("sleep 60");
    let mut second = Program::start("sleep 60");
    let cgroup = Cgroup::make(first.pid(), number(10)).expect("root");
    cgroup.admit(first.pid()).expect("moved");
    cgroup.admit(second.pid()).expect("moved");
    let mut emptied = Emptied::new().expect("inotify");
    emptied.watch(10, &cgroup).expect("watched");
    first.end();
    assert!(timeout(Duration::from_millis(100), emptied.next()).await.is_err(), "one is left");
    second.end();
    assert_eq!(timeout(SOON, emptied.next()).await, Ok(10));
    cgroup.dissolve().expect("dissolved");
    assert!(timeout(Duration::from_millis(100), emptied.next()).await.is_err(), "told of once");
}

#[tokio::test]
async fn processes_that_were_started_in_it_count() {
    let mut parent = Program::start("read go; sleep 60 & exit");
    let cgroup = Cgroup::make(parent.pid(), number(11)).expect("root");
    cgroup.admit(parent.pid()).expect("moved");
    let mut emptied = Emptied::new().expect("inotify");
    emptied.watch(11, &cgroup).expect("watched");
    parent.finish();
    assert!(!cgroup.is_empty().expect("read"), "its child is left");
    parent.end();
    assert_eq!(timeout(SOON, emptied.next()).await, Ok(11));
    cgroup.dissolve().expect("dissolved");
}

#[tokio::test]
async fn what_is_empty_or_gone_before_it_is_watched_is_told_of() {
    let mut program = Program::start("sleep 60");
    let (empty, gone) = (Cgroup::make(program.pid(), number(12)), Cgroup::make(program.pid(), number(13)));
    let (empty, gone) = (empty.expect("root"), gone.expect("root"));
    gone.clone().dissolve().expect("dissolved");
    program.end();
    let mut emptied = Emptied::new().expect("inotify");
    emptied.watch(12, &empty).expect("watched");
    emptied.watch(13, &gone).expect("watched");
    assert_eq!((timeout(SOON, emptied.next()).await, timeout(SOON, emptied.next()).await), (Ok(12), Ok(13)));
    emptied.watch(14, &empty).expect("watched");
    emptied.forget(14);
    assert!(timeout(Duration::from_millis(100), emptied.next()).await.is_err(), "forgotten");
    empty.dissolve().expect("dissolved");
}

#[test]
fn a_program_that_starts_others_all_the_time_is_moved_out() {
    let program = Program::start("while :; do sleep 0.01 & sleep 0.01; done");
    let cgroup = Cgroup::make(program.pid(), number(15)).expect("root");
    cgroup.admit(program.pid()).expect("moved");
    eventually("it starts others", || {
        fs::read_to_string(cgroup.path().join("cgroup.procs")).expect("read").lines().count() > 1
    });
    cgroup.clone().dissolve().expect("dissolved");
    assert!(!cgroup.path().exists());
}

#[test]
fn this_machine_shows_all_of_its_hierarchy() {
    assert!(!in_namespace().expect("mounted"));
}
