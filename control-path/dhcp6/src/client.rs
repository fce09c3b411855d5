//! The client: holds one lease of flow addresses.
//!
//! The caller moves time and payloads: it sends what [`Client::poll_transmit`] returns to [`ALL_SERVERS`], passes
//! what arrives to [`Client::handle`], calls `poll_transmit` again at [`Client::poll_timeout`], and acts on the
//! [`Event`]s.
//!
//! [`ALL_SERVERS`]: crate::ALL_SERVERS

use crate::duid::Duid;
use crate::flow::FlowOption;
use crate::message::{Message, MessageType, TransactionId};
use crate::option::{DhcpOption, IaLl, LlAddr, Status, StatusCode, code, flow_of, ia_lls, status_of};
use crate::reader::ParseError;
use crate::retransmit::{self, Policy, Retransmit};
use crate::server::identifiers;
use crate::{INFINITY, retransmit::SOL_MAX_RT};
use fastrand::Rng;
use flowlane_allot::FlowSpec;
use flowlane_wire::Mac;
use std::collections::VecDeque;

const CROSSES: &str = "a block whose first octet changes";

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who the client is.
    pub duid: Duid,
    /// The client's number for this lease: another one for each lease of the same DUID.
    pub iaid: u32,
    /// How many addresses; 0 is taken as 1. The server may give fewer.
    pub count: u32,
    /// What the flow is for.
    pub spec: FlowSpec,
    /// Two messages instead of four (RFC 8947 section 5 recommends it). Without it the client waits a second for
    /// the best of several offers.
    pub rapid_commit: bool,
    /// Where transaction numbers and the spread of waiting times come from: a random number, another one each time
    /// (RFC 9915 section 16.1).
    pub seed: u64,
}

/// A client's lease, from the first Solicit to the Release.
#[derive(Clone, Debug)]
pub struct Client {
    config: Config,
    random: Rng,
    exchange: Option<Exchange>,
    binding: Option<Binding>,
    best: Option<Offer>,
    events: VecDeque<Event>,
    /// SOL_MAX_RT in milliseconds.
    solicit_max: u64,
    /// Requests in a row that came to nothing, to slow down the next Solicit.
    failures: u32,
    closed: bool,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The addresses may be used. Also after each renewal, with the new times.
    Leased(Grant),
    /// A server said no. The client goes on asking, less and less often.
    Refused(Status),
    /// A server said that the flow has no way by it: it has come by that switch before, or by as many as it may. The
    /// client goes on asking, as after [`Event::Refused`].
    NoWay(Status),
    /// An operator has closed the lease at the server ([`StatusCode::NotAllowed`]): the addresses may not be used any
    /// more, and the client asks for no others. It has nothing to do any more.
    Closed(Status),
    /// The addresses may not be used any more: the lease has ended. The client asks for new ones.
    Lost,
    /// [`Client::release`] has come to its end: a server confirmed it, or there was nothing to release, or nobody
    /// answered, in which case the lease runs out by itself.
    Released,
}

/// A lease as the client has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The flow addresses, consecutive.
    pub addresses: Vec<Mac>,
    /// Seconds until the client renews, from the time of the answer; [`INFINITY`] is never.
    pub t1: u32,
    /// Seconds until the client rebinds; [`INFINITY`] is never.
    pub t2: u32,
    /// Seconds until the lease ends; [`INFINITY`] is never.
    pub valid: u32,
    /// What the flow is for, as the server granted it.
    pub spec: FlowSpec,
    /// How many next hops there are to choose from by [`FlowSpec::path`], where the server says it: when the lease is
    /// granted, and not when it is renewed.
    pub paths: Option<u8>,
    /// Who granted it.
    pub server: Duid,
}

