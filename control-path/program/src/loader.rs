//! Copies of the switch's programs, one for each port, with what they know of it and of the machine as constants.

use crate::{ProgramError, jiffies::Jiffies};
use aya::{Ebpf, EbpfLoader, Pod};
use flowlane_wire::{Block, PortId};
use std::path::{Path, PathBuf};

/// A switch's programs as built for the kernel, from `data-path/kernel`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../data-path/kernel/switch.bpf.o");

/// What a kernel is started with.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// The switch's name: the directory of its pins.
    pub name: String,
    /// The switch's addresses.
    pub block: Block,
    /// The size of the queue to userspace in octets; a power of two, at least a page.
    pub queue_bytes: u32,
    /// Whether every frame is shown to userspace.
    pub show: bool,
}

/// The maps that all programs share, and the files that they are pinned to.
const SHARED: [(&str, &str); 7] = [
    ("SLOTS", "slots"),
    ("PORTS", "ports"),
    ("MULTICAST", "groups"),
    ("TUPLES", "tuples"),
    ("DEVICES", "devices"),
    ("COUNTS", "counts"),
    ("PUNTS", "punts"),
];

/// Words of a block, as the loader takes them.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct BlockWords([u64; 5]);

// SAFETY: plain numbers without padding.
unsafe impl Pod for BlockWords {}

/// Loads copies.
pub(crate) struct Loader {
    options: KernelOptions,
    /// Where the shared maps are pinned.
    maps: PathBuf,
    jiffies: Jiffies,
}

impl Loader {
    /// With a first copy, of no port, by which the maps are had: pinned ones are used, missing ones made and pinned.
    pub(crate) fn open(options: KernelOptions, maps: PathBuf) -> Result<(Self, Ebpf), ProgramError> {
        let mut loader = Self { options, maps, jiffies: Jiffies::default() };
        let mut object = loader.load(PortId::NONE)?;
        loader.jiffies = Jiffies::look(&mut object);
        Ok((loader, object))
    }

    /// A copy for a port.
    pub(crate) fn load(&self, port: PortId) -> Result<Ebpf, ProgramError> {
        self.load_with(port, false)
    }

    /// A copy for a port that has AF_XDP sockets.
    pub(crate) fn load_for_sockets(&self, port: PortId) -> Result<Ebpf, ProgramError> {
        self.load_with(port, true)
    }

    /// Where the shared maps are pinned.
    pub(crate) fn maps(&self) -> &Path {
        &self.maps
    }

    fn load_with(&self, port: PortId, sockets: bool) -> Result<Ebpf, ProgramError> {
        let words = BlockWords(self.options.block.to_words());
        let (number, show, sockets) = (port.0, u8::from(self.options.show), u8::from(sockets));
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global("BLOCK", &words, true)
            .override_global("PORT", &number, true)
            .override_global("SHOW", &show, true)
            .override_global("HAS_SOCKETS", &sockets, true)
            .override_global("JIFFIES", &self.jiffies, true)
            .map_max_entries("SLOTS", self.options.block.slots())
            .map_max_entries("TUPLES", self.options.block.slots())
            .map_max_entries("PUNTS", self.options.queue_bytes);
        for (name, file) in SHARED {
            loader.map_pin_path(name, self.maps.join(file));
        }
        Ok(loader.load(OBJECT).map_err(Box::new)?)
    }
}
