//! The network of the demo: three subnets, a host in each, and the switch that routes between them.

use flowlane_lab::{Frame, Host, IpNet, Mac, Netns, Offload, Result, Tap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Everything that is there before the switch starts.
pub struct Network {
    /// Where the switch runs.
    pub switch: Netns,
    /// The host that asks.
    pub a: Station,
    /// The host that receives.
    pub b: Station,
    /// The host that has no business in A's flows.
    pub x: Station,
}

/// A host, and what passes its interface.
pub struct Station {
    /// Its name for people.
    pub name: &'static str,
    /// The host.
    pub host: Host,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The Ethernet address of the switch's port to it.
    pub port_mac: Mac,
    /// Its IPv4 and IPv6 address.
    pub addresses: [IpAddr; 2],
    /// The switch's addresses on its link: its gateways.
    pub gateways: [IpAddr; 2],
    /// IP frames on its interface.
    pub tap: Tap,
}

impl Network {
    /// Makes namespaces, cables, addresses and routes.
    ///
    /// `for_xdp` prepares the hosts as XDP on virtual cables wants it: a sender must compute its checksums itself, and a
    /// receiver takes frames from XDP only with GRO on.
    pub fn make(for_xdp: bool) -> Result<Self> {
        let switch = Netns::new("switch")?;
        switch.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        let a = Station::make("host A", &switch, 1, for_xdp)?;
        let b = Station::make("host B", &switch, 2, for_xdp)?;
        let x = Station::make("intruder", &switch, 3, for_xdp)?;
        switch.sysctl("net/ipv4/ip_forward", "1")?;
        switch.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        Ok(Self { switch, a, b, x })
    }

    /// The interface names of the switch's ports.
    pub fn ports(&self) -> [&str; 3] {
        [&self.a, &self.b, &self.x].map(|station| station.host.port().name())
    }
}

impl Station {
    fn make(name: &'static str, switch: &Netns, number: u8, for_xdp: bool) -> Result<Self> {
        let port = ["port-a", "port-b", "port-x"][usize::from(number - 1)];
        let (mac, port_mac) = (Mac([2, 0, 0, 0, 0x0a + number - 1, 2]), Mac([2, 0, 0, 0, 0x0a + number - 1, 1]));
        let v4 = |host| IpAddr::from(Ipv4Addr::new(10, number, 0, host));
        let v6 = |host: u16| IpAddr::from(Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, host));
        let net = |address: IpAddr| IpNet::new(address, if address.is_ipv4() { 24 } else { 64 });
        let nets: Vec<IpNet> = [v4(2), v6(2)].into_iter().filter_map(|address| net(address).ok()).collect();
        let host = Host::new(name, switch, port, Some(mac), &nets)?;
        host.port().set_mac(port_mac)?;
        let gateways = [v4(1), v6(1)];
        for gateway in gateways.into_iter().filter_map(|address| net(address).ok()) {
            host.port().add_address(gateway)?;
            host.netns().add_default_route(gateway.addr())?;
        }
        if for_xdp {
            host.link().set_offload(Offload::TxChecksum, false)?;
            host.link().set_offload(Offload::Gro, true)?;
        }
        let tap = Tap::start(host.link(), |frame| Packet::of(&frame.bytes).is_some())?;
        Ok(Self { name, host, mac, port_mac, addresses: [v4(2), v6(2)], gateways, tap })
    }

    /// The host's address of one IP version, with a port number.
    pub fn at(&self, version: Version, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[version as usize], port)
    }

    /// Sends what goes by the gateways to this Ethernet address: what `ip neigh replace` does.
    pub fn send_by(&self, mac: Mac) -> Result<()> {
        self.gateways.iter().try_for_each(|gateway| self.host.link().set_neighbour(*gateway, mac))
    }
}

/// A version of IP; the number is the place in a station's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// What a frame says: its two Ethernet addresses and its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Ethernet destination.
    pub destination: Mac,
    /// Ethernet source.
    pub source: Mac,
    /// IP source.
    pub from: IpAddr,
    /// IP destination.
    pub to: IpAddr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
}

impl Packet {
    /// Reads a frame; nothing where it carries no IP between two hosts.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        use flowlane_wire::header::{ethernet, ipv4, ipv6};
        let mac = |at: usize| bytes.get(at..)?.first_chunk().map(|octets| Mac(*octets));
        let ethertype = u16::from_be_bytes(*bytes.get(ethernet::ETHERTYPE..)?.first_chunk()?);
        let ip = bytes.get(ethernet::LEN..)?;
        let (from, to, protocol, ttl): (IpAddr, IpAddr, u8, u8) = match ethertype {
            ethernet::IPV4 => {
                let address = |at: usize| ip.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
                (address(12)?, address(ipv4::DESTINATION)?, *ip.get(ipv4::PROTOCOL)?, *ip.get(ipv4::TTL)?)
            }
            ethernet::IPV6 => {
                let address = |at: usize| ip.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
                (address(8)?, address(ipv6::DESTINATION)?, *ip.get(ipv6::NEXT_HEADER)?, *ip.get(ipv6::HOP_LIMIT)?)
            }
            _ => return None,
        };
        let local = matches!(from, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_unspecified());
        let neighbourly = protocol == ICMPV6 && ip.get(ipv6::LEN).is_some_and(|kind| (130..=137).contains(kind));
        let (destination, source) = (mac(ethernet::DESTINATION)?, mac(ethernet::SOURCE)?);
        (!local && !neighbourly && !to.is_multicast()).then_some(Self { destination, source, from, to, protocol, ttl })
    }

    /// The protocol's name.
    pub fn protocol(&self) -> &'static str {
        match self.protocol {
            1 => "ICMP",
            6 => "TCP",
            17 => "UDP",
            ICMPV6 => "ICMPv6",
            _ => "other",
        }
    }
}

const ICMPV6: u8 = 58;

/// The packets among frames that went one way.
pub fn packets(frames: &[Frame], direction: flowlane_lab::Direction) -> impl Iterator<Item = Packet> + '_ {
    frames.iter().filter(move |frame| frame.direction == direction).filter_map(|frame| Packet::of(&frame.bytes))
}
