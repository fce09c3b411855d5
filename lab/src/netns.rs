//! Network namespaces that last as long as their owner.

use crate::link::Link;
use crate::{Error, Result, netlink};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Arc;
use std::{fmt, panic, thread};

/// A network namespace. Clones are the same namespace.
///
/// A namespace made by [`Netns::new`] has no name in the file system. It disappears, with its interfaces, when the last
/// clone, the last socket opened inside it and the last process inside it are gone. (The kernel does so in the
/// background, some milliseconds later.)
#[derive(Clone)]
pub struct Netns {
    label: Arc<str>,
    fd: Arc<OwnedFd>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via<'a> {
    /// To the next hop that has this address.
    Gateway(IpAddr),
    /// Straight out of the interface of this name.
    Link(&'a str),
}

impl Netns {
    /// A new namespace with its loopback up, and without IPv6 duplicate address detection, so that addresses can be
    /// used at once. `label` stands in error texts only.
    ///
    /// # Errors
    /// [`Error::Refused`] without `CAP_SYS_ADMIN`.
    pub fn new(label: &str) -> Result<Self> {
        let created = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            own_namespace()
        });
        let fd = created.map_err(|reason| refused(label, "create a network namespace", reason))?;
        let netns = Self::from_fd(label, fd);
        netns.link("lo")?.up()?;
        netns.skip_duplicate_address_detection()?;
        Ok(netns)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Refused`] where `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        match own_namespace() {
            Ok(fd) => Ok(Self::from_fd("current", fd)),
            Err(reason) => Err(refused("current", "open the network namespace", reason)),
        }
    }

    /// The namespace that `ip netns add NAME` has made: `/run/netns/NAME`.
    ///
    /// # Errors
    /// [`Error::NetnsName`] for a name with a slash, [`Error::Refused`] if there is none of that name, the file is no
    /// network namespace, or the caller may not enter it.
    pub fn named(name: &str) -> Result<Self> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(Error::NetnsName { name: name.to_owned() });
        }
        let path = Path::new("/run/netns").join(name);
        let file = File::open(&path).map_err(|reason| refused(name, &format!("open {}", path.display()), reason))?;
        let netns = Self::from_fd(name, file.into());
        netns.run(|| ())?;
        Ok(netns)
    }

    /// The label or name given at the start.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` on a fresh thread inside the namespace and waits for it. Sockets opened there stay in the namespace.
    ///
    /// # Errors
    /// [`Error::Refused`] if the thread can not start or not enter.
    ///
    /// # Panics
    /// Where `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let done = on_thread(|| {
            setns(self, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        done.map_err(|reason| self.refused("run a thread inside the namespace", reason))
    }

    /// Moves the calling thread into the namespace; threads and processes that it starts later are there too.
    ///
    /// # Errors
    /// [`Error::Refused`] without `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> Result<()> {
        setns(self, CloneFlags::CLONE_NEWNET).map_err(|errno| self.refused("enter the namespace", errno.into()))
    }

    /// A command that will run inside the namespace. It enters after the command's user was set, so it can not be
    /// combined with [`CommandExt::uid`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let fd = Arc::clone(&self.fd);
        let mut command = Command::new(program);
        // SAFETY: between fork and exec, the closure makes one system call and neither allocates nor locks. It owns a
        // share of the descriptor, so that the number is valid for as long as the command is.
        unsafe { command.pre_exec(move || Ok(setns(&fd, CloneFlags::CLONE_NEWNET)?)) };
        command
    }

    /// A path by which other programs can enter while this process lives, such as `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.fd.as_raw_fd()))
    }

    /// Writes a setting of the namespace; `key` is a path below `/proc/sys`, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// [`Error::SysctlKey`] for a path elsewhere, [`Error::Refused`] for an unknown setting or a wrong value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key)?;
        let written = self.run(|| OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes()))?;
        written.map_err(|reason| self.refused(&format!("set {key} to {value}"), reason))
    }

    /// Reads a setting of the namespace, without the line end.
    ///
    /// # Errors
    /// As [`Netns::sysctl`].
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key)?;
        let text = self.run(|| fs::read_to_string(path))?;
        text.map(|text| text.trim_end().to_owned()).map_err(|reason| self.refused(&format!("read {key}"), reason))
    }

    /// A handle for the interface of this name, whether it exists already or not.
    ///
    /// # Errors
    /// [`Error::LinkName`] if no interface can have that name.
    pub fn link(&self, name: &str) -> Result<Link> {
        Link::new(self, name)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`Error::Route`] for a gateway of another address family, [`Error::Refused`] if the route exists or the gateway
    /// can not be reached.
    pub fn add_route(&self, destination: IpNet, via: Via<'_>) -> Result<()> {
        let destination = destination.trunc();
        let action = match via {
            Via::Gateway(gateway) => format!("add the route to {destination} via {gateway}"),
            Via::Link(name) => format!("add the route to {destination} by {name}"),
        };
        let interface = match via {
            Via::Gateway(_) => None,
            Via::Link(name) => Some(self.link(name)?.index()?),
        };
        let message = route(destination, via, interface)
            .ok_or_else(|| Error::Route { netns: self.label().to_owned(), route: format!("{destination} {via:?}") })?;
        netlink::request(self, &action, async |handle| handle.route().add(message).execute().await)
    }

    /// Adds a default route, for the address family of the gateway.
    ///
    /// # Errors
    /// As [`Netns::add_route`].
    pub fn add_default_route(&self, gateway: IpAddr) -> Result<()> {
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        self.add_route(everything, Via::Gateway(gateway))
    }

    pub(crate) fn refused(&self, action: &str, reason: io::Error) -> Error {
        refused(self.label(), action, reason)
    }

    fn from_fd(label: &str, fd: OwnedFd) -> Self {
        Self { label: label.into(), fd: Arc::new(fd) }
    }

    /// The kernel takes the greater of an interface's own setting and that for all; new interfaces copy the default.
    fn skip_duplicate_address_detection(&self) -> Result<()> {
        if !Path::new("/proc/sys/net/ipv6").exists() {
            return Ok(());
        }
        self.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        self.sysctl("net/ipv6/conf/default/accept_dad", "0")
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Netns({} at {})", self.label, self.path().display())
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// Runs `work` on a thread of its own: what it does to its namespaces ends with it.
fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

fn own_namespace() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn refused(label: &str, action: &str, reason: io::Error) -> Error {
    Error::Refused { netns: label.to_owned(), action: action.to_owned(), reason }
}

/// Only `net` has a value for each namespace; everything else would change the whole machine.
fn sysctl_path(key: &str) -> Result<PathBuf> {
    let foreign = !key.starts_with("net/") || key.split('/').any(|part| part.is_empty() || part == "..");
    if foreign {
        return Err(Error::SysctlKey { key: key.to_owned() });
    }
    Ok(Path::new("/proc/sys").join(key))
}

/// The message that adds a route, or `None` if destination and gateway are of different families.
fn route(destination: IpNet, via: Via<'_>, interface: Option<u32>) -> Option<RouteMessage> {
    match (destination, via) {
        (IpNet::V4(net), Via::Gateway(IpAddr::V4(gateway))) => {
            let to = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.addr(), net.prefix_len());
            Some(to.gateway(gateway).build())
        }
        (IpNet::V6(net), Via::Gateway(IpAddr::V6(gateway))) => {
            let to = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.addr(), net.prefix_len());
            Some(to.gateway(gateway).build())
        }
        (IpNet::V4(net), Via::Link(_)) => {
            let to = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.addr(), net.prefix_len());
            Some(to.scope(RouteScope::Link).output_interface(interface?).build())
        }
        (IpNet::V6(net), Via::Link(_)) => {
            let to = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.addr(), net.prefix_len());
            Some(to.output_interface(interface?).build())
        }
        _ => None,
    }
}
