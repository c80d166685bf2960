//! `store`: how each store does, and its breaker.

use super::client::Client;
use super::{CliError, ClientArgs, ForceArgs, StoreVerb, line};
use serde_json::{Value, json};
use std::fmt::Write as _;
use ureq::http::Method;

pub fn store(verb: &StoreVerb) -> Result<(), CliError> {
    match verb {
        StoreVerb::List { client } => {
            let answer = Client::find(client)?.document("/v1/stores")?;
            said(client, &answer, &listed(&answer));
            Ok(())
        }
        StoreVerb::Open(args) => force(args, "open"),
        StoreVerb::Close(args) => force(args, "closed"),
        StoreVerb::Auto(args) => force(args, "auto"),
    }
}

fn force(args: &ForceArgs, state: &str) -> Result<(), CliError> {
    let ForceArgs { store, reason, client } = args;
    let path = format!("/v1/stores/{store}/breaker");
    let body = json!({ "state": state, "reason": reason }).to_string();
    let answer = Client::find(client)?.send(Method::POST, &path, &[], body.as_bytes())?.json();
    let mut words = match state {
        "open" => format!("{store} is held: nothing is sent there, and writes wait in the journal"),
        "closed" => format!("{store}: work is sent there whatever it answers"),
        _ => format!("{store}: its breaker is automatic; it is {}", text(&answer["breaker"])),
    };
    if answer["kept_over_restarts"] == false {
        words.push_str("; the journal's disk is full, so a restart may end that");
    }
    said(client, &answer, &words);
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn listed(answer: &Value) -> String {
    let mut shown = String::new();
    for store in answer["stores"].as_array().into_iter().flatten() {
        let _ = write!(
            shown,
            "{}  breaker {}, {} records behind",
            text(&store["store"]),
            text(&store["breaker"]),
            store["backlog"]
        );
        if let Some(reason) = store["forced"]["reason"].as_str() {
            let _ = write!(shown, ": {reason}");
        }
        shown.push('\n');
    }
    shown.trim_end().to_owned()
}

fn said(args: &ClientArgs, answer: &Value, words: &str) {
    line::print(&if args.json { answer.to_string() } else { words.to_owned() });
}
