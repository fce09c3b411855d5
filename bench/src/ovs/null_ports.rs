//! Open vSwitch with DPDK between a capture in memory, which gives its frames without end, and a port that drops all: what its
//! datapath costs by itself, with a rule for each flow.

use super::{Ovs, Ports, said};
use crate::{
    Error, Work,
    frame::{template, write},
    huge_pages::HugePages,
    processor::{Processor, thread_time},
    random,
};
use flowlane_lab::Netns;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use std::{
    fs::File,
    io::BufWriter,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// What DPDK is to do: without cards, and with a gigabyte of huge pages, of which [`PAGES`] gives it a little more.
pub(super) const SETTINGS: [&str; 4] = [
    "other_config:dpdk-init=true",
    "other_config:dpdk-lcore-mask=0x1",
    "other_config:dpdk-extra=\"--no-pci --in-memory\"",
    "other_config:dpdk-socket-mem=1024",
];
const PAGES: u32 = 640;
/// The thread that polls, by what is in its name.
const POLLS: &str = "pmd-c";
/// DPDK wants at least a ring of frames.
const FRAMES_MIN: u32 = 512;
const FRAME_BYTES: u32 = 64;
/// Processor time until its caches know the flows, and that is measured. And how long it may take to have so much.
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

/// Nanoseconds of the polling thread for each frame.
pub(crate) fn ns_between_null_ports(flows: u32, on: &Processor) -> Result<f64, Error> {
    Ports::Null.package().program()?;
    let _pages = HugePages::get(PAGES)?;
    let netns = Netns::new("switch")?;
    let ovs = Ovs::start(&netns, Ports::Null, on)?;
    let capture = ovs.directory.path().join("frames.pcap");
    write_frames(&capture, flows).map_err(Error::system("write frames for Open vSwitch"))?;
    ovs.add_bridge()?;
    // Before the ports: each frame that has no rule takes the way through the slow path.
    ovs.add_flows(flows)?;
    let from = format!("options:dpdk-devargs=net_pcap0,rx_pcap={},infinite_rx=1", capture.display());
    ovs.add_port("d1", 2, &["type=dpdk", "options:dpdk-devargs=net_null1,no-rx=1"])?;
    ovs.add_port("d0", 1, &["type=dpdk", &from])?;
    ovs.run_for(WARM_UP)?;
    let before = ovs.sent()?;
    let took = ovs.run_for(RUN)?;
    match ovs.sent()? - before {
        0 => Err(Error::Ovs("it forwards nothing between null ports".to_owned())),
        sent => Ok(took.as_nanos() as f64 / sent as f64),
    }
}

impl Ovs {
    /// Waits until the polling thread has had so much processor time. How much it was.
    fn run_for(&self, time: Duration) -> Result<Duration, Error> {
        let polled = || thread_time(self.process(), POLLS).unwrap_or_default();
        let (start, before) = (Instant::now(), polled());
        while polled() - before < time {
            if start.elapsed() > PATIENCE {
                return Err(Error::Ovs("it does not poll its null ports; it needs two processors".to_owned()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(polled() - before)
    }

    /// Frames that have left.
    fn sent(&self) -> Result<u64, Error> {
        let said = said(self.ofctl("dump-ports").arg("2"))?;
        transmitted(&said).ok_or_else(|| Error::Ovs(format!("it does not tell how much it has sent: {said}")))
    }
}

/// Every flow as often as every other, in random order.
fn write_frames(path: &Path, flows: u32) -> std::io::Result<()> {
    let mut numbers: Vec<u32> = (0..flows.max(FRAMES_MIN)).map(|number| number % flows).collect();
    random::shuffle(&mut numbers);
    let mut writer = PcapWriter::new(BufWriter::new(File::create(path)?)).map_err(std::io::Error::other)?;
    let (traffic, mut frame) = (Work::Unicast.traffic(flows), template(FRAME_BYTES));
    for number in numbers {
        write(&mut frame, &traffic, number);
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame).map_err(std::io::Error::other)?;
        writer.write_packet(&packet).map_err(std::io::Error::other)?;
    }
    Ok(())
}

/// The frames sent, in what ovs-ofctl(8) says of a port: `tx pkts=123, bytes=7380, drop=0, errs=?, coll=?`.
fn transmitted(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once("tx pkts=")?;
    rest.split(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_sent_are_found_in_what_ovs_ofctl_says() {
        let said = "OFPST_PORT reply (xid=0x4): 1 ports\n  port  d1: rx pkts=7, bytes=0, drop=?, errs=?, frame=?, over=?, \
                    crc=?\n           tx pkts=123, bytes=7380, drop=0, errs=?, coll=?\n";
        assert_eq!(transmitted(said), Some(123));
        assert_eq!(transmitted("tx pkts=?, bytes=?"), None);
    }
}
