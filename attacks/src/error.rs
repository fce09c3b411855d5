//! Why an attack can not be tried.

use std::io;

/// Why an attack can not be tried. What it does to the switch is no error, but a row that is not ok.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network can not be made.
    #[error(transparent)]
    Lab(#[from] flowlane_lab::Error),
    /// The generator can not be run.
    #[error(transparent)]
    Generator(#[from] flowlane_bench::Error),
    /// The switch's tables can not be opened.
    #[error(transparent)]
    Tables(#[from] flowlane_program::ProgramError),
    /// The system refuses something.
    #[error("can not {action}: {source}")]
    System {
        /// What was asked for.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The switch does not start, or does not do what it must before it can be attacked.
    #[error("the switch: {0}")]
    Switch(String),
    /// A certificate can not be made, or read.
    #[error("a certificate: {0}")]
    Certificate(String),
    /// The published description of the switch's operations is not as it must be.
    #[error("docs/openapi.json: {0}")]
    Description(String),
    /// No attack has such a name.
    #[error("there is no attack {wanted:?}; there are: {all}")]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// What there is.
        all: String,
    },
}

impl Error {
    /// For `map_err` on what certificates are made and read by.
    pub(crate) fn certificate(error: impl std::fmt::Display) -> Self {
        Self::Certificate(error.to_string())
    }

    /// For `map_err` on what the system does.
    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}
