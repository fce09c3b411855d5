//! What may go wrong: the switch is killed, stopped, configured anew; interfaces vanish; files are damaged.

use crate::{
    daemon::{Daemon, PROGRAM, ends},
    lab::{
        Lab, SOON, alone, eventually, flow_from_a, host, ip, known_flow_from_a_to_b, mac, mac_of, ping, settings,
        use_flow,
    },
    on, packet,
    stream::Stream,
};
use flowlane_faults::{Extent, Fault, Options};
use flowlane_lab::{Injector, traffic};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fs,
    ops::Range,
    process::{Command, Output},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

on! {
    killed_ten_times_under_traffic_it_loses_nothing on tc, xdp;
    stopped_under_traffic_it_loses_nothing on tc, xdp;
    killed_it_resumes on af_packet, af_xdp;
    an_interface_that_is_deleted_and_made_again_gets_its_flows_back on tc, af_packet, af_xdp, xdp;
}

/// A fault of `cargo xtask faults` loses no frame and no lease, however seldom it is injected here.
fn loses_nothing(fault: &str, executor: &'static str) {
    let _alone = alone();
    let fault = Fault::named(fault).expect("a fault");
    let options = Options { program: PROGRAM.into(), other: None, extent: Extent::Brief, seed: 1 };
    let row = fault.inject(&options, executor);
    println!("{row:?}");
    assert!(row.ok, "{row:?}");
    assert!(row.times > 0 && row.frames_sent > 1_000, "{row:?}");
}

#[test]
fn killed_while_it_starts_and_leases_are_asked_for_it_loses_nothing() {
    loses_nothing("kill-9", "xdp");
}

#[test]
fn a_successor_with_other_programs_loses_nothing() {
    loses_nothing("replace", "tc");
}

#[test]
fn a_successor_with_a_newer_table_layout_loses_nothing() {
    loses_nothing("layout-up", "xdp");
}

#[test]
fn a_successor_with_an_older_table_layout_loses_nothing() {
    loses_nothing("layout-down", "tc");
}

#[test]
fn damaged_tables_are_found_and_repaired_while_other_flows_go_on() {
    loses_nothing("table-damaged", "tc");
}

/// Frames in a second, under which a switch is killed.
const LOAD: u64 = 20_000;

/// Leases and table entries, as far as they must not change.
fn what_stays(switch: &Daemon) -> Vec<Value> {
    let flows = switch.api.get("/v1/flows");
    let fields = ["address", "slot", "port", "destination", "state", "next", "egress", "client", "iaid"];
    let flows = flows.as_array().expect("flows").iter();
    flows.map(|flow| fields.iter().map(|field| flow[*field].clone()).collect()).collect()
}

fn killed_ten_times_under_traffic_it_loses_nothing(executor: &str) {
    ended_under_traffic(executor, 10, Daemon::kill);
}

fn stopped_under_traffic_it_loses_nothing(executor: &str) {
    ended_under_traffic(executor, 2, Daemon::terminate);
}

fn ended_under_traffic(executor: &str, times: u32, end: fn(&mut Daemon)) {
    let (lab, mut switch) = Lab::with_switch(executor);
    known_flow_from_a_to_b(&lab, &switch);
    switch.api.open(json!({ "port": "pc", "client": "another", "destination": "10.2.0.2", "rate": 1_000_000 }));
    eventually("both are resolved", || switch.api.get("/v1/flows").to_string().matches("\"resolved\"").count() == 2);
    let before = what_stays(&switch);

    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), LOAD);
    for _ in 0..times {
        thread::sleep(Duration::from_millis(50));
        end(&mut switch);
        eventually("it flows without the switch's process", || stream.flows());
        switch.start_again();
        assert_eq!(switch.api.status()["adopted"], true);
        assert_eq!(what_stays(&switch), before);
        switch.api.verify();
    }
    let outcome = stream.stop();
    println!("{executor}: {outcome:?} with {times} restarts");
    assert!(outcome.is_perfect(), "{outcome:?}");
}

fn killed_it_resumes(executor: &str) {
    let (lab, mut switch) = Lab::with_switch(executor);
    flow_from_a(&lab, &switch, "10.1.0.1");
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 1_000);
    eventually("B receives", || stream.flows());
    let before = what_stays(&switch);
    let mut late = 0;
    for end in [Daemon::kill, Daemon::terminate] {
        let in_hand = in_hand(&stream, || end(&mut switch));
        // Only af-xdp gives frames to the kernel while it still has some.
        late += if executor == "af-xdp" { in_hand.count() as u64 } else { 0 };
        switch.start_again();
        eventually("B receives", || stream.flows());
        assert_eq!(what_stays(&switch), before);
        switch.api.verify();
    }
    let outcome = stream.stop();
    assert!(outcome.doubled == 0 && outcome.out_of_order <= late, "{outcome:?}, {late} may be late");
}

