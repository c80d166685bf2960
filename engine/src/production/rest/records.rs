//! `/v1/records`: one record at a time, and listings.
//!
//! `ETag` names the version, `X-Context` carries its history: a write that gives it back is
//! concurrent with whatever that history had not seen. `X-Session` carries what a client has seen
//! of all records: a read with `read=session` is never older than that, at any coordinator.

use super::deadline::Deadline;
use super::problem::{Kind, Problem};
use super::{App, PAGE_RECORDS_MAX, too_large};
use crate::coordinator::{
    Beside, Condition, Coordinator, Lifetime, Patching, Read, Receipt, Session, Unpatched, Write,
    WriteDoubt, WriteOutcome,
};
use crate::env::Env;
use crate::patch::{Patch, PatchError};
use crate::policy::{Dataset, Keep, Policy, ReadLevel, parse};
use crate::record::{StoreId, VALUE_BYTES_MAX};
use crate::version::{Dot, VersionVector};
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// The history of what was read, or the context of a write.
pub(super) const CONTEXT: HeaderName = HeaderName::from_static("x-context");
/// What a client's session has seen; given back with its next request.
const SESSION: HeaderName = HeaderName::from_static("x-session");
/// The store that answered a read: `kv`, `d1`, `r2`, or `journal`.
const FROM: HeaderName = HeaderName::from_static("x-tidelock-from");
/// `true`: the store asked for holds a reference, and the value was fetched through it.
const REFERENCE: HeaderName = HeaderName::from_static("x-tidelock-reference");
/// `true`: the store asked for holds chosen fields of the value, and these are those.
const PARTIAL: HeaderName = HeaderName::from_static("x-tidelock-partial");
/// For how long a written value stands: a number of seconds, or as in `30d`, or `never`.
const TTL: HeaderName = HeaderName::from_static("x-ttl");
/// When the value's time passes, in milliseconds since the Unix epoch.
const EXPIRES: HeaderName = HeaderName::from_static("x-expires-at-ms");
/// The operation id of a write.
const OPERATION: HeaderName = HeaderName::from_static("x-operation");

type Place = Result<Path<(String, String)>, PathRejection>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetQuery {
    read: Option<String>,
    store: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQuery {
    ttl: Option<String>,
}

pub(super) async fn no_key() -> Problem {
    Problem::new(Kind::BadKey, "the key is empty; give at least one character")
}

pub(super) async fn get<E: Env>(
    State(app): State<Arc<App<E>>>,
    Extension(deadline): Extension<Deadline>,
    place: Place,
    query: Result<Query<GetQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    deadline.within(&app, find(&app, place, query, headers)).await?
}

async fn find<E: Env>(
    app: &App<E>,
    place: Place,
    query: Result<Query<GetQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (dataset, key) = place_of(place)?;
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let coordinator = app.node.reader()?;
    let mut session = None;
    let (read, store) = match (&query.store, &query.read) {
        (Some(_), Some(_)) => return Err(bad("give either `read` or `store`, not both")),
        (Some(store), None) => {
            let store: StoreId = store.parse().map_err(bad)?;
            (coordinator.read_copy(&dataset, &key, store).await?, Some(store))
        }
        (None, level) => {
            let asked = level.as_deref().map(read_level).transpose()?;
            let policy = app.node.policy();
            match asked.or_else(|| Some(policy.datasets.get(&*dataset)?.read)) {
                Some(ReadLevel::Session) => {
                    let session = session.insert(session_of(&headers)?);
                    (coordinator.read_in_session(&dataset, &key, session).await?, None)
                }
                level => (coordinator.read(&dataset, &key, level).await?, None),
            }
        }
    };
    let session = session.map(|session| session.to_string());
    if !read.siblings.is_empty() {
        return Ok(siblings(&dataset, &key, &read, session));
    }
    let Some(value) = &read.value else {
        return Err(absent(&dataset, &key, &read, store).session(session));
    };
    let etag = read.etag.clone().unwrap_or_default();
    let unchanged = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok())
        .is_some_and(|tags| tags.trim() == "*" || tags_in(tags).any(|tag| tag == etag));
    let body = if unchanged { Body::empty() } else { Body::from(value.clone()) };
    let mut response = Response::new(body);
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    put_header(headers, header::ETAG, &format!("\"{etag}\""));
    if let Some(context) = &read.context {
        put_header(headers, CONTEXT, &context.to_string());
    }
    if let Some(session) = session {
        put_header(headers, SESSION, &session);
    }
    if let Some(at_ms) = read.expires_at_ms {
        put_header(headers, EXPIRES, &at_ms.to_string());
    }
    put_header(headers, FROM, read.from.map_or("journal", StoreId::name));
    if store.is_some_and(|store| is_reference(&app.node.policy(), &dataset, store, value.len())) {
        put_header(headers, REFERENCE, "true");
    }
    if read.partial {
        put_header(headers, PARTIAL, "true");
    }
    as_data(headers);
    Ok(response)
}

