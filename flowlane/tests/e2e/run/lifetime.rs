//! Programs, daemons and switches end, well or not, and are started again: what goes on, and what is left.

use super::{
    host::{FlowHost, Going, output, text, within},
    packets::Watch,
    services::{PAGE, Services},
    site::{CLEAN, Site},
};
use crate::{
    lab::{Lab, eventually},
    on,
};
use flowlane_host::guard;
use nix::sys::signal::Signal;
use std::{
    fs, thread,
    time::{Duration, Instant},
};

on! {
    a_switch_that_is_killed_and_started_again_keeps_the_flows_of_runs on tc, xdp;
}

/// The same with sockets of its own: `sh` waits for `ping`.
const PINGS: [&str; 4] = ["--", "sh", "-c", "ping -q -n -i 0.02 10.2.0.2 & ping -q -n -i 0.02 fd02::2; wait"];

fn nothing(services: Services) -> Services {
    services
}

#[test]
fn a_program_that_is_killed_leaves_nothing() {
    let site = Site::new("tc", nothing);
    let going = Going::start(&mut site.host.run(&PINGS));
    site.host.open_flow("10.2.0.2");
    site.host.open_flow("fd02::2");
    assert_eq!(site.at_switch().len(), 2);
    going.end(Signal::SIGKILL);
    site.is_clean();
    assert_eq!(site.host.flows(), []);
}

/// The switch is stopped: nobody answers. What waits is sent plainly, and answered.
#[test]
fn a_program_that_is_killed_while_its_packets_wait_leaves_nothing() {
    let site = Site::new("tc", nothing);
    // Packets wait for 0.9 s, and a busy machine may look later.
    assert!((0..5).any(|_| is_killed_while_packets_wait(&site)), "none has waited");
}

/// Whether the packets of the program did wait when it was killed.
fn is_killed_while_packets_wait(site: &Site) -> bool {
    site.host.wait_for_service(true);
    site.switch.signal(Signal::SIGSTOP);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let mut state = None;
    eventually("packets have waited, or wait", || {
        state = site.host.flows().pop().map(|flow| flow.state);
        state.is_some()
    });
    going.end(Signal::SIGKILL);
    let at_once = Going::start(&mut site.host.run(&["--to", "10.3.0.2", "--", "sleep", "60"]));
    thread::sleep(Duration::from_millis(50));
    at_once.end(Signal::SIGKILL);
    site.switch.signal(Signal::SIGCONT);
    site.is_clean();
    state.is_some_and(|state| state == "waiting")
}

#[test]
fn a_daemon_that_is_killed_for_good_leaves_nothing_and_programs_go_on() {
    let mut site = Site::new("tc", nothing);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    site.host.open_flow("10.2.0.2");
    let killed = Instant::now();
    site.host.end(Signal::SIGKILL);
    eventually("the switch has no flow any more", || site.at_switch().is_empty());
    println!("undone {:.1} s after the daemon was killed", killed.elapsed().as_secs_f32());
    let watch = site.watch("tc");
    eventually("it goes on", || watch.packets().len() > 20);
    assert!(watch.stop(|_| true).iter().all(|packet| packet.is_plain()), "as if there were no Flowlane");
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_untouched();
}

#[test]
fn a_daemon_that_is_killed_and_started_again_keeps_the_flows() {
    assert!((0..3).any(|_| a_killed_daemon_is_succeeded()), "it was never started in time");
}

/// The same, or nothing said of it where the daemon came later than its guard waits for it.
fn a_killed_daemon_is_succeeded() -> bool {
    let mut site = Site::new("tc", Services::nginx);
    let going = Going::ping(&site.host, &["--name", "stays"], "10.2.0.2");
    let before = site.host.open_flow("10.2.0.2");
    for _ in 0..3 {
        let killed = Instant::now();
        site.host.end(Signal::SIGKILL);
        thread::sleep(Duration::from_millis(20));
        site.host.start_daemon();
        if killed.elapsed() >= guard::SUCCESSOR {
            return false;
        }
        let after = site.host.open_flow("10.2.0.2");
        assert_eq!((after.address, after.run), (before.address, before.run));
        assert!(after.packets >= before.packets, "counters go on");
    }
    thread::sleep(Duration::from_secs(4));
    assert_eq!(site.host.open_flow("10.2.0.2").address, before.address, "no guard of a predecessor undoes anything");
    let status = site.host.status().expect("a daemon");
    assert!(status.runs.len() == 1 && status.runs[0].name.starts_with("stays["), "{:?}", status.runs);
    assert_eq!(text(&output(&mut site.host.run(&["--", "curl", "-sS", "http://10.2.0.2:8080/"]))), PAGE, "a new run");
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_clean();
    assert!(site.host.end(Signal::SIGINT).success());
    site.is_untouched();
    true
}

