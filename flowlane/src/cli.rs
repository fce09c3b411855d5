//! The command line: nouns and verbs, as ip(8) has them.

mod bench;
mod group;
mod host;
mod mark;
mod remote;
mod run;

pub use bench::BenchOptions;
pub use group::{GroupCommand, OpenGroupOptions};
pub use host::HostOptions;
pub use mark::MarkOptions;
pub use remote::{RemoteOptions, RemoteOptionsError};
pub use run::RunOptions;

use crate::{
    api::client::Address,
    config::{Executor, bits_per_second, seconds},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use flowlane_allot::Field;
use flowlane_host::policy::NAME_MAX;
use flowlane_wire::Mac;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

const CODES: &str = "Exit codes:
  0  done
  1  differences were found, or a check failed
  2  the command line or the configuration is wrong
  3  no switch answers, or no daemon of this host
  4  not permitted
  5  conflict: no address is free, a quota is used up, there is no such flow
  6  nobody answered in time
`run` ends as the program does; with 126 if it can not be executed, with 127 if there is no such program.

Data goes to the standard output, talk and errors to the standard error output. With --json, an error is there as
{\"error\": {\"code\", \"message\", \"help\"}}.";

/// Every network flow has an Ethernet address of its own.
///
/// Without a command: status. Commands may be abbreviated as long as they are unambiguous.
#[derive(Debug, Parser)]
#[command(name = "flowlane", version, infer_subcommands = true, after_long_help = CODES, max_term_width = 120)]
pub struct Cli {
    /// What holds for all commands.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What holds for all commands.
#[derive(Debug, Args)]
pub struct Global {
    /// Print JSON, errors too.
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Run in this network namespace, of those that `ip netns` lists, or at this path, such as /proc/PID/ns/net.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub netns: Option<String>,
    /// The switch to talk to, by its name; by default the only one there is.
    #[arg(short, long, global = true, value_name = "NAME", value_parser = switch_name, conflicts_with = "socket")]
    pub switch: Option<String>,
    /// The switch to talk to, by its socket.
    #[arg(long, global = true, value_name = "PATH", env = "FLOWLANE_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The switch to talk to, where it is another machine.
    #[command(flatten)]
    pub remote: RemoteOptions,
    /// Where the sockets of switches and the leases of this host are.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "FLOWLANE_RUNTIME_DIRECTORY",
        default_value = "/run/flowlane",
        hide_short_help = true
    )]
    pub runtime_directory: PathBuf,
}

impl Global {
    /// Where the switch is that is to be talked to: at another machine if one was named, else behind [`Global::socket`].
    ///
    /// # Errors
    /// [`RemoteOptionsError`], where the options for another machine do not say enough.
    pub fn address(&self) -> Result<Address, RemoteOptionsError> {
        Ok(self.remote.address()?.map_or_else(|| Address::Socket(self.socket()), Address::Remote))
    }

    /// Whether the command line names a switch.
    pub fn names_a_switch(&self) -> bool {
        self.switch.is_some() || self.socket.is_some() || self.remote.is_there()
    }

    /// The socket of the switch to talk to: the one that was named, else the only one there is, else that of a switch
    /// named `switch`.
    pub fn socket(&self) -> PathBuf {
        if let Some(socket) = &self.socket {
            return socket.clone();
        }
        let socket_of = |name: &str| self.runtime_directory.join(name).join("switch.sock");
        if let Some(name) = &self.switch {
            return socket_of(name);
        }
        match crate::api::client::sockets_in(&self.runtime_directory).as_slice() {
            [(_, only)] => only.clone(),
            _ => socket_of("switch"),
        }
    }

    /// Where this host keeps the leases that it was granted by DHCPv6.
    pub fn leases(&self) -> PathBuf {
        self.runtime_directory.join("host")
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole thing at work in a network of its own, in a few seconds.
    Demo(DemoOptions),
    /// Run a program in flows of its own: each of its destinations gets a flow address.
    #[command(
        override_usage = "flowlane run [OPTIONS] [--] CMD [ARGUMENTS]...\n       flowlane run [OPTIONS] --cgroup PATH\n       flowlane run [OPTIONS] --netns NAME"
    )]
    Run(RunOptions),
    /// Run this host's daemon, which puts programs into flows.
    Host(HostOptions),
    /// Run a switch.
    Switch(SwitchOptions),
    /// Flows: open, ls, show, renew, close.
    #[command(subcommand, infer_subcommands = true)]
    Flow(FlowCommand),
    /// Multicast groups: open, ls, show, add, remove, close.
    #[command(subcommand, infer_subcommands = true)]
    Group(GroupCommand),
    /// The switch's table: dump, verify.
    #[command(subcommand, infer_subcommands = true)]
    Table(TableCommand),
    /// Explain what the switch would do with a frame, step by step. Nothing happens to it.
    Trace(TraceOptions),
    /// Run a capture file through a switch of a configuration, without privileges.
    Replay(ReplayOptions),
    /// Ask for flows for packets of this host by marking them with the virtual-circuit flag, until stopped.
    Mark(MarkOptions),
    /// The switch on one screen, or this host's daemon.
    Status {
        /// This host's daemon, also if there is a switch on this machine.
        #[arg(long)]
        host: bool,
    },
    /// Check what this machine lacks, each finding with its remedy.
    Doctor(DoctorOptions),
    /// Measure how fast frames are forwarded here, by Flowlane and by what one would take instead.
    Bench(BenchOptions),
}

