//! The kernel's program, and the packets that it hands over.

use super::{Counters, Fate};
use crate::held::{Packet, Waiting, Way};
use flowlane_allot::Field;
use flowlane_program::{HeldPackets, ProgramError, Runs};
use flowlane_tables::{HELD_NANOS, PATHS_MAX, RunFlow, RunKey, RunPath, RunState};
use flowlane_wire::Mac;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    time::{Duration, Instant},
};
use tokio::{io::Interest, io::unix::AsyncFd, time::sleep_until};

/// The runs in the kernel, and their packets.
pub struct Bpf {
    pub(super) runs: Runs,
    queue: AsyncFd<HeldPackets>,
    waiting: Waiting,
    /// How many of the packets that an entry has counted have been sent.
    sent: HashMap<u32, u32>,
    /// What is decided for entries some of whose packets have been counted, but have not arrived here.
    late: BTreeMap<RunKey, (Fate, Instant)>,
    /// Destinations whose first packets wait, and that nobody was told of.
    wanted: Vec<RunKey>,
}

/// How long packets that have been counted are waited for. They arrive within microseconds; those that a predecessor had
/// taken never do.
const LATE: Duration = Duration::from_millis(20);
/// When those are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Packets that are taken at a time.
const BURST: usize = 256;

impl Bpf {
    pub(super) fn open(name: &str) -> Result<Self, ProgramError> {
        let (runs, queue, _) = Runs::open(name)?;
        let failed = |source: io::Error| ProgramError::File { path: "the queue of packets".into(), source };
        #[expect(deprecated, reason = "the queue owns its descriptor, and it is always the same one")]
        let queue = AsyncFd::with_interest(queue, Interest::READABLE).map_err(failed)?;
        Ok(Self {
            runs,
            queue,
            waiting: Waiting::default(),
            sent: HashMap::new(),
            late: BTreeMap::new(),
            wanted: Vec::new(),
        })
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), ProgramError> {
        self.runs.detach(ifindex)
    }

    pub(super) fn interface_gone(&mut self, ifindex: u32) {
        self.waiting.interface_gone(ifindex);
        if let Err(error) = self.runs.detach(ifindex) {
            tracing::debug!(%error, ifindex, "what was attached to an interface that is gone");
        }
    }

    pub(super) fn want(&mut self, key: &RunKey, required: bool) -> Result<u32, ProgramError> {
        self.runs.want(key, required, Runs::boot_nanos() + HELD_NANOS)
    }

