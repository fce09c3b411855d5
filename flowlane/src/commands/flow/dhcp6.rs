//! A host's side of DHCPv6: flow addresses asked for, held and given back over a real socket.
//!
//! Everything happens in the network namespace of the calling thread. UDP port 546 is taken only while a message waits
//! for its answer, so that several holders share an interface.

use crate::exit;
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{
    ALL_SERVERS, CLIENT_PORT, Client, Config, DhcpOption, Duid, Event, Grant, INFINITY, IaLl, LlAddr, Message,
    MessageType, SERVER_PORT, Status, TransactionId,
};
use flowlane_wire::Mac;
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::{InterfaceFlags, if_nametoindex},
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv6Addr, SocketAddrV6},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::UdpSocket,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The interface to ask on.
    pub interface: String,
    /// How many addresses. The switch may give fewer.
    pub count: u32,
    /// What for.
    pub spec: FlowSpec,
    /// The number of the lease among those of this host.
    pub iaid: u32,
    /// How long to wait for an answer.
    pub timeout: Duration,
}

/// Flow addresses that this host was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The flow addresses, consecutive.
    pub addresses: Vec<Mac>,
    /// The interface that they were asked for on.
    pub interface: String,
    /// The host's DUID, in hexadecimal.
    pub client: String,
    /// The switch's DUID, in hexadecimal.
    pub server: String,
    /// The number of the lease.
    pub iaid: u32,
    /// When it was granted or renewed, in seconds since 1970.
    pub granted: u64,
    /// Seconds from then until it should be renewed; nothing for never.
    pub renew_after: Option<u32>,
    /// Seconds from then until it ends; nothing for never.
    pub lifetime: Option<u32>,
    /// What for, as it was granted.
    #[serde(flatten)]
    pub spec: FlowSpec,
}

impl Lease {
    /// Whether its time has passed.
    pub fn is_over(&self) -> bool {
        self.lifetime.is_some_and(|lifetime| self.granted.saturating_add(lifetime.into()) <= now())
    }
}

/// Why there is no flow address.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Dhcp6Error {
    /// The interface does not exist.
    #[error("there is no interface {0} in this network namespace")]
    #[diagnostic(code(FL0401), help("`ip link` lists the interfaces; -n NAME enters another namespace"))]
    NoInterface(String),
    /// The interface is down.
    #[error("interface {0} is down")]
    #[diagnostic(code(FL0402), help("ip link set dev {0} up"))]
    Down(String),
    /// The interface has no link-local address to ask from (RFC 9915 section 17).
    #[error("interface {0} has no IPv6 link-local address that can be used, and DHCPv6 asks from one")]
    #[diagnostic(
        code(FL0403),
        help("sysctl net.ipv6.conf.{0}.disable_ipv6=0 net.ipv6.conf.{0}.addr_gen_mode=0, and the link must be up")
    )]
    NoLinkLocal(String),
    /// Another DHCPv6 client has the port.
    #[error("UDP port {CLIENT_PORT} on {0} is taken by another DHCPv6 client")]
    #[diagnostic(code(FL0404), help("`ss -6ulnp 'sport = :546'` shows which; stop it on this interface"))]
    PortTaken(String),
    /// The port is for privileged processes.
    #[error("DHCPv6 asks from UDP port {CLIENT_PORT}, which this user may not take")]
    #[diagnostic(code(FL0405), help("run as root: sudo flowlane flow ..."))]
    NotPermitted,
    /// Nobody answered.
    #[error("no switch answered on {interface} within {} s", timeout.as_secs_f32())]
    #[diagnostic(
        code(FL0406),
        help("is {interface} connected to a port of a switch? `flowlane status` there lists its ports")
    )]
    NoAnswer {
        /// Where.
        interface: String,
        /// How long.
        timeout: Duration,
    },
    /// The switch said no.
    #[error("the switch refuses: {}", text_of(.0))]
    #[diagnostic(code(FL0407), help("`flowlane flow ls` at the switch shows who holds addresses"))]
    Refused(Status),
    /// Another failure of the system.
    #[error("DHCPv6 on {interface} failed")]
    #[diagnostic(code(FL0408), help("`ip -6 address show dev {interface}` shows the state of the interface"))]
    System {
        /// Where.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Dhcp6Error {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoInterface(_) => exit::USAGE,
            Self::NotPermitted => exit::DENIED,
            Self::Refused(_) | Self::PortTaken(_) => exit::CONFLICT,
            Self::NoAnswer { .. } => exit::TIMEOUT,
            Self::Down(_) | Self::NoLinkLocal(_) | Self::System { .. } => exit::FAILED,
        }
    }
}

