//! A switch as a host sees it: the real server and allotter behind a real port.

use flowlane_allot::{Allotter, Lease, LeaseKey, Policy, Refusal, Request};
use flowlane_dhcp6::{Operation, Peer, Server};
use flowlane_lab::{Host, Netns};
use flowlane_ports::control::Dhcp6Socket;
use flowlane_wire::{Block, Mac, PortId};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// How long anything may take.
pub const SOON: Duration = Duration::from_secs(10);

/// Answers hosts on a port until it is dropped.
pub struct Switch {
    state: Arc<State>,
    thread: Option<thread::JoinHandle<()>>,
}

struct State {
    allotter: Mutex<Allotter>,
    /// What was asked for, in its order.
    asked: Mutex<Vec<Request>>,
    stop: AtomicBool,
    silent: AtomicBool,
    mute: AtomicBool,
    refuse: AtomicBool,
}

impl Switch {
    /// A host, and a switch at the other end of its cable.
    pub fn with_host(mac: u8) -> (Host, Self) {
        let netns = Netns::new("switch").expect("a namespace");
        let addresses = ["10.1.0.1/24", "fd00:1::1/64"].map(|address| address.parse().expect("an address"));
        let host = Host::new("host", &netns, "p1", Some(Mac([2, 0, 0, 0, 0, mac])), &addresses).expect("a host");
        let switch = Self::start(&host);
        (host, switch)
    }

    /// A switch at the other end of a host's cable.
    pub fn start(host: &Host) -> Self {
        let block = Block::new(Mac([0xa2, 0xf1, 0, 0, 0, 0]), 16, 1024).expect("a block");
        let state = Arc::new(State {
            allotter: Mutex::new(Allotter::new(block, Policy::default(), 0)),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            refuse: AtomicBool::new(false),
        });
        let (shared, index) = (Arc::clone(&state), host.port().index().expect("a port"));
        let socket = host.port().netns().run(|| Dhcp6Socket::open(index)).expect("the namespace").expect("a socket");
        let thread = thread::spawn(move || shared.serve(socket, &Server::new([7; 16], block)));
        Self { state, thread: Some(thread) }
    }

    /// Answers nobody any more, or answers again.
    pub fn set_silent(&self, silent: bool) {
        self.state.silent.store(silent, Relaxed);
    }

    /// Does what it is asked for, but its answers are lost; or answers again.
    pub fn set_mute(&self, mute: bool) {
        self.state.mute.store(mute, Relaxed);
    }

    /// Refuses what is new, or grants again.
    pub fn set_refusing(&self, refuse: bool) {
        self.state.refuse.store(refuse, Relaxed);
    }

    /// Loses all leases.
    pub fn forget(&self) {
        let mut allotter = self.state.allotter.lock().expect("the allotter");
        let next = allotter.next() + 17;
        *allotter = Allotter::new(allotter.block(), Policy::default(), next);
    }

    /// The leases that are held.
    pub fn leases(&self) -> Vec<Lease> {
        self.state.allotter.lock().expect("the allotter").leases().cloned().collect()
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Vec<Request> {
        self.state.asked.lock().expect("what was asked").clone()
    }

    /// Waits until so many leases are held.
    pub fn wait_for_leases(&self, count: usize) -> Vec<Lease> {
        let give_up = Instant::now() + SOON;
        while self.leases().len() != count {
            assert!(Instant::now() < give_up, "{:?}", self.leases());
            thread::sleep(Duration::from_millis(5));
        }
        self.leases()
    }
}

impl State {
    fn serve(&self, mut socket: Dhcp6Socket, server: &Server) {
        while !self.stop.load(Relaxed) {
            let Ok(Some(datagram)) = socket.recv() else {
                thread::sleep(Duration::from_micros(200));
                continue;
            };
            if self.silent.load(Relaxed) {
                continue;
            }
            let peer = Peer { port: PortId(1), host: datagram.host };
            let Ok(transaction) = server.plan(&datagram.payload, peer) else { continue };
            let results: Vec<_> = transaction.operations().iter().map(|operation| self.carry_out(operation)).collect();
            let reply = transaction.reply(&results, now()).filter(|_| !self.mute.load(Relaxed));
            if let Some(payload) = reply {
                socket.send(&datagram, &payload).expect("sent");
            }
        }
    }

    fn carry_out(&self, operation: &Operation) -> Result<Lease, Refusal> {
        let mut allotter = self.allotter.lock().expect("the allotter");
        let known = |key: &LeaseKey, allotter: &Allotter| allotter.lease(key).is_some();
        match operation {
            Operation::Offer(request) => allotter.offer(request, now()),
            Operation::Request(request) => {
                self.asked.lock().expect("what was asked").push(request.clone());
                if self.refuse.load(Relaxed) && !known(&request.key, &allotter) {
                    return Err(Refusal::Full { leased: 1, quarantined: 0, slots: 1 });
                }
                allotter.request(request, now())
            }
            Operation::Renew(held) => allotter.renew(&held.key, held.port, None, now()),
            Operation::Release(held) => allotter.release(&held.key, held.port, now()),
            Operation::Decline(held) => allotter.decline(&held.key, held.port, now()),
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.state.stop.store(true, Relaxed);
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Milliseconds of the boot-time clock.
pub fn now() -> u64 {
    flowlane_host::boot_millis()
}
