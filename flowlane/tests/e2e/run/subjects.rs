//! Whose packets a run is about: a cgroup, a namespace, a socket, a program in a program; and who shares the interface.

use super::{
    host::{FlowHost, Going, output, text, within},
    packets::{Packet, Watch, assert_in_flows},
    services::{HTTP, PAGE, Services},
    site::Site,
};
use crate::lab::{SOON, eventually, ip};
use flowlane_client::{Client, Wishes};
use flowlane_lab::{Cgroup, cgroup};
use nix::sys::signal::Signal;
use std::{fs, net::UdpSocket, path::PathBuf, process::Command};

const REQUEST: [&str; 5] = ["--require", "--", "curl", "-sSf", "http://10.2.0.2:8080/"];

fn nothing(services: Services) -> Services {
    services
}

/// Echo requests of these processes.
fn echoes(watch: Watch) -> Vec<Packet> {
    watch.stop(|packet| packet.protocol == 1)
}

/// A container, or a service: its processes are there already, with their sockets.
#[test]
fn the_processes_of_a_cgroup_are_put_into_flows_for_as_long_as_asked() {
    let site = Site::new("tc", nothing);
    let container = Cgroup::new("flowlane-e2e-container").expect("root");
    let mut command = site.lab.a.netns().command("sh");
    command.args(["-c", "ping -q -n -i 0.02 fd02::2 > /dev/null & exec ping -q -n -i 0.02 10.2.0.2"]);
    let inside = Going::start(container.hold(&mut command).expect("a cgroup"));
    let watch = site.watch("tc");
    eventually("they send", || watch.packets().len() > 20);
    assert!(watch.stop(|_| true).iter().all(Packet::is_plain));

    let path = container.path().display().to_string();
    let run = Going::start(&mut site.host.run(&["--cgroup", &path]));
    let flows = [site.host.open_flow("10.2.0.2"), site.host.open_flow("fd02::2")];
    let outside = Going::start(site.host.command("ping").args(["-q", "-n", "-i", "0.02", "10.3.0.2"]));
    let watch = site.watch("tc");
    eventually("they send", || watch.packets().len() > 60);
    for packet in watch.stop(|packet| matches!(packet.protocol, 1 | 58) && packet.to != ip("fe80::1")) {
        let flow = flows.iter().find(|flow| flow.destination == packet.to);
        match flow {
            Some(flow) => assert_eq!(Some(packet.destination), flow.address),
            None => assert!(packet.is_plain(), "{packet:?}"),
        }
    }
    let status = site.host.status().expect("a daemon");
    assert_eq!((&*status.runs[0].kind, &status.runs[0].cgroup), ("cgroup", &Some(container.path().to_owned())));

    assert_eq!(run.end(Signal::SIGINT).status.code(), Some(0), "stopped by the one who started it");
    site.is_clean();
    let watch = site.watch("tc");
    eventually("they go on", || watch.packets().len() > 20);
    assert!(watch.stop(|packet| packet.protocol == 1).iter().all(Packet::is_plain));
    assert_eq!((inside.lost().1, outside.lost().1), (0, 0));
}

/// A container by its network: all that its namespace sends.
#[test]
fn a_whole_namespace_is_put_into_flows_for_as_long_as_asked() {
    let site = Site::new("tc", nothing);
    let before = Going::start(site.lab.a.netns().command("ping").args(["-q", "-n", "-i", "0.02", "10.2.0.2"]));
    let namespace = format!("/proc/{}/ns/net", before.pid());
    let mut command = Command::new(crate::daemon::PROGRAM);
    site.host.cgroup.hold(&mut command).expect("a cgroup");
    command.arg("--runtime-directory").arg(site.host.path("")).args(["run", "--netns", &namespace]);
    let run = Going::start(&mut command);
    let flow = site.host.open_flow("10.2.0.2");
    let watch = site.watch("tc");
    eventually("it sends", || watch.packets().len() > 20);
    assert!(echoes(watch).iter().all(|packet| Some(packet.destination) == flow.address));
    assert_eq!(site.host.status().expect("a daemon").runs[0].kind, "namespace");
    run.end(Signal::SIGINT);
    site.is_clean();
    assert_eq!(before.lost().1, 0);
}

