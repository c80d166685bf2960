//! The hybrid logical clock: stamps that follow wall time, and always grow.
//!
//! Invariant: a stamp exceeds every stamp issued or accepted before, even when the wall clock
//! jumps back. Source: Kulkarni, Demirbas, Madeppa, Avva, Leone: "Logical Physical Clocks", 2014.

use crate::version::Stamp;
use std::time::Duration;

/// How far ahead of the local wall clock a stamp may be and still advance it. One further ahead
/// is stored all the same, but must not drag every later stamp into the future with it.
pub const AHEAD_MS_MAX: u64 = 500;

/// Issues stamps. Wall time is passed in.
#[derive(Clone, Debug, Default)]
pub struct HybridClock {
    last: Stamp,
}

/// Whether a stamp that was met advanced the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It did, or was not ahead.
    Followed,
    /// It is further ahead than [`AHEAD_MS_MAX`]: a clock somewhere is wrong.
    Drift {
        /// By how much.
        ahead_ms: u64,
    },
}

impl HybridClock {
    /// A stamp above all issued before and above `floor`, the greatest stamp that the new write's
    /// history covers (rule V3).
    pub fn tick(&mut self, wall: Duration, floor: Stamp) -> Stamp {
        let now = Stamp { wall_ms: wall_ms(wall), logical: 0 };
        let stamp = now.max(self.last.next());
        // A floor from a wrong clock is exceeded for this write only; `last` stays sane.
        if floor >= stamp {
            let above = floor.next();
            if above.wall_ms <= now.wall_ms + AHEAD_MS_MAX {
                self.last = above;
            }
            return above;
        }
        self.last = stamp;
        stamp
    }

    /// Follows a stamp that somebody else issued.
    pub fn meet(&mut self, wall: Duration, stamp: Stamp) -> Met {
        let ahead_ms = stamp.wall_ms.saturating_sub(wall_ms(wall));
        if ahead_ms > AHEAD_MS_MAX {
            return Met::Drift { ahead_ms };
        }
        self.last = self.last.max(stamp);
        Met::Followed
    }
}

fn wall_ms(wall: Duration) -> u64 {
    u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn stamps_grow_when_the_wall_clock_jumps_back() {
        let mut clock = HybridClock::default();
        let first = clock.tick(ms(1_000), Stamp::default());
        let second = clock.tick(ms(10), Stamp::default());
        assert!(second > first);
    }

    #[test]
    fn a_write_exceeds_what_it_has_seen() {
        let mut clock = HybridClock::default();
        let floor = Stamp { wall_ms: 9_000_000, logical: 3 };
        assert!(clock.tick(ms(1_000), floor) > floor);
        let unrelated = clock.tick(ms(1_001), Stamp::default());
        assert_eq!(unrelated.wall_ms, 1_001, "one wrong clock does not drag ours along");
    }

    #[test]
    fn a_stamp_far_ahead_is_reported() {
        let mut clock = HybridClock::default();
        let far = Stamp { wall_ms: 10_000, logical: 0 };
        assert_eq!(clock.meet(ms(1_000), far), Met::Drift { ahead_ms: 9_000 });
        assert_eq!(clock.meet(ms(9_800), far), Met::Followed);
        assert!(clock.tick(ms(9_800), Stamp::default()) > far);
    }
}
