//! `flowlane run` and what else asks a host's daemon, with the daemon's socket and real cgroups; the flows are made up.

use crate::{BINARY, Run, as_nobody, cleared, file, finish, flowlane};
use flowlane_client::{
    FlowView, Problem, ProblemCode, RunView, Status, Wishes,
    protocol::{InterfaceView, socket},
};
use flowlane_host::{
    cgroup::Cgroup,
    command::{Command as Asked, Peer, Subject},
    policy::Policy,
    process::Process,
    server::Server,
};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::MetadataExt as _, fs::PermissionsExt as _, process::CommandExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(10);

/// What was asked of the daemon.
#[derive(Debug, PartialEq)]
enum Told {
    Run(Peer, String, Wishes),
    Cgroup(PathBuf, Wishes),
    Namespace(Wishes),
    End,
}

/// A daemon of this network namespace without flows: it puts programs into cgroups, and answers.
struct Daemon {
    directory: tempfile::TempDir,
    told: Receiver<Told>,
}

impl Daemon {
    fn start(policy: Policy, refusal: Option<Problem>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("set");
        let path = socket_in(directory.path());
        let (tell, told) = channel();
        let (ready, started) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let server = Server::listen(&path).expect("a socket");
                let (sender, mut asked) = mpsc::channel(8);
                ready.send(()).expect("awaited");
                let answered = async {
                    let mut cgroups = Vec::new();
                    while let Some(command) = asked.recv().await {
                        answer(command, refusal.as_ref(), &tell, &mut cgroups);
                    }
                };
                tokio::select! { _ = server.serve(policy, sender) => {}, () = answered => {} }
            });
        });
        started.recv_timeout(SOON).expect("it listens");
        Self { directory, told }
    }

    fn told(&self) -> Told {
        self.told.recv_timeout(SOON).expect("something is asked")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = flowlane();
        command.env("FLOWLANE_RUNTIME_DIRECTORY", self.directory.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        finish(self.command(arguments).output().expect("starts"))
    }

    fn as_nobody(&self, arguments: &[&str]) -> Run {
        let mut command = as_nobody(&self.directory);
        finish(
            command.env("FLOWLANE_RUNTIME_DIRECTORY", self.directory.path()).args(arguments).output().expect("starts"),
        )
    }
}

fn answer(command: Asked, refusal: Option<&Problem>, tell: &Sender<Told>, cgroups: &mut Vec<Cgroup>) {
    match command {
        Asked::Run(process, request, reply) => {
            let peer = Peer { pid: process.pid(), user: process.user() };
            let _ = tell.send(Told::Run(peer, request.command, request.wishes.clone()));
            let admitted = refusal.cloned().map_or_else(|| Ok(admit(&process)), Err);
            let _ = reply.send(admitted.map(|cgroup| {
                let path = cgroup.path().to_owned();
                cgroups.push(cgroup);
                RunView { cgroup: Some(path), ..view("program", request.wishes) }
            }));
        }
        Asked::Begin(_, subject, wishes, reply) => {
            let (told, kind) = match subject {
                Subject::Cgroup(path) => (Told::Cgroup(path, wishes.clone()), "cgroup"),
                Subject::Namespace => (Told::Namespace(wishes.clone()), "namespace"),
                Subject::Socket(_) => panic!("no command asks for a socket"),
            };
            let _ = tell.send(told);
            let _ = reply.send(Ok(view(kind, wishes)));
        }
        Asked::End(_) => {
            let _ = tell.send(Told::End);
        }
        Asked::Status(_, reply) => {
            let _ = reply.send(Ok(status()));
        }
        Asked::Close(_, address, reply) => {
            let found = status().runs.into_iter().flat_map(|run| run.flows).find(|flow| flow.address == Some(address));
            let message = format!("there is no flow {address}");
            let _ = reply.send(found.ok_or(Problem { code: ProblemCode::NoSuchFlow, message }));
        }
    }
}

/// The cgroup goes when the process has ended.
fn admit(process: &Process) -> Cgroup {
    let cgroup = Cgroup::make(process.pid(), process.pid() as u32).expect("root");
    cgroup.admit_process(process).expect("moved");
    let left = cgroup.clone();
    thread::spawn(move || {
        while !left.is_empty().expect("read") {
            thread::sleep(Duration::from_millis(5));
        }
        left.dissolve().expect("dissolved");
    });
    cgroup
}

