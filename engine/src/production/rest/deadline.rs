//! `X-Deadline-Ms`: for how long a request's caller waits.
//!
//! It is a time span and no point in time, so that the caller's clock need not agree with the
//! server's (as in `grpc-timeout`), and counts from the arrival of the request's head. Once it has
//! passed nothing is begun: a read is given up, a write that has no place in the journal yet is
//! refused, and one that has is answered with what is known of it.

use super::App;
use super::problem::{Kind, Problem};
use super::records::bad;
use crate::env::{Clock, Env};
use axum::http::{HeaderMap, HeaderName};
use std::time::Duration;

/// See the module.
const DEADLINE: HeaderName = HeaderName::from_static("x-deadline-ms");
/// Whoever waits longer need not say so.
const DEADLINE_MS_MAX: u64 = 3_600_000;

/// Until when the caller waits, by the monotonic clock; `None`: it does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Option<Duration>);

impl Deadline {
    /// What the headers of a request that has arrived say.
    pub fn of(headers: &HeaderMap, arrived: Duration) -> Result<Self, Problem> {
        let Some(value) = headers.get(&DEADLINE) else { return Ok(Deadline(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let ms = text.parse().ok().filter(|ms| digits && (1..=DEADLINE_MS_MAX).contains(ms));
        match ms {
            Some(ms) => Ok(Deadline(Some(arrived + Duration::from_millis(ms)))),
            None => Err(bad(format!(
                "the header {DEADLINE} is {text:?}; give 1 to {DEADLINE_MS_MAX} milliseconds"
            ))),
        }
    }

    /// Gives up once the deadline has passed.
    pub async fn within<E: Env, T>(
        self,
        app: &App<E>,
        work: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        let Some(at) = self.0 else { return Ok(work.await) };
        let left = at.saturating_sub(app.now());
        if left.is_zero() {
            return Err(passed());
        }
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = app.node.env().clock().sleep(left) => Err(passed()),
        }
    }
}

fn passed() -> Problem {
    Problem::new(
        Kind::DeadlinePassed,
        "the caller's deadline has passed; try again, with more time",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_from_the_arrival_on() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(DEADLINE, text.parse().unwrap())]);
            Deadline::of(&headers, Duration::from_secs(5)).map(|deadline| deadline.0)
        };
        assert_eq!(of("250"), Ok(Some(Duration::from_millis(5_250))));
        for wrong in ["", "0", "-1", "+5", "1.5", "soon", "3600001", "99999999999999999999"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        let unsaid = Deadline::of(&HeaderMap::new(), Duration::ZERO);
        assert_eq!(unsaid, Ok(Deadline(None)));
    }
}
