//! A host whose programs are put into flows: its daemon, `flowlane run`, and what both leave behind.

use crate::daemon::PROGRAM;
use aya::programs::{SchedClassifier, TcAttachType};
use flowlane_client::{Client, FlowView, Status, protocol};
use flowlane_host::state::Directory;
use flowlane_lab::{Cgroup, Host, Netns};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::{fs::MetadataExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a program may take that is expected to end by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the daemon may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// A host and its daemon, running or not. All that is started here runs in a cgroup of its own, which is killed and
/// removed with it.
pub struct FlowHost {
    netns: Netns,
    interface: String,
    daemon: Option<Child>,
    pub cgroup: Cgroup,
    directory: TempDir,
}

impl FlowHost {
    /// A host without a daemon.
    pub fn without_daemon(host: &Host) -> Self {
        let directory = TempDir::new().expect("a directory");
        // Unprivileged users come by.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("permissions");
        fs::write(directory.path().join("host.toml"), "").expect("a configuration");
        let (netns, interface) = (host.netns().clone(), host.link().name().to_owned());
        Self { netns, interface, daemon: None, cgroup: Cgroup::new("flowlane-e2e").expect("root"), directory }
    }

    /// A host with a daemon that knows that the network offers flows.
    pub fn start(host: &Host) -> Self {
        Self::start_with(host, "")
    }

    /// The same with these settings.
    pub fn start_with(host: &Host, settings: &str) -> Self {
        let mut host = Self::without_daemon(host);
        fs::write(host.path("host.toml"), settings).expect("a configuration");
        host.start_daemon();
        host.wait_for_service(true);
        host
    }

    /// Starts the daemon, and waits until it answers.
    pub fn start_daemon(&mut self) {
        self.spawn_daemon();
        within(PATIENCE, "the daemon answers", || self.status().is_some());
    }

    /// Starts the daemon.
    pub fn spawn_daemon(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = self.flowlane();
        command.arg("host").arg("--config").arg(self.path("host.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().expect("the program runs"));
    }

    /// Waits until the daemon that was started answers; false where it has ended instead.
    pub fn answers(&mut self) -> bool {
        let mut ended = false;
        within(PATIENCE, "the daemon answers", || {
            ended = self.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().expect("a child").is_some());
            ended || self.status().is_some()
        });
        self.daemon.take_if(|_| ended).is_none()
    }

    /// Waits until the daemon knows whether a switch answers.
    pub fn wait_for_service(&self, there: bool) {
        let known = |status: Status| {
            status.interfaces.iter().any(|one| one.interface == self.interface && one.service == Some(there))
        };
        within(PATIENCE, "the daemon knows whether there is a switch", || self.status().is_some_and(known));
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A path in the directory of this host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command of this host, in its cgroup.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.netns.command(program);
        self.cgroup.hold(&mut command).expect("a cgroup");
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// `flowlane`, told where this host's sockets are.
    pub fn flowlane(&self) -> Command {
        let mut command = self.command(PROGRAM);
        command.arg("--runtime-directory").arg(self.directory.path());
        command
    }

    /// `flowlane run ARGUMENTS`.
    pub fn run(&self, arguments: &[&str]) -> Command {
        let mut command = self.flowlane();
        command.arg("run").args(arguments);
        command
    }

    /// `flowlane run --require ARGUMENTS`, of a daemon that knows that there is a switch. What is sent before the switch has
    /// answered is dropped and not sent plainly, however late it answers: for programs that send it again.
    pub fn require(&self, arguments: &[&str]) -> Command {
        self.wait_for_service(true);
        self.run(&[&["--require"], arguments].concat())
    }

    /// `flowlane run ARGUMENTS` by an unprivileged user.
    pub fn run_as(&self, user: u32, program: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--"]);
        command.arg(program).arg("--runtime-directory").arg(self.directory.path()).arg("run").args(arguments);
        command
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        protocol::socket(self.directory.path(), self.namespace())
    }

    /// What the daemon says of itself; nothing where none answers.
    pub fn status(&self) -> Option<Status> {
        Client::connect_to(&self.socket()).ok()?.status().ok()
    }

    /// The flows of all runs.
    pub fn flows(&self) -> Vec<FlowView> {
        flows_of(self.status().expect("a daemon"))
    }

    /// Waits until a run has an open flow to a destination.
    pub fn open_flow(&self, to: &str) -> FlowView {
        self.flow_in("open", to)
    }

    /// Waits until what a run sends to a destination is in this state.
    pub fn flow_in(&self, state: &str, to: &str) -> FlowView {
        let to = crate::lab::ip(to);
        let mut found = None;
        within(ENDING, &format!("the flow to {to} is {state}"), || {
            // A successor may not answer yet.
            let flows = self.status().map(flows_of).unwrap_or_default();
            found = flows.into_iter().find(|flow| flow.destination == to && flow.state == state);
            found.is_some()
        });
        found.expect("it was found")
    }

    /// The daemon's process.
    pub fn daemon(&self) -> i32 {
        self.daemon.as_ref().expect("a daemon").id().cast_signed()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.daemon()), signal).expect("the daemon is there");
    }

    /// Has the daemon execute itself anew, and waits until it serves again.
    pub fn begin_anew(&self) {
        let began =
            || fs::read_to_string(self.path("log")).expect("a log").matches("programs may ask for flows").count();
        let times = began();
        self.signal(Signal::SIGHUP);
        within(PATIENCE, "it begins anew", || began() > times);
        within(PATIENCE, "it answers again", || self.status().is_some());
    }

    /// Leaves the daemon to the caller, who has told it to end.
    pub fn forget_daemon(&mut self) -> Child {
        self.daemon.take().expect("a daemon")
    }

    /// Ends the daemon by this signal.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let mut process = self.daemon.take().expect("a daemon");
        ended(&mut process).unwrap_or_else(|| panic!("the daemon does not end by {signal}:\n{}", self.log()))
    }

    /// What the daemons have said so far.
    pub fn log(&self) -> String {
        let transient = self.path("host").join(self.namespace().to_string()).join("log");
        [self.path("log"), transient].map(|path| fs::read_to_string(path).unwrap_or_default()).concat()
    }

    /// What runs have left in the kernel: cgroups, programs, tables.
    pub fn left_by_runs(&self) -> Vec<String> {
        let cgroups = self.cgroup.below().expect("a cgroup").into_iter().map(|path| path.display().to_string());
        cgroups.chain(self.programs()).chain(self.tables()).collect()
    }

    /// What the daemon has left as well: pins, processes, its socket.
    pub fn left(&self) -> Vec<String> {
        let mut left = self.left_by_runs();
        left.extend(self.pins().into_iter().map(|path| path.display().to_string()));
        left.extend(
            self.cgroup.processes().expect("a cgroup").into_iter().map(|pid| format!("process {}", named(pid))),
        );
        left.extend(self.status().map(|_| "a daemon that answers".to_owned()));
        left
    }

    /// The programs attached to the host's interface.
    fn programs(&self) -> Vec<String> {
        let egress = || SchedClassifier::query_tcx(&self.interface, TcAttachType::Egress);
        let (_, programs) = self.netns.run(egress).expect("a namespace").expect("the kernel answers");
        programs.iter().map(|program| format!("program {:?} at the egress", program.name_as_str())).collect()
    }

    /// Our nftables in the host's namespace.
    fn tables(&self) -> Vec<String> {
        let rules = text(&output(self.netns.command("nft").args(["list", "tables"])));
        rules.lines().filter(|line| line.contains("flowlane")).map(str::to_owned).collect()
    }

    fn pins(&self) -> Vec<PathBuf> {
        // By the daemon's own name: numbers of namespaces are used again.
        let own = self.netns.run(|| Directory::of_namespace(self.directory.path()).expect("/proc").name());
        let own = format!("host-{}", own.expect("a namespace"));
        let found = flowlane_program::bpffs::find().map(|root| root.join("flowlane").join(own));
        found.into_iter().filter(|path| path.exists()).collect()
    }

    /// The number of the host's network namespace.
    fn namespace(&self) -> u64 {
        let number = self.netns.run(|| fs::metadata("/proc/thread-self/ns/net").expect("/proc").ino());
        number.expect("a namespace")
    }
}

