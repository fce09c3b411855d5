//! The ways out: a port's AF_XDP socket where it has one, else a packet socket.

use flowlane_ports::{
    af_packet::{Offload, Sender},
    af_xdp::Transmitter,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, PoisonError, RwLock},
};

/// The AF_XDP sockets of all ports, by interface and queue. What is closed is found out by whoever uses it.
#[derive(Clone, Default)]
pub struct Transmitters(Arc<RwLock<HashMap<u32, Vec<Transmitter>>>>);

impl Transmitters {
    /// Takes note of the sockets of an interface, in the order of their queues.
    pub fn set(&self, ifindex: u32, queues: Vec<Transmitter>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(ifindex, queues);
    }

    /// The open socket of an interface for a thread of that number: no two threads of a port share one if there are enough.
    fn get(&self, ifindex: u32, thread: usize) -> Option<Transmitter> {
        let interfaces = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let queues = interfaces.get(&ifindex)?;
        queues.get(thread % queues.len().max(1)).filter(|socket| socket.is_open()).cloned()
    }
}

/// Sockets to the egress ports for one thread, opened when they are first needed.
#[derive(Default)]
pub struct Senders {
    open: HashMap<u32, Way>,
    transmitters: Transmitters,
    thread: usize,
}

/// The sockets to one port.
struct Way {
    direct: Option<Transmitter>,
    /// For super-packets and partial checksums, which AF_XDP does not know, and where there is no AF_XDP.
    packet: Sender,
}

impl Senders {
    /// For a thread of that number, by these sockets.
    pub fn new(transmitters: Transmitters, thread: usize) -> Self {
        Self { open: HashMap::new(), transmitters, thread }
    }

    /// Sends frames in order. How many the interface took: those are the first.
    pub fn send(&mut self, ifindex: u32, frames: &[(&[u8], Offload)]) -> usize {
        let Some(way) = self.way(ifindex) else { return 0 };
        let sent = way.send(frames);
        if sent.is_none() {
            // Gone or down: the next frame opens it anew.
            self.open.remove(&ifindex);
        }
        sent.unwrap_or(0)
    }

    fn way(&mut self, ifindex: u32) -> Option<&mut Way> {
        let stale = |way: &Way| way.direct.as_ref().is_some_and(|socket| !socket.is_open());
        if self.open.get(&ifindex).is_some_and(stale) {
            self.open.remove(&ifindex);
        }
        match self.open.entry(ifindex) {
            Entry::Occupied(open) => Some(open.into_mut()),
            Entry::Vacant(place) => {
                let (direct, packet) = (self.transmitters.get(ifindex, self.thread), Sender::open(ifindex).ok()?);
                Some(place.insert(Way { direct, packet }))
            }
        }
    }
}

impl Way {
    /// How many frames were taken, or nothing where the socket is of no use any more.
    fn send(&mut self, frames: &[(&[u8], Offload)]) -> Option<usize> {
        let plain = || frames.iter().all(|(_, offload)| *offload == Offload::default());
        match self.direct.as_ref().filter(|_| plain()) {
            Some(socket) => socket.send(frames.iter().map(|(bytes, _)| *bytes)),
            None => self.packet.send(frames).ok().map(|sent| sent.sent),
        }
    }
}
