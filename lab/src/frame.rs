//! Single frames on an interface: seen by a [`Tap`], sent by an [`Injector`].

use crate::{Error, Link, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};
use std::{mem, panic};

/// Room for the largest segment before it is cut into frames (`GSO_LEGACY_MAX_SIZE` and headers).
const LARGEST: usize = 66_000;
/// How many octets of frames may wait in the kernel for the tap's thread.
const BACKLOG: usize = 64 << 20;
/// How often the tap's thread looks whether it shall stop, in milliseconds.
const GLANCE: u8 = 20;
/// An interface that takes no frame for so long is stuck.
const SEND_TIMEOUT: i64 = 2;
/// Octets of the two Ethernet addresses, behind which a VLAN tag stands.
const ADDRESSES: usize = 12;

/// A frame as it passed an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel saw it.
    pub at: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// The frame from the destination address on, VLAN tags included, without the check sequence. Cut after 66,000
    /// octets, which only the jumbo segments of "BIG TCP" exceed.
    pub bytes: Vec<u8>,
}

/// Which way a frame passed an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// What a [`Tap`] has seen.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Capture {
    /// The frames that passed the filter, in the order in which they passed the interface.
    pub frames: Vec<Frame>,
    /// How many frames were lost before the filter, because they came faster than the tap could take them.
    pub lost: u64,
}

/// Collects the frames of an interface, in a thread, until it is stopped or dropped.
///
/// On a veth, frames are seen as the kernel handles them: not cut into segments and without checksums while
/// [`crate::Offload`]s are on. Frames that an XDP program takes are not seen.
#[derive(Debug)]
pub struct Tap {
    link: Link,
    shared: Arc<Shared>,
    collector: Option<JoinHandle<io::Result<u64>>>,
}

/// Sends frames out of an interface exactly as given.
#[derive(Debug)]
pub struct Injector {
    link: Link,
    socket: OwnedFd,
}

#[derive(Debug, Default)]
struct Shared {
    frames: Mutex<Vec<Frame>>,
    grown: Condvar,
    stop: AtomicBool,
}

impl Tap {
    /// Starts to collect the frames of `link` for which `filter` is true. All frames that pass after the return are
    /// seen.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, or without `CAP_NET_RAW`.
    pub fn start(link: &Link, filter: impl Fn(&Frame) -> bool + Send + 'static) -> Result<Self> {
        let opened = bound_socket(link, libc::ETH_P_ALL as u16)?.and_then(|socket| {
            prepare_capture(&socket)?;
            Ok(socket)
        });
        let socket = opened.map_err(|reason| refused(link, "tap", reason))?;
        let shared = Arc::new(Shared::default());
        let collector = thread::Builder::new().name("tap".into()).spawn({
            let shared = Arc::clone(&shared);
            move || collect(&socket, &shared, filter)
        });
        let collector = collector.map_err(|reason| refused(link, "start a thread to tap", reason))?;
        Ok(Self { link: link.clone(), shared, collector: Some(collector) })
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.shared.frames().clone()
    }

    /// Waits until there are at least `count` frames, and returns all so far.
    ///
    /// # Errors
    /// [`Error::Timeout`] if fewer have come by then.
    pub fn wait_for(&self, count: usize, timeout: Duration) -> Result<Vec<Frame>> {
        let frames = self.shared.frames();
        let waited = self.shared.grown.wait_timeout_while(frames, timeout, |frames| frames.len() < count);
        let (frames, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if frames.len() < count {
            return Err(Error::Timeout {
                netns: self.link.netns().label().to_owned(),
                action: format!("waiting for frame {count} on {} ({} came)", self.link.name(), frames.len()),
                after: timeout,
            });
        }
        Ok(frames.clone())
    }

    /// Stops, and returns everything that passed the interface before.
    ///
    /// # Errors
    /// [`Error::Refused`] if reading failed.
    ///
    /// # Panics
    /// If the filter did.
    pub fn stop(mut self) -> Result<Capture> {
        let lost = match self.join() {
            Some(Ok(counted)) => counted.map_err(|reason| refused(&self.link, "tap", reason))?,
            Some(Err(panic)) => panic::resume_unwind(panic),
            None => 0,
        };
        Ok(Capture { frames: mem::take(&mut *self.shared.frames()), lost })
    }

    fn join(&mut self) -> Option<thread::Result<io::Result<u64>>> {
        self.shared.stop.store(true, Ordering::Release);
        self.collector.take().map(JoinHandle::join)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // A failure nobody asked for is no reason to panic in a destructor.
        let _ = self.join();
    }
}

impl Injector {
    /// Opens an interface for sending.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such interface, or without `CAP_NET_RAW`.
    pub fn open(link: &Link) -> Result<Self> {
        let opened = bound_socket(link, 0)?.and_then(|socket| {
            socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(SEND_TIMEOUT))?;
            Ok(socket)
        });
        let socket = opened.map_err(|reason| refused(link, "open for sending", reason))?;
        Ok(Self { link: link.clone(), socket })
    }

    /// Sends one frame, from the destination address on, without the check sequence.
    ///
    /// # Errors
    /// [`Error::Refused`] if the interface is down, or the frame shorter than an Ethernet header or longer than the MTU.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = socket::send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        let action = || format!("send a frame of {} octets on", frame.len());
        sent.map(|_| ()).map_err(|errno| refused(&self.link, &action(), errno.into()))
    }
}

