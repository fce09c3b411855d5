//! The virtual-circuit flag (claims 23 to 28): hosts that know nothing of Flowlane set bits of the DSCP, and get a flow.

use crate::{
    api::text,
    daemon::{Daemon, PROGRAM},
    lab::{Lab, SOON, as_a_wire, eventually, flow_from_a, ip, mac, mac_of, net, settings},
    on,
    packet::{sent_on, tap, udp, udp6},
    stream::{Stream, any, set_class},
};
use flowlane_lab::{End, Host, Injector, Netns, Offload, Via, traffic, veth};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

on! {
    a_flagged_packet_is_sent_by_a_flow_of_its_own on tc, af_packet, af_xdp, xdp;
    the_first_burst_arrives_whole_and_in_order on tc, af_packet, af_xdp, xdp;
    hosts_that_set_the_flag_talk_by_udp_tcp_and_icmp on tc, af_packet, af_xdp, xdp;
    hosts_with_offloads_get_flows_too on tc, af_packet;
    fragments_of_a_datagram_go_the_same_way on tc, af_packet, af_xdp, xdp;
    what_the_switch_is_asked_itself_is_left_to_linux on tc, af_packet, af_xdp, xdp;
    what_makes_no_sense_is_counted on tc, af_packet, af_xdp, xdp;
    a_flood_of_new_tuples_is_bounded_and_disturbs_nobody on tc, af_packet, af_xdp, xdp;
    an_idle_flow_is_released_and_an_active_one_stays on tc, af_packet, af_xdp;
    killed_under_traffic_flagged_flows_lose_nothing on tc, xdp;
    killed_it_resumes_flagged_flows on af_packet, af_xdp;
    a_port_adds_the_flag_for_the_next_switch on tc, xdp, af_xdp;
}

/// The type of service or traffic class of a flagged packet of best effort: DSCP 000011.
const FLAGGED: u8 = 0x0c;

/// All three ports read the flag.
fn reading(executor: &str) -> String {
    reading_with(executor, "")
}

/// All three ports read the flag, with this policy.
fn reading_with(executor: &str, policy: &str) -> String {
    let read = |settings: String, port: &str| {
        let port = format!("interface = \"{port}\"\n");
        settings.replace(&port, &format!("{port}flag = \"read\"\n[port.flagged]\n{policy}\n"))
    };
    ["pa", "pb", "pc"].into_iter().fold(settings(executor), read)
}

/// The flows of flagged packets that come in by a port.
fn flagged_flows(switch: &Daemon, port: &str) -> Vec<Value> {
    let flows = switch.api.get("/v1/flows");
    let flows = flows.as_array().expect("flows").iter();
    flows.filter(|flow| flow["port"] == port && flow["field"] == "flag").cloned().collect()
}

/// The same frame with another DSCP; IPv4 or IPv6 without tags.
fn with_dscp(frame: &[u8], dscp: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [0x08, 0x00] {
        frame[15] = dscp << 2;
        let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..34]).expect("an IPv4 header").to_header();
        frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        frame[14] = 0x60 | dscp >> 2;
        frame[15] = dscp << 6;
    }
    frame
}

