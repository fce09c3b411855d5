//! The way to a switch at another machine: TLS 1.3, with a certificate on both sides.

use super::ClientError;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject as _},
    version::TLS13,
};
use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Where a switch at another machine is, and with which certificate it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name or IP address, which its certificate must have too.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The certificate to show, and those between it and its authority, PEM.
    pub certificate: PathBuf,
    /// The key to it, PEM.
    pub key: PathBuf,
    /// The authorities whose certificates a switch may have, PEM.
    pub authorities: PathBuf,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "https://[{}]:{}", self.host, self.port),
            false => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

impl Remote {
    /// Connects. Whether the switch takes the certificate is told by the answer to the first request.
    pub(super) async fn connect(&self) -> Result<TokioIo<TlsStream<TcpStream>>, ClientError> {
        let connector = TlsConnector::from(Arc::new(self.tls()?));
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| super::protocol(&self.to_string(), error.to_string()))?;
        let unreachable = |source| ClientError::Unreachable {
            switch: self.to_string(),
            source,
            help: "see whether the address is right, and whether the switch's configuration has [remote]".into(),
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        let connected = connector.connect(name, stream).await;
        connected.map(TokioIo::new).map_err(|error| match distrust(&error) {
            Some(reason) => ClientError::Distrusted { switch: self.to_string(), reason },
            None => unreachable(error),
        })
    }

    fn tls(&self) -> Result<ClientConfig, ClientError> {
        let mut authorities = RootCertStore::empty();
        authorities.add_parsable_certificates(certificates(&self.authorities)?);
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(unusable(&self.key))?;
        let wrong = |error: rustls::Error| ClientError::Credentials {
            path: self.certificate.clone(),
            reason: error.to_string(),
        };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(wrong)?
            .with_root_certificates(authorities)
            .with_client_auth_cert(certificates(&self.certificate)?, key)
            .map_err(wrong)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(tls)
    }
}

/// Why the other side does not take the certificate that was shown, where that is what an error says.
pub(super) fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    tls_error(error).and_then(|error| match error {
        rustls::Error::AlertReceived(alert) => Some(format!("{alert:?}")),
        _ => None,
    })
}

/// Why the other side's certificate is not taken, where that is what an error says.
fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    tls_error(error).and_then(|error| match error {
        rustls::Error::InvalidCertificate(reason) => Some(reason.to_string()),
        _ => None,
    })
}

/// The TLS error in a chain of errors. One in an [`std::io::Error`] is not its source, but its inside.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inside = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    let inside = inside.map(|inside| inside as &(dyn Error + 'static));
    error.downcast_ref().or_else(|| inside.or_else(|| error.source()).and_then(tls_error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    CertificateDer::pem_file_iter(path).map_err(unusable(path))?.collect::<Result<_, _>>().map_err(unusable(path))
}

fn unusable(path: &Path) -> impl Fn(pem::Error) -> ClientError + '_ {
    move |error| ClientError::Credentials { path: path.to_owned(), reason: error.to_string() }
}
