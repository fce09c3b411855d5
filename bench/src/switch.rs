//! Flowlane itself: its own object, on pinned tables, set up as `flowlane switch` does.

use crate::{
    Error,
    contestant::SetUp,
    frame::{SOURCE, block},
    path::Path,
    processor::{Priority, Processor},
    work::{EXPIRES, IN, OUT, Work},
};
use flowlane_lab::{Link, LinkState, Mac, Netns};
use flowlane_ports::{PortError, af_packet::RxFrame, af_xdp};
use flowlane_program::{Kernel, KernelOptions, Mode, ProgramError, Tables, bpffs};
use flowlane_tables::{NextHop, PortFlags, Rate, Resolution};
use flowlane_userspace::{Control, Seen, Transmitters, Work as Threads, Worker};
use flowlane_wire::{Flag, PortId, SlotIndex};
use std::{
    fs,
    path::Path as File,
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Octets for frames that wait; none do.
pub(crate) const QUEUE_BYTES: u32 = 1 << 16;
/// How the names of the benchmark's switches begin. The process's number follows.
const NAME: &str = "bench-";

/// A switch in the kernel.
pub(crate) struct InKernel {
    kernel: Kernel,
    pub(crate) tables: Tables,
    _pins: Pins,
}

/// What a switch has pinned, under a name of its own. Dropped, it takes the pins away.
pub(crate) struct Pins(String);

impl Pins {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!("{NAME}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Where this fails, the next benchmark removes them: they have the name of a process that is gone.
        let _ = Kernel::remove(&self.0);
    }
}

/// Removes what this process has pinned, for who ends it at once. Otherwise pins go with what they are for. Whether there was
/// anything.
pub(crate) fn remove_pins() -> bool {
    remove_pins_of(|process| process == process::id())
}

/// Removes what benchmarks have left that were killed.
pub(crate) fn remove_old_pins() {
    remove_pins_of(|process| !File::new(&format!("/proc/{process}")).exists());
}

fn remove_pins_of(is_meant: impl Fn(u32) -> bool) -> bool {
    let Some(root) = bpffs::find() else { return false };
    let mut found = false;
    let names = fs::read_dir(root.join("flowlane")).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let process = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next()?.parse().ok());
        if process.is_some_and(&is_meant) {
            // Nothing more can be done about one that can not be removed.
            let _ = Kernel::remove(&name);
            found = true;
        }
    }
    found
}

