//! A steady load through a switch that somebody else runs, and a count of what comes out.

use crate::{
    Error,
    contestant::Sink,
    ends::{Ends, Seen},
    frame::{NEXT_HOP, Traffic, destination_of},
    path::Path,
    processor::Processor,
};
use flowlane_lab::{IpNet, Link, Mac, Netns, Offload, Via};
use flowlane_program::Mode;
use std::{
    net::{IpAddr, Ipv4Addr},
    ops::AddAssign,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Octets of a frame, with its check sequence: the shortest that Ethernet has.
const FRAME_BYTES: u32 = 64;
/// How often frames are sent.
const PACE: Duration = Duration::from_millis(2);
/// The most that are sent at once, to make up for time in which the machine did something else.
const CATCH_UP: u64 = 8_192;
/// Makes one seed of another.
const SEED: u32 = 0x9e37_79b9;
/// How many generators take turns. The kernel takes some milliseconds to end a run of one, in which that one sends nothing.
const GENERATORS: u32 = 4;
/// How long frames may still be on the way after the last was sent.
const PATIENCE: Duration = Duration::from_millis(500);

/// Frames of consecutive flow addresses, at a steady rate from one end of a path to the other.
pub struct Load {
    ends: Ends,
    /// More generators, whose frames arrive at the same sink.
    more: Vec<Ends>,
    source: Link,
    on: Processor,
    /// Of the next run: each has its flows in another order.
    seed: u32,
}

/// What has become of frames. None of them has a number: that one was lost and another doubled at the same time is not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames that were sent to the switch.
    pub sent: u64,
    /// Frames that came out with the addresses that they should have (claim 17).
    pub arrived: u64,
    /// Frames that came out with others; what Linux sends by itself as well.
    pub wrong: u64,
    /// How long it was sent.
    pub took: Duration,
}

impl Load {
    /// Prepares the path: routes and neighbours by which the switch finds the next hop of every flow's packets.
    ///
    /// # Errors
    /// [`Error::Lab`] where the kernel refuses it.
    pub fn prepare(path: &Path, flows: u32, mode: Mode) -> Result<(), Error> {
        path.switch.sysctl("net/ipv4/ip_forward", "1")?;
        let everybody = IpNet::new_assert(IpAddr::V4(Ipv4Addr::from(destination_of(0))), 8);
        path.switch.add_route(everybody, Via::Link(path.egress.name()))?;
        for number in 0..flows {
            path.egress.set_neighbour(IpAddr::from(destination_of(number)), NEXT_HOP)?;
        }
        if mode == Mode::Tc {
            // The generator's frames enter the other end of the cable by its receive offload.
            path.ingress.set_offload(Offload::Gro, true)?;
        }
        Ok(())
    }

    /// A load of so many flows from the address `first` on, whose next hop is the path's end; `mode` is how the switch sends.
    ///
    /// # Errors
    /// [`Error`] where the kernel takes the programs of the two ends not.
    pub fn join(path: &Path, first: Mac, flows: u32, mode: Mode) -> Result<Self, Error> {
        let traffic = Traffic { first, ..Traffic::rewritten(flows) };
        let sink = if mode == Mode::Tc { Sink::Tc } else { Sink::Xdp };
        let ends = Ends::join(&traffic, &path.source, &path.destination, sink, None)?;
        let more = (1..GENERATORS).map(|_| Ends::generator(&traffic, &path.source)).collect::<Result<_, _>>()?;
        Ok(Self { ends, more, source: path.source.clone(), on: Processor::last()?, seed: 1 })
    }

    /// Sends so many frames in a second for as long as the work takes, and then waits for the last of them.
    ///
    /// # Errors
    /// [`Error`] where frames can not be sent or counted.
    pub fn during<T>(&mut self, rate: u64, work: impl FnOnce() -> T) -> Result<(T, Counted), Error> {
        let (before, dropped) = (self.ends.seen()?, self.source.statistics()?.tx_dropped);
        let (start, stop, netns) = (Instant::now(), AtomicBool::new(false), self.source.netns().clone());
        let (share, on, seed) = (rate / u64::from(GENERATORS), &self.on, self.seed);
        self.seed = seed.wrapping_add(1);
        let (done, sent) = thread::scope(|scope| {
            let generators = std::iter::once(&mut self.ends).chain(&mut self.more);
            let senders: Vec<_> = generators
                .map(|generator| scope.spawn(|| send_until(&stop, generator, on, &netns, share, seed)))
                .collect();
            let done = {
                let _stop = Stop(&stop);
                work()
            };
            (done, senders.into_iter().map(|sender| sender.join()).collect::<Vec<_>>())
        });
        let took = start.elapsed();
        let sent = sent.into_iter().map(|sent| sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let sent = sent.sum::<Result<u64, Error>>()?;
        // What the cable had no room for has never come to the switch.
        let sent = sent - (self.source.statistics()?.tx_dropped - dropped);
        let Seen { right, wrong } = self.wait_for(before.right + sent)?;
        Ok((done, Counted { sent, arrived: right - before.right, wrong: wrong - before.wrong, took }))
    }

    /// What the sink has seen when so many right frames have come, or none has for a while.
    fn wait_for(&self, right: u64) -> Result<Seen, Error> {
        let (mut seen, mut since) = (self.ends.seen()?, Instant::now());
        while seen.right < right && since.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
            let now = self.ends.seen()?;
            // Others may come at any time.
            if now.right != seen.right {
                since = Instant::now();
            }
            seen = now;
        }
        Ok(seen)
    }
}

/// Sends at a steady rate until told to stop. How many frames that were.
fn send_until(
    stop: &AtomicBool,
    generator: &mut Ends,
    on: &Processor,
    netns: &Netns,
    rate: u64,
    mut seed: u32,
) -> Result<u64, Error> {
    netns.enter()?;
    let (start, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_micros() as u64 * rate / 1_000_000;
        let due = due.saturating_sub(sent).min(CATCH_UP);
        if due > 0 {
            // Spread over all bits: the generator's first numbers are as small as its seed.
            seed = seed.wrapping_mul(SEED).wrapping_add(1).max(1);
            sent += generator.send_here(due as u32, FRAME_BYTES, seed, on)?.frames;
        }
        thread::sleep(PACE);
    }
    Ok(sent)
}

impl Counted {
    /// Frames that did not come out as they should.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }

    /// Frames that came out more than once.
    pub fn duplicated(&self) -> u64 {
        self.arrived.saturating_sub(self.sent)
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.arrived += other.arrived;
        self.wrong += other.wrong;
        self.took += other.took;
    }
}

/// Stops the sender, also where the work panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
