//! A stream of numbered UDP packets from host to host, to find out which are lost, doubled or out of order.

use flowlane_lab::Netns;
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    sys::socket::{setsockopt, sockopt},
    unistd::Pid,
};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A running stream.
pub struct Stream {
    stop: Arc<AtomicBool>,
    /// How many were sent in all: [`UNKNOWN`] until the sender has ended.
    total: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    /// One more than the highest number that has arrived.
    next: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Vec<u64>>,
}

/// What has become of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub sent: u64,
    pub lost: u64,
    pub doubled: u64,
    pub out_of_order: u64,
}

impl Outcome {
    /// Nothing was lost, doubled or out of order.
    pub fn is_perfect(&self) -> bool {
        self.sent > 0 && (self.lost, self.doubled, self.out_of_order) == (0, 0, 0)
    }
}

/// How often a sender looks whether a packet is due, in a second.
const TICKS: u64 = 2_000;
/// The UDP port that streams go to.
pub const PORT: u16 = 4321;
/// The most that a sender sends at once to make up for time in which the machine did something else: more than the kernel's
/// queue for one processor holds (`netdev_max_backlog`, 1,000) would be lost without the switch having seen it.
const CATCH_UP: u64 = 200;
/// No stream sends so many.
const UNKNOWN: u64 = u64::MAX;
/// How long a receiver waits for a packet, and how many times for those that are missing: they may be on their way.
const QUIET: Duration = Duration::from_millis(300);
const FOR_THE_MISSING: u32 = 8;
/// What waits in the receiver's socket while the machine does something else.
const BACKLOG: usize = 64 << 20;
/// How long a stream waits after each packet until the first one has arrived: a switch keeps 64 while it finds out where they go,
/// and how long that takes is not what most tests are about.
const UNTIL_THE_FIRST: Duration = Duration::from_millis(100);

impl Stream {
    /// Sends so many packets in a second, until told to stop; less as long as none has arrived.
    pub fn start(from: &Netns, to: &Netns, address: IpAddr, rate: u64) -> Self {
        Self::start_with(from, to, address, rate, 0)
    }

    /// The same with this type of service or traffic class.
    pub fn start_with(from: &Netns, to: &Netns, address: IpAddr, rate: u64, class: u8) -> Self {
        Self::run(from, to, address, class, move |send| {
            while send.none_has_arrived() && !send.is_over() {
                send.packet();
                thread::sleep(UNTIL_THE_FIRST);
            }
            send.at_most(rate, CATCH_UP);
        })
    }

    /// The same, and never makes up for time in which the machine did something else: never more than double the rate.
    pub fn start_evenly(from: &Netns, to: &Netns, address: IpAddr, rate: u64) -> Self {
        Self::run(from, to, address, 0, move |send| send.at_most(rate, rate * 2 / TICKS))
    }

    /// The same at this rate from the first packet on.
    pub fn start_at_once(from: &Netns, to: &Netns, address: IpAddr, rate: u64, class: u8) -> Self {
        Self::run(from, to, address, class, move |send| send.at_most(rate, CATCH_UP))
    }

    /// Sends `count` packets as fast as can be.
    pub fn burst(from: &Netns, to: &Netns, address: IpAddr, count: u64) -> Self {
        Self::burst_with(from, to, address, count, 0)
    }

    /// The same with this type of service or traffic class.
    pub fn burst_with(from: &Netns, to: &Netns, address: IpAddr, count: u64, class: u8) -> Self {
        Self::run(from, to, address, class, move |send| (0..count).for_each(|_| send.packet()))
    }

    fn run(from: &Netns, to: &Netns, address: IpAddr, class: u8, how: impl FnOnce(&Sending) + Send + 'static) -> Self {
        let (stop, [sent, arrived, next]) = <(Arc<AtomicBool>, [Arc<AtomicU64>; 3])>::default();
        let total = Arc::new(AtomicU64::new(UNKNOWN));
        let seen = Receiving { total: Arc::clone(&total), arrived: Arc::clone(&arrived), next: Arc::clone(&next) };
        let receiver = receive(to, address, seen);
        let socket = sending_socket(from, address, class);
        let send = Sending { socket, stop: Arc::clone(&stop), sent: Arc::clone(&sent), arrived: Arc::clone(&arrived) };
        let sender = thread::spawn(move || {
            stay_here();
            how(&send);
        });
        Self { stop, total, sent, arrived, next, sender, receiver }
    }

    /// How many packets have been sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many packets have arrived.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// One more than the highest number that has arrived.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether packets arrive now.
    pub fn flows(&self) -> bool {
        let before = self.arrived();
        thread::sleep(Duration::from_millis(20));
        self.arrived() > before
    }

    /// Stops, and says what has become of the packets.
    pub fn stop(self) -> Outcome {
        self.stop_and_tell().0
    }

