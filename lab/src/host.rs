//! A host at a port of a switch.

use crate::{End, IpNet, Link, Mac, Netns, Result, veth};
use std::net::IpAddr;

/// A namespace with one interface, `eth0`, whose other end is a port in another namespace. It holds both namespaces.
#[derive(Clone, Debug)]
pub struct Host {
    link: Link,
    port: Link,
    addresses: Vec<IpNet>,
}

impl Host {
    /// A new namespace `label` whose `eth0` is joined to the new interface `port` of `switch`, with the given
    /// addresses, everything up.
    ///
    /// # Errors
    /// [`crate::Error::LinkName`], or [`crate::Error::Refused`] if the port's name is taken.
    pub fn new(label: &str, switch: &Netns, port: &str, mac: Option<Mac>, addresses: &[IpNet]) -> Result<Self> {
        let netns = Netns::new(label)?;
        let own = End { netns: &netns, name: "eth0", mac };
        let (link, port) = veth(own, End { netns: switch, name: port, mac: None })?;
        for address in addresses {
            link.add_address(*address)?;
        }
        port.connect(&link)?;
        Ok(Self { link, port, addresses: addresses.to_vec() })
    }

    /// The host's namespace.
    pub fn netns(&self) -> &Netns {
        self.link.netns()
    }

    /// The host's interface.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The other end: the switch's port.
    pub fn port(&self) -> &Link {
        &self.port
    }

    /// The addresses given at the start, with their prefix lengths.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// The first IPv4 address.
    pub fn ipv4(&self) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv4)
    }

    /// The first IPv6 address.
    pub fn ipv6(&self) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv6)
    }
}
