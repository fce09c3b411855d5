//! Leases given back without the clients that hold them, RFC 9915 section 18.2.7.

use super::link::{Interface, LinkError};
use super::socket::Socket;
use flowlane_dhcp6::{DhcpOption, Duid, IaLl, LlAddr, MAX_IA_LL, Message, MessageType, TransactionId};
use flowlane_wire::Mac;
use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// What is to be given back: consecutive flow addresses of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who granted it.
    pub server: Duid,
    /// The number of the lease.
    pub iaid: u32,
    /// The first address.
    pub first: Mac,
    /// How many.
    pub count: u32,
}

/// Gives leases back to the servers on one interface, and waits for their answers. How many were not answered in time; they
/// end by themselves.
///
/// # Errors
/// [`LinkError`], where nothing can be sent.
pub async fn release(interface: &Interface, leases: &[Held], patience: Duration) -> Result<usize, LinkError> {
    let give_up = Instant::now() + patience;
    let (mut socket, _) = Socket::open(interface)?;
    let mut waiting = messages(&interface.duid, leases);
    // REL_TIMEOUT of RFC 9915 section 7.6 is 1 s; who gives back ends, and has less time.
    let mut wait = (patience / 8).min(Duration::from_secs(1));
    while !waiting.is_empty() && Instant::now() < give_up {
        for (message, _) in waiting.values() {
            if let Ok(payload) = message.emit() {
                socket.send(interface, &payload)?;
            }
        }
        let until = (Instant::now() + wait).min(give_up);
        while !waiting.is_empty()
            && let Ok(answer) = timeout_at(until, receive(&mut socket)).await
        {
            waiting.retain(|_, (message, _)| !is_answer(&answer, message));
        }
        wait *= 2;
    }
    Ok(waiting.values().map(|(_, count)| count).sum())
}

/// The messages, each with the number of leases that it is about.
fn messages(client: &Duid, leases: &[Held]) -> HashMap<TransactionId, (Message, usize)> {
    let mut by_server: BTreeMap<&Duid, Vec<&Held>> = BTreeMap::new();
    leases.iter().for_each(|held| by_server.entry(&held.server).or_default().push(held));
    let chunks = by_server.iter().flat_map(|(server, held)| held.chunks(MAX_IA_LL).map(move |chunk| (server, chunk)));
    let first = fastrand::u32(..);
    let numbered = (0..).zip(chunks).map(|(n, (server, held))| {
        let [_, id @ ..] = first.wrapping_add(n).to_be_bytes();
        let mut options = vec![
            DhcpOption::ClientId(client.clone()),
            DhcpOption::ServerId((*server).clone()),
            DhcpOption::ElapsedTime(0),
        ];
        options.extend(held.iter().map(|held| DhcpOption::IaLl(ia_ll(held))));
        let message = Message { kind: MessageType::Release, transaction: TransactionId(id), options };
        (message.transaction, (message, held.len()))
    });
    numbered.collect()
}

fn ia_ll(held: &Held) -> IaLl {
    let block = LlAddr::ethernet(held.first, held.count.saturating_sub(1), 0);
    IaLl { iaid: held.iaid, t1: 0, t2: 0, options: vec![DhcpOption::LlAddr(block)] }
}

async fn receive(socket: &mut Socket) -> Message {
    loop {
        while let Some(payload) = socket.receive() {
            if let Ok(message) = Message::parse(&payload) {
                return message;
            }
        }
        poll_fn(|context| socket.poll_readable(context)).await;
    }
}

/// Whatever the status, the leases are over (RFC 9915 section 18.2.10.2).
fn is_answer(answer: &Message, asked: &Message) -> bool {
    answer.kind == MessageType::Reply
        && answer.transaction == asked.transaction
        && asked.options.iter().take(2).all(|identifier| answer.options.contains(identifier))
}
