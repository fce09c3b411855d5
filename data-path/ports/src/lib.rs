//! Frames in and out of a switch's ports: AF_XDP sockets, AF_PACKET rings, DHCPv6 sockets, capture files.
//!
//! This is where the userspace executor meets the kernel, so this is where `unsafe` is: every block says what has
//! been checked. Everything above sees slices of octets and typed errors.

pub mod af_packet;
pub mod af_xdp;
pub mod capture;
pub mod control;
mod error;
pub mod exclusive;
pub mod host;
mod netlink;

pub use error::PortError;
