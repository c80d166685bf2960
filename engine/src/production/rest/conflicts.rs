//! `/v1/conflicts`: what was settled, both values of it, and the way back; and what stands open, until
//! somebody who has seen all of its values resolves it.

use super::App;
use super::dead_letters::REASON_MAX;
use super::problem::{Kind, Problem};
use super::records::{
    CONTEXT, acknowledged, bad, body_problem, context_of, data, known, receipt, session_of, tag_of,
};
use super::wall_ms;
use crate::conflict::{Conflict, ConflictQuery, Place, Which};
use crate::coordinator::{
    Condition, Disputed, Lost, OpenConflict, Resolution, Resolve, ResolveError, RestoreError,
    Started,
};
use crate::env::Env;
use crate::record::{RecordId, VALUE_BYTES_MAX};
use crate::row::Seq;
use crate::version::{Dot, Sibling};
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Conflicts in one page of a listing.
pub(super) const PAGE_CONFLICTS_MAX: usize = 500;
/// Largest decision in bytes: a value in base64, and what it is about.
pub(super) const RESOLVE_BYTES_MAX: usize = VALUE_BYTES_MAX / 3 * 4 + 64 * 1024;
/// Bytes of a value that is shown in a document, where it is text.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    dataset: Option<String>,
    open: Option<bool>,
    before: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/conflicts`: the newest first; with `open=true`, the records of which several values stand
/// beside each other, by dataset and key.
pub(super) async fn list<E: Env>(
    State(app): State<Arc<App<E>>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let coordinator = app.node.reader()?;
    let limit = query.limit.unwrap_or(PAGE_CONFLICTS_MAX);
    if !(1..=PAGE_CONFLICTS_MAX).contains(&limit) {
        return Err(bad(format!("`limit` is {limit}; give 1 to {PAGE_CONFLICTS_MAX}")));
    }
    if let Some(dataset) = &query.dataset {
        known(&coordinator.policy(), dataset)?;
    }
    if query.open == Some(true) {
        if query.before.is_some() {
            return Err(bad("open conflicts come in the order of their keys: go on with `after`"));
        }
        let after = query.after.as_deref().map(record_of).transpose()?;
        let open = coordinator.open_conflicts(query.dataset.as_deref(), after.as_ref(), limit);
        let Some(open) = open else {
            let detail = "the authority's records are still being read, so a listing would have gaps; \
                          try again";
            return Err(Problem::new(Kind::NotReady, detail));
        };
        let next =
            open.last().filter(|_| open.len() == limit).map(|last| record_cursor(&last.record));
        let open: Vec<Value> = open.iter().map(standing_open).collect();
        return Ok(axum::Json(json!({ "open": open, "next": next })).into_response());
    }
    if query.after.is_some() {
        return Err(bad("settled conflicts come the newest first: go on with `before`"));
    }
    let before = query.before.as_deref().map(place_of).transpose()?;
    let dataset = query.dataset.map(Arc::from);
    let asked = ConflictQuery { dataset, which: Which::Before(before), limit };
    let found = coordinator.conflicts(asked).await.map_err(RestoreError::from);
    let found = found.map_err(|error| problem(None, &error))?;
    let next = found.last().filter(|_| found.len() == limit).map(cursor);
    let conflicts: Vec<Value> = found.iter().map(summary).collect();
    Ok(axum::Json(json!({ "conflicts": conflicts, "next": next })).into_response())
}

/// `GET /v1/conflicts/{id}`: with what lost and what stands now, where that is text and not large.
pub(super) async fn get<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let (_, disputed) = find(&app, id).await?;
    Ok(axum::Json(whole(&disputed)).into_response())
}

/// `GET /v1/conflicts/{id}/lost`: the bytes that lost.
pub(super) async fn lost<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let (id, disputed) = find(&app, id).await?;
    match disputed.lost {
        Lost::Value(bytes) => Ok(data(bytes)),
        Lost::Deleted => {
            let detail = format!("what lost in {id} is a delete: it has no value");
            Err(Problem::new(Kind::NotFound, detail))
        }
        Lost::Erased(erasure) => Err(problem(Some(&id), &RestoreError::Erased(erasure))),
    }
}

async fn find<E: Env>(
    app: &App<E>,
    id: Result<Path<String>, PathRejection>,
) -> Result<(String, Disputed), Problem> {
    let Path(id) = id.map_err(|error| bad(error.body_text()))?;
    let disputed = app.node.reader()?.conflict(dot_of(&id)?).await;
    let disputed = disputed.map_err(|error| problem(Some(&id), &error))?;
    Ok((id, disputed))
}

/// `POST /v1/conflicts/{id}:restore`, over exactly the version that `If-Match` names, or over none with
/// `If-None-Match: *`: whoever decides has seen what stands, and nothing else is written over.
pub(super) async fn act<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(named) = id.map_err(|error| bad(error.body_text()))?;
    let Some(id) = named.strip_suffix(":restore") else {
        return Err(bad("a conflict takes POST …:restore only"));
    };
    let lost = dot_of(id)?;
    let none = headers.get(header::IF_NONE_MATCH).is_some_and(|star| star.as_bytes() == b"*");
    let over = match (headers.get(header::IF_MATCH), none) {
        (Some(tag), false) => Some(tag_of(tag)?),
        (None, true) => None,
        (None, false) | (Some(_), true) => {
            return Err(bad(
                "say over which version: `If-Match` with the etag that stands now, or \
                 `If-None-Match: *` where there is no record",
            ));
        }
    };
    let session = session_of(&headers)?;
    let restored = app.writer()?.restore(lost, over).await;
    let (conflict, restored) = restored.map_err(|error| problem(Some(id), &error).refused())?;
    let receipt = receipt(restored)?;
    app.audit.restored(wall_ms(&app.node), app.peers.own().site, &conflict, receipt.dot).await;
    Ok(acknowledged(&receipt, StatusCode::OK, session))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    dataset: String,
    key: String,
    take: Option<String>,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    delete: bool,
    #[serde(default)]
    reason: String,
}

/// `POST /v1/conflicts:resolve`, over exactly the values whose context `X-Context` gives.
pub(super) async fn resolve<E: Env>(
    State(app): State<Arc<App<E>>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, RESOLVE_BYTES_MAX))?;
    let Decision { dataset, key, take, text, base64, delete, reason } =
        serde_json::from_slice(&body).map_err(|error| {
            bad(format!(
                "the request: {error}; give {{\"dataset\": \"…\", \"key\": \"…\"}} with \"take\", \
                 \"text\", \"base64\" or \"delete\": true"
            ))
        })?;
    let with = match (take, text, base64, delete) {
        (Some(dot), None, None, false) => Resolution::Take(dot_of(&dot)?),
        (None, Some(text), None, false) => Resolution::Value(text.into()),
        (None, None, Some(text), false) => {
            let bytes = STANDARD.decode(text);
            Resolution::Value(bytes.map_err(|error| bad(format!("`base64`: {error}")))?.into())
        }
        (None, None, None, true) => Resolution::Delete,
        _ => return Err(bad("give one of `take`, `text`, `base64` and `delete`")),
    };
    if reason.chars().count() > REASON_MAX {
        return Err(bad(format!("a `reason` has at most {REASON_MAX} characters")));
    }
    let context = headers.get(CONTEXT).and_then(|context| context.to_str().ok());
    let context = context.map(|context| context_of(context.trim())).transpose()?;
    let Some(Condition::Context(over)) = context else {
        return Err(bad(
            "say what was seen: `X-Context` with the context that came with the record's values",
        ));
    };
    let session = session_of(&headers)?;
    match app.writer()?.resolve(Resolve { dataset, key, over, with }).await {
        Ok(resolved) => {
            app.audit.resolved(wall_ms(&app.node), &resolved, &reason).await;
            Ok(acknowledged(&resolved.receipt, StatusCode::OK, session))
        }
        Err(ResolveError::Moved { now }) => {
            let shown = now.as_deref().map_or(Value::Null, standing_open);
            let detail = ResolveError::Moved { now }.to_string();
            Ok(Problem::new(Kind::ConditionFailed, detail).refused().with_now(&shown))
        }
        Err(error) => Err(unresolved(error)),
    }
}

fn unresolved(error: ResolveError) -> Problem {
    let kind = match &error {
        ResolveError::Read(read) => return Problem::from(read.clone()).refused(),
        ResolveError::Refused(refusal) => return refusal.clone().into(),
        ResolveError::Unknown(doubt) => return doubt.clone().into(),
        ResolveError::Moved { .. } => Kind::ConditionFailed,
        ResolveError::NotApart => Kind::NotApart,
        ResolveError::NoSuchValue { .. } => Kind::UnknownConflict,
    };
    Problem::new(kind, error.to_string()).refused()
}

/// A record as it stands, with all of its values by name.
fn standing_open(open: &OpenConflict) -> Value {
    let OpenConflict { record, version, by } = open;
    let values: Vec<Value> = version.siblings().iter().map(write).collect();
    json!({
        "dataset": record.dataset,
        "key": record.key.to_string(),
        "etag": version.etag(),
        "context": version.history.to_string(),
        "strategy": by.to_string(),
        "siblings": values,
    })
}

fn record_cursor(record: &RecordId) -> String {
    URL_SAFE_NO_PAD.encode(record.to_string())
}

fn record_of(cursor: &str) -> Result<RecordId, Problem> {
    let parse = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (dataset, key) = text.split_once('/')?;
        Some(RecordId { dataset: dataset.into(), key: key.into() })
    };
    parse().ok_or_else(|| {
        bad("`after` is no cursor; give the `next` of an earlier page, or leave it out")
    })
}

fn dot_of(id: &str) -> Result<Dot, Problem> {
    id.parse().map_err(|error| bad(format!("the conflict's id {error}")))
}

fn cursor(conflict: &Conflict) -> String {
    let Place { seq, lost } = conflict.place();
    format!("{}-{lost}", seq.0)
}

fn place_of(cursor: &str) -> Result<Place, Problem> {
    let parse = || {
        let (seq, lost) = cursor.split_once('-')?;
        Some(Place { seq: Seq(seq.parse().ok()?), lost: lost.parse().ok()? })
    };
    parse().ok_or_else(|| {
        bad("`before` is no cursor; give the `next` of an earlier page, or leave it out")
    })
}

fn problem(id: Option<&str>, error: &RestoreError) -> Problem {
    let detail = match id {
        Some(id) => format!("conflict {id}: {error}"),
        None => error.to_string(),
    };
    let kind = match error {
        RestoreError::Unknown => Kind::UnknownConflict,
        RestoreError::Erased(_) => Kind::Erased,
        RestoreError::Unavailable(_) => Kind::StoreUnavailable,
    };
    Problem::new(kind, detail)
}

/// One conflict without its values.
pub(super) fn summary(conflict: &Conflict) -> Value {
    json!({
        "id": conflict.lost.dot.to_string(),
        "dataset": conflict.record.dataset,
        "key": conflict.record.key.to_string(),
        "at_ms": (conflict.at.0 > 0).then_some(conflict.at.0),
        "lost": write(&conflict.lost),
        "winner": conflict.winner.to_string(),
        "won": conflict.won.as_ref().map(write),
        "strategy": conflict.by.to_string(),
        "why": conflict.why.as_deref(),
        "contexts": conflict.contexts,
        "erased": conflict.erased.as_ref().map(|erasure| json!({
            "at_ms": erasure.at.0,
            "by": &*erasure.by,
            "reason": &*erasure.reason,
        })),
    })
}

pub(super) fn write(sibling: &Sibling) -> Value {
    json!({
        "operation": sibling.dot.to_string(),
        "stamp_ms": sibling.stamp.wall_ms,
        "bytes": sibling.bytes,
        "hash": sibling.hash,
        "deleted": sibling.deleted,
    })
}

/// A value in a document, where it is text and not large.
pub(super) fn text(value: Option<&bytes::Bytes>) -> Option<String> {
    let bytes = value.filter(|bytes| bytes.len() <= SHOWN_BYTES_MAX)?;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn whole(disputed: &Disputed) -> Value {
    let mut shown = summary(&disputed.conflict);
    shown["lost"]["text"] = match &disputed.lost {
        Lost::Value(bytes) => json!(text(Some(bytes))),
        Lost::Deleted | Lost::Erased(_) => Value::Null,
    };
    shown["base"] = match &disputed.base {
        Started::Unknown => Value::Null,
        Started::Nothing => json!({ "deleted": true }),
        Started::From(bytes) => {
            let text = text(Some(bytes));
            json!({ "deleted": false, "bytes": bytes.len(), "text": text })
        }
    };
    shown["now"] = match &disputed.now {
        None => Value::Null,
        Some(now) => {
            let mut stands = write(&now.sibling);
            stands["deleted"] = json!(now.value.is_none());
            stands["etag"] = json!(now.value.is_some().then_some(&now.etag));
            stands["text"] = json!(text(now.value.as_ref()));
            stands
        }
    };
    shown["winner_stands"] = json!(disputed.winner_stands());
    shown
}