fn view(kind: &str, wishes: Wishes) -> RunView {
    let name = wishes.name.clone().unwrap_or_else(|| "curl".to_owned());
    RunView { run: 3, name, kind: kind.into(), pid: 4711, user: 1000, cgroup: None, wishes, flows: Vec::new() }
}

/// What a status shows: a program with two destinations.
fn status() -> Status {
    let flow = |destination: &str, address: Option<&str>, state: &str, reason: Option<&str>| FlowView {
        address: address.map(|address| address.parse().expect("an address")),
        run: 3,
        destination: destination.parse().expect("an address"),
        interface: "eth0".into(),
        state: state.into(),
        reason: reason.map(str::to_owned),
        path: 0,
        rate: address.map(|_| 10_000_000),
        packets: address.map_or(0, |_| 12),
        bytes: address.map_or(0, |_| 3_456),
        remaining: address.map(|_| 3_599),
    };
    let flows = vec![
        flow("192.0.2.7", Some("a2:f1:8d:81:84:00"), "open", None),
        flow("2001:db8::7", None, "plain", Some("the switch has no way there")),
    ];
    let cgroup = Some("/sys/fs/cgroup/user.slice/flowlane-4026531840-3".into());
    let interfaces = [("eth0", Some(true)), ("eth1", Some(false)), ("wlan0", None)]
        .map(|(name, service)| InterfaceView { interface: name.into(), service });
    Status {
        version: "0.1.0".into(),
        mechanism: "bpf".into(),
        interfaces: interfaces.to_vec(),
        runs: vec![RunView { cgroup, flows, ..view("program", Wishes::default()) }],
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    socket(directory, fs::metadata("/proc/thread-self/ns/net").expect("/proc").ino())
}

fn strict() -> Policy {
    Policy { users: Vec::new(), groups: Vec::new(), ..Policy::default() }
}

fn no_service() -> Problem {
    Problem { code: ProblemCode::NoService, message: "no switch answers on eth0".into() }
}

#[test]
fn a_program_is_put_into_a_cgroup_and_is_the_same_process() {
    let daemon = Daemon::start(strict(), None);
    let mut command = daemon.command(&["run", "--to", "192.0.2.7", "--rate", "10M", "--name", "mine", "--paths", "2"]);
    command.args(["--field", "source", "sh", "-c", "echo $$; grep ^0:: /proc/self/cgroup"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let pid = child.id();
    let run = finish(child.wait_with_output().expect("ends"));
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    let (own, cgroup) = run.out.split_once('\n').expect("two lines");
    assert_eq!(own, pid.to_string());
    assert!(cgroup.contains("/flowlane-") && cgroup.trim().ends_with(&format!("-{pid}")), "{cgroup}");
    let wishes = Wishes {
        name: Some("mine".into()),
        to: vec!["192.0.2.7".parse().expect("an address")],
        rate: Some(10_000_000),
        field: flowlane_client::Field::Source,
        paths: 2,
        require: false,
    };
    let peer = Peer { pid: pid as i32, user: 0 };
    let words = "sh -c echo $$; grep ^0:: /proc/self/cgroup".to_owned();
    assert_eq!(daemon.told(), Told::Run(peer, words, wishes));
}

#[test]
fn exit_code_signals_and_streams_are_the_program_s_own() {
    let daemon = Daemon::start(strict(), None);
    for (script, code) in [("exit 0", Some(0)), ("exit 37", Some(37)), ("echo out; echo err >&2; exit 3", Some(3))] {
        let plain = finish(Command::new("sh").args(["-c", script]).output().expect("starts"));
        let run = daemon.run(&["run", "--", "sh", "-c", script]);
        assert_eq!((run.code, &run.out, &run.err), (code, &plain.out, &plain.err), "{script}");
    }
    let killed = daemon.command(&["run", "sh", "-c", "kill -9 $$"]).status().expect("starts");
    assert_eq!(killed.signal(), Some(libc::SIGKILL));
}

#[test]
fn what_can_not_be_executed_ends_as_with_env() {
    let daemon = Daemon::start(strict(), None);
    for (program, code) in [("no-such-program", 127), ("/no/such/program", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let run = daemon.run(&["run", "--", program]);
        assert_eq!((run.code, run.out.as_str()), (Some(code), ""), "{program}");
        assert!(run.err.starts_with(&format!("error[FL0903]: can not run {program}: ")), "{}", run.err);
        let env = Command::new("env").arg(program).stderr(Stdio::null()).status().expect("starts");
        assert_eq!(env.code(), run.code);
    }
}

#[test]
fn sigpipe_is_to_the_program_what_it_was_to_the_command() {
    let daemon = Daemon::start(strict(), None);
    let ignored = |ignore: bool| {
        let mut command = daemon.command(&["run", "--", "grep", "^SigIgn", "/proc/self/status"]);
        let action = if ignore { SigHandler::SigIgn } else { SigHandler::SigDfl };
        // SAFETY: one system call between fork and exec; neither action runs code.
        unsafe { command.pre_exec(move || Ok(signal(Signal::SIGPIPE, action).map(|_| ())?)) };
        let run = finish(command.output().expect("starts"));
        let mask = run.out.trim().rsplit('\t').next().expect("a mask").to_owned();
        u64::from_str_radix(&mask, 16).expect("a mask") >> (libc::SIGPIPE - 1) & 1 == 1
    };
    assert!(!ignored(false));
    assert!(ignored(true));
}

#[test]
fn a_user_whom_the_policy_does_not_allow_is_refused_and_nothing_is_run() {
    let daemon = Daemon::start(strict(), None);
    for arguments in [&["run", "echo", "ran"][..], &["run", "--require", "echo", "ran"]] {
        let run = daemon.as_nobody(arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(4), ""), "{}", run.err);
        assert!(run.err.starts_with("error[FL0901]: user nobody may not have flows on this host"), "{}", run.err);
    }
    let json = daemon.as_nobody(&["--json", "run", "echo", "ran"]);
    assert_eq!((json.code, json.error()["code"].as_str()), (Some(4), Some("FL0901")));
    let cgroup = daemon.as_nobody(&["run", "--cgroup", "/sys/fs/cgroup"]);
    assert_eq!(cgroup.code, Some(4), "{}", cgroup.err);
}

#[test]
fn a_user_whom_the_policy_allows_needs_no_privileges() {
    let daemon = Daemon::start(Policy { users: vec![65_534], ..strict() }, None);
    let run = daemon.as_nobody(&["run", "id", "-u"]);
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(0), "65534\n", ""));
    let Told::Run(peer, ..) = daemon.told() else { panic!("a run") };
    assert_eq!(peer.user, 65_534);
}

#[test]
fn without_a_daemon_a_user_s_program_runs_as_usual_with_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |arguments: &[&str]| {
        let mut command = as_nobody(&directory);
        command.env("FLOWLANE_RUNTIME_DIRECTORY", directory.path()).args(arguments);
        finish(command.output().expect("starts"))
    };
    let run = at(&["run", "sh", "-c", "echo ran; exit 5"]);
    assert_eq!((run.code, run.out.as_str()), (Some(5), "ran\n"));
    assert!(run.err.starts_with("flowlane: sh runs without flows: no Flowlane daemon answers on "), "{}", run.err);
    assert_eq!(run.err.lines().count(), 1, "{}", run.err);
    let required = at(&["run", "--require", "echo", "ran"]);
    assert_eq!((required.code, required.out.as_str()), (Some(3), ""));
    assert!(required.err.contains("help: start it as root, by `flowlane host`"), "{}", required.err);
}

