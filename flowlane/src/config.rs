//! The configuration of a switch: a TOML file whose errors point at the line.

mod access;
mod flag;
mod flow;
mod host;

pub use access::{AccessConfig, CertificateName, RemoteClient, RemoteConfig, Role};
pub use flag::{FlagConfig, FlagRole, FlaggedPolicy, flag_dscp};
pub use flow::FlowConfig;
pub use host::HostConfig;

use access::{AccessFile, RemoteFile};
use flag::FlaggedFile;
use flow::FlowFile;
use flowlane_allot::Policy;
use flowlane_program::Mode;
use flowlane_tables::Rate;
use flowlane_wire::{Block, Mac, PortId};
use ipnet::IpNet;
use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use toml::Spanned;

/// Who handles a port's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Executor {
    /// `xdp` on network cards, `tc` on virtual interfaces, `af-packet` where the kernel does not let us.
    #[default]
    Auto,
    /// The kernel, at the driver.
    Xdp,
    /// The kernel, before the network stack; super-packets stay whole.
    Tc,
    /// This process, through AF_XDP sockets; what is no flow's stays with the kernel.
    AfXdp,
    /// This process, through AF_PACKET rings.
    AfPacket,
}

impl Executor {
    /// The word for it in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::AfXdp => "af-xdp",
            Self::AfPacket => "af-packet",
        }
    }

    /// Whether a program of ours runs in the kernel.
    pub fn is_in_kernel(self) -> bool {
        self.mode().is_some() || self == Self::AfXdp
    }

    /// The place in the kernel, where all of the pipeline runs there.
    pub fn mode(self) -> Option<Mode> {
        match self {
            Self::Xdp => Some(Mode::Xdp),
            Self::Tc => Some(Mode::Tc),
            Self::Auto | Self::AfXdp | Self::AfPacket => None,
        }
    }
}

/// What frames leave a port with as their Ethernet source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceAddress {
    /// The flow's address (claim 17).
    #[default]
    Flow,
    /// The port's own address, because a learning bridge lies on both sides of the switch.
    Port,
}

/// A switch.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name: of its pins, its store and its socket.
    pub name: String,
    /// Its addresses.
    pub block: Block,
    /// Who handles frames, where a port does not say.
    pub executor: Executor,
    /// Where leases are kept.
    pub state_directory: PathBuf,
    /// Where the socket and other things of the moment are.
    pub runtime_directory: PathBuf,
    /// Every frame with its verdict, as pcapng.
    pub capture: Option<PathBuf>,
    /// What may be leased, for how long.
    pub policy: Policy,
    /// The ports, by number.
    pub ports: BTreeMap<PortId, PortConfig>,
    /// Next hosts that do not come from Linux.
    pub routes: Vec<RouteConfig>,
    /// Flows that are there from the start, without a lease; for `replay`.
    pub flows: Vec<FlowConfig>,
    /// Who of this machine may ask for what.
    pub access: AccessConfig,
    /// The interface for other machines, where there is to be one.
    pub remote: Option<RemoteConfig>,
}

/// A port.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// The interface.
    pub interface: String,
    /// Who handles its frames.
    pub executor: Executor,
    /// What its frames leave with as their source.
    pub source: SourceAddress,
    /// Whether hosts may ask for flows by DHCPv6 there.
    pub dhcp6: bool,
    /// How many DHCPv6 messages of the port are taken a second where its hosts ask without end, and those at another for little.
    pub dhcp6_rate: u32,
    /// Whether gateways behind it are asked for flow addresses of their own (claims 14 and 22).
    pub chain: bool,
    /// Whether the bridges behind it are told where its flow addresses are.
    pub announce: bool,
    /// MTU in octets, for `replay`, which has no interface to ask.
    pub mtu: u32,
    /// Ethernet address, likewise.
    pub mac: Option<Mac>,
    /// What the port does with the virtual-circuit flag (claims 23 and 24); none leaves it alone.
    pub flag: Option<FlagConfig>,
}

