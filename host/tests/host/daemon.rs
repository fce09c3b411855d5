//! The daemon with real programs, a real kernel, and a switch that answers.

use crate::switch::{SOON, Switch};
use flowlane_client::protocol::{Field, FlowView, Problem, ProblemCode, RunRequest, RunView, Status, Wishes};
use flowlane_host::{
    cgroup::Cgroup,
    command::{Command, Peer, Subject},
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
    fs,
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
const REAL: Mac = Mac([2, 0, 0, 0, 0, 0x99]);

fn options(at: &Path, mechanism: MechanismChoice) -> Options {
    let (runtime_directory, guard) = (at.to_owned(), Vec::new());
    Options { runtime_directory, transient: false, interfaces: None, max_runs: 256, mechanism, guard }
}

/// A daemon in a host's namespace, on a thread of its own.
struct Running {
    commands: Option<mpsc::Sender<Command>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Option<Ended>>>,
}

impl Running {
    /// `prepare` is called on its thread before it starts, and `begun` when it has.
    fn start(host: &Host, at: &Path, mechanism: MechanismChoice, prepare: fn(), begun: fn()) -> Self {
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

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Command) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.commands.as_ref().expect("running").blocking_send(command(reply)).expect("it listens");
        answer.blocking_recv().expect("an answer")
    }

    fn run(&self, program: &Program, wishes: Wishes) -> Result<RunView, Problem> {
        let process = Process::open(program.pid(), getuid().as_raw()).expect("it runs");
        let request = RunRequest { command: "/usr/bin/ping -c".into(), wishes };
        self.ask(|reply| Command::Run(process, request, reply))
    }

    fn status(&self) -> Status {
        self.ask(|reply| Command::Status(None, reply)).expect("a status")
    }

    fn flows(&self) -> Vec<FlowView> {
        self.status().runs.into_iter().flat_map(|run| run.flows).collect()
    }

    /// Ends it as a signal does that asks for it.
    fn stop(mut self) -> Ended {
        self.commands = None;
        self.thread.take().expect("running").join().expect("ended").expect("served")
    }

    /// Ends it where it stands.
    fn kill(mut self) {
        self.kill.take().expect("running").send(()).expect("it runs");
        self.thread.take().expect("running").join().expect("ended");
    }
}

/// A program that waits for a word before it does something.
struct Program(Child);

