//! The executors: the kernel's programs by `BPF_PROG_TEST_RUN`, and the pipeline as a function.

use crate::observe::{Action, Input, Observed, Record, Switch, growth};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp},
};
use flowlane_pipeline::{Frame, Verdict};
use flowlane_program::{Kernel, KernelOptions, Punt, Punts, Tables};
use flowlane_tables::{End, SNAP, Slot};
use flowlane_vectors::{Buffer, Executor, Outcome, Setup, Vector, block};
use flowlane_wire::PortId;
use std::{
    collections::BTreeMap,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The clock of the data path.
pub fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    std::time::Duration::from(now).as_nanos() as u64
}

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Xdp,
    Tc,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "flowlane_xdp",
            Self::Tc => "flowlane_tc",
        }
    }

    /// The longest frame that a test run takes: what a page holds besides its head and tail, or several pages.
    const fn longest(self) -> usize {
        match self {
            Self::Xdp => 16 * 4_096,
            Self::Tc => 3_712,
        }
    }

    /// What a return value means (`linux/bpf.h`, `linux/pkt_cls.h`).
    fn action(self, value: u32) -> Action {
        match (self, value.cast_signed()) {
            (Self::Xdp, 2) | (Self::Tc, -1) => Action::Pass,
            (Self::Xdp, 4) | (Self::Tc, 7) => Action::Redirect,
            (Self::Xdp, 1) | (Self::Tc, 2) => Action::Drop,
            (_, other) => panic!("{} returned {other}", self.name()),
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
    copies: BTreeMap<PortId, Ebpf>,
    device: u32,
}

impl InKernel {
    /// A switch all of whose ports are the interface `device`.
    pub fn new(program: Program, device: u32, queue_bytes: u32) -> Self {
        let mut switch = Self::without_devices(program, device, queue_bytes);
        for port in 1..16 {
            switch.kernel.set_device(PortId(port), device).expect("a device");
        }
        switch
    }

    /// One that XDP can not send frames by.
    pub fn without_devices(program: Program, device: u32, queue_bytes: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("agree-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = KernelOptions { name: name.clone(), block: block(), queue_bytes, show: queue_bytes > 1 << 16 };
        let (kernel, tables, punts, adopted) = Kernel::open(options).expect("the kernel takes the object");
        assert!(!adopted);
        Self { program, name, kernel, tables, punts, copies: BTreeMap::new(), device }
    }

    fn run(&mut self, input: &Input) -> (Action, Vec<u8>) {
        let (program, kernel) = (self.program, &self.kernel);
        let copy = self.copies.entry(input.ingress).or_insert_with(|| load(kernel, program, input.ingress));
        let mut out = vec![0; input.octets.len()];
        let context = context(input);
        let options = TestRunOptions {
            data_in: Some(&input.octets),
            data_out: Some(&mut out),
            ctx_in: (input.gso_size > 0).then_some(&context),
            ..TestRunOptions::default()
        };
        let result = test_run(copy, program, options);
        assert_eq!(result.data_size_out as usize, input.octets.len(), "the length of a frame never changes");
        (program.action(result.return_value), out)
    }

    fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        self.punts.drain(usize::MAX, |punt| records.push(record(&punt)));
        records
    }

    /// How a frame ended, with its records left in the queue.
    pub fn offer_undrained(&mut self, input: &Input) -> End {
        let before = self.tables.counts(input.ingress).expect("counters");
        self.run(input);
        let counted = growth(&before, &self.tables.counts(input.ingress).expect("counters"));
        assert_eq!(counted.len(), 1);
        counted[0].0
    }

    /// How many frames wait in the queue.
    pub fn drain_waiting(&mut self) -> usize {
        self.records().iter().filter(|record| matches!(record, Record::Waiting { .. })).count()
    }
}

impl Drop for InKernel {
    fn drop(&mut self) {
        // Where this fails while a test panics, the pins of that test remain: they have the name of this process.
        let _ = Kernel::remove(&self.name);
    }
}

fn load(kernel: &Kernel, program: Program, port: PortId) -> Ebpf {
    let mut object = kernel.programs(port).expect("the kernel takes the object");
    let loaded = object.program_mut(program.name()).expect("the program");
    if program == Program::Tc {
        <&mut SchedClassifier>::try_from(loaded).expect("a tc program").load().expect("the verifier's consent");
    } else {
        <&mut Xdp>::try_from(loaded).expect("an XDP program").load().expect("the verifier's consent");
    }
    object
}

fn test_run(object: &Ebpf, program: Program, options: TestRunOptions<'_>) -> TestRunResult {
    let loaded = object.program(program.name()).expect("the program");
    let result = if program == Program::Tc {
        <&SchedClassifier>::try_from(loaded).expect("a tc program").test_run(options)
    } else {
        <&Xdp>::try_from(loaded).expect("an XDP program").test_run(options)
    };
    result.unwrap_or_else(|error| panic!("{}: {error:?}", program.name()))
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

pub fn record(punt: &Punt<'_>) -> Record {
    match *punt {
        Punt::Waiting { slot, ingress, frame, tag, gso_size } => {
            Record::Waiting { slot: slot.0, ingress, frame: frame.to_vec(), tag, gso_size }
        }
        Punt::Asking { ingress, frame, tag, gso_size } => {
            Record::Waiting { slot: 0, ingress, frame: frame.to_vec(), tag, gso_size }
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

    fn set_up(&mut self, setup: &Setup, nanos: u64) {
        let device = self.device;
        setup.install(self.tables.slots(), self.tables.ports(), self.tables.groups(), |_| device, nanos);
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn offer(&mut self, input: &Input) -> Observed {
        let before = self.tables.counts(input.ingress).expect("counters");
        let (action, frame) = self.run(input);
        let counted = growth(&before, &self.tables.counts(input.ingress).expect("counters"));
        Observed { action, frame, counted, records: self.records() }
    }
}

impl Executor for InKernel {
    fn refuses(&self, vector: &Vector) -> Option<&'static str> {
        let offload = vector.offload;
        if vector.frame.len() < 14 {
            return Some("a test run takes no frame without a whole Ethernet header");
        }
        if vector.frame.len() > self.program.longest() {
            return Some("a test run puts the frame into one page");
        }
        if self.program == Program::Tc && is_cut_ip(&vector.frame) {
            return Some("a test run takes no socket buffer that ends within its IP header");
        }
        if offload.gso_size > 0 && self.program != Program::Tc {
            return Some("XDP meets no super-packets");
        }
        offload.tag.map(|_| "a test run can not put a tag beside the frame")
    }

    fn execute(&mut self, vector: &Vector) -> Outcome {
        execute(self, vector)
    }
}

/// Whether an untagged frame ends within the header that its EtherType promises.
pub fn is_cut_ip(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.len() < 14 + 20,
        Some([0x86, 0xdd]) => frame.len() < 14 + 40,
        _ => false,
    }
}

/// The pipeline in this process, and what an executor does around it.
pub struct InUserspace {
    tables: Tables,
}

impl InUserspace {
    pub fn new() -> Self {
        Self { tables: Tables::in_memory(block()).expect("memory") }
    }

    fn observe(&self, mut frame: Buffer, ingress: PortId) -> Observed {
        let (original, before) = (frame.clone(), self.tables.counts(ingress).expect("counters"));
        let verdict = flowlane_pipeline::run(&mut frame, ingress, &self.tables, &mut ());
        self.tables.count(ingress, verdict.end(), flowlane_pipeline::size(&mut frame).frames);
        let (action, egress) = match verdict {
            Verdict::Pass | Verdict::Marked | Verdict::ToLinux(_) => (Action::Pass, None),
            Verdict::Forward { port, .. } => (Action::Redirect, Some(port)),
            Verdict::Resolve { .. } | Verdict::Ask | Verdict::Replicate { .. } | Verdict::Drop(_) => {
                (Action::Drop, None)
            }
        };
        let snap = |octets: &[u8]| octets[..octets.len().min(SNAP)].to_vec();
        let mut records = vec![Record::Seen {
            ingress,
            egress,
            end: verdict.end(),
            length: original.octets.len() as u32,
            before: snap(&original.octets),
            after: snap(&frame.octets),
        }];
        if let Verdict::Resolve { slot } = verdict {
            let gso_size = frame.gso_size() as u16;
            records.push(Record::Waiting { slot: slot.0, ingress, frame: original.octets, tag: 0, gso_size });
        }
        let counted = growth(&before, &self.tables.counts(ingress).expect("counters"));
        Observed { action, frame: frame.octets, counted, records }
    }
}

impl Switch for InUserspace {
    fn name(&self) -> String {
        "userspace".to_owned()
    }

    fn set_up(&mut self, setup: &Setup, nanos: u64) {
        setup.install(self.tables.slots(), self.tables.ports(), self.tables.groups(), |port| u32::from(port.0), nanos);
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn offer(&mut self, input: &Input) -> Observed {
        let frame = Buffer { octets: input.octets.clone(), gso_size: input.gso_size, tag_beside: false };
        self.observe(frame, input.ingress)
    }
}

impl Executor for InUserspace {
    fn refuses(&self, _: &Vector) -> Option<&'static str> {
        None
    }

    fn execute(&mut self, vector: &Vector) -> Outcome {
        self.set_up(&vector.setup, now());
        outcome(self.observe(Buffer::of(vector), vector.ingress), vector, &self.tables)
    }
}

fn execute(switch: &mut impl Switch, vector: &Vector) -> Outcome {
    switch.set_up(&vector.setup, now());
    let observed = switch.offer(&Input::of(vector));
    outcome(observed, vector, switch.tables())
}

/// Reads an observation as an outcome, after checking that its parts say the same.
fn outcome(observed: Observed, vector: &Vector, tables: &Tables) -> Outcome {
    let Observed { action, frame, counted, records } = observed;
    let [(end, _)] = counted[..] else { panic!("{}: counted {counted:?}", vector.name) };
    let Some(Record::Seen { ingress, egress, end: shown, length, before, .. }) = records.first() else {
        panic!("{}: not shown", vector.name)
    };
    assert_eq!((*ingress, *shown, *length as usize), (vector.ingress, end, vector.frame.len()), "{}", vector.name);
    assert_eq!(before[..], vector.frame[..vector.frame.len().min(SNAP)], "{}", vector.name);
    assert_eq!(egress.is_some(), action == Action::Redirect, "{}", vector.name);
    let waits = matches!(records.get(1), Some(Record::Waiting { frame, .. }) if *frame == vector.frame);
    assert_eq!(waits, end == End::Resolve, "{}: {records:?}", vector.name);
    let slots = tables.slots().iter().map(Slot::flow).collect();
    Outcome { end, egress: *egress, frame: Some(frame), copies: Vec::new(), missed: Vec::new(), slots }
}
