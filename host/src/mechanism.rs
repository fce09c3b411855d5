//! How packets are put into flows.

mod bpf;
mod nft;

use crate::{
    cgroup::Cgroup,
    engine::Command,
    nft::{NftError, NftRuns},
};
use flowlane_allot::Field;
use flowlane_program::{ProgramError, Runs};
use flowlane_tables::RunKey;
use flowlane_wire::Mac;
use serde::{Deserialize, Serialize};
use std::io;

pub use bpf::Bpf;
pub use nft::Nft;

/// What an administrator has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MechanismChoice {
    /// BPF, or nftables where the kernel refuses BPF programs; a predecessor's, where there is one.
    #[default]
    Auto,
    /// BPF only.
    Bpf,
    /// nftables only.
    Nft,
}

impl MechanismChoice {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bpf => "bpf",
            Self::Nft => "nft",
        }
    }
}

/// Which one is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A program in the kernel.
    #[default]
    Bpf,
    /// nftables' rules.
    Nft,
}

/// Why packets can not be put into flows, or not as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MechanismError {
    /// BPF does not do it.
    #[error(transparent)]
    Bpf(#[from] ProgramError),
    /// nftables do not do it.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// Neither does it.
    #[error("{bpf}; and without BPF: {nft}")]
    Neither {
        /// What BPF says.
        bpf: Box<ProgramError>,
        /// What nftables say.
        nft: Box<NftError>,
    },
}

/// A result with [`MechanismError`].
pub type Result<T> = std::result::Result<T, MechanismError>;

/// What becomes of the packets to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They get one of these flow addresses in this field, until a time of the boot-time clock in milliseconds.
    Open(Vec<Mac>, Field, u64),
    /// They leave as they are.
    Plain,
    /// They are dropped.
    Cut,
}

/// What was sent to a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets and their octets on the wire, by path.
    pub paths: Vec<(u64, u64)>,
    /// Packets that left as they were.
    pub passed: u64,
}

impl Counters {
    /// All packets.
    pub fn packets(&self) -> u64 {
        self.paths.iter().fold(self.passed, |sum, (packets, _)| sum.wrapping_add(*packets))
    }
}

/// The means at hand.
pub enum Mechanism {
    /// A program in the kernel.
    Bpf(Box<Bpf>),
    /// nftables' rules.
    Nft(Box<Nft>),
}

impl Mechanism {
    /// Makes the tables, or adopts those that a predecessor of this name has left, who used this kind: then its runs are to be
    /// added again, and [`Mechanism::adopted`] follows. What a predecessor of another kind, or an unknown one, has left is
    /// removed. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`MechanismError`], where the kernel refuses.
    pub fn open(name: &str, choice: MechanismChoice, predecessor: Option<Kind>) -> Result<Self> {
        let kind = match choice {
            MechanismChoice::Auto => predecessor,
            MechanismChoice::Bpf => Some(Kind::Bpf),
            MechanismChoice::Nft => Some(Kind::Nft),
        };
        if let Some(predecessor) = predecessor.filter(|predecessor| Some(*predecessor) != kind) {
            Self::remove(name, predecessor)?;
        }
        match kind {
            Some(kind) if predecessor == Some(kind) => Self::adopt(name, kind),
            Some(kind) => Self::begin(name, kind),
            None => Self::begin_with_any(name),
        }
    }

