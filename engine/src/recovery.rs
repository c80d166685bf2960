//! How long a store takes, once it answers again, until it has what piled up for it meanwhile.
//!
//! ```text
//! Well ── its breaker opens ──> Away ── it closes ──> Behind ── nothing is owed ──> Well, and counted
//!                                 ^────────── it opens ───┘
//! ```
//!
//! Invariant: what an operator does to a breaker begins and ends a recovery as an outage does, since what
//! piles up is the same. What goes on being written meanwhile keeps a recovery going.

use serde::Serialize;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Well,
    Away,
    Behind {
        since: Duration,
    },
}

/// The recoveries of one store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    stage: Stage,
    report: RecoveryReport,
}

/// Recoveries since the start, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// How many there were.
    pub count: u64,
    /// What they took, added up.
    pub sum_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// The last; `None`: there was none.
    pub last_ms: Option<u64>,
}

impl Recovery {
    /// The store's breaker lets nothing through any more.
    pub fn opened(&mut self) {
        self.stage = Stage::Away;
    }

    /// It does again.
    pub fn closed(&mut self, now: Duration) {
        self.stage = Stage::Behind { since: now };
    }

    /// Nothing is owed to the store.
    pub fn caught_up(&mut self, now: Duration) {
        let Stage::Behind { since } = self.stage else { return };
        self.stage = Stage::Well;
        let took = now.saturating_sub(since).as_millis();
        let took_ms = u64::try_from(took).unwrap_or(u64::MAX);
        let RecoveryReport { count, sum_ms, max_ms, last_ms } = &mut self.report;
        *count += 1;
        *sum_ms = sum_ms.saturating_add(took_ms);
        *max_ms = took_ms.max(*max_ms);
        *last_ms = Some(took_ms);
    }

    /// True while it is catching up.
    pub fn is_behind(&self) -> bool {
        matches!(self.stage, Stage::Behind { .. })
    }

    /// Those that have ended.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_recovery_lasts_from_the_first_answer_to_the_last_record() {
        let mut recovery = Recovery::default();
        recovery.caught_up(ms(1));
        assert_eq!(recovery.report(), &RecoveryReport::default(), "nothing was wrong");
        for (opened, closed, done) in [(10, 1_000, 1_400), (2_000, 3_000, 3_100)] {
            recovery.opened();
            recovery.caught_up(ms(opened));
            recovery.closed(ms(closed));
            assert!(recovery.is_behind());
            recovery.caught_up(ms(done));
            recovery.caught_up(ms(done + 50));
        }
        let report = RecoveryReport { count: 2, sum_ms: 500, max_ms: 400, last_ms: Some(100) };
        assert_eq!(recovery.report(), &report);
    }

    #[test]
    fn one_that_fails_again_is_timed_from_its_last_answer() {
        let mut recovery = Recovery::default();
        recovery.opened();
        recovery.closed(ms(100));
        recovery.opened();
        assert!(!recovery.is_behind());
        recovery.closed(ms(900));
        recovery.caught_up(ms(1_000));
        assert_eq!(recovery.report().last_ms, Some(100));
    }
}
