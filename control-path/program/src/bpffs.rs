//! Where pins live: a BPF file system that outlives this process.
//!
//! A switch may be started with `ip netns exec`, which gives the process a mount namespace of its own without
//! `/sys/fs/bpf`. A file system mounted there would vanish with the process, and all links with it: forwarding would stop
//! when the switch is killed. So the pins are always put into the file system of the first process's namespace.

use crate::ProgramError;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const MOUNT_POINT: &str = "/sys/fs/bpf";
const FIRST_PROCESS: &str = "/proc/1/ns/mnt";

/// A directory for pins below the BPF file system, made with mode 0700. The file system is mounted where it is missing.
///
/// # Errors
/// [`ProgramError::NoBpffs`] where there is none and it can not be mounted, for want of privileges most often.
pub fn directory(name: &str) -> Result<PathBuf, ProgramError> {
    let root = find().map_or_else(mount_it, Ok).map_err(ProgramError::NoBpffs)?;
    let directory = root.join("flowlane").join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(ProgramError::file(&directory))?;
    Ok(directory)
}

/// The BPF file system as the first process sees it, or else as this one does.
pub fn find() -> Option<PathBuf> {
    let first = Path::new("/proc/1/root").join(&MOUNT_POINT[1..]);
    [first, PathBuf::from(MOUNT_POINT)].into_iter().find(|path| is_bpffs(path))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts the file system in the first process's namespace. A thread of its own changes the namespace, which asks for a
/// thread that shares no file system state with others.
fn mount_it() -> io::Result<PathBuf> {
    let mounted = std::thread::spawn(|| -> io::Result<()> {
        if let Ok(namespace) = File::open(FIRST_PROCESS) {
            nix::sched::unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
        }
        Ok(mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?)
    });
    mounted.join().map_err(|_| io::Error::other("the mounting thread died"))??;
    find().ok_or_else(|| io::Error::other("mounted, but not to be seen"))
}
