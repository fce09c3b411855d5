//! Who may ask the switch for what: `[access]` and `[remote]`.

use super::{ConfigError, Source, host::Name};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use toml::Spanned;

/// What a caller may do. A role may do everything that those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything, change nothing.
    Observe,
    /// Open and close flows and groups.
    Operate,
    /// Everything.
    Admin,
}

impl Role {
    /// The word for it in configuration, description and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// The roles of users of this machine. Root, and whom the switch runs as, are admin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccessConfig {
    /// By number.
    pub users: BTreeMap<u32, Role>,
    /// By number: members have the role.
    pub groups: BTreeMap<u32, Role>,
}

impl AccessConfig {
    /// The highest role of a user with these groups; none where nobody has given one.
    pub fn role(&self, user: u32, groups: &[u32]) -> Option<Role> {
        let own = self.users.get(&user);
        let of_groups = groups.iter().filter_map(|group| self.groups.get(group));
        own.into_iter().chain(of_groups).max().copied()
    }

    /// Whether anybody but root has a role.
    pub fn names_anybody(&self) -> bool {
        !self.users.is_empty() || !self.groups.is_empty()
    }
}

/// The interface for other machines: HTTP over TLS 1.3, where both sides show a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The switch's certificate and those between it and its authority, PEM.
    pub certificate: PathBuf,
    /// The key to it, PEM.
    pub key: PathBuf,
    /// The authorities whose certificates callers may have, PEM.
    pub client_ca: PathBuf,
    /// Who of them may do what. An authority alone gives nobody a role.
    pub clients: Vec<RemoteClient>,
}

/// A caller of another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteClient {
    /// By what its certificate is known.
    pub certificate: CertificateName,
    /// What it may do.
    pub role: Role,
}

/// By what a certificate is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// A DNS name among its subject's alternative names (RFC 5280 section 4.2.1.6), in lower case.
    Dns(String),
    /// The SHA-256 of all of it (DER), as `openssl x509 -fingerprint -sha256` prints it.
    Fingerprint([u8; 32]),
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Fingerprint(octets) => octets.iter().try_for_each(|octet| write!(f, "{octet:02x}")),
        }
    }
}

/// `[access]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessFile {
    #[serde(default)]
    observe: NamesFile,
    #[serde(default)]
    operate: NamesFile,
    #[serde(default)]
    admin: NamesFile,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamesFile {
    users: Option<Vec<Spanned<Name>>>,
    groups: Option<Vec<Spanned<Name>>>,
}

/// `[remote]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoteFile {
    listen: Spanned<String>,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    #[serde(default, rename = "client")]
    clients: Vec<Spanned<RemoteClientFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoteClientFile {
    name: Option<Spanned<String>>,
    fingerprint: Option<Spanned<String>>,
    role: Role,
}

