//! What can go wrong with a port, and what to do about it.

use nix::errno::Errno;
use std::path::PathBuf;

/// Why a port can not be opened or used. Interfaces are named by the kernel's index, as in `ip link`.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The kernel wants a capability that this process does not have.
    #[error(
        "{action} is not permitted: run as root, with {capability}, or in a user namespace of your own (unshare -Urn)"
    )]
    NotPermitted {
        /// What was tried.
        action: &'static str,
        /// The capability of capabilities(7) that it takes.
        capability: &'static str,
    },
    /// No interface of this network namespace has the index.
    #[error("there is no interface with index {0} in this network namespace: compare with `ip link`")]
    NoSuchInterface(u32),
    /// The interface is administratively down. The port works again as soon as it is up.
    #[error("interface {0} is down: bring it up with `ip link set dev NAME up`")]
    InterfaceDown(u32),
    /// The interface was removed. A new interface of the same name has another index.
    #[error("interface {0} was removed: open the port again when the interface is back")]
    InterfaceGone(u32),
    /// The options contradict each other or the kernel's rules.
    #[error("{0}")]
    Options(&'static str),
    /// The device file of TUN devices can not be opened.
    #[error("/dev/net/tun can not be opened ({0}): load the tun module and give this process access to the file")]
    NoTun(Errno),
    /// A setting of an interface can not be written.
    #[error("{path} can not be set to {value} ({source}): set it by hand, and make /proc/sys writable for this process", path = path.display())]
    Setting {
        /// The file of the setting.
        path: PathBuf,
        /// What it must be.
        value: &'static str,
        /// Why it could not be written.
        source: std::io::Error,
    },
    /// The frame is not one that the operation is for.
    #[error("{0}")]
    Frame(&'static str),
    /// Anything else that the kernel refuses.
    #[error("{action} failed: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl PortError {
    /// The error of a system call on an interface.
    pub(crate) fn of(action: &'static str, ifindex: u32, errno: Errno) -> Self {
        match errno {
            Errno::EPERM | Errno::EACCES => Self::NotPermitted { action, capability: "CAP_NET_RAW and CAP_NET_ADMIN" },
            Errno::ENODEV => Self::NoSuchInterface(ifindex),
            Errno::ENXIO => Self::InterfaceGone(ifindex),
            Errno::ENETDOWN => Self::InterfaceDown(ifindex),
            errno => Self::System { action, source: errno.into() },
        }
    }
}
