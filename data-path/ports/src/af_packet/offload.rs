//! What a frame leaves to the network card: its checksum, and its division into packets.

use flowlane_wire::header::{ethernet, ipv4, ipv6, protocol};

/// The work on a frame that its sender left undone. The default is none: the frame is as it will be on the wire.
///
/// A switch that changes only Ethernet addresses hands it on as it came, so that a super-packet crosses whole. It is
/// `struct virtio_net_hdr` (VIRTIO 1.2 section 5.1.6) in the form that packet(7) speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum field holds only the sum of the pseudo-header.
    pub checksum: Option<PartialChecksum>,
    /// The frame stands for several packets.
    pub segmentation: Option<Segmentation>,
}

/// Where a checksum is to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the sum starts, in octets from the start of the frame. It ends with the frame.
    pub start: u16,
    /// Where the checksum field stands, in octets from `start`.
    pub offset: u16,
}

/// How a frame is to be divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Which headers every packet gets.
    pub kind: SegmentKind,
    /// Octets of payload in each packet but the last.
    pub size: u16,
    /// Octets of all headers, from the start of the frame: a hint.
    pub header_len: u16,
    /// The first packet alone carries TCP's CWR flag (RFC 3168).
    pub ecn: bool,
}

/// The kinds of super-packet that Linux hosts make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of one size (`UDP_SEGMENT` of udp(7)), over either.
    Udp,
}

const NEEDS_CHECKSUM: u8 = 1;
const KIND_NONE: u8 = 0;
const KIND_TCP4: u8 = 1;
const KIND_TCP6: u8 = 4;
const KIND_UDP: u8 = 5;
const KIND_ECN: u8 = 0x80;

impl Offload {
    /// The length of the header in octets.
    pub const HEADER_LEN: usize = 10;

    /// The offload that a `struct virtio_net_hdr` describes; none where it is a kind of super-packet that is not
    /// known here, and the frame can not be sent on.
    ///
    /// Numbers are in the machine's own octet order: packet(7) speaks the legacy interface of VIRTIO.
    pub fn from_header(header: [u8; Self::HEADER_LEN]) -> Option<Self> {
        let [flags, kind, header_low, header_high, size_low, size_high, start_low, start_high, offset_low, offset_high] =
            header;
        let number = |low, high| u16::from_ne_bytes([low, high]);
        let segmentation = match kind & !KIND_ECN {
            KIND_NONE => None,
            KIND_TCP4 => Some(SegmentKind::Tcp4),
            KIND_TCP6 => Some(SegmentKind::Tcp6),
            KIND_UDP => Some(SegmentKind::Udp),
            _ => return None,
        }
        .map(|of| Segmentation {
            kind: of,
            size: number(size_low, size_high),
            header_len: number(header_low, header_high),
            ecn: kind & KIND_ECN != 0,
        });
        let checksum = (flags & NEEDS_CHECKSUM != 0)
            .then(|| PartialChecksum { start: number(start_low, start_high), offset: number(offset_low, offset_high) });
        Some(Self { checksum, segmentation })
    }

    /// The `struct virtio_net_hdr` of this offload, in the machine's own octet order.
    pub fn to_header(self) -> [u8; Self::HEADER_LEN] {
        let mut header = [0; Self::HEADER_LEN];
        let [flags, kind, numbers @ ..] = &mut header;
        let mut put = |at: usize, value: u16| {
            if let Some(field) = numbers.get_mut(at..at + 2) {
                field.copy_from_slice(&value.to_ne_bytes());
            }
        };
        if let Some(of) = self.segmentation {
            let code = match of.kind {
                SegmentKind::Tcp4 => KIND_TCP4,
                SegmentKind::Tcp6 => KIND_TCP6,
                SegmentKind::Udp => KIND_UDP,
            };
            *kind = if of.ecn { code | KIND_ECN } else { code };
            put(0, of.header_len);
            put(2, of.size);
        }
        if let Some(of) = self.checksum {
            *flags = NEEDS_CHECKSUM;
            put(4, of.start);
            put(6, of.offset);
        }
        header
    }

    /// The same work on a frame that has grown by `octets` in front of its IP header.
    pub fn shifted(self, octets: u16) -> Self {
        let checksum =
            self.checksum.map(|of| PartialChecksum { start: of.start.saturating_add(octets), offset: of.offset });
        let segmentation =
            self.segmentation.map(|of| Segmentation { header_len: of.header_len.saturating_add(octets), ..of });
        Self { checksum, segmentation }
    }

