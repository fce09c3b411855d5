//! TCP: an echo server, requests, and bulk transfers whose every octet is checked.

use super::{Deadline, GLANCE, Server, readable};
use crate::{Error, Netns, Result};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Length of the transfers' pattern: a prime, so that data lost, doubled or swapped by whole segments is noticed.
const PATTERN: usize = 262_139;

/// A transfer that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// How many octets.
    pub bytes: u64,
    /// From the start of the connection to the last octet.
    pub elapsed: Duration,
}

impl Transfer {
    /// Octets of payload in a second, times eight.
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// A server that sends everything back, on any number of connections.
///
/// # Errors
/// [`Error::Refused`] if the address is not the namespace's, or taken.
pub fn tcp_echo(netns: &Netns, address: SocketAddr) -> Result<Server> {
    let (listener, address) = listen(netns, address)?;
    Server::start(netns, address, move |stop| serve(&listener, stop))
}

/// Connects, sends `payload`, ends the sending side, and returns everything that the server sends.
///
/// # Errors
/// [`Error::Timeout`], or [`Error::Refused`] if the connection fails.
pub fn tcp_request(netns: &Netns, to: SocketAddr, payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
    let deadline = Deadline::new(timeout);
    let answer = netns.run(|| request(to, payload, deadline))?;
    answer.map_err(|reason| deadline.error(netns, format!("get a TCP answer from {to}"), reason))
}

/// Sends `bytes` octets from a socket in `from` to one in `to`, which listens on `address` just for this, and checks
/// every octet there. Port 0 takes any free port.
///
/// # Errors
/// [`Error::Damaged`] if the octets arrive changed, in another order or not all; [`Error::Timeout`];
/// [`Error::Refused`] if one side can not listen or connect.
pub fn tcp_transfer(from: &Netns, to: &Netns, address: SocketAddr, bytes: u64, timeout: Duration) -> Result<Transfer> {
    let deadline = Deadline::new(timeout);
    let (listener, address) = listen(to, address)?;
    let start = Instant::now();
    let sending = |reason| deadline.error(from, format!("send {bytes} octets by TCP to {address}"), reason);
    let receiving = |reason| deadline.error(to, format!("receive {bytes} octets by TCP on {address}"), reason);
    let sender = from.run(|| TcpStream::connect_timeout(&address, deadline.left()?))?.map_err(sending)?;
    let receiver = accept(&listener, deadline).map_err(receiving)?;
    let (sent, received) = thread::scope(|scope| {
        let sent = scope.spawn(|| send(sender, bytes, deadline));
        let received = receive(receiver, bytes, deadline);
        (sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), received)
    });
    // Damage first: it is why the sender, whose connection was closed, failed too.
    if let Some(offset) = received.map_err(receiving)? {
        return Err(Error::Damaged { netns: to.label().to_owned(), peer: from.label().to_owned(), offset });
    }
    sent.map_err(sending)?;
    Ok(Transfer { bytes, elapsed: start.elapsed() })
}

fn listen(netns: &Netns, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let opened = netns.run(|| {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    })?;
    opened.map_err(|reason| netns.refused(&format!("listen on TCP {address}"), reason))
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    thread::scope(|scope| {
        while !stop.load(Ordering::Acquire) {
            if readable(listener, GLANCE).unwrap_or(false) {
                match listener.accept() {
                    // A connection that fails concerns its client alone.
                    Ok((stream, _)) => drop(scope.spawn(move || echo(stream, stop))),
                    // Out of descriptors, perhaps: the connection waits, and so do we.
                    Err(_) => thread::sleep(GLANCE),
                }
            }
        }
    });
}

