//! How fast a flow may send: a token bucket, kept as the time at which it is full again (ITU-T I.371, the generic cell
//! rate algorithm).

/// The meter of a flow. Time is counted in sixteenths of a nanosecond of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// What an octet costs is `mantissa / 2^shift`.
    pub mantissa: u32,
    /// See `mantissa`.
    pub shift: u32,
    /// How far ahead of the clock the bucket may be full again, in microseconds.
    pub burst: u64,
    /// When the bucket is full again.
    pub full_at: u64,
}

const SIXTEENTHS: u128 = 16;

impl Meter {
    /// When the bucket is full again after frames of so many octets together. None where they are more than the bucket
    /// holds.
    pub(crate) fn take(&self, octets: u64, nanos: u64) -> Option<u64> {
        let now = u128::from(nanos) * SIXTEENTHS;
        let start = now.max(u128::from(self.full_at));
        let end = start + self.cost(octets);
        let burst = u128::from(self.burst) * 1_000 * SIXTEENTHS;
        (end - now <= burst).then(|| u64::try_from(end).unwrap_or(u64::MAX))
    }

    /// Rounded up, and never nothing.
    fn cost(&self, octets: u64) -> u128 {
        1 + ((u128::from(octets) * u128::from(self.mantissa)) >> self.shift)
    }
}
