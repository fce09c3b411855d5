//! What the threads of the userspace executor say of their frames, as records.

use crate::Record;
use flowlane_ports::{PortError, af_packet::RxFrame};
use flowlane_userspace::{Control, Seen};
use flowlane_wire::{PortId, SlotIndex};
use std::sync::mpsc::Sender;

/// The way of records from a port's threads.
#[derive(Clone)]
pub(crate) struct Records(pub(crate) Sender<Record>);

impl Records {
    /// Whether somebody takes it.
    fn tell(&self, record: Record) -> bool {
        self.0.send(record).is_ok()
    }
}

impl Control for Records {
    fn wait(&self, slot: SlotIndex, ingress: PortId, frame: &RxFrame<'_>) -> bool {
        let gso_size = frame.offload.segmentation.map_or(0, |segmentation| segmentation.size);
        self.tell(Record::Waiting { slot: slot.0, ingress, frame: frame.bytes.to_vec(), tag: 0, gso_size })
    }

    fn ask(&self, ingress: PortId, frame: &RxFrame<'_>) -> bool {
        let gso_size = frame.offload.segmentation.map_or(0, |segmentation| segmentation.size);
        self.tell(Record::Asking { ingress, frame: frame.bytes.to_vec(), tag: 0, gso_size })
    }

    /// The record of the frame says what became of it.
    fn give_to_linux(&self, _: &[u8]) {}

    fn show(&self, seen: Seen) {
        let Seen { ingress, egress, end, copy, length, before, after, .. } = seen;
        if !copy {
            self.tell(Record::Seen { ingress, egress, end, length: length as u32, before, after });
        }
    }

    fn ended(&self, port: PortId, error: PortError) {
        eprintln!("port {port} has failed: {error}");
    }
}
