//! Requests that come together are committed together: each is answered for itself, and nobody before the commit.

use crate::{
    daemon::Daemon,
    lab::{Lab, SOON, eventually, settings},
};
use flowlane_dhcp6::{
    ALL_SERVERS, CLIENT_PORT, DhcpOption, Duid, IaLl, LlAddr, Message, MessageType, SERVER_PORT, StatusCode,
    TransactionId,
};
use flowlane_lab::{Host, Mac};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, HashSet},
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Requests of a batch: fewer than a port may have unanswered.
const TOGETHER: u32 = 100;

/// Clients of one host behind one socket.
struct Crowd {
    socket: UdpSocket,
    to: SocketAddrV6,
    name: u8,
}

/// What a client was told: the address that it may use, or why it gets none.
type Told = Result<Mac, StatusCode>;

impl Crowd {
    fn new(host: &Host, name: u8) -> Self {
        let interface = host.link().index().expect("an interface");
        let from = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, interface);
        let socket = host.netns().run(|| UdpSocket::bind(from)).expect("the namespace").expect("the port is free");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        Self { socket, to: SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, interface), name }
    }

    /// A client asks by two messages (Rapid Commit).
    fn ask(&self, client: u32, iaid: u32) {
        let kind = MessageType::Solicit;
        let options = vec![
            DhcpOption::ClientId(self.duid(client)),
            DhcpOption::RapidCommit,
            DhcpOption::IaLl(IaLl { iaid, ..IaLl::default() }),
        ];
        let message = Message { kind, transaction: transaction(client, iaid), options }.emit().expect("a message");
        self.socket.send_to(&message, self.to).expect("sent");
    }

    /// The next answer: to which client and number, and what; none if there is none for a while.
    fn answer(&self) -> Option<((u32, u32), Told)> {
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).ok()?;
        let Message { kind, transaction: of, options } = Message::parse(&buffer[..length]).expect("a message");
        assert_eq!(kind, MessageType::Reply);
        let duid =
            options.iter().find_map(|option| if let DhcpOption::ClientId(duid) = option { Some(duid) } else { None });
        let ia = options.iter().find_map(|option| if let DhcpOption::IaLl(ia) = option { Some(ia) } else { None });
        let (duid, ia) = (duid.expect("a client"), ia.expect("a lease or a refusal"));
        let client = u32::from_be_bytes(*duid.as_bytes().last_chunk().expect("a number"));
        assert_eq!(
            (duid, of),
            (&self.duid(client), transaction(client, ia.iaid)),
            "it answers what this host has asked"
        );
        let granted = ia.blocks().next().and_then(LlAddr::mac);
        Some(((client, ia.iaid), granted.ok_or_else(|| ia.status().expect("a reason").code)))
    }

    /// As many answers as that, each to another request.
    fn answers(&self, count: usize) -> BTreeMap<(u32, u32), Told> {
        let (mut answers, start) = (BTreeMap::new(), Instant::now());
        while answers.len() < count {
            assert!(start.elapsed() < SOON, "{} answers of {count}", answers.len());
            if let Some((asked, told)) = self.answer() {
                assert_eq!(answers.insert(asked, told), None, "one answer to each");
            }
        }
        assert_eq!(self.answer(), None, "and no more");
        answers
    }

    fn duid(&self, client: u32) -> Duid {
        Duid::new([&[0, 3, 0, 1, 2, self.name][..], &client.to_be_bytes()].concat()).expect("a DUID")
    }
}

/// Another one for each question.
fn transaction(client: u32, iaid: u32) -> TransactionId {
    let [_, _, c, d] = client.to_be_bytes();
    TransactionId([iaid as u8, c, d])
}

/// Whatever is asked meanwhile, the switch finds at once.
fn together(switch: &Daemon, ask: impl FnOnce()) {
    switch.signal(Signal::SIGSTOP);
    ask();
    switch.signal(Signal::SIGCONT);
}

