//! Why a request was not done.

use crate::protocol::Problem;
use std::{io, path::PathBuf};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: there is no daemon in this network namespace.
    #[error("no Flowlane daemon answers on {}", socket.display())]
    NoDaemon {
        /// Where it would listen.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket can not be used by this user.
    #[error("this user may not talk to {}", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Who listens is neither root nor this user.
    #[error("who listens on {} is user {user}, who is not trusted", socket.display())]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// The user.
        user: u32,
    },
    /// The daemon said no.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The daemon did not answer in time.
    #[error("the Flowlane daemon did not answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection to the Flowlane daemon broke")]
    Broken(#[source] io::Error),
    /// The answer is not understood.
    #[error("the answer of the Flowlane daemon is not understood ({0}); is it of another version?")]
    Protocol(String),
}