/// Claims 24 to 27: source and destination become addresses of a virtual and of a real host.
fn a_flagged_packet_is_sent_by_a_flow_of_its_own(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading(executor));
    let router = lab.a.port().mac().expect("a port");
    let injector = Injector::open(lab.a.link()).expect("root");
    for (number, frame) in [udp(router, mac_of(1), b"flagged"), udp6(router, mac_of(1), b"flagged")].iter().enumerate()
    {
        let flagged = with_dscp(frame, 0b00_0011);
        let arrived = tap(lab.b.link(), b"flagged");
        injector.send(&flagged).expect("sent");
        arrived.wait_for(1, SOON).expect("the first one");
        injector.send(&flagged).expect("sent");
        let frames = arrived.wait_for(2, SOON).expect("those that follow");

        let flows = flagged_flows(&switch, "pa");
        assert_eq!(flows.len(), number + 1, "{flows:?}");
        let flow = flows.last().expect("a flow");
        let address = mac(&text(&flow["address"]));
        for frame in frames {
            assert_eq!(frame.bytes, sent_on(&with_dscp(&flagged, 0), mac_of(2), address, true));
        }
        assert_eq!((flow["host"].as_str(), flow["packets"].as_u64()), (Some(&*mac_of(1).to_string()), Some(2)));
        let tuple = &flow["tuple"];
        assert_eq!((&tuple["source_port"], &tuple["destination_port"]), (&json!(1111), &json!(2222)));
        assert_eq!((&tuple["protocol"], &tuple["destination"]), (&json!("udp"), &flow["destination"]));
    }
    let upper = with_dscp(&udp(router, mac_of(1), b"upper bits"), 0b10_1111);
    let arrived = tap(lab.b.link(), b"upper bits");
    injector.send(&upper).expect("sent");
    let frames = arrived.wait_for(1, SOON).expect("it arrives");
    let flow = text(&flagged_flows(&switch, "pa")[0]["address"]);
    let restored = sent_on(&with_dscp(&upper, 0b10_1100), mac_of(2), mac(&flow), true);
    assert_eq!(frames[0].bytes, restored, "the class of service stays");
    assert_eq!(switch.api.port("pa")["flagged"]["flows"], 2);
    switch.api.verify();
}

/// Frames that came in by port `pa` faster than the switch could find out where they go.
fn without_room(switch: &Daemon) -> u64 {
    ["queue-full", "flag-refused", "ring-full"].map(|end| switch.api.count("pa", end)).iter().sum()
}

fn the_first_burst_arrives_whole_and_in_order(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading(executor));
    for (number, to) in ["10.2.0.2", "fd02::2"].into_iter().enumerate() {
        let burst = Stream::burst_with(lab.a.netns(), lab.b.netns(), ip(to), 60, FLAGGED);
        eventually("all arrive", || burst.arrived() >= 60);
        let outcome = burst.stop();
        assert!(outcome.is_perfect(), "{outcome:?}");
        let flows = flagged_flows(&switch, "pa");
        assert_eq!((flows.len(), flows[number]["packets"].as_u64()), (number + 1, Some(60)), "{flows:?}");
    }
    assert!(switch.api.count("pa", "ask-flow") >= 2);
    for to in ["10.3.0.2", "fd03::2"] {
        let counted = without_room(&switch);
        let stream = Stream::start_at_once(lab.a.netns(), lab.c.netns(), ip(to), 5_000, FLAGGED);
        eventually("C receives", || stream.arrived() > 1_000);
        let outcome = stream.stop();
        // Where the disk takes longer than 64 frames do, those that find no room are counted; the others keep their order.
        eventually("those that are lost are counted", || without_room(&switch) - counted == outcome.lost);
        assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");
    }
}

/// Nothing but the sockets' type of service is special on either side.
fn hosts_that_set_the_flag_talk_by_udp_tcp_and_icmp(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading(executor));
    for to in ["10.2.0.2", "fd02::2"] {
        udp_both_ways(lab.a.netns(), lab.b.netns(), ip(to));
        tcp_both_ways(lab.a.netns(), lab.b.netns(), ip(to), 4 << 20);
        let report = traffic::ping_with_class(lab.a.netns(), ip(to), 3, FLAGGED, SOON).expect("sent");
        assert_eq!(report.received, 3, "{report:?}");
    }
    let protocols = |port: &str| {
        let flows = flagged_flows(&switch, port);
        let mut names: Vec<String> = flows.iter().map(|flow| text(&flow["tuple"]["protocol"])).collect();
        names.sort();
        names
    };
    assert_eq!(protocols("pa"), ["icmp", "icmpv6", "tcp", "tcp", "udp", "udp"]);
    assert_eq!(
        protocols("pb"),
        ["tcp", "tcp", "udp", "udp"],
        "echo replies have the flag taken off, as the requests had"
    );
    switch.api.verify();
}

