//! A switch on real interfaces: frames are sent by the host at one end of a cable and seen by the host at another's.

use crate::{observe::Record, test_run};
use flowlane_lab::{Direction, End as CableEnd, Injector, Link, Netns, Offload, Tap, veth};
use flowlane_program::{Kernel, KernelOptions, Mode, Punts, Tables};
use flowlane_tables::Slot;
use flowlane_vectors::{Executor, Outcome, Vector, block};
use flowlane_wire::PortId;
use std::{
    process,
    time::{Duration, Instant},
};

/// Large enough for every vector; what the switch takes for its ports' MTU stands in its table.
const MTU: u32 = 9_100;
const PORTS: u16 = 9;
const PATIENCE: Duration = Duration::from_secs(5);

/// A switch with a host on each port.
pub struct Live {
    name: String,
    tables: Tables,
    punts: Punts,
    ports: Vec<Port>,
    _kernel: Kernel,
    _netns: Netns,
}

struct Port {
    index: u32,
    injector: Injector,
    tap: Tap,
}

impl Live {
    pub fn new(mode: Mode) -> Self {
        let (netns, hosts) = (quiet("switch"), quiet("hosts"));
        let ports: Vec<Port> = (1..=PORTS).map(|id| cable(&netns, &hosts, id)).collect();
        let name = format!("live-{}-{mode:?}", process::id());
        let options = KernelOptions { name: name.clone(), block: block(), queue_bytes: 1 << 20, show: true };
        let opened = netns.run(|| {
            let (mut kernel, tables, punts, _) = Kernel::open(options).expect("the kernel takes the object");
            for (port, id) in ports.iter().zip(1..) {
                kernel.attach(PortId(id), &format!("p{id}"), port.index, mode).expect("attached");
                kernel.set_device(PortId(id), port.index).expect("a device");
            }
            (kernel, tables, punts)
        });
        let (kernel, tables, punts) = opened.expect("a thread in the namespace");
        Self { name, tables, punts, ports, _kernel: kernel, _netns: netns }
    }

    fn port(&self, id: PortId) -> &Port {
        &self.ports[usize::from(id.0) - 1]
    }

    /// What the switch shows of the one frame that was sent.
    fn shown(&mut self) -> Vec<Record> {
        let (start, mut records) = (Instant::now(), Vec::new());
        while !records.iter().any(|record| matches!(record, Record::Seen { .. })) && start.elapsed() < PATIENCE {
            self.punts.drain(usize::MAX, |punt| records.push(test_run::record(&punt)));
        }
        records
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Where this fails while a test panics, the pins of that test remain: they have the name of this process.
        let _ = Kernel::remove(&self.name);
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

fn cable(switch: &Netns, hosts: &Netns, id: u16) -> Port {
    let (port, host) = (format!("p{id}"), format!("h{id}"));
    let end = |netns, name| CableEnd { netns, name, mac: None };
    let (port, host): (Link, Link) = veth(end(switch, &port), end(hosts, &host)).expect("a cable");
    for link in [&port, &host] {
        link.set_mtu(MTU).and_then(|()| link.up()).expect("an interface that is up");
    }
    // Else frames that XDP sends into the cable do not come out.
    host.set_offload(Offload::Gro, true).expect("generic receive offload");
    let tap = Tap::start(&host, |frame| frame.direction == Direction::In).expect("a tap");
    Port { index: port.index().expect("an index"), injector: Injector::open(&host).expect("an injector"), tap }
}

/// A frame as it is on the wire, where no tag is beside it.
fn on_the_wire(octets: &[u8], tag: Option<(u16, u16)>) -> Vec<u8> {
    let Some((protocol, tag)) = tag else { return octets.to_vec() };
    [&octets[..12], &protocol.to_be_bytes(), &tag.to_be_bytes(), &octets[12..]].concat()
}

impl Executor for Live {
    fn refuses(&self, vector: &Vector) -> Option<&'static str> {
        let frame = on_the_wire(&vector.frame, vector.offload.tag);
        if frame.len() < 14 {
            return Some("no interface sends a frame without a whole Ethernet header");
        }
        if vector.offload.gso_size > 0 {
            return Some("a packet socket sends single frames");
        }
        let tagged = matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]);
        (tagged && frame.len() < 20)
            .then_some("Linux drops a frame that ends behind its tag, before tc or a tap sees it")
    }

    fn execute(&mut self, vector: &Vector) -> Outcome {
        let devices: Vec<u32> = self.ports.iter().map(|port| port.index).collect();
        let device = |port: PortId| devices[usize::from(port.0) - 1];
        vector.setup.install(self.tables.slots(), self.tables.ports(), self.tables.groups(), device, test_run::now());
        let tag = vector.offload.tag;
        let seen: Vec<usize> = self.ports.iter().map(|port| port.tap.frames().len()).collect();
        self.port(vector.ingress).injector.send(&on_the_wire(&vector.frame, tag)).expect("sent");
        let records = self.shown();
        let Some(Record::Seen { egress, end, ingress, .. }) =
            records.iter().find(|record| matches!(record, Record::Seen { .. }))
        else {
            panic!("{}: the frame did not come in", vector.name)
        };
        assert_eq!(*ingress, vector.ingress, "{}", vector.name);
        let frame = egress.map(|egress| {
            let earlier = seen[usize::from(egress.0) - 1];
            let frames = self.port(egress).tap.wait_for(earlier + 1, PATIENCE);
            let frames = frames.unwrap_or_else(|error| panic!("{}: {error}", vector.name));
            without_tag(&frames[earlier].bytes, vector)
        });
        let slots = self.tables.slots().iter().map(Slot::flow).collect();
        Outcome { end: *end, egress: *egress, frame, copies: Vec::new(), missed: Vec::new(), slots }
    }
}

/// Takes the tag off again that the vector has beside its frame.
fn without_tag(octets: &[u8], vector: &Vector) -> Vec<u8> {
    let Some(tag) = vector.offload.tag else { return octets.to_vec() };
    assert_eq!(octets[12..16], on_the_wire(&[0; 12], Some(tag))[12..16], "{}: the tag", vector.name);
    [&octets[..12], &octets[16..]].concat()
}
