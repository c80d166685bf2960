//! `get`, `put`, `delete` and `status`.

use super::client::{Answer, Client, Headers, NoAnswer};
use super::{
    CliError, ClientArgs, DeleteArgs, GetArgs, IncrementArgs, PatchArgs, PutArgs, StatusArgs, line,
};
use crate::patch;
use crate::record::{StoreId, VALUE_BYTES_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use ureq::http::Method;

/// A value, and how it was come by.
#[derive(Debug)]
pub struct Found {
    /// The answer that holds the value.
    pub answer: Answer,
    /// Why it is not simply the copy that was asked for.
    pub note: Option<Note>,
}

/// How a value stands in the store that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The store holds a reference; the value was fetched through it.
    Reference,
    /// The store holds no copy (yet); the value is the authority's.
    Missing,
}

/// Reads a value whole. The authority makes up for a store that lacks it.
pub fn find(
    client: &Client,
    dataset: &str,
    key: &str,
    store: Option<StoreId>,
    latest: bool,
) -> Result<Found, NoAnswer> {
    match client.value(dataset, key, store, latest) {
        Ok(answer) => {
            let referred = answer.header("x-tidelock-reference") == Some("true");
            Ok(Found { answer, note: referred.then_some(Note::Reference) })
        }
        Err(NoAnswer::Problem { kind, .. }) if kind == "not-in-store" => {
            let answer = client.value(dataset, key, None, true)?;
            Ok(Found { answer, note: Some(Note::Missing) })
        }
        Err(error) => Err(error),
    }
}

pub fn get(args: &GetArgs) -> Result<(), CliError> {
    let client = Client::find(&args.client)?;
    let found = find(&client, &args.dataset, &args.key, args.store, args.latest)?;
    let value = &found.answer.body;
    if found.answer.status == 300 {
        return several(args, &found.answer);
    }
    if let (Some(store), Some(note)) = (args.store, found.note) {
        let (dataset, key) = (&args.dataset, &args.key);
        match note {
            Note::Reference => eprintln!(
                "tidelock: {store} holds a reference to {dataset}/{key}; this is the whole value"
            ),
            Note::Missing => eprintln!(
                "tidelock: {store} holds no copy of {dataset}/{key}; this is the authority's value"
            ),
        }
    }
    if let Some(path) = &args.output {
        write_new(path, value)?;
    }
    if args.client.json {
        line::print(&found_json(args, &found).to_string());
    } else if args.output.is_none() {
        let mut out = std::io::stdout().lock();
        // A reader that has gone away is no error of ours.
        let _ = out.write_all(value).and_then(|()| out.flush());
    }
    Ok(())
}

/// Several values stand beside each other: none is the record's until somebody writes over all.
fn several(args: &GetArgs, answer: &Answer) -> Result<(), CliError> {
    let malformed = |error| CliError::Failed(format!("the server's answer is no JSON: {error}"));
    let body: Value = serde_json::from_slice(&answer.body).map_err(malformed)?;
    if args.client.json {
        line::print(&body.to_string());
        return Ok(());
    }
    let siblings = body["siblings"].as_array().cloned().unwrap_or_default();
    for sibling in &siblings {
        let operation = sibling["operation"].as_str().unwrap_or_default();
        let value = match (&sibling["text"], &sibling["base64"]) {
            (Value::String(text), _) => text.clone(),
            (_, Value::String(_)) => format!("({} bytes; --json has them)", sibling["bytes"]),
            _ => "(deleted)".to_owned(),
        };
        line::print(&format!("{operation}\n{value}\n"));
    }
    let (dataset, key) = (&args.dataset, &args.key);
    let context = body["context"].as_str().unwrap_or_default();
    Err(CliError::Failed(format!(
        "{} values of {dataset}/{key} stand beside each other, and nobody has written over all of \
         them; decide with `tidelock put {dataset} {key} FILE --context {context}`",
        siblings.len()
    )))
}

