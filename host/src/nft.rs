//! Puts packets into flows by nftables alone, where the kernel takes no BPF program.
//!
//! ```text
//!     output hook (inet)      the packet's cgroup, or the namespace -> mark of the run, where there is no mark
//!     egress hook (netdev)    (interface, mark, destination)        -> chain of the flow: flow address, counted, mark gone
//!                             no such flow: told to the daemon (NFLOG), and sent as it is, or dropped if flows are required
//! ```
//!
//! The flows are elements with a timeout, so that they end by themselves when nobody renews them. Everything stands in two
//! tables, each named `flowlane_NAME`; every change is one transaction of the kernel.
//!
//! What differs from the BPF program: the first packets to a destination do not wait for its flow; packets that have a mark
//! already are left alone; a run's mark can be seen by rules of others between the two hooks; a super-packet is counted as
//! one packet; sockets have no flows of their own; what a namespace forwards for others is in no run.
//!
//! All calls start the program `nft` and wait for it: milliseconds.

mod events;
mod listing;
mod program;
mod script;

pub use events::NewDestinations;

use crate::nft::{
    listing::Listing,
    program::Nft,
    script::{Script, Verdict},
};
use flowlane_tables::{PATHS_MAX, RUN_FLOWS, RunKey};
use flowlane_wire::Mac;
use nix::time::{ClockId, clock_gettime};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::PathBuf,
    time::Duration,
};

/// The highest number of a run: a mark has 24 bits for it.
pub const RUN_MAX: u32 = !MARK_MASK;

/// The first octet of every mark that is set here.
const MARK_BASE: u32 = 0xf100_0000;
const MARK_MASK: u32 = 0xff00_0000;

/// Why nftables did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not there.
    #[error("the program `nft` is not installed: apt install nftables")]
    Missing,
    /// The program could not be run.
    #[error("can not run `nft`")]
    Program(#[source] io::Error),
    /// The kernel, or the program, refused a change. Nothing of it was done.
    #[error("nftables refused: {0}")]
    Refused(String),
    /// The program's listing is not what it documents in libnftables-json(5).
    #[error("can not read the listing of `nft`")]
    Listing(#[from] serde_json::Error),
    /// The cgroups could not be shown to the program under names of our own; this needs `CAP_SYS_ADMIN`.
    #[error("can not show cgroups to `nft`")]
    Cgroups(#[source] io::Error),
    /// The kernel does not tell of new destinations: it lacks NFLOG, or this process lacks `CAP_NET_ADMIN`.
    #[error("can not listen for new destinations (NFLOG)")]
    Events(#[source] io::Error),
    /// A name of a table or an interface that can not be written in a rule.
    #[error("`{0}` can not stand in a rule of nftables")]
    Name(String),
    /// The number of a run is 0 or above [`RUN_MAX`].
    #[error("a run's number is from 1 to {RUN_MAX}, not {0}")]
    Run(u32),
    /// A flow has 1 to [`PATHS_MAX`] addresses.
    #[error("a flow has 1 to {PATHS_MAX} addresses, not {0}")]
    Paths(usize),
    /// There is no entry of this key.
    #[error("there is no flow of run {} on interface {}", .0.run, .0.ifindex)]
    NoSuchFlow(RunKey),
    /// All [`RUN_FLOWS`] entries are taken.
    #[error("all {RUN_FLOWS} flows of this host are taken")]
    Full,
    /// Sockets can not be told apart here.
    #[error("nftables can not tell a program's sockets apart: put the program, or its cgroup, into flows")]
    Sockets,
}

/// A result with [`NftError`].
pub type Result<T> = std::result::Result<T, NftError>;

/// A cgroup whose packets are put into flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its directory; also by the view of another process, `/proc/PID/root/...`, which is the same for all groups then.
    pub path: PathBuf,
    /// The inode of the directory.
    pub id: u64,
    /// How deep it lies below the root of the cgroup2 hierarchy, or of this process's cgroup namespace; the root is 0.
    pub level: u32,
    /// The run's number.
    pub run: u32,
    /// Whether packets without a flow are dropped.
    pub required: bool,
}

/// What was sent to one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// By each path: packets, a super-packet counted as one, and their octets as they left, with the Ethernet header.
    pub paths: Vec<(u64, u64)>,
    /// Packets without a flow address: sent as they were, or dropped.
    pub passed: u64,
}

/// The rules of one network namespace: that of the thread that opened them. They stay when this is dropped.
#[derive(Debug)]
pub struct NftRuns {
    nft: Nft,
    script: Script,
    /// The NFLOG group that tells of new destinations.
    log_group: u16,
    /// Whether the tables are there: see [`NftRuns::rest`].
    is_set_up: bool,
    groups: BTreeMap<u64, Group>,
    namespace: Option<(u32, bool)>,
    interfaces: BTreeSet<u32>,
    flows: HashMap<RunKey, Flow>,
    free: Vec<u32>,
}

/// A destination of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    /// The number of its chain.
    index: u32,
    /// How many counters of paths there are.
    paths: usize,
    /// What its chain does; nothing if a predecessor wrote it.
    verdict: Option<Verdict>,
}