#[test]
fn a_daemon_that_is_stopped_undoes_everything_and_programs_go_on() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut site = Site::new("tc", nothing);
        let going = Going::ping(&site.host, &[], "10.2.0.2");
        site.host.open_flow("10.2.0.2");
        assert!(site.host.end(signal).success(), "{signal}");
        // The lease goes on for long.
        eventually("it has said so to the switch before it ended", || site.at_switch().is_empty());
        thread::sleep(Duration::from_millis(200));
        let (sent, lost) = going.lost();
        assert_eq!(lost, 0, "{signal}: of {sent}");
        site.is_untouched();
    }
}

#[test]
fn a_successor_takes_over_from_a_daemon_that_is_stopped() {
    let mut site = Site::new("tc", nothing);
    assert!((0..3).any(|_| a_stopped_daemon_is_succeeded(&mut site)), "no successor came in time");
}

/// Whether a successor has taken over. It must, unless it took as long as daemons wait for each other: the one that is stopped
/// for 2 s, and its successor for 1 s.
fn a_stopped_daemon_is_succeeded(site: &mut Site) -> bool {
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let before = site.host.open_flow("10.2.0.2");
    let stopped = Instant::now();
    site.host.signal(Signal::SIGTERM);
    let mut former = site.host.forget_daemon();
    site.host.spawn_daemon();
    assert!(former.wait().expect("a child").success());
    let is_late = stopped.elapsed() >= Duration::from_secs(1);
    if !site.host.answers() {
        assert!(is_late, "it has not waited for the lock");
        site.host.start_daemon();
    }
    let flows = site.host.flows();
    let is_succeeded = flows.iter().any(|flow| flow.state == "open" && flow.address == before.address);
    assert!(is_succeeded || is_late, "{flows:?}");
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_clean();
    site.host.wait_for_service(true);
    is_succeeded
}

#[test]
fn a_daemon_that_begins_anew_gets_back_no_privileges_that_it_has_given_up() {
    /// To become other users, load modules, reach hardware, stop the machine, set its clock, make devices.
    const GIVEN_UP: u64 = 1 << 6 | 1 << 7 | 1 << 16 | 1 << 17 | 1 << 22 | 1 << 25 | 1 << 27;
    let site = Site::new("tc", nothing);
    for _ in 0..2 {
        let status = fs::read_to_string(format!("/proc/{}/status", site.host.daemon())).expect("it runs");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim();
        let held = u64::from_str_radix(field("CapPrm:"), 16).expect("a set");
        assert_eq!((held & GIVEN_UP, field("NoNewPrivs:")), (0, "1"), "{held:x}");
        site.host.begin_anew();
    }
}

#[test]
fn a_daemon_that_is_told_to_begin_anew_keeps_the_flows() {
    let mut site = Site::new("tc", nothing);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let (before, pid) = (site.host.open_flow("10.2.0.2"), site.host.daemon());
    for _ in 0..2 {
        site.host.begin_anew();
        assert_eq!(site.host.open_flow("10.2.0.2").address, before.address);
    }
    assert_eq!(site.host.daemon(), pid);
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_clean();
    assert!(site.host.end(Signal::SIGINT).success());
    site.is_untouched();
}

/// As root, and without a service of the system: the daemon comes and goes with the runs.
#[test]
fn without_a_daemon_one_is_started_that_goes_with_the_last_run() {
    let mut site = Site::new("tc", Services::nginx);
    assert!(site.host.end(Signal::SIGINT).success());
    let watch = site.watch("tc");
    let going = Going::ping(&site.host, &[], "fd02::2");
    site.host.wait_for_service(true);
    for _ in 0..3 {
        let page = output(&mut site.host.require(&["--", "curl", "-sSf", "http://10.2.0.2:8080/"]));
        assert_eq!((text(&page), page.stderr), (PAGE.to_owned(), Vec::new()));
    }
    site.host.open_flow("fd02::2");
    let packets = watch.stop(|packet| packet.to_port == 8080);
    assert!(packets.len() >= 3 && packets.iter().all(|packet| packet.is_to_a_flow()), "{packets:?}");
    assert_eq!(going.lost().1, 0);
    site.is_untouched();
}

