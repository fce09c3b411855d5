//! Network interfaces: veth pairs, bridges, addresses, neighbours, offloads.

mod offload;

use crate::netlink;
use crate::{Error, Netns, Result};
use flowlane_wire::Mac;
use futures_util::TryStreamExt;
use ipnet::IpNet;
pub use offload::Offload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, State};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

/// The longest name of an interface, in octets: `IFNAMSIZ` without the closing zero.
const NAME_MAX: usize = 15;

/// How long the kernel may take to make an interface ready whose other end came up.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// One end of a veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where the interface will be.
    pub netns: &'a Netns,
    /// Its name, at most 15 characters.
    pub name: &'a str,
    /// Its address; the kernel makes one up if there is none.
    pub mac: Option<Mac>,
}

/// A network interface by namespace and name.
///
/// This is a handle: dropping it leaves the interface alone, which goes with its namespace or by [`Link::delete`].
/// It holds the namespace as a clone of [`Netns`] does.
#[derive(Clone, Debug)]
pub struct Link {
    netns: Netns,
    name: String,
}

/// What the kernel says about an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkState {
    /// The kernel's number of the interface in its namespace.
    pub index: u32,
    /// Its address; zeros on interfaces without.
    pub mac: Mac,
    /// The largest payload of a frame, in octets.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// Frames can leave by it: set up, the other end too, and the kernel has seen to it (RFC 2863, section 3.1.13).
    pub operational: bool,
    /// Frames and octets so far.
    pub statistics: Statistics,
}

/// Counters of an interface since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Octets received.
    pub rx_bytes: u64,
    /// Octets sent.
    pub tx_bytes: u64,
    /// Frames received and dropped for want of room.
    pub rx_dropped: u64,
    /// Frames dropped instead of sent.
    pub tx_dropped: u64,
    /// Malformed frames received.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
}

/// Joins two namespaces by a virtual cable. Both ends are down.
///
/// # Errors
/// [`Error::LinkName`], or [`Error::Refused`] if one of the names is taken.
pub fn veth(a: End<'_>, b: End<'_>) -> Result<(Link, Link)> {
    let links = (a.netns.link(a.name)?, b.netns.link(b.name)?);
    let action = format!("create the veth pair {} and {} in {}", a.name, b.name, b.netns);
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(b.name).setns_by_fd(b.netns.as_fd().as_raw_fd());
    let peer = InfoData::Veth(InfoVeth::Peer(with_mac(peer, b.mac).build()));
    let link = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).name(a.name).set_info_data(peer);
    create(a.netns, &action, with_mac(link, a.mac).build())?;
    Ok(links)
}

/// Makes a bridge that is up, with the kernel's defaults (no spanning tree, multicast snooping).
///
/// # Errors
/// [`Error::LinkName`], or [`Error::Refused`] if the name is taken or the kernel has no bridges.
pub fn bridge(netns: &Netns, name: &str) -> Result<Link> {
    let link = netns.link(name)?;
    create(netns, &format!("create the bridge {name}"), LinkBridge::new(name).build())?;
    Ok(link)
}

/// Makes a dummy interface that is up: it takes every frame and sends it nowhere.
///
/// # Errors
/// [`Error::LinkName`], or [`Error::Refused`] if the name is taken or the kernel has no dummy interfaces.
pub fn dummy(netns: &Netns, name: &str) -> Result<Link> {
    let link = netns.link(name)?;
    create(netns, &format!("create the dummy interface {name}"), LinkDummy::new(name).up().build())?;
    Ok(link)
}

