//! The interface of a port goes, and comes back.

use crate::{Error, Options, Row, scene::Scene};
use flowlane_lab::{Direction, Host, Injector, IpNet, Link, Mac, Offload, Tap};
use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

const SLOTS: u32 = 1 << 10;
/// The port that goes, and the host behind it.
const PORT: &str = "p3";
const HOST: Mac = Mac([2, 0xdd, 0, 0, 0, 3]);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// How long a flow to the new interface may take: several times what the kernel takes to attach an XDP program on a busy machine.
const LIMIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Deletes the interface of a third port, makes it again, and counts the time until a flow to the host behind it goes on. The
/// frames of the load go between two other ports all the while.
pub(super) fn removed(options: &Options, mut row: Row) -> Result<Row, Error> {
    let mut scene = Scene::new(options, row.executor, SLOTS)?;
    let netns = scene.path.switch.clone();
    let flow = scene.switch.api.open("p1", "to the third port", 1)?;
    let flow = flow.addresses.first().and_then(|address| address.parse::<Mac>().ok());
    let flow = flow.ok_or_else(|| Error::Silent("no address in a lease".into()))?;
    let source = scene.path.source.clone();
    let mut host = host(&netns)?;
    arrives(&source, &host, flow)?;
    while row.times < options.times(1, 3, 20) {
        let took = scene.under_load(&mut row, |_| {
            host.link().clone().delete()?;
            thread::sleep(Duration::from_millis(100));
            host = self::host(&netns)?;
            arrives(&source, &host, flow)
        })?;
        row.times += 1;
        row.recovered(took);
        if took > LIMIT {
            row.wrong(format!("the flow went on after {} ms, not within {}", took.as_millis(), LIMIT.as_millis()));
        }
        scene.verify(&mut row)?;
    }
    Ok(row)
}

/// A host behind the third port, which answers for its address.
fn host(netns: &flowlane_lab::Netns) -> Result<Host, Error> {
    let net = |address: Ipv4Addr| IpNet::new_assert(IpAddr::V4(address), 24);
    let host = Host::new("third", netns, PORT, Some(HOST), &[net(ADDRESS)])?;
    host.link().set_offload(Offload::Gro, true)?;
    host.port().add_address(net(ROUTER))?;
    Ok(host)
}

/// Sends frames of the flow until one arrives. How long that took.
fn arrives(source: &Link, host: &Host, flow: Mac) -> Result<Duration, Error> {
    let start = Instant::now();
    let is_of_flow = |frame: &flowlane_lab::Frame| {
        frame.direction == Direction::In && frame.bytes.get(30..34) == Some(&ADDRESS.octets())
    };
    let tap = Tap::start(host.link(), is_of_flow)?;
    let (injector, frame) = (Injector::open(source)?, udp(flow));
    while tap.frames().is_empty() {
        if start.elapsed() > PATIENCE {
            return Err(Error::Silent("no frame of the flow arrives at the new interface".into()));
        }
        injector.send(&frame)?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(start.elapsed())
}

/// An empty UDP packet to the host, by the flow.
fn udp(flow: Mac) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&flow.0);
    frame[6..12].copy_from_slice(&[2, 0xbb, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&28u16.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..30].copy_from_slice(&[192, 0, 2, 1]);
    frame[30..34].copy_from_slice(&ADDRESS.octets());
    let sum: u32 = frame[14..34].chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame[34..38].copy_from_slice(&[0x1f, 0x90, 0x1f, 0x91]);
    frame[38..40].copy_from_slice(&8u16.to_be_bytes());
    frame
}