#[test]
fn what_the_network_or_the_host_lacks_ends_only_what_requires_it() {
    let system = Problem { code: ProblemCode::System, message: "there is no cgroup v2 file system".into() };
    let daemon = Daemon::start(strict(), Some(system));
    let run = daemon.run(&["run", "echo", "ran"]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), "ran\n"));
    assert_eq!(run.err, "flowlane: echo runs without flows: there is no cgroup v2 file system\n");
    assert_eq!(daemon.run(&["run", "--require", "echo", "ran"]).code, Some(1));

    let daemon = Daemon::start(strict(), Some(no_service()));
    let required = daemon.run(&["run", "--require", "echo", "ran"]);
    assert_eq!((required.code, required.out.as_str()), (Some(6), ""));
    assert!(required.err.starts_with("error[FL0901]: no switch answers on eth0\n"), "{}", required.err);
}

#[test]
fn a_command_line_that_names_nothing_is_code_2() {
    let daemon = Daemon::start(strict(), None);
    let run = daemon.run(&["run"]);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""));
    assert!(run.err.starts_with("error[FL0902]"), "{}", run.err);
    let nowhere = daemon.run(&["run", "--cgroup", "/tmp"]);
    assert_eq!(nowhere.code, Some(2), "{}", nowhere.err);
    let nobody = daemon.run(&["run", "--to", "224.0.0.1", "echo", "ran"]);
    assert_eq!((nobody.code, nobody.out.as_str()), (Some(2), ""), "{}", nobody.err);
}

