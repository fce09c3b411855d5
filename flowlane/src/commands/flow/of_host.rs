//! The flows of this host's programs, as its daemon has them.

use crate::{
    cli::Width,
    commands::{daemon::DaemonError, for_people, or_hyphen, rate_for_people},
    output::Output,
};
use flowlane_client::{Client, ClientError, FlowView, Problem, ProblemCode, RunView};
use flowlane_wire::Mac;
use miette::Result;
use serde::Serialize;
use std::path::Path;

/// A flow with whose it is.
#[derive(Serialize)]
struct HostFlow<'a> {
    #[serde(flatten)]
    flow: &'a FlowView,
    name: &'a str,
    kind: &'a str,
    pid: i32,
    user: u32,
    cgroup: Option<&'a Path>,
}

/// Lists them.
///
/// # Errors
/// [`DaemonError`].
pub fn list(client: &Client, width: Width, output: Output) -> Result<()> {
    let runs = client.status().map_err(DaemonError)?.runs;
    let flows: Vec<HostFlow<'_>> = runs.iter().flat_map(of_run).collect();
    match width {
        _ if output.json => output.document(&flows),
        Width::Json => output.document(&flows),
        Width::Name => flows.iter().filter_map(|flow| flow.flow.address).try_for_each(|address| output.line(address)),
        Width::Brief => {
            let heads = ["ADDRESS", "PROGRAM", "TO", "INTERFACE", "STATE", "RATE", "PACKETS", "BYTES"];
            output.table(&heads, flows.iter().map(|flow| brief(flow).to_vec()))
        }
        Width::Wide => {
            let heads = [
                "ADDRESS",
                "PROGRAM",
                "TO",
                "INTERFACE",
                "STATE",
                "RATE",
                "PACKETS",
                "BYTES",
                "RUN",
                "KIND",
                "USER",
                "PATH",
                "LEFT",
                "REASON",
                "CGROUP",
            ];
            output.table(&heads, flows.iter().map(wide))
        }
    }
}

/// Shows one with everything that is known of it.
///
/// # Errors
/// [`DaemonError`].
pub fn show(client: &Client, address: Mac, output: Output) -> Result<()> {
    let runs = client.status().map_err(DaemonError)?.runs;
    let found = runs.iter().flat_map(of_run).find(|flow| flow.flow.address == Some(address));
    let no_such = || Problem { code: ProblemCode::NoSuchFlow, message: format!("no program has a flow {address}") };
    let found = found.ok_or_else(|| DaemonError(ClientError::Problem(no_such())))?;
    if output.json {
        return output.document(&found);
    }
    let HostFlow { flow, kind, user, cgroup, .. } = &found;
    let lines = [
        ("address", address.to_string()),
        ("program", program(&found)),
        ("run", format!("{} ({kind})", flow.run)),
        ("user", user.to_string()),
        ("cgroup", or_hyphen(cgroup.map(Path::display))),
        ("goes to", flow.destination.to_string()),
        ("leaves by", flow.interface.clone()),
        ("path", flow.path.to_string()),
        ("state", flow.state.clone()),
        ("reason", or_hyphen(flow.reason.as_deref())),
        ("rate", or_hyphen(flow.rate.map(|rate| format!("{}bit/s", rate_for_people(rate))))),
        ("packets", flow.packets.to_string()),
        ("bytes", flow.bytes.to_string()),
        ("lease ends in", left_of(flow)),
    ];
    let told = lines.iter().filter(|(name, value)| !["reason", "cgroup"].contains(name) || value != "-");
    told.into_iter().try_for_each(|(name, value)| output.line(format!("{name:<14} {value}")))
}

/// Cuts a program off from where it sends to by a flow.
///
/// # Errors
/// [`DaemonError`].
pub fn close(client: &Client, address: Mac, output: Output) -> Result<()> {
    let flow = client.close(address).map_err(DaemonError)?;
    if output.json {
        return output.document(&flow);
    }
    output.say(format!("closed {address}: what its program sends to {} is dropped", flow.destination));
    Ok(())
}

fn of_run(run: &RunView) -> impl Iterator<Item = HostFlow<'_>> {
    let RunView { name, kind, pid, user, cgroup, .. } = run;
    run.flows.iter().map(move |flow| HostFlow { flow, name, kind, pid: *pid, user: *user, cgroup: cgroup.as_deref() })
}

/// Whose it is: its name and the number of the process that began with it, as in a system log. A run that nobody has named
/// is named so already.
fn program(flow: &HostFlow<'_>) -> String {
    let process = format!("[{}]", flow.pid);
    if flow.name.ends_with(&process) { flow.name.to_owned() } else { format!("{}{process}", flow.name) }
}

fn brief(flow: &HostFlow<'_>) -> [String; 8] {
    let HostFlow { flow: view, .. } = flow;
    [
        or_hyphen(view.address),
        program(flow),
        view.destination.to_string(),
        view.interface.clone(),
        view.state.clone(),
        or_hyphen(view.rate.map(rate_for_people)),
        view.packets.to_string(),
        view.bytes.to_string(),
    ]
}

fn wide(flow: &HostFlow<'_>) -> Vec<String> {
    let HostFlow { flow: view, kind, user, cgroup, .. } = flow;
    let more = [
        view.run.to_string(),
        (*kind).to_owned(),
        user.to_string(),
        view.path.to_string(),
        left_of(view),
        or_hyphen(view.reason.as_deref()),
        or_hyphen(cgroup.map(Path::display)),
    ];
    brief(flow).into_iter().chain(more).collect()
}

/// Nothing for one that has no lease.
fn left_of(flow: &FlowView) -> String {
    match (flow.address, flow.remaining) {
        (None, _) => "-".to_owned(),
        (Some(_), None) => "for ever".to_owned(),
        (Some(_), Some(seconds)) => for_people(seconds),
    }
}
