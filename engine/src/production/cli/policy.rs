//! `policy`: what is in force, reading it again, and looking for mistakes beforehand.

use super::client::{Client, NoAnswer};
use super::{CliError, PolicyCheckArgs, PolicyShowArgs, ReloadArgs, line};
use crate::policy::parse;
use serde_json::{Value, json};
use std::fmt::Write as _;
use ureq::http::Method;

const RELOAD: &str = "/v1/policies:reload";

pub fn reload(args: &ReloadArgs) -> Result<(), CliError> {
    let client = Client::find(&args.client)?;
    let body = json!({ "dry_run": args.dry_run }).to_string();
    let answer = client.send(Method::POST, RELOAD, &[], body.as_bytes())?.json();
    if args.client.json {
        line::print(&answer.to_string());
    } else {
        line::print(&changes(&answer, if args.dry_run { "would change" } else { "changed" }));
    }
    Ok(())
}

pub fn show(args: &PolicyShowArgs) -> Result<(), CliError> {
    let policies = Client::find(&args.client)?.document("/v1/policies")?;
    if args.client.json {
        line::print(&policies.to_string());
        return Ok(());
    }
    let mut shown = String::new();
    for dataset in policies["datasets"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let _ = writeln!(shown, "{} ({})", text(&dataset["name"]), text(&dataset["kind"]));
        for store in dataset["stores"].as_array().into_iter().flatten() {
            let (name, keep) = (text(&store["store"]), text(&store["keep"]));
            let strategy = text(&store["strategy"]);
            let _ = writeln!(shown, "  {:<4} {keep}, {strategy}", name.to_uppercase());
        }
        let _ = writeln!(shown, "  {}\n", text(&dataset["promise"]));
    }
    line::print(shown.trim_end());
    Ok(())
}

pub fn check(args: &PolicyCheckArgs) -> Result<(), CliError> {
    let name = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| CliError::Usage(format!("{name}: {error}")))?;
    let config = parse::parse(&name, &text).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        CliError::Usage(format!("{name} is not accepted\n\n{}", mistakes.join("\n\n")))
    })?;
    let promises = config.policy.datasets.values().map(|dataset| dataset.promise());
    let promises: Vec<String> = promises.collect();
    // Without a server there is nothing that it could be in conflict with.
    let running = Client::find(&args.client).ok().map(|client| {
        let body = json!({ "dry_run": true, "text": text }).to_string();
        client.send(Method::POST, RELOAD, &[], body.as_bytes())
    });
    let answer = match running {
        None | Some(Err(NoAnswer::Connection(_))) => None,
        Some(answer) => Some(answer?.json()),
    };
    if args.client.json {
        let changed = answer.as_ref().map(|answer| answer["changed"].clone());
        line::print(&json!({ "promises": promises, "changed": changed }).to_string());
        return Ok(());
    }
    let mut shown = format!("{name} is accepted\n\n  {}\n\n", promises.join("\n  "));
    shown.push_str(&match &answer {
        Some(answer) => changes(answer, "would change at the running server"),
        None => "no server answers here that could be asked whether it would take it".to_owned(),
    });
    line::print(&shown);
    Ok(())
}

fn changes(answer: &Value, word: &str) -> String {
    let said = answer["changed"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let said: Vec<&str> = said.collect();
    if said.is_empty() {
        return "nothing differs from what is in force".to_owned();
    }
    format!("{word}:\n  {}", said.join("\n  "))
}