/// What `demo` is told.
#[derive(Clone, Debug, Args)]
pub struct DemoOptions {
    /// Who handles the frames.
    #[arg(long, value_enum, default_value_t = Executor::Auto)]
    pub executor: Executor,
    /// Write every frame with its verdict to this pcapng file.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

/// What `switch` is told.
#[derive(Debug, Args)]
pub struct SwitchOptions {
    /// The configuration, a TOML file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Say what the switch would be, and start nothing.
    #[arg(long)]
    pub check_config: bool,
    /// Take everything of a stopped switch out of the kernel: its programs and its table. Leases are kept.
    #[arg(long, conflicts_with = "check_config")]
    pub remove: bool,
}

/// Verbs of `flow`.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Ask for a flow address: of the network by DHCPv6 (-i), or at the switch itself for one of its ports (--port).
    Open(OpenOptions),
    /// List the switch's flows, or those of this host's programs.
    #[command(alias = "list")]
    Ls(LsOptions),
    /// Show a flow with everything that is known of it.
    Show {
        /// The flow address.
        address: Mac,
        /// Of this host's programs, also if there is a switch on this machine.
        #[arg(long)]
        host: bool,
    },
    /// Prolong the lease of a flow address.
    Renew {
        /// The flow address.
        address: Mac,
        /// How long from now, such as 30m or 24h; by default as long as was granted.
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        lifetime: Option<u32>,
    },
    /// Give a flow address back: by DHCPv6 where this host was granted it so, else at the switch. A flow of a program of
    /// this host is cut: what the program sends by it is dropped.
    Close {
        /// The flow address.
        address: Mac,
        /// Of this host's programs, also if there is a switch on this machine.
        #[arg(long, conflicts_with = "interface")]
        host: bool,
        /// Give it back by DHCPv6 on this interface, also if there is a switch on this machine.
        #[arg(short, long, value_name = "NAME", value_parser = interface)]
        interface: Option<String>,
        /// How long to wait for the network's answer.
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
        timeout: Duration,
    },
}

