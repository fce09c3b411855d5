//! Requests: a connection for each.

use crate::{
    ClientError,
    protocol::{self, Answer, FlowView, Request, RunRequest, RunView, Status, Wishes},
};
use flowlane_wire::Mac;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, getsockopt, sendmsg,
        sockopt::PeerCredentials,
    },
    unistd::geteuid,
};
use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, ErrorKind, IoSlice, Read as _, Write as _},
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the daemon may take to answer. Where destinations are named, it asks the network first, for a second at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same before a program is run, which waits meanwhile.
const RUN_PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer in octets: every run with all its flows.
const ANSWER_MAX: u64 = 64 << 20;

/// The daemon of a network namespace.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon of the calling thread's network namespace. Its runtime directory is `FLOWLANE_RUNTIME_DIRECTORY`, or
    /// `/run/flowlane`.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] where none answers, [`ClientError::Stranger`] where it is another user's.
    pub fn connect() -> Result<Self, ClientError> {
        let directory = env::var_os("FLOWLANE_RUNTIME_DIRECTORY").map_or_else(|| "/run/flowlane".into(), PathBuf::from);
        Self::connect_to(&socket(&directory)?)
    }

    /// The daemon that listens on a socket.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(socket: &Path) -> Result<Self, ClientError> {
        let client = Self { socket: socket.to_owned() };
        client.open(RUN_PATIENCE)?;
        Ok(client)
    }

    /// The daemon with its runs and their flows; of runs, this user's, or all for root.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            (Answer::Status(status), _) => Ok(status),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Closes a flow of this user, or of anybody for root: its packets are dropped from then on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn close(&self, address: Mac) -> Result<FlowView, ClientError> {
        match self.ask(&Request::Close { address })? {
            (Answer::Closed(flow), _) => Ok(flow),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Puts this process into flows, with all that it will start, until the last of them has ended. Sockets that it opened
    /// before stay outside.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn run(&self, request: &RunRequest) -> Result<RunView, ClientError> {
        match self.exchange(&Request::Run(request.clone()), None, RUN_PATIENCE)? {
            (Answer::Run(run), _) => Ok(run),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Puts one socket into flows: one for each destination that it sends to.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn bind(&self, socket: &impl AsFd, wishes: &Wishes) -> Result<Binding, ClientError> {
        self.begin(&Request::Socket(wishes.clone()), Some(socket.as_fd()))
    }

    /// Puts the processes of a cgroup into flows, with those below it. For root.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn cgroup(&self, path: &Path, wishes: &Wishes) -> Result<Binding, ClientError> {
        self.begin(&Request::Cgroup { path: path.to_owned(), wishes: wishes.clone() }, None)
    }

    /// Puts all that the daemon's network namespace sends into flows. For root.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn namespace(&self, wishes: &Wishes) -> Result<Binding, ClientError> {
        self.begin(&Request::Namespace(wishes.clone()), None)
    }

    /// A request that holds for as long as its connection stands.
    fn begin(&self, request: &Request, passed: Option<BorrowedFd<'_>>) -> Result<Binding, ClientError> {
        match self.exchange(request, passed, PATIENCE)? {
            (Answer::Run(run), connection) => {
                connection.set_read_timeout(None).map_err(ClientError::Broken)?;
                Ok(Binding { client: self.clone(), run, connection })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &Request) -> Result<(Answer, UnixStream), ClientError> {
        self.exchange(request, None, PATIENCE)
    }

    fn exchange(
        &self,
        request: &Request,
        passed: Option<BorrowedFd<'_>>,
        patience: Duration,
    ) -> Result<(Answer, UnixStream), ClientError> {
        let stream = self.open(patience)?;
        let mut line = serde_json::to_vec(request).map_err(|error| ClientError::Protocol(error.to_string()))?;
        line.push(b'\n');
        match send(&stream, &line, passed).and_then(|()| receive(&stream)) {
            Ok(answer) => match serde_json::from_slice(&answer) {
                Ok(Answer::Error(problem)) => Err(problem.into()),
                Ok(answer) => Ok((answer, stream)),
                Err(error) => Err(ClientError::Protocol(error.to_string())),
            },
            Err(error) if is_timeout(&error) => Err(ClientError::Timeout),
            Err(error) => Err(ClientError::Broken(error)),
        }
    }

    /// A connection to a daemon that may be trusted: whoever can make the socket is asked, so it must be root or this user.
    fn open(&self, patience: Duration) -> Result<UnixStream, ClientError> {
        let socket = || self.socket.clone();
        let stream = connect(&self.socket, patience).map_err(|source| match source.kind() {
            ErrorKind::PermissionDenied => ClientError::Denied { socket: socket(), source },
            _ if is_timeout(&source) => ClientError::Timeout,
            _ => ClientError::NoDaemon { socket: socket(), source },
        })?;
        let daemon = getsockopt(&stream, PeerCredentials).map_err(broken)?;
        if ![0, geteuid().as_raw()].contains(&daemon.uid()) {
            return Err(ClientError::Stranger { socket: socket(), user: daemon.uid() });
        }
        stream.set_read_timeout(Some(patience)).map_err(ClientError::Broken)?;
        Ok(stream)
    }
}

/// A socket, cgroup or network namespace that is in flows for as long as this value lives.
#[derive(Debug)]
pub struct Binding {
    client: Client,
    run: RunView,
    connection: UnixStream,
}

impl Binding {
    /// The run as it was in the beginning.
    pub fn run(&self) -> &RunView {
        &self.run
    }

    /// The flow to a destination as it is now; nothing where nothing has been sent there yet.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn flow(&self, destination: IpAddr) -> Result<Option<FlowView>, ClientError> {
        let runs = self.client.status()?.runs.into_iter().filter(|run| run.run == self.run.run);
        Ok(runs.flat_map(|run| run.flows).find(|flow| flow.destination == destination))
    }

    /// Waits until the daemon is gone, or has ended the run. Packets leave as they would without flows from then on.
    pub fn ended(&self) {
        // Nothing comes but the end.
        let _ = (&self.connection).read(&mut [0]);
    }
}

