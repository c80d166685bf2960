//! `tidelock verify` and `tidelock sync`: what was done to KV and R2 behind the server's back is
//! found and mended, and nothing that somebody else wrote there is lost.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use rusqlite::{Connection, params};
use server::{Server, cli_with, folder, stdout};
use std::fs;
use std::path::Path;

/// Nobody looks over the stores but when asked.
const CONFIG: &str = r#"
[[dataset]]
name = "notes"
kind = "text"
d1 = {}
kv = {}
r2 = {}
reconcile = { every = "never" }
"#;

fn start(folder: &Path, data: &Path) -> Server {
    start_with(folder, data, "")
}

fn start_with(folder: &Path, data: &Path, more: &str) -> Server {
    let file = folder.join("never.toml");
    fs::write(&file, format!("{CONFIG}{more}")).unwrap();
    let file = file.display().to_string();
    Server::run(cli_with(&["serve", "--listen", "127.0.0.1:0", "--config", &file], data), data)
}

fn store(data: &Path, name: &str) -> Connection {
    Connection::open(data.join("stores").join(format!("{name}.sqlite"))).unwrap()
}

fn put(server: &Server, key: &str, value: &str) {
    let reply = server.send("PUT", &format!("/v1/records/notes/{key}"), value.as_bytes());
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
}

fn verify(server: &Server) -> (i32, String) {
    let output = server.cli(&["verify"]);
    (output.status.code().unwrap(), stdout(&output))
}

