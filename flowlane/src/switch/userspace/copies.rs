//! Multicast in userspace: a frame is rewritten for one receiver after the other, and sent each time.

use super::{Senders, Work};
use crate::switch::{frame::Buffer, show::SeenFrame};
use flowlane_pipeline::{Tables as _, replicate, size};
use flowlane_ports::af_packet::RxFrame;
use flowlane_tables::{End, GroupIndex, SNAP};
use flowlane_wire::{PortId, SlotIndex};

/// Sends the copies of a frame, and counts it. How it ends, and the copies where they are to be shown.
///
/// A receiver counts what its port has really taken, so every copy is sent by a call of its own.
pub fn send(
    work: &Work,
    frame: &mut RxFrame<'_>,
    slot: SlotIndex,
    group: GroupIndex,
    senders: &mut Senders,
) -> (End, Vec<SeenFrame>) {
    let (mut copies, offload) = (Vec::new(), frame.offload);
    let mut buffer = Buffer::new(frame.bytes, offload);
    let segments = size(&mut buffer).frames;
    let end = replicate(&mut buffer, work.port, slot, group, work.tables.as_ref(), &mut (), |copy, port| {
        let ifindex = work.tables.port(port).map_or(0, |port| port.ifindex());
        let sent = senders.send(ifindex, &[(copy.bytes(), offload)]) == 1;
        if sent && work.show {
            copies.push(seen(work, copy.bytes(), port, frame.timestamp));
        }
        sent
    });
    work.tables.count(work.port, end, segments);
    (end, copies)
}

fn seen(work: &Work, copy: &[u8], port: PortId, at: std::time::Duration) -> SeenFrame {
    SeenFrame {
        at,
        ingress: work.port,
        egress: Some(port),
        end: End::Replicate,
        waited: false,
        copy: true,
        length: copy.len(),
        before: Vec::new(),
        after: copy.get(..SNAP.min(copy.len())).unwrap_or_default().to_vec(),
    }
}
