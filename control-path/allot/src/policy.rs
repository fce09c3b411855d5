//! What the administrator allows.

/// How long leases last and how many addresses one may hold. Times are in seconds.
///
/// A lifetime of `u32::MAX` is for ever (RFC 8415 section 7.7); it is granted only where `max_lifetime` is
/// `u32::MAX` too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long addresses rest after their lease ended: longer than any frame is under way and any bridge remembers
    /// an address (300 s on Linux).
    pub quarantine: u32,
    /// The lifetime where the client asks for none.
    pub default_lifetime: u32,
    /// The shortest lifetime; a client that asks for less gets this.
    pub min_lifetime: u32,
    /// The longest lifetime; a client that asks for more gets this. It wins over `min_lifetime`.
    pub max_lifetime: u32,
    /// How long leases are renewed at least while the store can not be written: a lease stands in the store with an end
    /// that is later than granted by this, and by twice as much at most. So most renewals need no write. It is 12
    /// lifetimes at most. A client that is gone when the switch restarts keeps its lease for so much longer.
    pub reserve: u32,
    /// The most addresses in one lease; a client that asks for more gets this many (RFC 8947 section 8).
    pub max_addresses: u32,
    /// The most addresses that all clients behind one port hold at a time.
    pub port_quota: u32,
    /// The most addresses that one client holds at a time.
    pub client_quota: u32,
}

/// The most lifetimes that a lease is reserved ahead: what lasts a minute is not kept for hours after a restart.
const LIFETIMES: u64 = 12;

impl Default for Policy {
    fn default() -> Self {
        Self {
            quarantine: 24 * 3600,
            default_lifetime: 3600,
            min_lifetime: 60,
            max_lifetime: 7 * 24 * 3600,
            reserve: 12 * 3600,
            max_addresses: 16,
            port_quota: 65_536,
            client_quota: 4_096,
        }
    }
}

impl Policy {
    /// The lifetime granted to a client that asks for `asked`; 0 is no wish, as none is (RFC 8947 section 7).
    pub(crate) fn lifetime(&self, asked: Option<u32>, default: u32) -> u32 {
        asked.filter(|&seconds| seconds != 0).unwrap_or(default).max(self.min_lifetime).min(self.max_lifetime)
    }

    /// Until when the store keeps a lease of `lifetime` seconds that ends at `expires`, and is kept until `written`
    /// (milliseconds): unchanged, unless that is less than the reserve later, or more than two.
    pub(crate) fn reserved(&self, lifetime: u32, expires: u64, written: u64) -> u64 {
        let reserve = u64::from(self.reserve).min(u64::from(lifetime) * LIFETIMES) * 1000;
        let [least, most] = [1, 2].map(|times| expires.saturating_add(times * reserve));
        if (least..=most).contains(&written) { written } else { most }
    }

    /// When addresses freed at `now` (milliseconds) may be allotted again.
    pub(crate) fn quarantine_end(&self, now: u64) -> u64 {
        now.saturating_add(u64::from(self.quarantine) * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_stays_between_the_limits() {
        let policy = Policy { min_lifetime: 60, default_lifetime: 600, max_lifetime: 6000, ..Policy::default() };
        let granted = |asked| policy.lifetime(asked, policy.default_lifetime);
        assert_eq!(granted(None), 600);
        assert_eq!(granted(Some(0)), 600);
        assert_eq!(granted(Some(1)), 60);
        assert_eq!(granted(Some(61)), 61);
        assert_eq!(granted(Some(6001)), 6000);
        assert_eq!(granted(Some(u32::MAX)), 6000);
    }

    #[test]
    fn a_row_is_rewritten_when_less_than_the_reserve_is_left() {
        let policy = Policy { reserve: 100, ..Policy::default() };
        let reserved = |expires, written| policy.reserved(60, expires, written);
        assert_eq!(reserved(60_000, 0), 260_000);
        assert_eq!(reserved(160_000, 260_000), 260_000);
        assert_eq!(reserved(160_001, 260_000), 360_001);
        assert_eq!(reserved(60_000, 260_001), 260_000, "what has become shorter is not kept for longer");
        assert_eq!(reserved(u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn a_short_lease_has_a_short_reserve() {
        let policy = Policy { reserve: 3600, ..Policy::default() };
        assert_eq!(policy.reserved(10, 10_000, 0), 10_000 + 2 * 120_000);
        assert_eq!(Policy { reserve: 0, ..policy }.reserved(10, 10_000, 0), 10_000);
    }

    #[test]
    fn for_ever_is_granted_where_the_policy_allows_it() {
        let policy = Policy { max_lifetime: u32::MAX, ..Policy::default() };
        assert_eq!(policy.lifetime(Some(u32::MAX), policy.default_lifetime), u32::MAX);
        assert_eq!(policy.lifetime(None, policy.default_lifetime), policy.default_lifetime);
    }
}