impl AsFd for Binding {
    /// The connection, which becomes readable when the run has ended: see [`Binding::ended`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Where the daemon of the calling thread's network namespace listens, below a runtime directory.
///
/// # Errors
/// [`ClientError::Broken`] where `/proc` does not show the namespace.
pub fn socket(runtime_directory: &Path) -> Result<PathBuf, ClientError> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(ClientError::Broken)?;
    Ok(protocol::socket(runtime_directory, namespace.ino()))
}

/// Connects, and sends no longer than so: a daemon that hangs accepts nobody, and connecting waits for it.
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(patience))?;
    nix::sys::socket::connect(stream.as_raw_fd(), &address)?;
    Ok(stream)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Sends a line; the descriptor goes with its first octet.
fn send(mut stream: &UnixStream, line: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let Some(passed) = passed else { return stream.write_all(line) };
    let descriptors = [passed.as_raw_fd()];
    let sent = loop {
        let rights = [ControlMessage::ScmRights(&descriptors)];
        match sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(line)], &rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            done => break done?,
        }
    };
    stream.write_all(line.get(sent..).unwrap_or_default())
}

fn receive(stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_until(b'\n', &mut line)?;
    match line.last() {
        Some(b'\n') => Ok(line),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn unexpected(answer: &Answer) -> ClientError {
    let kind = match answer {
        Answer::Run(_) => "run",
        Answer::Status(_) => "status",
        Answer::Closed(_) => "closed",
        Answer::Error(_) => "error",
    };
    ClientError::Protocol(format!("{kind:?} answers another question"))
}

fn broken(errno: Errno) -> ClientError {
    ClientError::Broken(errno.into())
}
