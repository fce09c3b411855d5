//! What others may ask of the switch: HTTP on a UNIX socket, and over TLS where the configuration has it so, described by
//! `docs/openapi.json`. Every operation takes a role ([`access`]).

mod access;
mod connections;
mod groups;
mod local;
mod remote;

pub use remote::{Remote, RemoteError};

use super::command::{Command, Reply};
use crate::api::{
    EntryView, FlowView, LeaseView, OpenFlow, Problem, RenewFlow, Status, Trace, TraceRequest, Verification,
};
use crate::{
    config::{AccessConfig, Role},
    exit,
};
use access::{Access, Caller, SCHEME, authorize};
use axum::{
    Extension, Json, Router,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path as UrlPath, Query, State, rejection::JsonRejection,
    },
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
};
use connections::Connections;
use flowlane_wire::Mac;
use local::Local;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    future::pending,
    io::{self, ErrorKind},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};
use utoipa::{
    IntoParams, Modify, OpenApi,
    openapi::{Components, security::SecurityScheme},
};
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
    /// Other machines can not be listened to.
    #[error("can not listen on {address}")]
    #[diagnostic(
        code(FL0213),
        help("name a free address of this machine in `listen` of [remote]: `ss -ltn` lists those taken")
    )]
    ListenRemote {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl ServeError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Running { .. } => exit::CONFLICT,
            Self::Listen { source, .. } | Self::ListenRemote { source, .. }
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                exit::DENIED
            }
            Self::Listen { .. } | Self::ListenRemote { .. } => exit::FAILED,
        }
    }
}

/// The largest body of a request in octets: a frame of 64 KiB in hexadecimal, with colons.
const BODY_MAX: usize = 256 * 1024;

/// Where requests come from, and who may ask for what.
pub struct Doors {
    /// The UNIX socket.
    pub socket: PathBuf,
    /// The roles of users of this machine.
    pub access: AccessConfig,
    /// The interface for other machines.
    pub remote: Option<Remote>,
}

/// Answers requests by way of `commands`, until the switch stops receiving them or this is dropped. The socket is removed
/// then.
///
/// # Errors
/// [`ServeError`] where the switch can not be asked: another one answers on the socket, or there can be none.
pub async fn serve(doors: Doors, commands: mpsc::Sender<Command>) -> Result<(), ServeError> {
    let local = Local::listen(&doors.socket, doors.access).await?;
    let remote = match doors.remote {
        Some(remote) => Some(remote.listen().await?),
        None => None,
    };
    let connections = Connections::new(router(commands.clone()));
    let from_afar = async {
        match &remote {
            Some(remote) => remote.serve(&connections).await,
            None => pending().await,
        }
    };
    tokio::select! {
        never = local.serve(&connections) => match never {},
        never = from_afar => match never {},
        () = commands.closed() => {}
    }
    connections.end().await;
    Ok(())
}

fn router(commands: mpsc::Sender<Command>) -> Router {
    let (routes, description) = routes_and_description();
    let access = Arc::new(Access::of(&description));
    routes
        .route("/openapi.json", axum::routing::get(async move || Json(description.clone())))
        .fallback(async || Failure::new("no-such-path", "there is nothing at this path: see /openapi.json"))
        .method_not_allowed_fallback(async || Failure::new("no-such-method", "the path has other methods"))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(access, authorize))
        .with_state(Switch(commands))
}

fn routes_and_description() -> (Router<Switch>, utoipa::openapi::OpenApi) {
    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "Flowlane switch",
            description = "A running switch: HTTP on its UNIX socket, and over TLS where it is configured so.",
            version = "1"
        ),
        modifiers(&Roles)
    )]
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

/// Says how an operation names the role that it takes.
struct Roles;

