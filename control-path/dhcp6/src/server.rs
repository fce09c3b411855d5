//! The server: a client's message becomes operations on leases, and their results become the answer.

use crate::duid::Duid;
use crate::flow::FlowOption;
use crate::message::{Message, MessageType, TransactionId};
use crate::option::{DhcpOption, IaLl, LlAddr, Quadrant, QuadrantPreference, Status, StatusCode, flow_of};
use crate::reader::{ParseError, Problem};
use crate::{INFINITY, option};
use flowlane_allot::{ClientId, FlowSpec, Lease, LeaseKey, PathSoFar, Refusal, Request, SwitchId};
use flowlane_wire::{Block, FlowAddress, Mac, PortId};
use std::collections::BTreeMap;

/// How many IA_LLs a message may have. A message with more is ignored: its answer would be large.
pub const MAX_IA_LL: usize = 8;

/// The server of one switch. It holds no leases: it reads questions and writes answers.
#[derive(Clone, Debug)]
pub struct Server {
    duid: Duid,
    id: SwitchId,
    block: Block,
    preference: u8,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The port that the message came in by.
    pub port: PortId,
    /// The source address of its frame.
    pub host: Mac,
}

impl Server {
    /// The server that hands out addresses of `block`; `uuid` is its own for ever and makes its DUID.
    pub fn new(uuid: [u8; 16], block: Block) -> Self {
        Self { duid: Duid::from_uuid(uuid), id: SwitchId(uuid), block, preference: 0 }
    }

    /// How much the server wants to be chosen among several, RFC 9915 section 21.8: 0 unless set; clients wait for
    /// no other offer when it is 255.
    #[must_use]
    pub fn with_preference(self, preference: u8) -> Self {
        Self { preference, ..self }
    }

    /// Who the server is.
    pub fn duid(&self) -> &Duid {
        &self.duid
    }

    /// The switch that the server belongs to.
    pub fn id(&self) -> SwitchId {
        self.id
    }

    /// What a client's message asks for. Carry out [`Transaction::operations`], make the changes durable, then send
    /// [`Transaction::reply`].
    ///
    /// # Errors
    /// [`Ignore`]: the message gets no answer, RFC 9915 section 16; count it.
    pub fn plan(&self, payload: &[u8], peer: Peer) -> Result<Transaction, Ignore> {
        let message = Message::parse(payload)?;
        let client = self.check(&message)?;
        let ias = ia_lls(&message)?;
        let mut transaction = Transaction {
            server: self.clone(),
            client,
            kind: message.kind,
            id: message.transaction,
            rapid: message.kind == MessageType::Solicit && message.options.contains(&DhcpOption::RapidCommit),
            parts: Vec::new(),
            operations: Vec::new(),
            paths: BTreeMap::new(),
        };
        let outer = flow_of(&message.options);
        for ia in ias {
            transaction.add(ia, outer, peer);
        }
        Ok(transaction)
    }

    /// The client, if the message is for this server: RFC 9915 sections 16.2 to 16.12.
    fn check(&self, message: &Message) -> Result<Duid, Ignore> {
        let to_one_server = match message.kind {
            MessageType::Solicit | MessageType::Rebind => false,
            MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => true,
            MessageType::Advertise | MessageType::Reply | MessageType::Reconfigure => {
                return Err(Ignore::FromServer(message.kind));
            }
            MessageType::Confirm | MessageType::InformationRequest => return Err(Ignore::NotUsed(message.kind)),
        };
        let (client, server) = identifiers(&message.options);
        match server {
            None if to_one_server => Err(Ignore::NoServerId),
            Some(_) if !to_one_server => Err(Ignore::UnexpectedServerId),
            Some(server) if *server != self.duid => Err(Ignore::OtherServer),
            _ => client.cloned().ok_or(Ignore::NoClientId),
        }
    }
}

/// One message on its way to an answer.
#[derive(Clone, Debug)]
pub struct Transaction {
    server: Server,
    client: Duid,
    kind: MessageType,
    id: TransactionId,
    rapid: bool,
    parts: Vec<Part>,
    operations: Vec<Operation>,
    /// How many next hops there are to choose from, by IAID.
    paths: BTreeMap<u32, u8>,
}

