//! A store's breaker in an operator's hands, end to end: what is held is sent nothing, writes are
//! taken all the same, and everything arrives once it is released.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::{Value, json};
use server::{Server, folder, stderr, stdout};

fn store(server: &Server, name: &str) -> Value {
    let answer = server.send("GET", "/v1/stores", b"").json();
    let stores = answer["stores"].as_array().unwrap().clone();
    stores.into_iter().find(|store| store["store"] == name).unwrap()
}

fn force(server: &Server, store: &str, body: &Value) -> server::Reply {
    let path = format!("/v1/stores/{store}/breaker");
    server.send("POST", &path, body.to_string().as_bytes())
}

#[test]
fn a_projection_that_is_held_waits_over_a_restart_and_gets_everything_after() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let held = server.cli(&["store", "open", "kv", "--reason", "moving the namespace"]);
    assert!(held.status.success(), "{}", stderr(&held));
    let calls = store(&server, "kv")["health"]["answered"].clone();
    let put = server.send("PUT", "/v1/records/files/a", b"one");
    assert_eq!(put.status, 201, "KV is write-behind: {put:?}");
    let shown = store(&server, "kv");
    assert_eq!((&shown["breaker"], &shown["backlog"]), (&"forced-open".into(), &1.into()));
    assert_eq!(shown["forced"]["reason"], "moving the namespace");
    assert_eq!(shown["health"]["answered"], calls, "nothing was sent");
    assert_eq!(
        server.send("GET", "/v1/records/files/a?store=kv", b"").problem(),
        "store-unavailable"
    );
    assert_eq!(server.send("GET", "/v1/records/files/a", b"").body, b"one", "others answer");
    let verdict = &server.send("GET", "/v1/status", b"").json()["verdict"];
    assert_eq!(verdict["title"], "kv held by an operator", "{verdict}");
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.contains("tidelock_store_breaker{store=\"kv\",state=\"forced-open\"} 1"));

    server.kill();
    let server = Server::start(&data);
    assert_eq!(store(&server, "kv")["forced"]["reason"], "moving the namespace", "kept");
    let listed = server.cli(&["store", "list"]);
    assert!(stdout(&listed).contains("kv  breaker forced-open"), "{}", stdout(&listed));

    let auto = server.cli(&["store", "auto", "kv", "--reason", "moved"]);
    assert!(auto.status.success(), "{}", stderr(&auto));
    server.until("KV has it", || {
        server.send("GET", "/v1/records/files/a?store=kv", b"").body == b"one"
    });
    server.until_idle();
    let shown = store(&server, "kv");
    assert_eq!((&shown["breaker"], &shown["forced"]), (&"closed".into(), &Value::Null));
    assert_eq!(shown["recovery"]["count"], 1, "timed: {shown}");
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.contains("tidelock_recoveries_total{store=\"kv\"} 1"), "{metrics}");
    assert!(metrics.contains("tidelock_recoveries_total{store=\"d1\"} 0"), "{metrics}");
    server.stop();
}

#[test]
fn writes_are_taken_with_202_while_the_authority_is_held() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    server.send("PUT", "/v1/records/files/a", b"one");
    let held = force(&server, "d1", &json!({ "state": "open", "reason": "restoring a backup" }));
    assert_eq!((held.status, &held.json()["breaker"]), (200, &"forced-open".into()));
    assert_eq!(held.json()["kept_over_restarts"], true);
    let put = server.send("PUT", "/v1/records/files/a", b"two");
    assert_eq!((put.status, &put.json()["pending"]), (202, &json!(["d1"])), "{put:?}");
    let conditional =
        server.send_with("PUT", "/v1/records/files/b", &[("If-None-Match", "*")], b"x");
    assert_eq!(conditional.problem(), "store-unavailable", "nobody can decide it");
    assert!(conditional.text().contains("restoring a backup"), "{}", conditional.text());
    let released = force(&server, "d1", &json!({ "state": "auto", "reason": "done" }));
    assert_eq!(released.status, 200, "{released:?}");
    server.until("D1 has it", || {
        server.send("GET", "/v1/records/files/a?store=d1", b"").body == b"two"
    });
    server.stop();
}

#[test]
fn a_breaker_is_set_with_a_reason_by_whoever_has_the_token() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    for body in [
        json!({ "state": "open" }),
        json!({ "state": "open", "reason": " " }),
        json!({ "state": "ajar", "reason": "x" }),
        json!({ "reason": "x" }),
    ] {
        let refused = force(&server, "kv", &body);
        assert_eq!((refused.status, refused.problem().as_str()), (400, "bad-request"), "{body}");
    }
    let body = json!({ "state": "open", "reason": "x" });
    assert_eq!(force(&server, "s3", &body).status, 400);
    let path = "/v1/stores/kv/breaker";
    let stranger = server.plain("POST", path, &[], body.to_string().as_bytes()).unwrap();
    assert_eq!(stranger.problem(), "unauthorized");
    assert_eq!(store(&server, "kv")["breaker"], "closed");
    let closed = server.cli(&["store", "close", "r2", "--reason", "its probes are blocked"]);
    assert!(closed.status.success(), "{}", stderr(&closed));
    assert_eq!(store(&server, "r2")["breaker"], "forced-closed");
    server.stop();
}
