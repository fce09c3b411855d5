//! Options for a switch at another machine.

use crate::api::client::Remote;
use clap::Args;
use miette::Diagnostic;
use std::path::PathBuf;

/// Where a switch at another machine is, and with which certificate it is asked.
#[derive(Clone, Debug, Default, Args)]
pub struct RemoteOptions {
    /// The switch to talk to, at another machine, such as https://sw1.example.net:7443.
    #[arg(long, global = true, value_name = "URL", env = "FLOWLANE_REMOTE", hide_short_help = true)]
    pub remote: Option<String>,
    /// For --remote: the certificate to show, PEM.
    #[arg(long, global = true, value_name = "FILE", env = "FLOWLANE_CERT", hide_short_help = true)]
    pub cert: Option<PathBuf>,
    /// For --remote: the key to it, PEM.
    #[arg(long, global = true, value_name = "FILE", env = "FLOWLANE_KEY", hide_short_help = true)]
    pub key: Option<PathBuf>,
    /// For --remote: the authorities whose certificates a switch may have, PEM.
    #[arg(long, global = true, value_name = "FILE", env = "FLOWLANE_CACERT", hide_short_help = true)]
    pub cacert: Option<PathBuf>,
}

/// Why the options for another machine do not do.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum RemoteOptionsError {
    /// One is missing.
    #[error("--remote takes {0} too")]
    #[diagnostic(
        code(FL0003),
        help(
            "flowlane --remote https://HOST:PORT --cert FILE --key FILE --cacert FILE .., or FLOWLANE_REMOTE and so on"
        )
    )]
    Missing(&'static str),
    /// The URL is none.
    #[error("{0:?} is not where a switch is")]
    #[diagnostic(code(FL0004), help("such as https://sw1.example.net:7443: a name or an address, and a port"))]
    Url(String),
}

impl RemoteOptions {
    /// Whether a switch at another machine is named.
    pub fn is_there(&self) -> bool {
        self.remote.is_some()
    }

    /// Where it is, if one is named.
    ///
    /// # Errors
    /// [`RemoteOptionsError`].
    pub fn address(&self) -> Result<Option<Remote>, RemoteOptionsError> {
        let Some(url) = &self.remote else { return Ok(None) };
        let file = |path: &Option<PathBuf>, name| path.clone().ok_or(RemoteOptionsError::Missing(name));
        let (host, port) = host_and_port(url).ok_or_else(|| RemoteOptionsError::Url(url.clone()))?;
        Ok(Some(Remote {
            host,
            port,
            certificate: file(&self.cert, "--cert")?,
            key: file(&self.key, "--key")?,
            authorities: file(&self.cacert, "--cacert")?,
        }))
    }
}

/// The parts of `https://HOST:PORT`; an IPv6 address stands in brackets (RFC 3986 section 3.2.2).
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let authority = url.strip_prefix("https://")?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
    let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#', '[', ']']);
    plain.then_some(())?;
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port() {
        let of = |url| host_and_port(url).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(of("https://sw1.example:7443").as_deref(), Some("sw1.example 7443"));
        assert_eq!(of("https://[fd00::1]:7443/").as_deref(), Some("fd00::1 7443"));
        for wrong in ["http://sw1:1", "sw1:1", "https://sw1", "https://:1", "https://a/b:1", "https://sw1:70000"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn another_machine_takes_all_options() {
        let remote = Some("https://sw1:1".to_owned());
        let some = RemoteOptions { remote, cert: Some("c".into()), key: Some("k".into()), cacert: None };
        let error = some.address().expect_err("one is missing").to_string();
        assert!(error.contains("--cacert"), "{error}");
        assert!(RemoteOptions { cacert: Some("a".into()), ..some }.address().expect("all").is_some());
    }
}