/// A switch in XDP that forwards between two interfaces of the calling thread's namespace, for as long as this lives.
pub struct Forwarder(#[expect(dead_code, reason = "dropped, it forwards no more")] SetUp);

impl Forwarder {
    /// From the one to the other, with so many flows: the addresses 02:f1:00:00:00:00 and up, to the next hop
    /// 02:aa:00:00:00:02.
    ///
    /// # Errors
    /// [`Error`] where there is no such interface, or its driver takes no program.
    pub fn between(ingress: &str, egress: &str, flows: u32) -> Result<Self, Error> {
        let netns = Netns::current()?;
        let (ingress, egress) = (netns.link(ingress)?, netns.link(egress)?);
        attached(&netns, &ports_of(&ingress, &egress)?, Work::Unicast, flows, Mode::Xdp).map(Self)
    }
}

/// Flowlane as programs in the kernel.
pub(crate) fn in_kernel(path: &Path, work: Work, flows: u32, mode: Mode) -> Result<SetUp, Error> {
    attached(&path.switch, &ports(path)?, work, flows, mode)
}

fn attached(netns: &Netns, ports: &[Port<'_>], work: Work, flows: u32, mode: Mode) -> Result<SetUp, Error> {
    let switch = netns.run(|| {
        let mut switch = InKernel::open(flows)?;
        for (number, link, state) in ports {
            switch.kernel.attach(*number, link.name(), state.index, mode)?;
            switch.kernel.set_device(*number, state.index)?;
        }
        Ok::<_, ProgramError>(switch)
    })??;
    fill(&switch.tables, ports, work, flows)?;
    Ok(SetUp::of(switch))
}

/// Flowlane in threads of this process, on AF_XDP sockets: they start on the processor and stay there.
pub(crate) fn on_af_xdp(path: &Path, work: Work, flows: u32, on: &Processor) -> Result<SetUp, Error> {
    let ports = ports(path)?;
    let set_up = path.switch.run(|| {
        on.keep_with(Priority::Ahead)?;
        let InKernel { mut kernel, tables, _pins: pins } = InKernel::open(flows)?;
        fill(&tables, &ports, work, flows)?;
        let (tables, transmitters, mut workers) = (Arc::new(tables), Transmitters::default(), Vec::new());
        for (number, link, state) in &ports {
            let sockets = af_xdp::open(state.index)?;
            let receivers: Vec<_> = sockets.iter().map(|(receiver, _)| receiver).collect();
            kernel.set_device(*number, state.index)?;
            kernel.attach_sockets(*number, link.name(), state.index, &receivers)?;
            let threads = threads(*number, state.index, &tables, &transmitters, work);
            workers.push(Worker::on_af_xdp(&threads, sockets)?);
        }
        Ok::<SetUp, Error>(SetUp::of((workers, kernel, pins)))
    })??;
    Ok(set_up)
}

/// Flowlane in threads of this process, on AF_PACKET rings: they start on the processor and stay there.
pub(crate) fn on_af_packet(path: &Path, work: Work, flows: u32, on: &Processor) -> Result<SetUp, Error> {
    let ports = ports(path)?;
    let tables = Arc::new(Tables::in_memory(block(flows))?);
    fill(&tables, &ports, work, flows)?;
    let workers = path.switch.run(|| {
        on.keep_with(Priority::Ahead)?;
        let start = |(number, _, state): &Port<'_>| {
            let threads = threads(*number, state.index, &tables, &Transmitters::default(), work);
            Ok(Worker::on_af_packet(&threads)?)
        };
        ports.iter().map(start).collect::<Result<Vec<_>, Error>>()
    })??;
    Ok(SetUp::of(workers))
}

/// Flowlane in tc with a flow in each direction, for hosts that talk to each other. With the addresses of both flows: that
/// from the ingress, and that from the egress.
pub(crate) fn both_ways(path: &Path) -> Result<(SetUp, Mac, Mac), Error> {
    let ports = ports(path)?;
    let [there, back] = [SlotIndex(0), SlotIndex(1)].map(|slot| block(2).address(0, slot));
    let switch = path.switch.run(|| {
        let mut switch = InKernel::open(2)?;
        for (number, link, state) in &ports {
            switch.kernel.attach(*number, link.name(), state.index, Mode::Tc)?;
        }
        Ok::<_, ProgramError>(switch)
    })??;
    fill(&switch.tables, &ports, Work::Unicast, 1)?;
    let next = Resolution::Resolved(NextHop { mac: SOURCE, port: IN, routed: false });
    switch.tables.slots()[1].install(back, OUT, EXPIRES, Rate::UNLIMITED, next);
    Ok((SetUp::of(switch), there.mac(), back.mac()))
}

/// A port's number, its interface, and what is known of that.
type Port<'a> = (PortId, &'a Link, LinkState);

fn ports(path: &Path) -> Result<[Port<'_>; 2], Error> {
    ports_of(&path.ingress, &path.egress)
}

fn ports_of<'a>(ingress: &'a Link, egress: &'a Link) -> Result<[Port<'a>; 2], Error> {
    Ok([(IN, ingress, ingress.state()?), (OUT, egress, egress.state()?)])
}

fn fill(tables: &Tables, ports: &[Port<'_>], work: Work, flows: u32) -> Result<(), ProgramError> {
    for (number, _, state) in ports {
        tables.ports()[usize::from(number.0)].set(state.index, state.mtu, state.mac, PortFlags::UP);
    }
    work.install(tables, flows)
}

fn threads(
    port: PortId,
    ifindex: u32,
    tables: &Arc<Tables>,
    transmitters: &Transmitters,
    work: Work,
) -> Threads<Nobody> {
    Threads {
        port,
        ifindex,
        tables: Arc::clone(tables),
        control: Nobody,
        transmitters: transmitters.clone(),
        flag: (work == Work::Flagged).then_some(Flag::DEFAULT),
        show: false,
    }
}

impl InKernel {
    pub(crate) fn open(flows: u32) -> Result<Self, ProgramError> {
        let pins = Pins::new();
        let options =
            KernelOptions { name: pins.name().to_owned(), block: block(flows), queue_bytes: QUEUE_BYTES, show: false };
        let (kernel, tables, ..) = Kernel::open(options)?;
        Ok(Self { kernel, tables, _pins: pins })
    }
}

/// There is no control path: all flows are installed, and no frame waits.
#[derive(Clone)]
struct Nobody;

impl Control for Nobody {
    fn wait(&self, _: SlotIndex, _: PortId, _: &RxFrame<'_>) -> bool {
        false
    }

    fn ask(&self, _: PortId, _: &RxFrame<'_>) -> bool {
        false
    }

    fn give_to_linux(&self, _: &[u8]) {}

    fn show(&self, _: Seen) {}

    fn ended(&self, _: PortId, _: PortError) {}
}
