//! The userspace executor: a thread for each port, from its ring through the pipeline to the senders.

mod copies;

use super::{
    flagged::Asked,
    frame::Buffer,
    show::SeenFrame,
    slow_path::{ToLinux, Waiting},
};
use flowlane_pipeline::{Step, Tables as _, Verdict, give_back, run, size, withdraw};
use flowlane_ports::{
    PortError,
    af_packet::{Offload, Ring, RingOptions, RxFrame, Sender},
    exclusive::Exclusive,
};
use flowlane_program::Tables;
use flowlane_tables::{End, PASS, SNAP};
use flowlane_wire::{Flag, PortId};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::mpsc::Sender as Queue;

/// What a worker has for the control loop.
pub enum FromWorker {
    /// A frame waits for its next host.
    Waiting(Waiting),
    /// A flagged frame asks for a flow.
    Asking(Asked),
    /// A frame has ended.
    Seen(SeenFrame),
    /// The port's thread has ended, with this error.
    Ended(PortId, PortError),
}

/// What a worker works with.
pub struct Work {
    /// The port.
    pub port: PortId,
    /// Its interface.
    pub ifindex: u32,
    /// The tables.
    pub tables: Arc<Tables>,
    /// To the control loop; what it does not take is dropped and counted.
    pub queue: Queue<FromWorker>,
    /// Frames that Linux is to answer.
    pub to_linux: ToLinux,
    /// The virtual-circuit flag that the port reads: flagged packets do not come to Linux by themselves.
    pub flag: Option<Flag>,
    /// Whether every frame is shown.
    pub show: bool,
}

/// A running port. Dropping it ends the thread, and gives the port's frames back to Linux.
pub struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _exclusive: Exclusive,
}

/// How long a quiet port sleeps before it looks whether it should stop.
const NAP: Duration = Duration::from_millis(100);
/// How long a port that has failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// Opens the port's ring and starts its thread.
    pub fn start(work: Work) -> Result<Self, PortError> {
        let mut ring = Ring::open(work.ifindex, RingOptions::default())?;
        let exclusive = Exclusive::install(work.ifindex, &work.tables.block(), work.flag)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name(format!("port-{}", work.port)).spawn(move || {
            let ended = run_port(&work, &mut ring, &stopped);
            if let Err(error) = ended {
                // Not at once: what fails again and again shall not keep the loop busy.
                thread::sleep(PAUSE);
                // A loop that has ended, or is too busy to hear it, starts no other worker.
                let _ = work.queue.try_send(FromWorker::Ended(work.port, error));
            }
        });
        let thread = thread.map_err(|source| PortError::System { action: "starting a thread", source })?;
        Ok(Self { stop, thread: Some(thread), _exclusive: exclusive })
    }
}

