//! The words: what is asked, what is answered, and why there may be no answer.

use flowlane_wire::Mac;
use ipnet::IpNet;
use std::net::IpAddr;

/// Where does a flow go?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    /// The IP destination of the flow's packets.
    pub destination: IpAddr,
    /// The interface index of the port that the flow comes in by.
    pub ingress: u32,
    /// Which of the next hops of a route with several: this number modulo how many there are. None is the kernel's choice.
    pub path: Option<u8>,
}

impl Query {
    /// Where a flow to `destination` goes that comes in by the interface `ingress`, by the kernel's choice of next hops.
    pub fn new(destination: IpAddr, ingress: u32) -> Self {
        Self { destination, ingress, path: None }
    }
}

/// What the routes say about a query, whatever is known of the neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface index that the route leaves by; a bridge where it leaves by one.
    pub interface: u32,
    /// How many next hops there are to choose from by [`Query::path`]; 1 where the query names none.
    pub paths: u8,
}

/// Who receives the frame next: the second host address of claim 13, and the port towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHost {
    /// The Ethernet address of the next host.
    pub mac: Mac,
    /// The interface index of the port that the frame leaves by; never a bridge, but the bridge's port.
    pub interface: u32,
    /// Whether the frame changes subnet here, so that TTL or hop limit must be decremented (RFC 1812 section 5.3.1).
    pub routed: bool,
    /// Whether it is a gateway on the way, by the kernel's routes, and not the destination itself.
    pub gateway: bool,
}

/// What is known about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The flow can be forwarded.
    Found(NextHost),
    /// The kernel was asked to find the neighbour, or a bridge to find its port; another event follows.
    Pending,
    /// The flow can not be forwarded for now. It stays watched: another event follows when that changes.
    Unreachable(Reason),
}

/// Why a flow can not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// `ENETUNREACH`: no route matches.
    #[error("no route leads to the destination; add one with `ip route add`, or a static route to the configuration")]
    NoRoute,
    /// A route of type `prohibit`, or a rule.
    #[error("a route or rule prohibits the destination; see `ip route get` and `ip rule`")]
    Prohibited,
    /// A route of type `blackhole`, or an address that can not be a destination.
    #[error("a blackhole route discards packets to the destination; see `ip route`")]
    Blackhole,
    /// A route of type `unreachable`.
    #[error("a route of type `unreachable` rejects the destination; see `ip route`")]
    Rejected,
    /// ARP (RFC 826) or neighbour discovery (RFC 4861 section 7.2) got no answer. It is tried again, ever less often.
    #[error("{next_hop} does not answer on its link; check that the host is up and connected")]
    NoAnswer {
        /// The neighbour: the destination itself, or the gateway to it.
        next_hop: IpAddr,
    },
    /// The destination is an address of this switch: packets to it are no flow.
    #[error("the destination is this switch itself")]
    Local,
    /// The flow would leave by the port that it came in by.
    #[error("the next host is behind the port that the flow comes in by")]
    SamePort,
    /// The destination is a broadcast, multicast or unspecified address.
    #[error("the destination is not one host's address (broadcast, multicast or unspecified)")]
    NotUnicast,
    /// The egress interface is gone, not up or without carrier.
    #[error("the interface with index {interface} towards the next host is down; see `ip link`")]
    InterfaceDown {
        /// The interface index.
        interface: u32,
    },
    /// The egress interface has no Ethernet addresses (a tunnel, for instance), or the route adds a header.
    #[error("the route leaves through the tunnel or other non-Ethernet interface with index {interface}")]
    NotEthernet {
        /// The interface index.
        interface: u32,
    },
}

/// A next host given by the administrator; it wins over the kernel's tables. The longest prefix matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// The destinations.
    pub to: IpNet,
    /// The interface index of the egress port.
    pub interface: u32,
    /// The next host's Ethernet address.
    pub mac: Mac,
    /// Whether TTL or hop limit must be decremented.
    pub routed: bool,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The interface index: another one each time the interface is created.
    pub ifindex: u32,
    /// The name, unique at one time.
    pub name: String,
    /// Whether frames can pass: administratively up, with carrier, and operational (RFC 2863 section 3.1.13).
    pub up: bool,
    /// The longest payload of a frame, in octets.
    pub mtu: u32,
    /// The interface's own Ethernet address; zero where it has none.
    pub mac: Mac,
    /// The interface index of the bridge, bond or VRF that this interface belongs to.
    pub master: Option<u32>,
    /// The kind of a virtual interface, such as `veth` or `tun`; none for a network card.
    pub kind: Option<String>,
}

/// What a resolver tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first answer to a watched query, and each change of it.
    Resolved {
        /// The query.
        query: Query,
        /// The answer.
        resolution: Resolution,
        /// The route that it rests on, where one leads to the destination.
        route: Option<Route>,
    },
    /// An interface at the start, a new interface, or a change of one.
    Link(LinkState),
    /// An interface was removed.
    LinkGone {
        /// The interface index it had.
        ifindex: u32,
        /// The name it had.
        name: String,
    },
}

/// Why the kernel's tables can not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("can not open a netlink socket: {0}; check that the sandbox allows AF_NETLINK")]
    Socket(#[from] std::io::Error),
    /// The kernel refused a request, or the connection to it ended.
    #[error("the kernel did not answer a netlink request: {0}")]
    Request(#[from] rtnetlink::Error),
    /// A table kept changing while it was read.
    #[error("a kernel table kept changing while it was read; try again")]
    Interrupted,
    /// No answer in time.
    #[error("the kernel did not answer a netlink request in time; see `dmesg` for a stuck network device")]
    Timeout,
}
