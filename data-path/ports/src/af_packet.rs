//! AF_PACKET, packet(7): whole Ethernet frames in and out of one interface.
//!
//! [`Ring`] receives, [`Sender`] sends, and [`Offload`] is the metadata that lets a super-packet or a frame with a
//! partial checksum pass through both unchanged.

mod offload;
mod received;
mod ring;
mod sender;

pub use offload::{Offload, PartialChecksum, SegmentKind, Segmentation};
pub use received::RxFrame;
pub use ring::{Ring, RingOptions, RingStatistics};
pub use sender::{Sender, Sent};

use crate::PortError;
use flowlane_wire::Mac;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A packet socket that belongs to one interface, with the virtio_net header switched on.
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    ifindex: u32,
}

impl PacketSocket {
    /// A socket that receives nothing yet: it has no protocol before it is bound, so no frame of another interface
    /// can slip in.
    pub(crate) fn open(ifindex: u32) -> Result<Self, PortError> {
        if ifindex == 0 || i32::try_from(ifindex).is_err() {
            return Err(PortError::NoSuchInterface(ifindex));
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = nix::sys::socket::socket(AddressFamily::Packet, SockType::Raw, flags, None)
            .map_err(|errno| PortError::of("opening a packet socket", ifindex, errno))?;
        let socket = Self { fd, ifindex };
        socket.set(libc::PACKET_VNET_HDR, &1i32, "asking for virtio_net headers")?;
        Ok(socket)
    }

    /// Starts receiving frames of EtherType `protocol` (0: none, for a socket that only sends) from the interface.
    pub(crate) fn bind(&self, protocol: u16) -> Result<(), PortError> {
        let mut address = NO_ADDRESS;
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = self.ifindex as i32;
        // SAFETY: `address` is an initialised address of the length given, which the kernel only reads.
        let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) };
        Errno::result(result).map(drop).map_err(|errno| self.error("binding", errno))
    }

    /// Sets an option of level SOL_PACKET.
    pub(crate) fn set<T: Copy>(&self, option: i32, value: &T, action: &'static str) -> Result<(), PortError> {
        self.set_at(libc::SOL_PACKET, option, value, action)
    }

    /// Sets an option of any level.
    pub(crate) fn set_at<T: Copy>(
        &self,
        level: i32,
        option: i32,
        value: &T,
        action: &'static str,
    ) -> Result<(), PortError> {
        let (value, len) = ((value as *const T).cast(), size_of::<T>() as libc::socklen_t);
        // SAFETY: `value` points to an initialised T of `len` octets, which the kernel only reads during the call.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, value, len) };
        Errno::result(result).map(drop).map_err(|errno| self.error(action, errno))
    }

    /// Lets only frames through for which the classic BPF program returns other than 0.
    pub(crate) fn filter(&self, program: &[libc::sock_filter]) -> Result<(), PortError> {
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        self.set_at(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program, "attaching a socket filter")
    }

    /// What the kernel has counted since the last call.
    pub(crate) fn statistics(&self) -> Result<libc::tpacket_stats, PortError> {
        let mut counted = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        let (fd, value) = (self.fd.as_raw_fd(), (&raw mut counted).cast());
        // SAFETY: `value` points to `len` octets of a structure of integers, which outlives the call.
        let result = unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &mut len) };
        Errno::result(result).map_err(|errno| self.error("reading the counters", errno))?;
        Ok(counted)
    }

    /// The interface's own Ethernet address now.
    pub(crate) fn mac(&self) -> Result<Mac, PortError> {
        let name = self.name().map_err(|errno| self.error("reading the Ethernet address", errno))?;
        if name.sll_ifindex != self.ifindex as i32 {
            return Err(PortError::InterfaceGone(self.ifindex));
        }
        match (name.sll_hatype, name.sll_halen, name.sll_addr) {
            (libc::ARPHRD_ETHER, 6, [a, b, c, d, e, f, ..]) => Ok(Mac([a, b, c, d, e, f])),
            _ => Err(PortError::Options("the interface is not an Ethernet")),
        }
    }

    /// The error of a system call on this socket. A removed interface is told from one that is down.
    pub(crate) fn error(&self, action: &'static str, errno: Errno) -> PortError {
        if errno == Errno::ENETDOWN && self.is_orphan() {
            return PortError::InterfaceGone(self.ifindex);
        }
        PortError::of(action, self.ifindex, errno)
    }

    /// Whether the interface was removed: the kernel then takes the index out of the bound address.
    pub(crate) fn is_orphan(&self) -> bool {
        self.name().is_ok_and(|name| name.sll_ifindex != self.ifindex as i32)
    }

    /// The index of the interface.
    pub(crate) fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The bound address. By hand, for nix wants 20 octets and the kernel gives as many as the Ethernet address takes.
    fn name(&self) -> Result<libc::sockaddr_ll, Errno> {
        let (mut name, mut len) = (NO_ADDRESS, ADDRESS_LEN);
        // SAFETY: the kernel writes at most `len` octets, the length of `name`, a structure of integers.
        let result = unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut name).cast(), &mut len) };
        Errno::result(result).map(|_| name)
    }
}

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
const NO_ADDRESS: libc::sockaddr_ll = libc::sockaddr_ll {
    sll_family: 0,
    sll_protocol: 0,
    sll_ifindex: 0,
    sll_hatype: 0,
    sll_pkttype: 0,
    sll_halen: 0,
    sll_addr: [0; 8],
};

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// An instruction of a classic BPF program: operation, operand, jump distances.
pub(crate) const fn bpf(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
