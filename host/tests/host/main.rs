//! The host's side on real interfaces, with a switch's DHCPv6 server at the other end of the wire.

mod daemon;
mod dhcp6;
mod nft;
mod setup;
mod successor;
mod switch;