/// What to do with leases, in the words of the allotter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Say what would be granted; keep nothing.
    Offer(Request),
    /// Grant. The same key again is the same lease.
    Request(Request),
    /// Give the lease more time.
    Renew(Held),
    /// End the lease.
    Release(Held),
    /// End the lease: the client can not use its addresses.
    Decline(Held),
}

/// A lease that a client says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which lease.
    pub key: LeaseKey,
    /// The port that the client is on.
    pub port: PortId,
    /// Its first address as the client knows it, if the client named it.
    pub first: Option<FlowAddress>,
}

impl Operation {
    /// The lease that it is about.
    pub fn key(&self) -> &LeaseKey {
        match self {
            Self::Offer(request) | Self::Request(request) => &request.key,
            Self::Renew(held) | Self::Release(held) | Self::Decline(held) => &held.key,
        }
    }

    /// The port that the client is on.
    pub fn port(&self) -> PortId {
        match self {
            Self::Offer(request) | Self::Request(request) => request.port,
            Self::Renew(held) | Self::Release(held) | Self::Decline(held) => held.port,
        }
    }

    /// Whether the operation is about this lease, and not about an earlier one of the same key that a late message
    /// names. Where it is not, the result is [`Refusal::NoBinding`] and the lease stays as it is.
    pub fn is_about(&self, lease: &Lease, block: Block) -> bool {
        match self {
            Self::Offer(_) | Self::Request(_) => true,
            Self::Renew(held) | Self::Release(held) | Self::Decline(held) => {
                held.first.is_none() || held.first == lease.addresses(block).next()
            }
        }
    }
}

/// One IA_LL of the question.
#[derive(Clone, Debug)]
struct Part {
    iaid: u32,
    /// The link-layer type that the client asked for, 1 or 6.
    link_type: u16,
    answer: Answer,
}

#[derive(Clone, Debug)]
enum Answer {
    /// What the next operation results in.
    Operation,
    /// This, whatever the leases are.
    Status(Status),
    /// A flow with this way so far has none by here. Its hop limit is repeated, which tells it from other refusals.
    NoWay(Status, u8),
    /// None: another server may know.
    Silence,
}

impl Transaction {
    /// What to do, in this order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What the client sent.
    pub fn kind(&self) -> MessageType {
        self.kind
    }

    /// Notes how many next hops a flow has to choose from; the answer says it where the flow names one of them.
    pub fn set_paths(&mut self, iaid: u32, paths: u8) {
        self.paths.insert(iaid, paths);
    }

    /// The UDP payload that answers the client, or none if RFC 9915 wants silence. `results` are those of
    /// [`operations`](Self::operations), in their order; a missing one is answered as a failure. `now` is in
    /// milliseconds of the clock of [`Lease::expires`].
    pub fn reply(&self, results: &[Result<Lease, Refusal>], now: u64) -> Option<Vec<u8>> {
        let outcomes = self.outcomes(results, now);
        let shortest = outcomes.iter().filter_map(|(_, outcome)| outcome.remaining()).min();
        let ias: Vec<_> =
            outcomes.into_iter().filter_map(|(part, outcome)| self.ia_ll(part, outcome, shortest)).collect();
        let ends_leases = matches!(self.kind, MessageType::Release | MessageType::Decline);
        if ias.is_empty() && !ends_leases {
            return None;
        }
        let mut options =
            vec![DhcpOption::ClientId(self.client.clone()), DhcpOption::ServerId(self.server.duid.clone())];
        if self.kind == MessageType::Solicit {
            options.push(self.commitment());
        }
        if ends_leases {
            options.push(DhcpOption::StatusCode(Status::new(StatusCode::Success, "")));
        }
        options.extend(ias);
        // A DUID, at most eight leases and their texts never exceed an option's length.
        Message { kind: self.answer_type(), transaction: self.id, options }.emit().ok()
    }

    fn add(&mut self, ia: &IaLl, outer: Option<&FlowOption>, peer: Peer) {
        let key = LeaseKey { client: ClientId::from(&self.client), iaid: ia.iaid };
        let answer = match self.kind {
            MessageType::Solicit | MessageType::Request => self.ask(ia, key, outer, peer),
            _ => self.hold(ia, key, peer.port),
        };
        let link_type = ia.blocks().next().filter(|block| block.mac().is_some()).map_or(1, |block| block.link_type);
        self.parts.push(Part { iaid: ia.iaid, link_type, answer });
    }

