//! DHCPv6 on a port, RFC 8415, without the host's IP stack.
//!
//! A switch's port needs no IP address, and may be enslaved to a bridge; a packet socket sees the clients' messages in
//! either case, and knows by which port they came in (claim 19).

use crate::PortError;
use crate::af_packet::{Offload, PacketSocket, bpf};
use etherparse::{Ethernet2HeaderSlice, Ipv6HeaderSlice, PacketBuilder, UdpSlice};
use flowlane_wire::Mac;
use flowlane_wire::header::{ethernet, ipv6, protocol};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg};
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The port on which clients listen, RFC 8415 section 7.2.
pub const CLIENT_PORT: u16 = 546;
/// The port on which servers and relay agents listen, RFC 8415 section 7.2.
pub const SERVER_PORT: u16 = 547;
/// All_DHCP_Relay_Agents_and_Servers, RFC 8415 section 7.1: where clients send.
pub const ALL_RELAY_AGENTS_AND_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// All_DHCP_Servers, RFC 8415 section 7.1: where relay agents send.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);

/// A DHCPv6 message and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The Ethernet address that the frame came from.
    pub host: Mac,
    /// The IPv6 address that the packet came from.
    pub client: Ipv6Addr,
    /// The UDP port that the message came from.
    pub client_port: u16,
    /// Whether it was sent to the clients' port: an answer to what the switch itself has asked.
    pub answer: bool,
    /// The message.
    pub payload: Vec<u8>,
}

/// Frames that looked like DHCPv6 for a server or a client and were not delivered, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Malformed {
    /// The source is a group's Ethernet address, or not a unicast IPv6 address.
    pub source: u64,
    /// Sent to another host; a bridge passes it on.
    pub destination: u64,
    /// Lengths of Ethernet, IPv6 or UDP contradict each other.
    pub length: u64,
    /// The UDP checksum is wrong or missing (RFC 8200 section 8.1 wants one).
    pub checksum: u64,
}

/// Receives clients' messages on one port and answers them, and asks others as a client. Never blocks: use it with
/// `AsyncFd` of tokio, or poll(2), and receive until there is none.
pub struct Dhcp6Socket {
    socket: PacketSocket,
    /// Room for [`BATCH`] frames; pages that no frame has reached take no memory.
    buffer: Box<[u8]>,
    /// Messages that have come with earlier ones, by the same system call.
    received: VecDeque<Datagram>,
    malformed: Malformed,
}

/// Frames that are received by one system call.
const BATCH: usize = 32;
/// The longest frame, with its virtio_net header.
const FRAME_MAX: usize = Offload::HEADER_LEN + ethernet::LEN + ipv6::LEN + 65_536;
/// What may wait in the kernel, in octets as it counts them: about a thousand messages.
const RECEIVE_BUFFER: i32 = 1 << 20;

impl Dhcp6Socket {
    /// A socket for untagged DHCPv6 messages that come in by the interface `ifindex`.
    ///
    /// # Errors
    /// [`PortError::NotPermitted`] without CAP_NET_RAW, [`PortError::NoSuchInterface`], [`PortError::Options`] where
    /// the interface is not an Ethernet.
    pub fn open(ifindex: u32) -> Result<Self, PortError> {
        let socket = PacketSocket::open(ifindex)?;
        socket.set(libc::PACKET_IGNORE_OUTGOING, &1i32, "ignoring outgoing frames")?;
        socket.filter(&filter())?;
        // All protocols: a socket for IPv6 alone comes after a bridge, which would take the frame away.
        socket.bind(libc::ETH_P_ALL as u16)?;
        socket.mac()?;
        let room = |option| socket.set_at(libc::SOL_SOCKET, option, &RECEIVE_BUFFER, "making room for messages");
        // Without CAP_NET_ADMIN, as much as `net.core.rmem_max` allows.
        room(libc::SO_RCVBUFFORCE).or_else(|_| room(libc::SO_RCVBUF))?;
        let buffer = vec![0; BATCH * FRAME_MAX].into_boxed_slice();
        Ok(Self { socket, buffer, received: VecDeque::new(), malformed: Malformed::default() })
    }

