//! Hosts, switches, disks and clocks in one deterministic program: one seed says all that happens.
//!
//! The allotter, the lease store, the DHCPv6 codec, server and client, the engine of the host's daemon and the pipeline are
//! those that run; the network, the disks, the clocks and the people are simulated, and so are the loops that join the
//! cores. Links lose, keep and repeat what they carry or are cut; processes are killed; power fails in the middle of a
//! write; disks fill; clocks are set; routes change to anything; hosts forge frames; operators close flows. After each
//! step the invariants are checked ([`Invariant`]), from outside: by the messages that switches send, and by where frames
//! come out.
//!
//! There is no thread, no clock and no other randomness: the same seed gives the same trace, on every machine.
#![forbid(unsafe_code)]

mod host;
mod ledger;
mod network;
mod switch;
mod tables;
mod trace;
mod world;

pub use ledger::Invariant;

use ledger::Broken;
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use trace::Trace;
use world::World;

/// A fault in the simulated switch that must be found: it shows that an invariant can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bug {
    /// Addresses of ended leases are given to the next client at once.
    NoQuarantine,
    /// Clients are answered before the leases are on disk.
    AcknowledgedUnwritten,
    /// Frames of a flow are taken from any port.
    PortUnchecked,
    /// A flow that an operator closes is ended like any other.
    ClosedForgotten,
    /// The next switch is not told which switches a flow has crossed.
    PathUntold,
    /// A next hop that is found is written into the slot beside the flow's.
    NextHopMisplaced,
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What says all that happens.
    pub seed: u64,
    /// How many steps: a message or a frame that arrives, a timer, a deed.
    pub steps: u64,
    /// A fault to be found.
    pub bug: Option<Bug>,
    /// Whether each line of the trace is printed on standard error.
    pub trace: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The steps taken: fewer than were asked for where one broke an invariant.
    pub steps: u64,
    /// Invariants that do not hold: the run ends at the first.
    pub violations: u64,
    /// The hash of the whole trace, in hexadecimal. The same seed and steps give the same.
    pub trace_hash: String,
    /// How much time went by for the simulated, in milliseconds.
    pub simulated_ms: u64,
    /// How often what has happened.
    pub counts: Counts,
    /// What does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violation: Option<Violation>,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The step that broke it, from 1.
    pub step: u64,
    /// Which one.
    pub invariant: Invariant,
    /// What was seen.
    pub text: String,
    /// The last lines of the trace.
    pub trace: Vec<String>,
    /// The command that shows it again.
    pub replay: String,
}

/// How often what has happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub hosts: u64,
    pub switches: u64,
    pub leases: u64,
    pub messages: u64,
    pub frames_sent: u64,
    pub frames_forged: u64,
    pub frames_forwarded: u64,
    pub frames_delivered: u64,
    pub frames_dropped: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub commits: u64,
    pub commits_failed: u64,
    pub closed: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub host_crashes: u64,
    pub full_disks: u64,
    pub clock_jumps: u64,
    pub links_cut: u64,
    pub route_changes: u64,
}

/// Simulates until the last step or the first violation.
pub fn run(options: Options) -> Report {
    let mut world = World::new(options.seed, options.bug, Trace::new(options.trace));
    let (mut steps, mut broken) = (0, None);
    while broken.is_none() && steps < options.steps {
        steps += 1;
        // What is broken is looked at no more.
        let step = catch_unwind(AssertUnwindSafe(|| world.step()));
        broken = step.unwrap_or_else(|panic| Err(Broken::panicked(panic.as_ref()))).err();
    }
    if let Some(broken) = &broken {
        world.trace.note(world.now, format_args!("violation: {broken}"));
    }
    let (trace_hash, trace) = world.trace.finish();
    let violation = broken.map(|Broken { invariant, text }| {
        let replay = replay(options, steps);
        Violation { step: steps, invariant, text, trace, replay }
    });
    let violations = u64::from(violation.is_some());
    Report {
        seed: options.seed,
        steps,
        violations,
        trace_hash,
        simulated_ms: world.now,
        counts: world.counts,
        violation,
    }
}

/// The command that takes the same steps again.
fn replay(Options { seed, bug, .. }: Options, steps: u64) -> String {
    let bug = bug.and_then(|bug| clap::ValueEnum::to_possible_value(&bug));
    let bug = bug.map(|bug| format!(" --bug {}", bug.get_name())).unwrap_or_default();
    format!("cargo xtask simulate --seed {seed} --steps {steps}{bug}")
}
