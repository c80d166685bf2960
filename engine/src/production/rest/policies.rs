//! `/v1/policies`: what is in force, reading the configuration again, and trying another one on past
//! conflicts.

use super::problem::{Kind, Problem};
use super::records::{bad, body_problem};
use super::status::dataset_report;
use super::{App, conflicts, wall_ms};
use crate::audit::Retention;
use crate::coordinator::{Again, Replayed};
use crate::env::Env;
use crate::policy::parse;
use crate::production::node::Away;
use crate::production::reload::Refused;
use crate::row::StoreTime;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Largest configuration in bytes.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    /// Say what would change, and change nothing.
    dry_run: bool,
    /// Look at this text instead of the server's own file; only in a dry run.
    text: Option<String>,
}

pub(super) async fn show<E: Env>(State(app): State<Arc<App<E>>>) -> Response {
    let policy = app.node.policy();
    let datasets: Vec<_> = policy.datasets.values().map(dataset_report).collect();
    let Retention { keep, segments_max } = app.audit.retention();
    let keep_s = (keep != Duration::MAX).then_some(keep.as_secs());
    let audit = json!({ "keep_s": keep_s, "segments_max": segments_max });
    axum::Json(json!({ "datasets": datasets, "audit": audit })).into_response()
}

pub(super) async fn reload<E: Env>(
    State(app): State<Arc<App<E>>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, POLICY_BYTES_MAX))?;
    let asked: Asked = if body.is_empty() {
        Asked::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| bad(format!("the request: {error}")))?
    };
    let done = match (asked.dry_run, &asked.text) {
        (false, Some(_)) => {
            return Err(bad(
                "`text` is for a dry run; what is put in force is the server's own file",
            ));
        }
        (true, text) => app.reload.preview(&app.node, &app.audit, text.as_deref()),
        (false, None) => app.reload.now(&app.node, &app.audit),
    };
    Ok(match done {
        Ok(changes) => {
            if !asked.dry_run {
                app.log("policy reload", &changes.said.join("; "), "").await;
            }
            let done = json!({ "changed": changes.said, "dry_run": asked.dry_run });
            axum::Json(done).into_response()
        }
        Err(why) => refused(&why),
    })
}

/// Conflicts that are replayed at once.
const REPLAYED_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replay {
    /// A configuration.
    text: String,
    /// Conflicts that were settled in the last so many milliseconds.
    since_ms: u64,
}

/// `POST /v1/policies:simulate`: past conflicts as another configuration would settle them. It changes
/// nothing.
pub(super) async fn simulate<E: Env>(
    State(app): State<Arc<App<E>>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, POLICY_BYTES_MAX))?;
    let asked: Replay =
        serde_json::from_slice(&body).map_err(|error| bad(format!("the request: {error}")))?;
    let config = match parse::parse("the text", &asked.text) {
        Ok(config) => config,
        Err(mistakes) => return Ok(refused(&Refused::Mistakes(mistakes))),
    };
    let since = StoreTime(wall_ms(&app.node).saturating_sub(asked.since_ms));
    let coordinator = app.node.reader()?;
    let replayed = coordinator.replay_conflicts(&config.policy, since, REPLAYED_MAX).await;
    let replayed =
        replayed.map_err(|error| Problem::new(Kind::StoreUnavailable, error.to_string()))?;
    let conflicts: Vec<Value> = replayed.iter().map(as_it_would_be).collect();
    let more = replayed.len() == REPLAYED_MAX;
    Ok(axum::Json(json!({ "conflicts": conflicts, "more": more })).into_response())
}

fn as_it_would_be(replayed: &Replayed) -> Value {
    let mut shown = conflicts::summary(&replayed.conflict);
    shown["again"] = match &replayed.again {
        Again::NoDataset => json!({ "outcome": "no_dataset" }),
        Again::Unknown(why) => json!({ "outcome": "unknown", "why": why }),
        Again::Same(by) => json!({ "outcome": "same", "strategy": by.to_string() }),
        Again::Other { by, shown, value } => json!({
            "outcome": "other",
            "strategy": by.to_string(),
            "shown": conflicts::write(shown),
            "text": conflicts::text(value.as_ref()),
        }),
    };
    shown
}

fn refused(refused: &Refused) -> Response {
    let reasons = refused.reasons();
    let kind = match refused {
        Refused::File(_) | Refused::Mistakes(_) => Kind::PolicyMistakes,
        Refused::Change(_) => Kind::PolicyConflict,
        Refused::Away(Away::Recovering { .. }) => Kind::Recovering,
        Refused::Away(Away::Draining) => Kind::Stopping,
    };
    let detail = format!("nothing changed: {}", reasons.join("\n"));
    Problem::new(kind, detail).refused().with_reasons(&reasons)
}
