//! The kernel's programs by `BPF_PROG_TEST_RUN`: a program is run on a frame without an interface.
//!
//! What test runs can not show, and why:
//! - frames shorter than 14 octets: the kernel refuses them, as every driver does;
//! - a VLAN tag beside a socket buffer: the test run's context has no field for it ([`crate::Live`] shows it);
//! - socket buffers that end within the IP header that the EtherType promises: refused (`Live` shows them);
//! - socket buffers of more than 3,712 octets: the test run puts them into one page (`Live` shows them);
//! - whom Linux takes a frame to be for (`pkt_type`) after `ToLinux`: not part of the context that comes back;
//! - the word that XDP leaves for tc before a frame: what is run behind XDP gets the frame without it (`Live` shows both
//!   in one);
//! - copies of a super-packet: the test run's buffer lacks what the kernel needs to cut it (the end-to-end tests show it).

use crate::{
    Error, Interfaces,
    observe::{Action, Input, Observed, Record, Switch, growth, is_cut_ip, now, set_up},
};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp},
};
use flowlane_program::{Kernel, KernelOptions, Punt, Punts, Tables};
use flowlane_tables::{End, Resolution};
use flowlane_vectors::{Executor, Outcome, Setup, Vector, block};
use flowlane_wire::PortId;
use std::{
    collections::BTreeMap,
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// At the driver.
    Xdp,
    /// On socket buffers.
    Tc,
}

/// What XDP writes before a frame that it hands up to tc for copies: `HANDED_UP` of `data-path/kernel/src/frame.rs`,
/// without a port.
const FOR_COPIES: u32 = 0xf10a_0000;

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "flowlane_xdp",
            Self::Tc => "flowlane_tc",
        }
    }

    /// The longest frame that a test run takes: what a page holds besides its head and tail, or several pages.
    pub(crate) const fn longest(self) -> usize {
        match self {
            Self::Xdp => 16 * 4_096,
            Self::Tc => 3_712,
        }
    }

    /// What a return value means (`linux/bpf.h`, `linux/pkt_cls.h`).
    fn action(self, value: u32) -> Result<Action, String> {
        match (self, value.cast_signed()) {
            (Self::Xdp, 2) | (Self::Tc, -1) => Ok(Action::Pass),
            (Self::Xdp, 4) | (Self::Tc, 7) => Ok(Action::Redirect),
            (Self::Xdp, 1) | (Self::Tc, 2) => Ok(Action::Drop),
            (_, other) => Err(format!("{} returned {other}", self.name())),
        }
    }
}

/// A switch whose program runs in the kernel, with tables and pins of its own.
pub struct InKernel {
    program: Program,
    name: String,
    kernel: Kernel,
    tables: Tables,
    punts: Punts,
    /// Each port's copy of the program.
    copies: BTreeMap<(Program, PortId), Ebpf>,
    interfaces: Arc<Interfaces>,
}

/// How a run of a program ended.
struct Run {
    action: Action,
    /// The word before the frame, where there is one.
    word: Option<u32>,
    frame: Vec<u8>,
}

impl InKernel {
    /// A switch whose ports are those interfaces. Where its queue to userspace is more than 64 KiB, it shows every frame.
    ///
    /// # Errors
    /// [`Error`] where the kernel does not take the tables.
    pub fn new(program: Program, interfaces: &Arc<Interfaces>, queue_bytes: u32) -> Result<Self, Error> {
        Self::without_devices(program, interfaces, queue_bytes)?.with_devices()
    }

