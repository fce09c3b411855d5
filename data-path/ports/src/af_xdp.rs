//! AF_XDP: frames between the driver and this process, past the network stack (Documentation/networking/af_xdp.rst).
//!
//! A [`Receiver`] is one receive queue of an interface, a [`Transmitter`] the way out of it, and both share a socket. An XDP
//! program has to redirect frames to the socket. The card reads and writes this process's memory where its driver can
//! (zero copy), and the kernel copies where it can not, as on veth: the kernel chooses.
//!
//! Frames carry no offloads: as for every XDP program, their sender has to compute checksums and cut segments itself. And
//! they are in one buffer each, so the port's MTU is [`MTU_MAX`] at most.

use crate::{
    PortError,
    af_packet::{Offload, RxFrame},
};
use flowlane_wire::header::ethernet;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use xdp::{
    CompletionRing, Packet, RingConfigBuilder, RxRing, Umem, WakableFillRing, WakableTxRing,
    nic::NicIndex,
    slab::{HeapSlab, Slab as _},
    socket::{SocketError, XdpSocket, XdpSocketBuilder},
    umem::{FrameSize, UmemCfgBuilder},
};

/// The longest MTU of a port, in octets: a page holds the frame, two tags, and what the kernel keeps before and behind it.
pub const MTU_MAX: u32 = 3_506 - 2 * ethernet::TAG_LEN as u32;

/// How many frames can wait on their way in, and as many on their way out.
const RING: u32 = 2_048;
/// How many frames [`Receiver::receive`] hands over at once.
const BATCH: usize = 64;
/// How many frames the kernel sends with one call where it copies.
const SENT_BY_CALL: usize = 32;
/// How long the kernel may take to give a queue back after its former socket was closed.
const RELEASE: Duration = Duration::from_secs(2);

/// Opens the queues of an interface, from the first to the last: there must be a thread for each.
///
/// # Errors
/// [`PortError::NotPermitted`] without CAP_NET_RAW, [`PortError::NoSuchInterface`], [`PortError::System`] where somebody
/// else has the queue, or the kernel has no AF_XDP (CONFIG_XDP_SOCKETS).
pub fn open(ifindex: u32) -> Result<Vec<(Receiver, Transmitter)>, PortError> {
    let mut queues = Vec::new();
    for queue in 0.. {
        match open_queue(ifindex, queue) {
            Ok(opened) => queues.push(opened),
            // There is no such queue.
            Err(Errno::EINVAL) if queue > 0 => break,
            Err(errno) => return Err(PortError::of("opening an AF_XDP socket", ifindex, errno)),
        }
    }
    Ok(queues)
}

/// Frames that come in by one queue.
pub struct Receiver {
    shared: Arc<Shared>,
    ring: RxRing,
    fill: WakableFillRing,
    received: HeapSlab,
    batch: Vec<Packet>,
}

/// The way out of an interface, by one queue. Handles are cheap, and of no use when the receiver is gone.
#[derive(Clone)]
pub struct Transmitter(Weak<Shared>);

/// What both have. The socket is closed before its memory is given back, and the memory before the rings.
struct Shared {
    ifindex: u32,
    socket: XdpSocket,
    outgoing: Mutex<Outgoing>,
}

/// Frames on their way out, and the memory that all frames are in.
struct Outgoing {
    memory: Umem,
    ring: WakableTxRing,
    completed: CompletionRing,
    queued: HeapSlab,
}

// SAFETY: packets point into `Umem`'s mapping, which belongs to no thread, and which `Shared` keeps as long as the receiver.
unsafe impl Send for Receiver {}
// SAFETY: as above; the slab is empty but while the lock is held.
unsafe impl Send for Outgoing {}

