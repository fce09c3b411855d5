//! The socket of the daemon, with the client at the other end. Need root.
#![allow(missing_docs)]

use flowlane_client::{
    Client, ClientError, ProblemCode, RunRequest, Wishes,
    protocol::{Answer, Problem, RunView, Status},
};
use flowlane_host::{
    command::{Command, Peer, Subject},
    policy::Policy,
    server::{CONNECTIONS_MAX, Server},
};
use nix::sys::socket::{Backlog, ControlMessage, MsgFlags, listen, sendmsg, setsockopt, sockopt::Linger};
use std::{
    fs,
    io::{BufRead as _, BufReader, IoSlice, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, RawFd},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(10);

/// A server whose commands the test answers.
struct Lab {
    directory: tempfile::TempDir,
    commands: Receiver<Command>,
}

impl Lab {
    fn start() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        Self::after(policy, |_| {})
    }

    /// With something done when it listens and does not accept yet.
    fn after(policy: Policy, first: impl FnOnce(&Path) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (to_test, commands) = channel();
        let (ready, started) = channel();
        let path = socket_in(directory.path());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let server = Server::listen(&path).expect("a socket");
                first(&path);
                ready.send(()).expect("awaited");
                let (sender, mut receiver) = mpsc::channel(8);
                let served = server.serve(policy, sender);
                let forwarded =
                    async { while receiver.recv().await.is_some_and(|command| to_test.send(command).is_ok()) {} };
                tokio::select! { _ = served => {}, () = forwarded => {} }
            });
        });
        started.recv_timeout(SOON).expect("it listens");
        Self { directory, commands }
    }

    fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    fn client(&self) -> Client {
        Client::connect_to(&self.socket()).expect("it listens")
    }

    fn command(&self) -> Command {
        self.commands.recv_timeout(SOON).expect("a command")
    }

    /// A connection of another user.
    fn as_user(&self, user: u32) -> UnixStream {
        self.open_to_all();
        let socket = self.socket();
        let connect = move || {
            // SAFETY: the bare system call, unlike `setuid`, is for this thread only, which ends soon.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
            assert_eq!(done, 0);
            UnixStream::connect(socket).expect("it listens")
        };
        thread::spawn(connect).join().expect("connected")
    }

    fn open_to_all(&self) {
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).expect("set");
    }

    /// The answer to a line as it is.
    fn raw(&self, line: &[u8]) -> Answer {
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        // The server may have heard enough.
        let _ = stream.write_all(line).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("an answer");
        serde_json::from_str(&answer).expect("an answer")
    }
}

/// A user whom the policy may allow.
const ALLOWED: u32 = 199_999;

/// Nobody but root is allowed.
fn nobody() -> Policy {
    Policy { users: Vec::new(), groups: Vec::new(), ..Policy::default() }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("host/1/host.sock")
}

fn view(run: u32, kind: &str, wishes: &Wishes) -> RunView {
    RunView {
        run,
        name: "test".into(),
        kind: kind.into(),
        pid: 1,
        user: 0,
        cgroup: None,
        wishes: wishes.clone(),
        flows: Vec::new(),
    }
}

fn me() -> Peer {
    Peer { pid: std::process::id() as i32, user: 0 }
}

fn cookie_of(socket: &UdpSocket) -> u64 {
    let (mut cookie, mut length) = (0u64, 8);
    let value = (&raw mut cookie).cast();
    // SAFETY: the kernel writes 8 octets to `cookie`.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, value, &raw mut length) };
    assert_eq!(done, 0);
    cookie
}

fn is_invalid(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(Problem { code: ProblemCode::Invalid, .. }))
}

#[test]
fn a_program_asks_as_the_process_and_user_that_it_is() {
    let lab = Lab::start();
    let client = lab.client();
    let request = RunRequest { command: "sleep 1".into(), wishes: Wishes::default().rate(5).name("mine") };
    let asked = request.clone();
    let asking = thread::spawn(move || client.run(&asked));
    let Command::Run(process, got, reply) = lab.command() else { panic!("a run") };
    let wishes = Wishes { paths: 1, ..request.wishes };
    assert!(process.is_alive());
    let peer = Peer { pid: process.pid(), user: process.user() };
    assert_eq!((peer, got), (me(), RunRequest { command: "sleep 1".into(), wishes: wishes.clone() }));
    reply.send(Ok(view(7, "program", &wishes))).expect("awaited");
    assert_eq!(asking.join().expect("no panic").expect("a run").run, 7);
    assert!(lab.commands.recv_timeout(Duration::from_millis(100)).is_err(), "a program's run outlives its connection");
}

