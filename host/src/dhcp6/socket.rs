//! The socket that questions are asked by, and answers come to.

use super::link::{Interface, LinkError, PAYLOAD_MAX};
use flowlane_ports::{PortError, control::Dhcp6Socket};
use flowlane_wire::Mac;
use std::{
    io,
    net::UdpSocket,
    os::fd::AsRawFd,
    task::{Context, Poll},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Where DHCPv6 messages leave and arrive.
pub(super) enum Socket {
    /// UDP port 546.
    Udp(AsyncFd<UdpSocket>),
    /// The frames themselves, where the port can not be had.
    Packet(Box<AsyncFd<Dhcp6Socket>>),
}

/// All_DHCP_Relay_Agents_and_Servers as an Ethernet address, RFC 2464 section 7.
const ALL_SERVERS: Mac = Mac([0x33, 0x33, 0, 1, 0, 2]);

impl Socket {
    /// Takes the port, or does without, and says why.
    pub(super) fn open(interface: &Interface) -> Result<(Self, Option<LinkError>), LinkError> {
        match interface.try_bind() {
            Ok(socket) => Ok((Self::Udp(readable(interface, socket)?), None)),
            Err(error @ (LinkError::PortTaken(_) | LinkError::NoLinkLocal(_))) => {
                let failed = |error: PortError| interface.failed(io::Error::other(error));
                let socket = Dhcp6Socket::open(interface.index).map_err(failed)?;
                Ok((Self::Packet(Box::new(readable(interface, socket)?)), Some(error)))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn send(&self, interface: &Interface, payload: &[u8]) -> Result<(), LinkError> {
        match self {
            Self::Udp(socket) => interface.try_send(socket.get_ref(), payload),
            Self::Packet(socket) => {
                let sent = socket.get_ref().ask(ALL_SERVERS, payload);
                sent.map_err(|error| interface.failed(io::Error::other(error)))
            }
        }
    }

    /// The next message that has arrived.
    pub(super) fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = vec![0; PAYLOAD_MAX];
                loop {
                    match socket.get_ref().recv_from(&mut buffer) {
                        Ok((len, _)) => {
                            buffer.truncate(len);
                            return Some(buffer);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                        // Of an earlier datagram (ICMPv6).
                        Err(_) => {}
                    }
                }
            }
            Self::Packet(socket) => loop {
                match socket.get_mut().recv() {
                    Ok(Some(datagram)) if datagram.answer => return Some(datagram.payload),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return None,
                }
            },
        }
    }

    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Udp(socket) => poll(socket, context),
            Self::Packet(socket) => poll(socket, context),
        }
    }
}

/// Ready when something has arrived. That is cleared at once: what comes after it is announced again.
fn poll<T: AsRawFd>(socket: &AsyncFd<T>, context: &mut Context<'_>) -> Poll<()> {
    socket.poll_read_ready(context).map(|ready| {
        if let Ok(mut guard) = ready {
            guard.clear_ready();
        }
    })
}

fn readable<T: AsRawFd>(interface: &Interface, socket: T) -> Result<AsyncFd<T>, LinkError> {
    #[expect(deprecated, reason = "a socket owns its descriptor, and it is always the same one")]
    AsyncFd::with_interest(socket, Interest::READABLE).map_err(|error| interface.failed(error))
}
