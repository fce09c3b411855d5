//! Ports: what the pipeline must know of them.

use crate::Word;
use flowlane_wire::{Flag, Mac, header::ethernet};

/// Ports are numbered from 1 to one less than this.
pub const MAX_PORTS: u16 = 1024;

/// Receive queues of a port that AF_XDP sockets can be for.
pub const QUEUES_MAX: u32 = 256;

/// Properties of a port, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags(pub u16);

impl PortFlags {
    /// Frames can be sent by the port now: it exists, and its link is up.
    pub const UP: Self = Self(1);
    /// Frames leave with the port's own address as their source instead of the flow's address, because a learning
    /// bridge lies on both sides of the switch.
    pub const OWN_SOURCE: Self = Self(2);
    /// The port takes socket buffers only: not every virtual interface takes the frames of XDP, and one that does not
    /// loses them without a word. XDP on another port hands such a frame up to tc, which sends it.
    pub const BUFFERS: Self = Self(4);
    /// Flagged packets of addresses and ports that have no flow yet are refused: the port has as many as it may have.
    pub const NO_NEW_FLOWS: Self = Self(8);
    /// The virtual-circuit flag is added to packets that come in by the port (claim 23), instead of being read.
    pub const MARKS: Self = Self(16);

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One port, in one cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PortEntry {
    /// Interface index (high 32 bits) and MTU (low 32 bits).
    link: Word,
    /// The port's own Ethernet address (high 48 bits) and its flags.
    own: Word,
    /// The [`Flag`] that is read or added on the port.
    flag: Word,
    /// How many flagged frames have been given to the control path and not been answered yet.
    asking: Word,
    /// The length of the longest plain frame, 0 where none is.
    plain_room: Word,
    reserved: [Word; 3],
}

const _: () = assert!(size_of::<PortEntry>() == 64);

impl PortEntry {
    /// Writes the port: its kernel interface, its MTU in octets (without the Ethernet header), address and flags.
    pub fn set(&self, ifindex: u32, mtu: u32, mac: Mac, flags: PortFlags) {
        self.link.store(u64::from(ifindex) << 32 | u64::from(mtu));
        self.own.store(mac.to_u64() << 16 | u64::from(flags.0));
        let is_plain = flags.has(PortFlags::UP) && !flags.has(PortFlags::OWN_SOURCE) && !flags.has(PortFlags::BUFFERS);
        self.plain_room.store(if is_plain { u64::from(mtu) + ethernet::LEN as u64 } else { 0 });
    }

    /// Says by what the virtual-circuit flag is known on the port; nothing where the port does not look for it.
    pub fn set_flag(&self, flag: Option<Flag>) {
        self.flag.store(flag.map_or(0, Flag::to_word));
    }

    /// By what the virtual-circuit flag is known on the port, if the port looks for it.
    #[inline(always)]
    pub fn flag(&self) -> Option<Flag> {
        Flag::from_word(self.flag.load())
    }

    /// The number of flagged frames that have been given to the control path and not been answered yet. The data path
    /// counts up, by compare-and-swap and to [`crate::ASKING_LIMIT`]; the control path counts down.
    #[inline(always)]
    pub fn asking(&self) -> &Word {
        &self.asking
    }

    /// The kernel's interface index, 0 where there is none.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        (self.link.load() >> 32) as u32
    }

    /// The MTU in octets, without the Ethernet header.
    #[inline(always)]
    pub fn mtu(&self) -> u32 {
        self.link.load() as u32
    }

    /// The length in octets, with the Ethernet header, of the longest frame that leaves by the port just as its flow's slot
    /// says. 0 where none does: the port is down, sends by its own address, or takes socket buffers only.
    #[inline(always)]
    pub fn plain_room(&self) -> u32 {
        self.plain_room.load() as u32
    }

    /// The port's own Ethernet address.
    #[inline(always)]
    pub fn mac(&self) -> Mac {
        Mac::from_u64(self.own.load() >> 16)
    }

    /// The port's properties.
    #[inline(always)]
    pub fn flags(&self) -> PortFlags {
        PortFlags(self.own.load() as u16)
    }
}
