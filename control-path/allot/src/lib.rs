//! Flow addresses and their leases, as a state machine without I/O.
#![forbid(unsafe_code)]

mod request;

pub use request::{Change, ClientId, Field, FlowSpec, Lease, LeaseKey, LeaseState, Refusal, Request};
