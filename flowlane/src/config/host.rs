//! The configuration of a host's daemon.

use super::{ConfigError, Source};
use flowlane_client::protocol::PATHS_MAX;
use flowlane_host::{mechanism::MechanismChoice, policy::Policy};
use nix::unistd::{Group, User};
use serde::Deserialize;
use std::path::Path;
use toml::Spanned;

/// Where the configuration is, where none is named.
pub const DEFAULT_PATH: &str = "/etc/flowlane/host.toml";

/// A host's daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Who may have flows, and which.
    pub policy: Policy,
    /// The interfaces by which packets are put into flows; nothing for all.
    pub interfaces: Option<Vec<String>>,
    /// How many runs each user may have at a time.
    pub max_runs: usize,
    /// How packets are put into flows.
    pub mechanism: MechanismChoice,
}

/// How many runs a user may have where the file does not say it.
const MAX_RUNS: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    allow_users: Option<Vec<Spanned<Name>>>,
    allow_groups: Option<Vec<Spanned<Name>>>,
    max_rate: Option<Spanned<toml::Value>>,
    max_paths: Option<Spanned<u8>>,
    max_runs: Option<usize>,
    #[serde(default)]
    require: bool,
    interfaces: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    mechanism: MechanismChoice,
}

/// A user or group, by name or number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Name {
    Number(u32),
    Text(String),
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { policy: Policy::default(), interfaces: None, max_runs: MAX_RUNS, mechanism: MechanismChoice::default() }
    }
}

impl HostConfig {
    /// Reads and checks a file; where none is named, the one at [`DEFAULT_PATH`] if there is one.
    ///
    /// # Errors
    /// A [`ConfigError`] that points at the line.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let path = match path {
            Some(path) => path,
            None if Path::new(DEFAULT_PATH).exists() => Path::new(DEFAULT_PATH),
            None => return Ok(Self::default()),
        };
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Checks the text of a file; `name` is for errors.
    ///
    /// # Errors
    /// A [`ConfigError`] that points at the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        let source = Source { name, text };
        let file: File = source.file()?;
        Ok(Self {
            policy: source.host_policy(&file)?,
            interfaces: file.interfaces.as_deref().map(|names| source.interfaces(names)).transpose()?,
            max_runs: file.max_runs.unwrap_or(MAX_RUNS),
            mechanism: file.mechanism,
        })
    }
}

impl Source<'_> {
    /// Where neither users nor groups are named, the group `flowlane` is allowed.
    fn host_policy(&self, file: &File) -> Result<Policy, ConfigError> {
        let (users, groups) = match (&file.allow_users, &file.allow_groups) {
            (None, None) => (Vec::new(), Policy::default().groups),
            (users, groups) => (self.users(users.as_deref())?, self.groups(groups.as_deref())?),
        };
        Ok(Policy {
            users,
            groups,
            max_rate: file.max_rate.as_ref().map(|rate| self.rate(rate)).transpose()?,
            max_paths: file.max_paths.as_ref().map_or(Ok(PATHS_MAX), |paths| self.max_paths(paths))?,
            require: file.require,
        })
    }

    pub(super) fn users(&self, names: Option<&[Spanned<Name>]>) -> Result<Vec<u32>, ConfigError> {
        let find = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        self.numbers(names, find, "user", "`getent passwd` lists the users")
    }

    pub(super) fn groups(&self, names: Option<&[Spanned<Name>]>) -> Result<Vec<u32>, ConfigError> {
        let find = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        self.numbers(names, find, "group", "`getent group` lists the groups")
    }

    fn numbers(
        &self,
        names: Option<&[Spanned<Name>]>,
        find: impl Fn(&str) -> Option<u32>,
        what: &str,
        hint: &str,
    ) -> Result<Vec<u32>, ConfigError> {
        let number = |name: &Spanned<Name>| match name.get_ref() {
            Name::Number(number) => Ok(*number),
            Name::Text(text) => {
                find(text).ok_or_else(|| self.wrong(name.span(), format!("there is no {what} {text:?}"), hint))
            }
        };
        names.unwrap_or_default().iter().map(number).collect()
    }

    fn max_paths(&self, paths: &Spanned<u8>) -> Result<u8, ConfigError> {
        let number = *paths.get_ref();
        match (1..=PATHS_MAX).contains(&number) {
            true => Ok(number),
            false => Err(self.wrong(paths.span(), format!("{number} paths"), format!("1 to {PATHS_MAX}"))),
        }
    }

    /// They need not exist yet.
    fn interfaces(&self, names: &[Spanned<String>]) -> Result<Vec<String>, ConfigError> {
        let name = |name: &Spanned<String>| match name.get_ref().as_str() {
            text if text.is_empty() || text.len() > 15 || text.contains('/') => {
                Err(self.wrong(name.span(), format!("{text:?} can not be an interface"), "1 to 15 characters"))
            }
            text => Ok(text.to_owned()),
        };
        names.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, String) {
        match HostConfig::parse("host.toml", text).expect_err("wrong") {
            ConfigError::Wrong { line, message, .. } => (line, message),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_empty_file_is_as_good_as_none() {
        assert_eq!(HostConfig::parse("host.toml", "").expect("right"), HostConfig::default());
    }

    #[test]
    fn users_and_groups_are_named_or_numbered() {
        let text = "allow_users = [\"root\", 1000]\nallow_groups = [\"root\", 50]\nmax_rate = \"10M\"\nmax_paths = 2\n\
                    require = true\ninterfaces = [\"eth0\"]\nmax_runs = 3\nmechanism = \"nft\"\n";
        let config = HostConfig::parse("host.toml", text).expect("right");
        let policy = Policy {
            users: vec![0, 1000],
            groups: vec![0, 50],
            max_rate: Some(10_000_000),
            max_paths: 2,
            require: true,
        };
        let interfaces = Some(vec!["eth0".to_owned()]);
        assert_eq!(config, HostConfig { policy, interfaces, max_runs: 3, mechanism: MechanismChoice::Nft });
        let nobody = HostConfig::parse("host.toml", "allow_users = []\n").expect("right");
        assert_eq!((nobody.policy.users, nobody.policy.groups), (vec![], vec![]));
    }

    #[test]
    fn errors_point_at_the_line() {
        assert_eq!(wrong("require = true\nallow_users = [\n  \"no-such-user\",\n]\n").0, 3);
        assert!(wrong("allow_users = [\"no-such-user\"]").1.contains("there is no user"));
        assert!(wrong("allow_groups = [\"no-such-group\"]").1.contains("there is no group"));
        for text in [
            "max_runs = -1",
            "max_rate = \"fast\"",
            "max_paths = 0",
            "max_paths = 9",
            "interfaces = [\"a/b\"]",
            "mechanism = \"ebpf\"",
            "allow_user = []",
        ] {
            assert_eq!(wrong(&format!("\n{text}\n")).0, 2, "{text}");
        }
    }
}