    pub(super) fn decide(&mut self, key: RunKey, required: bool, fate: Fate) -> Result<(), ProgramError> {
        self.late.remove(&key);
        let index = self.want(&key, required)?;
        if !self.settle(index, &fate, false) {
            self.late.insert(key, (fate, Instant::now() + LATE));
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, key: &RunKey) -> Result<(), ProgramError> {
        let decided = self.late.remove(key).map(|(fate, _)| way(&fate));
        let Some(index) = self.runs.index_of(key) else { return Ok(()) };
        // Those that are under way here are among those that wait.
        self.drain();
        self.wanted.retain(|wanted| wanted != key);
        if let Some(flow) = self.runs.flows().get(index as usize) {
            let (_, required) = flow.state();
            let undecided = if required { Way::Drop } else { Way::Plain };
            self.waiting.send(index, flow, decided.unwrap_or(undecided));
        }
        self.sent.remove(&index);
        self.runs.forget(index)
    }

    pub(super) fn counters(&self, key: &RunKey) -> Counters {
        let Some(flow) = self.entry(key) else { return Counters::default() };
        let of_path = |path: &RunPath| (path.packets().load(), path.bytes().load());
        Counters { paths: flow.paths().iter().map(of_path).collect(), passed: flow.passed().load() }
    }

    pub(super) fn destinations(&self) -> Vec<RunKey> {
        let taken = self.runs.flows().iter().filter(|flow| flow.state().0 != RunState::Free);
        taken.map(RunFlow::key).filter(|key| self.runs.index_of(key).is_some()).collect()
    }

    pub(super) async fn ready(&mut self) {
        let again = self.late.values().next().map(|_| Instant::now() + LOOK_AGAIN);
        tokio::select! {
            ready = self.queue.readable() => {
                // Learned anew: whatever comes after this is announced again.
                if let Ok(mut guard) = ready {
                    guard.clear_ready();
                }
            }
            () = sleep_until(again.unwrap_or_else(Instant::now).into()), if again.is_some() => {}
        }
    }

    pub(super) fn work(&mut self) -> Vec<RunKey> {
        self.drain();
        let now = Instant::now();
        for (key, (fate, until)) in std::mem::take(&mut self.late) {
            let settled = self.runs.index_of(&key).is_none_or(|index| self.settle(index, &fate, now >= until));
            if !settled {
                self.late.insert(key, (fate, until));
            }
        }
        std::mem::take(&mut self.wanted)
    }

    pub(super) fn flush(&mut self) {
        self.drain();
        self.let_go();
    }

    pub(super) fn let_go(&mut self) {
        for (index, flow) in (0..).zip(self.runs.flows()) {
            if self.waiting.has(index) {
                let (_, required) = flow.state();
                self.waiting.send(index, flow, if required { Way::Drop } else { Way::Plain });
            }
        }
    }

    /// Takes what is in the queue.
    fn drain(&mut self) {
        let Self { runs, queue, waiting, sent, wanted, .. } = self;
        while queue.get_mut().drain(BURST, |held| {
            let Some(flow) = runs.flows().get(held.index as usize) else { return };
            let packet = Packet::from(&held);
            match flow.state() {
                (RunState::Waiting { .. }, required) => {
                    if !waiting.has(held.index) && !sent.contains_key(&held.index) {
                        wanted.push(flow.key());
                    }
                    if let Some(packet) = waiting.keep(held.index, packet) {
                        waiting.send_one(packet, flow, if required { Way::Drop } else { Way::Plain });
                        *sent.entry(held.index).or_default() += 1;
                    }
                }
                (_, required) => waiting.send_one(packet, flow, way_now(flow, required)),
            }
        }) == BURST
        {}
    }

    /// Sends what waits and then lets the kernel send by itself, if nothing has been counted that has not arrived here, or if
    /// that is waited for no longer. Whether it is done.
    fn settle(&mut self, index: u32, fate: &Fate, at_once: bool) -> bool {
        loop {
            let Some(flow) = self.runs.flows().get(index as usize) else { return true };
            let word = flow.state_word().load_published();
            let (state, required) = RunState::from_word(word);
            if state == RunState::Free {
                return true;
            }
            if let RunState::Waiting { held } = state {
                self.drain();
                let Some(flow) = self.runs.flows().get(index as usize) else { return true };
                let sent = self.waiting.send(index, flow, way(fate));
                let sent = *self.sent.entry(index).and_modify(|before| *before += sent).or_insert(sent);
                if sent != held && !at_once {
                    return false;
                }
            }
            let Some(flow) = self.runs.flows().get(index as usize) else { return true };
            let next = write(flow, fate).to_word(required);
            if flow.state_word().swap(word, next) {
                self.sent.remove(&index);
                return true;
            }
        }
    }

    fn entry(&self, key: &RunKey) -> Option<&RunFlow> {
        self.runs.flows().get(self.runs.index_of(key)? as usize)
    }
}

/// Writes what the kernel reads once it sees the state that is returned.
fn write(flow: &RunFlow, fate: &Fate) -> RunState {
    match fate {
        Fate::Open(addresses, field, until) => {
            keep_counted(flow, addresses);
            for (path, mac) in flow.paths().iter().zip(addresses) {
                path.address().store(mac.to_u64());
            }
            for path in flow.paths().iter().skip(addresses.len()) {
                [path.address(), path.packets(), path.bytes()].iter().for_each(|word| word.store(0));
            }
            flow.until().store(until.saturating_mul(1_000_000));
            let paths = addresses.len().min(PATHS_MAX) as u8;
            RunState::Open { paths, source: *field == Field::Source }
        }
        Fate::Plain => RunState::Plain,
        Fate::Cut => RunState::Cut,
    }
}

/// What was counted goes along with its address to another place, where paths before it are gone. A packet that is counted
/// meanwhile may be counted with another path.
fn keep_counted(flow: &RunFlow, addresses: &[Mac]) {
    let counted = |path: &RunPath| (path.address().load(), path.packets().load(), path.bytes().load());
    let before: Vec<_> = flow.paths().iter().map(counted).collect();
    let stays = |address: u64| addresses.iter().any(|mac| mac.to_u64() == address);
    for ((path, mac), (former, ..)) in flow.paths().iter().zip(addresses).zip(&before) {
        let moved = before.iter().find(|(address, ..)| *address == mac.to_u64());
        let (packets, bytes) = match moved {
            Some((_, packets, bytes)) => (*packets, *bytes),
            None if stays(*former) => (0, 0),
            None => continue,
        };
        if *former != mac.to_u64() {
            path.packets().store(packets);
            path.bytes().store(bytes);
        }
    }
}

fn way(fate: &Fate) -> Way {
    match fate {
        Fate::Open(addresses, field, _) => addresses.first().map_or(Way::Plain, |mac| Way::Flow(*mac, *field)),
        Fate::Plain => Way::Plain,
        Fate::Cut => Way::Drop,
    }
}

/// What becomes of a packet that was counted before a decision and arrives after it.
fn way_now(flow: &RunFlow, required: bool) -> Way {
    let first = flow.paths().first().and_then(RunPath::mac);
    match (flow.state().0, first) {
        (RunState::Open { source, .. }, Some(mac)) => {
            Way::Flow(mac, if source { Field::Source } else { Field::Destination })
        }
        (RunState::Cut, _) => Way::Drop,
        _ if required => Way::Drop,
        _ => Way::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_stays_with_its_address() {
        let (flow, macs) = (RunFlow::default(), [1, 2, 3].map(|n| Mac([2, 0, 0, 0, 0, n])));
        let counted = || flow.paths().each_ref().map(|path| path.packets().load());
        let open = |addresses: &[Mac]| write(&flow, &Fate::Open(addresses.to_vec(), Field::Destination, 1));
        // Packets that waited are counted before there is an address.
        flow.paths()[0].packets().add(10);
        open(&macs);
        (1..3).for_each(|path| flow.paths()[path].packets().add(20 * path as u64));
        assert_eq!(counted()[..3], [10, 20, 40]);
        open(&[macs[0], macs[2]]);
        assert_eq!(counted()[..2], [10, 40]);
        open(&macs);
        assert_eq!(counted()[..3], [10, 0, 40]);
        // One address after another is one path.
        open(&[Mac([2, 0, 0, 0, 0, 9]), macs[1], macs[2]]);
        assert_eq!(counted()[..3], [10, 0, 40]);
    }
}