impl Link {
    pub(crate) fn new(netns: &Netns, name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self { netns: netns.clone(), name: name.to_owned() })
    }

    /// Where the interface is.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the interface up.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none.
    pub fn up(&self) -> Result<()> {
        self.set("set up", self.by_name().up())
    }

    /// Sets both ends of a cable up, and waits until frames can leave by either.
    ///
    /// Of two ends, the kernel makes the one that is set up last ready at once, and the other in its own time: until then that one
    /// drops what it is to send.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, [`Error::Timeout`] if they are no ends of one cable.
    pub fn connect(&self, other: &Self) -> Result<()> {
        self.up()?;
        other.up()?;
        self.until_operational()?;
        other.until_operational()
    }

    /// Waits until frames can leave by the interface.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none, [`Error::Timeout`] if it or the other end is down.
    pub fn until_operational(&self) -> Result<()> {
        let start = Instant::now();
        while !self.state()?.operational {
            if start.elapsed() > SETTLES_WITHIN {
                let action = format!("waiting until frames can leave by {}", self.name);
                return Err(Error::Timeout { netns: self.netns.label().to_owned(), action, after: SETTLES_WITHIN });
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sets the interface down.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none.
    pub fn down(&self) -> Result<()> {
        self.set("set down", self.by_name().down())
    }

    /// Sets the largest payload of a frame, in octets.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, or the size is out of its range.
    pub fn set_mtu(&self, octets: u32) -> Result<()> {
        self.set(&format!("set the MTU to {octets} on"), self.by_name().mtu(octets))
    }

    /// Sets the interface's own address.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, or `mac` is a group address.
    pub fn set_mac(&self, mac: Mac) -> Result<()> {
        self.set(&format!("set the address {mac} on"), self.by_name().address(mac.0.to_vec()))
    }

    /// Makes the interface a port of a bridge of the same namespace.
    ///
    /// # Errors
    /// [`Error::Refused`] if either does not exist.
    pub fn attach(&self, bridge: &Link) -> Result<()> {
        let index = bridge.index()?;
        self.set(&format!("attach to {}", bridge.name), self.by_name().controller(index))
    }

    /// Takes the interface off its bridge.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface.
    pub fn detach(&self) -> Result<()> {
        self.set("take off its bridge", self.by_name().nocontroller())
    }

    /// Says whether the bridge that the interface is a port of learns addresses there, and sends frames to unknown
    /// addresses out of it. A bridge does both unless told otherwise.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, or it is not on a bridge.
    pub fn set_bridging(&self, learning: bool, flooding: bool) -> Result<()> {
        let port = LinkBridgePort::new(self.index()?).learning(learning).flood(flooding).mcast_flood(flooding);
        let message = port.bcast_flood(flooding).build();
        self.request("set bridging of", async |handle| handle.link().set_port(message).execute().await)
    }

    /// Gives the interface another name. Other handles keep the old name.
    ///
    /// # Errors
    /// [`Error::LinkName`], or [`Error::Refused`] if the new name is taken.
    pub fn rename(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        let renamed = LinkUnspec::new_with_index(self.index()?).name(name);
        self.set(&format!("name {name} the interface"), renamed)?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Deletes the interface, and for a veth also the other end.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none.
    pub fn delete(self) -> Result<()> {
        let message = self.by_name().build();
        self.request("delete", async |handle| handle.link().del_with_message(message).execute().await)
    }

    /// Adds an IP address with its prefix length. It can be used at once: duplicate address detection is skipped.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, or it has the address already.
    pub fn add_address(&self, address: IpNet) -> Result<()> {
        self.request(&format!("add the address {address} to"), async |handle| {
            let index = index_of(&handle, &self.name).await?;
            let mut request = handle.address().add(index, address.addr(), address.prefix_len());
            if let IpNet::V6(_) = address {
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            request.execute().await
        })
    }

    /// The IP addresses of the interface, those that the kernel made itself among them.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface.
    pub fn addresses(&self) -> Result<Vec<IpNet>> {
        self.request("list the addresses of", async |handle| {
            let index = index_of(&handle, &self.name).await?;
            let found: Vec<_> = handle.address().get().set_link_index_filter(index).execute().try_collect().await?;
            Ok(found.iter().filter_map(address_in).collect())
        })
    }

    /// Says for good which Ethernet address a neighbour has: no ARP and no Neighbour Discovery is done for it.
    /// An older entry is replaced.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface.
    pub fn set_neighbour(&self, neighbour: IpAddr, mac: Mac) -> Result<()> {
        self.request(&format!("set the neighbour {neighbour} to {mac} on"), async |handle| {
            let index = index_of(&handle, &self.name).await?;
            handle.neighbours().add(index, neighbour).link_layer_address(&mac.0).replace().execute().await
        })
    }

    /// What the kernel says about the interface.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none.
    pub fn state(&self) -> Result<LinkState> {
        self.request("look up", async |handle| Ok(state_in(&get(&handle, &self.name).await?)))
    }

    /// The kernel's number of the interface in its namespace.
    ///
    /// # Errors
    /// As [`Link::state`].
    pub fn index(&self) -> Result<u32> {
        Ok(self.state()?.index)
    }

    /// The interface's own address.
    ///
    /// # Errors
    /// As [`Link::state`].
    pub fn mac(&self) -> Result<Mac> {
        Ok(self.state()?.mac)
    }

    /// Frames and octets so far.
    ///
    /// # Errors
    /// As [`Link::state`].
    pub fn statistics(&self) -> Result<Statistics> {
        Ok(self.state()?.statistics)
    }

    /// Whether there is an interface of that name.
    ///
    /// # Errors
    /// Only if the kernel can not be asked.
    pub fn exists(&self) -> Result<bool> {
        match self.state() {
            Ok(_) => Ok(true),
            Err(Error::Refused { reason, .. }) if reason.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(other) => Err(other),
        }
    }

    fn by_name(&self) -> LinkMessageBuilder<LinkUnspec> {
        LinkUnspec::new_with_name(&self.name)
    }

    fn set(&self, verb: &str, change: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        let message = change.build();
        self.request(verb, async |handle| handle.link().set(message).execute().await)
    }

    fn request<T: Send>(
        &self,
        verb: &str,
        work: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send,
    ) -> Result<T> {
        netlink::request(&self.netns, &format!("{verb} {}", self.name), work)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.netns, self.name)
    }
}

/// The kernel's own rule (`dev_valid_name`), and no `%`, which it takes for a pattern.
fn check_name(name: &str) -> Result<()> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if name.is_empty() || name.len() > NAME_MAX || name == "." || name == ".." || name.contains(bad) {
        return Err(Error::LinkName { name: name.to_owned() });
    }
    Ok(())
}

fn create(netns: &Netns, action: &str, message: LinkMessage) -> Result<()> {
    netlink::request(netns, action, async |handle| handle.link().add(message).execute().await)
}

fn with_mac<T>(builder: LinkMessageBuilder<T>, mac: Option<Mac>) -> LinkMessageBuilder<T> {
    match mac {
        Some(mac) => builder.address(mac.0.to_vec()),
        None => builder,
    }
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    Ok(get(handle, name).await?.header.index)
}

async fn get(handle: &Handle, name: &str) -> Result<LinkMessage, rtnetlink::Error> {
    let mut found = std::pin::pin!(handle.link().get().match_name(name).execute());
    found.try_next().await?.ok_or(rtnetlink::Error::RequestFailed)
}

fn state_in(message: &LinkMessage) -> LinkState {
    let flags = message.header.flags;
    let mut state = LinkState {
        index: message.header.index,
        mac: Mac::default(),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        operational: false,
        statistics: Statistics::default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(octets) => state.mac = octets.as_slice().try_into().map(Mac).unwrap_or_default(),
            LinkAttribute::Mtu(octets) => state.mtu = *octets,
            LinkAttribute::OperState(kind) => state.operational = *kind == State::Up,
            LinkAttribute::Stats64(counted) => {
                state.statistics = Statistics {
                    rx_packets: counted.rx_packets,
                    tx_packets: counted.tx_packets,
                    rx_bytes: counted.rx_bytes,
                    tx_bytes: counted.tx_bytes,
                    rx_dropped: counted.rx_dropped,
                    tx_dropped: counted.tx_dropped,
                    rx_errors: counted.rx_errors,
                    tx_errors: counted.tx_errors,
                }
            }
            _ => {}
        }
    }
    state
}

/// The interface's own address: the local one, where both ends of a point-to-point link are listed.
fn address_in(message: &AddressMessage) -> Option<IpNet> {
    let local =
        message.attributes.iter().find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let other =
        message.attributes.iter().find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    IpNet::new(local.or(other)?, message.header.prefix_len).ok()
}