/// What `flow open` is told.
#[derive(Debug, Args)]
pub struct OpenOptions {
    /// Ask on this interface by DHCPv6.
    #[arg(short, long, value_name = "NAME", value_parser = interface, required_unless_present = "port")]
    pub interface: Option<String>,
    /// Ask the switch, for flows that come in by this port.
    #[arg(short, long, value_name = "NAME", conflicts_with = "interface")]
    pub port: Option<String>,
    /// Where the flow's packets go; without it the flow's first packet decides.
    #[arg(long, value_name = "IP")]
    pub to: Option<IpAddr>,
    /// Meter the flow at so many bits per second, such as 10M.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<u64>,
    /// Which field of the Ethernet header will carry the flow address.
    #[arg(long, value_enum, default_value_t = FieldName::Destination)]
    pub field: FieldName,
    /// Which of several equal next hops the flow takes, at each switch: N modulo how many there are.
    #[arg(long, value_name = "N")]
    pub path: Option<u8>,
    /// How many addresses.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// A name for people.
    #[arg(long, value_name = "TEXT", value_parser = flow_name)]
    pub name: Option<String>,
    /// How long, such as 30m or 24h. By DHCPv6 the switch alone decides (RFC 8947 section 7), so this is for --port.
    #[arg(long, value_name = "TIME", value_parser = lifetime, conflicts_with = "interface")]
    pub lifetime: Option<u32>,
    /// The number of the lease; the same number gets the same lease again. By default a new one.
    #[arg(long, value_name = "N")]
    pub iaid: Option<u32>,
    /// Stay, renew the lease, and give it back on Ctrl-C.
    #[arg(long, conflicts_with = "port")]
    pub hold: bool,
    /// How long to wait for the network's answer.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

/// What `flow ls` is told.
#[derive(Debug, Args)]
pub struct LsOptions {
    /// How much of each flow.
    #[arg(short, long, value_enum, default_value_t = Width::Brief)]
    pub output: Width,
    /// Of this host's programs, also if there is a switch on this machine.
    #[arg(long)]
    pub host: bool,
}

/// How much of each flow is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Width {
    /// What fits a terminal.
    Brief,
    /// Everything.
    Wide,
    /// The addresses alone.
    Name,
    /// JSON, as with --json.
    Json,
}

/// The fields, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FieldName {
    /// The host sends to the flow address.
    Destination,
    /// The host sends from the flow address.
    Source,
}

impl From<FieldName> for Field {
    fn from(name: FieldName) -> Self {
        match name {
            FieldName::Destination => Self::Destination,
            FieldName::Source => Self::Source,
        }
    }
}

/// Verbs of `table`.
#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// List the entries of the table.
    Dump,
    /// Compare the switch's tables and its store with what it means; exit code 1 if they differ.
    Verify {
        /// Repair what differs; exit code 1 if something still does.
        #[arg(long)]
        repair: bool,
    },
}

/// What `trace` is told.
#[derive(Debug, Args)]
pub struct TraceOptions {
    /// The port that the frame comes in by.
    #[arg(short, long, value_name = "PORT")]
    pub interface: String,
    /// The frame in hexadecimal, from the destination address on; colons and spaces do not matter.
    #[arg(long, value_name = "HEX", required_unless_present = "pcap", conflicts_with = "pcap")]
    pub frame: Option<String>,
    /// Take the frame from a capture file.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Which frame of the file, as Wireshark numbers them.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pcap", value_parser = clap::value_parser!(u64).range(1..))]
    pub number: u64,
}

/// What `replay` is told.
#[derive(Debug, Args)]
pub struct ReplayOptions {
    /// The configuration of the switch: ports, routes and flows.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// The port that the frames come in by. By default the interface that the capture names for each frame, where the
    /// configuration has a port of that name.
    #[arg(short, long, value_name = "NAME")]
    pub port: Option<String>,
    /// Write what each port sends to DIR/INTERFACE.pcapng, what gets the virtual-circuit flag to DIR/marked.pcapng, and
    /// what is not sent to DIR/dropped.pcapng.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The capture, pcap or pcapng; `-` is the standard input.
    pub capture: PathBuf,
}

