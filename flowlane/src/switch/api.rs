//! The local interface: HTTP on a UNIX socket, described by `docs/openapi.json`.
//!
//! Who may open the socket may do everything: its mode is 0660, so that is its owner and its group.

mod groups;

use super::command::{Command, Reply};
use crate::api::{
    EntryView, FlowView, LeaseView, OpenFlow, Problem, RenewFlow, Status, Trace, TraceRequest, Verification,
};
use crate::exit;
use axum::{
    Json, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequest, FromRequestParts, Path as UrlPath, Query, State,
        connect_info::Connected, rejection::JsonRejection,
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    serve::IncomingStream,
};
use flowlane_wire::Mac;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Why the local interface is not there.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ServeError {
    /// Another switch answers on the socket.
    #[error("a switch is running already: {} answers", socket.display())]
    #[diagnostic(
        code(FL0201),
        help("stop it first, or give this switch another `name` or `runtime_directory` in its configuration")
    )]
    Running {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket can not be made.
    #[error("can not listen on {}", socket.display())]
    #[diagnostic(
        code(FL0202),
        help("run as root, or set `runtime_directory` in the configuration to a directory of your own")
    )]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ServeError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Running { .. } => exit::CONFLICT,
            Self::Listen { source, .. } if source.kind() == ErrorKind::PermissionDenied => exit::DENIED,
            Self::Listen { .. } => exit::FAILED,
        }
    }
}

/// The largest body of a request in octets: a frame of 64 KiB in hexadecimal, with colons.
const BODY_MAX: usize = 256 * 1024;

/// Answers requests on `socket` by way of `commands`, until the switch stops receiving them or this is dropped. The
/// socket is removed then.
///
/// The directory is made (mode 0755) where it is missing. A socket that a dead switch has left is replaced.
///
/// # Errors
/// [`ServeError::Running`] where a live switch answers on the socket, [`ServeError::Listen`] where there can be none.
pub async fn serve(socket: &Path, commands: mpsc::Sender<Command>) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listen { socket: socket.to_owned(), source };
    if UnixStream::connect(socket).await.is_ok() {
        return Err(ServeError::Running { socket: socket.to_owned() });
    }
    let (listener, _remove) = listen(socket).map_err(failed)?;
    let stopped = commands.clone();
    let service = router(commands).into_make_service_with_connect_info::<Caller>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async move { stopped.closed().await });
    served.await.map_err(failed)
}

fn router(commands: mpsc::Sender<Command>) -> Router {
    let (routes, description) = routes_and_description();
    routes
        .route("/openapi.json", axum::routing::get(async move || Json(description.clone())))
        .fallback(async || Failure::new("no-such-path", "there is nothing at this path: see /openapi.json"))
        .method_not_allowed_fallback(async || Failure::new("no-such-method", "the path has other methods"))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Switch(commands))
}

fn routes_and_description() -> (Router<Switch>, utoipa::openapi::OpenApi) {
    #[derive(OpenApi)]
    #[openapi(info(
        title = "Flowlane switch",
        description = "The local interface of a running switch: HTTP on its UNIX socket.",
        version = "1"
    ))]
    struct Description;
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(status))
        .routes(routes!(flows, open))
        .routes(routes!(flow, close))
        .routes(routes!(renew))
        .routes(routes!(groups::groups, groups::open_group))
        .routes(routes!(groups::group, groups::close_group))
        .routes(routes!(groups::add_receivers))
        .routes(routes!(groups::remove_receiver))
        .routes(routes!(table))
        .routes(routes!(verify))
        .routes(routes!(trace))
        .split_for_parts()
}

/// The switch on one screen.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), (status = "default", body = Problem)))]
async fn status(State(switch): State<Switch>) -> Answer<Status> {
    switch.ask(Command::Status).await
}

/// All flows, by slot.
#[utoipa::path(
    get,
    path = "/v1/flows",
    responses((status = 200, body = Vec<FlowView>), (status = "default", body = Problem))
)]
async fn flows(State(switch): State<Switch>) -> Answer<Vec<FlowView>> {
    switch.ask(Command::Flows).await
}

/// Lease flow addresses. The answer comes when the lease is durable.
#[utoipa::path(
    post,
    path = "/v1/flows",
    request_body = OpenFlow,
    responses((status = 201, body = LeaseView), (status = "default", body = Problem))
)]
async fn open(
    State(switch): State<Switch>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(mut request): Body<OpenFlow>,
) -> Result<(StatusCode, Json<LeaseView>), Failure> {
    request.client.get_or_insert(caller.0);
    let lease = switch.ask(|reply| Command::Open(request, reply)).await?;
    Ok((StatusCode::CREATED, lease))
}

/// One flow.
#[utoipa::path(
    get,
    path = "/v1/flows/{address}",
    params(("address" = String, Path, description = "The flow address")),
    responses((status = 200, body = FlowView), (status = "default", body = Problem))
)]
async fn flow(State(switch): State<Switch>, address: Address) -> Answer<FlowView> {
    switch.ask(|reply| Command::Flow(address.0, reply)).await
}

/// End the lease of a flow address.
#[utoipa::path(
    delete,
    path = "/v1/flows/{address}",
    params(("address" = String, Path, description = "The flow address")),
    responses((status = 200, body = LeaseView), (status = "default", body = Problem))
)]
async fn close(State(switch): State<Switch>, address: Address) -> Answer<LeaseView> {
    switch.ask(|reply| Command::Close(address.0, reply)).await
}