/// Several values that nobody has superseded (300): all of them, with the context of a write over them.
fn siblings(dataset: &str, key: &str, read: &Read, session: Option<String>) -> Response {
    let each = read.siblings.iter().map(|Beside { sibling, value }| {
        let mut shown = super::conflicts::write(sibling);
        match value.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => {}
            Some((_, Ok(text))) => shown["text"] = json!(text),
            Some((bytes, Err(_))) => shown["base64"] = json!(STANDARD.encode(bytes)),
        }
        shown
    });
    let context = read.context.as_ref().map(VersionVector::to_string);
    let body = json!({
        "dataset": dataset,
        "key": key,
        "etag": read.etag,
        "context": context,
        "siblings": each.collect::<Vec<_>>(),
    });
    let mut response = (StatusCode::MULTIPLE_CHOICES, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    put_header(headers, header::ETAG, &format!("\"{}\"", read.etag.as_deref().unwrap_or_default()));
    for (name, value) in [(CONTEXT, context), (SESSION, session)] {
        if let Some(value) = value {
            put_header(headers, name, &value);
        }
    }
    response
}

/// Bytes of a value, and nothing else.
pub(super) fn data(bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    as_data(response.headers_mut());
    response
}

/// A value is data, never a page of this server: a browser with a session must not run it.
fn as_data(headers: &mut HeaderMap) {
    put_header(headers, header::CONTENT_TYPE, "application/octet-stream");
    put_header(headers, header::CONTENT_DISPOSITION, "attachment");
    put_header(headers, header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
}

fn absent(dataset: &str, key: &str, read: &Read, store: Option<StoreId>) -> Problem {
    let problem = match store {
        Some(store) => Problem::new(
            Kind::NotInStore,
            format!("{store} holds no copy of {dataset}/{key}; without `store` all are asked"),
        ),
        None => Problem::new(Kind::NotFound, format!("there is no record {dataset}/{key}")),
    };
    problem.context(read.context.as_ref().map(VersionVector::to_string))
}

/// True when a store keeps a reference in place of a value of this length.
fn is_reference(policy: &Policy, dataset: &str, store: StoreId, bytes: usize) -> bool {
    let keep = policy.datasets.get(dataset).and_then(|dataset| dataset.projection(store));
    let referred = keep.is_some_and(|projection| projection.keep == Keep::Reference);
    let bytes_max = match store {
        StoreId::D1 => policy.limits.authority_value_bytes_max,
        StoreId::Kv => policy.limits.kv_value_bytes_max,
        StoreId::R2 => policy.limits.value_bytes_max,
    };
    referred || bytes > bytes_max
}

pub(super) async fn put<E: Env>(
    State(app): State<Arc<App<E>>>,
    Extension(deadline): Extension<Deadline>,
    place: Place,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let (dataset, key) = place_of(place)?;
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let lifetime = match (query.ttl, headers.get(&TTL)) {
        (None, None) => Lifetime::Usual,
        (Some(text), None) => lifetime_of(&text)?,
        (None, Some(text)) => {
            lifetime_of(text.to_str().map_err(|_| bad("the header x-ttl is no ASCII text"))?)?
        }
        (Some(_), Some(_)) => return Err(bad("give either `ttl` or the header `X-TTL`, not both")),
    };
    let value = body.map_err(|rejection| body_problem(&rejection, VALUE_BYTES_MAX))?;
    let coordinator = app.writer()?;
    let condition = condition(&coordinator, &dataset, &key, &headers).await?;
    let session = session_of(&headers)?;
    let write = Write { dataset, key, value: Some(value), condition, lifetime };
    let receipt = receipt(coordinator.write_by(write, deadline.0).await)?;
    let status = if receipt.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(acknowledged(&receipt, status, session))
}

/// `PATCH`: a merge patch (RFC 7396), a JSON patch (RFC 6902) or an increment, by its media type.
pub(super) async fn patch<E: Env>(
    State(app): State<Arc<App<E>>>,
    Extension(deadline): Extension<Deadline>,
    place: Place,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let (dataset, key) = place_of(place)?;
    let body = body.map_err(|rejection| body_problem(&rejection, VALUE_BYTES_MAX))?;
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let patch = Patch::parse(media_type.unwrap_or_default(), &body);
    let patch = patch.map_err(|error| unpatched(&Unpatched::Patch(error)))?;
    let over = headers.get(header::IF_MATCH).map(tag_of).transpose()?;
    if headers.contains_key(&CONTEXT) || headers.contains_key(header::IF_NONE_MATCH) {
        return Err(bad("a patch takes `If-Match` only: it is applied to what stands"));
    }
    let session = session_of(&headers)?;
    let patching = Patching { dataset, key, patch, over };
    let patched = app.writer()?.patch(patching, deadline.0).await;
    let receipt = match patched.map_err(|error| unpatched(&error))? {
        WriteOutcome::Unknown(WriteDoubt::Journal(error)) => {
            let detail = format!(
                "{error}. Whether the patch has taken effect is known once the journal has been \
                 replayed; read the record before you send it again, since it could count twice"
            );
            return Err(Problem::new(Kind::PatchUnknown, detail).unknown());
        }
        outcome => receipt(outcome)?,
    };
    Ok(acknowledged(&receipt, StatusCode::OK, session))
}

fn unpatched(why: &Unpatched) -> Problem {
    let kind = match why {
        Unpatched::Read(error) => return Problem::from(error.clone()).refused(),
        Unpatched::Missing { .. } => Kind::NotFound,
        Unpatched::Several { .. } => Kind::Siblings,
        Unpatched::NoDocuments { .. } => Kind::WrongKind,
        Unpatched::Patch(PatchError::MediaType(_)) => Kind::NoPatch,
        Unpatched::Patch(PatchError::Malformed { .. }) => Kind::BadRequest,
        Unpatched::Patch(PatchError::Large) => Kind::TooLarge,
        Unpatched::Patch(
            PatchError::Document(_) | PatchError::TestFailed { .. } | PatchError::Operation { .. },
        ) => Kind::PatchFailed,
    };
    Problem::new(kind, why.to_string()).refused()
}

pub(super) async fn delete<E: Env>(
    State(app): State<Arc<App<E>>>,
    Extension(deadline): Extension<Deadline>,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (dataset, key) = place_of(place)?;
    let coordinator = app.writer()?;
    let condition = condition(&coordinator, &dataset, &key, &headers).await?;
    if condition == Condition::Absent {
        return Err(bad("`If-None-Match: *` asks for no record, and a delete needs one"));
    }
    let session = session_of(&headers)?;
    let write = Write { dataset, key, value: None, condition, lifetime: Lifetime::Usual };
    let receipt = receipt(coordinator.write_by(write, deadline.0).await)?;
    Ok(acknowledged(&receipt, StatusCode::NO_CONTENT, session))
}

pub(super) async fn list<E: Env>(
    State(app): State<Arc<App<E>>>,
    dataset: Result<Path<String>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Path(dataset) = dataset.map_err(|error| bad(error.body_text()))?;
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let coordinator = app.node.reader()?;
    known(&coordinator.policy(), &dataset)?;
    let limit = query.limit.unwrap_or(PAGE_RECORDS_MAX);
    if !(1..=PAGE_RECORDS_MAX).contains(&limit) {
        return Err(bad(format!("`limit` is {limit}; give 1 to {PAGE_RECORDS_MAX}")));
    }
    let after = query.after.as_deref().map(cursor_key).transpose()?;
    let state = coordinator.status();
    if !state.ledger_complete {
        return Err(Problem::new(
            Kind::NotReady,
            "the authority's records are still being read, so a listing would have gaps; try again",
        ));
    }
    let listed = coordinator.list(&dataset, after.as_deref(), limit);
    let next = match listed.last() {
        Some((last, _)) if listed.len() == limit => Some(URL_SAFE_NO_PAD.encode(last)),
        Some(_) | None => None,
    };
    let records = listed.iter().map(|(key, version)| {
        let current = version.current();
        json!({ "key": key, "etag": version.etag(), "bytes": current.bytes, "hash": current.hash })
    });
    let records: Vec<_> = records.collect();
    Ok(axum::Json(json!({ "records": records, "next": next, "waiting": state.intents }))
        .into_response())
}

pub(super) async fn operation<E: Env>(
    State(app): State<Arc<App<E>>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(id) = id.map_err(|error| bad(error.body_text()))?;
    let dot: Dot = id.parse().map_err(|error| bad(format!("the operation id {error}")))?;
    let Some(state) = app.node.reader()?.operation(dot).await else {
        return Err(Problem::new(
            Kind::UnknownOperation,
            format!(
                "this process does not remember the operation {id}: it was settled before the \
                 last start, or long ago. Read the record to see what it holds"
            ),
        )
        .operation(id));
    };
    let mut answer = serde_json::to_value(state).unwrap_or_default();
    answer["operation"] = json!(id);
    Ok(axum::Json(answer).into_response())
}

/// Refuses a dataset that does not exist.
pub(super) fn known<'p>(policy: &'p Policy, dataset: &str) -> Result<&'p Dataset, Problem> {
    policy.datasets.get(dataset).ok_or_else(|| {
        let asked = dataset.to_owned();
        let known = policy.datasets.keys().map(|name| name.to_string()).collect();
        crate::coordinator::ReadError::UnknownDataset { asked, known }.into()
    })
}

