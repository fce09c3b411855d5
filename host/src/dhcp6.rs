//! The host's side of DHCPv6: many leases, over one socket on each interface.
//!
//! UDP port 546 is taken only while messages wait for their answers, so that others may ask on the same interface, such as
//! `flowlane flow open`. Where another DHCPv6 client keeps the port to itself, or there is no link-local address, a packet
//! socket asks in its stead.

mod link;
mod release;
mod socket;

use crate::boot_millis;
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{
    Client, Config, DhcpOption, Duid, Event, FlowOption, IaLl, LlAddr, Message, MessageType, Status, StatusCode,
    TransactionId,
};
use flowlane_wire::Mac;
use socket::Socket;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::timeout;

pub use link::{Interface, LinkError, PAYLOAD_MAX, duid_of};
pub use release::{Held, release};

/// What has come of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of the lease with this number (IAID).
    Lease(u32, Event),
    /// A switch is on this interface. If it was asked about a lease: its number, and what is offered for it.
    Probed(u32, Option<(u32, Offer)>),
}

/// What is asked of a switch by a probe: whether it knows a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The lease's number.
    pub iaid: u32,
    /// What it is for.
    pub spec: FlowSpec,
    /// Who granted it: others do not know. None: whoever answers first.
    pub server: Option<Duid>,
}

/// What a switch would give for a lease: this address, or a refusal.
pub type Offer = Result<Option<Mac>, Status>;

/// Many leases on several interfaces. Times are milliseconds of the boot-time clock.
#[derive(Default)]
pub struct Dhcp6 {
    links: BTreeMap<u32, Link>,
    /// The interface of each lease.
    leases: HashMap<u32, u32>,
    answers: VecDeque<Answer>,
}

/// What keeps the leases of runs apart from those of `flowlane flow open`.
pub const RUNS: &str = "run/";

/// How long the port is kept after the last message.
const LINGER: u64 = 1_000;
/// When an interface that could not be asked on is tried again.
const RETRY: u64 = 50;
/// How long the answer is waited for to a question whose asker is gone.
const ORPHAN: u64 = 4_000;
/// The number of the lease in a probe that is about none: nothing is leased under it.
pub(crate) const NOBODY: u32 = u32::MAX;

impl Dhcp6 {
    /// An interface that may be asked on from now on, also after a change of its Ethernet address. Leases stay what they
    /// are.
    pub fn interface(&mut self, interface: Interface) {
        match self.links.get_mut(&interface.index) {
            Some(link) => link.interface = interface,
            None => drop(self.links.insert(interface.index, Link::new(interface))),
        }
    }

    /// An interface that is gone, and all that was asked there.
    pub fn interface_gone(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.leases.retain(|_, of| *of != ifindex);
    }

    /// What stands in the way of asking on an interface.
    pub fn trouble(&self, ifindex: u32) -> Option<&LinkError> {
        self.links.get(&ifindex)?.trouble.as_ref()
    }

    /// Asks whether a switch is there, and which address it would give for a lease. It keeps nothing of it.
    pub fn probe(&mut self, ifindex: u32, about: Option<Question>) {
        if let Some(link) = self.links.get_mut(&ifindex) {
            let question = about.unwrap_or(Question { iaid: NOBODY, spec: FlowSpec::default(), server: None });
            let [_, id @ ..] = fastrand::u32(..).to_be_bytes();
            link.probe = Some(Probe { id: TransactionId(id), question, sent: false });
        }
    }

    /// Asks for one flow address, and keeps it.
    pub fn ask(&mut self, iaid: u32, ifindex: u32, spec: FlowSpec, now: u64) {
        let Some(link) = self.links.get_mut(&ifindex) else { return };
        // Whoever asked under this number before asks no more.
        link.forget(iaid);
        let (duid, seed) = (link.interface.duid.clone(), fastrand::u64(..));
        let client = Client::new(Config { duid, iaid, count: 1, spec, rapid_commit: true, seed }, now);
        link.clients.insert(iaid, Lease { client, bound: false, orphan: None, due: None });
        link.schedule(iaid);
        self.leases.insert(iaid, ifindex);
    }

    /// Asks no more, and renews no more. What there is ends by itself.
    pub fn forget(&mut self, iaid: u32) {
        if let Some(link) = self.leases.remove(&iaid).and_then(|ifindex| self.links.get_mut(&ifindex)) {
            link.forget(iaid);
        }
    }

    /// Gives an address back; also one that is granted only after this.
    pub fn release(&mut self, iaid: u32, now: u64) {
        let Some(link) = self.leases.get(&iaid).and_then(|ifindex| self.links.get_mut(ifindex)) else { return };
        let Some(lease) = link.clients.get_mut(&iaid) else { return };
        if lease.bound {
            lease.client.release(now);
        }
        lease.orphan = Some(now + ORPHAN);
        link.schedule(iaid);
    }