    /// Finds out the offload of a frame that came without metadata, as frames from a BPF program do. `gso_size` is
    /// the field of `struct __sk_buff`: the payload of each packet of a super-packet, 0 for an ordinary frame.
    ///
    /// The checksum counts as partial where its field equals the sum of the pseudo-header. Where that is a
    /// coincidence, and the checksum was right, computing it again gives the same; a checksum that is simply wrong
    /// stays wrong and the receiver drops the frame, but for one in 65,536 that looks partial.
    pub fn describe(frame: &[u8], gso_size: u16) -> Self {
        let Some(of) = Transport::of(frame, gso_size != 0) else { return Self::default() };
        let checksum = of
            .has_partial_checksum(frame)
            .then_some(PartialChecksum { start: of.start as u16, offset: of.checksum_offset() as u16 });
        let segmentation = (gso_size != 0).then_some(Segmentation {
            kind: of.kind,
            size: gso_size,
            header_len: (of.start + of.header_len) as u16,
            ecn: false,
        });
        Self { checksum, segmentation }
    }
}

/// A TCP or UDP header in a frame.
struct Transport {
    kind: SegmentKind,
    start: usize,
    header_len: usize,
    /// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), not complemented.
    pseudo_header: u16,
}

/// Extension headers before the transport header; real packets have two or three at most.
const EXTENSION_HEADERS: usize = 8;
/// VLAN tags in a frame: service and customer.
const TAGS: usize = 2;

impl Transport {
    /// The transport header of an Ethernet frame, unless the frame is a fragment, cut short, or something else.
    fn of(frame: &[u8], is_super_packet: bool) -> Option<Self> {
        let mut at = ethernet::ETHERTYPE;
        let mut ethertype = number(frame, at)?;
        for _ in 0..TAGS {
            if ethertype == ethernet::VLAN || ethertype == ethernet::SERVICE_VLAN {
                at += ethernet::TAG_LEN;
                ethertype = number(frame, at)?;
            }
        }
        match ethertype {
            ethernet::IPV4 => Self::of_ipv4(frame, at + 2, is_super_packet),
            ethernet::IPV6 => Self::of_ipv6(frame, at + 2, is_super_packet),
            _ => None,
        }
    }

    fn of_ipv4(frame: &[u8], ip: usize, is_super_packet: bool) -> Option<Self> {
        const FRAGMENT: usize = 6;
        const SOURCE: usize = 12;
        let first = *frame.get(ip)?;
        let header_len = usize::from(first & 0xf) * 4;
        let is_fragment = number(frame, ip + FRAGMENT)? & 0x3fff != 0;
        if first >> 4 != 4 || header_len < ipv4::LEN || is_fragment {
            return None;
        }
        let end = ip + usize::from(number(frame, ip + 2)?);
        let end = if is_super_packet { frame.len() } else { end };
        let addresses = frame.get(ip + SOURCE..ip + ipv4::LEN)?;
        Self::at(frame, ip + header_len..end, *frame.get(ip + ipv4::PROTOCOL)?, addresses)
    }

    fn of_ipv6(frame: &[u8], ip: usize, is_super_packet: bool) -> Option<Self> {
        const SOURCE: usize = 8;
        const ROUTING: u8 = 43;
        if *frame.get(ip)? >> 4 != 6 {
            return None;
        }
        let end = ip + ipv6::LEN + usize::from(number(frame, ip + 4)?);
        let end = if is_super_packet { frame.len() } else { end };
        let addresses = frame.get(ip + SOURCE..ip + ipv6::LEN)?;
        let (mut next, mut at) = (*frame.get(ip + ipv6::NEXT_HEADER)?, ip + ipv6::LEN);
        for _ in 0..EXTENSION_HEADERS {
            match next {
                // Segments left: the pseudo-header has another destination than this one.
                ROUTING if *frame.get(at + 3)? != 0 => return None,
                // Hop-by-hop options, routing, destination options: RFC 8200 section 4.
                0 | ROUTING | 60 => {
                    next = *frame.get(at)?;
                    at += (usize::from(*frame.get(at + 1)?) + 1) * 8;
                }
                _ => break,
            }
        }
        Self::at(frame, at..end, next, addresses)
    }

