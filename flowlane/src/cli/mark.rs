//! What `flowlane mark` is told.

use super::interface;
use crate::config::flag_dscp;
use clap::{Args, ValueEnum};
use flowlane_wire::{Flag, header::protocol};
use ipnet::IpNet;
use std::net::IpAddr;

/// What `mark` is told.
#[derive(Debug, Args)]
pub struct MarkOptions {
    /// Mark what leaves by this interface.
    #[arg(short, long, value_name = "NAME", value_parser = interface)]
    pub interface: String,
    /// Only what goes to this prefix or address; may be given up to 16 times.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub to: Vec<IpNet>,
    /// Only this protocol.
    #[arg(long, value_enum)]
    pub protocol: Option<Protocol>,
    /// Only what goes to this port. Fragments of a packet have none, and are not marked then.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// The bits of the DSCP that are set to 1 or 0, the most significant first; x stays as it is.
    #[arg(long, value_name = "BITS", default_value = "xxxx11", value_parser = flag)]
    pub flag_dscp: Flag,
}

/// Protocols, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| "such as 10.2.0.0/16, 10.2.0.2 or 2001:db8::/32".to_owned())
}

fn flag(text: &str) -> Result<Flag, String> {
    flag_dscp(text).ok_or_else(|| "6 characters of 0, 1 and x, not all x, such as xxxx11".to_owned())
}
