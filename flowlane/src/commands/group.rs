//! `flowlane group`: multicast groups.

use crate::{
    api::groups::{GroupView, OpenGroup, ReceiverView},
    cli::{Global, GroupCommand, OpenGroupOptions},
    commands::{ask, for_people, or_hyphen, rate_for_people},
    exit,
    output::Output,
};
use flowlane_wire::Mac;
use miette::Result;
use std::process::ExitCode;

/// Does what was asked.
///
/// # Errors
/// [`crate::api::client::ClientError`].
pub fn run(global: &Global, command: GroupCommand, output: Output) -> Result<ExitCode> {
    match command {
        GroupCommand::Open(options) => open(global, options, output)?,
        GroupCommand::Ls => list(global, output)?,
        GroupCommand::Show { address } => show(&ask(global, async |client| client.group(address).await)?, output)?,
        GroupCommand::Add { address, receivers } => {
            show(&ask(global, async |client| client.add_receivers(address, receivers).await)?, output)?;
        }
        GroupCommand::Remove { address, receivers } => remove(global, address, &receivers, output)?,
        GroupCommand::Close { address } => close(global, address, output)?,
    }
    Ok(ExitCode::from(exit::DONE))
}

fn open(global: &Global, options: OpenGroupOptions, output: Output) -> Result<()> {
    let OpenGroupOptions { port, receivers, rate, name, lifetime, iaid } = options;
    let request = OpenGroup { port, receivers, rate, name, lifetime, client: None, iaid };
    let group = ask(global, async |client| client.open_group(&request).await)?;
    if output.json {
        return output.document(&group);
    }
    output.line(&group.address)?;
    output.say(format!("leased on port {} for {}", group.port, left_of(&group)));
    warn(&group, output);
    Ok(())
}

/// One after the other: what has gone before an error is gone.
fn remove(global: &Global, address: Mac, receivers: &[String], output: Output) -> Result<()> {
    let group = ask(global, async |client| {
        let mut group = client.group(address).await?;
        for receiver in receivers {
            group = client.remove_receiver(address, receiver).await?;
        }
        Ok(group)
    })?;
    show(&group, output)
}

fn close(global: &Global, address: Mac, output: Output) -> Result<()> {
    let group = ask(global, async |client| client.close_group(address).await)?;
    if output.json {
        return output.document(&group);
    }
    output.say(format!("closed {}", group.address));
    Ok(())
}

fn list(global: &Global, output: Output) -> Result<()> {
    let groups = ask(global, async |client| client.groups().await)?;
    if output.json {
        return output.document(&groups);
    }
    let heads = ["ADDRESS", "NAME", "PORT", "RECEIVERS", "PACKETS", "BYTES", "MISSED", "LEFT"];
    output.table(
        &heads,
        groups.iter().map(|group| {
            vec![
                group.address.clone(),
                or_hyphen(group.name.as_deref()),
                group.port.clone(),
                how_many(group),
                group.packets.to_string(),
                group.bytes.to_string(),
                group.receivers.iter().map(|receiver| receiver.missed).sum::<u64>().to_string(),
                left_of(group),
            ]
        }),
    )
}

fn show(group: &GroupView, output: Output) -> Result<()> {
    if output.json {
        return output.document(group);
    }
    let lines = [
        ("address", group.address.clone()),
        ("slot", format!("{} (group {})", group.slot, group.group)),
        ("name", or_hyphen(group.name.as_deref())),
        ("comes in by", group.port.clone()),
        ("receivers", how_many(group)),
        ("rate", or_hyphen(group.rate.map(|rate| format!("{}bit/s", rate_for_people(rate))))),
        ("packets", group.packets.to_string()),
        ("bytes", group.bytes.to_string()),
        ("lease ends in", left_of(group)),
        ("client", format!("{} iaid {}", group.client, group.iaid)),
    ];
    lines.iter().try_for_each(|(name, value)| output.line(format!("{name:<14} {value}")))?;
    if group.receivers.is_empty() {
        return Ok(());
    }
    output.line("")?;
    output.table(
        &["RECEIVER", "NEXT", "STATE", "PACKETS", "BYTES", "MISSED"],
        group.receivers.iter().map(|receiver| {
            vec![
                receiver.receiver.clone(),
                next_of(receiver),
                state_of(receiver),
                receiver.packets.to_string(),
                receiver.bytes.to_string(),
                receiver.missed.to_string(),
            ]
        }),
    )?;
    warn(group, output);
    Ok(())
}

/// Says what somebody should know of single receivers.
fn warn(group: &GroupView, output: Output) {
    for receiver in &group.receivers {
        let known = receiver.reason.iter().chain(&receiver.warning);
        known.for_each(|what| output.say(format!("! {}: {what}", receiver.receiver)));
    }
}

/// How many receivers there are, and how many of them get no copies now.
fn how_many(group: &GroupView) -> String {
    let without = group.receivers.iter().filter(|receiver| receiver.state != "resolved").count();
    match without {
        0 => group.receivers.len().to_string(),
        _ => format!("{} ({without} of them without a way)", group.receivers.len()),
    }
}

fn next_of(receiver: &ReceiverView) -> String {
    or_hyphen(receiver.next.as_ref().zip(receiver.egress.as_ref()).map(|(next, egress)| format!("{next}@{egress}")))
}

fn state_of(receiver: &ReceiverView) -> String {
    if receiver.routed { format!("{},routed", receiver.state) } else { receiver.state.clone() }
}

fn left_of(group: &GroupView) -> String {
    group.remaining.map_or_else(|| "for ever".to_owned(), for_people)
}
