//! What a dataset does when its stores cannot keep up, end to end: absorbed up to its bounds, or refused
//! before it is acknowledged, as the policy says at that moment.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::json;
use server::{Reply, Server, folder, stderr};
use std::path::Path;

const CONFIG: &str =
    "[[dataset]]\nname = \"files\"\nkind = \"binary\"\nd1 = {}\nkv = {}\nr2 = {}\n";

fn configure(data: &Path, said: &str) {
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(data.join("tidelock.toml"), format!("{CONFIG}{said}\n")).unwrap();
}

fn reload(server: &Server, said: &str) {
    configure(&server.data, said);
    let reloaded = server.cli(&["policy", "reload"]);
    assert!(reloaded.status.success(), "{}", stderr(&reloaded));
}

fn put(server: &Server, key: &str) -> Reply {
    server.send("PUT", &format!("/v1/records/files/{key}"), b"1234")
}

fn refused(reply: &Reply, because: &str) {
    assert_eq!((reply.status, reply.problem().as_str()), (429, "queue-full"), "{reply:?}");
    let problem = reply.json();
    assert_eq!((&problem["outcome"], &problem["retryable"]), (&"refused".into(), &true.into()));
    assert!(problem["detail"].as_str().unwrap().contains(because), "{problem}");
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1, "{reply:?}");
}

#[test]
fn a_queue_that_is_full_refuses_and_a_reload_makes_room() {
    let (_folder, data) = folder();
    configure(&data, "queue = { records = 2 }");
    let server = Server::start(&data);
    assert!(server.cli(&["store", "open", "kv", "--reason", "away"]).status.success());
    assert_eq!((put(&server, "a").status, put(&server, "b").status), (201, 201));
    server.until("KV is owed both", || {
        let status = server.send("GET", "/v1/status", b"").json();
        status["coordinator"]["backlogs"][0]["behind"]["kv"] == 2
    });
    refused(&put(&server, "c"), "2 of its records wait for kv");
    assert_eq!(
        server.send("GET", "/v1/records/files/c", b"").status,
        404,
        "nothing of it is there"
    );
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.contains("tidelock_pending{dataset=\"files\",store=\"kv\"} 2"), "{metrics}");
    reload(&server, "queue = { records = 3 }");
    assert_eq!(put(&server, "c").status, 201);
    let shown = &server.send("GET", "/v1/policies", b"").json()["datasets"][0];
    assert_eq!((&shown["queue"]["records"], &shown["backlog"]), (&3.into(), &"absorb".into()));
    server.stop();
}

#[test]
fn bytes_that_wait_for_d1_are_bounded_and_one_value_always_has_room() {
    let (_folder, data) = folder();
    configure(&data, "queue = { bytes = \"1KB\" }");
    let server = Server::start(&data);
    let path = |key: &str| format!("/v1/records/files/{key}");
    let body = json!({ "state": "open", "reason": "away" }).to_string();
    assert_eq!(server.send("POST", "/v1/stores/d1/breaker", body.as_bytes()).status, 200);
    assert_eq!(server.send("PUT", &path("a"), &[7; 4_000]).status, 202, "larger than the bound");
    refused(&server.send("PUT", &path("b"), b"x"), "4000 bytes of its values wait for d1");
    server.stop();
}

#[test]
fn a_promise_is_not_made_while_a_store_does_not_answer() {
    let (_folder, data) = folder();
    configure(&data, "backlog = \"promise\"");
    let server = Server::start(&data);
    assert_eq!(put(&server, "a").status, 201);
    assert!(server.cli(&["store", "open", "r2", "--reason", "away"]).status.success());
    refused(&put(&server, "b"), "r2 does not answer");
    reload(&server, "backlog = \"absorb\"");
    assert_eq!(put(&server, "b").status, 201);
    reload(&server, "backlog = \"promise\"");
    assert!(server.cli(&["store", "auto", "r2", "--reason", "back"]).status.success());
    server.until("it promises again", || put(&server, "c").status == 201);
    server.stop();
}
