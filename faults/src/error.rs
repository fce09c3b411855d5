//! Why a fault can not be injected, or not be counted.

use std::{io, path::PathBuf};

/// Why a fault can not be injected, or not be counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The load can not be made or counted.
    #[error(transparent)]
    Load(#[from] flowlane_bench::Error),
    /// The network can not be made.
    #[error(transparent)]
    Lab(#[from] flowlane_lab::Error),
    /// The kernel's tables can not be reached.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// What the library said.
        source: aya::maps::MapError,
    },
    /// The system refuses something.
    #[error("can not {action}: {source}")]
    System {
        /// What was asked for.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file can not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The switch does not answer.
    #[error("the switch does not answer: {0}")]
    Silent(String),
    /// The switch has ended by itself.
    #[error("the switch ended: {0}")]
    Ended(String),
    /// The switch refuses something.
    #[error("the switch refuses {request}: {answer}")]
    Refused {
        /// What was asked for.
        request: String,
        /// What it said.
        answer: String,
    },
}

impl Error {
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    pub(crate) fn map<E: Into<aya::maps::MapError>>(map: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Map { map, source: source.into() }
    }
}