/// Why a payload was not used. It is no fault of the caller's: others' messages arrive on the port too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// It is not a DHCPv6 message.
    #[error("malformed: {0}")]
    Malformed(#[from] ParseError),
    /// Only Advertise and Reply are for clients; Reconfigure is not supported (RFC 9915 section 16).
    #[error("{0} is no answer")]
    NotAnAnswer(MessageType),
    /// The answer is not to what the client asks now.
    #[error("no answer to what was asked")]
    OtherTransaction,
    /// The answer is for another client, or does not say for which.
    #[error("for another client")]
    OtherClient,
    /// The answer does not say who gives it, or comes from another server than was asked.
    #[error("from another server")]
    OtherServer,
    /// A Reply to a Solicit, without Rapid Commit (RFC 9915 section 18.2.1).
    #[error("a Reply to a Solicit without Rapid Commit")]
    NoRapidCommit,
    /// The answer does not give the lease; the text says why.
    #[error("unusable: {0}")]
    Unusable(&'static str),
}

impl Client {
    /// A client that asks at once: people wait for flows, so that the random delay which RFC 9915 section 18.2.1
    /// recommends for machines that start together is left out. `now` is in milliseconds of a clock that never
    /// goes back.
    pub fn new(mut config: Config, now: u64) -> Self {
        config.count = config.count.max(1);
        let random = Rng::with_seed(config.seed);
        let mut client = Self {
            config,
            random,
            exchange: None,
            binding: None,
            best: None,
            events: VecDeque::new(),
            solicit_max: SOL_MAX_RT,
            failures: 0,
            closed: false,
        };
        client.solicit(now);
        client
    }

    /// The next UDP payload to send, if it is time for one. Call it until it returns none.
    pub fn poll_transmit(&mut self, now: u64) -> Option<Vec<u8>> {
        self.advance(now);
        let exchange = self.exchange.as_mut().filter(|exchange| exchange.timer.next() <= now)?;
        if exchange.timer.sent() == 0 {
            exchange.started = now;
        }
        exchange.timer.transmitted(now, &mut self.random);
        // A DUID, one lease and a name of 64 octets never exceed an option's length.
        message(&self.config, exchange, now).emit().ok()
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next, in milliseconds of the same clock; none is never.
    pub fn poll_timeout(&self) -> Option<u64> {
        let exchange = self.exchange.as_ref();
        let binding = self.binding.as_ref();
        let renew = binding.filter(|_| exchange.is_none()).and_then(|binding| binding.t1);
        let may_rebind = exchange.is_none_or(|exchange| exchange.kind == MessageType::Renew);
        let rebind = binding.filter(|_| may_rebind).and_then(|binding| binding.t2);
        let send = exchange.map(|exchange| exchange.timer.next());
        [send, renew, rebind, binding.and_then(|binding| binding.end)].into_iter().flatten().min()
    }

    /// What has happened since, oldest first.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes a UDP payload that arrived.
    ///
    /// # Errors
    /// [`Discard`] says why it was of no use; the client goes on.
    pub fn handle(&mut self, payload: &[u8], now: u64) -> Result<(), Discard> {
        self.advance(now);
        let answer = Message::parse(payload)?;
        let server = self.check(&answer)?;
        let Some(kind) = self.exchange.as_ref().map(|exchange| exchange.kind) else {
            return Err(Discard::OtherTransaction);
        };
        self.note_solicit_max(&answer);
        match kind {
            MessageType::Solicit if answer.kind == MessageType::Advertise => self.offered(&answer, &server, now),
            MessageType::Solicit | MessageType::Request => self.answered(&answer, &server, now),
            MessageType::Renew | MessageType::Rebind => self.renewed(&answer, &server, now),
            // RFC 9915 section 18.2.10.2: whatever the status, it is over.
            _ => {
                self.ended(kind, now);
                Ok(())
            }
        }
    }

    /// Gives the addresses back; stop using them first (RFC 9915 section 18.2.7). Ends with [`Event::Released`].
    pub fn release(&mut self, now: u64) {
        self.best = None;
        match self.binding.take() {
            Some(binding) => self.start(MessageType::Release, retransmit::RELEASE, now, Some(binding)),
            None if !self.closed => self.ended(MessageType::Release, now),
            None => {}
        }
    }

    /// Tells the server that the addresses can not be used (RFC 9915 section 18.2.8), then asks for others.
    pub fn decline(&mut self, now: u64) {
        if let Some(binding) = self.binding.take() {
            self.start(MessageType::Decline, retransmit::DECLINE, now, Some(binding));
        }
    }

    /// Whether the client has nothing to do any more, after [`release`](Self::release) or [`Event::Closed`].
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Does what is due at `now`.
    fn advance(&mut self, now: u64) {
        if self.binding.as_ref().is_some_and(|binding| is_over(binding.end, now)) {
            self.lose();
            self.solicit(now);
        }
        self.extend_lease(now);
        let due = self.exchange.as_ref().filter(|exchange| exchange.timer.next() <= now);
        let Some((kind, exhausted)) = due.map(|exchange| (exchange.kind, exchange.timer.is_exhausted())) else {
            return;
        };
        if kind == MessageType::Solicit
            && let Some(offer) = self.best.take()
        {
            self.request(offer.binding, now);
        } else if exhausted {
            self.ended(kind, now);
        }
    }

    /// Renews at T1, rebinds at T2: RFC 9915 sections 18.2.4 and 18.2.5.
    fn extend_lease(&mut self, now: u64) {
        let Some(binding) = &self.binding else { return };
        let asked = self.exchange.as_ref().map(|exchange| exchange.kind);
        if is_over(binding.t2, now) && matches!(asked, None | Some(MessageType::Renew)) {
            let binding = binding.clone();
            self.start(MessageType::Rebind, retransmit::REBIND, now, Some(binding));
        } else if is_over(binding.t1, now) && asked.is_none() {
            let binding = binding.clone();
            self.start(MessageType::Renew, retransmit::RENEW, now, Some(binding));
        }
    }

    fn solicit(&mut self, now: u64) {
        self.best = None;
        // RFC 9915 section 14.1: a server that offers and then refuses must not be asked as fast as it answers.
        let delay = match self.failures {
            0 => 0,
            failures => 1_000_u64.saturating_mul(1 << (failures - 1).min(12)).min(self.solicit_max),
        };
        let policy = Policy { longest: self.solicit_max, ..retransmit::SOLICIT };
        self.start(MessageType::Solicit, policy, now.saturating_add(delay), None);
    }

    fn request(&mut self, binding: Binding, now: u64) {
        self.start(MessageType::Request, retransmit::REQUEST, now, Some(binding));
    }

    fn start(&mut self, kind: MessageType, policy: Policy, at: u64, about: Option<Binding>) {
        let [_, id @ ..] = self.random.u32(..).to_be_bytes();
        let timer = Retransmit::new(policy, at);
        self.exchange = Some(Exchange { kind, id: TransactionId(id), started: at, timer, about });
    }

    fn lose(&mut self) {
        self.binding = None;
        self.events.push_back(Event::Lost);
    }

    /// Nothing is asked any more.
    fn close(&mut self, status: Status) {
        (self.exchange, self.binding, self.best, self.closed) = (None, None, None, true);
        self.events.push_back(Event::Closed(status));
    }

    /// An exchange is over without a lease.
    fn ended(&mut self, kind: MessageType, now: u64) {
        self.exchange = None;
        if kind == MessageType::Release {
            self.closed = true;
            self.events.push_back(Event::Released);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.solicit(now);
        }
    }

    /// The server, if the message is an answer to what is asked now: RFC 9915 sections 16.3 and 16.10.
    fn check(&self, answer: &Message) -> Result<Duid, Discard> {
        if !matches!(answer.kind, MessageType::Advertise | MessageType::Reply) {
            return Err(Discard::NotAnAnswer(answer.kind));
        }
        let asked =
            self.exchange.as_ref().filter(|exchange| exchange.id == answer.transaction && exchange.timer.sent() > 0);
        let asked = asked.ok_or(Discard::OtherTransaction)?;
        let (client, server) = identifiers(&answer.options);
        if client != Some(&self.config.duid) {
            return Err(Discard::OtherClient);
        }
        let server = server.ok_or(Discard::OtherServer)?;
        if asked.server().is_some_and(|asked| asked != server) {
            return Err(Discard::OtherServer);
        }
        match (asked.kind, answer.kind) {
            (MessageType::Solicit, MessageType::Advertise) => {}
            (MessageType::Solicit, _)
                if !answer.options.contains(&DhcpOption::RapidCommit) || !self.config.rapid_commit =>
            {
                return Err(Discard::NoRapidCommit);
            }
            (_, MessageType::Advertise) => return Err(Discard::OtherTransaction),
            _ => {}
        }
        Ok(server.clone())
    }

    /// RFC 9915 section 18.2.10: also from an answer that refuses. Values outside 60 to 86,400 are ignored (21.24).
    fn note_solicit_max(&mut self, answer: &Message) {
        for option in &answer.options {
            if let DhcpOption::SolMaxRt(seconds @ 60..=86_400) = option {
                self.solicit_max = u64::from(*seconds) * 1000;
            }
        }
        if let Some(exchange) = self.exchange.as_mut().filter(|exchange| exchange.kind == MessageType::Solicit) {
            exchange.timer.set_longest(self.solicit_max);
        }
    }

    /// An Advertise: RFC 9915 sections 18.2.1 and 18.2.9.
    fn offered(&mut self, answer: &Message, server: &Duid, now: u64) -> Result<(), Discard> {
        let binding = match self.grant(answer, server, now)? {
            Ok((_, binding)) => binding,
            Err(refused) => return self.refuse(refused),
        };
        if crosses_first_octet(&binding) {
            return Err(Discard::Unusable(CROSSES));
        }
        let preference = preference(&answer.options);
        let offer = Offer { preference, binding };
        let first_wait = self.exchange.as_ref().is_some_and(|exchange| exchange.timer.sent() <= 1);
        if preference == u8::MAX || !first_wait {
            self.request(offer.binding, now);
        } else if self.best.as_ref().is_none_or(|best| best.is_worse_than(&offer)) {
            self.best = Some(offer);
        }
        Ok(())
    }

    /// A Reply to a Request, or to a Solicit with Rapid Commit.
    fn answered(&mut self, answer: &Message, server: &Duid, now: u64) -> Result<(), Discard> {
        let requested = self.exchange.as_ref().is_some_and(|exchange| exchange.kind == MessageType::Request);
        match self.grant(answer, server, now)? {
            Ok((_, binding)) if crosses_first_octet(&binding) => {
                // RFC 8947 section 12: such a block must be declined.
                self.start(MessageType::Decline, retransmit::DECLINE, now, Some(binding));
                Err(Discard::Unusable(CROSSES))
            }
            Ok((_, binding)) if is_over(binding.end, now) => Err(Discard::Unusable("a lease that has ended")),
            Ok((grant, binding)) => {
                self.bind(grant, binding);
                Ok(())
            }
            Err(refused) => {
                if requested && !matches!(refused.status.code, StatusCode::UnspecFail | StatusCode::NotAllowed) {
                    self.ended(MessageType::Request, now);
                }
                self.refuse(refused)
            }
        }
    }

    /// A Reply to a Renew or Rebind: RFC 9915 section 18.2.10.1.
    fn renewed(&mut self, answer: &Message, server: &Duid, now: u64) -> Result<(), Discard> {
        let Some(held) = self.binding.clone() else { return Err(Discard::OtherTransaction) };
        match self.grant(answer, server, now)? {
            // RFC 8947 section 9: a block never changes.
            Ok((_, binding)) if (binding.first, binding.count) != (held.first, held.count) => {
                Err(Discard::Unusable("a renewal with other addresses"))
            }
            Ok((_, binding)) if is_over(binding.end, now) => {
                self.lose();
                self.solicit(now);
                Ok(())
            }
            Ok((grant, binding)) => {
                self.bind(grant, binding);
                Ok(())
            }
            Err(refused) if refused.status.code == StatusCode::NoBinding => {
                self.lose();
                let server = server.clone();
                self.request(Binding { server, first: Mac::default(), count: self.config.count, ..held }, now);
                Ok(())
            }
            // The lease is good until its end; the next transmission may have more luck.
            Err(refused) => self.refuse(refused),
        }
    }

    fn bind(&mut self, grant: Grant, binding: Binding) {
        self.exchange = None;
        self.best = None;
        self.failures = 0;
        self.binding = Some(binding);
        self.events.push_back(Event::Leased(grant));
    }

    fn refuse(&mut self, Refused { status, no_way }: Refused) -> Result<(), Discard> {
        match status.code {
            StatusCode::NotAllowed => self.close(status),
            _ => self.events.push_back(if no_way { Event::NoWay(status) } else { Event::Refused(status) }),
        }
        Ok(())
    }

    /// What an answer gives: a lease, or a status that refuses it.
    fn grant(&self, answer: &Message, server: &Duid, now: u64) -> Result<Result<(Grant, Binding), Refused>, Discard> {
        if let Some(status) = status_of(&answer.options).filter(|status| status.code != StatusCode::Success) {
            return Ok(Err(Refused { status: status.clone(), no_way: false }));
        }
        let ours = ia_lls(&answer.options).find(|ia| ia.iaid == self.config.iaid && !(ia.t1 > ia.t2 && ia.t2 > 0));
        // RFC 8947 section 8 takes this for NoAddrsAvail. It is no refusal to tell people of: a server for IP addresses
        // alone may be on the same link.
        let ia = ours.ok_or(Discard::Unusable("no flow addresses in it"))?;
        if let Some(status) = ia.status().filter(|status| status.code != StatusCode::Success) {
            let hop_limit = ia.flow().and_then(|flow| flow.hop_limit);
            let no_way = status.code == StatusCode::UnspecFail && hop_limit.is_some();
            return Ok(Err(Refused { status: status.clone(), no_way }));
        }
        let Some(block) = ia.blocks().next() else {
            let status = Status::new(StatusCode::NoAddrsAvail, "the server gave no address");
            return Ok(Err(Refused { status, no_way: false }));
        };
        let (first, count) = self.block(block)?;
        let times = Times::new(ia, block.valid_lifetime);
        let binding = Binding {
            server: server.clone(),
            first,
            count,
            t1: times.t1.map(|wait| now.saturating_add(wait)),
            t2: times.t2.map(|wait| now.saturating_add(wait)),
            end: times.end.map(|wait| now.saturating_add(wait)),
        };
        let grant = Grant {
            addresses: (0..u64::from(count)).map(|n| Mac::from_u64(first.to_u64() + n)).collect(),
            t1: seconds(times.t1),
            t2: seconds(times.t2),
            valid: block.valid_lifetime,
            spec: FlowOption::spec(ia.flow(), flow_of(&answer.options)),
            paths: ia.flow().and_then(|flow| flow.paths),
            server: server.clone(),
        };
        Ok(Ok((grant, binding)))
    }

    /// First address and count, if they are what was asked for.
    fn block(&self, block: &LlAddr) -> Result<(Mac, u32), Discard> {
        let first = block.mac().ok_or(Discard::Unusable("no Ethernet address"))?;
        if first == Mac::default() || first.is_group() {
            return Err(Discard::Unusable("no address of a single host"));
        }
        match block.extra.checked_add(1) {
            Some(count) if count <= self.config.count => Ok((first, count)),
            _ => Err(Discard::Unusable("more addresses than were asked for")),
        }
    }
}

/// A server's no.
struct Refused {
    status: Status,
    /// Whether it is about the way of the flow so far.
    no_way: bool,
}

/// A question that waits for its answer.
#[derive(Clone, Debug)]
struct Exchange {
    kind: MessageType,
    id: TransactionId,
    started: u64,
    timer: Retransmit,
    /// The lease that it is about; none in a Solicit.
    about: Option<Binding>,
}

impl Exchange {
    /// The server that alone may answer.
    fn server(&self) -> Option<&Duid> {
        self.about.as_ref().map(|binding| &binding.server).filter(|_| self.kind != MessageType::Rebind)
    }
}

/// A lease, or an offer of one. Times are those of the caller's clock; none is never.
#[derive(Clone, Debug)]
struct Binding {
    server: Duid,
    first: Mac,
    count: u32,
    t1: Option<u64>,
    t2: Option<u64>,
    end: Option<u64>,
}

#[derive(Clone, Debug)]
struct Offer {
    preference: u8,
    binding: Binding,
}

impl Offer {
    /// RFC 9915 section 18.2.9: the highest preference, then the most addresses; of equals, the first.
    fn is_worse_than(&self, other: &Self) -> bool {
        (self.preference, self.binding.count) < (other.preference, other.binding.count)
    }
}

/// How long until what, in milliseconds; none is never.
struct Times {
    t1: Option<u64>,
    t2: Option<u64>,
    end: Option<u64>,
}

impl Times {
    /// The server's times, or where it left them to the client (0), half and four fifths of the lifetime. Never
    /// after the end, and in their order (RFC 9915 section 14.2).
    fn new(ia: &IaLl, valid: u32) -> Self {
        let end = milliseconds(valid);
        let t2 = if ia.t2 == 0 { end.map(|end| (end / 5).saturating_mul(4)) } else { milliseconds(ia.t2) };
        let t2 = earlier(t2, end);
        let t1 = if ia.t1 == 0 { end.map(|end| end / 2) } else { milliseconds(ia.t1) };
        Self { t1: earlier(t1, t2), t2, end }
    }
}

fn message(config: &Config, exchange: &Exchange, now: u64) -> Message {
    let hundredths = now.saturating_sub(exchange.started) / 10;
    let mut options = vec![DhcpOption::ClientId(config.duid.clone())];
    options.extend(exchange.server().cloned().map(DhcpOption::ServerId));
    options.push(DhcpOption::ElapsedTime(u16::try_from(hundredths).unwrap_or(u16::MAX)));
    if !matches!(exchange.kind, MessageType::Release | MessageType::Decline) {
        options.push(DhcpOption::OptionRequest(vec![code::SOL_MAX_RT]));
    }
    if exchange.kind == MessageType::Solicit && config.rapid_commit {
        options.push(DhcpOption::RapidCommit);
    }
    options.push(DhcpOption::IaLl(ia_ll(config, exchange)));
    Message { kind: exchange.kind, transaction: exchange.id, options }
}

/// The client's IA_LL: times are 0 (RFC 8947 sections 7 and 11.1), and without an address the first is all zero.
fn ia_ll(config: &Config, exchange: &Exchange) -> IaLl {
    let (first, count) =
        exchange.about.as_ref().map_or((Mac::default(), config.count), |about| (about.first, about.count));
    let block = LlAddr::ethernet(first, count.saturating_sub(1), 0);
    let mut options = vec![DhcpOption::LlAddr(block)];
    if matches!(exchange.kind, MessageType::Solicit | MessageType::Request) {
        options.push(DhcpOption::Flow(FlowOption::new(&config.spec)));
    }
    IaLl { iaid: config.iaid, t1: 0, t2: 0, options }
}

fn preference(options: &[DhcpOption]) -> u8 {
    let preference = options.iter().find_map(|option| match option {
        DhcpOption::Preference(preference) => Some(*preference),
        _ => None,
    });
    preference.unwrap_or(0)
}

/// RFC 8947 section 12 forbids blocks across 2^42. Stricter: the group and local bits of the first octet, and the
/// quadrant, must not change within a block.
fn crosses_first_octet(binding: &Binding) -> bool {
    let first = binding.first.to_u64();
    first >> 40 != (first + u64::from(binding.count.saturating_sub(1))) >> 40
}

fn is_over(time: Option<u64>, now: u64) -> bool {
    time.is_some_and(|time| time <= now)
}

fn milliseconds(seconds: u32) -> Option<u64> {
    (seconds != INFINITY).then_some(u64::from(seconds) * 1000)
}

fn seconds(milliseconds: Option<u64>) -> u32 {
    milliseconds.and_then(|time| u32::try_from(time / 1000).ok()).unwrap_or(INFINITY)
}

/// The earlier of two times, of which none is never.
fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}
