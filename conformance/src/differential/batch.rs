//! Frames and steps, in batches: after each frame its octets and copies are compared, after each batch the tables.

use super::{
    executor::{Done, Executor, hex, waits},
    install,
    step::Step,
    world::{GROUPS, PORTS, World},
};
use crate::{Action, Record, now, words};
use flowlane_model::{Arrival, Change, Flow, Outcome, Receiver, Switch, receive};
use flowlane_program::Counts;
use flowlane_tables::{ENDS, End, Kind};
use flowlane_wire::PortId;

/// Frames of a batch.
pub(super) const BATCH: u64 = 500;
/// For so many nanoseconds from its making on a world is as it was made. Executors read the real clock; a frame that would
/// end otherwise at another moment of this time is not sent.
const SETTLED: u64 = 5_000_000_000;

/// Why a batch is the last one of its table.
#[derive(Debug)]
pub(super) enum Broken {
    /// An executor did otherwise than the model.
    Differs(Difference),
    /// The clock has gone on too far for the model.
    Late,
}

/// What an executor did otherwise than the model.
#[derive(Debug)]
pub(super) struct Difference {
    /// Which executor.
    pub(super) executor: String,
    /// Which frame of the batch, from 0; none where it is not known.
    pub(super) frame: Option<usize>,
    /// What is different.
    pub(super) text: String,
}

/// How many frames of a port came to each end.
type Ports = [Counts; PORTS as usize + 2];

/// What is expected of an executor by the end of a batch.
struct Expected {
    counts: Ports,
    waiting: Vec<Record>,
}

/// Runs a batch of so many frames. How they end, by the model.
pub(super) fn run(world: &mut World, executors: &mut [Executor], frames: u64) -> Result<Counts, Broken> {
    let (start, mut steps) = (world.switch.clone(), Vec::new());
    let done = run_once(world, executors, frames, &mut steps);
    if now() - world.nanos > SETTLED {
        return Err(Broken::Late);
    }
    done.map_err(|found| {
        let first = again(start, world.nanos, executors, &steps);
        // What is not found again is a difference all the same.
        Broken::Differs(first.err().filter(|_| now() - world.nanos <= SETTLED).unwrap_or(found))
    })
}

fn run_once(
    world: &mut World,
    executors: &mut [Executor],
    frames: u64,
    steps: &mut Vec<Step>,
) -> Result<Counts, Difference> {
    let (mut run, mut sent) = (Run::new(executors)?, 0);
    while sent < frames {
        let step = if world.chance(14) { world.step() } else { Step::Frame(world.arrival()) };
        steps.push(step);
        let Some(step) = steps.last() else { break };
        sent += u64::from(run.step(&mut world.switch, world.nanos, executors, step)?);
    }
    run.finish(&world.switch, executors)?;
    Ok(run.ends)
}

/// Does a batch again and compares everything after each step, to find the first that differs.
fn again(mut switch: Switch, nanos: u64, executors: &mut [Executor], steps: &[Step]) -> Result<(), Difference> {
    for executor in executors.iter_mut() {
        install::everything(executor.tables(), &switch).map_err(|error| of(executor, &error))?;
        executor.waiting();
    }
    let mut frames = 0;
    for step in steps {
        let mut run = Run::new(executors)?;
        let done = run.step(&mut switch, nanos, executors, step);
        let number = frames;
        frames += usize::from(run.ends.iter().any(|frames| *frames > 0));
        done.and_then(|_| run.finish(&switch, executors)).map_err(|difference| {
            let text = format!("{}\n  {}", difference.text, describe(step, &run));
            Difference { frame: Some(number), text, ..difference }
        })?;
    }
    Ok(())
}

/// A step, for people to see: a frame as it stands in a `trace` or a text for text2pcap.
fn describe(step: &Step, run: &Run) -> String {
    let Step::Frame(arrival) = step else { return format!("after {step:02x?}") };
    let Arrival { ingress, octets, gso_size, tag_beside } = arrival;
    let ends: Vec<&str> = End::ALL.iter().filter(|end| run.ends[**end as usize] > 0).map(|end| end.name()).collect();
    let ends = ends.join("");
    format!("should end as {ends}: port {ingress}, gso_size {gso_size}, tag beside {tag_beside}\n  {}", hex(octets))
}

/// What must become of a frame, if that is the same for some time.
fn settled(switch: &Switch, arrival: &Arrival, nanos: u64) -> Option<Outcome> {
    let outcome = receive(switch, arrival, nanos);
    let is_metered =
        outcome.end == End::OverRate || outcome.changes.iter().any(|change| matches!(change, Change::Metered { .. }));
    (!is_metered || outcome == receive(switch, arrival, nanos + SETTLED)).then_some(outcome)
}

/// A batch that is under way.
struct Run {
    before: Vec<Ports>,
    expected: Vec<Expected>,
    ends: Counts,
}

impl Run {
    fn new(executors: &[Executor]) -> Result<Self, Difference> {
        let before = executors.iter().map(counts).collect::<Result<_, _>>()?;
        let nothing = || Expected { counts: [[0; ENDS]; PORTS as usize + 2], waiting: Vec::new() };
        Ok(Self { before, expected: executors.iter().map(|_| nothing()).collect(), ends: [0; ENDS] })
    }

