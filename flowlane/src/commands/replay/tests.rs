use super::*;
use etherparse::{LinkSlice, NetSlice, PacketBuilder, SlicedPacket};
use flowlane_ports::capture::{CaptureWriter, FrameRecord, Interface};
use proptest::prelude::*;
use std::{fs, io::Cursor};

const HOST: [u8; 6] = [2, 0, 0, 0, 1, 2];
const NEXT: [u8; 6] = [2, 0, 0, 0, 2, 2];
/// The flow that has a next host.
const FIXED: [u8; 6] = [0xa2, 0xf1, 0, 1, 0, 1];
/// The flows whose first packet decides.
const FREE: [u8; 6] = [0xa2, 0xf1, 0, 1, 0, 2];
const METERED: [u8; 6] = [0xa2, 0xf1, 0, 1, 0, 3];

fn udp(destination: [u8; 6], to: [u8; 4], ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(HOST, destination).ipv4([10, 0, 1, 2], to, ttl).udp(5000, 5000);
    builder.write(&mut frame, b"flowlane").expect("built");
    frame
}

/// One frame for each thing that happens, with the port that it comes in by.
fn example() -> Vec<(usize, Vec<u8>)> {
    vec![
        (0, udp(FIXED, [10, 0, 2, 2], 64)),
        (0, udp(FREE, [10, 0, 2, 2], 64)),
        (0, udp(FREE, [10, 0, 2, 2], 64)),
        (0, udp(FREE, [10, 0, 2, 2], 1)),
        (1, udp(FIXED, [10, 0, 2, 2], 64)),
        (0, udp([0xa2, 0xf1, 0, 2, 0, 1], [10, 0, 2, 2], 64)),
        (0, udp(METERED, [192, 0, 2, 1], 64)),
        (0, udp(NEXT, [10, 0, 2, 2], 64)),
    ]
}

fn pcapng(frames: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let ports = ["p1", "p2"].map(|name| Interface { name: name.into(), description: String::new() });
    let mut writer = CaptureWriter::new(Vec::new(), &ports).expect("a writer");
    for (place, (interface, bytes)) in frames.iter().enumerate() {
        let record = FrameRecord {
            timestamp: Duration::from_millis(1_700_000_000_000 + place as u64),
            interface: *interface,
            bytes,
            original_len: bytes.len(),
            direction: None,
            comment: None,
        };
        writer.write(&record).expect("written");
    }
    writer.into_inner()
}

/// A pcap file of frames with their times in microseconds and their lengths on the wire.
fn pcap(frames: &[(u32, &[u8], u32)]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65_535, 1u32] {
        file.extend(word.to_be_bytes());
    }
    for (micros, octets, len) in frames {
        for word in [micros / 1_000_000, micros % 1_000_000, octets.len() as u32, *len] {
            file.extend(word.to_be_bytes());
        }
        file.extend(*octets);
    }
    file
}

fn config(more: &str) -> Config {
    let text = include_str!("../../../../examples/replay.toml");
    Config::parse("replay.toml", &format!("{text}{more}")).expect("a configuration")
}

fn replay(config: &Config, capture: &[u8], port: Option<&str>) -> (Report, Result<(), ReplayError>) {
    let mut replay = Replay::new(config, port, None).expect("a switch");
    let failed = |source| ReplayError::Capture { path: "test".into(), source };
    let ended =
        CaptureReader::new(Cursor::new(capture)).map_err(failed).and_then(|read| replay.read("test".as_ref(), read));
    (replay.report(), ended)
}

/// What `config` does with a capture that is whole.
fn report(config: &Config, capture: &[u8], port: Option<&str>) -> Report {
    let (report, ended) = replay(config, capture, port);
    ended.expect("read to its end");
    report
}

fn verdicts(report: &Report) -> Vec<(&'static str, u64)> {
    report.verdicts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (*name, *count)).collect()
}

/// `UPDATE_DOCS=1 cargo test -p flowlane` writes it anew.
#[test]
fn the_example_capture_is_what_these_tests_make() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/replay.pcapng");
    let made = pcapng(&example());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &made).expect("written");
    }
    assert_eq!(fs::read(path).expect("the example"), made);
}

#[test]
fn each_frame_of_the_example_ends_as_it_should() {
    let report = report(&config(""), &pcapng(&example()), None);
    assert_eq!(
        verdicts(&report),
        [("forward", 3), ("no-route", 1), ("pass", 1), ("ttl-expired", 1), ("unknown-flow", 1), ("wrong-port", 1)]
    );
    assert_eq!((report.frames, report.first_packets, report.cut_by_capture), (8, 2, 0));
    assert_eq!(report.sent, BTreeMap::from([("p2".to_owned(), 3)]));
    let states: Vec<_> = report.flows.iter().map(|flow| (flow.slot, flow.state, flow.packets)).collect();
    assert_eq!(states, [(1, "resolved", 1), (2, "resolved", 2), (3, "unreachable", 0)]);
}

