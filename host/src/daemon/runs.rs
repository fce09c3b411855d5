//! Runs: how they begin, go on under a successor, and end.

use super::{Daemon, LAST_RUN, UNWRITTEN_RUNS};
use crate::{
    boot_millis,
    cgroup::{self, Cgroup},
    command::{Command, Peer, Reply, Subject},
    dhcp6::duid_of,
    engine::{Failure, Lease, Path, RunSpec},
    guard,
    mechanism::MechanismError,
    process::Process,
    state::{DestinationRecord, RunRecord, State},
};
use flowlane_allot::Field;
use flowlane_client::protocol::{self, Problem, ProblemCode, RunRequest, RunView, Wishes};
use flowlane_tables::RunKey;
use flowlane_wire::Mac;
use std::{fmt::Display, fs, net::IpAddr};

/// A run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) peer: Peer,
    /// The process that is about to be moved into its cgroup.
    pub(super) process: Option<Process>,
    pub(super) scope: Scope,
    pub(super) wishes: Wishes,
}

/// Whose packets it is about.
#[derive(Debug)]
pub(super) enum Scope {
    /// A program's, in the cgroup made for it.
    Program(Cgroup),
    /// Those of a cgroup of others.
    Cgroup(Cgroup),
    /// All of the network namespace.
    Namespace,
    /// Those of the socket with this cookie.
    Socket(u64),
}

impl Scope {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Program(_) => "program",
            Self::Cgroup(_) => "cgroup",
            Self::Namespace => "namespace",
            Self::Socket(_) => "socket",
        }
    }

    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        match self {
            Self::Program(cgroup) | Self::Cgroup(cgroup) => Some(cgroup),
            Self::Namespace | Self::Socket(_) => None,
        }
    }
}

impl Daemon {
    pub(super) async fn command(&mut self, command: Command) {
        match command {
            Command::Run(process, request, reply) => {
                let number = self.next_number();
                let run = self.quota(process.user()).and_then(|()| Run::of_program(number, process, request));
                self.begin(number, run, reply).await;
            }
            Command::Begin(peer, subject, wishes, reply) => {
                let number = self.next_number();
                let (name, scope) = self.subject(&peer, subject, &wishes);
                let run = self.quota(peer.user).and(scope);
                let run = run.map(|scope| Run { name, peer, process: None, scope, wishes });
                self.begin(number, run, reply).await;
            }
            Command::End(run) => self.end(run),
            // Whoever asked may be gone.
            Command::Status(user, reply) => drop(reply.send(Ok(self.status(user)))),
            Command::Close(user, address, reply) => drop(reply.send(self.close(user, address))),
        }
    }

    fn next_number(&mut self) -> u32 {
        let number = self.next_run;
        self.next_run = self.next_run.checked_add(1).unwrap_or(1);
        number
    }

    fn subject(&self, peer: &Peer, subject: Subject, wishes: &Wishes) -> (String, Result<Scope, Problem>) {
        match subject {
            Subject::Cgroup(path) => {
                let last = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let opened = Cgroup::open(&path).map_err(system);
                let scope = opened.and_then(|cgroup| match self.runs.values().any(|run| run.is_of(&cgroup)) {
                    true => Err(problem(ProblemCode::Invalid, format!("{} is a run already", path.display()))),
                    false => Ok(Scope::Cgroup(cgroup)),
                });
                (name(wishes, &last, None), scope)
            }
            Subject::Namespace => {
                let taken = self.runs.values().any(|run| matches!(run.scope, Scope::Namespace));
                let refusal = || problem(ProblemCode::Invalid, "this network namespace is a run already");
                let scope = if taken { Err(refusal()) } else { Ok(Scope::Namespace) };
                (name(wishes, "namespace", None), scope)
            }
            Subject::Socket(cookie) => {
                let program = fs::read_to_string(format!("/proc/{}/comm", peer.pid)).unwrap_or_default();
                let taken = self.runs.values().any(|run| run.cookie() == Some(cookie));
                let refusal = || problem(ProblemCode::Invalid, "this socket is a run already");
                let scope = if taken { Err(refusal()) } else { Ok(Scope::Socket(cookie)) };
                (name(wishes, program.trim(), Some(peer.pid)), scope)
            }
        }
    }

    /// Whether a user may have one more run; root always may.
    fn quota(&self, user: u32) -> Result<(), Problem> {
        let (most, own) = (self.options.max_runs, self.runs.values().filter(|run| run.peer.user == user).count());
        if user == 0 || own < most {
            return Ok(());
        }
        Err(problem(ProblemCode::Denied, format!("user {user} has {own} runs already; `max_runs` allows {most}")))
    }

