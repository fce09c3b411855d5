//! `flowlane table`: what the switch's table holds.

use crate::{
    api::EntryView,
    cli::{Global, TableCommand},
    commands::{ask, or_hyphen, passed},
    exit,
    output::Output,
};
use miette::Result;
use std::process::ExitCode;

/// Does what was asked.
///
/// # Errors
/// [`crate::api::client::ClientError`].
pub fn run(global: &Global, command: &TableCommand, output: Output) -> Result<ExitCode> {
    match command {
        TableCommand::Dump => dump(global, output),
        TableCommand::Verify { repair } => verify(global, *repair, output),
    }
}

fn dump(global: &Global, output: Output) -> Result<ExitCode> {
    let entries = ask(global, async |client| client.table().await)?;
    if output.json {
        output.document(&entries)?;
    } else {
        let heads = ["SLOT", "ADDRESS", "PORT", "STATE", "NEXT", "BACKUP", "EXPIRES", "PACKETS", "BYTES"];
        output.table(&heads, entries.iter().map(row))?;
        dump_receivers(&entries, output)?;
    }
    Ok(ExitCode::from(exit::DONE))
}

/// The receivers of all groups.
fn dump_receivers(entries: &[EntryView], output: Output) -> Result<()> {
    let rows: Vec<Vec<String>> = entries.iter().flat_map(receivers).collect();
    if rows.is_empty() {
        return Ok(());
    }
    output.line("")?;
    output.table(&["GROUP", "PLACE", "NEXT", "PACKETS", "BYTES", "MISSED"], rows)
}

fn receivers(entry: &EntryView) -> impl Iterator<Item = Vec<String>> {
    entry.receivers.iter().map(|receiver| {
        let routed = if receiver.routed { ",routed" } else { "" };
        vec![
            or_hyphen(entry.group),
            receiver.place.to_string(),
            format!("{}@{}{routed}", receiver.next, receiver.egress),
            receiver.packets.to_string(),
            receiver.bytes.to_string(),
            receiver.missed.to_string(),
        ]
    })
}

fn row(entry: &EntryView) -> Vec<String> {
    let hop = entry.next.as_ref().zip(entry.egress).map(|(next, egress)| format!("{next}@{egress}"));
    let next = hop.or(entry.group.map(|group| format!("group {group}")));
    let routed = if entry.routed { ",routed" } else { "" };
    vec![
        entry.slot.to_string(),
        entry.address.clone(),
        entry.port.to_string(),
        format!("{}{routed}", entry.state),
        or_hyphen(next),
        or_hyphen(entry.backup.as_ref().map(|(mac, port)| format!("{mac}@{port}"))),
        or_hyphen(entry.expires),
        entry.packets.to_string(),
        entry.bytes.to_string(),
    ]
}

/// Exit code 1 where something differs, or still does after the repair.
fn verify(global: &Global, repair: bool, output: Output) -> Result<ExitCode> {
    let found = ask(global, async |client| client.verify(repair).await)?;
    if output.json {
        output.document(&found)?;
    } else {
        found.differences.iter().try_for_each(|difference| output.line(difference))?;
        let (differences, compared) = (found.differences.len(), found.compared);
        let repaired = match (repair && differences > 0, found.ok) {
            (true, true) => ", repaired",
            (true, false) => ", not all repaired",
            (false, _) => "",
        };
        output.say(format!("{compared} slots compared, {differences} differences{repaired}"));
    }
    Ok(passed(found.ok))
}