impl Program {
    fn new(host: &Host, script: &str) -> Self {
        let mut command = host.netns().command("sh");
        command.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().expect("a shell"))
    }

    fn pings(host: &Host, count: u32) -> Self {
        Self::new(host, &format!("exec ping -q -n -i 0.05 -W 1 -c {count} 10.1.0.2"))
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("it reads");
    }

    fn finish(mut self) {
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

struct Setup {
    host: Host,
    switch: Switch,
    at: tempfile::TempDir,
    tap: Tap,
}

/// A host, a switch, and whatever IPv4 packets arrive there.
fn setup() -> Setup {
    let (host, switch) = Switch::with_host(1);
    host.link().set_neighbour(ip("10.1.0.2"), REAL).expect("a neighbour");
    host.link().set_neighbour(ip("10.1.0.3"), REAL).expect("a neighbour");
    let is_ip = |frame: &Frame| frame.direction == Direction::In && frame.bytes.get(12..14) == Some(&[8, 0]);
    let tap = Tap::start(host.port(), is_ip).expect("a tap");
    Setup { host, switch, at: tempfile::tempdir().expect("a directory"), tap }
}

impl Setup {
    fn start(&self) -> Running {
        self.start_with(MechanismChoice::Auto)
    }

    fn start_with(&self, mechanism: MechanismChoice) -> Running {
        Running::start(&self.host, self.at.path(), mechanism, || {}, || {})
    }

    /// A daemon, a program in a run of it that is about to send so many packets, and the run's cgroup.
    fn with_a_run(&self, packets: u32) -> (Running, Program, PathBuf) {
        let (daemon, program) = (self.start(), Program::pings(&self.host, packets));
        let cgroup = cgroup_of(&daemon.run(&program, Wishes::default()).expect("a run"));
        (daemon, program, cgroup)
    }

    /// The kernel refuses BPF to this one.
    fn start_without_bpf(&self) -> Running {
        Running::start(&self.host, self.at.path(), MechanismChoice::Auto, || refuse_bpf(None), || {})
    }

    /// The kernel attaches no BPF program for this one.
    fn start_without_links(&self) -> Running {
        const BPF_LINK_CREATE: u32 = 28;
        Running::start(&self.host, self.at.path(), MechanismChoice::Bpf, || {}, || refuse_bpf(Some(BPF_LINK_CREATE)))
    }

    /// Does what the guard of a daemon does that was killed.
    fn undo(&self) {
        let undone = self.host.netns().run(|| {
            let directory = Directory::of_namespace(self.at.path()).expect("/proc");
            let state = directory.read().expect("what the daemon has written");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(undo(&directory, &state));
        });
        undone.expect("the namespace");
    }

    /// Where the host's daemon leaves what it has written.
    fn directory(&self) -> Directory {
        let directory = self.host.netns().run(|| Directory::of_namespace(self.at.path()).expect("/proc"));
        directory.expect("the namespace")
    }

    /// Waits until the daemon has written that it was granted an address: it does so a little later than it uses it.
    fn until_written(&self, address: Mac) {
        let directory = self.directory();
        let has_it = |lease: &LeaseRecord| lease.granted.as_ref().is_some_and(|granted| granted.address == address);
        eventually("the grant is written", || {
            let written = directory.read().map(|state| state.destinations).unwrap_or_default();
            written.iter().flat_map(|destination| &destination.leases).any(has_it)
        });
    }

    /// Waits until a frame to this address has been seen.
    fn until_seen(&self, address: Mac) {
        eventually("a frame to it is seen", || self.tap.frames().iter().any(|frame| mac_at(frame, 0) == address));
    }

    /// Whether something is pinned in the BPF file system for this daemon.
    fn is_pinned(&self) -> bool {
        let name = self.directory().name();
        flowlane_program::bpffs::find().expect("mounted").join("flowlane").join(format!("host-{name}")).exists()
    }

    /// Our tables of nftables.
    fn tables(&self) -> usize {
        let listed = self.host.netns().command("nft").args(["list", "tables"]).output().expect("nft");
        String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains("flowlane")).count()
    }

    /// Whether the next frames go to this address.
    fn go_to(&self, address: Mac) {
        let seen = self.tap.frames().len();
        assert_eq!(self.destinations(seen + 5)[seen..seen + 5], [address; 5]);
    }

    /// The destinations of so many frames.
    fn destinations(&self, count: usize) -> Vec<Mac> {
        let frames = self.tap.wait_for(count, SOON).expect("frames");
        frames.iter().map(|frame| mac_at(frame, 0)).collect()
    }
}

