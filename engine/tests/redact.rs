//! Redaction, end to end: bytes that are to go are gone from the authority and from its files, everything
//! else that is known of them stays, and nothing brings them back.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::{Value, json};
use server::{Reply, Server, folder, stderr, stdout};
use std::path::{Path, PathBuf};

/// Nothing else that stands in the files is like it.
const SECRET: &str = "born on the 3rd of May, lives at Quay Road 7";

fn put(server: &Server, path: &str, context: &str, value: &str) -> Reply {
    let headers = [("x-context", context)];
    let answer = server.send_with("PUT", path, &headers, value.as_bytes());
    assert!(answer.status < 300, "{answer:?}");
    answer
}

fn operation(answer: &Reply) -> String {
    answer.header("x-operation").expect("a write has one").to_owned()
}

/// Files below a folder in which these bytes stand. The journal is not the authority, and its free pages
/// are overwritten as it goes on.
fn files_with(data: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if !path.file_name().unwrap().to_string_lossy().starts_with("journal") {
            let text = std::fs::read(&path).unwrap_or_default();
            if text.windows(bytes.len()).any(|window| window == bytes) {
                found.push(path);
            }
        }
    }
    found
}

/// Those of them that are D1's.
fn in_d1(data: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = files_with(data, bytes);
    found.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("d1.sqlite"));
    found
}

fn redact(server: &Server, args: &[&str]) -> std::process::Output {
    server.cli(&[&["audit", "redact"], args].concat())
}

