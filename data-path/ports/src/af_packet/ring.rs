//! Frames in, by a ring that is shared with the kernel.
//!
//! The ring is of version TPACKET_V2: the kernel hands over each frame as it arrives. TPACKET_V3 fills whole blocks
//! and hands them over when they are full or at a timer's tick, a millisecond at the best, which a switch would add
//! to every hop. What V3 is liked for, many small frames in little memory and large frames whole, is had with V2 by
//! small slots and `PACKET_COPY_THRESH`: a frame that does not fit its slot waits in the socket's queue as well, and
//! its slot says so.

use super::{Offload, PacketSocket, RxFrame};
use crate::PortError;
use flowlane_wire::header::ethernet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How large a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// How many frames can wait: a power of two.
    pub slots: u32,
    /// Octets of a slot, of which about 100 are the kernel's: a power of two from 256 to 65,536. Longer frames
    /// are received too, by a system call each: choose more for a port that has mostly jumbo frames. In a user
    /// namespace, which may not have a queue for long frames, slots are 256 at most and of 65,536 octets.
    pub slot_len: u32,
    /// How many frames [`Ring::receive`] hands over at once, 1 to 256.
    pub batch: u32,
    /// Octets of the longest frame, without its outer VLAN tag; longer ones are counted as truncated. The default has
    /// room for super-packets of 64 KiB.
    pub max_frame: u32,
    /// Receive frames to whatever address. A switch must, for the flow addresses are not the interface's own.
    pub promiscuous: bool,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { slots: 2048, slot_len: 2048, batch: 32, max_frame: 65_536 + 64, promiscuous: true }
    }
}

/// A receiving port.
pub struct Ring {
    socket: PacketSocket,
    slots: Slots,
    /// The slot that the kernel fills next, as far as we know.
    head: usize,
    batch: usize,
    /// Room for the frames of a batch that did not fit their slots. Grows to the batch's length at most.
    large: Vec<Box<[u8]>>,
    max_frame: usize,
    statistics: RingStatistics,
    /// The kernel reports once that an interface went down; this keeps a report that came at another call.
    went_down: bool,
}

/// Counters since the ring was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStatistics {
    /// Frames that the kernel put into the ring.
    pub received: u64,
    /// Frames that found the ring full.
    pub dropped: u64,
    /// Frames not delivered because they are longer than `max_frame`, or came while the queue of long frames was full.
    pub truncated: u64,
    /// Frames not delivered because they are super-packets of a kind that can not be sent on.
    pub unsupported: u64,
}

impl Ring {
    /// A ring that receives every frame that comes in by the interface `ifindex`, and none that go out.
    ///
    /// # Errors
    /// [`PortError::NotPermitted`] without CAP_NET_RAW, [`PortError::NoSuchInterface`], [`PortError::Options`].
    pub fn open(ifindex: u32, options: RingOptions) -> Result<Self, PortError> {
        check(&options)?;
        let socket = PacketSocket::open(ifindex)?;
        socket.set(libc::PACKET_IGNORE_OUTGOING, &1i32, "ignoring outgoing frames")?;
        socket.set(libc::PACKET_COPY_THRESH, &1i32, "asking for long frames")?;
        let options = if has_long_queue(&socket)? { options } else { large_slots(options) };
        let slots = Slots::map(&socket, options.slots, options.slot_len)?;
        if options.promiscuous {
            join_promiscuous(&socket)?;
        }
        socket.bind(libc::ETH_P_ALL as u16)?;
        Ok(Self {
            socket,
            slots,
            head: 0,
            batch: options.batch as usize,
            large: Vec::new(),
            max_frame: options.max_frame as usize,
            statistics: RingStatistics::default(),
            went_down: false,
        })
    }

