//! An interface to ask on, and the port to ask from.

use flowlane_dhcp6::{ALL_SERVERS, CLIENT_PORT, Duid, SERVER_PORT};
use flowlane_wire::Mac;
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::{InterfaceFlags, if_nametoindex},
};
use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The longest UDP payload.
pub const PAYLOAD_MAX: usize = 65_527;

/// Why nothing can be asked on an interface.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The interface does not exist.
    #[error("there is no interface {0} in this network namespace")]
    NoInterface(String),
    /// The interface is down.
    #[error("interface {0} is down")]
    Down(String),
    /// The interface has no link-local address to ask from (RFC 9915 section 17).
    #[error("interface {0} has no IPv6 link-local address that can be used, and DHCPv6 asks from one")]
    NoLinkLocal(String),
    /// Another DHCPv6 client has the port.
    #[error("UDP port {CLIENT_PORT} on {0} is taken by another DHCPv6 client")]
    PortTaken(String),
    /// The port is for privileged processes.
    #[error("DHCPv6 asks from UDP port {CLIENT_PORT} on {0}, which this user may not take")]
    NotPermitted(String),
    /// Another failure of the system.
    #[error("DHCPv6 on {interface} failed")]
    System {
        /// Where.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
}

impl LinkError {
    /// The interface that it is about.
    pub fn interface(&self) -> &str {
        match self {
            Self::NoInterface(name) | Self::Down(name) | Self::NoLinkLocal(name) | Self::PortTaken(name) => name,
            Self::NotPermitted(name) | Self::System { interface: name, .. } => name,
        }
    }
}

/// An interface to ask on.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Who asks.
    pub duid: Duid,
}

impl Interface {
    /// The interface of a name, in the network namespace of the calling thread. `purpose` keeps the leases of different
    /// users of one interface apart.
    ///
    /// # Errors
    /// [`LinkError::NoInterface`].
    pub fn find(name: &str, purpose: &str) -> Result<Self, LinkError> {
        let index = if_nametoindex(name).map_err(|_| LinkError::NoInterface(name.to_owned()))?;
        let mac = addresses_of(name).find_map(|entry| entry.address?.as_link_addr()?.addr()).unwrap_or_default();
        // A VLAN has its parent's address, and interfaces of different namespaces have the same name.
        let duid = Duid::from_machine(machine_id(), format!("{purpose}{name}/{}", Mac(mac)).as_bytes());
        Ok(Self { name: name.to_owned(), index, duid })
    }

    /// Takes the port on the interface. Waits for an address that is still being checked (RFC 4862 section 5.4), and for
    /// another holder that waits for its answer.
    ///
    /// # Errors
    /// [`LinkError`], the one that stood in the way until the end.
    pub async fn bind(&self, patience: Duration) -> Result<tokio::net::UdpSocket, LinkError> {
        let give_up = Instant::now() + patience;
        loop {
            let error = match self.try_bind() {
                Ok(socket) => return tokio::net::UdpSocket::from_std(socket).map_err(|error| self.failed(error)),
                Err(error @ (LinkError::NoLinkLocal(_) | LinkError::PortTaken(_))) => error,
                Err(error) => return Err(error),
            };
            if Instant::now() >= give_up {
                return Err(error);
            }
            sleep(Duration::from_millis(20 + fastrand::u64(..60))).await;
        }
    }

    /// Takes the port on the interface, or says at once why not. The socket does not block.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn try_bind(&self) -> Result<UdpSocket, LinkError> {
        let name = || self.name.clone();
        let entries: Vec<_> = addresses_of(&self.name).collect();
        if !entries.iter().any(|entry| entry.flags.contains(InterfaceFlags::IFF_UP)) {
            return Err(LinkError::Down(name()));
        }
        let address = link_local(&entries).ok_or_else(|| LinkError::NoLinkLocal(name()))?;
        // A socket on a link-local address is bound to its interface.
        let socket = UdpSocket::bind(SocketAddrV6::new(address, CLIENT_PORT, 0, self.index));
        let socket = socket.map_err(|error| match error.kind() {
            ErrorKind::AddrNotAvailable => LinkError::NoLinkLocal(name()),
            ErrorKind::AddrInUse => LinkError::PortTaken(name()),
            ErrorKind::PermissionDenied => LinkError::NotPermitted(name()),
            _ => self.failed(error),
        })?;
        socket.set_nonblocking(true).map_err(|error| self.failed(error))?;
        Ok(socket)
    }

    /// Sends to all servers on the link.
    ///
    /// # Errors
    /// [`LinkError::Down`], [`LinkError::System`].
    pub async fn send(&self, socket: &tokio::net::UdpSocket, payload: &[u8]) -> Result<(), LinkError> {
        self.sent(socket.send_to(payload, self.everyone()).await)
    }

    /// As [`Interface::send`]; what finds no room is lost, as on any network.
    ///
    /// # Errors
    /// As [`Interface::send`].
    pub fn try_send(&self, socket: &UdpSocket, payload: &[u8]) -> Result<(), LinkError> {
        match socket.send_to(payload, self.everyone()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            result => self.sent(result),
        }
    }

    /// An error of the system on this interface.
    pub fn failed(&self, source: io::Error) -> LinkError {
        LinkError::System { interface: self.name.clone(), source }
    }

    fn everyone(&self) -> SocketAddrV6 {
        SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, self.index)
    }

    fn sent(&self, result: io::Result<usize>) -> Result<(), LinkError> {
        match result {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NetworkDown => Err(LinkError::Down(self.name.clone())),
            Err(error) => Err(self.failed(error)),
        }
    }
}

fn addresses_of(interface: &str) -> impl Iterator<Item = InterfaceAddress> {
    getifaddrs().into_iter().flatten().filter(move |entry| entry.interface_name == interface)
}

fn link_local(entries: &[InterfaceAddress]) -> Option<Ipv6Addr> {
    let mut addresses = entries.iter().filter_map(|entry| Some(entry.address?.as_sockaddr_in6()?.ip()));
    addresses.find(Ipv6Addr::is_unicast_link_local)
}

/// What tells this machine from others: machine-id(5), or where there is none, the number of this boot.
fn machine_id() -> [u8; 16] {
    let read = |path: &str| {
        let text = fs::read_to_string(Path::new(path)).ok()?;
        octets_of(&text.trim().replace('-', ""))?.try_into().ok()
    };
    read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

/// The DUID that a text of pairs of hexadecimal digits stands for, as [`Duid`] is displayed.
pub fn duid_of(text: &str) -> Option<Duid> {
    Duid::new(octets_of(text)?).ok()
}

/// The octets of a text of pairs of hexadecimal digits.
fn octets_of(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let octets = pairs.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok());
    octets.collect()
}
