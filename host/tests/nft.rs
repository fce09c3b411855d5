//! Flows by nftables alone: real programs in real cgroups, and the frames that leave them.

use flowlane_host::nft::{FlowCounters, Group, NewDestinations, NftError, NftRuns, boot_nanos};
use flowlane_lab::{Frame, Host, IpNet, Mac, Netns, Tap};
use flowlane_tables::RunKey;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const FLOW: Mac = Mac([0xa2, 0xf1, 0, 0, 0, 1]);
const OTHER_FLOW: Mac = Mac([0xa2, 0xf1, 0, 0, 0, 2]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough for a frame that is sent to be seen.
const SETTLED: Duration = Duration::from_millis(200);
const FOR_EVER: u64 = u64::MAX;
const SECOND: u64 = 1_000_000_000;

#[test]
fn packets_of_a_cgroup_go_to_the_flow_address_and_those_of_others_do_not() {
    for destination in [ipv4(), ipv6()] {
        let lab = Lab::new();
        let (mut runs, _events) = lab.open();
        lab.add(&mut runs, &lab.cgroup, 1, false);
        lab.open_flow(&mut runs, destination, 1, &[FLOW], false);
        let tap = lab.tap();
        lab.send(Some(&lab.cgroup), destination, 1);
        lab.send(None, destination, 1);
        let frames = tap.wait_for(2, TIMEOUT).expect("two frames");
        assert_eq!(frames.iter().map(addresses).collect::<Vec<_>>(), [(FLOW, OWN), (PEER, OWN)]);
    }
}

#[test]
fn a_flow_address_stands_in_the_source_field_if_it_shall() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], true);
    let tap = lab.tap();
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]), (PEER, FLOW));
}

