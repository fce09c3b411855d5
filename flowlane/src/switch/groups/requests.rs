//! What the local interface asks about groups.

use super::{own_addresses, views};
use crate::api::{
    Problem,
    groups::{GroupView, OpenGroup},
};
use crate::switch::{
    Switch, boot_ms, boot_nanos,
    command::Reply,
    leases::{Done, Failure, Task, Transaction},
    ports::Ports,
    views::{address_of, failure, no_such_port},
};
use flowlane_allot::{ClientId, FlowSpec, Lease, LeaseKey, Receiver, Receivers, Refusal, Regroup, Request};
use flowlane_dhcp6::Operation;
use flowlane_wire::{Mac, SlotIndex};
use std::net::IpAddr;

/// A request about groups, with the way back.
pub enum GroupCommand {
    /// Lease the address of a group. Answered when the lease is durable.
    Open(OpenGroup, Reply<GroupView>),
    /// All groups, by slot.
    All(Reply<Vec<GroupView>>),
    /// One group.
    One(Mac, Reply<GroupView>),
    /// Let receivers come, all or none.
    Add(Mac, Vec<String>, Reply<GroupView>),
    /// Let a receiver go.
    Remove(Mac, String, Reply<GroupView>),
    /// End the lease of a group.
    Close(Mac, Reply<GroupView>),
}

impl Switch {
    /// Does what is asked. Who asked may have gone; then the answer is for nobody.
    pub(in crate::switch) fn group_command(&mut self, command: GroupCommand) {
        match command {
            GroupCommand::Open(open, reply) => match self.group_request(open) {
                Ok(request) => self.on_group(Task::Client(Operation::Request(request)), reply),
                Err(problem) => drop(reply.send(Err(problem))),
            },
            GroupCommand::All(reply) => drop(reply.send(Ok(self.all_groups()))),
            GroupCommand::One(mac, reply) => drop(reply.send(self.one_group(mac))),
            GroupCommand::Add(mac, receivers, reply) => {
                let regroup = receivers_of(&receivers, &self.ports).map(Regroup::Add);
                self.regroup(mac, regroup, reply);
            }
            GroupCommand::Remove(mac, receiver, reply) => {
                let regroup = receiver_of(&receiver, &self.ports).map(|receiver| Regroup::Remove(vec![receiver]));
                self.regroup(mac, regroup, reply);
            }
            GroupCommand::Close(mac, reply) => match self.one_group(mac) {
                Ok(view) => {
                    let slot = SlotIndex(view.slot);
                    self.submit_group(Task::End(slot), move |_, _, _| Ok(view), reply);
                }
                Err(problem) => drop(reply.send(Err(problem))),
            },
        }
    }

    fn group_request(&self, open: OpenGroup) -> Result<Request, Problem> {
        let (port, host) = self.ports.named(&open.port).ok_or_else(|| no_such_port(&open.port, &self.ports))?;
        let receivers = Receivers::new(&receivers_of(&open.receivers, &self.ports)?);
        let receivers = receivers.map_err(|error| problem_of(&Failure::Refused(error.into()), &self.ports))?;
        Ok(Request {
            key: group_key(&open),
            port,
            host,
            count: 1,
            lifetime: open.lifetime,
            spec: FlowSpec { rate: open.rate, name: open.name, receivers: Some(receivers), ..FlowSpec::default() },
        })
    }

