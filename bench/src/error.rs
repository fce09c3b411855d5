//! Why nothing can be measured.

use std::io;

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network of the benchmark can not be made.
    #[error(transparent)]
    Lab(#[from] flowlane_lab::Error),
    /// The switch can not be set up.
    #[error(transparent)]
    Switch(#[from] flowlane_program::ProgramError),
    /// The switch's threads can not be started.
    #[error(transparent)]
    Port(#[from] flowlane_ports::PortError),
    /// The kernel does not take the benchmark's programs or maps.
    #[error("the kernel refuses the benchmark's BPF object: {0}")]
    Load(#[from] aya::EbpfError),
    /// A program can not be loaded, attached or run.
    #[error("{program}: {source}")]
    Program {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        source: aya::programs::ProgramError,
    },
    /// A map can not be read or written.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// What the library said.
        source: aya::maps::MapError,
    },
    /// The object lacks something: it is not the one that belongs to this program.
    #[error("the benchmark's BPF object has no {0}: build it again with `cargo xtask bpf`")]
    Incomplete(&'static str),
    /// The system refuses something.
    #[error("can not {action}: {source}")]
    System {
        /// What was asked for.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What is to be compared is not installed.
    #[error("{program} is not there; run as root: apt-get install {package}")]
    NotInstalled {
        /// The program that is wanted.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The kernel has too little memory in one piece.
    #[error(
        "only {had} of {wanted} huge pages of 2 MiB can be had: free memory, or start the machine with hugepages={wanted}"
    )]
    HugePages {
        /// How many are needed.
        wanted: u32,
        /// How many there are.
        had: u32,
    },
    /// Nothing is measured that has such a name.
    #[error("nothing is measured by the name {wanted}; there are: {all}")]
    NoContestant {
        /// What was asked for.
        wanted: String,
        /// What there is.
        all: String,
    },
    /// Open vSwitch does not work.
    #[error("Open vSwitch: {0}")]
    Ovs(String),
    /// A program that is compared does not work.
    #[error("{0}: {1}")]
    Peer(&'static str, &'static str),
    /// TCP can not be measured.
    #[error("iperf3: {0}")]
    Iperf(String),
    /// A contestant forwards nothing at all, so that there is nothing to measure.
    #[error("{contestant} delivered none of {expected} frames with the right addresses, and {wrong} with wrong ones")]
    Nothing {
        /// Which.
        contestant: &'static str,
        /// How many frames were to arrive.
        expected: u64,
        /// How many arrived with other addresses than they should have.
        wrong: u64,
    },
}

impl Error {
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }

    pub(crate) fn program(program: &'static str) -> impl Fn(aya::programs::ProgramError) -> Self {
        move |source| Self::Program { program, source }
    }

    pub(crate) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> Self {
        move |source| Self::Map { map, source }
    }
}
