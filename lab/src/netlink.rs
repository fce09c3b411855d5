//! Requests to the kernel's configuration of a namespace, by rtnetlink(7).

use crate::{Netns, Result};
use rtnetlink::{Error, Handle};
use std::io;
use std::time::Duration;
use tokio::runtime;

/// The kernel answers within microseconds; no answer at all is a fault.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `work` with a netlink connection inside the namespace. `action` completes "can not …" in error texts.
pub(crate) fn request<T: Send>(
    netns: &Netns,
    action: &str,
    work: impl AsyncFnOnce(Handle) -> Result<T, Error> + Send,
) -> Result<T> {
    netns.run(|| converse(work))?.map_err(|reason| netns.refused(action, reason))
}

fn converse<T>(work: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> io::Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        match tokio::time::timeout(PATIENCE, work(handle)).await {
            Ok(answer) => answer.map_err(into_io),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    })
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
