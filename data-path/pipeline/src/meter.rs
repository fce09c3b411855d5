//! Does the flow keep to its rate?

use crate::{Observer, Size, Step, Tables, Verdict};
use flowlane_tables::{End, Slot};

/// How often a frame tries to take tokens against others of its flow on other processors. One that never succeeds is
/// dropped as over the rate, so that the meter is never exceeded.
const TRIES: u32 = 8;

/// Takes the frame out of the flow's token bucket, or drops it.
#[inline(always)]
pub(crate) fn conforms<T: Tables, O: Observer>(
    slot: &Slot,
    size: &Size,
    tables: &T,
    observer: &mut O,
) -> Result<(), Verdict> {
    let rate = slot.rate();
    if rate.is_unlimited() {
        return Ok(());
    }
    let now = tables.nanos();
    for _ in 0..TRIES {
        let full_at = slot.full_at().load();
        let Some(taken) = rate.take(full_at, now, size.octets) else { break };
        if slot.full_at().swap(full_at, taken) {
            observer.step(Step::Metered { rate, conforms: true });
            return Ok(());
        }
    }
    observer.step(Step::Metered { rate, conforms: false });
    Err(Verdict::Drop(End::OverRate))
}
