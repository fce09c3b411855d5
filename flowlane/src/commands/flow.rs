//! `flowlane flow`: flows, at the switch or from a host.

pub mod dhcp6;
mod leases;
mod of_host;

use crate::{
    api::{FlowView, LeaseView, OpenFlow},
    cli::{FlowCommand, Global, LsOptions, OpenOptions, Width},
    commands::{ask, daemon, for_people, or_hyphen, rate_for_people},
    exit,
    output::{Output, message},
};
use dhcp6::{Ask, Lease, News};
use flowlane_allot::{Field, FlowSpec};
use flowlane_wire::Mac;
use ipnet::IpNet;
use leases::Leases;
use miette::{Result, miette};
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use serde_json::json;
use std::{net::IpAddr, process::ExitCode, time::Duration};

/// Does what was asked.
///
/// # Errors
/// [`crate::api::client::ClientError`] at the switch, [`dhcp6::Dhcp6Error`] from a host, [`daemon::DaemonError`] of its
/// programs.
pub fn run(global: &Global, command: FlowCommand, output: Output) -> Result<ExitCode> {
    match command {
        FlowCommand::Open(options) => match options.interface.clone() {
            Some(interface) => open_from_host(global, options, interface, output)?,
            None => open_at_switch(global, options, output)?,
        },
        FlowCommand::Ls(options) => match daemon::meant(global, options.host)? {
            Some(daemon) => of_host::list(&daemon, options.output, output)?,
            None => list(global, &options, output)?,
        },
        FlowCommand::Show { address, host } => match daemon::meant(global, host)? {
            Some(daemon) => of_host::show(&daemon, address, output)?,
            None => show(&ask(global, async |client| client.flow(address).await)?, output)?,
        },
        FlowCommand::Renew { address, lifetime } => {
            let lease = ask(global, async |client| client.renew(address, lifetime).await)?;
            print_lease(&lease, output)?;
        }
        FlowCommand::Close { address, host: true, .. } => of_host::close(&daemon::connect(global)?, address, output)?,
        FlowCommand::Close { address, interface, timeout, .. } => {
            close(global, address, interface.as_deref(), timeout, output)?;
        }
    }
    Ok(ExitCode::from(exit::DONE))
}

fn open_at_switch(global: &Global, options: OpenOptions, output: Output) -> Result<()> {
    let request = OpenFlow {
        port: options.port.unwrap_or_default(),
        count: Some(options.count),
        destination: options.to,
        rate: options.rate,
        field: options.field.into(),
        path: options.path,
        name: options.name,
        lifetime: options.lifetime,
        client: None,
        iaid: options.iaid,
    };
    let lease = ask(global, async |client| client.open(&request).await)?;
    print_lease(&lease, output)
}

fn print_lease(lease: &LeaseView, output: Output) -> Result<()> {
    if output.json {
        return output.document(lease);
    }
    lease.addresses.iter().try_for_each(|address| output.line(address))?;
    let remaining = lease.remaining.map_or_else(|| "for ever".to_owned(), for_people);
    output.say(format!("leased on port {} for {remaining}", lease.port));
    Ok(())
}

fn open_from_host(global: &Global, options: OpenOptions, interface: String, output: Output) -> Result<()> {
    let leases = Leases::of(global.leases());
    let ask = Ask {
        interface,
        count: options.count,
        spec: FlowSpec {
            destination: options.to,
            rate: options.rate,
            field: options.field.into(),
            name: options.name,
            path: options.path,
            ..FlowSpec::default()
        },
        iaid: options.iaid.unwrap_or_else(|| leases.free_iaid()),
        timeout: options.timeout,
    };
    if options.hold {
        return hold(&ask, &leases, output);
    }
    let lease = dhcp6::open(&ask)?;
    keep(&leases, &lease, output);
    print_granted(&lease, output)
}

/// Keeps the lease until the end of this process.
fn hold(ask: &Ask, leases: &Leases, output: Output) -> Result<()> {
    let mut printed: Option<Vec<Mac>> = None;
    let mut done = Ok(());
    dhcp6::hold(ask, |news| match news {
        News::Leased(lease) => {
            keep(leases, &lease, output);
            if printed.as_ref() != Some(&lease.addresses) {
                done = std::mem::replace(&mut done, Ok(())).and_then(|()| print_granted(&lease, output));
                output.say("held until Ctrl-C");
                printed = Some(lease.addresses);
            }
        }
        News::Lost(lease) => {
            leases.forget(&lease);
            output.say("the lease has ended");
        }
        News::Trouble(error) => output.say(format!("{}; trying again", message(&error.into()))),
        News::Released(lease) => {
            leases.forget(&lease);
            output.say("given back");
        }
    })?;
    done
}

