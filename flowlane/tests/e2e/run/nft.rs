//! The same where the kernel takes no BPF program: nftables alone.

use super::{
    host::{Going, output, text},
    packets::{Packet, assert_in_flows},
    services::{HTTP, IPERF, PAGE, Services},
    site::Site,
};
use crate::lab::eventually;
use nix::sys::signal::Signal;

const NFT: &str = "mechanism = \"nft\"\n";

#[test]
fn with_nftables_alone_a_program_is_in_a_flow_and_another_one_is_not() {
    let site = Site::with("tc", "", NFT, Services::iperf3);
    assert_eq!(site.host.status().expect("a daemon").mechanism, "nft");
    let watch = site.watch("tc");
    let [inside, outside] = IPERF.map(|port| port.to_string());
    let iperf3 = ["iperf3", "-t", "3", "-b", "100M", "-c"];
    let to = ["--to", "10.2.0.2", "--to", "fd02::2", "--"];
    let inside = Going::start(&mut site.host.run(&[&to[..], &iperf3, &["10.2.0.2", "-p", &inside]].concat()));
    let outside = Going::start(site.host.command(iperf3[0]).args(&iperf3[1..]).args(["10.2.0.2", "-p", &outside]));
    let address = site.host.open_flow("10.2.0.2").address;
    eventually("it is counted", || site.host.open_flow("10.2.0.2").packets > 20);
    text(&inside.wait());
    text(&outside.wait());
    let (inside, outside): (Vec<_>, Vec<_>) =
        watch.stop(|packet| IPERF.contains(&packet.to_port)).into_iter().partition(|packet| packet.to_port == IPERF[0]);
    assert_in_flows(&inside);
    let part = inside.iter().filter(|packet| Some(packet.destination) == address).count();
    assert!(part > 50 && inside.iter().all(|packet| packet.is_plain() || Some(packet.destination) == address));
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

    let watch = site.watch("tc");
    let requests = "for n in $(seq 40); do curl -sSf http://10.2.0.2:8080/ || exit 1; sleep 0.02; done";
    assert_eq!(text(&output(&mut site.host.run(&["--", "sh", "-c", requests]))), PAGE.repeat(40));
    let packets = watch.stop(|packet| packet.to_port == HTTP);
    let in_flow = packets.iter().filter(|packet| packet.is_to_a_flow()).count();
    println!("{in_flow} of {} packets by the flow", packets.len());
    assert!(in_flow * 2 > packets.len());

    assert!(site.host.end(Signal::SIGINT).success());
    let (sent, lost) = going.lost();
    assert_eq!(lost, 0, "of {sent}");
    site.is_untouched();
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
