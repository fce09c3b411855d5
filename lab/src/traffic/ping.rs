//! ICMP echo, RFC 792 and RFC 4443 section 4.

use super::{Deadline, readable};
use crate::{Netns, Result};
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type, Ipv4HeaderSlice,
    Ipv6HeaderSlice,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage,
    recvfrom, sendto, setsockopt, socket, sockopt,
};
use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// What is sent along, and must come back.
const PAYLOAD: &[u8] = b"flowlane lab: an echo request to find out if a path works";

/// What became of the echo requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Requests that the destination answered.
    pub received: u32,
    /// Time from request to reply, of the answered ones in order.
    pub rtts: Vec<Duration>,
    /// Routers that dropped a request because its TTL or hop limit was used up, one entry for each request.
    pub time_exceeded_from: Vec<IpAddr>,
    /// Routers and hosts that said the destination can not be reached, one entry for each request.
    pub unreachable_from: Vec<IpAddr>,
}

/// Sends `count` echo requests, each when the one before is answered or has waited for `timeout`.
///
/// `ttl` is the IPv4 time to live or IPv6 hop limit; without it the system's default is used. Uses raw sockets, which
/// root may open, of a user namespace too.
///
/// # Errors
/// [`crate::Error::Refused`] without `CAP_NET_RAW`, or if there is no route. Lost requests are no error.
pub fn ping(netns: &Netns, destination: IpAddr, count: u32, ttl: Option<u8>, timeout: Duration) -> Result<PingReport> {
    ping_with(netns, destination, count, timeout, |socket| match (destination, ttl) {
        (IpAddr::V4(_), Some(ttl)) => setsockopt(socket, sockopt::Ipv4Ttl, &ttl.into()),
        (IpAddr::V6(_), Some(ttl)) => setsockopt(socket, sockopt::Ipv6Ttl, &ttl.into()),
        (_, None) => Ok(()),
    })
}

/// The same with an IPv4 type of service or IPv6 traffic class.
///
/// # Errors
/// As [`ping`].
pub fn ping_with_class(
    netns: &Netns,
    destination: IpAddr,
    count: u32,
    class: u8,
    timeout: Duration,
) -> Result<PingReport> {
    ping_with(netns, destination, count, timeout, |socket| match destination {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4Tos, &class.into()),
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6TClass, &class.into()),
    })
}

fn ping_with(
    netns: &Netns,
    destination: IpAddr,
    count: u32,
    timeout: Duration,
    prepare: impl FnOnce(&OwnedFd) -> nix::Result<()> + Send,
) -> Result<PingReport> {
    let report = netns.run(|| {
        let socket = open(destination)?;
        prepare(&socket)?;
        let id = next_id();
        let mut report = PingReport::default();
        for number in 0..count {
            // 65,536 requests later, a late answer to the first is no danger any more.
            let echo = IcmpEchoHeader { id, seq: number as u16 };
            probe(&socket, destination, echo, timeout, &mut report)?;
        }
        Ok(report)
    })?;
    report.map_err(|reason| netns.refused(&format!("ping {destination}"), reason))
}

/// What an ICMP message says about our request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Reply,
    TimeExceeded,
    Unreachable,
}

fn probe(
    socket: &OwnedFd,
    destination: IpAddr,
    echo: IcmpEchoHeader,
    timeout: Duration,
    report: &mut PingReport,
) -> io::Result<()> {
    let deadline = Deadline::new(timeout);
    let start = Instant::now();
    send(socket, destination, echo)?;
    report.sent += 1;
    let Some((from, answer)) = await_answer(socket, destination, echo, deadline)? else { return Ok(()) };
    match answer {
        Answer::Reply => {
            report.received += 1;
            report.rtts.push(start.elapsed());
        }
        Answer::TimeExceeded => report.time_exceeded_from.push(from),
        Answer::Unreachable => report.unreachable_from.push(from),
    }
    Ok(())
}

/// Distinguishes this ping from others in the same namespace: raw sockets get everybody's answers.
fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn open(destination: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match destination {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    // Not blocking: what made the socket readable may turn out damaged and be gone.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Raw, flags, protocol)?)
}

fn send(socket: &OwnedFd, destination: IpAddr, echo: IcmpEchoHeader) -> io::Result<()> {
    match destination {
        IpAddr::V4(ip) => {
            let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), PAYLOAD);
            send_to(socket, &header.to_bytes(), &SockaddrIn::from(SocketAddrV4::new(ip, 0)))
        }
        IpAddr::V6(ip) => {
            // The kernel fills in the checksum, RFC 3542 section 3.1.
            let header = Icmpv6Header::new(Icmpv6Type::EchoRequest(echo));
            send_to(socket, &header.to_bytes(), &SockaddrIn6::from(SocketAddrV6::new(ip, 0, 0, 0)))
        }
    }
}