    /// Stops, and says what has become of the packets, and which have arrived, in this order.
    pub fn stop_and_tell(self) -> (Outcome, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().expect("the sender");
        let sent = self.sent.load(Ordering::Relaxed);
        self.total.store(sent, Ordering::Relaxed);
        let numbers = self.receiver.join().expect("the receiver");
        (outcome(sent, &numbers), numbers)
    }
}

/// The sender's side of a stream.
struct Sending {
    socket: UdpSocket,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
}

impl Sending {
    fn packet(&self) {
        // A moment without route or room is a loss that the outcome tells.
        let _ = self.socket.send(&self.sent.load(Ordering::Relaxed).to_be_bytes());
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// So many packets in a second, and so many at once.
    fn at_most(&self, rate: u64, at_once: u64) {
        let (start, first) = (Instant::now(), self.sent.load(Ordering::Relaxed));
        while !self.is_over() {
            let due = first + start.elapsed().as_micros() as u64 * rate / 1_000_000;
            let missing = due.saturating_sub(self.sent.load(Ordering::Relaxed));
            (0..missing.min(at_once)).for_each(|_| self.packet());
            thread::sleep(Duration::from_secs(1) / TICKS as u32);
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn none_has_arrived(&self) -> bool {
        self.arrived.load(Ordering::Relaxed) == 0
    }
}

/// What has become of packets 0 to `sent`, of which those with these numbers arrived, in this order.
pub fn outcome(sent: u64, numbers: &[u64]) -> Outcome {
    let mut seen = vec![false; sent as usize];
    let (mut doubled, mut out_of_order, mut next) = (0, 0, 0);
    for number in numbers {
        match seen.get_mut(*number as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => doubled += 1,
        }
        if *number < next {
            out_of_order += 1;
        }
        next = next.max(number + 1);
    }
    let lost = seen.iter().filter(|seen| !**seen).count() as u64;
    Outcome { sent, lost, doubled, out_of_order }
}

/// Keeps the calling thread on its processor. The kernel has a queue of arriving packets for each: those that are sent after a
/// move to another processor may overtake others before a switch has seen them.
pub fn stay_here() {
    let mut here = CpuSet::new();
    let kept = sched_getcpu()
        .and_then(|processor| here.set(processor))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &here));
    kept.expect("kept on a processor");
}

fn sending_socket(from: &Netns, address: IpAddr, class: u8) -> UdpSocket {
    let socket = from.run(|| UdpSocket::bind(any(address)).expect("a socket")).expect("the namespace");
    set_class(&socket, address, class);
    socket.connect(SocketAddr::new(address, PORT)).expect("a destination");
    socket
}

/// Sets the type of service or traffic class of what a socket sends.
pub fn set_class(socket: &impl AsFd, like: IpAddr, class: u8) {
    let set = match like {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4Tos, &class.into()),
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6TClass, &class.into()),
    };
    set.expect("a class");
}

pub fn any(like: IpAddr) -> SocketAddr {
    if like.is_ipv4() { SocketAddr::from(([0, 0, 0, 0], 0)) } else { SocketAddr::from(([0u16; 8], 0)) }
}

/// What a receiver is told, and tells.
struct Receiving {
    total: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    next: Arc<AtomicU64>,
}

/// Receives until it is known how many there are, and nothing comes any more.
fn receive(to: &Netns, address: IpAddr, seen: Receiving) -> JoinHandle<Vec<u64>> {
    let opened = to.run(|| UdpSocket::bind(SocketAddr::new(any(address).ip(), PORT))).expect("the namespace");
    let socket = opened.expect("the port is free");
    setsockopt(&socket, sockopt::RcvBufForce, &BACKLOG).expect("root");
    socket.set_read_timeout(Some(QUIET)).expect("a timeout");
    thread::spawn(move || {
        let (mut numbers, mut buffer, mut quiet) = (Vec::new(), [0; 64], 0);
        while quiet < FOR_THE_MISSING {
            let total = seen.total.load(Ordering::Relaxed);
            if socket.recv(&mut buffer).is_ok() {
                let number = u64::from_be_bytes(*buffer.first_chunk().expect("8 octets"));
                numbers.push(number);
                seen.next.fetch_max(number + 1, Ordering::Relaxed);
                seen.arrived.fetch_add(1, Ordering::Relaxed);
                quiet = 0;
            } else if total <= numbers.len() as u64 {
                break;
            } else {
                quiet += u32::from(total != UNKNOWN);
            }
        }
        numbers
    })
}

#[test]
fn a_lost_doubled_or_late_packet_is_noticed() {
    let outcome = |numbers: &[u64]| super::stream::outcome(4, numbers);
    assert!(outcome(&[0, 1, 2, 3]).is_perfect());
    assert_eq!(outcome(&[0, 1, 3]), Outcome { sent: 4, lost: 1, doubled: 0, out_of_order: 0 });
    assert_eq!(outcome(&[0, 1, 3, 2]), Outcome { sent: 4, lost: 0, doubled: 0, out_of_order: 1 });
    assert_eq!(outcome(&[0, 0, 1, 2, 3]), Outcome { sent: 4, lost: 0, doubled: 1, out_of_order: 1 });
}
