//! A slot: all that a switch knows of one flow, in one cache line.

use crate::{NextHop, Rate, Resolution, Word};
use flowlane_wire::{FlowAddress, Mac, PortId, Restore};

/// Lease ends are kept in ticks of 2^30 nanoseconds (1.07 s) of the monotonic clock: a shift instead of a division.
pub const TICK_NANOS: u64 = 1 << 30;

/// The tick of a lease that never ends.
pub const NEVER: u32 = u32::MAX;

/// The tick at `nanos` of the monotonic clock.
#[inline(always)]
pub const fn ticks(nanos: u64) -> u32 {
    (nanos / TICK_NANOS) as u32
}

/// One flow of the table. A look-up is one array load and one compare with `key`.
///
/// Words are written and read one at a time; `key` is written last, so that a slot is found only when it is whole.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// Flow address as on the wire ([`Mac::to_wire`]) and, in the high 16 bits, the port that its frames come in by; 0 is a free
    /// slot.
    key: Word,
    /// The tick at which the lease ends (low 32 bits), a [`Restore`] (above them), and [`UNUSUAL`].
    terms: Word,
    /// A [`Resolution`].
    next: Word,
    /// A [`Resolution`] to use while the port of `next` is down.
    backup: Word,
    /// Frames forwarded.
    packets: Word,
    /// Octets forwarded, as on the wire without preamble and check sequence.
    bytes: Word,
    /// A [`Rate`].
    rate: Word,
    /// The state of the meter: when the bucket is full again, in sixteenths of a nanosecond of the monotonic clock.
    full_at: Word,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// Where ports stand in words with an address.
const PORT_SHIFT: u32 = 48;
/// Where a [`Restore`] stands in the word with the end of the lease.
const RESTORE_SHIFT: u32 = 32;
/// The sign of the word with the end of the lease: the flow has a meter, or its packets do not keep their DSCP. So one signed
/// compare with the clock tells that there is none of these, and that the lease has not ended.
const UNUSUAL: u64 = 1 << 63;

/// What a slot says, as read at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The flow's address.
    pub address: Mac,
    /// The port that its frames come in by.
    pub port: PortId,
    /// The tick at which the lease ends, [`NEVER`] for one that does not.
    pub expires: u32,
    /// Where its frames go.
    pub next: Resolution,
    /// Where they go while the port of `next` is down.
    pub backup: Option<NextHop>,
    /// How fast it may send.
    pub rate: Rate,
    /// What is done to the DSCP of its packets.
    pub restore: Restore,
    /// Frames forwarded.
    pub packets: u64,
    /// Octets forwarded.
    pub bytes: u64,
}

/// What a plain frame needs of its slot ([`Slot::plain`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The next hop's Ethernet address, as [`Mac::to_wire`]; the high 16 bits are not the address's.
    pub next: u64,
    /// The port to it.
    pub egress: PortId,
    /// The tick at which the lease ends, [`NEVER`] for one that does not; negative where the flow has a meter, or its packets
    /// do not keep their DSCP.
    pub until: i64,
}

impl Clone for Slot {
    /// A copy of the words as they are now, for a look at what would happen.
    fn clone(&self) -> Self {
        let copy = Self::default();
        copy.terms.store(self.terms.load());
        copy.next.store(self.next.load());
        copy.backup.store(self.backup.load());
        copy.packets.store(self.packets.load());
        copy.bytes.store(self.bytes.load());
        copy.rate.store(self.rate.load());
        copy.full_at.store(self.full_at.load());
        copy.key.store(self.key.load());
        copy
    }
}

impl Slot {
    /// A free slot.
    pub const fn free() -> Self {
        Self {
            key: Word::new(0),
            terms: Word::new(0),
            next: Word::new(0),
            backup: Word::new(0),
            packets: Word::new(0),
            bytes: Word::new(0),
            rate: Word::new(0),
            full_at: Word::new(0),
        }
    }

    /// Makes the slot that of a flow. The slot must be free.
    pub fn install(&self, address: FlowAddress, port: PortId, expires: u32, rate: Rate, next: Resolution) {
        self.key.publish(0);
        self.terms.store(terms_word(expires, Restore::Keep, rate));
        self.next.store(next.to_word());
        self.backup.store(0);
        self.packets.store(0);
        self.bytes.store(0);
        self.rate.store(rate.to_word());
        self.full_at.store(0);
        self.key.publish(Self::key_of(address.mac().to_wire(), port));
    }

    /// Frees the slot: frames to its address match no more.
    pub fn remove(&self) {
        self.key.publish(0);
    }

    /// The flow in the slot, if there is one.
    pub fn flow(&self) -> Option<Flow> {
        let key = self.key.load_published();
        if key == 0 {
            return None;
        }
        let backup = match Resolution::from_word(self.backup.load()) {
            Resolution::Resolved(hop) => Some(hop),
            _ => None,
        };
        Some(Flow {
            address: Mac::from_wire(key),
            port: PortId((key >> PORT_SHIFT) as u16),
            expires: self.expires(),
            next: self.next(),
            backup,
            rate: self.rate(),
            restore: self.restore(),
            packets: self.packets.load(),
            bytes: self.bytes.load(),
        })
    }

