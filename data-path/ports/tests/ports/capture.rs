//! Capture files, compared with what tshark makes of them.

use flowlane_ports::capture::{
    CaptureError, CaptureReader, CaptureWriter, CapturedFrame, Direction, FrameRecord, Interface,
};
use pcap_file::pcap::{PcapHeader, PcapTsResolution, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, Endianness};
use proptest::prelude::*;
use std::process::Command;
use std::time::Duration;

fn interface(name: &str, description: &str) -> Interface {
    Interface { name: name.into(), description: description.into() }
}

fn ports() -> [Interface; 2] {
    [interface("p1", "port 1, to host a"), interface("p2", "port 2, to host b")]
}

const FRAME: [u8; 60] = [0xee; 60];
const AT: Duration = Duration::new(1_700_000_000, 123_456_789);

fn record(interface: usize) -> FrameRecord<'static> {
    FrameRecord { timestamp: AT, interface, bytes: &FRAME, original_len: 60, direction: None, comment: None }
}

/// A capture of three frames: one in with a comment, one out, one of which only the beginning is there.
fn pcapng() -> Vec<u8> {
    let mut writer = CaptureWriter::new(Vec::new(), &ports()).expect("started");
    let comment = Some("forwarded: flow 42, port 1 → port 2");
    let inbound = Some(Direction::Inbound);
    writer.write(&FrameRecord { direction: inbound, comment, ..record(0) }).expect("written");
    let later = AT + Duration::from_nanos(1);
    let outbound = FrameRecord { timestamp: later, direction: Some(Direction::Outbound), ..record(1) };
    writer.write(&outbound).expect("written");
    writer.write(&FrameRecord { original_len: 1514, ..record(0) }).expect("written");
    writer.into_inner()
}

