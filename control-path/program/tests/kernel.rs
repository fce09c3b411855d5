//! Tables, programs and links in the real kernel: pinned, adopted, replaced, removed. Needs root.
#![allow(missing_docs)]

use aya::{
    maps::{Array, Map, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use flowlane_lab::{End, Injector, Link, Netns, Offload, veth};
use flowlane_program::{Kernel, KernelOptions, Mode, Tables, bpffs};
use flowlane_tables::{NEVER, NextHop, PortFlags, Rate, Resolution, Slot};
use flowlane_vectors::{
    block, flow_address,
    frames::{ethernet, ethertype},
};
use flowlane_wire::{Block, Mac, PortId, SlotIndex};
use std::{
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const HOST_1: Mac = Mac([2, 0, 0, 0, 0, 0xa1]);
const HOST_2: Mac = Mac([2, 0, 0, 0, 0, 0xa2]);
const MTU: u32 = 1_500;
const SLOT: u8 = 7;
/// How long anything may take that must come to pass.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is waited for what must not.
const IN_VAIN: Duration = Duration::from_millis(300);

/// A switch's name that is this test's own. Dropped, it takes with it what the switch has pinned.
struct Name(String);

impl Name {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!("kernel-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    fn options(&self, block: Block) -> KernelOptions {
        KernelOptions { name: self.0.clone(), block, queue_bytes: 1 << 16, show: false }
    }

    /// Opens the tables. Whether they were adopted is the last.
    fn open(&self) -> (Kernel, Tables, bool) {
        let (kernel, tables, _, adopted) = Kernel::open(self.options(block())).expect("the kernel takes the object");
        (kernel, tables, adopted)
    }

    /// Where the pins are.
    fn directory(&self) -> PathBuf {
        bpffs::find().expect("a BPF file system").join("flowlane").join(&self.0)
    }

    fn pins(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.directory()).into_iter().flatten().flatten();
        let mut names: Vec<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Where this fails while a test panics, the pins of that test remain: they have the name of this process.
        let _ = Kernel::remove(&self.0);
    }
}

/// Two hosts, and a namespace for the switch between them: `h1 - p1`, `p2 - h2`.
struct Cables {
    switch: Netns,
    hosts: Netns,
    p1: Link,
    p2: Link,
    h1: Link,
    h2: Link,
}

impl Cables {
    fn new() -> Self {
        let (switch, hosts) = (quiet("switch"), quiet("hosts"));
        let (p1, h1) = cable(&switch, &hosts, "p1", "h1");
        let (p2, h2) = cable(&switch, &hosts, "p2", "h2");
        Self { switch, hosts, p1, p2, h1, h2 }
    }

    fn attach(&self, kernel: &mut Kernel, port: u16, link: &Link, mode: Mode) {
        let index = link.index().expect("an index");
        kernel.attach(PortId(port), link.name(), index, mode).expect("attached");
    }

    /// The flow from `h1` to `h2`.
    fn install(&self, tables: &Tables) {
        for (port, link) in [(1, &self.p1), (2, &self.p2)] {
            let state = link.state().expect("the interface");
            tables.ports()[port].set(state.index, MTU, state.mac, PortFlags::UP);
        }
        let next = Resolution::Resolved(NextHop { mac: HOST_2, port: PortId(2), routed: false });
        slot(tables).install(flow_address(0, SLOT), PortId(1), NEVER, Rate::UNLIMITED, next);
    }

    /// How many frames have come to `h2`.
    fn received(&self) -> u64 {
        self.h2.statistics().expect("statistics").rx_packets
    }

    /// The same, as soon as there are so many: they arrive after the switch has counted them.
    fn received_of(&self, frames: u64) -> u64 {
        let start = Instant::now();
        while self.received() < frames && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        self.received()
    }

    /// Sends frames of the flow. How many the switch has forwarded.
    fn send(&self, tables: &Tables, frames: u64) -> u64 {
        self.send_within(tables, frames, PATIENCE)
    }

    /// Sends frames that the switch is not to forward. How many it has forwarded all the same.
    fn send_in_vain(&self, tables: &Tables, frames: u64) -> u64 {
        self.send_within(tables, frames, IN_VAIN)
    }

    fn send_within(&self, tables: &Tables, frames: u64, patience: Duration) -> u64 {
        let (injector, before) = (Injector::open(&self.h1).expect("an injector"), slot(tables).packets().load());
        for _ in 0..frames {
            injector.send(&frame()).expect("sent");
        }
        let start = Instant::now();
        while slot(tables).packets().load() < before + frames && start.elapsed() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        slot(tables).packets().load() - before
    }
}

/// A namespace whose interfaces say nothing of their own accord.
fn quiet(label: &str) -> Netns {
    let netns = Netns::new(label).expect("these tests need root");
    for key in ["net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"] {
        netns.sysctl(key, "1").expect("a setting");
    }
    netns
}

fn cable(switch: &Netns, hosts: &Netns, port: &str, host: &str) -> (Link, Link) {
    let end = |netns, name| End { netns, name, mac: None };
    let (port, host) = veth(end(switch, port), end(hosts, host)).expect("a cable");
    set_up(&port, &host);
    (port, host)
}

fn set_up(port: &Link, host: &Link) {
    port.connect(host).expect("interfaces that are up");
    // Else frames that XDP sends into the cable do not come out.
    host.set_offload(Offload::Gro, true).expect("generic receive offload");
}

fn slot(tables: &Tables) -> &Slot {
    &tables.slots()[usize::from(SLOT)]
}

fn frame() -> Vec<u8> {
    ethernet(flow_address(0, SLOT).mac(), HOST_1, &[], ethertype::LOCAL, &[0x5a; 50])
}

/// Runs a test once for each mode, on a thread in the switch's namespace.
fn in_both_modes(test: impl Fn(&Cables, &Name, Mode) + Sync) {
    for mode in [Mode::Tc, Mode::Xdp] {
        let (cables, name) = (Cables::new(), Name::new());
        cables.switch.run(|| test(&cables, &name, mode)).expect("a thread in the namespace");
    }
}

/// Opens a switch, and attaches both ports.
fn start(cables: &Cables, name: &Name, mode: Mode) -> (Kernel, Tables) {
    let (mut kernel, tables, adopted) = name.open();
    assert!(!adopted);
    cables.install(&tables);
    for (port, link) in [(1, &cables.p1), (2, &cables.p2)] {
        cables.attach(&mut kernel, port, link, mode);
        kernel.set_device(PortId(port), link.index().expect("an index")).expect("a device");
        assert!(!kernel.attached()[&PortId(port)].adopted);
    }
    (kernel, tables)
}

/// The kernel lets programs share a map of devices only if all or none of them take frames in several buffers.
#[test]
fn ports_of_any_mtu_are_attached_together() {
    in_both_modes(|cables, name, mode| {
        for link in [&cables.p2, &cables.h2] {
            link.set_mtu(9_000).expect("veth takes it");
        }
        let (_kernel, tables) = start(cables, name, mode);
        assert_eq!(cables.send(&tables, 3), 3);
        cables.p1.set_mtu(9_000).expect("the program does not stand in the way of a larger MTU");
        assert_eq!(cables.send(&tables, 3), 3);
    });
}

/// What XDP hands up: the receiver's interface takes no frames from XDP, and gets them all the same.
#[test]
fn xdp_sends_by_a_port_that_takes_socket_buffers_only() {
    let (cables, name) = (Cables::new(), Name::new());
    cables.h2.set_offload(Offload::Gro, false).expect("veth knows it");
    let work = || {
        let (mut kernel, tables) = start(&cables, &name, Mode::Xdp);
        cables.attach(&mut kernel, 2, &cables.p2, Mode::Tc);
        let (port, state) = (&tables.ports()[2], cables.p2.state().expect("the interface"));
        let before = cables.received();
        cables.send(&tables, 10);
        assert_eq!(cables.received(), before, "without help they are lost: XDP's frames are not taken");
        port.set(state.index, MTU, state.mac, PortFlags::UP.with(PortFlags::BUFFERS));
        assert_eq!(cables.send(&tables, 10), 10);
        assert_eq!(cables.received_of(before + 10), before + 10);
    };
    cables.switch.run(work).expect("a thread in the namespace");
}

#[test]
fn a_successor_adopts_tables_and_links() {
    in_both_modes(|cables, name, mode| {
        let (kernel, tables) = start(cables, name, mode);
        assert_eq!(cables.send(&tables, 3), 3);
        drop((kernel, tables));
        let links = name.pins();

        let (mut kernel, tables, adopted) = name.open();
        assert!(adopted);
        assert_eq!(kernel.pinned_ports(), [PortId(1), PortId(2)]);
        let flow = slot(&tables).flow().expect("the flow is still there");
        assert_eq!((flow.address, flow.packets), (flow_address(0, SLOT).mac(), 3));
        assert_eq!(tables.ports()[1].ifindex(), cables.p1.index().expect("an index"));
        cables.attach(&mut kernel, 1, &cables.p1, mode);
        assert!(kernel.attached()[&PortId(1)].adopted);
        assert_eq!(name.pins(), links, "no link more, none less");
        assert_eq!(cables.send(&tables, 3), 3);
        let counts = tables.counts(PortId(1)).expect("counters");
        assert_eq!(counts[flowlane_tables::End::Forward as usize], 6, "counters go on");
    });
}

#[test]
fn a_successor_may_number_the_ports_otherwise() {
    in_both_modes(|cables, name, mode| {
        let before = start(cables, name, mode);
        let links = name.pins().len();
        drop(before);
        let (mut kernel, tables, _) = name.open();
        cables.attach(&mut kernel, 2, &cables.p1, mode);
        cables.attach(&mut kernel, 1, &cables.p2, mode);
        assert_eq!(name.pins().len(), links, "no link of the former numbers is left");
        assert_eq!(cables.send_in_vain(&tables, 3), 0, "the flow's port is another interface now");
        let counts = tables.counts(PortId(2)).expect("counters");
        assert_eq!(counts[flowlane_tables::End::WrongPort as usize], 3);
    });
}

#[test]
fn frames_are_forwarded_while_nobody_runs() {
    in_both_modes(|cables, name, mode| {
        let (kernel, tables) = start(cables, name, mode);
        drop(kernel);
        assert_eq!(cables.send(&tables, 10), 10);
        assert_eq!(cables.received_of(10), 10);
    });
}

#[test]
fn no_frame_is_lost_while_fifty_successors_take_over() {
    in_both_modes(|cables, name, mode| {
        let (kernel, tables) = start(cables, name, mode);
        drop(kernel);
        let stop = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| send_until(&stop, cables, &tables));
            for _ in 0..50 {
                let (mut kernel, _, adopted) = name.open();
                assert!(adopted);
                for (port, link) in [(1, &cables.p1), (2, &cables.p2)] {
                    cables.attach(&mut kernel, port, link, mode);
                    assert!(kernel.attached()[&PortId(port)].adopted);
                }
            }
            stop.store(true, Ordering::Relaxed);
            sender.join().expect("the sender")
        });
        assert!(sent > 1_000, "only {sent} frames: no continuous traffic");
        assert_eq!((slot(&tables).packets().load(), cables.received_of(sent)), (sent, sent));
    });
}