    /// The next message; none when there is none to be had now.
    ///
    /// # Errors
    /// [`PortError::InterfaceDown`], once each time the interface goes down, [`PortError::InterfaceGone`].
    pub fn recv(&mut self) -> Result<Option<Datagram>, PortError> {
        while self.received.is_empty() {
            let lengths = self.recv_frames()?;
            if lengths.is_empty() {
                return Ok(None);
            }
            let local = self.socket.mac()?;
            for (frame, length) in self.buffer.chunks(FRAME_MAX).zip(lengths) {
                match parse(frame.get(..length).unwrap_or_default(), local) {
                    Ok(datagram) => self.received.push_back(datagram),
                    Err(reason) => *self.malformed.counter(reason) += 1,
                }
            }
        }
        Ok(self.received.pop_front())
    }

    /// Sends a message to who sent `to`: from the port's link-local address (EUI-64, RFC 4291 appendix A) and server
    /// port, to port 547 if a server or relay agent asked and to the clients' port 546 otherwise (RFC 8415 section
    /// 7.2). The hop limit is 1: an answer does not leave the link.
    ///
    /// # Errors
    /// [`PortError::Frame`] where the message is longer than the MTU allows, [`PortError::InterfaceDown`],
    /// [`PortError::InterfaceGone`].
    pub fn send(&self, to: &Datagram, payload: &[u8]) -> Result<(), PortError> {
        self.send_frames(&[(&answer(self.socket.mac()?, to, payload)?, Offload::default())])
    }

    /// Sends many messages, each as [`Dhcp6Socket::send`] does: as few system calls as can be. What can not be sent holds
    /// up nothing.
    ///
    /// # Errors
    /// As [`Dhcp6Socket::send`]. Where the interface is down or gone, those that follow were not sent.
    pub fn send_all<'a>(&self, answers: impl Iterator<Item = (&'a Datagram, &'a [u8])>) -> Result<(), PortError> {
        let mac = self.socket.mac()?;
        let frames: Vec<_> = answers.filter_map(|(to, payload)| answer(mac, to, payload).ok()).collect();
        let frames: Vec<_> = frames.iter().map(|frame| (frame.as_slice(), Offload::default())).collect();
        self.send_frames(&frames)
    }

    /// Asks the server at one neighbour: from the port's link-local address and client port to
    /// All_DHCP_Relay_Agents_and_Servers, in a frame to that neighbour alone (RFC 6085).
    ///
    /// # Errors
    /// As [`Dhcp6Socket::send`].
    pub fn ask(&self, neighbour: Mac, payload: &[u8]) -> Result<(), PortError> {
        let to = (neighbour, ALL_RELAY_AGENTS_AND_SERVERS, SERVER_PORT);
        self.send_frames(&[(&frame((self.socket.mac()?, CLIENT_PORT), to, payload)?, Offload::default())])
    }

    /// What was not delivered until now.
    pub fn malformed(&self) -> Malformed {
        self.malformed
    }

    /// How many messages the kernel has dropped since the last call, because those that came before were not received.
    ///
    /// # Errors
    /// [`PortError::System`] where the kernel does not answer.
    pub fn take_dropped(&self) -> Result<u64, PortError> {
        Ok(u64::from(self.socket.statistics()?.tp_drops))
    }

    fn send_frames(&self, frames: &[(&[u8], Offload)]) -> Result<(), PortError> {
        let sent = self.socket.send(frames)?;
        if sent.too_long > 0 { Err(TOO_LONG) } else { Ok(()) }
    }

    /// Reads frames with their virtio_net headers into the buffer. Their lengths.
    fn recv_frames(&mut self) -> Result<Vec<usize>, PortError> {
        let mut frames: Vec<_> = self.buffer.chunks_mut(FRAME_MAX).map(|frame| [IoSliceMut::new(frame)]).collect();
        let mut headers = MultiHeaders::<()>::preallocate(frames.len(), None);
        let received = recvmmsg(self.socket.as_raw_fd(), &mut headers, frames.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
        match received {
            Ok(received) => Ok(received.map(|frame| frame.bytes).collect()),
            Err(Errno::EAGAIN | Errno::EINTR) if self.socket.is_orphan() => {
                Err(PortError::InterfaceGone(self.socket.ifindex()))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Vec::new()),
            Err(errno) => Err(self.socket.error("receiving a DHCPv6 message", errno)),
        }
    }
}

