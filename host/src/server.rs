//! The socket by which programs of this host ask for flows.
//!
//! Everybody may connect: the policy says who gets what, by what the kernel knows of the peer. A connection carries one
//! request and its answer; what was asked for a cgroup, a namespace or a socket holds until the connection ends.

mod connection;

use crate::{
    command::{Command, Reply, Subject},
    policy::{Caller, Policy, root_only},
};
use connection::{Connection, elsewhere};

pub use connection::caller as peer;
use flowlane_client::protocol::{Answer, Problem, ProblemCode, Request, RunView};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

/// How many connections a user may have at a time, each binding of a socket being one; root may have more.
pub const CONNECTIONS_PER_USER: usize = 64;
/// How many there may be of all users.
pub const CONNECTIONS_MAX: usize = 1_024;
/// How many are told at a time that they are refused.
const REFUSALS_MAX: usize = 64;
/// How long a peer may take to say what he wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listening socket. It is removed with this value.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Server {
    /// Listens, in place of whoever listened there before: the caller holds the lock of this namespace's daemon. Must be
    /// called from within a tokio runtime.
    ///
    /// # Errors
    /// Where the directory or the socket can not be made.
    pub fn listen(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        // Put in its place whole, so that nobody finds it with wrong permissions, or missing while a successor starts.
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o666))?;
        fs::rename(&new, path)?;
        Ok(Self { listener, path: path.to_owned(), inode: fs::metadata(path)?.ino() })
    }

    /// Serves for ever: hands requests that the policy allows to the daemon, and its answers back.
    pub async fn serve(&self, policy: Policy, commands: mpsc::Sender<Command>) -> std::convert::Infallible {
        let shared = Arc::new(Shared {
            policy,
            commands,
            connections: Mutex::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        });
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(Arc::clone(&shared).receive(stream))),
                // Out of descriptors, most likely: some will be free soon.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A successor's stays.
        if fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct Shared {
    policy: Policy,
    commands: mpsc::Sender<Command>,
    /// How many connections each user has.
    connections: Mutex<HashMap<u32, usize>>,
    refusals: Arc<Semaphore>,
}

impl Shared {
    async fn receive(self: Arc<Self>, stream: UnixStream) {
        let Ok(caller) = connection::caller(&stream) else { return close(stream) };
        let user = caller.peer.user;
        if !self.policy.allows(&caller) {
            // The database of users may take its time.
            let shared = Arc::clone(&self);
            return self.refuse(stream, move || shared.policy.refusal(user));
        }
        if !self.count_in(user) {
            let message = "too many connections; close some, or try again later";
            return self.refuse(stream, move || problem(ProblemCode::Denied, message));
        }
        let mut connection = Connection::new(stream);
        self.converse(&mut connection, &caller).await;
        connection.close().await;
        self.count_out(user);
    }

    /// Refused ones take no place of those who are allowed. Where there are too many, they are not told why.
    fn refuse(&self, stream: UnixStream, problem: impl FnOnce() -> Problem + Send + 'static) {
        let permit = Arc::clone(&self.refusals).try_acquire_owned();
        drop(elsewhere(move || {
            if let (Ok(_permit), Ok(stream)) = (permit, stream.into_std()) {
                // Who has gone does not want it.
                let _ = connection::refuse(stream, problem());
            }
        }));
    }

    async fn converse(&self, connection: &mut Connection, caller: &Caller) {
        let request = match timeout(PATIENCE, connection.request()).await {
            Ok(Ok(request)) => request,
            Ok(Err(problem)) => return connection.answer(&Answer::Error(problem)).await,
            Err(_) => return,
        };
        let standing = matches!(request, Request::Cgroup { .. } | Request::Namespace(_) | Request::Socket(_));
        let answered = self.done(request, connection, caller);
        let answer = tokio::select! {
            biased;
            answer = answered => answer.unwrap_or_else(Answer::Error),
            // A program that does not wait any longer is not put into flows behind its back.
            () = connection.gone(), if !standing => return,
        };
        let run = match &answer {
            Answer::Run(RunView { run, .. }) if standing => Some(*run),
            _ => None,
        };
        // Who does not take his answer ends what it says.
        let taken = timeout(PATIENCE, connection.answer(&answer)).await;
        let Some(run) = run else { return };
        if taken.is_ok() {
            connection.ended().await;
        }
        // Where the daemon is gone, so is the run.
        let _ = self.commands.send(Command::End(run)).await;
    }

    async fn done(&self, request: Request, connection: &Connection, caller: &Caller) -> Result<Answer, Problem> {
        let Caller { peer, .. } = *caller;
        let whose = Some(peer.user).filter(|user| *user != 0);
        let begin = |subject, wishes| self.ask(move |reply| Command::Begin(peer, subject, wishes, reply));
        match request {
            Request::Run(request) => {
                let request = self.policy.grant_run(caller, request)?;
                let process = connection.process(caller)?;
                self.ask(move |reply| Command::Run(process, request, reply)).await.map(Answer::Run)
            }
            Request::Cgroup { path, wishes } => {
                root_only(caller, "a cgroup")?;
                begin(Subject::Cgroup(path), self.policy.grant(caller, wishes)?).await.map(Answer::Run)
            }
            Request::Namespace(wishes) => {
                root_only(caller, "a network namespace")?;
                begin(Subject::Namespace, self.policy.grant(caller, wishes)?).await.map(Answer::Run)
            }
            Request::Socket(wishes) => {
                let wishes = self.policy.grant(caller, wishes)?;
                begin(Subject::Socket(connection.cookie()?), wishes).await.map(Answer::Run)
            }
            Request::Status => self.ask(move |reply| Command::Status(whose, reply)).await.map(Answer::Status),
            Request::Close { address } => {
                self.ask(move |reply| Command::Close(whose, address, reply)).await.map(Answer::Closed)
            }
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Problem> {
        let stopping = || problem(ProblemCode::System, "the daemon is stopping");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    fn count_in(&self, user: u32) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = connections.values().sum();
        let own = connections.entry(user).or_default();
        let free = user == 0 || (*own < CONNECTIONS_PER_USER && all < CONNECTIONS_MAX);
        *own += usize::from(free);
        free
    }

    fn count_out(&self, user: u32) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = connections.get_mut(&user) {
            *own -= 1;
        }
        connections.retain(|_, own| *own > 0);
    }
}

/// By another thread, for what its peer has left in it is closed with it.
fn close(stream: UnixStream) {
    drop(elsewhere(move || drop(stream)));
}

fn invalid(message: impl Into<String>) -> Problem {
    problem(ProblemCode::Invalid, message)
}

fn problem(code: ProblemCode, message: impl Into<String>) -> Problem {
    Problem { code, message: message.into() }
}