/// A command that stays, until SIGINT.
fn stays(mut command: Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    (child, line)
}

fn interrupt(mut child: Child) -> (Option<i32>, String) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGINT).expect("it runs");
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    (child.wait().expect("ends").code(), said)
}

#[test]
fn a_cgroup_is_in_flows_until_ctrl_c() {
    let daemon = Daemon::start(strict(), None);
    let mut inside = Command::new("sleep").arg("60").spawn().expect("starts");
    let cgroup = admit(&Process::open(inside.id() as i32, 0).expect("a process"));
    let path = cgroup.path().display().to_string();
    let (child, line) = stays(daemon.command(&["run", "--rate", "1M", "--cgroup", &path]));
    assert_eq!(line, format!("cgroup {path}: in flows until Ctrl-C\n"));
    let wishes = Wishes { rate: Some(1_000_000), paths: 1, ..Wishes::default() };
    assert_eq!(daemon.told(), Told::Cgroup(cgroup.path().to_owned(), wishes));
    assert_eq!(interrupt(child), (Some(0), String::new()));
    assert_eq!(daemon.told(), Told::End);
    inside.kill().and_then(|()| inside.wait()).expect("ends");
}

#[test]
fn processes_of_several_networks_are_not_one_cgroup() {
    let daemon = Daemon::start(strict(), None);
    let netns = flowlane_lab::Netns::new("run").expect("root");
    let mut inside =
        [Command::new("sleep"), netns.command("sleep")].map(|mut command| command.arg("60").spawn().expect("starts"));
    let cgroup = Cgroup::make(inside[0].id() as i32, inside[0].id()).expect("root");
    inside.iter().for_each(|child| cgroup.admit(child.id() as i32).expect("moved"));
    let run = daemon.run(&["run", "--cgroup", cgroup.path().to_str().expect("UTF-8")]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("are in 2 network namespaces\n"), "{}", run.err);
    inside.iter_mut().for_each(|child| child.kill().and_then(|()| child.wait().map(drop)).expect("ends"));
    cgroup.dissolve().expect("dissolved");
}

#[test]
fn a_whole_network_namespace_is_in_flows_until_ctrl_c() {
    let daemon = Daemon::start(strict(), None);
    let (child, line) = stays(daemon.command(&["run", "--netns", "/proc/self/ns/net"]));
    assert_eq!(line, "network namespace /proc/self/ns/net: in flows until Ctrl-C\n");
    assert_eq!(daemon.told(), Told::Namespace(Wishes { paths: 1, ..Wishes::default() }));
    assert_eq!(interrupt(child), (Some(0), String::new()));
    assert_eq!(daemon.told(), Told::End);
    let nowhere = daemon.run(&["run", "--netns", "/no/such/file"]);
    assert!(
        nowhere.err.starts_with("error[FL0002]: can not enter the network namespace /no/such/file"),
        "{}",
        nowhere.err
    );
}

