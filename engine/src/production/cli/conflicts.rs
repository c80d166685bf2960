//! `conflicts`: what was settled, both values of it, and the way back; what stands open, and its end.

use super::client::{Client, segment};
use super::verbs::input;
use super::{CliError, ConflictsArgs, ConflictsResolveArgs, ConflictsVerb, line};
use crate::cron;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use similar::TextDiff;
use std::fmt::Write as _;
use std::io::Write as _;
use ureq::http::Method;

const PLACE: &str = "/v1/conflicts";
/// Conflicts in one request.
const PAGE: usize = 500;

pub fn conflicts(args: &ConflictsArgs) -> Result<(), CliError> {
    match &args.verb {
        ConflictsVerb::List { dataset, open: true, limit, client } => {
            let found = find(&Client::find(client)?, OPEN, dataset.as_deref(), *limit)?;
            line::print(&if client.json { Value::from(found).to_string() } else { open(&found) });
        }
        ConflictsVerb::List { dataset, open: false, limit, client } => {
            let found = find(&Client::find(client)?, SETTLED, dataset.as_deref(), *limit)?;
            line::print(&if client.json { Value::from(found).to_string() } else { listed(&found) });
        }
        ConflictsVerb::Show { id, lost: true, client } => {
            let path = format!("{PLACE}/{id}/lost");
            let answer = Client::find(client)?.send(Method::GET, &path, &[], b"")?;
            let mut out = std::io::stdout().lock();
            // A reader that went away has read what it wanted.
            let _ = out.write_all(&answer.body).and_then(|()| out.flush());
        }
        ConflictsVerb::Show { id, lost: false, client } => {
            let answer = Client::find(client)?.document(&format!("{PLACE}/{id}"))?;
            line::print(&if client.json { answer.to_string() } else { shown(&answer) });
        }
        ConflictsVerb::Restore { id, if_match, client } => {
            let client_of = Client::find(client)?;
            let etag = match if_match {
                Some(etag) => Some(etag.clone()),
                None => {
                    let shown = client_of.document(&format!("{PLACE}/{id}"))?;
                    shown["now"]["etag"].as_str().map(str::to_owned)
                }
            };
            let tag = etag.map(|etag| format!("\"{}\"", etag.trim_matches('"')));
            let over = match &tag {
                Some(tag) => ("if-match", tag.as_str()),
                None => ("if-none-match", "*"),
            };
            let path = format!("{PLACE}/{id}:restore");
            let answer = client_of.send(Method::POST, &path, &[over], b"")?;
            let operation = answer.header("x-operation").unwrap_or("-").to_owned();
            let said = format!("what lost in {id} is written again, as operation {operation}");
            let json = json!({ "restored": id.to_text(), "operation": operation });
            line::print(&if client.json { json.to_string() } else { said });
        }
        ConflictsVerb::Resolve(args) => resolve(args)?,
    }
    Ok(())
}

fn resolve(args: &ConflictsResolveArgs) -> Result<(), CliError> {
    let ConflictsResolveArgs { dataset, key, take, value_file, delete, context, reason, client } =
        args;
    let mut decision = json!({ "dataset": dataset, "key": key, "reason": reason });
    match (take, value_file) {
        (Some(operation), _) => decision["take"] = json!(operation.to_text()),
        (None, Some(file)) => decision["base64"] = json!(STANDARD.encode(input(Some(file))?)),
        (None, None) => decision["delete"] = json!(delete),
    }
    let body = decision.to_string();
    let headers = [("x-context", context.as_str())];
    let path = format!("{PLACE}:resolve");
    let answer = Client::find(client)?.send(Method::POST, &path, &headers, body.as_bytes())?;
    let operation = answer.header("x-operation").unwrap_or("-").to_owned();
    let said = format!("{dataset}/{key} is resolved, by operation {operation}");
    let json = json!({ "dataset": dataset, "key": key, "operation": operation });
    line::print(&if client.json { json.to_string() } else { said });
    Ok(())
}

/// What is listed: the member of an answer, what to ask for, and what the next page begins behind.
type Listing = (&'static str, &'static str, &'static str);
/// The newest first.
const SETTLED: Listing = ("conflicts", "", "before");
/// By dataset and key.
const OPEN: Listing = ("open", "&open=true", "after");

/// Page by page.
fn find(
    client: &Client,
    (member, which, behind): Listing,
    dataset: Option<&str>,
    limit: usize,
) -> Result<Vec<Value>, CliError> {
    let mut found = Vec::new();
    let mut from: Option<String> = None;
    while found.len() < limit {
        let mut path = format!("{PLACE}?limit={}{which}", PAGE.min(limit - found.len()));
        if let Some(dataset) = dataset {
            let _ = write!(path, "&dataset={}", segment(dataset));
        }
        if let Some(from) = &from {
            let _ = write!(path, "&{behind}={}", segment(from));
        }
        let page = client.document(&path)?;
        found.extend(page[member].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) => from = Some(next.to_owned()),
            None => break,
        }
    }
    Ok(found)
}

