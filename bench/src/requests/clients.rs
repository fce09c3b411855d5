//! Many DHCPv6 clients behind one socket, light enough that the server is what is measured.
//!
//! Their messages are copies of one, but for the client's number and the transaction's; they leave and arrive many at a
//! system call.

use crate::{Error, frame::destination_of};
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{ALL_SERVERS, CLIENT_PORT, DhcpOption, Duid, FlowOption, IaLl, LlAddr, Message, SERVER_PORT};
use flowlane_dhcp6::{MessageType, TransactionId};
use flowlane_lab::{Link, Mac};
use nix::sys::{
    socket::{MsgFlags, MultiHeaders, SockaddrIn6, recvmmsg, sendmmsg, setsockopt, sockopt},
    time::TimeSpec,
};
use nix::time::{ClockId, clock_gettime};
use std::{
    collections::HashMap,
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket},
    ops::Range,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

/// Clients that ask at a time: the switch writes their leases to disk together.
const AT_A_TIME: usize = 256;
/// Messages of a system call.
pub(super) const BATCH: usize = 64;
/// A client that has no answer for so long asks again.
const RESEND: Duration = Duration::from_millis(500);
/// How long the socket waits for an answer before it is looked who has none.
const WAIT: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);
/// Room for messages that have come and were not read yet, in octets as the kernel counts them.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The longest message.
pub(super) const MESSAGE_MAX: usize = 1_500;

/// Many clients behind one socket.
pub(super) struct Clients {
    socket: UdpSocket,
    to: SockaddrIn6,
    /// Messages that had to be sent again.
    pub resent: u64,
}

/// What became of clients that asked.
pub(super) struct Leased {
    /// How long it took.
    pub took: Duration,
    /// The processor time of the clients themselves.
    pub own: Duration,
    /// The address that was granted to each, in the order of their numbers.
    pub addresses: Vec<Mac>,
}

/// A client that waits for an answer.
struct Waiting {
    kind: MessageType,
    since: Instant,
}

/// An answer, as far as it matters.
struct Answer {
    kind: MessageType,
    transaction: TransactionId,
    number: u32,
    server: Duid,
    address: Mac,
}

