//! Why a switch does not start.

use super::ports::AttachError;
use crate::exit;
use flowlane_allot::RestoreError;
use flowlane_ports::{PortError, capture::CaptureError};
use flowlane_program::ProgramError;
use flowlane_store::StoreError;
use miette::Diagnostic;
use std::{
    io::{self, ErrorKind},
    path::PathBuf,
};

/// Why a switch does not start. What a predecessor has left in the kernel forwards on.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum StartError {
    /// A switch has the directory or the name.
    #[error("a switch of this name is running already: it holds {}", held.display())]
    #[diagnostic(
        code(FL0203),
        help("stop it first, or give this switch another `name` and `runtime_directory` in its configuration")
    )]
    Running {
        /// What only one can have.
        held: PathBuf,
    },
    /// A directory or file can not be made.
    #[error("can not make {}: {source}", path.display())]
    #[diagnostic(code(FL0204), help("run as root, or name another directory in the configuration"))]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Leases can not be read.
    #[error(transparent)]
    #[diagnostic(code(FL0205), help("nothing in the store was changed, and flows that forward go on to forward"))]
    Store(#[from] StoreError),
    /// The leases contradict each other.
    #[error(transparent)]
    #[diagnostic(code(FL0206), help("nothing in the store was changed, and flows that forward go on to forward"))]
    Leases(#[from] RestoreError),
    /// The tables can not be used.
    #[error(transparent)]
    #[diagnostic(code(FL0207), help("run as root, or see what `flowlane doctor` finds"))]
    Tables(#[from] ProgramError),
    /// Nobody can handle a port's frames.
    #[error("port {interface}: {source}")]
    #[diagnostic(code(FL0208), help("`flowlane doctor` says what is missing"))]
    Port {
        /// The port's interface.
        interface: String,
        /// Why.
        source: AttachError,
    },
    /// The routing tables can not be read.
    #[error(transparent)]
    #[diagnostic(code(FL0209), help("`flowlane doctor` says what is missing"))]
    Linux(#[from] flowlane_resolve::Error),
    /// The capture can not be written.
    #[error("the capture can not be written: {0}")]
    #[diagnostic(code(FL0210), help("name another file in `capture` in the configuration"))]
    Capture(#[from] CaptureError),
    /// The system refuses something that it always grants.
    #[error("{action} failed: {source}")]
    #[diagnostic(code(FL0211), help("see whether the system is short of memory, processes or open files"))]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Running { .. } | Self::Store(StoreError::Locked { .. }) => exit::CONFLICT,
            Self::File { source, .. } | Self::Store(StoreError::Io { source, .. }) if is_denied(source) => exit::DENIED,
            Self::Tables(error) | Self::Port { source: AttachError::Kernel(error), .. } if lacks_privilege(error) => {
                exit::DENIED
            }
            Self::Port { source: AttachError::Userspace(PortError::NotPermitted { .. }), .. } => exit::DENIED,
            _ => exit::FAILED,
        }
    }

    /// Names the file that could not be made.
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// Names what was tried.
    pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

fn lacks_privilege(error: &ProgramError) -> bool {
    match error {
        ProgramError::NoBpffs(source) | ProgramError::File { source, .. } => is_denied(source),
        _ => false,
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}
