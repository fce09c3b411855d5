//! Verbs of `group`.

use super::{flow_name, lifetime, rate};
use clap::{Args, Subcommand};
use flowlane_wire::Mac;

/// Verbs of `group`.
///
/// A receiver is an IP address, which is found by Linux's routes and neighbours, or an Ethernet address and the port to it,
/// such as 02:00:00:00:00:05@eth1: a host's own, or another switch's flow address.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Lease a flow address whose frames are copied to each receiver.
    Open(OpenGroupOptions),
    /// List the switch's groups.
    #[command(alias = "list")]
    Ls,
    /// Show a group with all its receivers.
    Show {
        /// The group's flow address.
        address: Mac,
    },
    /// Let receivers come; the others are not disturbed.
    Add {
        /// The group's flow address.
        address: Mac,
        /// The receivers: IP addresses, or MAC@PORT. All of them come, or none.
        #[arg(required = true, value_name = "RECEIVER")]
        receivers: Vec<String>,
    },
    /// Let receivers go; the others are not disturbed.
    Remove {
        /// The group's flow address.
        address: Mac,
        /// The receivers, as `group show` names them.
        #[arg(required = true, value_name = "RECEIVER")]
        receivers: Vec<String>,
    },
    /// End a group's lease.
    Close {
        /// The group's flow address.
        address: Mac,
    },
}

/// What `group open` is told.
#[derive(Debug, Args)]
pub struct OpenGroupOptions {
    /// The port that the group's frames come in by.
    #[arg(short, long, value_name = "NAME")]
    pub port: String,
    /// A receiver: an IP address, or MAC@PORT. May be given up to 64 times, or not at all: `group add` adds more.
    #[arg(short, long = "receiver", value_name = "RECEIVER")]
    pub receivers: Vec<String>,
    /// Meter the frames that come in at so many bits per second, such as 10M.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<u64>,
    /// A name for people.
    #[arg(long, value_name = "TEXT", value_parser = flow_name)]
    pub name: Option<String>,
    /// How long, such as 30m or 24h. `flowlane flow renew` prolongs it.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub lifetime: Option<u32>,
    /// The number of the lease; the same caller and number get the same group again. By default a new one.
    #[arg(long, value_name = "N")]
    pub iaid: Option<u32>,
}
