//! Dead letters, end to end: what a store refuses for good blocks nobody, is lost nowhere, and an
//! operator can see it, try it again, or give it up.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use rusqlite::Connection;
use serde_json::Value;
use server::{Server, folder, stderr, stdout};
use std::path::Path;

/// Makes a store refuse every value that begins with `poison`.
fn refuse(data: &Path, store: &str, table: &str) {
    let connection = open(data, store);
    let column = if table == "objects" { "body" } else { "value" };
    for what in ["INSERT", "UPDATE"] {
        let sql = format!(
            "CREATE TRIGGER no_poison_{what} BEFORE {what} ON {table}
             WHEN CAST(NEW.{column} AS TEXT) LIKE 'poison%'
             BEGIN SELECT RAISE(ABORT, 'this table takes no poison'); END"
        );
        connection.execute_batch(&sql).unwrap();
    }
}

fn relent(data: &Path, store: &str) {
    let sql = "DROP TRIGGER no_poison_INSERT; DROP TRIGGER no_poison_UPDATE";
    open(data, store).execute_batch(sql).unwrap();
}

fn open(data: &Path, store: &str) -> Connection {
    Connection::open(data.join("stores").join(format!("{store}.sqlite"))).unwrap()
}

/// Waits until so many letters are dead; gives them.
fn letters(server: &Server, count: usize) -> Vec<Value> {
    let list = || server.send("GET", "/v1/dead-letters", b"").json();
    server.until("the dead letters", || {
        list()["dead_letters"].as_array().is_some_and(|letters| letters.len() == count)
    });
    list()["dead_letters"].as_array().unwrap().clone()
}

fn operation(server: &Server, id: &str) -> Value {
    server.send("GET", &format!("/v1/operations/{id}"), b"").json()
}

#[test]
fn what_d1_refuses_is_acknowledged_as_pending_and_blocks_nobody() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    refuse(&data, "d1", "tidelock_records");
    let put = server.send("PUT", "/v1/records/files/a", b"poison 1");
    assert_eq!(put.status, 202, "{put:?}");
    let id = put.header("x-operation").unwrap().to_owned();
    let letter = letters(&server, 1).remove(0);
    assert_eq!((&letter["key"], &letter["store"]), (&"a".into(), &"d1".into()));
    assert_eq!(letter["operation"], id.as_str());
    assert!(letter["reason"].as_str().unwrap().contains("takes no poison"), "{letter}");
    let dead = operation(&server, &id);
    assert_eq!((&dead["state"], &dead["letter"]), (&"dead".into(), &letter["id"]));

    let other = server.send("PUT", "/v1/records/files/b", b"wholesome");
    assert_eq!(other.status, 201, "{other:?}");
    let listed = server.cli(&["dlq", "list"]);
    assert!(stdout(&listed).contains("files/a in d1"), "{}", stdout(&listed));

    let over = server.send("PUT", "/v1/records/files/a", b"wholesome");
    assert!(over.status == 200 || over.status == 201, "{over:?}");
    letters(&server, 0);
    let path = format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap());
    let ended = server.send("GET", &path, b"").json();
    assert_eq!(ended["outcome"], "superseded", "{ended}");
    assert_eq!(ended["by"], over.header("x-operation").unwrap());
    assert_eq!(operation(&server, &id)["state"], "applied");
    server.stop();
}

#[test]
fn a_dead_letter_survives_a_crash_and_a_retry_delivers_it() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    refuse(&data, "d1", "tidelock_records");
    server.send("PUT", "/v1/records/files/a", b"poison 1");
    let id = letters(&server, 1)[0]["id"].as_str().unwrap().to_owned();
    server.kill();
    let server = Server::start(&data);
    assert_eq!(letters(&server, 1)[0]["id"], id.as_str(), "found again in the journal");
    let shown = server.cli(&["dlq", "show", &id]);
    let tries = stdout(&shown).matches("takes no poison").count();
    assert!(tries >= 3, "with its history: {}", stdout(&shown));

    relent(&data, "d1");
    let retried = server.cli(&["dlq", "retry", &id]);
    assert!(retried.status.success(), "{}", stderr(&retried));
    letters(&server, 0);
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let copy = server.send("GET", &format!("/v1/records/files/a?store={store}"), b"");
        assert_eq!((copy.status, copy.body.as_slice()), (200, &b"poison 1"[..]), "{store}");
    }
    server.stop();
}

