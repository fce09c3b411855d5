//! The demo, step by step. Each step acts, looks, and says what it saw; what is not as it should be makes it fail.

mod multicast;

use super::{
    network::{Network, Packet, Station, Version, packets},
    report::{Names, Report, Step, Telling},
    switch::Switch,
};
use crate::{
    api::PortView,
    commands::flow::dhcp6::{self, Ask, Lease},
    config::Executor,
};
use flowlane_allot::{Field, FlowSpec};
use flowlane_lab::{
    Direction, Injector,
    traffic::{ping, tcp_transfer, udp_echo, udp_request},
};
use flowlane_wire::Mac;
use miette::{IntoDiagnostic as _, Report as Failure, miette};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    net::UdpSocket,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long taps get to see what has been sent.
const SETTLE: Duration = Duration::from_millis(60);
/// Later packets.
const LATER: u64 = 20;
/// Octets of a TCP transfer.
const BULK: u64 = 8 << 20;
/// Frames of each kind that the intruder sends.
const FORGED: u64 = 5;
/// The echo servers' port.
const PORT: u16 = 7;

/// The demo under way.
pub struct Story {
    network: Network,
    switch: Switch,
    names: Names,
    capture: String,
    steps: Vec<Step>,
}

/// What a step collects.
#[derive(Default)]
struct Seen {
    evidence: Map<String, Value>,
    lines: Vec<String>,
    failures: Vec<String>,
}

impl Seen {
    fn note(&mut self, key: &str, value: impl Into<Value>) {
        self.evidence.insert(key.into(), value.into());
    }

    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// What must hold.
    fn check(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.failures.push(what.into());
        }
    }
}

impl Story {
    /// Builds the network and starts the switch.
    pub fn begin(executor: Executor, capture: &Path) -> Result<Self, Failure> {
        let network = Network::make(matches!(executor, Executor::Xdp | Executor::AfXdp)).into_diagnostic()?;
        let switch = Switch::start(&network, executor, capture)?;
        let mut names = Names::default();
        for station in [&network.a, &network.b, &network.x] {
            names.0.insert(station.mac, station.name.into());
            names.0.insert(station.port_mac, station.host.port().name().into());
        }
        let capture = std::path::absolute(capture).into_diagnostic()?.display().to_string();
        Ok(Self { network, switch, names, capture, steps: Vec::new() })
    }

