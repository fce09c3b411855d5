//! Hosts ask for flow addresses by DHCPv6 (claim 1), with the program's own client and with the bare state machine.

use crate::{
    api::text,
    daemon::{Daemon, PROGRAM},
    lab::{Lab, SOON, ip, mac_of, ping, settings, use_flow},
    on,
};
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{ALL_SERVERS, CLIENT_PORT, Client, Config, Duid, Event, Grant, SERVER_PORT, StatusCode};
use flowlane_lab::{Direction, Host, Mac, Tap, traffic};
use serde_json::{Value, json};
use std::{
    net::{SocketAddr, SocketAddrV6, UdpSocket},
    process::Output,
    thread,
    time::{Duration, Instant},
};

on! {
    a_host_asks_and_sends_by_its_flow on tc, af_packet, af_xdp, xdp;
    blocks_renewal_and_release on tc, af_packet, af_xdp;
    what_an_operator_has_closed_stays_closed on tc, af_packet;
}

/// Runs `flowlane flow` on a host.
fn flowlane(host: &Host, switch: &Daemon, arguments: &[&str]) -> Output {
    let mut command = host.netns().command(PROGRAM);
    command.arg("--json").arg("--runtime-directory").arg(switch.path("host")).args(arguments);
    command.output().expect("the program runs")
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn a_host_asks_and_sends_by_its_flow(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);

    let lease = json_of(&flowlane(&lab.a, &switch, &["flow", "open", "-i", "eth0", "--to", "10.2.0.2"]));
    let address = text(&lease["addresses"][0]);
    use_flow(&lab.a, "10.1.0.1", &address);
    ping(&lab.a, "10.2.0.2", 3);

    let flow = switch.api.flow(&address);
    assert_eq!((flow["port"].as_str(), flow["egress"].as_str()), (Some("pa"), Some("pb")));
    assert_eq!((flow["state"].as_str(), flow["routed"].as_bool()), (Some("resolved"), Some(true)));
    assert_eq!(flow["next"], mac_of(2).to_string());
    assert_eq!(flow["host"], mac_of(1).to_string());
    assert_eq!(flow["packets"], 3);
    switch.api.verify();

    json_of(&flowlane(&lab.a, &switch, &["flow", "close", &address, "-i", "eth0"]));
    assert_eq!(switch.api.get("/v1/flows"), json!([]));
    assert_eq!(switch.api.status()["quarantined"], 1);
}

#[test]
fn an_answer_is_a_datagram_of_the_port_to_the_client_that_does_not_leave_the_link() {
    let (lab, switch) = Lab::with_switch("tc");
    let answers = Tap::start(lab.a.link(), |frame| {
        frame.direction == Direction::In
            && frame.bytes.get(12..14) == Some(&[0x86, 0xdd])
            && frame.bytes.get(20) == Some(&17)
    });
    let answers = answers.expect("a tap");

    json_of(&flowlane(&lab.a, &switch, &["flow", "open", "-i", "eth0"]));

    let frames = answers.wait_for(1, SOON).expect("an answer");
    let frame = frames[0].bytes.as_slice();
    let port = lab.a.port().mac().expect("a port");
    let packet = etherparse::SlicedPacket::from_ethernet(frame).expect("whole");
    assert_eq!((&frame[..6], &frame[6..12]), (&mac_of(1).0[..], &port.0[..]), "Ethernet: the port to the host");
    let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
    let [a, b, c, d, e, f] = port.0;
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    assert_eq!(ip.header().source(), link_local, "RFC 4291 appendix A");
    assert!(ip.header().destination_addr().is_unicast_link_local());
    assert_eq!(ip.header().hop_limit(), 1);
    let Some(etherparse::TransportSlice::Udp(udp)) = &packet.transport else { panic!("{packet:?}") };
    assert_eq!((udp.source_port(), udp.destination_port()), (547, 546), "RFC 8415 section 7.2");
    let checksum =
        udp.to_header().calc_checksum_ipv6_raw(ip.header().source(), ip.header().destination(), udp.payload());
    assert_eq!(checksum, Ok(udp.checksum()), "RFC 8200 section 8.1");
    assert_eq!(udp.payload()[0], 7, "a Reply: two messages (RFC 8947 section 5)");
}

/// The state machine of a client, over a socket in the host's namespace, with a clock that can be put forward.
pub struct Asking {
    client: Client,
    socket: UdpSocket,
    to: SocketAddr,
    started: Instant,
    skipped: u64,
}

impl Asking {
    fn new(host: &Host, name: &[u8], iaid: u32, count: u32, rapid_commit: bool) -> Self {
        let spec = FlowSpec { destination: Some(ip("10.2.0.2")), ..FlowSpec::default() };
        Self::with(host, name, iaid, count, rapid_commit, spec)
    }