#[test]
fn an_acknowledged_write_is_discarded_with_a_reason_and_for_good() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    refuse(&data, "d1", "tidelock_records");
    let put = server.send("PUT", "/v1/records/files/a", b"poison 1");
    let operation_id = put.header("x-operation").unwrap().to_owned();
    let id = letters(&server, 1)[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/dead-letters/{id}");
    let unexplained = server.send("DELETE", &path, b"");
    assert_eq!((unexplained.status, unexplained.problem()), (400, "bad-request".to_owned()));
    let discarded = server.cli(&["dlq", "discard", &id, "--reason", "no use for it & gone"]);
    assert!(discarded.status.success(), "{}", stderr(&discarded));
    let state = operation(&server, &operation_id);
    assert_eq!(
        (&state["state"], &state["reason"]),
        (&"discarded".into(), &"no use for it & gone".into())
    );
    assert!(server.log().contains("no use for it & gone"), "{}", server.log());
    let again = server.cli(&["dlq", "discard", &id, "--reason", "twice"]);
    assert_eq!(again.status.code(), Some(4), "{}", stderr(&again));
    server.kill();
    let server = Server::start(&data);
    relent(&data, "d1");
    let got = server.send("GET", "/v1/records/files/a?read=latest", b"");
    assert_eq!(got.status, 404, "it does not come back from the journal: {got:?}");
    server.stop();
}

#[test]
fn what_waits_for_the_write_over_it_is_not_tried_again_and_says_so() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    refuse(&data, "d1", "tidelock_records");
    let absent =
        server.send_with("PUT", "/v1/records/files/a", &[("if-none-match", "*")], b"poison 1");
    assert_eq!(absent.status, 504, "{absent:?}");
    let first = letters(&server, 1)[0]["id"].as_str().unwrap().to_owned();
    let over = server.send("PUT", "/v1/records/files/a", b"poison 2");
    let by = over.header("x-operation").unwrap().to_owned();
    let second = letters(&server, 2).into_iter().find(|letter| letter["operation"] == by.as_str());
    let second = second.unwrap()["id"].as_str().unwrap().to_owned();
    let refused = server.cli(&["dlq", "retry", &first]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains(&by), "{}", stderr(&refused));

    relent(&data, "d1");
    let retried = server.cli(&["dlq", "retry", &second]);
    assert!(retried.status.success(), "{}", stderr(&retried));
    letters(&server, 0);
    let ended = server.send("GET", &format!("/v1/dead-letters/{first}"), b"").json();
    assert_eq!((&ended["outcome"], &ended["by"]), (&"superseded".into(), &by.as_str().into()));
    let got = server.send("GET", "/v1/records/files/a?read=latest", b"");
    assert_eq!(got.body, b"poison 2");
    server.stop();
}

