//! The handle, and the task behind it that joins the engine to the kernel.

use crate::decide::{Need, Routes};
use crate::engine::{Engine, LookupId, Work};
use crate::netlink::{self, Kernel, Requests};
use crate::tables::Notice;
use crate::{Error, Event, LinkState, Query, StaticRoute};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Requests under way at a time.
const MAX_REQUESTS: usize = 64;
/// Notices taken before the next look at anything else.
const MAX_NOTICES: usize = 4096;
/// Turns without a notice until the queue counts as empty.
const QUIET_ROUNDS: u32 = 3;
/// Turns after which the snapshot is taken even though notices keep coming.
const MAX_ROUNDS: u32 = 10_000;
/// Events that wait for their reader; behind them, a query that changes again is told once.
const MAX_EVENTS: usize = 256;
/// The pause before a failed snapshot is tried again.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

/// Watches queries. The task behind it ends when the handle or the [`Events`] are dropped.
#[derive(Debug)]
pub struct Resolver {
    commands: mpsc::UnboundedSender<Command>,
}

/// The answers.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Event>,
}

#[derive(Debug)]
enum Command {
    Watch(Query),
    Unwatch(Query),
    SetStaticRoutes(Vec<StaticRoute>),
}

impl Resolver {
    /// Starts to follow the kernel's tables, in the calling thread's network namespace.
    ///
    /// Must be called in a tokio runtime; it spawns tasks there.
    ///
    /// # Errors
    /// [`Error::Socket`] if netlink is out of reach. Resolving neighbours takes `CAP_NET_ADMIN`; without it flows to
    /// hosts that the kernel does not know stay pending.
    pub fn start(static_routes: Vec<StaticRoute>) -> Result<(Self, Events), Error> {
        let kernel = Kernel::open()?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (outbox, events) = mpsc::channel(MAX_EVENTS);
        tokio::spawn(run(Engine::new(static_routes), kernel, inbox, outbox));
        Ok((Self { commands }, Events { events }))
    }

    /// Watches a query until [`Resolver::unwatch`] was called as often as this. Each call is followed by an event
    /// with the answer as soon as there is one, [`Pending`](crate::Resolution::Pending) included.
    pub fn watch(&self, query: Query) {
        self.send(Command::Watch(query));
    }

    /// Takes back one [`Resolver::watch`]. Events on their way may still arrive.
    pub fn unwatch(&self, query: Query) {
        self.send(Command::Unwatch(query));
    }

    /// Replaces all static routes: when the configuration changes, or when one of their interfaces was created anew
    /// and has another index.
    pub fn set_static_routes(&self, static_routes: Vec<StaticRoute>) {
        self.send(Command::SetStaticRoutes(static_routes));
    }

    fn send(&self, command: Command) {
        // The task ends before the handle only when nobody reads the events, or the runtime shuts down.
        let _ = self.commands.send(command);
    }
}