#[test]
fn what_is_lost_or_written_past_us_is_found_and_mended() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    for key in ["a", "b", "c"] {
        put(&server, key, &format!("{key} as written"));
    }
    server.until_idle();
    let (code, said) = verify(&server);
    assert_eq!((code, said.matches("equal").count()), (0, 2), "{said}");

    store(&data, "kv").execute("DELETE FROM kv WHERE key = 'notes/a'", []).unwrap();
    let foreign = "b by somebody else";
    store(&data, "r2")
        .execute(
            "UPDATE objects SET body = ?1, metadata = NULL WHERE key = 'notes/b'",
            params![foreign.as_bytes()],
        )
        .unwrap();
    let (code, said) = verify(&server);
    assert_eq!(code, 1, "{said}");
    for line in ["notes in KV: 3 compared, 1 differ", "  a", "notes in R2: 3 compared, 1 differ"] {
        assert!(said.contains(line), "{line}: {said}");
    }

    let output = server.cli(&["sync"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    server.until_idle();
    let (code, said) = verify(&server);
    assert_eq!(code, 0, "{said}");
    for store in ["d1", "kv", "r2"] {
        let b = server.send("GET", &format!("/v1/records/notes/b?store={store}"), b"");
        assert_eq!(b.text(), foreign, "in {store}");
        let a = server.send("GET", &format!("/v1/records/notes/a?store={store}"), b"");
        assert_eq!(a.text(), "a as written", "in {store}");
    }
    let losers: Vec<u8> = store(&data, "d1")
        .query_row("SELECT value FROM tidelock_losers WHERE key = 'b'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(losers, b"b as written", "what stood there is kept");
    assert_eq!(server.stop().code(), Some(0));
}

/// What somebody writes to another store than the preferred one stands against what D1 holds; where D1
/// never had a value, there is nothing to stand against.
#[test]
fn where_d1_is_preferred_a_key_that_is_new_is_taken_in_and_one_that_is_known_is_kept_beside() {
    let (folder, data) = folder();
    let prefers = "conflict = { default = { prefer_store = \"d1\" } }\n";
    let server = start_with(folder.path(), &data, prefers);
    put(&server, "known", "as written");
    server.until_idle();
    let r2 = store(&data, "r2");
    let new = "INSERT INTO objects(key, metadata, etag, body) VALUES ('notes/new', NULL, 'x', ?1)";
    r2.execute(new, [b"new, by somebody else"]).unwrap();
    let over = "UPDATE objects SET body = ?1, metadata = NULL WHERE key = 'notes/known'";
    r2.execute(over, [b"over it, by somebody else"]).unwrap();
    let output = server.cli(&["sync"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    server.until_idle();
    assert_eq!(verify(&server).0, 0);
    for store in ["d1", "kv", "r2"] {
        for (key, value) in [("new", "new, by somebody else"), ("known", "as written")] {
            let copy = server.send("GET", &format!("/v1/records/notes/{key}?store={store}"), b"");
            assert_eq!(copy.text(), value, "{key} in {store}");
        }
    }
    let kept: Vec<u8> = store(&data, "d1")
        .query_row("SELECT value FROM tidelock_losers WHERE key = 'known'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, b"over it, by somebody else");
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_plan_that_looks_wrong_is_held_until_it_is_approved() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    for number in 0..30 {
        put(&server, &format!("k{number}"), "text");
    }
    server.until_idle();
    store(&data, "kv").execute("DELETE FROM kv", []).unwrap();
    let output = server.cli(&["sync"]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("held: empty listing"), "{said}");
    let count = || -> i64 {
        store(&data, "kv").query_row("SELECT count(*) FROM kv", [], |row| row.get(0)).unwrap()
    };
    server.until_idle();
    assert_eq!(count(), 0, "nothing was put");
    let output = server.cli(&["sync", "--dataset", "notes", "--store", "kv", "--approve"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    server.until_idle();
    assert_eq!(count(), 30);

    // R2 is set back to before every record was deleted.
    let before = folder.path().join("r2-before.sqlite");
    store(&data, "r2").execute("VACUUM INTO ?1", [before.display().to_string()]).unwrap();
    for number in 0..30 {
        let reply = server.send("DELETE", &format!("/v1/records/notes/k{number}"), b"");
        assert_eq!(reply.status, 204, "{reply:?}");
    }
    server.until_idle();
    let r2 = store(&data, "r2");
    r2.execute("ATTACH ?1 AS before", [before.display().to_string()]).unwrap();
    r2.execute("INSERT OR REPLACE INTO objects SELECT * FROM before.objects", []).unwrap();
    let output = server.cli(&["sync", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stdout(&output).contains("mass-delete"), "{}", stdout(&output));
    let output = server.cli(&["sync", "--approve"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    server.until_idle();
    assert_eq!(verify(&server).0, 0);
    let left: i64 = store(&data, "r2")
        .query_row("SELECT count(*) FROM objects WHERE key LIKE 'notes/%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn bytes_that_the_dataset_cannot_hold_are_left_where_they_are() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    put(&server, "a", "a as written");
    server.until_idle();
    let (no_text, kv) = ([0xff, 0xfe], store(&data, "kv"));
    kv.execute(
        "UPDATE kv SET value = ?1, metadata = NULL WHERE key = 'notes/a'",
        params![&no_text[..]],
    )
    .unwrap();
    server.cli(&["sync"]);
    server.until_idle();
    let value: Vec<u8> =
        kv.query_row("SELECT value FROM kv WHERE key = 'notes/a'", [], |row| row.get(0)).unwrap();
    assert_eq!(value, no_text, "nobody has put over it");
    assert!(server.log().contains("cannot hold"), "{}", server.log());
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.contains("tidelock_foreign_refused_total 1"), "{metrics}");
    assert_eq!(server.send("GET", "/v1/records/notes/a", b"").text(), "a as written");
}

/// Somebody changed a value and left what stands beside it: the listing looks as it did.
#[test]
fn a_value_changed_under_its_metadata_is_not_served_and_becomes_a_version_of_its_own() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    put(&server, "a", "a as written");
    server.until_idle();
    store(&data, "kv")
        .execute("UPDATE kv SET value = 'a as changed' WHERE key = 'notes/a'", [])
        .unwrap();
    for read in ["", "?read=any", "?read=session"] {
        let got = server.send("GET", &format!("/v1/records/notes/a{read}"), b"");
        assert_eq!(got.text(), "a as written", "{read}");
    }
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.contains("tidelock_copies_damaged_total 3"), "{metrics}");
    let output = server.cli(&["sync"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let a = server.send("GET", &format!("/v1/records/notes/a?store={store}"), b"");
        assert_eq!(a.text(), "a as changed", "in {store}");
    }
    let lost: Vec<u8> = store(&data, "d1")
        .query_row("SELECT value FROM tidelock_losers WHERE key = 'a'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(lost, b"a as written", "what stood there is kept");
}

#[test]
fn wrong_requests_are_refused() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    for (body, said) in [
        (r#"{"dataset":"nope"}"#, "nope"),
        (r#"{"store":"s3"}"#, "s3"),
        (r#"{"dry_run":true,"approve":true}"#, "dry_run"),
        (r#"{"speed":9}"#, "speed"),
        ("[", "request"),
    ] {
        let reply = server.send("POST", "/v1/syncs", body.as_bytes());
        assert!(matches!(reply.status, 400 | 404), "{body}: {reply:?}");
        assert!(reply.text().contains(said), "{body}: {}", reply.text());
    }
}
