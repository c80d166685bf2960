//! `/v1/policies`: what is in force, and reading the configuration again.

use super::App;
use super::problem::{Kind, Problem};
use super::records::{bad, body_problem};
use super::status::dataset_report;
use crate::audit::Retention;
use crate::env::Env;
use crate::production::node::Away;
use crate::production::reload::Refused;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
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
