//! What a host needs to put programs into flows: `flowlane run`.

use super::{Finding, Level};
use caps::{CapSet, Capability, has_cap};
use flowlane_client::protocol;
use flowlane_host::nft::NftRuns;
use flowlane_lab::Netns;
use nix::{
    errno::Errno,
    unistd::{AccessFlags, Group, access},
};
use std::{
    fs,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
};

/// The group whose members may run programs in flows, where the administrator has said nothing else.
const GROUP: &str = "flowlane";

/// `kernel` is what was found of it: without programs in the kernel, nftables are needed.
pub(super) fn findings(runtime_directory: &Path, kernel: &[Finding]) -> Vec<Finding> {
    let programs = kernel.iter().any(|finding| finding.check == "tc programs" && finding.level == Level::Ok);
    vec![cgroups(), nftables(programs), group(), daemon(runtime_directory)]
}

fn cgroups() -> Finding {
    let check = "cgroup v2";
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(path) = cgroup2_mount(&mounts) else {
        let remedy =
            "mount -t cgroup2 none /sys/fs/cgroup/unified; or start Flowlane outside of `ip netns exec`, with -n";
        return Finding::warn(check, "not mounted: programs can not be told apart", remedy);
    };
    match access(&path, AccessFlags::W_OK) {
        Ok(()) => Finding::ok(check, path.display().to_string()),
        Err(Errno::EROFS) => Finding::warn(
            check,
            format!("{} can not be written: no program can be put into flows", path.display()),
            "in a container, run the daemon outside of it and name the container's cgroup or namespace",
        ),
        Err(_) => Finding::ok(check, format!("{}, which root may write", path.display())),
    }
}

/// Where the hierarchy is mounted; of a host with both versions, beside the other one.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut mount| {
        let path = mount.nth(1)?;
        (mount.next()? == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// Makes the rules, in a network namespace that ends with this.
fn nftables(programs: bool) -> Finding {
    let check = "nftables";
    if !has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false) {
        return Finding::note(check, "not tried, for want of privileges", "run as root: sudo flowlane doctor");
    }
    let tried = Netns::new("doctor").and_then(|netns| netns.run(|| NftRuns::open("doctor").map(drop)));
    let reason = match tried {
        Ok(Ok(())) => return Finding::ok(check, "the kernel takes the rules, should it refuse BPF programs"),
        Ok(Err(reason)) => reason.to_string(),
        Err(reason) => reason.to_string(),
    };
    let remedy = "apt install nftables, and a kernel with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_NETLINK_LOG";
    match programs {
        true => Finding::note(check, format!("{reason}; not needed, for the kernel takes BPF programs"), remedy),
        false => Finding::warn(check, format!("{reason}; and the kernel takes no BPF programs either"), remedy),
    }
}

fn group() -> Finding {
    let check = "group";
    let make = format!("groupadd --system {GROUP}; usermod -aG {GROUP} USER");
    match Group::from_name(GROUP) {
        Ok(Some(group)) if !group.mem.is_empty() => {
            Finding::ok(check, format!("{} may run programs in flows", group.mem.join(", ")))
        }
        Ok(Some(_)) => Finding::note(check, format!("`{GROUP}` has no members"), format!("usermod -aG {GROUP} USER")),
        _ => Finding::note(check, format!("there is no group `{GROUP}`: only root may run programs in flows"), make),
    }
}

/// Whether the daemon of this network namespace answers.
fn daemon(runtime_directory: &Path) -> Finding {
    let check = "host daemon";
    let Ok(namespace) = fs::metadata("/proc/thread-self/ns/net") else {
        return Finding::warn(check, "network namespaces are not to be seen", "mount -t proc proc /proc");
    };
    let socket = protocol::socket(runtime_directory, namespace.ino());
    match UnixStream::connect(&socket) {
        Ok(_) => Finding::ok(check, format!("listens on {}", socket.display())),
        Err(_) => Finding::note(
            check,
            "none in this network namespace: only root can run programs in flows",
            "start it, for users who may: flowlane host",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_of_cgroups_is_found_beside_version_1() {
        let both = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                    cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(both), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("cgroup2 /sys/fs/cgroup cgroup rw 0 0\n"), None);
    }
}