pub(super) fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, detail).refused()
}

pub(super) fn body_problem(rejection: &BytesRejection, bytes_max: usize) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        too_large(bytes_max)
    } else {
        bad(format!("the request's body ended early: {}", rejection.body_text()))
    }
}

pub(super) fn read_level(name: &str) -> Result<ReadLevel, Problem> {
    match name {
        "any" => Ok(ReadLevel::Any),
        "session" => Ok(ReadLevel::Session),
        "latest" => Ok(ReadLevel::Latest),
        other => Err(bad(format!("`read` is {other:?}; give any, session or latest"))),
    }
}

/// An acknowledged write, or why it is none.
pub(super) fn receipt(outcome: WriteOutcome) -> Result<Receipt, Problem> {
    match outcome {
        WriteOutcome::Applied(receipt) => Ok(receipt),
        WriteOutcome::Refused(refusal) => Err(refusal.into()),
        WriteOutcome::Unknown(error) => Err(error.into()),
    }
}

/// What a caller is told of an acknowledged write.
pub(super) fn receipt_json(receipt: &Receipt) -> serde_json::Value {
    json!({
        "operation": receipt.dot.to_string(),
        "etag": receipt.version.etag(),
        "context": context_after(receipt),
        "pending": receipt.pending,
    })
}

