//! `flowlane status`: the switch on one screen, or this host's daemon.

mod of_host;

use crate::{
    api::{ConfinementView, FlaggedView, NeighbourView, PortView, Status},
    cli::Global,
    commands::{ask, daemon, for_people, or_hyphen},
    exit,
    output::Output,
};
use flowlane_tables::{End, Kind};
use miette::Result;
use std::process::ExitCode;

/// Shows it; this host's daemon where it is named, or where there is no switch.
///
/// # Errors
/// [`crate::api::client::ClientError`], [`daemon::DaemonError`].
pub fn run(global: &Global, host: bool, output: Output) -> Result<ExitCode> {
    if let Some(daemon) = daemon::meant(global, host)? {
        of_host::show(&daemon, output)?;
        return Ok(ExitCode::from(exit::DONE));
    }
    let status = ask(global, async |client| client.status().await)?;
    if output.json {
        output.document(&status)?
    } else {
        print(&status, output)?
    }
    Ok(ExitCode::from(exit::DONE))
}

fn print(status: &Status, output: Output) -> Result<()> {
    let adopted = if status.adopted { ", tables adopted" } else { "" };
    output.line(format!(
        "switch {}  version {}  process {}  up {}{adopted}",
        status.name,
        status.version,
        status.pid,
        for_people(status.uptime)
    ))?;
    output.line(format!(
        "block {}  {} of {} slots leased, {} in quarantine",
        status.block, status.leased, status.slots, status.quarantined
    ))?;
    output.line(format!("leases in {}", status.store))?;
    output.line(format!("confined: {}", confinement(&status.confinement)))?;
    output.line("")?;
    let heads = ["PORT", "INTERFACE", "EXECUTOR", "LINK", "ADDRESS", "MTU", "FORWARDED", "PASSED", "REJECTED"];
    output.table(&heads, status.ports.iter().map(row))?;
    if !status.neighbours.is_empty() {
        output.line("")?;
        let heads = ["GATEWAY", "PORT", "IS", "FLOWS", "NONSENSE"];
        output.table(&heads, status.neighbours.iter().map(neighbour))?;
    }
    let flagged = status.ports.iter().filter_map(|port| Some((&port.interface, port.flagged.as_ref()?)));
    for (interface, FlaggedView { flows, limit, asking, waiting, left_to_linux }) in flagged {
        output.line(format!(
            "flagged packets of {interface}: {flows} of {limit} flows; {asking} asking, with {waiting} frames; {left_to_linux} \
             left to Linux"
        ))?;
    }
    let problems: Vec<String> = problems(status).collect();
    if !problems.is_empty() {
        output.line("")?;
    }
    problems.iter().try_for_each(|problem| output.line(format!("! {problem}")))
}

fn confinement(confinement: &ConfinementView) -> String {
    let ConfinementView { capabilities, no_new_privileges, landlock, seccomp } = confinement;
    let names: Vec<&str> = capabilities.iter().map(|name| name.trim_start_matches("CAP_")).collect();
    let yes = |so: bool| if so { "yes" } else { "no" };
    format!(
        "capabilities {}; no new privileges {}; Landlock {landlock}; seccomp {}",
        names.join(" "),
        yes(*no_new_privileges),
        yes(*seccomp)
    )
}

fn neighbour(neighbour: &NeighbourView) -> Vec<String> {
    vec![
        neighbour.address.clone(),
        neighbour.port.clone(),
        neighbour.kind.clone(),
        neighbour.flows.to_string(),
        neighbour.nonsense.to_string(),
    ]
}

fn row(port: &PortView) -> Vec<String> {
    vec![
        port.number.to_string(),
        port.interface.clone(),
        or_hyphen(port.executor.map(|executor| executor.name())),
        if port.up { "up" } else { "down" }.to_owned(),
        or_hyphen(port.mac.as_deref()),
        or_hyphen(port.mtu),
        sum(port, |kind| kind == Kind::Forwarded).to_string(),
        sum(port, |kind| matches!(kind, Kind::Passed | Kind::ToLinux)).to_string(),
        rejected(port),
    ]
}

fn sum(port: &PortView, of: impl Fn(Kind) -> bool) -> u64 {
    let counted = End::ALL.iter().filter(|end| of(end.kind()));
    counted.filter_map(|end| port.counts.get(end.name())).sum()
}

/// The reasons for which frames were rejected, with their counts.
fn rejected(port: &PortView) -> String {
    let dropped = End::ALL.iter().filter(|end| end.kind() == Kind::Dropped);
    let reasons: Vec<String> =
        dropped.filter_map(|end| port.counts.get(end.name()).map(|count| format!("{} {count}", end.name()))).collect();
    if reasons.is_empty() { "-".to_owned() } else { reasons.join(", ") }
}

fn problems(status: &Status) -> impl Iterator<Item = String> {
    let of_ports = status
        .ports
        .iter()
        .filter_map(|port| port.problem.as_ref().map(|problem| format!("port {}: {problem}", port.interface)));
    let ignored = status.ports.iter().flat_map(|port| {
        port.dhcp6_ignored
            .iter()
            .map(|(reason, count)| format!("port {}: {count} DHCPv6 messages not answered: {reason}", port.interface))
    });
    status.problems.iter().cloned().chain(of_ports).chain(ignored)
}