impl Drop for FlowHost {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}\n{:#?}", self.log(), self.status());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGINT);
            if ended(&mut daemon).is_none() {
                eprintln!("the daemon does not end by SIGINT");
            }
        }
    }
}

/// A program that is under way, in a process group of its own.
pub struct Going {
    child: Option<Child>,
}

impl Going {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Self {
        let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self { child: Some(child.expect("the program runs")) }
    }

    /// Starts a command that reads what the test [tells](Self::tell) it.
    pub fn told(command: &mut Command) -> Self {
        Self::start(command.stdin(Stdio::piped()))
    }

    /// Starts `ping`, 50 times a second, by a run with these options. It says little, for nobody reads it before its end.
    pub fn ping(host: &FlowHost, options: &[&str], to: &str) -> Self {
        Self::start(&mut host.run(&[options, &["--", "ping", "-q", "-n", "-i", "0.02", to]].concat()))
    }

    /// Writes a line to its standard input: `read` of a shell ends. So it does at the end of the input, which
    /// [`wait`](Self::wait) brings about.
    pub fn tell(&mut self) {
        let input = self.child.as_mut().and_then(|child| child.stdin.as_mut()).expect("it is told");
        input.write_all(b"go\n").expect("it reads");
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("it goes on").id().cast_signed()
    }