fn text_of(status: &Status) -> String {
    if status.text.is_empty() { format!("{:?}", status.code) } else { status.text.clone() }
}

/// Asks for flow addresses. Nobody renews them: they end with their lifetime, or by [`release`].
///
/// # Errors
/// [`Dhcp6Error`]: the first refusal, or no answer within `ask.timeout`.
pub fn open(ask: &Ask) -> Result<Lease, Dhcp6Error> {
    let interface = Interface::find(&ask.interface)?;
    let work = async { Holder::new(&interface, ask).first().await };
    run(&interface, work)
}

/// What a holder has to say.
#[derive(Debug)]
pub enum News {
    /// The addresses may be used; also after each renewal.
    Leased(Lease),
    /// The addresses may not be used any more; others are asked for.
    Lost(Lease),
    /// Something went wrong that may pass.
    Trouble(Dhcp6Error),
    /// The addresses were given back.
    Released(Lease),
}

/// Asks for flow addresses and keeps them: renews and rebinds them, and gives them back on SIGINT and SIGTERM.
///
/// # Errors
/// As [`open`] for the first lease; later troubles are news.
pub fn hold(ask: &Ask, mut tell: impl FnMut(News)) -> Result<(), Dhcp6Error> {
    let interface = Interface::find(&ask.interface)?;
    let work = async {
        let mut holder = Holder::new(&interface, ask);
        let failed = |source| interface.failed(source);
        let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
        tokio::select! {
            ended = holder.keep(&mut tell) => ended?,
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        holder.give_back(&mut tell).await
    };
    run(&interface, work)
}

/// Gives flow addresses back (RFC 9915 section 18.2.7). Stop using them first.
///
/// # Errors
/// [`Dhcp6Error`]: no answer within `patience`. The lease ends by itself then.
pub fn release(lease: &Lease, patience: Duration) -> Result<(), Dhcp6Error> {
    let interface = Interface::find(&lease.interface)?;
    let unreadable = || interface.failed(io::Error::new(ErrorKind::InvalidData, "the stored lease is damaged"));
    let message = release_message(lease).ok_or_else(unreadable)?;
    let payload = message.emit().map_err(|_| unreadable())?;
    let no_answer = || Dhcp6Error::NoAnswer { interface: lease.interface.clone(), timeout: patience };
    run(&interface, async {
        let work = async {
            let socket = interface.bind(patience.mul_f32(0.8)).await?;
            // REL_TIMEOUT and REL_MAX_RC of RFC 9915 section 7.6.
            for wait in [1, 2, 4, 8] {
                interface.send(&socket, &payload).await?;
                if timeout(Duration::from_secs(wait), answered(&socket, &message)).await.is_ok() {
                    return Ok(());
                }
            }
            Err(no_answer())
        };
        timeout(patience, work).await.unwrap_or_else(|_| Err(no_answer()))
    })
}

fn run<T>(interface: &Interface, work: impl Future<Output = Result<T, Dhcp6Error>>) -> Result<T, Dhcp6Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| interface.failed(source))?.block_on(work)
}

fn release_message(lease: &Lease) -> Option<Message> {
    let count = u32::try_from(lease.addresses.len()).ok()?;
    let block = LlAddr::ethernet(*lease.addresses.first()?, count - 1, 0);
    let ia = IaLl { iaid: lease.iaid, t1: 0, t2: 0, options: vec![DhcpOption::LlAddr(block)] };
    let [_, id @ ..] = fastrand::u32(..).to_be_bytes();
    Some(Message {
        kind: MessageType::Release,
        transaction: TransactionId(id),
        options: vec![
            DhcpOption::ClientId(duid_of(&lease.client)?),
            DhcpOption::ServerId(duid_of(&lease.server)?),
            DhcpOption::ElapsedTime(0),
            DhcpOption::IaLl(ia),
        ],
    })
}

/// Waits until the server has answered. Whatever the status, the lease is over (RFC 9915 section 18.2.10.2).
async fn answered(socket: &UdpSocket, asked: &Message) {
    let identifiers = || asked.options.iter().take(2);
    let is_ours = |answer: &Message| {
        answer.kind == MessageType::Reply
            && answer.transaction == asked.transaction
            && identifiers().all(|identifier| answer.options.contains(identifier))
    };
    let mut buffer = vec![0; PAYLOAD_MAX];
    loop {
        // An error of an earlier datagram (ICMPv6) is no answer either.
        let Ok((len, _)) = socket.recv_from(&mut buffer).await else { continue };
        if buffer.get(..len).is_some_and(|payload| Message::parse(payload).is_ok_and(|answer| is_ours(&answer))) {
            return;
        }
    }
}

