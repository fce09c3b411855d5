//! Connections to the switch, local and remote: each has a task of its own, and there are only so many.

use super::access::Caller;
use crate::config::Role;
use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// How long a caller may take to say what it wants, and to come back on the same connection.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How many connections callers of all roles but admin have together, and how many those without a role.
const WITH_ROLE: usize = 256;
const WITHOUT_ROLE: usize = 16;

/// All connections.
pub struct Connections {
    router: Router,
    graceful: GracefulShutdown,
    with_role: Arc<Semaphore>,
    without_role: Arc<Semaphore>,
}

impl Connections {
    /// None yet; the router answers.
    pub fn new(router: Router) -> Self {
        let [with_role, without_role] = [WITH_ROLE, WITHOUT_ROLE].map(|places| Arc::new(Semaphore::new(places)));
        Self { router, graceful: GracefulShutdown::new(), with_role, without_role }
    }

    /// Answers a caller, unless there is no place for it: then the connection ends. Admin always has one.
    pub fn add(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, caller: Caller) {
        let Ok(place) = self.place(&caller) else { return };
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(caller.clone());
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        let served = self.graceful.watch(connection);
        tokio::spawn(async move {
            // What is wrong with a connection ends that one alone.
            let _ = served.await;
            drop(place);
        });
    }

    /// Ends when all answers that are under way have been given.
    pub async fn end(self) {
        self.graceful.shutdown().await;
    }

    fn place(&self, caller: &Caller) -> Result<Option<OwnedSemaphorePermit>, NoPlace> {
        let places = match caller.role {
            Some(Role::Admin) => return Ok(None),
            Some(_) => &self.with_role,
            None => &self.without_role,
        };
        Arc::clone(places).try_acquire_owned().map(Some).map_err(|_| NoPlace)
    }
}

struct NoPlace;