fn open(records: &[Value]) -> String {
    if records.is_empty() {
        return "No record has several values.".to_owned();
    }
    let mut shown = String::new();
    for record in records {
        let values = record["siblings"].as_array().map_or(&[][..], Vec::as_slice);
        let _ = writeln!(
            shown,
            "{}/{}: {} values, {}",
            text(&record["dataset"]),
            text(&record["key"]),
            values.len(),
            text(&record["strategy"]),
        );
        for value in values {
            let _ = writeln!(shown, "  {}  {}", text(&value["operation"]), what(value));
        }
        let _ = writeln!(shown, "  --context {}", text(&record["context"]));
    }
    shown.push_str(
        "\n`tidelock conflicts resolve DATASET KEY --take OPERATION --context CONTEXT` leaves one.",
    );
    shown
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn is_merge(strategy: &str) -> bool {
    matches!(strategy, "merge_three_way" | "merge_two_way")
}

/// What happened to a value, as it was decided.
fn became(strategy: &str) -> &'static str {
    match strategy {
        _ if is_merge(strategy) => "merged with others as",
        "keep_siblings" => "beside",
        _ => "lost to",
    }
}

fn listed(conflicts: &[Value]) -> String {
    if conflicts.is_empty() {
        return "No conflicts.".to_owned();
    }
    let mut shown = String::new();
    for conflict in conflicts {
        let _ = writeln!(
            shown,
            "{}  {}/{}: {} {} {}",
            text(&conflict["id"]),
            text(&conflict["dataset"]),
            text(&conflict["key"]),
            what(&conflict["lost"]),
            became(text(&conflict["strategy"])),
            text(&conflict["winner"]),
        );
    }
    shown.push_str("\n`tidelock conflicts show ID` gives both values.");
    shown
}

fn what(write: &Value) -> String {
    match write["deleted"].as_bool() {
        Some(true) => "a delete".to_owned(),
        _ => format!("{} bytes", write["bytes"]),
    }
}

fn shown(conflict: &Value) -> String {
    let (lost, now) = (&conflict["lost"], &conflict["now"]);
    let strategy = text(&conflict["strategy"]);
    let merged = is_merge(strategy);
    let one = if merged { "one" } else { "lost" };
    let mut shown = format!(
        "{}/{}\n  {one:<5} {}, {}\n  {:<5} {}, by {strategy}\n",
        text(&conflict["dataset"]),
        text(&conflict["key"]),
        text(&lost["operation"]),
        what(lost),
        if merged { "as" } else { "won" },
        text(&conflict["winner"]),
    );
    if let Some(why) = conflict["why"].as_str() {
        let _ = writeln!(shown, "        {why}");
    }
    let stands = match (now.is_null(), conflict["winner_stands"].as_bool()) {
        (true, _) => "nothing".to_owned(),
        (false, Some(true)) if merged => format!("what was made of all, {}", what(now)),
        (false, Some(true)) => format!("the winner, {}", what(now)),
        (false, _) => format!("a later write, {}, {}", text(&now["operation"]), what(now)),
    };
    let _ = writeln!(shown, "  now   {stands}");
    let base = &conflict["base"];
    if !base.is_null() {
        let was = if base["deleted"] == true { "nothing".to_owned() } else { what(base) };
        let _ = writeln!(shown, "  from  {was}: what both were written over");
    }
    let erased = &conflict["erased"];
    if !erased.is_null() {
        let _ = writeln!(
            shown,
            "\nIts bytes were erased on {} by {} for: {}",
            cron::utc_text(erased["at_ms"].as_u64().unwrap_or_default()),
            text(&erased["by"]),
            text(&erased["reason"]),
        );
        return shown.trim_end().to_owned();
    }
    match (lost["text"].as_str(), now["text"].as_str()) {
        (Some(lost), Some(now)) if base["text"].is_string() => {
            let base = text(&base["text"]);
            shown.push_str(&difference((base, "from"), (lost, one)));
            shown.push_str(&difference((base, "from"), (now, "now")));
        }
        (Some(lost), now) => {
            shown.push_str(&difference((now.unwrap_or_default(), "now"), (lost, "lost")));
        }
        (None, _) if lost["deleted"] == true => {}
        (None, _) => {
            let _ = writeln!(
                shown,
                "\nIt is no text, or a long one: `tidelock conflicts show {} --lost > FILE`",
                text(&conflict["id"])
            );
        }
    }
    let _ = write!(
        shown,
        "\n`tidelock conflicts restore {}` writes what lost again.",
        text(&conflict["id"])
    );
    shown
}

/// From one value to another, line by line.
fn difference((from, of): (&str, &str), (to, what): (&str, &str)) -> String {
    let diff = TextDiff::from_lines(from, to);
    format!("\n{}", diff.unified_diff().header(of, what))
}