#[test]
fn what_lost_is_erased_and_everything_else_of_it_stays() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let path = "/v1/records/files/a";
    // Over several pages of the file: those that are let go of keep what they had, if nobody sees to it.
    let secret = format!("{SECRET}\n").repeat(500);
    let lost = operation(&put(&server, path, "", &secret));
    server.until_idle();
    let stands = operation(&put(&server, path, "", "nothing of anybody"));
    server.until_idle();
    let before = server.send("GET", &format!("/v1/conflicts/{lost}"), b"").json();
    assert_eq!(before["lost"]["text"], secret);
    assert!(!in_d1(&data, SECRET.as_bytes()).is_empty(), "it can be found where it is");

    // Shown first, and nothing is done without a reason or a yes.
    let unsaid = redact(&server, &[&lost, "--yes"]);
    assert_eq!(unsaid.status.code(), Some(2), "{}", stderr(&unsaid));
    // What is no operation id is no request either.
    let not_one = [
        &["audit", "redact", "1.2", "--reason", "asked for"][..],
        &["conflicts", "show", "1.2"],
        &["conflicts", "restore", "1.2"],
        &["conflicts", "resolve", "files", "a", "--take", "1.2", "--context", ""],
    ];
    for args in not_one {
        let usage = server.cli(args);
        assert_eq!(usage.status.code(), Some(2), "{args:?}: {}", stderr(&usage));
        assert!(stderr(&usage).contains("1.2"), "{}", stderr(&usage));
    }
    let preview = redact(&server, &[&lost, "--reason", "asked for"]);
    assert!(preview.status.success(), "{}", stderr(&preview));
    let told = stdout(&preview);
    let bytes = secret.len();
    assert!(told.contains(&format!("files/a: 1 value would be erased, {bytes} bytes")), "{told}");
    assert!(told.contains("--yes") && told.contains(&lost), "{told}");
    let body = json!({"dataset": "files", "key": "a", "operations": [lost]});
    let unsaid = server.send("POST", "/v1/redactions", body.to_string().as_bytes());
    assert_eq!((unsaid.status, unsaid.problem()), (400, "bad-request".to_owned()));
    assert_eq!(server.cli(&["conflicts", "show", &lost, "--lost"]).stdout, secret.as_bytes());

    let done = redact(&server, &[&lost, "--reason", "asked for", "--yes"]);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(in_d1(&data, SECRET.as_bytes()), Vec::<PathBuf>::new(), "while the server runs");
    let shown = stdout(&server.cli(&["conflicts", "show", &lost]));
    assert!(shown.contains("Its bytes were erased on 20"), "{shown}");
    assert!(shown.contains("by operator for: asked for"), "{shown}");
    let mut after = server.send("GET", &format!("/v1/conflicts/{lost}"), b"").json();
    assert_eq!(after["erased"]["reason"], "asked for");
    (after["erased"], after["lost"]["text"]) = (Value::Null, json!(secret));
    assert_eq!(after, before, "operation, stamp, hash and winner are as they were");
    for (method, path) in [("GET", "lost"), ("POST", ":restore")] {
        let path = match path {
            "lost" => format!("/v1/conflicts/{lost}/lost"),
            verb => format!("/v1/conflicts/{lost}{verb}"),
        };
        let etag = format!("\"{}\"", before["now"]["etag"].as_str().unwrap());
        let answer = server.send_with(method, &path, &[("if-match", &etag)], b"");
        assert_eq!((answer.status, answer.problem()), (410, "erased".to_owned()), "{path}");
    }
    let restored = server.cli(&["conflicts", "restore", &lost]);
    assert!(stderr(&restored).contains("erased by operator for: asked for"), "{restored:?}");
    assert_eq!(redact(&server, &[&lost, "--reason", "again"]).status.code(), Some(4));

    // What stands is refused, by whatever way.
    let all = redact(&server, &["--dataset", "files", "--key", "a", "--reason", "all", "--yes"]);
    assert_eq!(all.status.code(), Some(1));
    assert!(stderr(&all).contains(&stands) && stderr(&all).contains("delete"), "{all:?}");
    let body = json!({"dataset": "files", "key": "a", "operations": [stands], "reason": "all"});
    let refused = server.send("POST", "/v1/redactions", body.to_string().as_bytes());
    assert_eq!((refused.status, refused.problem()), (409, "value-stands".to_owned()));
    assert_eq!(server.send("GET", path, b"").text(), "nothing of anybody");
    for (query, status) in
        [("", 400), ("?dataset=files", 400), ("?conflict=x", 400), ("?dataset=none&key=a", 404)]
    {
        assert_eq!(
            server.send("GET", &format!("/v1/redactions{query}"), b"").status,
            status,
            "{query}"
        );
    }

    let verified = server.cli(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    let logged = server.cli(&["audit", "list", "--kind", "redacted", "--json"]);
    let logged = stdout(&logged);
    assert_eq!(logged.lines().count(), 1, "{logged}");
    let event: Value = serde_json::from_str(logged.trim()).unwrap();
    let event = &event["event"];
    assert_eq!((&event["by"], &event["reason"]), (&json!("operator"), &json!("asked for")));
    assert_eq!(event["erased"][0]["dot"], lost.as_str());
    assert_eq!(event["erased"][0]["hash"], before["lost"]["hash"]);
    server.stop();
    assert_eq!(files_with(&data, SECRET.as_bytes()), Vec::<PathBuf>::new(), "once it is stopped");
    let server = Server::start(&data);
    assert!(stdout(&server.cli(&["conflicts", "show", &lost])).contains("Its bytes were erased"));
    server.stop();
}

const DATASETS: &str = r#"
[[dataset]]
name = "docs"
kind = "json"
d1 = {}
kv = {}
conflict = { default = "merge", fields = { "/left" = "delta_sum" } }
"#;

fn start(data: &Path, node: u16, listen: &str) -> Server {
    Server::start_site(data, node, listen, DATASETS)
}

fn newest(server: &Server) -> Value {
    server.send("GET", "/v1/conflicts?limit=1", b"").json()["conflicts"][0].clone()
}