/// Sends frames without pause but never more than 100 ahead of the switch, so that no queue before it overflows.
fn send_until(stop: &AtomicBool, cables: &Cables, tables: &Tables) -> u64 {
    let (injector, frame, mut sent) = (Injector::open(&cables.h1).expect("an injector"), frame(), 0);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..8 {
            injector.send(&frame).expect("sent");
            sent += 1;
        }
        catch_up(tables, sent - 100.min(sent));
        thread::sleep(Duration::from_micros(200));
    }
    catch_up(tables, sent);
    sent
}

fn catch_up(tables: &Tables, frames: u64) {
    let start = Instant::now();
    while slot(tables).packets().load() < frames {
        assert!(start.elapsed() < PATIENCE, "{} of {frames} frames", slot(tables).packets().load());
        thread::sleep(Duration::from_micros(50));
    }
}

#[test]
fn an_interface_that_is_removed_and_made_again_is_attached_anew() {
    in_both_modes(|cables, name, mode| {
        let (mut kernel, tables) = start(cables, name, mode);
        let old = cables.p1.index().expect("an index");
        cables.p1.clone().delete().expect("removed");
        let (p1, _) = cable(&cables.switch, &cables.hosts, "p1", "h1");
        assert_ne!(p1.index().expect("an index"), old);
        cables.install(&tables);
        assert_eq!(cables.send_in_vain(&tables, 3), 0, "a new interface has no program");

        cables.attach(&mut kernel, 1, &p1, mode);
        assert!(!kernel.attached()[&PortId(1)].adopted);
        assert_eq!(cables.send(&tables, 3), 3);
        let dead = format!("port-1-if{old}-");
        assert!(name.pins().iter().all(|pin| !pin.starts_with(&dead)), "{:?}", name.pins());
    });
}

