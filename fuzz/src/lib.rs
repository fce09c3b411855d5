//! Fuzz targets: whatever comes in by the network or a file, and the tables that the kernel shares.
//!
//! Each file is one target and an ordinary test. `cargo test` tries random inputs for a second, after those in
//! `src/__fuzz__/<target>/crashes`; `cargo xtask fuzz` lets libFuzzer look for inputs that reach more of the code.
#![cfg(test)]

mod capture;
mod dhcp6_client;
mod dhcp6_message;
mod dhcp6_server;
mod offload;
mod payload;
mod pipeline;