impl Source<'_> {
    pub(super) fn access(&self, file: &AccessFile) -> Result<AccessConfig, ConfigError> {
        let mut access = AccessConfig::default();
        // The highest comes last and stays.
        let roles = [(Role::Observe, &file.observe), (Role::Operate, &file.operate), (Role::Admin, &file.admin)];
        for (role, names) in roles {
            access.users.extend(self.users(names.users.as_deref())?.into_iter().map(|user| (user, role)));
            access.groups.extend(self.groups(names.groups.as_deref())?.into_iter().map(|group| (group, role)));
        }
        Ok(access)
    }

    pub(super) fn remote(&self, file: &RemoteFile) -> Result<RemoteConfig, ConfigError> {
        let listen = file.listen.get_ref().parse().map_err(|_| {
            let message = format!("{:?} is no address with a port", file.listen.get_ref());
            self.wrong(file.listen.span(), message, "such as \"192.0.2.1:7443\" or \"[::]:7443\"")
        })?;
        for path in [&file.certificate, &file.key, &file.client_ca] {
            self.absolute(path, &file.listen)?;
        }
        Ok(RemoteConfig {
            listen,
            certificate: file.certificate.clone(),
            key: file.key.clone(),
            client_ca: file.client_ca.clone(),
            clients: file.clients.iter().map(|client| self.remote_client(client)).collect::<Result<_, _>>()?,
        })
    }

    fn remote_client(&self, client: &Spanned<RemoteClientFile>) -> Result<RemoteClient, ConfigError> {
        let RemoteClientFile { name, fingerprint, role } = client.get_ref();
        let certificate = match (name, fingerprint) {
            (Some(name), None) => CertificateName::Dns(name.get_ref().to_ascii_lowercase()),
            (None, Some(text)) => CertificateName::Fingerprint(self.fingerprint(text)?),
            _ => {
                let hint = "`name`, or else `fingerprint`";
                return Err(self.wrong(client.span(), "by what is this client's certificate known?", hint));
            }
        };
        Ok(RemoteClient { certificate, role: *role })
    }

    fn fingerprint(&self, text: &Spanned<String>) -> Result<[u8; 32], ConfigError> {
        let wrong = || {
            let message = format!("{:?} is no fingerprint", text.get_ref());
            self.wrong(text.span(), message, "64 hexadecimal digits: openssl x509 -noout -fingerprint -sha256 -in FILE")
        };
        let digits: Vec<u8> = text.get_ref().bytes().filter(|octet| *octet != b':').collect();
        let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let octets: Option<Vec<u8>> = digits.chunks(2).map(octet).collect();
        // A sign would pass for a digit.
        let plain = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
        octets.filter(|_| plain).and_then(|octets| octets.try_into().ok()).ok_or_else(wrong)
    }

    fn absolute(&self, path: &Path, listen: &Spanned<String>) -> Result<(), ConfigError> {
        match path.is_absolute() {
            true => Ok(()),
            false => {
                let message = format!("{} is no absolute path", path.display());
                Err(self.wrong(listen.span(), message, "the files of [remote] begin with /"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Config {
        Config::parse("test.toml", text).expect("a configuration")
    }

    fn line_of(text: &str) -> usize {
        match Config::parse("test.toml", text).expect_err("wrong") {
            ConfigError::Wrong { line, .. } => line,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn nobody_has_a_role_and_nobody_is_listened_to_from_afar_unless_said() {
        let config = parse("");
        assert_eq!((config.access.role(1000, &[1000, 0]), config.access.names_anybody()), (None, false));
        assert_eq!(config.remote, None);
    }

    #[test]
    fn the_highest_role_counts() {
        let text = "[access.observe]\nusers = [1000, 1001]\ngroups = [\"root\"]\n\
                    [access.operate]\ngroups = [50]\n[access.admin]\nusers = [1001]\n";
        let access = parse(text).access;
        assert_eq!(access.role(1000, &[]), Some(Role::Observe));
        assert_eq!(access.role(1000, &[7, 50]), Some(Role::Operate));
        assert_eq!(access.role(1001, &[50]), Some(Role::Admin));
        assert_eq!(access.role(7, &[0]), Some(Role::Observe));
        assert_eq!(access.role(7, &[]), None);
    }

    const REMOTE: &str =
        "[remote]\nlisten = \"[::]:7443\"\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\nclient_ca = \"/a.pem\"\n";

    #[test]
    fn certificates_are_known_by_name_or_fingerprint() {
        let fingerprint = "AB:".repeat(31) + "cd";
        let clients = format!(
            "{REMOTE}[[remote.client]]\nname = \"Ops.example\"\nrole = \"operate\"\n\
             [[remote.client]]\nfingerprint = \"{fingerprint}\"\nrole = \"observe\"\n"
        );
        let clients = parse(&clients).remote.expect("remote").clients;
        let mut octets = [0xab; 32];
        octets[31] = 0xcd;
        let named = RemoteClient { certificate: CertificateName::Dns("ops.example".into()), role: Role::Operate };
        let printed = RemoteClient { certificate: CertificateName::Fingerprint(octets), role: Role::Observe };
        assert_eq!(clients, [named, printed]);
    }

    #[test]
    fn errors_point_at_the_line() {
        assert_eq!(line_of("[access.observe]\nusers = [\"no-such-user\"]"), 2);
        assert_eq!(line_of("[access]\nobserver = {}"), 2);
        assert_eq!(line_of(&REMOTE.replace("[::]:7443", "7443")), 2);
        assert_eq!(line_of(&REMOTE.replace("/k.pem", "k.pem")), 2);
        let client = |text: &str| format!("{REMOTE}[[remote.client]]\n{text}\n");
        assert_eq!(line_of(&client("role = \"observe\"")), 6);
        assert_eq!(line_of(&client("name = \"a\"\nrole = \"root\"")), 8);
        assert_eq!(line_of(&client("fingerprint = \"ab\"\nrole = \"observe\"")), 7);
        assert_eq!(line_of(&client(&format!("fingerprint = \"{}\"\nrole = \"observe\"", "+a".repeat(32)))), 7);
    }
}
