//! What a daemon leaves in writing, so that its successor goes on where it was, or its guard undoes what it did.
//!
//! ```text
//!     RUNTIME/host/NAMESPACE/  lock        held by whoever looks after the namespace's runs
//!                              state.json  runs and leases
//!                              host.sock   where programs ask
//! ```

use crate::mechanism::Kind;
use flowlane_client::protocol::{self, Wishes};
use flowlane_wire::Mac;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The form of `state.json`. A file of another form is not read.
const VERSION: u32 = 1;

/// What is to be known of a daemon's work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(crate) version: u32,
    /// The boot that it is about: nothing of it is left after another.
    pub(crate) boot: String,
    /// How packets are put into flows.
    pub mechanism: Kind,
    /// The number that the next run gets.
    pub next_run: u32,
    /// The number that the next lease gets.
    pub next_iaid: u32,
    /// The guard's process.
    #[serde(default)]
    pub guard: Option<i32>,
    /// The runs.
    pub runs: Vec<RunRecord>,
    /// Their destinations.
    pub destinations: Vec<DestinationRecord>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its number.
    pub run: u32,
    /// Its name.
    pub name: String,
    /// What it is: `program`, `cgroup`, `namespace` or `socket`.
    pub kind: String,
    /// The process that asked.
    pub pid: i32,
    /// Its user.
    pub user: u32,
    /// Its cgroup's directory.
    pub cgroup: Option<PathBuf>,
    /// Its cgroup's number.
    pub cgroup_id: Option<u64>,
    /// Its socket's cookie.
    pub cookie: Option<u64>,
    /// What was wished.
    pub wishes: Wishes,
}

/// A destination of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// The run's number.
    pub run: u32,
    /// Where its packets go.
    pub destination: IpAddr,
    /// The interface that they leave by, and its index.
    pub interface: String,
    /// The index.
    pub ifindex: u32,
    /// Why it was cut off, if it was.
    pub closed: Option<String>,
    /// The leases, those asked for included.
    pub leases: Vec<LeaseRecord>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Its number.
    pub iaid: u32,
    /// Which of the destination's paths it is for, from 0.
    pub path: u8,
    /// Whether it is asked for, or kept.
    pub asked: bool,
    /// What was granted.
    pub granted: Option<GrantRecord>,
}

/// What was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// The flow address.
    pub address: Mac,
    /// The rate in bits per second.
    pub rate: Option<u64>,
    /// The server's DUID, in hexadecimal.
    pub server: Option<String>,
    /// When it ends, in milliseconds of the boot-time clock.
    pub until: u64,
}

/// The directory of a network namespace's daemon.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    socket: PathBuf,
    namespace: u64,
}

impl Directory {
    /// The directory for the network namespace of the calling thread. Others may look for the socket in it.
    ///
    /// # Errors
    /// Where it can not be made.
    pub fn make(runtime_directory: &Path) -> io::Result<Self> {
        let directory = Self::of_namespace(runtime_directory)?;
        DirBuilder::new().recursive(true).mode(0o755).create(&directory.path)?;
        // Whatever the umask says.
        for path in directory.path.ancestors().take(2) {
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
        Ok(directory)
    }

    /// The same, whether it is there or not.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn of_namespace(runtime_directory: &Path) -> io::Result<Self> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        let socket = protocol::socket(runtime_directory, namespace);
        let path = socket.parent().unwrap_or(runtime_directory).to_owned();
        Ok(Self { path, socket, namespace })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket in it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The inode of its network namespace.
    pub fn namespace(&self) -> u64 {
        self.namespace
    }

    /// What tables in the kernel are called.
    pub fn name(&self) -> String {
        // Two runtime directories are two daemons, as in tests.
        let number = self.path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3) // FNV-1a
        });
        format!("{}-{:08x}", self.namespace, number >> 32)
    }

    /// What was written last; nothing where there is nothing of this boot to go on with.
    pub fn read(&self) -> Option<State> {
        let text = fs::read(self.path.join("state.json")).ok()?;
        let state: State = serde_json::from_slice(&text).ok()?;
        (state.version == VERSION && state.boot == boot()).then_some(state)
    }

    /// Writes, so that a reader finds the whole or what was before.
    ///
    /// # Errors
    /// Where the file can not be written.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let new = self.path.join("state.new");
        let state = State { version: VERSION, boot: boot(), ..state.clone() };
        let text = serde_json::to_vec(&state)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        fs::rename(new, self.path.join("state.json"))
    }

    /// Removes what was written. The lock's file stays: a lock on a file that is gone would be nobody's.
    pub fn clear(&self) {
        for name in ["state.json", "state.new"] {
            let _ = fs::remove_file(self.path.join(name));
        }
    }

    /// Takes the lock. None: somebody else has it.
    ///
    /// # Errors
    /// Where there can be no lock.
    pub fn try_lock(&self, holder: Holder) -> io::Result<Option<Lock>> {
        let lock = self.lock_file()?;
        match lock.acquire() {
            Ok(()) => {
                let mut word = [holder as u8; HOLDING];
                word[1..].copy_from_slice(&fastrand::u64(..).to_ne_bytes());
                lock.0.write_all_at(&word, 0)?;
                Ok(Some(lock))
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the lock of a predecessor that is about to end, or of a guard that is at work; both are soon over.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] where a daemon has it and goes on.
    pub fn lock(&self, patience: Duration) -> io::Result<Lock> {
        let (daemon, guard) = (Instant::now() + patience / 10, Instant::now() + patience);
        loop {
            if let Some(lock) = self.try_lock(Holder::Daemon)? {
                return Ok(lock);
            }
            let [holder, ..] = self.holding()?;
            let give_up = if holder == Holder::Guard as u8 { guard } else { daemon };
            if Instant::now() >= give_up {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether somebody else has the lock.
    ///
    /// # Errors
    /// Where there can be no lock.
    pub fn is_locked(&self) -> io::Result<bool> {
        Ok(self.lock_file()?.is_taken()?)
    }

    /// A word of who has taken the lock last: another one each time.
    ///
    /// # Errors
    /// Where there can be no lock.
    pub fn holding(&self) -> io::Result<[u8; HOLDING]> {
        let mut word = [0; HOLDING];
        let _ = self.lock_file()?.0.read_at(&mut word, 0)?;
        Ok(word)
    }

    fn lock_file(&self) -> io::Result<Lock> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(self.path.join("lock")).map(Lock)
    }
}

/// The length of what is written into the lock's file: a [`Holder`], and a random number.
const HOLDING: usize = 9;

/// Who has the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A daemon.
    Daemon = b'd' as isize,
    /// A guard, at work after a daemon's end.
    Guard = b'g' as isize,
}

/// The right to look after the runs of a network namespace; given up when it is dropped, also by the end of the process.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    fn acquire(&self) -> Result<(), Errno> {
        fcntl(&self.0, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))).map(drop)
    }

    /// Asks without taking it.
    fn is_taken(&self) -> Result<bool, Errno> {
        let mut lock = whole(libc::F_WRLCK);
        fcntl(&self.0, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }
}

