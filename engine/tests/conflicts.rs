//! Conflicts, end to end: nothing is settled silently. Whoever lost is listed, both values can be read,
//! and what lost can be brought back, but never over what nobody has looked at.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::Value;
use server::{Reply, Server, folder, stderr, stdout};

/// A write by somebody who has read nothing: concurrent with whatever stands.
fn put_unseen(server: &Server, path: &str, value: &[u8]) -> Reply {
    let answer = server.send_with("PUT", path, &[("x-context", "")], value);
    assert!(answer.status < 300, "{answer:?}");
    answer
}

fn operation(answer: &Reply) -> String {
    answer.header("x-operation").expect("a write has one").to_owned()
}

fn listed(server: &Server, query: &str) -> Value {
    let answer = server.send("GET", &format!("/v1/conflicts{query}"), b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn what_lost_is_listed_shown_beside_what_stands_and_brought_back() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    assert_eq!(stdout(&server.cli(&["conflicts", "list"])).trim(), "No conflicts.");
    let first = put_unseen(&server, "/v1/records/files/a", b"tide\nhigh\n");
    let second = put_unseen(&server, "/v1/records/files/a", b"tide\nlow\n");
    let (lost, won) = (operation(&first), operation(&second));

    let list = stdout(&server.cli(&["conflicts", "list"]));
    assert!(list.contains(&format!("{lost}  files/a: 10 bytes lost to {won}")), "{list}");
    let show = stdout(&server.cli(&["conflicts", "show", &lost]));
    assert!(show.contains("now   the winner") && show.contains("-low\n+high\n"), "{show}");
    assert_eq!(server.cli(&["conflicts", "show", &lost, "--lost"]).stdout, b"tide\nhigh\n");
    let shown = server.send("GET", &format!("/v1/conflicts/{lost}"), b"").json();
    assert_eq!((&shown["winner"], &shown["winner_stands"]), (&won.into(), &true.into()));
    assert_eq!(
        (&shown["lost"]["text"], &shown["now"]["text"]),
        (&"tide\nhigh\n".into(), &"tide\nlow\n".into())
    );
    assert!(shown["at_ms"].as_u64().is_some_and(|at_ms| at_ms > 0), "{shown}");

    let restored = server.cli(&["conflicts", "restore", &lost]);
    assert!(restored.status.success(), "{}", stderr(&restored));
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let copy = server.send("GET", &format!("/v1/records/files/a?store={store}"), b"");
        assert_eq!(copy.body, b"tide\nhigh\n", "{store}");
    }
    assert_eq!(listed(&server, "")["conflicts"].as_array().map(Vec::len), Some(1), "it was seen");
    server.kill();
    let server = Server::start(&data);
    assert_eq!(listed(&server, "")["conflicts"][0]["id"], lost.as_str(), "D1 remembers it");
    server.stop();
}

#[test]
fn a_record_that_has_moved_on_is_not_written_over() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let lost = operation(&put_unseen(&server, "/v1/records/files/a", b"one"));
    put_unseen(&server, "/v1/records/files/a", b"two");
    let seen = server.send("GET", &format!("/v1/conflicts/{lost}"), b"").json();
    let etag = format!("\"{}\"", seen["now"]["etag"].as_str().unwrap());
    let path = format!("/v1/conflicts/{lost}:restore");
    let blind = server.send("POST", &path, b"");
    assert_eq!((blind.status, blind.problem()), (400, "bad-request".to_owned()));

    let third = server.send("PUT", "/v1/records/files/a", b"three");
    let moved = server.send_with("POST", &path, &[("if-match", &etag)], b"");
    assert_eq!((moved.status, moved.problem()), (412, "condition-failed".to_owned()));
    let now = third.header("etag").unwrap().trim_matches('"').to_owned();
    assert!(String::from_utf8_lossy(&moved.body).contains(&now), "names what stands: {moved:?}");
    let cli = server.cli(&["conflicts", "restore", &lost, "--if-match", &etag]);
    assert_eq!(cli.status.code(), Some(1), "{}", stderr(&cli));
    assert_eq!(server.send("GET", "/v1/records/files/a", b"").body, b"three");
    let shown = stdout(&server.cli(&["conflicts", "show", &lost]));
    assert!(shown.contains("now   a later write"), "{shown}");

    server.send("DELETE", "/v1/records/files/a", b"");
    let gone = server.send_with("POST", &path, &[("if-none-match", "*")], b"");
    assert!(gone.status < 300, "over nothing, as asked: {gone:?}");
    assert_eq!(server.send("GET", "/v1/records/files/a?read=latest", b"").body, b"one");
    server.stop();
}

#[test]
fn a_delete_that_lost_deletes_when_it_is_brought_back_and_a_large_value_is_whole() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    server.send("PUT", "/v1/records/files/a", b"one");
    let delete = server.send("DELETE", "/v1/records/files/a", b"");
    // More than D1 takes in a row, so that it stands in R2 alone.
    let large = b"large ".repeat(400_000);
    let over = put_unseen(&server, "/v1/records/files/a", &large);
    put_unseen(&server, "/v1/records/files/a", b"small");
    let show = stdout(&server.cli(&["conflicts", "show", &operation(&over)]));
    assert!(show.contains("--lost > FILE"), "{show}");
    assert_eq!(server.cli(&["conflicts", "show", &operation(&over), "--lost"]).stdout, large);

    let id = operation(&delete);
    let value = server.send("GET", &format!("/v1/conflicts/{id}/lost"), b"");
    assert_eq!((value.status, value.problem()), (404, "not-found".to_owned()));
    let restored = server.cli(&["conflicts", "restore", &id]);
    assert!(restored.status.success(), "{}", stderr(&restored));
    assert_eq!(server.send("GET", "/v1/records/files/a?read=latest", b"").status, 404);
    server.stop();
}