    /// A client wants addresses. Of several blocks in an IA_LL it gets the first: a lease is one block.
    fn ask(&mut self, ia: &IaLl, key: LeaseKey, outer: Option<&FlowOption>, peer: Peer) -> Answer {
        // RFC 8947 section 11.1: without LLADDR, one address.
        let count = match ia.blocks().next() {
            None => 1,
            Some(block) if block.mac().is_some() => block.extra.saturating_add(1),
            Some(_) => {
                let text = "flow addresses are of link-layer type 1 or 6 and 6 octets long";
                return Answer::Status(Status::new(StatusCode::NoAddrsAvail, text));
            }
        };
        if !wants(ia, Quadrant::of(self.server.block.prefix())) {
            let text = format!("the addresses here are {}, in no quadrant that is asked for", self.server.block);
            return Answer::Status(Status::new(StatusCode::NoAddrsAvail, text));
        }
        let spec = FlowOption::spec(ia.flow(), outer);
        if let Some(text) = self.no_way(&spec) {
            return Answer::NoWay(Status::new(StatusCode::UnspecFail, text), spec.so_far.hop_limit);
        }
        let request = Request { key, port: peer.port, host: peer.host, count, lifetime: None, spec };
        self.operations.push(match self.kind {
            MessageType::Solicit if !self.rapid => Operation::Offer(request),
            _ => Operation::Request(request),
        });
        Answer::Operation
    }