#[test]
fn an_interface_made_again_with_the_same_index_is_attached_anew() {
    in_both_modes(|cables, name, mode| {
        let (kernel, tables) = start(cables, name, mode);
        drop(kernel);
        let index = cables.p1.index().expect("an index");
        cables.p1.clone().delete().expect("removed");
        make_with_index(cables, index);
        assert_eq!(cables.p1.index().expect("an index"), index);
        cables.install(&tables);

        let (mut kernel, tables, adopted) = name.open();
        assert!(adopted);
        cables.attach(&mut kernel, 1, &cables.p1, mode);
        assert!(!kernel.attached()[&PortId(1)].adopted, "the old link is dead");
        assert_eq!(cables.send(&tables, 3), 3);
    });
}

/// The same cable again: `ip` gives an interface an index of one's choice.
fn make_with_index(cables: &Cables, index: u32) {
    let hosts = cables.hosts.path().display().to_string();
    let index = index.to_string();
    let arguments =
        ["link", "add", "p1", "index", &index, "type", "veth", "peer", "name", "h1", "netns", hosts.as_str()];
    let made = Command::new("ip").args(arguments).status().expect("iproute2");
    assert!(made.success());
    set_up(&cables.p1, &cables.h1);
}

#[test]
fn a_detached_port_is_a_plain_interface() {
    in_both_modes(|cables, name, mode| {
        let (mut kernel, tables) = start(cables, name, mode);
        kernel.detach(PortId(1)).expect("detached");
        assert_eq!(kernel.pinned_ports(), [PortId(2)]);
        until_detached("p1");
        assert_eq!(cables.send_in_vain(&tables, 3), 0);
        cables.attach(&mut kernel, 1, &cables.p1, mode);
        assert_eq!(cables.send(&tables, 3), 3);
    });
}

