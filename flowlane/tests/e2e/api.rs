//! The switch's local interface, as any HTTP client sees it.

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;

/// A caller.
pub struct Api {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    pub fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { socket: socket.to_owned(), runtime }
    }

    /// Whether a switch answers, and if not why. It may be told to end from then on.
    pub fn answers(&self) -> io::Result<()> {
        self.runtime.block_on(async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            let status = Request::get("/v1/status").header("host", "switch").body(Full::<Bytes>::default());
            let answer = requests.send_request(status.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
            answer.into_body().collect().await.map(drop).map_err(io::Error::other)
        })
    }

    pub fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).expect("an answer")
    }

    /// The answer, or the problem.
    pub fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Value> {
        self.runtime.block_on(async {
            let mut requests = self.connect().await;
            send(&mut requests, method, path, body).await
        })
    }

    /// Opens a flow; its address.
    pub fn open(&self, request: Value) -> String {
        let lease = self.call(Method::POST, "/v1/flows", Some(request)).expect("a lease");
        text(&lease["addresses"][0])
    }

    /// A flow of `client` that comes in by a port.
    pub fn open_on(&self, port: &str, client: &str) -> String {
        self.open(json!({ "port": port, "client": client }))
    }

    pub fn close(&self, address: &str) -> Value {
        self.call(Method::DELETE, &format!("/v1/flows/{address}"), None).expect("closed")
    }

    pub fn flow(&self, address: &str) -> Value {
        self.get(&format!("/v1/flows/{address}"))
    }

    pub fn status(&self) -> Value {
        self.get("/v1/status")
    }

    /// How many frames that came in by a port came to an end.
    pub fn count(&self, interface: &str, end: &str) -> u64 {
        self.port(interface)["counts"][end].as_u64().unwrap_or(0)
    }

    pub fn port(&self, interface: &str) -> Value {
        let status = self.status();
        let ports = status["ports"].as_array().expect("ports");
        ports.iter().find(|port| port["interface"] == interface).expect("the port").clone()
    }

    /// Table and leases agree.
    pub fn verify(&self) {
        let found = self.call(Method::POST, "/v1/table/verify", None).expect("an answer");
        assert_eq!(found["ok"], true, "{found}");
    }

    /// Opens many flows, one lease each, over several connections at a time.
    pub fn open_many(&self, port: &str, count: u32, connections: u32) {
        self.runtime.block_on(async {
            let each = count / connections;
            let callers = (0..connections).map(|caller| async move {
                let mut requests = self.connect().await;
                for iaid in 0..each {
                    let body = json!({ "port": port, "client": format!("caller {caller}"), "iaid": iaid });
                    send(&mut requests, Method::POST, "/v1/flows", Some(body)).await.expect("a lease");
                }
            });
            futures_util::future::join_all(callers).await;
        });
    }

    async fn connect(&self) -> Requests {
        let stream = UnixStream::connect(&self.socket).await.expect("the switch listens");
        let (requests, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        requests
    }
}

type Requests = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn send(requests: &mut Requests, method: Method, path: &str, body: Option<Value>) -> Result<Value, Value> {
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let request = Request::builder().method(method).uri(path).header("host", "switch");
    let request = request.header("content-type", "application/json").body(Full::new(bytes)).expect("a request");
    requests.ready().await.expect("the connection is open");
    let answer = requests.send_request(request).await.expect("an answer");
    let status = answer.status();
    let bytes = answer.into_body().collect().await.expect("the whole answer").to_bytes();
    let value = serde_json::from_slice(&bytes).expect("JSON");
    if status.is_success() { Ok(value) } else { Err(value) }
}

/// What a value says.
pub fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
