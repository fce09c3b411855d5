//! Whether there is a way: requests that are of use only with one, or that choose one of several, wait until Linux's routes
//! have been asked. That takes a fraction of a millisecond and holds up nobody else.
//!
//! A host whose packets would arrive without a flow, too, asks so: it must not lose them to one that leads nowhere.

use super::{
    Switch,
    hops::interface_name,
    leases::{Done, Failure, Task, Transaction},
    ports::Ports,
};
use flowlane_allot::Refusal;
use flowlane_dhcp6::{Operation, Transaction as Exchange};
use flowlane_ports::control::Datagram;
use flowlane_resolve::{Query, Reason, Resolution, Route};
use flowlane_wire::PortId;
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};
use tokio::sync::OwnedSemaphorePermit;

/// A host's message, on its way to an answer.
pub struct Question {
    /// The port that it came in by.
    pub port: PortId,
    /// The message.
    pub datagram: Datagram,
    /// What it asks for.
    pub exchange: Exchange,
    /// The port's, for as long as the message is not answered.
    pub permit: OwnedSemaphorePermit,
}

/// Questions that wait for Linux's routes.
#[derive(Default)]
pub struct Ways {
    waiting: BTreeMap<u64, Waiting>,
    /// Which questions wait for what.
    queries: HashMap<Query, Vec<u64>>,
    next: u64,
}

struct Waiting {
    question: Question,
    since: Instant,
    /// By operation; none where the routes do not matter.
    ways: Vec<Option<Asked>>,
}

/// What Linux's routes are asked for an operation, and what they have said.
struct Asked {
    query: Query,
    /// Whether the operation is refused without a way.
    needed: bool,
    way: Way,
}

/// What is known of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// There is one, of so many.
    Open(u8),
    /// There is none, and why.
    None(String),
    /// Nobody knows yet, and why.
    Unknown(String),
    /// Linux has not said yet.
    Unasked,
}

impl Way {
    fn is_open_question(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Unasked)
    }
}

/// How long a question waits for a route, and for a neighbour where the answer depends on it: not so long that the client
/// asks a second time (RFC 8415 section 7.6: after 0.9 s at the earliest).
const WITHIN: Duration = Duration::from_millis(700);

impl Ways {
    /// When [`Switch::end_ways`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.values().next().map(|waiting| waiting.since + WITHIN)
    }

    /// Takes out a question that waits for nothing more, and its queries.
    fn take(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        for asked in waiting.ways.iter().flatten() {
            if let Some(numbers) = self.queries.get_mut(&asked.query) {
                numbers.retain(|other| *other != number);
            }
        }
        self.queries.retain(|_, numbers| !numbers.is_empty());
        Some(waiting)
    }
}

impl Switch {
    /// Does what a host asks for, once it is known whether there is a way where that matters.
    pub(super) fn ask(&mut self, question: Question) {
        let operations = question.exchange.operations().iter();
        let ways: Vec<_> = operations.map(|operation| asked(operation, &self.ports)).collect();
        if ways.iter().all(Option::is_none) {
            return self.carry_out(question, &ways);
        }
        let number = self.ways.next;
        self.ways.next += 1;
        for Asked { query, .. } in ways.iter().flatten() {
            self.ways.queries.entry(*query).or_default().push(number);
            self.hops.watch_route(*query);
        }
        self.ways.waiting.insert(number, Waiting { question, since: Instant::now(), ways });
    }

    /// Takes what the resolver says of a query.
    pub(super) fn way_of(&mut self, query: Query, resolution: Resolution, route: Option<Route>) {
        let way = way(query, resolution, route, &self.ports);
        for number in self.ways.queries.get(&query).cloned().unwrap_or_default() {
            let Some(waiting) = self.ways.waiting.get_mut(&number) else { continue };
            for asked in waiting.ways.iter_mut().flatten().filter(|asked| asked.query == query) {
                asked.way = match (&way, route) {
                    // Whoever only chooses a next hop need not wait until it answers.
                    (Way::Unknown(_), Some(route)) if !asked.needed => Way::Open(route.paths),
                    _ => way.clone(),
                };
            }
            if !waiting.ways.iter().flatten().any(|asked| asked.way.is_open_question()) {
                self.end_way(number);
            }
        }
    }

    /// Answers the questions that have waited long enough.
    pub(super) fn end_ways(&mut self, now: Instant) {
        while let Some((number, _)) = self.ways.waiting.first_key_value().filter(|(_, it)| it.since + WITHIN <= now) {
            let number = *number;
            self.end_way(number);
        }
    }

    fn end_way(&mut self, number: u64) {
        let Some(Waiting { question, ways, .. }) = self.ways.take(number) else { return };
        if cannot_be_answered(&ways) {
            // No answer: this machine is busy, and the client asks again before it would after a refusal.
            tracing::debug!("a host's request goes without an answer: Linux has not told its route in time");
            return ways.iter().flatten().for_each(|asked| self.hops.unwatch_route(asked.query));
        }
        self.carry_out(question, &ways);
    }