#[test]
fn a_port_changes_from_tc_to_xdp_and_back() {
    let (cables, name) = (Cables::new(), Name::new());
    let test = || {
        let (mut kernel, tables) = start(&cables, &name, Mode::Tc);
        for mode in [Mode::Xdp, Mode::Tc] {
            cables.attach(&mut kernel, 1, &cables.p1, mode);
            assert_eq!(kernel.attached()[&PortId(1)].mode, mode);
            assert_eq!(cables.send(&tables, 3), 3, "{mode:?}");
            let links = name.pins().into_iter().filter(|pin| pin.starts_with("port-1-")).count();
            assert_eq!(links, if mode == Mode::Tc { 1 } else { 2 });
        }
    };
    cables.switch.run(test).expect("a thread in the namespace");
}

#[test]
fn tables_of_another_size_are_built_anew_and_the_old_ones_removed() {
    in_both_modes(|cables, name, mode| {
        let (kernel, tables) = start(cables, name, mode);
        drop((kernel, tables));
        let larger = Block::new(block().prefix(), 16, 1_024).expect("a block");
        let (mut kernel, tables, _, adopted) = Kernel::open(name.options(larger)).expect("the kernel takes the object");
        assert!(!adopted);
        assert_eq!(tables.slots().len(), 1_024);
        assert!(tables.slots().iter().all(|slot| slot.flow().is_none()));
        cables.install(&tables);
        for (port, link) in [(1, &cables.p1), (2, &cables.p2)] {
            kernel.set_device(PortId(port), link.index().expect("an index")).expect("a device");
            cables.attach(&mut kernel, port, link, mode);
            assert!(kernel.attached()[&PortId(port)].adopted, "the link is the same, the program another");
        }
        assert_eq!(cables.send(&tables, 3), 3, "by the new tables");
        let tables_of =
            |pins: Vec<String>| pins.into_iter().filter(|pin| pin.starts_with("tables-")).collect::<Vec<_>>();
        assert_eq!(tables_of(name.pins()).len(), 2);
        kernel.remove_old_tables().expect("removed");
        let left = tables_of(name.pins());
        assert!(left.len() == 1 && left[0].ends_with("-1024"), "{left:?}");
        assert_eq!(cables.send(&tables, 3), 3);
    });
}

