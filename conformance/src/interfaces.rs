//! An interface for each port, and what is sent by them.

use crate::Error;
use flowlane_lab::{End, Netns, veth};
use flowlane_wire::PortId;
use nix::{
    errno::Errno,
    libc::PACKET_OUTGOING,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt},
};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

/// Ports that have an interface: 1 to one less than this.
const PORTS: u16 = 16;
/// Larger than every frame of a test.
const MTU: u32 = 65_000;
/// Octets of sent frames that may wait to be taken.
const BACKLOG: usize = 16 << 20;

/// A network namespace of its own, with an interface for each port that takes every frame and leads to nobody.
///
/// The copies that tc sends leave by them even in a test run; here they are seen, in their order over all ports.
#[derive(Debug)]
pub struct Interfaces {
    indexes: Vec<u32>,
    socket: OwnedFd,
}

impl Interfaces {
    /// Runs `work` in a thread in the namespace, which test runs have to be done in.
    ///
    /// # Errors
    /// [`Error`] without root.
    pub fn with<T: Send>(work: impl FnOnce(&Arc<Self>) -> T + Send) -> Result<T, Error> {
        let (netns, nobody) = (quiet("switch")?, quiet("nobody")?);
        let indexes = (1..PORTS).map(|port| cable(&netns, &nobody, port)).collect::<Result<_, _>>()?;
        netns.run(|| {
            let socket = watch().map_err(|errno| Error::Watch(errno.into()))?;
            Ok(work(&Arc::new(Self { indexes, socket })))
        })?
    }

    /// The ports that have an interface.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + use<> {
        (1..PORTS).map(PortId)
    }

    /// The interface index of a port; 0 for one without interface.
    pub fn index(&self, port: PortId) -> u32 {
        let place = usize::from(port.0).wrapping_sub(1);
        self.indexes.get(place).copied().unwrap_or(0)
    }

    /// The frames that have been sent since this was last asked, with the port of each.
    ///
    /// # Errors
    /// [`Error::Watch`] if more was sent than can wait.
    pub fn sent(&self) -> Result<Vec<(PortId, Vec<u8>)>, Error> {
        let (mut sent, mut buffer) = (Vec::new(), vec![0; MTU as usize + 64]);
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((len, Some(from))) if from.pkttype() == PACKET_OUTGOING => {
                    let place = self.indexes.iter().position(|index| *index as usize == from.ifindex());
                    sent.extend(place.map(|place| (PortId(place as u16 + 1), buffer[..len].to_vec())));
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(sent),
                Err(errno) => return Err(Error::Watch(errno.into())),
            }
        }
    }
}

/// A namespace whose interfaces say nothing of their own accord.
pub(crate) fn quiet(label: &str) -> Result<Netns, Error> {
    let netns = Netns::new(label)?;
    for key in ["net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"] {
        netns.sysctl(key, "1")?;
    }
    Ok(netns)
}

/// The index of a new interface at the switch, whose cable ends where nobody is.
fn cable(switch: &Netns, nobody: &Netns, port: u16) -> Result<u32, Error> {
    let (near, far) = (format!("d{port}"), format!("n{port}"));
    let end = |netns, name| End { netns, name, mac: None };
    let (near, far) = veth(end(switch, &near), end(nobody, &far))?;
    near.set_mtu(MTU)?;
    far.set_mtu(MTU)?;
    near.connect(&far)?;
    Ok(near.index()?)
}

/// A packet socket for all interfaces of this thread's namespace.
fn watch() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BACKLOG)?;
    Ok(socket)
}