/// A next host for destinations.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// The destinations.
    pub to: IpNet,
    /// The port to the next host.
    pub port: PortId,
    /// The next host's address.
    pub next: Mac,
    /// Whether it lies in another subnet, so that the time to live is decremented.
    pub routed: bool,
}

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ConfigError {
    /// The file can not be read.
    #[error("can not read {}", path.display())]
    #[diagnostic(code(FL0101), help("name an existing file with --config"))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{message}")]
    #[diagnostic(code(FL0102))]
    Wrong {
        /// What.
        message: String,
        /// The file's text.
        #[source_code]
        text: Arc<NamedSource<String>>,
        /// Where.
        #[label("{hint}")]
        at: SourceSpan,
        /// The line, from 1.
        line: usize,
        /// What would be right.
        hint: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<Spanned<String>>,
    block: Option<Spanned<String>>,
    slots: Option<Spanned<u32>>,
    #[serde(default)]
    executor: Executor,
    state_directory: Option<PathBuf>,
    runtime_directory: Option<PathBuf>,
    capture: Option<PathBuf>,
    #[serde(default)]
    lease: LeaseFile,
    #[serde(default, rename = "port")]
    ports: Vec<Spanned<PortFile>>,
    #[serde(default, rename = "route")]
    routes: Vec<RouteFile>,
    #[serde(default, rename = "flow")]
    flows: Vec<FlowFile>,
    #[serde(default)]
    access: AccessFile,
    remote: Option<RemoteFile>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseFile {
    default: Option<Spanned<String>>,
    min: Option<Spanned<String>>,
    max: Option<Spanned<String>>,
    quarantine: Option<Spanned<String>>,
    reserve: Option<Spanned<String>>,
    per_request: Option<u32>,
    per_port: Option<u32>,
    per_client: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortFile {
    interface: Spanned<String>,
    number: Option<Spanned<u16>>,
    executor: Option<Executor>,
    #[serde(default)]
    source: SourceAddress,
    dhcp6: Option<bool>,
    dhcp6_rate: Option<Spanned<u32>>,
    chain: Option<bool>,
    announce: Option<bool>,
    mtu: Option<Spanned<u32>>,
    mac: Option<Spanned<String>>,
    flag: Option<FlagRole>,
    flag_dscp: Option<Spanned<String>>,
    flagged: Option<Spanned<FlaggedFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    to: Spanned<String>,
    port: Spanned<String>,
    next: Spanned<String>,
    #[serde(default)]
    routed: bool,
}

const DEFAULT_BLOCK: &str = "a2:f1:00:00:00:00/16";
const DEFAULT_SLOTS: u32 = 65_536;
/// DHCPv6 messages of a port in a second, where its hosts ask without end, and those at another for little.
const DEFAULT_DHCP6_RATE: u32 = 10_000;

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// A [`ConfigError`] that points at the line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
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
        source.config(&file)
    }

    /// The port of an interface.
    pub fn port_of(&self, interface: &str) -> Option<PortId> {
        self.ports.iter().find(|(_, port)| port.interface == interface).map(|(number, _)| *number)
    }

    /// Where the local interface listens.
    pub fn socket(&self) -> PathBuf {
        self.runtime_directory.join("switch.sock")
    }
}

/// The text that errors point into.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn wrong(&self, at: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        let before = self.text.get(..at.start).unwrap_or("");
        ConfigError::Wrong {
            message: message.into(),
            text: Arc::new(NamedSource::new(self.name, self.text.to_owned())),
            at: at.into(),
            line: before.matches('\n').count() + 1,
            hint: hint.into(),
        }
    }

    fn file<T: serde::de::DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text)
            .map_err(|error| self.wrong(error.span().unwrap_or(0..0), error.message().trim().to_owned(), "here"))
    }

    fn config(&self, file: &File) -> Result<Config, ConfigError> {
        let name = self.switch_name(file.name.as_ref())?;
        let block = self.block(file.block.as_ref(), file.slots.as_ref())?;
        let ports = self.ports(file)?;
        let config = Config {
            block,
            executor: file.executor,
            state_directory: file.state_directory.clone().unwrap_or_else(|| Path::new("/var/lib/flowlane").join(&name)),
            runtime_directory: file.runtime_directory.clone().unwrap_or_else(|| Path::new("/run/flowlane").join(&name)),
            capture: file.capture.clone(),
            policy: self.policy(&file.lease)?,
            routes: self.routes(&file.routes, &ports)?,
            flows: self.flows(&file.flows, block, &ports)?,
            access: self.access(&file.access)?,
            remote: file.remote.as_ref().map(|remote| self.remote(remote)).transpose()?,
            name,
            ports,
        };
        Ok(config)
    }

    fn switch_name(&self, name: Option<&Spanned<String>>) -> Result<String, ConfigError> {
        let Some(name) = name else { return Ok("switch".to_owned()) };
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let text = name.get_ref();
        if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
            let hint = "1 to 64 letters, digits, hyphens and underscores";
            return Err(self.wrong(name.span(), format!("{text:?} can not be the name of a switch"), hint));
        }
        Ok(text.clone())
    }

    fn block(&self, block: Option<&Spanned<String>>, slots: Option<&Spanned<u32>>) -> Result<Block, ConfigError> {
        let text = block.map_or(DEFAULT_BLOCK, |block| block.get_ref());
        let count = slots.map_or(DEFAULT_SLOTS, |slots| *slots.get_ref());
        let at = block.map(Spanned::span).or(slots.map(Spanned::span)).unwrap_or(0..0);
        let hint = "prefix and length in bits, such as \"a2:f1:00:00:00:00/16\"";
        let (prefix, len) =
            text.split_once('/').ok_or_else(|| self.wrong(at.clone(), "the block has no length", hint))?;
        let prefix: Mac = prefix.parse().map_err(|error| self.wrong(at.clone(), format!("{error}"), hint))?;
        let len: u32 = len.parse().map_err(|_| self.wrong(at.clone(), "the length is no number", hint))?;
        Block::new(prefix, len, count)
            .map_err(|error| self.wrong(at, format!("block {text} with {count} slots can not be used: {error}"), hint))
    }

    fn policy(&self, file: &LeaseFile) -> Result<Policy, ConfigError> {
        let mut policy = Policy::default();
        let set = |to: &mut u32, from: &Option<Spanned<String>>| -> Result<(), ConfigError> {
            if let Some(text) = from {
                *to = seconds(text.get_ref()).ok_or_else(|| {
                    self.wrong(
                        text.span(),
                        format!("{:?} is no duration", text.get_ref()),
                        "such as \"90s\", \"30m\", \"24h\", \"7d\" or \"infinite\"",
                    )
                })?;
            }
            Ok(())
        };
        set(&mut policy.default_lifetime, &file.default)?;
        set(&mut policy.min_lifetime, &file.min)?;
        set(&mut policy.max_lifetime, &file.max)?;
        set(&mut policy.quarantine, &file.quarantine)?;
        set(&mut policy.reserve, &file.reserve)?;
        let limits = policy.min_lifetime..=policy.max_lifetime;
        if limits.is_empty() {
            let at = file.min.as_ref().or(file.max.as_ref()).map_or(0..0, Spanned::span);
            return Err(self.wrong(at, "the shortest lease is longer than the longest", "min is at most max"));
        }
        if let Some(default) = file.default.as_ref().filter(|_| !limits.contains(&policy.default_lifetime)) {
            let (message, hint) = ("the default is shorter than min or longer than max", "from min to max");
            return Err(self.wrong(default.span(), message, hint));
        }
        policy.max_addresses = file.per_request.unwrap_or(policy.max_addresses);
        policy.port_quota = file.per_port.unwrap_or(policy.port_quota);
        policy.client_quota = file.per_client.unwrap_or(policy.client_quota);
        Ok(policy)
    }

    fn ports(&self, file: &File) -> Result<BTreeMap<PortId, PortConfig>, ConfigError> {
        let mut ports: BTreeMap<PortId, PortConfig> = BTreeMap::new();
        for (place, spanned) in file.ports.iter().enumerate() {
            let port = spanned.get_ref();
            let interface = port.interface.get_ref();
            if interface.is_empty() || interface.len() > 15 {
                return Err(self.wrong(
                    port.interface.span(),
                    format!("{interface:?} can not be an interface"),
                    "1 to 15 characters",
                ));
            }
            if ports.values().any(|other| other.interface == *interface) {
                return Err(self.wrong(
                    port.interface.span(),
                    format!("interface {interface} is a port already"),
                    "named twice",
                ));
            }
            let number = port.number.as_ref().map_or((place + 1) as u16, |number| *number.get_ref());
            let at = port.number.as_ref().map_or(port.interface.span(), Spanned::span);
            if number == 0 || number >= flowlane_tables::MAX_PORTS {
                return Err(self.wrong(at, format!("{number} can not be the number of a port"), "1 to 1023"));
            }
            let mtu = port.mtu.as_ref().map_or(1500, |mtu| *mtu.get_ref());
            if let Some(at) = port.mtu.as_ref().filter(|mtu| !(68..=65_535).contains(mtu.get_ref())) {
                return Err(self.wrong(at.span(), format!("{mtu} can not be an MTU"), "68 to 65535 octets"));
            }
            let taken = ports.insert(
                PortId(number),
                PortConfig {
                    interface: interface.clone(),
                    executor: port.executor.unwrap_or(file.executor),
                    source: port.source,
                    dhcp6: port.dhcp6.unwrap_or(true),
                    dhcp6_rate: self.dhcp6_rate(port.dhcp6_rate.as_ref())?,
                    chain: port.chain.unwrap_or(true),
                    announce: port.announce.unwrap_or(true),
                    mtu,
                    mac: port.mac.as_ref().map(|mac| self.host(mac)).transpose()?,
                    flag: self.flag(port)?,
                },
            );
            if taken.is_some() {
                return Err(self.wrong(
                    at,
                    format!("port number {number} is taken"),
                    "give each port a number of its own",
                ));
            }
        }
        Ok(ports)
    }

    fn dhcp6_rate(&self, rate: Option<&Spanned<u32>>) -> Result<u32, ConfigError> {
        match rate {
            Some(rate) if *rate.get_ref() == 0 => {
                Err(self.wrong(rate.span(), "nobody could ask at this rate", "messages a second; or `dhcp6 = false`"))
            }
            rate => Ok(rate.map_or(DEFAULT_DHCP6_RATE, |rate| *rate.get_ref())),
        }
    }

    fn routes(
        &self,
        routes: &[RouteFile],
        ports: &BTreeMap<PortId, PortConfig>,
    ) -> Result<Vec<RouteConfig>, ConfigError> {
        routes
            .iter()
            .map(|route| {
                let text = route.to.get_ref();
                let to = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
                let to = to.map_err(|_| {
                    self.wrong(
                        route.to.span(),
                        format!("{text:?} is no destination"),
                        "such as \"10.0.0.0/24\" or \"2001:db8::/64\"",
                    )
                })?;
                Ok(RouteConfig {
                    to,
                    port: self.port(&route.port, ports)?,
                    next: self.host(&route.next)?,
                    routed: route.routed,
                })
            })
            .collect()
    }

    fn rate(&self, rate: &Spanned<toml::Value>) -> Result<u64, ConfigError> {
        let text = match rate.get_ref() {
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        bits_per_second(&text)
            .ok_or_else(|| self.wrong(rate.span(), format!("{text:?} is no rate"), "bits per second, such as \"10M\""))
    }

    fn mac(&self, text: &Spanned<String>) -> Result<Mac, ConfigError> {
        text.get_ref().parse().map_err(|error| self.wrong(text.span(), format!("{error}"), "here"))
    }

    /// The address of one host, or of a port.
    fn host(&self, text: &Spanned<String>) -> Result<Mac, ConfigError> {
        let mac = self.mac(text)?;
        if mac.is_group() || mac == Mac::default() {
            return Err(self.wrong(
                text.span(),
                format!("{mac} is not the address of one host"),
                "an individual address",
            ));
        }
        Ok(mac)
    }

    fn port(&self, text: &Spanned<String>, ports: &BTreeMap<PortId, PortConfig>) -> Result<PortId, ConfigError> {
        let name = text.get_ref();
        let found = ports.iter().find(|(_, port)| port.interface == *name).map(|(number, _)| *number);
        found.ok_or_else(|| {
            self.wrong(text.span(), format!("there is no port {name:?}"), "name the interface of a [[port]]")
        })
    }
}