fn mac_at(frame: &Frame, at: usize) -> Mac {
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

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let give_up = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < give_up, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The first flow's address, as soon as it is open.
fn open_address(daemon: &Running) -> Mac {
    let mut address = None;
    eventually("a flow is open", || {
        address = daemon.flows().first().and_then(|flow| flow.address);
        address.is_some()
    });
    address.expect("open")
}

fn cgroup_of(run: &RunView) -> PathBuf {
    run.cgroup.clone().expect("a cgroup")
}

#[test]
fn every_packet_of_a_program_carries_its_flow_address_and_no_others_do() {
    let setup = setup();
    let daemon = setup.start();
    let mut program = Program::new(&setup.host, "ping -q -n -i 0.05 -W 1 -c 3 10.1.0.2; sleep 60");
    let other = Program::pings(&setup.host, 3);
    let run = daemon.run(&program, Wishes::default()).expect("a run");
    assert_eq!((run.name.as_str(), run.kind.as_str()), (&*format!("ping[{}]", program.pid()), "program"));
    program.go();
    let flow = setup.switch.wait_for_leases(1)[0].clone();
    assert_eq!(flow.spec.name.as_deref(), Some(&*run.name));
    assert_eq!(flow.spec.destination, Some(ip("10.1.0.2")));
    let destinations = setup.destinations(3);
    let address = daemon.flows()[0].address.expect("open");
    assert_eq!(destinations, [address; 3]);
    other.finish();
    assert_eq!(setup.destinations(6)[3..], [REAL; 3]);
    let flows = daemon.flows();
    assert_eq!((flows.len(), flows[0].state.as_str(), flows[0].packets), (1, "open", 3));
    assert_eq!(flows[0].bytes, 3 * 98);
    daemon.stop();
}

#[test]
fn a_program_that_ends_leaves_nothing_behind() {
    let setup = setup();
    let (daemon, program, cgroup) = setup.with_a_run(1);
    assert!(cgroup.exists());
    program.finish();
    setup.switch.wait_for_leases(0);
    eventually("the cgroup is removed", || !cgroup.exists());
    assert_eq!(daemon.status().runs, []);
    assert_eq!(daemon.stop(), Ended::Undone);
}

#[test]
fn without_a_switch_packets_leave_at_once_as_they_are() {
    let leave_at_once = || {
        let setup = setup();
        setup.switch.set_silent(true);
        let daemon = setup.start();
        let program = Program::pings(&setup.host, 2);
        daemon.run(&program, Wishes::default()).expect("a run");
        eventually("nobody answers", || daemon.status().interfaces[0].service == Some(false));
        let go = SystemTime::now();
        program.finish();
        let frames = setup.tap.wait_for(2, SOON).expect("frames");
        assert_eq!(setup.destinations(2), [REAL; 2]);
        assert!(setup.switch.asked().is_empty());
        daemon.stop();
        frames[1].at.duration_since(go).expect("later") < Duration::from_millis(700)
    };
    // Where somebody was asked, both would leave after 900 ms, each time; a busy machine takes so long at times.
    assert!((0..3).any(|_| leave_at_once()), "three times they took 700 ms");
}

#[test]
fn a_refused_flow_leaves_packets_as_they_are() {
    let setup = setup();
    setup.switch.set_refusing(true);
    let daemon = setup.start();
    let mut program = Program::pings(&setup.host, 2);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    assert_eq!(setup.destinations(2), [REAL; 2]);
    let flow = &daemon.flows()[0];
    assert_eq!((flow.state.as_str(), flow.address), ("plain", None));
    assert!(flow.reason.as_deref().is_some_and(|reason| reason.contains("no flow address is free")), "{flow:?}");
    daemon.stop();
}

#[test]
fn what_requires_flows_sends_nothing_without() {
    let setup = setup();
    let daemon = setup.start();
    let mut program = Program::new(&setup.host, "ping -q -n -i 0.05 -W 1 -c 2 10.1.0.2; ping -c 1 -W 1 -q 10.1.0.3");
    let wishes = Wishes { require: true, to: vec![ip("10.1.0.3")], ..Wishes::default() };
    daemon.run(&program, wishes).expect("a run");
    setup.switch.set_refusing(true);
    program.go();
    eventually("it is cut off", || daemon.flows().iter().any(|flow| flow.state == "cut"));
    let open = daemon.flows().into_iter().find_map(|flow| flow.address).expect("the one that was opened before");
    assert_eq!(setup.destinations(1), [open]);
    daemon.stop();
}

#[test]
fn a_program_that_requires_flows_does_not_begin_where_there_are_none() {
    let setup = setup();
    setup.switch.set_silent(true);
    let daemon = setup.start();
    let program = Program::pings(&setup.host, 1);
    let problem = daemon.run(&program, Wishes { require: true, ..Wishes::default() }).expect_err("no service");
    assert_eq!(problem.code, ProblemCode::NoService);
    setup.switch.set_silent(false);
    eventually("a switch answers", || daemon.status().interfaces[0].service == Some(true));
    setup.switch.set_refusing(true);
    let wishes = Wishes { require: true, to: vec![ip("10.1.0.2")], ..Wishes::default() };
    let problem = daemon.run(&program, wishes).expect_err("refused");
    assert_eq!(problem.code, ProblemCode::Refused);
    assert_eq!(daemon.status().runs, []);
    daemon.stop();
}

#[test]
fn a_program_that_requires_flows_does_not_begin_where_its_packets_can_not_be_seen() {
    let setup = setup();
    let daemon = setup.start_without_links();
    let program = Program::pings(&setup.host, 2);
    let problem = daemon.run(&program, Wishes { require: true, ..Wishes::default() }).expect_err("it could leave");
    assert_eq!(problem.code, ProblemCode::System);
    assert!(problem.message.contains("eth0"), "{}", problem.message);
    assert_eq!(daemon.status().runs, []);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.finish();
    assert_eq!(setup.destinations(2), [REAL; 2]);
    daemon.stop();
}

#[test]
fn a_daemon_that_does_not_come_to_serve_leaves_nothing() {
    let setup = setup();
    let options = options(setup.at.path(), MechanismChoice::Bpf);
    let begun = setup.host.netns().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(Daemon::start(options)).map(drop)
    });
    begun.expect("the namespace").expect("a daemon");
    assert!(setup.is_pinned());
    setup.undo();
    assert!(!setup.is_pinned());
}