#[test]
fn answers_of_a_batch_go_each_to_the_client_that_asked() {
    let (lab, switch) = Lab::with_switch("tc");
    let crowds = [(&lab.a, "pa", 1), (&lab.b, "pb", 2), (&lab.c, "pc", 3)];
    let crowds = crowds.map(|(host, port, name)| (Crowd::new(host, name), port));

    together(&switch, || {
        (0..TOGETHER).for_each(|client| crowds.iter().for_each(|(crowd, _)| crowd.ask(client, 7)));
    });

    let mut all = HashSet::new();
    for (crowd, port) in &crowds {
        for (asked, told) in crowd.answers(TOGETHER as usize) {
            let address = told.expect("a lease");
            assert!(all.insert(address), "{asked:?} of {port} has {address}, and somebody else, too");
            assert_eq!(switch.api.flow(&address.to_string())["port"], *port);
        }
    }
    switch.api.verify();
}

#[test]
fn a_refused_request_keeps_no_other_of_its_batch_from_its_lease() {
    let lab = Lab::new();
    let switch = lab.switch_with(&format!("{}\n[lease]\nper_client = 1\n", settings("tc")));
    let crowd = Crowd::new(&lab.a, 1);
    let (greedy, second) = (TOGETHER / 2, 2);

    together(&switch, || {
        for client in 0..TOGETHER {
            crowd.ask(client, 1);
            (client == greedy).then(|| crowd.ask(client, second));
        }
    });

    let mut answers = crowd.answers(TOGETHER as usize + 1);
    assert_eq!(answers.remove(&(greedy, second)), Some(Err(StatusCode::NoAddrsAvail)), "one lease is its quota");
    let addresses: HashSet<Mac> = answers.into_values().map(|told| told.expect("a lease")).collect();
    assert_eq!(addresses.len(), TOGETHER as usize);
    switch.api.verify();
}

#[test]
fn killed_in_the_middle_of_a_batch_it_keeps_every_lease_that_it_has_acknowledged() {
    const KILLS: u32 = 3;
    let lab = Lab::new();
    let mut switch = lab.switch_with(&settings("tc").replace("1024", "65536"));
    let crowd = Crowd::new(&lab.a, 1);
    let (mut client, mut acknowledged) = (0, BTreeMap::new());

    for kill in 1..=KILLS {
        let answers = AtomicU32::new(0);
        thread::scope(|scope| {
            let killed = scope.spawn(|| {
                eventually("it answers", || answers.load(Ordering::Relaxed) >= TOGETHER);
                // Another moment each time.
                thread::sleep(Duration::from_millis(u64::from(37 * kill)));
                switch.kill();
            });
            // Some of them are always unanswered, until nobody answers any more.
            (0..TOGETHER).for_each(|ahead| crowd.ask(client + ahead, 1));
            client += TOGETHER;
            loop {
                let Some(((answered, _), told)) = crowd.answer() else {
                    if killed.is_finished() {
                        break;
                    }
                    continue;
                };
                acknowledged.insert(answered, told.expect("a lease").to_string());
                answers.fetch_add(1, Ordering::Relaxed);
                crowd.ask(client, 1);
                client += 1;
            }
            killed.join().expect("killed");
        });
        switch.start_again();
        let flows = switch.api.get("/v1/flows");
        let there: HashSet<&str> =
            flows.as_array().expect("flows").iter().filter_map(|flow| flow["address"].as_str()).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|(_, address)| !there.contains(address.as_str())).collect();
        assert!(lost.is_empty(), "lost of {}: {lost:?}", acknowledged.len());
        switch.api.verify();
    }
    println!("{} leases acknowledged to {client} clients, {KILLS} kills, none lost", acknowledged.len());
    let addresses: HashSet<&String> = acknowledged.values().collect();
    assert_eq!(addresses.len(), acknowledged.len(), "no address was given twice");
    assert!(acknowledged.len() >= TOGETHER as usize, "{}", acknowledged.len());
}
