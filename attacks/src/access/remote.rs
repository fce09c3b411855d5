//! Callers from other machines, by TLS with certificates.

use super::certificates::{Authority, Identity};
use crate::Error;
use flowlane_lab::Netns;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
};
use tokio_rustls::TlsConnector;

/// Where switches listen that other machines may ask.
pub const ADDRESS: &str = "127.0.0.1:7443";

/// A caller: where it is, whom it trusts, and who it says that it is.
pub struct Caller<'a> {
    /// The network that it calls from.
    pub netns: &'a Netns,
    /// Who has signed the switch's certificate.
    pub authority: &'a Authority,
    /// Its own certificate, if it shows one.
    pub identity: Option<&'a Identity>,
}

/// The settings of a switch that listens at [`ADDRESS`] to callers with the roles, in their order. They are known by name,
/// `ROLE.test`, but the second one, which is by its fingerprint.
pub fn settings(server: &Identity, authority: &Authority, callers: &[Identity; 3]) -> String {
    let fingerprint: String = Sha256::digest(&callers[1].der).iter().map(|octet| format!("{octet:02x}")).collect();
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    format!(
        "[remote]\nlisten = \"{ADDRESS}\"\ncertificate = {}\nkey = {}\nclient_ca = {}\n\
         [[remote.client]]\nname = \"observe.test\"\nrole = \"observe\"\n\
         [[remote.client]]\nfingerprint = \"{fingerprint}\"\nrole = \"operate\"\n\
         [[remote.client]]\nname = \"admin.test\"\nrole = \"admin\"\n",
        quoted(&server.certificate),
        quoted(&server.key),
        quoted(&authority.file),
    )
}

impl Caller<'_> {
    /// A connection to an address.
    ///
    /// # Errors
    /// Why there is none.
    pub fn connect(&self, to: &str) -> io::Result<TcpStream> {
        self.netns.run(|| TcpStream::connect(to)).map_err(io::Error::other)?
    }

    /// The status and the body of the answer, or why there is none.
    ///
    /// # Errors
    /// What the other side has said instead, as text.
    pub fn call(&self, to: &str, method: &Method, path: &str, body: &'static str) -> Result<(u16, Value), String> {
        let stream = self.connect(to).map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let config = self.tls().map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(exchange(stream, config, method, path, body))
    }

    fn tls(&self) -> Result<ClientConfig, Error> {
        let mut authorities = RootCertStore::empty();
        authorities.add_parsable_certificates(certificates(&self.authority.file)?);
        let config = ClientConfig::builder().with_root_certificates(authorities);
        let Some(Identity { certificate, key, .. }) = self.identity else { return Ok(config.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_file(key).map_err(Error::certificate)?;
        config.with_client_auth_cert(certificates(certificate)?, key).map_err(Error::certificate)
    }
}

async fn exchange(
    stream: TcpStream,
    config: ClientConfig,
    method: &Method,
    path: &str,
    body: &'static str,
) -> Result<(u16, Value), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = tokio::net::TcpStream::from_std(stream).map_err(|error| text(&error))?;
    let name = "127.0.0.1".try_into().map_err(|error| text(&error))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| text(&error))?;
    let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "switch");
    let request = request.header("content-type", "application/json").body(Full::<Bytes>::from(body));
    let Ok(answer) = requests.send_request(request.map_err(|error| text(&error))?).await else {
        drop(requests);
        let ended = connection.await.map_err(|error| text(&error))?;
        return Err(ended.map_or_else(|error| format!("{error:?}"), |()| "closed".into()));
    };
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| text(&error))?.to_bytes();
    Ok((status, serde_json::from_slice(&body).map_err(|error| text(&error))?))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).map_err(Error::certificate)?;
    read.collect::<Result<_, _>>().map_err(Error::certificate)
}

/// Passes one connection on. What the caller has said.
///
/// # Errors
/// The system's.
pub fn record(listener: &TcpListener, mut to_switch: TcpStream) -> io::Result<Vec<u8>> {
    let (mut from_caller, _): (_, SocketAddr) = listener.accept()?;
    let mut back = (to_switch.try_clone()?, from_caller.try_clone()?);
    // It ends with the connection.
    let answers = thread::spawn(move || drop(io::copy(&mut back.0, &mut back.1)));
    let (mut recorded, mut octets) = (Vec::new(), [0; 4_096]);
    while let Ok(count @ 1..) = from_caller.read(&mut octets) {
        recorded.extend_from_slice(&octets[..count]);
        to_switch.write_all(&octets[..count])?;
    }
    // It may have been closed by the other side.
    let _ = to_switch.shutdown(Shutdown::Both);
    answers.join().map_err(|_| io::Error::other("the thread for answers has ended"))?;
    Ok(recorded)
}