#[test]
fn a_process_below_the_cgroup_is_in_its_run_and_a_deeper_run_has_its_own() {
    let lab = Lab::new();
    let (below, deeper) = (lab.below("below"), lab.below("deeper"));
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    lab.add(&mut runs, &deeper, 2, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    lab.open_flow(&mut runs, ipv4(), 2, &[OTHER_FLOW], false);
    let tap = lab.tap();
    lab.send(Some(&below), ipv4(), 1);
    lab.send(Some(&deeper), ipv4(), 1);
    let frames = tap.wait_for(2, TIMEOUT).expect("two frames");
    assert_eq!(frames.iter().map(|frame| addresses(frame).0).collect::<Vec<_>>(), [FLOW, OTHER_FLOW]);
}

#[test]
fn all_that_a_namespace_sends_is_in_its_run() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.inside(|| runs.set_namespace(Some((7, true)))).expect("the namespace");
    lab.open_flow(&mut runs, ipv6(), 7, &[FLOW], false);
    let tap = lab.tap();
    lab.send(None, ipv6(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, FLOW);
}

#[test]
fn a_namespace_that_requires_flows_still_answers_who_looks_for_it() {
    let lab = Lab::new();
    let (mut runs, mut events) = lab.open();
    lab.inside(|| runs.set_namespace(Some((7, true)))).expect("the namespace");
    let advertised =
        Tap::start(lab.host.port(), |frame| frame.bytes[20] == 58 && frame.bytes[54] == 136).expect("a tap");
    // Its answer to the peer is no packet to a group.
    let ping = ["-q", "-c", "1", "-W", "1", "fd00::1"];
    lab.host.port().netns().command("ping").args(ping).output().expect("ping");
    assert_eq!(addresses(&advertised.wait_for(1, TIMEOUT).expect("an advertisement")[0]), (PEER, OWN));
    // The echo reply has no flow yet.
    assert_eq!(lab.told(&mut events), [lab.key(ipv6(), 7)]);
}

#[test]
fn what_goes_to_the_link_alone_is_left_as_it_is() {
    let lab = Lab::new();
    let (mut runs, mut events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, true);
    let (near, link_local) = (IpAddr::from([169, 254, 0, 2]), "fe80::2".parse().expect("an address"));
    for (address, own) in [(near, "169.254.0.1/24"), (link_local, "fe80::1/64")] {
        lab.host.link().add_address(own.parse().expect("an address")).expect("an address more");
        lab.host.link().set_neighbour(address, PEER).expect("a neighbour");
    }
    let sent = Tap::start(lab.host.port(), |frame| frame.bytes.ends_with(b"x\n")).expect("a tap");
    lab.send(Some(&lab.cgroup), near, 1);
    lab.program(Some(&lab.cgroup), "echo x > /dev/udp/fe80::2%eth0/9");
    let frames = sent.wait_for(2, TIMEOUT).expect("two frames");
    assert!(frames.iter().all(|frame| addresses(frame) == (PEER, OWN)));
    assert_eq!(lab.told(&mut events), []);
}

#[test]
fn the_first_packets_to_a_destination_leave_as_they_are_and_the_daemon_is_told_once() {
    for destination in [ipv4(), ipv6()] {
        let lab = Lab::new();
        let (mut runs, mut events) = lab.open();
        lab.add(&mut runs, &lab.cgroup, 3, false);
        let (tap, start) = (lab.tap(), Instant::now());
        lab.send(Some(&lab.cgroup), destination, 5);
        let sent_within = start.elapsed();
        let frames = tap.wait_for(5, TIMEOUT).expect("five frames");
        assert!(frames.iter().all(|frame| addresses(frame) == (PEER, OWN)));
        lab.is_told(&mut events, lab.key(destination, 3), sent_within);
    }
}

#[test]
fn a_destination_that_is_asked_for_is_not_told_of_again_until_it_is_forgotten() {
    let lab = Lab::new();
    let (mut runs, mut events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    let key = lab.key(ipv4(), 1);
    lab.inside(|| runs.want(&key, false, FOR_EVER)).expect("an entry");
    lab.send(Some(&lab.cgroup), ipv4(), 2);
    assert_eq!(lab.told(&mut events), []);
    assert_eq!(lab.counters(&runs, &key), FlowCounters { paths: vec![], passed: 2 });
    lab.inside(|| runs.forget(&key)).expect("forgotten");
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(lab.told(&mut events), [key]);
}

#[test]
fn a_run_that_requires_flows_sends_nothing_without_one_and_asks() {
    let lab = Lab::new();
    let (mut runs, mut events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, true);
    let (tap, start) = (lab.tap(), Instant::now());
    lab.send(Some(&lab.cgroup), ipv4(), 2);
    lab.is_told(&mut events, lab.key(ipv4(), 1), start.elapsed());
    lab.inside(|| runs.want(&lab.key(ipv4(), 1), true, FOR_EVER)).expect("an entry");
    lab.send(Some(&lab.cgroup), ipv4(), 2);
    thread::sleep(SETTLED);
    assert_eq!(tap.frames().len(), 0);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, FLOW);
}

#[test]
fn a_flow_that_is_cut_sends_nothing_and_a_plain_one_sends_as_before() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    let (key, tap) = (lab.key(ipv4(), 1), lab.tap());
    lab.inside(|| runs.cut(&key)).expect("cut");
    lab.send(Some(&lab.cgroup), ipv4(), 3);
    thread::sleep(SETTLED);
    assert_eq!(tap.frames().len(), 0);
    lab.inside(|| runs.plain(&key, FOR_EVER)).expect("plain");
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, PEER);
}

#[test]
fn connections_are_spread_over_the_paths_and_each_path_is_counted() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW, OTHER_FLOW], false);
    let tap = lab.tap();
    lab.send(Some(&lab.cgroup), ipv4(), 40);
    let frames = tap.wait_for(40, TIMEOUT).expect("all frames");
    let sent = |address| frames.iter().filter(|frame| addresses(frame).0 == address).collect::<Vec<_>>();
    let counted =
        |frames: Vec<&Frame>| (frames.len() as u64, frames.iter().map(|frame| frame.bytes.len() as u64).sum());
    let paths = vec![counted(sent(FLOW)), counted(sent(OTHER_FLOW))];
    assert!(paths.iter().all(|(packets, _)| *packets > 5), "{paths:?}");
    assert_eq!(lab.counters(&runs, &lab.key(ipv4(), 1)), FlowCounters { paths, passed: 0 });
}

#[test]
fn a_flow_that_nobody_renews_ends_by_itself_and_a_renewed_one_does_not() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    let (renewed, left) = (lab.key(ipv4(), 1), lab.key(ipv6(), 1));
    let soon = boot_nanos() + SECOND;
    lab.inside(|| {
        for key in [&renewed, &left] {
            runs.want(key, false, soon).expect("an entry");
            runs.open_flow(key, &[FLOW], false, soon).expect("a flow");
        }
        runs.open_flow(&renewed, &[FLOW], false, soon + 60 * SECOND).expect("renewed");
    });
    // As after kill -9: nothing runs any more, the rules are what is left.
    drop(runs);
    thread::sleep(Duration::from_millis(1_300));
    let tap = lab.tap();
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    lab.send(Some(&lab.cgroup), ipv6(), 1);
    let frames = tap.wait_for(2, TIMEOUT).expect("two frames");
    assert_eq!(frames.iter().map(|frame| addresses(frame).0).collect::<Vec<_>>(), [FLOW, PEER]);
}