    /// Changes leases, and answers when that is durable. Routes stay watched until then: a new flow needs them again.
    fn carry_out(&mut self, question: Question, ways: &[Option<Asked>]) {
        let Question { port, datagram, mut exchange, permit } = question;
        let operations = exchange.operations().to_vec();
        let mut tasks = Vec::new();
        for (operation, asked) in operations.into_iter().zip(ways) {
            tasks.push(match asked {
                Some(Asked { needed: true, way: Way::None(reason) | Way::Unknown(reason), .. }) => {
                    Task::Refuse(Refusal::NoWay(reason.clone()))
                }
                _ => Task::Client(operation.clone()),
            });
            if let Some(Asked { way: Way::Open(paths), .. }) = asked {
                exchange.set_paths(operation.key().iaid, *paths);
            }
        }
        let queries: Vec<Query> = ways.iter().flatten().map(|asked| asked.query).collect();
        let done: Done = Box::new(move |results, switch, now| {
            let _until_answered = permit;
            queries.into_iter().for_each(|query| switch.hops.unwatch_route(query));
            if let Some(Failure::Store(problem)) = results.iter().find_map(|result| result.as_ref().err()) {
                // No answer: the client asks again, and may find the store well.
                tracing::warn!("a host's request goes without an answer: {problem}");
                return;
            }
            let results: Vec<_> = results.into_iter().map(|result| result.map_err(Failure::into_refusal)).collect();
            if let (Some(payload), Some(port)) = (exchange.reply(&results, now), switch.ports.get_mut(port)) {
                port.answer(datagram, payload);
            }
        });
        self.leases.submit(Transaction { tasks, done });
    }
}

/// What Linux's routes are to be asked for an operation.
fn asked(operation: &Operation, ports: &Ports) -> Option<Asked> {
    let (Operation::Offer(request) | Operation::Request(request)) = operation else { return None };
    let (destination, path, needed) = (request.spec.destination?, request.spec.path, request.spec.only_with_a_way);
    if !needed && path.is_none() {
        return None;
    }
    let query = Query { destination, ingress: ports.ifindex(request.port)?, path };
    Some(Asked { query, needed, way: Way::Unasked })
}

/// Whether it depends on what Linux has not said.
fn cannot_be_answered(ways: &[Option<Asked>]) -> bool {
    ways.iter().flatten().any(|asked| asked.needed && asked.way == Way::Unasked)
}

fn way(query: Query, resolution: Resolution, route: Option<Route>, ports: &Ports) -> Way {
    match (resolution, route) {
        (Resolution::Found(host), Some(route)) if ports.of_ifindex(host.interface).is_some() => Way::Open(route.paths),
        (Resolution::Found(host), _) => Way::None(no_port(host.interface)),
        (Resolution::Pending, Some(route)) => towards(query, route, ports),
        (Resolution::Unreachable(reason @ Reason::NoAnswer { .. }), Some(route)) => {
            match towards(query, route, ports) {
                none @ Way::None(_) => none,
                // The neighbour may have been away for long: it is being asked now.
                _ => Way::Unknown(reason.to_string()),
            }
        }
        (Resolution::Unreachable(reason), _) => Way::None(reason.to_string()),
        (Resolution::Pending, None) => Way::Unasked,
    }
}

/// Where a route leads whose neighbour is not known yet.
fn towards(query: Query, route: Route, ports: &Ports) -> Way {
    if route.interface == query.ingress {
        return Way::None(Reason::SamePort.to_string());
    }
    if ports.of_ifindex(route.interface).is_some() {
        return Way::Open(route.paths);
    }
    let mut links = ports.iter().filter_map(|(_, port)| port.link.as_ref());
    match links.any(|link| link.master == Some(route.interface)) {
        // It may be behind the port that asks.
        true => Way::Unknown("it is not known behind which port of its bridge the next host is".into()),
        false => Way::None(no_port(route.interface)),
    }
}

fn no_port(interface: u32) -> String {
    format!("the route leaves by {}, which is no port of this switch", interface_name(interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_is_given_where_it_depends_on_what_linux_has_not_said() {
        let query = Query::new("10.2.0.2".parse().expect("an address"), 1);
        let asked = |needed, way| Some(Asked { query, needed, way });
        for (ways, silent) in [
            (vec![asked(true, Way::Unasked)], true),
            (vec![None, asked(true, Way::Open(1)), asked(true, Way::Unasked)], true),
            (vec![asked(false, Way::Unasked)], false),
            (vec![asked(true, Way::Unknown("it does not answer".into()))], false),
            (vec![asked(true, Way::None("no route".into())), None], false),
        ] {
            assert_eq!(cannot_be_answered(&ways), silent);
        }
    }
}