    /// Sends a signal to its process group, as a terminal does.
    pub fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.pid()), signal).expect("it is there");
    }

    /// Waits until it has ended by this signal.
    pub fn end(mut self, signal: Signal) -> Output {
        self.signal(signal);
        wait(self.child.take().expect("it goes on"))
    }

    /// Waits until it has ended.
    pub fn wait(mut self) -> Output {
        wait(self.child.take().expect("it goes on"))
    }

    /// Ends `ping`: how many requests were sent, and how many of them were not answered. The last one may be under way.
    pub fn lost(self) -> (u32, u32) {
        let output = self.end(Signal::SIGINT);
        let report = text(&output);
        let summary = report.lines().find(|line| line.contains("packets transmitted")).expect("a summary");
        let mut numbers = summary.split(", ").filter_map(|part| part.split(' ').next()?.parse::<u32>().ok());
        let (sent, received) = (numbers.next().expect("sent"), numbers.next().expect("received"));
        (sent, sent.saturating_sub(received + 1))
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}

/// How a process that was told to end has ended; one that does not is killed.
fn ended(process: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < ENDING {
        if let Some(status) = process.try_wait().expect("a child") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = process.kill().and_then(|()| process.wait());
    None
}

/// Runs a command that is expected to end by itself.
pub fn output(command: &mut Command) -> Output {
    wait(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs"))
}

fn wait(child: Child) -> Output {
    let pid = child.id().cast_signed();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(PATIENCE) else {
        let told = named(pid);
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        panic!("it does not end: {told}");
    };
    output.expect("its output")
}

/// What a command that must end well has printed.
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn flows_of(status: Status) -> Vec<FlowView> {
    status.runs.into_iter().flat_map(|run| run.flows).collect()
}

/// Waits until something is so.
pub fn within(time: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < time, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn named(pid: i32) -> String {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid}: {}", line.replace('\0', " "))
}

/// Waits until a server listens on a TCP port.
pub fn listens(netns: &Netns, port: u16) {
    within(ENDING, &format!("a server listens on port {port}"), || {
        !text(&output(netns.command("ss").args(["-Hltn", &format!("sport = :{port}")]))).is_empty()
    });
}
