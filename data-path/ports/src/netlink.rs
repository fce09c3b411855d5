//! Requests to the kernel by rtnetlink(7), one at a time and blocking: a port needs a handful in its life.

use crate::PortError;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

/// A connection to the network namespace in which it was opened, whatever namespace a later caller is in.
pub(crate) struct Netlink {
    socket: Socket,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, PortError> {
        let failed = |source| PortError::System { action: "opening a netlink socket", source };
        let socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Sends a request and waits for the kernel's answer.
    pub(crate) fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Errno> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|error| errno(&error))?;
        self.acknowledgement()
    }

    fn acknowledgement(&self) -> Result<(), Errno> {
        let (bytes, _) = self.socket.recv_from_full().map_err(|error| errno(&error))?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).map_err(|_| Errno::EBADMSG)?;
        match answer.payload {
            NetlinkPayload::Error(error) => match error.code {
                None => Ok(()),
                Some(code) => Err(Errno::from_raw(code.get().saturating_neg())),
            },
            _ => Err(Errno::EBADMSG),
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