    /// What has come of what was asked, the first first.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// When [`work`](Self::work) is to be called next at the latest.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.links.values().filter_map(Link::poll_timeout).min()
    }

    /// Ready when a message has arrived.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut sockets = self.links.values().filter_map(|link| link.socket.as_ref());
        let ready = sockets.any(|(socket, _)| socket.poll_readable(context).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Works until nothing is asked for or held any more.
    pub async fn finish(&mut self) {
        loop {
            let now = boot_millis();
            self.work(now);
            if self.leases.is_empty() {
                return;
            }
            let wait = self.poll_timeout().map_or(LINGER, |at| at.saturating_sub(now));
            let readable = poll_fn(|context| self.poll_readable(context));
            // A message, or the time to send the next.
            let _ = timeout(Duration::from_millis(wait), readable).await;
        }
    }

    /// Receives and sends what there is. Must be called from within a tokio runtime.
    pub fn work(&mut self, now: u64) {
        for link in self.links.values_mut() {
            link.receive(now, &mut self.answers);
            link.transmit(now, &mut self.answers);
            for iaid in link.gone.drain(..) {
                self.leases.remove(&iaid);
            }
        }
    }
}

/// The leases of one interface.
struct Link {
    interface: Interface,
    clients: HashMap<u32, Lease>,
    /// When clients want to send.
    due: BTreeSet<(u64, u32)>,
    /// Leases that are over, and that nobody wants any more.
    gone: Vec<u32>,
    probe: Option<Probe>,
    /// The socket, and until when it is kept.
    socket: Option<(Socket, u64)>,
    /// When it is tried again to take the port.
    retry: Option<u64>,
    trouble: Option<LinkError>,
}

struct Lease {
    client: Client,
    bound: bool,
    /// Nobody wants it any more: until when an answer is waited for.
    orphan: Option<u64>,
    due: Option<u64>,
}

struct Probe {
    id: TransactionId,
    question: Question,
    sent: bool,
}

impl Link {
    fn new(interface: Interface) -> Self {
        Self {
            interface,
            clients: HashMap::new(),
            due: BTreeSet::new(),
            gone: Vec::new(),
            probe: None,
            socket: None,
            retry: None,
            trouble: None,
        }
    }

    fn poll_timeout(&self) -> Option<u64> {
        let probe = self.probe.as_ref().filter(|probe| !probe.sent).map(|_| 0);
        let send = probe.or(self.due.first().map(|(at, _)| *at));
        let send = send.map(|at| self.retry.map_or(at, |retry| retry.max(at)));
        send.into_iter().chain(self.socket.as_ref().map(|(_, until)| *until)).min()
    }

    /// Notes when a client wants to send next.
    fn schedule(&mut self, iaid: u32) {
        let Some(lease) = self.clients.get_mut(&iaid) else { return };
        let due = earliest(lease.client.poll_timeout(), lease.orphan);
        if due != lease.due {
            lease.due.map(|at| self.due.remove(&(at, iaid)));
            due.map(|at| self.due.insert((at, iaid)));
            lease.due = due;
        }
    }

    fn forget(&mut self, iaid: u32) {
        if let Some(at) = self.clients.remove(&iaid).and_then(|lease| lease.due) {
            self.due.remove(&(at, iaid));
        }
    }

    fn receive(&mut self, now: u64, answers: &mut VecDeque<Answer>) {
        while let Some((socket, until)) = &mut self.socket
            && let Some(payload) = socket.receive()
        {
            *until = now + LINGER;
            self.take(&payload, now, answers);
        }
    }

    /// Takes a message to the probe or to the clients that it is about.
    fn take(&mut self, payload: &[u8], now: u64, answers: &mut VecDeque<Answer>) {
        let Ok(message) = Message::parse(payload) else { return };
        if self.probe.as_ref().is_some_and(|probe| probe.id == message.transaction) {
            answers.extend(self.probed(&message));
            return;
        }
        let mut about: Vec<u32> = ia_lls(&message).map(|ia| ia.iaid).collect();
        if about.is_empty() {
            about = self.clients.keys().copied().collect();
        }
        for iaid in about {
            if let Some(lease) = self.clients.get_mut(&iaid)
                && lease.client.handle(payload, now).is_ok()
            {
                self.tell(iaid, now, answers);
            }
        }
    }

    /// What the answer to a probe says. A server of others' addresses does not say what a flow is for; and what another
    /// switch than the one that granted a lease would give for it says nothing of that lease: its own answer may follow.
    fn probed(&mut self, answer: &Message) -> Option<Answer> {
        let Question { iaid, server, .. } = &self.probe.as_ref()?.question;
        let ours = DhcpOption::ClientId(self.interface.duid.clone());
        let knows_flows = answer.options.iter().any(|option| matches!(option, DhcpOption::Flow(_)))
            || ia_lls(answer).any(|ia| ia.iaid == *iaid && ia.flow().is_some());
        if answer.kind != MessageType::Advertise || !answer.options.contains(&ours) || !knows_flows {
            return None;
        }
        if server.as_ref().is_some_and(|server| !answer.options.contains(&DhcpOption::ServerId(server.clone()))) {
            return Some(Answer::Probed(self.interface.index, None));
        }
        let iaid = self.probe.take()?.question.iaid;
        let about = ia_lls(answer).find(|ia| ia.iaid == iaid).filter(|_| iaid != NOBODY);
        let offered = about.map(|ia| match ia.status().filter(|status| status.code != StatusCode::Success) {
            Some(status) => Err(status.clone()),
            None => Ok(ia.blocks().next().and_then(LlAddr::mac)),
        });
        Some(Answer::Probed(self.interface.index, offered.map(|offered| (iaid, offered))))
    }

