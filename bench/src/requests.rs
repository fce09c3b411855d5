//! How fast a switch leases flows: the whole program, asked by DHCPv6, with its leases on disk before it answers.

mod clients;
mod limit;

use crate::{
    Error,
    frame::{SOURCE, destination_of, template},
    kea,
    path::Path,
};
use clients::Clients;
use flowlane_lab::{Direction, Injector, IpNet, Tap};
use flowlane_program::Kernel;
use limit::Limit;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;
use std::{
    collections::HashSet,
    fs,
    net::Ipv4Addr,
    ops::Range,
    path::Path as File,
    process::{self, Child, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Clients of a round. A round is by four messages, the next by two.
const CLIENTS: u32 = 20_000;
const ROUNDS: u32 = 5;
/// As many as there are clients in all, and more.
const SLOTS: u32 = 1 << 18;
/// Flows whose first frame is timed.
const FIRSTS: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(30);

/// How fast a switch leases flows.
#[derive(Clone, Debug, Serialize)]
pub struct Requests {
    /// Leases a second by four messages (Solicit, Advertise, Request, Reply), each on disk before it is acknowledged.
    pub leases_per_second: f64,
    /// The same by two messages (Rapid Commit).
    pub rapid_leases_per_second: f64,
    /// Leases by four messages for each second of processor time that the switch takes.
    pub leases_per_processor_second: f64,
    /// The same by two messages.
    pub rapid_leases_per_processor_second: f64,
    /// Leases a second by four messages of a server that grants every client the same and keeps nothing: what messages cost by
    /// themselves, at both ends, and so the limit on this machine.
    pub limit_per_second: f64,
    /// The same by two messages.
    pub rapid_limit_per_second: f64,
    /// How much of a processor those who ask take meanwhile: well below 1, it is not they who are measured.
    pub clients_share: f64,
    /// Messages that had to be sent again.
    pub resent: u64,
    /// Milliseconds from a client's first message until a frame to the flow's address has come out at the receiver: median.
    pub first_frame_ms: f64,
    /// The greatest of them.
    pub first_frame_ms_max: f64,
    /// Leases a second by four messages of ISC Kea, which does not wait for the disk. None where it is not installed.
    pub kea_leases_per_second: Option<f64>,
    /// Its leases by four messages for each second of processor time that it takes.
    pub kea_leases_per_processor_second: Option<f64>,
}

/// How fast a server leases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Leases a second, while those who ask share the processors.
    pub per_second: f64,
    /// Leases for each second of processor time that the server takes.
    pub per_processor_second: f64,
}

/// Asks the switch in this file, the program `flowlane`.
///
/// # Errors
/// [`Error`] where it does not start or does not answer.
pub fn requests(program: &File) -> Result<Requests, Error> {
    let switch = Switch::start(program)?;
    let mut clients = Clients::new(&switch.path.source)?;
    // It answers when it is ready.
    clients.lease(0..1, true)?;
    let mut first: Vec<f64> =
        (1..=FIRSTS).map(|number| switch.first_frame(&mut clients, number)).collect::<Result<_, _>>()?;
    first.sort_by(f64::total_cmp);
    let (mut from, mut shares, mut four, mut two) = (FIRSTS + 1, Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (rapid_commit, rates) in [(false, &mut four), (true, &mut two)] {
            let (rate, share) = switch.rate(&mut clients, from..from + CLIENTS, rapid_commit)?;
            rates.push(rate);
            shares.push(share);
            from += CLIENTS;
        }
    }
    let (four, two) = (Rate::median(&four), Rate::median(&two));
    let [limit_per_second, rapid_limit_per_second] = limit_rates()?;
    let kea = kea::is_there().then(kea::rate).transpose()?;
    Ok(Requests {
        leases_per_second: four.per_second,
        rapid_leases_per_second: two.per_second,
        leases_per_processor_second: four.per_processor_second,
        rapid_leases_per_processor_second: two.per_processor_second,
        limit_per_second,
        rapid_limit_per_second,
        clients_share: median(shares),
        resent: clients.resent,
        first_frame_ms: first[first.len() / 2],
        first_frame_ms_max: first.last().copied().unwrap_or(f64::NAN),
        kea_leases_per_second: kea.map(|kea| kea.per_second),
        kea_leases_per_processor_second: kea.map(|kea| kea.per_processor_second),
    })
}

/// Leases a second of a server that keeps nothing, by four messages and by two.
fn limit_rates() -> Result<[f64; 2], Error> {
    let path = Path::with_ipv6()?;
    let _limit = Limit::start(&path.ingress)?;
    let mut clients = Clients::new(&path.source)?;
    clients.lease(0..1, true)?;
    let mut rate = |rapid_commit| {
        let rates = (0..ROUNDS).map(|_| {
            let leased = clients.lease(0..CLIENTS, rapid_commit)?;
            Ok(f64::from(CLIENTS) / leased.took.as_secs_f64())
        });
        rates.collect::<Result<_, Error>>().map(median)
    };
    Ok([rate(false)?, rate(true)?])
}

impl Rate {
    /// So many leases in this time, for this processor time.
    pub(crate) fn new(leases: f64, took: Duration, processor: Duration) -> Self {
        let per = |time: Duration| leases / time.as_secs_f64();
        Self { per_second: per(took), per_processor_second: per(processor) }
    }

    fn median(rates: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| median(rates.iter().map(part).collect());
        Self { per_second: of(|rate| rate.per_second), per_processor_second: of(|rate| rate.per_processor_second) }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The processor time that all threads of a process have taken (`/proc/pid/task/tid/schedstat`, proc_pid_schedstat(5)).
pub(crate) fn processor_time(process: u32) -> Result<Duration, Error> {
    let failed = Error::system("read the server's processor time");
    let tasks = fs::read_dir(format!("/proc/{process}/task")).map_err(failed)?;
    let texts = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    let nanoseconds = texts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok());
    Ok(Duration::from_nanos(nanoseconds.sum()))
}

/// A running switch between a client and a receiver.
struct Switch {
    child: Child,
    name: String,
    path: Path,
    _directory: TempDir,
}

impl Switch {
    fn start(program: &File) -> Result<Self, Error> {
        let path = Path::with_ipv6()?;
        path.switch.sysctl("net/ipv4/ip_forward", "1")?;
        path.egress.add_address(net(destination_of(1)))?;
        path.destination.add_address(net(destination_of(2)))?;
        let directory = tempfile::tempdir().map_err(Error::system("make a directory for the switch"))?;
        let name = format!("bench-{}-requests", process::id());
        let root = directory.path().display();
        let text = format!(
            "name = \"{name}\"\nexecutor = \"tc\"\nslots = {SLOTS}\nstate_directory = \"{root}/state\"\n\
             runtime_directory = \"{root}/run\"\nlease.per_port = {SLOTS}\n[[port]]\ninterface = \"p1\"\n[[port]]\ninterface = \"p2\"\n"
        );
        let file = directory.path().join("switch.toml");
        fs::write(&file, text).map_err(Error::system("write the switch's configuration"))?;
        let mut command = path.switch.command(program);
        command.arg("switch").arg("--config").arg(file).env("RUST_LOG", "error");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(Error::system("start the switch"))?;
        Ok(Self { child, name, path, _directory: directory })
    }

    /// How fast these clients get their leases, and how much of a processor they take themselves.
    fn rate(&self, clients: &mut Clients, numbers: Range<u32>, rapid_commit: bool) -> Result<(Rate, f64), Error> {
        let (count, before) = (numbers.len(), processor_time(self.child.id())?);
        let leased = clients.lease(numbers, rapid_commit)?;
        let processor = processor_time(self.child.id())?.saturating_sub(before);
        if leased.addresses.iter().collect::<HashSet<_>>().len() < count {
            return Err(Error::Peer("the switch", "it gives one address to two clients"));
        }
        let share = leased.own.as_secs_f64() / leased.took.as_secs_f64();
        Ok((Rate::new(count as f64, leased.took, processor), share))
    }

    /// Milliseconds from a request until a frame of the new flow has come out.
    fn first_frame(&self, clients: &mut Clients, number: u32) -> Result<f64, Error> {
        let tap = Tap::start(&self.path.destination, |frame| {
            frame.direction == Direction::In && frame.bytes.get(30..34) == Some(&destination_of(2))
        })?;
        let injector = Injector::open(&self.path.source)?;
        let start = Instant::now();
        let leased = clients.lease(number..number + 1, true)?;
        let mut frame = template(64);
        let address = leased.addresses.last().copied().ok_or(Error::Incomplete("granted address"))?;
        frame[..6].copy_from_slice(&address.0);
        frame[6..12].copy_from_slice(&SOURCE.0);
        frame[30..34].copy_from_slice(&destination_of(2));
        injector.send(&frame)?;
        tap.wait_for(1, PATIENCE)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // What it leaves for a successor is removed: there will be none.
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)), Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = Kernel::remove(&self.name);
    }
}

fn net(address: [u8; 4]) -> IpNet {
    IpNet::new_assert(Ipv4Addr::from(address).into(), 24)
}
