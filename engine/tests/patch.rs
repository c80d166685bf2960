//! Patches, end to end: what they do not name stays as it is to the byte, and increments count once
//! each, whoever sends them at the same time and whatever happens to the server.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use server::{Reply, Server, folder, stderr, stdout};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidelock_engine::patch::{INCREMENT, JSON_PATCH, MERGE_PATCH};

const NOTE: &str = "/v1/records/notes/a";

/// A server with a dataset `notes` of documents.
fn start(data: &Path) -> Server {
    let config = "[[dataset]]\nname = \"notes\"\nkind = \"json\"\nd1 = {}\nkv = { prefix = \"n:\" }\n\
                  r2 = { prefix = \"n/\" }\n\n[[dataset]]\nname = \"files\"\nkind = \"binary\"\nd1 = {}\n\
                  kv = { prefix = \"f:\" }\n";
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(data.join("tidelock.toml"), config).unwrap();
    Server::start(data)
}

fn patch(server: &Server, media_type: &str, body: &str) -> Reply {
    server.send_with("PATCH", NOTE, &[("content-type", media_type)], body.as_bytes())
}

fn document(server: &Server) -> String {
    server.send("GET", &format!("{NOTE}?read=latest"), b"").text()
}

#[test]
fn what_a_patch_does_not_name_stays_as_it_is_to_the_byte() {
    let (_folder, data) = folder();
    let server = start(&data);
    let document_put = br#"{ "price": 1.10, "id": 18446744073709551615, "tags": ["a"], "old": 1 }"#;
    server.send("PUT", NOTE, document_put);
    let merged = patch(&server, MERGE_PATCH, r#"{"old": null, "name": "tide"}"#);
    assert_eq!(merged.status, 200, "{merged:?}");
    let listed = patch(&server, JSON_PATCH, r#"[{"op": "add", "path": "/tags/-", "value": "b"}]"#);
    assert_eq!(listed.status, 200, "{listed:?}");
    let stands = document(&server);
    for kept in ["1.10", "18446744073709551615", "\"name\"", "\"b\""] {
        assert!(stands.contains(kept), "{kept} in {stands}");
    }
    assert!(!stands.contains("old"), "{stands}");
    server.until_idle();
    for store in ["kv", "r2"] {
        assert_eq!(server.send("GET", &format!("{NOTE}?store={store}"), b"").text(), stands);
    }
    let added = server.cli(&["increment", "notes", "a", "/count", "-5"]);
    assert!(added.status.success(), "{}", stderr(&added));
    assert!(document(&server).contains("\"count\":-5"), "{}", document(&server));
    let conflicts = stdout(&server.cli(&["conflicts", "list"]));
    assert_eq!(conflicts.trim(), "No conflicts.", "a patch supersedes what it was applied to");
    server.stop();
}

#[test]
fn a_patch_leaves_the_time_at_which_a_value_goes_as_it_is() {
    let (_folder, data) = folder();
    let server = start(&data);
    let until = || {
        let read = server.send("GET", &format!("{NOTE}?read=latest"), b"");
        read.header("x-expires-at-ms").map(str::to_owned)
    };
    server.send_with("PUT", NOTE, &[("x-ttl", "1h")], br#"{"n": 1}"#);
    let before = until();
    assert!(before.is_some());
    assert_eq!(patch(&server, INCREMENT, r#"{"pointer": "/n", "by": 1}"#).status, 200);
    assert_eq!((document(&server).as_str(), until()), (r#"{"n":2}"#, before));
    server.send_with("PUT", NOTE, &[("x-ttl", "never")], br#"{"n": 1}"#);
    assert_eq!(patch(&server, INCREMENT, r#"{"pointer": "/n", "by": 1}"#).status, 200);
    assert_eq!(until(), None);
    server.stop();
}

#[test]
fn what_does_not_apply_is_refused_and_changes_nothing() {
    let (_folder, data) = folder();
    let server = start(&data);
    let put = server.send("PUT", NOTE, br#"{"n": 1, "max": 18446744073709551615}"#);
    let first = put.header("etag").unwrap().to_owned();
    for (media_type, body, status, kind) in [
        ("application/json", "{}", 415, "no-patch"),
        (MERGE_PATCH, "{", 400, "bad-request"),
        (JSON_PATCH, r#"[{"op": "remove", "path": "/none"}]"#, 422, "patch-failed"),
        (
            JSON_PATCH,
            r#"[{"op": "add", "path": "/x", "value": 1}, {"op": "test", "path": "/n", "value": 2}]"#,
            422,
            "patch-failed",
        ),
        (INCREMENT, r#"{"pointer": "/max", "by": 1}"#, 422, "patch-failed"),
        (INCREMENT, r#"{"pointer": "n", "by": 1}"#, 400, "bad-request"),
    ] {
        let answer = patch(&server, media_type, body);
        assert_eq!((answer.status, answer.problem()), (status, kind.to_owned()), "{body}");
        assert_eq!(answer.json()["outcome"], "refused", "{answer:?}");
    }
    assert_eq!(document(&server), r#"{"n": 1, "max": 18446744073709551615}"#);
    let files = server.send_with(
        "PATCH",
        "/v1/records/files/a",
        &[("content-type", INCREMENT)],
        br#"{"pointer": "/n", "by": 1}"#,
    );
    assert_eq!((files.status, files.problem()), (422, "wrong-kind".to_owned()));
    let missing = server.send_with(
        "PATCH",
        "/v1/records/notes/none",
        &[("content-type", MERGE_PATCH)],
        b"{}",
    );
    assert_eq!((missing.status, missing.problem()), (404, "not-found".to_owned()));

    server.send("PUT", NOTE, br#"{"n": 2}"#);
    let headers = [("content-type", INCREMENT), ("if-match", first.as_str())];
    let moved = server.send_with("PATCH", NOTE, &headers, br#"{"pointer": "/n", "by": 1}"#);
    assert_eq!((moved.status, moved.problem()), (412, "condition-failed".to_owned()));
    assert_eq!(document(&server), r#"{"n": 2}"#);
    server.stop();
}

/// Six at once, and the server is killed in the middle: what was acknowledged counts, what was refused
/// does not, and what nobody knows counts once or not at all.
#[test]
fn increments_count_once_each_also_through_a_crash() {
    let (_folder, data) = folder();
    let server = start(&data);
    server.send("PUT", NOTE, br#"{"n": 0}"#);
    let (acknowledged, unknown) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let kill_after = 60;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let body = br#"{"pointer": "/n", "by": 1}"#;
                    let headers = [("content-type", INCREMENT)];
                    match server.try_send("PATCH", NOTE, &headers, body) {
                        Ok(answer) if answer.status < 300 => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) if answer.json()["outcome"] == "refused" => {}
                        Ok(_) | Err(_) => {
                            unknown.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                    }
                }
            });
        }
        while acknowledged.load(Ordering::Relaxed) < kill_after {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        server.signal("-KILL");
        over.store(true, Ordering::Relaxed);
    });
    let (acknowledged, unknown) = (acknowledged.into_inner(), unknown.into_inner());
    let server = Server::start(&data);
    server.until_idle();
    let count: u64 = serde_json::from_str::<serde_json::Value>(&document(&server)).unwrap()["n"]
        .as_u64()
        .unwrap();
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&count),
        "{count} of {acknowledged} acknowledged and {unknown} unknown"
    );
    server.stop();
}

/// A dataset of counters is added to over KV's copy while D1 is held, over what is owed after that, and through
/// a crash. Where the last writer's value stands nothing of
/// the kind is promised, so nothing is taken.
#[test]
fn increments_of_merged_records_are_taken_while_d1_is_away() {
    let (_folder, data) = folder();
    let merged = "\n[dataset.conflict]\ndefault = \"merge\"\nfields = { \"/n\" = \"delta_sum\" }\n";
    let config = format!(
        "[[dataset]]\nname = \"counts\"\nkind = \"json\"\nd1 = {{}}\nkv = {{ prefix = \"c:\" }}\n{merged}\n\
         [[dataset]]\nname = \"notes\"\nkind = \"json\"\nd1 = {{}}\nkv = {{ prefix = \"n:\" }}\n"
    );
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("tidelock.toml"), config).unwrap();
    let server = Server::start(&data);
    let send = |server: &Server, dataset: &str, media_type: &str, body: &str| {
        let path = format!("/v1/records/{dataset}/a");
        server.send_with("PATCH", &path, &[("content-type", media_type)], body.as_bytes())
    };
    let by = |n: i64| format!(r#"{{"pointer": "/n", "by": {n}}}"#);
    for dataset in ["counts", "notes"] {
        let put = server.send("PUT", &format!("/v1/records/{dataset}/a"), br#"{"n": 5, "m": 0}"#);
        assert!(put.status < 300, "{put:?}");
    }
    server.until_idle();
    let hold = |server: &Server, to: &str| {
        let held = server.cli(&["store", to, "d1", "--reason", "moving"]);
        assert!(held.status.success(), "{}", stderr(&held));
    };
    hold(&server, "open");
    for n in [1, 20] {
        let added = send(&server, "counts", INCREMENT, &by(n));
        assert_eq!(added.status, 202, "{added:?}");
        assert_eq!(added.json()["pending"], serde_json::json!(["d1"]), "{added:?}");
    }
    let named = send(&server, "counts", MERGE_PATCH, r#"{"name": "tide"}"#);
    assert_eq!(named.status, 202, "{named:?}");
    for (dataset, media_type, body) in [
        ("notes", INCREMENT, by(1).as_str()),
        ("counts", INCREMENT, r#"{"pointer": "/m", "by": 1}"#),
        ("counts", JSON_PATCH, r#"[{"op": "test", "path": "/n", "value": 26}]"#),
    ] {
        let refused = send(&server, dataset, media_type, body);
        assert_eq!(refused.status, 503, "{dataset} {body}: {refused:?}");
    }
    let read = |server: &Server, level: &str| {
        server.send("GET", &format!("/v1/records/counts/a?read={level}"), b"").json()
    };
    let stands = |n: i64| serde_json::json!({"n": n, "m": 0, "name": "tide"});
    assert_eq!(read(&server, "any"), stands(26));
    server.kill();
    let server = Server::start_unready(&data);
    server.until("its journal is read", || read(&server, "any") == stands(26));
    hold(&server, "auto");
    server.until_idle();
    assert_eq!(read(&server, "latest"), stands(26));
    assert_eq!(send(&server, "counts", INCREMENT, &by(-6)).status, 200);
    assert_eq!(read(&server, "latest"), stands(20));
    server.stop();
}
