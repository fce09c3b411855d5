//! The switch's local interface.

use crate::Error;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

/// How long an answer may take: that of a large table takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// A caller.
pub(crate) struct Api {
    socket: PathBuf,
    runtime: Runtime,
}

/// A lease that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub addresses: Vec<String>,
    pub client: String,
}

impl Api {
    pub(crate) fn new(socket: &Path) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { socket: socket.to_owned(), runtime: runtime.map_err(Error::system("start a runtime"))? })
    }

    /// Whether a switch listens.
    pub(crate) fn answers(&self) -> bool {
        self.runtime.block_on(async { UnixStream::connect(&self.socket).await.is_ok() })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, Error> {
        self.call(Method::GET, path, None)
    }

    /// Leases so many flows for packets of a port, of a client.
    pub(crate) fn open(&self, port: &str, client: &str, count: u32) -> Result<Lease, Error> {
        let request = json!({ "port": port, "client": client, "count": count });
        let lease = self.call(Method::POST, "/v1/flows", Some(request))?;
        let addresses = lease["addresses"].as_array().into_iter().flatten();
        let addresses = addresses.filter_map(|address| address.as_str().map(str::to_owned)).collect();
        Ok(Lease { addresses, client: lease["client"].to_string() })
    }

    /// What `table verify` finds: the differences, and whether there are none, or none after the repair.
    pub(crate) fn verify(&self, repair: bool) -> Result<(bool, Vec<String>), Error> {
        let found = self.call(Method::POST, &format!("/v1/table/verify?repair={repair}"), None)?;
        let differences = found["differences"].as_array().into_iter().flatten();
        let differences = differences.filter_map(|difference| difference.as_str().map(str::to_owned)).collect();
        Ok((found["ok"] == true, differences))
    }

    fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Error> {
        let request = format!("{method} {path}");
        let answered = self.runtime.block_on(async { timeout(PATIENCE, self.exchange(method, path, body)).await });
        let (status, answer) = match answered {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return Err(Error::Silent(error.to_string())),
            Err(late) => return Err(Error::Silent(format!("{request}: {late}"))),
        };
        if status { Ok(answer) } else { Err(Error::Refused { request, answer: answer.to_string() }) }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Value>) -> io::Result<(bool, Value)> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder().method(method).uri(path).header("host", "switch");
        let request = request.header("content-type", "application/json").body(Full::new(bytes));
        let request = request.map_err(io::Error::other)?;
        let answer = requests.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status().is_success();
        let bytes = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        connection.abort();
        Ok((status, serde_json::from_slice(&bytes)?))
    }
}