fn udp_both_ways(from: &Netns, to: &Netns, address: IpAddr) {
    let open = |netns: &Netns| netns.run(|| UdpSocket::bind(any(address)).expect("a socket")).expect("a namespace");
    let (client, server) = (open(from), open(to));
    for socket in [&client, &server] {
        set_class(socket, address, FLAGGED);
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
    }
    let server_address = SocketAddr::new(address, server.local_addr().expect("bound").port());
    let mut buffer = [0; 64];
    for number in 0..10u8 {
        client.send_to(&[number; 32], server_address).expect("sent");
        let (len, client_address) = server.recv_from(&mut buffer).expect("it arrives");
        server.send_to(&buffer[..len], client_address).expect("sent");
        let len = client.recv(&mut buffer).expect("it comes back");
        assert_eq!(buffer[..len], [number; 32]);
    }
}

fn tcp_both_ways(from: &Netns, to: &Netns, address: IpAddr, octets: usize) {
    let listener = to.run(|| TcpListener::bind(any(address)).expect("a listener")).expect("a namespace");
    set_class(&listener, address, FLAGGED);
    let server_address = SocketAddr::new(address, listener.local_addr().expect("bound").port());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        set_class(&stream, address, FLAGGED);
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("it reads");
        stream.write_all(&received).expect("it writes");
    });
    let sent: Vec<u8> = (0..octets).map(|number| (number % 251) as u8).collect();
    // The flag is set on a socket that is connected: the first packets of the connection go without it.
    let mut stream =
        from.run(|| TcpStream::connect_timeout(&server_address, SOON)).expect("a namespace").expect("a server");
    set_class(&stream, address, FLAGGED);
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    let mut returned = Vec::new();
    thread::scope(|scope| {
        let (mut writer, sent) = (stream.try_clone().expect("a descriptor"), &sent);
        scope.spawn(move || {
            writer.write_all(sent).expect("it writes");
            writer.shutdown(std::net::Shutdown::Write).expect("it ends");
        });
        stream.read_to_end(&mut returned).expect("it comes back");
    });
    server.join().expect("the server");
    assert!(sent == returned);
}

/// Super-packets, and checksums that the sender left to its network card, also of those that wait.
fn hosts_with_offloads_get_flows_too(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading(executor));
    for host in [&lab.a, &lab.b] {
        host.link().set_offload(Offload::TxChecksum, true).expect("veth knows it");
    }
    for to in ["10.2.0.2", "fd02::2"] {
        tcp_both_ways(lab.a.netns(), lab.b.netns(), ip(to), 16 << 20);
    }
    let packets = flagged_packets(&switch, "pa");
    assert!(packets >= 2 * (16 << 20) / 1448, "as on the wire: {packets}");
}

fn fragments_of_a_datagram_go_the_same_way(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading(executor));
    let rejected = || without_room(&switch) + switch.api.count("pa", "no-route");
    for (number, to) in ["10.2.0.2", "fd02::2"].into_iter().enumerate() {
        let open = |netns: &Netns| netns.run(|| UdpSocket::bind(any(ip(to))).expect("a socket")).expect("a namespace");
        let (client, server) = (open(lab.a.netns()), open(lab.b.netns()));
        set_class(&client, ip(to), FLAGGED);
        // Much longer than a lease takes to be durable on a busy disk.
        server.set_read_timeout(Some(SOON * 3)).expect("a timeout");
        let server_address = SocketAddr::new(ip(to), server.local_addr().expect("bound").port());
        let (sent, mut buffer) = ([number as u8 + 7; 20_000], vec![0; 30_000]);
        let before = rejected();
        for sending in 0..5 {
            let before = rejected();
            client.send_to(&sent, server_address).expect("sent");
            match server.recv(&mut buffer) {
                Ok(len) => assert!(buffer[..len] == sent),
                // The machine was so busy that the switch gave up, and said so.
                Err(_) if sending == 0 && rejected() > before => println!("{}", switch.api.port("pa")["counts"]),
                Err(error) => panic!("datagram {sending} to {to}: {error}\n{}", all_that_is_counted(&lab, &switch)),
            }
        }
        let packets = || flagged_flows(&switch, "pa").last().expect("a flow")["packets"].as_u64();
        eventually("all are counted", || packets() == Some(5 * 14 + before - rejected()));
        let flows = flagged_flows(&switch, "pa");
        let flow = flows.last().expect("a flow");
        assert_eq!((flows.len(), &flow["tuple"]["source_port"]), (number + 1, &Value::Null), "{flows:?}");
    }
}

