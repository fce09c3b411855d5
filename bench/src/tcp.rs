//! One TCP connection across the path, where super-packets matter: by iperf3(1), where it is installed.

use crate::{
    Contestant, Error, Progress, bridge,
    contestant::SetUp,
    frame::{NEXT_HOP, SOURCE},
    package,
    path::Path,
    peer,
    processor::processors,
    report::{TcpRow, TcpSeries, tcp_rows},
    switch,
};
use flowlane_lab::{IpNet, Mac};
use serde_json::Value;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

const PROGRAM: &str = "iperf3";
const SECONDS: &str = "2";
const PORT: u16 = 5201;
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses for tests of network devices, RFC 2544 appendix C.2.2.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);

/// Who carries the connection.
pub(crate) const CONTESTANTS: [Contestant; 3] = [Contestant::TcLimit, Contestant::FlowlaneTc, Contestant::LinuxBridge];

/// Measures the contestants in turns; nothing, and why, if it can not be.
pub(crate) fn measure(repeats: u32, progress: &mut dyn Progress) -> (Vec<TcpRow>, Option<String>) {
    match in_turns(repeats, progress) {
        Ok(all) => (tcp_rows(&all), None),
        Err(why) => {
            progress.left_out("one TCP connection", &why.to_string(), 0);
            (Vec::new(), Some(why.to_string()))
        }
    }
}

fn in_turns(repeats: u32, progress: &mut dyn Progress) -> Result<Vec<TcpSeries>, Error> {
    package::IPERF.program()?;
    let stand = |contestant| Ok((Connection::set_up(contestant)?, TcpSeries { contestant, gbit: Vec::new() }));
    let mut all = CONTESTANTS.into_iter().map(stand).collect::<Result<Vec<_>, Error>>()?;
    for round in 1..=repeats {
        for (connection, series) in &mut all {
            progress.step(&format!("{}: one TCP connection, round {round}", series.contestant.name()));
            series.gbit.push(connection.gbit_per_second()?);
        }
    }
    Ok(all.into_iter().map(|(_, series)| series).collect())
}

/// A client and a server, and a contestant between them.
struct Connection {
    _set_up: SetUp,
    path: Path,
}

impl Connection {
    fn set_up(contestant: Contestant) -> Result<Self, Error> {
        let path = Path::new()?;
        let (set_up, to_server, to_client): (SetUp, Mac, Mac) = match contestant {
            Contestant::FlowlaneTc => switch::both_ways(&path)?,
            Contestant::LinuxBridge => (bridge::plain(&path)?, NEXT_HOP, SOURCE),
            _ => (peer::both_ways(&path)?, NEXT_HOP, SOURCE),
        };
        let ends = [(&path.source, CLIENT, SERVER, to_server), (&path.destination, SERVER, CLIENT, to_client)];
        for (link, own, other, mac) in ends {
            link.add_address(IpNet::new_assert(IpAddr::V4(own), 24))?;
            link.set_neighbour(other.into(), mac)?;
        }
        Ok(Self { _set_up: set_up, path })
    }

    /// What arrives in two seconds.
    fn gbit_per_second(&self) -> Result<f64, Error> {
        let mut server = self.path.destination.netns().command(PROGRAM);
        let server = server.args(["-s", "-1", "-4"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server(server.spawn().map_err(Error::system("start iperf3"))?);
        server.wait_until_it_listens()?;
        let mut client = self.path.source.netns().command(PROGRAM);
        // Each on a processor of its own, always the same.
        let processors = format!("0,{}", processors().saturating_sub(1));
        client.args(["-c", &SERVER.to_string(), "-4", "-t", SECONDS, "-J", "-A", &processors]);
        let output = client.stdin(Stdio::null()).output().map_err(Error::system("start iperf3"))?;
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let bits = document["end"]["sum_received"]["bits_per_second"].as_f64();
        bits.map(|bits| bits / 1e9)
            .ok_or_else(|| Error::Iperf(document["error"].as_str().unwrap_or("nothing").to_owned()))
    }
}

/// A server for one connection. It is killed when this is dropped.
struct Server(Child);

impl Server {
    /// proc_net(5), `tcp`: local address and port in hexadecimal, and the state, of which 0A is LISTEN.
    fn wait_until_it_listens(&self) -> Result<(), Error> {
        let (start, port) = (Instant::now(), format!(":{PORT:04X}"));
        let listens = |line: &str| {
            let mut fields = line.split_whitespace();
            fields.nth(1).is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
        };
        while start.elapsed() < PATIENCE {
            let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.0.id())).unwrap_or_default();
            if sockets.lines().any(listens) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(Error::Iperf("it does not listen".to_owned()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by itself when the connection has.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
