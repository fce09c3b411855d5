//! UDP requests and an echo server.

use super::{Deadline, GLANCE, Server, readable};
use crate::{Netns, Result};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The largest UDP payload.
const LARGEST: usize = 65_535;

/// A server that sends every datagram back to its sender.
///
/// # Errors
/// [`crate::Error::Refused`] if the address is not the namespace's, or taken.
pub fn udp_echo(netns: &Netns, address: SocketAddr) -> Result<Server> {
    let opened = netns.run(|| {
        let socket = UdpSocket::bind(address)?;
        // What made the socket readable may turn out to have a wrong checksum, and be gone.
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    })?;
    let (socket, address) = opened.map_err(|reason| netns.refused(&format!("listen on UDP {address}"), reason))?;
    Server::start(netns, address, move |stop| serve(&socket, stop))
}

/// Sends a datagram and returns the first answer of that address.
///
/// # Errors
/// [`crate::Error::Timeout`] without an answer, [`crate::Error::Refused`] if the datagram can not be sent.
pub fn udp_request(netns: &Netns, to: SocketAddr, payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
    let deadline = Deadline::new(timeout);
    let answer = netns.run(|| request(to, payload, deadline))?;
    answer.map_err(|reason| deadline.error(netns, format!("get a UDP answer from {to}"), reason))
}

fn serve(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST];
    while !stop.load(Ordering::Acquire) {
        if !readable(socket, GLANCE).unwrap_or(false) {
            continue;
        }
        // What fails concerns one sender; the others are served on.
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let _ = buffer.get(..len).map(|payload| socket.send_to(payload, from));
    }
}

fn request(to: SocketAddr, payload: &[u8], deadline: Deadline) -> io::Result<Vec<u8>> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_write_timeout(Some(deadline.left()?))?;
    socket.send(payload)?;
    socket.set_read_timeout(Some(deadline.left()?))?;
    let mut buffer = vec![0; LARGEST];
    let len = socket.recv(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}