#[test]
fn the_flow_address_stands_in_the_source_field_where_that_is_wished() {
    let setup = setup();
    let daemon = setup.start();
    let mut program = Program::pings(&setup.host, 2);
    daemon.run(&program, Wishes { field: Field::Source, rate: Some(1_000_000), ..Wishes::default() }).expect("a run");
    program.go();
    let frames = setup.tap.wait_for(2, SOON).expect("frames");
    let flow = daemon.flows()[0].clone();
    for frame in &frames {
        assert_eq!((mac_at(frame, 0), Some(mac_at(frame, 6))), (REAL, flow.address));
    }
    let lease = &setup.switch.leases()[0];
    assert_eq!((lease.spec.rate, flow.rate), (Some(1_000_000), Some(1_000_000)));
    daemon.stop();
}

#[test]
fn a_successor_keeps_what_a_killed_daemon_had_opened() {
    let setup = setup();
    let (daemon, mut program, cgroup) = setup.with_a_run(100);
    program.go();
    let first = open_address(&daemon);
    setup.until_written(first);
    daemon.kill();
    let seen = setup.tap.frames().len();
    let daemon = setup.start();
    eventually("it is open", || daemon.flows().iter().any(|flow| flow.address == Some(first)));
    assert_eq!(setup.destinations(seen + 10)[seen..seen + 10], [first; 10]);
    assert_eq!(setup.switch.leases().len(), 1);
    drop(program);
    setup.switch.wait_for_leases(0);
    eventually("the cgroup is removed", || !cgroup.exists());
    daemon.stop();
}

#[test]
fn what_was_granted_to_a_daemon_that_was_killed_before_it_heard_of_it_is_given_back() {
    let setup = setup();
    let (daemon, mut program, cgroup) = setup.with_a_run(100);
    setup.switch.set_mute(true);
    program.go();
    setup.switch.wait_for_leases(1);
    daemon.kill();
    setup.switch.set_mute(false);
    setup.undo();
    assert_eq!(setup.switch.leases(), []);
    assert!(!cgroup.exists());
}

#[test]
fn a_cgroup_that_was_left_empty_is_removed_at_the_start() {
    let setup = setup();
    let program = Program::pings(&setup.host, 1);
    let left = setup.host.netns().run(|| Cgroup::make(program.pid(), 4_711).expect("a cgroup"));
    let left = left.expect("the namespace");
    let daemon = setup.start();
    assert!(!left.path().exists());
    daemon.stop();
}

#[test]
fn one_thing_is_not_two_runs() {
    let setup = setup();
    let (daemon, program, cgroup) = setup.with_a_run(1);
    let begin = |subject| {
        let peer = Peer { pid: program.pid(), user: getuid().as_raw() };
        daemon.ask(|reply| Command::Begin(peer, subject, Wishes::default(), reply)).map(|run| run.run)
    };
    assert_eq!(begin(Subject::Cgroup(cgroup)).expect_err("taken").code, ProblemCode::Invalid);
    let first = begin(Subject::Socket(1 << 40)).expect("a run");
    assert_eq!(begin(Subject::Socket(1 << 40)).expect_err("taken").code, ProblemCode::Invalid);
    daemon.commands.as_ref().expect("running").blocking_send(Command::End(first)).expect("it listens");
    begin(Subject::Socket(1 << 40)).expect("a run again");
    daemon.stop();
}