/// What switch and hosts know of datagrams and their fragments.
fn all_that_is_counted(lab: &Lab, switch: &Daemon) -> String {
    let of = |netns: &Netns| {
        let output = netns.command("sh").args(["-c", "cat /proc/net/snmp /proc/net/snmp6; ip -s link"]).output();
        String::from_utf8_lossy(&output.expect("a shell").stdout).into_owned()
    };
    let hosts = [lab.a.netns(), &lab.netns, lab.b.netns()].map(of).join("\n");
    format!("{}\n{}\n{hosts}", switch.api.status(), switch.api.get("/v1/flows"))
}

fn what_the_switch_is_asked_itself_is_left_to_linux(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading(executor));
    // The router's own address, one of another of its ports, and one that no route leads to.
    for to in ["10.1.0.1", "10.3.0.1", "fd01::1"] {
        let report = traffic::ping_with_class(lab.a.netns(), ip(to), 3, FLAGGED, SOON).expect("sent");
        assert_eq!(report.received, 3, "{to}: {report:?}");
    }
    let report = traffic::ping_with_class(lab.a.netns(), ip("192.0.2.1"), 1, FLAGGED, SOON).expect("sent");
    assert_eq!(report.unreachable_from, [ip("10.1.0.1")]);
    assert_eq!(flagged_flows(&switch, "pa"), [] as [Value; 0]);
    let flagged = &switch.api.port("pa")["flagged"];
    assert_eq!((&flagged["flows"], &flagged["asking"]), (&json!(0), &json!(0)));
    assert!(flagged["left_to_linux"].as_u64() >= Some(4), "{flagged}");
}

fn what_makes_no_sense_is_counted(executor: &str) {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading(executor));
    let router = lab.a.port().mac().expect("a port");
    let whole = with_dscp(&udp(router, mac_of(1), b"cut short"), 3);
    let whole6 = with_dscp(&udp6(router, mac_of(1), b"cut short"), 3);
    let mut short_header = whole.clone();
    short_header[14] = 0x44;
    let mut extension = whole6.clone();
    // A destination options header that reaches behind the end, where UDP's is said to stand.
    (extension[20], extension[54], extension[55]) = (60, 17, 200);
    // Cut within the IP header, and within the ports.
    let senseless = [&whole[..30], &whole[..36], &whole6[..50], &whole6[..56], &short_header, &extension];
    let injector = Injector::open(lab.a.link()).expect("root");
    for frame in senseless {
        injector.send(frame).expect("sent");
    }
    eventually("all are counted", || switch.api.count("pa", "flag-malformed") == senseless.len() as u64);
    assert_eq!(switch.api.count("pa", "ask-flow"), 0);
    let arrived = tap(lab.b.link(), b"cut short");
    injector.send(&whole).expect("sent");
    arrived.wait_for(1, SOON).expect("a whole one goes on");
}

fn a_flood_of_new_tuples_is_bounded_and_disturbs_nobody(executor: &str) {
    const LIMIT: u64 = 100;
    let lab = Lab::new();
    // Longer than the flood takes: the packets of flows that have ended are in no flow's count.
    let policy = format!("limit = {LIMIT}\nidle = \"6s\"");
    let quick = "[lease]\nmin = \"1s\"\nquarantine = \"1s\"\n";
    let switch = lab.switch_with(&format!("{}{quick}", reading_with(executor, &policy)));
    flow_from_a(&lab, &switch, "fd01::1");
    let plain = Stream::start(lab.a.netns(), lab.b.netns(), ip("fd02::2"), 500);
    eventually("the plain flow is there", || plain.flows());

    let router = lab.a.port().mac().expect("a port");
    let injector = Injector::open(lab.a.link()).expect("root");
    let mut frame = with_dscp(&udp(router, mac_of(1), b"flood"), 3);
    let sent = 20_000u64;
    for number in 0..sent as u16 {
        frame[34..36].copy_from_slice(&number.to_be_bytes());
        injector.send(&frame).expect("sent");
        if number == 10_000 {
            let other = Stream::burst_with(lab.b.netns(), lab.c.netns(), ip("10.3.0.2"), 20, FLAGGED);
            eventually("another port's flow begins", || other.arrived() >= 20);
            assert!(other.stop().is_perfect());
        }
    }
    let count = |end: &str| switch.api.count("pa", end);
    let accounted = || without_room(&switch) + flagged_packets(&switch, "pa");
    eventually("every frame is accounted for", || accounted() >= sent);
    let flagged = || switch.api.port("pa")["flagged"].clone();
    eventually("nobody is forgotten", || flagged()["asking"] == 0 && flagged()["waiting"] == 0);
    let flows = flagged()["flows"].as_u64();
    assert!(flows <= Some(LIMIT), "{flows:?}");
    let outcome = plain.stop();
    assert!(outcome.lost <= count("ring-full") && outcome.out_of_order == 0, "{outcome:?}");

    eventually("idle ones make room", || switch.api.port("pa")["flagged"]["flows"] == 0);
    let again = Stream::burst_with(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 20, FLAGGED);
    eventually("there is room for a new one", || again.arrived() >= 20);
    assert!(again.stop().is_perfect());
    switch.api.verify();
}

