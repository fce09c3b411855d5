//! What can go wrong, and what to do then.

use crate::UserNamespaceError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of a lab operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a lab operation failed. The text names the namespace, the object, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request.
    #[error("{netns}: can not {action}: {reason}{}", advice(reason))]
    Refused {
        /// Label of the namespace.
        netns: String,
        /// What was asked for, with the object's name.
        action: String,
        /// The kernel's answer.
        reason: io::Error,
    },
    /// The kernel refused a request about a cgroup.
    #[error("can not {action} {}: {reason}{}", path.display(), advice(reason))]
    Cgroup {
        /// The cgroup's directory.
        path: PathBuf,
        /// What was asked for.
        action: String,
        /// The kernel's answer.
        reason: io::Error,
    },
    /// An interface can not have this name.
    #[error(
        "{name:?} can not name an interface: use 1 to 15 characters, without white space, '/', ':' and '%', and not '.' or '..'"
    )]
    LinkName {
        /// The name.
        name: String,
    },
    /// A namespace can not have this name.
    #[error(
        "{name:?} can not name a network namespace: use the name of a file in /run/netns, as `ip netns` lists them"
    )]
    NetnsName {
        /// The name.
        name: String,
    },
    /// The setting does not belong to a network namespace.
    #[error("{key:?} is no setting of a network namespace: use a path below /proc/sys such as net/ipv4/ip_forward")]
    SysctlKey {
        /// The path below `/proc/sys`.
        key: String,
    },
    /// A route's destination and gateway do not fit together.
    #[error("{netns}: {route} is no route: use a destination and a gateway of the same address family")]
    Route {
        /// Label of the namespace.
        netns: String,
        /// The route.
        route: String,
    },
    /// Nothing more came within the given time.
    #[error("{netns}: {action} did not end within {after:?}: check that the path is complete, or allow more time")]
    Timeout {
        /// Label of the namespace.
        netns: String,
        /// What was waited for.
        action: String,
        /// How long.
        after: Duration,
    },
    /// A transfer's data changed on the way.
    #[error("{netns}: the data received from {peer} is wrong from octet {offset} on: something on the path damages it")]
    Damaged {
        /// Label of the receiving namespace.
        netns: String,
        /// The sender.
        peer: String,
        /// Position of the first wrong or missing octet.
        offset: u64,
    },
    /// The process could not enter a user namespace.
    #[error(transparent)]
    UserNamespace(#[from] UserNamespaceError),
}

/// What to do about a system error, as the end of a sentence.
fn advice(reason: &io::Error) -> &'static str {
    match reason.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run as root, or enter a user namespace first",
        Some(libc::EEXIST) => "; remove the one that exists first, or use another name",
        Some(libc::ENODEV) => "; create the interface first",
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => "; add a route to it, and set the interfaces up",
        Some(libc::EADDRNOTAVAIL) => "; add the address to an interface of this namespace first",
        Some(libc::ENETDOWN) => "; set the interface up first",
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => "; the kernel lacks it: load its module, or use another kernel",
        Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n)",
        _ => "",
    }
}
