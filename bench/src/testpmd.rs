//! DPDK's testpmd between two null ports: what forwarding costs in userspace, without interfaces.

use crate::{Error, package, processor::thread_time};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Huge pages that it is given, and the same in megabytes.
pub(crate) const PAGES: u32 = 256;
const MEGABYTES: &str = "512";
/// The thread that forwards, by what is in its name.
const FORWARDS: &str = "-worker";
/// Processor time that it forwards for, and how long it may take to start and to do so.
const RUN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// A testpmd that forwards. It is killed when this is dropped.
pub(crate) struct Testpmd(Child);

impl Testpmd {
    /// One that forwards as this mode of it says: `io`, `macswap`.
    pub(crate) fn start(mode: &str) -> Result<Self, Error> {
        let mut command = Command::new(package::DPDK.program()?);
        command.args(["-l", "0,1", "--main-lcore", "0", "-n", "1", "--no-pci", "--in-memory", "-m", MEGABYTES]);
        command.args(["--no-telemetry", "--vdev=net_null0,size=60", "--vdev=net_null1,size=60", "--"]);
        command.arg(format!("--forward-mode={mode}"));
        command.args(["--total-num-mbufs=4096", "--nb-cores=1", "--no-flush-rx", "-a", "--stats-period=1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().map(Self).map_err(Error::system("start dpdk-testpmd"))
    }

    /// Its forwarding thread's nanoseconds for each frame. The thread sleeps until it forwards, and when it has.
    pub(crate) fn ns(mut self) -> Result<f64, Error> {
        let start = Instant::now();
        while self.forwarding_time().unwrap_or_default() < RUN && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(0));
        kill(pid, Signal::SIGINT).map_err(Error::system("stop dpdk-testpmd"))?;
        // It forwards until it hears of that.
        let mut busy = None;
        while self.0.try_wait().map_err(Error::system("wait for dpdk-testpmd"))?.is_none() && start.elapsed() < PATIENCE
        {
            busy = self.forwarding_time().or(busy);
            thread::sleep(Duration::from_millis(2));
        }
        match (busy, self.sent()?) {
            (Some(busy), Some(sent)) => Ok(busy.as_nanos() as f64 / sent as f64),
            _ => Err(Error::Peer("dpdk-testpmd", "it forwards nothing; it needs two processors and huge pages")),
        }
    }

    /// The frames that both ports have sent, which it says last.
    fn sent(&mut self) -> Result<Option<u64>, Error> {
        // Whoever is still there would hold the pipe open.
        let _ = self.0.kill();
        let mut said = String::new();
        let output = self.0.stdout.as_mut().map(|output| output.read_to_string(&mut said));
        output.unwrap_or(Ok(0)).map_err(Error::system("read what dpdk-testpmd says"))?;
        Ok(said.lines().rev().find_map(transmitted).filter(|sent| *sent > 0))
    }

    fn forwarding_time(&self) -> Option<Duration> {
        thread_time(self.0.id(), FORWARDS)
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It has nothing to put in order: its memory is its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The frames sent, in a line of testpmd's statistics: `TX-packets: 1234  TX-dropped: 0  TX-total: 1234`.
fn transmitted(line: &str) -> Option<u64> {
    line.trim_start().strip_prefix("TX-packets:")?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_sent_are_found_in_testpmds_statistics() {
        assert_eq!(
            transmitted("  TX-packets: 48838240   TX-errors: 0          TX-bytes:  2930294400"),
            Some(48_838_240)
        );
        assert_eq!(transmitted("  RX-packets: 122393728      RX-dropped: 0             RX-total: 122393728"), None);
    }
}
