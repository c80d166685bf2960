//! The circuit breaker: keeps work away from a store that does not answer, and finds out soon
//! when it does again.
//!
//! ```text
//! Closed --5 failures in a row--> Open --cool-down--> HalfOpen --2 good probes--> Closed
//!                                  ^---------- a bad probe ------'
//! an operator: any --> ForcedOpen --automatic again--> Open, with a probe due at once
//!              any --> ForcedClosed --automatic again--> Closed
//! ```
//!
//! Invariant: while open or half-open, a probe is due at most one cool-down after the last one has
//! failed, and half a second after it was sent, answered or not: one that was lost on its way must
//! not keep others from finding the store well. Few are under way at once. Probes come from a timer,
//! not from traffic, so that a store nobody writes to recovers too. Nothing but an operator's word
//! ends what an operator has forced, and to a store that is forced open nothing is sent, probes and
//! reads included.

use crate::record::StoreId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Failures in a row that open the breaker.
pub const FAILURES_TO_OPEN: u32 = 5;
/// From a failed probe to the next.
pub const COOL_DOWN: Duration = Duration::from_millis(300);
/// From a probe that nobody has answered yet to the next.
pub const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Probes under way at once: those that nobody answers within the two seconds of a call, and the one
/// that follows an answer.
pub const PROBES_MAX: u32 = 5;
/// Good probes in a row that close it.
pub const PROBES_TO_CLOSE: u32 = 2;

/// Where the breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Work flows.
    Closed {
        /// In a row.
        failures: u32,
    },
    /// No work; a probe is due at `probe_at` (monotonic).
    Open {
        /// When the next probe is due.
        probe_at: Duration,
    },
    /// Probing: no work yet.
    HalfOpen {
        /// Good ones in a row.
        successes: u32,
        /// When the next is due.
        probe_at: Duration,
    },
    /// An operator holds back everything, until told otherwise.
    ForcedOpen,
    /// An operator lets work through whatever the store shows, until told otherwise.
    ForcedClosed,
}

impl State {
    /// The name in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half-open",
            State::ForcedOpen => "forced-open",
            State::ForcedClosed => "forced-closed",
        }
    }
}

/// What an operator forces a breaker to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Force {
    /// Nothing is sent to the store.
    Open,
    /// Work is sent to the store whatever it answers.
    Closed,
}

/// An operator's word on a store's breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// Which store's.
    pub store: StoreId,
    /// What it is forced to be.
    pub to: Force,
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when, by this coordinator's wall clock, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// What a call to the store showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The store answered, be it with a refusal on the merits.
    Answer,
    /// It did not.
    Failure,
}

/// A change that others act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing changed for the lanes.
    None,
    /// Work stops.
    Opened,
    /// Work resumes; back-off starts anew.
    Closed,
}

/// A breaker for one store. Monotonic time is passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// When it came to stand there: how a call ended that had begun before says nothing new, unless
    /// it shows that the store answers.
    since: Duration,
    /// Probes under way.
    probing: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { state: State::Closed { failures: 0 }, since: Duration::ZERO, probing: 0 }
    }
}

impl Breaker {
    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// True when work may be sent.
    pub fn admits(&self) -> bool {
        match self.state {
            State::Closed { .. } | State::ForcedClosed => true,
            State::Open { .. } | State::HalfOpen { .. } | State::ForcedOpen => false,
        }
    }

    /// True when nothing at all may be sent.
    pub fn is_held(&self) -> bool {
        self.state == State::ForcedOpen
    }

    /// When the next probe is due; `None` while none is.
    pub fn probe_at(&self) -> Option<Duration> {
        match self.state {
            State::Closed { .. } | State::ForcedOpen | State::ForcedClosed => None,
            State::Open { .. } | State::HalfOpen { .. } if self.probing >= PROBES_MAX => None,
            State::Open { probe_at } | State::HalfOpen { probe_at, .. } => Some(probe_at),
        }
    }

    /// A probe is on its way.
    pub fn probe_sent(&mut self, now: Duration) {
        self.probing += 1;
        match &mut self.state {
            State::Open { probe_at } | State::HalfOpen { probe_at, .. } => {
                *probe_at = now + PROBE_EVERY;
            }
            State::Closed { .. } | State::ForcedOpen | State::ForcedClosed => {}
        }
    }

    /// A probe has ended, or was not sent after all; what it showed is told to [`Breaker::record`].
    pub fn probe_ended(&mut self) {
        self.probing -= 1;
    }

    /// Does an operator's will; `None`: it finds out by itself again.
    pub fn force(&mut self, now: Duration, to: Option<Force>) -> Transition {
        let admitted = self.admits();
        self.state = match (to, self.state) {
            (Some(Force::Open), _) => State::ForcedOpen,
            (Some(Force::Closed), _) => State::ForcedClosed,
            // Nobody has asked the store since: work waits for the probes.
            (None, State::ForcedOpen) => State::Open { probe_at: now },
            (None, State::ForcedClosed) => State::Closed { failures: 0 },
            (None, automatic) => automatic,
        };
        match (admitted, self.admits()) {
            (true, false) => Transition::Opened,
            (false, true) => Transition::Closed,
            (true, true) | (false, false) => Transition::None,
        }
    }

