//! Forwarding without interfaces: the userspace pipeline on memory, and what userspace switches with DPDK take between ports
//! that make and drop frames by themselves.

use crate::{
    BATCH, Error, OnMemory, Progress, Work,
    huge_pages::HugePages,
    ovs,
    processor::{Priority, Processor},
    report::{LeftOut, Row, micro_row},
    testpmd::{self, Testpmd},
};
use std::thread;

pub(crate) use crate::package::is_there;

/// Batches of the userspace pipeline that are timed.
const BATCHES: u32 = 4_000;

/// Who is measured without interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Micro {
    /// Flowlane's pipeline in userspace, on batches of frames in memory.
    FlowlaneUserspace,
    /// DPDK's testpmd between two null ports: it looks at no frame.
    TestpmdIo,
    /// The same, with the addresses of each frame exchanged.
    TestpmdMacswap,
    /// Open vSwitch with DPDK, with a rule for each flow: frames come from a capture in memory, without end, and go to a null
    /// port.
    OvsDpdk,
}

/// One of them with so many flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroCase {
    /// Who.
    pub contestant: Micro,
    /// How many flows there are, in the table and in the traffic.
    pub flows: u32,
}

impl Micro {
    /// The name, as it stands in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::FlowlaneUserspace => "flowlane-userspace",
            Self::TestpmdIo => "dpdk-testpmd-io",
            Self::TestpmdMacswap => "dpdk-testpmd-macswap",
            Self::OvsDpdk => "ovs-dpdk",
        }
    }

    /// Nanoseconds of processor time for each frame.
    fn ns(self, flows: u32, on: &Processor) -> Result<f64, Error> {
        match self {
            Self::FlowlaneUserspace => on_memory(flows, on),
            Self::TestpmdIo => with_testpmd("io"),
            Self::TestpmdMacswap => with_testpmd("macswap"),
            Self::OvsDpdk => ovs::ns_between_null_ports(flows, on),
        }
    }
}

/// Measures all in turns. A contestant that fails is left out from then on.
pub(crate) fn measure(
    cases: &[MicroCase],
    repeats: u32,
    on: &Processor,
    progress: &mut dyn Progress,
) -> (Vec<Row>, Vec<LeftOut>) {
    let mut measured: Vec<(MicroCase, Vec<f64>)> = cases.iter().map(|case| (*case, Vec::new())).collect();
    let mut left_out = Vec::new();
    for round in 1..=repeats {
        measured.retain_mut(|(case, all)| {
            let MicroCase { contestant, flows } = *case;
            progress.step(&format!("{}: without interfaces, {flows} flows, round {round}", contestant.name()));
            match contestant.ns(flows, on) {
                Ok(ns) => {
                    all.push(ns);
                    true
                }
                Err(why) => {
                    let (contestant, why) = (contestant.name(), why.to_string());
                    progress.left_out(contestant, &why, u64::from(repeats - round));
                    left_out.push(LeftOut { contestant, work: Work::Unicast.name(), flows, why });
                    false
                }
            }
        });
    }
    let row = |(case, all): &(MicroCase, Vec<f64>)| micro_row(case.contestant.name(), case.flows, all);
    (measured.iter().map(row).collect(), left_out)
}

fn on_memory(flows: u32, on: &Processor) -> Result<f64, Error> {
    let mut memory = OnMemory::new(Work::Unicast, flows)?;
    memory.run(BATCHES / 4);
    let work = || on.time(Priority::Ahead, || memory.run(BATCHES));
    let ((time, _), _) =
        thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(time.as_nanos() as f64 / (f64::from(BATCHES) * f64::from(BATCH)))
}

fn with_testpmd(mode: &str) -> Result<f64, Error> {
    let _pages = HugePages::get(testpmd::PAGES)?;
    Testpmd::start(mode)?.ns()
}
