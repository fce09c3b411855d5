//! A switch that routes between three hosts: the attacker, and two bystanders.

use crate::{Error, switch::Switch};
use etherparse::PacketBuilder;
use flowlane_lab::{Direction, Host, Injector, IpNet, Link, Mac, Netns, Offload, Tap};
use std::{
    path::Path,
    sync::mpsc::{Receiver, channel},
};

/// Who attacks, at port `pa`; and the bystanders at `pb` and `pc`, the first of which sends to the second.
pub(crate) struct Network {
    pub netns: Netns,
    pub attacker: Host,
    pub sender: Host,
    pub receiver: Host,
}

/// Slots of the switch, where an attack does not say.
const SLOTS: u32 = 65_536;

impl Network {
    /// Hosts in 10.1.0.0/24, 10.2.0.0/24 and 10.3.0.0/24; each has address 2, and the switch address 1.
    pub(crate) fn new() -> Result<Self, Error> {
        let netns = Netns::new("switch")?;
        netns.sysctl("net/ipv4/ip_forward", "1")?;
        let attacker = host(&netns, 1, "pa")?;
        let sender = host(&netns, 2, "pb")?;
        let receiver = host(&netns, 3, "pc")?;
        Ok(Self { netns, attacker, sender, receiver })
    }

    /// A switch of all three ports.
    pub(crate) fn switch(&self, program: &Path, executor: &str) -> Result<Switch, Error> {
        self.switch_with(program, &settings(executor, SLOTS, ""))
    }

    /// A switch with these settings.
    pub(crate) fn switch_with(&self, program: &Path, settings: &str) -> Result<Switch, Error> {
        Switch::start(program, &self.netns, settings)
    }
}

/// Settings of a switch of all three ports. `of_attacker` stands behind the attacker's port.
pub(crate) fn settings(executor: &str, slots: u32, of_attacker: &str) -> String {
    format!(
        "block = \"a2:f1:00:00:00:00/24\"\nslots = {slots}\nexecutor = \"{executor}\"\n\
         [[port]]\ninterface = \"pa\"\n{of_attacker}\n[[port]]\ninterface = \"pb\"\n[[port]]\ninterface = \"pc\"\n"
    )
}

/// The address of host `number`.
pub(crate) fn mac_of(number: u8) -> Mac {
    Mac([2, 0, 0, 0, number, 2])
}

/// A UDP packet from host to host, by their numbers, in a frame with these addresses.
pub(crate) fn udp(destination: Mac, source: Mac, [from, to]: [u8; 2], payload: &[u8]) -> Vec<u8> {
    udp_to(destination, source, from, [10, to, 0, 2], payload)
}

/// A UDP packet of a host to an IPv4 address.
pub(crate) fn udp_to(destination: Mac, source: Mac, from: u8, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(source.0, destination.0).ipv4([10, from, 0, 2], to, 64).udp(1111, 2222);
    // Writing into memory fails for payloads that are too long for a length field only.
    let _ = packet.write(&mut frame, payload);
    frame
}

/// Tells the payload behind `marker` of each frame that comes in by a link with that marker as the first octets of a UDP
/// packet over IPv4.
pub(crate) fn watch(link: &Link, marker: &'static [u8]) -> Result<(Tap, Receiver<Vec<u8>>), Error> {
    const PAYLOAD: usize = 14 + 20 + 8;
    let (seen, payloads) = channel();
    let tap = Tap::start(link, move |frame| {
        let payload = frame.bytes.get(PAYLOAD..).and_then(|payload| payload.strip_prefix(marker));
        if let Some(rest) = payload.filter(|_| frame.direction == Direction::In) {
            // Nobody may look any more.
            let _ = seen.send(rest.to_vec());
        }
        false
    })?;
    Ok((tap, payloads))
}

/// Sends frames as they are.
pub(crate) fn injector(host: &Host) -> Result<Injector, Error> {
    Ok(Injector::open(host.link())?)
}

/// What a wire does and a veth does not, unless told: frames are complete when they are sent. Frames that XDP sends into a
/// cable, as the generator of floods does, come out only where GRO is on.
pub(crate) fn as_a_wire(link: &Link) -> Result<(), Error> {
    link.set_offload(Offload::TxChecksum, false)?;
    Ok(link.set_offload(Offload::Gro, true)?)
}

/// A host at a new port of the switch's namespace.
pub(crate) fn host(netns: &Netns, number: u8, port: &str) -> Result<Host, Error> {
    let net = |host: u8| IpNet::new_assert(std::net::Ipv4Addr::new(10, number, 0, host).into(), 24);
    let host = Host::new(port, netns, port, Some(mac_of(number)), &[net(2)])?;
    host.port().add_address(net(1))?;
    host.netns().add_default_route(net(1).addr())?;
    as_a_wire(host.link())?;
    as_a_wire(host.port())?;
    Ok(host)
}
