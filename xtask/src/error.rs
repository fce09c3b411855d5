//! What can go wrong, and what to do then.

use std::{io, path::PathBuf};

/// An error of a task. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error("`{program}` could not be started ({source}): is it installed and on the PATH?")]
    Start { program: String, source: io::Error },
    /// A program ended, but not well.
    #[error("`{command}` failed ({status}): see its messages above")]
    Failed { command: String, status: String },
    /// A file or folder could not be read or written.
    #[error("{path} can not be {action}: {source}")]
    File { path: PathBuf, action: &'static str, source: io::Error },
    /// Debian packages are to be installed by someone else than root.
    #[error("these packages are missing, and only root can install them; run: sudo apt-get install {0}")]
    PackagesNeedRoot(String),
    /// This is no Debian.
    #[error("this system has no dpkg and apt-get: install the likes of these Debian packages by hand: {0}")]
    NoApt(String),
    /// Parts of the BPF toolchain are not there.
    #[error("the BPF toolchain lacks {0}; run as root: cargo xtask bpf --install")]
    NoToolchain(String),
    /// The committed object is not of the present sources.
    #[error(
        "{object} is not of the present sources, these files differ: {files}; \
         run `cargo xtask bpf` and commit what it writes"
    )]
    Stale { object: &'static str, files: String },
    /// The committed page is not what the suite writes now.
    #[error("{0} is not what the suite writes now; run `cargo xtask conformance` and commit it")]
    StalePage(&'static str),
    /// The object tells about the machine that built it.
    #[error(
        "the built object contains the path {0}, and so would differ on other machines: remap it in xtask/src/bpf.rs"
    )]
    MachinePath(String),
    /// The object is no ELF file.
    #[error("the built object can not be read: {0}")]
    NoElf(#[from] object::Error),
    /// The object has no type or line information.
    #[error("the built object has no {0} section, which the kernel needs: check the flags in xtask/src/bpf.rs")]
    NoSection(&'static str),
    /// No fuzz target has such a name.
    #[error("no fuzz target has `{wanted}` in its name; there are: {all}")]
    NoFuzzTarget { wanted: String, all: String },
    /// The caller may not do what the kernel tests do.
    #[error(
        "the tests load programs into the kernel and make network namespaces; this process lacks {0}. \
         Run as root (in a container: --privileged), or run what can do without: cargo xtask test --unprivileged"
    )]
    Privileges(String),
}

impl Error {
    /// For `map_err` on an operation on a file.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, action, source }
    }
}