    /// Sends what is due, if the port can be had.
    fn transmit(&mut self, now: u64, answers: &mut VecDeque<Answer>) {
        self.collect_orphans(now);
        let nothing_due = self.due.first().is_none_or(|(at, _)| *at > now);
        let has_probe = self.probe.as_ref().is_some_and(|probe| !probe.sent);
        if nothing_due && !has_probe {
            self.socket.take_if(|(_, until)| *until <= now);
            return;
        }
        if self.retry.is_some_and(|retry| retry > now) || !self.take_port(now) {
            return;
        }
        if let Some(payload) = self.probe.as_mut().filter(|probe| !probe.sent).and_then(|probe| {
            probe.sent = true;
            question(&self.interface.duid, probe)
        }) {
            self.send(&payload, now);
        }
        let due: Vec<u32> = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, iaid)| *iaid).collect();
        for iaid in due {
            while let Some(payload) = self.clients.get_mut(&iaid).and_then(|lease| lease.client.poll_transmit(now)) {
                self.send(&payload, now);
            }
            self.tell(iaid, now, answers);
            self.retire(iaid, now);
        }
    }

    /// Whether there is a socket to send by.
    fn take_port(&mut self, now: u64) -> bool {
        if self.socket.is_some() {
            return true;
        }
        match Socket::open(&self.interface) {
            Ok((socket, trouble)) => {
                (self.socket, self.retry, self.trouble) = (Some((socket, now + LINGER)), None, trouble);
                true
            }
            Err(error) => {
                (self.retry, self.trouble) = (Some(now + RETRY), Some(error));
                false
            }
        }
    }

    fn send(&mut self, payload: &[u8], now: u64) {
        let Some((socket, until)) = &mut self.socket else { return };
        *until = now + LINGER;
        if let Err(error) = socket.send(&self.interface, payload) {
            tracing::debug!(%error, interface = self.interface.name, "a DHCPv6 message could not be sent");
            (self.socket, self.trouble) = (None, Some(error));
        }
    }

    /// Tells what has become of a lease. One that nobody wants any more is given back as soon as it is granted.
    fn tell(&mut self, iaid: u32, now: u64, answers: &mut VecDeque<Answer>) {
        if let Some(lease) = self.clients.get_mut(&iaid) {
            while let Some(event) = lease.client.event() {
                match event {
                    Event::Leased(_) => lease.bound = true,
                    Event::Lost | Event::Closed(_) => lease.bound = false,
                    _ => {}
                }
                match event {
                    event if lease.orphan.is_none() => answers.push_back(Answer::Lease(iaid, event)),
                    Event::Leased(_) => lease.client.release(now),
                    Event::Released | Event::Refused(_) | Event::NoWay(_) | Event::Closed(_) => {
                        lease.orphan = Some(now)
                    }
                    Event::Lost => {}
                }
            }
        }
        self.schedule(iaid);
    }

    /// Makes sure that a client which has had its turn does not get it again at once.
    fn retire(&mut self, iaid: u32, now: u64) {
        if let Some(lease) = self.clients.get_mut(&iaid)
            && let Some(at) = lease.due.filter(|at| *at <= now)
        {
            self.due.remove(&(at, iaid));
            self.due.insert((now + 1, iaid));
            lease.due = Some(now + 1);
        }
    }

    fn collect_orphans(&mut self, now: u64) {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, iaid)| *iaid);
        let over =
            |iaid: &u32| self.clients.get(iaid).is_some_and(|lease| lease.orphan.is_some_and(|until| until <= now));
        let over: Vec<u32> = due.filter(over).collect();
        over.iter().for_each(|iaid| self.forget(*iaid));
        self.gone.extend(over);
    }
}

/// A Solicit without Rapid Commit, after which nothing is kept (RFC 9915 section 18.2.1).
fn question(duid: &Duid, probe: &Probe) -> Option<Vec<u8>> {
    let block = LlAddr::ethernet(Mac::default(), 0, 0);
    let Question { iaid, spec, .. } = &probe.question;
    let options = vec![DhcpOption::LlAddr(block), DhcpOption::Flow(FlowOption::new(spec))];
    let ia = IaLl { iaid: *iaid, t1: 0, t2: 0, options };
    let options = vec![DhcpOption::ClientId(duid.clone()), DhcpOption::ElapsedTime(0), DhcpOption::IaLl(ia)];
    Message { kind: MessageType::Solicit, transaction: probe.id, options }.emit().ok()
}

fn ia_lls(message: &Message) -> impl Iterator<Item = &IaLl> {
    message.options.iter().filter_map(|option| if let DhcpOption::IaLl(ia) = option { Some(ia) } else { None })
}

fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}
