//! `flowlane doctor`: what this machine lacks, each finding with its remedy. Nothing is changed; programs are tried in a
//! network namespace of their own.

mod host;
mod interface;
mod kernel;

use crate::{
    cli::{DoctorOptions, Global},
    commands::passed,
    config::{Config, Executor, PortConfig},
    output::Output,
};
use flowlane_resolve::{LinkState, list_links};
use flowlane_wire::Block;
use miette::{IntoDiagnostic as _, Result};
use serde::Serialize;
use std::{fs, process::ExitCode};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Something does not work, or not as well as it could.
    Warn,
    /// A switch can not work.
    Fail,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: String,
    level: Level,
    /// What was seen.
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &str, what: impl Into<String>) -> Self {
        Self { check: check.to_owned(), level: Level::Ok, what: what.into(), remedy: None }
    }

    /// As it should be, with something to be known.
    fn note(check: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Ok, ..Self::warn(check, what, remedy) }
    }

    fn warn(check: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.to_owned(), level: Level::Warn, what: what.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(check, what, remedy) }
    }
}

/// Looks at everything. Exit code 1 if a switch can not work.
///
/// # Errors
/// A [`crate::config::ConfigError`]; findings are no errors.
pub fn run(global: &Global, options: &DoctorOptions, output: Output) -> Result<ExitCode> {
    let config = match &options.config {
        Some(path) => Config::read(path)?,
        None => Config::parse("the defaults", "")?,
    };
    let mut findings = kernel::findings();
    findings.extend(network());
    findings.extend(interfaces(&config, options.config.is_some())?);
    findings.extend(host::findings(&global.runtime_directory, &findings));
    print(&findings, output)?;
    Ok(passed(findings.iter().all(|finding| finding.level != Level::Fail)))
}

fn print(findings: &[Finding], output: Output) -> Result<()> {
    if output.json {
        return output.document(&findings);
    }
    for Finding { check, level, what, remedy } in findings {
        let (word, color) = match level {
            Level::Ok => ("ok", "32"),
            Level::Warn => ("warn", "33"),
            Level::Fail => ("FAIL", "31"),
        };
        let word = if output.color { format!("\x1b[{color}m{word:<4}\x1b[0m") } else { format!("{word:<4}") };
        output.line(format!("{word}  {check}: {what}"))?;
        remedy.iter().try_for_each(|remedy| output.line(format!("      -> {remedy}")))?;
    }
    Ok(())
}

/// Settings of the network namespace.
fn network() -> Vec<Finding> {
    let forwarding =
        [("ipv4", "net.ipv4.ip_forward"), ("ipv6", "net.ipv6.conf.all.forwarding")].map(|(family, key)| {
            let check = format!("forwarding {family}");
            match sysctl(key).as_deref() {
                Some("0") => Finding::warn(
                    &check,
                    "off: Linux neither answers nor fragments packets of routed flows",
                    format!("sysctl -w {key}=1"),
                ),
                Some(_) => Finding::ok(&check, "on"),
                None => Finding::ok(&check, "this kernel does not have the protocol"),
            }
        });
    forwarding.into()
}

fn interfaces(config: &Config, configured: bool) -> Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    let links = runtime.block_on(list_links()).into_diagnostic()?;
    let mut findings = Vec::new();
    if configured {
        for port in config.ports.values() {
            match links.iter().find(|link| link.name == port.interface) {
                Some(link) => findings.extend(interface::findings(link, port.executor)),
                None => findings.push(no_interface(port)),
            }
        }
    } else {
        let ethernet = links.iter().filter(|link| link.mac != flowlane_wire::Mac::default());
        findings.extend(ethernet.flat_map(|link| interface::findings(link, Executor::Auto)));
    }
    findings.extend(addresses_in_block(config.block, &links));
    Ok(findings)
}

fn no_interface(port: &PortConfig) -> Finding {
    let name = &port.interface;
    let remedy = "`ip link` lists the interfaces; a switch takes the port when it appears";
    Finding::warn(&format!("interface {name}"), "it does not exist", remedy)
}

/// Addresses of the block that somebody uses already.
fn addresses_in_block(block: Block, links: &[LinkState]) -> Vec<Finding> {
    let own = links.iter().filter(|link| block.contains(link.mac.to_u64())).map(|link| {
        let what = format!("interface {} has the address {}, which is in the block {block}", link.name, link.mac);
        Finding::fail("block", what, "use another `block`, or another address: ip link set dev NAME address ...")
    });
    let neighbours = neighbours().into_iter().filter(|(_, mac)| block.contains(mac.to_u64())).map(|(ip, mac)| {
        let what = format!("neighbour {ip} has the address {mac}, which is in the block {block}");
        Finding::warn("block", what, "right on a host that sends by a flow; on a switch use another `block`")
    });
    let found: Vec<Finding> = own.chain(neighbours).collect();
    if found.is_empty() { vec![Finding::ok("block", format!("nobody uses addresses of {block}"))] } else { found }
}

/// The IPv4 neighbours: proc_net(5), `arp`.
fn neighbours() -> Vec<(String, flowlane_wire::Mac)> {
    let text = fs::read_to_string("/proc/thread-self/net/arp").unwrap_or_default();
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| Some((row.first()?.to_string(), row.get(3)?.parse().ok()?))).collect()
}

/// A setting below /proc/sys, without the line end.
fn sysctl(key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowlane_wire::Mac;

    fn link(name: &str, mac: Mac) -> LinkState {
        LinkState { ifindex: 1, name: name.into(), up: true, mtu: 1500, mac, master: None, kind: None }
    }

    #[test]
    fn an_interface_with_an_address_of_the_block_is_a_failure() {
        let config = Config::parse("test.toml", "").expect("the defaults");
        let theirs = addresses_in_block(config.block, &[link("p1", Mac([2, 0, 0, 0, 0, 1]))]);
        assert!(theirs.iter().all(|finding| finding.level < Level::Fail));
        let ours = addresses_in_block(config.block, &[link("p1", Mac([0xa2, 0xf1, 0, 0, 0, 1]))]);
        assert_eq!(ours[0].level, Level::Fail);
        assert!(ours[0].what.contains("p1") && ours[0].remedy.is_some());
    }
}
