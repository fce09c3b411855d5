//! A host with a daemon, programs in its runs, a switch that answers, and what arrives there.

use crate::switch::{SOON, Switch};
use flowlane_client::protocol::{FlowView, Problem, ProblemCode, RunRequest, RunView, Status, Wishes};
use flowlane_host::{
    command::Command,
    daemon::{Daemon, Ended, Options},
    guard::undo,
    mechanism::MechanismChoice,
    process::Process,
    state::{Directory, LeaseRecord},
};
use flowlane_lab::{Direction, Frame, Host, Tap};
use flowlane_wire::Mac;
use nix::{libc, unistd::getuid};
use std::{
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{mpsc, oneshot};

/// Where `seccomp_data` has the system call's first argument (its lower half).
const ARGUMENT: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };
pub const REAL: Mac = Mac([2, 0, 0, 0, 0, 0x99]);

pub fn options(at: &Path, mechanism: MechanismChoice) -> Options {
    let (runtime_directory, guard) = (at.to_owned(), Vec::new());
    Options { runtime_directory, transient: false, interfaces: None, max_runs: 256, mechanism, guard }
}

/// A daemon in a host's namespace, on a thread of its own.
pub struct Running {
    pub commands: Option<mpsc::Sender<Command>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Option<Ended>>>,
}

impl Running {
    /// `prepare` is called on its thread before it starts, and `begun` when it has.
    pub fn start(host: &Host, at: &Path, mechanism: MechanismChoice, prepare: fn(), begun: fn()) -> Self {
        let (commands, received) = mpsc::channel(16);
        let (kill, killed) = oneshot::channel::<()>();
        let (netns, options) = (host.netns().clone(), options(at, mechanism));
        let (started, is_started) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            netns.enter().expect("the namespace");
            prepare();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let daemon = Daemon::start(options).await.expect("a daemon");
                begun();
                started.send(()).expect("somebody waits");
                tokio::select! {
                    ended = daemon.serve(received) => Some(ended.expect("served")),
                    _ = killed => None,
                }
            })
        });
        is_started.recv_timeout(SOON).expect("started");
        Self { commands: Some(commands), kill: Some(kill), thread: Some(thread) }
    }

    pub fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Command) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.commands.as_ref().expect("running").blocking_send(command(reply)).expect("it listens");
        answer.blocking_recv().expect("an answer")
    }

    pub fn run(&self, program: &Program, wishes: Wishes) -> Result<RunView, Problem> {
        let process = Process::open(program.pid(), getuid().as_raw()).expect("it runs");
        let request = RunRequest { command: "/usr/bin/ping -c".into(), wishes };
        self.ask(|reply| Command::Run(process, request, reply))
    }

    /// The same, anew as long as a busy switch did not answer in time.
    pub fn run_with_a_switch(&self, program: &Program, wishes: &Wishes) -> Result<RunView, Problem> {
        let give_up = Instant::now() + SOON;
        loop {
            eventually("a switch answers", || self.status().interfaces[0].service == Some(true));
            match self.run(program, wishes.clone()) {
                Err(problem) if problem.code == ProblemCode::NoService && Instant::now() < give_up => {}
                result => return result,
            }
        }
    }

    pub fn status(&self) -> Status {
        self.ask(|reply| Command::Status(None, reply)).expect("a status")
    }

    pub fn flows(&self) -> Vec<FlowView> {
        self.status().runs.into_iter().flat_map(|run| run.flows).collect()
    }

    /// Ends it as a signal does that asks for it.
    pub fn stop(mut self) -> Ended {
        self.commands = None;
        self.thread.take().expect("running").join().expect("ended").expect("served")
    }

    /// Ends it where it stands.
    pub fn kill(mut self) {
        self.kill.take().expect("running").send(()).expect("it runs");
        self.thread.take().expect("running").join().expect("ended");
    }
}

/// A program that waits for a word before it does something.
pub struct Program(Child);

