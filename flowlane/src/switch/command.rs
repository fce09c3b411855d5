//! What the local interface asks of the running switch.

use super::groups::GroupCommand;
use crate::api::{EntryView, FlowView, LeaseView, OpenFlow, Problem, Status, Trace, TraceRequest, Verification};
use flowlane_wire::Mac;
use tokio::sync::oneshot;

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// A request, with the way back.
pub enum Command {
    /// Lease flow addresses. Answered when the lease is durable.
    Open(OpenFlow, Reply<LeaseView>),
    /// Prolong the lease of a flow address, by so many seconds if given.
    Renew(Mac, Option<u32>, Reply<LeaseView>),
    /// End the lease of a flow address.
    Close(Mac, Reply<LeaseView>),
    /// All flows, by slot.
    Flows(Reply<Vec<FlowView>>),
    /// One flow.
    Flow(Mac, Reply<FlowView>),
    /// Something about groups.
    Group(GroupCommand),
    /// All entries of the table, by slot.
    Entries(Reply<Vec<EntryView>>),
    /// Compare tables and store with what the switch means; the flag repairs them.
    Verify(bool, Reply<Verification>),
    /// Explain what would happen to a frame.
    Trace(TraceRequest, Reply<Trace>),
    /// The switch as it is.
    Status(Reply<Status>),
}
