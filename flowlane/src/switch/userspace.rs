//! What the threads of the userspace executor have for the control loop.

use super::{
    flagged::Asked,
    show::SeenFrame,
    slow_path::{ToLinux, Waiting},
};
use flowlane_ports::{PortError, af_packet::RxFrame};
use flowlane_userspace::{Control, Seen};
use flowlane_wire::{PortId, SlotIndex};
use tokio::sync::mpsc::Sender as Queue;

/// What a worker has for the control loop.
pub enum FromWorker {
    /// A frame waits for its next host.
    Waiting(Waiting),
    /// A flagged frame asks for a flow.
    Asking(Asked),
    /// A frame has ended.
    Seen(SeenFrame),
    /// The port's thread has ended, with this error.
    Ended(PortId, PortError),
}

/// The way from a port's threads to the control loop. What the loop is too busy to take is dropped and counted.
#[derive(Clone)]
pub struct ToLoop {
    /// The loop's queue.
    pub queue: Queue<FromWorker>,
    /// Frames that Linux is to answer.
    pub to_linux: ToLinux,
}

impl Control for ToLoop {
    fn wait(&self, slot: SlotIndex, ingress: PortId, frame: &RxFrame<'_>) -> bool {
        let (bytes, offload) = (frame.bytes.to_vec(), frame.offload);
        let waiting = Waiting { slot, ingress, bytes, offload, counted: true };
        self.queue.try_send(FromWorker::Waiting(waiting)).is_ok()
    }

    fn ask(&self, ingress: PortId, frame: &RxFrame<'_>) -> bool {
        self.queue.try_send(FromWorker::Asking(Asked::new(ingress, frame.bytes.to_vec(), frame.offload))).is_ok()
    }

    fn give_to_linux(&self, frame: &[u8]) {
        self.to_linux.deliver(frame);
    }

    fn show(&self, seen: Seen) {
        // Who looks too slowly misses some.
        let _ = self.queue.try_send(FromWorker::Seen(seen.into()));
    }

    fn ended(&self, port: PortId, error: PortError) {
        // A loop that has ended, or is too busy to hear it, starts no other worker.
        let _ = self.queue.try_send(FromWorker::Ended(port, error));
    }
}

impl From<Seen> for SeenFrame {
    fn from(seen: Seen) -> Self {
        let Seen { at, ingress, egress, end, copy, length, before, after } = seen;
        Self { at, ingress, egress, end, waited: false, copy, length, before, after }
    }
}
