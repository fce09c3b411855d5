//! The kernel's side: rtnetlink sockets, requests, and messages turned into notices.
//!
//! There are two sockets, so that a burst of notifications can not push out the answer to a request. A change of
//! nexthop objects is seen by the route notifications that the kernel sends along (sysctl `nexthop_compat_mode`,
//! on by default).

use crate::decide::{Need, RouteAnswer, Routes, is_host};
use crate::tables::{FdbKey, Link, LinkKind, NeighbourKey, NeighbourState, Notice};
use crate::{Error, LinkState, Reason};
use flowlane_wire::Mac;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as Nud,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup};
use std::net::IpAddr;
use std::time::Duration;
use tokio::task::JoinSet;

/// Changes of these are followed.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];
/// Room for notifications while others are handled, in octets; the kernel cuts it to `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 4 << 20;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const DUMP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a table may change under a dump before it is given up.
const DUMP_ATTEMPTS: usize = 5;
/// The table changed while it was read (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;

// Error numbers of the answers, `asm-generic/errno.h`.
const EPERM: i32 = 1;
const ESRCH: i32 = 3;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const ENOBUFS: i32 = 105;
const EHOSTUNREACH: i32 = 113;

/// A connection to the kernel of the calling thread's network namespace.
pub(crate) struct Kernel {
    requests: Handle,
    notices: BoxStream<'static, Notice>,
    _connections: JoinSet<()>,
}

impl Kernel {
    /// Opens the sockets. Changes from here on are noticed. Must be called in a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let mut connections = JoinSet::new();
        let (mut connection, keep_open, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
        connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER)?;
        connections.spawn(connection);
        let notices = messages.filter_map(move |(message, _)| {
            let _ = &keep_open;
            std::future::ready(notice_of_payload(message.payload))
        });
        Ok(Self { requests: spawn_requests(&mut connections)?, notices: notices.boxed(), _connections: connections })
    }

    /// The next change; none when the connection has ended.
    pub async fn notice(&mut self) -> Option<Notice> {
        self.notices.next().await
    }

    pub fn requests(&self) -> Requests {
        Requests(self.requests.clone())
    }
}

/// All interfaces as they are now.
pub(crate) async fn links() -> Result<Vec<Link>, Error> {
    let mut connections = JoinSet::new();
    let requests = Requests(spawn_requests(&mut connections)?);
    let links = requests.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
    Ok(links.into_iter().filter_map(|notice| if let Notice::Link(link) = notice { Some(link) } else { None }).collect())
}

fn spawn_requests(connections: &mut JoinSet<()>) -> Result<Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    connections.spawn(connection);
    Ok(handle)
}

/// Questions to the kernel.
#[derive(Clone)]
pub(crate) struct Requests(Handle);

impl Requests {
    /// All interfaces, neighbours and forwarding entries.
    pub async fn snapshot(&self) -> Result<Vec<Notice>, Error> {
        let mut neighbours = NeighbourMessage::default();
        neighbours.header.family = AddressFamily::Unspec;
        let mut forwarding = NeighbourMessage::default();
        forwarding.header.family = AddressFamily::Bridge;
        let mut notices = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        notices.extend(self.dump(RouteNetlinkMessage::GetNeighbour(neighbours)).await?);
        notices.extend(self.dump(RouteNetlinkMessage::GetNeighbour(forwarding)).await?);
        Ok(notices)
    }

    /// The route to a destination, by the kernel's own rules, tables and multipath choice; with `all`, also all next hops
    /// of that route. None: there was no answer that makes sense.
    pub async fn look_up(self, destination: IpAddr, all: bool) -> Option<Routes> {
        let chosen = match self.route(destination, RouteFlags::empty()).await? {
            Ok(route) => route_answer(&route, destination)?,
            Err(reason) => RouteAnswer::Refused(reason),
        };
        let all = match chosen {
            RouteAnswer::Via { .. } if all => match self.route(destination, RouteFlags::FibMatch).await? {
                Ok(route) => Some(next_hops(&route, destination)),
                Err(_) => Some(Vec::new()),
            },
            _ => all.then(Vec::new),
        };
        Some(Routes { chosen, all })
    }

