//! `POST /v1/records:batch`: many operations in one request, each answered on its own.
//!
//! Invariant: operations on one record happen in the order given; those on different records may
//! overlap, so that one journal commit carries many. Answers stand in the order of the
//! operations. A malformed request changes nothing: it is read whole before the first operation.

use super::deadline::Deadline;
use super::problem::{Kind, Problem};
use super::records::{
    bad, body_problem, context_of, lifetime_of, read_level, receipt, receipt_json,
};
use super::{App, BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX};
use crate::coordinator::{Condition, Coordinator, Lifetime, Write};
use crate::env::Env;
use crate::policy::ReadLevel;
use crate::record::VALUE_BYTES_MAX;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    operations: Vec<Operation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Get,
    Put,
    Delete,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: Verb,
    dataset: String,
    key: String,
    text: Option<String>,
    base64: Option<String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    context: Option<String>,
    read: Option<String>,
    ttl: Option<String>,
}

/// An operation that can be carried out.
enum Step {
    Read { dataset: String, key: String, level: Option<ReadLevel> },
    Write(Write),
}

impl Step {
    fn record(&self) -> (String, String) {
        match self {
            Step::Read { dataset, key, .. } => (dataset.clone(), key.clone()),
            Step::Write(write) => (write.dataset.clone(), write.key.clone()),
        }
    }
}

pub(super) async fn batch<E: Env>(
    State(app): State<Arc<App<E>>>,
    Extension(deadline): Extension<Deadline>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, BATCH_BYTES_MAX))?;
    let request: Request = serde_json::from_slice(&body)
        .map_err(|error| bad(format!("the batch is no JSON of the expected form: {error}")))?;
    let count = request.operations.len();
    if count > BATCH_OPERATIONS_MAX {
        return Err(Problem::new(
            Kind::TooLarge,
            format!(
                "the batch has {count} operations, and {BATCH_OPERATIONS_MAX} are allowed; split it"
            ),
        )
        .refused());
    }
    let mut writes = false;
    let mut by_record: BTreeMap<(String, String), Vec<(usize, Step)>> = BTreeMap::new();
    for (at, operation) in request.operations.into_iter().enumerate() {
        let step = step(operation).map_err(|why| bad(format!("operations[{at}]: {why}")))?;
        writes |= matches!(step, Step::Write(_));
        by_record.entry(step.record()).or_default().push((at, step));
    }
    let coordinator = if writes { app.writer()? } else { app.node.reader()? };
    let room = Arc::new(AtomicUsize::new(VALUE_BYTES_MAX));
    let mut running = JoinSet::new();
    for steps in by_record.into_values() {
        running.spawn(carry_out(app.clone(), coordinator.clone(), steps, room.clone(), deadline));
    }
    let mut results = vec![Value::Null; count];
    while let Some(ended) = running.join_next().await {
        let answers = ended.expect("the engine's calls do not panic");
        for (at, answer) in answers {
            results[at] = answer;
        }
    }
    Ok(axum::Json(json!({ "results": results })).into_response())
}

async fn carry_out<E: Env>(
    app: Arc<App<E>>,
    coordinator: Arc<Coordinator<E>>,
    steps: Vec<(usize, Step)>,
    room: Arc<AtomicUsize>,
    deadline: Deadline,
) -> Vec<(usize, Value)> {
    let mut answers = Vec::with_capacity(steps.len());
    for (at, step) in steps {
        let answer = match step {
            Step::Read { dataset, key, level } => {
                let read = read(&coordinator, &dataset, &key, level, &room);
                deadline.within(&app, read).await.and_then(|read| read)
            }
            Step::Write(write) => self::write(&coordinator, write, deadline).await,
        };
        answers.push((at, answer.unwrap_or_else(|problem| problem.json())));
    }
    answers
}

