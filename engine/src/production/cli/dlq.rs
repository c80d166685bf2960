//! `dlq`: what a store will never take as it is.

use super::client::{Client, segment};
use super::{CliError, DlqArgs, DlqVerb, line};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;
use ureq::http::Method;

const PLACE: &str = "/v1/dead-letters";

pub fn dlq(args: &DlqArgs) -> Result<(), CliError> {
    match &args.verb {
        DlqVerb::List { client } => {
            let answer = Client::find(client)?.document(PLACE)?;
            line::print(&if client.json { answer.to_string() } else { listed(&answer) });
        }
        DlqVerb::Show { id, value: true, client } => {
            let path = format!("{PLACE}/{}/value", segment(id));
            let answer = Client::find(client)?.send(Method::GET, &path, &[], b"")?;
            let mut out = std::io::stdout().lock();
            // A reader that went away has read what it wanted.
            let _ = out.write_all(&answer.body).and_then(|()| out.flush());
        }
        DlqVerb::Show { id, client, value: false } => {
            let answer = Client::find(client)?.document(&format!("{PLACE}/{}", segment(id)))?;
            line::print(&if client.json { answer.to_string() } else { shown(&answer) });
        }
        DlqVerb::Retry { id, client } => {
            let path = format!("{PLACE}/{}:retry", segment(id));
            let answer = Client::find(client)?.send(Method::POST, &path, &[], b"")?.json();
            let said = format!("{} is tried again now", named(&answer));
            line::print(&if client.json { answer.to_string() } else { said });
        }
        DlqVerb::Discard { id, reason, client } => {
            let path = format!("{PLACE}/{}?reason={}", segment(id), segment(reason));
            let answer = Client::find(client)?.send(Method::DELETE, &path, &[], b"")?.json();
            let said = format!("{} is discarded; the log keeps its hash", named(&answer));
            line::print(&if client.json { answer.to_string() } else { said });
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn named(letter: &Value) -> String {
    format!("{}/{} in {}", text(&letter["dataset"]), text(&letter["key"]), text(&letter["store"]))
}

fn listed(answer: &Value) -> String {
    let letters = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
    let (dead, ended) = (letters("dead_letters"), letters("ended"));
    let mut shown = String::new();
    if dead.is_empty() {
        shown.push_str("No dead letters.\n");
    }
    for letter in &dead {
        let age_s = letter["age_ms"].as_u64().unwrap_or(0) / 1000;
        let _ = writeln!(
            shown,
            "{}  {}, {} bytes, refused {} times in {age_s} s: {}{}",
            text(&letter["id"]),
            named(letter),
            letter["bytes"],
            letter["tries"],
            text(&letter["reason"]),
            lost(letter)
        );
    }
    if !ended.is_empty() {
        shown.push_str("\nEnded\n");
    }
    for letter in &ended {
        let _ = writeln!(shown, "{}  {}: {}", text(&letter["id"]), named(letter), ending(letter));
    }
    shown.trim_end().to_owned()
}

fn lost(letter: &Value) -> String {
    letter["lost_to"].as_str().map_or_else(String::new, |to| {
        format!("; {to} stands over it, and its value is kept here alone")
    })
}

fn ending(letter: &Value) -> String {
    match text(&letter["outcome"]) {
        "superseded" => format!("superseded by {}", text(&letter["by"])),
        "discarded" => format!("discarded: {}", text(&letter["reason"])),
        other => other.to_owned(),
    }
}

fn shown(letter: &Value) -> String {
    let mut shown = format!(
        "{}\n  write   {}, {} bytes\n  tries   {}\n",
        named(letter),
        text(&letter["operation"]),
        letter["bytes"],
        letter["tries"]
    );
    if letter["lost_to"].is_string() {
        let _ =
            writeln!(shown, "  lost to {}; its value is kept here alone", text(&letter["lost_to"]));
    }
    if letter["outcome"].is_string() {
        let _ = writeln!(shown, "  ended   {}", ending(letter));
    }
    for one in letter["history"].as_array().into_iter().flatten() {
        let _ =
            writeln!(shown, "  {}  {}: {}", one["at_ms"], text(&one["kind"]), text(&one["reason"]));
    }
    shown.trim_end().to_owned()
}