impl AsFd for Dhcp6Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Dhcp6Socket {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

const TOO_LONG: PortError = PortError::Frame("the DHCPv6 message is longer than the interface's MTU allows");

/// The frame of an answer from a port's own address `mac` to who sent `to`.
fn answer(mac: Mac, to: &Datagram, payload: &[u8]) -> Result<Vec<u8>, PortError> {
    let port = if to.client_port == SERVER_PORT { SERVER_PORT } else { CLIENT_PORT };
    frame((mac, SERVER_PORT), (to.host, to.client, port), payload)
}

/// A frame from a port's own address and a UDP port.
fn frame(
    (mac, from): (Mac, u16),
    (host, ip, port): (Mac, Ipv6Addr, u16),
    payload: &[u8],
) -> Result<Vec<u8>, PortError> {
    let builder =
        PacketBuilder::ethernet2(mac.0, host.0).ipv6(link_local(mac).octets(), ip.octets(), 1).udp(from, port);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).map_err(|_| TOO_LONG)?;
    Ok(frame)
}

/// Why a frame is no message for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Source,
    Destination,
    Length,
    Checksum,
}

impl Malformed {
    fn counter(&mut self, reason: Reason) -> &mut u64 {
        match reason {
            Reason::Source => &mut self.source,
            Reason::Destination => &mut self.destination,
            Reason::Length => &mut self.length,
            Reason::Checksum => &mut self.checksum,
        }
    }
}

/// Lets untagged IPv6 packets through that carry UDP to the server or client port, without extension headers.
fn filter() -> [libc::sock_filter; 11] {
    const UDP_DESTINATION: usize = ethernet::LEN + ipv6::LEN + 2;
    let load = |size, at: usize| bpf(libc::BPF_LD | size | libc::BPF_ABS, at as u32, 0, 0);
    let tagged = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
    let equals = |value: u32, jt, jf| bpf(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, jt, jf);
    let end = |len| bpf(libc::BPF_RET | libc::BPF_K, len, 0, 0);
    [
        bpf(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, tagged, 0, 0),
        equals(0, 0, 8),
        load(libc::BPF_H, ethernet::ETHERTYPE),
        equals(u32::from(ethernet::IPV6), 0, 6),
        load(libc::BPF_B, ethernet::LEN + ipv6::NEXT_HEADER),
        equals(u32::from(protocol::UDP), 0, 4),
        load(libc::BPF_H, UDP_DESTINATION),
        equals(u32::from(SERVER_PORT), 1, 0),
        equals(u32::from(CLIENT_PORT), 0, 1),
        end(u32::MAX),
        end(0),
    ]
}

/// The message in a frame that follows its virtio_net header. `local` is the port's own address.
fn parse(bytes: &[u8], local: Mac) -> Result<Datagram, Reason> {
    let (virtio, frame) = bytes.split_first_chunk().ok_or(Reason::Length)?;
    let offload = Offload::from_header(*virtio).ok_or(Reason::Length)?;
    let link = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| Reason::Length)?;
    let ip = frame.get(ethernet::LEN..).ok_or(Reason::Length)?;
    let header = Ipv6HeaderSlice::from_slice(ip).map_err(|_| Reason::Length)?;
    let end = ipv6::LEN + usize::from(header.payload_length());
    let payload = ip.get(ipv6::LEN..end).ok_or(Reason::Length)?;
    let udp = UdpSlice::from_slice(payload).map_err(|_| Reason::Length)?;
    if usize::from(udp.length()) != payload.len() {
        return Err(Reason::Length);
    }
    let (host, client) = (Mac(link.source()), header.source_addr());
    if host.is_group() || client.is_multicast() || client.is_unspecified() || client.is_loopback() {
        return Err(Reason::Source);
    }
    let (to, destination) = (Mac(link.destination()), header.destination_addr());
    let answer = udp.destination_port() == CLIENT_PORT;
    let groups = [ALL_RELAY_AGENTS_AND_SERVERS, ALL_SERVERS];
    let ours = destination == link_local(local) || (!answer && groups.contains(&destination));
    // What was sent to somebody else's address comes by a bridge that does not know where that is.
    if !ours || !(to.is_group() || to == local) {
        return Err(Reason::Destination);
    }
    // A client on the same machine leaves the checksum to a card that is not there.
    if offload.checksum.is_none() && !has_good_checksum(&udp, &header) {
        return Err(Reason::Checksum);
    }
    Ok(Datagram { host, client, client_port: udp.source_port(), answer, payload: udp.payload().to_vec() })
}

fn has_good_checksum(udp: &UdpSlice<'_>, ip: &Ipv6HeaderSlice<'_>) -> bool {
    let computed = udp.to_header().calc_checksum_ipv6_raw(ip.source(), ip.destination(), udp.payload());
    computed == Ok(udp.checksum())
}

