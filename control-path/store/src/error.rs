//! What can be wrong with a store.

use std::io;
use std::path::{Path, PathBuf};

/// Why leases could not be read or written. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is damaged, or is no lease store.
    #[error(
        "{} is damaged ({reason}): move it aside and start again; the leases in it are lost, and hosts ask again \
         when theirs end",
        path.display()
    )]
    Corrupt {
        /// The store.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The leases are of other addresses than the switch is configured for.
    #[error(
        "{} holds leases of block {stored}, but block {configured} is configured: configure the block of the store, \
         or move the store aside to start with no leases",
        path.display()
    )]
    OtherBlock {
        /// The store.
        path: PathBuf,
        /// The block that the store was written for, with its slots.
        stored: String,
        /// The block that is configured, with its slots.
        configured: String,
    },
    /// A newer Flowlane wrote the file.
    #[error("{} has layout {version}, this program knows layouts up to {known}: use a newer Flowlane", path.display())]
    Newer {
        /// The store.
        path: PathBuf,
        /// The layout of the store.
        version: u8,
        /// The newest layout known.
        known: u8,
    },
    /// A program from before the first release wrote the file.
    #[error(
        "{} has layout {version}, this program knows layout {known} only: move it aside and start again; the leases in \
         it are lost, and hosts ask again when theirs end",
        path.display()
    )]
    Older {
        /// The store.
        path: PathBuf,
        /// The layout of the store.
        version: u8,
        /// The layout known.
        known: u8,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process: stop the other switch, or configure another store", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// The disk, or the user's quota, is full. Nothing was changed; the next commit tries again.
    #[error("no space left to write {}: free some; leases are granted again then", path.display())]
    Full {
        /// The store.
        path: PathBuf,
    },
    /// The operating system failed to read or write. Nothing was changed; the next commit tries again.
    #[error("can not read or write {}: {source}; check that the path is writable and the disk healthy", path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl StoreError {
    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            // What redb says of a file that is none of its own, or that ends early.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::corrupt(&path, source.to_string()),
            _ => Self::Io { path, source },
        }
    }
}

/// Says which store an error of redb is about.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<redb::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| match error.into() {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                StoreError::Locked { path: path.into() }
            }
            redb::Error::Io(source) => StoreError::io(path, source),
            error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::Backend(_)) => {
                StoreError::Io { path: path.into(), source: io::Error::other(error) }
            }
            error => StoreError::corrupt(path, error.to_string()),
        })
    }
}
