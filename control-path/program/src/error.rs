//! What can go wrong between userspace and the kernel's tables.

use std::{io, path::PathBuf};

/// Why tables or programs can not be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A file of the tables, or a directory of them, can not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Memory can not be mapped.
    #[error("can not map the {what} table of {bytes} octets: {source}")]
    Map {
        /// Which table.
        what: &'static str,
        /// How large.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// There is no BPF file system, and none can be mounted.
    #[error("no BPF file system: {0}; mount one with: mount -t bpf bpf /sys/fs/bpf")]
    NoBpffs(io::Error),
    /// The kernel does not take the programs or maps.
    #[error(
        "the kernel refuses the BPF object: {0}. `flowlane doctor` says what is missing; `executor = \"af-packet\"` does without"
    )]
    Load(#[from] Box<aya::EbpfError>),
    /// A program can not be loaded or attached.
    #[error("can not attach {program} to {interface}: {}", reasons(source))]
    Attach {
        /// Which program.
        program: &'static str,
        /// Where to.
        interface: String,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A link can not be pinned.
    #[error("can not pin {}: {reason}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel has no links for tc programs.
    #[error("the kernel has no BPF links for tc (they came with Linux 6.6); use `executor = \"af-packet\"`")]
    OldKernel,
    /// A map is not what it should be.
    #[error("BPF map {name}: {source}")]
    MapAccess {
        /// Which map.
        name: &'static str,
        /// What the library said.
        source: aya::maps::MapError,
    },
    /// There is no such interface, or it is no Ethernet.
    #[error("there is no Ethernet interface {0} in this network namespace")]
    NoInterface(String),
    /// Cgroups at more depths than are looked at.
    #[error(
        "runs are in cgroups of {} different depths already; one more can not be looked for",
        flowlane_tables::RUN_LEVELS
    )]
    TooManyLevels,
    /// No entry is free.
    #[error(
        "the runs of this host have {} destinations already, and there is no room for more",
        flowlane_tables::RUN_FLOWS
    )]
    RunsFull,
    /// The object lacks something: it is not the one that belongs to this program.
    #[error("the BPF object has no {0}: build it again with `cargo xtask bpf`")]
    Incomplete(&'static str),
}

impl ProgramError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// What the kernel said, and why: the outermost error names the call alone.
fn reasons(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