/// Handles frames until the worker is stopped or the port fails.
fn run_port(work: &Work, ring: &mut Ring, stopped: &AtomicBool) -> Result<(), PortError> {
    let mut senders = Senders::default();
    let (mut lost, mut looked) = (0, Instant::now());
    while !stopped.load(Ordering::Relaxed) {
        match ring.wait(NAP) {
            Ok(true) => drop(ring.receive(|frames| batch(work, frames, &mut senders))),
            Ok(false) | Err(PortError::InterfaceDown(_)) => {}
            // The control loop hears of it from the kernel, and starts another worker when it is back.
            Err(PortError::InterfaceGone(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        if looked.elapsed() >= NAP {
            lost = count_lost(work, ring, lost)?;
            looked = Instant::now();
        }
    }
    Ok(())
}

/// Counts the frames that found the ring full, or were too long for it, since `before` of them.
fn count_lost(work: &Work, ring: &mut Ring, before: u64) -> Result<u64, PortError> {
    let statistics = ring.statistics()?;
    let lost = statistics.dropped + statistics.truncated + statistics.unsupported;
    work.tables.count(work.port, End::RingFull, lost - before);
    Ok(lost)
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

/// Sockets to the egress ports, opened when they are first needed.
#[derive(Default)]
pub struct Senders(HashMap<u32, Sender>);

impl Senders {
    /// The socket of an interface.
    fn get(&mut self, ifindex: u32) -> Option<&mut Sender> {
        match self.0.entry(ifindex) {
            Entry::Occupied(open) => Some(open.into_mut()),
            Entry::Vacant(place) => Some(place.insert(Sender::open(ifindex).ok()?)),
        }
    }

    /// Sends frames in order. How many the interface took.
    pub fn send(&mut self, ifindex: u32, frames: &[(&[u8], Offload)]) -> usize {
        let Some(sender) = self.get(ifindex) else { return 0 };
        match sender.send(frames) {
            Ok(sent) => sent.sent,
            Err(_) => {
                // Gone or down: the next frame opens it anew.
                self.0.remove(&ifindex);
                0
            }
        }
    }
}

/// One frame of a batch that is to be sent.
struct Outgoing {
    place: usize,
    egress: PortId,
    end: End,
    frames: u64,
}

fn batch(work: &Work, frames: &mut [RxFrame<'_>], senders: &mut Senders) {
    let mut outgoing: Vec<Outgoing> = Vec::with_capacity(frames.len());
    for place in 0..frames.len() {
        let Some(frame) = frames.get_mut(place) else { break };
        let before = work.show.then(|| frame.bytes.get(..SNAP.min(frame.bytes.len())).unwrap_or_default().to_vec());
        let mut buffer = Buffer::new(frame.bytes, frame.offload);
        let mut left_to_linux = false;
        let mut notice = |step| left_to_linux |= matches!(step, Step::Flagged { found: Some(PASS), .. });
        let verdict = run(&mut buffer, work.port, work.tables.as_ref(), &mut notice);
        let segments = size(&mut buffer).frames;
        let mut copies = Vec::new();
        let end = match verdict {
            Verdict::Forward { port, end } => {
                outgoing.push(Outgoing { place, egress: port, end, frames: segments });
                end
            }
            Verdict::Replicate { slot, group } => {
                // What came before it leaves before it.
                send(work, frames, &outgoing, senders);
                outgoing.clear();
                let Some(frame) = frames.get_mut(place) else { break };
                let end;
                (end, copies) = copies::send(work, frame, slot, group, senders);
                end
            }
            Verdict::Pass if left_to_linux => {
                work.to_linux.deliver(frame.bytes);
                count(work, End::Pass, segments)
            }
            _ => carry_out(work, frame, verdict, segments),
        };
        if let (Some(before), Some(frame)) = (before, frames.get(place)) {
            show(work, frame, verdict, end, before);
            // Who looks too slowly misses some.
            copies.into_iter().for_each(|copy| drop(work.queue.try_send(FromWorker::Seen(copy))));
        }
    }
    send(work, frames, &outgoing, senders);
}

/// Carries out every verdict but those to forward and to copy.
fn carry_out(work: &Work, frame: &RxFrame<'_>, verdict: Verdict, segments: u64) -> End {
    let end = match verdict {
        Verdict::Resolve { slot } => {
            let waiting = Waiting {
                slot,
                ingress: work.port,
                bytes: frame.bytes.to_vec(),
                offload: frame.offload,
                counted: true,
            };
            match work.queue.try_send(FromWorker::Waiting(waiting)) {
                Ok(()) => End::Resolve,
                Err(_) => {
                    work.tables.slot(slot).inspect(|slot| give_back(slot));
                    End::QueueFull
                }
            }
        }
        Verdict::Ask => {
            let asked = Asked::new(work.port, frame.bytes.to_vec(), frame.offload);
            match work.queue.try_send(FromWorker::Asking(asked)) {
                Ok(()) => End::AskFlow,
                Err(_) => {
                    work.tables.port(work.port).inspect(|port| withdraw(port));
                    End::FlagRefused
                }
            }
        }
        Verdict::ToLinux(end) => {
            work.to_linux.deliver(frame.bytes);
            end
        }
        other => other.end(),
    };
    count(work, end, segments)
}

fn count(work: &Work, end: End, segments: u64) -> End {
    work.tables.count(work.port, end, segments);
    end
}

/// Sends what is to be sent: runs of frames for one port with one call, in the order in which they came.
fn send(work: &Work, frames: &[RxFrame<'_>], outgoing: &[Outgoing], senders: &mut Senders) {
    for run in outgoing.chunk_by(|a, b| a.egress == b.egress) {
        let Some(first) = run.first() else { continue };
        let ifindex = work.tables.port(first.egress).map_or(0, |port| port.ifindex());
        let batch: Vec<(&[u8], Offload)> =
            run.iter().filter_map(|out| frames.get(out.place)).map(|frame| (&*frame.bytes, frame.offload)).collect();
        let sent = senders.send(ifindex, &batch);
        for (place, out) in run.iter().enumerate() {
            let end = if place < sent { out.end } else { End::NotSent };
            work.tables.count(work.port, end, out.frames);
        }
    }
}

fn show(work: &Work, frame: &RxFrame<'_>, verdict: Verdict, end: End, before: Vec<u8>) {
    let egress = match verdict {
        Verdict::Forward { port, .. } => Some(port),
        _ => None,
    };
    let after = frame.bytes.get(..before.len()).unwrap_or_default().to_vec();
    let seen = SeenFrame {
        at: frame.timestamp,
        ingress: work.port,
        egress,
        end,
        waited: false,
        copy: false,
        length: frame.bytes.len(),
        before,
        after,
    };
    // Who looks too slowly misses some.
    let _ = work.queue.try_send(FromWorker::Seen(seen));
}