impl Clients {
    /// Clients on a link that has an IPv6 address of its own, or will have.
    pub(super) fn new(link: &Link) -> Result<Self, Error> {
        let interface = link.index()?;
        let from = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, interface);
        let socket = link.netns().run(|| UdpSocket::bind(from))?;
        let socket = socket.map_err(Error::system("listen for the switch's answers"))?;
        socket.set_read_timeout(Some(WAIT)).map_err(Error::system("set a timeout"))?;
        make_room(&socket)?;
        let to = SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, interface);
        wait_for_an_address(&socket, to)?;
        Ok(Self { socket, to: to.into(), resent: 0 })
    }

    /// Leases a flow for each of these clients, some at a time: by two messages (Rapid Commit), or by four.
    pub(super) fn lease(&mut self, mut numbers: Range<u32>, rapid_commit: bool) -> Result<Leased, Error> {
        let (first, mut addresses) = (numbers.start, vec![Mac::default(); numbers.len()]);
        let (start, own) = (Instant::now(), processor_time());
        let solicit = Template::new(MessageType::Solicit, None, rapid_commit)?;
        let mut request = None;
        let mut waiting: HashMap<u32, Waiting> = HashMap::new();
        let (mut messages, mut looked) = (Vec::new(), start);
        loop {
            let now = Instant::now();
            for number in numbers.by_ref().take(AT_A_TIME.saturating_sub(waiting.len())) {
                waiting.insert(number, Waiting { kind: MessageType::Solicit, since: now });
                messages.push(solicit.of(number));
            }
            if waiting.is_empty() {
                return Ok(Leased { took: start.elapsed(), own: processor_time().saturating_sub(own), addresses });
            }
            self.send(&messages)?;
            messages.clear();
            for answer in self.receive()? {
                let Some(asked) = waiting.get_mut(&answer.number) else { continue };
                match (asked.kind, answer.kind) {
                    _ if answer.transaction != transaction(answer.number, asked.kind) => {}
                    (MessageType::Solicit, MessageType::Advertise) if !rapid_commit => {
                        *asked = Waiting { kind: MessageType::Request, since: Instant::now() };
                        if request.is_none() {
                            request = Some(Template::new(MessageType::Request, Some(&answer.server), false)?);
                        }
                        messages.extend(request.as_ref().map(|request| request.of(answer.number)));
                    }
                    (_, MessageType::Reply) => {
                        waiting.remove(&answer.number);
                        if let Some(place) = addresses.get_mut((answer.number - first) as usize) {
                            *place = answer.address;
                        }
                    }
                    _ => {}
                }
            }
            if looked.elapsed() > WAIT {
                looked = Instant::now();
                for (number, asked) in waiting.iter_mut().filter(|(_, asked)| asked.since.elapsed() > RESEND) {
                    asked.since = looked;
                    self.resent += 1;
                    let template = request.as_ref().filter(|_| asked.kind == MessageType::Request);
                    messages.push(template.unwrap_or(&solicit).of(*number));
                }
            }
            if now.duration_since(start) > PATIENCE {
                return Err(Error::Peer("the switch", "it does not answer"));
            }
        }
    }

    fn send(&self, messages: &[Vec<u8>]) -> Result<(), Error> {
        for some in messages.chunks(BATCH) {
            let parts: Vec<_> = some.iter().map(|message| [IoSlice::new(message)]).collect();
            let (to, mut headers) = (vec![Some(self.to); some.len()], MultiHeaders::preallocate(some.len(), None));
            // What finds no room is sent again.
            sendmmsg(self.socket.as_raw_fd(), &mut headers, parts.iter(), to, [], MsgFlags::empty())
                .map_err(Error::system("ask the switch"))?;
        }
        Ok(())
    }

    /// Waits for answers, a moment at most.
    fn receive(&self) -> Result<Vec<Answer>, Error> {
        let mut buffer = vec![0; BATCH * MESSAGE_MAX];
        let mut parts: Vec<_> = buffer.chunks_mut(MESSAGE_MAX).map(|part| [IoSliceMut::new(part)]).collect();
        let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
        let wait: Option<TimeSpec> = None;
        let flags = MsgFlags::MSG_WAITFORONE;
        let lengths: Vec<usize> = match recvmmsg(self.socket.as_raw_fd(), &mut headers, parts.iter_mut(), flags, wait) {
            Ok(received) => received.map(|message| message.bytes).collect(),
            // Nothing has come.
            Err(_) => Vec::new(),
        };
        let messages = buffer.chunks(MESSAGE_MAX).zip(lengths);
        messages.filter_map(|(message, length)| answer(message.get(..length)?).transpose()).collect()
    }
}

/// Gives a socket room for what has come and was not read yet.
pub(super) fn make_room(socket: &UdpSocket) -> Result<(), Error> {
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).map_err(Error::system("make room for messages"))
}

/// A message with room for a client's number.
pub(super) struct Template {
    kind: MessageType,
    message: Vec<u8>,
}

/// Where its number stands: in its DUID, and as its IAID (RFC 9915 sections 8, 21.1, 21.2; RFC 8947 section 11.1).
const NUMBER_AT: [usize; 2] = [14, 22];
const TRANSACTION_AT: usize = 1;

impl Template {
    fn new(kind: MessageType, server: Option<&Duid>, rapid_commit: bool) -> Result<Self, Error> {
        let spec = FlowSpec { destination: Some(Ipv4Addr::from(destination_of(2)).into()), ..FlowSpec::default() };
        let any = DhcpOption::LlAddr(LlAddr::ethernet(Mac::default(), 0, 0));
        let flow = DhcpOption::Flow(FlowOption::new(&spec));
        let mut more = vec![DhcpOption::ElapsedTime(0)];
        more.extend(server.cloned().map(DhcpOption::ServerId));
        more.extend(rapid_commit.then_some(DhcpOption::RapidCommit));
        Self::with_options(kind, vec![any, flow], more)
    }

