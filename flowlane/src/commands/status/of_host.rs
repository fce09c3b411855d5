//! `flowlane status` of this host's daemon.

use crate::{
    commands::{daemon::DaemonError, or_hyphen},
    output::Output,
};
use flowlane_client::{Client, RunView, Status, protocol::InterfaceView};
use miette::Result;
use std::path::Path;

/// Shows it.
///
/// # Errors
/// [`DaemonError`].
pub fn show(client: &Client, output: Output) -> Result<()> {
    let status = client.status().map_err(DaemonError)?;
    if output.json {
        return output.document(&status);
    }
    let Status { version, mechanism, interfaces, runs } = &status;
    output.line(format!("daemon of this host  version {version}  mechanism {mechanism}"))?;
    output.line("")?;
    output.table(&["INTERFACE", "SWITCH"], interfaces.iter().map(interface))?;
    if runs.is_empty() {
        return Ok(());
    }
    output.line("")?;
    output.table(&["RUN", "NAME", "KIND", "PID", "USER", "FLOWS", "OPEN", "CGROUP"], runs.iter().map(run))
}

fn interface(interface: &InterfaceView) -> Vec<String> {
    let service = match interface.service {
        Some(true) => "answers",
        Some(false) => "none",
        None => "not known yet",
    };
    vec![interface.interface.clone(), service.to_owned()]
}

fn run(run: &RunView) -> Vec<String> {
    vec![
        run.run.to_string(),
        run.name.clone(),
        run.kind.clone(),
        run.pid.to_string(),
        run.user.to_string(),
        run.flows.len().to_string(),
        run.flows.iter().filter(|flow| flow.state == "open").count().to_string(),
        or_hyphen(run.cgroup.as_deref().map(Path::display)),
    ]
}