    /// One question for a route: the kernel's choice, or with [`RouteFlags::FibMatch`] the entry of its table.
    async fn route(&self, destination: IpAddr, flags: RouteFlags) -> Option<Result<RouteMessage, Reason>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.header.flags = flags;
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        match self.clone().ask(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Some(Ok(route)),
            Err(Refusal::Kernel(errno)) if let Some(reason) = refused(errno) => Some(Err(reason)),
            answer => {
                tracing::warn!(%destination, ?answer, "no answer to a route look-up; it will be repeated");
                None
            }
        }
    }

    /// Makes the kernel resolve a neighbour (`ip neigh ... use`), or check one that it is sure of (`nud probe`).
    pub async fn resolve(self, key: NeighbourKey, need: Need) {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(key.address);
        message.header.ifindex = key.interface;
        let create = if need == Need::Learn {
            message.header.state = Nud::Probe;
            0
        } else {
            message.header.flags = NeighbourFlags::Use;
            NLM_F_CREATE
        };
        message.attributes.push(NeighbourAttribute::Destination(match key.address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
        let answer = self.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REQUEST | NLM_F_ACK | create).await;
        match answer {
            Ok(_) => {}
            Err(Refusal::Kernel(ENOBUFS)) => tracing::warn!(
                neighbour = %key.address,
                "the kernel's neighbour table is full; raise net.ipv4.neigh.default.gc_thresh3 (or net.ipv6...)"
            ),
            Err(Refusal::Kernel(EPERM)) => {
                tracing::warn!(neighbour = %key.address, "not allowed to resolve a neighbour; run with CAP_NET_ADMIN");
            }
            Err(refusal) => {
                tracing::debug!(neighbour = %key.address, interface = key.interface, ?refusal, "not resolved")
            }
        }
    }

    /// One request, one answer: the first message, or nothing but an acknowledgement.
    async fn ask(mut self, message: RouteNetlinkMessage, flags: u16) -> Result<Option<RouteNetlinkMessage>, Refusal> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answers = self.0.request(request).map_err(|_| Refusal::Silence)?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answers.next()).await {
            Err(_) => Err(Refusal::Silence),
            Ok(None) => Ok(None),
            Ok(Some(answer)) => match answer.payload {
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                NetlinkPayload::Error(error) => Err(Refusal::Kernel(error.raw_code().saturating_abs())),
                _ => Err(Refusal::Silence),
            },
        }
    }

    async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<Notice>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let dump = self.dump_once(message.clone());
            if let Some(notices) = tokio::time::timeout(DUMP_TIMEOUT, dump).await.map_err(|_| Error::Timeout)?? {
                return Ok(notices);
            }
        }
        Err(Error::Interrupted)
    }

    /// None: the table changed meanwhile, and entries may be missing.
    async fn dump_once(&self, message: RouteNetlinkMessage) -> Result<Option<Vec<Notice>>, Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = self.0.clone().request(request)?;
        let (mut notices, mut whole) = (Vec::new(), true);
        while let Some(answer) = answers.next().await {
            whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => notices.extend(notice_of(message)),
                NetlinkPayload::Error(error) => return Err(rtnetlink::Error::NetlinkError(error).into()),
                NetlinkPayload::Overrun(_) => whole = false,
                _ => {}
            }
        }
        Ok(whole.then_some(notices))
    }
}

/// Why a request has no answer.
#[derive(Debug)]
enum Refusal {
    /// An error number.
    Kernel(i32),
    /// None came, or none that makes sense.
    Silence,
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn refused(errno: i32) -> Option<Reason> {
    match errno {
        ENETUNREACH | ESRCH => Some(Reason::NoRoute),
        EHOSTUNREACH => Some(Reason::Rejected),
        EACCES => Some(Reason::Prohibited),
        EINVAL => Some(Reason::Blackhole),
        _ => None,
    }
}

fn route_answer(route: &RouteMessage, destination: IpAddr) -> Option<RouteAnswer> {
    let refused = |reason| Some(RouteAnswer::Refused(reason));
    match route.header.kind {
        RouteType::Unicast => {}
        // An anycast address (RFC 4291 section 2.6) in the local table is this switch's, too.
        RouteType::Local | RouteType::Anycast => return refused(Reason::Local),
        RouteType::Broadcast | RouteType::Multicast => return refused(Reason::NotUnicast),
        RouteType::BlackHole => return refused(Reason::Blackhole),
        RouteType::Prohibit => return refused(Reason::Prohibited),
        RouteType::Unreachable => return refused(Reason::Rejected),
        _ => return refused(Reason::NoRoute),
    }
    let interface =
        route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None })?;
    Some(through(interface, &route.attributes, destination))
}

/// The way by an interface and the gateway that the attributes name.
fn through(interface: u32, attributes: &[RouteAttribute], destination: IpAddr) -> RouteAnswer {
    if attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Encap(_))) {
        return RouteAnswer::Refused(Reason::NotEthernet { interface });
    }
    let gateway = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
            Some((*v6).into())
        }
        _ => None,
    });
    RouteAnswer::Via { interface, next_hop: gateway.unwrap_or(destination) }
}

/// The next hops of a route as it stands in the table (`RTM_F_FIB_MATCH`), by address, so that each keeps its number when
/// the kernel lists them in another order. Those that can not be used are left out.
fn next_hops(route: &RouteMessage, destination: IpAddr) -> Vec<RouteAnswer> {
    let unusable = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown | RouteNextHopFlags::Unresolved;
    let listed = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(listed) = listed else { return route_answer(route, destination).into_iter().collect() };
    let usable = listed.iter().filter(|hop| !hop.flags.intersects(unusable));
    let ways = usable.map(|hop| through(hop.interface_index, &hop.attributes, destination));
    let mut ways: Vec<_> = ways.filter(|way| matches!(way, RouteAnswer::Via { .. })).collect();
    ways.sort_by_key(|way| match way {
        RouteAnswer::Via { interface, next_hop } => Some((*next_hop, *interface)),
        RouteAnswer::Refused(_) => None,
    });
    ways
}

