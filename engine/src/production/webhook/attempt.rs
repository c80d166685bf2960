//! What an answer means, and when the next try comes.
//!
//! ```text
//! 2xx -> delivered    410 -> gone    anything else, or nothing -> again, or a dead letter
//! ```
//!
//! Back-off is exponential with full jitter, as at the stores, but slower: a receiver is somebody
//! else's, and nothing of ours waits for it. Source: Brooker, "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015.

use std::fmt;
use std::time::Duration;

/// The first pause is at most this.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// No pause is longer, whatever the receiver asks for.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
const GONE: u16 = 410;

/// What came back from a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP answer.
    Status {
        /// Its status.
        status: u16,
        /// How its body begins.
        begins: String,
        /// After so long it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// None: whether it was heard is not known.
    None {
        /// What happened instead.
        why: String,
    },
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Status { status, begins, .. } if begins.is_empty() => write!(f, "{status}"),
            Answer::Status { status, begins, .. } => write!(f, "{status}: {begins}"),
            Answer::None { why } => write!(f, "no answer ({why})"),
        }
    }
}

impl Answer {
    /// The HTTP status, where there is one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Answer::Status { status, .. } => Some(*status),
            Answer::None { .. } => None,
        }
    }

    /// The receiver has it.
    pub fn is_delivered(&self) -> bool {
        self.status().is_some_and(|status| (200..300).contains(&status))
    }
}

/// What is to be done after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing more.
    Delivered,
    /// The receiver wants to be told nothing any more.
    Gone,
    /// Another try after a pause.
    Again(Duration),
    /// It was tried as often as may be.
    Dead,
}

/// The tries of one notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    made: u32,
    most: u32,
}

impl Attempts {
    /// None yet.
    pub fn new(most: u32) -> Self {
        Attempts { made: 0, most }
    }

    /// So many were made.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// One was made. `random` draws the pause.
    pub fn record(&mut self, answer: &Answer, random: u64) -> Then {
        self.made += 1;
        if answer.is_delivered() {
            return Then::Delivered;
        }
        if answer.status() == Some(GONE) {
            return Then::Gone;
        }
        if self.made >= self.most {
            return Then::Dead;
        }
        let asked = match answer {
            Answer::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            Answer::None { .. } => Duration::ZERO,
        };
        Then::Again(pause(self.made, random).max(asked.min(PAUSE_MAX)))
    }
}

/// Drawn from zero to the cap, which doubles with each failure.
fn pause(failures: u32, random: u64) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let cap_ms = u64::try_from(doubled.min(PAUSE_MAX).as_millis()).expect("at most a minute");
    Duration::from_millis(random % (cap_ms + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Answer {
        Answer::Status { status, begins: String::new(), retry_after: None }
    }

    #[test]
    fn what_an_answer_means() {
        for (code, then) in [
            (200, Then::Delivered),
            (204, Then::Delivered),
            (299, Then::Delivered),
            (410, Then::Gone),
            (301, Then::Again(Duration::ZERO)),
            (308, Then::Again(Duration::ZERO)),
            (400, Then::Again(Duration::ZERO)),
            (404, Then::Again(Duration::ZERO)),
            (429, Then::Again(Duration::ZERO)),
            (500, Then::Again(Duration::ZERO)),
            (100, Then::Again(Duration::ZERO)),
        ] {
            assert_eq!(Attempts::new(2).record(&status(code), 0), then, "{code}");
        }
        let none = Answer::None { why: "timeout".to_owned() };
        assert_eq!(Attempts::new(2).record(&none, 0), Then::Again(Duration::ZERO));
    }

    #[test]
    fn tries_end_and_their_pauses_double_up_to_a_bound() {
        let mut attempts = Attempts::new(12);
        let mut caps = Vec::new();
        loop {
            // As many random numbers as there are: the cap shows.
            let mut longest = Duration::ZERO;
            for random in (0..=60_000).step_by(500) {
                let mut tried = attempts;
                if let Then::Again(pause) = tried.record(&status(500), random) {
                    longest = longest.max(pause);
                }
            }
            match attempts.record(&status(500), 0) {
                Then::Again(pause) => assert_eq!(pause, Duration::ZERO, "full jitter"),
                then => {
                    assert_eq!(then, Then::Dead);
                    break;
                }
            }
            caps.push(longest.as_millis());
        }
        assert_eq!(attempts.made(), 12);
        let expected =
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000, 60_000];
        assert_eq!(caps, expected);
    }

    #[test]
    fn a_receiver_that_asks_for_a_pause_gets_it_within_the_bound() {
        let asks = |seconds: u64| Answer::Status {
            status: 429,
            begins: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let pause = |seconds| Attempts::new(9).record(&asks(seconds), 0);
        assert_eq!(pause(7), Then::Again(Duration::from_secs(7)));
        assert_eq!(pause(86_400), Then::Again(PAUSE_MAX));
    }
}
