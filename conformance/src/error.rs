//! Why an executor can not be made.

use flowlane_program::ProgramError;
use std::io;

/// Why an executor can not be made, or can not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, interfaces, single frames.
    #[error(transparent)]
    Lab(#[from] flowlane_lab::Error),
    /// Tables and programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Sockets and threads.
    #[error(transparent)]
    Port(#[from] flowlane_ports::PortError),
    /// The kernel does not take the program.
    #[error("the kernel does not take {program}: {source}")]
    Load {
        /// Which one.
        program: &'static str,
        /// What the kernel said.
        source: aya::programs::ProgramError,
    },
    /// There is no place for configurations and captures.
    #[error("can not make a temporary directory: {0}")]
    Directory(io::Error),
    /// What is sent by the interfaces can not be watched.
    #[error("can not watch what the interfaces send: {0}")]
    Watch(io::Error),
    /// Executors read the real clock, and it went on too far before a table's frames were through.
    #[error("the machine is too busy to compare the executors: a few thousand frames took more than five seconds")]
    TooBusy,
}
