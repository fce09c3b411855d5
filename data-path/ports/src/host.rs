//! Hands packets to the Linux stack as if it had received them.

use crate::PortError;
use crate::netlink::Netlink;
use flowlane_wire::header::ethernet;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// A TUN device by which the userspace executor gives the Linux stack the packets that it leaves to it, such as those
/// whose TTL or hop limit ends here: Linux answers these with an ICMP error.
///
/// What the device needs is set when it is opened. `rp_filter` is 2 (loose): the source of such a packet is reached by
/// another interface, never by this one, and the kernel takes the greater of this value and that of `all`, so 2 holds
/// whatever `all` says. The loose filter wants an IPv4 address on the device: it is the dummy address 192.0.0.8 of RFC
/// 7600, valid on this host only. `forwarding` is 1 for IPv4 and IPv6: Linux looks at a packet's TTL only when it would
/// forward it. IPv6 also wants `net.ipv6.conf.all.forwarding=1`, which is the administrator's to set. A packet is
/// answered only if Linux itself has a route to its destination, and one to its source.
pub struct HostTun {
    device: OwnedFd,
    ifindex: u32,
}

impl HostTun {
    /// Makes the device `name` (at most 15 octets) in this network namespace and brings it up. It goes away when this
    /// is dropped.
    ///
    /// # Errors
    /// [`PortError::NoTun`] where /dev/net/tun can not be opened, [`PortError::NotPermitted`] without CAP_NET_ADMIN,
    /// [`PortError::Setting`] where /proc/sys is read-only, [`PortError::Options`] for a name that is not one.
    pub fn open(name: &str) -> Result<Self, PortError> {
        let request = request(name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let device = nix::fcntl::open("/dev/net/tun", flags, Mode::empty()).map_err(PortError::NoTun)?;
        // SAFETY: `request` is an initialised ifreq that outlives the call, and what TUNSETIFF reads.
        unsafe { tun_set_interface(device.as_raw_fd(), &raw const request) }
            .map_err(|errno| PortError::of("making a TUN device", 0, errno))?;
        let ifindex = nix::net::if_::if_nametoindex(name)
            .map_err(|errno| PortError::of("looking up the TUN device", 0, errno))?;
        set("ipv4", name, "rp_filter", "2")?;
        set("ipv4", name, "forwarding", "1")?;
        // Where the kernel has no IPv6, there is nothing to set.
        if PathBuf::from("/proc/sys/net/ipv6/conf").join(name).exists() {
            set("ipv6", name, "forwarding", "1")?;
        }
        bring_up(ifindex)?;
        Ok(Self { device, ifindex })
    }

    /// The device's index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Gives Linux the IP packet in an Ethernet frame; addresses and VLAN tags are left off.
    ///
    /// # Errors
    /// [`PortError::Frame`] where the frame does not carry IP, or more than 64 KiB, [`PortError::System`] where the
    /// device does not take it.
    pub fn deliver(&self, frame: &[u8]) -> Result<(), PortError> {
        let packet = ip_packet(frame).ok_or(PortError::Frame("the frame carries no IP packet"))?;
        match nix::unistd::write(&self.device, packet) {
            Ok(_) => Ok(()),
            Err(Errno::EINVAL | Errno::EMSGSIZE) => Err(PortError::Frame("Linux does not take the packet: malformed")),
            Err(errno) => Err(PortError::of("writing to the TUN device", self.ifindex, errno)),
        }
    }
}

nix::ioctl_write_ptr_bad!(
    /// TUNSETIFF of linux/if_tun.h: makes this open file the device that the request names.
    tun_set_interface,
    libc::TUNSETIFF,
    libc::ifreq
);

fn request(name: &str) -> Result<libc::ifreq, PortError> {
    let valid = (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if !valid {
        return Err(PortError::Options("the name of a device is 1 to 15 ASCII characters without / : % or blanks"));
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    Ok(libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } })
}

fn set(family: &str, name: &str, setting: &str, value: &'static str) -> Result<(), PortError> {
    let path: PathBuf = ["/proc/sys/net", family, "conf", name, setting].iter().collect();
    std::fs::write(&path, value).map_err(|source| PortError::Setting { path, value, source })
}

fn bring_up(ifindex: u32) -> Result<(), PortError> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let netlink = Netlink::open()?;
    let answer = netlink.request(RouteNetlinkMessage::SetLink(link), 0);
    answer.map_err(|errno| PortError::of("bringing up the TUN device", ifindex, errno))?;
    let answer = netlink.request(RouteNetlinkMessage::NewAddress(dummy_address(ifindex)), NLM_F_CREATE);
    answer.map_err(|errno| PortError::of("giving the TUN device an address", ifindex, errno))
}

fn dummy_address(ifindex: u32) -> AddressMessage {
    let dummy = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    message.header.index = ifindex;
    message.attributes = vec![AddressAttribute::Local(dummy), AddressAttribute::Address(dummy)];
    message
}

/// What is behind the Ethernet header and at most two tags, if the EtherType says that it is IP.
fn ip_packet(frame: &[u8]) -> Option<&[u8]> {
    let mut rest = frame.get(ethernet::ETHERTYPE..)?;
    for _ in 0..3 {
        let (ethertype, behind) = rest.split_first_chunk()?;
        match u16::from_be_bytes(*ethertype) {
            ethernet::IPV4 | ethernet::IPV6 => return Some(behind),
            ethernet::VLAN | ethernet::SERVICE_VLAN => rest = rest.get(ethernet::TAG_LEN..)?,
            _ => return None,
        }
    }
    None
}