#[test]
fn what_is_sent_is_written_as_it_leaves_and_the_rest_as_it_came() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config("");
    let mut replay = Replay::new(&config, None, Some(directory.path())).expect("a switch");
    let capture = pcapng(&example());
    replay.read("test".as_ref(), CaptureReader::new(Cursor::new(capture)).expect("a capture")).expect("read");
    replay.files.close().expect("closed");
    let read = |name: &str| -> Vec<Vec<u8>> {
        let frames = CaptureReader::open(directory.path().join(name)).expect("a capture");
        frames.map(|frame| frame.expect("a frame").bytes).collect()
    };
    let sent = read("p2.pcapng");
    assert_eq!(sent.len(), 3);
    for (frame, (flow, ttl)) in sent.iter().zip([(FIXED, 64), (FREE, 63), (FREE, 63)]) {
        let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
        let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else { panic!("no Ethernet") };
        assert_eq!((ethernet.destination(), ethernet.source()), (NEXT, flow));
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
        assert_eq!(ip.header().ttl(), ttl);
        assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
    }
    let came: Vec<Vec<u8>> = example().into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(read("dropped.pcapng"), came[3..7]);
    let dropped = fs::read(directory.path().join("dropped.pcapng")).expect("the file");
    let comment = b"wrong-port: came in by p2";
    assert!(dropped.windows(comment.len()).any(|octets| octets == comment), "the reason is beside the frame");
}

#[test]
fn a_frame_is_metered_by_the_clock_of_the_capture() {
    let mut config = config("");
    config.ports.values_mut().for_each(|port| port.mtu = 65_535);
    let frame = udp(METERED, [10, 0, 2, 2], 64);
    // 10 Mbit/s, a burst of 128 KiB: the third does not fit, and 100 ms earn 125,000.
    let times = [0, 1_000, 2_000, 101_000];
    let capture = pcap(&times.map(|time| (time, &frame[..], 60_000)));
    let report = report(&config, &capture, Some("p1"));
    assert_eq!(verdicts(&report), [("forward", 3), ("over-rate", 1)]);
    assert_eq!(report.cut_by_capture, 4);
}

#[test]
fn a_verdict_that_depends_on_what_the_capture_lacks_is_not_given() {
    let frame = udp(FREE, [10, 0, 2, 2], 64);
    let whole = &frame[..];
    let capture = pcap(&[(0, whole, 50), (1, &frame[..8], 50), (2, &frame[..20], 50), (3, &frame[..8], 8)]);
    let report = report(&config(""), &capture, Some("p1"));
    assert_eq!(verdicts(&report), [("captured-short", 2), ("forward", 1), ("truncated", 1)]);
}

#[test]
fn the_longest_prefix_wins() {
    let more = "[[route]]\nto = \"0.0.0.0/0\"\nport = \"p2\"\nnext = \"02:00:00:00:09:09\"\n";
    let frames = [(0, udp(FREE, [10, 0, 2, 2], 64)), (0, udp(METERED, [192, 0, 2, 1], 64))];
    let report = report(&config(more), &pcapng(&frames), None);
    let next: Vec<_> = report.flows.iter().filter_map(|flow| flow.next).collect();
    assert_eq!(next, [Mac(NEXT), Mac(NEXT), Mac([2, 0, 0, 0, 9, 9])]);
}

#[test]
fn a_first_packet_that_is_not_ip_leaves_the_decision_to_the_next() {
    let mut arp = udp(FREE, [10, 0, 2, 2], 64);
    arp[12..14].copy_from_slice(&[8, 6]);
    let frames = [(0, arp), (0, udp(FREE, [10, 0, 2, 2], 64))];
    let report = report(&config(""), &pcapng(&frames), None);
    assert_eq!(verdicts(&report), [("forward", 1), ("no-route", 1)]);
}

#[test]
fn two_flows_of_one_slot_are_refused() {
    let more = "[[flow]]\naddress = \"a2:f1:00:09:00:01\"\nport = \"p1\"\n";
    let refused = Replay::new(&config(more), None, None).err();
    assert!(matches!(refused, Some(ReplayError::SameSlot { slot: 1, .. })), "{refused:?}");
}

#[test]
fn a_frame_of_an_unknown_interface_ends_the_replay_after_what_was_read() {
    let frame = udp(FIXED, [10, 0, 2, 2], 64);
    let (report, ended) = replay(&config(""), &pcap(&[(0, &frame, 50)]), None);
    assert!(matches!(ended, Err(ReplayError::NoPort { number: 1, .. })), "{ended:?}");
    assert_eq!(report.frames, 0);
}

