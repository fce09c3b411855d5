//! By which port does the frame leave, and does it fit?

use crate::{Frame, Observer, Size, Step, Tables, Verdict, parse::network, rewrite};
use flowlane_tables::{End, NextHop, PortEntry, PortFlags, Resolution, Slot};
use flowlane_wire::{PortId, header::ethernet};

/// The hop that a frame is sent to.
pub(crate) struct Egress<'a> {
    pub hop: NextHop,
    pub port: &'a PortEntry,
    /// `Forward` or `Backup`.
    pub end: End,
}

/// The next hop if its port is up, else the backup: fast reroute needs no control plane.
#[inline(always)]
pub(crate) fn choose<'a, T: Tables, O: Observer>(
    slot: &Slot,
    next: NextHop,
    ingress: PortId,
    tables: &'a T,
    observer: &mut O,
) -> Result<Egress<'a>, Verdict> {
    let chosen = match up(next, false, tables, observer) {
        Some(port) => Egress { hop: next, port, end: End::Forward },
        None => {
            let Resolution::Resolved(hop) = slot.backup() else { return Err(Verdict::Drop(End::PortDown)) };
            let port = up(hop, true, tables, observer).ok_or(Verdict::Drop(End::PortDown))?;
            Egress { hop, port, end: End::Backup }
        }
    };
    if chosen.hop.port.0 == ingress.0 { Err(Verdict::Drop(End::SamePort)) } else { Ok(chosen) }
}

#[inline(always)]
fn up<'a, T: Tables, O: Observer>(
    hop: NextHop,
    backup: bool,
    tables: &'a T,
    observer: &mut O,
) -> Option<&'a PortEntry> {
    let port = tables.port(hop.port).filter(|port| port.flags().has(PortFlags::UP));
    observer.step(Step::Egress { hop, backup, up: port.is_some() });
    port
}

/// Whether the frame, or each segment of it, is within the egress port's MTU. A routed one that is not goes to Linux,
/// which fragments it or says how much fits (RFC 1191, RFC 8201).
#[inline(always)]
pub(crate) fn fits<F: Frame, T: Tables>(
    frame: &mut F,
    size: &Size,
    ingress: PortId,
    egress: &Egress<'_>,
    tables: &T,
) -> Result<(), Verdict> {
    if within(frame, size, egress.port) {
        return Ok(());
    }
    if egress.hop.routed && !matches!(network(frame), crate::Network::Other) {
        return Err(rewrite::to_linux(frame, ingress, tables, End::TooBigRouted));
    }
    Err(Verdict::Drop(End::TooBig))
}

/// Whether the frame, or each segment of it, is within a port's MTU.
#[inline(always)]
pub(crate) fn within<F: Frame>(frame: &mut F, size: &Size, port: &PortEntry) -> bool {
    let most = port.mtu() + ethernet::LEN as u32;
    size.largest <= most || size.largest - tags_len(frame) <= most
}

/// The octets of the outermost VLAN tag, which the MTU does not include.
#[inline(always)]
fn tags_len<F: Frame>(frame: &mut F) -> u32 {
    let tagged = frame.has_tag_beside()
        || frame
            .at::<2>(ethernet::ETHERTYPE)
            .is_some_and(|ethertype| matches!(u16::from_be_bytes(*ethertype), ethernet::VLAN | ethernet::SERVICE_VLAN));
    if tagged { ethernet::TAG_LEN as u32 } else { 0 }
}
