//! An interface that is, or could be, a port.

use super::Finding;
use crate::config::Executor;
use flowlane_lab::{Netns, Offload};
use flowlane_ports::af_xdp::MTU_MAX;
use flowlane_resolve::LinkState;
use std::{fs, path::Path};

/// The largest MTU of a frame that is in one piece for XDP.
const SINGLE_BUFFER_MTU: u32 = 3_506;

pub(super) fn findings(link: &LinkState, executor: Executor) -> Vec<Finding> {
    let check = format!("interface {}", link.name);
    let executor = likely(link, executor);
    let mut findings = vec![driver(&check, link, executor)];
    if !link.up {
        findings.push(Finding::warn(&check, "down, or without carrier", format!("ip link set dev {} up", link.name)));
    }
    match executor {
        Executor::Xdp => findings.extend(several_buffers(&check, link).into_iter().chain(xdp(&check, link))),
        Executor::AfXdp => findings.extend(too_long(&check, link).into_iter().chain(xdp(&check, link))),
        Executor::Tc => findings.extend(tc(&check, link)),
        Executor::Auto | Executor::AfPacket => {}
    }
    findings.extend(reverse_path(&check, &link.name));
    if let Some(master) = link.master {
        findings.push(Finding::note(
            &check,
            format!("belongs to the bridge, bond or VRF with index {master}"),
            "where a learning bridge lies on both sides of the switch, set `source = \"port\"` for it",
        ));
    }
    findings
}

/// What `auto` comes to if everything works.
fn likely(link: &LinkState, executor: Executor) -> Executor {
    match executor {
        Executor::Auto if link.kind.is_some() => Executor::Tc,
        Executor::Auto => Executor::Xdp,
        other => other,
    }
}

fn driver(check: &str, link: &LinkState, executor: Executor) -> Finding {
    let kind = link.kind.as_ref().map(|kind| format!("virtual ({kind})"));
    let driver = || driver_of(link).map_or_else(|| "of an unknown driver".to_owned(), |name| format!("driver {name}"));
    let what = kind.unwrap_or_else(driver);
    Finding::ok(check, format!("{what}, MTU {}, would be handled by {}", link.mtu, executor.name()))
}

/// The driver of a network card, where sysfs shows this network namespace.
fn driver_of(link: &LinkState) -> Option<String> {
    let device = Path::new("/sys/class/net").join(&link.name);
    let index: u32 = fs::read_to_string(device.join("ifindex")).ok()?.trim().parse().ok()?;
    let driver = fs::read_link(device.join("device/driver")).ok().filter(|_| index == link.ifindex)?;
    Some(driver.file_name()?.to_str()?.to_owned())
}

fn several_buffers(check: &str, link: &LinkState) -> Option<Finding> {
    let what = format!("with an MTU over {SINGLE_BUFFER_MTU}, XDP wants a driver with multi-buffer support");
    let remedy = || format!("ip link set dev {} mtu {SINGLE_BUFFER_MTU}, or `executor = \"tc\"`", link.name);
    (link.mtu > SINGLE_BUFFER_MTU).then(|| Finding::warn(check, what, remedy()))
}

fn too_long(check: &str, link: &LinkState) -> Option<Finding> {
    let what = format!("af-xdp takes an MTU of up to {MTU_MAX}");
    let remedy = || format!("ip link set dev {} mtu {MTU_MAX}, or `executor = \"xdp\"`", link.name);
    (link.mtu > MTU_MAX).then(|| Finding::fail(check, what, remedy()))
}

/// With XDP, in the kernel or as the way to this process.
fn xdp(check: &str, link: &LinkState) -> Vec<Finding> {
    let name = &link.name;
    let mut findings = Vec::new();
    if link.kind.as_deref() == Some("veth") {
        findings.push(Finding::warn(
            check,
            "XDP on a veth sees checksums that the other end left undone, and cuts super-packets",
            "`executor = \"tc\"`; or at the other end: ethtool -K NAME tx off",
        ));
    }
    if link.kind.is_none() {
        findings.push(Finding::note(
            check,
            "XDP does not see the tag that a card takes off a frame",
            format!("where frames are tagged: ethtool -K {name} rxvlan off"),
        ));
    }
    findings
}

/// The kernel takes the greater of an interface's own setting and that for all.
fn reverse_path(check: &str, interface: &str) -> Option<Finding> {
    let setting = |name: &str| -> Option<u8> {
        fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?.trim().parse().ok()
    };
    let strict = setting("all").max(setting(interface)) == Some(1);
    strict.then(|| {
        Finding::warn(
            check,
            "rp_filter is strict: Linux drops packets whose source is reached by another interface",
            "sysctl -w net.ipv4.conf.all.rp_filter=2",
        )
    })
}

/// With tc, what the card or driver has merged stays whole.
fn tc(check: &str, link: &LinkState) -> Option<Finding> {
    let merges = link.kind.is_some() || is_on(&link.name, Offload::Gro);
    let remedy = || format!("ethtool -K {} gro on", link.name);
    (!merges).then(|| Finding::warn(check, "GRO is off: each segment is handled by itself, which is slower", remedy()))
}

fn is_on(interface: &str, offload: Offload) -> bool {
    Netns::current().and_then(|netns| netns.link(interface)?.offload(offload)).unwrap_or(false)
}
