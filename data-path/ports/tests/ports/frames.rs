//! Frames through a veth pair, octet for octet.

use crate::netns::{Netns, PATIENCE, collect, collect_all, ip, run};
use flowlane_ports::PortError;
use flowlane_ports::af_packet::{Offload, Ring, RingOptions, Sender, Sent};
use std::time::{Duration, Instant};

const PLAIN: Offload = Offload { checksum: None, segmentation: None };

/// Two ends of a veth pair in one namespace: frames sent out of `a` come in by `b`.
struct Pair {
    netns: Netns,
    a: u32,
    b: u32,
}

impl Pair {
    fn new(mtu: u32) -> Self {
        let netns = Netns::new();
        netns.connect("a", &netns, "b", mtu);
        let (a, b) = (netns.index("a"), netns.index("b"));
        Self { netns, a, b }
    }

    fn sender(&self) -> Sender {
        self.netns.enter(|| Sender::open(self.a)).expect("opened")
    }

    fn ring(&self, options: RingOptions) -> Ring {
        self.netns.enter(|| Ring::open(self.b, options)).expect("opened")
    }
}

/// A frame of `len` octets to a flow address, with a tag or two as asked; the rest is a pattern of the length.
fn frame(len: usize, tags: &[u16]) -> Vec<u8> {
    let mut frame = vec![0xa2, 0xf1, 0, 0, 0, 42, 2, 0, 0, 0, 0, 1];
    for (n, tag) in tags.iter().enumerate() {
        frame.extend(tag.to_be_bytes());
        frame.extend([0xa0, 7 + n as u8]);
    }
    frame.extend([0x88, 0xb5]);
    let pattern = (frame.len()..).map(|at| (at * 31 + len) as u8);
    let missing = len.saturating_sub(frame.len());
    frame.extend(pattern.take(missing).collect::<Vec<_>>());
    frame
}

fn send(sender: &mut Sender, frames: &[Vec<u8>]) -> Sent {
    let frames: Vec<_> = frames.iter().map(|frame| (frame.as_slice(), PLAIN)).collect();
    sender.send(&frames).expect("the interface is up")
}

#[test]
fn every_length_from_14_to_9216_passes_unchanged() {
    let pair = Pair::new(9216 - 14);
    let (mut sender, mut ring) = (pair.sender(), pair.ring(RingOptions::default()));
    let lengths: Vec<usize> = (14..=9216).collect();
    for lengths in lengths.chunks(50) {
        let frames: Vec<_> = lengths.iter().map(|len| frame(*len, &[])).collect();
        assert_eq!(send(&mut sender, &frames), Sent { sent: frames.len(), ..Sent::default() });
        assert!(collect(&mut ring, frames.len()) == frames, "lengths {lengths:?}");
    }
    let statistics = ring.statistics().expect("counters");
    assert_eq!((statistics.received, statistics.dropped, statistics.truncated), (9203, 0, 0));
}

#[test]
fn tags_pass_unchanged_single_and_double_in_short_and_long_frames() {
    let pair = Pair::new(9000);
    let (mut sender, mut ring) = (pair.sender(), pair.ring(RingOptions::default()));
    for tags in [&[0x8100][..], &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
        let frames: Vec<_> = [64, 1500, 1518, 4000, 9000].map(|len| frame(len, tags)).to_vec();
        assert_eq!(send(&mut sender, &frames).sent, frames.len());
        assert!(collect(&mut ring, frames.len()) == frames, "tags {tags:x?}");
    }
}

#[test]
fn a_tag_in_the_octets_is_a_tag_to_the_kernel_at_the_other_end() {
    let pair = Pair::new(1500);
    let mut sender = pair.sender();
    // On Linux this filter looks at the tag that the kernel took out of the frame, not at the octets.
    let capture = || run("timeout", "5 tcpdump -i b -n -e -c 1 --immediate-mode vlan 7");
    let seen = std::thread::scope(|scope| {
        let captured = scope.spawn(|| pair.netns.enter(capture));
        while !captured.is_finished() {
            send(&mut sender, &[frame(100, &[0x8100])]);
            std::thread::sleep(Duration::from_millis(20));
        }
        captured.join().expect("captured")
    });
    assert!(seen.contains("802.1Q (0x8100), length 100: vlan 7, p 5,"), "{seen}");
}

