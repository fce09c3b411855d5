//! This host's daemon, as commands meet it.

use crate::{cli::Global, exit};
use flowlane_client::{Client, ClientError, Problem, ProblemCode, socket};
use miette::Diagnostic;

/// Why this host's daemon did not do what was asked.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error(transparent)]
#[diagnostic(code(FL0901), help("{}", help_for(.0)))]
pub struct DaemonError(#[from] pub ClientError);

impl DaemonError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match &self.0 {
            ClientError::NoDaemon { .. } => exit::UNREACHABLE,
            ClientError::Denied { .. } | ClientError::Stranger { .. } => exit::DENIED,
            ClientError::Timeout => exit::TIMEOUT,
            ClientError::Broken(_) | ClientError::Protocol(_) => exit::FAILED,
            ClientError::Problem(Problem { code, .. }) => match code {
                ProblemCode::Denied => exit::DENIED,
                ProblemCode::Invalid => exit::USAGE,
                ProblemCode::NoSuchFlow | ProblemCode::Refused => exit::CONFLICT,
                ProblemCode::NoService => exit::TIMEOUT,
                ProblemCode::System => exit::FAILED,
            },
        }
    }

    /// Whether the answer was no, so that what was asked must not be done in another way.
    pub fn forbids(&self) -> bool {
        match &self.0 {
            ClientError::Problem(Problem { code, .. }) => *code != ProblemCode::System,
            _ => false,
        }
    }
}

fn help_for(error: &ClientError) -> &'static str {
    match error {
        ClientError::NoDaemon { .. } => "start it as root, by `flowlane host`; docs/flowlane-host.service does at boot",
        ClientError::Denied { .. } => "root starts it with its runtime directory open to all: see docs/run.md",
        ClientError::Stranger { .. } => "stop that process, and start `flowlane host` as root",
        ClientError::Timeout | ClientError::Broken(_) => "look at the log of `flowlane host`, then try again",
        ClientError::Protocol(_) => "use the `flowlane` of the same version as the running daemon",
        ClientError::Problem(Problem { code, .. }) => match code {
            ProblemCode::Denied => "docs/run.md says who is allowed what",
            ProblemCode::Invalid => "see `flowlane run --help`",
            ProblemCode::NoSuchFlow => "`flowlane flow ls --host` lists the flows that there are",
            ProblemCode::NoService => "`flowlane status --host` says on which interfaces a switch answers",
            ProblemCode::Refused => "`flowlane status` at the switch says what it has left",
            ProblemCode::System => "look at the log of `flowlane host`, and at `flowlane doctor`",
        },
    }
}

/// The daemon of this network namespace.
///
/// # Errors
/// [`DaemonError`].
pub fn connect(global: &Global) -> Result<Client, DaemonError> {
    Ok(Client::connect_to(&socket(&global.runtime_directory)?)?)
}

/// The daemon, where a command is about it: it is named, or there is no switch to talk to.
///
/// # Errors
/// [`DaemonError`].
pub fn meant(global: &Global, named: bool) -> Result<Option<Client>, DaemonError> {
    let alone = || {
        !global.names_a_switch()
            && !global.socket().exists()
            && socket(&global.runtime_directory).is_ok_and(|socket| socket.exists())
    };
    if named || alone() { connect(global).map(Some) } else { Ok(None) }
}
