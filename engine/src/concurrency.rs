//! How much of a store's work is under way at once: additive increase, multiplicative decrease, so
//! that a store that is short of breath is given less, and one that comes back is not crushed.
//!
//! ```text
//! Growing ──work done: one more for each──> half of the lane's width, then
//! Steady  ──work done: one more for each round of work──> at most the lane's width
//!    └── a call that tells of load: half, and Steady; once for all calls that were under way
//! the breaker closes: one at a time, and Growing
//! ```
//!
//! Sources: Chiu, Jain: "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance
//! in Computer Networks", 1989; slow start and the threshold: RFC 5681.
//!
//! Invariant: the width is at least one and at most the lane's. Time is passed in; everything is an
//! integer.

use crate::env::{Doubt, DoubtKind, Outcome, Refusal, RefusalKind};
use std::time::Duration;

/// A place in the lane, in the parts in which widths are counted.
const PLACE: u32 = 1_000;

/// What the end of a call tells of the store's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Nothing.
    Untold,
    /// The store has more to do than it can.
    TooMuch,
}

impl Load {
    /// What an outcome tells: a 429, an "overloaded", and no answer in time are more than the store
    /// can do. A 5xx or a lost connection may have any reason: the breaker sees to those.
    pub fn of<T>(outcome: &Outcome<T>) -> Self {
        match outcome {
            Outcome::Refused(Refusal { kind: RefusalKind::RateLimited, .. })
            | Outcome::Unknown(Doubt {
                kind: DoubtKind::Timeout | DoubtKind::Overloaded, ..
            }) => Load::TooMuch,
            Outcome::Applied(_) | Outcome::Refused(_) | Outcome::Unknown(_) => Load::Untold,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Each piece of work that is done makes room for one more.
    Growing,
    /// Each round of work does.
    Steady,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// In parts of a place.
    width: u32,
    width_max: u32,
    stage: Stage,
    /// Calls that began before this are answered for.
    halved_at: Option<Duration>,
}

impl Concurrency {
    /// As wide as the lane may be: nothing is known of the store.
    pub fn new(width_max: usize) -> Self {
        let places = u32::try_from(width_max).unwrap_or(u32::MAX / PLACE).max(1);
        let width_max = places.saturating_mul(PLACE);
        Concurrency { width: width_max, width_max, stage: Stage::Steady, halved_at: None }
    }

    /// So much may be under way: records, or batches of them.
    pub fn width(&self) -> usize {
        (self.width / PLACE) as usize
    }

    /// A piece of work is done.
    pub fn succeeded(&mut self) {
        if self.width == self.width_max {
            return;
        }
        let more = match self.stage {
            Stage::Growing => PLACE,
            Stage::Steady => PLACE * PLACE / self.width,
        };
        self.width = (self.width + more).min(self.width_max);
        if self.width >= self.width_max / 2 {
            self.stage = Stage::Steady;
        }
    }

    /// A call that had begun at `began` told of too much load. Those that were under way with it
    /// tell of the same load.
    pub fn overloaded(&mut self, now: Duration, began: Duration) {
        if self.halved_at.is_some_and(|halved_at| began < halved_at) {
            return;
        }
        self.halved_at = Some(now);
        self.width = (self.width / 2).max(PLACE);
        self.stage = Stage::Steady;
    }

    /// The store answers again after it did not.
    pub fn restart(&mut self) {
        self.width = PLACE;
        self.stage = Stage::Growing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_store_that_is_well_has_all_of_the_lane() {
        let mut concurrency = Concurrency::new(8);
        assert_eq!(concurrency.width(), 8);
        (0..100).for_each(|_| concurrency.succeeded());
        assert_eq!(concurrency.width(), 8);
    }

    #[test]
    fn load_halves_it_once_for_all_that_were_under_way() {
        let mut concurrency = Concurrency::new(8);
        for began in [0, 1, 2] {
            concurrency.overloaded(at(100), at(began));
        }
        assert_eq!(concurrency.width(), 4);
        concurrency.overloaded(at(200), at(100));
        assert_eq!(concurrency.width(), 2);
        for n in 0..9 {
            concurrency.overloaded(at(300 + n), at(300 + n));
        }
        assert_eq!(concurrency.width(), 1, "something always moves");
    }

    #[test]
    fn each_round_of_work_makes_room_for_one_more() {
        let mut concurrency = Concurrency::new(8);
        concurrency.overloaded(at(0), at(0));
        for width in 4..8 {
            assert_eq!(concurrency.width(), width);
            // A part of a place is lost to rounding in each round.
            (0..=width).for_each(|_| concurrency.succeeded());
        }
        assert_eq!(concurrency.width(), 8);
    }

    #[test]
    fn a_store_that_comes_back_starts_low_and_soon_has_all_of_the_lane() {
        let mut concurrency = Concurrency::new(8);
        concurrency.restart();
        for width in 1..=4 {
            assert_eq!(concurrency.width(), width, "one more for each");
            concurrency.succeeded();
        }
        assert_eq!(concurrency.width(), 4, "and from half of the lane on slowly");
        (0..30).for_each(|_| concurrency.succeeded());
        assert_eq!(concurrency.width(), 8);
    }

    #[test]
    fn what_tells_of_load() {
        let refused = |kind| Outcome::<()>::Refused(Refusal::new(kind, ""));
        let unknown = |kind| Outcome::<()>::Unknown(Doubt::new(kind, ""));
        for (outcome, load) in [
            (Outcome::Applied(()), Load::Untold),
            (refused(RefusalKind::RateLimited), Load::TooMuch),
            (refused(RefusalKind::Unreachable), Load::Untold),
            (refused(RefusalKind::Precondition), Load::Untold),
            (unknown(DoubtKind::Timeout), Load::TooMuch),
            (unknown(DoubtKind::Overloaded), Load::TooMuch),
            (unknown(DoubtKind::ServerError), Load::Untold),
            (unknown(DoubtKind::ConnectionLost), Load::Untold),
        ] {
            assert_eq!(Load::of(&outcome), load, "{outcome:?}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Do {
        Succeed,
        Overload { began_ago_ms: u64 },
        Restart,
    }

    fn anything() -> impl Strategy<Value = Do> {
        prop_oneof![
            6 => Just(Do::Succeed),
            3 => (0..50u64).prop_map(|began_ago_ms| Do::Overload { began_ago_ms }),
            1 => Just(Do::Restart),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_width_stays_within_its_bounds_and_comes_back(
            width_max in 1..40usize,
            steps in proptest::collection::vec(anything(), 0..300),
        ) {
            let mut concurrency = Concurrency::new(width_max);
            for (n, step) in steps.into_iter().enumerate() {
                let (before, now) = (concurrency.width(), at(1_000 + 10 * n as u64));
                match step {
                    Do::Succeed => {
                        concurrency.succeeded();
                        prop_assert!((before..=before + 1).contains(&concurrency.width()));
                    }
                    Do::Overload { began_ago_ms } => {
                        concurrency.overloaded(now, now - at(began_ago_ms));
                        prop_assert!((before / 2..=before).contains(&concurrency.width()));
                    }
                    Do::Restart => {
                        concurrency.restart();
                        prop_assert_eq!(concurrency.width(), 1);
                    }
                }
                prop_assert!((1..=width_max).contains(&concurrency.width()));
            }
            // One more in each round, at most a part of a place lost in it.
            for _ in 0..width_max * (width_max + 1) {
                concurrency.succeeded();
            }
            prop_assert_eq!(concurrency.width(), width_max);
        }
    }
}
