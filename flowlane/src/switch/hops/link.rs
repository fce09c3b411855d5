//! A flow that goes on at the next switch: one DHCPv6 client, and what it has got.

use super::{Gateway, Target, Wish};
use crate::switch::boot_nanos;
use flowlane_allot::{FlowSpec, PathSoFar, SwitchId};
use flowlane_dhcp6::{Client, Config, Duid, Event};
use flowlane_wire::Mac;

/// A target's way by the switch at a gateway.
pub struct Link {
    /// Who is asked.
    pub gateway: Gateway,
    /// What for.
    pub spec: FlowSpec,
    /// Asks; none while the gateway is not known to be a switch.
    pub client: Option<Client>,
    /// The flow address that the gateway has given.
    pub address: Option<Mac>,
    /// Whether it still has, as far as is known: else it is asked, and the address serves until patience ends.
    pub confirmed: bool,
    /// Until then nothing else is used (boot-time milliseconds).
    pub patience: Option<u64>,
    /// What the gateway refused last.
    pub refusal: Option<Refusal>,
    /// The way before, which serves until this one does.
    pub before: Option<Before>,
    /// When the client started.
    started: u64,
}

/// A way that served, or may have.
pub struct Before {
    /// Who was asked.
    pub gateway: Gateway,
    /// Who asked.
    pub client: Client,
    /// Whether it has the lease, as far as is known.
    pub granted: bool,
}

/// Why a switch gives no flow address.
pub struct Refusal {
    /// Its words.
    pub text: String,
    /// Whether the flow can not go by it at all: it has crossed it already, or an operator has closed it there.
    pub no_way: bool,
}

/// How long a client that has got nothing goes on before another one starts: its own waits grow to an hour.
const RETRY: u64 = 60_000;

impl Link {
    /// A way by a gateway that has not been asked yet. `before` serves until it is known what this one does.
    pub fn new(gateway: Gateway, spec: FlowSpec, before: Option<Before>) -> Self {
        Self {
            gateway,
            spec,
            client: None,
            address: None,
            confirmed: false,
            patience: None,
            refusal: None,
            before,
            started: 0,
        }
    }

    /// Asks anew. An address that was given serves until the answer.
    pub fn ask(&mut self, duid: Duid, target: Target, patience: u64, now: u64) {
        self.client = Some(client_for(duid, target, self.spec.clone(), now));
        (self.confirmed, self.patience, self.started) = (false, Some(now + patience), now);
    }

    /// Does what is due, and takes note of what has happened. The messages to send.
    pub fn advance(&mut self, now: u64) -> Vec<Vec<u8>> {
        let messages = match &mut self.client {
            Some(client) => std::iter::from_fn(|| client.poll_transmit(now)).collect(),
            None => Vec::new(),
        };
        self.take_events();
        if self.patience.is_some_and(|until| until <= now) {
            self.settle();
            self.address = self.address.filter(|_| self.confirmed);
        }
        messages
    }

    /// Whether the client has asked in vain for so long that another one should.
    pub fn is_stuck(&self, now: u64) -> bool {
        self.client.is_some() && self.address.is_none() && now >= self.started + RETRY
    }

    /// When there is something to do next.
    pub fn due(&self) -> Option<u64> {
        let client = self.client.as_ref().and_then(Client::poll_timeout);
        let retry = (self.client.is_some() && self.address.is_none()).then_some(self.started + RETRY);
        [client, self.patience, retry].into_iter().flatten().min()
    }

    /// Takes note of what the client says.
    pub fn take_events(&mut self) {
        while let Some(event) = self.client.as_mut().and_then(Client::event) {
            match event {
                Event::Leased(grant) => {
                    (self.address, self.confirmed) = (grant.addresses.first().copied(), true);
                    self.refusal = None;
                    self.settle();
                }
                Event::Refused(status) => self.refused(status.text, false),
                Event::NoWay(status) => self.refused(status.text, true),
                Event::Closed(status) => self.closed(status.text),
                Event::Lost => self.address = None,
                Event::Released => {}
            }
        }
    }

    /// An operator has closed the flow at the next switch: it is cut off here, too, and does not go round the refusal by
    /// the gateway's own address. The switch is asked again now and then, for this ends with the quarantine there.
    pub fn closed(&mut self, text: String) {
        (self.address, self.confirmed) = (None, false);
        self.refused(text, true);
    }

    fn refused(&mut self, text: String, no_way: bool) {
        self.refusal = Some(Refusal { text, no_way });
        // An address that was granted is good until its end, whatever is said of more time.
        self.address = self.address.filter(|_| self.confirmed && !no_way);
        self.settle();
    }

    /// It is known where frames go: nothing else has to be waited for.
    fn settle(&mut self) {
        self.patience = None;
    }
}

impl Target {
    /// The number of its lease at the next switch, the same after a restart.
    pub fn iaid(self) -> u32 {
        match self {
            Self::Flow(slot) => slot.0,
            Self::Receiver(group, place) => 1 << 31 | group.0 << 6 | place as u32,
        }
    }
}

/// Asks for a target's flow address.
pub fn client_for(duid: Duid, target: Target, spec: FlowSpec, now: u64) -> Client {
    let iaid = target.iaid();
    // Transaction numbers need not be secret: answers count by the neighbour's Ethernet address.
    let seed = boot_nanos() ^ u64::from(iaid) << 32;
    Client::new(Config { duid, iaid, count: 1, spec, rapid_commit: true, seed }, now)
}

/// What the next switch is asked for.
pub fn spec(wish: &Wish, own: SwitchId) -> FlowSpec {
    let crossed = wish.so_far.crossed.iter().copied().chain([own]).collect();
    FlowSpec {
        destination: Some(wish.destination),
        rate: wish.rate,
        restore: wish.restore,
        path: wish.path,
        so_far: PathSoFar { hop_limit: wish.so_far.hop_limit.saturating_sub(1), crossed },
        ..FlowSpec::default()
    }
}
