//! Where pins live: a BPF file system that outlives this process.
//!
//! A switch may be started with `ip netns exec`, which gives the process a mount namespace of its own without
//! `/sys/fs/bpf`. A file system mounted there would vanish with the process, and all links with it: forwarding would stop
//! when the switch is killed. So the pins are put where the outermost process that this one may look at has them: the
//! first process of the system, or else the eldest ancestor, or else the eldest process of all.

use crate::ProgramError;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// A directory for pins. It is reached through an open file, because the process whose view of the file system led there
/// may end.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _file: File,
}

impl Directory {
    /// The directory of the switch `name` below the BPF file system, made with mode 0700. The file system is mounted
    /// where it is missing.
    ///
    /// # Errors
    /// [`ProgramError::NoBpffs`] where there is none and it can not be mounted, for want of privileges most often.
    pub fn make(name: &str) -> Result<Self, ProgramError> {
        let root = holding(name).or_else(find).map_or_else(mount_it, Ok).map_err(ProgramError::NoBpffs)?;
        let path = root.join("flowlane").join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(ProgramError::file(&path))?;
        Self::open(&path).map_err(ProgramError::file(&path))
    }

    /// The directory of the switch `name`, if there is one.
    pub fn existing(name: &str) -> Option<Self> {
        Self::open(&holding(name)?.join("flowlane").join(name)).ok()
    }

    /// Removes the directory of the switch `name` with all that is pinned in it, if there is one.
    ///
    /// # Errors
    /// [`ProgramError::File`] where it is there and can not be removed.
    pub fn remove(name: &str) -> Result<(), ProgramError> {
        let Some(root) = holding(name) else { return Ok(()) };
        let directory = root.join("flowlane").join(name);
        match fs::remove_dir_all(&directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ProgramError::file(&directory)(source)),
            _ => Ok(()),
        }
    }

    /// The path of the directory, good for as long as this value lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(path)?;
        Ok(Self { path: PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())), _file: file })
    }
}

/// The BPF file system that outlives this process, or else the one that it sees itself.
pub fn find() -> Option<PathBuf> {
    let outer = outermost().map(|process| process.join("root").join(MOUNT_POINT.trim_start_matches('/')));
    outer.into_iter().chain([PathBuf::from(MOUNT_POINT)]).find(|path| is_bpffs(path))
}

/// The BPF file system that has a directory of this name. Who made it may have had other processes to look at than there are
/// now, so all that can be seen are looked at.
fn holding(name: &str) -> Option<PathBuf> {
    let views = processes().map(|process| process.join("root").join(MOUNT_POINT.trim_start_matches('/')));
    let mut roots = [PathBuf::from(MOUNT_POINT)].into_iter().chain(views);
    roots.find(|root| root.join("flowlane").join(name).exists() && is_bpffs(root))
}

/// Whether pins outlive this process: they are not in a mount namespace that ends with it.
pub fn outlives_this_process() -> bool {
    let Some(process) = outermost() else { return false };
    let (outer, own) = (fs::read_link(process.join("ns/mnt")), fs::read_link("/proc/self/ns/mnt"));
    let shared = matches!((outer, own), (Ok(outer), Ok(own)) if outer == own);
    shared || is_bpffs(&process.join("root").join(MOUNT_POINT.trim_start_matches('/')))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// The outermost process whose mount namespace may be entered.
fn outermost() -> Option<PathBuf> {
    processes().find(|process| may_enter(process))
}

/// The first process, this one's ancestors, the eldest first, and then all others.
fn processes() -> impl Iterator<Item = PathBuf> {
    let mut ancestors = Vec::new();
    let mut pid = std::process::id();
    while pid > 1 && ancestors.len() < 64 {
        let Some(parent) = parent_of(pid) else { break };
        ancestors.push(parent);
        pid = parent;
    }
    let pids = [1].into_iter().chain(ancestors.into_iter().rev()).chain(all_processes());
    pids.map(|pid| PathBuf::from(format!("/proc/{pid}")))
}

/// Whether a process is one of userspace's, and shows its root.
fn may_enter(process: &Path) -> bool {
    fs::read_link(process.join("exe")).is_ok() && fs::metadata(process.join("root/.")).is_ok()
}

fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Mounts the file system, in the outermost namespace that can be had. A thread of its own changes the namespace, which
/// asks for a thread that shares its view of the file system with no other.
fn mount_it() -> io::Result<PathBuf> {
    let mounted = std::thread::spawn(|| -> io::Result<()> {
        if let Some(namespace) = outermost().and_then(|process| File::open(process.join("ns/mnt")).ok()) {
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
        }
        Ok(mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?)
    });
    mounted.join().map_err(|_| io::Error::other("the mounting thread died"))??;
    find().ok_or_else(|| io::Error::other("mounted, but not to be seen"))
}
