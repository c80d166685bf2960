//! `/v1/webhooks`: how those do who are told over HTTP, and what to do about what they did not take.

use super::App;
use super::dead_letters::{Why, reason_or_none};
use super::problem::{Kind, Problem};
use super::records::bad;
use crate::env::Env;
use crate::production::audit::wall_ms;
use crate::production::webhook::{Answered, Hook, Letter, LetterError, Stage};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

pub(super) async fn list<E: Env>(State(app): State<Arc<App<E>>>) -> Response {
    let head_seq = app.audit.told().borrow().head_seq;
    let now_ms = wall_ms(&app.node);
    let shown: Vec<Value> = app.webhooks.iter().map(|hook| shown(hook, head_seq, now_ms)).collect();
    axum::Json(json!({ "webhooks": shown, "head_seq": head_seq })).into_response()
}

pub(super) async fn get<E: Env>(
    State(app): State<Arc<App<E>>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|error| bad(error.body_text()))?;
    let hook = find(&app, &name)?;
    let head_seq = app.audit.told().borrow().head_seq;
    Ok(axum::Json(shown(&hook, head_seq, wall_ms(&app.node))).into_response())
}

/// `POST /v1/webhooks/{name}/test`: sends a signed ping, once.
pub(super) async fn test<E: Env>(
    State(app): State<Arc<App<E>>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|error| bad(error.body_text()))?;
    let hook = find(&app, &name)?;
    let answered = blocking(move || hook.test(rand::random())).await?;
    app.log("webhook test", &format!("{name}: {}", answered.answer), "").await;
    let mut said = answer(&answered);
    said["webhook"] = json!(name);
    said["delivered"] = json!(answered.answer.is_delivered());
    Ok(axum::Json(said).into_response())
}

/// `POST /v1/webhooks/{name}/dead-letters/{id}/retry`: sends it once more.
pub(super) async fn retry<E: Env>(
    State(app): State<Arc<App<E>>>,
    named: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Problem> {
    let Path((name, id)) = named.map_err(|error| bad(error.body_text()))?;
    let hook = find(&app, &name)?;
    let of = id.clone();
    let retried = blocking(move || hook.retry(&of)).await?;
    let retried = retried.map_err(|error| problem(&name, &id, &error))?;
    let answered = &retried.answered.answer;
    tracing::info!(webhook = name, id, %answered, "an operator has a dead letter sent again");
    app.log("webhook retry", &format!("{id} of {name}: {answered}"), "").await;
    let mut shown = letter(&retried.letter, wall_ms(&app.node));
    shown["delivered"] = json!(answered.is_delivered());
    shown["answered"] = answer(&retried.answered);
    Ok(axum::Json(shown).into_response())
}

/// `POST /v1/webhooks/{name}/dead-letters/{id}/discard`: the log keeps what it tells of, so a reason is
/// taken and not asked for.
pub(super) async fn discard<E: Env>(
    State(app): State<Arc<App<E>>>,
    named: Result<Path<(String, String)>, PathRejection>,
    why: Result<Query<Why>, QueryRejection>,
) -> Result<Response, Problem> {
    let Path((name, id)) = named.map_err(|error| bad(error.body_text()))?;
    let Query(why) = why.map_err(|error| bad(error.body_text()))?;
    let reason = reason_or_none(why.reason.as_deref(), "discarding a notification")?;
    let hook = find(&app, &name)?;
    let of = id.clone();
    let discarded = blocking(move || hook.discard(&of)).await?;
    let discarded = discarded.map_err(|error| problem(&name, &id, &error))?;
    tracing::info!(webhook = name, id, reason, "an operator has discarded a dead letter");
    app.log("webhook discard", &format!("{id} of {name}"), &reason).await;
    let mut shown = letter(&discarded, wall_ms(&app.node));
    shown["outcome"] = json!("discarded");
    shown["reason"] = json!(reason);
    Ok(axum::Json(shown).into_response())
}

fn find<E: Env>(app: &App<E>, name: &str) -> Result<Arc<Hook>, Problem> {
    app.webhooks.find(name).cloned().ok_or_else(|| {
        let names: Vec<&str> = app.webhooks.iter().map(|hook| hook.webhook.name.as_str()).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Problem::new(
            Kind::UnknownWebhook,
            format!("there is no webhook {name:?}; the configuration declares {known}"),
        )
    })
}

/// Runs what waits for a receiver, or for the disk, on a thread that may.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(call).await.map_err(|error| {
        Problem::new(Kind::OutcomeUnknown, format!("whether it was sent is not known: {error}"))
    })
}

fn problem(name: &str, id: &str, error: &LetterError) -> Problem {
    match error {
        LetterError::Unknown => Problem::new(
            Kind::UnknownDeadLetter,
            format!("webhook {name} has no dead letter {id}; it may have been delivered meanwhile"),
        ),
        LetterError::File(error) => Problem::new(
            Kind::OutcomeUnknown,
            format!(
                "the dead letters of webhook {name} cannot be written ({error}); {id} may have been \
                 sent, and stays one until they can"
            ),
        ),
    }
}

fn shown(hook: &Hook, head_seq: u64, now_ms: u64) -> Value {
    let standing = hook.standing();
    let letters: Vec<Value> = hook.letters().iter().map(|it| letter(it, now_ms)).collect();
    // What stands behind a question mark is often somebody's key.
    let url = hook.webhook.url.split('?').next().unwrap_or_default();
    let kinds = hook.webhook.kinds.as_ref();
    let mut shown = json!({
        "name": hook.webhook.name,
        "url": url,
        "kinds": kinds.map(|kinds| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>()),
        "datasets": hook.webhook.datasets,
        "state": standing.stage.name(),
        "place": standing.told_seq,
        "behind": head_seq.saturating_sub(standing.told_seq),
        "storms": standing.storms,
        "missed": standing.missed,
        "consecutive_failures": standing.failures,
        "delivered": standing.delivered,
        "failed": standing.failed,
        "last_answer": standing.answered.as_ref().map(answer),
        "dead_letters": letters,
        "dead_letters_dropped": standing.dropped,
    });
    match &standing.stage {
        Stage::Following => {}
        Stage::Retrying { id, next } => {
            let next_ms = next.saturating_duration_since(Instant::now()).as_millis();
            shown["retrying"] = json!(id);
            shown["next_try_ms"] = json!(u64::try_from(next_ms).unwrap_or(u64::MAX));
        }
        Stage::Disabled { id } => {
            shown["detail"] = json!(format!(
                "the receiver answered {id} with 410 (Gone); `tidelock webhook test {}` once it is \
                 there again",
                hook.webhook.name
            ));
        }
        Stage::Stalled { why } => shown["detail"] = json!(why),
    }
    shown
}

fn answer(answered: &Answered) -> Value {
    json!({
        "id": answered.id,
        "status": answered.answer.status(),
        "answer": answered.answer.to_string(),
        "at_ms": answered.at_ms,
        "took_ms": u64::try_from(answered.took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn letter(letter: &Letter, now_ms: u64) -> Value {
    let told = &letter.notification;
    json!({
        "id": told.id,
        "kind": told.kind,
        "first_seq": told.first_seq,
        "last_seq": told.last_seq,
        "since_ms": letter.since_ms,
        "age_ms": now_ms.saturating_sub(letter.since_ms),
        "attempts": letter.attempts,
        "answer": letter.answer,
    })
}