impl Shared {
    /// A filter that panicked leaves the frames as they were.
    fn frames(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(link: &Link, verb: &str, reason: io::Error) -> Error {
    link.netns().refused(&format!("{verb} {}", link.name()), reason)
}

/// A packet(7) socket for one interface. It has no protocol before it is bound, so that no other interface's frames
/// get in.
fn bound_socket(link: &Link, protocol: u16) -> Result<io::Result<OwnedFd>> {
    let address = link_address(link.index()?, protocol);
    link.netns().run(|| {
        let socket = socket::socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        socket::bind(socket.as_raw_fd(), &address?)?;
        Ok(socket)
    })
}

fn link_address(index: u32, protocol: u16) -> io::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer is to a whole `sockaddr_ll`, of the family that `LinkAddr` checks for, and is only read.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) };
    address.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

#[derive(Clone, Copy)]
struct PacketAuxdata;
nix::setsockopt_impl!(PacketAuxdata, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool, sockopt::SetBool);

#[derive(Clone, Copy)]
struct PacketStatistics;
nix::getsockopt_impl!(
    PacketStatistics,
    libc::SOL_PACKET,
    libc::PACKET_STATISTICS,
    libc::tpacket_stats,
    sockopt::GetStruct<libc::tpacket_stats>
);

#[derive(Clone, Copy)]
struct AttachFilter;
nix::setsockopt_impl!(
    AttachFilter,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog,
    sockopt::SetStruct<'_, libc::sock_fprog>
);

fn prepare_capture(socket: &OwnedFd) -> io::Result<()> {
    socket::setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    socket::setsockopt(socket, PacketAuxdata, &true)?;
    // Root of a user namespace may not exceed the system's limit: it gets as much as it may.
    socket::setsockopt(socket, sockopt::RcvBufForce, &BACKLOG)
        .or_else(|_| socket::setsockopt(socket, sockopt::RcvBuf, &BACKLOG))?;
    Ok(())
}

/// Reads until told to stop, and then what is still there. Returns how many frames were lost.
fn collect(socket: &OwnedFd, shared: &Shared, filter: impl Fn(&Frame) -> bool) -> io::Result<u64> {
    let mut buffer = vec![0; LARGEST];
    let mut control = nix::cmsg_space!(TimeSpec, libc::tpacket_auxdata);
    loop {
        let stop = shared.stop.load(Ordering::Acquire);
        if stop {
            take_no_more(socket)?;
        }
        while let Some(frame) = receive(socket, &mut buffer, &mut control)? {
            if filter(&frame) {
                shared.frames().push(frame);
                shared.grown.notify_all();
            }
            if !stop && shared.stop.load(Ordering::Acquire) {
                break;
            }
        }
        if stop {
            let counted = socket::getsockopt(socket, PacketStatistics)?;
            return Ok(counted.tp_drops.into());
        }
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], GLANCE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Lets the socket drop what comes from now on, so that reading what is there comes to an end on a busy interface too.
fn take_no_more(socket: &OwnedFd) -> io::Result<()> {
    let mut drop_all = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut drop_all };
    Ok(socket::setsockopt(socket, AttachFilter, &program)?)
}

/// The next frame that waits, if there is one.
fn receive(socket: &OwnedFd, buffer: &mut [u8], control: &mut [u8]) -> io::Result<Option<Frame>> {
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match socket::recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(control), flags) {
            Ok(message) => {
                let (mut at, mut tag) = (None, None);
                for extra in message.cmsgs()? {
                    match extra {
                        ControlMessageOwned::ScmTimestampns(time) => at = Some(SystemTime::UNIX_EPOCH + time.into()),
                        ControlMessageOwned::Unknown(other) => tag = tag.or(vlan_tag(&other.data_bytes)),
                        _ => {}
                    }
                }
                let sent = message.address.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                let direction = if sent { Direction::Out } else { Direction::In };
                let len = message.bytes;
                let bytes = with_tag(buffer.get(..len).unwrap_or(buffer), tag);
                return Ok(Some(Frame { at: at.unwrap_or_else(SystemTime::now), direction, bytes }));
            }
            // The interface went down; it may come up again.
            Err(Errno::EINTR | Errno::ENETDOWN) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The VLAN tag that the kernel has taken out of the frame, from its `struct tpacket_auxdata`.
fn vlan_tag(auxdata: &[u8]) -> Option<[u8; 4]> {
    let status = u32::from_ne_bytes(*auxdata.first_chunk()?);
    let control = u16::from_ne_bytes(*auxdata.get(16..)?.first_chunk()?);
    let kind = u16::from_ne_bytes(*auxdata.get(18..)?.first_chunk()?);
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let [a, b] = kind.to_be_bytes();
    let [c, d] = control.to_be_bytes();
    Some([a, b, c, d])
}

/// The frame as it is on the wire.
fn with_tag(frame: &[u8], tag: Option<[u8; 4]>) -> Vec<u8> {
    match (tag, frame.split_at_checked(ADDRESSES)) {
        (Some(tag), Some((addresses, rest))) => [addresses, &tag, rest].concat(),
        _ => frame.to_vec(),
    }
}