/// The longest UDP payload.
const PAYLOAD_MAX: usize = 65_527;

/// The client with its clock and its socket.
struct Holder<'a> {
    interface: &'a Interface,
    timeout: Duration,
    iaid: u32,
    client: Client,
    started: Instant,
    socket: Option<UdpSocket>,
    lease: Option<Lease>,
}

impl<'a> Holder<'a> {
    fn new(interface: &'a Interface, ask: &Ask) -> Self {
        let config = Config {
            duid: interface.duid.clone(),
            iaid: ask.iaid,
            count: ask.count,
            spec: ask.spec.clone(),
            rapid_commit: true,
            seed: fastrand::u64(..),
        };
        Self {
            interface,
            timeout: ask.timeout,
            iaid: ask.iaid,
            client: Client::new(config, 0),
            started: Instant::now(),
            socket: None,
            lease: None,
        }
    }

    /// The first lease.
    async fn first(&mut self) -> Result<Lease, Dhcp6Error> {
        let (patience, no_answer) = (self.timeout, self.no_answer());
        let work = async {
            loop {
                match self.event().await? {
                    Event::Leased(grant) => return Ok(self.leased(grant)),
                    Event::Refused(status) | Event::NoWay(status) => return Err(Dhcp6Error::Refused(status)),
                    Event::Lost | Event::Released => {}
                }
            }
        };
        timeout(patience, work).await.unwrap_or(Err(no_answer))
    }