#[test]
fn a_merge_that_would_start_from_what_is_erased_goes_without_it() {
    let (_keep, root) = folder();
    let server = start(&root.join("a"), 1, "127.0.0.1:0");
    for (key, erased, strategy) in
        [("kept", false, "merge_three_way"), ("erased", true, "merge_two_way")]
    {
        let path = format!("/v1/records/docs/{key}");
        let base = put(&server, &path, "", &json!({"left": 10, "of": SECRET}).to_string());
        let read = base.header("x-context").unwrap().to_owned();
        put(&server, &path, &read, &json!({"left": 13, "of": ""}).to_string());
        server.until_idle();
        if erased {
            // No conflict names it: it was superseded, and is kept for merges alone.
            let all = ["--dataset", "docs", "--key", key, "--reason", "asked for", "--yes"];
            let done = redact(&server, &all);
            assert!(stdout(&done).contains("the bytes of 1 value of"), "{done:?}");
        }
        put(&server, &path, &read, &json!({"left": 6, "of": ""}).to_string());
        server.until_idle();
        assert_eq!(newest(&server)["strategy"], strategy, "{key}");
    }
    server.stop();
}

#[test]
fn another_site_brings_nothing_back_and_learns_that_what_is_new_to_it_was_erased() {
    let (_keep, root) = folder();
    let (a_data, b_data) = (root.join("a"), root.join("b"));
    let a = start(&a_data, 1, "127.0.0.1:0");
    let secret = json!({"of": SECRET}).to_string();
    let disputed = |server: &Server, key: &str| {
        let path = format!("/v1/records/docs/{key}");
        let lost = operation(&put(server, &path, "", &secret));
        put(server, &path, "", "{\"of\": \"\"}");
        // Over all of it: neither stands any more.
        let read = server.send("GET", &format!("{path}?read=latest"), b"");
        put(server, &path, read.header("x-context").unwrap(), "{\"of\": \"nobody\"}");
        server.until_idle();
        lost
    };
    let erase = |server: &Server, lost: &str, key: &str| {
        assert!(redact(server, &[lost, "--reason", "asked for", "--yes"]).status.success());
        // What was made of both, under another name, has the bytes too.
        redact(server, &["--dataset", "docs", "--key", key, "--reason", "asked for", "--yes"]);
    };
    let shows = |server: &Server, lost: &str| stdout(&server.cli(&["conflicts", "show", lost]));
    let early = disputed(&a, "early");
    erase(&a, &early, "early");
    let late = disputed(&a, "late");

    let b = start(&b_data, 2, "127.0.0.1:0");
    for (server, node, other) in [(&a, "2", &b), (&b, "1", &a)] {
        let url = format!("http://{}", other.address);
        let added = server.cli(&["peer", "add", node, &url, "--site", node]);
        assert!(added.status.success(), "{}", stderr(&added));
    }
    let holds = |server: &Server, key: &str, value: &str| {
        server.until(&format!("{key} is {value}"), || {
            let read = server.send("GET", &format!("/v1/records/docs/{key}?read=latest"), b"");
            read.status == 200 && read.json()["of"] == value
        });
    };
    holds(&b, "early", "nobody");
    holds(&b, "late", "nobody");
    assert!(shows(&b, &early).contains("for: asked for"), "{}", shows(&b, &early));
    assert!(shows(&b, &late).contains("Quay Road 7"), "{}", shows(&b, &late));

    // Erased here, it stays at the other site until it is erased there; and comes back from nowhere.
    erase(&a, &late, "late");
    let read = b.send("GET", "/v1/records/docs/late?read=latest", b"");
    let context = read.header("x-context").unwrap();
    put(&b, "/v1/records/docs/late", context, "{\"of\": \"later\"}");
    holds(&a, "late", "later");
    put(&a, "/v1/records/docs/early", "", "{\"of\": \"beside\"}");
    a.until_idle();
    b.until_idle();
    assert!(shows(&a, &late).contains("Its bytes were erased"), "{}", shows(&a, &late));
    assert!(shows(&b, &late).contains("Quay Road 7"), "each site is asked by itself");
    assert_eq!(in_d1(&a_data, SECRET.as_bytes()), Vec::<PathBuf>::new());
    erase(&b, &late, "late");
    assert_eq!(in_d1(&b_data, SECRET.as_bytes()), Vec::<PathBuf>::new());
    for server in [&a, &b] {
        let verified = server.cli(&["audit", "verify"]);
        assert!(verified.status.success(), "{}", stderr(&verified));
    }
    a.stop();
    b.stop();
}
