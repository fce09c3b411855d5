//! Where does the flow go? Read from the table (claim 18), or, for a first packet, asked of the slow path (claim 13).

use crate::{Observer, Step, Verdict};
use flowlane_tables::{End, NextHop, PENDING_LIMIT, Resolution, Slot};
use flowlane_wire::SlotIndex;

/// How often a frame tries to join the queue of its flow against others that do the same on other processors.
const TRIES: u32 = 4;

/// The next hop. A frame for which there is none yet joins the queue of its flow.
///
/// Joining counts the frame in the very word that will hold the next hop: the slow path can not store the next hop before
/// it has sent as many frames as joined, so that none is overtaken.
#[inline(always)]
pub(crate) fn next_hop<O: Observer>(slot: &Slot, index: SlotIndex, observer: &mut O) -> Result<NextHop, Verdict> {
    for _ in 0..TRIES {
        let resolution = slot.next();
        observer.step(Step::NextHop { resolution });
        match resolution {
            Resolution::Resolved(hop) => return Ok(hop),
            Resolution::Group(group) => return Err(Verdict::Replicate { slot: index, group }),
            Resolution::Unreachable => return Err(Verdict::Drop(End::NoRoute)),
            Resolution::Pending(waiting) if waiting >= PENDING_LIMIT => break,
            Resolution::Pending(waiting) => {
                let joined = Resolution::Pending(waiting + 1).to_word();
                if slot.next_word().swap(resolution.to_word(), joined) {
                    return Err(Verdict::Resolve { slot: index });
                }
            }
        }
    }
    Err(Verdict::Drop(End::QueueFull))
}

/// Takes a frame off the count of its flow's queue again, because the queue did not take it.
#[inline(always)]
pub fn give_back(slot: &Slot) {
    for _ in 0..TRIES {
        let resolution = slot.next();
        let Resolution::Pending(waiting) = resolution else { return };
        let left = Resolution::Pending(waiting.saturating_sub(1)).to_word();
        if slot.next_word().swap(resolution.to_word(), left) {
            return;
        }
    }
}