fn open_queue(ifindex: u32, queue: u32) -> Result<(Receiver, Transmitter), Errno> {
    let start = Instant::now();
    loop {
        match bind(ifindex, queue) {
            // A socket that was closed a moment ago keeps its queue until the kernel has cleared up behind it.
            Err(Errno::EBUSY) if start.elapsed() < RELEASE => thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

fn bind(ifindex: u32, queue: u32) -> Result<(Receiver, Transmitter), Errno> {
    let wrong = |_| Errno::EINVAL;
    let memory = UmemCfgBuilder { frame_size: FrameSize::FourK, frame_count: 2 * RING, ..Default::default() };
    let mut memory = Umem::map(memory.build().map_err(wrong)?).map_err(|error| errno_of(&error))?;
    let rings = RingConfigBuilder { rx_count: RING, tx_count: RING, fill_count: RING, completion_count: RING };
    let mut socket = XdpSocketBuilder::new().map_err(|error| reason(&error))?;
    let built = socket.build_wakable_rings(&memory, rings.build().map_err(wrong)?);
    let (rings, flags) = built.map_err(|error| reason(&error))?;
    let (Some(receiving), Some(sending)) = (rings.rx_ring, rings.tx_ring) else { return Err(Errno::EINVAL) };
    let mut fill = rings.fill_ring;
    // SAFETY: `Shared` keeps the memory as long as the socket.
    unsafe { fill.enqueue(&mut memory, RING as usize, false) }.map_err(|error| errno_of(&error))?;
    // Zero copy is tried first: that is what no flag for it means.
    let socket = socket.bind(NicIndex::new(ifindex), queue, flags).map_err(|error| reason(&error))?;
    let queued = HeapSlab::with_capacity(RING as usize);
    let outgoing = Outgoing { memory, ring: sending, completed: rings.completion_ring, queued };
    let shared = Arc::new(Shared { ifindex, socket, outgoing: Mutex::new(outgoing) });
    let transmitter = Transmitter(Arc::downgrade(&shared));
    let (received, batch) = (HeapSlab::with_capacity(BATCH), Vec::with_capacity(BATCH));
    Ok((Receiver { shared, ring: receiving, fill, received, batch }, transmitter))
}

impl Receiver {
    /// Waits until a frame is there (true) or the time is over (false). Where the driver wants to be told that there is
    /// memory again, it is.
    ///
    /// An interface that is down is silent; one that is removed is, too, for good.
    ///
    /// # Errors
    /// [`PortError::System`] where the kernel does not wait.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, PortError> {
        if self.take() > 0 {
            return Ok(true);
        }
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut polled, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(PortError::of("waiting for frames", self.shared.ifindex, errno)),
        }
    }

    /// Hands the frames that are there, one batch at most, to `handle`, and gives their memory back afterwards. Does not
    /// wait. How many there were.
    pub fn receive(&mut self, handle: impl FnOnce(&mut [RxFrame<'_>])) -> usize {
        let count = self.take();
        if count == 0 {
            return 0;
        }
        self.batch.extend(std::iter::from_fn(|| self.received.pop_back()));
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let frame = |packet| RxFrame { bytes: packet, offload: Offload::default(), timestamp };
        handle(&mut self.batch.iter_mut().map(|packet| frame(&mut **packet)).collect::<Vec<_>>());
        self.give_back();
        count
    }

    /// Frames that were lost before they came here, since the socket was opened: there was no room for them, or they were
    /// longer than a buffer.
    ///
    /// # Errors
    /// [`PortError::System`] where the kernel does not answer.
    pub fn lost(&self) -> Result<u64, PortError> {
        let failed = |error: SocketError| PortError::of("reading the counters", self.shared.ifindex, reason(&error));
        let statistics = self.shared.socket.statistics().map_err(failed)?;
        Ok(statistics.rx_dropped + statistics.rx_ring_full)
    }

    /// Takes a batch out of the ring, if none is at hand. How many frames are.
    fn take(&mut self) -> usize {
        if self.received.is_empty() {
            // SAFETY: the packets are given back by `give_back`, or go with `shared`, which keeps the memory until then.
            unsafe { self.ring.recv(&self.shared.outgoing().memory, &mut self.received) };
        }
        self.received.len()
    }

    /// As many buffers are for incoming frames as at the start, so that the fill ring has room for all of them.
    fn give_back(&mut self) {
        let memory = &mut self.shared.outgoing().memory;
        let count = self.batch.len();
        self.batch.drain(..).for_each(|packet| memory.free_packet(packet));
        // SAFETY: `shared` keeps the memory as long as the socket. It makes no system call, and so can not fail.
        let _ = unsafe { self.fill.enqueue(memory, count, false) };
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as `shared` is there.
        unsafe { BorrowedFd::borrow_raw(self.shared.socket.as_raw_fd()) }
    }
}

impl Transmitter {
    /// Sends frames in order, or nothing where the socket is gone. How many were taken: those at the end are not where the
    /// ring is full, and one that is too long for a buffer is not, with all behind it.
    pub fn send<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
        let shared = self.0.upgrade()?;
        let mut outgoing = shared.outgoing();
        let taken = outgoing.queue(frames);
        outgoing.wake(shared.socket.as_raw_fd(), taken);
        Some(taken)
    }

    /// Whether the socket is there.
    pub fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Shared {
    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    /// Copies frames into the ring, as many as there is room for.
    fn queue<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> usize {
        self.completed.dequeue(&mut self.memory, RING as usize);
        for frame in frames {
            // SAFETY: the packet is queued or given back below, while `self` keeps the memory.
            let Some(mut packet) = (unsafe { self.memory.alloc() }) else { break };
            if packet.append(frame).is_err() {
                self.memory.free_packet(packet);
                break;
            }
            if let Some(packet) = self.queued.push_front(packet) {
                self.memory.free_packet(packet);
                break;
            }
        }
        // SAFETY: as above. Nothing is woken here, and so nothing can fail.
        let taken = unsafe { self.ring.send(&mut self.queued, false) }.unwrap_or_default();
        // The ring takes all or none.
        while let Some(packet) = self.queued.pop_back() {
            self.memory.free_packet(packet);
        }
        taken
    }

    /// Lets the kernel send. Where it copies, it sends in this call, some at a time.
    fn wake(&mut self, socket: i32, frames: usize) {
        // Once more for frames that an earlier call has left.
        for _ in 0..=frames.div_ceil(SENT_BY_CALL) {
            // SAFETY: no address and no octets are passed.
            let result = unsafe { libc::sendto(socket, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
            match Errno::result(result) {
                Err(Errno::EAGAIN | Errno::EINTR | Errno::EBUSY) => {}
                _ => break,
            }
        }
    }
}

/// What the kernel said.
fn reason(error: &SocketError) -> Errno {
    match error {
        SocketError::SocketCreation(inner)
        | SocketError::SetSockOpt { inner, .. }
        | SocketError::GetSockOpt { inner, .. }
        | SocketError::RingMap { inner, .. }
        | SocketError::Bind(inner) => errno_of(inner),
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL))
}
