//! Real traffic from real sockets: ICMP echo, UDP and TCP between namespaces, each call with a deadline.

mod ping;
mod tcp;
mod udp;

use crate::{Error, Netns, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
pub use ping::{PingReport, ping, ping_with_class};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
pub use tcp::{Transfer, tcp_echo, tcp_request, tcp_transfer};
pub use udp::{udp_echo, udp_request};

/// How often a server looks whether it shall stop.
const GLANCE: Duration = Duration::from_millis(20);

/// The longest time that any operation may take; a sum with it can not overflow.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A server inside a namespace; it ends when dropped. While it runs, its socket keeps the namespace alive.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens, with the port that the kernel chose if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts `serve` in a thread; it must return soon after the flag is set.
    fn start(netns: &Netns, address: SocketAddr, serve: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = thread::Builder::new().name("server".into()).spawn({
            let stop = Arc::clone(&stop);
            move || serve(&stop)
        });
        let worker = worker.map_err(|reason| netns.refused("start a server thread", reason))?;
        Ok(Self { address, stop, worker: Some(worker) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(worker) = self.worker.take() {
            // A server that panicked has said so on the standard error output already.
            let _ = worker.join();
        }
    }
}

/// When an operation must be done, and what to say if it is not.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        Self { at: Instant::now() + after.min(LONGEST), after }
    }

    /// What is left; never zero, which sockets take for "no limit".
    fn left(&self) -> io::Result<Duration> {
        match self.at.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left.max(Duration::from_millis(1))),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The error for an operation that failed, perhaps for want of time.
    fn error(&self, netns: &Netns, action: String, reason: io::Error) -> Error {
        match reason.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                Error::Timeout { netns: netns.label().to_owned(), action, after: self.after }
            }
            _ => netns.refused(&action, reason),
        }
    }
}

/// Whether `socket` gets readable within the time.
fn readable(socket: &impl AsFd, within: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(within.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