    /// An answer that grants an address, the same to every client.
    pub(super) fn granted(kind: MessageType) -> Result<Self, Error> {
        const LIFETIME: u32 = 3_600;
        let address = LlAddr::ethernet(Mac([2, 0, 0, 0, 0, 1]), 0, LIFETIME);
        Self::with_options(kind, vec![DhcpOption::LlAddr(address)], vec![DhcpOption::ServerId(duid()?)])
    }

    fn with_options(kind: MessageType, ia: Vec<DhcpOption>, more: Vec<DhcpOption>) -> Result<Self, Error> {
        let mut options =
            vec![DhcpOption::ClientId(duid()?), DhcpOption::IaLl(IaLl { options: ia, ..IaLl::default() })];
        options.extend(more);
        let message = Message { kind, transaction: TransactionId::default(), options }.emit();
        Ok(Self { kind, message: message.map_err(|_| Error::Incomplete("message"))? })
    }

    /// The message of one client.
    fn of(&self, number: u32) -> Vec<u8> {
        self.with(transaction(number, self.kind), number)
    }

    /// The message with this transaction and client's number.
    pub(super) fn with(&self, transaction: TransactionId, number: u32) -> Vec<u8> {
        let mut message = self.message.clone();
        message[TRANSACTION_AT..TRANSACTION_AT + 3].copy_from_slice(&transaction.0);
        for at in NUMBER_AT {
            message[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        message
    }
}

/// Link-layer address, of an Ethernet (RFC 9915 section 11.4).
fn duid() -> Result<Duid, Error> {
    Duid::new([0, 3, 0, 1, 2, 0, 0, 0, 0, 0]).map_err(|_| Error::Incomplete("DUID"))
}

/// The number of the client whose message this is.
pub(super) fn number(message: &[u8]) -> Option<u32> {
    message.get(NUMBER_AT[0]..)?.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

/// Whether a client's message asks for an answer by two messages: the option is then its last (RFC 9915 section 21.14).
pub(super) fn is_rapid(message: &[u8]) -> bool {
    message.ends_with(&[0, 14, 0, 0])
}

/// The answer in a message; nothing where it is not for these clients.
fn answer(message: &[u8]) -> Result<Option<Answer>, Error> {
    let Ok(Message { kind, transaction, options }) = Message::parse(message) else { return Ok(None) };
    let (mut number, mut server, mut ia) = (None, None, None);
    for option in options {
        match option {
            DhcpOption::ClientId(duid) => {
                number = duid.as_bytes().last_chunk().map(|octets| u32::from_be_bytes(*octets))
            }
            DhcpOption::ServerId(duid) => server = Some(duid),
            DhcpOption::IaLl(granted) => ia = Some(granted),
            _ => {}
        }
    }
    let (Some(number), Some(server), Some(ia)) = (number, server, ia) else { return Ok(None) };
    let address = ia.blocks().next().and_then(LlAddr::mac).filter(|_| ia.iaid == number);
    let address = address.ok_or(Error::Peer("the switch", "it refuses a flow, or gives it to somebody else"))?;
    Ok(Some(Answer { kind, transaction, number, server, address }))
}

/// The number of a client's exchange: each exchange has one of its own (RFC 9915 section 16.1).
fn transaction(number: u32, kind: MessageType) -> TransactionId {
    let [_, a, b, c] = (number << 1 | u32::from(kind == MessageType::Request)).to_be_bytes();
    TransactionId([a, b, c])
}

/// A link-local address appears a moment after the link.
fn wait_for_an_address(socket: &UdpSocket, to: SocketAddrV6) -> Result<(), Error> {
    let start = Instant::now();
    while let Err(error) = socket.send_to(&[], to) {
        if start.elapsed() > PATIENCE {
            return Err(Error::system("ask the switch")(error));
        }
        thread::sleep(WAIT);
    }
    Ok(())
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
