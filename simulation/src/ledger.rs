//! What must never happen, judged from outside: by what switches tell, and by where frames come out.

use crate::network::{Frame, LINK_MAX, Message};
use crate::switch::{QUARANTINE, Switch};
use flowlane_allot::{ClientId, LeaseKey};
use flowlane_dhcp6::{DhcpOption, Duid, INFINITY, IaLl, LlAddr, Message as Dhcp6, MessageType};
use flowlane_wire::Mac;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

/// What must hold at every moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// No flow address is promised to two at a time.
    OneOwner,
    /// A flow address is given to nobody else while frames of its last owner may be under way.
    AddressRests,
    /// A frame reaches the host that it is for, or nobody.
    RightReceiver,
    /// A frame crosses no switch twice.
    NoLoop,
    /// A lease that was acknowledged lasts as long as was said.
    LeaseKept,
    /// Frames of a flow come in by its port alone (claim 19).
    PortCheck,
    /// Nothing is forwarded for a flow that an operator was told is closed, and its client gets no other one.
    StaysClosed,
    /// A store can be read after every crash.
    StoreReadable,
    /// No code panics.
    NoPanic,
}

/// An invariant that does not hold, and how that shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Broken {
    /// Which one.
    pub invariant: Invariant,
    /// What was seen.
    pub text: String,
}

/// Rounding of lifetimes to seconds, and then some.
const SLACK: u64 = 1_000;
/// How long a Release may be under way, and what it ends.
const RELEASE_MAX: u64 = 2 * LINK_MAX + SLACK;
/// How long an address rests at least: longer than a frame is under way.
const REST: u64 = QUARANTINE as u64 * 1000 - SLACK;

/// Who was promised what.
#[derive(Default)]
pub struct Ledger {
    /// The last promise for each address of each switch.
    promises: BTreeMap<(usize, Mac), Promise>,
    /// When clients gave addresses back.
    given_back: BTreeMap<(LeaseKey, Mac), u64>,
    /// Leases that an operator is about to close.
    closing: BTreeSet<(usize, LeaseKey)>,
    /// Leases that operators were told are closed, and until when their clients get no others.
    closed: BTreeMap<(usize, LeaseKey), u64>,
    /// The addresses of those.
    closed_addresses: BTreeSet<(usize, Mac)>,
    /// How many promises there were.
    pub promised: u64,
}

struct Promise {
    key: LeaseKey,
    port: u16,
    /// When it ends.
    until: u64,
}

impl Ledger {
    /// A switch sends a message to clients by a port.
    ///
    /// # Errors
    /// [`Invariant::OneOwner`], [`Invariant::StaysClosed`].
    pub fn answered(&mut self, switch: usize, port: u16, message: &Message, now: u64) -> Result<(), Broken> {
        let Ok(answer) = Dhcp6::parse(&message.payload) else { return Ok(()) };
        if answer.kind != MessageType::Reply {
            return Ok(());
        }
        for (key, address, valid) in leases(&answer) {
            if valid > 0 {
                let lifetime = if valid == INFINITY { u64::MAX } else { u64::from(valid) * 1000 };
                self.promise(switch, port, key, address, now.saturating_add(lifetime), now)?;
            }
        }
        Ok(())
    }

    /// A client sends a message to servers.
    pub fn asked(&mut self, message: &Message, now: u64) {
        let Ok(question) = Dhcp6::parse(&message.payload) else { return };
        if matches!(question.kind, MessageType::Release | MessageType::Decline) {
            for (key, address, _) in leases(&question) {
                let given_back = |(of, promise): &(&(usize, Mac), &mut Promise)| of.1 == address && promise.key == key;
                self.promises
                    .iter_mut()
                    .filter(given_back)
                    .for_each(|(_, promise)| promise.until = promise.until.min(now));
                self.given_back.insert((key, address), now);
            }
        }
    }

    /// An operator asks to close a lease: whether it lasts is open until there is an answer.
    pub fn closes(&mut self, switch: usize, key: LeaseKey, now: u64) {
        self.end_promises(switch, &key, now);
        self.closing.insert((switch, key));
    }

    /// The operator is told that it could not be closed.
    pub fn not_closed(&mut self, switch: usize, key: LeaseKey) {
        self.closing.remove(&(switch, key));
    }

    /// The operator is told that it is closed.
    pub fn closed(&mut self, switch: usize, key: LeaseKey, address: Mac, quarantine: u64, now: u64) {
        self.end_promises(switch, &key, now);
        self.closing.remove(&(switch, key.clone()));
        self.closed.insert((switch, key), (now + quarantine).saturating_sub(SLACK));
        self.closed_addresses.insert((switch, address));
    }

    /// The process of a switch starts with these leases.
    ///
    /// # Errors
    /// [`Invariant::OneOwner`], [`Invariant::AddressRests`].
    pub fn started(&mut self, switch: usize, leases: Vec<(LeaseKey, Mac)>, now: u64) -> Result<(), Broken> {
        self.closing.retain(|(of, _)| *of != switch);
        for (key, address) in leases {
            // A lease may have been written just before the process ended, and nobody was told.
            if self.promises.get(&(switch, address)).is_some_and(|promise| promise.key != key) {
                self.check_free(switch, &key, address, now)?;
                self.promises.remove(&(switch, address));
                self.closed_addresses.remove(&(switch, address));
            }
        }
        Ok(())
    }