fn keep(leases: &Leases, lease: &Lease, output: Output) {
    if let Err(error) = leases.keep(lease) {
        output.say(format!("the lease can not be stored ({error}): it will end by its time, not by `flow close`"));
    }
}

fn print_granted(lease: &Lease, output: Output) -> Result<()> {
    let how = how_to_use(lease);
    if output.json {
        let mut document = json!(lease);
        document["use"] = json!(how);
        return output.document(&document);
    }
    lease.addresses.iter().try_for_each(|address| output.line(address))?;
    let lifetime = lease.lifetime.map_or_else(|| "for ever".to_owned(), |seconds| for_people(seconds.into()));
    output.say(format!("granted on {} for {lifetime}{}", lease.interface, details(&lease.spec)));
    output.say("to send by the flow:");
    how.iter().for_each(|command| output.say(format!("  {command}")));
    Ok(())
}

fn details(spec: &FlowSpec) -> String {
    let to = spec.destination.map_or_else(|| ", to where its first packet goes".into(), |to| format!(", to {to}"));
    let rate = spec.rate.map(|rate| format!(", at {}bit/s", rate_for_people(rate))).unwrap_or_default();
    format!("{to}{rate}")
}

/// The commands that put traffic into the flows.
fn how_to_use(lease: &Lease) -> Vec<String> {
    let interface = &lease.interface;
    let commands = lease.addresses.iter().enumerate().flat_map(|(place, address)| match lease.spec.field {
        Field::Source => {
            vec![format!("ip link add link {interface} name flow{place} address {address} type macvlan mode private")]
        }
        Field::Destination => {
            let to = lease.spec.destination;
            let far = to.filter(|to| !is_on_link(*to, interface));
            let route = far.map(|to| format!("ip route replace {to} dev {interface}"));
            let to = to.map_or_else(|| "DESTINATION".to_owned(), |to| to.to_string());
            let neighbour = format!("ip neigh replace {to} lladdr {address} dev {interface} nud permanent");
            route.into_iter().chain([neighbour]).collect()
        }
    });
    commands.collect()
}

/// Whether the host reaches the address without a router.
fn is_on_link(address: IpAddr, interface: &str) -> bool {
    let entries = getifaddrs().into_iter().flatten().filter(|entry| entry.interface_name == interface);
    let mut networks =
        entries.filter_map(|entry| IpNet::with_netmask(ip_of(entry.address?)?, ip_of(entry.netmask?)?).ok());
    networks.any(|network| network.contains(&address))
}