#[test]
fn where_there_is_no_switch_flows_are_those_of_this_host_s_programs() {
    let daemon = Daemon::start(strict(), None);
    assert_eq!(
        daemon.run(&["flow", "ls"]).out,
        "\
ADDRESS            PROGRAM     TO           INTERFACE  STATE  RATE  PACKETS  BYTES
a2:f1:8d:81:84:00  curl[4711]  192.0.2.7    eth0       open   10M   12       3456
-                  curl[4711]  2001:db8::7  eth0       plain  -     0        0
"
    );
    let wide = daemon.run(&["flow", "ls", "-o", "wide"]).out;
    assert!(wide.contains("1000") && wide.contains("59m59s") && wide.contains("the switch has no way there"), "{wide}");
    assert_eq!(daemon.run(&["flow", "ls", "-o", "name"]).out, "a2:f1:8d:81:84:00\n");
    let document = daemon.run(&["flow", "ls", "--json"]).document();
    assert_eq!(
        (&document[0]["pid"], &document[0]["name"], &document[1]["state"]),
        (&4711.into(), &"curl".into(), &"plain".into())
    );

    let shown = daemon.run(&["flow", "show", "a2:f1:8d:81:84:00"]).out;
    assert!(shown.contains("program        curl[4711]\nrun            3 (program)\n"), "{shown}");
    let closed = daemon.run(&["flow", "close", "a2:f1:8d:81:84:00"]);
    assert_eq!((closed.code, closed.out.as_str()), (Some(0), ""));
    assert_eq!(closed.err, "closed a2:f1:8d:81:84:00: what its program sends to 192.0.2.7 is dropped\n");
    for verb in ["show", "close"] {
        let none = daemon.run(&["flow", verb, "a2:f1:8d:81:84:01"]);
        assert_eq!(none.code, Some(5), "{verb}: {}", none.err);
        assert!(none.err.contains("`flowlane flow ls --host` lists"), "{}", none.err);
    }
}

#[test]
fn the_status_of_a_host_shows_interfaces_and_runs() {
    let daemon = Daemon::start(strict(), None);
    assert_eq!(
        daemon.run(&["status"]).out,
        "\
daemon of this host  version 0.1.0  mechanism bpf

INTERFACE  SWITCH
eth0       answers
eth1       none
wlan0      not known yet

RUN  NAME  KIND     PID   USER  FLOWS  OPEN  CGROUP
3    curl  program  4711  1000  2      1     /sys/fs/cgroup/user.slice/flowlane-4026531840-3
"
    );
    assert_eq!(daemon.run(&["--json", "status", "--host"]).document()["mechanism"], "bpf");
}

#[test]
fn a_host_is_named_where_there_is_a_switch_too() {
    let daemon = Daemon::start(strict(), None);
    fs::create_dir(daemon.directory.path().join("switch")).expect("made");
    fs::write(daemon.directory.path().join("switch/switch.sock"), "").expect("written");
    assert_eq!(daemon.run(&["flow", "ls"]).code, Some(3), "the switch is meant, and does not answer");
    assert!(daemon.run(&["flow", "ls", "--host"]).out.contains("curl[4711]"));
    assert!(daemon.run(&["status", "--host"]).out.contains("daemon of this host"));
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = flowlane();
    let none = finish(
        command
            .env("FLOWLANE_RUNTIME_DIRECTORY", directory.path())
            .args(["status", "--host"])
            .output()
            .expect("starts"),
    );
    assert_eq!(none.code, Some(3));
    assert!(none.err.starts_with("error[FL0901]: no Flowlane daemon answers on "), "{}", none.err);
}

#[test]
fn the_configuration_of_a_host_is_checked_and_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    let good = file(&directory, "host.toml", "allow_users = [\"nobody\"]\nallow_groups = []\nmax_rate = \"10M\"\n");
    let mut command = cleared(Command::new(BINARY));
    command.env("FLOWLANE_RUNTIME_DIRECTORY", "/run/x").args(["host", "--check-config", "--config"]).arg(&good);
    let shown = finish(command.output().expect("starts"));
    let lines: Vec<&str> = shown.out.lines().collect();
    assert_eq!(
        lines[..8],
        [
            "users       root, and by number: 65534",
            "groups      by number: none",
            "rate        at most 10Mbit/s",
            "paths       at most 8",
            "runs        at most 256 of a user",
            "flows       used where there are any",
            "interfaces  all",
            "mechanism   auto",
        ]
    );
    assert!(lines[8].starts_with("socket      /run/x/host/"), "{lines:?}");
    let bad = file(&directory, "bad.toml", "require = true\nallow_users = [\"no-such-user\"]\n");
    let wrong = crate::run(&["host", "--check-config", "--config", bad.to_str().expect("UTF-8")]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.err.contains(&format!("at {}:2:", bad.display())), "{}", wrong.err);
}
