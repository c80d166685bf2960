//! `webhook`: those who are told over HTTP of what the audit log tells.

use super::client::{Client, segment};
use super::{CliError, WebhookVerb, line};
use serde_json::Value;
use std::fmt::Write as _;
use ureq::http::Method;

const PLACE: &str = "/v1/webhooks";

pub fn webhook(verb: &WebhookVerb) -> Result<(), CliError> {
    match verb {
        WebhookVerb::List { client } => {
            let answer = Client::find(client)?.document(PLACE)?;
            line::print(&if client.json { answer.to_string() } else { listed(&answer) });
            Ok(())
        }
        WebhookVerb::Test { name, client } => {
            let path = format!("{PLACE}/{}/test", segment(name));
            let answer = Client::find(client)?.send(Method::POST, &path, &[], b"")?.json();
            let said = format!(
                "{name} was sent {} and answered after {} ms: {}",
                text(&answer["id"]),
                answer["took_ms"],
                text(&answer["answer"])
            );
            line::print(&if client.json { answer.to_string() } else { said });
            taken(&answer, &format!("{name} did not take it"))
        }
        WebhookVerb::Retry { name, id, client } => {
            let path = letter(name, id, "retry");
            let answer = Client::find(client)?.send(Method::POST, &path, &[], b"")?.json();
            let said = format!("{id} was sent again: {}", text(&answer["answer"]));
            line::print(&if client.json { answer.to_string() } else { said });
            taken(&answer, &format!("{name} did not take it; it stays a dead letter"))
        }
        WebhookVerb::Discard { name, id, reason, client } => {
            let path = letter(name, id, "discard");
            let reason = reason.as_ref().map(|reason| format!("?reason={}", segment(reason)));
            let path = format!("{path}{}", reason.unwrap_or_default());
            let answer = Client::find(client)?.send(Method::POST, &path, &[], b"")?.json();
            let said = format!("{id} is discarded; the audit log keeps what it tells of");
            line::print(&if client.json { answer.to_string() } else { said });
            Ok(())
        }
    }
}

fn letter(name: &str, id: &str, verb: &str) -> String {
    format!("{PLACE}/{}/dead-letters/{}/{verb}", segment(name), segment(id))
}

/// An answer that says no is the verb's failure, and was printed already.
fn taken(answer: &Value, otherwise: &str) -> Result<(), CliError> {
    if answer["delivered"] == true {
        return Ok(());
    }
    Err(CliError::Told(Box::new(CliError::Failed(otherwise.to_owned()))))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn listed(answer: &Value) -> String {
    let hooks = answer["webhooks"].as_array().cloned().unwrap_or_default();
    if hooks.is_empty() {
        return "No webhooks: [[webhook]] in the configuration declares one.".to_owned();
    }
    let mut shown = String::new();
    for hook in &hooks {
        let _ = writeln!(
            shown,
            "{}  {}, told up to entry {} of {}",
            text(&hook["name"]),
            text(&hook["state"]),
            hook["place"],
            answer["head_seq"]
        );
        let _ = writeln!(shown, "  to      {}", text(&hook["url"]));
        if let Some(detail) = hook["detail"].as_str() {
            let _ = writeln!(shown, "  why     {detail}");
        }
        if hook["last_answer"].is_object() {
            let last = &hook["last_answer"];
            let _ = write!(shown, "  answer  {} to {}", text(&last["answer"]), text(&last["id"]));
            match hook["consecutive_failures"].as_u64() {
                None | Some(0) => shown.push('\n'),
                Some(failures) => {
                    let _ = writeln!(shown, "; {failures} failures in a row");
                }
            }
        }
        for (field, says) in [
            ("storms", "storms of conflicts are being counted"),
            ("missed", "entries had left the log before they were told"),
            ("dead_letters_dropped", "dead letters were dropped; the log has what they tell of"),
        ] {
            if let Some(count) = hook[field].as_u64().filter(|count| *count > 0) {
                let _ = writeln!(shown, "  note    {count} {says}");
            }
        }
        for letter in hook["dead_letters"].as_array().into_iter().flatten() {
            let _ = writeln!(
                shown,
                "  dead    {}  {}, tried {} times: {}",
                text(&letter["id"]),
                text(&letter["kind"]),
                letter["attempts"],
                text(&letter["answer"])
            );
        }
    }
    shown.trim_end().to_owned()
}