    /// Flow address as a number (high 48 bits) and port in one word, 0 for a free slot.
    #[inline(always)]
    pub fn key(&self) -> u64 {
        let key = self.key.load_published();
        Mac::from_wire(key).to_u64() << 16 | key >> PORT_SHIFT
    }

    /// The key that the slot of a flow has whose frames come in by `port`. The low 48 bits of `address` are the flow's, as on the
    /// wire ([`Mac::to_wire`]); the high 16 are ignored.
    #[inline(always)]
    pub const fn key_of(address: u64, port: PortId) -> u64 {
        address & ((1 << PORT_SHIFT) - 1) | (port.0 as u64) << PORT_SHIFT
    }

    /// What there is to be done with a frame whose flow has this key ([`Slot::key_of`]), if the slot is that flow's.
    ///
    /// Where frames go is not looked into: `egress` is no port ([`crate::MAX_PORTS`], or 0) where the next hop is not resolved,
    /// is a group, or leads to another subnet.
    #[inline(always)]
    pub fn plain(&self, key: u64) -> Option<Plain> {
        if self.key.load_published() != key {
            return None;
        }
        let next = self.next.load();
        Some(Plain { next, egress: PortId((next >> PORT_SHIFT) as u16), until: self.terms.load() as i64 })
    }

    /// The tick at which the lease ends.
    #[inline(always)]
    pub fn expires(&self) -> u32 {
        self.terms.load() as u32
    }

    /// Prolongs or shortens the lease.
    pub fn set_expires(&self, tick: u32) {
        self.set_terms(|_| terms_word(tick, self.restore(), self.rate()));
    }

    /// Whether the sign that [`Slot::plain`] goes by is that of rate and DSCP. It always is, unless somebody else has written
    /// into the slot.
    pub fn is_signed_right(&self) -> bool {
        self.terms.load() == terms_word(self.expires(), self.restore(), self.rate())
    }

    /// What is done to the DSCP of the flow's packets before they are sent.
    #[inline(always)]
    pub fn restore(&self) -> Restore {
        Restore::from_word((self.terms.load() >> RESTORE_SHIFT) as u32)
    }

    /// Changes what is done to the DSCP of the flow's packets.
    pub fn set_restore(&self, restore: Restore) {
        self.set_terms(|terms| terms_word(terms as u32, restore, self.rate()));
    }

    /// Where frames go.
    #[inline(always)]
    pub fn next(&self) -> Resolution {
        Resolution::from_word(self.next.load())
    }

    /// The word behind [`Slot::next`], for compare-and-swap.
    #[inline(always)]
    pub fn next_word(&self) -> &Word {
        &self.next
    }

    /// Sets where frames go, whatever was there.
    pub fn set_next(&self, next: Resolution) {
        self.next.publish(next.to_word());
    }

    /// Where frames go while the port of the next hop is down.
    #[inline(always)]
    pub fn backup(&self) -> Resolution {
        Resolution::from_word(self.backup.load())
    }

    /// Sets or clears the backup.
    pub fn set_backup(&self, backup: Option<NextHop>) {
        self.backup.store(backup.map_or(0, |hop| Resolution::Resolved(hop).to_word()));
    }

    /// How fast the flow may send.
    #[inline(always)]
    pub fn rate(&self) -> Rate {
        Rate::from_word(self.rate.load())
    }

    /// Changes how fast the flow may send.
    pub fn set_rate(&self, rate: Rate) {
        self.rate.store(rate.to_word());
        self.set_terms(|terms| terms_word(terms as u32, self.restore(), rate));
    }

    /// Replaces the terms, whoever else changes them meanwhile.
    fn set_terms(&self, change: impl Fn(u64) -> u64) {
        loop {
            let terms = self.terms.load();
            if self.terms.swap(terms, change(terms)) {
                return;
            }
        }
    }

    /// The counter of frames forwarded.
    #[inline(always)]
    pub fn packets(&self) -> &Word {
        &self.packets
    }

    /// The counter of octets forwarded.
    #[inline(always)]
    pub fn bytes(&self) -> &Word {
        &self.bytes
    }

    /// The state of the meter.
    #[inline(always)]
    pub fn full_at(&self) -> &Word {
        &self.full_at
    }
}

/// The word with the end of the lease.
fn terms_word(expires: u32, restore: Restore, rate: Rate) -> u64 {
    let is_usual = restore == Restore::Keep && rate.is_unlimited();
    let usual = u64::from(expires) | u64::from(restore.to_word()) << RESTORE_SHIFT;
    if is_usual { usual } else { usual | UNUSUAL }
}