/// The context of a write over this one. None where it stands beside others, which its writer is to read
/// before it writes over them.
fn context_after(receipt: &Receipt) -> Option<String> {
    (!receipt.version.is_apart()).then(|| receipt.version.history.to_string())
}

pub(super) fn acknowledged(
    receipt: &Receipt,
    status: StatusCode,
    mut session: Session,
) -> Response {
    let status = if receipt.pending.is_empty() { status } else { StatusCode::ACCEPTED };
    let mut response = if status == StatusCode::NO_CONTENT {
        status.into_response()
    } else {
        (status, axum::Json(receipt_json(receipt))).into_response()
    };
    let headers = response.headers_mut();
    if !receipt.version.current().deleted {
        put_header(headers, header::ETAG, &format!("\"{}\"", receipt.version.etag()));
    }
    if let Some(context) = context_after(receipt) {
        put_header(headers, CONTEXT, &context);
    }
    session.wrote(receipt);
    put_header(headers, SESSION, &session.to_string());
    put_header(headers, OPERATION, &receipt.dot.to_string());
    if status == StatusCode::ACCEPTED {
        put_header(headers, header::LOCATION, &format!("/v1/operations/{}", receipt.dot));
    }
    response
}

/// What a write is made over, from `If-Match`, `If-None-Match` and `X-Context`.
async fn condition<E: Env>(
    coordinator: &Coordinator<E>,
    dataset: &str,
    key: &str,
    headers: &HeaderMap,
) -> Result<Condition, Problem> {
    let text = |name: HeaderName| -> Result<Option<String>, Problem> {
        let Some(value) = headers.get(&name) else { return Ok(None) };
        let text =
            value.to_str().map_err(|_| bad(format!("the header {name} is no ASCII text")))?;
        Ok(Some(text.trim().to_owned()))
    };
    let asked = (text(header::IF_MATCH)?, text(header::IF_NONE_MATCH)?, text(CONTEXT)?);
    match asked {
        (None, None, None) => Ok(Condition::None),
        (None, None, Some(context)) => context_of(&context),
        (None, Some(star), None) if star == "*" => Ok(Condition::Absent),
        (None, Some(_), None) => Err(bad("a write takes `If-None-Match: *` only")),
        (Some(tags), None, None) => {
            let wanted: Vec<&str> = tags_in(&tags).collect();
            if let ([only], false) = (wanted.as_slice(), tags == "*") {
                return Ok(Condition::Match((*only).to_owned()));
            }
            if wanted.is_empty() && tags != "*" {
                return Err(bad("`If-Match` holds no ETag; give one in double quotes, or *"));
            }
            // One of several, or any: it is made over the one that is there now.
            let read = coordinator.read(dataset, key, Some(ReadLevel::Latest)).await?;
            let current = read.etag.filter(|_| read.value.is_some());
            match current {
                Some(etag) if tags == "*" || wanted.contains(&etag.as_str()) => {
                    Ok(Condition::Match(etag))
                }
                current => {
                    Err(crate::coordinator::WriteRefusal::ConditionFailed { current }.into())
                }
            }
        }
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            Err(bad("give one of `If-Match`, `If-None-Match` and `X-Context`"))
        }
    }
}

