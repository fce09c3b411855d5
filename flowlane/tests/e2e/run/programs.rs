//! Programs that know nothing of flows, as they are: what they send carries flow addresses, and they do not notice.

use super::{
    host::{Going, listens, output, text, within},
    packets::{Packet, Watch, assert_in_flows, connections},
    services::{ADDRESS, DNS, HTTP, IPERF, NAME, PAGE, SSH, Services},
    site::Site,
};
use crate::{
    lab::{eventually, ip},
    on,
};
use flowlane_lab::Direction;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{fs, time::Duration};

on! {
    iperf3_is_in_a_flow_and_another_one_is_not on tc, xdp, af_packet;
    iperf3_runs_in_all_its_modes on tc, xdp, af_packet;
    short_connections_share_the_flow_of_their_destination on tc, af_packet;
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// `iperf3 -c 10.2.0.2` to the server of this port. It takes five seconds, so that a test that has to wait for its processor
/// meets it still, and two of them are no more than a tap can take.
fn iperf3(port: u16) -> Vec<String> {
    ["iperf3", "-c", "10.2.0.2", "-n", "12M", "-b", "20M", "-J", "-p", &port.to_string()].map(str::to_owned).into()
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
    let inside = Going::start(&mut site.host.require(&[&["--"], &*strs(&inside)].concat()));
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
    // All datagrams have room in the socket of a server that has to wait for its processor.
    let datagrams = ["-u", "-b", "500K", "-l", "1000", "-n", "40K"];
    let modes: [(&str, &[&str]); 4] = [
        ("10.2.0.2", &datagrams),
        ("10.2.0.2", &["-R", "-b", "100M", "-n", "4M"]),
        ("fd02::2", &["-b", "100M", "-n", "4M"]),
        ("fd02::2", &datagrams),
    ];
    for (to, mode) in modes {
        let watch = site.watch(executor);
        let mut command = site.host.require(&["--", "iperf3", "-J", "-c", to]);
        let report = report(&output(command.args(mode)));
        let (sum, least) = if mode[0] == "-u" { ("sum", 40_000) } else { ("sum_received", 1_000_000) };
        assert!(report["end"][sum]["bytes"].as_u64() > Some(least), "{mode:?}: {report}");
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
        let iperf3 = ["--field", "source", "--", "iperf3", "-n", "4M", "-b", "100M", "-c", to];
        text(&output(&mut site.host.require(&iperf3)));
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
    let arrived = [&site.lab.b, &site.lab.c].map(|host| Watch::start(host.link(), Direction::In));
    let requests = "for n in $(seq 100); do \
        curl -sSf http://10.2.0.2:8080/ http://10.3.0.2:8080/ || exit 1; done; read end; true";
    let going = Going::told(&mut site.host.require(&["--", "sh", "-c", requests]));
    let flows = [site.host.open_flow("10.2.0.2"), site.host.open_flow("10.3.0.2")];
    within(Duration::from_secs(30), "both are under way", || site.host.flows().iter().all(|flow| flow.packets > 100));
    assert_eq!(site.host.flows().len(), 2, "one for each destination: {:?}", site.host.flows());
    assert_eq!(site.at_switch().len(), 2);
    assert_eq!(text(&going.wait()), PAGE.repeat(200));

    let packets = watch.stop(|packet| packet.to_port == HTTP);
    assert_eq!(connections(&packets), 200);
    let opening = |packet: &&Packet| packet.syn;
    let arrived = arrived.map(|watch| watch.stop(|packet| packet.to_port == HTTP)).concat();
    let [sent, arrived] = [&packets, &arrived].map(|packets| packets.iter().filter(opening).count());
    assert_eq!(sent, arrived, "what opens a connection is not lost");
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
    let mut command = site.host.require(&[&["--"], &*words, &["root@10.2.0.2", "echo there; exit 5"]].concat());
    let there = output(&mut command);
    assert_eq!((there.status.code(), &*there.stdout), (Some(5), &b"there\n"[..]), "{there:?}");

    let (from, to) = (site.host.path("from"), site.services.path("to"));
    fs::create_dir(&from).expect("a directory");
    for number in 0..20u8 {
        fs::write(from.join(number.to_string()), vec![number; 100_000]).expect("a file");
    }
    let (from, target) = (format!("{}/", from.display()), format!("root@[fd02::2]:{}/", to.display()));
    text(&output(&mut site.host.require(&["--", "rsync", "-a", "-e", &ssh, &from, &target])));
    for number in 0..20u8 {
        assert!(fs::read(to.join(number.to_string())).expect("a copy") == vec![number; 100_000]);
    }
    let packets = watch.stop(|packet| packet.to_port == SSH);
    assert!(packets.iter().filter(|packet| packet.syn).count() >= 2);
    assert!(["10.2.0.2", "fd02::2"].map(ip).iter().all(|to| packets.iter().any(|packet| packet.to == *to)));
    assert_in_flows(&packets);
    site.is_clean();
}

/// What opens no connection, or hardly one, to destinations that are in flows already.
#[test]
fn ping_dig_and_other_datagrams() {
    let site = Site::new("tc", Services::dnsmasq);
    let asked = ["10.2.0.2", "fd02::2"].map(|to| format!("ping -n -c 5 -i 0.2 {to}; {}", dig(to))).join("; ");
    // A socket that is not connected, and is used for several destinations.
    let script = format!("read go; {asked}; python3 -c \"{DATAGRAMS}for _ in range(20): send()\"");
    let to = ["--to", "10.2.0.2", "--to", "fd02::2", "--to", "10.3.0.2", "--", "sh", "-ec", &script];
    let mut going = Going::told(&mut site.host.run(&to));
    DESTINATIONS.iter().for_each(|to| drop(site.host.open_flow(to)));
    let watch = site.watch("tc");
    going.tell();
    let report = text(&going.wait());
    assert_eq!(report.matches("5 packets transmitted, 5 received").count(), 2, "{report}");
    assert_eq!(report.lines().filter(|line| *line == ADDRESS).count(), 4, "by UDP and TCP: {report}");

    let packets = watch.stop(is_ours);
    assert_in_flows(&packets);
    let sent = |protocol: u8| packets.iter().filter(|packet| packet.protocol == protocol).count();
    assert_eq!((sent(ICMP), sent(ICMPV6)), (5, 5), "{packets:?}");
    assert_eq!(packets.iter().filter(is_fragment).count(), 60);
    assert_eq!(connections(&packets), 2, "{packets:?}");
    assert!(packets.iter().all(Packet::is_to_a_flow));
    site.is_clean();
}

/// The same where nobody has named the destinations: also the first packet to each leaves by its flow.
#[test]
fn the_first_datagram_to_a_destination_waits_for_its_flow() {
    let site = Site::new("tc", Services::dnsmasq);
    let watch = site.watch("tc");
    // What a switch that answers late has dropped is sent again.
    for to in ["10.2.0.2", "fd02::2"] {
        for command in [format!("ping -n -c 1 -W 1 {to}"), dig(to)] {
            let script = format!("until {command}; do :; done");
            text(&output(&mut site.host.require(&["--", "sh", "-c", &script])));
        }
    }
    let script = format!("import time\n{DATAGRAMS}while True: send(); time.sleep(0.02)");
    let going = Going::start(&mut site.host.require(&["--", "python3", "-c", &script]));
    eventually("fragments too", || watch.packets().iter().filter(is_fragment).count() >= 60);
    going.end(Signal::SIGTERM);
    let packets = watch.stop(is_ours);
    let stranger = packets.iter().find(|packet| !packet.is_to_a_flow());
    assert!(stranger.is_none(), "{stranger:?}");
    for protocol in [ICMP, ICMPV6, TCP, UDP] {
        assert!(packets.iter().any(|packet| packet.protocol == protocol), "protocol {protocol}");
    }
    site.is_clean();
}

const DESTINATIONS: [&str; 3] = ["10.2.0.2", "fd02::2", "10.3.0.2"];

/// Python that defines `send`: a datagram of three fragments to each of two hosts, by one socket.
const DATAGRAMS: &str = "import socket\n\
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    def send():\n for to in ('10.2.0.2', '10.3.0.2'): s.sendto(b'x' * 3000, (to, 9))\n";

/// Asks a server for the address of [`NAME`], by UDP and by TCP.
fn dig(server: &str) -> String {
    let dig = format!("dig +short +tries=1 +time=5 -p {DNS} @{server} {NAME}");
    format!("{dig} && {dig} +tcp")
}

fn is_ours(packet: &Packet) -> bool {
    DESTINATIONS.map(ip).contains(&packet.to)
}

fn is_fragment(packet: &&Packet) -> bool {
    packet.protocol == UDP && packet.to == ip("10.3.0.2")
}

#[test]
fn what_a_server_answers_goes_by_flows() {
    let site = Site::new("tc", |services| services);
    let watch = site.watch("tc");
    let server = Going::start(&mut site.host.require(&["--", "iperf3", "-s", "-p", "5201"]));
    listens(site.host.netns(), IPERF[0]);
    for (client, to) in [(&site.lab.b, "10.1.0.2"), (&site.lab.b, "fd01::2"), (&site.lab.c, "10.1.0.2")] {
        let mut command = client.netns().command("iperf3");
        text(&output(command.args(["-c", to, "-n", "4M", "-b", "50M", "-R"])));
    }
    eventually("all flows are open", || site.host.flows().iter().all(|flow| flow.state == "open"));
    let flows = site.host.flows();
    assert_eq!(flows.len(), 3, "each client is a destination: {flows:?}");
    server.end(Signal::SIGTERM);
    let packets = watch.stop(|packet| packet.from_port == IPERF[0]);
    let stranger = packets.iter().find(|packet| !packet.is_to_a_flow());
    assert!(stranger.is_none(), "also answers to SYNs: {stranger:?}");
    assert!(connections(&packets) >= 6, "two connections each");
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
    text(&output(&mut site.host.require(&["--", "make", "-s", "-j", "3", "-f", &file])));
    let packets = watch.stop(|packet| packet.to_port == HTTP);
    assert_eq!(connections(&packets), 5);
    assert_in_flows(&packets);
    site.is_clean();

    // It leaves its session, and its parent ends at once.
    let daemon = "setsid ping -n -i 0.05 10.2.0.2 > /dev/null 2>&1 & echo $!";
    let pid = text(&output(&mut site.host.run(&["--", "sh", "-c", daemon])));
    let watch = site.watch("tc");
    let flow = site.host.open_flow("10.2.0.2");
    eventually("it goes on", || watch.packets().iter().filter(|packet| packet.protocol == ICMP).count() > 5);
    let packets = watch.stop(|packet| packet.protocol == ICMP);
    assert!(
        !packets.is_empty() && packets.iter().all(|packet| Some(packet.destination) == flow.address),
        "{packets:?}"
    );
    let pid = pid.trim_end().parse().expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is there");
    site.is_clean();
}