    /// A switch forwards a frame of the flow with this address.
    ///
    /// # Errors
    /// [`Invariant::NoLoop`], [`Invariant::PortCheck`], [`Invariant::StaysClosed`].
    pub fn forwarded(&self, switch: usize, ingress: u16, address: Mac, frame: &Frame) -> Result<(), Broken> {
        let number = frame.number;
        if frame.crossed.contains(&switch) {
            return broken(Invariant::NoLoop, format!("frame {number} crosses switch {switch} again"));
        }
        if self.closed_addresses.contains(&(switch, address)) {
            let text = format!("frame {number} is forwarded by switch {switch} for {address}, which is closed");
            return broken(Invariant::StaysClosed, text);
        }
        match self.promises.get(&(switch, address)) {
            Some(promise) if promise.port != ingress => {
                let port = promise.port;
                let text = format!(
                    "frame {number} for {address} came to switch {switch} by port {ingress} and is forwarded, \
                     but the flow is port {port}'s"
                );
                broken(Invariant::PortCheck, text)
            }
            _ => Ok(()),
        }
    }

    /// A frame comes to a host.
    ///
    /// # Errors
    /// [`Invariant::RightReceiver`].
    pub fn delivered(&self, host: usize, frame: &Frame) -> Result<(), Broken> {
        match frame.to {
            Some(to) if to != host => {
                let text = format!("frame {} for host {to} comes to host {host}", frame.number);
                broken(Invariant::RightReceiver, text)
            }
            _ => Ok(()),
        }
    }

    /// Whether switches still know what they have promised.
    ///
    /// # Errors
    /// [`Invariant::LeaseKept`].
    pub fn check(&self, switches: &[Switch], now: u64) -> Result<(), Broken> {
        for ((number, address), promise) in self.promises.iter().filter(|(_, promise)| promise.until > now + SLACK) {
            let Some(switch) = switches.get(*number) else { continue };
            if switch.holds(&promise.key, *address) == Some(false) {
                let (LeaseKey { client, iaid }, left) = (&promise.key, promise.until - now);
                let text = format!(
                    "switch {number} does not know any more that it gave {address} to client {client}, number {iaid}, \
                     for another {left} ms"
                );
                return broken(Invariant::LeaseKept, text);
            }
        }
        Ok(())
    }

    fn promise(
        &mut self,
        switch: usize,
        port: u16,
        key: LeaseKey,
        address: Mac,
        until: u64,
        now: u64,
    ) -> Result<(), Broken> {
        if self.closed.get(&(switch, key.clone())).is_some_and(|until| *until > now) {
            let LeaseKey { client, iaid } = &key;
            let text = format!("switch {switch} gives {address} to client {client}, whose number {iaid} is closed");
            return broken(Invariant::StaysClosed, text);
        }
        self.check_free(switch, &key, address, now)?;
        // What the client gave back a moment ago, or an operator is about to close, may end at any time.
        let given_back = self.given_back.get(&(key.clone(), address)).is_some_and(|at| at + RELEASE_MAX > now);
        let doubtful = given_back || self.closing.contains(&(switch, key.clone()));
        let until = if doubtful { now } else { until };
        self.closed_addresses.remove(&(switch, address));
        self.promises.insert((switch, address), Promise { key, port, until });
        self.promised += 1;
        Ok(())
    }

    /// Whether an address may be given to this client: it is nobody else's, and has been nobody else's for long enough.
    fn check_free(&self, switch: usize, key: &LeaseKey, address: Mac, now: u64) -> Result<(), Broken> {
        let Some(other) = self.promises.get(&(switch, address)).filter(|other| other.key != *key) else {
            return Ok(());
        };
        let LeaseKey { client, iaid } = key;
        let given = format!("switch {switch} gives {address} to client {client}, number {iaid}");
        let (LeaseKey { client, iaid }, until) = (&other.key, other.until);
        if until > now + SLACK {
            let text = format!("{given}, while it is client {client}'s, number {iaid}, for another {} ms", until - now);
            return broken(Invariant::OneOwner, text);
        }
        if now < until + REST {
            let rested = now.saturating_sub(until);
            let text = format!("{given}, {rested} ms after it was client {client}'s, number {iaid}");
            return broken(Invariant::AddressRests, text);
        }
        Ok(())
    }

    fn end_promises(&mut self, switch: usize, key: &LeaseKey, now: u64) {
        let its = self.promises.iter_mut().filter(|((of, _), promise)| *of == switch && promise.key == *key);
        its.for_each(|(_, promise)| promise.until = promise.until.min(now));
    }
}

impl Broken {
    /// Some code panicked.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Self { invariant: Invariant::NoPanic, text: format!("panic: {}", text.unwrap_or("of no text")) }
    }
}

fn broken(invariant: Invariant, text: String) -> Result<(), Broken> {
    Err(Broken { invariant, text })
}

/// The leases that a message is about: whose, the first address, and for how many seconds.
fn leases(message: &Dhcp6) -> Vec<(LeaseKey, Mac, u32)> {
    let client = message.options.iter().find_map(|option| match option {
        DhcpOption::ClientId(duid) => Some(duid),
        _ => None,
    });
    let ias = message.options.iter().filter_map(|option| match option {
        DhcpOption::IaLl(ia) => Some(ia),
        _ => None,
    });
    ias.filter_map(|ia| lease(client?, ia)).collect()
}

fn lease(client: &Duid, ia: &IaLl) -> Option<(LeaseKey, Mac, u32)> {
    let block: &LlAddr = ia.blocks().next()?;
    let key = LeaseKey { client: ClientId::from(client), iaid: ia.iaid };
    Some((key, block.mac()?, block.valid_lifetime))
}
