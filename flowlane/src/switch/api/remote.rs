//! The interface for other machines: TLS 1.3, where both sides show a certificate. The caller's decides on its role.

use super::{ServeError, access::Caller, connections::Connections};
use crate::config::{CertificateName, RemoteClient, RemoteConfig};
use miette::Diagnostic;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use sha2::{Digest as _, Sha256};
use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use webpki::EndEntityCert;

/// Why other machines can not be listened to.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum RemoteError {
    /// A file holds no certificate or no key.
    #[error("{} can not be used: {source}", path.display())]
    #[diagnostic(
        code(FL0214),
        help("[remote] names PEM files: a certificate, the key to it, and the callers' authority")
    )]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The key is open to all users of this machine.
    #[error("{} can be read by all users of this machine", path.display())]
    #[diagnostic(code(FL0215), help("chmod 600 {}", path.display()))]
    Open {
        /// The key.
        path: PathBuf,
    },
    /// There is no authority, or one that is none.
    #[error("{} can not be the callers' authority: {source}", path.display())]
    #[diagnostic(code(FL0216), help("`client_ca` names the certificates of the authorities that sign for callers"))]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: VerifierBuilderError,
    },
    /// Certificate and key do not go together.
    #[error("{} with its key can not be used: {source}", path.display())]
    #[diagnostic(code(FL0217), help("`key` must be the key to the first certificate of `certificate`"))]
    Certificate {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
}

/// How many handshakes there are at a time, and how long one may take.
const HANDSHAKES: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one whose handshake has failed may take to hear why.
const REFUSED: Duration = Duration::from_secs(1);
/// How many have a certificate and wait for a place.
const WAITING: usize = 16;

/// What other machines are answered with: certificate, key, and whose certificates are good.
pub struct Remote {
    listen: SocketAddr,
    clients: Arc<[RemoteClient]>,
    acceptor: TlsAcceptor,
}

impl Remote {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// [`RemoteError`], which names the file.
    pub fn read(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let mut tls = tls(config)?;
        // A resumed session would not ask for the certificate again, which may have expired.
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { listen: config.listen, clients: config.clients.clone().into(), acceptor: Arc::new(tls).into() })
    }

    /// Listens.
    ///
    /// # Errors
    /// [`ServeError::ListenRemote`].
    pub async fn listen(self) -> Result<Listening, ServeError> {
        let failed = |source| ServeError::ListenRemote { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        Ok(Listening { remote: self, listener })
    }
}

/// A [`Remote`] that listens.
pub struct Listening {
    remote: Remote,
    listener: TcpListener,
}

impl Listening {
    /// Takes callers for ever. Their handshakes wait for nobody.
    pub async fn serve(&self, connections: &Connections) -> Infallible {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let (known, mut callers) = mpsc::channel(WAITING);
        loop {
            tokio::select! {
                Some((stream, caller)) = callers.recv() => connections.add(stream, caller),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        // Where there are too many, this one ends: it is not known yet who it is.
                        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else { continue };
                        let (acceptor, clients) = (self.remote.acceptor.clone(), Arc::clone(&self.remote.clients));
                        let known = known.clone();
                        tokio::spawn(async move {
                            if let Some(caller) = shake_hands(acceptor, &clients, stream, from).await {
                                // Nobody listens any more where the switch ends.
                                let _ = known.send(caller).await;
                            }
                            drop(permit);
                        });
                    }
                    // Out of descriptors, most likely: some will be free soon.
                    Err(_) => sleep(Duration::from_millis(100)).await,
                },
            }
        }
    }
}

/// The caller, where it has a good certificate.
async fn shake_hands(
    acceptor: TlsAcceptor,
    clients: &[RemoteClient],
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(TlsStream<TcpStream>, Caller)> {
    match timeout(PATIENCE, acceptor.accept(stream).into_fallible()).await.ok()? {
        Ok(stream) => {
            let caller = caller(stream.get_ref().1.peer_certificates()?.first()?, clients);
            Some((stream, caller))
        }
        Err((error, stream)) => {
            tracing::debug!(%from, "no TLS session: {error}");
            let _ = timeout(REFUSED, refuse(stream)).await;
            None
        }
    }
}

/// Lets the peer hear why: an end of the connection with something unread in it would take the alert away.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    while stream.read(&mut [0; 4_096]).await? > 0 {}
    Ok(())
}

/// Who shows this certificate, which the callers' authority has signed.
fn caller(certificate: &CertificateDer<'_>, clients: &[RemoteClient]) -> Caller {
    let fingerprint: [u8; 32] = Sha256::digest(certificate).into();
    let parsed = EndEntityCert::try_from(certificate).ok();
    let names: Vec<String> =
        parsed.iter().flat_map(|parsed| parsed.valid_dns_names()).map(str::to_ascii_lowercase).collect();
    let is = |name: &CertificateName| match name {
        CertificateName::Dns(name) => names.contains(name),
        CertificateName::Fingerprint(known) => *known == fingerprint,
    };
    let role = clients.iter().filter(|client| is(&client.certificate)).map(|client| client.role).max();
    let fingerprint = CertificateName::Fingerprint(fingerprint);
    let who = format!("certificate {}", names.first().cloned().unwrap_or_else(|| fingerprint.to_string()));
    Caller { client: format!("remote {fingerprint}"), who, role }
}

fn tls(config: &RemoteConfig) -> Result<ServerConfig, RemoteError> {
    let provider = Arc::new(ring::default_provider());
    let unusable = |source| RemoteError::Certificate { path: config.certificate.clone(), source };
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(certificates(&config.client_ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
        .build()
        .map_err(|source| RemoteError::Authority { path: config.client_ca.clone(), source })?;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&config.certificate)?, key(&config.key)?)
        .map_err(unusable)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RemoteError> {
    let wrong = |source| RemoteError::Pem { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, RemoteError> {
    const ALL_USERS: u32 = 0o007;
    let key =
        PrivateKeyDer::from_pem_file(path).map_err(|source| RemoteError::Pem { path: path.to_owned(), source })?;
    match fs::metadata(path) {
        Ok(found) if found.permissions().mode() & ALL_USERS != 0 => Err(RemoteError::Open { path: path.to_owned() }),
        _ => Ok(key),
    }
}
