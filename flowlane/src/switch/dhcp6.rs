//! DHCPv6 on a port: a task that receives and sends.
//!
//! A port may have so many messages on their way to an answer, and no more: what comes beyond is dropped and counted, and
//! clients ask again. So a host that floods its port takes neither memory nor more than its share of the loop from the
//! others.

use super::Input;
use flowlane_ports::{
    PortError,
    control::{Datagram, Dhcp6Socket},
};
use flowlane_wire::PortId;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{
    io::unix::AsyncFd,
    sync::{
        Semaphore,
        mpsc::{self, UnboundedSender},
    },
    task::{JoinHandle, yield_now},
};

/// Messages of one port that may be without an answer at a time.
const UNANSWERED: usize = 256;
/// Messages that are received before others have their turn.
const BURST: usize = 64;

/// A listening port. Dropping it ends the task.
pub struct Dhcp6Port {
    answers: UnboundedSender<(Datagram, Vec<u8>)>,
    dropped: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What the task works with.
struct Listener {
    port: PortId,
    socket: AsyncFd<Dhcp6Socket>,
    inputs: UnboundedSender<Input>,
    permits: Arc<Semaphore>,
    dropped: Arc<AtomicU64>,
}

impl Dhcp6Port {
    /// Listens on a port's interface, and hands what comes to the control loop.
    ///
    /// # Errors
    /// [`PortError`] where there can be no socket.
    pub fn listen(port: PortId, ifindex: u32, inputs: UnboundedSender<Input>) -> Result<Self, PortError> {
        let socket = Dhcp6Socket::open(ifindex)?;
        #[expect(deprecated, reason = "the socket owns its descriptor, and it is always the same one")]
        let socket =
            AsyncFd::new(socket).map_err(|source| PortError::System { action: "waiting for DHCPv6", source })?;
        let (answers, outbox) = mpsc::unbounded_channel();
        let (permits, dropped) = (Arc::new(Semaphore::new(UNANSWERED)), Arc::new(AtomicU64::new(0)));
        let listener = Listener { port, socket, inputs, permits, dropped: Arc::clone(&dropped) };
        Ok(Self { answers, dropped, task: tokio::spawn(listener.run(outbox)) })
    }

    /// Sends an answer to who sent `to`.
    pub fn send(&self, to: Datagram, payload: Vec<u8>) {
        // The task ends with the interface, and then nobody waits for an answer.
        let _ = self.answers.send((to, payload));
    }

    /// Messages that were dropped because too many waited for their answers.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Dhcp6Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    async fn run(mut self, mut outbox: mpsc::UnboundedReceiver<(Datagram, Vec<u8>)>) {
        loop {
            tokio::select! {
                biased;
                answer = outbox.recv() => {
                    let Some((to, payload)) = answer else { return };
                    if let Err(error) = self.socket.get_ref().send(&to, &payload) {
                        tracing::debug!(port = %self.port, "an answer was not sent: {error}");
                    }
                }
                received = self.receive() => {
                    if received.is_none() {
                        return;
                    }
                    yield_now().await;
                }
            }
        }
    }

    /// Waits for messages and hands on some of them. None: there will be no more.
    async fn receive(&mut self) -> Option<()> {
        let mut ready = self.socket.readable_mut().await.ok()?;
        for _ in 0..BURST {
            match ready.get_inner_mut().recv() {
                Ok(Some(datagram)) => match Arc::clone(&self.permits).try_acquire_owned() {
                    Ok(permit) => self.inputs.send(Input::Dhcp6(self.port, datagram, permit)).ok()?,
                    Err(_) => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
                },
                Ok(None) => {
                    ready.clear_ready();
                    return Some(());
                }
                Err(PortError::InterfaceDown(_)) => {}
                Err(_) => return None,
            }
        }
        Some(())
    }
}
