//! `/v1/conflicts`: what was settled, both values of it, and the way back.

use super::App;
use super::problem::{Kind, Problem};
use super::records::{acknowledged, bad, data, known, receipt, session_of, tag_of};
use super::wall_ms;
use crate::conflict::{Conflict, ConflictQuery, Place, Which};
use crate::coordinator::{Disputed, RestoreError, Started};
use crate::env::Env;
use crate::row::Seq;
use crate::version::{Dot, Sibling};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Conflicts in one page of a listing.
pub(super) const PAGE_CONFLICTS_MAX: usize = 500;
/// Bytes of a value that is shown in a document, where it is text.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    dataset: Option<String>,
    before: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/conflicts`: the newest first.
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
    let Some(bytes) = disputed.lost else {
        let detail = format!("what lost in {id} is a delete: it has no value");
        return Err(Problem::new(Kind::NotFound, detail));
    };
    Ok(data(bytes))
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
pub(super) fn text(value: &Option<bytes::Bytes>) -> Option<String> {
    let bytes = value.as_ref().filter(|bytes| bytes.len() <= SHOWN_BYTES_MAX)?;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn whole(disputed: &Disputed) -> Value {
    let mut shown = summary(&disputed.conflict);
    shown["lost"]["text"] = json!(text(&disputed.lost));
    shown["base"] = match &disputed.base {
        Started::Unknown => Value::Null,
        Started::Nothing => json!({ "deleted": true }),
        Started::From(bytes) => {
            let text = text(&Some(bytes.clone()));
            json!({ "deleted": false, "bytes": bytes.len(), "text": text })
        }
    };
    shown["now"] = match &disputed.now {
        None => Value::Null,
        Some(now) => {
            let mut stands = write(&now.sibling);
            stands["deleted"] = json!(now.value.is_none());
            stands["etag"] = json!(now.value.is_some().then_some(&now.etag));
            stands["text"] = json!(text(&now.value));
            stands
        }
    };
    shown["winner_stands"] = json!(disputed.winner_stands());
    shown
}