fn whole(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(at: &tempfile::TempDir) -> Directory {
        Directory::make(at.path()).expect("a directory")
    }

    fn state() -> State {
        let granted = GrantRecord { address: Mac([2; 6]), rate: Some(5), server: Some("0004".into()), until: 7 };
        let destination = DestinationRecord {
            run: 1,
            destination: IpAddr::from([10, 0, 0, 1]),
            interface: "eth0".into(),
            ifindex: 2,
            closed: None,
            leases: vec![LeaseRecord { iaid: 3, path: 0, asked: true, granted: Some(granted) }],
        };
        let run = RunRecord {
            run: 1,
            name: "ping[4]".into(),
            kind: "program".into(),
            pid: 4,
            user: 1000,
            cgroup: Some("/sys/fs/cgroup/x".into()),
            cgroup_id: Some(9),
            cookie: None,
            wishes: Wishes { rate: Some(5), ..Wishes::default() },
        };
        let (runs, destinations) = (vec![run], vec![destination]);
        State { mechanism: Kind::Nft, next_run: 2, next_iaid: 4, runs, destinations, ..State::default() }
    }

    #[test]
    fn what_was_written_is_read() {
        let at = tempfile::tempdir().expect("a directory");
        let directory = directory(&at);
        assert_eq!(directory.read(), None);
        directory.write(&state()).expect("written");
        let read = directory.read().expect("there");
        assert_eq!(State { version: 0, boot: String::new(), ..read }, state());
        let mode = fs::metadata(directory.path().join("state.json")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        directory.clear();
        assert_eq!(directory.read(), None);
    }

    #[test]
    fn what_another_boot_has_left_is_not_read() {
        let at = tempfile::tempdir().expect("a directory");
        let directory = directory(&at);
        directory.write(&state()).expect("written");
        let file = directory.path().join("state.json");
        let text = fs::read_to_string(&file).expect("there").replace(&boot(), "another");
        fs::write(&file, text).expect("written");
        assert_eq!(directory.read(), None);
    }

    #[test]
    fn one_has_the_lock_until_it_is_dropped() {
        let at = tempfile::tempdir().expect("a directory");
        let directory = directory(&at);
        let lock = directory.try_lock(Holder::Daemon).expect("a lock").expect("free");
        assert!(directory.is_locked().expect("asked"));
        assert!(directory.try_lock(Holder::Guard).expect("asked").is_none());
        let error = directory.lock(Duration::from_millis(100)).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(lock);
        assert!(!directory.is_locked().expect("asked"));
    }

    #[test]
    fn a_guard_at_work_is_waited_for() {
        let at = tempfile::tempdir().expect("a directory");
        let directory = directory(&at);
        let guard = directory.try_lock(Holder::Guard).expect("a lock").expect("free");
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            drop(guard);
        });
        directory.lock(Duration::from_secs(10)).expect("taken over");
        end.join().expect("ended");
    }
}