    /// Why a flow that has come here by other switches gets no further.
    fn no_way(&self, spec: &FlowSpec) -> Option<&'static str> {
        let PathSoFar { hop_limit, crossed } = &spec.so_far;
        if crossed.contains(&self.server.id) {
            Some("the flow has come by this switch before: routes make a loop")
        } else if *hop_limit == 0 {
            Some("the flow has come by as many switches as it may")
        } else {
            None
        }
    }

    /// A client has addresses.
    fn hold(&mut self, ia: &IaLl, key: LeaseKey, port: PortId) -> Answer {
        let first = match ia.blocks().next().map(LlAddr::mac) {
            None => None,
            Some(Some(any)) if any == Mac::default() => None,
            Some(named) => match named.and_then(|mac| self.server.block.flow_address(mac)) {
                None => return self.unknown(false),
                address => address,
            },
        };
        let held = Held { key, port, first };
        self.operations.push(match self.kind {
            MessageType::Release => Operation::Release(held),
            MessageType::Decline => Operation::Decline(held),
            _ => Operation::Renew(held),
        });
        Answer::Operation
    }

    /// The answer for a lease that is not here. A Rebind goes to all servers: only the one whose addresses they are
    /// may say that there is no such lease (RFC 9915 section 18.3.5).
    fn unknown(&self, ours: bool) -> Answer {
        match self.kind {
            MessageType::Rebind if !ours => Answer::Silence,
            _ => Answer::Status(Status::new(StatusCode::NoBinding, Refusal::NoBinding.to_string())),
        }
    }

    fn outcomes<'a>(&'a self, results: &'a [Result<Lease, Refusal>], now: u64) -> Vec<(&'a Part, Outcome<'a>)> {
        let mut done = self.operations.iter().zip(results);
        let outcome = |part: &'a Part| match &part.answer {
            Answer::Silence => (part, Outcome::Silence),
            Answer::Status(status) => (part, Outcome::Status(status.clone())),
            Answer::NoWay(status, hop_limit) => (part, Outcome::NoWay(status.clone(), *hop_limit)),
            Answer::Operation => match done.next() {
                Some((operation, result)) => (part, self.outcome(operation, result, now)),
                None => {
                    let text = "the switch could not decide; ask again";
                    (part, Outcome::Status(Status::new(StatusCode::UnspecFail, text)))
                }
            },
        };
        self.parts.iter().map(outcome).collect()
    }

    fn outcome<'a>(&self, operation: &Operation, result: &'a Result<Lease, Refusal>, now: u64) -> Outcome<'a> {
        match (operation, result) {
            (Operation::Release(_) | Operation::Decline(_), Ok(_)) => Outcome::Ended,
            (_, Ok(lease)) => match remaining(lease, now) {
                Some(remaining) if operation.is_about(lease, self.server.block) => {
                    Outcome::Granted { lease, remaining }
                }
                _ => self.refused(operation, &Refusal::NoBinding),
            },
            (_, Err(refusal)) => self.refused(operation, refusal),
        }
    }

    fn refused(&self, operation: &Operation, refusal: &Refusal) -> Outcome<'static> {
        let code = match (operation, refusal) {
            // The same answer whatever was asked: the client is not to go on.
            (_, Refusal::Closed) => StatusCode::NotAllowed,
            (_, Refusal::Invalid(_) | Refusal::Receivers(_) | Refusal::NoWay(_)) => StatusCode::UnspecFail,
            // RFC 8947 section 8: whoever asks for addresses and gets none is told NoAddrsAvail.
            (Operation::Offer(_) | Operation::Request(_), _) => StatusCode::NoAddrsAvail,
            (_, Refusal::Full { .. } | Refusal::PortQuota { .. } | Refusal::ClientQuota { .. }) => {
                StatusCode::NoAddrsAvail
            }
            (Operation::Renew(held), Refusal::NoBinding) => return self.unknown(held.first.is_some()).into(),
            (_, Refusal::NoBinding | Refusal::OtherPort(_)) => StatusCode::NoBinding,
        };
        Outcome::Status(Status::new(code, refusal.to_string()))
    }

    /// The answer's IA_LL. T1 and T2 are the same in all of a message (RFC 9915 section 18.3.4).
    fn ia_ll(&self, part: &Part, outcome: Outcome<'_>, shortest: Option<u32>) -> Option<DhcpOption> {
        let options = match outcome {
            Outcome::Silence | Outcome::Ended => return None,
            Outcome::Status(status) => vec![DhcpOption::StatusCode(status)],
            Outcome::NoWay(status, hop_limit) => {
                let flow = FlowOption { hop_limit: Some(hop_limit), ..FlowOption::default() };
                vec![DhcpOption::StatusCode(status), DhcpOption::Flow(flow)]
            }
            Outcome::Granted { lease, remaining } => self.granted(part, lease, remaining),
        };
        let (t1, t2) = shortest.map_or((0, 0), times);
        Some(DhcpOption::IaLl(IaLl { iaid: part.iaid, t1, t2, options }))
    }

    fn granted(&self, part: &Part, lease: &Lease, remaining: u32) -> Vec<DhcpOption> {
        let Some(first) = lease.addresses(self.server.block).next() else {
            return vec![DhcpOption::StatusCode(Status::new(StatusCode::UnspecFail, "the lease has no address"))];
        };
        let block = LlAddr::ethernet(first.mac(), lease.count.saturating_sub(1), remaining);
        let paths = lease.spec.path.and_then(|_| self.paths.get(&part.iaid).copied());
        vec![
            DhcpOption::LlAddr(LlAddr { link_type: part.link_type, ..block }),
            DhcpOption::Flow(FlowOption { paths, ..FlowOption::granted(&lease.spec) }),
        ]
    }

    fn answer_type(&self) -> MessageType {
        match self.kind {
            MessageType::Solicit if !self.rapid => MessageType::Advertise,
            _ => MessageType::Reply,
        }
    }

    /// What tells an answer to a Solicit: an offer with its preference, or a commitment.
    fn commitment(&self) -> DhcpOption {
        if self.rapid { DhcpOption::RapidCommit } else { DhcpOption::Preference(self.server.preference) }
    }
}

/// Why a message gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignore {
    /// It is not a DHCPv6 message.
    #[error("malformed: {0}")]
    Malformed(ParseError),
    /// A relay passed it on; its port would not be the flow's.
    #[error("relayed: flow addresses are asked for on the link itself")]
    Relayed,
    /// Servers send such messages, RFC 9915 sections 16.3, 16.10, 16.11.
    #[error("{0} comes from servers")]
    FromServer(MessageType),
    /// Not used for link-layer addresses, RFC 8947 section 5.
    #[error("{0} is not about flow addresses")]
    NotUsed(MessageType),
    /// The client does not say who it is.
    #[error("no Client Identifier")]
    NoClientId,
    /// The message is for one server and does not say which.
    #[error("no Server Identifier")]
    NoServerId,
    /// The message is for all servers and names one.
    #[error("a Server Identifier in a message to all servers")]
    UnexpectedServerId,
    /// The message is for another server.
    #[error("for another server")]
    OtherServer,
    /// It asks for something else, such as an IP address: another server's business.
    #[error("asks for no flow address (no IA_LL)")]
    NoIaLl,
    /// More than [`MAX_IA_LL`] leases at once.
    #[error("{0} IA_LLs; send at most 8 in a message")]
    TooMany(usize),
    /// Two IA_LLs with one IAID, against RFC 8947 section 11.1.
    #[error("two IA_LLs have IAID {0}")]
    SameIaid(u32),
}