impl NftRuns {
    /// Makes the rules, or adopts those that a predecessor of this name has left (`true`): its interfaces, flows and
    /// counters are kept, and its cgroups until the first change to the cgroups or the namespace, so hand all of them to
    /// [`NftRuns::set_groups`]. `name` is made of letters, digits, `_` and `-`.
    ///
    /// # Errors
    /// [`NftError::Name`], [`NftError::Missing`], [`NftError::Refused`] without `CAP_NET_ADMIN`, [`NftError::Events`].
    pub fn open(name: &str) -> Result<(Self, NewDestinations, bool)> {
        let (nft, mut script) = (Nft::find()?, Script::new(name)?);
        let (events, log_group) = NewDestinations::open().map_err(NftError::Events)?;
        let left = Listing::read(&nft, script.table())?;
        script.set_up(log_group);
        nft.run(&script.take())?;
        let adopted = left.is_some();
        let Listing { interfaces, flows, free } = left.unwrap_or_default();
        let (groups, namespace, is_set_up) = (BTreeMap::new(), None, true);
        let runs = Self { nft, script, log_group, is_set_up, groups, namespace, interfaces, flows, free };
        Ok((runs, events, adopted))
    }

    /// Removes the tables if they put no packet into a flow: there is no run, no interface and no flow. They are made again
    /// with the first of them.
    ///
    /// # Errors
    /// [`NftError::Refused`].
    pub fn rest(&mut self) -> Result<()> {
        let no_runs = self.groups.is_empty() && self.namespace.is_none();
        if self.is_set_up && no_runs && self.interfaces.is_empty() && self.flows.is_empty() {
            self.script.remove();
            self.commit()?;
            self.is_set_up = false;
            self.free.clear();
        }
        Ok(())
    }

    /// Puts packets that leave by an interface into flows. Again for an attached one: no change.
    ///
    /// # Errors
    /// [`NftError::Name`] for a name with characters of the rules' own, [`NftError::Refused`] where the kernel (before
    /// Linux 6.16) knows no interface of this name.
    pub fn attach(&mut self, interface: &str, ifindex: u32) -> Result<()> {
        self.script.attach(interface, ifindex)?;
        self.commit()?;
        self.interfaces.insert(ifindex);
        Ok(())
    }

    /// Leaves packets of an interface alone, also if the interface is gone.
    ///
    /// # Errors
    /// [`NftError::Refused`].
    pub fn detach(&mut self, ifindex: u32) -> Result<()> {
        if self.interfaces.contains(&ifindex) {
            self.script.detach(ifindex);
            self.commit()?;
            self.interfaces.remove(&ifindex);
        }
        Ok(())
    }

    /// The interfaces whose packets are put into flows, by index.
    pub fn attached(&self) -> Vec<u32> {
        self.interfaces.iter().copied().collect()
    }

    /// Puts the packets of a cgroup, and of all below it that are not named themselves, into flows.
    ///
    /// # Errors
    /// [`NftError::Run`], [`NftError::Cgroups`], [`NftError::Refused`].
    pub fn add_cgroup(&mut self, group: Group) -> Result<()> {
        let mut groups = self.groups.clone();
        groups.insert(group.id, group);
        self.replace(groups, self.namespace)
    }

