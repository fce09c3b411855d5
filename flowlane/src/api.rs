//! What the switch and those who ask it say to each other, as JSON over HTTP.

pub mod client;
pub mod groups;

use crate::config::Executor;
use flowlane_allot::Field;
use flowlane_tables::Tuple;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};
use utoipa::ToSchema;

/// A request for flow addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenFlow {
    /// The interface of the port that the flow's frames will come in by.
    pub port: String,
    /// How many addresses; one where it is left out.
    #[serde(default)]
    pub count: Option<u32>,
    /// Where the flow's packets go. Without it the first packet decides.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub destination: Option<IpAddr>,
    /// Bits per second.
    #[serde(default)]
    pub rate: Option<u64>,
    /// `destination` or `source`: the field that carries the flow address.
    #[serde(default)]
    #[schema(value_type = String)]
    pub field: Field,
    /// Which of several equal next hops the flow takes, at each switch: this number modulo how many there are.
    #[serde(default)]
    pub path: Option<u8>,
    /// A name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Seconds; the switch's default where it is left out.
    #[serde(default)]
    pub lifetime: Option<u32>,
    /// Who asks; the caller's process where it is left out. The same client and `iaid` get the same lease again.
    #[serde(default)]
    pub client: Option<String>,
    /// The client's number for this lease.
    #[serde(default)]
    pub iaid: Option<u32>,
}

/// A request to prolong a lease.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewFlow {
    /// Seconds from now; the lifetime that was granted before where it is left out.
    #[serde(default)]
    pub lifetime: Option<u32>,
}

/// A lease, as granted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LeaseView {
    /// The flow addresses, as colon strings.
    pub addresses: Vec<String>,
    /// The interface of the port.
    pub port: String,
    /// Whose it is, in hexadecimal.
    pub client: String,
    /// The client's number for it.
    pub iaid: u32,
    /// Seconds that are left; nothing for one that does not end.
    pub remaining: Option<u64>,
    /// The lifetime that was granted, in seconds.
    pub lifetime: u32,
    /// Where the lease was a host's and has been closed: the seconds until the host may ask for it again.
    pub closed_for: Option<u64>,
}

/// A flow, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FlowView {
    /// The flow address.
    pub address: String,
    /// Its slot.
    pub slot: u32,
    /// Its name.
    pub name: Option<String>,
    /// The interface of the port that its frames come in by.
    pub port: String,
    /// `destination` or `source`; `flag` for a flow of flagged packets.
    pub field: String,
    /// Whose packets the flow is for, where they are found by the virtual-circuit flag.
    pub tuple: Option<TupleView>,
    /// Where its packets go: what was asked for, or what its first packet said.
    #[schema(value_type = Option<String>)]
    pub destination: Option<IpAddr>,
    /// `pending`, `resolved`, `unreachable`, or `group` for one with receivers: see `/v1/groups`.
    pub state: String,
    /// Why it is unreachable, or why the next switch gives no flow address.
    pub reason: Option<String>,
    /// The next host's address.
    pub next: Option<String>,
    /// The interface of the port to it.
    pub egress: Option<String>,
    /// Whether the hop is routed.
    pub routed: bool,
    /// Which of several equal next hops it takes; nothing for the switch's choice.
    pub path: Option<u8>,
    /// The Ethernet address of the next switch, if the next host's address is a flow address that it has given.
    pub via: Option<String>,
    /// Bits per second; nothing for a flow without a meter.
    pub rate: Option<u64>,
    /// Frames forwarded.
    pub packets: u64,
    /// Octets forwarded.
    pub bytes: u64,
    /// The host that asked.
    pub host: String,
    /// Whose it is, in hexadecimal.
    pub client: String,
    /// The client's number for the lease.
    pub iaid: u32,
    /// Seconds until the lease ends; nothing for one that does not.
    pub remaining: Option<u64>,
}

/// By what a flagged packet is known, beside the port that it comes in by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TupleView {
    /// The protocol behind the IP header: a name, or its number.
    pub protocol: String,
    /// IP source.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// Source port; nothing for fragments and protocols without ports.
    pub source_port: Option<u16>,
    /// IP destination.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Destination port, likewise.
    pub destination_port: Option<u16>,
}

impl From<Tuple> for TupleView {
    fn from(tuple: Tuple) -> Self {
        let [source_port, destination_port] = [tuple.source_port, tuple.destination_port].map(u16::from_be_bytes);
        let has_ports = source_port != 0 || destination_port != 0;
        Self {
            protocol: protocol_name(tuple.protocol),
            source: tuple.source(),
            source_port: has_ports.then_some(source_port),
            destination: tuple.destination(),
            destination_port: has_ports.then_some(destination_port),
        }
    }
}

impl fmt::Display for TupleView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |address: IpAddr, port: Option<u16>| match port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        };
        let source = side(self.source, self.source_port);
        write!(f, "{} {source} -> {}", self.protocol, side(self.destination, self.destination_port))
    }
}