    /// Takes all steps.
    pub fn tell(mut self, telling: &mut Telling, started: Instant) -> Result<Report, Failure> {
        let executor = self.executor()?;
        let _echo: Vec<_> = [Version::V4, Version::V6]
            .into_iter()
            .flat_map(|version| {
                [&self.network.a, &self.network.b]
                    .map(|station| udp_echo(station.host.netns(), station.at(version, PORT)))
            })
            .collect::<Result<_, _>>()
            .into_diagnostic()?;

        let to_flow = self.ask(telling, Field::Destination)?;
        self.first_packet(telling, to_flow.0)?;
        self.later_packets(telling, to_flow.0)?;
        self.bulk(telling, to_flow.0)?;
        self.other_version(telling, to_flow.0)?;
        self.plain(telling)?;
        self.multicast(telling, to_flow.0)?;
        let from_flow = self.ask(telling, Field::Source)?;
        self.source_field(telling, from_flow.0)?;
        self.intruder(telling, to_flow.0, from_flow.0)?;
        self.release(telling, &to_flow)?;

        let mut claims: Vec<u8> =
            self.steps.iter().filter(|step| step.ok).flat_map(|step| step.claims).copied().collect();
        claims.sort_unstable();
        claims.dedup();
        Ok(Report {
            ok: self.steps.iter().all(|step| step.ok),
            executor,
            version: env!("CARGO_PKG_VERSION"),
            claims,
            flows: self.switch.flows()?,
            drops: self.drops()?,
            capture: self.capture.clone(),
            steps: std::mem::take(&mut self.steps),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// A host asks for a flow address and gets one (claims 1 and 4).
    fn ask(&mut self, telling: &mut Telling, field: Field) -> Result<(Mac, Lease), Failure> {
        let mut seen = Seen::default();
        let spec = FlowSpec { field, name: Some("demo".into()), ..FlowSpec::default() };
        let interface = self.network.a.host.link().name().to_owned();
        let ask = Ask { interface, count: 1, spec, iaid: 1 + field as u32, timeout: PATIENCE };
        let started = Instant::now();
        let lease = self.network.a.host.netns().run(|| dhcp6::open(&ask)).into_diagnostic()??;
        let took = started.elapsed();
        let address =
            *lease.addresses.first().ok_or_else(|| miette!("the switch granted a lease without addresses"))?;
        let field_name = field_name(field);
        self.names.0.insert(address, "flow".into());
        seen.note("address", address.to_string());
        seen.note("lifetime_seconds", lease.lifetime);
        seen.note("milliseconds", took.as_secs_f64() * 1e3);
        seen.say(format!(
            "host A asks by DHCPv6 (RFC 8947): Solicit with Rapid Commit; the switch replies in {:.1} ms",
            took.as_secs_f64() * 1e3
        ));
        let lifetime = lease.lifetime.map_or("for ever".into(), |seconds| format!("for {seconds} s"));
        seen.say(format!("granted: {address} as the Ethernet {field_name}, {lifetime}"));
        let stations = [&self.network.a, &self.network.b, &self.network.x];
        let owned = stations.iter().any(|station| station.mac == address || station.port_mac == address);
        seen.check(!owned, "the flow address is an interface's own");
        seen.check(
            self.switch.flow(address).is_ok_and(|flow| flow.port == "port-a"),
            "the switch does not know the flow",
        );
        let (name, title, claims): (_, _, &[u8]) = match field {
            Field::Destination => ("host-asks", "A host asks for a flow address", &[1, 4]),
            Field::Source => ("host-asks-source", "The host asks for one to send from", &[1, 4]),
        };
        self.finish(telling, name, title, claims, seen);
        Ok((address, lease))
    }

    /// The first packet is resolved by its IP destination (claims 3, 5, 8, 10, 12, 13, 16, 17).
    fn first_packet(&mut self, telling: &mut Telling, flow: Mac) -> Result<(), Failure> {
        let mut seen = Seen::default();
        self.network.a.send_by(flow).into_diagnostic()?;
        seen.say(format!("host A: ip neigh replace {} lladdr {flow} dev eth0", self.network.a.gateways[0]));
        let before = self.port("port-a")?;
        let pairs = self.exchange(&mut seen, "UDP", Version::V4, |story| {
            story.udp(&story.network.a, &story.network.b, Version::V4)
        });
        let after = self.port("port-a")?;
        let resolved = count(&after, "resolve") - count(&before, "resolve");
        seen.note("resolved_by_slow_path", resolved);
        seen.check(resolved == 1, format!("{resolved} frames went to the slow path instead of 1"));
        let view = self.switch.flow(flow)?;
        seen.check(view.next.as_deref() == Some(&self.network.b.mac.to_string()), "the table does not lead to host B");
        seen.note("stored", format!("{flow} -> {}", view.next.clone().unwrap_or_default()));
        seen.say(format!(
            "the switch asked its routes and neighbours for {} and stored: {flow} -> {} by {}",
            self.network.b.addresses[0],
            view.next.unwrap_or_default(),
            view.egress.unwrap_or_default()
        ));
        self.check_rewrite(&mut seen, pairs, Wanted { to: flow, from: self.network.a.mac, sent_from: flow });
        self.finish(
            telling,
            "first-packet",
            "The first packet is resolved by its IP destination",
            &[1, 3, 5, 8, 10, 12, 13, 16, 17],
            seen,
        );
        Ok(())
    }

    /// Later packets are forwarded by the table alone (claim 18); what B receives comes from a virtual host (claims 6, 9).
    fn later_packets(&mut self, telling: &mut Telling, flow: Mac) -> Result<(), Failure> {
        let mut seen = Seen::default();
        let (before, packets_before) = (self.port("port-a")?, self.switch.flow(flow)?.packets);
        let pairs = self.exchange(&mut seen, "UDP", Version::V4, |story| {
            (0..LATER).try_for_each(|_| story.udp(&story.network.a, &story.network.b, Version::V4))
        });
        let (after, packets_after) = (self.port("port-a")?, self.switch.flow(flow)?.packets);
        let (forwarded, resolved) = (
            count(&after, "forward") - count(&before, "forward"),
            count(&after, "resolve") - count(&before, "resolve"),
        );
        seen.note("forwarded", forwarded);
        seen.note("resolved_by_slow_path", resolved);
        seen.say(format!("{forwarded} packets forwarded by the table, {resolved} by the slow path"));
        seen.check(
            forwarded == LATER && packets_after - packets_before == LATER,
            format!("{forwarded} of {LATER} packets were forwarded"),
        );
        seen.check(resolved == 0, "the slow path was asked again");
        self.check_rewrite(&mut seen, pairs, Wanted { to: flow, from: self.network.a.mac, sent_from: flow });
        self.finish(telling, "later-packets", "Later packets are forwarded by the table alone", &[6, 9, 17, 18], seen);
        Ok(())
    }

    /// TCP and ICMP go through the same flow.
    fn bulk(&mut self, telling: &mut Telling, flow: Mac) -> Result<(), Failure> {
        let mut seen = Seen::default();
        let before = self.switch.flow(flow)?;
        let pairs = self.exchange(&mut seen, "TCP", Version::V4, |story| story.tcp(Version::V4));
        self.exchange(&mut seen, "ICMP", Version::V4, |story| story.ping(Version::V4));
        let after = self.switch.flow(flow)?;
        let (packets, bytes) = (after.packets - before.packets, after.bytes - before.bytes);
        seen.note("packets", packets);
        seen.note("bytes", bytes);
        seen.say(format!(
            "{} MiB by TCP arrived whole, 3 pings were answered: {packets} packets, {bytes} octets in the flow",
            BULK >> 20
        ));
        seen.check(bytes > BULK, format!("only {bytes} octets were counted"));
        self.check_rewrite(&mut seen, pairs, Wanted { to: flow, from: self.network.a.mac, sent_from: flow });
        self.finish(telling, "tcp-icmp", "TCP and ICMP go through the flow, too", &[3, 17, 18], seen);
        Ok(())
    }

    /// The flow carries IPv6 as well: nothing behind the addresses matters to it.
    fn other_version(&mut self, telling: &mut Telling, flow: Mac) -> Result<(), Failure> {
        let mut seen = Seen::default();
        let before = self.port("port-a")?;
        let pairs = self.exchange(&mut seen, "UDP", Version::V6, |story| {
            story.udp(&story.network.a, &story.network.b, Version::V6)
        });
        self.exchange(&mut seen, "TCP", Version::V6, |story| story.tcp(Version::V6));
        self.exchange(&mut seen, "ICMP", Version::V6, |story| story.ping(Version::V6));
        let resolved = count(&self.port("port-a")?, "resolve") - count(&before, "resolve");
        seen.check(resolved == 0, "the slow path was asked again");
        seen.say("UDP, TCP and ICMPv6 went the way that the first IPv4 packet has opened");
        self.check_rewrite(&mut seen, pairs, Wanted { to: flow, from: self.network.a.mac, sent_from: flow });
        self.finish(telling, "ipv6", "The same flow carries IPv6", &[3, 17, 18], seen);
        Ok(())
    }

    /// Plain traffic, from a real host address to a real host address, is left to Linux (claim 15).
    fn plain(&mut self, telling: &mut Telling) -> Result<(), Failure> {
        let mut seen = Seen::default();
        let before = self.port("port-b")?;
        let (a, b) = (&self.network.a, &self.network.b);
        let marks = (b.tap.frames().len(), a.tap.frames().len());
        // An answer of A's would go into its flow, and has no part in this.
        let sent = b.host.netns().run(|| send_udp(b.at(Version::V4, 0), a.at(Version::V4, 9), 1)).into_diagnostic()?;
        seen.check(sent.is_ok(), "host B can not send");
        thread::sleep(SETTLE);
        let first = |frames: Vec<flowlane_lab::Frame>, from: usize, direction| {
            packets(frames.get(from..).unwrap_or_default(), direction)
                .find(|packet| packet.protocol == 17 && packet.from == b.addresses[0])
        };
        let (out, arrived) =
            (first(b.tap.frames(), marks.0, Direction::Out), first(a.tap.frames(), marks.1, Direction::In));
        match (out, arrived) {
            (Some(out), Some(arrived)) => {
                self.say_pair(&mut seen, &out, &arrived);
                seen.check(out.destination == b.port_mac && out.source == b.mac, "host B's frame is not plain");
                seen.check(
                    arrived.destination == a.mac && arrived.source == a.port_mac,
                    "the frame was not forwarded by Linux",
                );
            }
            _ => seen.check(false, "the frame did not arrive"),
        }
        let passed = count(&self.port("port-b")?, "pass") - count(&before, "pass");
        seen.note("passed", passed);
        seen.check(passed >= 1, "the frame was not passed to Linux");
        seen.say("both addresses belong to real hosts: the switch passes the frame to Linux, which routes it");
        self.finish(telling, "plain", "Plain traffic is left alone", &[15], seen);
        Ok(())
    }

    /// The flow address in the source field (claims 2, 6, 7, 9, 11).
    fn source_field(&mut self, telling: &mut Telling, flow: Mac) -> Result<(), Failure> {
        let mut seen = Seen::default();
        let a = &self.network.a;
        // The host takes the flow address for its interface; both sides are told, for ARP has no place in a flow.
        a.host.link().set_mac(flow).into_diagnostic()?;
        a.send_by(a.port_mac).into_diagnostic()?;
        a.addresses.iter().try_for_each(|address| a.host.port().set_neighbour(*address, flow)).into_diagnostic()?;
        seen.say(format!("host A: ip link set eth0 address {flow}"));
        let before = self.port("port-a")?;
        let pairs = self.exchange(&mut seen, "UDP", Version::V4, |story| {
            story.udp(&story.network.a, &story.network.b, Version::V4)
        });
        let first = count(&self.port("port-a")?, "resolve") - count(&before, "resolve");
        self.exchange(&mut seen, "TCP", Version::V4, |story| story.tcp(Version::V4));
        self.exchange(&mut seen, "ICMP", Version::V6, |story| story.ping(Version::V6));
        let (after, view) = (self.port("port-a")?, self.switch.flow(flow)?);
        let resolved = count(&after, "resolve") - count(&before, "resolve");
        seen.note("resolved_by_slow_path", resolved);
        seen.note("forwarded", view.packets);
        seen.check(first >= 1 && resolved == first, "the slow path was not asked just for the first packet");
        seen.check(view.next.as_deref() == Some(&self.network.b.mac.to_string()), "the table does not lead to host B");
        seen.say(format!(
            "UDP, TCP and ICMPv6 go to the router's real address; {} packets took the flow of their source",
            view.packets
        ));
        let to = self.network.a.port_mac;
        self.check_rewrite(&mut seen, pairs, Wanted { to, from: flow, sent_from: flow });
        let title = "The flow address can be the source instead";
        self.finish(telling, "source-field", title, &[1, 2, 6, 7, 9, 11, 13, 15, 17, 18], seen);
        let a = &self.network.a;
        a.host.link().set_mac(a.mac).into_diagnostic()?;
        a.addresses.iter().try_for_each(|address| a.host.port().set_neighbour(*address, a.mac)).into_diagnostic()?;
        Ok(())
    }

    /// Frames for somebody else's flow are rejected (claim 19).
    fn intruder(&mut self, telling: &mut Telling, to_flow: Mac, from_flow: Mac) -> Result<(), Failure> {
        let mut seen = Seen::default();
        let (x, a, b) = (&self.network.x, &self.network.a, &self.network.b);
        let (before, mark) = (self.port("port-x")?, b.tap.frames().len());
        x.send_by(to_flow).into_diagnostic()?;
        let sent =
            x.host.netns().run(|| send_udp(x.at(Version::V4, 0), b.at(Version::V4, PORT), FORGED)).into_diagnostic()?;
        seen.check(sent.is_ok(), "the intruder can not send");
        let injector = Injector::open(x.host.link()).into_diagnostic()?;
        let guess = Mac::from_u64(to_flow.to_u64() ^ 0x5_0000);
        let forged = [(to_flow, a.mac), (x.port_mac, from_flow), (guess, x.mac)];
        for (destination, source) in forged {
            for _ in 0..FORGED {
                injector.send(&[&destination.0[..], &source.0, &UDP_TO_B].concat()).into_diagnostic()?;
            }
        }
        thread::sleep(SETTLE);
        let after = self.port("port-x")?;
        let wrong_port = count(&after, "wrong-port") - count(&before, "wrong-port");
        let unknown = count(&after, "unknown-flow") - count(&before, "unknown-flow");
        let frames = b.tap.frames();
        let from_x = |packet: &Packet| packet.from == x.addresses[0];
        let arrived = packets(frames.get(mark..).unwrap_or_default(), Direction::In).filter(from_x).count();
        seen.note("rejected_wrong_port", wrong_port);
        seen.note("rejected_unknown_flow", unknown);
        seen.note("arrived_at_b", arrived);
        seen.say(format!("{FORGED} packets from the intruder's own socket to {to_flow}: rejected, wrong port"));
        seen.say(format!(
            "{FORGED} frames to it under host A's address, {FORGED} frames from {from_flow}: rejected, wrong port"
        ));
        seen.say(format!("{FORGED} frames to a guessed address, {guess}: rejected, unknown flow"));
        seen.check(
            wrong_port == 3 * FORGED,
            format!("{wrong_port} of {} frames were rejected as from the wrong port", 3 * FORGED),
        );
        seen.check(unknown == FORGED, format!("{unknown} of {FORGED} frames were rejected as of an unknown flow"));
        seen.check(arrived == 0, format!("{arrived} of the intruder's frames arrived at host B"));
        self.finish(telling, "intruder", "An intruder's frames are rejected", &[19], seen);
        Ok(())
    }

    /// After release, a late frame matches nothing.
    fn release(&mut self, telling: &mut Telling, (flow, lease): &(Mac, Lease)) -> Result<(), Failure> {
        let mut seen = Seen::default();
        let (a, b) = (&self.network.a, &self.network.b);
        a.host.netns().run(|| dhcp6::release(lease, PATIENCE)).into_diagnostic()??;
        seen.say(format!("host A releases {flow}; the switch answers, and keeps the address in quarantine"));
        let quarantined = self.switch.status()?.quarantined;
        seen.note("quarantined", quarantined);
        seen.check(quarantined == 1, format!("{quarantined} addresses are in quarantine instead of 1"));
        let (before, mark) = (self.port("port-a")?, b.tap.frames().len());
        a.send_by(*flow).into_diagnostic()?;
        let sent =
            a.host.netns().run(|| send_udp(a.at(Version::V4, 0), b.at(Version::V4, PORT), 1)).into_diagnostic()?;
        seen.check(sent.is_ok(), "host A can not send");
        thread::sleep(SETTLE);
        let unknown = count(&self.port("port-a")?, "unknown-flow") - count(&before, "unknown-flow");
        let frames = b.tap.frames();
        let arrived = packets(frames.get(mark..).unwrap_or_default(), Direction::In).count();
        seen.note("rejected_unknown_flow", unknown);
        seen.note("arrived_at_b", arrived);
        seen.say("a late frame to it: rejected, unknown flow");
        seen.check(unknown == 1 && arrived == 0, "the late frame was not rejected");
        self.finish(telling, "release", "After release a late frame matches nothing", &[1], seen);
        Ok(())
    }

    /// Does something between A and B, and looks at the first packet of it at both ends.
    fn exchange(
        &self,
        seen: &mut Seen,
        protocol: &str,
        version: Version,
        act: impl FnOnce(&Self) -> Result<(), Failure>,
    ) -> Option<(Packet, Packet)> {
        let (a, b) = (&self.network.a, &self.network.b);
        let marks = (a.tap.frames().len(), b.tap.frames().len());
        if let Err(failure) = act(self) {
            seen.check(false, format!("{protocol}: {failure}"));
        }
        thread::sleep(SETTLE);
        let ours = |packet: &Packet| {
            packet.from == a.addresses[version as usize]
                && packet.to == b.addresses[version as usize]
                && packet.protocol().starts_with(protocol)
        };
        let (at_a, at_b) = (a.tap.frames(), b.tap.frames());
        let before = packets(at_a.get(marks.0..).unwrap_or_default(), Direction::Out).find(ours);
        let after = packets(at_b.get(marks.1..).unwrap_or_default(), Direction::In).find(ours);
        match (before, after) {
            (Some(before), Some(after)) => {
                self.say_pair(seen, &before, &after);
                Some((before, after))
            }
            _ => {
                seen.check(false, format!("{protocol}: no packet was seen at both ends"));
                None
            }
        }
    }

    fn say_pair(&self, seen: &mut Seen, before: &Packet, after: &Packet) {
        let (before, after) = (self.names.header(before), self.names.header(after));
        seen.say(format!("before  {before}"));
        seen.say(format!("after   {after}"));
        let pair = json!({ "before": before, "after": after });
        if let Value::Array(pairs) = seen.evidence.entry("headers").or_insert_with(|| json!([])) {
            pairs.push(pair);
        }
    }

    /// Addresses as they must have come, and as they must have been sent (claim 17); the hop is routed.
    fn check_rewrite(&self, seen: &mut Seen, pair: Option<(Packet, Packet)>, wanted: Wanted) {
        let Some((before, after)) = pair else { return };
        seen.check(
            (before.destination, before.source) == (wanted.to, wanted.from),
            "the frame came with other addresses",
        );
        let sent = (self.network.b.mac, wanted.sent_from);
        seen.check((after.destination, after.source) == sent, "the frame was sent with other addresses");
        seen.check(after.ttl == before.ttl - 1, "the time to live was not decremented at the routed hop");
    }

    fn udp(&self, from: &Station, to: &Station, version: Version) -> Result<(), Failure> {
        let payload = b"a packet in a flow of its own";
        let answer = udp_request(from.host.netns(), to.at(version, PORT), payload, PATIENCE).into_diagnostic()?;
        if answer == payload { Ok(()) } else { Err(miette!("the answer is not what was sent")) }
    }

    fn tcp(&self, version: Version) -> Result<(), Failure> {
        let (a, b) = (&self.network.a, &self.network.b);
        tcp_transfer(a.host.netns(), b.host.netns(), b.at(version, 0), BULK, 4 * PATIENCE).into_diagnostic()?;
        Ok(())
    }

    fn ping(&self, version: Version) -> Result<(), Failure> {
        let (a, b) = (&self.network.a, &self.network.b);
        let report = ping(a.host.netns(), b.addresses[version as usize], 3, None, PATIENCE).into_diagnostic()?;
        if report.received == 3 { Ok(()) } else { Err(miette!("{} of 3 pings were answered", report.received)) }
    }

    fn port(&self, interface: &str) -> Result<PortView, Failure> {
        self.switch.port(interface)
    }

    /// Who handles the frames of host A's port.
    fn executor(&self) -> Result<String, Failure> {
        Ok(self.port("port-a")?.executor.map_or_else(String::new, |executor| executor.name().to_owned()))
    }

    fn drops(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, Failure> {
        use flowlane_tables::{End, Kind};
        let dropped = |name: &str| End::ALL.iter().any(|end| end.name() == name && end.kind() == Kind::Dropped);
        let of_port = |port: PortView| {
            let counts: BTreeMap<String, u64> = port.counts.into_iter().filter(|(name, _)| dropped(name)).collect();
            (!counts.is_empty()).then_some((port.interface, counts))
        };
        Ok(self.switch.status()?.ports.into_iter().filter_map(of_port).collect())
    }

    fn finish(
        &mut self,
        telling: &mut Telling,
        name: &'static str,
        title: &'static str,
        claims: &'static [u8],
        seen: Seen,
    ) {
        let Seen { evidence, lines, failures } = seen;
        let step = Step { name, title, claims, ok: failures.is_empty(), evidence, failures };
        telling.step(&step, &lines);
        self.steps.push(step);
    }
}

/// The addresses that a frame must have.
#[derive(Clone, Copy)]
struct Wanted {
    /// Its destination as it comes.
    to: Mac,
    /// Its source as it comes.
    from: Mac,
    /// Its source as it is sent.
    sent_from: Mac,
}

/// An IPv4 UDP packet from 10.3.0.2 to 10.2.0.2, port 7, from the EtherType on; without a UDP checksum, as IPv4 allows.
const UDP_TO_B: [u8; 2 + 20 + 8 + 4] = [
    0x08, 0x00, 0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0x66, 0xc4, 10, 3, 0, 2, 10, 2, 0, 2, 0, 9, 0, 7, 0, 12, 0, 0,
    b'm', b'i', b'n', b'e',
];

fn send_udp(from: std::net::SocketAddr, to: std::net::SocketAddr, times: u64) -> std::io::Result<()> {
    let socket = UdpSocket::bind(from)?;
    (0..times).try_for_each(|_| socket.send_to(b"mine", to).map(|_| ()))
}

fn field_name(field: Field) -> &'static str {
    match field {
        Field::Destination => "destination",
        Field::Source => "source",
    }
}

fn count(port: &PortView, end: &str) -> u64 {
    port.counts.get(end).copied().unwrap_or(0)
}