fn found_json(args: &GetArgs, found: &Found) -> Value {
    let Found { answer, note } = found;
    let value = &answer.body;
    let mut shown = json!({
        "dataset": args.dataset,
        "key": args.key,
        "bytes": value.len(),
        "hash": blake3::hash(value).to_hex().as_str(),
        "etag": answer.header("etag").map(|etag| etag.trim_matches('"')),
        "context": answer.header("x-context"),
        "from": answer.header("x-tidelock-from"),
        "note": note.map(|note| match note {
            Note::Reference => "reference",
            Note::Missing => "missing",
        }),
    });
    match (&args.output, std::str::from_utf8(value)) {
        (Some(path), _) => shown["output"] = json!(path.display().to_string()),
        (None, Ok(text)) => shown["text"] = json!(text),
        (None, Err(_)) => shown["base64"] = json!(STANDARD.encode(value)),
    }
    shown
}

/// What a file holds, or standard input.
pub(super) fn input(file: Option<&Path>) -> Result<Vec<u8>, CliError> {
    match file {
        None => read_value(std::io::stdin(), "standard input"),
        Some(path) if path == Path::new("-") => read_value(std::io::stdin(), "standard input"),
        Some(path) => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path)
                .map_err(|error| CliError::Failed(format!("{name}: {error}")))?;
            read_value(file, &name)
        }
    }
}

pub fn patch(args: &PatchArgs) -> Result<(), CliError> {
    let body = input(args.file.as_deref())?;
    let media_type = if args.operations { patch::JSON_PATCH } else { patch::MERGE_PATCH };
    let etag = args.if_match.as_deref().map(quoted);
    let over = etag.as_deref().map(|etag| ("if-match", etag));
    let headers: Vec<_> = over.into_iter().chain([("content-type", media_type)]).collect();
    send_patch(&args.client, (&args.dataset, &args.key), &headers, &body, "patched")
}

pub fn increment(args: &IncrementArgs) -> Result<(), CliError> {
    let body = json!({ "pointer": args.pointer, "by": args.by }).to_string();
    let headers = [("content-type", patch::INCREMENT)];
    let record = (args.dataset.as_str(), args.key.as_str());
    send_patch(&args.client, record, &headers, body.as_bytes(), "incremented")
}

/// Sent once: after a lost answer, the same again could count twice.
fn send_patch(
    args: &ClientArgs,
    (dataset, key): (&str, &str),
    headers: Headers<'_>,
    body: &[u8],
    done: &str,
) -> Result<(), CliError> {
    let client = Client::find(args)?;
    let answer = client.send(Method::PATCH, &Client::record(dataset, key), headers, body)?;
    acknowledged(dataset, key, done, &answer, args.json);
    Ok(())
}

pub fn put(args: &PutArgs) -> Result<(), CliError> {
    let value = input(args.file.as_deref())?;
    let client = Client::find(&args.client)?;
    let path = Client::record(&args.dataset, &args.key);
    let etag = args.if_match.as_deref().map(quoted);
    let condition = match &etag {
        Some(etag) => Some(("if-match", etag.as_str())),
        None if args.create => Some(("if-none-match", "*")),
        None => None,
    };
    let ttl = args.ttl.as_deref().map(|ttl| ("x-ttl", ttl));
    let context = args.context.as_deref().map(|context| ("x-context", context));
    let headers: Vec<_> = condition.into_iter().chain(context).chain(ttl).collect();
    let answer = if condition.is_some() {
        // Repeated after a lost answer, it would find its own write and fail.
        client.send(Method::PUT, &path, &headers, &value)?
    } else {
        client.send(Method::PUT, &path, &headers, &value).or_else(|error| {
            if !error.is_retryable() || matches!(error, NoAnswer::Connection(_)) {
                return Err(error);
            }
            client.send_patiently(Method::PUT, &path, &headers, &value)
        })?
    };
    acknowledged(&args.dataset, &args.key, "stored", &answer, args.client.json);
    Ok(())
}

pub fn delete(args: &DeleteArgs) -> Result<(), CliError> {
    let client = Client::find(&args.client)?;
    let path = Client::record(&args.dataset, &args.key);
    let etag = args.if_match.as_deref().map(quoted);
    let condition = etag.as_deref().map(|etag| ("if-match", etag));
    let answer = client.send(Method::DELETE, &path, condition.as_slice(), b"")?;
    acknowledged(&args.dataset, &args.key, "deleted", &answer, args.client.json);
    Ok(())
}