/// The link-local address with the EUI-64 interface identifier of an Ethernet address, RFC 4291 appendix A.
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const PORT: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn message(destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        message_to([0x33, 0x33, 0, 1, 0, 2], destination, SERVER_PORT, payload)
    }

    fn message_to(to: [u8; 6], destination: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; Offload::HEADER_LEN];
        PacketBuilder::ethernet2(HOST.0, to)
            .ipv6(link_local(HOST).octets(), destination.octets(), 1)
            .udp(CLIENT_PORT, port)
            .write(&mut frame, payload)
            .expect("built");
        frame
    }

    #[test]
    fn a_clients_message_is_delivered_with_its_origin() {
        let expected = Datagram {
            host: HOST,
            client: link_local(HOST),
            client_port: 546,
            answer: false,
            payload: b"\x01abc".to_vec(),
        };
        for destination in [ALL_RELAY_AGENTS_AND_SERVERS, ALL_SERVERS, link_local(PORT)] {
            assert_eq!(parse(&message(destination, b"\x01abc"), PORT), Ok(expected.clone()));
        }
    }

    #[test]
    fn an_answer_is_told_from_a_question_and_comes_to_the_port_alone() {
        let answer = message_to(PORT.0, link_local(PORT), CLIENT_PORT, b"\x07abc");
        assert_eq!(parse(&answer, PORT).map(|datagram| datagram.answer), Ok(true));
        let to_all = message_to(PORT.0, ALL_RELAY_AGENTS_AND_SERVERS, CLIENT_PORT, b"\x07abc");
        assert_eq!(parse(&to_all, PORT), Err(Reason::Destination));
    }

    #[test]
    fn a_question_in_a_frame_to_another_neighbour_is_refused() {
        let question = |to: Mac| message_to(to.0, ALL_RELAY_AGENTS_AND_SERVERS, SERVER_PORT, b"\x01abc");
        assert!(parse(&question(PORT), PORT).is_ok());
        assert_eq!(parse(&question(Mac([2, 0, 0, 0, 0, 9])), PORT), Err(Reason::Destination));
    }

    #[test]
    fn padding_behind_the_packet_is_not_part_of_the_message() {
        let mut frame = message(ALL_SERVERS, b"");
        frame.extend([0xee; 20]);
        assert_eq!(parse(&frame, PORT).map(|datagram| datagram.payload), Ok(vec![]));
    }

    #[test]
    fn a_message_for_another_server_is_refused() {
        assert_eq!(parse(&message(link_local(HOST), b"\x01abc"), PORT), Err(Reason::Destination));
    }

    #[test]
    fn a_message_from_a_group_is_refused() {
        let mut frame = message(ALL_SERVERS, b"\x01abc");
        frame[Offload::HEADER_LEN + ethernet::SOURCE] |= 1;
        assert_eq!(parse(&frame, PORT), Err(Reason::Source));
    }

    #[test]
    fn each_octet_behind_the_ethernet_header_is_covered_by_a_check() {
        let good = message(ALL_RELAY_AGENTS_AND_SERVERS, b"\x01abc");
        // Traffic class, flow label, next header and hop limit are in no sum; the socket filter checks the next header.
        let unchecked = |at: usize| matches!(at - Offload::HEADER_LEN - ethernet::LEN, 0..=3 | 6 | 7);
        for at in (Offload::HEADER_LEN + ethernet::LEN..good.len()).filter(|at| !unchecked(*at)) {
            let mut frame = good.clone();
            frame[at] ^= 0x40;
            assert!(parse(&frame, PORT).is_err(), "octet {at}");
        }
    }

    #[test]
    fn a_frame_cut_short_anywhere_is_refused() {
        let good = message(ALL_RELAY_AGENTS_AND_SERVERS, b"\x01abc");
        for len in 0..good.len() {
            assert_eq!(parse(&good[..len], PORT), Err(Reason::Length), "{len} octets");
        }
    }

    proptest! {
        #[test]
        fn no_frame_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, PORT);
        }

        #[test]
        fn no_damaged_message_panics(at in 0usize..76, value: u8, len in 0usize..80) {
            let mut frame = message(ALL_SERVERS, b"\x01abc");
            frame[at] = value;
            frame.truncate(len);
            let _ = parse(&frame, PORT);
        }
    }
}
