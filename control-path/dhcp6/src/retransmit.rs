//! When a client sends again, RFC 9915 section 15. Times are milliseconds.

use fastrand::Rng;

/// The times of one kind of exchange, RFC 9915 section 7.6.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// IRT: the first wait.
    pub(crate) initial: u64,
    /// MRT: the longest wait; 0 is no limit.
    pub(crate) longest: u64,
    /// MRC: how many transmissions; 0 is no limit.
    pub(crate) count: u32,
    /// The least RAND of the first wait, in thousandths.
    pub(crate) least_jitter: i64,
}

/// SOL_TIMEOUT; SOL_MAX_RT is the client's, because servers may change it. RAND of the first wait is over 0, to
/// collect offers for a little longer than the timeout (section 18.2.1).
pub(crate) const SOLICIT: Policy = Policy { initial: 1_000, longest: SOL_MAX_RT, count: 0, least_jitter: 1 };
/// REQ_TIMEOUT, REQ_MAX_RT, REQ_MAX_RC.
pub(crate) const REQUEST: Policy = Policy { initial: 1_000, longest: 30_000, count: 10, least_jitter: -100 };
/// REN_TIMEOUT, REN_MAX_RT; it ends at T2.
pub(crate) const RENEW: Policy = Policy { initial: 10_000, longest: 600_000, count: 0, least_jitter: -100 };
/// REB_TIMEOUT, REB_MAX_RT; it ends with the lease.
pub(crate) const REBIND: Policy = Policy { initial: 10_000, longest: 600_000, count: 0, least_jitter: -100 };
/// REL_TIMEOUT, REL_MAX_RC.
pub(crate) const RELEASE: Policy = Policy { initial: 1_000, longest: 0, count: 4, least_jitter: -100 };
/// DEC_TIMEOUT, DEC_MAX_RC.
pub(crate) const DECLINE: Policy = Policy { initial: 1_000, longest: 0, count: 4, least_jitter: -100 };

/// SOL_MAX_RT.
pub(crate) const SOL_MAX_RT: u64 = 3_600_000;

/// The timer of one exchange.
#[derive(Clone, Debug)]
pub(crate) struct Retransmit {
    policy: Policy,
    /// RT; 0 before the first transmission.
    wait: u64,
    sent: u32,
    next: u64,
}

impl Retransmit {
    /// Sends for the first time at `first`.
    pub(crate) fn new(policy: Policy, first: u64) -> Self {
        Self { policy, wait: 0, sent: 0, next: first }
    }

    /// When to send, or to give up.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many times the message was sent.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    /// Whether the last wait is over, if `now` is the time of [`next`](Self::next).
    pub(crate) fn is_exhausted(&self) -> bool {
        self.policy.count != 0 && self.sent >= self.policy.count
    }

    /// Changes the longest wait, from the next transmission on.
    pub(crate) fn set_longest(&mut self, longest: u64) {
        self.policy.longest = longest;
    }

    /// Notes a transmission at `now`.
    pub(crate) fn transmitted(&mut self, now: u64, random: &mut Rng) {
        self.wait = match self.wait {
            0 => jitter(self.policy.initial, self.policy.initial, self.policy.least_jitter, random),
            last => jitter(last.saturating_mul(2), last, -100, random),
        };
        if self.policy.longest != 0 && self.wait > self.policy.longest {
            self.wait = jitter(self.policy.longest, self.policy.longest, -100, random);
        }
        self.sent = self.sent.saturating_add(1);
        self.next = now.saturating_add(self.wait);
    }
}

/// `base + RAND * of`, with RAND in thousandths from `least` to +100.
fn jitter(base: u64, of: u64, least: i64, random: &mut Rng) -> u64 {
    let thousandths = random.i64(least..=100);
    let part = i64::try_from(of).unwrap_or(i64::MAX).saturating_mul(thousandths) / 1000;
    base.saturating_add_signed(part)
}

#[cfg(test)]
mod tests {
    use super::{Policy, RELEASE, REQUEST, Retransmit, SOLICIT};
    use fastrand::Rng;
    use proptest::{prop_assert, proptest};

    fn waits(policy: Policy, seed: u64, count: usize) -> Vec<u64> {
        let (mut timer, mut random, mut now) = (Retransmit::new(policy, 0), Rng::with_seed(seed), 0);
        (0..count)
            .map(|_| {
                timer.transmitted(now, &mut random);
                let wait = timer.next() - now;
                now = timer.next();
                wait
            })
            .collect()
    }

    proptest! {
        #[test]
        fn each_wait_is_about_twice_the_last_and_never_much_over_the_longest(seed: u64) {
            let waits = waits(REQUEST, seed, 10);
            prop_assert!((900..=1_100).contains(&waits[0]));
            for pair in waits.windows(2) {
                let most = pair[0] * 21 / 10 + 1;
                prop_assert!(pair[1] >= (pair[0] * 19 / 10 - 1).min(27_000));
                let most = if most > 30_000 { 33_000 } else { most };
                prop_assert!(pair[1] <= most);
            }
        }

        #[test]
        fn the_first_wait_of_a_solicit_is_longer_than_its_timeout(seed: u64) {
            let first = waits(SOLICIT, seed, 1)[0];
            prop_assert!(first > 1_000 && first <= 1_100);
        }
    }

    #[test]
    fn a_release_is_sent_four_times_and_then_given_up() {
        let (mut timer, mut random) = (Retransmit::new(RELEASE, 0), Rng::with_seed(1));
        for sent in 0..4 {
            assert!(!timer.is_exhausted(), "after {sent}");
            timer.transmitted(timer.next(), &mut random);
        }
        assert!(timer.is_exhausted());
    }
}
