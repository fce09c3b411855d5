//! By which port a frame leaves, and whether it fits.

use crate::{Hop, Port, PortNumber, Switch, size::Size};
use flowlane_tables::End;

/// The next hop if its port is up, else the backup if that one's is. Never the port that the frame came in by.
pub(crate) fn choose(switch: &Switch, hop: Hop, backup: Option<Hop>, ingress: PortNumber) -> Result<(Hop, End), End> {
    let is_up = |hop: &Hop| switch.port(hop.port).up;
    let backup = backup.filter(is_up).map(|backup| (backup, End::Backup));
    let next = Some(hop).filter(is_up).map(|hop| (hop, End::Forward));
    let (hop, end) = next.or(backup).ok_or(End::PortDown)?;
    if hop.port == ingress { Err(End::SamePort) } else { Ok((hop, end)) }
}

/// Whether every frame on the wire fits the port's MTU.
pub(crate) fn fits(port: Port, size: Size) -> bool {
    size.largest <= u64::from(port.mtu)
}
