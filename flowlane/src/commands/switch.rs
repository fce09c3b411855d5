//! `flowlane switch`: runs a switch, or says what it would be.

use crate::{
    cli::SwitchOptions,
    commands::{for_people, or_hyphen},
    config::{AccessConfig, Config, FlagConfig, FlaggedPolicy, PortConfig, RemoteClient, RemoteConfig},
    output::Output,
};
use flowlane_tables::{NextHop, Tuple};
use flowlane_wire::PortId;
use miette::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Runs the switch until it is told to end.
///
/// # Errors
/// A [`crate::config::ConfigError`], or whatever ends the switch.
pub fn run(options: &SwitchOptions, output: Output) -> Result<ExitCode> {
    let config = Config::read(&options.config)?;
    if options.remove {
        crate::switch::remove(&config)?;
        output.say(format!("nothing of switch {} is in the kernel any more", config.name));
    } else if !options.check_config {
        crate::switch::run(config)?;
    } else if output.json {
        output.document(&document_of(&config))?;
    } else {
        describe(&config, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(config: &Config, output: Output) -> Result<()> {
    let Config { name, block, policy, .. } = config;
    output.line(format!("switch {name}: block {block}, {} slots, {} tags each", block.slots(), block.tags()))?;
    output.line(format!(
        "leases last {} ({} to {}), rest {}; kept in {}",
        lifetime(policy.default_lifetime),
        lifetime(policy.min_lifetime),
        lifetime(policy.max_lifetime),
        lifetime(policy.quarantine),
        config.state_directory.display()
    ))?;
    output.line(format!("socket {}, for {}", config.socket().display(), callers(&config.access)))?;
    if let Some(remote) = &config.remote {
        output.line(format!("listens at {} too, for {} certificates", remote.listen, remote.clients.len()))?;
    }
    if let Some(capture) = &config.capture {
        output.line(format!("every frame is written to {}", capture.display()))?;
    }
    output.line(format!(
        "{} ports, {} routes, {} flows without a lease",
        config.ports.len(),
        config.routes.len(),
        config.flows.len()
    ))?;
    output.table(
        &["PORT", "INTERFACE", "EXECUTOR", "SOURCE", "DHCPV6", "FLAG"],
        config.ports.iter().map(|(number, port)| {
            let dhcp6 = if port.dhcp6 { "yes" } else { "no" };
            vec![
                number.to_string(),
                port.interface.clone(),
                port.executor.name().into(),
                source(port),
                dhcp6.into(),
                or_hyphen(port.flag),
            ]
        }),
    )
}

fn callers(access: &AccessConfig) -> String {
    match access.names_anybody() {
        true => format!("root, {} other users and {} groups", access.users.len(), access.groups.len()),
        false => "root alone".to_owned(),
    }
}

fn remote_document(remote: &RemoteConfig) -> Value {
    let client = |client: &RemoteClient| json!({ "certificate": client.certificate.to_string(), "role": client.role });
    json!({
        "listen": remote.listen,
        "certificate": remote.certificate,
        "client_ca": remote.client_ca,
        "clients": remote.clients.iter().map(client).collect::<Vec<_>>(),
    })
}

fn document_of(config: &Config) -> Value {
    let interface = |port: PortId| config.ports.get(&port).map(|port| port.interface.clone());
    let hop = |hop: &NextHop| json!({ "mac": hop.mac, "port": interface(hop.port), "routed": hop.routed });
    let end = |address, port| json!({ "address": address, "port": u16::from_be_bytes(port) });
    let tuple = |tuple: &Tuple| {
        json!({
            "protocol": tuple.protocol,
            "source": end(tuple.source(), tuple.source_port),
            "destination": end(tuple.destination(), tuple.destination_port),
        })
    };
    json!({
        "name": config.name,
        "block": config.block.to_string(),
        "slots": config.block.slots(),
        "socket": config.socket(),
        "access": config.access,
        "remote": config.remote.as_ref().map(remote_document),
        "state_directory": config.state_directory,
        "runtime_directory": config.runtime_directory,
        "capture": config.capture,
        "executor": config.executor,
        "lease": {
            "default": config.policy.default_lifetime,
            "min": config.policy.min_lifetime,
            "max": config.policy.max_lifetime,
            "quarantine": config.policy.quarantine,
            "per_request": config.policy.max_addresses,
            "per_port": config.policy.port_quota,
            "per_client": config.policy.client_quota,
        },
        "ports": config.ports.iter().map(|(number, port)| json!({
            "number": number,
            "interface": port.interface,
            "executor": port.executor,
            "source": port.source,
            "dhcp6": port.dhcp6,
            "dhcp6_rate": port.dhcp6_rate,
            "flag": port.flag.map(flag_document),
        })).collect::<Vec<_>>(),
        "routes": config.routes.iter().map(|route| json!({
            "to": route.to.to_string(),
            "port": interface(route.port),
            "next": route.next,
            "routed": route.routed,
        })).collect::<Vec<_>>(),
        "flows": config.flows.iter().map(|flow| json!({
            "address": flow.address.mac(),
            "port": interface(flow.port),
            "rate": flow.rate,
            "next": flow.next.as_ref().map(hop),
            "backup": flow.backup.as_ref().map(hop),
            "receivers": flow.receivers.as_ref().map(|receivers| receivers.iter().map(hop).collect::<Vec<_>>()),
            "restore": flow.restore,
            "flagged": flow.flagged.iter().map(tuple).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn flag_document(flag: FlagConfig) -> Value {
    let FlaggedPolicy { limit, rate, idle, restore } = flag.policy;
    json!({
        "role": flag.role,
        "mask": flag.flag.mask,
        "value": flag.flag.value,
        "flagged": { "limit": limit, "rate": rate, "idle": idle, "restore": restore },
    })
}

fn lifetime(seconds: u32) -> String {
    if seconds == u32::MAX { "for ever".to_owned() } else { for_people(seconds.into()) }
}

fn source(port: &PortConfig) -> String {
    or_hyphen(serde_json::to_value(port.source).ok().and_then(|value| value.as_str().map(str::to_owned)))
}