    /// Keeps the lease, for ever; returns only where there is none to begin with.
    async fn keep(&mut self, tell: &mut impl FnMut(News)) -> Result<(), Dhcp6Error> {
        tell(News::Leased(self.first().await?));
        loop {
            match self.event().await {
                Ok(Event::Leased(grant)) => tell(News::Leased(self.leased(grant))),
                Ok(Event::Refused(status) | Event::NoWay(status)) => tell(News::Trouble(Dhcp6Error::Refused(status))),
                Ok(Event::Lost) => self.lease.take().into_iter().for_each(|lease| tell(News::Lost(lease))),
                Ok(Event::Released) => return Ok(()),
                Err(error) => {
                    tell(News::Trouble(error));
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn give_back(&mut self, tell: &mut impl FnMut(News)) -> Result<(), Dhcp6Error> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        self.client.release(self.now());
        let (patience, no_answer) = (self.timeout, self.no_answer());
        let work = async {
            while self.event().await? != Event::Released {}
            Ok(())
        };
        let ended = timeout(patience, work).await;
        tell(News::Released(lease));
        ended.unwrap_or(Err(no_answer))
    }

    fn no_answer(&self) -> Dhcp6Error {
        Dhcp6Error::NoAnswer { interface: self.interface.name.clone(), timeout: self.timeout }
    }

    /// What happens next. The socket is given up with it: nothing is waited for then.
    async fn event(&mut self) -> Result<Event, Dhcp6Error> {
        loop {
            while let Some(payload) = self.client.poll_transmit(self.now()) {
                self.send(&payload).await?;
            }
            if let Some(event) = self.client.event() {
                self.socket = None;
                return Ok(event);
            }
            let due = self.client.poll_timeout().unwrap_or(u64::MAX);
            let wait = Duration::from_millis(due.saturating_sub(self.now()));
            tokio::select! {
                () = sleep(wait) => {}
                payload = receive(self.socket.as_ref()) => {
                    if let Err(reason) = self.client.handle(&payload, self.now()) {
                        tracing::debug!(%reason, interface = self.interface.name, "DHCPv6 message not used");
                    }
                }
            }
        }
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), Dhcp6Error> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.interface.bind(self.timeout.mul_f32(0.8)).await?,
        };
        self.interface.send(&socket, payload).await?;
        self.socket = Some(socket);
        Ok(())
    }

    fn leased(&mut self, grant: Grant) -> Lease {
        let finite = |seconds: u32| (seconds != INFINITY).then_some(seconds);
        let lease = Lease {
            addresses: grant.addresses,
            interface: self.interface.name.clone(),
            client: self.interface.duid.to_string(),
            server: grant.server.to_string(),
            iaid: self.iaid,
            granted: now(),
            renew_after: finite(grant.t1),
            lifetime: finite(grant.valid),
            spec: grant.spec,
        };
        self.lease.insert(lease).clone()
    }

    /// Milliseconds of the client's clock.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// The next datagram; without a socket there is none, ever.
async fn receive(socket: Option<&UdpSocket>) -> Vec<u8> {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut buffer = vec![0; PAYLOAD_MAX];
    loop {
        // An error of an earlier datagram (ICMPv6) is no answer.
        if let Ok((len, _)) = socket.recv_from(&mut buffer).await {
            buffer.truncate(len);
            return buffer;
        }
    }
}

/// An interface to ask on.
struct Interface {
    name: String,
    index: u32,
    duid: Duid,
}

impl Interface {
    fn find(name: &str) -> Result<Self, Dhcp6Error> {
        let index = if_nametoindex(name).map_err(|_| Dhcp6Error::NoInterface(name.to_owned()))?;
        let mac = addresses_of(name).find_map(|entry| entry.address?.as_link_addr()?.addr()).unwrap_or_default();
        // A VLAN has its parent's address, and interfaces of different namespaces have the same name.
        let duid = Duid::from_machine(machine_id(), format!("{name}/{}", Mac(mac)).as_bytes());
        Ok(Self { name: name.to_owned(), index, duid })
    }

    /// Takes the port on the interface. Waits for an address that is still being checked (RFC 4862 section 5.4), and for
    /// another holder that waits for its answer.
    async fn bind(&self, patience: Duration) -> Result<UdpSocket, Dhcp6Error> {
        let give_up = Instant::now() + patience;
        loop {
            let error = match self.try_bind() {
                Ok(socket) => return Ok(socket),
                Err(error @ (Dhcp6Error::NoLinkLocal(_) | Dhcp6Error::PortTaken(_))) => error,
                Err(error) => return Err(error),
            };
            if Instant::now() >= give_up {
                return Err(error);
            }
            sleep(Duration::from_millis(20 + fastrand::u64(..60))).await;
        }
    }

    fn try_bind(&self) -> Result<UdpSocket, Dhcp6Error> {
        let name = || self.name.clone();
        if !addresses_of(&self.name).any(|entry| entry.flags.contains(InterfaceFlags::IFF_UP)) {
            return Err(Dhcp6Error::Down(name()));
        }
        let address = link_local(&self.name).ok_or_else(|| Dhcp6Error::NoLinkLocal(name()))?;
        // A socket on a link-local address is bound to its interface.
        let socket = std::net::UdpSocket::bind(SocketAddrV6::new(address, CLIENT_PORT, 0, self.index));
        let socket = socket.map_err(|error| match error.kind() {
            ErrorKind::AddrNotAvailable => Dhcp6Error::NoLinkLocal(name()),
            ErrorKind::AddrInUse => Dhcp6Error::PortTaken(name()),
            ErrorKind::PermissionDenied => Dhcp6Error::NotPermitted,
            _ => self.failed(error),
        })?;
        socket.set_nonblocking(true).and_then(|()| UdpSocket::from_std(socket)).map_err(|error| self.failed(error))
    }

    async fn send(&self, socket: &UdpSocket, payload: &[u8]) -> Result<(), Dhcp6Error> {
        let everyone = SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, self.index);
        match socket.send_to(payload, everyone).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NetworkDown => Err(Dhcp6Error::Down(self.name.clone())),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, source: io::Error) -> Dhcp6Error {
        Dhcp6Error::System { interface: self.name.clone(), source }
    }
}

fn addresses_of(interface: &str) -> impl Iterator<Item = InterfaceAddress> {
    getifaddrs().into_iter().flatten().filter(move |entry| entry.interface_name == interface)
}

fn link_local(interface: &str) -> Option<Ipv6Addr> {
    let addresses = addresses_of(interface).filter_map(|entry| Some(entry.address?.as_sockaddr_in6()?.ip()));
    addresses.into_iter().find(Ipv6Addr::is_unicast_link_local)
}

/// What tells this machine from others: machine-id(5), or where there is none, the number of this boot.
fn machine_id() -> [u8; 16] {
    let read = |path: &str| {
        let text = fs::read_to_string(Path::new(path)).ok()?;
        octets_of(&text.trim().replace('-', ""))?.try_into().ok()
    };
    read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

fn duid_of(text: &str) -> Option<Duid> {
    Duid::new(octets_of(text)?).ok()
}

/// The octets of a text of pairs of hexadecimal digits.
fn octets_of(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let octets = pairs.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok());
    octets.collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
