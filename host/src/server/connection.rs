//! One connection: a line of JSON with at most one file descriptor, and the answer.
//!
//! A descriptor may be of anything, and its sender may decide how long it takes to look at it or to close it: a file system
//! of his own (FUSE), a socket that lingers. So nothing is done with it but to ask for a socket's cookie, and it is closed
//! by a thread of its own; so is the connection itself, for what is still in it is closed with it.

use super::invalid;
use crate::{command::Peer, policy::Caller, process::Process};
use flowlane_client::protocol::{Answer, Problem, ProblemCode, Request};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sockopt::PeerCredentials},
};
use std::{
    io::{self, IoSliceMut, Read as _, Write as _},
    net::Shutdown,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
    sync::oneshot,
    time::sleep,
};

/// The longest request in octets.
pub const REQUEST_MAX: usize = 64 << 10;

/// How long one who is refused may take to say what nobody listens to.
const REFUSED: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody is there.
const GONE: Duration = Duration::from_millis(20);

pub struct Connection {
    stream: UnixStream,
    passed: Vec<Passed>,
}

/// A descriptor that came with a request.
struct Passed {
    /// The socket's cookie; nothing where it is no socket.
    cookie: Option<u64>,
    closed: oneshot::Receiver<()>,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, passed: Vec::new() }
    }

    /// What is asked.
    pub async fn request(&mut self) -> Result<Request, Problem> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let Self { stream, passed } = self;
            let more = stream.async_io(Interest::READABLE, || receive(stream, &mut line, passed)).await;
            match more {
                Ok(0) | Err(_) => return Err(invalid("the request does not end")),
                Ok(_) if self.passed.len() > 1 => return Err(invalid("more than one file descriptor came")),
                Ok(_) if line.len() > REQUEST_MAX => {
                    return Err(invalid(format!("the request is longer than {REQUEST_MAX} octets")));
                }
                Ok(_) => {}
            }
        }
        serde_json::from_slice(&line).map_err(|error| invalid(format!("not understood: {error}")))
    }

    /// The number of the socket whose descriptor came with the request.
    pub fn cookie(&self) -> Result<u64, Problem> {
        let passed = self.passed.first().ok_or_else(|| invalid("no file descriptor came with the request"))?;
        passed.cookie.ok_or_else(|| invalid("the file descriptor that came with the request is of no socket"))
    }

    /// The process at the other end, which is the caller's.
    pub fn process(&self, caller: &Caller) -> Result<Process, Problem> {
        let Peer { pid, user } = caller.peer;
        Process::of_peer(&self.stream, pid, user).map_err(|_| {
            let message = format!("process {pid} has ended, or is in a PID namespace outside of the daemon's");
            Problem { code: ProblemCode::System, message }
        })
    }

    /// Returns when there is nobody at the other end any more.
    pub async fn gone(&self) {
        let is_there = || poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::empty())], PollTimeout::ZERO) == Ok(0);
        while is_there() {
            sleep(GONE).await;
        }
    }

    /// Closes the connection. Returns when all that was passed is closed too, however long that takes: meanwhile it counts
    /// as one of the user's connections.
    pub async fn close(self) {
        let Self { stream, passed } = self;
        // An error is the end of the thread as well.
        let _ = elsewhere(move || drop(stream)).await;
        for Passed { closed, .. } in passed {
            let _ = closed.await;
        }
    }

    pub async fn answer(&mut self, answer: &Answer) {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        // Who has gone does not want it.
        let _ = self.stream.write_all(&line).await;
    }

    /// Waits for the end of the connection. A second request ends it too: there is one for each connection.
    pub async fn ended(&mut self) {
        let _ = self.stream.read(&mut [0]).await;
    }
}

/// Answers one who is not listened to. What he says is read, for an end of the connection with something unread in it would
/// take the answer away; descriptors in it are dropped unopened. Takes its time.
pub fn refuse(mut stream: std::os::unix::net::UnixStream, problem: Problem) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer::Error(problem))?;
    line.push(b'\n');
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(REFUSED))?;
    stream.set_read_timeout(Some(REFUSED))?;
    stream.write_all(&line)?;
    stream.shutdown(Shutdown::Write)?;
    let start = Instant::now();
    while stream.read(&mut [0; 4_096])? > 0 && start.elapsed() < REFUSED {}
    Ok(())
}

/// Who is at the other end, as the kernel noted it when he connected.
pub fn caller(stream: &UnixStream) -> io::Result<Caller> {
    let peer = getsockopt(stream, PeerCredentials)?;
    let mut groups = peer_groups(stream)?;
    groups.push(peer.gid());
    Ok(Caller { peer: Peer { pid: peer.pid(), user: peer.uid() }, groups })
}

/// The supplementary groups of the peer (`SO_PEERGROUPS`, Linux 4.13).
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    // The most that a process has: NGROUPS_MAX.
    let mut groups = vec![0; 65_536];
    let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets to `groups`, which is so long, and says in `length` how many; any
    // octets make a valid `gid_t`.
    let done = unsafe {
        let groups = groups.as_mut_ptr().cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups, &raw mut length)
    };
    Errno::result(done)?;
    groups.truncate(length as usize / size_of::<libc::gid_t>());
    Ok(groups)
}

/// Reads what is there. How many octets; 0 is the end.
fn receive(stream: &UnixStream, line: &mut Vec<u8>, passed: &mut Vec<Passed>) -> io::Result<usize> {
    let mut octets = [0; 4_096];
    let mut parts = [IoSliceMut::new(&mut octets)];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    // Descriptors for which there is no room are closed by the kernel, and the rest comes.
    for message in received.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            // SAFETY: the kernel has just opened them for this process, and nobody else knows of them.
            passed.extend(descriptors.into_iter().map(|fd| Passed::new(unsafe { OwnedFd::from_raw_fd(fd) })));
        }
    }
    let count = received.bytes;
    line.extend_from_slice(octets.get(..count).unwrap_or_default());
    Ok(count)
}

impl Passed {
    fn new(descriptor: OwnedFd) -> Self {
        Self { cookie: cookie(&descriptor), closed: elsewhere(move || drop(descriptor)) }
    }
}

/// The number of a socket, which no other socket of this boot has. Asks nobody but the kernel, whatever the descriptor is of.
fn cookie(descriptor: &OwnedFd) -> Option<u64> {
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    let value = (&raw mut cookie).cast();
    // SAFETY: the kernel writes at most `length` octets to `cookie`, which has as many.
    let done =
        unsafe { libc::getsockopt(descriptor.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, value, &raw mut length) };
    (done == 0).then_some(cookie)
}

/// Does what may take any time by a thread of its own, which nobody waits for at the end of the daemon. Where there can be
/// none, it is not done.
pub fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (done, awaited) = oneshot::channel();
    // Who waited may have gone.
    let work = move || drop(done.send(work()));
    if let Err(error) = thread::Builder::new().name("elsewhere".into()).spawn(work) {
        tracing::warn!(%error, "a thread could not be started");
    }
    awaited
}
