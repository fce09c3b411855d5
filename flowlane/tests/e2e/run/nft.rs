//! The same where the kernel takes no BPF program: nftables alone.

use super::{
    host::{Going, output, text},
    packets::{Packet, connections},
    services::{HTTP, IPERF, PAGE, Services},
    site::Site,
};
use crate::lab::eventually;
use nix::sys::signal::Signal;
use std::fs;

const NFT: &str = "mechanism = \"nft\"\n";

#[test]
fn with_nftables_alone_a_program_is_in_a_flow_and_another_one_is_not() {
    let site = Site::with("tc", "", NFT, Services::iperf3);
    assert_eq!(site.host.status().expect("a daemon").mechanism, "nft");
    let watch = site.watch("tc");
    let [inside, outside] = IPERF.map(|port| port.to_string());
    // No more than a tap has room for, whenever it is read.
    let iperf3 = |port: &str| format!("iperf3 -n 6M -b 20M -c 10.2.0.2 -p {port}");
    let script = format!("read go; {}; read end || true", iperf3(&inside));
    let to = ["--to", "10.2.0.2", "--to", "fd02::2", "--", "sh", "-ec", &script];
    let mut inside = Going::told(&mut site.host.run(&to));
    let address = site.host.open_flow("10.2.0.2").address;
    inside.tell();
    text(&output(site.host.command("sh").args(["-c", &iperf3(&outside)])));
    eventually("it is counted", || site.host.open_flow("10.2.0.2").packets > 20);
    text(&inside.wait());
    let (inside, outside): (Vec<_>, Vec<_>) =
        watch.stop(|packet| IPERF.contains(&packet.to_port)).into_iter().partition(|packet| packet.to_port == IPERF[0]);
    assert!(inside.len() > 50 && inside.iter().all(|packet| Some(packet.destination) == address), "{inside:?}");
    assert!(outside.len() > 50 && outside.iter().all(Packet::is_plain));
    site.is_clean();
}

/// The first packets to a destination that was not named leave plainly: nothing waits, and nothing is lost.
#[test]
fn with_nftables_alone_new_destinations_are_found_and_nothing_is_left() {
    let mut site = Site::with("tc", "", NFT, Services::nginx);
    let going = Going::start(&mut site.host.run(&[
        "--field",
        "source",
        "--",
        "sh",
        "-c",
        "ping -q -n -i 0.02 fd02::2 > /dev/null & exec ping -q -n -i 0.02 10.2.0.2",
    ]));
    site.host.open_flow("10.2.0.2");
    site.host.open_flow("fd02::2");
    let watch = site.watch("tc");
    eventually("they send", || watch.packets().len() > 40);
    let packets = watch.stop(|packet| packet.protocol == 1);
    assert!(!packets.is_empty() && packets.iter().all(Packet::is_from_a_flow), "{packets:?}");

    let packets = requests_of_a_new_destination(&site);
    assert!(packets.iter().all(Packet::is_to_a_flow), "{packets:?}");
    assert!(connections(&packets) >= 20, "{packets:?}");

    assert!(site.host.end(Signal::SIGINT).success());
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_untouched();
}

/// What twenty requests send once their program's destination has a flow. It makes others until then.
fn requests_of_a_new_destination(site: &Site) -> Vec<Packet> {
    let (file, request) = (site.host.path("has-a-flow"), "curl -sSf http://10.2.0.2:8080/");
    let before = format!("until [ -e {} ]; do {request} -o /dev/null; sleep 0.02; done", file.display());
    let script = format!("{before}; for n in $(seq 20); do {request}; done");
    let going = Going::start(&mut site.host.run(&["--name", "requests", "--", "sh", "-ec", &script]));
    eventually("they have a flow", || has_a_flow(site, "requests"));
    let watch = site.watch("tc");
    fs::write(&file, "").expect("a file");
    assert_eq!(text(&going.wait()), PAGE.repeat(20));
    watch.stop(|packet| packet.to_port == HTTP)
}

/// Whether a run of this name has an open flow.
fn has_a_flow(site: &Site, name: &str) -> bool {
    let runs = site.host.status().expect("a daemon").runs;
    runs.iter().any(|run| run.name.starts_with(name) && run.flows.iter().any(|flow| flow.state == "open"))
}

#[test]
fn with_nftables_alone_a_daemon_that_is_killed_for_good_leaves_nothing() {
    let mut site = Site::with("tc", "", NFT, |services| services);
    let going = Going::ping(&site.host, &["--to", "10.2.0.2"], "10.2.0.2");
    site.host.open_flow("10.2.0.2");
    site.host.end(Signal::SIGKILL);
    eventually("the switch has no flow any more", || site.at_switch().is_empty());
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_untouched();
}