    fn regroup(&mut self, mac: Mac, regroup: Result<Regroup, Problem>, reply: Reply<GroupView>) {
        let task = regroup.and_then(|regroup| {
            let slot = SlotIndex(self.one_group(mac)?.slot);
            Ok(Task::Regroup(slot, regroup))
        });
        match task {
            Ok(task) => self.on_group(task, reply),
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    fn on_group(&mut self, task: Task, reply: Reply<GroupView>) {
        let view = |lease: Lease, switch: &Self, now| {
            views::group(&lease, &switch.groups, &switch.ports, now).ok_or_else(|| no_such_group(None))
        };
        self.submit_group(task, view, reply);
    }

    fn submit_group(
        &mut self,
        task: Task,
        view: impl FnOnce(Lease, &Self, u64) -> Result<GroupView, Problem> + 'static,
        reply: Reply<GroupView>,
    ) {
        let done: Done = Box::new(move |results, switch, now| {
            let result = results.into_iter().next().unwrap_or(Err(Failure::Store("no result".into())));
            let answer = match result {
                Ok(lease) => view(lease, switch, now),
                Err(failure) => Err(problem_of(&failure, &switch.ports)),
            };
            drop(reply.send(answer));
        });
        self.leases.submit(Transaction { tasks: vec![task], done });
    }

    fn all_groups(&self) -> Vec<GroupView> {
        let now = boot_ms();
        let mut groups: Vec<GroupView> =
            self.groups.of_slot.keys().filter_map(|slot| self.group_at(*slot, now)).collect();
        groups.sort_by_key(|group| group.slot);
        groups
    }

    fn one_group(&self, mac: Mac) -> Result<GroupView, Problem> {
        let view = || {
            let (address, slot) = address_of(mac, &self.tables)?;
            self.group_at(slot, boot_ms()).filter(|group| group.address == address.to_string())
        };
        view().ok_or_else(|| no_such_group(Some(mac)))
    }

    fn group_at(&self, slot: SlotIndex, now: u64) -> Option<GroupView> {
        let lease = self.leases.allotter().lease_at(slot)?;
        views::group(lease, &self.groups, &self.ports, now)
    }
}

fn no_such_group(mac: Option<Mac>) -> Problem {
    let which = mac.map(|mac| format!(" {mac}")).unwrap_or_default();
    let message = format!("there is no group{which}; `flowlane group ls` lists them");
    Problem { code: "no-such-group".into(), message }
}

/// Who asks. A group's key is never that of a plain flow, whatever names and numbers the two have.
fn group_key(open: &OpenGroup) -> LeaseKey {
    let client = open.client.clone().unwrap_or_else(|| boot_nanos().to_string());
    LeaseKey { client: ClientId(format!("group:{client}").into_bytes()), iaid: open.iaid.unwrap_or(0) }
}

fn receivers_of(texts: &[String], ports: &Ports) -> Result<Vec<Receiver>, Problem> {
    texts.iter().map(|text| receiver_of(text, ports)).collect()
}

/// The receiver that a text names: an IP address, or an Ethernet address and a port.
fn receiver_of(text: &str, ports: &Ports) -> Result<Receiver, Problem> {
    let invalid = |message: String| Problem { code: "invalid".into(), message };
    if let Some((mac, interface)) = text.split_once('@') {
        let mac: Mac = mac.parse().map_err(|error| invalid(format!("receiver {text:?}: {error}")))?;
        let (port, _) = ports.named(interface).ok_or_else(|| no_such_port(interface, ports))?;
        if ports.iter().any(|(_, port)| port.link.as_ref().is_some_and(|link| link.mac == mac)) {
            return Err(invalid(format!(
                "receiver {text:?} is an interface of this switch: a group can not contain itself"
            )));
        }
        return Ok(Receiver::Host(mac, port));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        let example =
            "an IP address such as 10.2.0.2, or an Ethernet address with a port such as 02:00:00:00:00:05@eth1";
        invalid(format!("{text:?} is no receiver: name {example}"))
    })?;
    if own_addresses().contains(&address) {
        return Err(invalid(format!("receiver {address} is this switch itself: a group can not contain itself")));
    }
    Ok(Receiver::Ip(address))
}

/// Why something was not done, with the names that ports have for people.
fn problem_of(refused: &Failure, ports: &Ports) -> Problem {
    let problem = failure(refused);
    let Failure::Refused(Refusal::Receivers(error)) = refused else { return problem };
    match error.receiver() {
        Some(receiver) => {
            let message = problem.message.replacen(&receiver.to_string(), &views::receiver(receiver, ports), 1);
            Problem { message, ..problem }
        }
        None => problem,
    }
}
