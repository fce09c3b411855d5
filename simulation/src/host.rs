//! A host: the engine of its daemon, a DHCPv6 client for each lease, and what its packets get.

use crate::network::{Frame, Message, Node, Payload, Place};
use etherparse::PacketBuilder;
use fastrand::Rng;
use flowlane_allot::{Field, FlowSpec};
use flowlane_dhcp6::{
    Client, Config, DhcpOption, Duid, Event, FlowOption, IaLl, LlAddr, Message as Dhcp6, MessageType, Status,
    StatusCode, TransactionId,
};
use flowlane_host::dhcp6::{Offer, Question};
use flowlane_host::engine::{Command, Engine, RunSpec};
use flowlane_tables::RunKey;
use flowlane_wire::Mac;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The only interface of each host, by index.
const INTERFACE: u32 = 1;
/// The number of a probe that is about no lease.
const NOBODY: u32 = u32::MAX;
/// How long the answer is waited for to a question whose asker is gone.
const ORPHAN: u64 = 4_000;

/// A host. It survives its crashes; the daemon's memory does not.
pub struct Host {
    /// Its number.
    pub number: usize,
    /// The address of its network card.
    pub mac: Mac,
    /// Where it is plugged in.
    pub place: Place,
    /// Messages to be sent.
    pub outbox: Vec<Payload>,
    duid: Duid,
    engine: Engine,
    clients: BTreeMap<u32, Asked>,
    probe: Option<(TransactionId, Question)>,
    entries: BTreeMap<RunKey, Entry>,
    run: u32,
    random: Rng,
}

/// One lease that is asked for.
struct Asked {
    client: Client,
    bound: bool,
    /// Nobody wants it any more: until when an answer is waited for.
    orphan: Option<u64>,
}

/// What packets to a destination get.
struct Entry {
    address: Mac,
    field: Field,
    until: u64,
}

/// The IP address of a host.
pub fn ip_of(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host as u8 + 1)
}

/// The address of a host's network card.
pub fn mac_of(host: usize) -> Mac {
    Mac([2, 0, 0, 1, host as u8, 1])
}

impl Host {
    /// A host with one run that requires flows.
    pub fn new(number: usize, seed: u64, now: u64) -> Self {
        let mut host = Self {
            number,
            mac: mac_of(number),
            place: Place { node: Node::Host(number), port: 1 },
            outbox: Vec::new(),
            duid: Duid::from_uuid([number as u8 + 1; 16]),
            engine: Engine::new(0),
            clients: BTreeMap::new(),
            probe: None,
            entries: BTreeMap::new(),
            run: 0,
            random: Rng::with_seed(seed),
        };
        host.crash(now);
        host
    }

    /// All that the daemon knew is gone; what it was granted runs out by itself. It starts at once.
    pub fn crash(&mut self, now: u64) {
        self.engine = Engine::new(self.random.u32(0..1 << 30));
        self.clients.clear();
        self.entries.clear();
        self.probe = None;
        self.engine.interface(INTERFACE, true, now);
        self.begin_run(now);
        self.work(now);
    }

    /// The run is over, and another one begins.
    pub fn next_run(&mut self, now: u64) {
        self.engine.end(self.run, now);
        self.begin_run(now);
        self.work(now);
    }

    /// A packet for another host, if there is a flow for it; else a flow is asked for.
    pub fn send(&mut self, to: usize, number: u64, now: u64) -> Option<Frame> {
        let key = self.key(to);
        let Some(entry) = self.entries.get(&key).filter(|entry| entry.until > now) else {
            self.engine.wanted(key, now);
            self.work(now);
            return None;
        };
        let (source, destination) = match entry.field {
            Field::Destination => (self.mac, entry.address),
            Field::Source => (entry.address, mac_of(to)),
        };
        let octets = packet(source, destination, self.number, to, number);
        Some(Frame { octets, number, to: Some(to), crossed: Vec::new() })
    }

