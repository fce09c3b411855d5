//! Frames out.

use super::{Offload, PacketSocket};
use crate::PortError;
use nix::errno::Errno;
use std::os::fd::AsRawFd;

/// Sends frames out of one interface.
pub struct Sender {
    socket: PacketSocket,
}

/// What became of the frames of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Handed to the interface.
    pub sent: usize,
    /// Longer than the interface's MTU allows, and not a super-packet.
    pub too_long: usize,
    /// No room in the interface's queue, or in the socket's buffer.
    pub no_room: usize,
    /// Not an Ethernet frame, or its offload contradicts its headers.
    pub malformed: usize,
}

/// The frames of one system call.
const BATCH: usize = 32;
/// No more octets than this of a super-packet need to be contiguous: all headers are in them.
const LINEAR: u16 = 512;

impl Sender {
    /// A socket that sends out of the interface `ifindex`, by way of its queueing discipline, and receives nothing.
    ///
    /// # Errors
    /// [`PortError::NotPermitted`] without CAP_NET_RAW, [`PortError::NoSuchInterface`].
    pub fn open(ifindex: u32) -> Result<Self, PortError> {
        let socket = PacketSocket::open(ifindex)?;
        socket.bind(0)?;
        Ok(Self { socket })
    }

    /// A socket as [`Sender::open`] makes it whose frames go past the interface's queueing discipline and its tc programs,
    /// straight to the driver (`PACKET_QDISC_BYPASS` of packet(7)).
    ///
    /// # Errors
    /// As [`Sender::open`].
    pub fn open_past_queue(ifindex: u32) -> Result<Self, PortError> {
        let sender = Self::open(ifindex)?;
        sender.socket.set(libc::PACKET_QDISC_BYPASS, &1i32, "going past the queueing discipline")?;
        Ok(sender)
    }

    /// Sends frames in order. A frame that the kernel refuses is counted and does not hold up those behind it; the
    /// call never blocks. VLAN tags stand in the frames' octets and arrive as tags.
    ///
    /// # Errors
    /// [`PortError::InterfaceDown`] and [`PortError::InterfaceGone`]: no more frames of this call were sent.
    pub fn send(&mut self, frames: &[(&[u8], Offload)]) -> Result<Sent, PortError> {
        self.socket.send(frames)
    }

    /// Sends one frame, as [`Sender::send`] does.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send_one(&mut self, frame: &[u8], offload: Offload) -> Result<Sent, PortError> {
        self.send(&[(frame, offload)])
    }
}

impl PacketSocket {
    /// As [`Sender::send`].
    pub(crate) fn send(&self, frames: &[(&[u8], Offload)]) -> Result<Sent, PortError> {
        let mut sent = Sent::default();
        let mut rest = frames;
        while !rest.is_empty() {
            let done = match self.send_some(rest) {
                Ok(count) => {
                    sent.sent += count;
                    count
                }
                Err(errno) => {
                    *self.outcome(&mut sent, errno)? += 1;
                    1
                }
            };
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(sent)
    }

    /// How many frames of the front went out with one system call, at least one; or why the first did not.
    fn send_some(&self, frames: &[(&[u8], Offload)]) -> Result<usize, Errno> {
        let count = frames.len().min(BATCH);
        let mut headers = [[0u8; Offload::HEADER_LEN]; BATCH];
        let mut parts = [[EMPTY; 2]; BATCH];
        let mut messages = [NO_MESSAGE; BATCH];
        let slots = headers.iter_mut().zip(&mut parts).zip(&mut messages);
        for ((frame, offload), ((header, parts), message)) in frames.iter().zip(slots) {
            *header = linear(*offload).to_header();
            *parts = [part(header), part(frame)];
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len() as _;
        }
        let (fd, flags) = (self.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: the first `count` (at most BATCH) messages point to `parts`, and these to `headers` and `frames`,
        // all of which outlive the call. The kernel reads them, and writes only the messages' lengths.
        let result = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count as u32, flags) };
        Errno::result(result).map(|count| count as usize)
    }

    /// The counter for a refused frame.
    fn outcome<'a>(&self, sent: &'a mut Sent, errno: Errno) -> Result<&'a mut usize, PortError> {
        match errno {
            Errno::EMSGSIZE => Ok(&mut sent.too_long),
            Errno::ENOBUFS | Errno::EAGAIN | Errno::ENOMEM => Ok(&mut sent.no_room),
            Errno::EINVAL => Ok(&mut sent.malformed),
            errno => Err(self.error("sending frames", errno)),
        }
    }
}

const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
// SAFETY: a message header of zeroes is valid: no address, no parts, no control data.
const NO_MESSAGE: libc::mmsghdr = unsafe { std::mem::zeroed() };

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// A host that built a super-packet in one piece reports all of it as headers; the kernel would look for as much
/// contiguous memory again.
fn linear(offload: Offload) -> Offload {
    let segmentation =
        offload.segmentation.map(|of| super::Segmentation { header_len: of.header_len.min(LINEAR), ..of });
    Offload { segmentation, ..offload }
}
