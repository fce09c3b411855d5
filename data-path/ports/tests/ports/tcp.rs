//! Two real hosts, connected by a patch in userspace: what comes in by one port goes out by the other.

use crate::netns::{Netns, ip};
use flowlane_ports::af_packet::{Offload, Ring, RingOptions, Segmentation, Sender};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Hosts `left` and `right`, and the switch's two ports between them.
struct Lab {
    left: Netns,
    right: Netns,
    ports: [(Ring, Sender); 2],
}

/// What the patch saw.
#[derive(Default)]
struct Seen {
    super_packets: AtomicUsize,
    partial_checksums: AtomicUsize,
}

impl Lab {
    fn new() -> Self {
        let (left, right, switch) = (Netns::with_ipv6(), Netns::with_ipv6(), Netns::new());
        left.connect("e0", &switch, "p1", 1500);
        right.connect("e0", &switch, "p2", 1500);
        for (host, number) in [(&left, 1), (&right, 2)] {
            host.enter(|| {
                ip(&format!("addr add 10.0.0.{number}/24 dev e0"));
                ip(&format!("addr add fd00::{number}/64 dev e0 nodad"));
            });
        }
        let ports = ["p1", "p2"].map(|name| {
            let index = switch.index(name);
            let ring = switch.enter(|| Ring::open(index, RingOptions::default())).expect("opened");
            (ring, switch.enter(|| Sender::open(index)).expect("opened"))
        });
        Self { left, right, ports }
    }

    /// Runs `test` with the hosts while two threads move frames from port to port.
    fn run(self, test: impl FnOnce(&Netns, &Netns)) -> Seen {
        let (seen, stop) = (Seen::default(), AtomicBool::new(false));
        let [(ring_1, sender_1), (ring_2, sender_2)] = self.ports;
        thread::scope(|scope| {
            scope.spawn(|| patch(ring_1, sender_2, &seen, &stop));
            scope.spawn(|| patch(ring_2, sender_1, &seen, &stop));
            let _stop = StopOnDrop(&stop);
            test(&self.left, &self.right);
        });
        seen
    }
}

/// Ends the patch also when a test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn patch(mut ring: Ring, mut sender: Sender, seen: &Seen, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        ring.wait(Duration::from_millis(20)).expect("the interface is up");
        ring.receive(|batch| {
            batch.iter().for_each(|frame| seen.look(frame.bytes, frame.offload));
            let frames: Vec<_> = batch.iter().map(|frame| (&*frame.bytes, frame.offload)).collect();
            let sent = sender.send(&frames).expect("the interface is up");
            assert_eq!((sent.too_long, sent.malformed), (0, 0));
        });
    }
    assert_eq!(ring.statistics().expect("counters").truncated, 0);
    assert_eq!(ring.statistics().expect("counters").unsupported, 0);
}

