//! The kernel, this process's privileges, and whether the one takes the other's programs.

use super::{Finding, sysctl};
use caps::{CapSet, Capability, has_cap};
use flowlane_lab::{End, Netns, veth};
use flowlane_program::{Kernel, KernelOptions, Mode, bpffs};
use flowlane_wire::{Block, Mac, PortId};
use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope};
use std::{fs, path::Path};

/// The first Linux with BPF links for tc.
const TC_LINKS: (u32, u32) = (6, 6);

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![version(), btf(), pins(), user_namespaces(), landlock(), seccomp()];
    findings.extend(privileges());
    findings.extend(programs());
    findings
}

fn version() -> Finding {
    let release = sysctl("kernel.osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= TC_LINKS {
        true => Finding::ok("kernel", format!("Linux {release}")),
        false => Finding::warn(
            "kernel",
            format!("Linux {release} has no BPF links for tc, which came with 6.6"),
            "use a newer kernel, or `executor = \"af-packet\"`; hosts use nftables",
        ),
    }
}

fn btf() -> Finding {
    match Path::new("/sys/kernel/btf/vmlinux").exists() {
        true => Finding::ok("BTF", "the kernel describes its types"),
        false => Finding::warn(
            "BTF",
            "the kernel does not describe its types, so it may refuse the maps",
            "use a kernel with CONFIG_DEBUG_INFO_BTF, or `executor = \"af-packet\"`",
        ),
    }
}

fn pins() -> Finding {
    match bpffs::find() {
        None => Finding::warn(
            "bpffs",
            "no BPF file system is mounted; the switch tries to mount one",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        Some(path) if bpffs::outlives_this_process() => Finding::ok("bpffs", path.display().to_string()),
        Some(path) => Finding::warn(
            "bpffs",
            format!("{} ends with this process: a switch that is killed would forward no more", path.display()),
            "mount one outside, before `ip netns exec`: mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}

fn user_namespaces() -> Finding {
    let check = "user namespaces";
    let is = |key: &str, value: &str| sysctl(key).is_some_and(|found| found == value);
    let closed = [
        ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
        ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    match closed.into_iter().find(|(key, value, _)| is(key, value)) {
        Some((key, value, remedy)) => {
            Finding::warn(check, format!("{key} is {value}: `flowlane demo` needs root"), remedy)
        }
        None if !Path::new("/proc/self/ns/user").exists() => Finding::warn(
            check,
            "the kernel has none: `flowlane demo` needs root",
            "run it as root, or use a kernel with CONFIG_USER_NS",
        ),
        None => Finding::ok(check, "allowed: `flowlane demo` runs without root"),
    }
}

fn landlock() -> Finding {
    let check = "Landlock";
    let remedy = "use a kernel with CONFIG_SECURITY_LANDLOCK, with `landlock` in its `lsm=`";
    match (has_landlock(ABI::V6), has_landlock(ABI::V1)) {
        (true, _) => Finding::ok(check, "a running switch reaches no files but its own"),
        (false, true) => Finding::note(check, "denies a running switch less than a newer kernel would", "Linux 6.12"),
        (false, false) => Finding::note(check, "not there: a running switch reaches all files that root may", remedy),
    }
}

/// Asks the kernel for rules, and does not put them in force.
fn has_landlock(version: ABI) -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let rules = rules.handle_access(AccessFs::from_all(version));
    let rules = rules.and_then(|rules| match Scope::from_all(version) {
        none if none.is_empty() => Ok(rules),
        scope => rules.scope(scope),
    });
    rules.and_then(Ruleset::create).is_ok()
}

fn seccomp() -> Finding {
    match Path::new("/proc/sys/kernel/seccomp").exists() {
        true => Finding::ok("seccomp", "a running switch can not execute programs or mount file systems"),
        false => Finding::note(
            "seccomp",
            "not there: a running switch may use all system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn privileges() -> Vec<Finding> {
    let has = |capability| has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    let admin = has(Capability::CAP_SYS_ADMIN);
    let needed = [
        (Capability::CAP_NET_ADMIN, has(Capability::CAP_NET_ADMIN), "attach to interfaces and read neighbours"),
        (Capability::CAP_NET_RAW, has(Capability::CAP_NET_RAW), "answer DHCPv6 on ports, and forward in userspace"),
    ];
    let mut findings: Vec<Finding> =
        needed.map(|(capability, there, what_for)| capability_finding(capability, there, what_for)).into();
    findings.push(match admin || has(Capability::CAP_BPF) {
        true => Finding::ok("CAP_BPF", "there: programs can be loaded"),
        false => Finding::warn(
            "CAP_BPF",
            "missing: programs can not be loaded into the kernel",
            "run as root, or `executor = \"af-packet\"`",
        ),
    });
    findings
}

fn capability_finding(capability: Capability, there: bool, what_for: &str) -> Finding {
    let name = capability.to_string();
    match there {
        true => Finding::ok(&name, "there"),
        false => {
            Finding::fail(&name, format!("missing: a switch needs it to {what_for}"), "run as root: sudo flowlane ...")
        }
    }
}

/// Loads and attaches the programs, on a veth pair in a network namespace that ends with this.
fn programs() -> Vec<Finding> {
    let tried = |mode| match attach(mode) {
        Ok(()) => Finding::ok(check_of(mode), "the kernel takes the programs"),
        Err(reason) => Finding::warn(check_of(mode), reason, "`executor = \"af-packet\"` does without"),
    };
    if fs::metadata("/proc/self/ns/net").is_err()
        || !has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
    {
        let remedy = "run as root: sudo flowlane doctor";
        return vec![Finding::warn("programs", "not tried, for want of privileges", remedy)];
    }
    [Mode::Tc, Mode::Xdp].map(tried).into()
}

fn check_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Tc => "tc programs",
        Mode::Xdp => "XDP programs",
    }
}

fn attach(mode: Mode) -> Result<(), String> {
    let text = |error: flowlane_lab::Error| error.to_string();
    let netns = Netns::new("doctor").map_err(text)?;
    let end = |name| End { netns: &netns, name, mac: None };
    let (port, _peer) = veth(end("port"), end("peer")).map_err(text)?;
    let link = port.state().map_err(text)?;
    let block = Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 64).map_err(|error| error.to_string())?;
    let name = format!("doctor-{}", std::process::id());
    let options = KernelOptions { name: name.clone(), block, queue_bytes: 1 << 16, show: false };
    let tried = netns.run(|| {
        let (mut kernel, ..) = Kernel::open(options)?;
        kernel.attach(PortId(1), "port", link.index, mode)
    });
    let removed = Kernel::remove(&name);
    tried.map_err(text)?.and(removed).map_err(|error| error.to_string())
}