fn pcap(endianness: Endianness, ts_resolution: PcapTsResolution, datalink: DataLink) -> Vec<u8> {
    let header = PcapHeader { endianness, ts_resolution, datalink, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect("started");
    for (ts_frac, orig_len) in [(5, 60), (999_999, 1514)] {
        let packet = RawPcapPacket { ts_sec: 7, ts_frac, incl_len: 60, orig_len, data: FRAME[..].into() };
        writer.write_raw_packet(&packet).expect("written");
    }
    writer.into_inner()
}

fn read(bytes: &[u8]) -> Vec<Result<CapturedFrame, CaptureError>> {
    match CaptureReader::new(bytes) {
        Ok(reader) => reader.collect(),
        Err(error) => vec![Err(error)],
    }
}

fn frames(bytes: &[u8]) -> Vec<CapturedFrame> {
    read(bytes).into_iter().collect::<Result<_, _>>().expect("a good file")
}

#[test]
fn what_is_written_is_read_again() {
    let bytes = pcapng();
    let mut reader = CaptureReader::new(&bytes[..]).expect("a capture");
    let frames: Vec<_> = reader.by_ref().collect::<Result<_, _>>().expect("a good file");
    assert_eq!(reader.interfaces(), ports());
    let expected = CapturedFrame { timestamp: Some(AT), interface: 0, bytes: FRAME.to_vec(), original_len: 60 };
    assert_eq!(frames[0], expected);
    assert_eq!((frames[1].interface, frames[1].timestamp), (1, Some(AT + Duration::from_nanos(1))));
    assert!(!frames[1].is_truncated() && frames[2].is_truncated());
    assert_eq!((frames[2].original_len, frames.len()), (1514, 3));
}

#[test]
fn tshark_shows_comments_interfaces_directions_and_nanoseconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("written.pcapng");
    std::fs::write(&file, pcapng()).expect("written");
    let fields = [
        "frame.comment",
        "frame.interface_name",
        "frame.interface_description",
        "frame.packet_flags_direction",
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
    ];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file).args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().expect("tshark is installed");
    let text = String::from_utf8(output.stdout).expect("text");
    let expected = [
        "forwarded: flow 42, port 1 → port 2|p1|port 1, to host a|0x00000001|1700000000.123456789|60|60",
        "|p2|port 2, to host b|0x00000002|1700000000.123456790|60|60",
        "|p1|port 1, to host a||1700000000.123456789|1514|60",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pcap_files_of_both_octet_orders_and_resolutions_are_read() {
    let unit = [(PcapTsResolution::MicroSecond, 1000), (PcapTsResolution::NanoSecond, 1)];
    for endianness in [Endianness::Big, Endianness::Little] {
        for (resolution, nanoseconds) in unit {
            let frames = frames(&pcap(endianness, resolution, DataLink::ETHERNET));
            assert_eq!(frames[0].timestamp, Some(Duration::new(7, 5 * nanoseconds)));
            assert_eq!(frames[1].timestamp, Some(Duration::new(7, 999_999 * nanoseconds)));
            assert!(!frames[0].is_truncated() && frames[1].is_truncated() && frames.len() == 2);
        }
    }
}

#[test]
fn a_second_section_numbers_its_interfaces_behind_the_first() {
    let both = [pcapng(), pcapng()].concat();
    let mut reader = CaptureReader::new(&both[..]).expect("a capture");
    let interfaces: Vec<_> = reader.by_ref().map(|frame| frame.expect("good").interface).collect();
    assert_eq!(interfaces, [0, 1, 0, 2, 3, 2]);
    assert_eq!(reader.interfaces(), [ports(), ports()].concat());
}

#[test]
fn another_link_type_is_refused_by_name() {
    let bytes = pcap(Endianness::Little, PcapTsResolution::NanoSecond, DataLink::LINUX_SLL);
    assert!(matches!(read(&bytes)[..], [Err(CaptureError::NotEthernet { interface: 0, link_type: 113 })]));
}

#[test]
fn other_files_are_no_captures() {
    for bytes in [&b""[..], b"\x0a\x0d", b"GIF89a", b"\x7fELF\x02\x01\x01\0"] {
        assert!(matches!(read(bytes)[..], [Err(CaptureError::NotACapture)]), "{bytes:x?}");
    }
}

#[test]
fn a_file_cut_short_gives_the_frames_before_the_cut_and_one_error() {
    for whole in [pcapng(), pcap(Endianness::Little, PcapTsResolution::NanoSecond, DataLink::ETHERNET)] {
        let all = frames(&whole);
        for len in 4..whole.len() {
            let mut read = read(&whole[..len]);
            if read.last().is_some_and(Result::is_err) {
                assert!(matches!(read.pop(), Some(Err(CaptureError::CutShort))), "{len} octets");
            }
            let before: Vec<_> = read.into_iter().map(|frame| frame.expect("before the cut")).collect();
            assert!(all.starts_with(&before) && before.len() < all.len(), "{len} octets");
        }
    }
}

#[test]
fn what_the_format_has_no_room_for_is_refused_and_the_file_stays_good() {
    let mut writer = CaptureWriter::new(Vec::new(), &ports()).expect("started");
    let long = "x".repeat(65_536);
    let refused = [
        record(2),
        FrameRecord { original_len: 59, ..record(0) },
        FrameRecord { comment: Some(&long), ..record(0) },
        FrameRecord { timestamp: Duration::MAX, ..record(0) },
    ];
    for frame in &refused {
        assert!(matches!(writer.write(frame), Err(CaptureError::Unwritable(_))));
    }
    writer.write(&record(1)).expect("written");
    assert_eq!(frames(&writer.into_inner()).len(), 1);
}

/// Changes that make good files into hostile ones.
fn damaged(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8)], len: prop::sample::Index) -> Vec<u8> {
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    bytes.truncate(len.index(bytes.len() * 2));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_damaged_pcapng_file_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), len: prop::sample::Index) {
        read(&damaged(pcapng(), &changes, len));
    }

    #[test]
    fn no_damaged_pcap_file_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), len: prop::sample::Index) {
        let whole = pcap(Endianness::Big, PcapTsResolution::MicroSecond, DataLink::ETHERNET);
        read(&damaged(whole, &changes, len));
    }

    #[test]
    fn no_block_of_any_kind_panics(kind in prop::sample::select(vec![1u32, 2, 3, 4, 5, 6, 9, 0xbad, 0x4000_0bad, 0x0a0d_0d0a]), body in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut file = pcapng();
        let words = body.len() / 4 * 4;
        let len = (words as u32 + 12).to_le_bytes();
        file.extend(kind.to_le_bytes());
        file.extend(len);
        file.extend(&body[..words]);
        file.extend(len);
        read(&file);
    }
}