/// Which packets a process may have in hand while it ends: those that had not arrived before, and had been sent after. On
/// af-xdp, when it is told to end, it forwards them, and the kernel may forward later ones before it has.
fn in_hand(stream: &Stream, end: impl FnOnce()) -> Range<u64> {
    let arrived = stream.next();
    end();
    arrived..stream.sent() + 1
}

#[test]
fn flows_go_on_when_another_executor_takes_over() {
    let (lab, mut switch) = Lab::with_switch("tc");
    flow_from_a(&lab, &switch, "10.1.0.1");
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 1_000);
    eventually("B receives", || stream.flows());
    let mut late = 0;
    for executor in ["xdp", "af-packet", "af-xdp", "tc", "af-xdp", "af-packet", "xdp", "af-xdp", "tc"] {
        let is_af_xdp = switch.api.port("pa")["executor"] == "af-xdp";
        let in_hand = in_hand(&stream, || switch.terminate());
        late += if is_af_xdp { in_hand.count() as u64 } else { 0 };
        switch.configure(&settings(executor));
        switch.start_again();
        assert_eq!(switch.api.port("pa")["executor"], executor);
        eventually("B receives", || stream.flows());
        switch.api.verify();
    }
    let outcome = stream.stop();
    println!("from executor to executor: {outcome:?}");
    assert!(outcome.doubled == 0 && outcome.out_of_order <= late, "{outcome:?}, {late} may be late");
}

/// Its sockets go with it; then the kernel's program does what the process did. Until they are gone, nobody takes what comes:
/// they go at once where the process is told to end, and when the kernel has cleared up where it is killed.
#[test]
fn killed_on_af_xdp_the_kernel_goes_on() {
    let (lab, mut switch) = Lab::with_switch("af-xdp");
    known_flow_from_a_to_b(&lab, &switch);
    let before = what_stays(&switch);
    // So few that the ring has room for all that come while the process does not get the processor.
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 500);
    let (mut killed, mut late) = (Vec::new(), 0);
    for told in [false, true, false, true] {
        let end = if told { Daemon::terminate } else { Daemon::kill };
        eventually("B receives", || stream.flows());
        let in_hand = in_hand(&stream, || end(&mut switch));
        if told {
            late += in_hand.count() as u64
        } else {
            killed.push(in_hand)
        }
        eventually("it flows without the switch's process", || stream.flows());
        switch.start_again();
        assert_eq!(switch.api.status()["adopted"], true);
        assert_eq!(what_stays(&switch), before);
        switch.api.verify();
    }
    let (outcome, arrived) = stream.stop_and_tell();
    println!("af-xdp, killed and restarted: {outcome:?}");
    assert!(outcome.doubled == 0 && outcome.out_of_order <= late, "{outcome:?}, {late} may be late");
    let arrived: HashSet<u64> = arrived.into_iter().collect();
    let lost = (0..outcome.sent).filter(|number| !arrived.contains(number));
    let others: Vec<u64> = lost.filter(|number| !killed.iter().any(|ending| ending.contains(number))).collect();
    assert!(others.is_empty(), "only what came while the process was killed is lost: {killed:?}, not {others:?}");
}

/// Each from one port to another.
#[test]
fn ports_of_different_executors_forward_to_each_other() {
    let (lab, mut switch) = Lab::with_switch("tc");
    flow_from_a(&lab, &switch, "10.1.0.1");
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 1_000);
    eventually("B receives", || stream.flows());
    let others = ["tc", "xdp", "af-packet"];
    let pairs = others.iter().flat_map(|other| [("af-xdp", *other), (*other, "af-xdp")]);
    let mut late = 0;
    for (near, far) in pairs.chain([("af-packet", "xdp"), ("xdp", "af-packet")]) {
        let is_af_xdp = switch.api.port("pa")["executor"] == "af-xdp";
        let in_hand = in_hand(&stream, || switch.terminate());
        late += if is_af_xdp { in_hand.count() as u64 } else { 0 };
        let ports = [("pa", near), ("pb", far), ("pc", "tc")]
            .map(|(port, executor)| format!("[[port]]\ninterface = \"{port}\"\nexecutor = \"{executor}\"\n"));
        switch.configure(&format!("slots = 1024\n{}", ports.concat()));
        switch.start_again();
        assert_eq!(switch.api.port("pa")["executor"], near);
        assert_eq!(switch.api.port("pb")["executor"], far);
        eventually("B receives", || stream.flows());
        switch.api.verify();
    }
    let outcome = stream.stop();
    assert!(outcome.doubled == 0 && outcome.out_of_order <= late, "{outcome:?}, {late} may be late");
}