async fn write<E: Env>(
    coordinator: &Coordinator<E>,
    write: Write,
    deadline: Deadline,
) -> Result<Value, Problem> {
    let deletes = write.value.is_none();
    let receipt = receipt(coordinator.write_by(write, deadline.0).await)?;
    let status = match (receipt.pending.is_empty(), deletes, receipt.created) {
        (false, _, _) => 202,
        (true, true, _) => 204,
        (true, false, true) => 201,
        (true, false, false) => 200,
    };
    let mut answer = receipt_json(&receipt);
    answer["status"] = json!(status);
    Ok(answer)
}

async fn read<E: Env>(
    coordinator: &Coordinator<E>,
    dataset: &str,
    key: &str,
    level: Option<ReadLevel>,
    room: &AtomicUsize,
) -> Result<Value, Problem> {
    let read = coordinator.read(dataset, key, level).await?;
    let Some(value) = read.value else {
        return Err(Problem::new(Kind::NotFound, format!("there is no record {dataset}/{key}")));
    };
    let took = room
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(value.len()));
    if took.is_err() {
        return Err(Problem::new(
            Kind::TooLarge,
            format!(
                "this answer would make the batch's larger than {VALUE_BYTES_MAX} bytes; read the \
                 record on its own"
            ),
        ));
    }
    let mut answer = json!({
        "status": 200,
        "etag": read.etag,
        "context": read.context.map(|context| context.to_string()),
    });
    match std::str::from_utf8(&value) {
        Ok(text) => answer["text"] = json!(text),
        Err(_) => answer["base64"] = json!(STANDARD.encode(&value)),
    }
    Ok(answer)
}

/// Turns what was asked for into what can be done.
fn step(operation: Operation) -> Result<Step, String> {
    let Operation { op, dataset, key, text, base64, if_match, if_none_match, context, read, ttl } =
        operation;
    if ttl.is_some() && op != Verb::Put {
        return Err("only a put takes a `ttl`".to_owned());
    }
    let lifetime = match ttl {
        None => Lifetime::Usual,
        Some(ttl) => lifetime_of(&ttl).map_err(|problem| format!("`ttl`: {}", problem.detail()))?,
    };
    let value = match (op, text, base64) {
        (Verb::Put, Some(text), None) => Some(Bytes::from(text)),
        (Verb::Put, None, Some(base64)) => {
            let decoded = STANDARD.decode(base64).map_err(|error| format!("`base64`: {error}"))?;
            Some(Bytes::from(decoded))
        }
        (Verb::Put, _, _) => return Err("a put needs one of `text` and `base64`".to_owned()),
        (Verb::Get | Verb::Delete, None, None) => None,
        (Verb::Get | Verb::Delete, _, _) => return Err("only a put takes a value".to_owned()),
    };
    if op == Verb::Get {
        if if_match.is_some() || if_none_match.is_some() || context.is_some() {
            return Err("a get takes no condition".to_owned());
        }
        let level = read.as_deref().map(read_level).transpose();
        let level = level.map_err(|_| "`read` is neither any nor latest".to_owned())?;
        if level == Some(ReadLevel::Session) {
            return Err("a batch carries no session; give any or latest as `read`".to_owned());
        }
        return Ok(Step::Read { dataset, key, level });
    }
    if read.is_some() {
        return Err("only a get takes `read`".to_owned());
    }
    let condition = match (if_match, if_none_match, context) {
        (None, None, None) => Condition::None,
        (Some(tag), None, None) => Condition::Match(tag.trim_matches('"').to_owned()),
        (None, Some(star), None) if star == "*" && op == Verb::Put => Condition::Absent,
        (None, Some(_), None) => return Err("only a put takes `if_none_match`: \"*\"".to_owned()),
        (None, None, Some(context)) => {
            context_of(&context).map_err(|_| "`context` is no history of a read".to_owned())?
        }
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            return Err("give one of `if_match`, `if_none_match` and `context`".to_owned());
        }
    };
    Ok(Step::Write(Write { dataset, key, value, condition, lifetime }))
}
