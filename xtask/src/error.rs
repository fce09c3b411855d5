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
    /// The committed objects are not of the present sources.
    #[error(
        "the objects in data-path/kernel are not of the present sources, these files differ: {0}; \
         run `cargo xtask bpf` and commit what it writes"
    )]
    Stale(String),
    /// The committed page is not what the suite writes now.
    #[error("{0} is not what the suite writes now; run `cargo xtask conformance` and commit it")]
    StalePage(&'static str),
    /// The figures that are kept are not those of the present sources.
    #[error("{0} is not what the present sources cost; run `cargo xtask cost`, and commit it if that is as meant")]
    StaleCost(&'static str),
    /// Callgrind has not met what it was to count.
    #[error("callgrind has counted nothing: the built program has no function like {0}")]
    NothingCounted(String),
    /// A document is not what it should be.
    #[error("{what} can not be understood: {source}")]
    Json { what: &'static str, source: serde_json::Error },
    /// A page has no place for what is to be written into it.
    #[error("{0} has lost the lines between which the tables stand: take them from an earlier version")]
    NoPlace(&'static str),
    /// The picture can not be drawn.
    #[error("the picture can not be drawn: {0}")]
    Picture(Box<dyn std::error::Error>),
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
    /// A property does not hold, or the proof is blind for a fault.
    #[error("not proved: see above which property does not hold, or which fault was not found")]
    NotProved,
    /// The sources have changed, and a fault has no place in them any more.
    #[error("{file} has no single place for the fault \"{fault}\": change it in xtask/src/prove/faults.rs")]
    NoPlaceForFault { fault: &'static str, file: &'static str },
    /// No fuzz target has such a name.
    #[error("no fuzz target has `{wanted}` in its name; there are: {all}")]
    NoFuzzTarget { wanted: String, all: String },
    /// The bill of materials does not say what the lock files say.
    #[error("the bill of materials is not whole: {0}")]
    Sbom(String),
    /// The tests do not notice enough of the faults that were put in.
    #[error(
        "the tests notice less than {least} % of the faults in {packages}: write tests for those that are named above"
    )]
    Mutants { packages: String, least: u32 },
    /// There is no such package with mutants.
    #[error("no package is called `{wanted}` here; there are: {all}")]
    NoPackage { wanted: String, all: String },
    /// The caller may not do what the benchmark does.
    #[error(
        "measuring takes root: this process may not load programs into the kernel, make network namespaces, or go ahead of \
         other programs. Run as root: cargo xtask bench"
    )]
    Measuring,
    /// The caller may not do what the kernel tests do.
    #[error(
        "the tests load programs into the kernel and make network namespaces; this process lacks {0}. \
         Run as root (in a container: --privileged), or run what can do without: cargo xtask test --unprivileged"
    )]
    Privileges(String),
}

impl Error {
    /// For `map_err` on a document.
    pub fn json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { what, source }
    }

    /// For `map_err` on an operation on a file.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, action, source }
    }
}
