//! Sends the lines of the standard input by a flow of their own, as UDP datagrams or over TCP, and says by which.
//!
//! ```text
//! cargo run -p flowlane-client --example bind -- udp 192.0.2.7:4000 10000000 < lines
//! ```
//!
//! The last argument is the rate in bits per second at which the network meters the flow; it may be left out.

use flowlane_client::{Binding, Client, Wishes};
use std::{
    env,
    error::Error,
    io::{self, BufRead as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
};

const USAGE: &str = "usage: bind udp|tcp ADDRESS:PORT [RATE]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (protocol, destination, rate) = match arguments.as_slice() {
        [protocol, destination] => (protocol, destination, None),
        [protocol, destination, rate] => (protocol, destination, Some(rate.parse()?)),
        _ => return Err(USAGE.into()),
    };
    let destination: SocketAddr = destination.parse()?;
    let wishes = Wishes { rate, ..Wishes::towards(destination) };
    match protocol.as_str() {
        "udp" => datagrams(destination, &wishes),
        "tcp" => stream(destination, &wishes),
        _ => Err(USAGE.into()),
    }
}

fn datagrams(destination: SocketAddr, wishes: &Wishes) -> Result<(), Box<dyn Error>> {
    let any: IpAddr = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    let binding = Client::connect()?.bind(&socket, wishes)?;
    tell(&binding, destination)?;
    for line in io::stdin().lock().lines() {
        socket.send_to(line?.as_bytes(), destination)?;
    }
    Ok(())
}

/// The segments that opened the connection left before the socket was bound; all others leave by the flow.
fn stream(destination: SocketAddr, wishes: &Wishes) -> Result<(), Box<dyn Error>> {
    let mut connection = TcpStream::connect(destination)?;
    let binding = Client::connect()?.bind(&connection, wishes)?;
    tell(&binding, destination)?;
    for line in io::stdin().lock().lines() {
        writeln!(connection, "{}", line?)?;
    }
    Ok(())
}

fn tell(binding: &Binding, destination: SocketAddr) -> Result<(), Box<dyn Error>> {
    match binding.flow(destination.ip())? {
        Some(flow) if flow.state == "open" => {
            let address = flow.address.map(|address| address.to_string()).unwrap_or_default();
            eprintln!("to {} by {address}", flow.destination);
        }
        Some(flow) => eprintln!("to {}: {} {}", flow.destination, flow.state, flow.reason.unwrap_or_default()),
        None => eprintln!("to {destination}: no flow"),
    }
    Ok(())
}