    /// Waits until a frame is there (true) or the time is over (false).
    ///
    /// # Errors
    /// [`PortError::InterfaceDown`], once each time the interface goes down: wait again, the ring goes on by itself
    /// when the interface is up. [`PortError::InterfaceGone`], from then on at every call: the ring is of no use.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, PortError> {
        if self.slots.is_filled(self.head) {
            return Ok(true);
        }
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(self.socket.error("waiting for frames", errno)),
        }
        let failed = polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
        self.check_interface(failed)?;
        Ok(self.slots.is_filled(self.head))
    }

    /// Hands the frames that are there, one batch at most, to `handle`, and gives their slots back afterwards. Does
    /// not wait. Returns how many slots were emptied: 0 says that the ring is empty.
    pub fn receive(&mut self, handle: impl FnOnce(&mut [RxFrame<'_>])) -> usize {
        let ready = (0..self.batch).take_while(|n| self.slots.is_filled(self.head + n)).count();
        let long = self.fetch_long(ready);
        let mut frames = Vec::with_capacity(ready);
        let mut long = self.large.iter_mut().zip(long);
        for n in 0..ready {
            let (header, bytes) = self.slots.filled(self.head + n);
            let found = if header.tp_status & libc::TP_STATUS_COPY != 0 {
                long.next().and_then(|(buffer, len)| buffer.get_mut(..ROOM + len?)).map(|bytes| (bytes, ROOM))
            } else {
                in_slot(&header, bytes, self.max_frame)
            };
            match found.map(|(bytes, start)| frame(&header, bytes, start)) {
                Some(Some(frame)) => frames.push(frame),
                Some(None) => self.statistics.unsupported += 1,
                None => self.statistics.truncated += 1,
            }
        }
        if !frames.is_empty() {
            handle(&mut frames);
        }
        for n in 0..ready {
            self.slots.give_back(self.head + n);
        }
        self.head = self.slots.wrap(self.head + ready);
        ready
    }

    /// The counters until now.
    ///
    /// # Errors
    /// [`PortError::System`] where the kernel does not answer.
    pub fn statistics(&mut self) -> Result<RingStatistics, PortError> {
        let counted = self.socket.statistics()?;
        // The kernel counts dropped frames as packets too, and starts again at 0 after each reading.
        self.statistics.received += u64::from(counted.tp_packets.saturating_sub(counted.tp_drops));
        self.statistics.dropped += u64::from(counted.tp_drops);
        Ok(self.statistics)
    }

    /// Takes the long frames of the next `ready` slots out of the socket's queue. The lengths of those that are
    /// whole, in order.
    fn fetch_long(&mut self, ready: usize) -> Vec<Option<usize>> {
        let is_long = |n: &usize| self.slots.header(self.head + n).tp_status & libc::TP_STATUS_COPY != 0;
        let count = (0..ready).filter(is_long).count();
        while self.large.len() < count {
            self.large.push(vec![0; ROOM + self.max_frame].into_boxed_slice());
        }
        (0..count).map(|n| self.fetch_one(n)).collect()
    }

    fn fetch_one(&mut self, n: usize) -> Option<usize> {
        let buffer = self.large.get_mut(n)?.get_mut(ROOM - Offload::HEADER_LEN..)?;
        loop {
            let (fd, flags) = (self.socket.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
            // SAFETY: the kernel writes at most `buffer.len()` octets into `buffer`, which outlives the call.
            let result = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
            match Errno::result(result) {
                // With MSG_TRUNC the length is that of the whole frame.
                Ok(len) if len as usize > buffer.len() => return None,
                Ok(len) => return (len as usize).checked_sub(Offload::HEADER_LEN),
                // A pending report about the interface comes before the frame: keep it for `wait`.
                Err(Errno::ENETDOWN) => self.went_down = true,
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn check_interface(&mut self, failed: bool) -> Result<(), PortError> {
        if failed {
            // Reading the pending error takes it away, so that the next poll waits.
            let error = nix::sys::socket::getsockopt(&self.socket, nix::sys::socket::sockopt::SocketError);
            self.went_down |= error != Ok(0);
        }
        if self.socket.is_orphan() {
            return Err(PortError::InterfaceGone(self.socket.ifindex()));
        }
        if std::mem::take(&mut self.went_down) {
            return Err(PortError::InterfaceDown(self.socket.ifindex()));
        }
        Ok(())
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Octets before a long frame in its buffer: the virtio_net header, and the tag that takes its place.
const ROOM: usize = 16;

fn check(options: &RingOptions) -> Result<(), PortError> {
    if !options.slots.is_power_of_two() || !options.slot_len.is_power_of_two() {
        return Err(PortError::Options("slots and slot length of a ring must be powers of two"));
    }
    if !(256..=65_536).contains(&options.slot_len) {
        return Err(PortError::Options("the slot length of a ring must be from 256 to 65536 octets"));
    }
    let len = u64::from(options.slots) * u64::from(options.slot_len);
    if !(u64::from(BLOCK)..=1 << 30).contains(&len) {
        return Err(PortError::Options("all slots of a ring together must be from 64 KiB to 1 GiB"));
    }
    if !(1..=256).contains(&options.batch) || options.batch > options.slots {
        return Err(PortError::Options("the batch of a ring must be from 1 to 256 frames, and fit the ring"));
    }
    if !(60..=1 << 20).contains(&options.max_frame) {
        return Err(PortError::Options("the longest frame of a ring must be from 60 octets to 1 MiB"));
    }
    Ok(())
}

/// Makes room for long frames in the socket's queue; false where the system's limit holds, as in a user namespace,
/// and leaves room for a few super-packets only.
fn has_long_queue(socket: &PacketSocket) -> Result<bool, PortError> {
    const OCTETS: i32 = 8 << 20;
    match socket.set_at(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &OCTETS, "sizing the queue of long frames") {
        Ok(()) => Ok(true),
        Err(PortError::NotPermitted { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Fewer slots, of which each has room for the usual super-packet.
fn large_slots(options: RingOptions) -> RingOptions {
    const LEN: u32 = 65_536;
    if options.slot_len >= options.max_frame.min(LEN) {
        return options;
    }
    RingOptions { slots: options.slots.min(256), slot_len: LEN, batch: options.batch.min(256), ..options }
}

fn join_promiscuous(socket: &PacketSocket) -> Result<(), PortError> {
    let membership = libc::packet_mreq {
        mr_ifindex: socket.ifindex() as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    socket.set(libc::PACKET_ADD_MEMBERSHIP, &membership, "making the interface promiscuous")
}

/// The frame in a slot and where it starts, if the slot has all of it and it is not over the limit.
fn in_slot<'a>(header: &libc::tpacket2_hdr, slot: &'a mut [u8], max_frame: usize) -> Option<(&'a mut [u8], usize)> {
    let start = usize::from(header.tp_mac).checked_sub(libc::TPACKET2_HDRLEN)?;
    let is_whole = header.tp_snaplen == header.tp_len && header.tp_len as usize <= max_frame;
    if !is_whole || start < Offload::HEADER_LEN {
        return None;
    }
    slot.get_mut(..start + header.tp_snaplen as usize).map(|bytes| (bytes, start))
}

/// The frame that starts at `start` of `bytes` and goes to its end, behind its virtio_net header. None where it is a
/// super-packet of an unknown kind.
fn frame<'a>(header: &libc::tpacket2_hdr, bytes: &'a mut [u8], start: usize) -> Option<RxFrame<'a>> {
    let virtio = bytes.get(..start)?.last_chunk().copied()?;
    let offload = Offload::from_header(virtio)?;
    let timestamp = Duration::new(u64::from(header.tp_sec), header.tp_nsec);
    if header.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return Some(RxFrame { bytes: bytes.get_mut(start..)?, offload, timestamp });
    }
    let known = header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let tag = [if known { header.tp_vlan_tpid } else { ethernet::VLAN }, header.tp_vlan_tci];
    let bytes = insert_tag(bytes.get_mut(start - ethernet::TAG_LEN..)?, tag)?;
    Some(RxFrame { bytes, offload: offload.shifted(ethernet::TAG_LEN as u16), timestamp })
}

/// Puts the tag that the kernel took out back in: the addresses move four octets to the front of `room_and_frame`,
/// over the end of the virtio_net header, which has been read.
fn insert_tag(room_and_frame: &mut [u8], [tpid, tci]: [u16; 2]) -> Option<&mut [u8]> {
    let moved = room_and_frame.get_mut(..ethernet::ETHERTYPE + ethernet::TAG_LEN)?;
    moved.copy_within(ethernet::TAG_LEN.., 0);
    let (_, tag) = moved.split_last_chunk_mut::<4>()?;
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    *tag = [a, b, c, d];
    Some(room_and_frame)
}

/// The unit in which the kernel allocates a ring: a power of two, so that slots lie one behind the other.
const BLOCK: u32 = 65_536;

/// The memory shared with the kernel: `count` slots of `len` octets, both powers of two.
struct Slots {
    base: NonNull<u8>,
    count: usize,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Slots {}

impl Slots {
    fn map(socket: &PacketSocket, count: u32, len: u32) -> Result<Self, PortError> {
        let request = libc::tpacket_req {
            tp_block_size: BLOCK,
            tp_block_nr: count * len / BLOCK,
            tp_frame_size: len,
            tp_frame_nr: count,
        };
        let version = libc::tpacket_versions::TPACKET_V2 as i32;
        socket.set(libc::PACKET_VERSION, &version, "choosing the ring's version")?;
        socket.set(libc::PACKET_RX_RING, &request, "allocating the ring")?;
        let (count, len) = (count as usize, len as usize);
        let octets = NonZeroUsize::new(count * len).ok_or(PortError::Options("the ring has no slots"))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of the length just allocated.
        let base = unsafe { nix::sys::mman::mmap(None, octets, protection, MapFlags::MAP_SHARED, socket, 0) };
        let base = base.map_err(|errno| socket.error("mapping the ring", errno))?;
        Ok(Self { base: base.cast(), count, len })
    }

    fn wrap(&self, n: usize) -> usize {
        n & (self.count - 1)
    }

    fn slot(&self, n: usize) -> NonNull<u8> {
        // SAFETY: a wrapped number is below `count`, so the slot lies in the mapping of `count * len` octets.
        unsafe { self.base.add(self.wrap(n) * self.len) }
    }

    fn status(&self, n: usize) -> &AtomicU32 {
        // SAFETY: a slot starts with its header, and this with tp_status; slots are aligned to 256 octets or more.
        // The kernel writes the field atomically as well.
        unsafe { AtomicU32::from_ptr(self.slot(n).cast().as_ptr()) }
    }

    /// Whether the kernel has filled the slot, and it is ours until given back.
    fn is_filled(&self, n: usize) -> bool {
        self.status(n).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    fn give_back(&self, n: usize) {
        self.status(n).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }

    /// The header of a filled slot.
    fn header(&self, n: usize) -> libc::tpacket2_hdr {
        // SAFETY: the header lies at the start of the slot, is aligned, and holds integers only.
        unsafe { self.slot(n).cast().read() }
    }

    /// The header of a filled slot, and all octets behind it. Callers ask once for each slot before they give it back.
    fn filled<'a>(&self, n: usize) -> (libc::tpacket2_hdr, &'a mut [u8]) {
        debug_assert!(self.is_filled(n));
        let start = libc::TPACKET2_HDRLEN;
        // SAFETY: `len` is 256 at least, so the octets from the header's end to the slot's lie in the mapping. The
        // slot is filled, so the kernel does not write it, and `receive` takes each slot once and gives it back only
        // after the slice's last use.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.slot(n).add(start).as_ptr(), self.len - start) };
        (self.header(n), bytes)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no slice of it outlives `receive`.
        let unmapped = unsafe { nix::sys::mman::munmap(self.base.cast(), self.count * self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}
