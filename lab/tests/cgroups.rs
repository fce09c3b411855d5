//! Cgroups for the processes of a test.

use flowlane_lab::{Cgroup, cgroup};
use std::{fs, process::Command};

#[test]
fn a_cgroup_ends_with_all_that_runs_in_it() {
    let owner = Cgroup::new("flowlane-lab-test").expect("root");
    let below = owner.path().join("below/further");
    fs::create_dir_all(&below).expect("cgroups");
    let mut here = Command::new("sleep");
    let here = owner.hold(here.arg("60")).expect("a cgroup").spawn();
    let mut there = Command::new("sh");
    let there = cgroup::hold(&below, there.args(["-c", "sleep 60 & sleep 60"])).expect("a cgroup").spawn();
    let mut children = [here.expect("it runs"), there.expect("it runs")];

    let pids = children.each_ref().map(|child| child.id().cast_signed());
    let held = owner.processes().expect("they are listed");
    assert!(pids.iter().all(|pid| held.contains(pid)), "{pids:?} in {held:?}");
    assert_eq!(owner.below().expect("they are listed"), [owner.path().join("below"), below]);

    let path = owner.path().to_owned();
    drop(owner);
    assert!(!path.exists());
    assert!(children.iter_mut().all(|child| !child.wait().expect("a child").success()), "killed");
}