    /// Asks for a flow with one address.
    pub fn for_flow(host: &Host, iaid: u32, rapid_commit: bool, spec: FlowSpec) -> Self {
        Self::with(host, b"host", iaid, 1, rapid_commit, spec)
    }

    fn with(host: &Host, name: &[u8], iaid: u32, count: u32, rapid_commit: bool, spec: FlowSpec) -> Self {
        let duid = Duid::new([&[0, 3, 0, 1], name].concat()).expect("a DUID");
        let config = Config { duid, iaid, count, spec, rapid_commit, seed: u64::from(iaid) + 1 };
        let interface = host.link().index().expect("an interface");
        let from = SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, interface);
        let socket = host.netns().run(|| UdpSocket::bind(from)).expect("the namespace").expect("the port is free");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let to = SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, interface).into();
        Self { client: Client::new(config, 0), socket, to, started: Instant::now(), skipped: 0 }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + self.skipped
    }

    /// Puts the client's clock forward; the switch's goes on as it does.
    fn skip(&mut self, seconds: u32) {
        self.skipped += u64::from(seconds) * 1000;
    }

    /// Asks until something has happened.
    pub fn event(&mut self) -> Event {
        self.event_within(SOON).expect("an answer")
    }

    /// Asks for so long, or until something has happened.
    fn event_within(&mut self, time: Duration) -> Option<Event> {
        let start = Instant::now();
        let mut buffer = [0; 2048];
        loop {
            let now = self.now();
            while let Some(payload) = self.client.poll_transmit(now) {
                self.socket.send_to(&payload, self.to).expect("sent");
            }
            if let Some(event) = self.client.event() {
                return Some(event);
            }
            if start.elapsed() > time {
                return None;
            }
            if let Ok(len) = self.socket.recv(&mut buffer) {
                // What it can not use, it says so; the next answer may be the right one.
                let _ = self.client.handle(&buffer[..len], self.now());
            }
        }
    }

    pub fn leased(&mut self) -> Grant {
        match self.event() {
            Event::Leased(grant) => grant,
            other => panic!("{other:?}"),
        }
    }

    pub fn refused(&mut self) -> (StatusCode, String) {
        match self.event() {
            Event::Refused(status) | Event::NoWay(status) | Event::Closed(status) => (status.code, status.text),
            other => panic!("{other:?}"),
        }
    }
}

/// The addresses follow each other.
fn are_in_a_row(addresses: &[Mac]) -> bool {
    addresses.windows(2).all(|pair| pair[0].to_u64() + 1 == pair[1].to_u64())
}

fn blocks_renewal_and_release(executor: &str) {
    let (lab, switch) = Lab::with_switch(executor);
    let mut asking = Asking::new(&lab.a, b"four", 1, 4, false);
    let granted = asking.leased();
    assert!(granted.addresses.len() == 4 && are_in_a_row(&granted.addresses), "{granted:?}");
    // Less where the disk took its time.
    assert!((3_590..=3_600).contains(&granted.valid), "{granted:?}");
    let (half, four_fifths) = (granted.valid / 2, granted.valid * 4 / 5);
    assert_eq!((granted.t1, granted.t2), (half, four_fifths), "RFC 8415 section 21.4");
    assert_eq!(switch.api.status()["leased"], 4);

    asking.skip(granted.t1);
    assert_eq!(asking.leased().addresses, granted.addresses, "renewed");
    // Nobody hears the next Renew: from T2 on the client asks whoever can hear it.
    lab.a.port().down().expect("down");
    asking.skip(granted.t1);
    let now = asking.now();
    while asking.client.poll_transmit(now).is_some() {}
    lab.a.port().up().expect("up");
    asking.skip(granted.t2 - granted.t1);
    // The kernel may take a moment to send by the link again: then the client asks a second time, ten seconds later.
    let rebound = (0..SOON.as_secs()).find_map(|_| {
        let event = asking.event_within(Duration::from_secs(1));
        if event.is_none() {
            asking.skip(12);
        }
        event
    });
    assert!(matches!(&rebound, Some(Event::Leased(grant)) if grant.addresses == granted.addresses), "{rebound:?}");

    let now = asking.now();
    asking.client.release(now);
    assert_eq!(asking.event(), Event::Released);
    let status = switch.api.status();
    assert_eq!((status["leased"].as_u64(), status["quarantined"].as_u64()), (Some(0), Some(4)));
    drop(asking);

    let mut again = Asking::new(&lab.a, b"four", 1, 4, true);
    let other = again.leased();
    assert!(other.addresses.iter().all(|address| !granted.addresses.contains(address)), "released addresses rest");
    let now = again.now();
    again.client.decline(now);
    let third = again.leased();
    assert!(third.addresses.iter().all(|address| !other.addresses.contains(address)), "declined addresses rest");
    switch.api.verify();
}