fn notice_of_payload(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Notice> {
    match payload {
        NetlinkPayload::InnerMessage(message) => notice_of(message),
        NetlinkPayload::Overrun(_) => Some(Notice::Overrun),
        _ => None,
    }
}

fn notice_of(message: RouteNetlinkMessage) -> Option<Notice> {
    match message {
        RouteNetlinkMessage::NewLink(link) => link_of(link).map(Notice::Link),
        // A port that leaves a bridge is reported as a removed link of the family `AF_BRIDGE`.
        RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            Some(Notice::LinkGone(link.header.index))
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => neighbour_notice(&neighbour, false),
        RouteNetlinkMessage::DelNeighbour(neighbour) => neighbour_notice(&neighbour, true),
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            Some(Notice::Routes(prefix_of(&route)))
        }
        RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_) => Some(Notice::Routes(None)),
        _ => None,
    }
}

fn link_of(message: LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let passes = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
    let mut state = LinkState {
        ifindex: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(passes),
        mtu: 0,
        mac: Mac::default(),
        master: None,
        kind: None,
    };
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut kind = if ethernet { LinkKind::Ethernet } else { LinkKind::Other };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => state.name = name,
            LinkAttribute::Mtu(mtu) => state.mtu = mtu,
            LinkAttribute::Address(address) => state.mac = mac_of(&address).unwrap_or_default(),
            LinkAttribute::Controller(master) => state.master = Some(master).filter(|master| *master != 0),
            LinkAttribute::LinkInfo(info) => {
                if info.contains(&LinkInfo::Kind(InfoKind::Bridge)) {
                    kind = LinkKind::Bridge;
                }
                state.kind = info.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    // A message without a name tells of something else, such as a wireless event.
    (!state.name.is_empty()).then_some(Link { state, kind })
}

fn neighbour_notice(message: &NeighbourMessage, gone: bool) -> Option<Notice> {
    match message.header.family {
        AddressFamily::Bridge => fdb_notice(message, gone),
        AddressFamily::Inet | AddressFamily::Inet6 if !message.header.flags.contains(NeighbourFlags::Proxy) => {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
                _ => None,
            })?;
            let key = NeighbourKey { interface: message.header.ifindex, address };
            Some(if gone { Notice::NeighbourGone(key) } else { Notice::Neighbour(key, neighbour_state(message)) })
        }
        _ => None,
    }
}

fn neighbour_state(message: &NeighbourMessage) -> NeighbourState {
    let mac = lladdr_of(message).filter(|mac| is_host(*mac));
    match (message.header.state, mac) {
        (Nud::Permanent | Nud::Noarp, Some(mac)) => NeighbourState::Fixed(mac),
        (Nud::Reachable | Nud::Stale | Nud::Delay | Nud::Probe, Some(mac))
            if message.header.flags.contains(NeighbourFlags::ExtLearned) =>
        {
            NeighbourState::Fixed(mac)
        }
        (Nud::Reachable | Nud::Stale | Nud::Delay | Nud::Probe, Some(mac)) => NeighbourState::Usable(mac),
        (Nud::Failed, _) => NeighbourState::Failed,
        _ => NeighbourState::Incomplete,
    }
}

/// An entry of a bridge: those without a master are addresses that a network card or a tunnel receives on, and
/// permanent ones are the bridge's and its ports' own.
fn fdb_notice(message: &NeighbourMessage, gone: bool) -> Option<Notice> {
    let (mut bridge, mut vlan) = (None, 0);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Controller(master) => bridge = Some(*master),
            NeighbourAttribute::Vlan(id) => vlan = *id,
            _ => {}
        }
    }
    let (bridge, port) = (bridge?, message.header.ifindex);
    if port == bridge || message.header.state == Nud::Permanent {
        return None;
    }
    let key = FdbKey { bridge, mac: lladdr_of(message)?, vlan };
    Some(if gone { Notice::FdbGone(key, port) } else { Notice::Fdb(key, port) })
}

/// The destinations of a route; none where that is unclear, which stands for all.
fn prefix_of(route: &RouteMessage) -> Option<IpNet> {
    let any = match route.header.address_family {
        AddressFamily::Inet => IpAddr::from([0u8; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
        _ => None,
    });
    IpNet::new(address.unwrap_or(any), route.header.destination_prefix_length).ok()
}

fn lladdr_of(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => mac_of(octets),
        _ => None,
    })
}

fn mac_of(octets: &[u8]) -> Option<Mac> {
    octets.try_into().ok().map(Mac)
}