    /// A forged frame: with a flow address that somebody else may hold.
    pub fn forge(&self, address: Mac, to: usize, number: u64) -> Frame {
        let octets = packet(self.mac, address, self.number, to, number);
        Frame { octets, number, to: None, crossed: Vec::new() }
    }

    /// Says of one lease that its addresses can not be used. Whether there was one.
    pub fn decline(&mut self, now: u64) -> bool {
        let bound: Vec<u32> = self.clients.iter().filter(|(_, asked)| asked.bound).map(|(iaid, _)| *iaid).collect();
        let Some(iaid) = self.random.choice(bound) else { return false };
        let Some(asked) = self.clients.get_mut(&iaid) else { return false };
        asked.client.decline(now);
        // Who declines has stopped to use it.
        self.engine.lease(iaid, Event::Lost, now);
        self.work(now);
        true
    }

    /// Takes a DHCPv6 message.
    pub fn receive(&mut self, message: &Message, now: u64) {
        let Ok(answer) = Dhcp6::parse(&message.payload) else { return };
        if self.probe.as_ref().is_some_and(|(id, _)| *id == answer.transaction) {
            self.probed(&answer, now);
        } else {
            let iaids: Vec<u32> = self.clients.keys().copied().collect();
            for iaid in iaids {
                let asked = self.clients.get_mut(&iaid);
                if asked.is_some_and(|asked| asked.client.handle(&message.payload, now).is_ok()) {
                    self.tell(iaid, now);
                }
            }
        }
        self.work(now);
    }

    /// Does what is due.
    pub fn advance(&mut self, now: u64) {
        self.engine.advance(now);
        self.clients.retain(|_, asked| asked.orphan.is_none_or(|until| until > now));
        self.work(now);
    }

    /// When [`Host::advance`] is to be called next.
    pub fn deadline(&self) -> Option<u64> {
        let clients = self.clients.values().flat_map(|asked| [asked.client.poll_timeout(), asked.orphan]);
        clients.chain([self.engine.poll_timeout()]).flatten().min()
    }

    fn begin_run(&mut self, now: u64) {
        self.run += 1;
        let field = if self.random.u8(0..4) == 0 { Field::Source } else { Field::Destination };
        let spec = RunSpec { name: "simulated".into(), field, require: true, ..RunSpec::default() };
        self.engine.begin(self.run, spec, Vec::new(), now);
    }

    fn key(&self, to: usize) -> RunKey {
        RunKey { destination: ip_of(to).to_ipv6_mapped().octets(), ifindex: INTERFACE, run: self.run }
    }

    /// Carries out the engine's commands and sends what clients have to say, until nobody has anything.
    fn work(&mut self, now: u64) {
        loop {
            while let Some(command) = self.engine.command() {
                self.carry_out(command, now);
            }
            let sent = self.outbox.len();
            let iaids: Vec<u32> = self.clients.keys().copied().collect();
            for iaid in iaids {
                while let Some(payload) = self.clients.get_mut(&iaid).and_then(|asked| asked.client.poll_transmit(now))
                {
                    self.ask(payload);
                }
                self.tell(iaid, now);
            }
            if self.outbox.len() == sent {
                return;
            }
        }
    }

    fn carry_out(&mut self, command: Command, now: u64) {
        match command {
            Command::Probe(_, about) => self.send_probe(about),
            Command::Ask(iaid, _, spec) => {
                let (rapid_commit, seed) = (self.random.bool(), self.random.u64(..));
                let config = Config { duid: self.duid.clone(), iaid, count: 1, spec, rapid_commit, seed };
                let client = Client::new(config, now);
                self.clients.insert(iaid, Asked { client, bound: false, orphan: None });
            }
            Command::Drop(iaid) => drop(self.clients.remove(&iaid)),
            Command::Release(iaid) => {
                if let Some(asked) = self.clients.get_mut(&iaid) {
                    if asked.bound {
                        asked.client.release(now);
                    }
                    asked.orphan = Some(now + ORPHAN);
                }
            }
            Command::Open { key, addresses, field, until } => {
                let entry = addresses.first().map(|address| Entry { address: *address, field, until });
                match entry {
                    Some(entry) => self.entries.insert(key, entry),
                    None => self.entries.remove(&key),
                };
            }
            Command::Plain(key) | Command::Cut(key) | Command::Forget(key) => drop(self.entries.remove(&key)),
            Command::Ready(_) | Command::Failed(..) => {}
        }
    }