    /// Begins a run; the answer is given when it has begun.
    async fn begin(&mut self, number: u32, run: Result<Run, Problem>, reply: Reply<RunView>) {
        let run = match run {
            Ok(run) => run,
            Err(problem) => return drop(reply.send(Err(problem))),
        };
        if let Err(error) = self.add(number, &run) {
            self.dismantle(run);
            return drop(reply.send(Err(system(error))));
        }
        let (spec, mut keys) = (run.spec(), Vec::new());
        for destination in &run.wishes.to {
            // A destination without a route gets its flow when there is one, with its first packet.
            if let Some(ifindex) = self.interfaces.route(*destination).await {
                keys.push(key(*destination, ifindex, number));
            }
        }
        let known: Vec<u32> = self.interfaces.known().map(|link| link.ifindex).collect();
        keys.retain(|key| known.contains(&key.ifindex) && self.mechanism.want(key, run.wishes.require).is_ok());
        self.runs.insert(number, run);
        self.beginning.insert(number, reply);
        self.end = None;
        self.engine.begin(number, spec, keys, boot_millis());
        self.change();
    }

    /// Has the packets looked at.
    fn add(&mut self, number: u32, run: &Run) -> Result<(), MechanismError> {
        let required = run.wishes.require;
        match &run.scope {
            Scope::Program(cgroup) | Scope::Cgroup(cgroup) => self.mechanism.add_cgroup(cgroup, number, required),
            Scope::Namespace => self.mechanism.set_namespace(Some((number, required))),
            Scope::Socket(cookie) => self.mechanism.add_socket(*cookie, number, required),
        }
    }

    /// A run can begin: its process is let into its cgroup, and told so.
    pub(super) fn ready(&mut self, number: u32) {
        let Some(reply) = self.beginning.remove(&number) else { return };
        let Some(run) = self.runs.get_mut(&number) else { return };
        let admitted = match (&run.scope, run.process.take()) {
            (Scope::Program(cgroup), Some(process)) => {
                cgroup.admit_process(&process).and_then(|()| self.emptied.watch(number, cgroup)).map_err(system)
            }
            _ => Ok(()),
        };
        // The programs must be there before the answer is.
        self.attach();
        let admitted = admitted.and_then(|()| self.can_keep_to_flows(number));
        let told = match admitted.and_then(|()| self.run_view(number).ok_or_else(|| system("the run has ended"))) {
            Ok(view) => reply.send(Ok(view)).is_ok(),
            Err(problem) => {
                let _ = reply.send(Err(problem));
                false
            }
        };
        if !told {
            self.end(number);
        }
    }

    /// A run that requires flows does not begin where packets could leave without.
    fn can_keep_to_flows(&self, number: u32) -> Result<(), Problem> {
        let required = self.runs.get(&number).is_some_and(|run| run.wishes.require);
        match self.unattached.values().next().filter(|_| required) {
            Some((_, why)) => Err(system(why)),
            None => Ok(()),
        }
    }

    /// A run that requires flows can not begin.
    pub(super) fn failed(&mut self, number: u32, failure: Failure) {
        if let Some(reply) = self.beginning.remove(&number) {
            let _ = reply.send(Err(match failure {
                Failure::NoService => {
                    problem(ProblemCode::NoService, "no switch answers on any interface of this host")
                }
                Failure::Refused(to, reason) => {
                    problem(ProblemCode::Refused, format!("the network gives no flow to {to}: {reason}"))
                }
            }));
        }
        self.end(number);
    }

    /// A run is over.
    pub(super) fn end(&mut self, number: u32) {
        let Some(run) = self.runs.remove(&number) else { return };
        self.beginning.remove(&number);
        self.emptied.forget(number);
        self.dismantle(run);
        self.engine.end(number, boot_millis());
        if self.options.transient && self.runs.is_empty() {
            self.end = Some(boot_millis() + LAST_RUN);
        }
        self.change();
    }

    fn dismantle(&mut self, run: Run) {
        let removed = match &run.scope {
            Scope::Program(cgroup) | Scope::Cgroup(cgroup) => self.mechanism.remove_cgroup(cgroup.id()),
            Scope::Namespace => self.mechanism.set_namespace(None),
            Scope::Socket(cookie) => self.mechanism.remove_socket(*cookie),
        };
        super::report(removed, "a run could not be removed from the kernel");
        if let Scope::Program(cgroup) = run.scope
            && let Err(error) = cgroup.dissolve()
        {
            tracing::warn!(%error, "a run's cgroup could not be removed");
        }
    }

    /// Goes on where a predecessor was. What stood for a connection has ended with it.
    pub(super) fn adopt(&mut self, state: State, now: u64) {
        let links: Vec<_> = self.interfaces.known().cloned().collect();
        for ifindex in self.mechanism.attached() {
            match links.iter().any(|link| link.ifindex == ifindex) {
                // Its address is looked at again.
                true => drop(self.attached.insert(ifindex, Mac::default())),
                false => self.mechanism.interface_gone(ifindex),
            }
        }
        if state.next_run > 0 {
            self.next_run = state.next_run.checked_add(UNWRITTEN_RUNS).unwrap_or(1);
        }
        let mut ended = State { destinations: state.destinations, ..State::default() };
        for record in state.runs {
            self.adopt_run(record);
        }
        super::report(self.mechanism.adopted(), "packets of runs that go on leave as they are");
        let there = |record: &DestinationRecord| {
            self.runs.contains_key(&record.run) && links.iter().any(|link| link.ifindex == record.ifindex)
        };
        let goes_on: Vec<_> = ended.destinations.extract_if(.., |record| there(record)).collect();
        for record in goes_on {
            let key = key(record.destination, record.ifindex, record.run);
            self.engine.adopt_destination(key, record.closed.clone(), paths_of(&record), now);
        }
        for link in &links {
            self.link(link, now);
        }
        for key in self.mechanism.destinations() {
            if self.engine.destination(&key).is_none() {
                self.engine.wanted(key, now);
            }
        }
        if !ended.destinations.is_empty() {
            tokio::spawn(async move { guard::give_back(&ended).await });
        }
    }