/// Prolong the lease of a flow address.
#[utoipa::path(
    post,
    path = "/v1/flows/{address}/renew",
    params(("address" = String, Path, description = "The flow address")),
    request_body = RenewFlow,
    responses((status = 200, body = LeaseView), (status = "default", body = Problem))
)]
async fn renew(State(switch): State<Switch>, address: Address, Body(request): Body<RenewFlow>) -> Answer<LeaseView> {
    switch.ask(|reply| Command::Renew(address.0, request.lifetime, reply)).await
}

/// All entries of the table, by slot.
#[utoipa::path(
    get,
    path = "/v1/table",
    responses((status = 200, body = Vec<EntryView>), (status = "default", body = Problem))
)]
async fn table(State(switch): State<Switch>) -> Answer<Vec<EntryView>> {
    switch.ask(Command::Entries).await
}

/// Compare leases and table.
#[utoipa::path(
    post,
    path = "/v1/table/verify",
    params(Verify),
    responses((status = 200, body = Verification), (status = "default", body = Problem))
)]
async fn verify(State(switch): State<Switch>, Arguments(verify): Arguments<Verify>) -> Answer<Verification> {
    switch.ask(|reply| Command::Verify(verify.repair, reply)).await
}

/// Explain what would happen to a frame. Nothing happens to it, and nothing is counted.
#[utoipa::path(
    post,
    path = "/v1/trace",
    request_body = TraceRequest,
    responses((status = 200, body = Trace), (status = "default", body = Problem))
)]
async fn trace(State(switch): State<Switch>, Body(request): Body<TraceRequest>) -> Answer<Trace> {
    switch.ask(|reply| Command::Trace(request, reply)).await
}

/// How to verify.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Verify {
    /// Whether differences are repaired in the table.
    #[serde(default)]
    repair: bool,
}

/// The way to the running switch.
#[derive(Clone)]
struct Switch(mpsc::Sender<Command>);

type Answer<T> = Result<Json<T>, Failure>;

impl Switch {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
        let stopping = || Failure::new("stopping", "the switch is stopping");
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| stopping())?;
        let answer = answer.await.map_err(|_| stopping())?;
        answer.map(Json).map_err(Failure)
    }
}

/// A problem on its way out.
struct Failure(Problem);

impl Failure {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self(Problem { code: code.to_owned(), message: message.into() })
    }

    fn status(&self) -> StatusCode {
        match self.0.code.as_str() {
            "invalid" => StatusCode::BAD_REQUEST,
            "denied" => StatusCode::FORBIDDEN,
            "no-such-method" => StatusCode::METHOD_NOT_ALLOWED,
            "too-large" => StatusCode::PAYLOAD_TOO_LARGE,
            "quota" | "conflict" => StatusCode::CONFLICT,
            "full" | "store" | "stopping" => StatusCode::SERVICE_UNAVAILABLE,
            code if code.starts_with("no-such-") => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status(), Json(self.0)).into_response()
    }
}

/// A JSON body. One that can not be read is a [`Problem`], as every other error is.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Failure> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::BytesRejection(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Failure::new("too-large", format!("the body has more than {BODY_MAX} octets")))
            }
            Err(error) => Err(Failure::new("invalid", error.body_text())),
        }
    }
}

/// The arguments behind the question mark.
struct Arguments<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Arguments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Failure> {
        let arguments = Query::<T>::from_request_parts(parts, state).await;
        arguments.map(|Query(arguments)| Self(arguments)).map_err(|error| Failure::new("invalid", error.body_text()))
    }
}

/// The flow address in the path.
struct Address(Mac);

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Failure> {
        let text = UrlPath::<String>::from_request_parts(parts, state).await;
        let UrlPath(text) = text.map_err(|error| Failure::new("invalid", error.body_text()))?;
        text.parse().map(Self).map_err(|error| Failure::new("invalid", format!("{text:?} is no address: {error}")))
    }
}

/// Who is at the other end of the connection: the name of a client that gives none.
#[derive(Clone)]
struct Caller(String);

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let process = stream.io().peer_cred().ok().and_then(|peer| peer.pid());
        Self(process.map_or_else(|| "local".to_owned(), process_name))
    }
}

/// Numbers of processes come again; a number with its start does not.
fn process_name(pid: i32) -> String {
    // Field 22 of proc_pid_stat(5), counted from behind the command, which may contain anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let started = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)).unwrap_or("0");
    format!("process {pid} of {started}")
}

/// Listens. The socket appears under its name with its mode already set, in the place of one that nobody listens on.
fn listen(socket: &Path) -> io::Result<(UnixListener, Remove)> {
    let directory = socket.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let new = directory.join(format!(".new-{}.sock", std::process::id()));
    remove_file(&new)?;
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o660))?;
    let inode = fs::metadata(&new)?.ino();
    fs::rename(&new, socket)?;
    Ok((listener, Remove { socket: socket.to_owned(), inode }))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the socket when dropped, unless it is a successor's by then.
struct Remove {
    socket: PathBuf,
    inode: u64,
}

impl Drop for Remove {
    fn drop(&mut self) {
        if fs::metadata(&self.socket).is_ok_and(|found| found.ino() == self.inode) {
            // What is left of it, the next switch replaces.
            let _ = fs::remove_file(&self.socket);
        }
    }
}

#[cfg(test)]
mod tests;
