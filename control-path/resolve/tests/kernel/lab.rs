//! A switch and hosts, each in a network namespace of its own, removed when the test ends.

use flowlane_resolve::{Event, Events, LinkState, Query, Reason, Resolution, Resolver, Route, StaticRoute};
use flowlane_wire::Mac;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than anything takes that does succeed: a neighbour that is asked in vain fails after 3 s.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("flr-{}-{}-{role}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.sysctl("net.ipv6.conf.default.accept_dad=0");
        namespace.ip("link set lo up");
        namespace
    }

    pub fn ip(&self, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()));
    }

    /// What `ip neigh` says.
    pub fn neighbours(&self) -> String {
        let output = Command::new("ip").args(["-n", &self.name, "neigh"]).output().expect("ip(8)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn until_operational(&self, link: &str) {
        let start = Instant::now();
        let state =
            || Command::new("ip").args(["-n", &self.name, "-o", "link", "show", link]).output().expect("ip(8)").stdout;
        while !String::from_utf8_lossy(&state()).contains(" state UP ") {
            assert!(start.elapsed() < PATIENCE, "{link} is not up");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn ip_batch(&self, lines: &str) {
        let mut ip = Command::new("ip");
        let mut child = ip.args(["-n", &self.name, "-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip(8)");
        child.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("ip(8) reads");
        assert!(child.wait().expect("ip(8) ends").success());
    }

    pub fn sysctl(&self, setting: &str) {
        run(Command::new("ip").args(["netns", "exec", &self.name, "sysctl", "-qw", setting]));
    }

    /// Sends packets that may or may not be answered.
    pub fn ping(&self, address: &str) {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &self.name, "ping", "-c1", "-W1", address]);
        ping.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("ping(8)");
    }

    /// Connects an interface here to one in another namespace, and brings both up; frames can pass then. Gives the far one's address.
    pub fn connect(&self, here: &str, other: &Namespace, there: &str, mac: &str) -> Mac {
        let (name, other_name) = (&self.name, &other.name);
        self.ip(&format!("link add {here} netns {name} type veth peer name {there} address {mac} netns {other_name}"));
        self.ip(&format!("link set {here} up"));
        other.ip(&format!("link set {there} up"));
        self.until_operational(here);
        other.until_operational(there);
        mac.parse().expect("an Ethernet address")
    }

    /// Runs a future on a thread of its own that has entered this namespace.
    pub fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let in_namespace = move || {
            let namespace = File::open(path).expect("the namespace");
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(future)
        };
        std::thread::scope(|scope| match scope.spawn(in_namespace).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !std::thread::panicking() {
            assert!(removed.expect("ip(8)").success(), "{} was not removed", self.name);
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("iproute2 and procps are installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A resolver, and all that it has told.
pub struct Observer {
    pub resolver: Resolver,
    pub events: Events,
    pub links: HashMap<String, LinkState>,
    pub answers: HashMap<Query, Resolution>,
    /// The routes that they rest on.
    pub routes: HashMap<Query, Option<Route>>,
    /// Every answer, in order.
    pub history: Vec<(Query, Resolution)>,
}

impl Observer {
    pub fn start() -> Self {
        Self::with_static_routes(Vec::new())
    }

    pub fn with_static_routes(routes: Vec<StaticRoute>) -> Self {
        let (resolver, events) = Resolver::start(routes).expect("netlink is there");
        Self {
            resolver,
            events,
            links: HashMap::new(),
            answers: HashMap::new(),
            routes: HashMap::new(),
            history: Vec::new(),
        }
    }

    /// The index of an interface, once it was told.
    pub async fn index(&mut self, name: &str) -> u32 {
        self.until(|observer| observer.links.get(name).map(|link| link.ifindex)).await
    }

    pub async fn watch(&mut self, destination: &str, ingress: u32) -> Query {
        let query = Query::new(address(destination), ingress);
        self.resolver.watch(query);
        query
    }

    pub async fn found(&mut self, query: Query, mac: Mac, port: &str, routed: bool) {
        let interface = self.index(port).await;
        self.until(|observer| match observer.answers.get(&query) {
            Some(Resolution::Found(host)) => {
                ((host.mac, host.interface, host.routed) == (mac, interface, routed)).then_some(())
            }
            _ => None,
        })
        .await;
    }

    pub async fn unreachable(&mut self, query: Query, reason: Reason) {
        self.answer(query, Resolution::Unreachable(reason)).await;
    }

    pub async fn answer(&mut self, query: Query, wanted: Resolution) {
        self.until(|observer| (observer.answers.get(&query) == Some(&wanted)).then_some(())).await;
    }

    /// Takes events until they show what is looked for.
    pub async fn until<T>(&mut self, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(event) => self.take(event.expect("the resolver runs")),
                Err(_) => panic!("not seen in time; answers: {:?}, links: {:?}", self.answers, self.links),
            }
        }
    }

    /// Takes the events of the time given.
    pub async fn pass(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            self.take(event.expect("the resolver runs"));
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Link(link) => drop(self.links.insert(link.name.clone(), link)),
            Event::LinkGone { name, .. } => drop(self.links.remove(&name)),
            Event::Resolved { query, resolution, route } => {
                self.routes.insert(query, route);
                self.answers.insert(query, resolution);
                self.history.push((query, resolution));
            }
        }
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}
