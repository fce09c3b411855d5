//! Flowlane: every network flow has an Ethernet address of its own.
mod api;
mod config;
mod switch;
fn main() {}