#[test]
fn a_successor_uses_no_number_that_its_predecessor_may_have_used() {
    let setup = setup();
    let daemon = setup.start();
    let (one, two) = (Program::pings(&setup.host, 100), Program::pings(&setup.host, 100));
    let to = |last: &str| Wishes { to: vec![ip(last)], ..Wishes::default() };
    let first = daemon.run(&one, to("10.1.0.2")).expect("a run");
    let iaid = setup.switch.wait_for_leases(1)[0].key.iaid;
    thread::sleep(Duration::from_millis(50));
    daemon.kill();
    let daemon = setup.start();
    let second = daemon.run(&two, to("10.1.0.3")).expect("a run");
    let leases = setup.switch.wait_for_leases(2);
    assert!(second.run > first.run + 100, "{} and {}", first.run, second.run);
    assert!(leases.iter().any(|lease| lease.key.iaid.wrapping_sub(iaid) > 10_000), "{leases:?}");
    daemon.stop();
}

#[test]
fn what_ends_while_nobody_looks_is_given_back_by_the_successor() {
    let setup = setup();
    let (daemon, mut program, cgroup) = setup.with_a_run(100);
    program.go();
    open_address(&daemon);
    thread::sleep(Duration::from_millis(50));
    daemon.kill();
    drop(program);
    eventually("it has ended", || {
        fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"))
    });
    let daemon = setup.start();
    setup.switch.wait_for_leases(0);
    eventually("the cgroup is removed", || !cgroup.exists());
    daemon.stop();
}

#[test]
fn a_daemon_that_stops_undoes_everything_and_the_program_goes_on() {
    let setup = setup();
    let (daemon, mut program, cgroup) = setup.with_a_run(200);
    program.go();
    open_address(&daemon);
    assert_eq!(daemon.stop(), Ended::Undone);
    assert_eq!(setup.switch.leases(), []);
    assert!(!cgroup.exists());
    // The kernel takes the program off the interface a moment later.
    setup.until_seen(REAL);
    setup.go_to(REAL);
}

#[test]
fn a_flow_that_is_closed_is_cut_off() {
    let setup = setup();
    let daemon = setup.start();
    let mut program = Program::pings(&setup.host, 200);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    let closed = daemon.ask(|reply| Command::Close(None, address, reply)).expect("closed");
    assert_eq!((closed.address, closed.state.as_str()), (Some(address), "cut"));
    setup.switch.wait_for_leases(0);
    thread::sleep(Duration::from_millis(100));
    let seen = setup.tap.frames().len();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(setup.tap.frames().len(), seen);
    let again = daemon.ask(|reply| Command::Close(None, address, reply)).expect_err("there is none");
    assert_eq!(again.code, ProblemCode::NoSuchFlow);
    daemon.stop();
}

#[test]
fn a_user_neither_sees_nor_closes_the_flows_of_others() {
    let setup = setup();
    let daemon = setup.start();
    let mut program = Program::pings(&setup.host, 200);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    let other = Some(getuid().as_raw() + 1);
    let status = daemon.ask(|reply| Command::Status(other, reply)).expect("a status");
    assert_eq!(status.runs, []);
    let problem = daemon.ask(|reply| Command::Close(other, address, reply)).expect_err("not his");
    assert_eq!(problem.code, ProblemCode::NoSuchFlow);
    daemon.stop();
}

#[test]
fn by_nftables_a_program_is_in_its_flow_until_it_ends_and_nothing_is_left() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    assert_eq!(daemon.status().mechanism, "nft");
    let mut program = Program::pings(&setup.host, 200);
    let other = Program::new(&setup.host, "exec ping -q -c 1 -W 1 10.1.0.3");
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    thread::sleep(Duration::from_millis(100));
    setup.go_to(address);
    eventually("it is counted", || daemon.flows()[0].packets >= 5);
    other.finish();
    assert!(setup.destinations(1).contains(&REAL));
    drop(program);
    setup.switch.wait_for_leases(0);
    assert_eq!((daemon.stop(), setup.tables()), (Ended::Undone, 0));
}

