//! Two hosts on a cable, a cgroup, and the part of the daemon that the tests need.

use flowlane_lab::{Direction, End, Frame, IpNet, Link, Netns, Tap, veth};
use flowlane_ports::af_packet::{Offload, Sender};
use flowlane_program::{Held, HeldPackets, Runs, bpffs};
use flowlane_tables::{RunFlow, RunKey, RunState};
use flowlane_wire::Mac;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The flow address; also that of `b`'s interface, so that what is sent to it arrives.
pub const FLOW: Mac = Mac([0x02, 0xf1, 0, 0, 0, 0x42]);
/// What `a` takes for `b`'s own address: only packets outside of flows go there.
pub const REAL_B: Mac = Mac([2, 0, 0, 0, 0, 0xb0]);
pub const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 0xa0]);
const PORT: u16 = 7_777;
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A time that never comes.
pub fn never() -> u64 {
    u64::MAX
}

/// Two hosts: `a`, whose programs are put into flows, and `b`.
pub struct Setup {
    pub a: Netns,
    pub b: Netns,
    pub eth0: Link,
    pub b0: Link,
    /// The address of `b` that is tested with.
    pub to: IpAddr,
    /// Where the datagrams arrive: nobody says that nobody listens.
    pub receiver: UdpSocket,
    name: String,
    cgroups: AtomicU32,
}

impl Setup {
    /// Runs a test by IPv4 and by IPv6, on a thread in the namespace of `a`.
    pub fn both_families(test: impl Fn(&Self) + Sync) {
        for to in ["10.1.0.2", "fd01::2"] {
            Self::with(to, &test);
        }
    }

    pub fn ipv4(test: impl Fn(&Self) + Sync) {
        Self::with("10.1.0.2", &test);
    }

    fn with(to: &str, test: &(impl Fn(&Self) + Sync)) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (a, b) = (Netns::new("a").expect("these tests need root"), Netns::new("b").expect("a namespace"));
        let (eth0, b0) =
            veth(End { netns: &a, name: "eth0", mac: Some(MAC_A) }, End { netns: &b, name: "b0", mac: Some(FLOW) })
                .expect("a cable");
        for (link, addresses) in [(&eth0, ["10.1.0.1/24", "fd01::1/64"]), (&b0, ["10.1.0.2/24", "fd01::2/64"])] {
            for address in addresses {
                link.add_address(address.parse::<IpNet>().expect("an address")).expect("set");
            }
        }
        eth0.connect(&b0).expect("up");
        for (link, neighbours, mac) in [(&eth0, ["10.1.0.2", "fd01::2"], REAL_B), (&b0, ["10.1.0.1", "fd01::1"], MAC_A)]
        {
            for neighbour in neighbours {
                link.set_neighbour(neighbour.parse().expect("an address"), mac).expect("a neighbour");
            }
        }
        let name = format!("test-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let to = to.parse().expect("an address");
        let receiver = b.run(|| UdpSocket::bind((to, PORT))).expect("a thread").expect("a socket");
        let net = Self { a, b, eth0, b0, to, receiver, name, cgroups: AtomicU32::new(0) };
        net.a.run(|| test(&net)).expect("a thread in the namespace");
    }

    pub fn open(&self) -> (Runs, HeldPackets, bool) {
        Runs::open(&self.name).expect("the kernel takes the program")
    }

    /// Opens the tables, and attaches the program.
    pub fn start(&self) -> (Runs, HeldPackets) {
        let (mut runs, held, adopted) = self.open();
        assert!(!adopted);
        runs.attach("eth0", self.ifindex()).expect("attached");
        (runs, held)
    }

    /// Where the pins are.
    pub fn pins(&self) -> PathBuf {
        bpffs::find().expect("a BPF file system").join("flowlane").join(format!("host-{}", self.name))
    }

    pub fn remove(&self) {
        Runs::remove(&self.name).expect("removed");
    }

    pub fn ifindex(&self) -> u32 {
        self.eth0.index().expect("an index")
    }

    pub fn cgroup(&self) -> Cgroup {
        let number = self.cgroups.fetch_add(1, Ordering::Relaxed);
        Cgroup::new(&own_cgroup().join(format!("{}-{number}", self.name)))
    }

    pub fn key(&self, run: u32) -> RunKey {
        let destination = match self.to {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        RunKey { destination, ifindex: self.ifindex(), run }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.to, PORT)
    }

    /// The address of `a`, of the family that is tested.
    pub fn from(&self) -> IpAddr {
        let from = if self.to.is_ipv4() { "10.1.0.1" } else { "fd01::1" };
        from.parse().expect("an address")
    }

