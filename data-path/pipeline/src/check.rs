//! May the frame be in this flow? Its port, and the flow's lease.

use crate::{Observer, Step, Tables, Verdict};
use flowlane_tables::{End, NEVER, Slot};
use flowlane_wire::PortId;

/// Rejects a frame that arrives on another port than the flow's, which is in the slot's key (claim 19).
#[inline(always)]
pub(crate) fn port<O: Observer>(key: u64, ingress: PortId, observer: &mut O) -> Result<(), Verdict> {
    let expected = PortId(key as u16);
    observer.step(Step::PortChecked { expected, ingress });
    if expected.0 == ingress.0 { Ok(()) } else { Err(Verdict::Drop(End::WrongPort)) }
}

/// Rejects a frame of a flow whose lease has ended, also when nobody has come to remove it.
#[inline(always)]
pub(crate) fn lease<T: Tables, O: Observer>(slot: &Slot, tables: &T, observer: &mut O) -> Result<(), Verdict> {
    let expires = slot.expires();
    if expires == NEVER {
        return Ok(());
    }
    let now = tables.tick();
    observer.step(Step::LeaseChecked { expires, now });
    if now < expires { Ok(()) } else { Err(Verdict::Drop(End::Expired)) }
}