    /// The header of `protocol` that takes up `range` of the frame with its payload.
    fn at(frame: &[u8], range: std::ops::Range<usize>, of: u8, addresses: &[u8]) -> Option<Self> {
        const UDP_HEADER: usize = 8;
        let start = range.start;
        let bytes = frame.get(range)?;
        let (kind, header_len) = match of {
            protocol::TCP if addresses.len() == 8 => (SegmentKind::Tcp4, usize::from(*bytes.get(12)? >> 4) * 4),
            protocol::TCP => (SegmentKind::Tcp6, usize::from(*bytes.get(12)? >> 4) * 4),
            protocol::UDP => (SegmentKind::Udp, UDP_HEADER),
            _ => return None,
        };
        let smallest = if of == protocol::TCP { 20 } else { UDP_HEADER };
        if header_len < smallest || header_len > bytes.len() || u16::try_from(start + header_len).is_err() {
            return None;
        }
        let pseudo_header = fold(sum(addresses) + u64::from(of) + bytes.len() as u64);
        Some(Self { kind, start, header_len, pseudo_header })
    }

    fn checksum_offset(&self) -> usize {
        if self.kind == SegmentKind::Udp { 6 } else { 16 }
    }

    fn has_partial_checksum(&self, frame: &[u8]) -> bool {
        let field = number(frame, self.start + self.checksum_offset());
        // RFC 768: a UDP checksum of 0 is none at all.
        field == Some(self.pseudo_header) && !(self.kind == SegmentKind::Udp && field == Some(0))
    }
}

/// The big-endian number of two octets at `at`.
fn number(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|octets| u16::from_be_bytes(*octets))
}

/// The sum of an even number of octets as 16-bit numbers (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<2>().0.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4)
            .write(&mut frame, &vec![7; payload])
            .expect("built");
        frame
    }

    /// Writes the pseudo-header's sum where the checksum of a TCP/IPv4 frame without options stands.
    fn make_partial(frame: &mut [u8]) {
        let len = frame.len() as u64 - 34;
        let partial = fold(sum(&frame[26..34]) + 6 + len);
        frame[50..52].copy_from_slice(&partial.to_be_bytes());
    }

    #[test]
    fn a_partial_checksum_is_recognised_and_a_whole_one_is_not() {
        let mut frame = tcp4(100);
        assert_eq!(Offload::describe(&frame, 0), Offload::default());
        make_partial(&mut frame);
        let checksum = Some(PartialChecksum { start: 34, offset: 16 });
        assert_eq!(Offload::describe(&frame, 0), Offload { checksum, segmentation: None });
    }

    #[test]
    fn padding_behind_the_ip_packet_does_not_count() {
        let mut frame = tcp4(0);
        make_partial(&mut frame);
        frame.resize(60, 0xee);
        assert!(Offload::describe(&frame, 0).checksum.is_some());
    }

    #[test]
    fn a_wrong_checksum_is_not_repaired() {
        let mut frame = tcp4(100);
        frame[50] ^= 0x55;
        assert_eq!(Offload::describe(&frame, 0), Offload::default());
    }

    #[test]
    fn a_fragment_has_no_checksum_of_its_own() {
        let mut frame = tcp4(100);
        make_partial(&mut frame);
        frame[20] = 0x20;
        assert_eq!(Offload::describe(&frame, 0), Offload::default());
    }

    #[test]
    fn a_super_packet_is_described_behind_two_tags() {
        let mut frame = tcp4(4000);
        make_partial(&mut frame);
        frame.splice(12..12, [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
        let expected = Offload {
            checksum: Some(PartialChecksum { start: 42, offset: 16 }),
            segmentation: Some(Segmentation { kind: SegmentKind::Tcp4, size: 1448, header_len: 62, ecn: false }),
        };
        assert_eq!(Offload::describe(&frame, 1448), expected);
    }

    proptest! {
        #[test]
        fn no_frame_panics(frame in prop::collection::vec(any::<u8>(), 0..200), gso: u16) {
            Offload::describe(&frame, gso);
        }

        #[test]
        fn no_ipv6_frame_panics(next: u8, mut frame in prop::collection::vec(any::<u8>(), 21..300), gso: u16) {
            frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            frame[20] = next;
            Offload::describe(&frame, gso);
        }

        #[test]
        fn every_known_header_survives(flags in 0u8..2, kind in prop::sample::select(vec![0, 1, 4, 5, 0x81, 0x84]), rest: [u8; 8]) {
            let mut header = [0; 10];
            header[0] = flags;
            header[1] = kind;
            if kind != 0 { header[2..6].copy_from_slice(&rest[..4]); }
            if flags != 0 { header[6..].copy_from_slice(&rest[4..]); }
            prop_assert_eq!(Offload::from_header(header).expect("known").to_header(), header);
        }
    }

    #[test]
    fn an_unknown_kind_of_super_packet_is_refused() {
        assert_eq!(Offload::from_header([0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
