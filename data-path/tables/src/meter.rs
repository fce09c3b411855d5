//! How fast a flow may send: a token bucket in two words.
//!
//! The bucket is kept in the form of the generic cell rate algorithm (ITU-T I.371, the "virtual scheduling" form): one
//! word says when the bucket will be full again, so that one compare-and-swap takes tokens.

/// A rate and a burst, packed in a word: what an octet costs in time, and how long a burst may last.
///
/// Bits 0..32 are the mantissa and 32..38 the shift of the cost, 38..64 the burst in microseconds. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate(u64);

const SHIFT_BITS: u32 = 6;
const BURST_MAX: u64 = (1 << 26) - 1;
/// Time is counted in sixteenths of a nanosecond: a whole one would be a fiftieth of a small frame at 100 Gb/s.
const SIXTEENTHS: u64 = 16;

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self(0);

    /// A rate in bits per second of Ethernet frames, and a burst in octets that may be sent at once.
    ///
    /// A rate below 30 bit/s counts as 30 bit/s; a burst lasts between a microsecond and 67 seconds.
    pub fn new(bits_per_second: u64, burst: u64) -> Self {
        let per_octet = ((8_000_000_000 * u128::from(SIXTEENTHS)) << 40) / u128::from(bits_per_second.max(1));
        let excess = (128 - per_octet.leading_zeros()).saturating_sub(32);
        let (mantissa, shift) = match 40u32.checked_sub(excess) {
            Some(shift) => ((per_octet >> excess) as u64, shift),
            None => (u64::from(u32::MAX), 0),
        };
        let cost = mantissa.max(1) | u64::from(shift) << 32;
        let burst_nanos = (u128::from(burst) * u128::from(mantissa) / u128::from(SIXTEENTHS)) >> shift;
        let burst_micros = (burst_nanos.div_ceil(1000)).clamp(1, u128::from(BURST_MAX)) as u64;
        Self(cost | burst_micros << (32 + SHIFT_BITS))
    }

    /// The word as it stands in the table.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// The rate that a word of the table means.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Whether there is no limit.
    #[inline(always)]
    pub const fn is_unlimited(self) -> bool {
        self.0 == 0
    }

    /// What a frame of `octets` costs, in sixteenths of a nanosecond, rounded up.
    #[inline(always)]
    const fn cost(self, octets: u64) -> u64 {
        1 + ((octets * (self.0 & 0xffff_ffff)) >> ((self.0 >> 32) & ((1 << SHIFT_BITS) - 1)))
    }

    /// How far the bucket may be overdrawn, in sixteenths of a nanosecond.
    #[inline(always)]
    const fn burst(self) -> u64 {
        (self.0 >> (32 + SHIFT_BITS)) * 1000 * SIXTEENTHS
    }

    /// Takes a frame of `octets` out of the bucket whose state is `full_at`, at `nanos` of the monotonic clock.
    /// The new state, or nothing where the frame is over the rate.
    #[inline(always)]
    pub const fn take(self, full_at: u64, nanos: u64, octets: u64) -> Option<u64> {
        let now = nanos * SIXTEENTHS;
        let start = if full_at > now { full_at } else { now };
        let end = start + self.cost(octets);
        if end - now > self.burst() { None } else { Some(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_byte_at_a_gigabit_costs_eight_nanoseconds() {
        assert_eq!(Rate::new(1_000_000_000, 15_000).cost(1_000), 8_000 * SIXTEENTHS + 1);
        assert_eq!(Rate::new(100_000_000_000, 150_000).cost(64).div_ceil(SIXTEENTHS), 6);
        assert_eq!(Rate::new(8_000, 1).cost(1), 1_000_000 * SIXTEENTHS + 1);
    }

    #[test]
    fn a_burst_passes_at_once_and_the_frame_after_does_not() {
        let rate = Rate::new(8_000_000, 3_000);
        let mut full_at = 0;
        for _ in 0..2 {
            full_at = rate.take(full_at, 1_000_000, 1_000).expect("within the burst");
        }
        assert_eq!(rate.take(full_at, 1_000_000, 1_000), None);
        assert!(rate.take(full_at, 2_000_000, 1_000).is_some(), "a millisecond earns a thousand bytes");
    }

    proptest! {
        #[test]
        fn over_a_long_time_the_rate_is_met(megabits in 1u64..100_000, octets in 64u64..1514) {
            let rate = Rate::new(megabits * 1_000_000, 200_000);
            // Offered three times the rate for a tenth of a second.
            let step = (octets * 8_000 / megabits / 3).max(1);
            let (mut full_at, mut passed, mut now) = (0, 0u64, 1_000);
            while now < 100_000_000 {
                if let Some(next) = rate.take(full_at, now, octets) { full_at = next; passed += octets; }
                now += step;
            }
            let allowed = megabits * 12_500 + 200_000 + octets;
            let least = (megabits * 12_500).min(100_000_000 / step * octets) * 98 / 100;
            prop_assert!(passed <= allowed * 1001 / 1000, "{passed} > {allowed}");
            prop_assert!(passed + octets >= least, "{passed} < {least}");
        }

        #[test]
        fn no_rate_overflows(rate: u64, burst: u64, octets in 0u64..65_600, full_at in 0u64..1 << 62, now in 0u64..1 << 58) {
            let rate = Rate::new(rate, burst);
            prop_assert!(!rate.is_unlimited());
            let _ = rate.take(full_at, now, octets);
        }
    }
}