impl From<ParseError> for Ignore {
    fn from(error: ParseError) -> Self {
        match error.problem {
            Problem::Relayed => Self::Relayed,
            _ => Self::Malformed(error),
        }
    }
}

impl Ignore {
    /// A short name, for counters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Relayed => "relayed",
            Self::FromServer(_) => "from_server",
            Self::NotUsed(_) => "not_used",
            Self::NoClientId => "no_client_id",
            Self::NoServerId => "no_server_id",
            Self::UnexpectedServerId => "unexpected_server_id",
            Self::OtherServer => "other_server",
            Self::NoIaLl => "no_ia_ll",
            Self::TooMany(_) => "too_many_ia_lls",
            Self::SameIaid(_) => "same_iaid",
        }
    }
}

/// What becomes of one IA_LL.
enum Outcome<'a> {
    Granted {
        lease: &'a Lease,
        /// Seconds.
        remaining: u32,
    },
    Ended,
    Status(Status),
    NoWay(Status, u8),
    Silence,
}

impl Outcome<'_> {
    fn remaining(&self) -> Option<u32> {
        match self {
            Self::Granted { remaining, .. } => Some(*remaining),
            _ => None,
        }
    }
}

impl From<Answer> for Outcome<'_> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Status(status) => Self::Status(status),
            Answer::NoWay(status, hop_limit) => Self::NoWay(status, hop_limit),
            Answer::Silence | Answer::Operation => Self::Silence,
        }
    }
}

/// Client and server identifier.
pub(crate) fn identifiers(options: &[DhcpOption]) -> (Option<&Duid>, Option<&Duid>) {
    let client = options.iter().find_map(|option| match option {
        DhcpOption::ClientId(duid) => Some(duid),
        _ => None,
    });
    let server = options.iter().find_map(|option| match option {
        DhcpOption::ServerId(duid) => Some(duid),
        _ => None,
    });
    (client, server)
}

fn ia_lls(message: &Message) -> Result<Vec<&IaLl>, Ignore> {
    let ias: Vec<_> = option::ia_lls(&message.options).collect();
    if ias.is_empty() {
        return Err(Ignore::NoIaLl);
    }
    if ias.len() > MAX_IA_LL {
        return Err(Ignore::TooMany(ias.len()));
    }
    for (n, ia) in ias.iter().enumerate() {
        if ias.iter().take(n).any(|other| other.iaid == ia.iaid) {
            return Err(Ignore::SameIaid(ia.iaid));
        }
    }
    Ok(ias)
}

/// Whether the client takes addresses of `quadrant`: it does if it has no wishes, RFC 8948 section 5.1.
fn wants(ia: &IaLl, quadrant: Quadrant) -> bool {
    let mut wishes = ia.options.iter().filter_map(|option| match option {
        DhcpOption::Quad(wishes) => Some(wishes),
        _ => None,
    });
    let accepts = |wish: &QuadrantPreference| wish.quadrant == quadrant as u8;
    wishes.all(|wishes| wishes.is_empty() || wishes.iter().any(accepts))
}

/// Seconds until the lease ends, to the nearest, 1 and up; none if it has ended. The answer to a fresh grant comes some
/// milliseconds later than the grant, and still says the whole lifetime.
fn remaining(lease: &Lease, now: u64) -> Option<u32> {
    if lease.lifetime == INFINITY || lease.expires == u64::MAX {
        return Some(INFINITY);
    }
    let seconds = lease.expires.saturating_sub(now).saturating_add(500) / 1000;
    // A finite time must not read as infinity.
    u32::try_from(seconds.min(u64::from(INFINITY - 1))).ok().filter(|seconds| *seconds > 0)
}

/// T1 and T2, 0.5 and 0.8 of the shortest lifetime, RFC 8947 section 11.1. Never 0: RFC 9915 section 14.2 says what
/// a client does with 0 for IP addresses only.
fn times(shortest: u32) -> (u32, u32) {
    if shortest == INFINITY {
        return (INFINITY, INFINITY);
    }
    let t2 = u64::from(shortest) * 4 / 5;
    ((shortest / 2).max(1), u32::try_from(t2).unwrap_or(shortest).max(1))
}
