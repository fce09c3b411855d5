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
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
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

/// The UDP port that streams go to.
pub const PORT: u16 = 4321;
/// The most that a sender sends at once to make up for time in which the machine did something else: more than the kernel's
/// queue for one processor holds (`netdev_max_backlog`, 1,000) would be lost without the switch having seen it.
const CATCH_UP: u64 = 200;
/// What waits in the receiver's socket while the machine does something else.
const BACKLOG: usize = 64 << 20;

impl Stream {
    /// Sends so many packets in a second, until told to stop.
    pub fn start(from: &Netns, to: &Netns, address: IpAddr, rate: u64) -> Self {
        Self::start_with(from, to, address, rate, 0)
    }

    /// The same with this type of service or traffic class.
    pub fn start_with(from: &Netns, to: &Netns, address: IpAddr, rate: u64, class: u8) -> Self {
        let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let receiver = receive(to, address, Arc::clone(&stop), Arc::clone(&arrived));
        let socket = sending_socket(from, address, class);
        let sender = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                stay_here();
                let (start, mut sent) = (Instant::now(), 0u64);
                while !stop.load(Ordering::Relaxed) {
                    let due = start.elapsed().as_micros() as u64 * rate / 1_000_000;
                    let due = due.min(sent + CATCH_UP);
                    while sent < due {
                        // A moment without route or room is a loss that the outcome tells.
                        let _ = socket.send(&sent.to_be_bytes());
                        sent += 1;
                    }
                    thread::sleep(Duration::from_micros(500));
                }
                sent
            }
        });
        Self { stop, arrived, sender, receiver }
    }

    /// Sends `count` packets as fast as can be.
    pub fn burst(from: &Netns, to: &Netns, address: IpAddr, count: u64) -> Self {
        Self::burst_with(from, to, address, count, 0)
    }

    /// The same with this type of service or traffic class.
    pub fn burst_with(from: &Netns, to: &Netns, address: IpAddr, count: u64, class: u8) -> Self {
        let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let receiver = receive(to, address, Arc::clone(&stop), Arc::clone(&arrived));
        let socket = sending_socket(from, address, class);
        let sender = thread::spawn(move || {
            stay_here();
            for number in 0..count {
                socket.send(&number.to_be_bytes()).expect("sent");
            }
            count
        });
        Self { stop, arrived, sender, receiver }
    }

    /// How many packets have arrived.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Whether packets arrive now.
    pub fn flows(&self) -> bool {
        let before = self.arrived();
        thread::sleep(Duration::from_millis(20));
        self.arrived() > before
    }

    /// Stops, and says what has become of the packets.
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender");
        let numbers = self.receiver.join().expect("the receiver");
        outcome(sent, &numbers)
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
fn stay_here() {
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

/// Receives until it was told to stop and nothing comes any more.
fn receive(to: &Netns, address: IpAddr, stop: Arc<AtomicBool>, arrived: Arc<AtomicU64>) -> JoinHandle<Vec<u64>> {
    let opened = to.run(|| UdpSocket::bind(SocketAddr::new(any(address).ip(), PORT))).expect("the namespace");
    let socket = opened.expect("the port is free");
    setsockopt(&socket, sockopt::RcvBufForce, &BACKLOG).expect("root");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    thread::spawn(move || {
        let (mut numbers, mut buffer) = (Vec::new(), [0; 64]);
        loop {
            match socket.recv(&mut buffer) {
                Ok(_) => {
                    numbers.push(u64::from_be_bytes(*buffer.first_chunk().expect("8 octets")));
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) if stop.load(Ordering::Relaxed) => return numbers,
                Err(_) => {}
            }
        }
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