#[test]
fn listings_go_page_by_page_and_what_is_asked_wrongly_is_refused() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let writes = (0..5).map(|n| {
        let path = format!("/v1/records/files/{n}");
        let lost = operation(&put_unseen(&server, &path, b"one"));
        put_unseen(&server, &path, b"two");
        lost
    });
    let mut lost: Vec<String> = writes.collect();
    lost.reverse();
    let mut found = Vec::new();
    let mut query = "?dataset=files&limit=2".to_owned();
    loop {
        let page = listed(&server, &query);
        let ids = page["conflicts"].as_array().unwrap().iter();
        found.extend(ids.map(|conflict| conflict["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?dataset=files&limit=2&before={next}");
    }
    assert_eq!(found, lost, "the newest first, each once");
    assert_eq!(listed(&server, "?dataset=notes")["conflicts"], serde_json::json!([]));
    for (path, status, kind) in [
        ("/v1/conflicts?limit=0", 400, "bad-request"),
        ("/v1/conflicts?before=nonsense", 400, "bad-request"),
        ("/v1/conflicts?dataset=none", 404, "unknown-dataset"),
        ("/v1/conflicts/nonsense", 400, "bad-request"),
        ("/v1/conflicts/1.00000000000000ff.9", 404, "unknown-conflict"),
    ] {
        let answer = server.send("GET", path, b"");
        assert_eq!((answer.status, answer.problem()), (status, kind.to_owned()), "{path}");
    }
    let cli = server.cli(&["conflicts", "show", "1.00000000000000ff.9"]);
    assert_eq!(cli.status.code(), Some(4), "{}", stderr(&cli));
    server.stop();
}

/// The log's lines of these kinds, the oldest first.
fn logged(server: &Server, kinds: &[&str]) -> Vec<Value> {
    let export = server.cli(&["audit", "export", "-o", "-"]);
    assert!(export.status.success(), "{}", stderr(&export));
    let lines = stdout(&export).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<Value> = lines;
    let of = |line: &Value| kinds.iter().any(|kind| line["event"]["kind"] == *kind);
    lines.into_iter().filter(of).collect()
}

#[test]
fn every_conflict_is_in_the_audit_log_once_and_so_is_what_operators_do() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let dispute = |server: &Server, n: u64| {
        let path = format!("/v1/records/files/{n}");
        let lost = operation(&put_unseen(server, &path, b"one"));
        put_unseen(server, &path, b"two");
        lost
    };
    let mut lost: Vec<String> = (0..5).map(|n| dispute(&server, n)).collect();
    let losers = |server: &Server| -> Vec<String> {
        let all = logged(server, &["conflict"]);
        let dot = |line: &Value| line["event"]["losers"][0]["dot"].as_str().unwrap().to_owned();
        all.iter().map(dot).collect()
    };
    server.until("they are logged", || losers(&server).len() == 5);
    // Killed before it has looked again: D1 remembers what the log lacks.
    lost.extend((5..8).map(|n| dispute(&server, n)));
    server.kill();
    let server = Server::start(&data);
    lost.extend((8..10).map(|n| dispute(&server, n)));
    server.until("all are logged", || losers(&server).len() >= 10);
    assert_eq!(losers(&server), lost, "each once, in their order");

    assert!(server.cli(&["conflicts", "restore", &lost[0]]).status.success());
    server.cli(&["store", "open", "kv", "--reason", "to see"]);
    server.cli(&["store", "auto", "kv", "--reason", "seen"]);
    let restored = logged(&server, &["restored"]);
    assert_eq!(restored[0]["event"]["lost"], lost[0].as_str());
    let done = logged(&server, &["operator"]);
    let told = |n: usize, of: &str| done[n]["event"][of].as_str().unwrap().to_owned();
    assert_eq!(
        (told(0, "action"), told(0, "target"), told(0, "reason")),
        ("store open".into(), "kv".into(), "to see".into())
    );
    assert_eq!(told(1, "action"), "store auto");
    let id = restored[0]["event"]["conflict"].as_str().unwrap().to_owned();
    let shown = stdout(&server.cli(&["audit", "show", &id]));
    assert!(shown.contains(&lost[0]) && shown.contains("is back as"), "{shown}");
    server.stop();
    let verified = server::cli_with(&["audit", "verify"], &data).output().unwrap();
    assert!(verified.status.success(), "{}", stderr(&verified));
}

#[test]
fn an_audit_log_that_was_tampered_with_is_not_gone_on_with() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    server.cli(&["store", "open", "kv", "--reason", "first"]);
    server.cli(&["store", "auto", "kv", "--reason", "second"]);
    server.stop();
    let file = data.join("audit/00000001.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("first"));
    std::fs::write(&file, text.replace("first", "worst")).unwrap();
    let (code, error) = server::refused_start(&data, &[]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("audit log is damaged") && error.contains("audit verify"), "{error}");
    let verified = server::cli_with(&["audit", "verify"], &data).output().unwrap();
    assert_eq!(verified.status.code(), Some(1), "{}", stderr(&verified));
    std::fs::write(&file, text).unwrap();
    Server::start(&data).stop();
}
