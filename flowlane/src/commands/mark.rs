//! `flowlane mark`: adds the virtual-circuit flag to packets of this host (claim 23), until it is stopped.

use crate::{cli::MarkOptions, exit, output::Output};
use flowlane_program::{Marking, ProgramError};
use flowlane_tables::{MARK_RULES, MarkRule};
use ipnet::IpNet;
use miette::{Diagnostic, IntoDiagnostic as _, Result};
use serde_json::json;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Why nothing is marked.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum MarkError {
    /// The host does not have the interface.
    #[error("there is no interface {0}")]
    #[diagnostic(code(FL0801), help("`ip link` lists the interfaces"))]
    NoInterface(String),
    /// There is no room for all of them.
    #[error("{0} destinations are too many: there is room for {MARK_RULES}")]
    #[diagnostic(code(FL0803), help("name shorter prefixes, or run the command twice"))]
    TooMany(usize),
    /// The kernel does not do it.
    #[error(transparent)]
    #[diagnostic(code(FL0802), help("run as root, on Linux 6.6 or later; docs/flag.md says what does without"))]
    Program(#[from] ProgramError),
}

impl MarkError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoInterface(_) | Self::TooMany(_) => exit::USAGE,
            Self::Program(_) if !nix::unistd::geteuid().is_root() => exit::DENIED,
            Self::Program(_) => exit::FAILED,
        }
    }
}

/// Marks until Ctrl-C or SIGTERM. However the process ends, the kernel takes the program off the interface.
///
/// # Errors
/// [`MarkError`].
pub fn run(options: &MarkOptions, output: Output) -> Result<ExitCode> {
    let interface = &options.interface;
    if nix::net::if_::if_nametoindex(interface.as_str()).is_err() {
        return Err(MarkError::NoInterface(interface.clone()).into());
    }
    if options.to.len() > MARK_RULES as usize {
        return Err(MarkError::TooMany(options.to.len()).into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    runtime.block_on(async {
        // Listened to before anything is said, so that who is told that it works may stop it at once.
        let mut interrupt = signal(SignalKind::interrupt()).into_diagnostic()?;
        let mut terminate = signal(SignalKind::terminate()).into_diagnostic()?;
        let _marking = Marking::start(interface, &rules(options)).map_err(MarkError::from)?;
        tell(options, output)?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn tell(options: &MarkOptions, output: Output) -> Result<()> {
    let to: Vec<String> = options.to.iter().map(IpNet::to_string).collect();
    if output.json {
        return output.document(&json!({
            "interface": options.interface,
            "to": to,
            "protocol": options.protocol.map(|protocol| protocol.name()),
            "port": options.port,
            "flag": { "mask": options.flag_dscp.mask, "value": options.flag_dscp.value },
        }));
    }
    let to = if to.is_empty() { "everywhere".to_owned() } else { to.join(", ") };
    output.say(format!("packets to {to} that leave by {} are marked until Ctrl-C", options.interface));
    Ok(())
}

/// One rule for each destination, or one for all.
fn rules(options: &MarkOptions) -> Vec<MarkRule> {
    let any = MarkRule {
        flag: options.flag_dscp.to_word(),
        protocol: options.protocol.map_or(0, |protocol| protocol.number()),
        port: options.port.unwrap_or(0).to_be_bytes(),
        ..MarkRule::default()
    };
    if options.to.is_empty() { vec![any] } else { options.to.iter().map(|net| towards(*net, any)).collect() }
}

fn towards(net: IpNet, any: MarkRule) -> MarkRule {
    let mut rule = any;
    match net {
        IpNet::V4(net) => {
            rule.version = 4;
            rule.prefix[..4].copy_from_slice(&net.network().octets());
            rule.mask[..4].copy_from_slice(&net.netmask().octets());
        }
        IpNet::V6(net) => {
            rule.version = 6;
            (rule.prefix, rule.mask) = (net.network().octets(), net.netmask().octets());
        }
    }
    rule
}