impl Modify for Roles {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let text = "The role of the caller: `observe`, `operate` or `admin`; each includes those before it. On the UNIX \
                    socket the kernel says who the caller is, over TLS the client's certificate. `[access]` and `[remote]` \
                    of the switch's configuration give roles.";
        let scheme = SecurityScheme::MutualTls { description: Some(text.into()), deprecated: None, extensions: None };
        let components = description.components.get_or_insert_with(Components::new);
        components.add_security_scheme(SCHEME, scheme);
    }
}

/// The switch on one screen.
#[utoipa::path(
    get,
    path = "/v1/status",
    responses((status = 200, body = Status), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
async fn status(State(switch): State<Switch>) -> Answer<Status> {
    switch.ask(Command::Status).await
}

/// All flows, by slot.
#[utoipa::path(
    get,
    path = "/v1/flows",
    responses((status = 200, body = Vec<FlowView>), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
async fn flows(State(switch): State<Switch>) -> Answer<Vec<FlowView>> {
    switch.ask(Command::Flows).await
}

/// Lease flow addresses. The answer comes when the lease is durable.
#[utoipa::path(
    post,
    path = "/v1/flows",
    request_body = OpenFlow,
    responses((status = 201, body = LeaseView), (status = "default", body = Problem)),
    security(("role" = ["operate"]))
)]
async fn open(
    State(switch): State<Switch>,
    Extension(caller): Extension<Caller>,
    Body(mut request): Body<OpenFlow>,
) -> Result<(StatusCode, Json<LeaseView>), Failure> {
    request.client.get_or_insert(caller.client);
    let lease = switch.ask(|reply| Command::Open(request, reply)).await?;
    Ok((StatusCode::CREATED, lease))
}

/// One flow.
#[utoipa::path(
    get,
    path = "/v1/flows/{address}",
    params(("address" = String, Path, description = "The flow address")),
    responses((status = 200, body = FlowView), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
async fn flow(State(switch): State<Switch>, address: Address) -> Answer<FlowView> {
    switch.ask(|reply| Command::Flow(address.0, reply)).await
}

/// End the lease of a flow address.
#[utoipa::path(
    delete,
    path = "/v1/flows/{address}",
    params(("address" = String, Path, description = "The flow address")),
    responses((status = 200, body = LeaseView), (status = "default", body = Problem)),
    security(("role" = ["operate"]))
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
    responses((status = 200, body = LeaseView), (status = "default", body = Problem)),
    security(("role" = ["operate"]))
)]
async fn renew(State(switch): State<Switch>, address: Address, Body(request): Body<RenewFlow>) -> Answer<LeaseView> {
    switch.ask(|reply| Command::Renew(address.0, request.lifetime, reply)).await
}

/// All entries of the table, by slot.
#[utoipa::path(
    get,
    path = "/v1/table",
    responses((status = 200, body = Vec<EntryView>), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
async fn table(State(switch): State<Switch>) -> Answer<Vec<EntryView>> {
    switch.ask(Command::Entries).await
}

/// Compare tables and store with what the switch means.
#[utoipa::path(
    post,
    path = "/v1/table/verify",
    params(Verify),
    responses((status = 200, body = Verification), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
async fn verify(
    State(switch): State<Switch>,
    Extension(caller): Extension<Caller>,
    Arguments(verify): Arguments<Verify>,
) -> Answer<Verification> {
    if verify.repair {
        caller.may(Role::Admin)?;
    }
    switch.ask(|reply| Command::Verify(verify.repair, reply)).await
}

/// Explain what would happen to a frame. Nothing happens to it, and nothing is counted.
#[utoipa::path(
    post,
    path = "/v1/trace",
    request_body = TraceRequest,
    responses((status = 200, body = Trace), (status = "default", body = Problem)),
    security(("role" = ["observe"]))
)]
async fn trace(State(switch): State<Switch>, Body(request): Body<TraceRequest>) -> Answer<Trace> {
    switch.ask(|reply| Command::Trace(request, reply)).await
}

/// How to verify.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Verify {
    /// Whether differences are repaired. Takes the role `admin`.
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

#[cfg(test)]
mod tests;
