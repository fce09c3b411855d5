//! Runs the program `nft`.

use super::{Group, NftError, Result, script::group_name};
use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::stat::{Mode, fstat},
};
use std::{
    env,
    fs::{File, create_dir, exists},
    io::{self, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

/// Where distributions put it, before where the environment says: a daemon runs what the system has installed.
const DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Where the program looks for cgroups, whatever is mounted there.
const CGROUPS: &str = "/sys/fs/cgroup";

const NOTHING: Option<&str> = None;

/// The installed program.
#[derive(Debug)]
pub(super) struct Nft(PathBuf);

impl Nft {
    pub(super) fn find() -> Result<Self> {
        let searched = env::var_os("PATH").unwrap_or_default();
        let directories = DIRECTORIES.iter().map(PathBuf::from).chain(env::split_paths(&searched));
        let mut found = directories.map(|directory| directory.join("nft")).filter(|path| path.is_absolute());
        found.find(|path| exists(path).unwrap_or_default()).map(Self).ok_or(NftError::Missing)
    }

    /// One transaction: all of the script, or nothing.
    pub(super) fn run(&self, script: &str) -> Result<()> {
        self.start(&["-f", "-"], script).map(drop)
    }

    /// The same for a script that names cgroups: of those that still exist, by [`group_name`].
    ///
    /// The program looks for cgroups by name under /sys/fs/cgroup only, where a host with both hierarchies has others. And
    /// users name cgroups of their own, which must not become part of a script. So it sees a directory made for it, in a
    /// mount namespace of this thread and its child.
    pub(super) fn run_with(&self, groups: &[&Group], script: impl FnOnce(&[&Group]) -> String + Send) -> Result<()> {
        if groups.is_empty() {
            return self.run(&script(&[]));
        }
        let work = || self.run(&script(&show(groups).map_err(NftError::Cgroups)?));
        thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// What the program lists, as JSON: libnftables-json(5).
    pub(super) fn list(&self, what: &[&str]) -> Result<serde_json::Value> {
        let listing = self.start(&[&["-j", "list"], what].concat(), "")?;
        Ok(serde_json::from_slice(&listing)?)
    }

    fn start(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.0);
        command.args(arguments).env("LC_ALL", "C").current_dir("/");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(NftError::Program)?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who ends before it has read everything says why on its standard error output.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(NftError::Program)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(NftError::Refused(text.lines().next().unwrap_or("without a reason").to_owned()))
    }
}

/// Shows these cgroups, in this thread's own view of the file system, under names of our own. Which of them still exist.
fn show<'a>(groups: &[&'a Group]) -> io::Result<Vec<&'a Group>> {
    let views: Vec<_> = groups.iter().map(|group| view(&group.path)).collect();
    if let Some((Some(process), _)) = views.first() {
        enter(process)?;
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    // Opened before anything covers them.
    let opened = |(group, (_, path)): (&&'a Group, &(_, PathBuf))| Some((*group, directory(path, group.id)?));
    let present: Vec<_> = groups.iter().zip(&views).filter_map(opened).collect();
    mount(Some("tmpfs"), CGROUPS, Some("tmpfs"), MsFlags::empty(), NOTHING)?;
    for (group, descriptor) in &present {
        let shown = Path::new(CGROUPS).join(group_name(group.id));
        create_dir(&shown)?;
        let opened = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        mount(Some(opened.as_str()), &shown, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    }
    Ok(present.into_iter().map(|(group, _)| group).collect())
}

/// The process in whose view of the file system a path is named, `/proc/PID/root/...`, and how it is named there.
fn view(path: &Path) -> (Option<PathBuf>, PathBuf) {
    let mut parts = path.components();
    let process: PathBuf = parts.by_ref().take(3).collect();
    match parts.next() {
        Some(root) if process.starts_with("/proc") && root.as_os_str() == "root" => {
            (Some(process), Path::new("/").join(parts.as_path()))
        }
        _ => (None, path.to_owned()),
    }
}

/// Takes the view of a process: what is mounted in another one can not be shown in this.
fn enter(process: &Path) -> io::Result<()> {
    let theirs = File::open(process.join("ns/mnt"))?;
    unshare(CloneFlags::CLONE_FS)?;
    Ok(setns(theirs, CloneFlags::CLONE_NEWNS)?)
}

/// The directory of a cgroup; nothing if it is gone, or another one has its path by now.
fn directory(path: &Path, id: u64) -> Option<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let descriptor = open(path, flags, Mode::empty()).ok()?;
    let status = fstat(&descriptor).ok()?;
    (status.st_ino == id).then_some(descriptor)
}
