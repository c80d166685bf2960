//! Retries: when each comes, and how many a store is asked for at all.
//!
//! Back-off is exponential with full jitter, capped so that recovery fits five seconds. Source: Brooker,
//! "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
//!
//! Back-off alone lets a store that fails half of its calls be called twice as often, when it has least
//! to spare. So retries have a [`Budget`] too, a share of the first tries and a few a second. Sources:
//! Finagle's `RetryBudget`; gRPC's retry throttling (proposal A6).

use std::time::Duration;

/// The first pause is at most this.
pub const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// No pause is longer. Two of them must fit into the time that recovery may take.
pub const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause before try `failures + 1`, drawn from zero to the cap by `random`.
pub fn pause(failures: u32, random: u64) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let cap_ms = u64::try_from(doubled.min(PAUSE_MAX).as_millis()).expect("at most two seconds");
    Duration::from_millis(random % (cap_ms + 1))
}

/// Retries that a thousand first tries allow.
pub const SHARE_PERMILLE: u64 = 200;
/// Beside these, so many a second: a store that nobody writes to is owed its retries too.
pub const FLOOR_PER_SECOND: u64 = 10;
/// What is not used is kept, up to so many retries.
pub const SAVED_MAX: u64 = 100;

/// How many retries a store may be asked for. A retry that succeeds gives back what it took, since
/// it did what had to be done anyway: so only those that fail count, and a store that has come back
/// gets everything that waits within moments.
///
/// Invariant: retries that fail are at most the share of the first tries, and the floor, and what was
/// saved. Every retry gets its turn, in the order in which they are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// In thousandths of a retry.
    milli: u64,
    /// Up to when the floor is counted in, in whole milliseconds.
    filled: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { milli: SAVED_MAX * 1_000, filled: Duration::ZERO }
    }
}

impl Budget {
    /// Something is tried for the first time.
    pub fn first_try(&mut self) {
        self.add(SHARE_PERMILLE);
    }

    /// Takes a retry out of it, if there is one.
    pub fn spend(&mut self, now: Duration) -> bool {
        let since_ms = now.saturating_sub(self.filled).as_millis();
        let since_ms = u64::try_from(since_ms).unwrap_or(u64::MAX);
        self.filled += Duration::from_millis(since_ms);
        self.add(since_ms.saturating_mul(FLOOR_PER_SECOND));
        let spent = self.milli.checked_sub(1_000);
        self.milli = spent.unwrap_or(self.milli);
        spent.is_some()
    }

    /// A retry succeeded.
    pub fn give_back(&mut self) {
        self.add(1_000);
    }

    /// The store answers again after it did not: nothing of before counts.
    pub fn restart(&mut self) {
        self.milli = SAVED_MAX * 1_000;
    }

    /// When the next retry is there at the latest.
    pub fn next(&self) -> Duration {
        let missing = 1_000u64.saturating_sub(self.milli);
        if missing == 0 {
            return Duration::ZERO;
        }
        self.filled + Duration::from_millis(missing.div_ceil(FLOOR_PER_SECOND))
    }

    /// Whole retries that are left, but for what the floor has brought since the last was taken.
    pub fn left(&self) -> u64 {
        self.milli / 1_000
    }

    fn add(&mut self, milli: u64) {
        self.milli = self.milli.saturating_add(milli).min(SAVED_MAX * 1_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::ZERO;

    fn spent() -> Budget {
        let mut budget = Budget::default();
        while budget.spend(NOW) {}
        budget
    }

    #[test]
    fn first_tries_allow_their_share_of_retries() {
        let mut budget = spent();
        for _ in 0..1_000 {
            budget.first_try();
        }
        assert_eq!((0..).take_while(|_| budget.spend(NOW)).count(), 100, "at most what is kept");
        (0..10).for_each(|_| budget.first_try());
        assert_eq!((0..).take_while(|_| budget.spend(NOW)).count(), 2);
    }

    #[test]
    fn a_store_that_nobody_writes_to_has_a_few_a_second() {
        let mut budget = spent();
        let mut retries = 0;
        for second in 1..=10 {
            let now = Duration::from_secs(second);
            assert!(budget.next() <= now);
            retries += (0..).take_while(|_| budget.spend(now)).count();
            assert!(!budget.spend(now) && budget.next() > now);
        }
        assert_eq!(retries, 100);
    }

    #[test]
    fn a_retry_that_succeeds_costs_nothing() {
        let mut budget = spent();
        budget.give_back();
        for _ in 0..1_000 {
            assert!(budget.spend(NOW));
            budget.give_back();
        }
    }

    proptest! {
        /// Whatever happens: a storm adds its share, and no more.
        #[test]
        fn failed_retries_are_bounded_by_first_tries_and_time(
            steps in proptest::collection::vec((0..4u8, 0..200u64), 0..500)
        ) {
            let mut budget = Budget::default();
            let (mut now, mut first, mut failed) = (Duration::ZERO, 0u64, 0u64);
            for (step, ms) in steps {
                now += Duration::from_millis(ms);
                match step {
                    0 => {
                        budget.first_try();
                        first += 1;
                    }
                    1 => if budget.spend(now) {
                        budget.give_back();
                    }
                    _ => failed += u64::from(budget.spend(now)),
                }
                let floor = now.as_millis() as u64 * FLOOR_PER_SECOND;
                let allowed = SAVED_MAX * 1_000 + first * SHARE_PERMILLE + floor;
                prop_assert!(failed * 1_000 <= allowed, "{failed} after {first} and {now:?}");
                prop_assert!(budget.next() <= now + Duration::from_millis(100));
            }
        }
    }

    #[test]
    fn pauses_grow_to_the_cap_and_use_all_of_it() {
        let cap = |failures| (0..10_000).map(|r| pause(failures, r)).max().unwrap();
        assert_eq!(cap(1), PAUSE_FIRST);
        assert_eq!(cap(2), PAUSE_FIRST * 2);
        assert_eq!(cap(40), PAUSE_MAX);
        assert_eq!(pause(40, 0), Duration::ZERO);
    }
}
