//! What the local interface asks of the running daemon.

use crate::process::Process;
use flowlane_client::protocol::{FlowView, Problem, RunRequest, RunView, Status, Wishes};
use flowlane_wire::Mac;
use std::path::PathBuf;
use tokio::sync::oneshot;

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// Who asks, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process, as numbered here.
    pub pid: i32,
    /// Its user.
    pub user: u32,
}

/// A request that the policy allows, with the way back.
#[derive(Debug)]
pub enum Command {
    /// Put the process that asks into flows. Answered when it stands in its cgroup and the destinations named have their flows.
    Run(Process, RunRequest, Reply<RunView>),
    /// Put something else into flows, until [`Command::End`] with the number of the run.
    Begin(Peer, Subject, Wishes, Reply<RunView>),
    /// The connection that a run stood for has ended.
    End(u32),
    /// How things are; of the runs of one user, or of all.
    Status(Option<u32>, Reply<Status>),
    /// Close a flow; of one user, or of anybody.
    Close(Option<u32>, Mac, Reply<FlowView>),
}

/// Whose packets a run is about, where it is no program.
#[derive(Debug)]
pub enum Subject {
    /// Those of a cgroup.
    Cgroup(PathBuf),
    /// All of this network namespace.
    Namespace,
    /// Those of the socket with this cookie, which no other socket of this boot has.
    Socket(u64),
}