fn a_switch_that_is_killed_and_started_again_keeps_the_flows_of_runs(executor: &str) {
    let mut site = Site::new(executor, nothing);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let before = site.host.open_flow("10.2.0.2");
    for _ in 0..2 {
        site.switch.kill();
        thread::sleep(Duration::from_millis(200));
        site.switch.start_again();
        eventually("the flow is there", || {
            let flows = site.at_switch();
            flows.len() == 1 && flows[0]["address"] == before.address.expect("an address").to_string()
        });
    }
    assert_eq!(site.host.open_flow("10.2.0.2").address, before.address);
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_clean();
}

/// Its store is gone: the host asks anew, and its programs lose at most what is under way.
#[test]
fn a_switch_that_has_lost_its_leases_is_asked_anew() {
    let short = "[lease]\nmin = \"2s\"\ndefault = \"8s\"\nquarantine = \"1s\"\n";
    let mut site = Site::with("tc", short, "", nothing);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let before = site.host.open_flow("10.2.0.2");
    site.switch.terminate();
    std::fs::remove_file(site.switch.path("state/leases.redb")).expect("a store");
    site.switch.remove();
    site.switch.start_again();
    within(Duration::from_secs(20), "it has another flow", || {
        site.host.flows().iter().any(|flow| flow.state == "open" && flow.address != before.address)
    });
    let watch = site.watch("tc");
    eventually("it goes on", || watch.packets().len() > 20);
    assert!(watch.stop(|packet| packet.protocol == 1).iter().all(|packet| packet.is_to_a_flow()));
    drop(going);
    site.is_clean();
}

/// Leases are renewed in time, and end where nobody renews them.
#[test]
fn a_switch_that_is_gone_for_good_takes_no_connectivity_along() {
    let short = "[lease]\nmin = \"2s\"\ndefault = \"8s\"\nquarantine = \"1s\"\n";
    let mut site = Site::with("tc", short, "", nothing);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let flow = site.host.open_flow("10.2.0.2");
    thread::sleep(Duration::from_secs(12));
    assert_eq!(site.host.open_flow("10.2.0.2").address, flow.address, "it has been renewed");
    site.switch.kill();
    within(Duration::from_secs(20), "the lease has ended", || {
        site.host.flows().iter().any(|flow| flow.state == "plain")
    });
    let watch = site.watch("tc");
    eventually("it goes on", || watch.packets().len() > 20);
    assert!(watch.stop(|packet| packet.protocol == 1).iter().all(|packet| packet.is_plain()));
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    assert!(site.host.end(Signal::SIGINT).success());
}

/// The interface goes down and comes up again, as a cable does that is plugged in.
#[test]
fn a_cable_that_was_out_is_used_again() {
    let site = Site::new("tc", nothing);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let before = site.host.open_flow("10.2.0.2");
    site.lab.a.port().down().expect("down");
    thread::sleep(Duration::from_millis(500));
    site.lab.a.port().up().expect("up");
    let watch = Watch::start(site.lab.a.port(), flowlane_lab::Direction::In);
    eventually("it goes on", || {
        watch.packets().iter().any(|packet| packet.protocol == 1 && Some(packet.destination) == before.address)
    });
    drop(going);
    site.is_clean();
}

/// Two hosts, two daemons, one kernel: neither touches what is the other's.
#[test]
fn daemons_of_two_namespaces_do_not_disturb_each_other() {
    let lab = Lab::new();
    let switch = lab.switch("tc");
    let (mut one, two) = (FlowHost::start(&lab.a), FlowHost::start(&lab.c));
    let first = Going::ping(&one, &[], "10.2.0.2");
    let second = Going::ping(&two, &[], "10.2.0.2");
    let (of_one, of_two) = (one.open_flow("10.2.0.2"), two.open_flow("10.2.0.2"));
    assert_ne!(of_one.address, of_two.address);
    assert!(one.end(Signal::SIGINT).success());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(two.open_flow("10.2.0.2").address, of_two.address);
    eventually("one is left", || switch.api.get("/v1/flows").as_array().map(Vec::len) == Some(1));
    assert_eq!(switch.api.get("/v1/flows")[0]["port"], "pc");
    assert_eq!((first.lost().1, second.lost().1), (0, 0));
    within(CLEAN, "nothing is left", || {
        one.left().is_empty() && two.left_by_runs().is_empty() && switch.api.get("/v1/flows") == serde_json::json!([])
    });
}