    /// The length of the headers of a UDP frame.
    pub fn headers(&self) -> u64 {
        if self.to.is_ipv4() { 14 + 20 + 8 } else { 14 + 40 + 8 }
    }

    /// Collects the UDP frames that come to `b` for the port of the tests.
    pub fn tap(&self) -> Tap {
        let headers = self.headers() as usize;
        let to_port = move |frame: &Frame| {
            frame.direction == Direction::In
                && frame.bytes.get(headers - 6..headers - 4) == Some(&PORT.to_be_bytes())
                && protocol(&frame.bytes) == Some(17)
        };
        Tap::start(&self.b0, to_port).expect("a tap")
    }

    /// Collects all frames that come to `b` and are not for groups.
    pub fn tap_unicast(&self) -> Tap {
        let is_meant = |frame: &Frame| frame.direction == Direction::In && !mac(&frame.bytes, 0).is_group();
        Tap::start(&self.b0, is_meant).expect("a tap")
    }

    /// Collects all frames that come to `b`.
    pub fn tap_all(&self) -> Tap {
        Tap::start(&self.b0, |frame| frame.direction == Direction::In).expect("a tap")
    }

    /// Sends a datagram from a socket of its own; it may be dropped.
    pub fn try_udp(&self, payload: &[u8]) {
        // The sender of a dropped packet may be told so, or not.
        drop(self.a.run(|| socket_to(self).send(payload)).expect("a thread"));
    }

    /// Destination, source and payload of so many frames, and no more.
    pub fn seen(&self, tap: Tap, count: usize) -> Vec<(Mac, Mac, Vec<u8>)> {
        let _ = tap.wait_for(count, PATIENCE);
        thread::sleep(Duration::from_millis(20));
        let frames = tap.stop().expect("a capture").frames;
        assert_eq!(frames.len(), count, "{frames:02x?}");
        let headers = self.headers() as usize;
        frames
            .iter()
            .map(|frame| (mac(&frame.bytes, 0), mac(&frame.bytes, 6), frame.bytes[headers..].to_vec()))
            .collect()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // Where this fails while a test panics, the pins of that test remain: they have the name of this process.
        let _ = Runs::remove(&self.name);
    }
}

/// Sends a datagram from a socket of its own.
pub fn udp(net: &Setup, payload: &[u8]) {
    let any = if net.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    net.a
        .run(|| UdpSocket::bind(any).and_then(|socket| socket.send_to(payload, net.address())))
        .expect("a thread")
        .expect("sent");
}

/// A socket of `a` that is connected to `b`.
pub fn socket_to(net: &Setup) -> UdpSocket {
    let connect = || {
        let socket = UdpSocket::bind(SocketAddr::new(net.from(), 0))?;
        socket.connect(net.address())?;
        Ok::<_, std::io::Error>(socket)
    };
    net.a.run(connect).expect("a thread").expect("a socket")
}

/// The packets of a destination wait however long it takes to answer: else they are sent again meanwhile, and pass as they are.
pub fn wait_for_ever(net: &Setup, runs: &mut Runs) {
    runs.want(&net.key(1), false, never()).expect("room");
}

/// Answers what waits, while `work` is done.
pub fn answered<T: Send>(net: &Setup, runs: &Runs, held: &mut HeldPackets, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut answering = Answering::new(net, &[FLOW]);
        while !work.is_finished() {
            answering.take(held);
            answering.open(runs);
            thread::sleep(Duration::from_micros(200));
        }
        work.join().expect("the thread's work")
    })
}

/// Whether a TCP connection's frames have all left in its flow. The last acknowledgement may be of a socket that is gone, and then
/// is the kernel's own, sent once more as often as the other end says that it ends.
pub fn leave_by_flow(net: &Setup, frames: &[Frame]) -> bool {
    let of_flow = frames.iter().take_while(|frame| mac(&frame.bytes, 0) == FLOW).count();
    let (tcp, last) = (net.headers() as usize - 8, &frames[of_flow..]);
    // From the sequence number to the flags.
    let what = |frame: &Frame| frame.bytes[tcp + 4..tcp + 14].to_vec();
    let is_of_no_socket = |frame: &Frame| mac(&frame.bytes, 0) != FLOW && frame.bytes.len() < 100;
    last.iter().all(|frame| is_of_no_socket(frame) && what(frame) == what(&last[0]))
}

pub fn mac(frame: &[u8], at: usize) -> Mac {
    Mac(frame[at..at + 6].try_into().expect("six octets"))
}

fn protocol(frame: &[u8]) -> Option<u8> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(23).copied(),
        [0x86, 0xdd] => frame.get(20).copied(),
        _ => None,
    }
}

