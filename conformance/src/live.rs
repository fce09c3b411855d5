//! A switch on real interfaces: frames are sent by the host at one end of a cable and seen by the host at another's.

use crate::{
    Action, Error, Input, Observed, Record, Switch,
    in_kernel::record,
    interfaces::quiet,
    observe::{asking, growth, now, set_up},
    on_sockets::Records,
};
use flowlane_lab::{Direction, End as CableEnd, Injector, Link, Netns, Offload, Tap, veth};
use flowlane_ports::af_xdp;
use flowlane_program::{Kernel, KernelOptions, Mode, Punts, Tables};
use flowlane_tables::{Kind, SNAP, Slot};
use flowlane_userspace::{Transmitters, Work, Worker};
use flowlane_vectors::{Executor, Outcome, Setup, Vector, block, served};
use flowlane_wire::PortId;
use std::{
    collections::{BTreeMap, VecDeque},
    process,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Who handles frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The kernel.
    Kernel(Mode),
    /// This process, by AF_XDP sockets.
    AfXdp,
}

impl Place {
    /// Large enough for every vector, where that can be; what the switch takes for its ports' MTU stands in its table.
    const fn mtu(self) -> u32 {
        match self {
            Self::Kernel(_) => 9_100,
            Self::AfXdp => af_xdp::MTU_MAX,
        }
    }
}

const PORTS: u16 = 9;
const PATIENCE: Duration = Duration::from_secs(5);

/// A switch with a host on each port.
pub struct Live {
    name: String,
    place: Place,
    tables: Arc<Tables>,
    punts: Punts,
    /// What the threads say, where there are any.
    records: mpsc::Receiver<Record>,
    ports: Vec<Port>,
    _workers: Vec<Worker>,
    _kernel: Kernel,
    _netns: Netns,
}

struct Port {
    index: u32,
    injector: Injector,
    tap: Tap,
}

impl Live {
    /// A switch all of whose ports are handled at the same place.
    ///
    /// # Errors
    /// [`Error`] without root, or where the kernel does not take the programs or has no such sockets.
    pub fn new(place: Place) -> Result<Self, Error> {
        let (netns, hosts) = (quiet("switch")?, quiet("hosts")?);
        let ports = (1..=PORTS).map(|id| cable(&netns, &hosts, id, place.mtu())).collect::<Result<Vec<_>, _>>()?;
        let name = format!("live-{}-{place:?}", process::id()).replace(['(', ')'], "-");
        let options = KernelOptions { name: name.clone(), block: block(), queue_bytes: 1 << 20, show: true };
        let (told, records) = mpsc::channel();
        let opened = netns.run(|| {
            let (mut kernel, tables, punts, _) = Kernel::open(options)?;
            let (tables, transmitters) = (Arc::new(tables), Transmitters::default());
            let work = |port, ifindex| Work {
                port,
                ifindex,
                tables: Arc::clone(&tables),
                control: Records(told.clone()),
                transmitters: transmitters.clone(),
                flag: None,
                show: true,
            };
            let mut workers = Vec::new();
            for (port, id) in ports.iter().zip(1..) {
                let id = PortId(id);
                workers.extend(attach(&mut kernel, place, &work(id, port.index))?);
                kernel.set_device(id, port.index)?;
            }
            Ok::<_, Error>((kernel, tables, punts, workers))
        });
        let (kernel, tables, punts, workers) = opened??;
        Ok(Self { name, place, tables, punts, records, ports, _workers: workers, _kernel: kernel, _netns: netns })
    }

    fn port(&self, id: PortId) -> Result<&Port, String> {
        self.ports.get(usize::from(id.0).wrapping_sub(1)).ok_or(format!("port {id} has no cable"))
    }

    /// How many frames have come out at each port.
    fn came_out(&self) -> Vec<usize> {
        self.ports.iter().map(|port| port.tap.frames().len()).collect()
    }

    /// What has come out at the ports since: as many frames as are expected, and others that are there by then. In the
    /// expected order of the ports; nobody sees the order of frames at different ones.
    fn sent_since(&self, earlier: &[usize], expected: &[PortId]) -> Result<Vec<(PortId, Vec<u8>)>, String> {
        let mut by_port = BTreeMap::new();
        for ((port, earlier), id) in self.ports.iter().zip(earlier).zip(1..) {
            let count = expected.iter().filter(|port| port.0 == id).count();
            let frames = port.tap.wait_for(earlier + count, PATIENCE).map_err(|error| error.to_string())?;
            by_port.insert(PortId(id), frames.into_iter().skip(*earlier).map(|frame| frame.bytes).collect());
        }
        let next = |id: &PortId| by_port.get_mut(id).and_then(VecDeque::pop_front).map(|frame| (*id, frame));
        let mut sent: Vec<_> = expected.iter().filter_map(next).collect();
        sent.extend(by_port.into_iter().flat_map(|(id, frames)| frames.into_iter().map(move |frame| (id, frame))));
        Ok(sent)
    }

    /// What the switch shows of the one frame that was sent.
    fn shown(&mut self) -> Vec<Record> {
        let (start, mut records) = (Instant::now(), Vec::new());
        while !records.iter().any(|record| matches!(record, Record::Seen { .. })) && start.elapsed() < PATIENCE {
            self.punts.drain(usize::MAX, |punt| records.push(record(&punt)));
            records.extend(self.records.try_iter());
        }
        // A thread says last how a frame has ended, and the kernel first.
        records.sort_by_key(|record| !matches!(record, Record::Seen { .. }));
        records
    }
}