    /// Tells the engine what has become of a lease. One that nobody wants any more is given back as soon as it is granted.
    fn tell(&mut self, iaid: u32, now: u64) {
        while let Some(asked) = self.clients.get_mut(&iaid)
            && let Some(event) = asked.client.event()
        {
            match event {
                Event::Leased(_) => asked.bound = true,
                Event::Lost | Event::Closed(_) | Event::Released => asked.bound = false,
                Event::Refused(_) | Event::NoWay(_) => {}
            }
            match (asked.orphan, &event) {
                (None, _) => self.engine.lease(iaid, event, now),
                (Some(_), Event::Leased(_)) => asked.client.release(now),
                (Some(_), _) => asked.orphan = Some(now),
            }
        }
    }

    /// A Solicit without Rapid Commit, after which nothing is kept (RFC 9915 section 18.2.1).
    fn send_probe(&mut self, about: Option<Question>) {
        let question = about.unwrap_or(Question { iaid: NOBODY, spec: FlowSpec::default(), server: None });
        let [_, id @ ..] = self.random.u32(..).to_be_bytes();
        let options = vec![
            DhcpOption::LlAddr(LlAddr::ethernet(Mac::default(), 0, 0)),
            DhcpOption::Flow(FlowOption::new(&question.spec)),
        ];
        let ia = IaLl { iaid: question.iaid, t1: 0, t2: 0, options };
        let options = vec![DhcpOption::ClientId(self.duid.clone()), DhcpOption::ElapsedTime(0), DhcpOption::IaLl(ia)];
        let solicit = Dhcp6 { kind: MessageType::Solicit, transaction: TransactionId(id), options };
        self.probe = Some((TransactionId(id), question));
        if let Ok(payload) = solicit.emit() {
            self.ask(payload);
        }
    }

    fn probed(&mut self, answer: &Dhcp6, now: u64) {
        let Some((_, Question { iaid, server, .. })) = self.probe.take_if(|_| answer.kind == MessageType::Advertise)
        else {
            return;
        };
        let same = server.is_none_or(|server| answer.options.contains(&DhcpOption::ServerId(server)));
        let ia = answer.options.iter().find_map(|option| match option {
            DhcpOption::IaLl(ia) if ia.iaid == iaid => Some(ia),
            _ => None,
        });
        let held = ia.filter(|_| same && iaid != NOBODY).map(|ia| (iaid, offer(ia)));
        self.engine.probed(INTERFACE, held, now);
    }

    fn ask(&mut self, payload: Vec<u8>) {
        self.outbox.push(Payload::Dhcp6(Message { from: self.mac, to_servers: true, payload }));
    }
}

/// What a switch would give for a lease.
fn offer(ia: &IaLl) -> Offer {
    let refused: Option<&Status> = ia.status().filter(|status| status.code != StatusCode::Success);
    match refused {
        Some(status) => Err(status.clone()),
        None => Ok(ia.blocks().next().and_then(LlAddr::mac)),
    }
}

/// An Ethernet frame with a UDP packet that carries the frame's number.
fn packet(source: Mac, destination: Mac, from: usize, to: usize, number: u64) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(source.0, destination.0)
        .ipv4(ip_of(from).octets(), ip_of(to).octets(), 64)
        .udp(4_000, 4_000);
    let mut octets = Vec::with_capacity(builder.size(8));
    // A vector takes everything.
    let _ = builder.write(&mut octets, &number.to_be_bytes());
    octets
}