fn what_an_operator_has_closed_stays_closed(executor: &str) {
    let (lab, mut switch) = Lab::with_switch(executor);
    let closed = || (StatusCode::NotAllowed, "an operator has closed this flow".to_owned());
    let mut asking = Asking::new(&lab.a, b"cut", 1, 1, true);
    let granted = asking.leased();
    let flow = granted.addresses[0].to_string();
    use_flow(&lab.a, "10.1.0.1", &flow);
    ping(&lab.a, "10.2.0.2", 1);
    assert_eq!(switch.api.close(&flow)["closed_for"], 24 * 3600);
    let report = traffic::ping(lab.a.netns(), ip("10.2.0.2"), 1, None, Duration::from_millis(200)).expect("sent");
    assert_eq!(report.received, 0, "the host is cut off");

    asking.skip(granted.t1);
    assert_eq!(asking.refused(), closed(), "a Renew");
    assert!(asking.client.is_closed());
    drop(asking);
    for rapid_commit in [true, false] {
        assert_eq!(Asking::new(&lab.a, b"cut", 1, 1, rapid_commit).refused(), closed(), "a Solicit");
    }
    switch.kill();
    switch.start_again();
    assert_eq!(Asking::new(&lab.a, b"cut", 1, 1, true).refused(), closed(), "it is stored");
    assert_eq!(switch.api.get("/v1/flows"), json!([]));
    Asking::new(&lab.a, b"cut", 2, 1, true).leased();
    switch.api.verify();
}

#[test]
fn a_closed_flow_may_be_had_again_after_its_quarantine_and_the_operator_is_told_when() {
    let lab = Lab::new();
    let switch = lab.switch_with(&format!("{}\n[lease]\nquarantine = \"6s\"\n", settings("tc")));
    let flow = Asking::new(&lab.a, b"cut", 1, 1, true).leased().addresses[0].to_string();
    let mut close = lab.netns.command(PROGRAM);
    close.arg("--socket").arg(switch.path("run/switch.sock")).args(["flow", "close", &flow]);
    let said = close.output().expect("the program runs");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("the host may not have it again for 6"), "{said}");
    assert_eq!(Asking::new(&lab.a, b"cut", 1, 1, true).refused().0, StatusCode::NotAllowed);
    thread::sleep(Duration::from_millis(6_100));
    assert_ne!(Asking::new(&lab.a, b"cut", 1, 1, true).leased().addresses[0].to_string(), flow);
}

#[test]
fn nobody_gets_more_than_quotas_and_table_allow() {
    let lab = Lab::new();
    let quotas = "[lease]\nper_port = 6\nper_client = 4\nper_request = 3\nquarantine = \"3s\"\n";
    let switch = lab.switch_with(&format!("{}\n{quotas}", settings("tc").replace("1024", "8")));

    let mut first = Asking::new(&lab.a, b"one", 1, 16, true);
    assert_eq!(first.leased().addresses.len(), 3, "of one request");
    drop(first);
    let mut second = Asking::new(&lab.a, b"one", 2, 3, true);
    assert_eq!(second.leased().addresses.len(), 1, "of one client");
    drop(second);
    let mut third = Asking::new(&lab.a, b"one", 3, 1, true);
    assert_eq!(third.refused().0, StatusCode::NoAddrsAvail, "of one client");
    drop(third);
    let mut fourth = Asking::new(&lab.a, b"two", 1, 3, true);
    assert_eq!(fourth.leased().addresses.len(), 2, "of one port");
    drop(fourth);
    let mut fifth = Asking::new(&lab.b, b"three", 1, 3, true);
    assert_eq!(fifth.leased().addresses.len(), 2, "all that the table has");
    drop(fifth);
    let full = switch.api.call(hyper::Method::POST, "/v1/flows", Some(json!({ "port": "pc", "client": "four" })));
    assert_eq!(full.expect_err("full")["code"], "full");

    let flows = switch.api.get("/v1/flows");
    switch.api.close(flows[0]["address"].as_str().expect("an address"));
    let mut sixth = Asking::new(&lab.c, b"five", 1, 3, true);
    assert_eq!(sixth.refused().0, StatusCode::NoAddrsAvail, "in quarantine");
    drop(sixth);
    thread::sleep(Duration::from_millis(3_100));
    let mut seventh = Asking::new(&lab.c, b"six", 1, 3, true);
    assert_eq!(seventh.leased().addresses.len(), 3, "after the quarantine");
}