    /// Leaves the packets of a cgroup alone, also if it is gone.
    ///
    /// # Errors
    /// [`NftError::Cgroups`], [`NftError::Refused`].
    pub fn remove_cgroup(&mut self, id: u64) -> Result<()> {
        let mut groups = self.groups.clone();
        groups.remove(&id);
        self.replace(groups, self.namespace)
    }

    /// Exactly these cgroups and this run of the whole namespace from now on, in one change: for who adopts.
    ///
    /// # Errors
    /// As [`NftRuns::add_cgroup`].
    pub fn set_groups(&mut self, groups: Vec<Group>, namespace: Option<(u32, bool)>) -> Result<()> {
        self.replace(groups.into_iter().map(|group| (group.id, group)).collect(), namespace)
    }

    /// The run, and whether flows are required, of all that the namespace sends and no cgroup's run has.
    ///
    /// # Errors
    /// As [`NftRuns::add_cgroup`].
    pub fn set_namespace(&mut self, run: Option<(u32, bool)>) -> Result<()> {
        self.replace(self.groups.clone(), run)
    }

    /// Refuses: see the module.
    ///
    /// # Errors
    /// [`NftError::Sockets`] always.
    pub fn add_socket(&mut self, _cookie: u64, _run: u32, _required: bool) -> Result<()> {
        Err(NftError::Sockets)
    }

    /// Takes an entry for a key, where there is none: its packets leave as they are, or are dropped if flows are required,
    /// and are not told of any more until `until`, in nanoseconds of the boot-time clock. Who is told of a key that has an
    /// entry knows that its time has passed.
    ///
    /// # Errors
    /// [`NftError::Run`], [`NftError::Full`], [`NftError::Refused`].
    pub fn want(&mut self, key: &RunKey, required: bool, until: u64) -> Result<()> {
        mark(key.run)?;
        if self.flows.contains_key(key) {
            return Ok(());
        }
        let index = self.free_index()?;
        let flow = Flow { index, paths: 0, verdict: Some(if required { Verdict::Drop } else { Verdict::Pass }) };
        self.write(key, &flow, until)?;
        self.free.retain(|free| *free != index);
        self.flows.insert(*key, flow);
        Ok(())
    }

    /// Packets of this key get one of these flow addresses, by connection, in the source or the destination field, until
    /// `until`. Again, for a renewed lease.
    ///
    /// # Errors
    /// [`NftError::NoSuchFlow`], [`NftError::Paths`], [`NftError::Refused`].
    pub fn open_flow(&mut self, key: &RunKey, addresses: &[Mac], source_field: bool, until: u64) -> Result<()> {
        if !(1..=PATHS_MAX).contains(&addresses.len()) {
            return Err(NftError::Paths(addresses.len()));
        }
        self.change(key, Verdict::Open { addresses: addresses.to_vec(), source_field }, until)
    }

    /// Packets of this key leave as they are, until `until`; then they are told of again.
    ///
    /// # Errors
    /// [`NftError::NoSuchFlow`], [`NftError::Refused`].
    pub fn plain(&mut self, key: &RunKey, until: u64) -> Result<()> {
        self.change(key, Verdict::Pass, until)
    }

    /// Packets of this key are dropped until it is forgotten.
    ///
    /// # Errors
    /// [`NftError::NoSuchFlow`], [`NftError::Refused`].
    pub fn cut(&mut self, key: &RunKey) -> Result<()> {
        self.change(key, Verdict::Drop, u64::MAX)
    }

    /// Frees the entry of a key: its next packet is told of again. One that there is not is no error.
    ///
    /// # Errors
    /// [`NftError::Refused`].
    pub fn forget(&mut self, key: &RunKey) -> Result<()> {
        if let Some(flow) = self.flows.get(key) {
            self.script.forget(key, flow.index, flow.paths);
            let index = flow.index;
            self.commit()?;
            self.flows.remove(key);
            self.free.push(index);
        }
        Ok(())
    }

