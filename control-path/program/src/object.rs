//! A loaded BPF object: its parts, and the pins of its links.

use crate::ProgramError;
use aya::{
    Ebpf,
    maps::{Map, MapError},
    programs::{
        Program,
        links::{FdLink, PinnedLink},
    },
};
use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
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
