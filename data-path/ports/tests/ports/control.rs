//! DHCPv6 with a real client's UDP socket at the other end.

use crate::netns::{Netns, ip, stay_here, until};
use flowlane_ports::PortError;
use flowlane_ports::control::{Datagram, Dhcp6Socket, Malformed};
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Duration;

/// A client's host, and a switch whose port is enslaved to a bridge, as it may well be.
struct Link {
    host: Netns,
    switch: Netns,
    socket: Dhcp6Socket,
}

impl Link {
    fn new() -> Self {
        let (host, switch) = (Netns::with_ipv6(), Netns::with_ipv6());
        switch.enter(|| {
            ip("link add name br0 type bridge");
            ip("link set dev br0 up");
        });
        host.connect("e0", &switch, "p1", 1500);
        switch.enter(|| ip("link set dev p1 master br0"));
        let index = switch.index("p1");
        let socket = switch.enter(|| Dhcp6Socket::open(index)).expect("opened");
        Self { host, switch, socket }
    }

    /// A socket of the host's client, which sends by the interface e0.
    fn client(&self, port: u16) -> UdpSocket {
        let index = self.host.index("e0");
        let socket = self.host.enter(|| {
            // A link-local address appears a moment after the link.
            let mut bound = None;
            until(|| {
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bound");
                let probe = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 9, 0, index);
                let ready = socket.connect(probe).is_ok();
                bound = ready.then(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("bound"));
                ready
            });
            drop(bound);
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bound")
        });
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        socket
    }

    fn send(&self, client: &UdpSocket, payload: &[u8]) {
        let servers = SocketAddrV6::new("ff02::1:2".parse().expect("an address"), 547, 0, self.host.index("e0"));
        client.send_to(payload, servers).expect("sent");
    }

    fn receive(&mut self) -> Datagram {
        let mut received = None;
        until(|| {
            received = self.socket.recv().expect("up");
            received.is_some()
        });
        received.expect("received")
    }
}

#[test]
fn messages_that_come_together_are_received_in_order_and_answered_together() {
    stay_here();
    let mut link = Link::new();
    let clients = [link.client(546), link.client(1546)];
    // More than one system call takes.
    const EACH: u8 = 40;
    for number in 0..EACH {
        clients.iter().for_each(|client| link.send(client, &[1, number]));
    }
    let heard: Vec<Datagram> = (0..2 * EACH).map(|_| link.receive()).collect();
    for (at, datagram) in heard.iter().enumerate() {
        let port = [546, 1546][at % 2];
        assert_eq!((datagram.client_port, &datagram.payload[..]), (port, &[1, at as u8 / 2][..]));
    }

    let to_clients = heard.iter().filter(|datagram| datagram.client_port == 546);
    let answers: Vec<_> = to_clients.map(|datagram| (datagram, [2, datagram.payload[1]])).collect();
    link.socket.send_all(answers.iter().map(|(to, payload)| (*to, &payload[..]))).expect("sent");
    let mut answer = [0; 100];
    for number in 0..EACH {
        let (len, _) = clients[0].recv_from(&mut answer).expect("answered");
        assert_eq!(answer[..len], [2, number]);
    }
    assert_eq!(link.socket.malformed(), Malformed::default());
}

#[test]
fn a_client_is_heard_and_answered_at_a_bridged_port() {
    let mut link = Link::new();
    let client = link.client(546);
    link.send(&client, b"\x01abc a solicit");
    let heard = link.receive();
    assert_eq!((heard.client_port, &heard.payload[..]), (546, &b"\x01abc a solicit"[..]));
    assert!(heard.client.is_unicast_link_local() && !heard.host.is_group());

    link.socket.send(&heard, b"\x02abc an advertise").expect("sent");
    let mut answer = [0; 100];
    let (len, from) = client.recv_from(&mut answer).expect("answered");
    assert_eq!((&answer[..len], from.port()), (&b"\x02abc an advertise"[..], 547));
    assert_eq!(link.socket.recv().expect("up"), None);
    assert_eq!(link.socket.malformed(), Malformed::default());
}

#[test]
fn a_long_message_passes_and_one_over_the_mtu_is_refused() {
    let mut link = Link::new();
    let client = link.client(546);
    link.send(&client, &[7; 1452]);
    let heard = link.receive();
    assert_eq!(heard.payload, [7; 1452]);
    link.socket.send(&heard, &[8; 1452]).expect("sent");
    let mut answer = [0; 2000];
    assert_eq!(client.recv_from(&mut answer).expect("answered").0, 1452);
    for len in [1453, 70_000] {
        let refused = link.socket.send(&heard, &vec![8; len]);
        assert!(matches!(refused, Err(PortError::Frame(_))), "{refused:?}");
    }
}

#[test]
fn an_interface_that_goes_is_reported() {
    let mut link = Link::new();
    link.switch.enter(|| ip("link set dev p1 down"));
    until(|| matches!(link.socket.recv(), Err(PortError::InterfaceDown(_))));
    assert_eq!(link.socket.recv().expect("reported already"), None);
    link.switch.enter(|| ip("link del dev p1"));
    until(|| matches!(link.socket.recv(), Err(PortError::InterfaceGone(_))));
}