    /// One that shows nothing, and has a queue of this size for frames that wait.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn quiet(program: Program, interfaces: &Arc<Interfaces>, queue_bytes: u32) -> Result<Self, Error> {
        Self::open(program, interfaces, queue_bytes, false)?.with_devices()
    }

    /// One that XDP can not send frames by.
    ///
    /// # Errors
    /// As above.
    pub fn without_devices(program: Program, interfaces: &Arc<Interfaces>, queue_bytes: u32) -> Result<Self, Error> {
        Self::open(program, interfaces, queue_bytes, queue_bytes > 1 << 16)
    }

    fn open(program: Program, interfaces: &Arc<Interfaces>, queue_bytes: u32, show: bool) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("agree-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = KernelOptions { name: name.clone(), block: block(), queue_bytes, show };
        let (kernel, tables, punts, _) = Kernel::open(options)?;
        Ok(Self { program, name, kernel, tables, punts, copies: BTreeMap::new(), interfaces: Arc::clone(interfaces) })
    }

    fn with_devices(mut self) -> Result<Self, Error> {
        for port in self.interfaces.ports() {
            self.kernel.set_device(port, self.interfaces.index(port))?;
        }
        Ok(self)
    }

    /// How a frame ended, with its records left in the queue.
    ///
    /// # Errors
    /// What about the run made no sense.
    pub fn offer_undrained(&mut self, input: &Input) -> Result<End, String> {
        let before = self.counts(input.ingress)?;
        self.run(input)?;
        match growth(&before, &self.counts(input.ingress)?)?[..] {
            [(end, _)] => Ok(end),
            ref counted => Err(format!("is counted as {counted:?}")),
        }
    }

    /// How many frames wait in the queue.
    pub fn drain_waiting(&mut self) -> usize {
        let waits = |record: &&Record| matches!(record, Record::Waiting { .. } | Record::Asking { .. });
        self.records().iter().filter(waits).count()
    }

    /// Runs the switch's program, and what XDP hands up runs tc's, as its companion does.
    pub(crate) fn run(&mut self, input: &Input) -> Result<(Action, Vec<u8>), String> {
        let run = self.run_program(self.program, input)?;
        match run.word {
            None => Ok((run.action, run.frame)),
            Some(FOR_COPIES) if run.action == Action::Pass && run.frame == input.octets => {
                let run = self.run_program(Program::Tc, input)?;
                Ok((run.action, run.frame))
            }
            Some(word) => Err(format!("{:?} with the word {word:#x} before {:02x?}", run.action, run.frame)),
        }
    }

    fn run_program(&mut self, program: Program, input: &Input) -> Result<Run, String> {
        let copy = match self.copies.remove(&(program, input.ingress)) {
            Some(copy) => copy,
            None => load(&self.kernel, program, input.ingress).map_err(|error| error.to_string())?,
        };
        let (copy, len) = (self.copies.entry((program, input.ingress)).or_insert(copy), input.octets.len());
        let mut out = vec![0; len + size_of::<u32>()];
        let context = context(input);
        let options = TestRunOptions {
            data_in: Some(&input.octets),
            data_out: Some(&mut out),
            ctx_in: (input.gso_size > 0).then_some(&context),
            ..TestRunOptions::default()
        };
        let result = test_run(copy, program, options)?;
        out.truncate(result.data_size_out as usize);
        let word = match out.len().checked_sub(len) {
            Some(0) => None,
            Some(4) => out.drain(..4).collect::<Vec<u8>>().try_into().ok().map(u32::from_ne_bytes),
            _ => return Err(format!("{len} octets became {}", out.len())),
        };
        Ok(Run { action: program.action(result.return_value)?, word, frame: out })
    }

    fn counts(&self, port: PortId) -> Result<flowlane_program::Counts, String> {
        self.tables.counts(port).map_err(|error| error.to_string())
    }

    pub(crate) fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        self.punts.drain(usize::MAX, |punt| records.push(record(&punt)));
        records
    }
}

impl Drop for InKernel {
    fn drop(&mut self) {
        // Where this fails while a test panics, the pins of that test remain: they have the name of this process.
        let _ = Kernel::remove(&self.name);
    }
}

fn load(kernel: &Kernel, program: Program, port: PortId) -> Result<Ebpf, Error> {
    let name = program.name();
    let failed = |source| Error::Load { program: name, source };
    let mut object = kernel.programs(port)?;
    let loaded = object.program_mut(name).ok_or(flowlane_program::ProgramError::Incomplete(name))?;
    match program {
        Program::Tc => <&mut SchedClassifier>::try_from(loaded).and_then(SchedClassifier::load).map_err(failed)?,
        Program::Xdp => <&mut Xdp>::try_from(loaded).and_then(Xdp::load).map_err(failed)?,
    }
    Ok(object)
}