#[test]
fn a_socket_comes_with_the_request_and_its_run_ends_with_the_connection() {
    let lab = Lab::start();
    let client = lab.client();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let passed = socket.try_clone().expect("a descriptor");
    let binding = thread::spawn(move || client.bind(&passed, &Wishes::default()));
    let Command::Begin(peer, Subject::Socket(cookie), wishes, reply) = lab.command() else { panic!("a socket") };
    assert_eq!(peer, me());
    assert_eq!(cookie, cookie_of(&socket));
    reply.send(Ok(view(9, "socket", &wishes))).expect("awaited");
    let binding = binding.join().expect("no panic").expect("a binding");
    assert!(lab.commands.recv_timeout(Duration::from_millis(100)).is_err(), "it lasts");
    drop(binding);
    assert!(matches!(lab.command(), Command::End(9)));
}

#[test]
fn who_has_gone_before_his_answer_ends_what_it_says() {
    let lab = Lab::start();
    let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
    stream.write_all(b"{\"namespace\":{}}\n").expect("sent");
    let Command::Begin(_, Subject::Namespace, wishes, reply) = lab.command() else { panic!("a namespace") };
    drop(stream);
    reply.send(Ok(view(3, "namespace", &wishes))).expect("awaited");
    assert!(matches!(lab.command(), Command::End(3)));
}

#[test]
fn what_the_daemon_refuses_reaches_the_client_as_it_is() {
    let lab = Lab::start();
    let client = lab.client();
    let asking = thread::spawn(move || client.close("a2:f1:00:00:00:01".parse().expect("an address")));
    let Command::Close(None, address, reply) = lab.command() else { panic!("a close, of anybody's for root") };
    let problem = Problem { code: ProblemCode::NoSuchFlow, message: format!("there is no flow {address}") };
    reply.send(Err(problem.clone())).expect("awaited");
    let told = asking.join().expect("no panic");
    assert!(matches!(told, Err(ClientError::Problem(told)) if told == problem));
}

#[test]
fn a_daemon_that_stops_says_so() {
    let lab = Lab::start();
    let client = lab.client();
    let asking = thread::spawn(move || client.status());
    let Command::Status(None, reply) = lab.command() else { panic!("a status") };
    drop(reply);
    let told = asking.join().expect("no panic");
    assert!(matches!(told, Err(ClientError::Problem(Problem { code: ProblemCode::System, .. }))));
}

#[test]
fn what_is_no_request_is_answered_as_invalid_and_never_reaches_the_daemon() {
    let lab = Lab::start();
    let long = [b"{\"close\":{\"address\":\"".as_slice(), &[b'a'; 100_000], b"\"}}\n"].concat();
    for line in [
        b"\n".as_slice(),
        b"{}\n",
        b"\"sta",
        b"",
        b"\xff\xfe\n",
        b"\"reboot\"\n",
        b"{\"run\":{\"command\":7}}\n",
        b"{\"run\":{\"command\":\"x\",\"paths\":9}}\n",
        b"{\"close\":{\"address\":\"nobody\"}}\n",
        b"{\"socket\":{}}\n",
        &long,
    ] {
        let answer = lab.raw(line);
        assert!(is_invalid(&answer), "{:?}: {answer:?}", String::from_utf8_lossy(line));
    }
    assert!(lab.commands.recv_timeout(Duration::from_millis(100)).is_err());
}

#[test]
fn everybody_may_connect_and_a_successor_takes_the_place_of_the_socket() {
    let lab = Lab::start();
    let of = |path: &Path| fs::metadata(path).expect("there");
    assert_eq!(of(&lab.socket()).permissions().mode() & 0o777, 0o666);
    assert_eq!(of(lab.socket().parent().expect("a directory")).permissions().mode() & 0o777, 0o755);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let before = of(&lab.socket()).ino();
    let successor = Server::listen(&lab.socket()).expect("a socket");
    assert_ne!(of(&lab.socket()).ino(), before);
    let third = Server::listen(&lab.socket()).expect("a socket");
    drop(successor);
    assert!(lab.socket().exists(), "one that has been replaced leaves its successor's alone");
    drop(third);
    assert!(!lab.socket().exists());
    assert_eq!(fs::read_dir(lab.socket().parent().expect("a directory")).expect("read").count(), 0);
}

#[test]
fn a_status_of_many_flows_arrives_whole() {
    let lab = Lab::start();
    let client = lab.client();
    let asking = thread::spawn(move || client.status());
    let Command::Status(None, reply) = lab.command() else { panic!("a status") };
    let runs: Vec<RunView> = (0..5_000).map(|run| view(run, "program", &Wishes::default())).collect();
    let status = Status { version: "1".into(), mechanism: "bpf".into(), interfaces: Vec::new(), runs };
    reply.send(Ok(status.clone())).expect("awaited");
    assert_eq!(asking.join().expect("no panic").expect("a status"), status);
}

