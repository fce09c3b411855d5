//! What a frame of any octets leaves to the network card.

use bolero::{TypeGenerator, check, produce};
use flowlane_ports::af_packet::Offload;

#[derive(Clone, Debug, TypeGenerator)]
struct Frame {
    addresses: [u8; 12],
    #[generator(0usize..5)]
    start: usize,
    #[generator(produce::<Vec<u8>>().with().len(0usize..=200))]
    behind: Vec<u8>,
    gso_size: u16,
    /// Whether the checksum of TCP over IPv4 without options is made partial.
    partial: bool,
}

/// EtherTypes and the octets that headers start with, in the ways that matter.
const STARTS: [&[u8]; 5] = [
    &[],
    &[0x08, 0x00, 0x45, 0, 0, 100, 0, 0, 0, 0, 64, 6],
    &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, 17, 64],
    &[0x81, 0x00, 0, 1, 0x08, 0x00, 0x46, 0, 0, 100, 0, 0, 0x40, 0, 64, 17],
    &[0x88, 0xa8, 0, 1, 0x81, 0x00, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, 0, 64],
];

#[test]
fn what_is_left_to_do_lies_within_the_frame_and_survives_the_kernels_header() {
    check!().with_type::<Frame>().for_each(|frame| {
        let octets = octets(frame);
        let offload = Offload::describe(&octets, frame.gso_size);
        if let Some(checksum) = offload.checksum {
            assert!(usize::from(checksum.start) + usize::from(checksum.offset) + 2 <= octets.len(), "{offload:?}");
        }
        if let Some(segmentation) = offload.segmentation {
            assert!(frame.gso_size != 0 && segmentation.size == frame.gso_size, "{offload:?}");
            assert!(usize::from(segmentation.header_len) <= octets.len(), "{offload:?}");
        }
        assert_eq!(Offload::from_header(offload.to_header()), Some(offload));
        assert_eq!(Offload::describe(&octets, frame.gso_size).shifted(0), offload);
    });
}

fn octets(frame: &Frame) -> Vec<u8> {
    let mut octets = [&frame.addresses, STARTS[frame.start], &frame.behind].concat();
    if frame.partial && octets.len() >= 54 {
        let (protocol, segment) = (u64::from(octets[23]), 100 - 20);
        let mut sum = octets[26..34].chunks(2).map(|two| u64::from(two[0]) << 8 | u64::from(two[1])).sum::<u64>();
        sum += protocol + segment;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        octets[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
    }
    octets
}