/// Reads a duration such as `90s`, `30m`, `24h`, `7d`; a bare number is seconds; `infinite` is for ever.
pub fn seconds(text: &str) -> Option<u32> {
    if text == "infinite" {
        return Some(u32::MAX);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(unit)
}

/// Reads a rate in bits per second, such as `64k`, `10M`, `1.5G`; decimal prefixes, as for all rates in networks.
pub fn bits_per_second(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches("bit/s").trim_end_matches("bps").trim_end_matches("bit").trim_end();
    let (number, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1e3),
        (at, 'm' | 'M') => (&text[..at], 1e6),
        (at, 'g' | 'G') => (&text[..at], 1e9),
        (at, 't' | 'T') => (&text[..at], 1e12),
        _ => (text, 1.0),
    };
    let number: f64 = number.trim().parse().ok()?;
    let bits = number * unit;
    (bits.is_finite() && (1.0..1e15).contains(&bits)).then_some(bits as u64)
}

/// A burst of this many milliseconds may pass a meter at once, at least of [`BURST_MIN`] octets.
const BURST_MILLIS: u128 = 10;
/// One super-packet fits a bucket, whatever its rate: 64 KiB, and once more as much for the headers that each of its
/// segments repeats.
const BURST_MIN: u64 = 128 << 10;

