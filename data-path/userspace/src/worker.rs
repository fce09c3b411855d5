//! The threads of a port.

use crate::{Control, Senders, Source, Transmitters, batch::Batch};
use flowlane_ports::{
    PortError,
    af_packet::{Ring, RingOptions},
    af_xdp::{Receiver, Transmitter},
    exclusive::Exclusive,
};
use flowlane_program::Tables;
use flowlane_tables::End;
use flowlane_wire::{Flag, PortId};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What a port's threads work with.
#[derive(Clone)]
pub struct Work<C> {
    /// The port.
    pub port: PortId,
    /// Its interface.
    pub ifindex: u32,
    /// The tables.
    pub tables: Arc<Tables>,
    /// Who hears of what is not just forwarded or dropped.
    pub control: C,
    /// The AF_XDP sockets of all ports.
    pub transmitters: Transmitters,
    /// The virtual-circuit flag that the port reads: flagged packets do not come to Linux by themselves.
    pub flag: Option<Flag>,
    /// Whether every frame is shown.
    pub show: bool,
}

/// A running port. Dropping it ends the threads, and gives the port's frames back to Linux.
pub struct Worker {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _exclusive: Option<Exclusive>,
}

/// How long a quiet port sleeps before it looks whether it should stop.
const NAP: Duration = Duration::from_millis(100);
/// How long the kernel may have a frame in its hands that is for a socket.
const ON_ITS_WAY: Duration = Duration::from_millis(5);
/// How long a port that has failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// Opens the port's ring and starts its thread.
    ///
    /// # Errors
    /// [`PortError`]: nothing has been changed then.
    pub fn on_af_packet<C: Control>(work: &Work<C>) -> Result<Self, PortError> {
        let ring = Ring::open(work.ifindex, RingOptions::default())?;
        let exclusive = Exclusive::install(work.ifindex, &work.tables.block(), work.flag)?;
        Self::start(work, vec![ring], Some(exclusive))
    }

    /// Starts a thread for each of a port's sockets, of which its XDP program knows. Others send by them from now on.
    ///
    /// # Errors
    /// [`PortError::System`] where there can be no thread.
    pub fn on_af_xdp<C: Control>(work: &Work<C>, sockets: Vec<(Receiver, Transmitter)>) -> Result<Self, PortError> {
        let (receivers, transmitters) = sockets.into_iter().unzip();
        work.transmitters.set(work.ifindex, transmitters);
        // The kernel runs the pipeline on flagged packets; those that pass never come here.
        Self::start(&Work { flag: None, ..work.clone() }, receivers, None)
    }

    fn start<C: Control, S: Source + 'static>(
        work: &Work<C>,
        sources: Vec<S>,
        exclusive: Option<Exclusive>,
    ) -> Result<Self, PortError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Self { stop: Arc::clone(&stop), threads: Vec::new(), _exclusive: exclusive };
        for (number, source) in sources.into_iter().enumerate() {
            let (work, stop) = (work.clone(), Arc::clone(&stop));
            let name = format!("port-{}-{number}", work.port);
            let thread = thread::Builder::new().name(name).spawn(move || run_queue(work, source, number, &stop));
            worker.threads.push(thread.map_err(|source| PortError::System { action: "starting a thread", source })?);
        }
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

/// Handles the frames of a queue until the worker is stopped or the port fails.
fn run_queue<C: Control, S: Source>(work: Work<C>, mut source: S, number: usize, stop: &AtomicBool) {
    let (control, port) = (work.control.clone(), work.port);
    let senders = Senders::new(work.transmitters.clone(), number);
    if let Err(error) = run(&mut Batch::new(work, senders), &mut source, stop) {
        drop(source);
        // Not at once: what fails again and again shall not keep the loop busy.
        thread::sleep(PAUSE);
        control.ended(port, error);
    }
}

fn run<C: Control, S: Source>(batch: &mut Batch<C>, source: &mut S, stop: &AtomicBool) -> Result<(), PortError> {
    let (mut lost, mut looked) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        match source.wait(NAP) {
            Ok(true) => source.receive(|frames| batch.handle(frames)),
            Ok(false) | Err(PortError::InterfaceDown(_)) => {}
            // The control path hears of it from the kernel, and starts another worker when it is back.
            Err(PortError::InterfaceGone(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        if looked.elapsed() >= NAP {
            let sum = source.lost()?;
            batch.count(End::RingFull, sum - lost);
            (lost, looked) = (sum, Instant::now());
        }
    }
    if S::ENDS {
        take_the_rest(batch, source)?;
    }
    Ok(())
}

/// Handles what has come before the kernel took over.
fn take_the_rest<C: Control, S: Source>(batch: &mut Batch<C>, source: &mut S) -> Result<(), PortError> {
    let start = Instant::now();
    while start.elapsed() < NAP && source.wait(ON_ITS_WAY)? {
        source.receive(|frames| batch.handle(frames));
    }
    Ok(())
}
