//! `policy`: what is in force, reading it again, looking for mistakes beforehand, and trying it on past
//! conflicts.

use super::client::{Client, NoAnswer};
use super::{
    CliError, PolicyCheckArgs, PolicyShowArgs, PolicySimulateArgs, PolicyTestArgs, ReloadArgs, line,
};
use crate::policy::parse::{self, Config, ROUNDS};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
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
    let (name, text, config) = read(&args.file)?;
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

fn read(file: &Path) -> Result<(String, String, Config), CliError> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| CliError::Usage(format!("{name}: {error}")))?;
    let config = parse::parse(&name, &text).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        CliError::Usage(format!("{name} is not accepted\n\n{}", mistakes.join("\n\n")))
    })?;
    Ok((name, text, config))
}

/// Whatever breaks a law or an example was refused with the file.
pub fn test(args: &PolicyTestArgs) -> Result<(), CliError> {
    let (name, _, config) = read(&args.file)?;
    if args.json {
        let rules = config.rules.iter().map(|(name, configured)| {
            let used_by: Vec<&str> = configured.used_by.iter().map(|by| &**by).collect();
            let examples = configured.examples.len();
            json!({ "rule": name, "examples": examples, "made_up": ROUNDS, "used_by": used_by })
        });
        line::print(&json!({ "rules": rules.collect::<Vec<_>>() }).to_string());
        return Ok(());
    }
    if config.rules.is_empty() {
        line::print(&format!("{name} is accepted; it has no [[rule]] to try"));
        return Ok(());
    }
    let rules = config.rules.iter().map(|(name, configured)| {
        let examples = match configured.examples.len() {
            0 => "no examples".to_owned(),
            1 => "1 example is answered as it says".to_owned(),
            many => format!("{many} examples are answered as they say"),
        };
        let used_by: Vec<&str> = configured.used_by.iter().map(|by| &**by).collect();
        let used_by = match used_by[..] {
            [] => "no dataset goes by it".to_owned(),
            _ => format!("decides in {}", used_by.join(", ")),
        };
        format!("{name}\n  {examples}; {ROUNDS} made-up conflicts keep every law\n  {used_by}")
    });
    line::print(&rules.collect::<Vec<_>>().join("\n\n"));
    Ok(())
}

pub fn simulate(args: &PolicySimulateArgs) -> Result<(), CliError> {
    let (_, text, _) = read(&args.file)?;
    let since_ms = u64::try_from(args.since.as_millis()).unwrap_or(u64::MAX);
    let body = json!({ "text": text, "since_ms": since_ms }).to_string();
    let client = Client::find(&args.client)?;
    let answer = client.send(Method::POST, "/v1/policies:simulate", &[], body.as_bytes())?.json();
    if args.client.json {
        line::print(&answer.to_string());
        return Ok(());
    }
    let conflicts: Vec<&Value> = answer["conflicts"].as_array().into_iter().flatten().collect();
    let with = |outcome: &'static str| {
        conflicts.iter().filter(move |conflict| conflict["again"]["outcome"] == outcome)
    };
    let (same, other) = (with("same").count(), with("other").count());
    let more = if answer["more"] == true { " (the newest; there may be more)" } else { "" };
    let mut shown = format!(
        "{} conflicts{more}: {other} would show another value, {same} the same one\n",
        conflicts.len()
    );
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for conflict in with("other") {
        let again = &conflict["again"];
        let value = match (again["shown"]["deleted"] == true, again["text"].as_str()) {
            (true, _) => "a delete".to_owned(),
            (false, Some(text)) => text.chars().take(60).collect(),
            (false, None) => format!("{} bytes", again["shown"]["bytes"]),
        };
        let _ = write!(
            shown,
            "\n  {}/{}\n    was settled by {}, would be by {}: {value}\n    \
             tidelock conflicts show {}\n",
            word(&conflict["dataset"]),
            word(&conflict["key"]),
            word(&conflict["strategy"]),
            word(&again["strategy"]),
            word(&conflict["id"]),
        );
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for conflict in with("unknown") {
        *reasons.entry(word(&conflict["again"]["why"])).or_default() += 1;
    }
    let without = with("no_dataset").count();
    if without > 0 {
        reasons.insert("the file does not have their dataset".to_owned(), without);
    }
    for (reason, count) in reasons {
        let _ = write!(shown, "\n{count} cannot be told: {reason}");
    }
    line::print(shown.trim_end());
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
