//! The caller's side of a switch's local interface.

mod groups;

use crate::api::{
    EntryView, FlowView, LeaseView, OpenFlow, Problem, RenewFlow, Status, Trace, TraceRequest, Verification,
};
use crate::exit;
use flowlane_wire::Mac;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixStream, time::timeout};

/// Why the switch did not do what was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no switch answers on {}", socket.display())]
    #[diagnostic(code(FL0301), help("{help}"))]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        help: String,
    },
    /// The socket is another user's.
    #[error("the switch on {} does not talk to this user", socket.display())]
    #[diagnostic(code(FL0302), help("run as root: sudo flowlane ..."))]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The switch said no.
    #[error("{}", .0.message)]
    #[diagnostic(code(FL0303), help("{}", help_for(.0)))]
    Problem(Problem),
    /// The switch took longer than [`TIMEOUT`].
    #[error("the switch on {} did not answer within {} s", socket.display(), TIMEOUT.as_secs())]
    #[diagnostic(code(FL0304), help("look at the switch's log, then try again"))]
    Timeout {
        /// The socket.
        socket: PathBuf,
    },
    /// Whoever listens speaks something else.
    #[error("what answers on {} is not understood: {reason}", socket.display())]
    #[diagnostic(code(FL0305), help("use the `flowlane` of the same version as the running switch"))]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        reason: String,
    },
}

impl ClientError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Denied { .. } => exit::DENIED,
            Self::Timeout { .. } => exit::TIMEOUT,
            Self::Protocol { .. } => exit::FAILED,
            Self::Problem(problem) => match problem.code.as_str() {
                "denied" => exit::DENIED,
                "invalid" | "too-large" | "no-such-port" => exit::USAGE,
                "full" | "quota" | "conflict" | "no-such-flow" | "no-such-group" | "no-such-receiver" => exit::CONFLICT,
                "stopping" => exit::UNREACHABLE,
                _ => exit::FAILED,
            },
        }
    }
}

fn help_for(problem: &Problem) -> &'static str {
    match problem.code.as_str() {
        "full" | "quota" => "`flowlane flow ls` shows who holds addresses; `flowlane flow close ADDRESS` frees one",
        "no-such-flow" => "`flowlane flow ls` lists the flows that there are",
        "no-such-group" => "`flowlane group ls` lists the groups that there are",
        "no-such-receiver" => "`flowlane group show ADDRESS` lists the receivers that there are",
        "no-such-port" => "`flowlane status` lists the ports that there are",
        "conflict" => "`flowlane flow show ADDRESS` shows what is there",
        "denied" => "run as root: sudo flowlane ...",
        "invalid" | "too-large" => "see `flowlane help` for what the command takes",
        "store" => "see the switch's log, and whether the disk of its `state_directory` is full",
        _ => "see the switch's log",
    }
}

/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer in octets: a table of a million flows.
const ANSWER_MAX: usize = 1 << 30;

/// A connection to a switch.
pub struct Client {
    socket: PathBuf,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to the switch that listens on `socket`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] or [`ClientError::Denied`].
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await.map_err(|source| not_connected(socket, source))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| protocol(socket, error.to_string()))?;
        // It ends with the sender; what it has to say, the sender is told as well.
        tokio::spawn(connection);
        Ok(Self { socket: socket.to_owned(), sender })
    }

    /// The switch on one screen.
    ///
    /// # Errors
    /// As all others: [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// All flows, by slot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn flows(&mut self) -> Result<Vec<FlowView>, ClientError> {
        self.get("/v1/flows").await
    }

    /// One flow.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn flow(&mut self, address: Mac) -> Result<FlowView, ClientError> {
        self.get(&format!("/v1/flows/{address}")).await
    }

    /// Leases flow addresses.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open(&mut self, request: &OpenFlow) -> Result<LeaseView, ClientError> {
        self.post("/v1/flows", request).await
    }

    /// Prolongs the lease of a flow address, by `lifetime` seconds if given.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn renew(&mut self, address: Mac, lifetime: Option<u32>) -> Result<LeaseView, ClientError> {
        self.post(&format!("/v1/flows/{address}/renew"), &RenewFlow { lifetime }).await
    }

    /// Ends the lease of a flow address.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn close(&mut self, address: Mac) -> Result<LeaseView, ClientError> {
        self.request(Method::DELETE, &format!("/v1/flows/{address}"), Vec::new()).await
    }

    /// All entries of the table, by slot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn table(&mut self) -> Result<Vec<EntryView>, ClientError> {
        self.get("/v1/table").await
    }

    /// Compares leases and table, and repairs the table if told so.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn verify(&mut self, repair: bool) -> Result<Verification, ClientError> {
        self.request(Method::POST, &format!("/v1/table/verify?repair={repair}"), Vec::new()).await
    }

    /// Explains what would happen to a frame.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn trace(&mut self, request: &TraceRequest) -> Result<Trace, ClientError> {
        self.post("/v1/trace", request).await
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Vec::new()).await
    }

    async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| protocol(&self.socket, error.to_string()))?;
        self.request(Method::POST, path, body).await
    }

    async fn request<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let answer = timeout(TIMEOUT, exchange(&mut self.sender, method, path, body)).await;
        let answer = answer.map_err(|_| ClientError::Timeout { socket: self.socket.clone() })?;
        let (done, octets) = answer.map_err(|reason| protocol(&self.socket, reason))?;
        let not_understood = |error: serde_json::Error| protocol(&self.socket, error.to_string());
        match done {
            true => serde_json::from_slice(&octets).map_err(not_understood),
            false => Err(ClientError::Problem(serde_json::from_slice(&octets).map_err(not_understood)?)),
        }
    }
}

/// Sends a request. Whether it was done, and the body of the answer.
async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(bool, Bytes), String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let done = answer.status().is_success();
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(|error| error.to_string())?;
    Ok((done, body.to_bytes()))
}

fn not_connected(socket: &Path, source: io::Error) -> ClientError {
    match source.kind() {
        ErrorKind::PermissionDenied => ClientError::Denied { socket: socket.to_owned() },
        _ => ClientError::Unreachable { socket: socket.to_owned(), source, help: start_or_name(socket) },
    }
}

fn protocol(socket: &Path, reason: String) -> ClientError {
    ClientError::Protocol { socket: socket.to_owned(), reason }
}

/// What to do when no switch answers: start it, or name one of those that have a socket beside this one.
fn start_or_name(socket: &Path) -> String {
    let start = "start the switch: flowlane switch --config FILE";
    let Some(root) = socket.parent().and_then(Path::parent) else { return start.to_owned() };
    let mut others = sockets_in(root);
    others.retain(|(_, other)| other != socket);
    match others.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ") {
        names if names.is_empty() => start.to_owned(),
        names => format!("{start}; or name one of these with --switch: {names}"),
    }
}

/// The switches that have a socket below `root`, in the order of their names.
pub fn sockets_in(root: &Path) -> Vec<(String, PathBuf)> {
    let directories = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<_> = directories
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().join("switch.sock"))))
        .filter(|(_, socket)| socket.exists())
        .collect();
    found.sort();
    found
}
