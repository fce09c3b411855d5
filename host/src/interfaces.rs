//! The Ethernet interfaces of a network namespace, as they come and go, and where packets leave.

use flowlane_wire::Mac;
use futures_util::{StreamExt, stream::BoxStream};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAttribute, RouteMessage, RouteType},
};
use rtnetlink::{Handle, MulticastGroup};
use std::{collections::BTreeMap, io, net::IpAddr, time::Duration};
use tokio::{task::JoinSet, time::timeout};

/// An interface whose packets can be put into flows: an Ethernet, and no part of a bridge or a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its own address.
    pub mac: Mac,
    /// Whether frames can pass.
    pub up: bool,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface is there, or is otherwise than before.
    Link(Link),
    /// An interface is gone, or has become part of another.
    Gone(u32),
}

/// Follows the interfaces of the network namespace of the thread that opened it.
pub struct Interfaces {
    requests: Handle,
    notices: BoxStream<'static, Notice>,
    known: BTreeMap<u32, Link>,
    changes: Vec<Change>,
    _connections: JoinSet<()>,
}

enum Notice {
    Link(LinkMessage),
    Gone(u32),
    Overrun,
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

impl Interfaces {
    /// Begins to follow them. [`next`](Self::next) tells first of all that there are. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// Where netlink is out of reach.
    pub async fn open() -> io::Result<Self> {
        let mut connections = JoinSet::new();
        let (connection, keep_open, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
        connections.spawn(connection);
        let notices = messages.filter_map(move |(message, _)| {
            let _ = &keep_open;
            std::future::ready(notice_of(message.payload))
        });
        let (connection, requests, _) = rtnetlink::new_connection()?;
        connections.spawn(connection);
        let notices = notices.boxed();
        let mut interfaces =
            Self { requests, notices, known: BTreeMap::new(), changes: Vec::new(), _connections: connections };
        interfaces.list().await?;
        Ok(interfaces)
    }

    /// All that there are now.
    pub fn known(&self) -> impl Iterator<Item = &Link> {
        self.known.values()
    }

    /// The next change. Nothing is lost where the future is dropped.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.changes.pop() {
                return change;
            }
            match self.notices.next().await {
                Some(Notice::Link(message)) => self.take(message),
                Some(Notice::Gone(ifindex)) => self.gone(ifindex),
                Some(Notice::Overrun) => {
                    if let Err(error) = self.list().await {
                        tracing::warn!(%error, "the interfaces could not be read again");
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// The interface by which packets to a destination leave, by the kernel's own rules and tables. None: they do not, or
    /// they are for this host.
    pub async fn route(&self, destination: IpAddr) -> Option<u32> {
        let mut message = RouteMessage::default();
        let v4 = destination.is_ipv4();
        message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = if v4 { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.requests.clone().request(request).ok()?;
        let answer = timeout(ANSWER_TIMEOUT, answers.next()).await.ok()??;
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = answer.payload else { return None };
        let unicast = route.header.kind == RouteType::Unicast;
        let interface =
            |attribute: &RouteAttribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None };
        route.attributes.iter().find_map(interface).filter(|_| unicast)
    }

    async fn list(&mut self) -> io::Result<()> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = self.requests.clone().request(request).map_err(io::Error::other)?;
        let before: Vec<u32> = self.known.keys().copied().collect();
        let mut there = Vec::new();
        while let Some(answer) = answers.next().await {
            if let Some(Notice::Link(message)) = notice_of(answer.payload) {
                there.push(message.header.index);
                self.take(message);
            }
        }
        before.into_iter().filter(|ifindex| !there.contains(ifindex)).for_each(|ifindex| self.gone(ifindex));
        Ok(())
    }

    fn take(&mut self, message: LinkMessage) {
        let ifindex = message.header.index;
        match link_of(message) {
            Some(link) if self.known.get(&ifindex) != Some(&link) => {
                self.known.insert(ifindex, link.clone());
                self.changes.insert(0, Change::Link(link));
            }
            Some(_) => {}
            None => self.gone(ifindex),
        }
    }

    fn gone(&mut self, ifindex: u32) {
        if self.known.remove(&ifindex).is_some() {
            self.changes.insert(0, Change::Gone(ifindex));
        }
    }
}

fn notice_of(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Notice> {
    match payload {
        // Those of a bridge's family are about its ports; and a message without a name tells of something else.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            let named = link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(_)));
            (named && link.header.interface_family == AddressFamily::Unspec).then_some(Notice::Link(link))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
            (link.header.interface_family == AddressFamily::Unspec).then_some(Notice::Gone(link.header.index))
        }
        NetlinkPayload::Overrun(_) => Some(Notice::Overrun),
        _ => None,
    }
}

/// The interface, if packets can be put into flows there. One that belongs to a VRF sends by itself; what belongs to a
/// bridge or a bond does not, and a VRF only hands on.
fn link_of(message: LinkMessage) -> Option<Link> {
    let passes = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
    let (ifindex, up) = (message.header.index, message.header.flags.contains(passes));
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let (mut name, mut mac, mut enslaved, mut of_vrf, mut vrf) = (None, None, false, false, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(of) => name = Some(of),
            LinkAttribute::Address(octets) => mac = octets.try_into().ok().map(Mac),
            LinkAttribute::Controller(master) => enslaved = master != 0,
            LinkAttribute::LinkInfo(info) => {
                vrf = info.contains(&LinkInfo::Kind(InfoKind::Vrf));
                of_vrf = info.contains(&LinkInfo::PortKind(InfoPortKind::Vrf));
            }
            _ => {}
        }
    }
    let usable = ethernet && !vrf && (!enslaved || of_vrf);
    Some(Link { ifindex, name: name?, mac: mac?, up }).filter(|_| usable)
}