/// The meter for a rate in bits per second; none is unmetered.
pub fn meter(rate: Option<u64>) -> Rate {
    rate.map_or(Rate::UNLIMITED, |rate| {
        let burst = u128::from(rate) * BURST_MILLIS / 8_000;
        Rate::new(rate, (burst as u64).max(BURST_MIN))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line_of(text: &str) -> (usize, String) {
        match Config::parse("test.toml", text).unwrap_err() {
            ConfigError::Wrong { line, message, .. } => (line, message),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_empty_file_is_a_switch_without_ports() {
        let config = Config::parse("test.toml", "").unwrap();
        assert_eq!(config.block.to_string(), DEFAULT_BLOCK);
        assert!(config.ports.is_empty());
    }

    #[test]
    fn errors_point_at_their_line() {
        assert_eq!(line_of("name = \"a b\"").0, 1);
        assert_eq!(line_of("\nblock = \"a3:f1:00:00:00:00/16\"").0, 2);
        assert_eq!(line_of("\n\nblok = 1").0, 3);
        assert_eq!(line_of("[[port]]\ninterface = \"p1\"\n[[port]]\ninterface = \"p1\"").0, 4);
        assert_eq!(line_of("[lease]\ndefault = \"1 year\"").0, 2);
        assert_eq!(line_of("[[port]]\ninterface = \"p1\"\ndhcp6_rate = 0").0, 3);
        assert_eq!(line_of("[[port]]\ninterface = \"p1\"\n[[route]]\nto = \"10.0.0.0/33\"\nport = \"p1\"\nnext = \"02:00:00:00:00:02\"").0, 4);
        assert_eq!(line_of("[[route]]\nto = \"10.0.0.0/8\"\nport = \"p9\"\nnext = \"02:00:00:00:00:02\"").0, 3);
        assert_eq!(
            line_of("[[port]]\ninterface = \"p1\"\n[[flow]]\naddress = \"02:00:00:00:00:02\"\nport = \"p1\"").0,
            4
        );
        assert_eq!(line_of("[[port]\n").0, 1);
    }

    #[test]
    fn a_block_of_somebody_elses_addresses_is_refused_by_name() {
        let (_, message) = line_of("block = \"02:42:00:00:00:00/16\"");
        assert!(message.contains("Docker"), "{message}");
    }

    #[test]
    fn a_next_host_is_one_host() {
        for mac in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            let port = "[[port]]\ninterface = \"p1\"\n";
            let route = format!("{port}[[route]]\nto = \"10.0.0.0/8\"\nport = \"p1\"\nnext = \"{mac}\"");
            assert_eq!(line_of(&route).0, 6, "{mac}");
            let hop = format!("next = {{ mac = \"{mac}\", port = \"p1\" }}");
            let flow = format!("{port}[[flow]]\naddress = \"a2:f1:00:00:00:01\"\nport = \"p1\"\n{hop}");
            assert_eq!(line_of(&flow).0, 6, "{mac}");
        }
    }

    #[test]
    fn limits_of_leases_do_not_contradict_each_other() {
        assert_eq!(line_of("[lease]\nmin = \"2h\"\nmax = \"1h\"").0, 2);
        assert_eq!(line_of("[lease]\nmax = \"30s\"").0, 2, "the least is 60 s where nothing else is said");
        assert_eq!(line_of("[lease]\nmin = \"10m\"\ndefault = \"5m\"").0, 3);
        assert_eq!(line_of("[lease]\nmax = \"10m\"\ndefault = \"infinite\"").0, 3);
    }

    #[test]
    fn a_super_packet_fits_the_slowest_meter() {
        // 64 KiB in segments of 536 octets, with 66 octets of headers each.
        let octets = 65_536 + 65_536 / 536 * 66;
        assert!(meter(Some(64_000)).take(0, 1_000_000_000, octets).is_some());
    }

    #[test]
    fn rates_and_durations_have_units() {
        assert_eq!(bits_per_second("1.5G"), Some(1_500_000_000));
        assert_eq!(bits_per_second("64k"), Some(64_000));
        assert_eq!(bits_per_second("10Mbit/s"), Some(10_000_000));
        assert_eq!(bits_per_second("-1"), None);
        assert_eq!(bits_per_second("fast"), None);
        assert_eq!(seconds("24h"), Some(86_400));
        assert_eq!(seconds("infinite"), Some(u32::MAX));
        assert_eq!(seconds("99999999d"), None);
    }
}
