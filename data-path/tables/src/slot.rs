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
    /// Flow address (high 48 bits) and the port that its frames come in by; 0 is a free slot.
    key: Word,
    /// The tick at which the lease ends (high 32 bits), and a [`Restore`] (low 32 bits).
    lease: Word,
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

impl Clone for Slot {
    /// A copy of the words as they are now, for a look at what would happen.
    fn clone(&self) -> Self {
        let copy = Self::default();
        copy.lease.store(self.lease.load());
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
    /// Makes the slot that of a flow. The slot must be free.
    pub fn install(&self, address: FlowAddress, port: PortId, expires: u32, rate: Rate, next: Resolution) {
        self.key.publish(0);
        self.lease.store(u64::from(expires) << 32);
        self.next.store(next.to_word());
        self.backup.store(0);
        self.packets.store(0);
        self.bytes.store(0);
        self.rate.store(rate.to_word());
        self.full_at.store(0);
        self.key.publish(key_word(address.mac(), port));
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
            address: Mac::from_u64(key >> 16),
            port: PortId(key as u16),
            expires: self.expires(),
            next: self.next(),
            backup,
            rate: self.rate(),
            restore: self.restore(),
            packets: self.packets.load(),
            bytes: self.bytes.load(),
        })
    }

    /// Flow address and port in one word, 0 for a free slot.
    #[inline(always)]
    pub fn key(&self) -> u64 {
        self.key.load_published()
    }

    /// The tick at which the lease ends.
    #[inline(always)]
    pub fn expires(&self) -> u32 {
        (self.lease.load() >> 32) as u32
    }

    /// Prolongs or shortens the lease.
    pub fn set_expires(&self, tick: u32) {
        self.lease.store(u64::from(tick) << 32 | u64::from(self.restore().to_word()));
    }

    /// What is done to the DSCP of the flow's packets before they are sent.
    #[inline(always)]
    pub fn restore(&self) -> Restore {
        Restore::from_word(self.lease.load() as u32)
    }

    /// Changes what is done to the DSCP of the flow's packets.
    pub fn set_restore(&self, restore: Restore) {
        self.lease.store(u64::from(self.expires()) << 32 | u64::from(restore.to_word()));
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

/// What the key of a slot is for a flow address and its port.
fn key_word(address: Mac, port: PortId) -> u64 {
    address.to_u64() << 16 | u64::from(port.0)
}
