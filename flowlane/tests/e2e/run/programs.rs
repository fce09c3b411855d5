//! Programs that know nothing of flows, as they are: what they send carries flow addresses, and they do not notice.

use super::{
    host::{Going, listens, output, text},
    packets::{Packet, assert_in_flows},
    services::{ADDRESS, DNS, HTTP, IPERF, NAME, PAGE, SSH, Services},
    site::Site,
};
use crate::{
    lab::{eventually, ip},
    on,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;

on! {
    iperf3_is_in_a_flow_and_another_one_is_not on tc, xdp, af_packet;
    iperf3_runs_in_all_its_modes on tc, xdp, af_packet;
    short_connections_share_the_flow_of_their_destination on tc, af_packet;
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// `iperf3 -c 10.2.0.2` for a second, to the server of this port.
fn iperf3(port: u16) -> Vec<String> {
    ["iperf3", "-c", "10.2.0.2", "-t", "1", "-b", "100M", "-J", "-p", &port.to_string()].map(str::to_owned).into()
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The report of `iperf3 -J`.
fn report(output: &std::process::Output) -> Value {
    serde_json::from_str(&text(output)).expect("its report, and nothing else, is on the standard output")
}

fn iperf3_is_in_a_flow_and_another_one_is_not(executor: &str) {
    let site = Site::new(executor, Services::iperf3);
    let watch = site.watch(executor);
    let inside = iperf3(IPERF[0]);
    let inside = Going::start(&mut site.host.run(&[&["--require", "--"], &*strs(&inside)].concat()));
    let outside = iperf3(IPERF[1]);
    let outside = Going::start(site.host.command(&outside[0]).args(&outside[1..]));
    let flow = site.host.open_flow("10.2.0.2");
    let at_switch = site.at_switch();
    let (inside, outside) = (report(&inside.wait()), report(&outside.wait()));
    for report in [&inside, &outside] {
        assert!(report["end"]["sum_received"]["bytes"].as_u64() > Some(1_000_000), "{report}");
    }

    let address = flow.address.expect("an address");
    assert_eq!(at_switch.len(), 1, "one destination, one flow: {at_switch:?}");
    assert_eq!(at_switch[0]["address"], address.to_string());
    let name = at_switch[0]["name"].as_str().expect("a name");
    assert!(name.starts_with("iperf3["), "an operator sees the program: {name}");
    let packets = watch.stop(|packet| packet.protocol == TCP && IPERF.contains(&packet.to_port));
    let (inside, outside): (Vec<_>, Vec<_>) = packets.iter().partition(|packet| packet.to_port == IPERF[0]);
    assert!(inside.len() > 50 && outside.len() > 50, "{} and {}", inside.len(), outside.len());
    let stranger = inside.iter().find(|packet| packet.destination != address || packet.is_from_a_flow());
    assert!(stranger.is_none(), "{stranger:?}");
    assert!(outside.iter().all(|packet| packet.is_plain()));
    if executor != "xdp" {
        assert!(inside.iter().filter(|packet| packet.syn).count() >= 2, "the control and the data connection");
    }
    site.is_clean();
    site.switch.api.verify();
}

fn iperf3_runs_in_all_its_modes(executor: &str) {
    let site = Site::new(executor, Services::iperf3);
    let mut packets = Vec::new();
    // Datagrams no faster than a server that has to wait for its processor can take.
    let modes: [(&str, &[&str]); 4] = [
        ("10.2.0.2", &["-u", "-b", "5M"]),
        ("10.2.0.2", &["-R", "-b", "100M"]),
        ("fd02::2", &["-b", "100M"]),
        ("fd02::2", &["-u", "-b", "5M"]),
    ];
    for (to, mode) in modes {
        let watch = site.watch(executor);
        let mut command = site.host.run(&["--", "iperf3", "-t", "1", "-J", "-c", to]);
        let report = report(&output(command.args(mode)));
        let sum = if mode[0] == "-u" { "sum" } else { "sum_received" };
        assert!(report["end"][sum]["bytes"].as_u64() > Some(500_000), "{mode:?}: {report}");
        if mode[0] == "-u" {
            assert_eq!(report["end"]["sum"]["lost_packets"], 0, "{report}");
        }
        let of_mode = watch.stop(|packet| packet.to_port == IPERF[0]);
        assert_in_flows(&of_mode);
        packets.extend(of_mode);
    }
    // Where the server sends, the program sends little more than bare acknowledgements, which are left out.
    for (protocol, v6, least) in [(TCP, false, 5), (UDP, false, 20), (TCP, true, 20), (UDP, true, 20)] {
        let is_so = |packet: &&Packet| packet.protocol == protocol && packet.to.is_ipv6() == v6;
        let seen = packets.iter().filter(is_so).count();
        assert!(seen > least, "protocol {protocol}, {v6}: {seen}");
    }
    site.is_clean();
}

/// Claims 2, 7 and 11.
#[test]
fn the_flow_address_stands_in_the_source_field_if_asked() {
    let site = Site::new("tc", Services::iperf3);
    let watch = site.watch("tc");
    for to in ["10.2.0.2", "fd02::2"] {
        let mut command = site.host.run(&["--field", "source", "--", "iperf3", "-t", "1", "-b", "100M", "-c", to]);
        text(&output(&mut command));
    }
    let router = site.lab.a.port().mac().expect("a port");
    let packets = watch.stop(|packet| packet.to_port == IPERF[0]);
    assert!(packets.iter().any(|packet| packet.to.is_ipv6()) && packets.iter().any(|packet| packet.to.is_ipv4()));
    assert_in_flows(&packets);
    let stranger = packets.iter().find(|packet| packet.is_to_a_flow() || packet.destination != router);
    assert!(stranger.is_none(), "{stranger:?}");
    site.is_clean();
}

fn short_connections_share_the_flow_of_their_destination(executor: &str) {
    let site = Site::new(executor, Services::nginx);
    let watch = site.watch(executor);
    let other = Services::new(&site.lab.c).nginx();
    let requests = "for n in $(seq 100); do \
        curl -sSf http://10.2.0.2:8080/ http://10.3.0.2:8080/ || exit 1; done; sleep 1";
    let going = Going::start(&mut site.host.run(&["--", "sh", "-c", requests]));
    let flows = [site.host.open_flow("10.2.0.2"), site.host.open_flow("10.3.0.2")];
    eventually("both are under way", || site.host.flows().iter().all(|flow| flow.packets > 100));
    assert_eq!(site.host.flows().len(), 2, "one for each destination: {:?}", site.host.flows());
    assert_eq!(site.at_switch().len(), 2);
    assert_eq!(text(&going.wait()), PAGE.repeat(200));

    let packets = watch.stop(|packet| packet.to_port == HTTP);
    assert_eq!(packets.iter().filter(|packet| packet.syn).count(), 200, "no connection had to be tried twice");
    for packet in packets {
        let flow = flows.iter().find(|flow| flow.destination == packet.to).expect("a flow");
        assert_eq!(Some(packet.destination), flow.address, "{packet:?}");
    }
    drop(other);
    site.is_clean();
}

/// Reported, and held against limits that a busy machine keeps: the figures are for people.
#[test]
fn the_first_request_takes_little_longer_than_a_plain_one() {
    const TIMES: usize = 9;
    let site = Site::new("tc", Services::nginx);
    let request = ["curl", "-sSf", "-o", "/dev/null", "-w", "%{time_starttransfer}", "http://10.2.0.2:8080/"];
    let median = |measure: &dyn Fn() -> String| {
        let mut times: Vec<f64> = (0..TIMES).map(|_| measure().parse().expect("seconds")).collect();
        times.sort_by(f64::total_cmp);
        times[TIMES / 2] * 1000.0
    };
    let plain = median(&|| text(&output(site.host.command(request[0]).args(&request[1..]))));
    let first = median(&|| text(&output(&mut site.host.run(&[&["--"][..], &request].concat()))));
    println!("first request: {first:.2} ms by a new flow, {plain:.2} ms plain, {:.2} ms more", first - plain);
    assert!(first - plain < 250.0, "it waited for a deadline: {first} ms");
    site.is_clean();
}

/// Reported only: the figures of a debug build on a busy machine say little.
#[test]
fn throughput_is_that_of_a_plain_program() {
    let site = Site::new("tc", Services::iperf3);
    let iperf3 = ["iperf3", "-c", "10.2.0.2", "-t", "1", "-J"];
    let rate = |output: std::process::Output| report(&output)["end"]["sum_received"]["bits_per_second"].as_f64();
    let mut best = [0f64; 2];
    for _ in 0..2 {
        let plain = rate(output(site.host.netns().command(iperf3[0]).args(&iperf3[1..])));
        let inside = rate(output(&mut site.host.run(&[&["--"][..], &iperf3].concat())));
        for (best, rate) in best.iter_mut().zip([plain, inside]) {
            *best = best.max(rate.expect("a rate"));
        }
    }
    let [plain, inside] = best.map(|rate| rate / 1e9);
    println!("throughput: {inside:.2} Gbit/s in a flow, {plain:.2} Gbit/s plain, ratio {:.2}", inside / plain);
    assert!(inside > plain / 4.0, "super-packets were cut: {inside} of {plain}");
}

#[test]
fn ssh_and_rsync_over_it() {
    let site = Site::new("tc", Services::sshd);
    let watch = site.watch("tc");
    let ssh = site.services.ssh();
    let words: Vec<&str> = ssh.split(' ').collect();
    let mut command = site.host.run(&[&["--"], &*words, &["root@10.2.0.2", "echo there; exit 5"]].concat());
    let there = output(&mut command);
    assert_eq!((there.status.code(), &*there.stdout), (Some(5), &b"there\n"[..]), "{there:?}");

    let (from, to) = (site.host.path("from"), site.services.path("to"));
    fs::create_dir(&from).expect("a directory");
    for number in 0..20u8 {
        fs::write(from.join(number.to_string()), vec![number; 100_000]).expect("a file");
    }
    let (from, target) = (format!("{}/", from.display()), format!("root@[fd02::2]:{}/", to.display()));
    text(&output(&mut site.host.run(&["--", "rsync", "-a", "-e", &ssh, &from, &target])));
    for number in 0..20u8 {
        assert!(fs::read(to.join(number.to_string())).expect("a copy") == vec![number; 100_000]);
    }
    let packets = watch.stop(|packet| packet.to_port == SSH);
    assert!(packets.iter().filter(|packet| packet.syn).count() >= 2);
    assert!(["10.2.0.2", "fd02::2"].map(ip).iter().all(|to| packets.iter().any(|packet| packet.to == *to)));
    assert_in_flows(&packets);
    site.is_clean();
}

#[test]
fn ping_dig_and_other_datagrams() {
    let site = Site::new("tc", Services::dnsmasq);
    let watch = site.watch("tc");
    for to in ["10.2.0.2", "fd02::2"] {
        let report = text(&output(&mut site.host.run(&["--", "ping", "-n", "-c", "5", "-i", "0.02", to])));
        assert!(report.contains("5 packets transmitted, 5 received"), "{report}");
        let (server, port) = (format!("@{to}"), DNS.to_string());
        let dig = ["--", "dig", "+short", "+tries=1", "+time=5", "-p", &port, &server, NAME];
        assert_eq!(text(&output(&mut site.host.run(&dig))), format!("{ADDRESS}\n"));
        let over_tcp = [&dig[..], &["+tcp"]].concat();
        assert_eq!(text(&output(&mut site.host.run(&over_tcp))), format!("{ADDRESS}\n"));
    }
    // A socket that is not connected, and is used for several destinations.
    let script = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        for _ in range(20):\n for to in ('10.2.0.2', '10.3.0.2'): s.sendto(b'x' * 3000, (to, 9))\n";
    text(&output(&mut site.host.run(&["--", "python3", "-c", script])));

    let is_fragment = |packet: &&Packet| packet.protocol == UDP && packet.to == ip("10.3.0.2");
    // The program ends as soon as it has sent, and its first packets may still wait for their flow.
    eventually("fragments too", || watch.packets().iter().filter(is_fragment).count() == 60);
    let packets = watch.stop(|packet| !packet.to.to_string().starts_with("fe80"));
    let ours =
        |packet: &&Packet| packet.to == ip("10.2.0.2") || packet.to == ip("10.3.0.2") || packet.to == ip("fd02::2");
    let stranger = packets.iter().filter(ours).find(|packet| !packet.is_to_a_flow());
    assert!(stranger.is_none(), "{stranger:?}");
    assert!(packets.iter().any(|packet| packet.protocol == 1) && packets.iter().any(|packet| packet.protocol == 58));
    site.is_clean();
}

#[test]
fn what_a_server_answers_goes_by_flows() {
    let site = Site::new("tc", |services| services);
    let watch = site.watch("tc");
    let server = Going::start(&mut site.host.run(&["--", "iperf3", "-s", "-p", "5201"]));
    listens(site.host.netns(), IPERF[0]);
    for (client, to) in [(&site.lab.b, "10.1.0.2"), (&site.lab.b, "fd01::2"), (&site.lab.c, "10.1.0.2")] {
        let mut command = client.netns().command("iperf3");
        text(&output(command.args(["-c", to, "-t", "1", "-b", "50M", "-R"])));
    }
    let flows = site.host.flows();
    assert_eq!(flows.len(), 3, "each client is a destination: {flows:?}");
    assert!(flows.iter().all(|flow| flow.state == "open"), "{flows:?}");
    server.end(Signal::SIGTERM);
    let packets = watch.stop(|packet| packet.from_port == IPERF[0]);
    let stranger = packets.iter().find(|packet| !packet.is_to_a_flow());
    assert!(stranger.is_none(), "also answers to SYNs: {stranger:?}");
    assert!(packets.iter().filter(|packet| packet.syn).count() >= 6, "two connections each");
    site.is_clean();
}

/// `make` and shells start other programs, which start others; some of them stay.
#[test]
fn what_a_program_starts_is_in_the_run_and_ends_it_last() {
    let site = Site::new("tc", Services::nginx);
    let watch = site.watch("tc");
    let request = "curl -sSf http://10.2.0.2:8080/ -o /dev/null";
    let makefile = format!(
        "all: one two three\none two:\n\t@{request}\nthree:\n\t@sh -c '({request}; {request}) & {request}; wait'\n"
    );
    let file = site.host.path("Makefile");
    fs::write(&file, makefile).expect("a file");
    let file = file.display().to_string();
    text(&output(&mut site.host.run(&["--", "make", "-s", "-j", "3", "-f", &file])));
    let packets = watch.stop(|packet| packet.to_port == HTTP);
    assert_eq!(packets.iter().filter(|packet| packet.syn).count(), 5);
    assert_in_flows(&packets);

    // It leaves its session, and its parent ends at once.
    let daemon = "setsid ping -n -i 0.05 -w 2 10.2.0.2 > /dev/null 2>&1 &";
    text(&output(&mut site.host.run(&["--", "sh", "-c", daemon])));
    let watch = site.watch("tc");
    let flow = site.host.open_flow("10.2.0.2");
    eventually("it goes on", || watch.packets().len() > 5);
    assert!(watch.stop(|_| true).iter().all(|packet| Some(packet.destination) == flow.address));
    site.is_clean();
}
