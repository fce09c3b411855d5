//! The caller's side of a switch's interface, local or at another machine.

mod groups;
mod remote;

pub use remote::Remote;

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
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    error::Error,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixStream, time::timeout};

/// Why the switch did not do what was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no switch answers on {switch}")]
    #[diagnostic(code(FL0301), help("{help}"))]
    Unreachable {
        /// Where.
        switch: String,
        /// What the system said.
        source: io::Error,
        /// What to do.
        help: String,
    },
    /// The socket is another user's.
    #[error("the switch on {switch} does not talk to this user")]
    #[diagnostic(
        code(FL0302),
        help(
            "run as root: sudo flowlane ...; or root gives this user a role in [access] of the switch's configuration"
        )
    )]
    Denied {
        /// Where.
        switch: String,
    },
    /// The switch said no.
    #[error("{}", .0.message)]
    #[diagnostic(code(FL0303), help("{}", help_for(.0)))]
    Problem(Problem),
    /// The switch took longer than [`TIMEOUT`].
    #[error("the switch on {switch} did not answer within {} s", TIMEOUT.as_secs())]
    #[diagnostic(code(FL0304), help("look at the switch's log, then try again"))]
    Timeout {
        /// Where.
        switch: String,
    },
    /// Whoever listens speaks something else.
    #[error("what answers on {switch} is not understood: {reason}")]
    #[diagnostic(code(FL0305), help("use the `flowlane` of the same version as the running switch"))]
    Protocol {
        /// Where.
        switch: String,
        /// What was wrong.
        reason: String,
    },
    /// The switch at another machine does not take the certificate.
    #[error("the switch on {switch} does not take the certificate: {reason}")]
    #[diagnostic(
        code(FL0306),
        help(
            "--cert names one that an authority in `client_ca` of the switch's [remote] has signed, and that has not expired"
        )
    )]
    Refused {
        /// Where.
        switch: String,
        /// The alert (RFC 8446 section 6).
        reason: String,
    },
    /// The certificate of whoever answers at the other machine is not good.
    #[error("what answers on {switch} can not be trusted: {reason}")]
    #[diagnostic(
        code(FL0307),
        help(
            "--cacert names the authority that has signed the switch's certificate, which must be for the host of the URL"
        )
    )]
    Distrusted {
        /// Where.
        switch: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of certificates or keys can not be used.
    #[error("{} can not be used: {reason}", path.display())]
    #[diagnostic(code(FL0308), help("--cert, --key and --cacert name PEM files that this user may read"))]
    Credentials {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Denied { .. } | Self::Refused { .. } | Self::Distrusted { .. } => exit::DENIED,
            Self::Credentials { .. } => exit::USAGE,
            Self::Timeout { .. } => exit::TIMEOUT,
            Self::Protocol { .. } => exit::FAILED,
            Self::Problem(problem) => match problem.code.as_str() {
                "denied" => exit::DENIED,
                "invalid" | "too-large" | "no-such-port" => exit::USAGE,
                "full" | "quota" | "conflict" | "closed" | "no-such-flow" | "no-such-group" | "no-such-receiver" => {
                    exit::CONFLICT
                }
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
        "denied" => {
            "root gives roles in [access] and [remote] of the switch's configuration (docs/configuration.md); root itself may \
             do everything: sudo flowlane ..."
        }
        "invalid" | "too-large" => "see `flowlane help` for what the command takes",
        "store" => "see the switch's log, and whether the disk of its `state_directory` is full",
        _ => "see the switch's log",
    }
}

/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer in octets: a table of a million flows.
const ANSWER_MAX: usize = 1 << 30;

/// Where a switch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On this machine, behind its socket.
    Socket(PathBuf),
    /// At another machine.
    Remote(Remote),
}

/// A connection to a switch.
pub struct Client {
    /// For messages.
    switch: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to a switch.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] or [`ClientError::Denied`]; at another machine also [`ClientError::Distrusted`] and
    /// [`ClientError::Credentials`].
    pub async fn connect(address: &Address) -> Result<Self, ClientError> {
        match address {
            Address::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|source| not_connected(socket, source))?;
                Self::over(TokioIo::new(stream), socket.display().to_string()).await
            }
            Address::Remote(remote) => {
                let switch = remote.to_string();
                let connected = timeout(TIMEOUT, remote.connect()).await;
                let stream = connected.map_err(|_| ClientError::Timeout { switch: switch.clone() })??;
                Self::over(stream, switch).await
            }
        }
    }

    async fn over(stream: impl Read + Write + Send + Unpin + 'static, switch: String) -> Result<Self, ClientError> {
        let (sender, connection) = handshake(stream).await.map_err(|error| failed(&switch, &error))?;
        // It ends with the sender; what it has to say, the sender is told as well.
        tokio::spawn(connection);
        Ok(Self { switch, sender })
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
        let body = serde_json::to_vec(body).map_err(|error| protocol(&self.switch, error.to_string()))?;
        self.request(Method::POST, path, body).await
    }

    async fn request<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let answer = timeout(TIMEOUT, exchange(&mut self.sender, method, path, body)).await;
        let answer = answer.map_err(|_| ClientError::Timeout { switch: self.switch.clone() })?;
        let (done, octets) = answer.map_err(|error| failed(&self.switch, error.as_ref()))?;
        let not_understood = |error: serde_json::Error| protocol(&self.switch, error.to_string());
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
) -> Result<(bool, Bytes), Box<dyn Error + Send + Sync>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let done = answer.status().is_success();
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await?;
    Ok((done, body.to_bytes()))
}

fn not_connected(socket: &Path, source: io::Error) -> ClientError {
    match source.kind() {
        ErrorKind::PermissionDenied => ClientError::Denied { switch: socket.display().to_string() },
        _ => ClientError::Unreachable { switch: socket.display().to_string(), source, help: start_or_name(socket) },
    }
}

/// What an error on the connection says.
fn failed(switch: &str, error: &(dyn Error + 'static)) -> ClientError {
    match remote::refusal(error) {
        Some(reason) => ClientError::Refused { switch: switch.to_owned(), reason },
        None => protocol(switch, error.to_string()),
    }
}

fn protocol(switch: &str, reason: String) -> ClientError {
    ClientError::Protocol { switch: switch.to_owned(), reason }
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