/// A run's number, and whether it requires flows.
#[derive(Clone, Copy)]
pub struct Run {
    pub run: u32,
    pub required: bool,
}

impl Run {
    pub fn of(run: u32) -> Self {
        Self { run, required: false }
    }

    pub fn requiring(run: u32) -> Self {
        Self { run, required: true }
    }
}

/// A cgroup for threads. It is removed when this goes.
pub struct Cgroup(PathBuf);

impl Cgroup {
    fn new(path: &Path) -> Self {
        fs::create_dir(path).expect("a cgroup");
        fs::write(path.join("cgroup.type"), "threaded").expect("a cgroup for threads");
        Self(path.to_path_buf())
    }

    pub fn child(&self, name: &str) -> Self {
        Self::new(&self.0.join(name))
    }

    pub fn id(&self) -> u64 {
        fs::metadata(&self.0).expect("a directory").ino()
    }

    pub fn level(&self) -> u32 {
        self.0.strip_prefix(hierarchy()).expect("below the root").components().count() as u32
    }

    pub fn add(&self, runs: &mut Runs, run: Run) {
        runs.add_cgroup(self.id(), self.level(), run.run, run.required).expect("added");
    }

    /// Runs `work` on a thread in the cgroup; the threads that it starts are there too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let in_cgroup = scope.spawn(|| {
                fs::write(self.0.join("cgroup.threads"), "0").expect("moved");
                work()
            });
            in_cgroup.join().expect("the thread's work")
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A thread that has been joined may be there for a moment yet.
        let start = Instant::now();
        while fs::remove_dir(&self.0).is_err() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Where the unified hierarchy is mounted.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup v2");
    line.split(' ').nth(1).expect("a mount point").into()
}

fn own_cgroup() -> PathBuf {
    let groups = fs::read_to_string("/proc/self/cgroup").expect("cgroups");
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup v2");
    hierarchy().join(path)
}

/// Opens the flow of a destination. Its entry.
pub fn open(runs: &mut Runs, key: RunKey, addresses: &[Mac], source: bool) -> usize {
    let index = runs.want(&key, false, never()).expect("room") as usize;
    let flow = &runs.flows()[index];
    let (state, required) = flow.state();
    write(flow, addresses);
    let opened = RunState::Open { paths: addresses.len() as u8, source };
    assert!(flow.state_word().swap(state.to_word(required), opened.to_word(required)));
    index
}

fn write(flow: &RunFlow, addresses: &[Mac]) {
    flow.until().store(never());
    for (path, address) in flow.paths().iter().zip(addresses) {
        path.address().store(address.to_u64());
    }
}

/// Answers packets that wait as the daemon does: they are sent, and then the flow is open.
pub struct Answering<'a> {
    addresses: &'a [Mac],
    sender: Sender,
    /// How many were sent, by entry.
    sent: BTreeMap<u32, u32>,
    /// The length of the largest.
    pub largest: usize,
}

impl<'a> Answering<'a> {
    pub fn new(net: &Setup, addresses: &'a [Mac]) -> Self {
        let sender = Sender::open_past_queue(net.ifindex()).expect("a packet socket");
        Self { addresses, sender, sent: BTreeMap::new(), largest: 0 }
    }

    /// Opens the flow of an entry also if nothing waits for it.
    pub fn expect(&mut self, index: u32) {
        self.sent.insert(index, 0);
    }

    /// Sends what waits, with flow addresses. How many there were.
    pub fn take(&mut self, held: &mut HeldPackets) -> usize {
        let (mut count, address) = (0, self.addresses[0]);
        held.drain(usize::MAX, |Held { index, frame, gso_size, .. }| {
            let mut frame = frame.to_vec();
            let offload = Offload::describe(&frame, gso_size);
            frame[..6].copy_from_slice(&address.0);
            assert_eq!(self.sender.send_one(&frame, offload).expect("sent").sent, 1);
            *self.sent.entry(index).or_default() += 1;
            self.largest = self.largest.max(frame.len());
            count += 1;
        });
        count
    }

    /// Opens the flows of those that were sent, as long as none waits.
    pub fn open(&mut self, runs: &Runs) {
        for (index, sent) in &self.sent {
            let flow = &runs.flows()[*index as usize];
            let (state, required) = flow.state();
            if state != (RunState::Waiting { held: *sent }) {
                continue;
            }
            write(flow, self.addresses);
            let opened = RunState::Open { paths: self.addresses.len() as u8, source: false };
            flow.state_word().swap(state.to_word(required), opened.to_word(required));
        }
    }
}