/// What `doctor` is told.
#[derive(Debug, Args)]
pub struct DoctorOptions {
    /// The configuration whose ports are to be checked; without it all Ethernet interfaces are.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

fn switch_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match !text.is_empty() && text.chars().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err("letters, digits, hyphens and underscores; for a path use --socket".to_owned()),
    }
}

fn interface(text: &str) -> Result<String, String> {
    match text.is_empty() || text.len() > 15 || Path::new(text).components().count() != 1 {
        true => Err("1 to 15 characters, as `ip link` lists them".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn rate(text: &str) -> Result<u64, String> {
    bits_per_second(text).ok_or_else(|| "bits per second, such as 64k, 10M or 1.5G".to_owned())
}

fn flow_name(text: &str) -> Result<String, String> {
    match text.len() > flowlane_dhcp6::MAX_NAME {
        true => Err(format!("at most {} octets of UTF-8", flowlane_dhcp6::MAX_NAME)),
        false => Ok(text.to_owned()),
    }
}

/// The daemon adds the process's number to it.
fn run_name(text: &str) -> Result<String, String> {
    match text.len() > NAME_MAX || text.chars().any(char::is_control) {
        true => Err(format!("at most {NAME_MAX} octets of UTF-8, without control characters")),
        false => Ok(text.to_owned()),
    }
}

fn lifetime(text: &str) -> Result<u32, String> {
    seconds(text).ok_or_else(|| "such as 90s, 30m, 24h, 7d or infinite".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text).filter(|&seconds| seconds != 0 && seconds != u32::MAX);
    seconds.map(|seconds| Duration::from_secs(seconds.into())).ok_or_else(|| "such as 10s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn socket_of(arguments: &[&str]) -> PathBuf {
        Cli::try_parse_from([&["flowlane"], arguments].concat()).expect("a command line").global.socket()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_may_be_abbreviated() {
        let cli = Cli::try_parse_from(["flowlane", "fl", "l", "-o", "wide"]).expect("flow ls");
        assert!(matches!(
            cli.command,
            Some(Command::Flow(FlowCommand::Ls(LsOptions { output: Width::Wide, host: false })))
        ));
    }

    #[test]
    fn what_comes_behind_the_program_is_its_own() {
        for line in
            [&["run", "--rate", "10M", "--", "ls", "-n", "--to"][..], &["run", "--rate", "10M", "ls", "-n", "--to"]]
        {
            let cli = Cli::try_parse_from([&["flowlane"], line].concat()).expect("run");
            let Some(Command::Run(options)) = cli.command else { panic!("run") };
            assert_eq!((options.rate, options.to.len(), cli.global.netns), (Some(10_000_000), 0, None));
            assert_eq!(options.command, ["ls", "-n", "--to"]);
        }
        let both = Cli::try_parse_from(["flowlane", "run", "--cgroup", "/x", "--", "ls"]);
        assert!(both.is_err(), "a program or a cgroup");
    }

    #[test]
    fn the_only_switch_there_is_is_the_default() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_str().expect("UTF-8");
        assert_eq!(socket_of(&["--runtime-directory", root]), directory.path().join("switch/switch.sock"));
        std::fs::create_dir(directory.path().join("left")).expect("made");
        std::fs::write(directory.path().join("left/switch.sock"), "").expect("written");
        assert_eq!(socket_of(&["--runtime-directory", root]), directory.path().join("left/switch.sock"));
        std::fs::create_dir(directory.path().join("right")).expect("made");
        std::fs::write(directory.path().join("right/switch.sock"), "").expect("written");
        assert_eq!(socket_of(&["--runtime-directory", root]), directory.path().join("switch/switch.sock"));
        assert_eq!(
            socket_of(&["--runtime-directory", root, "-s", "right"]),
            directory.path().join("right/switch.sock")
        );
        assert_eq!(socket_of(&["--socket", "/x"]), Path::new("/x"));
    }
}
