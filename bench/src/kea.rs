//! ISC Kea's DHCPv6 server, asked by perfdhcp: how fast it leases addresses.
//!
//! Its leases are in a file that it appends to and does not wait for (memfile): they are not on disk when it answers.

use crate::{
    Error,
    path::Path,
    requests::{Rate, processor_time},
};
use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

const SERVER: &str = "kea-dhcp6";
const PERFDHCP: &str = "perfdhcp";
/// What is offered, in exchanges a second: too much makes the server slower.
const OFFERED: [u32; 5] = [2_000, 4_000, 6_000, 8_000, 12_000];
const SECONDS: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether it can be measured here.
pub(crate) fn is_there() -> bool {
    [SERVER, PERFDHCP].into_iter().all(crate::micro::is_there)
}

/// Its best rate over all that is offered, by four messages (Solicit, Advertise, Request, Reply).
pub(crate) fn rate() -> Result<Rate, Error> {
    let path = Path::with_ipv6()?;
    let directory = tempfile::tempdir().map_err(Error::system("make a directory for Kea"))?;
    path.ingress.add_address("2001:db8::1/64".parse().map_err(|_| Error::Incomplete("address"))?)?;
    let (file, root) = (directory.path().join("kea.json"), directory.path().display().to_string());
    fs::write(&file, configuration(&root)).map_err(Error::system("write Kea's configuration"))?;
    let mut command = path.switch.command(SERVER);
    command.arg("-c").arg(&file).env("KEA_PIDFILE_DIR", &root).env("KEA_LOCKFILE_DIR", &root);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server(command.spawn().map_err(Error::system("start Kea"))?);
    wait_until_it_answers(&path)?;
    let mut best = Rate { per_second: 0.0, per_processor_second: f64::NAN };
    for offered in OFFERED {
        let before = processor_time(server.0.id())?;
        let per_second = exchanges(&path, offered, SECONDS)?;
        let processor = processor_time(server.0.id())?.saturating_sub(before);
        if per_second > best.per_second {
            best = Rate::new(per_second * SECONDS as f64, Duration::from_secs(SECONDS), processor);
        }
    }
    Ok(best)
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // What it has goes with the directory and the namespace.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until_it_answers(path: &Path) -> Result<(), Error> {
    let start = Instant::now();
    while exchanges(path, 10, 1)? == 0.0 {
        if start.elapsed() > PATIENCE {
            return Err(Error::Peer(SERVER, "it does not answer"));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Exchanges a second that were completed, of so many that were begun.
fn exchanges(path: &Path, rate: u32, seconds: u64) -> Result<f64, Error> {
    let mut command = path.source.netns().command(PERFDHCP);
    let (rate, seconds) = (rate.to_string(), seconds.to_string());
    command.args(["-6", "-l", path.source.name(), "-r", &rate, "-p", &seconds, "-R", "100000"]);
    let output = command.stdin(Stdio::null()).output().map_err(Error::system("start perfdhcp"))?;
    Ok(completed(&String::from_utf8_lossy(&output.stdout)).unwrap_or(0.0))
}

/// The figure in what perfdhcp says: `Rate: 5794.6 4-way exchanges/second, expected rate: 6000`.
fn completed(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("Rate:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn configuration(root: &str) -> String {
    serde_json::json!({ "Dhcp6": {
        "interfaces-config": { "interfaces": ["p1"] },
        "server-id": { "type": "LL", "persist": false },
        "lease-database": { "type": "memfile", "persist": true, "name": format!("{root}/leases6.csv"), "lfc-interval": 0 },
        "multi-threading": { "enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 64 },
        "subnet6": [{ "subnet": "2001:db8::/32", "interface": "p1", "pools": [{ "pool": "2001:db8:1::/48" }] }],
        "loggers": [{ "name": "kea-dhcp6", "severity": "ERROR", "output_options": [{ "output": format!("{root}/log") }] }],
    }})
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_in_what_perfdhcp_says() {
        let said =
            "Running: perfdhcp -6\n***Rate statistics***\nRate: 5794.6 4-way exchanges/second, expected rate: 6000\n";
        assert_eq!(completed(said), Some(5794.6));
        assert_eq!(completed("nothing"), None);
    }
}
