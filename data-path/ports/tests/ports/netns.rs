//! Network namespaces that live as long as a test holds them.

use flowlane_ports::af_packet::Ring;
use nix::sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, setns, unshare};
use nix::unistd::Pid;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

/// A network namespace without a name: it goes when its last thread, socket and file are gone.
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new namespace, without IPv6 unless asked for, so that no frame is about that the test did not send.
    pub fn new() -> Self {
        let netns = Self::with_ipv6();
        netns.enter(|| set("net/ipv6/conf/default/disable_ipv6", "1"));
        netns
    }

    pub fn with_ipv6() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; run as root or with unshare -Ur");
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        });
        let netns = Self { file: made.join().expect("made") };
        netns.enter(|| {
            set("net/ipv6/conf/default/accept_dad", "0");
            set("net/ipv6/conf/default/router_solicitations", "0");
            ip("link set lo up");
        });
        netns
    }

    /// Runs `f` in a thread of this namespace; the commands that it starts run there too.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entered");
            f()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Connects interface `name` here to `peer_name` in `peer`, both up.
    pub fn connect(&self, name: &str, peer: &Self, peer_name: &str, mtu: u32) {
        let file = format!("/proc/{}/fd/{}", std::process::id(), peer.file.as_raw_fd());
        self.enter(|| {
            ip(&format!("link add name {name} mtu {mtu} type veth peer name {peer_name} mtu {mtu} netns {file}"));
            ip(&format!("link set dev {name} up"));
        });
        peer.enter(|| ip(&format!("link set dev {peer_name} up")));
        self.until_up(name);
        peer.until_up(peer_name);
    }

    /// Waits until frames can leave by an interface.
    pub fn until_up(&self, name: &str) {
        self.enter(|| until(|| is_up(name)));
    }

    pub fn index(&self, name: &str) -> u32 {
        self.enter(|| nix::net::if_::if_nametoindex(name).expect("an interface"))
    }
}

/// Keeps the calling thread on its processor. The kernel has a queue of arriving packets for each: those that are sent after a
/// move to another processor may overtake others.
pub fn stay_here() {
    let mut here = CpuSet::new();
    let kept = sched_getcpu()
        .and_then(|processor| here.set(processor))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &here));
    kept.expect("kept on a processor");
}

/// Runs ip(8) in this thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a command in this thread's namespace. What it printed.
pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().expect("started");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes a setting of this thread's namespace.
pub fn set(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{path}"), value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// How long anything may take that must come to pass.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for something that must come to pass.
pub fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it did not come to pass");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The next frames of a ring, so many as there have to be.
pub fn collect(ring: &mut Ring, expected: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while frames.len() < expected && ring.wait(PATIENCE).expect("the interface is up") {
        receive(ring, &mut frames);
    }
    frames
}

/// The same, and those that come all the same within a while.
pub fn collect_all(ring: &mut Ring, expected: usize) -> Vec<Vec<u8>> {
    let mut frames = collect(ring, expected);
    while ring.wait(Duration::from_millis(300)).expect("the interface is up") {
        receive(ring, &mut frames);
    }
    frames
}

fn receive(ring: &mut Ring, frames: &mut Vec<Vec<u8>>) {
    ring.receive(|batch| frames.extend(batch.iter().map(|frame| frame.bytes.to_vec())));
}

fn is_up(name: &str) -> bool {
    // /sys belongs to the namespace that mounted it, so ask ip(8). A cable (LOWER_UP) is not enough: until the kernel has seen to it,
    // in its own time, the interface drops what it is to send. Its operational state tells of that (RFC 2863).
    run("ip", &format!("-o link show dev {name}")).contains(" state UP ")
}