/// Where values are merged, what waits is a part of the sum: nothing is decided without it.
#[test]
fn a_patch_goes_beside_a_dead_letter_and_a_condition_waits_for_it() {
    let (_folder, data) = folder();
    let counters = r#"
[[dataset]]
name = "counters"
kind = "json"
d1 = {}
kv = {}
[dataset.conflict]
default = "merge"
[dataset.conflict.fields]
"/n" = "delta_sum"
"#;
    let server = Server::start_site(&data, 0, "127.0.0.1:0", counters);
    let path = "/v1/records/counters/a";
    let first = server.send("PUT", path, b"{\"n\":1}");
    let etag = first.header("etag").unwrap().to_owned();
    server.until_idle();
    let d1 = open(&data, "d1");
    let refused = "CREATE TRIGGER no_large_sum BEFORE UPDATE ON tidelock_records
                   WHEN CAST(NEW.value AS TEXT) LIKE '%65%'
                   BEGIN SELECT RAISE(ABORT, 'this table takes no 65'); END";
    d1.execute_batch(refused).unwrap();
    assert_eq!(server.send("PUT", path, b"{\"n\":65}").status, 202);
    letters(&server, 1);
    let conditional = server.send_with("PUT", path, &[("if-match", &etag)], b"{\"n\":3}");
    assert_eq!((conditional.status, conditional.problem()), (409, "over-dead-letter".to_owned()));
    let merge = [("content-type", "application/merge-patch+json")];
    let patched = server.send_with("PATCH", path, &merge, b"{\"n\":69}");
    assert!(matches!(patched.status, 200 | 202), "{patched:?}");
    letters(&server, 0);
    let got = server.send("GET", &format!("{path}?read=latest"), b"");
    assert_eq!(got.json()["n"], 69, "what waited and what was patched");
    server.stop();
}

#[test]
fn what_no_store_takes_is_kept_in_its_letter_and_the_newer_write_goes_its_way() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    refuse(&data, "r2", "objects");
    // Too large for D1, so its bytes belong in R2.
    let poison = b"poison ".repeat(400_000);
    assert_eq!(server.send("PUT", "/v1/records/files/a", &poison).status, 202);
    let id = letters(&server, 1)[0]["id"].as_str().unwrap().to_owned();
    // A write that had not seen it: it has to be kept as that one's loser, which takes R2 too.
    let unseen = [("x-context", "")];
    let over = server.send_with("PUT", "/v1/records/files/a", &unseen, b"wholesome");
    assert!(over.status < 300, "{over:?}");
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let copy = server.send("GET", &format!("/v1/records/files/a?store={store}"), b"");
        assert_eq!(copy.body, b"wholesome", "{store}");
    }
    let by = over.header("x-operation").unwrap().to_owned();
    let server = {
        server.until("it has lost", || letters(&server, 1)[0]["lost_to"] == by.as_str());
        server.kill();
        Server::start(&data)
    };
    let letter = letters(&server, 1).remove(0);
    assert_eq!(letter["id"], id.as_str());
    server.until("it has lost", || letters(&server, 1)[0]["lost_to"] == by.as_str());
    let value = server.cli(&["dlq", "show", &id, "--value"]);
    assert_eq!(value.stdout, poison, "its bytes are not lost");
    let path = format!("/v1/dead-letters/{id}");
    let retried = server.send("POST", &format!("{path}:retry"), b"");
    assert_eq!((retried.status, retried.problem()), (409, "still-owed".to_owned()));
    assert_eq!(server.send("DELETE", &format!("{path}?reason=read"), b"").status, 200);
    letters(&server, 0);
    server.kill();
    let server = Server::start(&data);
    server.until_idle();
    letters(&server, 0);
    server.stop();
}

#[test]
fn a_copy_that_kv_refuses_stays_owed_until_kv_takes_it() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    refuse(&data, "kv", "kv");
    let put = server.send("PUT", "/v1/records/files/a", b"poison 1");
    assert_eq!(put.status, 201, "D1 takes it: {put:?}");
    let letter = letters(&server, 1).remove(0);
    assert_eq!(letter["store"], "kv");
    let path = format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap());
    let refused = server.send("DELETE", &format!("{path}?reason=no"), b"");
    assert_eq!((refused.status, refused.problem()), (409, "still-owed".to_owned()));
    let copy = server.send("GET", "/v1/records/files/a?store=r2", b"");
    assert_eq!(copy.body, b"poison 1", "R2 is not held up");
    relent(&data, "kv");
    assert_eq!(server.send("POST", &format!("{path}:retry"), b"").status, 200);
    letters(&server, 0);
    server.until_idle();
    assert_eq!(server.send("GET", "/v1/records/files/a?store=kv", b"").body, b"poison 1");
    server.stop();
}