fn answer_on(stream: UnixStream) -> Option<Answer> {
    let mut answer = String::new();
    stream.set_read_timeout(Some(SOON)).expect("set");
    BufReader::new(stream).read_line(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}

/// Sends a descriptor with a line.
fn pass(stream: &UnixStream, line: &[u8], descriptor: RawFd) {
    let descriptors = [descriptor];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(line)], &rights, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(line.len()));
}

#[test]
fn users_who_are_refused_take_no_place_of_those_who_are_allowed() {
    let lab = Lab::with(Policy { users: vec![ALLOWED], ..nobody() });
    // Silent ones, of many users, more than there are places.
    let refused: Vec<UnixStream> = (0..CONNECTIONS_MAX as u32 + 100).map(|user| lab.as_user(200_000 + user)).collect();
    let mut allowed = lab.as_user(ALLOWED);
    allowed.write_all(b"\"status\"\n").expect("sent");
    let Command::Status(Some(ALLOWED), reply) = lab.command() else { panic!("a status") };
    drop((reply, refused));
}

#[test]
fn who_is_refused_is_told_so_whatever_he_says_and_passes() {
    let lab = Lab::with(nobody());
    let file = fs::File::open("/dev/null").expect("there");
    for line in [&b"\"status\"\n"[..], b"", &[b'x'; 100_000]] {
        let mut stream = lab.as_user(ALLOWED);
        pass(&stream, b"\"", file.as_raw_fd());
        // The server may have heard enough.
        let _ = stream.write_all(line);
        let answer = answer_on(stream);
        assert!(matches!(answer, Some(Answer::Error(Problem { code: ProblemCode::Denied, .. }))), "{answer:?}");
    }
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused() {
    let lab = Lab::start();
    let file = fs::File::open("/dev/null").expect("there");
    let stream = UnixStream::connect(lab.socket()).expect("it listens");
    pass(&stream, b"{\"socket\":{}}\n", file.as_raw_fd());
    assert!(answer_on(stream).as_ref().is_some_and(is_invalid));
    let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
    for octet in b"{\"so" {
        pass(&stream, &[*octet], file.as_raw_fd());
    }
    let _ = stream.write_all(b"cket\":{}}\n");
    assert!(answer_on(stream).as_ref().is_some_and(is_invalid), "nor are several");
}

/// The last end of a TCP connection that lingers is closed by the server, which takes until somebody reads what it has sent.
#[test]
fn a_descriptor_whose_end_takes_long_does_not_keep_others_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let sender = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (never_read, _) = listener.accept().expect("accepted");
    setsockopt(&sender, Linger, &libc::linger { l_onoff: 1, l_linger: 600 }).expect("set");
    sender.set_nonblocking(true).expect("set");
    while (&sender).write(&[0; 100_000]).is_ok() {}
    let (keep, stream) = channel();
    let lab = Lab::after(Policy::default(), move |path| {
        let stream = UnixStream::connect(path).expect("it listens");
        pass(&stream, b"{\"socket\":{}}\n", sender.as_raw_fd());
        keep.send(stream).expect("awaited");
    });
    let Command::Begin(.., reply) = lab.command() else { panic!("a socket") };
    drop((reply, stream));
    let client = lab.client();
    let asking = thread::spawn(move || client.status());
    let Command::Status(_, reply) = lab.command() else { panic!("a status") };
    drop((reply, never_read));
    assert!(asking.join().expect("no panic").is_err());
}

#[test]
fn a_program_that_waits_no_longer_is_told_to_the_daemon() {
    let lab = Lab::start();
    let mut stream = UnixStream::connect(lab.socket()).expect("it listens");
    stream.write_all(b"{\"run\":{\"command\":\"x\"}}\n").expect("sent");
    let Command::Run(.., reply) = lab.command() else { panic!("a run") };
    assert!(!reply.is_closed());
    drop(stream);
    let start = std::time::Instant::now();
    while !reply.is_closed() {
        assert!(start.elapsed() < SOON, "nobody waits for the answer");
        thread::sleep(Duration::from_millis(5));
    }
}

/// As many wait as may, and nobody accepts them.
#[test]
fn a_daemon_that_hangs_is_not_waited_for_long() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("host.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    listen(&listener, Backlog::new(0).expect("a number")).expect("set");
    let _waiting = UnixStream::connect(&path).expect("the first waits");
    let start = std::time::Instant::now();
    let told = Client::connect_to(&path);
    assert!(matches!(told, Err(ClientError::Timeout)), "{told:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn where_nobody_listens_there_is_no_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let nobody = Client::connect_to(&socket_in(directory.path()));
    assert!(matches!(nobody, Err(ClientError::NoDaemon { .. })), "{nobody:?}");
}