fn send_to(socket: &OwnedFd, header: &[u8], to: &impl SockaddrLike) -> io::Result<()> {
    let message = [header, PAYLOAD].concat();
    match sendto(socket.as_raw_fd(), &message, to, MsgFlags::empty()) {
        Ok(_) => Ok(()),
        // The neighbour did not answer ARP before: a lost request like others.
        Err(Errno::EHOSTUNREACH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn await_answer(
    socket: &OwnedFd,
    destination: IpAddr,
    echo: IcmpEchoHeader,
    deadline: Deadline,
) -> io::Result<Option<(IpAddr, Answer)>> {
    let mut buffer = [0; 2048];
    while let Ok(left) = deadline.left() {
        if !readable(socket, left)? {
            continue;
        }
        let (len, from) = match recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer) {
            Ok(received) => received,
            Err(Errno::EINTR | Errno::EAGAIN | Errno::EHOSTUNREACH) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let message = buffer.get(..len).unwrap_or_default();
        let (Some(answer), Some(from)) = (answer_in(message, destination, echo), from.as_ref().and_then(ip_of)) else {
            continue;
        };
        if answer != Answer::Reply || from == destination {
            return Ok(Some((from, answer)));
        }
    }
    Ok(None)
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(v4.ip().into()),
        (_, Some(v6)) => Some(v6.ip().into()),
        _ => None,
    }
}

/// What a received message says about the request `echo`, if it is about it at all.
fn answer_in(message: &[u8], destination: IpAddr, echo: IcmpEchoHeader) -> Option<Answer> {
    match destination {
        IpAddr::V4(_) => answer_v4(message, echo),
        IpAddr::V6(_) => answer_v6(message, echo),
    }
}

/// An IPv4 raw socket delivers the IP header too.
fn answer_v4(packet: &[u8], echo: IcmpEchoHeader) -> Option<Answer> {
    let message = Icmpv4Slice::from_slice(after_ipv4(packet)?).ok()?;
    let about_us = || {
        let quoted = Icmpv4Slice::from_slice(after_ipv4(message.payload())?).ok()?;
        (quoted.icmp_type() == Icmpv4Type::EchoRequest(echo)).then_some(())
    };
    match message.icmp_type() {
        Icmpv4Type::EchoReply(reply) if reply == echo && message.payload() == PAYLOAD => Some(Answer::Reply),
        Icmpv4Type::TimeExceeded(_) => about_us().map(|()| Answer::TimeExceeded),
        Icmpv4Type::DestinationUnreachable(_) => about_us().map(|()| Answer::Unreachable),
        _ => None,
    }
}

/// An IPv6 raw socket delivers the message without the IP header.
fn answer_v6(message: &[u8], echo: IcmpEchoHeader) -> Option<Answer> {
    let message = Icmpv6Slice::from_slice(message).ok()?;
    let about_us = || {
        let header = Ipv6HeaderSlice::from_slice(message.payload()).ok()?;
        let quoted = Icmpv6Slice::from_slice(message.payload().get(header.slice().len()..)?).ok()?;
        (quoted.icmp_type() == Icmpv6Type::EchoRequest(echo)).then_some(())
    };
    match message.icmp_type() {
        Icmpv6Type::EchoReply(reply) if reply == echo && message.payload() == PAYLOAD => Some(Answer::Reply),
        Icmpv6Type::TimeExceeded(_) => about_us().map(|()| Answer::TimeExceeded),
        Icmpv6Type::DestinationUnreachable(_) => about_us().map(|()| Answer::Unreachable),
        _ => None,
    }
}

fn after_ipv4(packet: &[u8]) -> Option<&[u8]> {
    packet.get(Ipv4HeaderSlice::from_slice(packet).ok()?.slice().len()..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: IcmpEchoHeader = IcmpEchoHeader { id: 7, seq: 3 };

    #[test]
    fn a_message_cut_anywhere_is_no_answer_and_no_panic() {
        let ip: IpAddr = "192.0.2.1".parse().expect("an address");
        let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(ECHO), PAYLOAD);
        let mut packet = vec![0x45, 0, 0, 84, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend_from_slice(&header.to_bytes());
        packet.extend_from_slice(PAYLOAD);
        assert_eq!(answer_in(&packet, ip, ECHO), Some(Answer::Reply));
        for len in 0..packet.len() {
            assert_eq!(answer_in(&packet[..len], ip, ECHO), None, "cut to {len}");
        }
    }

    #[test]
    fn an_answer_to_another_request_is_not_ours() {
        let message = |kind| [Icmpv6Header::new(kind).to_bytes().as_slice(), PAYLOAD].concat();
        let ip: IpAddr = "2001:db8::1".parse().expect("an address");
        assert_eq!(answer_in(&message(Icmpv6Type::EchoReply(ECHO)), ip, ECHO), Some(Answer::Reply));
        let other = IcmpEchoHeader { id: ECHO.id, seq: ECHO.seq + 1 };
        assert_eq!(answer_in(&message(Icmpv6Type::EchoReply(other)), ip, ECHO), None);
        assert_eq!(answer_in(&message(Icmpv6Type::EchoRequest(ECHO)), ip, ECHO), None);
    }
}
