//! What programs and the host's daemon say to each other: one line of JSON each way, on a UNIX stream socket.

use flowlane_wire::Mac;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// How many flow addresses one destination may have, each by a path of its own.
pub const PATHS_MAX: u8 = 8;

/// Where the daemon of a network namespace listens, below the runtime directory. `namespace` is the namespace's number: the
/// inode of `/proc/self/ns/net`.
pub fn socket(runtime_directory: &Path, namespace: u64) -> PathBuf {
    runtime_directory.join("host").join(namespace.to_string()).join("host.sock")
}

/// What is asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Put this process, and what it will start, into flows. The answer is [`Answer::Run`] when it has been moved; the run
    /// ends when its last process does, whatever becomes of the connection.
    Run(RunRequest),
    /// Put the processes of a cgroup into flows, for as long as the connection stands. For root.
    Cgroup {
        /// The cgroup's directory.
        path: PathBuf,
        /// What is wished.
        #[serde(flatten)]
        wishes: Wishes,
    },
    /// Put all that this network namespace sends into flows, for as long as the connection stands. For root.
    Namespace(Wishes),
    /// Put one socket into flows, for as long as the connection stands. Its file descriptor comes with the first octet of
    /// the request (`SCM_RIGHTS`).
    Socket(Wishes),
    /// The daemon, its runs and their flows: [`Answer::Status`].
    Status,
    /// Close a flow: its packets leave by no flow and are dropped. The answer is [`Answer::Closed`].
    Close {
        /// The flow address.
        address: Mac,
    },
}

/// A program that is about to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// What will be run, for people.
    pub command: String,
    /// What is wished.
    #[serde(flatten)]
    pub wishes: Wishes,
}

/// What somebody wants of his flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// A name for people; the program's where it is left out.
    pub name: Option<String>,
    /// Destinations whose flows are opened before anything is sent. All others get theirs with their first packet.
    pub to: Vec<IpAddr>,
    /// The rate at which the network meters each flow, in bits per second of Ethernet frames.
    pub rate: Option<u64>,
    /// Which field carries the flow address.
    pub field: Field,
    /// How many flow addresses each destination gets, 1 to [`PATHS_MAX`], each by a path of its own; connections are spread
    /// over them. 0 is taken as 1.
    pub paths: u8,
    /// Send nothing outside of flows: what has none is dropped.
    pub require: bool,
}

impl Wishes {
    /// A flow to a destination, opened before anything is sent. Its port does not matter: a flow is to a host.
    pub fn towards(destination: impl Into<SocketAddr>) -> Self {
        Self { to: vec![destination.into().ip()], ..Self::default() }
    }

    /// Metered by the network at so many bits per second.
    #[must_use]
    pub fn rate(self, rate: u64) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// Named so, for people.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// With nothing sent outside of flows.
    #[must_use]
    pub fn required(self) -> Self {
        Self { require: true, ..self }
    }
}

/// Which field of the Ethernet header carries the flow address (claims 2 and 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    /// The destination field: packets are sent *to* the flow address.
    #[default]
    Destination,
    /// The source field: packets are sent *from* the flow address, to a real host.
    Source,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done: from now on packets are put into flows.
    Run(RunView),
    /// How things are.
    Status(Status),
    /// The flow is closed.
    Closed(FlowView),
    /// It was not done.
    Error(Problem),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind of problem, for programs.
    pub code: ProblemCode,
    /// The same for people, with what to do.
    pub message: String,
}

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The policy of this host does not allow it.
    Denied,
    /// The request is not understood, or contradicts itself.
    Invalid,
    /// There is no flow of this address.
    NoSuchFlow,
    /// The network offers no flows, and they were required.
    NoService,
    /// The network refused a flow that was required.
    Refused,
    /// The system does not do it, such as cgroups that can not be made.
    System,
}

/// A run: a program, a cgroup, a network namespace, or a socket whose packets are put into flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// Its number.
    pub run: u32,
    /// Its name.
    pub name: String,
    /// What it is: `program`, `cgroup`, `namespace` or `socket`.
    pub kind: String,
    /// The process that asked.
    pub pid: i32,
    /// The user who asked.
    pub user: u32,
    /// The cgroup's directory, of a program or a cgroup.
    pub cgroup: Option<PathBuf>,
    /// What was wished.
    pub wishes: Wishes,
    /// Its flows: one for each destination and path.
    pub flows: Vec<FlowView>,
}

/// A flow of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// The flow address; nothing while it is asked for, and for what has none.
    pub address: Option<Mac>,
    /// The run's number.
    pub run: u32,
    /// Where its packets go.
    pub destination: IpAddr,
    /// The interface that they leave by.
    pub interface: String,
    /// `waiting`: asked for; `open`; `plain`: there is none, and packets leave as they would without Flowlane; `cut`: closed
    /// or required and not to be had, packets are dropped.
    pub state: String,
    /// Why it is not open.
    pub reason: Option<String>,
    /// Which of the destination's paths, from 0.
    pub path: u8,
    /// Bits per second; nothing for a flow without a meter.
    pub rate: Option<u64>,
    /// Packets sent by it, a super-packet counted as its segments.
    pub packets: u64,
    /// Their octets on the wire, without preamble and check sequence.
    pub bytes: u64,
    /// Seconds until its lease ends; nothing for one that does not.
    pub remaining: Option<u64>,
}

/// The daemon as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// How packets are put into flows: `bpf` or `nft`.
    pub mechanism: String,
    /// The interfaces by which it puts packets into flows.
    pub interfaces: Vec<InterfaceView>,
    /// The runs.
    pub runs: Vec<RunView>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Its name.
    pub interface: String,
    /// Whether a switch answers there; nothing while it is not known.
    pub service: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_lines_that_the_documentation_shows() {
        let wishes = Wishes { to: vec![[192, 0, 2, 7].into()], rate: Some(10_000_000), ..Wishes::default() };
        let run = RunRequest { command: "curl".into(), wishes };
        let address = Mac([0xa2, 0xf1, 0x8d, 0x81, 0x84, 0]);
        let documentation = include_str!("../../docs/run.md");
        for (line, request) in [
            (r#""status""#, Request::Status),
            (r#"{"run":{"command":"curl","to":["192.0.2.7"],"rate":10000000}}"#, Request::Run(run)),
            (r#"{"close":{"address":"a2:f1:8d:81:84:00"}}"#, Request::Close { address }),
            (r#"{"socket":{}}"#, Request::Socket(Wishes::default())),
        ] {
            assert!(documentation.contains(line), "{line}");
            assert_eq!(serde_json::from_str::<Request>(line).expect("a request"), request);
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        let wishes =
            Wishes { name: Some("x".into()), field: Field::Source, paths: 2, require: true, ..Wishes::default() };
        for request in [
            Request::Cgroup { path: "/sys/fs/cgroup/x".into(), wishes: wishes.clone() },
            Request::Namespace(wishes.clone()),
            Request::Run(RunRequest { command: "x y".into(), wishes }),
        ] {
            let line = serde_json::to_string(&request).expect("JSON");
            assert_eq!(serde_json::from_str::<Request>(&line).expect("a request"), request, "{line}");
        }
        let problem = Problem { code: ProblemCode::NoService, message: "no switch answers".into() };
        let line = serde_json::to_string(&Answer::Error(problem)).expect("JSON");
        assert_eq!(line, r#"{"error":{"code":"no-service","message":"no switch answers"}}"#);
    }
}