impl Seen {
    /// Counts, and checks that the kernel's description of a frame can be had from the frame alone.
    fn look(&self, bytes: &[u8], offload: Offload) {
        let Some(kernel) = offload.checksum else { return };
        self.partial_checksums.fetch_add(1, Ordering::Relaxed);
        let size = offload.segmentation.map_or(0, |of| of.size);
        let described = Offload::describe(bytes, size);
        assert_eq!(described.checksum, Some(kernel), "of {:?} {:x?}", offload, &bytes[..bytes.len().min(80)]);
        let kind = |of: Segmentation| (of.kind, of.size);
        assert_eq!(described.segmentation.map(kind), offload.segmentation.map(kind));
        if bytes.len() > 9000 {
            assert!(offload.segmentation.is_some());
            self.super_packets.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Two switches with a link between them on which every frame has a tag.
fn run_tagged(test: impl FnOnce(&Netns, &Netns)) -> usize {
    let Lab { left, right, ports: [(from_left, to_left), (from_right, to_right)] } = Lab::new();
    let trunk = Netns::new();
    trunk.connect("t1", &trunk, "t2", 1500);
    let open = |name| {
        let index = trunk.index(name);
        let ring = trunk.enter(|| Ring::open(index, RingOptions::default())).expect("opened");
        (ring, trunk.enter(|| Sender::open(index)).expect("opened"))
    };
    let ([(ring_1, sender_1), (ring_2, sender_2)], stop) = (["t1", "t2"].map(open), AtomicBool::new(false));
    let super_packets = AtomicUsize::new(0);
    let pop = |bytes: &[u8], offload: Offload| {
        assert_eq!(bytes.get(12..16), Some(&TAG[..]));
        let untagged = [&bytes[..12], &bytes[16..]].concat();
        if bytes.len() > 9000 {
            super_packets.fetch_add(1, Ordering::Relaxed);
        }
        let size = offload.segmentation.map_or(0, |of| of.size);
        (Offload::describe(&untagged, size), untagged)
    };
    thread::scope(|scope| {
        scope.spawn(|| relay(from_left, sender_1, &stop, push));
        scope.spawn(|| relay(from_right, sender_2, &stop, push));
        scope.spawn(|| relay(ring_1, to_left, &stop, pop));
        scope.spawn(|| relay(ring_2, to_right, &stop, pop));
        let _stop = StopOnDrop(&stop);
        test(&left, &right);
    });
    super_packets.into_inner()
}

const TAG: [u8; 4] = [0x81, 0, 0xa0, 7];

fn push(bytes: &[u8], offload: Offload) -> (Offload, Vec<u8>) {
    (offload.shifted(4), [&bytes[..12], &TAG, &bytes[12..]].concat())
}

/// Moves frames from port to port, changed on the way.
fn relay(mut ring: Ring, mut sender: Sender, stop: &AtomicBool, change: impl Fn(&[u8], Offload) -> (Offload, Vec<u8>)) {
    while !stop.load(Ordering::Relaxed) {
        ring.wait(Duration::from_millis(20)).expect("the interface is up");
        ring.receive(|batch| {
            for frame in batch {
                let (offload, bytes) = change(frame.bytes, frame.offload);
                let sent = sender.send_one(&bytes, offload).expect("the interface is up");
                assert_eq!((sent.too_long, sent.malformed), (0, 0));
            }
        });
    }
}

/// Sends 8 MiB each way over one connection and compares every octet.
fn transfer(left: &Netns, right: &Netns, address: &str) {
    const LEN: usize = 8 << 20;
    let sent: Vec<u8> = (0..LEN as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let listener = right.enter(|| TcpListener::bind(address)).expect("listening");
    let at = listener.local_addr().expect("an address");
    thread::scope(|scope| {
        let echoed = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut received = vec![0; LEN];
            stream.read_exact(&mut received).expect("read");
            stream.write_all(&received).expect("written");
            received
        });
        let mut stream = left.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(5))).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream.write_all(&sent).expect("written");
        let mut returned = vec![0; LEN];
        stream.read_exact(&mut returned).expect("read");
        assert!(echoed.join().expect("echoed") == sent, "the octets differ on the way there");
        assert!(returned == sent, "the octets differ on the way back");
    });
}

fn super_packets_cross_whole(address: &str) {
    let seen = Lab::new().run(|left, right| transfer(left, right, address));
    // 16 MiB in frames of 1500 octets are 11,000; in super-packets a tenth of that at most.
    let (super_packets, partial) = (seen.super_packets.into_inner(), seen.partial_checksums.into_inner());
    println!("{super_packets} super-packets of {partial} frames with partial checksums");
    assert!(super_packets > 100, "{super_packets} super-packets");
}

#[test]
fn super_packets_of_tcp_over_ipv4_cross_whole() {
    super_packets_cross_whole("10.0.0.2:0");
}

#[test]
fn super_packets_of_tcp_over_ipv6_cross_whole() {
    super_packets_cross_whole("[fd00::2]:0");
}

#[test]
fn super_packets_with_a_tag_cross_whole() {
    for address in ["10.0.0.2:0", "[fd00::2]:0"] {
        let super_packets = run_tagged(|left, right| transfer(left, right, address));
        assert!(super_packets > 100, "{super_packets} super-packets");
    }
}

#[test]
fn super_packets_cross_whole_in_a_user_namespace() {
    let this = std::env::current_exe().expect("this program");
    let test = "tcp::super_packets_of_tcp_over_ipv4_cross_whole";
    let output = Command::new("unshare").arg("-Ur").arg(this).args(["--exact", test]).output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// How long 400 small messages took to go there and back, in order of length.
fn round_trips() -> Vec<Duration> {
    let mut times = Vec::new();
    Lab::new().run(|left, right| {
        let listener = right.enter(|| TcpListener::bind("10.0.0.2:0")).expect("listening");
        let at = listener.local_addr().expect("an address");
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("accepted");
                stream.set_nodelay(true).expect("set");
                let mut octet = [0];
                while stream.read_exact(&mut octet).is_ok() {
                    stream.write_all(&octet).expect("written");
                }
            });
            let mut stream = left.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(5))).expect("connected");
            stream.set_nodelay(true).expect("set");
            for _ in 0..400 {
                let start = Instant::now();
                stream.write_all(&[1]).expect("written");
                stream.read_exact(&mut [0]).expect("read");
                times.push(start.elapsed());
            }
        });
    });
    times.sort();
    println!("round trip by two userspace hops: quarter {:?}, half {:?}", times[100], times[200]);
    times
}

#[test]
fn a_small_message_does_not_wait_for_a_timer() {
    // With a ring's timer, of a millisecond at the best, each of them takes about a millisecond. A busy machine leaves some
    // alone, or does so when it is tried again.
    let is_quick = || round_trips()[10] < Duration::from_micros(500);
    assert!((0..3).any(|_| is_quick()), "three times 390 of 400 round trips took more than 500 us");
}