#[test]
fn by_nftables_what_requires_flows_sends_nothing_without() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let mut program = Program::new(&setup.host, "ping -q -n -i 0.05 -W 1 -c 2 10.1.0.2; ping -c 1 -W 1 -q 10.1.0.3");
    let wishes = Wishes { require: true, to: vec![ip("10.1.0.3")], ..Wishes::default() };
    daemon.run(&program, wishes).expect("a run");
    setup.switch.set_refusing(true);
    program.go();
    let cut = |flow: &FlowView| flow.state == "cut" && flow.destination == ip("10.1.0.2");
    eventually("it is cut off", || daemon.flows().iter().any(cut));
    let open = daemon.flows().into_iter().find_map(|flow| flow.address).expect("the one that was opened before");
    assert_eq!(setup.destinations(1), [open]);
    daemon.stop();
}

#[test]
fn by_nftables_a_flow_that_is_closed_is_cut_off() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let mut program = Program::pings(&setup.host, 200);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    daemon.ask(|reply| Command::Close(None, address, reply)).expect("closed");
    setup.switch.wait_for_leases(0);
    thread::sleep(Duration::from_millis(100));
    let seen = setup.tap.frames().len();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(setup.tap.frames().len(), seen);
    daemon.stop();
}

/// It is not asked again whether the kernel takes BPF programs: who began with nftables is followed by nftables.
#[test]
fn a_successor_uses_the_same_rules_and_no_packet_leaves_them() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let mut program = Program::pings(&setup.host, 400);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    setup.until_written(address);
    // The tap has also seen the packets before the flow by then.
    setup.until_seen(address);
    let seen = setup.tap.frames().len();
    daemon.kill();
    let daemon = setup.start();
    assert_eq!(daemon.status().mechanism, "nft");
    eventually("it is open", || daemon.flows().iter().any(|flow| flow.address == Some(address)));
    assert!(setup.destinations(seen + 10)[seen..].iter().all(|destination| *destination == address));
    assert_eq!((setup.switch.leases().len(), setup.tables()), (1, 2));
    drop(program);
    setup.switch.wait_for_leases(0);
    assert_eq!((daemon.stop(), setup.tables()), (Ended::Undone, 0));
}

#[test]
fn a_successor_that_is_told_another_mechanism_keeps_the_flows_and_removes_the_rules() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let mut program = Program::pings(&setup.host, 400);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    thread::sleep(Duration::from_millis(100));
    daemon.kill();
    let daemon = setup.start_with(MechanismChoice::Bpf);
    assert_eq!((daemon.status().mechanism.as_str(), setup.tables()), ("bpf", 0));
    eventually("it is open", || daemon.flows().iter().any(|flow| flow.address == Some(address)));
    setup.go_to(address);
    assert_eq!(setup.switch.leases().len(), 1);
    daemon.stop();
}

#[test]
fn where_the_kernel_refuses_bpf_nftables_are_used_and_nothing_is_pinned() {
    let setup = setup();
    // The library looks once in a process what the kernel can do.
    let daemon = setup.start();
    assert!(setup.is_pinned());
    assert_eq!(daemon.stop(), Ended::Undone);
    let daemon = setup.start_without_bpf();
    assert_eq!((daemon.status().mechanism.as_str(), setup.is_pinned()), ("nft", false));
    let mut program = Program::pings(&setup.host, 200);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    thread::sleep(Duration::from_millis(100));
    setup.go_to(address);
    assert_eq!((daemon.stop(), setup.tables()), (Ended::Undone, 0));
}

#[test]
fn a_successor_restores_rules_that_somebody_has_flushed() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let mut program = Program::pings(&setup.host, 400);
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    setup.until_written(address);
    daemon.kill();
    let flushed = setup.host.netns().command("nft").args(["flush", "ruleset"]).status().expect("nft");
    assert!(flushed.success());
    let daemon = setup.start();
    assert_eq!(daemon.flows().first().and_then(|flow| flow.address), Some(address));
    thread::sleep(Duration::from_millis(100));
    setup.go_to(address);
    daemon.stop();
}
