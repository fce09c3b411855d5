//! Whether a frame may use a flow address.

use crate::{Flow, Mac, PortNumber, Switch};
use flowlane_tables::{End, ticks};

/// The flow of an address, if frames that come in by this port may use it (claim 19) and its lease has not ended.
pub(crate) fn admit(switch: &Switch, address: Mac, ingress: PortNumber, nanos: u64) -> Result<&Flow, End> {
    let flow = switch.flows.get(&address).ok_or(End::UnknownFlow)?;
    if flow.port != ingress {
        return Err(End::WrongPort);
    }
    if flow.expires.is_some_and(|tick| ticks(nanos) >= tick) {
        return Err(End::Expired);
    }
    Ok(flow)
}