#[test]
fn a_port_whose_frames_are_too_long_for_af_xdp_says_so() {
    let lab = Lab::new();
    for link in [lab.a.port(), lab.a.link()] {
        link.set_mtu(9_000).expect("veth takes it");
    }
    let switch = lab.switch("af-xdp");
    let problem = switch.api.port("pa")["problem"].to_string();
    assert!(problem.contains("3498") && problem.contains("9000") && problem.contains("xdp or tc"), "{problem}");
    assert_eq!(switch.api.port("pb")["executor"], "af-xdp", "the others work");
}

#[test]
fn between_the_kernels_executors_nothing_is_lost() {
    let (lab, mut switch) = Lab::with_switch("tc");
    known_flow_from_a_to_b(&lab, &switch);
    for executor in ["xdp", "tc"] {
        let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 5_000);
        switch.terminate();
        switch.configure(&settings(executor));
        switch.start_again();
        let outcome = stream.stop();
        println!("to {executor}: {outcome:?}");
        assert_eq!((outcome.lost, outcome.doubled), (0, 0), "to {executor}: {outcome:?}");
    }
}

#[test]
fn a_port_that_is_configured_no_more_is_a_plain_interface_again() {
    let (lab, mut switch) = Lab::with_switch("tc");
    let gone = switch.api.open_on("pc", "of the port that goes");
    known_flow_from_a_to_b(&lab, &switch);
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 2_000);
    switch.terminate();
    switch.configure("slots = 1024\nexecutor = \"tc\"\n[[port]]\ninterface = \"pa\"\n[[port]]\ninterface = \"pb\"\n");
    switch.start_again();
    assert_eq!(switch.api.status()["ports"].as_array().map(Vec::len), Some(2));
    let pins: Vec<_> = fs::read_dir(switch.pins().expect("pins")).expect("a directory").flatten().collect();
    assert!(!pins.iter().any(|pin| pin.file_name().to_string_lossy().starts_with("port-3-")), "{pins:?}");
    assert_eq!(switch.api.flow(&gone)["address"], gone, "its lease is kept until it ends");
    let outcome = stream.stop();
    assert!(outcome.is_perfect(), "{outcome:?}");
    ping(&lab.c, "10.3.0.1", 1);
}

fn an_interface_that_is_deleted_and_made_again_gets_its_flows_back(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let d = host(&lab.netns, 4, "d");
    drop(switch);
    let switch = lab.switch_with(&format!("{}[[port]]\ninterface = \"pd\"\n", settings(executor)));
    let to_b = flow_from_a(&lab, &switch, "10.1.0.1");
    let to_d = switch.api.open(json!({ "port": "pc", "client": "c", "destination": "10.4.0.2" }));
    use_flow(&lab.c, "10.3.0.1", &to_d);
    let from_d = switch.api.open(json!({ "port": "pd", "client": "d", "destination": "10.3.0.2" }));
    use_flow(&d, "10.4.0.1", &from_d);
    ping(&lab.c, "10.4.0.2", 2);
    ping(&lab.a, "10.2.0.2", 1);
    // So few that rings have room for all that come while a process does not get the processor.
    let undisturbed = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 500);
    eventually("B receives", || undisturbed.flows());
    let load = Stream::start(lab.c.netns(), d.netns(), ip("10.4.0.2"), 500);
    eventually("D receives", || load.flows());

    d.link().clone().delete().expect("deleted");
    eventually("the switch says so", || switch.api.status()["problems"].to_string().contains("pd"));
    load.stop();
    drop(d);
    let d = host(&lab.netns, 4, "d");
    use_flow(&d, "10.4.0.1", &from_d);
    eventually("the port is attached", || switch.api.port("pd")["executor"] == executor);
    for flow in [&to_d, &from_d] {
        eventually("it is resolved", || switch.api.flow(flow)["state"] == "resolved");
    }
    ping(&lab.c, "10.4.0.2", 3);
    assert!(switch.api.flow(&from_d)["packets"].as_u64() >= Some(3), "the way back is a flow too");
    assert_eq!(switch.api.flow(&to_d)["next"], mac_of(4).to_string());

    let outcome = undisturbed.stop();
    assert!(outcome.is_perfect(), "{outcome:?}");
    assert_eq!(switch.api.flow(&to_b)["state"], "resolved");
    switch.api.verify();
}

