//! A capture file of any octets.

use bolero::{TypeGenerator, check, produce};
use flowlane_ports::capture::CaptureReader;

/// A pcapng file, and the start of a pcap file (microseconds, little-endian, Ethernet).
const PCAPNG: &[u8] = include_bytes!("../../examples/replay.pcapng");
const PCAP: [u8; 24] = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];

#[derive(Clone, Debug, TypeGenerator)]
struct File {
    start: Start,
    #[generator(produce::<Vec<u8>>().with().len(0usize..=300))]
    behind: Vec<u8>,
    #[generator(produce::<Vec<(u16, u8)>>().with().len(0usize..=4))]
    changes: Vec<(u16, u8)>,
}

#[derive(Clone, Debug, TypeGenerator)]
enum Start {
    Nothing,
    Pcap,
    /// As much of the file.
    PcapNg(u16),
}

#[test]
fn a_capture_of_any_octets_comes_to_an_end_and_holds_no_more_than_the_file() {
    check!().with_type::<File>().for_each(|file| {
        let octets = octets(file);
        let Ok(mut reader) = CaptureReader::new(&*octets) else { return };
        // Every item takes octets of the file, so that there are fewer items than octets.
        let items: Vec<_> = reader.by_ref().take(octets.len()).collect();
        assert!(reader.next().is_none(), "it goes on behind {} items", items.len());
        let held: usize = items.iter().flatten().map(|frame| frame.bytes.len()).sum();
        assert!(held <= octets.len(), "{held} octets in frames");
    });
}

fn octets(file: &File) -> Vec<u8> {
    let start = match file.start {
        Start::Nothing => &[],
        Start::Pcap => &PCAP[..],
        Start::PcapNg(len) => &PCAPNG[..usize::from(len).min(PCAPNG.len())],
    };
    let mut octets = [start, &file.behind].concat();
    for (place, value) in &file.changes {
        let len = octets.len().max(1);
        octets.iter_mut().skip(usize::from(*place) % len).take(1).for_each(|octet| *octet = *value);
    }
    octets
}