    /// Does one thing. Whether it was a frame that was sent.
    fn step(
        &mut self,
        switch: &mut Switch,
        nanos: u64,
        executors: &mut [Executor],
        step: &Step,
    ) -> Result<bool, Difference> {
        if let Step::Frame(arrival) = step {
            let Some(outcome) = settled(switch, arrival, nanos) else { return Ok(false) };
            return self.frame(switch, executors, arrival, &outcome).map(|()| true);
        }
        for executor in executors {
            step.write(switch, executor.tables()).map_err(|error| of(executor, &error))?;
        }
        step.apply(switch);
        Ok(false)
    }

    fn frame(
        &mut self,
        switch: &mut Switch,
        executors: &mut [Executor],
        arrival: &Arrival,
        outcome: &Outcome,
    ) -> Result<(), Difference> {
        switch.apply(&outcome.changes);
        self.ends[outcome.end as usize] += 1;
        let expected = done(outcome);
        for (executor, batch) in executors.iter_mut().zip(&mut self.expected) {
            if !executor.meets(arrival, outcome) {
                outcome.changes.iter().for_each(|change| install::change(executor.tables(), switch, change));
                continue;
            }
            batch.counts[usize::from(arrival.ingress)][outcome.end as usize] += outcome.frames;
            batch.waiting.extend(waiting(arrival, outcome));
            let mut found = executor.run(arrival, outcome.group.is_some()).map_err(|text| of(executor, &text))?;
            if outcome.group.is_some() {
                found.octets.clone_from(&expected.octets);
            }
            if found != expected {
                return Err(of(executor, &format!("{}\n  and not {}", found.describe(), expected.describe())));
            }
        }
        Ok(())
    }

    /// Compares all that is not compared frame by frame.
    fn finish(&self, switch: &Switch, executors: &mut [Executor]) -> Result<(), Difference> {
        for ((executor, before), expected) in executors.iter_mut().zip(&self.before).zip(&self.expected) {
            compare(executor, switch, before, expected).map_err(|text| of(executor, &text))?;
        }
        Ok(())
    }
}

fn compare(executor: &mut Executor, switch: &Switch, before: &Ports, expected: &Expected) -> Result<(), String> {
    let stray = executor.stray()?;
    same("frames that were sent and should not", &stray, &Vec::new())?;
    let found = executor.waiting();
    same("frames given to the control path", &found, &expected.waiting)?;
    let after = counts(executor).map_err(|difference| difference.text)?;
    for (port, counts) in expected.counts.iter().enumerate() {
        for end in End::ALL {
            let by = after[port][*end as usize] - before[port][*end as usize];
            same(&format!("port {port}, frames counted as {end}"), &by, &counts[*end as usize])?;
        }
    }
    let tables = executor.tables();
    for number in 0..=PORTS + 1 {
        let found = tables.ports()[usize::from(number)].asking().load();
        same(&format!("port {number}, flagged frames that wait"), &found, &switch.port(number).asking)?;
    }
    for number in 0..GROUPS {
        let found = Receiver::read(&tables.groups()[number as usize]);
        same(&format!("group {number}"), &found, switch.groups.get(&number).unwrap_or(&Default::default()))?;
    }
    compare_flows(executor, switch)
}

fn compare_flows(executor: &Executor, switch: &Switch) -> Result<(), String> {
    let tables = executor.tables();
    let taken = tables.slots().iter().filter(|slot| slot.key() != 0).count();
    same("slots that are taken", &taken, &switch.flows.len())?;
    for (address, flow) in &switch.flows {
        let slot = install::slot_of(*address);
        same(&format!("the words of slot {slot}"), &words(tables, slot), &install::words(*address, flow))?;
        same(&format!("slot {slot}"), &Flow::read(&tables.slots()[slot]), &Some((*address, flow.clone())))?;
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:02x?}\n  and not {expected:02x?}")) }
}

/// What an executor must do for an outcome.
fn done(outcome: &Outcome) -> Done {
    let action = match outcome.end.kind() {
        Kind::Passed | Kind::ToLinux => Action::Pass,
        Kind::Forwarded if outcome.egress.is_some() => Action::Redirect,
        Kind::Forwarded | Kind::Queued | Kind::Dropped => Action::Drop,
    };
    let copies = outcome.copies.iter().map(|(port, octets)| (PortId(*port), octets.clone())).collect();
    Done { action, octets: outcome.octets.clone(), copies }
}

/// What must go to the control path for an outcome.
fn waiting(arrival: &Arrival, outcome: &Outcome) -> Option<Record> {
    match outcome.end {
        End::AskFlow => Some(waits(arrival, None)),
        End::Resolve => outcome.changes.iter().find_map(|change| match change {
            Change::Joined { flow } => Some(waits(arrival, Some(install::slot_of(*flow) as u32))),
            _ => None,
        }),
        _ => None,
    }
}

fn counts(executor: &Executor) -> Result<Ports, Difference> {
    let mut ports = [[0; ENDS]; PORTS as usize + 2];
    for (number, counts) in (0..).zip(&mut ports) {
        *counts = executor.tables().counts(PortId(number)).map_err(|error| of(executor, &error))?;
    }
    Ok(ports)
}

fn of(executor: &Executor, text: &impl ToString) -> Difference {
    Difference { executor: executor.name(), frame: None, text: text.to_string() }
}