fn protocol_name(number: u8) -> String {
    match number.into() {
        libc::IPPROTO_TCP => "tcp".to_owned(),
        libc::IPPROTO_UDP => "udp".to_owned(),
        libc::IPPROTO_ICMP => "icmp".to_owned(),
        libc::IPPROTO_ICMPV6 => "icmpv6".to_owned(),
        libc::IPPROTO_DCCP => "dccp".to_owned(),
        libc::IPPROTO_SCTP => "sctp".to_owned(),
        libc::IPPROTO_UDPLITE => "udplite".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// What a port has of flagged packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlaggedView {
    /// Tuples that have a flow.
    pub flows: u32,
    /// How many may have one.
    pub limit: u32,
    /// Tuples that nobody has decided on yet.
    pub asking: u32,
    /// Frames that wait for it.
    pub waiting: u64,
    /// Tuples that are left to Linux for now, because no flow can carry them.
    pub left_to_linux: u32,
}

/// A port, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// Its number.
    pub number: u16,
    /// Its interface.
    pub interface: String,
    /// Who handles its frames; nothing while there is no interface.
    pub executor: Option<Executor>,
    /// Whether a predecessor's program was taken over when the switch started.
    pub adopted: bool,
    /// Whether frames can be sent by it.
    pub up: bool,
    /// Its Ethernet address.
    pub mac: Option<String>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Frames by end, only those that are not 0.
    pub counts: BTreeMap<String, u64>,
    /// Flows of flagged packets, where the port reads the virtual-circuit flag.
    pub flagged: Option<FlaggedView>,
    /// DHCPv6 messages that were not answered, by reason.
    pub dhcp6_ignored: BTreeMap<String, u64>,
    /// How often frames of a flow stopped and came again as soon as its address was announced anew. Many are a sign that a
    /// host behind the port takes flow addresses at the bridges in between.
    #[serde(default)]
    pub restored: u64,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// A gateway that flows go by.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NeighbourView {
    /// The interface of the port to it.
    pub port: String,
    /// Its Ethernet address.
    pub address: String,
    /// `switch`, `plain` if it is none, `silent` if it is one that answers no more, or `unknown`.
    pub kind: String,
    /// How many flows, and receivers of groups, go by it.
    pub flows: usize,
    /// Answers with addresses that can be no flow's there.
    pub nonsense: u64,
}

/// The switch, on one screen.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: u64,
    /// Its addresses.
    pub block: String,
    /// Slots of the table.
    pub slots: u32,
    /// Slots leased.
    pub leased: u32,
    /// Slots in quarantine.
    pub quarantined: u32,
    /// Whether tables were found and taken over when the switch started.
    pub adopted: bool,
    /// Where leases are kept.
    pub store: String,
    /// How often the wall clock was set since the switch started, or before. Leases do not depend on it.
    pub clock_steps: u64,
    /// The ports.
    pub ports: Vec<PortView>,
    /// The gateways that flows go by.
    pub neighbours: Vec<NeighbourView>,
    /// What its process is denied.
    pub confinement: ConfinementView,
    /// What somebody should look at.
    pub problems: Vec<String>,
}

/// What the switch's process has given up when it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfinementView {
    /// The capabilities that it has kept (capabilities(7)).
    pub capabilities: Vec<String>,
    /// Whether no program that it might execute could have more.
    pub no_new_privileges: bool,
    /// Whether other files than its own, and TCP to others, are denied: `full`, `partial` on an older kernel, or `none`.
    pub landlock: String,
    /// Whether system calls are denied that no switch needs.
    pub seccomp: bool,
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryView {
    /// The slot.
    pub slot: u32,
    /// The flow address.
    pub address: String,
    /// The number of the port that its frames come in by.
    pub port: u16,
    /// The tick of the data path's clock at which its lease ends; nothing for one that does not.
    pub expires: Option<u32>,
    /// `pending`, `resolved`, `unreachable` or `group`.
    pub state: String,
    /// The next host's address.
    pub next: Option<String>,
    /// The number of the port to it.
    pub egress: Option<u16>,
    /// Whether the hop is routed.
    pub routed: bool,
    /// Its group of receivers.
    pub group: Option<u32>,
    /// The group's receivers that have a next hop, by place.
    pub receivers: Vec<groups::ReceiverEntryView>,
    /// The backup's address and port.
    pub backup: Option<(String, u16)>,
    /// Frames forwarded.
    pub packets: u64,
    /// Octets forwarded.
    pub bytes: u64,
}

/// What `table verify` found.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// Whether tables and store are what the switch means; after a repair, whether they are now.
    pub ok: bool,
    /// How many slots were compared.
    pub compared: u32,
    /// The differences, as sentences; before the repair, if they were to be repaired.
    pub differences: Vec<String>,
}

/// A frame to be explained.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The interface of the port that it comes in by.
    pub port: String,
    /// Its octets in hexadecimal; colons, spaces and line breaks do not matter.
    pub frame: String,
}

/// What would happen to a frame.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Trace {
    /// The steps, as sentences.
    pub steps: Vec<TraceStep>,
    /// The end's name.
    pub verdict: String,
    /// The end, as a sentence.
    pub sentence: String,
    /// The interface of the port that the frame would leave by.
    pub egress: Option<String>,
    /// The frame as it would leave, in hexadecimal.
    pub sent: Option<String>,
    /// The copies that would leave for the receivers of its group, in the order in which they would be sent.
    pub copies: Vec<TraceCopy>,
}

/// A copy of a frame that would leave.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TraceCopy {
    /// The interface of the port.
    pub egress: String,
    /// Its octets in hexadecimal.
    pub sent: String,
}

/// One step of a trace.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TraceStep {
    /// The stage of the pipeline.
    pub stage: String,
    /// What it saw.
    pub finding: String,
}

/// Why something was not done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A word for programs: `full`, `quota`, `conflict`, `denied`, `no-such-flow`, `no-such-group`, `no-such-receiver`,
    /// `no-such-port`, `closed`, `invalid`, `store`, `stopping`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}