#[test]
fn a_frame_too_long_or_malformed_does_not_hold_up_those_behind_it() {
    let pair = Pair::new(1500);
    let (mut sender, mut ring) = (pair.sender(), pair.ring(RingOptions::default()));
    let good = frame(1514, &[]);
    let frames = [good.clone(), frame(1519, &[]), good.clone(), vec![1, 2, 3, 4, 5], good.clone()];
    let sent = send(&mut sender, &frames);
    assert_eq!(sent, Sent { sent: 3, too_long: 1, no_room: 0, malformed: 1 });
    assert_eq!(collect_all(&mut ring, 3), [good.clone(), good.clone(), good]);
}

#[test]
fn outgoing_frames_are_not_received() {
    let pair = Pair::new(1500);
    let mut ring = pair.netns.enter(|| Ring::open(pair.a, RingOptions::default())).expect("opened");
    send(&mut pair.sender(), &[frame(100, &[])]);
    assert_eq!(collect_all(&mut ring, 0), Vec::<Vec<u8>>::new());
}

#[test]
fn frames_of_another_interface_do_not_slip_in() {
    let pair = Pair::new(1500);
    pair.netns.connect("c", &pair.netns, "d", 1500);
    let c = pair.netns.index("c");
    let mut other = pair.netns.enter(|| Sender::open(c)).expect("opened");
    let mut ring = pair.ring(RingOptions::default());
    send(&mut other, &[frame(100, &[])]);
    send(&mut pair.sender(), &[frame(200, &[])]);
    assert_eq!(collect_all(&mut ring, 1), [frame(200, &[])]);
}

#[test]
fn a_frame_over_the_limit_is_counted_and_the_next_delivered() {
    let pair = Pair::new(1500);
    let options = RingOptions { slot_len: 512, max_frame: 1000, ..RingOptions::default() };
    let (mut sender, mut ring) = (pair.sender(), pair.ring(options));
    send(&mut sender, &[frame(1000, &[]), frame(1001, &[]), frame(900, &[0x8100]), frame(60, &[])]);
    assert_eq!(collect(&mut ring, 3), [frame(1000, &[]), frame(900, &[0x8100]), frame(60, &[])]);
    assert_eq!(ring.statistics().expect("counters").truncated, 1);
}

#[test]
fn frames_that_find_the_ring_full_are_counted() {
    let pair = Pair::new(1500);
    let options = RingOptions { slots: 64, ..RingOptions::default() };
    let (mut sender, mut ring) = (pair.sender(), pair.ring(options));
    let frames: Vec<_> = (0..100).map(|n| frame(60 + n, &[])).collect();
    assert_eq!(send(&mut sender, &frames).sent, 100);
    assert_eq!(collect_all(&mut ring, 64), frames[..64]);
    let statistics = ring.statistics().expect("counters");
    assert_eq!((statistics.received, statistics.dropped), (64, 36));
    send(&mut sender, &frames[..10]);
    assert_eq!(collect(&mut ring, 10), frames[..10]);
}

#[test]
fn a_frame_changed_in_place_goes_out_changed() {
    let pair = Pair::new(1500);
    pair.netns.connect("c", &pair.netns, "d", 1500);
    let [c, d] = ["c", "d"].map(|name| pair.netns.index(name));
    let mut onward = pair.netns.enter(|| Sender::open(c)).expect("opened");
    let mut end = pair.netns.enter(|| Ring::open(d, RingOptions::default())).expect("opened");
    let mut ring = pair.ring(RingOptions::default());
    send(&mut pair.sender(), &[frame(100, &[0x8100]), frame(1514, &[])]);
    let mut sent = 0;
    while sent < 2 && ring.wait(PATIENCE).expect("up") {
        ring.receive(|batch| {
            batch.iter_mut().for_each(|frame| frame.bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]));
            let frames: Vec<_> = batch.iter().map(|frame| (&*frame.bytes, frame.offload)).collect();
            sent += onward.send(&frames).expect("up").sent;
        });
    }
    assert_eq!(sent, 2);
    let mut expected = [frame(100, &[0x8100]), frame(1514, &[])];
    expected.iter_mut().for_each(|frame| frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]));
    assert_eq!(collect(&mut end, 2), expected);
}