/// Frames that the flows of flagged packets of a port have forwarded.
fn flagged_packets(switch: &Daemon, port: &str) -> u64 {
    flagged_flows(switch, port).iter().filter_map(|flow| flow["packets"].as_u64()).sum()
}

fn an_idle_flow_is_released_and_an_active_one_stays(executor: &str) {
    let lab = Lab::new();
    let settings = reading_with(executor, "idle = \"3s\"");
    let switch = lab.switch_with(&format!("{settings}[lease]\nmin = \"1s\"\n"));
    let active = Stream::start_with(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 200, FLAGGED);
    eventually("it flows", || active.flows());
    let idle = Stream::start_with(lab.a.netns(), lab.c.netns(), ip("10.3.0.2"), 200, FLAGGED);
    eventually("both have arrived", || idle.arrived() >= 5);
    let flows = flagged_flows(&switch, "pa");
    assert!(idle.stop().is_perfect());
    assert_eq!(flows.len(), 2, "{flows:?}");
    assert!(flows.iter().all(|flow| flow["remaining"].as_u64() <= Some(12)), "{flows:?}");

    let start = Instant::now();
    eventually("the idle one is released", || flagged_flows(&switch, "pa").len() == 1);
    thread::sleep(Duration::from_secs(14).saturating_sub(start.elapsed()));
    let left = flagged_flows(&switch, "pa");
    let kept = flows.iter().find(|flow| flow["destination"] == "10.2.0.2").expect("the active one");
    assert_eq!(left.iter().map(|flow| &flow["address"]).collect::<Vec<_>>(), [&kept["address"]]);
    assert!(active.stop().is_perfect(), "its lease was renewed");
    eventually("it ends when it is idle", || flagged_flows(&switch, "pa").is_empty());
    switch.api.verify();
}

fn killed_under_traffic_flagged_flows_lose_nothing(executor: &str) {
    let lab = Lab::new();
    let mut switch = lab.switch_with(&reading(executor));
    let stream = Stream::start_with(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 5_000, FLAGGED);
    eventually("B receives", || stream.arrived() > 100);
    let before = addresses(&switch);
    for _ in 0..3 {
        switch.kill();
        eventually("it flows without the switch's process", || stream.flows());
        switch.start_again();
        assert_eq!(addresses(&switch), before);
        assert_eq!(switch.api.port("pa")["flagged"]["flows"], 1);
        switch.api.verify();
    }
    let outcome = stream.stop();
    assert!(outcome.is_perfect(), "{outcome:?}");
    let another = Stream::burst_with(lab.a.netns(), lab.c.netns(), ip("10.3.0.2"), 20, FLAGGED);
    eventually("a new one begins", || another.arrived() >= 20);
    assert!(another.stop().is_perfect());
}