    /// Takes note of how a call ended that had begun at `began`, be it work or a probe.
    pub fn record(&mut self, now: Duration, began: Duration, seen: Seen) -> Transition {
        if seen == Seen::Failure && began < self.since {
            return Transition::None;
        }
        let (next, transition) = match (self.state, seen) {
            (State::ForcedOpen | State::ForcedClosed, _) => return Transition::None,
            (State::Closed { .. }, Seen::Answer) => {
                self.state = State::Closed { failures: 0 };
                return Transition::None;
            }
            (State::Closed { failures }, Seen::Failure) if failures + 1 < FAILURES_TO_OPEN => {
                self.state = State::Closed { failures: failures + 1 };
                return Transition::None;
            }
            (State::Open { probe_at }, Seen::Failure) => {
                self.state = State::Open { probe_at: probe_at.min(now + COOL_DOWN) };
                return Transition::None;
            }
            (State::Closed { .. }, Seen::Failure) => {
                (State::Open { probe_at: now + COOL_DOWN }, Transition::Opened)
            }
            (State::HalfOpen { .. }, Seen::Failure) => {
                (State::Open { probe_at: now + COOL_DOWN }, Transition::None)
            }
            (State::Open { .. }, Seen::Answer) => {
                (State::HalfOpen { successes: 1, probe_at: now }, Transition::None)
            }
            (State::HalfOpen { successes, .. }, Seen::Answer) => {
                if successes + 1 < PROBES_TO_CLOSE {
                    let successes = successes + 1;
                    (State::HalfOpen { successes, probe_at: now }, Transition::None)
                } else {
                    (State::Closed { failures: 0 }, Transition::Closed)
                }
            }
        };
        (self.state, self.since) = (next, now);
        transition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(
                breaker.record(Duration::ZERO, Duration::ZERO, Seen::Failure),
                Transition::None
            );
        }
        assert_eq!(
            breaker.record(Duration::ZERO, Duration::ZERO, Seen::Failure),
            Transition::Opened
        );
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it() {
        assert!(!opened().admits());
        let mut breaker = Breaker::default();
        for n in 0..100 {
            let seen = if n % 3 == 0 { Seen::Answer } else { Seen::Failure };
            assert_eq!(breaker.record(Duration::ZERO, Duration::ZERO, seen), Transition::None);
        }
    }

    #[test]
    fn good_probes_close_it_and_a_bad_one_starts_over() {
        let mut breaker = opened();
        assert_eq!(breaker.probe_at(), Some(COOL_DOWN));
        let now = COOL_DOWN;
        assert_eq!(breaker.record(now, now, Seen::Answer), Transition::None);
        assert_eq!(breaker.probe_at(), Some(now), "the next probe follows at once");
        assert_eq!(breaker.record(now, now, Seen::Failure), Transition::None);
        assert_eq!(breaker.probe_at(), Some(now + COOL_DOWN));
        breaker.record(now, now, Seen::Answer);
        assert_eq!(breaker.record(now, now, Seen::Answer), Transition::Closed);
        assert!(breaker.admits());
    }

    #[test]
    fn a_probe_without_an_answer_keeps_no_other_back() {
        let mut breaker = opened();
        let mut at = breaker.probe_at().expect("it is open");
        for _ in 0..PROBES_MAX {
            breaker.probe_sent(at);
            at += PROBE_EVERY;
        }
        assert_eq!(breaker.probe_at(), None, "enough are under way");
        breaker.probe_ended();
        assert_eq!(breaker.probe_at(), Some(at));
        breaker.record(at, COOL_DOWN, Seen::Failure);
        assert_eq!(
            breaker.probe_at(),
            Some(at),
            "that one has failed puts the next off no further"
        );
    }

    #[test]
    fn what_had_begun_before_says_nothing_new_by_failing() {
        let lost = COOL_DOWN;
        let now = lost + PROBE_EVERY;
        let mut breaker = opened();
        breaker.record(now, now, Seen::Answer);
        breaker.record(now, lost, Seen::Failure);
        assert_eq!(breaker.state(), State::HalfOpen { successes: 1, probe_at: now });
        assert_eq!(breaker.record(now, now, Seen::Answer), Transition::Closed);
        for _ in 0..2 * FAILURES_TO_OPEN {
            assert_eq!(breaker.record(now, lost, Seen::Failure), Transition::None);
        }
        assert_eq!(breaker.state(), State::Closed { failures: 0 });
    }

    #[test]
    fn nothing_but_an_operators_word_ends_what_an_operator_has_forced() {
        for (force, admits) in [(Force::Open, false), (Force::Closed, true)] {
            for mut breaker in [Breaker::default(), opened()] {
                breaker.force(Duration::ZERO, Some(force));
                for seen in [Seen::Failure, Seen::Answer] {
                    for _ in 0..2 * FAILURES_TO_OPEN {
                        assert_eq!(breaker.record(COOL_DOWN, COOL_DOWN, seen), Transition::None);
                    }
                }
                assert_eq!((breaker.admits(), breaker.is_held()), (admits, !admits));
                assert_eq!(breaker.probe_at(), None);
            }
        }
    }

    #[test]
    fn what_was_forced_open_is_probed_before_work_resumes() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.force(Duration::ZERO, Some(Force::Open)), Transition::Opened);
        let now = COOL_DOWN * 9;
        assert_eq!(breaker.force(now, None), Transition::None);
        assert_eq!((breaker.admits(), breaker.probe_at()), (false, Some(now)));
        breaker.record(now, now, Seen::Answer);
        assert_eq!(breaker.record(now, now, Seen::Answer), Transition::Closed);
    }

    #[test]
    fn what_was_forced_closed_counts_failures_anew() {
        let mut breaker = opened();
        assert_eq!(breaker.force(Duration::ZERO, Some(Force::Closed)), Transition::Closed);
        breaker.record(Duration::ZERO, Duration::ZERO, Seen::Failure);
        assert_eq!(breaker.force(Duration::ZERO, None), Transition::None);
        assert_eq!(breaker.state(), State::Closed { failures: 0 });
        assert_eq!(breaker.force(Duration::ZERO, None), Transition::None, "automatic stays so");
    }
}
