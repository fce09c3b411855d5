//! Many frames at a time, in userspace: their slots are fetched into the cache together, so that a frame does not wait for
//! memory alone. Most come in trains of one flow, whose way is looked up for the first of them. The kernel has its frames one
//! by one, and no instruction to prefetch with.

use crate::{
    Frame, Tables, Verdict,
    plain::{self, Meter, Way},
    run,
};
use flowlane_tables::{End, Group, GroupIndex, NEVER, PortEntry, Slot, Tuple};
use flowlane_wire::{Block, PortId, SlotIndex};

/// How many slots are on their way at a time: about as many misses as a core follows.
const AHEAD: usize = 16;

/// Decides for frames that came in by port `ingress` as [`run`] does for each, in order. `decided` is told the verdict of
/// each as soon as it stands.
///
/// The clock of leases is read once for all: a batch is over within less than its tick. Likewise, what a slot and a port say is
/// read once for plain frames of one flow that come right behind each other. Counters and meters are exact for each frame.
#[inline]
pub fn run_batch<F: Frame, T: Tables>(
    mut frames: &mut [F],
    ingress: PortId,
    tables: &T,
    mut decided: impl FnMut(&mut F, Verdict),
) {
    let tables = AtOneTick::new(tables);
    let (mut places, mut last) = ([NOWHERE; AHEAD], Way::NONE);
    for (frame, place) in frames.iter_mut().zip(&mut places) {
        *place = fetch(frame, ingress, &tables);
    }
    // As a frame is decided, the slot of that which is so many behind it is asked for.
    while frames.len() >= 2 * AHEAD {
        let (now, later) = frames.split_at_mut(AHEAD);
        for ((frame, behind), place) in now.iter_mut().zip(later.iter_mut()).zip(&mut places) {
            decide(frame, *place, &mut last, ingress, &tables, &mut decided);
            *place = fetch(behind, ingress, &tables);
        }
        frames = later;
    }
    for number in 0..frames.len() {
        let place = &mut places[number % AHEAD];
        if let Some(frame) = frames.get_mut(number) {
            decide(frame, *place, &mut last, ingress, &tables, &mut decided);
        }
        *place = frames.get_mut(number + AHEAD).map_or(NOWHERE, |behind| fetch(behind, ingress, &tables));
    }
}

/// Where the flow of a frame is: a slot, and the key that it has to have.
type Place<'a> = (&'a Slot, u64);

/// The place of frames that are not plain: no flow has that key, which would be of a multicast address.
const NOWHERE: Place<'static> = (&FREE, u64::MAX);
static FREE: Slot = Slot::free();

/// Out of line, so that no register is kept for it.
#[cold]
#[inline(never)]
fn nowhere<'a>() -> Place<'a> {
    NOWHERE
}

/// Finds the slot of a frame, and asks for it.
#[inline(always)]
fn fetch<'a, F: Frame, T: Tables>(frame: &mut F, ingress: PortId, tables: &AtOneTick<'a, T>) -> Place<'a> {
    let Some(address) = plain::address(frame, tables) else { return nowhere() };
    let Some(slot) = tables.tables.slot(tables.block.slot_of_wire(address)) else { return nowhere() };
    tables.prefetch(slot);
    (slot, Slot::key_of(address, ingress))
}

/// Decides for a frame whose place is known. `last` is the way of the plain frame before, which is often of the same flow.
#[inline(always)]
fn decide<F: Frame, T: Tables>(
    frame: &mut F,
    place: Place<'_>,
    last: &mut Way,
    ingress: PortId,
    tables: &AtOneTick<'_, T>,
    decided: &mut impl FnMut(&mut F, Verdict),
) {
    match forward(frame, place, last, ingress, tables) {
        Some(port) => decided(frame, Verdict::Forward { port, end: End::Forward }),
        None => {
            let verdict = closer(frame, ingress, tables);
            decided(frame, verdict);
        }
    }
}

/// Forwards a plain frame.
#[inline(always)]
fn forward<F: Frame, T: Tables>(
    frame: &mut F,
    (slot, key): Place<'_>,
    last: &mut Way,
    ingress: PortId,
    tables: &T,
) -> Option<PortId> {
    if key != last.key {
        match Way::of(slot, key, ingress, tables)? {
            (way, Meter::None) => *last = way,
            (way, Meter::Some) => return way.send_metered(frame, slot, key, tables),
        }
    }
    last.send(frame, slot, key)
}

/// A closer look at a frame that is not plain. Out of line, so that the loop over those that are keeps its registers.
#[cold]
#[inline(never)]
fn closer<F: Frame, T: Tables>(frame: &mut F, ingress: PortId, tables: &T) -> Verdict {
    run(frame, ingress, tables, &mut ())
}

/// Tables of which the block and the clock of leases are read once.
struct AtOneTick<'a, T> {
    tables: &'a T,
    block: Block,
    tick: u32,
}

impl<'a, T: Tables> AtOneTick<'a, T> {
    fn new(tables: &'a T) -> Self {
        // Before NEVER, so that this is to come at any time.
        Self { tables, block: tables.block(), tick: tables.tick().min(NEVER - 1) }
    }
}

impl<T: Tables> Tables for AtOneTick<'_, T> {
    #[inline(always)]
    fn block(&self) -> Block {
        self.block
    }

    #[inline(always)]
    fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        self.tables.slot(index)
    }

    #[inline(always)]
    fn prefetch(&self, slot: &Slot) {
        self.tables.prefetch(slot);
    }

    #[inline(always)]
    fn port(&self, port: PortId) -> Option<&PortEntry> {
        self.tables.port(port)
    }

    #[inline(always)]
    fn group(&self, group: GroupIndex) -> Option<&Group> {
        self.tables.group(group)
    }

    #[inline(always)]
    fn tuple(&self, tuple: &Tuple) -> Option<u64> {
        self.tables.tuple(tuple)
    }

    #[inline(always)]
    fn tick(&self) -> u32 {
        self.tick
    }

    #[inline(always)]
    fn is_to_come(&self, tick: i64) -> bool {
        i64::from(self.tick) < tick
    }

    #[inline(always)]
    fn nanos(&self) -> u64 {
        self.tables.nanos()
    }
}