/// A program that knows Flowlane asks for one of its sockets.
#[test]
fn a_socket_is_bound_to_a_flow_and_others_of_the_program_are_not() {
    let site = Site::new("tc", nothing);
    let open = || UdpSocket::bind("10.1.0.2:0").expect("a socket");
    let (bound, other) = site.lab.a.netns().run(|| (open(), open())).expect("a namespace");
    let client = Client::connect_to(&site.host.socket()).expect("a daemon");
    let wishes = Wishes { to: vec![ip("10.2.0.2")], ..Wishes::default() };
    let binding = client.bind(&bound, &wishes).expect("allowed");
    let flow = site.host.open_flow("10.2.0.2");
    let watch = site.watch("tc");
    for _ in 0..10 {
        bound.send_to(b"bound", "10.2.0.2:9").expect("sent");
        other.send_to(b"other", "10.2.0.2:9").expect("sent");
    }
    eventually("all have left", || watch.packets().len() >= 20);
    let port = bound.local_addr().expect("bound").port();
    for packet in watch.stop(|packet| packet.to_port == 9) {
        let expected = (packet.from_port == port).then_some(flow.address).flatten();
        assert_eq!(Some(packet.destination).filter(|_| packet.is_to_a_flow()), expected, "{packet:?}");
    }
    drop(binding);
    site.is_clean();
    let watch = site.watch("tc");
    bound.send_to(b"bound no more", "10.2.0.2:9").expect("sent");
    eventually("it has left", || !watch.packets().is_empty());
    assert!(watch.stop(|_| true).iter().all(Packet::is_plain));
}

#[test]
fn a_run_within_a_run_has_flows_of_its_own() {
    let site = Site::new("tc", Services::nginx);
    let outer = "ping -n -i 0.02 10.2.0.2 > /dev/null & \"$@\"; wait";
    let mut command = site.host.run(&["--name", "outer", "--", "sh", "-c", outer, "sh"]);
    command.arg(crate::daemon::PROGRAM).arg("--runtime-directory").arg(site.host.path(""));
    command.args(["run", "--name", "inner", "--", "ping", "-q", "-n", "-i", "0.02", "10.2.0.2"]);
    let going = Going::start(&mut command);
    eventually("both have one", || site.host.flows().iter().filter(|flow| flow.state == "open").count() == 2);
    let status = site.host.status().expect("a daemon");
    let of = |name: &str| status.runs.iter().find(|run| run.name.starts_with(name)).expect("a run").flows[0].clone();
    let (inner, outer) = (&of("inner["), &of("outer["));
    assert_ne!(inner.address, outer.address);
    let watch = site.watch("tc");
    eventually("both send", || {
        [inner, outer]
            .iter()
            .all(|flow| watch.packets().iter().filter(|packet| Some(packet.destination) == flow.address).count() > 10)
    });
    assert!(echoes(watch).iter().all(Packet::is_to_a_flow));
    drop(going);
    site.is_clean();
}

#[test]
fn two_runs_to_one_destination_have_a_flow_each() {
    let site = Site::new("tc", nothing);
    let (one, two) = (Going::ping(&site.host, &[], "10.2.0.2"), Going::ping(&site.host, &[], "10.2.0.2"));
    eventually("both have one", || site.host.flows().iter().filter(|flow| flow.state == "open").count() == 2);
    assert_eq!(site.at_switch().len(), 2);
    assert_eq!(one.lost().1, 0);
    eventually("one is left", || site.at_switch().len() == 1 && site.host.flows().len() == 1);
    assert_eq!(two.lost().1, 0);
    site.is_clean();
}

/// As a unit of systemd in a slice in a slice, with a limit where this machine's hierarchy has controllers.
#[test]
fn a_program_stays_within_the_limits_of_its_cgroup() {
    let site = Site::new("tc", Services::nginx);
    let deep =
        (0..6).fold(site.host.cgroup.path().to_owned(), |path, number| path.join(format!("level{number}.slice")));
    fs::create_dir_all(&deep).expect("cgroups");
    let limited = fs::read_to_string(site.host.cgroup.path().join("cgroup.controllers")).expect("a cgroup");
    println!("controllers of this hierarchy: {limited:?}");
    let run = |arguments: &[&str]| {
        let mut command = site.lab.a.netns().command(crate::daemon::PROGRAM);
        command.arg("--runtime-directory").arg(site.host.path("")).arg("run").args(arguments);
        cgroup::hold(&deep, &mut command).expect("a cgroup");
        output(&mut command)
    };
    let shown = text(&run(&["--", "grep", "^0::", "/proc/self/cgroup"]));
    assert!(shown.contains("level5.slice/flowlane-"), "below where it was: {shown}");
    let watch = site.watch("tc");
    site.host.wait_for_service(true);
    assert_eq!(text(&run(&REQUEST)), PAGE);
    let packets = watch.stop(|packet| packet.to_port == HTTP);
    assert!(packets.len() >= 3);
    assert_in_flows(&packets);
    eventually("its cgroup is gone", || no_directories(&deep));
    (0..6).rev().fold(deep, |path, _| {
        fs::remove_dir(&path).expect("empty");
        path.parent().map(PathBuf::from).expect("a parent")
    });
    site.is_clean();
}

