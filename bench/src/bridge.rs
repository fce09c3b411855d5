//! The Linux bridge, with a static entry for each flow.

use crate::{Error, contestant::SetUp, frame::addresses, path::Path};
use flowlane_wire::FlowAddress;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// Entries that are sent to the kernel at once. Only the last one is acknowledged.
const BATCH: usize = 512;

/// Joins ingress and egress by a bridge as it is: it learns, and floods what it does not know.
pub(crate) fn plain(path: &Path) -> Result<SetUp, Error> {
    let bridge = flowlane_lab::bridge(&path.switch, "br")?;
    without_netfilter(path)?;
    for port in [&path.ingress, &path.egress] {
        port.attach(&bridge)?;
    }
    Ok(SetUp::of(bridge))
}

/// Joins ingress and egress by a bridge that learns and floods nothing.
pub(crate) fn set_up(path: &Path, flows: u32) -> Result<SetUp, Error> {
    let bridge = plain(path)?;
    for port in [&path.ingress, &path.egress] {
        port.set_bridging(false, false)?;
    }
    let egress = path.egress.index()?;
    path.switch.run(|| add_entries(egress, addresses(flows)))?.map_err(Error::system("add entries to the bridge"))?;
    Ok(bridge)
}

/// Bridged packets are shown to iptables where its module is loaded: several hundred nanoseconds each.
fn without_netfilter(path: &Path) -> Result<(), Error> {
    for key in ["iptables", "ip6tables", "arptables"].map(|table| format!("net/bridge/bridge-nf-call-{table}")) {
        if path.switch.read_sysctl(&key).is_ok() {
            path.switch.sysctl(&key, "0")?;
        }
    }
    Ok(())
}

fn add_entries(port: u32, addresses: impl Iterator<Item = FlowAddress>) -> io::Result<()> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut addresses = addresses.peekable();
    while addresses.peek().is_some() {
        let mut batch = Vec::new();
        for count in 1..=BATCH {
            let Some(address) = addresses.next() else { break };
            let last = count == BATCH || addresses.peek().is_none();
            append(&mut batch, entry(port, address), if last { NLM_F_ACK } else { 0 });
        }
        socket.send(&batch, 0)?;
        acknowledgement(&socket)?;
    }
    Ok(())
}

/// `bridge fdb add ADDRESS dev PORT master static`.
fn entry(port: u32, address: FlowAddress) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    entry.header.ifindex = port;
    entry.header.state = NeighbourState::Noarp;
    entry.header.flags = NeighbourFlags::Controller;
    entry.attributes.push(NeighbourAttribute::LinkLayerAddress(address.mac().0.to_vec()));
    entry
}

fn append(batch: &mut Vec<u8>, entry: NeighbourMessage, flags: u16) {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(entry));
    message.header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | flags;
    message.finalize();
    let start = batch.len();
    batch.resize(start + message.buffer_len(), 0);
    message.serialize(&mut batch[start..]);
}

/// Waits for the kernel's answer: the acknowledgement of the last entry, or before it the refusal of another.
fn acknowledgement(socket: &Socket) -> io::Result<()> {
    let (octets, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&octets).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected answer: {other:?}"))),
    }
}
