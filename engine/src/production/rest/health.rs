//! `/v1/health/live` and `/v1/health/ready`, for whoever starts, stops and routes to this process.
//!
//! ```text
//! live    the journal makes progress; 503: start the process anew
//! ready   it takes writes and answers reads; 503: send requests elsewhere, and say why
//! ```
//!
//! Invariant: neither asks a store anything. One that is away makes nobody unready: writes are taken into
//! the journal, and every coordinator in front of it would be unready at once. The exception is D1 as
//! long as its records have not been read since the start: a write to a record that is not known is
//! refused then (rule V1). Both are answered without a token, so they name no file and no record.

use super::App;
use super::problem::{Kind, Problem};
use crate::coordinator::Pulse;
use crate::env::Env;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// A commit takes milliseconds; a disk that takes so long for one serves nobody.
const COMMIT_SLOW: Duration = Duration::from_secs(10);
/// And one that takes so long does not come back by itself.
const COMMIT_STUCK: Duration = Duration::from_secs(60);
/// A journal that cannot be replayed for so long does not come back by itself either.
const RECOVERY_STUCK: Duration = Duration::from_secs(60);

/// What both are decided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Vitals {
    /// For how long the journal has been replayed after a failure.
    recovering: Option<Duration>,
    draining: bool,
    /// `None` while the journal is replayed.
    pulse: Option<Pulse>,
}

impl Vitals {
    fn of<E: Env>(app: &App<E>) -> Self {
        let pulse = app.node.reader().ok().map(|coordinator| {
            let pulse = coordinator.pulse();
            if pulse.journal_full {
                // Where nobody is sent here any more, nobody would find out that there is room again.
                coordinator.try_journal();
            }
            pulse
        });
        Vitals { recovering: app.node.recovering(), draining: app.node.is_draining(), pulse }
    }

    /// Why the process is to be started anew; `None`: it is not.
    fn dead(&self) -> Option<String> {
        let longer = |time: Option<Duration>, bound: Duration| time.filter(|time| *time >= bound);
        if let Some(time) = longer(self.recovering, RECOVERY_STUCK) {
            return Some(format!("the journal cannot be replayed since {} s", time.as_secs()));
        }
        let commit = self.pulse.and_then(|pulse| pulse.commit_for);
        longer(commit, COMMIT_STUCK)
            .map(|time| format!("a commit of the journal takes {} s already", time.as_secs()))
    }

    /// Every reason why requests should go elsewhere.
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining {
            reasons.push("the server is stopping and takes no new writes".to_owned());
        }
        let Some(pulse) = self.pulse else {
            reasons.push("the journal failed and is being replayed".to_owned());
            return reasons;
        };
        if !pulse.ledger_complete {
            let reason = "the authority's records are still being read, or it does not answer";
            reasons.push(reason.to_owned());
        }
        if pulse.journal_full {
            reasons.push("the journal's disk is full, and writes are refused".to_owned());
        }
        if let Some(time) = pulse.commit_for.filter(|time| *time >= COMMIT_SLOW) {
            let seconds = time.as_secs();
            reasons.push(format!("a commit of the journal takes {seconds} s already"));
        }
        if pulse.queue_full {
            reasons.push("as many writes wait for the authority as may".to_owned());
        }
        reasons
    }
}

pub(super) async fn live<E: Env>(State(app): State<Arc<App<E>>>) -> Result<Response, Problem> {
    match Vitals::of(&app).dead() {
        None => Ok(axum::Json(json!({ "live": true })).into_response()),
        Some(reason) => Err(Problem::new(Kind::NotLive, reason)),
    }
}

pub(super) async fn ready<E: Env>(State(app): State<Arc<App<E>>>) -> Response {
    let reasons = Vitals::of(&app).unready();
    if reasons.is_empty() {
        return axum::Json(json!({ "ready": true })).into_response();
    }
    Problem::new(Kind::NotReady, reasons.join("; ")).with_reasons(&reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Pulse =
        Pulse { ledger_complete: true, journal_full: false, commit_for: None, queue_full: false };

    fn with(change: impl Fn(&mut Pulse)) -> Vitals {
        let mut pulse = WELL;
        change(&mut pulse);
        Vitals { pulse: Some(pulse), ..Vitals::default() }
    }

    #[test]
    fn each_state_is_ready_or_says_why_not() {
        let seconds = Duration::from_secs;
        let recovering = |time| Vitals { recovering: Some(seconds(time)), ..Vitals::default() };
        let stopping = Vitals { draining: true, ..with(|_| {}) };
        for (vitals, unready, dead) in [
            (with(|_| {}), None, None),
            (with(|p| p.commit_for = Some(seconds(3))), None, None),
            (stopping, Some("stopping"), None),
            (with(|p| p.ledger_complete = false), Some("being read"), None),
            (with(|p| p.journal_full = true), Some("disk is full"), None),
            (with(|p| p.queue_full = true), Some("wait for the authority"), None),
            (with(|p| p.commit_for = Some(seconds(15))), Some("takes 15 s"), None),
            (with(|p| p.commit_for = Some(seconds(61))), Some("takes 61 s"), Some("takes 61 s")),
            (recovering(5), Some("being replayed"), None),
            (recovering(61), Some("being replayed"), Some("since 61 s")),
        ] {
            let reasons = vitals.unready();
            assert_eq!(reasons.len(), usize::from(unready.is_some()), "{vitals:?}: {reasons:?}");
            assert!(reasons.concat().contains(unready.unwrap_or("")), "{vitals:?}: {reasons:?}");
            let said = vitals.dead();
            assert_eq!(said.is_some(), dead.is_some(), "{vitals:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(dead.unwrap_or("")), "{vitals:?}");
        }
    }

    #[test]
    fn every_reason_is_said() {
        let all = with(|p| {
            *p = Pulse {
                ledger_complete: false,
                journal_full: true,
                commit_for: Some(COMMIT_SLOW),
                queue_full: true,
            };
        });
        assert_eq!(Vitals { draining: true, ..all }.unready().len(), 5);
    }
}
