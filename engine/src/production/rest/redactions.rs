//! `/v1/redactions`: what could be erased of a record's past, and erasing it.

use super::App;
use super::conflicts::write;
use super::dead_letters::reason;
use super::problem::{Kind, Problem};
use super::records::{bad, body_problem};
use super::wall_ms;
use crate::coordinator::{Redact, RedactError, Redaction};
use crate::env::Env;
use crate::version::Dot;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest request in bytes.
pub const REDACT_BYTES_MAX: usize = 64 * 1024;
/// As an operator's other actions are logged.
const BY: &str = "operator";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    conflict: Option<String>,
    dataset: Option<String>,
    key: Option<String>,
}

/// `GET /v1/redactions`: what could be erased, of a conflict or of a record; nothing is.
pub(super) async fn preview<E: Env>(
    State(app): State<Arc<App<E>>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(asked) = asked.map_err(|error| bad(error.body_text()))?;
    let of = match asked {
        Asked { conflict: Some(id), dataset: None, key: None } => Redact::Conflict(dot_of(&id)?),
        Asked { conflict: None, dataset: Some(dataset), key: Some(key) } => {
            Redact::Record { dataset, key }
        }
        _ => return Err(bad("give either `conflict`, or `dataset` and `key`")),
    };
    let redaction = app.node.reader()?.redaction(of).await;
    let Redaction { record, values, more, standing } = redaction.map_err(|e| problem(&e))?;
    let bytes: u64 = values.iter().map(|value| value.bytes).sum();
    let shown = |all: &[_]| all.iter().map(write).collect::<Vec<Value>>();
    let answer = json!({
        "dataset": record.dataset,
        "key": record.key.to_string(),
        "values": shown(&values),
        "bytes": bytes,
        "more": more,
        "standing": shown(&standing),
    });
    Ok(axum::Json(answer).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    dataset: String,
    key: String,
    operations: Vec<String>,
    reason: Option<String>,
}

/// `POST /v1/redactions`: erases the bytes of the operations that are named, as the preview names them.
pub(super) async fn redact<E: Env>(
    State(app): State<Arc<App<E>>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, REDACT_BYTES_MAX))?;
    let Decision { dataset, key, operations, reason: why } =
        serde_json::from_slice(&body).map_err(|error| {
            bad(format!(
                "the request: {error}; give {{\"dataset\": \"…\", \"key\": \"…\", \"operations\": [\"…\"], \
                 \"reason\": \"…\"}}, as `GET /v1/redactions` names them"
            ))
        })?;
    let reason = reason(why.as_deref(), "erasing bytes for good")?;
    let writes = operations.iter().map(|id| dot_of(id)).collect::<Result<Vec<Dot>, Problem>>()?;
    let redacted = app.writer()?.redact(&dataset, &key, writes, BY, &reason).await;
    let (record, erased) = redacted.map_err(|error| problem(&error))?;
    if !erased.is_empty() {
        tracing::warn!(%record, values = erased.len(), reason, "an operator has had bytes erased");
        app.audit.redacted(wall_ms(&app.node), &record, &erased, BY, &reason).await;
    }
    let erased: Vec<Value> = erased.iter().map(write).collect();
    let answer = json!({ "dataset": dataset, "key": key, "erased": erased, "reason": reason });
    Ok(axum::Json(answer).into_response())
}

fn dot_of(id: &str) -> Result<Dot, Problem> {
    id.parse().map_err(|error| bad(format!("the operation {error}")))
}

fn problem(error: &RedactError) -> Problem {
    let kind = match error {
        RedactError::UnknownConflict => Kind::UnknownConflict,
        RedactError::Read(read) => return Problem::from(read.clone()).refused(),
        RedactError::Stands { .. } => Kind::ValueStands,
        RedactError::Bound { .. } => Kind::BadRequest,
        RedactError::Unknown(_) => {
            return Problem::new(Kind::OutcomeUnknown, error.to_string()).unknown();
        }
    };
    Problem::new(kind, error.to_string()).refused()
}
