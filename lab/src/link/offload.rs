//! Offloads of an interface, by the ethtool ioctl.

use super::Link;
use crate::{Error, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::AsRawFd;

/// Work that a sender leaves to the interface, so that frames on a veth are not yet what a wire would carry.
///
/// A program that forwards frames itself (XDP, `AF_PACKET`) needs [`Offload::TxChecksum`] off at the sending hosts:
/// else TCP and UDP checksums are never filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offload {
    /// Checksums are filled in by the interface. Switching it off also switches off segmentation.
    TxChecksum,
    /// Received segments are merged.
    Gro,
    /// TCP segments are cut by the interface.
    Tso,
    /// Segments are cut as late as possible, in software.
    Gso,
}

impl Offload {
    /// The commands that read and write the switch, linux/ethtool.h.
    const fn commands(self) -> (u32, u32) {
        match self {
            Self::TxChecksum => (0x16, 0x17),
            Self::Tso => (0x1e, 0x1f),
            Self::Gso => (0x23, 0x24),
            Self::Gro => (0x2b, 0x2c),
        }
    }
}

impl Link {
    /// Whether an offload is on.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface.
    pub fn offload(&self, offload: Offload) -> Result<bool> {
        let (read, _) = offload.commands();
        let value = self.ethtool(&format!("read the offload {offload:?} of"), read, 0)?;
        Ok(value != 0)
    }

    /// Switches an offload on or off.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, or it does not let go of the offload.
    pub fn set_offload(&self, offload: Offload, on: bool) -> Result<()> {
        let (_, write) = offload.commands();
        let verb = format!("switch {} the offload {offload:?} of", if on { "on" } else { "off" });
        self.ethtool(&verb, write, u32::from(on))?;
        // The kernel accepts a wish that another setting overrules, and says nothing.
        if self.offload(offload)? == on {
            return Ok(());
        }
        let reason = io::Error::other("the interface keeps it as it was, because of the state of another offload");
        Err(self.refused(&verb, reason))
    }

    fn ethtool(&self, verb: &str, command: u32, data: u32) -> Result<u32> {
        self.netns.run(|| ioctl(&self.name, command, data))?.map_err(|reason| self.refused(verb, reason))
    }

    fn refused(&self, verb: &str, reason: io::Error) -> Error {
        self.netns.refused(&format!("{verb} {}", self.name), reason)
    }
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

nix::ioctl_readwrite_bad!(
    /// ethtool request: the data of `ifreq` points to a [`Value`].
    siocethtool,
    libc::SIOCETHTOOL,
    libc::ifreq
);

fn ioctl(name: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { command, data };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // Leaves the closing zero in place.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    // SAFETY: `socket` is open. `request` and the `value` that it points to outlive the call. The commands of
    // `Offload::commands` make the kernel read and write an ethtool_value there, nothing longer.
    unsafe { siocethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(value.data)
}