impl Events {
    /// The next event. None: the connection to the kernel has ended, or the [`Resolver`] was dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// All interfaces of the calling thread's network namespace.
///
/// # Errors
/// [`Error`], if the kernel can not be asked.
pub async fn list_links() -> Result<Vec<LinkState>, Error> {
    let links = netlink::links().await?;
    Ok(links.into_iter().map(|link| link.state).collect())
}

/// What woke the task up.
enum Input {
    Command(Option<Command>),
    Notice(Option<Notice>),
    Answer(Answer),
    Time,
    Told(bool),
}

/// The end of a request.
enum Answer {
    Route(LookupId, Option<Routes>),
    Neighbour,
}

async fn run(
    mut engine: Engine,
    mut kernel: Kernel,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let mut requests: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
    if !resync(&mut engine, &mut kernel).await {
        return;
    }
    loop {
        engine.settle(Instant::now());
        while requests.len() < MAX_REQUESTS {
            let Some(work) = engine.next_work() else { break };
            requests.push(request(kernel.requests(), work));
        }
        let deadline = engine.deadline();
        let input = tokio::select! {
            command = commands.recv() => Input::Command(command),
            notice = kernel.notice() => Input::Notice(notice),
            Some(answer) = requests.next(), if !requests.is_empty() => Input::Answer(answer),
            () = sleep_until(deadline) => Input::Time,
            told = tell(&mut engine, &events) => Input::Told(told),
        };
        let go_on = match input {
            Input::Command(None) | Input::Notice(None) | Input::Told(false) => false,
            Input::Command(Some(command)) => {
                obey(&mut engine, command);
                while let Ok(command) = commands.try_recv() {
                    obey(&mut engine, command);
                }
                true
            }
            Input::Notice(Some(first)) => take_notices(&mut engine, &mut kernel, first).await,
            Input::Answer(Answer::Route(id, answer)) => {
                engine.looked_up(id, answer, Instant::now());
                true
            }
            Input::Answer(Answer::Neighbour) | Input::Time | Input::Told(true) => true,
        };
        if !go_on {
            return;
        }
    }
}

fn obey(engine: &mut Engine, command: Command) {
    match command {
        Command::Watch(query) => engine.watch(query),
        Command::Unwatch(query) => engine.unwatch(query),
        Command::SetStaticRoutes(routes) => engine.set_statics(routes),
    }
}

fn request(requests: Requests, work: Work) -> BoxFuture<'static, Answer> {
    match work {
        Work::Lookup(id) => requests.look_up(id.address, id.all).map(move |answer| Answer::Route(id, answer)).boxed(),
        Work::Use(key) => requests.resolve(key, Need::Resolve).map(|()| Answer::Neighbour).boxed(),
        Work::Probe(key) => requests.resolve(key, Need::Learn).map(|()| Answer::Neighbour).boxed(),
    }
}

/// Tells one event when its reader has room; waits for ever when there is none. False: there is no reader.
async fn tell(engine: &mut Engine, events: &mpsc::Sender<Event>) -> bool {
    if !engine.has_events() {
        events.closed().await;
        return false;
    }
    let Ok(permit) = events.reserve().await else { return false };
    if let Some(event) = engine.next_event() {
        permit.send(event);
    }
    true
}

/// Takes the notices that have come so far, so that only their outcome is told.
async fn take_notices(engine: &mut Engine, kernel: &mut Kernel, first: Notice) -> bool {
    let mut overrun = first == Notice::Overrun;
    engine.notice(first, Instant::now());
    for _ in 1..MAX_NOTICES {
        let Some(next) = kernel.notice().now_or_never() else { break };
        let Some(notice) = next else { return false };
        overrun |= notice == Notice::Overrun;
        engine.notice(notice, Instant::now());
    }
    if !overrun {
        return true;
    }
    tracing::warn!("netlink notifications were lost; reading all tables (raise net.core.rmem_max if this persists)");
    discard_notices(kernel).await && resync(engine, kernel).await
}

/// Empties the queue: what stands there is older than the snapshot that follows, and must not come after it.
async fn discard_notices(kernel: &mut Kernel) -> bool {
    let mut quiet_rounds = 0;
    for _ in 0..MAX_ROUNDS {
        if quiet_rounds == QUIET_ROUNDS {
            break;
        }
        // The connection's task moves notices from the socket to the queue, a batch at a time.
        tokio::task::yield_now().await;
        quiet_rounds += 1;
        while let Some(next) = kernel.notice().now_or_never() {
            if next.is_none() {
                return false;
            }
            quiet_rounds = 0;
        }
    }
    true
}

/// Reads all tables anew.
async fn resync(engine: &mut Engine, kernel: &mut Kernel) -> bool {
    loop {
        match kernel.requests().snapshot().await {
            Ok(snapshot) => {
                engine.resync(snapshot, Instant::now());
                return true;
            }
            Err(error @ (Error::Socket(_) | Error::Request(rtnetlink::Error::RequestFailed))) => {
                tracing::error!(%error, "the connection to the kernel has ended");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel's tables could not be read; trying again");
                tokio::time::sleep(SNAPSHOT_RETRY).await;
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
