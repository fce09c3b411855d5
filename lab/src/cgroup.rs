//! A cgroup for the processes of a test.

use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long processes that were killed may take to be gone, and what they leave to be removed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cgroup (version 2) of its own below the hierarchy's root. Dropping it kills all processes in it and in the cgroups
/// below, and removes them.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new cgroup whose name begins with `label`.
    ///
    /// # Errors
    /// [`Error::Cgroup`] where there is no cgroup hierarchy of version 2, or without the right to change it.
    pub fn new(label: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = mount()?.join(format!("{label}-{}-{count}", process::id()));
        fs::create_dir(&path).map_err(|reason| refused(&path, "create", reason))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run in the cgroup.
    ///
    /// # Errors
    /// [`Error::Cgroup`] if it can not be entered.
    pub fn hold<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        hold(&self.path, command)
    }

    /// The cgroups below, at any depth; those further up first.
    ///
    /// # Errors
    /// [`Error::Cgroup`] if they can not be listed.
    pub fn below(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        below(&self.path, &mut found).map_err(|reason| refused(&self.path, "list", reason))?;
        Ok(found)
    }

    /// The processes in the cgroup and in those below.
    ///
    /// # Errors
    /// [`Error::Cgroup`] if they can not be listed.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut all = Vec::new();
        for path in self.below()?.iter().chain([&self.path]) {
            match fs::read_to_string(path.join("cgroup.procs")) {
                Ok(text) => all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                // It has been removed in the meantime.
                Err(reason) if matches!(reason.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                Err(reason) => return Err(refused(path, "list the processes of", reason)),
            }
        }
        Ok(all)
    }

    /// Kills all processes in it and removes it.
    fn remove(&self) -> Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1").map_err(|reason| refused(&self.path, "kill", reason))?;
        let start = Instant::now();
        while !self.processes()?.is_empty() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(2));
        }
        // A process that is gone from the list leaves its cgroup a moment later.
        while let Err(error) = self.remove_empty() {
            if start.elapsed() >= PATIENCE {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn remove_empty(&self) -> Result<()> {
        for path in self.below()?.iter().rev().chain([&self.path]) {
            match fs::remove_dir(path) {
                // Somebody else has removed it in the meantime.
                Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(|reason| refused(path, "remove", reason))?,
            }
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{error}");
        }
    }
}

/// A command that will run in the cgroup of this directory.
///
/// # Errors
/// [`Error::Cgroup`] if it can not be entered.
pub fn hold<'a>(directory: &Path, command: &'a mut Command) -> Result<&'a mut Command> {
    let opened = File::options().write(true).open(directory.join("cgroup.procs"));
    let processes = Arc::new(opened.map_err(|reason| refused(directory, "enter", reason))?);
    // SAFETY: between fork and exec, the closure makes one system call and neither allocates nor locks.
    unsafe { command.pre_exec(move || (&*processes).write_all(b"0")) };
    Ok(command)
}

/// Where the hierarchy of version 2 is mounted, also beside those of version 1.
fn mount() -> Result<PathBuf> {
    let mounts = Path::new("/proc/self/mounts");
    let text = fs::read_to_string(mounts).map_err(|reason| refused(mounts, "read", reason))?;
    let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2) == Some(&"cgroup2"));
    found.and_then(|fields| fields.get(1).map(PathBuf::from)).ok_or_else(|| {
        let reason = io::Error::new(io::ErrorKind::NotFound, "no hierarchy of version 2 is mounted");
        refused(mounts, "find a cgroup hierarchy in", reason)
    })
}

/// What is removed while it is listed is not there.
fn below(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    match list(path) {
        Err(reason) if matches!(reason.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        directories => {
            for directory in directories? {
                found.push(directory.clone());
                below(&directory, found)?;
            }
            Ok(())
        }
    }
}

fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

fn refused(path: &Path, action: &str, reason: io::Error) -> Error {
    Error::Cgroup { path: path.to_owned(), action: action.to_owned(), reason }
}
