//! `verify` and `sync`: whether KV and R2 hold what D1 does.

use super::client::Client;
use super::{CliError, Over, SyncArgs, VerifyArgs, line};
use serde_json::{Value, json};
use std::fmt::Write as _;
use ureq::http::Method;

pub fn verify(args: &VerifyArgs) -> Result<(), CliError> {
    let answer = ask(&args.over, json!({ "dry_run": true }))?;
    show(&args.over, &answer, "differ");
    if answer["clean"] == true {
        return Ok(());
    }
    let problem = "the stores are not equal; what is pending is on its way, what differs is mended \
                   by the next look or by `tidelock sync`";
    Err(CliError::Told(Box::new(CliError::Failed(problem.to_owned()))))
}

pub fn sync(args: &SyncArgs) -> Result<(), CliError> {
    let answer = ask(&args.over, json!({ "approve": args.approve }))?;
    show(&args.over, &answer, "differ and are looked at again, then mended");
    let held = passes(&answer).any(|pass| !pass["held"].is_null());
    if !held {
        return Ok(());
    }
    let problem = "a plan looks wrong, so nothing was changed there; look at the store, then use \
                   --approve";
    Err(CliError::Told(Box::new(CliError::Failed(problem.to_owned()))))
}

fn ask(over: &Over, mut body: Value) -> Result<Value, CliError> {
    if let Some(dataset) = &over.dataset {
        body["dataset"] = json!(dataset);
    }
    if let Some(store) = over.store {
        body["store"] = json!(store);
    }
    let client = Client::find(&over.client)?;
    let body = body.to_string();
    let answer = client.send_patiently(Method::POST, "/v1/syncs", &[], body.as_bytes())?;
    Ok(answer.json())
}

fn passes(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["passes"].as_array().into_iter().flatten()
}

fn show(over: &Over, answer: &Value, differing: &str) {
    if over.client.json {
        line::print(&answer.to_string());
        return;
    }
    let mut shown = String::new();
    for pass in passes(answer) {
        let text = |field: &str| pass[field].as_str().unwrap_or("-").to_owned();
        let (dataset, store) = (text("dataset"), text("store").to_uppercase());
        let _ = write!(shown, "{dataset} in {store}: {} compared", pass["compared"]);
        let count = |field: &str| pass[field].as_u64().unwrap_or(0);
        match (count("differing"), count("pending")) {
            (0, 0) => shown.push_str(", equal"),
            (0, pending) => drop(write!(shown, ", {pending} pending")),
            (count, 0) => drop(write!(shown, ", {count} {differing}")),
            (count, pending) => drop(write!(shown, ", {count} {differing}, {pending} pending")),
        }
        if count("differing") > 0 {
            let _ = write!(shown, "; mending takes {}", billed(&pass["predicted"]));
        }
        if let Some(brake) = pass["held"].as_str() {
            let _ = write!(shown, "; held: {}", brake.replace('-', " "));
        }
        shown.push('\n');
        for key in pass["keys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let _ = writeln!(shown, "  {key}");
        }
    }
    line::print(shown.trim_end());
}

/// Operations that the services charge for, in words.
fn billed(predicted: &Value) -> String {
    let named = [("lists", "lists"), ("gets", "reads"), ("puts", "puts"), ("rows", "rows in D1")];
    let counts = named.map(|(field, name)| format!("{} {name}", predicted[field]));
    counts.join(", ")
}
