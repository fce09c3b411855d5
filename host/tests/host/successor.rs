//! What a daemon leaves, killed or stopped, and the one that follows it.

use crate::setup::{Program, eventually, ip, open_address, setup};
use flowlane_client::protocol::Wishes;
use flowlane_host::cgroup::Cgroup;
use std::{
    fs, thread,
    time::{Duration, SystemTime},
};

#[test]
fn a_successor_keeps_what_a_killed_daemon_had_opened() {
    let setup = setup();
    let (daemon, mut program, cgroup) = setup.with_a_run(2_000);
    program.go();
    let first = open_address(&daemon);
    setup.until_written(first);
    // None waits any more by then: what is sent from now on is in the flow.
    setup.until_seen(first, SystemTime::UNIX_EPOCH);
    let killed = SystemTime::now();
    daemon.kill();
    let daemon = setup.start();
    eventually("it is open", || daemon.flows().iter().any(|flow| flow.address == Some(first)));
    setup.go_to(first);
    setup.went_to(first, killed);
    assert_eq!(setup.switch.leases().len(), 1);
    drop(program);
    setup.switch.wait_for_leases(0);
    eventually("the cgroup is removed", || !cgroup.exists());
    daemon.stop();
}

#[test]
fn what_was_granted_to_a_daemon_that_was_killed_before_it_heard_of_it_is_given_back() {
    let setup = setup();
    let (daemon, mut program, cgroup) = setup.with_a_run(2_000);
    setup.switch.set_mute(true);
    program.go();
    setup.switch.wait_for_leases(1);
    daemon.kill();
    setup.switch.set_mute(false);
    setup.undo();
    assert_eq!(setup.switch.leases(), []);
    assert!(!cgroup.exists());
}

#[test]
fn a_cgroup_that_was_left_empty_is_removed_at_the_start() {
    let setup = setup();
    let program = Program::pings(&setup.host, 1);
    let left = setup.host.netns().run(|| Cgroup::make(program.pid(), 4_711).expect("a cgroup"));
    let left = left.expect("the namespace");
    let daemon = setup.start();
    assert!(!left.path().exists());
    daemon.stop();
}

#[test]
fn a_successor_uses_no_number_that_its_predecessor_may_have_used() {
    let setup = setup();
    let daemon = setup.start();
    let (one, two) = (Program::pings(&setup.host, 100), Program::pings(&setup.host, 100));
    let to = |last: &str| Wishes { to: vec![ip(last)], ..Wishes::default() };
    let first = daemon.run(&one, to("10.1.0.2")).expect("a run");
    let iaid = setup.switch.wait_for_leases(1)[0].key.iaid;
    thread::sleep(Duration::from_millis(50));
    daemon.kill();
    let daemon = setup.start();
    let second = daemon.run(&two, to("10.1.0.3")).expect("a run");
    let leases = setup.switch.wait_for_leases(2);
    assert!(second.run > first.run + 100, "{} and {}", first.run, second.run);
    assert!(leases.iter().any(|lease| lease.key.iaid.wrapping_sub(iaid) > 10_000), "{leases:?}");
    daemon.stop();
}

#[test]
fn what_ends_while_nobody_looks_is_given_back_by_the_successor() {
    let setup = setup();
    let (daemon, mut program, cgroup) = setup.with_a_run(2_000);
    program.go();
    open_address(&daemon);
    thread::sleep(Duration::from_millis(50));
    daemon.kill();
    drop(program);
    eventually("it has ended", || {
        fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"))
    });
    let daemon = setup.start();
    setup.switch.wait_for_leases(0);
    eventually("the cgroup is removed", || !cgroup.exists());
    daemon.stop();
}
