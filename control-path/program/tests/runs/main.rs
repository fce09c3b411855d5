//! Runs in the real kernel: real sockets, in real cgroups, whose packets are put into flows. Needs root.
#![allow(missing_docs)]

mod interface;
mod others;
mod packets;
mod setup;
mod subjects;
mod waiting;