fn ip_of(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn list(global: &Global, options: &LsOptions, output: Output) -> Result<()> {
    let flows = ask(global, async |client| client.flows().await)?;
    match options.output {
        _ if output.json => output.document(&flows),
        Width::Json => output.document(&flows),
        Width::Name => flows.iter().try_for_each(|flow| output.line(&flow.address)),
        Width::Brief => output.table(
            &["ADDRESS", "NAME", "PORT", "TO", "NEXT", "STATE", "PACKETS", "LEFT"],
            flows.iter().map(|flow| {
                vec![
                    flow.address.clone(),
                    or_hyphen(flow.name.as_deref()),
                    flow.port.clone(),
                    to_of(flow),
                    next_of(flow),
                    state_of(flow),
                    flow.packets.to_string(),
                    left_of(flow),
                ]
            }),
        ),
        Width::Wide => output.table(
            &[
                "ADDRESS", "SLOT", "NAME", "PORT", "FIELD", "TO", "NEXT", "VIA", "STATE", "RATE", "PACKETS", "BYTES",
                "LEFT", "HOST", "CLIENT", "IAID",
            ],
            flows.iter().map(|flow| {
                vec![
                    flow.address.clone(),
                    flow.slot.to_string(),
                    or_hyphen(flow.name.as_deref()),
                    flow.port.clone(),
                    flow.field.clone(),
                    to_of(flow),
                    next_of(flow),
                    or_hyphen(flow.via.as_deref()),
                    state_of(flow),
                    or_hyphen(flow.rate.map(rate_for_people)),
                    flow.packets.to_string(),
                    flow.bytes.to_string(),
                    left_of(flow),
                    flow.host.clone(),
                    flow.client.clone(),
                    flow.iaid.to_string(),
                ]
            }),
        ),
    }
}

/// Where its packets go; of flagged ones also whose they are.
fn to_of(flow: &FlowView) -> String {
    flow.tuple.as_ref().map_or_else(|| or_hyphen(flow.destination), ToString::to_string)
}

fn next_of(flow: &FlowView) -> String {
    match (&flow.next, &flow.egress) {
        (Some(next), Some(egress)) => format!("{next}@{egress}"),
        _ => "-".to_owned(),
    }
}

fn state_of(flow: &FlowView) -> String {
    if flow.routed { format!("{},routed", flow.state) } else { flow.state.clone() }
}

fn left_of(flow: &FlowView) -> String {
    flow.remaining.map_or_else(|| "for ever".to_owned(), for_people)
}

fn show(flow: &FlowView, output: Output) -> Result<()> {
    if output.json {
        return output.document(flow);
    }
    let lines = [
        ("address", flow.address.clone()),
        ("slot", flow.slot.to_string()),
        ("name", or_hyphen(flow.name.as_deref())),
        ("comes in by", format!("{} (field: {})", flow.port, flow.field)),
        ("packets of", or_hyphen(flow.tuple.as_ref())),
        ("goes to", or_hyphen(flow.destination)),
        ("next hop", next_of(flow)),
        ("path", or_hyphen(flow.path)),
        ("via", or_hyphen(flow.via.as_deref().map(|via| format!("switch {via}")))),
        ("state", state_of(flow)),
        ("reason", or_hyphen(flow.reason.as_deref())),
        ("rate", or_hyphen(flow.rate.map(|rate| format!("{}bit/s", rate_for_people(rate))))),
        ("packets", flow.packets.to_string()),
        ("bytes", flow.bytes.to_string()),
        ("lease ends in", left_of(flow)),
        ("host", flow.host.clone()),
        ("client", format!("{} iaid {}", flow.client, flow.iaid)),
    ];
    let told =
        lines.iter().filter(|(name, value)| !["reason", "packets of", "path", "via"].contains(name) || value != "-");
    told.into_iter().try_for_each(|(name, value)| output.line(format!("{name:<14} {value}")))
}

/// Gives the address back to whom it was asked of: this host's lease by DHCPv6, all others at the switch; where there is
/// none, it is one of this host's programs.
fn close(global: &Global, address: Mac, interface: Option<&str>, patience: Duration, output: Output) -> Result<()> {
    let leases = Leases::of(global.leases());
    let own = leases.find(address).filter(|lease| interface.is_none_or(|interface| lease.interface == interface));
    match (own, interface) {
        (Some(lease), _) if interface.is_some() || !(global.remote.is_there() || global.socket().exists()) => {
            dhcp6::release(&lease, patience)?;
            leases.forget(&lease);
            print_closed(&lease, output)
        }
        (_, Some(interface)) => Err(miette!(
            code = "FL0409",
            help = "at the switch: flowlane flow close {address}",
            "this host holds no lease of {address} on {interface}"
        )),
        _ => {
            if let Some(daemon) = daemon::meant(global, false)? {
                return of_host::close(&daemon, address, output);
            }
            let lease = ask(global, async |client| client.close(address).await)?;
            if output.json {
                return output.document(&lease);
            }
            output.say(format!("closed {}", lease.addresses.join(" ")));
            if let Some(seconds) = lease.closed_for {
                output.say(format!("the host may not have it again for {}", for_people(seconds)));
            }
            Ok(())
        }
    }
}

fn print_closed(lease: &Lease, output: Output) -> Result<()> {
    if output.json {
        return output.document(lease);
    }
    let addresses: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
    output.say(format!("given back {}", addresses.join(" ")));
    if let (Field::Destination, Some(to)) = (lease.spec.field, lease.spec.destination) {
        output.say(format!("if you set it: ip neigh del {to} dev {}", lease.interface));
    }
    Ok(())
}
