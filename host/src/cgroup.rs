//! Control groups: how the processes of a run are told from all others (cgroups(7), version 2).
//!
//! A run's cgroup is a child of the one that its process is in, so that the limits and filters of all cgroups above stay in
//! force. A process is never moved out of its own cgroup for want of a place in it: who may arrange cgroups of his own could
//! escape from his limits that way.

mod emptied;
mod mounts;

pub use emptied::Emptied;

use crate::process::Process;
use nix::errno::Errno;
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

/// Why something could not be done with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No process whose view of the file system may be used has it mounted.
    #[error(
        "there is no cgroup v2 file system; mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none \
         /sys/fs/cgroup/unified"
    )]
    NoMount,
    /// The process has ended, or is none of this PID namespace.
    #[error("process {0} is not to be seen: it has ended, or is in a PID namespace outside of the daemon's")]
    NoProcess(i32),
    /// The process is in a cgroup that the mounted file system does not show.
    #[error("the cgroup {} of process {pid} is outside of what is mounted here; run the daemon outside of the container", cgroup.display())]
    Hidden {
        /// The process.
        pid: i32,
        /// Its cgroup, as `/proc/PID/cgroup` has it.
        cgroup: PathBuf,
    },
    /// The path is no directory of the cgroup v2 file system.
    #[error("{} is no cgroup v2 directory; /proc/PID/cgroup and `systemd-cgls` name those that there are", .0.display())]
    NoCgroup(PathBuf),
    /// A threaded cgroup (cgroups(7), "thread mode"): it has no children that hold processes.
    #[error("{} is threaded, so it can have no cgroup for a process in it; start the program from another cgroup", .0.display())]
    Threaded(PathBuf),
    /// This process sees a part of the hierarchy as if it were all of it (cgroup_namespaces(7)).
    #[error(
        "the daemon is in a cgroup namespace, where it can not know how deep a cgroup lies; start it outside of the \
         container, or the container with the host's cgroup namespace (--cgroupns=host)"
    )]
    Namespace,
    /// The cgroup was not made for a run, so it is not dissolved.
    #[error("{} was not made for a run", .0.display())]
    NotOurs(PathBuf),
    /// The system did not do it.
    #[error("can not {what} {}", path.display())]
    System {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
    level: u32,
}

/// What the names of cgroups that are made for runs begin with.
const PREFIX: &str = "flowlane-";

/// How often it is tried to move everybody out: a program may start others faster than they are moved.
const ROUNDS: usize = 100;

impl Cgroup {
    /// Makes a cgroup for a run, below the one that its process is in; beside it, if that is a run's own: the inner run
    /// decides, and runs within runs get no deeper and deeper. The process is not moved yet.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left behind then.
    pub fn make(pid: i32, run: u32) -> Result<Self, CgroupError> {
        let parent = of_process(pid)?.outside_of_runs()?;
        let made = parent.child(run)?;
        match read(&made.path.join("cgroup.type"))?.trim() {
            "domain" => Ok(made),
            _ => {
                fs::remove_dir(&made.path).map_err(system("remove", &made.path))?;
                Err(CgroupError::Threaded(parent.path))
            }
        }
    }