#[test]
fn an_interface_that_goes_down_is_reported_once_and_works_again_when_it_is_up() {
    let pair = Pair::new(1500);
    let (mut sender, mut ring) = (pair.sender(), pair.ring(RingOptions::default()));
    pair.netns.enter(|| ip("link set dev b down"));
    pair.netns.enter(|| ip("link set dev a down"));
    assert!(matches!(ring.wait(Duration::from_secs(1)), Err(PortError::InterfaceDown(index)) if index == pair.b));
    let start = Instant::now();
    assert!(!ring.wait(Duration::from_millis(100)).expect("reported already"));
    assert!(start.elapsed() >= Duration::from_millis(99), "waiting for a dead interface must not spin");
    let down = sender.send_one(&frame(100, &[]), PLAIN);
    assert!(matches!(down, Err(PortError::InterfaceDown(index)) if index == pair.a), "{down:?}");
    pair.netns.enter(|| {
        ip("link set dev a up");
        ip("link set dev b up");
    });
    pair.netns.until_up("a");
    pair.netns.until_up("b");
    send(&mut sender, &[frame(100, &[])]);
    assert_eq!(collect(&mut ring, 1), [frame(100, &[])]);
}

#[test]
fn a_removed_interface_is_reported_at_every_call() {
    let pair = Pair::new(1500);
    let (mut sender, mut ring) = (pair.sender(), pair.ring(RingOptions::default()));
    let waiting = std::thread::spawn(move || {
        let first = ring.wait(Duration::from_secs(20));
        (first, ring)
    });
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    pair.netns.enter(|| ip("link del dev a"));
    let (first, mut ring) = waiting.join().expect("returned");
    assert!(start.elapsed() < Duration::from_secs(5), "the removal must wake the ring");
    // Removal begins with the interface going down; the ring may wake between the two.
    assert!(matches!(first, Err(PortError::InterfaceDown(_) | PortError::InterfaceGone(_))), "{first:?}");
    for _ in 0..2 {
        let again = ring.wait(Duration::from_secs(1));
        assert!(matches!(again, Err(PortError::InterfaceGone(index)) if index == pair.b), "{again:?}");
    }
    let sent = sender.send_one(&frame(100, &[]), PLAIN);
    assert!(matches!(sent, Err(PortError::InterfaceGone(index)) if index == pair.a), "{sent:?}");
}

#[test]
fn an_interface_that_does_not_exist_can_not_be_opened() {
    let netns = Netns::new();
    for index in [0, 4711, u32::MAX] {
        let ring = netns.enter(|| Ring::open(index, RingOptions::default()).map(drop));
        assert!(matches!(ring, Err(PortError::NoSuchInterface(of)) if of == index), "{ring:?}");
        let sender = netns.enter(|| Sender::open(index).map(drop));
        assert!(matches!(sender, Err(PortError::NoSuchInterface(of)) if of == index), "{sender:?}");
    }
}

#[test]
fn impossible_ring_sizes_are_refused() {
    let pair = Pair::new(1500);
    let good = RingOptions::default();
    for options in [
        RingOptions { slots: 1000, ..good },
        RingOptions { slot_len: 128, ..good },
        RingOptions { slot_len: 3000, ..good },
        RingOptions { slots: 1 << 31, slot_len: 65_536, ..good },
        RingOptions { slots: 2, ..good },
        RingOptions { batch: 0, ..good },
        RingOptions { max_frame: 10, ..good },
    ] {
        let ring = pair.netns.enter(|| Ring::open(pair.b, options).map(drop));
        assert!(matches!(ring, Err(PortError::Options(_))), "{options:?}: {ring:?}");
    }
}