fn killed_it_resumes_flagged_flows(executor: &str) {
    let lab = Lab::new();
    let mut switch = lab.switch_with(&reading(executor));
    let stream = Stream::start_with(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 1_000, FLAGGED);
    eventually("B receives", || stream.arrived() > 100);
    let before = addresses(&switch);
    switch.kill();
    switch.start_again();
    assert_eq!(addresses(&switch), before);
    eventually("B receives", || stream.flows());
    let outcome = stream.stop();
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");
    switch.api.verify();
}

fn addresses(switch: &Daemon) -> Vec<Value> {
    flagged_flows(switch, "pa").iter().map(|flow| flow["address"].clone()).collect()
}

#[test]
fn leases_of_a_port_that_reads_the_flag_no_more_end() {
    let lab = Lab::new();
    let mut switch = lab.switch_with(&reading("tc"));
    let burst = Stream::burst_with(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 5, FLAGGED);
    eventually("all arrive", || burst.arrived() >= 5);
    assert!(burst.stop().is_perfect());
    switch.terminate();
    switch.configure(&settings("tc"));
    switch.start_again();
    eventually("the lease ends", || switch.api.get("/v1/flows") == json!([]));
    switch.api.verify();
    let burst = Stream::burst_with(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 5, FLAGGED);
    eventually("Linux routes them", || burst.arrived() >= 5);
    assert!(burst.stop().is_perfect());
}

#[test]
fn a_flow_that_is_closed_begins_anew_with_the_next_packet() {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading("tc"));
    let counted = without_room(&switch);
    let stream = Stream::start_with(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 1_000, FLAGGED);
    eventually("B receives", || stream.arrived() > 100);
    let first = addresses(&switch);
    switch.api.close(&text(&first[0]));
    eventually("it has another address", || addresses(&switch).len() == 1 && addresses(&switch) != first);
    let outcome = stream.stop();
    assert_eq!((outcome.doubled, outcome.out_of_order), (0, 0), "{outcome:?}");
    let no_room = without_room(&switch) - counted;
    assert!(outcome.lost < 20 + no_room, "{outcome:?}, {no_room} of them for want of room");
    switch.api.verify();
}

/// A frame is explained, and neither it nor a flow that it would ask for comes of it.
#[test]
fn a_flagged_frame_is_explained() {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading("tc"));
    let frame = with_dscp(&udp(lab.a.port().mac().expect("a port"), mac_of(1), b"explained"), 3);
    let hex: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
    let trace = || {
        let body = json!({ "port": "pa", "frame": hex });
        switch.api.call(hyper::Method::POST, "/v1/trace", Some(body)).expect("an answer")
    };
    assert_eq!(trace()["verdict"], "ask-flow");
    assert_eq!(switch.api.port("pa")["flagged"]["asking"], 0);

    let arrived = tap(lab.b.link(), b"explained");
    Injector::open(lab.a.link()).expect("root").send(&frame).expect("sent");
    arrived.wait_for(1, SOON).expect("it arrives");
    eventually("the flow is resolved", || trace()["verdict"] == "forward");
    let explained = trace().to_string();
    for finding in ["udp 10.1.0.2:1111 -> 10.2.0.2:2222", "DSCP 000011 := 000000"] {
        assert!(explained.contains(finding), "{explained}");
    }
    assert_eq!(flagged_packets(&switch, "pa"), 1, "the trace is not counted");
}