    /// The keys that have an entry.
    pub fn keys(&self) -> impl Iterator<Item = &RunKey> {
        self.flows.keys()
    }

    /// What was sent to each destination.
    ///
    /// # Errors
    /// [`NftError::Refused`] if the tables are gone, [`NftError::Listing`].
    pub fn counters(&self) -> Result<HashMap<RunKey, FlowCounters>> {
        if !self.is_set_up {
            return Ok(HashMap::new());
        }
        let counters = listing::counters(&self.nft, self.script.table())?;
        let of = |name: String| counters.get(&name).copied().unwrap_or_default();
        let flows = self.flows.iter().map(|(key, flow)| {
            let paths = (0..flow.paths).map(|path| of(script::path_counter(flow.index, path))).collect();
            (*key, FlowCounters { paths, passed: of(script::chain(flow.index)).0 })
        });
        Ok(flows.collect())
    }

    /// Removes all rules of a name, in this thread's network namespace. None is no error.
    ///
    /// # Errors
    /// [`NftError::Name`], [`NftError::Missing`], [`NftError::Refused`].
    pub fn remove(name: &str) -> Result<()> {
        let mut script = Script::new(name)?;
        script.remove();
        Nft::find()?.run(&script.take())
    }

    fn replace(&mut self, groups: BTreeMap<u64, Group>, namespace: Option<(u32, bool)>) -> Result<()> {
        let runs = groups.values().map(|group| group.run).chain(namespace.map(|(run, _)| run));
        runs.map(mark).collect::<Result<Vec<_>>>()?;
        let shown: Vec<&Group> = groups.values().collect();
        let set_up = self.set_up();
        self.nft.run_with(&shown, |present| set_up + &self.script.runs(present, namespace))?;
        self.is_set_up = true;
        (self.groups, self.namespace) = (groups, namespace);
        Ok(())
    }

    fn change(&mut self, key: &RunKey, verdict: Verdict, until: u64) -> Result<()> {
        let known = self.flows.get(key).ok_or(NftError::NoSuchFlow(*key))?;
        let paths = known.paths.max(verdict.paths());
        let flow = Flow { index: known.index, paths, verdict: Some(verdict) };
        self.write(key, &flow, until)?;
        self.flows.insert(*key, flow);
        Ok(())
    }

    /// Writes the chain of a flow where it differs, and its element.
    fn write(&mut self, key: &RunKey, flow: &Flow, until: u64) -> Result<()> {
        let known = self.flows.get(key).and_then(|known| known.verdict.as_ref());
        if let Some(verdict) = flow.verdict.as_ref().filter(|verdict| Some(*verdict) != known) {
            self.script.flow(flow.index, verdict);
        }
        self.script.element(key, flow.index, remaining(until));
        self.commit()
    }

    fn free_index(&self) -> Result<u32> {
        let next = || u32::try_from(self.flows.len() + self.free.len()).ok().filter(|next| *next < RUN_FLOWS);
        self.free.last().copied().or_else(next).ok_or(NftError::Full)
    }

    fn commit(&mut self) -> Result<()> {
        let changes = self.script.take();
        let set_up = self.set_up();
        self.nft.run(&(set_up + &changes))?;
        self.is_set_up = true;
        Ok(())
    }

    /// What comes before a change where the tables are not there.
    fn set_up(&mut self) -> String {
        if !self.is_set_up {
            self.script.set_up(self.log_group);
        }
        self.script.take()
    }
}

/// The time of [`NftRuns::want`] and its kin: nanoseconds since the start of the machine.
pub fn boot_nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// How long an element lasts; nothing for ever. A time that has passed ends at once.
fn remaining(until: u64) -> Option<Duration> {
    let left = Duration::from_nanos(until.saturating_sub(boot_nanos()));
    (until != u64::MAX).then_some(left.max(Duration::from_millis(1)))
}

/// The mark of a run's packets.
fn mark(run: u32) -> Result<u32> {
    if (1..=RUN_MAX).contains(&run) { Ok(MARK_BASE | run) } else { Err(NftError::Run(run)) }
}