    /// A cgroup that is there: by its directory, also as it is named outside of the mount namespace of this process; or by
    /// its path in the hierarchy, as `/proc/PID/cgroup` has it.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let mounts = usable_mounts()?;
        let candidates = mounts.iter().flat_map(|mount| [mount.by_directory(path), mount.by_hierarchy(path)]);
        let plain = |path: &PathBuf| !path.components().any(|part| part == Component::ParentDir);
        let found = candidates.flatten().filter(|(path, _)| plain(path)).find(|(path, _)| is_cgroup(path));
        let (path, level) = found.ok_or_else(|| CgroupError::NoCgroup(path.to_owned()))?;
        Self::at(path, level)
    }

    /// Its number: the inode of its directory, which the kernel calls the id of the cgroup.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How deep it lies below the root of the kernel's hierarchy, which has level 0.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Its directory, good for [`Cgroup::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process into it, and nobody who has got its number since.
    ///
    /// # Errors
    /// [`CgroupError`]; [`CgroupError::NoProcess`] where it has ended, or has become another user's.
    pub fn admit_process(&self, process: &Process) -> Result<(), CgroupError> {
        let pid = process.pid();
        let before = of_process(pid)?;
        if !process.is_alive() {
            return Err(CgroupError::NoProcess(pid));
        }
        self.admit(pid)?;
        // As long as it has not ended, its number has been its own all the time.
        if process.is_alive() {
            return Ok(());
        }
        // Somebody else's number by now, or nobody's.
        let _ = before.admit(pid);
        Err(CgroupError::NoProcess(pid))
    }

    /// Moves the process that has this number now into it, with all its threads.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn admit(&self, pid: i32) -> Result<(), CgroupError> {
        // 0 would be this process.
        if pid <= 0 {
            return Err(CgroupError::NoProcess(pid));
        }
        let procs = self.path.join("cgroup.procs");
        match fs::write(&procs, pid.to_string()) {
            Err(error) if is(&error, Errno::ESRCH) => Err(CgroupError::NoProcess(pid)),
            done => done.map_err(system("move a process into", &self.path)),
        }
    }

    /// Whether no process is in it or in a cgroup below it. One that has been removed is empty.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        is_unpopulated(&self.path)
    }

    /// The processes in it and in those below it, as they are numbered here.
    pub fn processes(&self) -> Vec<i32> {
        processes_in(&self.path)
    }

    /// Moves who is left to the cgroup above, and removes it with the cgroups below it.
    ///
    /// # Errors
    /// [`CgroupError`]; who could not be moved is where he was.
    pub fn dissolve(self) -> Result<(), CgroupError> {
        let parent = self.path.parent().filter(|_| is_ours(&self.path));
        let parent = parent.ok_or_else(|| CgroupError::NotOurs(self.path.clone()))?;
        dissolve_into(&self.path, &parent.join("cgroup.procs"))
    }

    /// The nearest one above that was not made for a run.
    fn outside_of_runs(self) -> Result<Self, CgroupError> {
        match self.path.parent() {
            Some(parent) if is_ours(&self.path) => {
                Self::at(parent.to_owned(), self.level.saturating_sub(1))?.outside_of_runs()
            }
            _ => Ok(self),
        }
    }

    fn at(path: PathBuf, level: u32) -> Result<Self, CgroupError> {
        let id = fs::metadata(&path).map_err(system("look at", &path))?.ino();
        Ok(Self { path, id, level })
    }

    /// A child for a run. Run numbers are of a daemon, and a network namespace has one daemon: the name tells both. A
    /// directory of this name was left behind: it is used if nobody is in it, else another name is taken.
    fn child(&self, run: u32) -> Result<Self, CgroupError> {
        let network = "/proc/thread-self/ns/net";
        let namespace = fs::metadata(network).map_err(system("look at", network))?.ino();
        let name = format!("{}{run}", prefix_in(namespace));
        for suffix in [String::new()].into_iter().chain((2..=9).map(|number| format!(".{number}"))) {
            let path = self.path.join(format!("{name}{suffix}"));
            // Not there most often; and not to be removed where somebody is in it.
            let _ = fs::remove_dir(&path);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => return done.map_err(system("make", &path)).and_then(|()| Self::at(path, self.level + 1)),
            }
        }
        Err(system("make", &self.path.join(name))(Errno::EEXIST.into()))
    }
}

/// Makes sure that this process sees the hierarchy, for as long as it lives: where there is no mount of it in its own view, it
/// gets one. To be called while the process has one thread.
///
/// # Errors
/// [`CgroupError::NoMount`] where there is none, and none can be had.
pub fn make_visible() -> Result<(), CgroupError> {
    if mounts::own().is_empty() && mounts::mount_for_this_process().is_err() && mounts::all().is_empty() {
        return Err(CgroupError::NoMount);
    }
    Ok(())
}

/// Cgroups that were made for runs of a network namespace, by its inode, and that nobody is in: what is left of a daemon that
/// was killed before it could write of them, or of runs that are about to begin.
pub fn stray(namespace: u64) -> Vec<Cgroup> {
    let whole = usable_mounts().unwrap_or_default().into_iter().find(mounts::Mount::shows_its_root);
    let mut found = whole.map(|mount| made_in(&mount.point(), 0, &prefix_in(namespace))).unwrap_or_default();
    found.retain(|cgroup| cgroup.is_empty().unwrap_or(false));
    found
}

/// Moves this process to the top of the hierarchy, where no service or session that ends takes it along.
///
/// # Errors
/// [`CgroupError`]; it stays where it is then.
pub fn leave() -> Result<(), CgroupError> {
    let mounts = mounts::all();
    let whole = mounts.iter().find(|mount| mount.shows_its_root()).ok_or(CgroupError::NoMount)?;
    // 0 is who writes.
    fs::write(whole.point().join("cgroup.procs"), "0").map_err(system("move this process to", whole.point()))
}