/// What the program says when it does not start, without the frame around it.
fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

#[test]
fn a_damaged_store_is_reported_and_left_alone() {
    let (_lab, mut switch) = Lab::with_switch("tc");
    let flow = switch.api.open_on("pa", "test");
    switch.terminate();
    let store = switch.path("state/leases.redb");
    let good = fs::read(&store).expect("a store");
    let mut damaged = good.clone();
    damaged[..4096].fill(0x5a);
    fs::write(&store, &damaged).expect("written");

    let text = complaint(&switch.fails());
    assert!(text.contains("leases.redb"), "{text}");
    assert_eq!(fs::read(&store).expect("still there"), damaged);
    assert!(switch.pins().is_some(), "what forwards goes on to forward");

    fs::write(&store, good).expect("written");
    switch.start_again();
    assert_eq!(switch.api.flow(&flow)["address"], flow);
}

#[test]
fn a_store_of_another_block_is_refused() {
    let (_lab, mut switch) = Lab::with_switch("tc");
    let flow = switch.api.open_on("pa", "test");
    switch.terminate();
    switch.configure(&format!("block = \"a6:00:00:00:00:00/16\"\n{}", settings("tc")));
    let text = complaint(&switch.fails());
    assert!(text.contains("a2:f1:00:00:00:00/16") || text.contains("block"), "{text}");

    switch.configure(&settings("tc"));
    switch.start_again();
    assert_eq!(switch.api.flow(&flow)["address"], flow);
    switch.api.verify();
}

#[test]
fn a_second_switch_of_the_same_name_is_refused_and_the_first_goes_on() {
    let (lab, switch) = Lab::with_switch("tc");
    known_flow_from_a_to_b(&lab, &switch);
    let before = what_stays(&switch);

    let same = switch.fails();
    assert_eq!(same.status.code(), Some(5), "{same:?}");
    assert!(complaint(&same).contains("running already"), "{same:?}");

    // Other directories do not help: the pins have the switch's name.
    let text = fs::read_to_string(switch.config()).expect("a configuration");
    let other = switch.path("other.toml");
    fs::write(&other, text.replace("/state\"", "/state2\"").replace("/run\"", "/run2\"")).expect("written");
    let mut namesake = lab.netns.command(crate::daemon::PROGRAM);
    namesake.args(["switch", "--config"]).arg(&other);
    let namesake = ends(namesake);
    assert_eq!(namesake.status.code(), Some(5), "{namesake:?}");
    let removal = switch.remove();
    assert_eq!(removal.status.code(), Some(5), "a running switch is not removed: {removal:?}");

    assert!(switch.api.answers().is_ok(), "its socket is still there");
    assert_eq!(what_stays(&switch), before);
    ping(&lab.a, "10.2.0.2", 3);
    switch.api.verify();
}

#[test]
fn without_privileges_it_says_what_is_missing() {
    let (lab, mut switch) = Lab::with_switch("tc");
    // It may be told to end as soon as it serves.
    switch.api.status();
    switch.terminate();
    // The user nobody, with a directory of its own.
    let directory = tempfile::tempdir().expect("a directory");
    let (nobody, program, config) = (65_534, directory.path().join("flowlane"), directory.path().join("switch.toml"));
    fs::copy(crate::daemon::PROGRAM, &program).expect("copied");
    std::os::unix::fs::chown(directory.path(), Some(nobody), Some(nobody)).expect("root");
    let text = fs::read_to_string(switch.config()).expect("a configuration");
    let own = text.replace(&*switch.path("").to_string_lossy(), &format!("{}/", directory.path().display()));
    for (text, cause) in [(&text, "state"), (&own, "bpf"), (&own.replace("\"tc\"", "\"af-packet\""), "CAP_NET")] {
        fs::write(&config, text).expect("written");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", lab.netns.path().display())).args(["--setuid", "65534", "--setgid", "65534"]);
        command.arg(&program).args(["switch", "--config"]).arg(&config).env("NO_COLOR", "1");
        let output = ends(command);
        let said = complaint(&output);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains(cause), "{cause}: {said}");
    }
    switch.start_again();
}

