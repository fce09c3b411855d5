//! Which cgroups have become empty, as the kernel says it: no polling.

use super::{Cgroup, CgroupError, is_unpopulated, system};
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::PathBuf,
};
use tokio::io::unix::AsyncFd;

/// Watches the cgroups of runs.
#[derive(Debug)]
pub struct Emptied {
    inotify: AsyncFd<Events>,
    watched: HashMap<WatchDescriptor, (u32, PathBuf)>,
    ready: VecDeque<u32>,
}

impl Emptied {
    /// Watches nothing yet. Must be called from within a tokio runtime.
    ///
    /// # Errors
    /// Where the system has no inotify(7) for this process.
    pub fn new() -> Result<Self, CgroupError> {
        #[expect(deprecated, reason = "inotify owns its descriptor, and it is always the same one")]
        let readable = |inotify| AsyncFd::new(Events(inotify));
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(io::Error::from);
        let inotify = inotify.and_then(readable).map_err(system("watch", "/sys/fs/cgroup"))?;
        Ok(Self { inotify, watched: HashMap::new(), ready: VecDeque::new() })
    }

    /// Watches the cgroup of a run, from the time that its process is in it: one that is empty now is told of at once.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn watch(&mut self, run: u32, cgroup: &Cgroup) -> Result<(), CgroupError> {
        let events = cgroup.path().join("cgroup.events");
        match self.inotify.get_ref().0.add_watch(&events, AddWatchFlags::IN_MODIFY) {
            Ok(watch) => {
                self.watched.insert(watch, (run, cgroup.path().to_owned()));
            }
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(system("watch", events)(error.into())),
        }
        // It may have become empty before anybody watched.
        if cgroup.is_empty()? {
            self.tell(run);
        }
        Ok(())
    }

    /// Does not watch for a run any more.
    pub fn forget(&mut self, run: u32) {
        self.ready.retain(|ready| *ready != run);
        let watches = self.watched.extract_if(|_, (watched, _)| *watched == run);
        for (watch, _) in watches {
            // The watch has gone by itself where the cgroup has been removed.
            let _ = self.inotify.get_ref().0.rm_watch(watch);
        }
    }

    /// The next run whose cgroup is empty. Each is told of once, and not watched from then on. Nothing is lost where the
    /// future is dropped.
    pub async fn next(&mut self) -> u32 {
        loop {
            if let Some(run) = self.ready.pop_front() {
                return run;
            }
            let Ok(mut readable) = self.inotify.readable().await else { return std::future::pending().await };
            match readable.get_inner().0.read_events() {
                Ok(events) => events.iter().for_each(|event| self.look_at(event)),
                Err(_) => readable.clear_ready(),
            }
        }
    }

    fn look_at(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return self.look_at_all();
        }
        let Some((run, path)) = self.watched.get(&event.wd) else { return };
        // Ignored: its directory was removed. Where it can not be read, the next event says more.
        if event.mask.contains(AddWatchFlags::IN_IGNORED) || is_unpopulated(path).unwrap_or(false) {
            self.tell(*run);
        }
    }

    /// Events were lost: more happened at once than the system keeps for us.
    fn look_at_all(&mut self) {
        let empty = |(run, path): &(u32, PathBuf)| is_unpopulated(path).unwrap_or(false).then_some(*run);
        let runs: Vec<u32> = self.watched.values().filter_map(empty).collect();
        runs.into_iter().for_each(|run| self.tell(run));
    }

    fn tell(&mut self, run: u32) {
        self.forget(run);
        self.ready.push_back(run);
    }
}

#[derive(Debug)]
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