/// Whether this process sees a part of the hierarchy as if it were all of it (cgroup_namespaces(7)). Levels are not the
/// kernel's then: a socket buffer's ancestors are counted from the root of all.
///
/// # Errors
/// [`CgroupError::NoMount`].
pub fn in_namespace() -> Result<bool, CgroupError> {
    is_part(&mounts::all()).ok_or(CgroupError::NoMount)
}

/// The mounts by which levels are the kernel's.
fn usable_mounts() -> Result<Vec<mounts::Mount>, CgroupError> {
    let mounts = mounts::all();
    match mounts.is_empty() {
        true => Err(CgroupError::NoMount),
        false if is_part(&mounts).unwrap_or(false) => Err(CgroupError::Namespace),
        false => Ok(mounts),
    }
}

fn is_part(mounts: &[mounts::Mount]) -> Option<bool> {
    let whole = mounts.iter().find(|mount| mount.shows_its_root())?;
    // The root of all is the one cgroup that has no events (cgroup-v2.rst, "Core Interface Files").
    Some(whole.point().join("cgroup.events").exists())
}

/// The cgroups at or below a directory whose names begin so.
fn made_in(directory: &Path, level: u32, prefix: &str) -> Vec<Cgroup> {
    let named_so =
        |path: &Path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix));
    let below = children(directory).into_iter().flat_map(|child| made_in(&child, level + 1, prefix));
    let own = Some(directory).filter(|path| named_so(path)).and_then(|path| Cgroup::at(path.to_owned(), level).ok());
    below.chain(own).collect()
}

/// What the names of the cgroups of a network namespace's runs begin with.
fn prefix_in(namespace: u64) -> String {
    format!("{PREFIX}{namespace}-")
}

/// The cgroup that a process is in.
fn of_process(pid: i32) -> Result<Cgroup, CgroupError> {
    let gone = |_| CgroupError::NoProcess(pid);
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(gone)?;
    let path = lines.lines().find_map(|line| line.strip_prefix("0::")).ok_or(CgroupError::NoMount)?;
    let mounts = usable_mounts()?;
    let (path, level) = mounts
        .iter()
        .filter_map(|mount| mount.by_hierarchy(Path::new(path)))
        .find(|(path, _)| is_cgroup(path))
        .ok_or_else(|| CgroupError::Hidden { pid, cgroup: path.into() })?;
    Cgroup::at(path, level)
}

fn dissolve_into(path: &Path, procs: &Path) -> Result<(), CgroupError> {
    for _ in 0..ROUNDS {
        for child in children(path) {
            dissolve_into(&child, procs)?;
        }
        move_all(path, procs)?;
        match fs::remove_dir(path) {
            // Somebody has been started meanwhile.
            Err(error) if is(&error, Errno::EBUSY) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done.map_err(system("remove", path)),
        }
    }
    Err(system("remove", path)(Errno::EBUSY.into()))
}

fn processes_in(path: &Path) -> Vec<i32> {
    let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 is one of an outer PID namespace.
    let own = pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != 0);
    own.chain(children(path).iter().flat_map(|child| processes_in(child))).collect()
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn move_all(from: &Path, procs: &Path) -> Result<(), CgroupError> {
    let pids = match fs::read_to_string(from.join("cgroup.procs")) {
        // A threaded cgroup lists no processes; the one above it does.
        Err(error) if is(&error, Errno::EOPNOTSUPP) || is_gone(&error) => return Ok(()),
        read => read.map_err(system("read", from))?,
    };
    for pid in pids.lines().filter(|pid| *pid != "0") {
        match fs::write(procs, pid) {
            // It has ended meanwhile.
            Err(error) if is(&error, Errno::ESRCH) => {}
            done => done.map_err(system("move a process out of", from))?,
        }
    }
    Ok(())
}

fn is_unpopulated(path: &Path) -> Result<bool, CgroupError> {
    match fs::read_to_string(path.join("cgroup.events")) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 0")),
        Err(error) if is_gone(&error) => Ok(true),
        Err(error) => Err(system("read", path)(error)),
    }
}

/// `flowlane-NAMESPACE-RUN`, and a number behind a dot where that was taken.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(PREFIX));
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    let parts = name.and_then(|name| name.split_once('-'));
    parts.is_some_and(|(namespace, run)| is_number(namespace) && run.split('.').all(is_number))
}

fn is_cgroup(path: &Path) -> bool {
    path.join("cgroup.procs").exists() && mounts::is_cgroup2(path)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// A file that was open when its cgroup was removed gives ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || is(error, Errno::ENODEV)
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(system("read", path))
}

fn system(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.as_ref().to_owned();
    move |source| CgroupError::System { what, path, source }
}