/// Sends back what comes until the client ends, the server stops, or the client takes nothing any more.
fn echo(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GLANCE))?;
    stream.set_write_timeout(Some(GLANCE))?;
    while !stop.load(Ordering::Acquire) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => write_back(&mut stream, buffer.get(..len).unwrap_or_default(), stop)?,
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_back(stream: &mut TcpStream, mut data: &[u8], stop: &AtomicBool) -> io::Result<()> {
    while !data.is_empty() && !stop.load(Ordering::Acquire) {
        match stream.write(data) {
            Ok(len) => data = data.get(len..).unwrap_or_default(),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn request(to: SocketAddr, payload: &[u8], deadline: Deadline) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect_timeout(&to, deadline.left()?)?;
    stream.set_nodelay(true)?;
    thread::scope(|scope| {
        // Beside the reading: a server that answers at once would else wait for us, and we for it.
        let sent = scope.spawn(|| {
            write_all(&stream, payload, deadline)?;
            stream.shutdown(Shutdown::Write)
        });
        let answer = read_to_end(&stream, deadline);
        sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        answer
    })
}

fn accept(listener: &TcpListener, deadline: Deadline) -> io::Result<TcpStream> {
    loop {
        readable(listener, deadline.left()?)?;
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

// The stream is closed at the end: the receiver sees that no more comes.
#[allow(clippy::needless_pass_by_value)]
fn send(stream: TcpStream, bytes: u64, deadline: Deadline) -> io::Result<()> {
    let mut pattern = Pattern::new();
    let mut left = bytes;
    while left > 0 {
        let chunk = pattern.next(usize::try_from(left).unwrap_or(usize::MAX));
        write_all(&stream, chunk, deadline)?;
        left -= chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads to the end. Returns the position of the first octet that is wrong, missing or too much, if there is one.
fn receive(mut stream: TcpStream, bytes: u64, deadline: Deadline) -> io::Result<Option<u64>> {
    let mut pattern = Pattern::new();
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        stream.set_read_timeout(Some(deadline.left()?))?;
        let len = match stream.read(&mut buffer) {
            Ok(0) => return Ok((offset != bytes).then_some(offset)),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut data = buffer.get(..len).unwrap_or_default();
        while !data.is_empty() {
            let expected = pattern.next(data.len());
            let (part, rest) = data.split_at_checked(expected.len()).unwrap_or((data, &[]));
            if let Some(wrong) = first_difference(part, expected) {
                return Ok(Some(offset + wrong as u64));
            }
            offset += part.len() as u64;
            data = rest;
        }
        if offset > bytes {
            return Ok(Some(bytes));
        }
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}

fn write_all(mut stream: &TcpStream, mut data: &[u8], deadline: Deadline) -> io::Result<()> {
    while !data.is_empty() {
        stream.set_write_timeout(Some(deadline.left()?))?;
        match stream.write(data) {
            Ok(len) => data = data.get(len..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_to_end(mut stream: &TcpStream, deadline: Deadline) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        stream.set_read_timeout(Some(deadline.left()?))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(len) => answer.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An endless sequence of octets, the same for sender and receiver.
struct Pattern {
    block: Vec<u8>,
    at: usize,
}

impl Pattern {
    fn new() -> Self {
        // xorshift64, Marsaglia 2003.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = Vec::with_capacity(PATTERN);
        while block.len() < PATTERN {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        block.truncate(PATTERN);
        Self { block, at: 0 }
    }

    /// The next octets: at least one, at most `limit`.
    fn next(&mut self, limit: usize) -> &[u8] {
        let start = self.at;
        let end = start.saturating_add(limit).min(PATTERN);
        self.at = end % PATTERN;
        self.block.get(start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What the receiver says about `data`, which came instead of `bytes` octets of the pattern.
    fn verdict(data: &[u8], bytes: u64) -> Option<u64> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let deadline = Deadline::new(Duration::from_secs(5));
        thread::scope(|scope| {
            scope.spawn(|| {
                // The receiver closes at the first damage.
                let _ = write_all(&stream, data, deadline);
                let _ = stream.shutdown(Shutdown::Write);
            });
            receive(receiver, bytes, deadline).unwrap()
        })
    }

    fn octets(count: usize) -> Vec<u8> {
        let mut pattern = Pattern::new();
        let mut data = Vec::new();
        while data.len() < count {
            let chunk = pattern.next(count - data.len()).to_vec();
            data.extend_from_slice(&chunk);
        }
        data
    }

    #[test]
    fn octets_that_are_changed_missing_too_many_or_swapped_are_noticed() {
        let good = octets(600_000);
        assert_eq!(verdict(&good, 600_000), None);

        let mut changed = good.clone();
        changed[300_000] ^= 1;
        assert_eq!(verdict(&changed, 600_000), Some(300_000));
        assert_eq!(verdict(&good[..599_999], 600_000), Some(599_999));
        assert_eq!(verdict(&good, 599_999), Some(599_999));

        let mut swapped = good;
        let (a, b) = swapped.split_at_mut(1460);
        a.swap_with_slice(&mut b[..1460]);
        assert_eq!(verdict(&swapped, 600_000), Some(0));
    }
}
