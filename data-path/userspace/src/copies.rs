//! Multicast in userspace: a frame is rewritten for one receiver after the other, and sent each time.

use crate::{Control, Seen, Senders, Work, batch::snap};
use flowlane_pipeline::{Tables as _, replicate};
use flowlane_ports::af_packet::RxFrame;
use flowlane_tables::{End, GroupIndex};
use flowlane_wire::{PortId, SlotIndex};

/// Sends the copies of a frame. How it ends, and the copies where they are to be shown.
///
/// A receiver counts what its port has really taken, so every copy is sent by a call of its own.
pub(crate) fn send<C: Control>(
    work: &Work<C>,
    frame: &mut RxFrame<'_>,
    slot: SlotIndex,
    group: GroupIndex,
    senders: &mut Senders,
) -> (End, Vec<Seen>) {
    let mut copies = Vec::new();
    let end = replicate(frame, work.port, slot, group, work.tables.as_ref(), &mut (), |copy, port| {
        let ifindex = work.tables.port(port).map_or(0, |port| port.ifindex());
        let sent = senders.send(ifindex, &[(&*copy.bytes, copy.offload)]) == 1;
        if sent && work.show {
            copies.push(seen(work.port, copy, port));
        }
        sent
    });
    (end, copies)
}

fn seen(ingress: PortId, copy: &RxFrame<'_>, egress: PortId) -> Seen {
    Seen {
        at: copy.timestamp,
        ingress,
        egress: Some(egress),
        end: End::Replicate,
        copy: true,
        length: copy.bytes.len(),
        before: Vec::new(),
        after: snap(copy),
    }
}
