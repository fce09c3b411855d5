//! A host's side of DHCPv6: flow addresses asked for, held and given back over a real socket.
//!
//! Everything happens in the network namespace of the calling thread. UDP port 546 is taken only while a message waits
//! for its answer, so that several holders share an interface.

use crate::exit;
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{Client, Config, Event, Grant, INFINITY, Status};
use flowlane_host::dhcp6::{Held, Interface, LinkError, PAYLOAD_MAX, duid_of, release as give_back};
use flowlane_wire::Mac;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, ErrorKind},
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
    #[error(transparent)]
    #[diagnostic(code(FL0401), help("`ip link` lists the interfaces; -n NAME enters another namespace"))]
    NoInterface(LinkError),
    /// The interface is down.
    #[error(transparent)]
    #[diagnostic(code(FL0402), help("ip link set dev {} up", .0.interface()))]
    Down(LinkError),
    /// The interface has no link-local address to ask from.
    #[error(transparent)]
    #[diagnostic(
        code(FL0403),
        help(
            "sysctl net.ipv6.conf.{}.disable_ipv6=0 net.ipv6.conf.{}.addr_gen_mode=0, and the link must be up",
            .0.interface(),
            .0.interface()
        )
    )]
    NoLinkLocal(LinkError),
    /// Another DHCPv6 client has the port.
    #[error(transparent)]
    #[diagnostic(code(FL0404), help("`ss -6ulnp 'sport = :546'` shows which; stop it on this interface"))]
    PortTaken(LinkError),
    /// The port is for privileged processes.
    #[error(transparent)]
    #[diagnostic(code(FL0405), help("run as root: sudo flowlane flow ..."))]
    NotPermitted(LinkError),
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
    #[error(transparent)]
    #[diagnostic(code(FL0408), help("`ip -6 address show dev {}` shows the state of the interface", .0.interface()))]
    System(LinkError),
}

impl From<LinkError> for Dhcp6Error {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::NoInterface(_) => Self::NoInterface(error),
            LinkError::Down(_) => Self::Down(error),
            LinkError::NoLinkLocal(_) => Self::NoLinkLocal(error),
            LinkError::PortTaken(_) => Self::PortTaken(error),
            LinkError::NotPermitted(_) => Self::NotPermitted(error),
            LinkError::System { .. } => Self::System(error),
        }
    }
}

impl Dhcp6Error {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoInterface(_) => exit::USAGE,
            Self::NotPermitted(_) => exit::DENIED,
            Self::Refused(_) | Self::PortTaken(_) => exit::CONFLICT,
            Self::NoAnswer { .. } => exit::TIMEOUT,
            Self::Down(_) | Self::NoLinkLocal(_) | Self::System(_) => exit::FAILED,
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
    let interface = Interface::find(&ask.interface, NO_RUN)?;
    let work = async { Holder::new(&interface, ask).first().await };
    run(&interface, work)
}

/// What a holder has to say.
#[derive(Debug)]
pub enum News {
    /// The addresses may be used; also after each renewal.
    Leased(Lease),
    /// The addresses may not be used any more; others are asked for, unless an operator has closed the flow.
    Lost(Lease),
    /// Something went wrong that may pass.
    Trouble(Dhcp6Error),
    /// The addresses were given back.
    Released(Lease),
}

/// Asks for flow addresses and keeps them: renews and rebinds them, and gives them back on SIGINT and SIGTERM.
///
/// # Errors
/// As [`open`] for the first lease, and [`Dhcp6Error::Refused`] where an operator closes the flow at the switch; other
/// troubles are news.
pub fn hold(ask: &Ask, mut tell: impl FnMut(News)) -> Result<(), Dhcp6Error> {
    let interface = Interface::find(&ask.interface, NO_RUN)?;
    let work = async {
        let mut holder = Holder::new(&interface, ask);
        let failed = |source| Dhcp6Error::from(interface.failed(source));
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
    let mut interface = Interface::find(&lease.interface, NO_RUN)?;
    let held = held(lease).zip(duid_of(&lease.client));
    let unreadable = || interface.failed(io::Error::new(ErrorKind::InvalidData, "the stored lease is damaged"));
    let (held, client) = held.ok_or_else(unreadable)?;
    interface.duid = client;
    match run(&interface, async { Ok(give_back(&interface, &[held], patience).await?) })? {
        0 => Ok(()),
        _ => Err(Dhcp6Error::NoAnswer { interface: lease.interface.clone(), timeout: patience }),
    }
}

fn held(lease: &Lease) -> Option<Held> {
    let (server, first) = (duid_of(&lease.server)?, *lease.addresses.first()?);
    Some(Held { server, iaid: lease.iaid, first, count: u32::try_from(lease.addresses.len()).ok()? })
}

/// The leases of this command are its own, and not those of a run.
const NO_RUN: &str = "";

fn run<T>(interface: &Interface, work: impl Future<Output = Result<T, Dhcp6Error>>) -> Result<T, Dhcp6Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| interface.failed(source))?.block_on(work)
}

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
                    Event::Refused(status) | Event::NoWay(status) | Event::Closed(status) => {
                        return Err(Dhcp6Error::Refused(status));
                    }
                    Event::Lost | Event::Released => {}
                }
            }
        };
        timeout(patience, work).await.unwrap_or(Err(no_answer))
    }

    /// Keeps the lease until there is none to be had: to begin with, or because an operator has closed it.
    async fn keep(&mut self, tell: &mut impl FnMut(News)) -> Result<(), Dhcp6Error> {
        tell(News::Leased(self.first().await?));
        loop {
            match self.event().await {
                Ok(Event::Leased(grant)) => tell(News::Leased(self.leased(grant))),
                Ok(Event::Refused(status) | Event::NoWay(status)) => tell(News::Trouble(Dhcp6Error::Refused(status))),
                Ok(Event::Closed(status)) => {
                    self.lease.take().into_iter().for_each(|lease| tell(News::Lost(lease)));
                    return Err(Dhcp6Error::Refused(status));
                }
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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
