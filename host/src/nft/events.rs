//! New destinations, as the kernel's NFLOG tells of them: linux/netfilter/nfnetlink_log.h.

use super::{MARK_BASE, MARK_MASK};
use flowlane_tables::RunKey;
use netlink_packet_core::NlasIterator;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket},
};
use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// The groups that are tried, in this order: each network namespace has numbers of its own.
const GROUPS: std::ops::Range<u16> = 0xf100..0xf110;

/// `NFNL_SUBSYS_ULOG`, in the upper octet of a message's type.
const ULOG: u16 = 4 << 8;
const PACKET: u16 = ULOG;
const CONFIG: u16 = ULOG | 1;
const ERROR: u16 = 2;
const REQUEST_ACK: u16 = 1 | 4;
/// Netlink's header and `nfgenmsg`.
const HEADERS: usize = 16 + 4;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_THRESHOLD: u16 = 5;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const COPIED_OCTETS: u32 = 64;

const PACKET_MARK: u16 = 2;
const PACKET_OUT: u16 = 5;
const PACKET_PAYLOAD: u16 = 9;

const DATAGRAM_MAX: usize = 8_192;

/// Tells of destinations without a flow, each about once a second for as long as packets are sent there. Some may be lost
/// where there are very many: they are told of again.
#[derive(Debug)]
pub struct NewDestinations {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl NewDestinations {
    /// Listens in this thread's network namespace. The second is the number for the rules.
    pub(super) fn open() -> io::Result<(Self, u16)> {
        let kind = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, kind, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let events = Self { socket, buffer: vec![0; DATAGRAM_MAX] };
        for group in GROUPS {
            match events.listen(group) {
                Ok(()) => return Ok((events, group)),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Reads what has come, and does not wait; at most so many. Readable again when there is more.
    ///
    /// # Errors
    /// What recv(2) fails with.
    pub fn drain(&mut self, most: usize, mut each: impl FnMut(RunKey)) -> io::Result<()> {
        for _ in 0..most {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    messages(self.buffer.get(..length).unwrap_or_default()).filter_map(told).for_each(&mut each)
                }
                Err(Errno::EAGAIN) => break,
                // Some were lost; their destinations are told of again.
                Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn listen(&self, group: u16) -> Result<(), Errno> {
        self.configure(group, &[attribute(CONFIG_COMMAND, &[BIND])])?;
        let [a, b, c, d] = COPIED_OCTETS.to_be_bytes();
        let mode = attribute(CONFIG_MODE, &[a, b, c, d, COPY_PACKET, 0]);
        // Each is sent at once, none waits for more.
        self.configure(group, &[mode, attribute(CONFIG_THRESHOLD, &1u32.to_be_bytes())])
    }

    fn configure(&self, group: u16, attributes: &[Vec<u8>]) -> Result<(), Errno> {
        let attributes = attributes.concat();
        let mut message = Vec::with_capacity(HEADERS + attributes.len());
        message.extend((HEADERS as u32 + attributes.len() as u32).to_ne_bytes());
        message.extend(CONFIG.to_ne_bytes());
        message.extend(REQUEST_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([0, 0]);
        message.extend(group.to_be_bytes());
        message.extend(attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        self.acknowledged()
    }

    /// Waits for the kernel's answer; packets may come before it.
    fn acknowledged(&self) -> Result<(), Errno> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let answer = messages(buffer.get(..length).unwrap_or_default()).find(|(kind, _)| *kind == ERROR);
            if let Some((_, body)) = answer {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) };
            }
        }
    }
}

impl AsFd for NewDestinations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for NewDestinations {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Type and value, padded to four octets: netlink(7).
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = (4 + value.len() as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The messages of a datagram: type, and what follows netlink's header.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
        let message = datagram.get(..length)?;
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, message.get(16..)?))
    })
}

/// Where a logged packet goes, and whose it is.
fn told((kind, body): (u16, &[u8])) -> Option<RunKey> {
    let mut key = RunKey::default();
    let attributes = NlasIterator::new(body.get(4..).filter(|_| kind == PACKET)?);
    for attribute in attributes.map_while(Result::ok) {
        let number = || attribute.value().first_chunk().map(|octets| u32::from_be_bytes(*octets));
        match attribute.kind() {
            PACKET_MARK => key.run = number().filter(|mark| mark & MARK_MASK == MARK_BASE)? & !MARK_MASK,
            PACKET_OUT => key.ifindex = number()?,
            PACKET_PAYLOAD => key.destination = destination(attribute.value())?,
            _ => {}
        }
    }
    (key.run != 0 && key.ifindex != 0 && key.destination != [0; 16]).then_some(key)
}

/// The IP destination of an Ethernet frame.
fn destination(frame: &[u8]) -> Option<[u8; 16]> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let octets: &[u8; 4] = frame.get(14 + 16..)?.first_chunk()?;
            Some(Ipv4Addr::from(*octets).to_ipv6_mapped().octets())
        }
        [0x86, 0xdd] => frame.get(14 + 24..)?.first_chunk().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_datagram_is_read_without_a_panic(datagram: Vec<u8>, body: Vec<u8>) {
            messages(&datagram).filter_map(told).for_each(drop);
            told((PACKET, &body));
        }

        #[test]
        fn a_logged_packet_tells_run_interface_and_destination(run in 1u32..=!MARK_MASK, ifindex in 1u32.., ip: [u8; 4]) {
            let mut frame = [0; 34];
            frame[12] = 8;
            frame[30..].copy_from_slice(&ip);
            let mark = attribute(PACKET_MARK, &(MARK_BASE | run).to_be_bytes());
            let body = [vec![0; 4], mark, attribute(PACKET_OUT, &ifindex.to_be_bytes()), attribute(PACKET_PAYLOAD, &frame)];
            let destination = Ipv4Addr::from(ip).to_ipv6_mapped().octets();
            prop_assert_eq!(told((PACKET, &body.concat())), Some(RunKey { destination, ifindex, run }));
        }
    }
}
