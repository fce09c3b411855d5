//! A loaded BPF object: its parts, and the pins of its links.

use crate::ProgramError;
use aya::{
    Ebpf,
    maps::{Map, MapError},
    programs::{
        Program, ProgramError as AttachError,
        links::{FdLink, PinnedLink},
    },
};
use nix::errno::Errno;
use std::{
    error::Error,
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The network namespace, by number: interface indices mean something within it only.
pub(crate) fn namespace() -> Result<u64, ProgramError> {
    const NAMESPACE: &str = "/proc/thread-self/ns/net";
    Ok(fs::metadata(NAMESPACE).map_err(ProgramError::file(NAMESPACE))?.ino())
}

/// A link that a predecessor has pinned.
pub(crate) fn pinned(path: &Path) -> Option<FdLink> {
    PinnedLink::from_pin(path).ok().map(FdLink::from)
}

/// Pins a new link.
pub(crate) fn pin(link: impl TryInto<FdLink>, path: &Path) -> Result<PinnedLink, ProgramError> {
    let link = link.try_into().map_err(|_| ProgramError::OldKernel)?;
    link.pin(path).map_err(|error| ProgramError::Pin { path: path.into(), reason: error.to_string() })
}

/// An adopted link is pinned already; only the handle is made anew.
pub(crate) fn keep(link: impl TryInto<FdLink>, path: &Path) -> Result<PinnedLink, ProgramError> {
    drop(link.try_into());
    PinnedLink::from_pin(path).map_err(|error| ProgramError::Pin { path: path.into(), reason: error.to_string() })
}

/// How long the kernel may take to end a link whose file has been removed.
const ENDING: Duration = Duration::from_secs(2);

/// Attaches a program as soon as its place is free. A link whose file is removed ends a moment later, when the kernel comes to it, and
/// until then a program can not be where it still is.
pub(crate) fn attach_when_free<T>(mut attach: impl FnMut() -> Result<T, AttachError>) -> Result<T, AttachError> {
    let until = Instant::now() + ENDING;
    loop {
        match attach() {
            // There is one already.
            Err(error) if matches!(errno_of(&error), Some(Errno::EEXIST | Errno::EBUSY)) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

/// How often a program is loaded that signals interrupt.
const ATTEMPTS: u32 = 10;

/// Loads or tries a program. The kernel gives up its verification, and runs, when a signal comes for the thread, even one that only
/// stops the process for a while: then it is asked again.
pub(crate) fn uninterrupted<T>(mut work: impl FnMut() -> Result<T, AttachError>) -> Result<T, AttachError> {
    let interrupted = |error: &AttachError| matches!(errno_of(error), Some(Errno::EAGAIN | Errno::EINTR));
    for _ in 1..ATTEMPTS {
        match work() {
            Err(error) if interrupted(&error) => {}
            done => return done,
        }
    }
    work()
}

/// What the kernel has said.
fn errno_of(error: &(dyn Error + 'static)) -> Option<Errno> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    own.map(Errno::from_raw).or_else(|| errno_of(error.source()?))
}

pub(crate) fn remove_if_there(path: &Path) -> Result<(), ProgramError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(ProgramError::File { path: path.into(), source }),
        _ => Ok(()),
    }
}

pub(crate) fn program_of<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, ProgramError> {
    object.program_mut(name).ok_or(ProgramError::Incomplete(name))
}

pub(crate) fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, ProgramError> {
    object.take_map(name).ok_or(ProgramError::Incomplete(name))
}

pub(crate) fn access(name: &'static str) -> impl FnOnce(MapError) -> ProgramError {
    move |source| ProgramError::MapAccess { name, source }
}

pub(crate) fn fd(map: &Map) -> Result<BorrowedFd<'_>, ProgramError> {
    match map {
        Map::Array(data) => Ok(data.fd().as_fd()),
        _ => Err(ProgramError::Incomplete("array map")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    fn refused(errno: Errno) -> Result<(), AttachError> {
        Err(SyscallError { call: "bpf", io_error: errno.into() }.into())
    }

    #[test]
    fn what_a_signal_interrupts_is_done_again_and_nothing_else_is() {
        for (errnos, attempts, succeeds) in [
            (&[Errno::EAGAIN, Errno::EINTR][..], 3, true),
            (&[Errno::EAGAIN, Errno::EPERM], 2, false),
            (&[Errno::EAGAIN; 20], ATTEMPTS, false),
        ] {
            let mut count = 0;
            let done = uninterrupted(|| {
                count += 1;
                errnos.get(count as usize - 1).map_or(Ok(()), |errno| refused(*errno))
            });
            assert_eq!((count, done.is_ok()), (attempts, succeeds), "{errnos:?}");
        }
    }
}
