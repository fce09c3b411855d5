//! DHCPv6 on a port: a task that receives and sends.

use super::Input;
use flowlane_ports::{PortError, control::{Datagram, Dhcp6Socket}};
use flowlane_wire::PortId;
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc::{self, UnboundedSender},
    task::JoinHandle,
};

/// A listening port. Dropping it ends the task.
pub struct Dhcp6Port {
    answers: UnboundedSender<(Datagram, Vec<u8>)>,
    task: JoinHandle<()>,
}

impl Dhcp6Port {
    /// Sends an answer to who sent `to`.
    pub fn send(&self, to: Datagram, payload: Vec<u8>) {
        // The task ends with the interface, and then nobody waits for an answer.
        let _ = self.answers.send((to, payload));
    }
}

impl Drop for Dhcp6Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on a port's interface, and hands what comes to the control loop.
///
/// # Errors
/// [`PortError`] where there can be no socket.
pub fn listen(port: PortId, ifindex: u32, inputs: UnboundedSender<Input>) -> Result<Dhcp6Port, PortError> {
    let socket = Dhcp6Socket::open(ifindex)?;
    #[expect(deprecated, reason = "the socket owns its descriptor, and it is always the same one")]
    let socket = AsyncFd::new(socket).map_err(|source| PortError::System { action: "waiting for DHCPv6", source })?;
    let (answers, outbox) = mpsc::unbounded_channel();
    let task = tokio::spawn(run(port, socket, outbox, inputs));
    Ok(Dhcp6Port { answers, task })
}

async fn run(
    port: PortId,
    mut socket: AsyncFd<Dhcp6Socket>,
    mut outbox: mpsc::UnboundedReceiver<(Datagram, Vec<u8>)>,
    inputs: UnboundedSender<Input>,
) {
    loop {
        tokio::select! {
            ready = socket.readable_mut() => {
                let Ok(mut ready) = ready else { return };
                loop {
                    match ready.get_inner_mut().recv() {
                        Ok(Some(datagram)) => if inputs.send(Input::Dhcp6(port, datagram)).is_err() { return },
                        Ok(None) => break,
                        Err(PortError::InterfaceDown(_)) => {}
                        Err(_) => return,
                    }
                }
                ready.clear_ready();
            }
            answer = outbox.recv() => {
                let Some((to, payload)) = answer else { return };
                if let Err(error) = socket.get_ref().send(&to, &payload) {
                    tracing::debug!(%port, "an answer was not sent: {error}");
                }
            }
        }
    }
}
