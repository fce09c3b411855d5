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

/// Receives clients' messages on one port and answers them, and asks others as a client. Never blocks: use it with `AsyncFd` of tokio, or poll(2).
pub struct Dhcp6Socket {
    socket: PacketSocket,
    buffer: Box<[u8]>,
    malformed: Malformed,
}

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
        let buffer = vec![0; Offload::HEADER_LEN + ethernet::LEN + ipv6::LEN + 65_536].into_boxed_slice();
        Ok(Self { socket, buffer, malformed: Malformed::default() })
    }

    /// The next message; none when there is none to be had now.
    ///
    /// # Errors
    /// [`PortError::InterfaceDown`], once each time the interface goes down, [`PortError::InterfaceGone`].
    pub fn recv(&mut self) -> Result<Option<Datagram>, PortError> {
        loop {
            let Some(len) = self.recv_frame()? else { return Ok(None) };
            let local = self.socket.mac()?;
            match parse(self.buffer.get(..len).unwrap_or_default(), local) {
                Ok(datagram) => return Ok(Some(datagram)),
                Err(reason) => *self.malformed.counter(reason) += 1,
            }
        }
    }

    /// Sends a message to who sent `to`: from the port's link-local address (EUI-64, RFC 4291 appendix A) and server
    /// port, to port 547 if a server or relay agent asked and to the clients' port 546 otherwise (RFC 8415 section
    /// 7.2). The hop limit is 1: an answer does not leave the link.
    ///
    /// # Errors
    /// [`PortError::Frame`] where the message is longer than the MTU allows, [`PortError::InterfaceDown`],
    /// [`PortError::InterfaceGone`].
    pub fn send(&self, to: &Datagram, payload: &[u8]) -> Result<(), PortError> {
        let port = if to.client_port == SERVER_PORT { SERVER_PORT } else { CLIENT_PORT };
        self.send_frame(SERVER_PORT, (to.host, to.client, port), payload)
    }

    fn send_frame(&self, from: u16, (host, ip, port): (Mac, Ipv6Addr, u16), payload: &[u8]) -> Result<(), PortError> {
        let mac = self.socket.mac()?;
        let mut frame = Offload::default().to_header().to_vec();
        PacketBuilder::ethernet2(mac.0, host.0)
            .ipv6(link_local(mac).octets(), ip.octets(), 1)
            .udp(from, port)
            .write(&mut frame, payload)
            .map_err(|_| TOO_LONG)?;
        match nix::sys::socket::send(self.socket.as_raw_fd(), &frame, nix::sys::socket::MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Ok(()),
            Err(Errno::EMSGSIZE) => Err(TOO_LONG),
            Err(errno) => Err(self.socket.error("sending a DHCPv6 message", errno)),
        }
    }

    /// Asks the server at one neighbour: from the port's link-local address and client port to
    /// All_DHCP_Relay_Agents_and_Servers, in a frame to that neighbour alone (RFC 6085).
    ///
    /// # Errors
    /// As [`Dhcp6Socket::send`].
    pub fn ask(&self, neighbour: Mac, payload: &[u8]) -> Result<(), PortError> {
        let to = (neighbour, ALL_RELAY_AGENTS_AND_SERVERS, SERVER_PORT);
        self.send_frame(CLIENT_PORT, to, payload)
    }

    /// What was not delivered until now.
    pub fn malformed(&self) -> Malformed {
        self.malformed
    }

    /// Reads a frame with its virtio_net header into the buffer. Its length.
    fn recv_frame(&mut self) -> Result<Option<usize>, PortError> {
        let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
        match nix::sys::socket::recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::EAGAIN | Errno::EINTR) if self.socket.is_orphan() => {
                Err(PortError::InterfaceGone(self.socket.ifindex()))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
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
