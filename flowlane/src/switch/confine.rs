//! What a running switch gives up: privileges, files and system calls that it does not need any more.
//!
//! A thread gives up for itself and for those that it starts. So this is done before the first one is started, when all
//! files are open, and before ports are attached: whatever a port needs that comes later, those that are there need too.

use crate::{
    api::ConfinementView,
    config::{Config, Executor},
    privileges,
};
use caps::{CapSet, Capability, has_cap};
use flowlane_program::bpffs;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use nix::libc;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};
use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

/// What is kept: to attach programs and set interfaces up, to open packet sockets, to load programs as the verifier takes
/// them from root, and to lock the memory of AF_XDP sockets.
const KEPT: [Capability; 5] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_IPC_LOCK,
];

/// The version of Landlock whose rules are used; an older kernel enforces those that it knows.
const LANDLOCK: ABI = ABI::V6;

/// What a switch is denied as long as it runs.
pub struct Confinement {
    view: ConfinementView,
    /// Files of /proc are made anew when they were forgotten, and rules would not know them: open ones are not forgotten.
    _open: Vec<PathFd>,
}

impl Confinement {
    /// Gives up what can be given up. What can not is logged, and seen in [`Confinement::view`]: the switch runs.
    pub fn of(config: &Config) -> Self {
        // While everything may still be looked for.
        let places = Places::of(config);
        let no_new_privileges = done("no new privileges", privileges::no_new());
        done("capabilities", privileges::keep(capabilities(config.remote.is_some())));
        let (landlock, open) = match places.restrict(config) {
            Ok((status, open)) => (word(&status), open),
            Err(error) => {
                tracing::warn!("Landlock does not confine this process: {error}");
                (word(&RulesetStatus::NotEnforced), Vec::new())
            }
        };
        let seccomp = done("seccomp", filter_system_calls());
        let view =
            ConfinementView { capabilities: privileges::kept(), no_new_privileges, landlock: landlock.into(), seccomp };
        Self { view, _open: open }
    }

    /// What is given up.
    pub fn view(&self) -> &ConfinementView {
        &self.view
    }
}

/// The files that a running switch has to do with.
struct Places {
    /// Read.
    read: Vec<PathBuf>,
    /// Directories where everything is its own.
    own: Vec<PathBuf>,
    /// Files and settings that are written, and not made.
    written: Vec<PathBuf>,
    /// The directory of pins, through an open file.
    pins: Option<bpffs::Directory>,
}

impl Places {
    fn of(config: &Config) -> Self {
        let in_kernel = config.ports.values().any(|port| port.executor != Executor::AfPacket);
        Self {
            // Interfaces and types of the kernel; sockets' owners.
            read: ["/proc", "/sys"].map(PathBuf::from).into(),
            own: vec![config.state_directory.clone(), config.runtime_directory.clone()],
            // For the device by which Linux gets packets, which is made when the first one is there.
            written: ["/dev/net/tun", "/proc/sys/net"].map(PathBuf::from).into(),
            pins: in_kernel.then(|| bpffs::Directory::make(&config.name).ok()).flatten(),
        }
    }

    /// Denies all other files, TCP but to listen where the configuration says, and signals to others.
    fn restrict(&self, config: &Config) -> Result<(RulesetStatus, Vec<PathFd>), RulesetError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        let mut open = Vec::new();
        for (path, access) in self.access() {
            // What is not there is not needed.
            let Ok(file) = PathFd::new(path) else { continue };
            rules = rules.add_rule(PathBeneath::new(&file, access))?;
            open.push(file);
        }
        if let Some(remote) = &config.remote {
            rules = rules.add_rule(NetPort::new(remote.listen.port(), AccessNet::BindTcp))?;
        }
        Ok((rules.restrict_self()?.ruleset, open))
    }

    fn access(&self) -> impl Iterator<Item = (&Path, BitFlags<AccessFs>)> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::Truncate;
        let all = AccessFs::from_all(LANDLOCK) & !AccessFs::Execute;
        let own = self.own.iter().map(PathBuf::as_path).chain(self.pins.iter().map(bpffs::Directory::path));
        let read = self.read.iter().map(move |path| (path.as_path(), read));
        let written = self.written.iter().map(move |path| (path.as_path(), write));
        read.chain(written).chain(own.map(move |path| (path, all)))
    }
}

/// Those that are kept, with the one to listen on a port below 1024 where it listens at all.
fn capabilities(listens: bool) -> impl Iterator<Item = Capability> {
    // Where there is no CAP_BPF, programs are loaded by this one.
    let has_bpf = has_cap(None, CapSet::Permitted, Capability::CAP_BPF).unwrap_or(false);
    let others = [(listens, Capability::CAP_NET_BIND_SERVICE), (!has_bpf, Capability::CAP_SYS_ADMIN)];
    KEPT.into_iter().chain(others.into_iter().filter_map(|(wanted, capability)| wanted.then_some(capability)))
}

/// Refuses, with EPERM, what would lead out of the confinement or change the machine, and what no switch does.
fn filter_system_calls() -> Result<(), seccompiler::Error> {
    let refused = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().map_err(backend)?;
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, refuse, architecture).map_err(backend)?;
    let program: BpfProgram = filter.try_into().map_err(backend)?;
    seccompiler::apply_filter(&program)
}

fn backend(error: BackendError) -> seccompiler::Error {
    seccompiler::Error::Backend(error)
}

const REFUSED: [libc::c_long; 54] = [
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    // Other namespaces, and file systems.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_syslog,
    // Parts of the kernel with a history.
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_io_uring_setup,
];

fn word(status: &RulesetStatus) -> &'static str {
    match status {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    }
}

/// Whether it was done; if not, the log says so.
fn done(what: &str, result: Result<(), impl Display>) -> bool {
    result.inspect_err(|error| tracing::warn!("this process keeps more than it needs ({what}): {error}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, io::ErrorKind, net::TcpStream, process::Command, thread};

    #[test]
    fn no_system_call_is_named_twice() {
        assert_eq!(REFUSED.iter().collect::<BTreeSet<_>>().len(), REFUSED.len());
    }

    /// In a thread, which takes what it has given up with it.
    #[test]
    fn a_confined_thread_reaches_its_own_directories_and_no_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["state", "run", "other"] {
            fs::create_dir(path(name)).expect("made");
        }
        let text = format!("state_directory = {:?}\nruntime_directory = {:?}\n", path("state"), path("run"));
        let config = Config::parse("test.toml", &format!("executor = \"af-packet\"\n{text}")).expect("right");
        let [own, other] = ["state/file", "other/file"].map(path);
        let confined = thread::spawn(move || {
            let confinement = Confinement::of(&config);
            let view = confinement.view().clone();
            assert!(view.no_new_privileges && view.seccomp, "{view:?}");
            assert!(!view.capabilities.iter().any(|name| name == "CAP_SYS_ADMIN" || name == "CAP_DAC_OVERRIDE"));
            fs::write(own, "mine").expect("its own");
            fs::read_to_string("/proc/self/stat").expect("processes");
            let refused = Command::new("/bin/true").spawn().expect_err("no other program");
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            if view.landlock != "none" {
                for denied in [fs::write(&other, "not mine"), fs::read("/etc/passwd").map(drop)] {
                    assert_eq!(denied.expect_err("not its own").kind(), ErrorKind::PermissionDenied);
                }
            }
            if view.landlock == "full" {
                let denied = TcpStream::connect("127.0.0.1:9").expect_err("no way out");
                assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
            }
        });
        confined.join().expect("as it should be");
        fs::write(path("other/file"), "").expect("the others are as free as before");
    }
}