    /// Removes all that a daemon of this name has left in the kernel.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn remove(name: &str, kind: Kind) -> Result<()> {
        match kind {
            Kind::Bpf => Runs::remove(name)?,
            Kind::Nft => NftRuns::remove(name)?,
        }
        Ok(())
    }

    /// Which it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Bpf(_) => Kind::Bpf,
            Self::Nft(_) => Kind::Nft,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bpf(_) => "bpf",
            Self::Nft(_) => "nft",
        }
    }

    /// All runs of a predecessor that go on have been added.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn adopted(&mut self) -> Result<()> {
        match self {
            Self::Bpf(_) => {}
            Self::Nft(nft) => nft.adopted()?,
        }
        Ok(())
    }

    /// Looks at the packets that leave by an interface.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn attach(&mut self, interface: &str, ifindex: u32) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.runs.attach(interface, ifindex)?,
            Self::Nft(nft) => nft.runs.attach(interface, ifindex)?,
        }
        Ok(())
    }

    /// Looks at an interface's packets no longer.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn detach(&mut self, ifindex: u32) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.detach(ifindex)?,
            Self::Nft(nft) => nft.detach(ifindex)?,
        }
        Ok(())
    }

    /// The interfaces whose packets are looked at.
    pub fn attached(&self) -> Vec<u32> {
        match self {
            Self::Bpf(bpf) => bpf.runs.attached(),
            Self::Nft(nft) => nft.runs.attached(),
        }
    }

    /// Makes a run of a cgroup, and says whether flows are required.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn add_cgroup(&mut self, cgroup: &Cgroup, run: u32, required: bool) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.runs.add_cgroup(cgroup.id(), cgroup.level(), run, required)?,
            Self::Nft(nft) => nft.add_cgroup(cgroup, run, required)?,
        }
        Ok(())
    }

    /// A cgroup is a run no longer; by its number, for it may be gone.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn remove_cgroup(&mut self, id: u64) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.runs.remove_cgroup(id)?,
            Self::Nft(nft) => nft.remove_cgroup(id)?,
        }
        Ok(())
    }

    /// Makes a run of a socket, by its cookie.
    ///
    /// # Errors
    /// [`MechanismError`]; always [`NftError::Sockets`] by nftables.
    pub fn add_socket(&mut self, cookie: u64, run: u32, required: bool) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.runs.add_socket(cookie, run, required)?,
            Self::Nft(nft) => nft.runs.add_socket(cookie, run, required)?,
        }
        Ok(())
    }

    /// A socket is a run no longer.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn remove_socket(&mut self, cookie: u64) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.runs.remove_socket(cookie)?,
            // There is none.
            Self::Nft(_) => {}
        }
        Ok(())
    }

    /// Makes a run of the whole network namespace, or of nothing.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn set_namespace(&mut self, run: Option<(u32, bool)>) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.runs.set_namespace(run)?,
            Self::Nft(nft) => nft.set_namespace(run)?,
        }
        Ok(())
    }

    /// Makes the packets to a destination wait for [`Mechanism::decide`], also the first. By nftables none waits: they leave
    /// as they are, or are dropped where flows are required.
    ///
    /// # Errors
    /// [`ProgramError::RunsFull`].
    pub fn want(&mut self, key: &RunKey, required: bool) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.want(key, required).map(drop)?,
            Self::Nft(_) => {}
        }
        Ok(())
    }

    /// Decides what becomes of the packets to a destination, of those that wait first.
    ///
    /// # Errors
    /// [`ProgramError::RunsFull`], [`NftError::Full`].
    pub fn decide(&mut self, key: RunKey, required: bool, fate: Fate) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.decide(key, required, fate)?,
            Self::Nft(nft) => nft.decide(&key, required, &fate)?,
        }
        Ok(())
    }

    /// Knows nothing of a destination any more.
    ///
    /// # Errors
    /// [`MechanismError`].
    pub fn forget(&mut self, key: &RunKey) -> Result<()> {
        match self {
            Self::Bpf(bpf) => bpf.forget(key)?,
            Self::Nft(nft) => nft.forget(key)?,
        }
        Ok(())
    }

    /// What was sent to a destination; by nftables, up to a second ago.
    pub fn counters(&self, key: &RunKey) -> Counters {
        match self {
            Self::Bpf(bpf) => bpf.counters(key),
            Self::Nft(nft) => nft.counters(key),
        }
    }

    /// The destinations that there are entries for: a predecessor's, or the kernel's own.
    pub fn destinations(&self) -> Vec<RunKey> {
        match self {
            Self::Bpf(bpf) => bpf.destinations(),
            Self::Nft(nft) => nft.runs.keys().copied().collect(),
        }
    }

    /// Waits until there is work.
    pub async fn ready(&mut self) {
        match self {
            Self::Bpf(bpf) => bpf.ready().await,
            Self::Nft(nft) => nft.ready().await,
        }
    }

    /// Does what there is to do. The destinations whose first packets wait, or have left.
    pub fn work(&mut self) -> Vec<RunKey> {
        match self {
            Self::Bpf(bpf) => bpf.work(),
            Self::Nft(nft) => nft.work(),
        }
    }

    /// Sends all that waits as it is, for nobody will answer any more.
    pub fn flush(&mut self) {
        match self {
            Self::Bpf(bpf) => bpf.flush(),
            Self::Nft(_) => {}
        }
    }

    /// Sends what waits here as it is; a successor takes what comes.
    pub fn let_go(&mut self) {
        match self {
            Self::Bpf(bpf) => bpf.let_go(),
            Self::Nft(_) => {}
        }
    }

    /// An interface is gone.
    pub fn interface_gone(&mut self, ifindex: u32) {
        match self {
            Self::Bpf(bpf) => bpf.interface_gone(ifindex),
            Self::Nft(nft) => {
                if let Err(error) = nft.detach(ifindex) {
                    tracing::debug!(%error, ifindex, "what was attached to an interface that is gone");
                }
            }
        }
    }

    fn begin_with_any(name: &str) -> Result<Self> {
        match Self::begin(name, Kind::Bpf) {
            Err(MechanismError::Bpf(bpf)) if is_refusal(&bpf) => Self::begin_without_bpf(name, bpf),
            done => done,
        }
    }

    fn begin_without_bpf(name: &str, bpf: ProgramError) -> Result<Self> {
        // Directories may have been made before it was refused.
        if let Err(error) = Runs::remove(name) {
            tracing::debug!(%error, "what was made for BPF");
        }
        match Self::begin(name, Kind::Nft) {
            Ok(nft) => {
                tracing::warn!(error = %bpf, "nftables put packets into flows, without BPF: the first ones leave plain");
                Ok(nft)
            }
            Err(MechanismError::Nft(nft)) => Err(MechanismError::Neither { bpf: bpf.into(), nft: nft.into() }),
            Err(other) => Err(other),
        }
    }

    /// Without a predecessor, or with one that nothing is known of.
    fn begin(name: &str, kind: Kind) -> Result<Self> {
        Self::remove(name, kind)?;
        Self::adopt(name, kind)
    }

    fn adopt(name: &str, kind: Kind) -> Result<Self> {
        match kind {
            Kind::Bpf => Ok(Self::Bpf(Box::new(Bpf::open(name)?))),
            Kind::Nft => Ok(Self::Nft(Box::new(Nft::open(name)?))),
        }
    }
}

/// Whether the kernel refuses BPF as such: nothing that is done on this host in the same way would succeed.
fn is_refusal(error: &ProgramError) -> bool {
    use ProgramError::*;
    match error {
        Load(_) | Attach { .. } | NoBpffs(_) | OldKernel | Map { .. } | MapAccess { .. } => true,
        File { source, .. } => matches!(
            source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::Unsupported
        ),
        _ => false,
    }
}

/// What a command of the engine decides.
pub fn fate_of(command: Command) -> Option<(RunKey, Fate)> {
    match command {
        Command::Open { key, addresses, field, until } => Some((key, Fate::Open(addresses, field, until))),
        Command::Plain(key) => Some((key, Fate::Plain)),
        Command::Cut(key) => Some((key, Fate::Cut)),
        _ => None,
    }
}