#[test]
fn remove_leaves_nothing() {
    in_both_modes(|cables, name, mode| {
        let (kernel, tables) = start(cables, name, mode);
        assert_eq!(cables.send(&tables, 3), 3);
        assert!(is_attached("p1"));
        drop(kernel);
        Kernel::remove(&name.0).expect("removed");
        assert!(!name.directory().exists());
        until_detached("p1");
        assert_eq!(cables.send_in_vain(&tables, 3), 0);
        Kernel::remove(&name.0).expect("removing nothing is no error");
    });
}

/// Waits until an interface has no program: the kernel takes unpinned links off it a moment later.
fn until_detached(interface: &str) {
    let start = Instant::now();
    while is_attached(interface) {
        assert!(start.elapsed() < PATIENCE, "{interface} has a program still");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether an interface has a program, at tc ingress or XDP.
fn is_attached(interface: &str) -> bool {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).expect("a query");
    let shown = Command::new("ip").args(["link", "show", interface]).output().expect("iproute2");
    assert!(shown.status.success(), "{shown:?}");
    !programs.is_empty() || String::from_utf8_lossy(&shown.stdout).contains("xdp")
}

#[test]
fn a_switch_of_another_name_does_not_disturb() {
    in_both_modes(|cables, name, mode| {
        let (_kernel, tables) = start(cables, name, mode);
        let (other_cables, other_name) = (Cables::new(), Name::new());
        let other = || {
            let (_kernel, tables) = start(&other_cables, &other_name, mode);
            assert_eq!(other_cables.send(&tables, 5), 5);
        };
        other_cables.switch.run(other).expect("a thread in the namespace");
        assert_eq!(slot(&tables).packets().load(), 0, "its counters are its own");
        assert_eq!(cables.send(&tables, 3), 3);
        Kernel::remove(&other_name.0).expect("removed");
        assert_eq!(cables.send(&tables, 3), 3);
        assert_eq!(cables.received_of(6), 6);
    });
}

#[test]
fn a_million_flows_written_to_mapped_memory_are_in_the_kernels_map() {
    const FLOWS: u32 = 1 << 20;
    let name = Name::new();
    let million = Block::new(block().prefix(), 16, FLOWS).expect("a block");
    let (_kernel, tables, _, _) = Kernel::open(name.options(million)).expect("the kernel takes the object");
    let address = |index: u32| million.address(u64::from(index % 251), SlotIndex(index));
    for (slot, index) in tables.slots().iter().zip(0..) {
        let mac = Mac::from_u64(0x0200_0000_0000 | u64::from(index));
        let next = Resolution::Resolved(NextHop { mac, port: PortId(2), routed: index % 2 == 1 });
        slot.install(address(index), PortId(1 + (index % 500) as u16), NEVER - 1, Rate::UNLIMITED, next);
    }
    // Read back by system calls, as anybody else sees the map.
    let pin = name.directory().join(format!("tables-{}-{FLOWS}/slots", flowlane_tables::LAYOUT));
    let map = Map::Array(MapData::from_pin(pin).expect("the pinned map"));
    let array: Array<_, [u64; 8]> = map.try_into().expect("an array of slots");
    assert_eq!(array.len(), FLOWS);
    for index in (0..FLOWS).step_by(997).chain([FLOWS - 1]) {
        let words = array.get(&index, 0).expect("a slot");
        let mac = 0x0200_0000_0000 | u64::from(index);
        let key = address(index).mac().to_wire() | u64::from(1 + index % 500) << 48;
        let next = Mac::from_u64(mac).to_wire() | 2 << 48 | if index % 2 == 1 { 1 << 63 } else { 0 };
        assert_eq!(words, [key, u64::from(NEVER - 1), next, 0, 0, 0, 0, 0], "slot {index}");
    }
    // A new mapping sees all of them.
    let (_kernel, tables, _, adopted) = Kernel::open(name.options(million)).expect("the kernel takes the object");
    assert!(adopted);
    for (slot, index) in tables.slots().iter().zip(0..) {
        assert_eq!(slot.flow().map(|flow| flow.address), Some(address(index).mac()));
    }
}