/// Some octets of a file changed, and its end cut off.
fn damaged(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = file.len();
    let changes = prop::collection::vec((0..len, any::<u8>()), 0..12);
    (changes, 0..=len).prop_map(move |(changes, end)| {
        let mut file = file.clone();
        for (at, octet) in changes {
            file[at] = octet;
        }
        file.truncate(end);
        file
    })
}

fn any_capture() -> impl Strategy<Value = Vec<u8>> {
    let frames = example();
    let records: Vec<(u32, &[u8], u32)> =
        frames.iter().map(|(_, frame)| (0, frame.as_slice(), frame.len() as u32)).collect();
    prop_oneof![damaged(pcapng(&frames)), damaged(pcap(&records))]
}

proptest! {
    #[test]
    fn counts_add_up_and_nothing_panics_on_damaged_captures(capture in any_capture(), named: bool) {
        let config = config("");
        let (report, ended) = replay(&config, &capture, named.then_some("p1"));
        prop_assert_eq!(report.verdicts.values().sum::<u64>(), report.frames);
        let forwarded = report.verdicts["forward"] + report.verdicts["backup"];
        prop_assert_eq!(report.sent.values().sum::<u64>(), forwarded);
        prop_assert_eq!(report.flows.iter().map(|flow| flow.packets).sum::<u64>(), forwarded);
        if let Err(error) = ended {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

/// A switch that adds the flag at p1 and reads it at p2; one flow is a group, the other one of flagged packets.
const GROUPS_AND_FLAGS: &str = r#"
[[port]]
interface = "p1"
flag = "add"
[[port]]
interface = "p2"
flag = "read"
[[port]]
interface = "p3"
[[flow]]
address = "a2:f1:00:00:00:01"
port = "p2"
receivers = [{ mac = "02:00:00:00:01:02", port = "p1" }, { mac = "02:00:00:00:03:02", port = "p3" }]
[[flow]]
address = "a2:f1:00:00:00:02"
port = "p2"
next = { mac = "02:00:00:00:03:02", port = "p3" }
restore = "clear"
flagged = { protocol = "udp", source = "10.0.1.2:5000", destination = "10.0.2.2:5000" }
"#;

#[test]
fn groups_are_copied_and_flags_are_added_and_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = Config::parse("replay.toml", GROUPS_AND_FLAGS).expect("a configuration");
    let mut replay = Replay::new(&config, None, Some(directory.path())).expect("a switch");
    let plain = udp(NEXT, [10, 0, 2, 2], 64);
    let mut flagged = plain.clone();
    // 000011 in the DSCP, and as much less in the checksum.
    flagged[15] = 0x0c;
    let sum = u16::from_be_bytes([flagged[24], flagged[25]]) - 0x0c;
    flagged[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut unknown = flagged.clone();
    unknown[35] += 1;
    let to_group = udp([0xa2, 0xf1, 0, 0, 0, 1], [10, 0, 2, 2], 64);
    let mut frames = vec![(0, plain.clone()), (1, flagged.clone()), (1, to_group)];
    // More than may wait in a switch: in replay none does.
    frames.extend((0..300).map(|_| (1, unknown.clone())));
    let capture = pcapng(&frames);
    replay.read("test".as_ref(), CaptureReader::new(Cursor::new(capture)).expect("a capture")).expect("read");
    replay.files.close().expect("closed");
    let report = replay.report();
    assert_eq!(verdicts(&report), [("ask-flow", 300), ("forward", 1), ("marked", 1), ("replicate", 1)]);
    assert_eq!(report.sent, BTreeMap::from([("p1".to_owned(), 1), ("p3".to_owned(), 2)]));
    let receivers: Vec<_> = report.flows[0].receivers.iter().map(|one| (one.port.as_str(), one.packets)).collect();
    assert_eq!((report.flows[0].state, &receivers[..]), ("group", &[("p1", 1), ("p3", 1)][..]));
    let read = |name: &str| -> Vec<Vec<u8>> {
        let frames = CaptureReader::open(directory.path().join(name)).expect("a capture");
        frames.map(|frame| frame.expect("a frame").bytes).collect()
    };
    assert_eq!(read("marked.pcapng"), [flagged]);
    let sent = read("p3.pcapng");
    assert_eq!(sent[0][..12], [2, 0, 0, 0, 3, 2, 0xa2, 0xf1, 0, 0, 0, 2]);
    assert_eq!(sent[0][12..], plain[12..], "the flag is taken off");
    assert_eq!(sent[1][..12], [2, 0, 0, 0, 3, 2, 0xa2, 0xf1, 0, 0, 0, 1]);
    assert_eq!(read("dropped.pcapng").len(), 300);
}
