//! Where the cgroup v2 file system is mounted.
//!
//! A daemon that was started with `ip netns exec` has a mount namespace of its own, in which `/sys` is mounted anew, without
//! cgroups: it mounts them for itself ([`mount_for_this_process`]). Who may not do that looks at the views of other processes:
//! of the first one, and of this one's ancestors.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
};
use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// A mount of the cgroup v2 file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The view in which it is mounted: `/`, or `/proc/PID/root`.
    view: PathBuf,
    /// Where it is mounted, in that view.
    point: PathBuf,
    /// Which part of the hierarchy it shows: `/` for all of it.
    root: PathBuf,
}

/// The mounts that can be used, the best one first.
pub fn all() -> Vec<Mount> {
    let others = std::iter::once(1).chain(ancestors()).flat_map(|pid| {
        let process = pid.to_string();
        mounts_of(&process, &Path::new("/proc").join(&process).join("root"))
    });
    own().into_iter().chain(others.filter(|mount| is_cgroup2(&mount.point()))).collect()
}

/// The mounts in this process's own view.
pub fn own() -> Vec<Mount> {
    let all = mounts_of("self", Path::new("/")).into_iter();
    all.filter(|mount| is_cgroup2(&mount.point())).collect()
}

/// Mounts the file system where only this process, and what it starts, sees it. To be called while the process has one
/// thread.
pub fn mount_for_this_process() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, NONE)
}

/// Whether a directory is of the cgroup v2 file system.
pub fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

impl Mount {
    /// Its top directory, as this process reaches it.
    pub fn point(&self) -> PathBuf {
        self.view.join(relative(&self.point))
    }

    /// Whether it shows all of the hierarchy that this process's cgroup namespace has.
    pub fn shows_its_root(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The directory and level of a cgroup that is named by its directory: as this process reaches it, or as it is named
    /// in the mount's view.
    pub fn by_directory(&self, path: &Path) -> Option<(PathBuf, u32)> {
        let inside = path.strip_prefix(self.point()).or_else(|_| path.strip_prefix(&self.point)).ok()?;
        Some(self.at(inside))
    }

    /// The directory and level of a cgroup that is named by its path in the hierarchy.
    pub fn by_hierarchy(&self, path: &Path) -> Option<(PathBuf, u32)> {
        Some(self.at(path.strip_prefix(&self.root).ok()?))
    }

    fn at(&self, inside: &Path) -> (PathBuf, u32) {
        let level = depth(&self.root) + depth(inside);
        // Without the slash that joining an empty path would add.
        let directory = if depth(inside) == 0 { self.point() } else { self.point().join(inside) };
        (directory, level)
    }
}

fn mounts_of(process: &str, view: &Path) -> Vec<Mount> {
    let lines = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    lines.lines().filter_map(|line| parse(line, view)).collect()
}

/// A line of `mountinfo` (proc_pid_mountinfo(5)): `36 35 98:0 ROOT POINT OPTIONS [FIELD]... - TYPE SOURCE OPTIONS`.
fn parse(line: &str, view: &Path) -> Option<Mount> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let path = |field: &str| PathBuf::from(field.replace("\\040", " "));
    (kind.split(' ').next()? == "cgroup2").then(|| Mount { view: view.into(), point: path(point), root: path(root) })
}

/// This process's ancestors, the eldest first, for it lives longest.
fn ancestors() -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = parent_of("self");
    while let Some(pid) = next.filter(|pid| *pid > 1 && found.len() < 64) {
        found.push(pid);
        next = parent_of(&pid.to_string());
    }
    found.reverse();
    found
}

fn parent_of(process: &str) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn depth(path: &Path) -> u32 {
    path.components().filter(|part| matches!(part, Component::Normal(_))).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(line: &str, view: &str) -> Mount {
        parse(line, Path::new(view)).expect("a mount")
    }

    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const HYBRID: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const PART: &str = "41 31 0:38 /docker/ab\\040c /sys/fs/cgroup rw - cgroup2 cgroup2 rw";

    #[test]
    fn version_1_is_not_taken_for_version_2() {
        assert_eq!(parse("32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu", Path::new("/")), None);
        assert_eq!(parse("31 23 0:28 / /sys/fs/cgroup rw - tmpfs cgroup2 rw", Path::new("/")), None);
        assert_eq!(parse("garbage", Path::new("/")), None);
    }

    #[test]
    fn a_process_is_found_by_its_line_on_unified_and_hybrid_mounts() {
        let line = Path::new("/user.slice/a.scope");
        let unified = mount(UNIFIED, "/").by_hierarchy(line);
        assert_eq!(unified, Some(("/sys/fs/cgroup/user.slice/a.scope".into(), 2)));
        let hybrid = mount(HYBRID, "/").by_hierarchy(line);
        assert_eq!(hybrid, Some(("/sys/fs/cgroup/unified/user.slice/a.scope".into(), 2)));
        assert_eq!(mount(HYBRID, "/").by_hierarchy(Path::new("/")), Some(("/sys/fs/cgroup/unified".into(), 0)));
    }

    #[test]
    fn a_mount_of_a_part_counts_levels_from_the_root_and_does_not_show_the_rest() {
        let part = mount(PART, "/");
        assert_eq!(part.by_hierarchy(Path::new("/docker/ab c/x")), Some(("/sys/fs/cgroup/x".into(), 3)));
        assert_eq!(part.by_hierarchy(Path::new("/docker/other")), None);
    }

    #[test]
    fn another_view_is_reached_through_proc_and_knows_its_own_names() {
        let theirs = mount(HYBRID, "/proc/1/root");
        let found = Some(("/proc/1/root/sys/fs/cgroup/unified/x".into(), 1));
        assert_eq!(theirs.by_directory(Path::new("/sys/fs/cgroup/unified/x")), found);
        assert_eq!(theirs.by_directory(Path::new("/proc/1/root/sys/fs/cgroup/unified/x")), found);
        assert_eq!(theirs.by_directory(Path::new("/tmp")), None);
    }
}