#[test]
fn an_entry_whose_time_has_passed_can_be_opened_and_forgotten() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    let key = lab.key(ipv4(), 1);
    lab.inside(|| runs.want(&key, false, boot_nanos())).expect("an entry");
    thread::sleep(Duration::from_millis(20));
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    let tap = lab.tap();
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, FLOW);
    lab.inside(|| runs.open_flow(&key, &[FLOW], false, boot_nanos())).expect("a short lease");
    thread::sleep(Duration::from_millis(20));
    lab.inside(|| runs.forget(&key)).expect("forgotten");
    assert_eq!(runs.keys().count(), 0);
}

#[test]
fn a_successor_keeps_flows_interfaces_and_counters() {
    let lab = Lab::new();
    let (mut runs, events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    lab.open_flow(&mut runs, ipv6(), 1, &[FLOW, OTHER_FLOW], false);
    lab.send(Some(&lab.cgroup), ipv4(), 3);
    let before = lab.inside(|| runs.counters()).expect("counters");
    drop((runs, events));
    let (mut runs, _events, adopted) = lab.inside(|| NftRuns::open(NAME)).expect("adopted");
    assert!(adopted);
    assert_eq!(runs.attached(), [lab.ifindex()]);
    assert_eq!(lab.inside(|| runs.counters()).expect("counters"), before);
    assert_eq!(before[&lab.key(ipv4(), 1)].paths[0].0, 3);
    // Still in its run, before and after the successor has named the cgroup.
    let tap = lab.tap();
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    lab.inside(|| runs.set_groups(vec![lab.group(&lab.cgroup, 1, false)], None)).expect("the cgroup");
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    let frames = tap.wait_for(2, TIMEOUT).expect("two frames");
    assert!(frames.iter().all(|frame| addresses(frame).0 == FLOW));
    assert_eq!(lab.counters(&runs, &lab.key(ipv4(), 1)).paths[0].0, 5);
    // A new destination does not get the entry of another.
    let third = lab.key("10.0.0.3".parse().expect("an address"), 1);
    lab.inside(|| runs.want(&third, false, FOR_EVER)).expect("an entry");
    assert_eq!(lab.counters(&runs, &third), FlowCounters::default());
}

#[test]
fn an_entry_is_used_again_without_the_counters_of_the_one_before() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    lab.inside(|| runs.forget(&lab.key(ipv4(), 1))).expect("forgotten");
    lab.open_flow(&mut runs, ipv6(), 1, &[FLOW], false);
    assert_eq!(lab.counters(&runs, &lab.key(ipv6(), 1)), FlowCounters { paths: vec![(0, 0)], passed: 0 });
}

#[test]
fn a_cgroup_that_is_gone_is_removed_and_hinders_no_other() {
    let lab = Lab::new();
    let (gone, other) = (lab.below("gone"), lab.below("other"));
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &gone, 1, false);
    let id = lab.group(&gone, 1, false).id;
    fs::remove_dir(&gone).expect("an empty cgroup");
    lab.add(&mut runs, &other, 2, false);
    lab.inside(|| runs.remove_cgroup(id)).expect("removed");
    lab.open_flow(&mut runs, ipv4(), 2, &[FLOW], false);
    let tap = lab.tap();
    lab.send(Some(&other), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, FLOW);
}

#[test]
fn the_name_of_a_cgroup_can_not_become_a_rule() {
    let lab = Lab::new();
    let hostile = lab.below("a\" : 1 } drop ; flush ruleset ; #\\ \u{fc}");
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &hostile, 1, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    let tap = lab.tap();
    lab.send(Some(&hostile), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, FLOW);
}

#[test]
fn a_cgroup_is_also_found_in_the_view_of_another_process() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    let theirs =
        Path::new(&format!("/proc/{}/root", process::id())).join(lab.cgroup.strip_prefix("/").expect("a whole path"));
    let group = Group { path: theirs, ..lab.group(&lab.cgroup, 1, false) };
    lab.inside(|| runs.add_cgroup(group)).expect("a cgroup's run");
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    let tap = lab.tap();
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, FLOW);
}

