//! A process that can not be mistaken for another one, whatever becomes of its number.

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::PeerPidfd},
};
use std::{
    fs, io,
    os::fd::{AsFd, FromRawFd as _, OwnedFd},
};

/// A process, by its number and by a descriptor that is of this process for ever (pidfd_open(2)): a number is somebody
/// else's soon after its process has ended.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    user: u32,
    handle: OwnedFd,
}

impl Process {
    /// The process at the other end of a UNIX socket, which is `pid` and `user` by `SO_PEERCRED`.
    ///
    /// # Errors
    /// Where it has ended, or is none of this PID namespace.
    pub fn of_peer(stream: &impl AsFd, pid: i32, user: u32) -> io::Result<Self> {
        match getsockopt(stream, PeerPidfd) {
            Ok(handle) => Ok(Self { pid, user, handle }),
            // Before Linux 6.5. It may be another process by now, but not another user's: see `is_alive`.
            Err(Errno::ENOPROTOOPT) => Self::open(pid, user),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The process that has this number now.
    ///
    /// # Errors
    /// As [`Process::of_peer`].
    pub fn open(pid: i32, user: u32) -> io::Result<Self> {
        // SAFETY: a number goes in, and a descriptor or an error comes out.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let opened = i32::try_from(Errno::result(opened)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just opened it for this process, and nobody else knows of it.
        Ok(Self { pid, user, handle: unsafe { OwnedFd::from_raw_fd(opened) } })
    }

    /// Its number, which is its own as long as [`Process::is_alive`] says so.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The user who asked.
    pub fn user(&self) -> u32 {
        self.user
    }

    /// Whether it has not ended, and is still of the user who asked.
    pub fn is_alive(&self) -> bool {
        // The user first: what it says is of this process if that is there afterwards.
        self.is_of_user() && !self.has_ended()
    }

    /// A descriptor of a process is readable when the process has ended.
    fn has_ended(&self) -> bool {
        let mut ended = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::ZERO) != Ok(0)
    }

    /// `Uid:` has the real, effective, saved and file system's user (proc_pid_status(5)).
    fn is_of_user(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        users.split_whitespace().any(|user| user.parse() == Ok(self.user))
    }
}
