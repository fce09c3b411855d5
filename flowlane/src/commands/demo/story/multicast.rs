//! The step of multicast.

use super::{PATIENCE, SETTLE, Seen, Story, Version, send_udp};
use crate::{
    api::groups::{GroupView, OpenGroup},
    commands::demo::{network::packets, report::Telling},
};
use flowlane_lab::Direction;
use flowlane_wire::Mac;
use miette::{IntoDiagnostic as _, Report as Failure, miette};
use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

/// Packets to the group.
const PACKETS: u64 = 5;
/// The UDP port that they go to.
const PORT: u16 = 4321;
/// A flow address as another switch might have given it: a virtual host that the demo has nobody for but a tap.
const VIRTUAL: Mac = Mac([0xa6, 0, 0, 0, 0, 7]);

impl Story {
    /// One packet, a copy for each receiver, be it a real host or a virtual one (claims 20 to 22).
    pub(super) fn multicast(&mut self, telling: &mut Telling, flow: Mac) -> Result<(), Failure> {
        let mut seen = Seen::default();
        self.names.0.insert(VIRTUAL, "flow of another switch".into());
        let group = self.open_group(&mut seen)?;
        let address: Mac = group.address.parse().into_diagnostic()?;
        self.names.0.insert(address, "group".into());

        let marks = [&self.network.a, &self.network.b, &self.network.x].map(|station| station.tap.frames().len());
        self.send_to_group(address)?;
        self.network.a.send_by(flow).into_diagnostic()?;
        self.check_copies(&mut seen, address, marks)?;
        let title = "A multicast flow: one packet, a copy for each receiver";
        self.finish(telling, "multicast", title, &[20, 21, 22], seen);
        Ok(())
    }

    /// Leases the group's address at the switch, and waits until all receivers have a way.
    fn open_group(&self, seen: &mut Seen) -> Result<GroupView, Failure> {
        let (b, x) = (&self.network.b, &self.network.x);
        let port = x.host.port().name();
        let receivers = vec![b.addresses[0].to_string(), format!("{}@{port}", x.mac), format!("{VIRTUAL}@{port}")];
        seen.say(format!("flowlane group open --port port-a --receiver {}", receivers.join(" --receiver ")));
        let request = OpenGroup { port: "port-a".into(), name: Some("film".into()), receivers, ..OpenGroup::default() };
        let mut group = self.switch.open_group(&request)?;
        let started = Instant::now();
        while group.receivers.iter().any(|receiver| receiver.state != "resolved") {
            if started.elapsed() > PATIENCE {
                return Err(miette!("the receivers have no way within {PATIENCE:?}: {:?}", group.receivers));
            }
            thread::sleep(Duration::from_millis(5));
            group = self.switch.group(&group.address)?;
        }
        seen.note("address", group.address.clone());
        seen.say(format!("granted: {}", group.address));
        Ok(group)
    }

    /// Sends from a real socket of host A. Host B listens and says nothing.
    fn send_to_group(&self, address: Mac) -> Result<(), Failure> {
        let (a, b) = (&self.network.a, &self.network.b);
        let listens = b.host.netns().run(|| UdpSocket::bind(b.at(Version::V4, PORT))).into_diagnostic()?;
        let _listens = listens.into_diagnostic()?;
        a.send_by(address).into_diagnostic()?;
        let sent = a.host.netns().run(|| send_udp(a.at(Version::V4, 0), b.at(Version::V4, PORT), PACKETS));
        sent.into_diagnostic()?.into_diagnostic()?;
        thread::sleep(SETTLE);
        Ok(())
    }

    fn check_copies(&self, seen: &mut Seen, address: Mac, marks: [usize; 3]) -> Result<(), Failure> {
        let (a, b, x) = (&self.network.a, &self.network.b, &self.network.x);
        let since = |station: &super::Station, mark: usize, direction| {
            let frames = station.tap.frames();
            let ours = |packet: &super::Packet| packet.protocol == 17 && packet.from == a.addresses[0];
            packets(frames.get(mark..).unwrap_or_default(), direction).filter(ours).collect::<Vec<_>>()
        };
        let sent = since(a, marks[0], Direction::Out);
        let back = since(a, marks[0], Direction::In).len();
        let before = sent.iter().find(|packet| packet.destination == address);
        let Some(before) = before else { return Err(miette!("host A sent nothing to the group")) };
        seen.say(format!("before  {}", self.names.header(before)));
        let arrived = [since(b, marks[1], Direction::In), since(x, marks[2], Direction::In)].concat();
        let mut copies = serde_json::Map::new();
        // Host B is in another subnet, and so one hop further.
        for (to, ttl) in [(b.mac, before.ttl - 1), (x.mac, before.ttl), (VIRTUAL, before.ttl)] {
            let of_receiver: Vec<_> = arrived.iter().filter(|packet| packet.destination == to).collect();
            of_receiver.first().iter().for_each(|copy| seen.say(format!("copy    {}", self.names.header(copy))));
            let right = of_receiver.iter().filter(|copy| (copy.source, copy.ttl) == (address, ttl)).count();
            copies.insert(to.to_string(), right.into());
            seen.check(
                right as u64 == PACKETS && of_receiver.len() == right,
                format!("{right} of {PACKETS} copies for {to} arrived as they should"),
            );
        }
        seen.check(arrived.len() as u64 == 3 * PACKETS, format!("{} copies arrived", arrived.len()));
        seen.check(back == 0, format!("{back} copies came back to host A"));
        let group = self.switch.group(&address.to_string())?;
        let counted = group.receivers.iter().all(|receiver| (receiver.packets, receiver.missed) == (PACKETS, 0));
        seen.check(group.packets == PACKETS && counted, "the counters do not say so");
        seen.note("sent", PACKETS);
        seen.note("copies", copies);
        seen.note("came_back", back);
        seen.say(format!("{PACKETS} packets came in, {} copies left, none back to host A", arrived.len()));
        Ok(())
    }
}