#[test]
fn remove_takes_everything_of_a_stopped_switch_out_of_the_kernel() {
    for executor in ["tc", "af-packet"] {
        let (lab, mut switch) = Lab::with_switch(executor);
        let flow = flow_from_a(&lab, &switch, "10.1.0.1");
        ping(&lab.a, "10.2.0.2", 1);
        switch.kill();
        let removed = switch.remove();
        assert!(removed.status.success(), "{removed:?}");
        assert_eq!(switch.pins(), None);
        // The flow's frames are nobody's now; all others are Linux's.
        eventually("the flow ends", || {
            let late = traffic::ping(lab.a.netns(), ip("10.2.0.2"), 1, None, Duration::from_millis(200)).expect("sent");
            late.received == 0
        });
        use_flow(&lab.a, "10.1.0.1", &lab.a.port().mac().expect("a port").to_string());
        ping(&lab.a, "10.2.0.2", 2);
        // The lease is not in the kernel, and is kept.
        switch.start_again();
        assert_eq!(switch.api.flow(&flow)["address"], flow);
        assert_eq!(switch.api.status()["adopted"], false);
        use_flow(&lab.a, "10.1.0.1", &flow);
        ping(&lab.a, "10.2.0.2", 2);
    }
}

/// Hosts can not bring the switch to its knees by asking: others are still served.
#[test]
fn a_flood_of_requests_on_one_port_does_not_starve_the_others() {
    let (lab, switch) = Lab::with_switch("tc");
    let injector = flowlane_lab::Injector::open(lab.c.link()).expect("root");
    let seen = flowlane_lab::Tap::start(lab.c.port(), |frame| frame.bytes.len() > 62).expect("a tap");
    let ask = |host: &flowlane_lab::Host, directory: &str| {
        let mut command = host.netns().command(crate::daemon::PROGRAM);
        command
            .args(["--json", "--runtime-directory"])
            .arg(switch.path(directory))
            .args(["flow", "open", "-i", "eth0"]);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
    };
    ask(&lab.c, "c");
    let frames = seen.stop().expect("a tap").frames;
    let is_request =
        |frame: &&flowlane_lab::Frame| frame.bytes.get(20) == Some(&17) && frame.bytes.get(56..58) == Some(&[2, 35]);
    let request = frames.iter().find(is_request).expect("a request").bytes.clone();

    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let dropped = || switch.api.port("pc")["dhcp6_ignored"]["overload"].as_u64().unwrap_or(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                sent.fetch_add(injector.send(&request).is_ok().into(), Ordering::Relaxed);
            }
        });
        let _stop = StopAtEnd(&stop);
        eventually("there is a flood", || sent.load(Ordering::Relaxed) > 10_000);
        eventually("what is too much is dropped and counted", || dropped() > 0);
        let start = Instant::now();
        ask(&lab.a, "a");
        let (asked, start) = (start.elapsed(), Instant::now());
        switch.api.status();
        let (told, sent, dropped) = (start.elapsed(), sent.load(Ordering::Relaxed), dropped());
        println!(
            "in a flood of {sent} requests ({dropped} dropped), another host's takes {asked:?}, and a question {told:?}"
        );
        assert_eq!(switch.api.port("pa")["dhcp6_ignored"]["overload"], json!(null), "on that port only");
        assert!(told < SOON, "{told:?}");
    });
    switch.api.verify();
}

/// Stops a thread, whatever becomes of the test.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While the process does not get the processor, frames wait in the ring; those that find it full are lost, and counted.
#[test]
fn frames_that_find_the_ring_full_are_counted() {
    const FRAMES: u64 = 6_000;
    let (lab, switch) = Lab::with_switch("af-packet");
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    ping(&lab.a, "10.2.0.2", 1);
    let frame = packet::udp(mac(&flow), mac_of(1), b"many");
    let forwarded = || switch.api.count("pa", "forward");
    let before = forwarded();

    let pid = nix::unistd::Pid::from_raw(switch.api.status()["pid"].as_i64().expect("a number") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    let injector = Injector::open(lab.a.link()).expect("an injector");
    (0..FRAMES).for_each(|_| injector.send(&frame).expect("sent"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("goes on");

    let accounted = || forwarded() - before + switch.api.count("pa", "ring-full");
    eventually("every frame is accounted for", || accounted() >= FRAMES);
    // What the host's own stack has to say to its neighbours now and then is lost as well.
    assert!(accounted() < FRAMES + 20, "{}", accounted());
    assert!(switch.api.count("pa", "ring-full") > 0 && forwarded() > before);
}