fn no_directories(path: &std::path::Path) -> bool {
    fs::read_dir(path).expect("a cgroup").all(|entry| !entry.expect("an entry").path().is_dir())
}

/// Filters of others at the same egress stay and see the packets; rules of the user's firewall are not touched.
#[test]
fn what_others_have_set_up_stays_in_force() {
    let site = Site::new("tc", nothing);
    let netns = site.lab.a.netns();
    let done = |program: &str, arguments: &str| text(&output(netns.command(program).args(arguments.split(' '))));
    done("nft", "add table inet mine");
    done("nft", "add chain inet mine out { type filter hook output priority 0 ; }");
    done("nft", "add rule inet mine out udp dport 7 counter drop");
    let tc = |arguments: &str| output(netns.command("tc").args(arguments.split(' '))).status.success();
    // Not every kernel has the classifier.
    let has_filter =
        tc("qdisc add dev eth0 clsact") && tc("filter add dev eth0 egress protocol ip matchall action pass");
    let before = [done("nft", "list ruleset"), done("tc", "filter show dev eth0 egress")];

    let going = Going::ping(&site.host, &[], "10.2.0.2");
    site.host.open_flow("10.2.0.2");
    let script = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        try: s.sendto(b'x', ('10.2.0.2', 7))\nexcept PermissionError: pass";
    text(&output(&mut site.host.run(&["--", "python3", "-c", script])));
    let counted = done("nft", "list ruleset");
    assert!(counted.contains("counter packets 1"), "the user's own rule holds: {counted}");
    if has_filter {
        let filters = done("tc", "-s filter show dev eth0 egress");
        assert!(filters.contains("matchall"), "{filters}");
    }
    assert_eq!(going.lost().1, 0);
    site.is_clean();
    let zeroed = |rules: &str| rules.replace("packets 1 bytes 29", "packets 0 bytes 0");
    assert_eq!(zeroed(&done("nft", "list ruleset")), before[0]);
    assert_eq!(done("tc", "filter show dev eth0 egress"), before[1]);
}

/// A second interface that comes while a program runs is used as well.
#[test]
fn an_interface_that_comes_later_is_used() {
    let site = Site::new("tc", nothing);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    site.host.open_flow("10.2.0.2");
    let (own, port) = flowlane_lab::veth(
        flowlane_lab::End { netns: site.lab.a.netns(), name: "eth1", mac: None },
        flowlane_lab::End { netns: &site.lab.netns, name: "p9", mac: None },
    )
    .expect("a cable");
    own.add_address(crate::lab::net("10.9.0.2/24")).expect("an address");
    port.add_address(crate::lab::net("10.9.0.1/24")).expect("an address");
    own.connect(&port).expect("up");
    within(SOON * 2, "the daemon knows it", || {
        let status = site.host.status().expect("a daemon");
        status.interfaces.iter().any(|one| one.interface == "eth1" && one.service == Some(false))
    });
    let watch = Watch::start(&port, flowlane_lab::Direction::In);
    let second = Going::ping(&site.host, &[], "10.9.0.1");
    eventually("it goes on", || watch.packets().iter().filter(|packet| packet.protocol == 1).count() > 3);
    assert!(echoes(watch).iter().all(Packet::is_plain), "there is no port of a switch");
    assert_eq!((going.lost().1, second.lost().1), (0, 0));
    own.delete().expect("deleted");
    eventually("the daemon has forgotten it", || {
        site.host.status().expect("a daemon").interfaces.iter().all(|one| one.interface != "eth1")
    });
    text(&output(&mut site.host.run(&["--", "ping", "-n", "-c", "3", "-i", "0.02", "10.2.0.2"])));
    site.is_clean();
}

/// Runs of a host without a single interface.
#[test]
fn a_program_without_a_network_runs() {
    let netns = flowlane_lab::Netns::new("alone").expect("root");
    let switch = flowlane_lab::Netns::new("nothing").expect("root");
    let host = flowlane_lab::Host::new("alone", &switch, "port", None, &[]).expect("a host");
    host.link().down().expect("down");
    let mut run = FlowHost::without_daemon(&host);
    run.start_daemon();
    assert_eq!(text(&output(&mut run.run(&["--", "echo", "run"]))), "run\n");
    assert_eq!(text(&output(&mut run.run(&["--", "ping", "-n", "-c", "1", "127.0.0.1"]))).lines().count(), 6);
    drop(netns);
}
