//! Flow addresses and their leases, as a state machine without I/O.
//!
//! An [`Allotter`] owns the [`flowlane_wire::Block`] of one switch. It is given requests and the time, answers with
//! leases or refusals, and queues every [`Change`] for the store: nobody is told of a lease before it is durable.
#![forbid(unsafe_code)]

mod allotter;
mod free;
mod path;
mod policy;
mod receivers;
mod request;
mod usage;

pub use allotter::{Allotter, Counts, RestoreError};
pub use path::{PathSoFar, SwitchId};
pub use policy::Policy;
pub use receivers::{GROUPS_MAX, RECEIVERS_MAX, Receiver, Receivers, ReceiversError, Regroup};
pub use request::{Change, ClientId, Field, FlowSpec, Lease, LeaseKey, LeaseState, Refusal, Request};