fn test_run(object: &Ebpf, program: Program, options: TestRunOptions<'_>) -> Result<TestRunResult, String> {
    let loaded = object.program(program.name()).ok_or("the object lacks the program")?;
    let result = match program {
        Program::Tc => <&SchedClassifier>::try_from(loaded).and_then(|program| program.test_run(options)),
        Program::Xdp => <&Xdp>::try_from(loaded).and_then(|program| program.test_run(options)),
    };
    result.map_err(|error| format!("{}: {error:?}", program.name()))
}

/// `struct __sk_buff` of `linux/bpf.h`, with the two fields that say that the buffer is a super-packet.
fn context(input: &Input) -> [u8; 192] {
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = [0; 192];
    let segments = (input.octets.len() as u32).div_ceil(input.gso_size.max(1));
    context[GSO_SEGS..GSO_SEGS + 4].copy_from_slice(&segments.to_ne_bytes());
    context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&input.gso_size.to_ne_bytes());
    context
}

/// A record of the queue, without its time.
pub(crate) fn record(punt: &Punt<'_>) -> Record {
    match *punt {
        Punt::Waiting { slot, ingress, frame, tag, gso_size } => {
            Record::Waiting { slot: slot.0, ingress, frame: frame.to_vec(), tag, gso_size }
        }
        Punt::Asking { ingress, frame, tag, gso_size } => {
            Record::Asking { ingress, frame: frame.to_vec(), tag, gso_size }
        }
        Punt::Seen { ingress, egress, end, length, before, after, .. } => {
            Record::Seen { ingress, egress, end, length, before: before.to_vec(), after: after.to_vec() }
        }
    }
}

impl Switch for InKernel {
    fn name(&self) -> String {
        self.program.name().to_owned()
    }

    fn set_up(&mut self, setup: &Setup, nanos: u64) -> Result<(), String> {
        set_up(&self.tables, setup, |port| self.interfaces.index(port), nanos)
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn offer(&mut self, input: &Input) -> Result<Observed, String> {
        let before = self.counts(input.ingress)?;
        let (action, frame) = self.run(input)?;
        let counted = growth(&before, &self.counts(input.ingress)?)?;
        let copies = self.interfaces.sent().map_err(|error| error.to_string())?;
        Ok(Observed { action, frame, counted, records: self.records(), copies })
    }
}

impl Executor for InKernel {
    fn refuses(&self, vector: &Vector) -> Option<&'static str> {
        let offload = vector.offload;
        // What XDP hands up is run by tc.
        let by_tc = self.program == Program::Tc || is_to_group(vector);
        if vector.frame.len() < 14 {
            return Some("a test run takes no frame without a whole Ethernet header");
        }
        if vector.frame.len() > if by_tc { Program::Tc } else { Program::Xdp }.longest() {
            return Some("a test run puts the frame into one page");
        }
        if by_tc && is_cut_ip(&vector.frame) {
            return Some("a test run takes no socket buffer that ends within its IP header");
        }
        if offload.gso_size > 0 && self.program != Program::Tc {
            return Some("XDP meets no super-packets");
        }
        if offload.gso_size > 0 && !vector.expect.copies.is_empty() {
            return Some("a test run's buffer lacks what the kernel needs to cut copies of a super-packet");
        }
        offload.tag.map(|_| "a test run can not put a tag beside the frame")
    }

    fn execute(&mut self, vector: &Vector) -> Result<Outcome, String> {
        self.set_up(&vector.setup, now())?;
        self.offer(&Input::of(vector))?.outcome(vector, &self.tables)
    }
}

/// Whether the frame may come to a group: a flow that it can belong to has one.
fn is_to_group(vector: &Vector) -> bool {
    let slots = Input::of(vector).slots();
    let flagged = vector.setup.tuples.iter().map(|(_, address)| *address);
    let flows = vector.setup.flows.iter().filter(|flow| {
        let address = flow.address.mac().to_u64();
        slots.contains(&(block().slot(flow.address).0 as usize)) || flagged.clone().any(|flagged| flagged == address)
    });
    flows.into_iter().any(|flow| matches!(flow.next, Resolution::Group(_)))
}
