//! Frames sent and seen one by one.
#![allow(clippy::unwrap_used)]

use flowlane_lab::{Direction, Error, Frame, Host, Injector, Netns, Offload, Tap, traffic};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Local experimental EtherType 1, IEEE 802: nothing else uses it here.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

#[test]
fn a_tap_sees_exactly_the_frames_in_their_order() {
    let start = SystemTime::now();
    let (h1, h2) = pair();
    let eth0 = h1.link("eth0").unwrap();
    let (out, into) = (Tap::start(&eth0, is_experiment).unwrap(), Tap::start(h2.link(), is_experiment).unwrap());
    let injector = Injector::open(&eth0).unwrap();
    let sent: Vec<_> = (0..1000).map(|number| frame(number, 60 + number as usize)).collect();
    for frame in &sent {
        injector.send(frame).unwrap();
    }
    for (tap, direction) in [(out, Direction::Out), (into, Direction::In)] {
        assert_eq!(tap.wait_for(1000, TIMEOUT).unwrap().len(), 1000);
        let capture = tap.stop().unwrap();
        assert_eq!(capture.lost, 0);
        let times = start..=SystemTime::now();
        // Not in their order: until the kernel has begun to stamp frames, they get the time when they are read.
        assert!(capture.frames.iter().all(|frame| times.contains(&frame.at)));
        assert!(capture.frames.iter().all(|frame| frame.direction == direction));
        let seen: Vec<_> = capture.frames.into_iter().map(|frame| frame.bytes).collect();
        assert!(seen == sent, "{direction:?}: the frames differ");
    }
}

#[test]
fn a_vlan_tag_is_seen_where_it_stands_in_the_frame() {
    let (h1, h2) = pair();
    let tap = Tap::start(h2.link(), |frame| frame.bytes.ends_with(b"tagged")).unwrap();
    let mut sent = frame(1, 60);
    sent.splice(12..12, [0x81, 0x00, 0x60, 0x2a]);
    sent.extend_from_slice(b"tagged");
    Injector::open(&h1.link("eth0").unwrap()).unwrap().send(&sent).unwrap();
    assert_eq!(tap.wait_for(1, TIMEOUT).unwrap()[0].bytes, sent);
}

#[test]
fn waiting_for_a_frame_that_does_not_come_ends() {
    let (_h1, h2) = pair();
    let tap = Tap::start(h2.link(), is_experiment).unwrap();
    let error = tap.wait_for(1, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(tap.frames().is_empty());
}

#[test]
fn a_tap_outlives_an_interface_that_goes_down_and_up() {
    let (h1, h2) = pair();
    let tap = Tap::start(h2.link(), is_experiment).unwrap();
    let injector = Injector::open(&h1.link("eth0").unwrap()).unwrap();
    injector.send(&frame(1, 60)).unwrap();
    tap.wait_for(1, TIMEOUT).unwrap();
    h2.link().down().unwrap();
    h2.link().connect(h2.port()).unwrap();
    injector.send(&frame(2, 60)).unwrap();
    assert_eq!(tap.wait_for(2, TIMEOUT).unwrap()[1].bytes, frame(2, 60));
    h2.link().clone().delete().unwrap();
    assert_eq!(tap.stop().unwrap().frames.len(), 2);
}

#[test]
fn a_tap_stops_while_frames_keep_coming() {
    let (h1, h2) = pair();
    let injector = Injector::open(&h1.link("eth0").unwrap()).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                injector.send(&frame(1, 60)).unwrap();
            }
        });
        // The filter is slower than the sender: the queue never runs dry by itself.
        let slow = |_: &Frame| {
            thread::sleep(Duration::from_micros(100));
            true
        };
        let tap = Tap::start(h2.link(), slow).unwrap();
        let waited = tap.wait_for(100, TIMEOUT);
        let (done, ended) = mpsc::channel();
        scope.spawn(move || done.send(tap.stop()));
        // What waits at the stop is taken as slowly as the filter is.
        let capture = ended.recv_timeout(Duration::from_secs(300));
        stop.store(true, Ordering::Relaxed);
        waited.unwrap();
        assert!(capture.unwrap().unwrap().frames.len() >= 100);
    });
}

#[test]
fn a_frame_that_no_interface_takes_is_refused() {
    let (h1, _h2) = pair();
    let injector = Injector::open(&h1.link("eth0").unwrap()).unwrap();
    let short = injector.send(&[0; 13]).unwrap_err().to_string();
    assert!(short.starts_with("h1: can not send a frame of 13 octets on eth0"), "{short}");
    assert!(injector.send(&frame(1, 1515)).is_err());
    injector.send(&frame(1, 1514)).unwrap();
    h1.link("eth0").unwrap().down().unwrap();
    let down = injector.send(&frame(1, 60)).unwrap_err().to_string();
    assert!(down.contains("set the interface up first"), "{down}");
}

#[test]
fn without_offloads_no_frame_is_longer_than_a_wire_would_carry() {
    let (h1, h2) = pair();
    let eth0 = h1.link("eth0").unwrap();
    let longest = || {
        let tap = Tap::start(h2.link(), |frame| frame.direction == Direction::In).unwrap();
        let address = SocketAddr::new(h2.ipv4().unwrap(), 0);
        traffic::tcp_transfer(&h1, h2.netns(), address, 1_000_000, TIMEOUT).unwrap();
        tap.stop().unwrap().frames.iter().map(|frame| frame.bytes.len()).max().unwrap()
    };
    assert!(longest() > 1514, "segments are not merged at all: the test shows nothing");
    for offload in [Offload::TxChecksum, Offload::Tso, Offload::Gso] {
        eth0.set_offload(offload, false).unwrap();
    }
    h2.link().set_offload(Offload::Gro, false).unwrap();
    assert_eq!(longest(), 1514);
}

fn pair() -> (Netns, Host) {
    let h1 = Netns::new("h1").unwrap();
    let h2 = Host::new("h2", &h1, "eth0", None, &["10.0.0.2/24".parse().unwrap()]).unwrap();
    h1.link("eth0").unwrap().add_address("10.0.0.1/24".parse().unwrap()).unwrap();
    (h1, h2)
}

fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..6].copy_from_slice(&[0xa2, 0xf1, 0, 0, 0, 1]);
    bytes[6..12].copy_from_slice(&[0xa2, 0xf1, 0, 0, 0, 2]);
    bytes[12..14].copy_from_slice(&EXPERIMENT);
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn is_experiment(frame: &Frame) -> bool {
    frame.bytes.get(12..14) == Some(&EXPERIMENT)
}