impl Program {
    pub fn new(host: &Host, script: &str) -> Self {
        let mut command = host.netns().command("sh");
        command.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().expect("a shell"))
    }

    pub fn pings(host: &Host, count: u32) -> Self {
        Self::new(host, &format!("exec ping -q -n -i 0.05 -W 1 -c {count} 10.1.0.2"))
    }

    /// It goes on for longer than any test, so that its run does.
    pub fn pings_on(host: &Host) -> Self {
        Self::pings(host, 2_000)
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub fn go(&mut self) {
        self.0.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("it reads");
    }

    pub fn finish(mut self) {
        self.go();
        self.0.wait().expect("it ended");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Setup {
    pub host: Host,
    pub switch: Switch,
    pub at: tempfile::TempDir,
    pub tap: Tap,
}

/// A host, a switch, and whatever IPv4 packets arrive there.
pub fn setup() -> Setup {
    let (host, switch) = Switch::with_host(1);
    host.link().set_neighbour(ip("10.1.0.2"), REAL).expect("a neighbour");
    host.link().set_neighbour(ip("10.1.0.3"), REAL).expect("a neighbour");
    let is_ip = |frame: &Frame| frame.direction == Direction::In && frame.bytes.get(12..14) == Some(&[8, 0]);
    let tap = Tap::start(host.port(), is_ip).expect("a tap");
    Setup { host, switch, at: tempfile::tempdir().expect("a directory"), tap }
}

impl Setup {
    pub fn start(&self) -> Running {
        self.start_with(MechanismChoice::Auto)
    }

    pub fn start_with(&self, mechanism: MechanismChoice) -> Running {
        Running::start(&self.host, self.at.path(), mechanism, || {}, || {})
    }

    /// A daemon, a program in a run of it that is about to send so many packets, and the run's cgroup.
    pub fn with_a_run(&self, packets: u32) -> (Running, Program, PathBuf) {
        let (daemon, program) = (self.start(), Program::pings(&self.host, packets));
        let cgroup = cgroup_of(&daemon.run(&program, Wishes::default()).expect("a run"));
        (daemon, program, cgroup)
    }

    /// A program that goes on for longer than any test, and the address of its flow.
    pub fn program_in_a_flow(&self, daemon: &Running) -> (Program, Mac) {
        let mut program = Program::pings_on(&self.host);
        daemon.run(&program, Wishes::default()).expect("a run");
        program.go();
        let address = open_address(daemon);
        (program, address)
    }

    /// The kernel refuses BPF to this one.
    pub fn start_without_bpf(&self) -> Running {
        Running::start(&self.host, self.at.path(), MechanismChoice::Auto, || refuse_bpf(None), || {})
    }

    /// The kernel attaches no BPF program for this one.
    pub fn start_without_links(&self) -> Running {
        const BPF_LINK_CREATE: u32 = 28;
        Running::start(&self.host, self.at.path(), MechanismChoice::Bpf, || {}, || refuse_bpf(Some(BPF_LINK_CREATE)))
    }

    /// Does what the guard of a daemon does that was killed.
    pub fn undo(&self) {
        let directory = self.directory();
        let undone = self.host.netns().run(|| {
            let state = directory.read().expect("what the daemon has written");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(undo(&directory, &state));
        });
        undone.expect("the namespace");
    }

    /// Where the host's daemon leaves what it has written.
    pub fn directory(&self) -> Directory {
        let directory = self.host.netns().run(|| Directory::of_namespace(self.at.path()).expect("/proc"));
        directory.expect("the namespace")
    }

    /// Waits until the daemon has written that it was granted an address: it does so a little later than it uses it.
    pub fn until_written(&self, address: Mac) {
        let directory = self.directory();
        let has_it = |lease: &LeaseRecord| lease.granted.as_ref().is_some_and(|granted| granted.address == address);
        eventually("the grant is written", || {
            let written = directory.read().map(|state| state.destinations).unwrap_or_default();
            written.iter().flat_map(|destination| &destination.leases).any(has_it)
        });
    }

    /// Waits until a frame to this address has been seen that came after the time given. By the kernel's word: the tap may
    /// read one later that came before.
    pub fn until_seen(&self, address: Mac, since: SystemTime) {
        eventually("a frame to it is seen", || {
            self.frames_since(since).iter().any(|frame| mac_at(frame, 0) == address)
        });
    }

    /// The frames to this address, of those that were read so far.
    pub fn frames_to(&self, address: Mac) -> Vec<Frame> {
        self.tap.frames().into_iter().filter(|frame| mac_at(frame, 0) == address).collect()
    }

    /// The frames that came after the time given, of those that were read so far.
    pub fn frames_since(&self, since: SystemTime) -> Vec<Frame> {
        self.tap.frames().into_iter().filter(|frame| frame.at > since).collect()
    }

    /// Whether something is pinned in the BPF file system for this daemon.
    pub fn is_pinned(&self) -> bool {
        let name = self.directory().name();
        flowlane_program::bpffs::find().expect("mounted").join("flowlane").join(format!("host-{name}")).exists()
    }

    /// Our tables of nftables.
    pub fn tables(&self) -> usize {
        let listed = self.host.netns().command("nft").args(["list", "tables"]).output().expect("nft");
        String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains("flowlane")).count()
    }

    /// Whether the next frames go to this address.
    pub fn go_to(&self, address: Mac) {
        self.went_to(address, SystemTime::now());
    }

    /// Whether all frames that came after the time given go to this address, and at least five did.
    pub fn went_to(&self, address: Mac, since: SystemTime) {
        eventually("frames are seen", || self.frames_since(since).len() >= 5);
        let destinations: Vec<Mac> = self.frames_since(since).iter().map(|frame| mac_at(frame, 0)).collect();
        assert!(destinations.iter().all(|destination| *destination == address), "{address}: {destinations:?}");
    }

    /// The destinations of so many frames.
    pub fn destinations(&self, count: usize) -> Vec<Mac> {
        let frames = self.tap.wait_for(count, SOON).expect("frames");
        frames.iter().map(|frame| mac_at(frame, 0)).collect()
    }
}

/// Whether no frame comes any more.
pub fn is_quiet(tap: Tap) {
    let since = SystemTime::now();
    thread::sleep(Duration::from_millis(300));
    let frames = tap.stop().expect("a capture").frames;
    assert!(!frames.iter().any(|frame| frame.at > since), "{frames:02x?}");
}

pub fn mac_at(frame: &Frame, at: usize) -> Mac {
    Mac(frame.bytes[at..at + 6].try_into().expect("an address"))
}

/// From now on the kernel refuses bpf(2) to this thread, or one of its commands, as it may to a container (seccomp(2)).
fn refuse_bpf(command: Option<u32>) {
    let step = |code, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let at_least_all = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let is_it = command
        .map_or(step(at_least_all, 1, 0), |command| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, command));
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0), // seccomp_data.nr
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 3, libc::SYS_bpf as u32),
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, ARGUMENT),
        is_it,
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which lives until the call has returned.
    let done = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::c_ulong::from(libc::SECCOMP_MODE_FILTER), &raw const program)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let give_up = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < give_up, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The first flow's address, as soon as it is open.
pub fn open_address(daemon: &Running) -> Mac {
    let mut address = None;
    eventually("a flow is open", || {
        address = daemon.flows().first().and_then(|flow| flow.address);
        address.is_some()
    });
    address.expect("open")
}

pub fn cgroup_of(run: &RunView) -> PathBuf {
    run.cgroup.clone().expect("a cgroup")
}