#[test]
fn an_interface_that_is_detached_or_gone_is_left_alone() {
    let lab = Lab::new();
    let (mut runs, mut events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, false);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    let tap = lab.tap();
    lab.inside(|| runs.detach(lab.ifindex())).expect("detached");
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, PEER);
    assert_eq!(lab.told(&mut events), []);
    let ifindex = lab.ifindex();
    lab.inside(|| runs.attach("eth0", ifindex)).expect("attached again");
    lab.host.link().clone().delete().expect("no interface");
    lab.inside(|| runs.detach(ifindex)).expect("detached");
    assert!(runs.attached().is_empty());
}

#[test]
fn a_packet_with_a_mark_of_its_own_is_left_alone() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, true);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW], false);
    let tap = lab.tap();
    let ping = format!("exec ping -q -m 5 -c 1 -W 1 {}", ipv4());
    lab.program(Some(&lab.cgroup), &ping);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, PEER);
}

#[test]
fn removal_leaves_nothing_behind() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    lab.add(&mut runs, &lab.cgroup, 1, true);
    lab.open_flow(&mut runs, ipv4(), 1, &[FLOW, OTHER_FLOW], false);
    lab.open_flow(&mut runs, ipv6(), 1, &[FLOW], false);
    assert_ne!(lab.rules(), "");
    lab.inside(|| NftRuns::remove(NAME)).expect("removed");
    assert_eq!(lab.rules(), "");
    lab.inside(|| NftRuns::remove(NAME)).expect("nothing to remove");
    let tap = lab.tap();
    lab.send(Some(&lab.cgroup), ipv4(), 1);
    assert_eq!(addresses(&tap.wait_for(1, TIMEOUT).expect("a frame")[0]).0, PEER);
}

#[test]
fn what_can_not_be_written_is_refused() {
    let lab = Lab::new();
    let (mut runs, _events) = lab.open();
    let refused = |result: Result<(), NftError>| result.expect_err("refused");
    assert!(matches!(refused(lab.inside(|| runs.attach("a\" ; }", 5))), NftError::Name(_)));
    assert!(matches!(refused(lab.inside(|| runs.set_namespace(Some((0, false))))), NftError::Run(0)));
    assert!(matches!(refused(runs.add_socket(1, 1, false)), NftError::Sockets));
    let key = lab.key(ipv4(), 1);
    assert!(matches!(refused(runs.open_flow(&key, &[], false, FOR_EVER)), NftError::Paths(0)));
    assert!(matches!(refused(runs.open_flow(&key, &[FLOW], false, FOR_EVER)), NftError::NoSuchFlow(_)));
    assert!(matches!(NftRuns::open("a b").expect_err("refused"), NftError::Name(_)));
    assert_eq!(runs.attached(), [lab.ifindex()]);
}

const NAME: &str = "test-1";

/// A host with `eth0`, the peer at its other end, and a cgroup.
struct Lab {
    host: Host,
    cgroup: PathBuf,
}

impl Lab {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let peer = Netns::new("peer").expect("a namespace");
        let net = |text: &str| text.parse::<IpNet>().expect("an address");
        let host =
            Host::new("host", &peer, "port", Some(OWN), &[net("10.0.0.1/24"), net("fd00::1/64")]).expect("a host");
        host.port().set_mac(PEER).expect("an address");
        for address in ["10.0.0.2/24", "fd00::2/64"] {
            host.port().add_address(net(address)).expect("an address");
        }
        for address in [ipv4(), ipv6()] {
            host.link().set_neighbour(address, PEER).expect("a neighbour");
        }
        let name = format!("flowlane-nft-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let cgroup = hierarchy().join(name);
        fs::create_dir(&cgroup).expect("a cgroup");
        Self { host, cgroup }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.host.netns().run(work).expect("the namespace")
    }

    fn open(&self) -> (NftRuns, NewDestinations) {
        let (mut runs, events, adopted) = self.inside(|| NftRuns::open(NAME)).expect("rules");
        assert!(!adopted);
        self.inside(|| runs.attach("eth0", self.ifindex())).expect("attached");
        (runs, events)
    }

    fn ifindex(&self) -> u32 {
        self.host.link().index().expect("an index")
    }

    fn below(&self, name: &str) -> PathBuf {
        let path = self.cgroup.join(name);
        fs::create_dir(&path).expect("a cgroup");
        path
    }

    fn group(&self, path: &Path, run: u32, required: bool) -> Group {
        let id = fs::metadata(path).expect("a cgroup").ino();
        let level = path.strip_prefix(hierarchy()).expect("below the root").components().count() as u32;
        Group { path: path.to_owned(), id, level, run, required }
    }

