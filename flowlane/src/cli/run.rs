//! What `flowlane run` is told.

use super::{FieldName, rate, run_name};
use clap::Args;
use flowlane_client::{Wishes, protocol};
use std::{ffi::OsString, net::IpAddr, path::PathBuf};

/// What `run` is told.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Open the flow to this destination before anything is sent; may be given several times. All other destinations get
    /// theirs with their first packet.
    #[arg(long, value_name = "IP")]
    pub to: Vec<IpAddr>,
    /// Let the network meter each flow at so many bits per second, such as 10M.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<u64>,
    /// A name for people, here and at the switch; by default the program's.
    #[arg(long, value_name = "TEXT", value_parser = run_name)]
    pub name: Option<String>,
    /// Which field of the Ethernet header carries the flow address.
    #[arg(long, value_enum, default_value_t = FieldName::Destination)]
    pub field: FieldName,
    /// How many flow addresses each destination gets, each by a path of its own; connections are spread over them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=protocol::PATHS_MAX as i64))]
    pub paths: u8,
    /// Send nothing outside of flows: what has none is dropped, and without a flow service nothing is run.
    #[arg(long)]
    pub require: bool,
    /// Instead of running a program, put the processes of this cgroup into flows, until Ctrl-C. For root.
    #[arg(long, value_name = "PATH", conflicts_with = "command")]
    pub cgroup: Option<PathBuf>,
    /// The program and its arguments. Without it, all of the network namespace that --netns names is put into flows, until
    /// Ctrl-C.
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

impl RunOptions {
    /// The wishes, in the words of the daemon.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            name: self.name.clone(),
            to: self.to.clone(),
            rate: self.rate,
            field: match self.field {
                FieldName::Destination => protocol::Field::Destination,
                FieldName::Source => protocol::Field::Source,
            },
            paths: self.paths,
            require: self.require,
        }
    }
}
