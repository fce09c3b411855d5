//! Multicast groups, as the switch and its local tools speak of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request for a group: a flow address whose frames are copied to each receiver.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenGroup {
    /// The interface of the port that the group's frames will come in by.
    pub port: String,
    /// The receivers: an IP address, whose way Linux's tables say; or an Ethernet address and the interface of the port to
    /// it, such as `02:00:00:00:00:05@eth1`, be it a host's own or another switch's flow address. At most 64.
    #[serde(default)]
    pub receivers: Vec<String>,
    /// Bits per second of the frames that come in.
    #[serde(default)]
    pub rate: Option<u64>,
    /// A name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Seconds; the switch's default where it is left out.
    #[serde(default)]
    pub lifetime: Option<u32>,
    /// Who asks; the caller's process where it is left out. The same client and `iaid` get the same group again, with the
    /// receivers that are named now.
    #[serde(default)]
    pub client: Option<String>,
    /// The client's number for this group.
    #[serde(default)]
    pub iaid: Option<u32>,
}

/// Receivers that are to come.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddReceivers {
    /// The receivers, as in a request for a group. All of them come, or none.
    pub receivers: Vec<String>,
}

/// A group, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// The flow address.
    pub address: String,
    /// Its slot.
    pub slot: u32,
    /// Its place in the table of groups.
    pub group: u32,
    /// Its name.
    pub name: Option<String>,
    /// The interface of the port that its frames come in by.
    pub port: String,
    /// Bits per second; nothing for a group without a meter.
    pub rate: Option<u64>,
    /// Frames that came and were copied to somebody.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// The receivers, by place.
    pub receivers: Vec<ReceiverView>,
    /// Whose it is, in hexadecimal.
    pub client: String,
    /// The client's number for it.
    pub iaid: u32,
    /// Seconds until the lease ends; nothing for one that does not.
    pub remaining: Option<u64>,
    /// The lifetime that was granted, in seconds.
    pub lifetime: u32,
}

/// A receiver of a group, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReceiverView {
    /// The receiver, as it was named.
    pub receiver: String,
    /// Its place in the group.
    pub place: u8,
    /// `pending`, `resolved` or `unreachable`.
    pub state: String,
    /// Why it is unreachable.
    pub reason: Option<String>,
    /// What somebody should know of it, though copies could be sent.
    pub warning: Option<String>,
    /// Where its copies go.
    pub next: Option<String>,
    /// The interface of the port to it.
    pub egress: Option<String>,
    /// Whether the hop is routed.
    pub routed: bool,
    /// Copies sent.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Frames of which there was no copy: the port was down, or too small, or did not take it.
    pub missed: u64,
}

/// A receiver in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiverEntryView {
    /// Its place in the group.
    pub place: u8,
    /// Where its copies go.
    pub next: String,
    /// The number of the port to it.
    pub egress: u16,
    /// Whether the hop is routed.
    pub routed: bool,
    /// Copies sent.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Frames of which there was no copy.
    pub missed: u64,
}