/// Lets a port's frames be handled. The threads, where there are any.
fn attach(kernel: &mut Kernel, place: Place, work: &Work<Records>) -> Result<Option<Worker>, Error> {
    let (port, ifindex, interface) = (work.port, work.ifindex, format!("p{}", work.port));
    match place {
        Place::Kernel(mode) => {
            kernel.attach(port, &interface, ifindex, mode)?;
            Ok(None)
        }
        Place::AfXdp => {
            let sockets = af_xdp::open(ifindex)?;
            let receivers: Vec<_> = sockets.iter().map(|(receiver, _)| receiver).collect();
            kernel.attach_sockets(port, &interface, ifindex, &receivers)?;
            Ok(Some(Worker::on_af_xdp(work, sockets)?))
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Where this fails while a test panics, the pins of that test remain: they have the name of this process.
        let _ = Kernel::remove(&self.name);
    }
}

fn cable(switch: &Netns, hosts: &Netns, id: u16, mtu: u32) -> Result<Port, Error> {
    let (port, host) = (format!("p{id}"), format!("h{id}"));
    let end = |netns, name| CableEnd { netns, name, mac: None };
    let (port, host): (Link, Link) = veth(end(switch, &port), end(hosts, &host))?;
    port.set_mtu(mtu)?;
    host.set_mtu(mtu)?;
    port.connect(&host)?;
    // Else frames that XDP sends into the cable do not come out.
    host.set_offload(Offload::Gro, true)?;
    let tap = Tap::start(&host, |frame| frame.direction == Direction::In)?;
    Ok(Port { index: port.index()?, injector: Injector::open(&host)?, tap })
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
        if frame.len() > self.place.mtu() as usize + 14 {
            return Some("the frame is longer than the interface's MTU");
        }
        let tagged = matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]);
        (tagged && frame.len() < 20)
            .then_some("Linux drops a frame that ends behind its tag, before tc or a tap sees it")
    }

    fn execute(&mut self, vector: &Vector) -> Result<Outcome, String> {
        let device = |port| self.port(port).map_or(0, |port| port.index);
        set_up(&self.tables, &vector.setup, device, now())?;
        let (earlier, frame) = (self.came_out(), on_the_wire(&vector.frame, vector.offload.tag));
        self.port(vector.ingress)?.injector.send(&frame).map_err(|error| error.to_string())?;
        let records = self.shown();
        let Some(Record::Seen { egress, end, ingress, length, before, after }) =
            records.iter().find(|record| matches!(record, Record::Seen { .. }))
        else {
            return Err("did not come in".to_owned());
        };
        if *ingress != vector.ingress {
            return Err(format!("came in by port {ingress}"));
        }
        let expected = vector.expect.copies.iter().map(|(port, _)| *port);
        let sent = self.sent_since(&earlier, &expected.chain(*egress).collect::<Vec<_>>())?;
        let sent = sent.into_iter().map(|(port, frame)| Ok((port, without_tag(&frame, vector)?)));
        let mut copies = sent.collect::<Result<Vec<_>, String>>()?;
        let frame = match egress {
            // The one that is no copy is expected to be the only one.
            Some(_) => copies.pop().map(|(_, frame)| frame),
            // Linux takes a tag out of the octets before tc sees them.
            None => (*length as usize <= SNAP && *before == vector.frame).then(|| after.clone()),
        };
        Ok(Outcome {
            end: *end,
            egress: *egress,
            frame,
            copies,
            served: served(self.tables.groups()),
            asking: asking(&self.tables, vector.ingress),
            slots: self.tables.slots().iter().map(Slot::flow).collect(),
        })
    }
}

impl Switch for Live {
    fn name(&self) -> String {
        format!("{:?} on interfaces", self.place)
    }

    fn set_up(&mut self, setup: &Setup, nanos: u64) -> Result<(), String> {
        set_up(&self.tables, setup, |port| self.port(port).map_or(0, |port| port.index), nanos)
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The end says what was done with the frame: nobody sees it but who gets it.
    fn offer(&mut self, input: &Input) -> Result<Observed, String> {
        let counts = |tables: &Tables| tables.counts(input.ingress).map_err(|error| error.to_string());
        let (before, earlier) = (counts(&self.tables)?, self.came_out());
        self.port(input.ingress)?.injector.send(&input.octets).map_err(|error| error.to_string())?;
        let records = self.shown();
        let Some(Record::Seen { egress, end, after, .. }) = records.first() else {
            return Err("did not come in".to_owned());
        };
        let sent = self.sent_since(&earlier, &egress.iter().copied().collect::<Vec<_>>())?;
        let (action, frame, copies) = match (egress, end.kind()) {
            (Some(_), _) => (Action::Redirect, sent.first().map(|(_, frame)| frame.clone()), Vec::new()),
            (None, Kind::Passed | Kind::ToLinux) => (Action::Pass, Some(after.clone()), sent),
            (None, _) => (Action::Drop, Some(after.clone()), sent),
        };
        let counted = growth(&before, &counts(&self.tables)?)?;
        Ok(Observed { action, frame: frame.ok_or("did not come out")?, counted, records, copies })
    }
}

/// Takes the tag off again that the vector has beside its frame.
fn without_tag(octets: &[u8], vector: &Vector) -> Result<Vec<u8>, String> {
    let Some((protocol, tag)) = vector.offload.tag else { return Ok(octets.to_vec()) };
    let [high, low] = protocol.to_be_bytes();
    let [tag_high, tag_low] = tag.to_be_bytes();
    match octets.get(12..16) {
        Some(found) if found == [high, low, tag_high, tag_low] => Ok([&octets[..12], &octets[16..]].concat()),
        found => Err(format!("has {found:02x?} for its tag")),
    }
}