    /// Removes the cgroups that a predecessor has made and could not write of any more.
    pub(super) fn remove_strays(&self) {
        for stray in cgroup::stray(self.directory.namespace()) {
            if self.runs.values().any(|run| run.is_of(&stray)) {
                continue;
            }
            if let Err(error) = stray.dissolve() {
                tracing::warn!(%error, "a cgroup that was left could not be removed");
            }
        }
    }

    fn adopt_run(&mut self, record: RunRecord) {
        let peer = Peer { pid: record.pid, user: record.user };
        let opened = record.cgroup.as_deref().map(Cgroup::open);
        if let (Some(Err(_)), Some(id)) = (&opened, record.cgroup_id) {
            super::report(
                self.mechanism.remove_cgroup(id),
                "a cgroup that is gone could not be removed from the kernel",
            );
        }
        let scope = match (record.kind.as_str(), opened, record.cookie) {
            ("program", Some(Ok(cgroup)), _) => Scope::Program(cgroup),
            ("cgroup", Some(Ok(cgroup)), _) => Scope::Cgroup(cgroup),
            ("namespace", ..) => Scope::Namespace,
            ("socket", _, Some(cookie)) => Scope::Socket(cookie),
            _ => return,
        };
        let run = Run { name: record.name, peer, process: None, scope, wishes: record.wishes };
        let goes_on = match &run.scope {
            Scope::Program(cgroup) => !cgroup.is_empty().unwrap_or(true),
            _ => false,
        };
        if !goes_on || self.add(record.run, &run).is_err() {
            return self.dismantle(run);
        }
        if let Some(Err(error)) = run.scope.cgroup().map(|cgroup| self.emptied.watch(record.run, cgroup)) {
            tracing::warn!(%error, run = record.run, "the end of a run will not be noticed");
        }
        self.engine.adopt(record.run, run.spec());
        self.runs.insert(record.run, run);
        self.end = None;
    }
}

impl Run {
    /// With a cgroup of its own, which the program is not in yet.
    fn of_program(number: u32, process: Process, request: RunRequest) -> Result<Self, Problem> {
        let peer = Peer { pid: process.pid(), user: process.user() };
        let name = name(&request.wishes, program(&request.command), Some(peer.pid));
        let scope = Cgroup::make(peer.pid, number).map(Scope::Program).map_err(system)?;
        Ok(Self { name, peer, process: Some(process), scope, wishes: request.wishes })
    }

    fn spec(&self) -> RunSpec {
        RunSpec {
            name: self.name.clone(),
            rate: self.wishes.rate,
            field: match self.wishes.field {
                protocol::Field::Destination => Field::Destination,
                protocol::Field::Source => Field::Source,
            },
            paths: self.wishes.paths,
            require: self.wishes.require,
        }
    }

    fn is_of(&self, cgroup: &Cgroup) -> bool {
        self.scope.cgroup().is_some_and(|own| own.id() == cgroup.id())
    }

    pub(super) fn cookie(&self) -> Option<u64> {
        if let Scope::Socket(cookie) = self.scope { Some(cookie) } else { None }
    }
}

fn paths_of(record: &DestinationRecord) -> Vec<Path> {
    let lease = |granted: &crate::state::GrantRecord| Lease {
        address: granted.address,
        until: granted.until,
        rate: granted.rate,
        server: granted.server.as_deref().and_then(duid_of),
    };
    let path = |of: &crate::state::LeaseRecord| Path::adopted(of.iaid, of.path, of.granted.as_ref().map(lease));
    record.leases.iter().map(path).collect()
}

fn key(destination: IpAddr, ifindex: u32, run: u32) -> RunKey {
    let destination = match destination {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    RunKey { destination, ifindex, run }
}

/// The name of a run's flows: `iperf3[4711]`.
fn name(wishes: &Wishes, otherwise: &str, pid: Option<i32>) -> String {
    /// So that the process number has room: a flow's name has 64 octets.
    const MOST: usize = 48;
    let name = wishes.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(otherwise);
    let name = &name[..name.floor_char_boundary(MOST)];
    pid.map_or_else(|| name.to_owned(), |pid| format!("{name}[{pid}]"))
}

/// The program of a command line, without its directory.
fn program(command: &str) -> &str {
    let first = command.split_whitespace().next().unwrap_or_default();
    first.rsplit('/').next().unwrap_or_default()
}

pub(super) fn problem(code: ProblemCode, message: impl Into<String>) -> Problem {
    Problem { code, message: message.into() }
}

fn system(error: impl Display) -> Problem {
    problem(ProblemCode::System, error.to_string())
}