    fn add(&self, runs: &mut NftRuns, path: &Path, run: u32, required: bool) {
        self.inside(|| runs.add_cgroup(self.group(path, run, required))).expect("a cgroup's run");
    }

    fn key(&self, destination: IpAddr, run: u32) -> RunKey {
        let destination = match destination {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        RunKey { destination: Ipv6Addr::octets(&destination), ifindex: self.ifindex(), run }
    }

    fn open_flow(&self, runs: &mut NftRuns, destination: IpAddr, run: u32, addresses: &[Mac], source_field: bool) {
        let key = self.key(destination, run);
        self.inside(|| {
            runs.want(&key, false, FOR_EVER)?;
            runs.open_flow(&key, addresses, source_field, FOR_EVER)
        })
        .expect("a flow");
    }

    fn counters(&self, runs: &NftRuns, key: &RunKey) -> FlowCounters {
        self.inside(|| runs.counters()).expect("counters").remove(key).expect("the flow's counters")
    }

    /// What was told within a moment.
    fn told(&self, events: &mut NewDestinations) -> Vec<RunKey> {
        let mut told = Vec::new();
        let readable = |events: &NewDestinations| {
            let timeout = PollTimeout::from(SETTLED.as_millis() as u16);
            poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout).expect("poll") > 0
        };
        while readable(events) {
            events.drain(16, |key| told.push(key)).expect("events");
        }
        told
    }

    /// Whether this was told of and nothing else: once, and once more for each whole second that it was sent in, for so long
    /// the rules remember.
    fn is_told(&self, events: &mut NewDestinations, key: RunKey, sent_within: Duration) {
        let told = self.told(events);
        assert!(told.iter().all(|of| *of == key), "{told:?}");
        assert!((1..=1 + sent_within.as_secs()).contains(&(told.len() as u64)), "{told:?} within {sent_within:?}");
    }

    /// Sees the IP packets with data of [`Lab::send`], and pings, at the host's other end.
    fn tap(&self) -> Tap {
        Tap::start(self.host.port(), |frame| match frame.bytes.get(12..14) {
            Some([0x08, 0x00]) => [1, 17].contains(&frame.bytes[23]) && frame.bytes[30..34] == [10, 0, 0, 2],
            Some([0x86, 0xdd]) => frame.bytes[20] == 17,
            _ => false,
        })
        .expect("a tap")
    }

    /// Sends datagrams, each from a port of its own.
    fn send(&self, cgroup: Option<&Path>, to: IpAddr, count: u32) {
        self.program(cgroup, &format!("for i in $(seq {count}); do echo x > /dev/udp/{to}/9; done"));
    }

    /// Runs a line of shell, in a cgroup if one is given.
    fn program(&self, cgroup: Option<&Path>, line: &str) {
        let mut command = self.host.netns().command("bash");
        let join = if cgroup.is_some() { "echo $$ > \"$CGROUP/cgroup.procs\" || exit 99; " } else { "" };
        command.arg("-c").arg(format!("{join}{line}"));
        command.env("CGROUP", cgroup.unwrap_or(Path::new("")));
        let status = command.stdout(process::Stdio::null()).status().expect("bash");
        assert_ne!(status.code(), Some(99), "the cgroup takes no process");
    }

    fn rules(&self) -> String {
        let output = self.host.netns().command("nft").args(["list", "ruleset"]).output().expect("nft");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let below = fs::read_dir(&self.cgroup).into_iter().flatten().flatten().map(|entry| entry.path());
        let directories: Vec<PathBuf> = below.filter(|path| path.is_dir()).collect();
        for path in directories.iter().chain([&self.cgroup]) {
            // A process that was waited for leaves its cgroup a moment later.
            let gone = (0..1_000).any(|_| {
                thread::sleep(Duration::from_millis(10));
                fs::remove_dir(path).is_ok()
            });
            assert!(gone || thread::panicking(), "{} is left", path.display());
        }
    }
}

fn ipv4() -> IpAddr {
    IpAddr::from([10, 0, 0, 2])
}

fn ipv6() -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2])
}

/// Destination and source.
fn addresses(frame: &Frame) -> (Mac, Mac) {
    let address = |at: usize| Mac(*frame.bytes[at..].first_chunk().expect("an address"));
    (address(0), address(6))
}

/// The root of the cgroup2 hierarchy.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2");
    mount.split(' ').nth(1).expect("a directory").into()
}