/// Claim 23: an edge switch adds the flag for a host that can not be told to; the next one reads it.
fn a_port_adds_the_flag_for_the_next_switch(executor: &str) {
    let lab = Lab::new();
    let edge = Netns::new("edge").expect("root");
    edge.sysctl("net/ipv4/ip_forward", "1").expect("a router");
    let host = Host::new("h", &edge, "ph", Some(mac_of(7)), &[net("10.7.0.2/24")]).expect("a host");
    host.port().add_address(net("10.7.0.1/24")).expect("an address");
    host.netns().add_default_route(ip("10.7.0.1")).expect("a route");
    as_a_wire(host.link());
    let end = |netns, name| End { netns, name, mac: None };
    let (up, pe) = veth(end(&edge, "up"), end(&lab.netns, "pe")).expect("a pair");
    for (link, address) in [(&up, "10.8.0.2/24"), (&pe, "10.8.0.1/24")] {
        link.add_address(net(address)).expect("an address");
        as_a_wire(link);
    }
    up.connect(&pe).expect("up");
    edge.add_default_route(ip("10.8.0.1")).expect("a route");
    lab.netns.add_route(net("10.7.0.0/24"), Via::Gateway(ip("10.8.0.2"))).expect("a route");

    let adds = format!("executor = \"{executor}\"\n[[port]]\ninterface = \"ph\"\nflag = \"add\"\n");
    let adding = Daemon::start(&edge, &adds);
    let reads = format!("{}[[port]]\ninterface = \"pe\"\nflag = \"read\"\n", settings(executor));
    let reading = lab.switch_with(&reads);
    let report = traffic::ping(host.netns(), ip("10.2.0.2"), 3, None, SOON).expect("sent");
    assert_eq!(report.received, 3, "{report:?}");
    eventually("all are counted", || adding.api.count("ph", "marked") >= 3);
    assert_eq!(adding.api.count("ph", "marked"), 3);
    let flows = flagged_flows(&reading, "pe");
    assert_eq!((flows.len(), &flows[0]["packets"]), (1, &json!(3)));
    assert_eq!(flows[0]["tuple"]["source"], "10.7.0.2");
}

/// A running `flowlane mark` on a host.
struct Marking(Child);

impl Marking {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut command = host.netns().command(PROGRAM);
        command.args(["--json", "mark", "--interface", "eth0"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let mut said = [0];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("it says that it marks");
        Self(child)
    }

    fn end(mut self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("it runs");
        self.0.wait().expect("a child");
    }
}

/// Claim 23, by the host itself: its programs know nothing of it.
#[test]
fn a_host_marks_what_it_sends_until_it_is_stopped_or_killed() {
    let lab = Lab::new();
    let switch = lab.switch_with(&reading("tc"));
    let pings = |to: &str| {
        let report = traffic::ping(lab.a.netns(), ip(to), 2, None, SOON).expect("sent");
        assert_eq!(report.received, 2, "{to}: {report:?}");
    };
    let destinations = || {
        let flows = flagged_flows(&switch, "pa");
        flows.iter().map(|flow| text(&flow["destination"])).collect::<Vec<_>>()
    };
    let marking = Marking::start(&lab.a, &["--to", "10.2.0.0/24", "--to", "fd03::/16"]);
    ["10.2.0.2", "10.3.0.2", "fd02::2", "fd03::2"].iter().for_each(|to| pings(to));
    assert_eq!(destinations(), ["10.2.0.2", "fd03::2"]);
    tcp_both_ways(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 4 << 20);
    assert_eq!(destinations(), ["10.2.0.2", "fd03::2", "10.2.0.2"], "the whole connection is one flow");

    let before = flagged_packets(&switch, "pa");
    marking.end(Signal::SIGKILL);
    ["10.2.0.2", "fd03::2"].iter().for_each(|to| pings(to));
    assert_eq!(flagged_packets(&switch, "pa"), before, "the kernel has taken it off");

    let marking = Marking::start(&lab.a, &["--protocol", "udp", "--port", "4321"]);
    pings("10.3.0.2");
    let stream = Stream::start(lab.a.netns(), lab.c.netns(), ip("10.3.0.2"), 1_000);
    eventually("C receives", || stream.arrived() > 100);
    marking.end(Signal::SIGTERM);
    let marked = flagged_flows(&switch, "pa").pop().expect("a flow");
    assert_eq!((&marked["tuple"]["protocol"], &marked["tuple"]["destination_port"]), (&json!("udp"), &json!(4321)));
    let arrived = stream.arrived();
    eventually("it goes on without", || stream.arrived() > arrived + 100);
    assert!(stream.stop().lost == 0);
}

#[test]
fn a_port_on_af_packet_says_that_it_can_not_add_the_flag() {
    let lab = Lab::new();
    let port = "interface = \"pa\"\n";
    let settings = settings("tc").replace(port, &format!("{port}flag = \"add\"\nexecutor = \"af-packet\"\n"));
    let switch = lab.switch_with(&settings);
    let problem = text(&switch.api.port("pa")["problem"]);
    assert!(problem.contains("af-packet") && problem.contains("tc or xdp"), "{problem}");
}
