//! DHCPv6 on a port: a task that receives and sends.
//!
//! A port may have so many messages on their way to an answer, and no more: what comes beyond is dropped and counted, and
//! clients ask again. Where many are dropped, the task rests: the socket is full meanwhile, and what the kernel drops there
//! costs this process nothing. So a host that floods its port takes neither memory nor more than its share of the processor
//! from the others.

use super::Input;
use flowlane_ports::{
    PortError,
    control::{Datagram, Dhcp6Socket},
};
use flowlane_wire::{Mac, PortId};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::unix::AsyncFd,
    sync::{
        Semaphore,
        mpsc::{self, UnboundedSender},
    },
    task::{JoinHandle, yield_now},
    time::sleep_until,
};

/// Messages of one port that may be without an answer at a time.
const UNANSWERED: usize = 256;
/// Messages that are received, or sent, before others have their turn.
const BURST: usize = 64;
/// How long a task rests when it has dropped half of a burst. The socket has room for a thousand.
const REST: Duration = Duration::from_millis(2);

/// A listening port. Dropping it ends the task.
pub struct Dhcp6Port {
    outbox: UnboundedSender<Outgoing>,
    dropped: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What the task is to send.
enum Outgoing {
    /// To who sent this.
    Answer(Datagram, Vec<u8>),
    /// To the server at a neighbour.
    Question(Mac, Vec<u8>),
}

/// What the task works with.
struct Listener {
    port: PortId,
    socket: AsyncFd<Dhcp6Socket>,
    inputs: UnboundedSender<Input>,
    /// Whether hosts may ask here.
    serves: bool,
    questions: Arc<Semaphore>,
    /// Answers have permits of their own: hosts that flood the port keep none away.
    answers: Arc<Semaphore>,
    dropped: Arc<AtomicU64>,
}

impl Dhcp6Port {
    /// Listens on a port's interface, and hands what comes to the control loop: hosts' questions where it `serves` them, and
    /// answers to the switch's own.
    ///
    /// # Errors
    /// [`PortError`] where there can be no socket.
    pub fn listen(port: PortId, ifindex: u32, serves: bool, inputs: UnboundedSender<Input>) -> Result<Self, PortError> {
        let socket = Dhcp6Socket::open(ifindex)?;
        #[expect(deprecated, reason = "the socket owns its descriptor, and it is always the same one")]
        let socket =
            AsyncFd::new(socket).map_err(|source| PortError::System { action: "waiting for DHCPv6", source })?;
        let (outbox, outgoing) = mpsc::unbounded_channel();
        let [questions, answers] = [(); 2].map(|()| Arc::new(Semaphore::new(UNANSWERED)));
        let dropped = Arc::new(AtomicU64::new(0));
        let listener = Listener { port, socket, inputs, serves, questions, answers, dropped: Arc::clone(&dropped) };
        Ok(Self { outbox, dropped, task: tokio::spawn(listener.run(outgoing)) })
    }

    /// Sends an answer to who sent `to`.
    pub fn send(&self, to: Datagram, payload: Vec<u8>) {
        // The task ends with the interface, and then nobody waits for an answer.
        let _ = self.outbox.send(Outgoing::Answer(to, payload));
    }

    /// Asks the server at a neighbour.
    pub fn ask(&self, neighbour: Mac, payload: Vec<u8>) {
        // As above: a question that was not sent is sent again.
        let _ = self.outbox.send(Outgoing::Question(neighbour, payload));
    }

    /// Messages that were dropped because too many waited for their answers, or to be received.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Outgoing {
    fn answer(&self) -> Option<(&Datagram, &[u8])> {
        match self {
            Self::Answer(to, payload) => Some((to, payload)),
            Self::Question(..) => None,
        }
    }

    fn question(&self) -> Option<(Mac, &[u8])> {
        match self {
            Self::Question(neighbour, payload) => Some((*neighbour, payload)),
            Self::Answer(..) => None,
        }
    }
}

impl Drop for Dhcp6Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    async fn run(mut self, mut outgoing: mpsc::UnboundedReceiver<Outgoing>) {
        let mut messages = Vec::with_capacity(BURST);
        let mut rests_until = Instant::now();
        loop {
            tokio::select! {
                biased;
                count = outgoing.recv_many(&mut messages, BURST) => {
                    if count == 0 {
                        return;
                    }
                    self.send(&messages);
                    messages.clear();
                }
                received = self.receive(rests_until) => {
                    let Some(dropped) = received else { return };
                    if dropped >= BURST / 2 {
                        rests_until = Instant::now() + REST;
                    }
                    yield_now().await;
                }
            }
        }
    }

    fn send(&self, messages: &[Outgoing]) {
        let socket = self.socket.get_ref();
        let answers = messages.iter().filter_map(Outgoing::answer);
        let questions = messages.iter().filter_map(Outgoing::question);
        let sent = questions.map(|(neighbour, payload)| socket.ask(neighbour, payload));
        for error in sent.chain([socket.send_all(answers)]).filter_map(Result::err) {
            tracing::debug!(port = %self.port, "a DHCPv6 message was not sent: {error}");
        }
    }

    /// Waits for messages and hands on some of them. How many were dropped; none: there will be no more.
    async fn receive(&mut self, rests_until: Instant) -> Option<usize> {
        if rests_until > Instant::now() {
            sleep_until(rests_until.into()).await;
        }
        let mut ready = self.socket.readable_mut().await.ok()?;
        let mut dropped = 0;
        for _ in 0..BURST {
            match ready.get_inner_mut().recv() {
                Ok(Some(datagram)) if datagram.answer || self.serves => {
                    let permits = if datagram.answer { &self.answers } else { &self.questions };
                    match Arc::clone(permits).try_acquire_owned() {
                        Ok(permit) => self.inputs.send(Input::Dhcp6(self.port, datagram, permit)).ok()?,
                        Err(_) => dropped += 1,
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    ready.clear_ready();
                    break;
                }
                Err(PortError::InterfaceDown(_)) => {}
                Err(_) => return None,
            }
        }
        // With what the kernel has dropped since, which it does where messages come faster than they are taken.
        let all = self.socket.get_ref().take_dropped().unwrap_or(0) + dropped as u64;
        self.dropped.fetch_add(all, Ordering::Relaxed);
        Some(dropped)
    }
}