/// For how long a value is to stand.
pub(super) fn lifetime_of(text: &str) -> Result<Lifetime, Problem> {
    let text = text.trim();
    if text == "never" {
        return Ok(Lifetime::Endless);
    }
    let seconds = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{text}s"));
    match parse::lifetime(seconds.as_deref().unwrap_or(text)) {
        Some(lifetime) => Ok(Lifetime::For(lifetime)),
        None => Err(bad(format!(
            "{text:?} is no time after which a value expires; give a number of seconds, or {}",
            parse::LIFETIMES
        ))),
    }
}

/// What the client's session has seen: nothing, unless it says.
pub(super) fn session_of(headers: &HeaderMap) -> Result<Session, Problem> {
    let Some(session) = headers.get(&SESSION) else { return Ok(Session::default()) };
    let text = session.to_str().map_err(|_| bad("the header x-session is no ASCII text"))?;
    text.trim().parse().map_err(|error| bad(format!("the header x-session: {error}")))
}

/// A write in the context of an earlier read.
pub(super) fn context_of(text: &str) -> Result<Condition, Problem> {
    let context = text.parse().map_err(|error| bad(format!("the context {error}")))?;
    Ok(Condition::Context(context))
}

/// The one strong tag of an `If-Match`.
pub(super) fn tag_of(tag: &HeaderValue) -> Result<String, Problem> {
    let text = tag.to_str().unwrap_or_default();
    match tags_in(text).collect::<Vec<_>>().as_slice() {
        [only] => Ok((*only).to_owned()),
        _ => Err(bad("`If-Match` is to hold one ETag, in double quotes")),
    }
}

/// The strong tags of a list. Weak ones never match here: a version is its exact bytes.
fn tags_in(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter_map(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"'))
}

fn place_of(place: Place) -> Result<(String, String), Problem> {
    match place {
        Ok(Path(place)) => Ok(place),
        Err(error) => Err(bad(format!("the address is malformed: {}", error.body_text()))),
    }
}

fn cursor_key(cursor: &str) -> Result<String, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
        bad("`after` is no cursor; give the `next` of an earlier page, or leave it out")
    })
}

fn put_header(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Tags, dots and histories are ASCII; anything else is left out rather than misread.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
