//! `peer`: which other coordinators this one talks to.

use super::client::Client;
use super::{CliError, ClientArgs, PeerVerb, line};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use ureq::http::Method;

/// Between two questions whether it has left.
const ASK_AGAIN: Duration = Duration::from_millis(250);

pub fn peer(verb: &PeerVerb) -> Result<(), CliError> {
    match verb {
        PeerVerb::List(args) => list(args),
        PeerVerb::Add { node, url, site, client } => {
            let mut member = json!({ "node": node, "url": url });
            let server = Client::find(client)?;
            member["site"] = match site {
                Some(site) => json!(site),
                // The same stores as the server's own.
                None => server.send(Method::GET, "/v1/peers", &[], &[])?.json()["site"].clone(),
            };
            let body = member.to_string();
            let answer = server.send(Method::POST, "/v1/peers", &[], body.as_bytes())?.json();
            said(client, &answer, &format!("coordinator {node} at {url} is a peer now"));
            Ok(())
        }
        PeerVerb::Leave { within, client } => leave(client, Duration::from_secs((*within).into())),
        PeerVerb::Retire { node, client } => {
            let server = Client::find(client)?;
            server.send(Method::DELETE, &format!("/v1/peers/{node}"), &[], &[])?;
            said(client, &json!({ "retired": node }), &format!("coordinator {node} is no peer"));
            Ok(())
        }
    }
}

fn leave(args: &ClientArgs, within: Duration) -> Result<(), CliError> {
    let server = Client::find(args)?;
    let begun = Instant::now();
    loop {
        let answer = server.send(Method::POST, "/v1/peers:leave", &[], &[])?.json();
        if answer["state"] == "left" {
            let words = "it has left: nothing of it is needed any more. Stop it, and have the \
                         others retire it with `tidelock peer retire`";
            said(args, &answer, words);
            return Ok(());
        }
        if begun.elapsed() >= within {
            return Err(CliError::Failed(format!(
                "it has not left yet: {}. It takes no new writes meanwhile; ask again, or start it \
                 again to have it stay",
                why_not(&answer)
            )));
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn why_not(answer: &Value) -> String {
    let count = |field: &str| answer[field].as_u64().unwrap_or(0);
    match answer["state"].as_str() {
        Some("owes") => format!(
            "D1 does not have {} of its writes, {} copies are owed, and {} dead letters wait for a \
             decision (`tidelock dlq list`)",
            count("intents"),
            count("copies"),
            count("dead_letters")
        ),
        Some("unheard") => format!(
            "nobody else answers for its site, and site {} has not taken in all of it",
            count("site")
        ),
        Some("unforgotten") => "its journal's disk takes no commit".to_owned(),
        _ => "D1 does not answer".to_owned(),
    }
}

fn list(args: &ClientArgs) -> Result<(), CliError> {
    let answer = Client::find(args)?.send(Method::GET, "/v1/peers", &[], &[])?.json();
    let mut shown = format!("this is coordinator {} of site {}", answer["node"], answer["site"]);
    for peer in answer["peers"].as_array().into_iter().flatten() {
        let stores = if peer["shares_stores"] == true { "the same stores" } else { "its own" };
        let (node, site) = (&peer["node"], &peer["site"]);
        let text = |field: &str| peer[field].as_str().unwrap_or("-").to_owned();
        let _ =
            write!(shown, "\n{node:>5}  site {site}, {stores}  {}  {}", text("url"), text("known"));
    }
    said(args, &answer, &shown);
    Ok(())
}

fn said(args: &ClientArgs, answer: &Value, words: &str) {
    line::print(&if args.json { answer.to_string() } else { words.to_owned() });
}
