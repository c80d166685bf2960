//! `/v1/dead-letters`: what a store will never take as it is, and what to do about it.

use super::App;
use super::problem::{Kind, Problem};
use super::records::{bad, data};
use crate::coordinator::DeadLetterError;
use crate::dead_letter::{DeadLetter, EndedLetter, Ending};
use crate::env::{Clock, Env};
use crate::record::Stored;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Characters of a reason.
pub(super) const REASON_MAX: usize = 500;

pub(super) async fn list<E: Env>(State(app): State<Arc<App<E>>>) -> Result<Response, Problem> {
    let (letters, ended) = app.node.reader()?.dead_letters();
    let now_ms = wall_ms(&app);
    let letters: Vec<Value> = letters.iter().map(|letter| summary(letter, now_ms)).collect();
    let ended: Vec<Value> = ended.iter().map(|ended| ending(ended, now_ms)).collect();
    Ok(axum::Json(json!({ "dead_letters": letters, "ended": ended })).into_response())
}

pub(super) async fn get<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(id) = id.map_err(|error| bad(error.body_text()))?;
    let (letters, ended) = app.node.reader()?.dead_letters();
    let now_ms = wall_ms(&app);
    let shown = match letters.iter().find(|letter| letter.id == id) {
        Some(letter) => whole(letter, now_ms),
        None => match ended.iter().find(|ended| ended.letter.id == id) {
            Some(ended) => ending(ended, now_ms),
            None => return Err(problem(&id, &DeadLetterError::Unknown)),
        },
    };
    Ok(axum::Json(shown).into_response())
}

/// `GET /v1/dead-letters/{id}/value`: the bytes that the authority refuses.
pub(super) async fn value<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(id) = id.map_err(|error| bad(error.body_text()))?;
    let value = app.node.reader()?.dead_letter_value(&id).map_err(|error| problem(&id, &error))?;
    let Stored::Inline(bytes) = value else {
        let detail = format!("dead letter {id} is a delete: it has no value");
        return Err(Problem::new(Kind::NotFound, detail));
    };
    Ok(data(bytes))
}

/// `POST /v1/dead-letters/{id}:retry`.
pub(super) async fn act<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(named) = id.map_err(|error| bad(error.body_text()))?;
    let Some(id) = named.strip_suffix(":retry") else {
        return Err(bad("a dead letter takes POST …:retry only"));
    };
    let letter = app.writer()?.retry_dead_letter(id).map_err(|error| problem(id, &error))?;
    tracing::info!(id, record = %letter.record, "an operator has a dead letter tried again");
    app.log("dlq retry", &format!("{id} of {}", letter.record), "").await;
    Ok(axum::Json(summary(&letter, wall_ms(&app))).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    pub(super) reason: Option<String>,
}

pub(super) async fn discard<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
    why: Result<Query<Why>, QueryRejection>,
) -> Result<Response, Problem> {
    let Path(id) = id.map_err(|error| bad(error.body_text()))?;
    let Query(why) = why.map_err(|error| bad(error.body_text()))?;
    let reason = reason(why.reason.as_deref(), "discarding an acknowledged write")?;
    let discarded = app.writer()?.discard_dead_letter(&id, &reason).await;
    let letter = discarded.map_err(|error| problem(&id, &error))?;
    let target = format!("{id}: operation {} of {}", letter.dot, letter.record);
    app.log("dlq discard", &target, &reason).await;
    let mut shown = whole(&letter, wall_ms(&app));
    shown["outcome"] = json!("discarded");
    shown["reason"] = json!(reason);
    Ok(axum::Json(shown).into_response())
}

/// What an operator gave as reason, if anything.
pub(super) fn reason_or_none(given: Option<&str>, what: &str) -> Result<String, Problem> {
    given.map_or(Ok(String::new()), |given| reason(Some(given), what))
}

/// What an operator gave as reason, which must be something.
pub(super) fn reason(given: Option<&str>, what: &str) -> Result<String, Problem> {
    let reason = given.unwrap_or_default().trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(bad(format!(
            "{what} needs a `reason` of at most {REASON_MAX} characters, which is logged"
        )));
    }
    Ok(reason.to_owned())
}

fn problem(id: &str, error: &DeadLetterError) -> Problem {
    let kind = match error {
        DeadLetterError::Unknown => Kind::UnknownDeadLetter,
        DeadLetterError::UnderWay => Kind::Busy,
        DeadLetterError::Owed
        | DeadLetterError::Lost { .. }
        | DeadLetterError::Overtaken { .. } => Kind::StillOwed,
        DeadLetterError::Journal(_) => Kind::OutcomeUnknown,
    };
    Problem::new(kind, format!("dead letter {id}: {error}"))
}

fn wall_ms<E: Env>(app: &App<E>) -> u64 {
    u64::try_from(app.node.env().clock().wall().as_millis()).unwrap_or(u64::MAX)
}

fn summary(letter: &DeadLetter, now_ms: u64) -> Value {
    json!({
        "id": letter.id,
        "dataset": letter.record.dataset,
        "key": letter.record.key.to_string(),
        "store": letter.store,
        "operation": letter.dot.to_string(),
        "bytes": letter.bytes,
        "reason": letter.reason(),
        "tries": letter.tries,
        "since_ms": letter.since_ms,
        "age_ms": now_ms.saturating_sub(letter.since_ms),
        "lost_to": letter.lost_to.map(|dot| dot.to_string()),
    })
}

fn whole(letter: &DeadLetter, now_ms: u64) -> Value {
    let mut shown = summary(letter, now_ms);
    shown["history"] = json!(letter.history);
    shown
}

fn ending(ended: &EndedLetter, now_ms: u64) -> Value {
    let mut shown = whole(&ended.letter, now_ms);
    shown["ended_ms"] = json!(ended.at_ms);
    shown["outcome"] = json!(match &ended.ending {
        Ending::Applied => "applied",
        Ending::Superseded { by } => {
            shown["by"] = json!(by.to_string());
            "superseded"
        }
        Ending::Expired => "expired",
        Ending::Discarded { reason } => {
            shown["reason"] = json!(reason);
            "discarded"
        }
        Ending::Cancelled => "cancelled",
        Ending::Elsewhere => "elsewhere",
    });
    shown
}