fn acknowledged(dataset: &str, key: &str, done: &str, answer: &Answer, json: bool) {
    let document = answer.json();
    let pending = document["pending"].as_array().cloned().unwrap_or_default();
    let operation = answer.header("x-operation");
    if json {
        let shown = json!({
            "dataset": dataset,
            "key": key,
            "done": done,
            "etag": answer.header("etag").map(|etag| etag.trim_matches('"')),
            "context": answer.header("x-context"),
            "operation": operation,
            "pending": pending,
        });
        line::print(&shown.to_string());
    } else if answer.status == 202 {
        let stores: Vec<&str> = pending.iter().filter_map(Value::as_str).collect();
        line::print(&format!(
            "{done} {dataset}/{key} in the journal; {} has not confirmed it yet (operation {})",
            stores.join(" and "),
            operation.unwrap_or("unknown")
        ));
    } else {
        line::print(&format!("{done} {dataset}/{key}"));
    }
}

pub fn status(args: &StatusArgs) -> Result<(), CliError> {
    let status = Client::find(&args.client)?.document("/v1/status")?;
    if args.client.json {
        line::print(&status.to_string());
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let verdict = &status["verdict"];
    let mut shown = format!("{}. {}\n\n", text(&verdict["title"]), text(&verdict["detail"]));
    for (name, field) in [("Data", "folder"), ("Address", "address"), ("Stores", "stores_are")] {
        shown.push_str(&format!("  {name:<8} {}\n", text(&status[field])));
    }
    shown.push('\n');
    let coordinator = &status["coordinator"];
    for store in coordinator["stores"].as_array().into_iter().flatten() {
        let name = text(&store["store"]).to_uppercase();
        let (breaker, backlog) = (text(&store["breaker"]), &store["backlog"]);
        let health = &store["health"];
        let figure = |value: &Value, unit: &str| match value.as_u64() {
            Some(value) => format!("{value}{unit}"),
            None => "-".to_owned(),
        };
        let answers = health["success_permille"]
            .as_u64()
            .map_or("-".to_owned(), |permille| format!("{}.{}%", permille / 10, permille % 10));
        shown.push_str(&format!(
            "  {name:<8} breaker {breaker:<13}  {backlog} records behind, {} {} at once, {} to drain; \
             {answers} answered, p99 {}\n",
            store["width"],
            if name == "D1" { "batches" } else { "puts" },
            figure(&store["drain_ms"], " ms"),
            figure(&health["p99_ms"], " ms"),
        ));
    }
    if !coordinator.is_null() {
        let counters = &coordinator["counters"];
        shown.push_str(&format!(
            "\n  {} records known; {} writes ({} bytes) wait for D1\n  since the start: {} writes \
             acknowledged, {} refused, {} of unknown outcome; {} reads\n",
            coordinator["records"],
            coordinator["intents"],
            coordinator["intent_bytes"],
            counters["writes_acknowledged"],
            counters["writes_refused"],
            counters["writes_unknown"],
            counters["reads"]
        ));
    }
    for dataset in status["datasets"].as_array().into_iter().flatten() {
        shown.push_str(&format!("\n  {}", text(&dataset["promise"])));
    }
    line::print(&shown);
    Ok(())
}

/// Reads a value of bounded size.
pub fn read_value(from: impl Read, name: &str) -> Result<Vec<u8>, CliError> {
    let mut value = Vec::new();
    from.take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| CliError::Failed(format!("{name}: {error}")))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(CliError::Failed(format!(
            "{name}: larger than the {VALUE_BYTES_MAX} bytes that a record may have"
        )));
    }
    Ok(value)
}

fn write_new(path: &Path, value: &[u8]) -> Result<(), CliError> {
    let failed = |error| CliError::Failed(format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(value).map_err(failed)
}

fn quoted(etag: &str) -> String {
    format!("\"{}\"", etag.trim_matches('"'))
}
