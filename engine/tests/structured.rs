//! A structured dataset: rows of a table of the user's own, kept in step with KV and R2 whoever
//! writes them, and copies of chosen fields.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use rusqlite::{Connection, params};
use server::{Reply, Server, cli_with, folder, refused_start, stdout};
use std::fs;
use std::path::Path;

const CONFIG: &str = r#"
[[dataset]]
name = "products"
kind = "structured"
d1 = { table = "products", key = "sku" }
kv = { prefix = "products:", keep = ["sku", "price"] }
r2 = {}
reconcile = { every = "never" }
"#;

const TABLE: &str = "CREATE TABLE products(
    sku TEXT PRIMARY KEY, price REAL NOT NULL, stock INTEGER DEFAULT 0, made DATE, photo BLOB,
    CHECK (stock >= 0))";

/// The database as it was before Tidelock came to it.
fn made_before(data: &Path, sql: &str) -> Connection {
    fs::create_dir_all(data.join("stores")).unwrap();
    let database = store(data, "d1");
    database.execute_batch(sql).unwrap();
    database
}

fn store(data: &Path, name: &str) -> Connection {
    let connection = Connection::open(data.join("stores").join(format!("{name}.sqlite"))).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection
}

fn start(folder: &Path, data: &Path) -> Server {
    let file = folder.join("products.toml");
    fs::write(&file, CONFIG).unwrap();
    let file = file.display().to_string();
    Server::run(cli_with(&["serve", "--listen", "127.0.0.1:0", "--config", &file], data), data)
}

fn get(server: &Server, key: &str, query: &str) -> Reply {
    server.send("GET", &format!("/v1/records/products/{key}{query}"), b"")
}

fn put(server: &Server, key: &str, value: &str) -> Reply {
    server.send("PUT", &format!("/v1/records/products/{key}"), value.as_bytes())
}

/// Waits until a store shows this text; `None`: no copy.
fn until(server: &Server, key: &str, store: &str, expected: Option<&str>) {
    server.until(&format!("{key} in {store} is {expected:?}"), || {
        let reply = get(server, key, &format!("?store={store}"));
        match expected {
            Some(text) => reply.status == 200 && reply.text() == text,
            None => reply.status == 404,
        }
    });
}

#[test]
fn rows_are_kept_in_step_whoever_writes_them() {
    let (folder, data) = folder();
    let sql = "INSERT INTO products VALUES ('old', 0.1, 9007199254740993, '2026-01-02', x'00ff')";
    let d1 = made_before(&data, &format!("{TABLE}; {sql}"));
    let server = start(folder.path(), &data);

    // What was there before.
    let old = r#"{"sku":"old","price":0.1,"stock":{"$integer":"9007199254740993"},"made":"2026-01-02","photo":{"$blob":"AP8="}}"#;
    until(&server, "old", "r2", Some(old));
    until(&server, "old", "kv", Some(r#"{"sku":"old","price":0.1}"#));
    assert_eq!(get(&server, "old", "?store=kv").header("x-tidelock-partial"), Some("true"));
    assert_eq!(get(&server, "old", "?store=r2").header("x-tidelock-partial"), None);
    for read in ["", "?read=any", "?read=latest", "?read=session"] {
        assert_eq!(get(&server, "old", read).text(), old, "{read}: never a part of it");
    }

    // Through Tidelock.
    let reply = put(&server, "new", r#"{ "stock": 3, "price": 12 }"#);
    assert_eq!(reply.status, 201, "{reply:?}");
    let (price, made): (f64, Option<String>) = d1
        .query_row("SELECT price, made FROM products WHERE sku = 'new'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((price, made), (12.0, None));
    let new = r#"{"sku":"new","price":12.0,"stock":3,"made":null,"photo":null}"#;
    until(&server, "new", "r2", Some(new));

    // By hand.
    d1.execute("UPDATE products SET price = price + 0.5 WHERE sku = 'new'", []).unwrap();
    until(&server, "new", "kv", Some(r#"{"sku":"new","price":12.5}"#));
    until(&server, "new", "r2", Some(&new.replace("12.0", "12.5")));
    d1.execute("UPDATE products SET sku = 'moved' WHERE sku = 'new'", []).unwrap();
    until(&server, "new", "r2", None);
    until(&server, "moved", "kv", Some(r#"{"sku":"moved","price":12.5}"#));
    d1.execute("DELETE FROM products WHERE sku = 'moved'", []).unwrap();
    until(&server, "moved", "kv", None);
    server.until_idle();

    // In R2, by somebody who writes JSON as he likes.
    let by_hand = br#"{"price": 7, "sku": "old", "stock": 1}"#;
    store(&data, "r2")
        .execute(
            "UPDATE objects SET body = ?1, metadata = NULL WHERE key = 'products/old'",
            params![&by_hand[..]],
        )
        .unwrap();
    assert_eq!(server.cli(&["sync"]).status.code(), Some(0));
    let taken = r#"{"sku":"old","price":7.0,"stock":1,"made":null,"photo":null}"#;
    until(&server, "old", "d1", Some(taken));
    until(&server, "old", "r2", Some(taken));
    let stock: i64 =
        d1.query_row("SELECT stock FROM products WHERE sku = 'old'", [], |r| r.get(0)).unwrap();
    assert_eq!(stock, 1);
    server.until_idle();

    let out = folder.path().join("out");
    let output = server.cli(&["export", "--dataset", "products", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(fs::read_to_string(out.join("old")).unwrap(), taken);
    let output = server.cli(&["verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));

    // After a restart all of it is as it was, and nothing is foreign that was not.
    assert_eq!(server.stop().code(), Some(0));
    let server = start(folder.path(), &data);
    assert_eq!(get(&server, "old", "").text(), taken);
    server.until_idle();
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.contains("tidelock_foreign_writes_total 0"), "{metrics}");
}

#[test]
fn what_is_no_row_is_refused_before_it_is_acknowledged() {
    let (folder, data) = folder();
    let d1 = made_before(&data, TABLE);
    let server = start(folder.path(), &data);
    for (value, said) in [
        ("12", "no JSON object"),
        (r#"{"price":1,"weight":2}"#, "its columns are sku, price, stock, made, photo"),
        (r#"{"stock":1}"#, "takes no NULL"),
        (r#"{"price":"1"}"#, "takes a real"),
        (r#"{"price":1,"sku":"b"}"#, "record's key"),
        (r#"{"price":1,"made":"20260102"}"#, "into a number"),
    ] {
        let reply = put(&server, "a", value);
        assert_eq!(reply.problem(), "wrong-kind", "{value}: {reply:?}");
        assert!(reply.text().contains(said), "{value}: {}", reply.text());
    }
    let count: i64 = d1.query_row("SELECT count(*) FROM products", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0);
    assert_eq!(get(&server, "a", "").status, 404);
}

#[test]
fn a_foreign_row_that_its_columns_do_not_declare_is_left_and_reported() {
    let (folder, data) = folder();
    let d1 = made_before(&data, TABLE);
    let server = start(folder.path(), &data);
    put(&server, "a", r#"{"price":1,"stock":5}"#);
    server.until_idle();
    d1.execute("UPDATE products SET stock = 'many', price = 2", []).unwrap();
    let refused = |count: usize| {
        let metrics = server.send("GET", "/v1/metrics", b"").text();
        metrics.contains(&format!("tidelock_foreign_refused_total {count}\n"))
    };
    server.until("the row is refused", || refused(1));
    assert!(server.log().contains("takes an integer; the value has text"), "{}", server.log());
    let stands: String = d1.query_row("SELECT stock FROM products", [], |row| row.get(0)).unwrap();
    assert_eq!(stands, "many", "it is left where it is");
    until(&server, "a", "kv", Some(r#"{"sku":"a","price":1.0}"#));
    // Mended there, it is taken in.
    d1.execute("UPDATE products SET stock = 6", []).unwrap();
    until(&server, "a", "kv", Some(r#"{"sku":"a","price":2.0}"#));
    assert!(refused(1), "once for each write");
}

#[test]
fn bytes_written_over_chosen_fields_never_become_the_row() {
    let (folder, data) = folder();
    let d1 = made_before(&data, TABLE);
    let server = start(folder.path(), &data);
    put(&server, "a", r#"{"price":1,"stock":5}"#);
    server.until_idle();
    let kv = store(&data, "kv");
    let foreign = br#"{"sku":"a","price":99}"#;
    kv.execute(
        "UPDATE kv SET value = ?1, metadata = NULL WHERE key = 'products:a'",
        params![&foreign[..]],
    )
    .unwrap();
    kv.execute(
        "INSERT INTO kv(key, value, metadata) VALUES ('products:b', ?1, NULL)",
        params![&foreign[..]],
    )
    .unwrap();
    server.cli(&["sync"]);
    until(&server, "a", "kv", Some(r#"{"sku":"a","price":1.0}"#));
    server.until_idle();
    let whole = r#"{"sku":"a","price":1.0,"stock":5,"made":null,"photo":null}"#;
    for store in ["d1", "r2"] {
        assert_eq!(get(&server, "a", &format!("?store={store}")).text(), whole);
    }
    let kept: Vec<u8> = d1
        .query_row("SELECT value FROM tidelock_losers WHERE key = 'a'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, foreign, "nothing is lost");
    // Beside nothing, they are left.
    let left: Vec<u8> = kv
        .query_row("SELECT value FROM kv WHERE key = 'products:b'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, foreign);
    assert_eq!(get(&server, "b", "").status, 404);
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.contains("tidelock_foreign_refused_total 2\n"), "{metrics}");
    // A copy that is lost comes back as it was.
    kv.execute("DELETE FROM kv WHERE key = 'products:a'", []).unwrap();
    server.cli(&["sync"]);
    until(&server, "a", "kv", Some(r#"{"sku":"a","price":1.0}"#));
}

#[test]
fn a_row_that_the_table_refuses_is_a_dead_letter_and_blocks_nobody() {
    let (folder, data) = folder();
    let d1 = made_before(&data, &format!("{TABLE}; CREATE UNIQUE INDEX by_made ON products(made)"));
    let server = start(folder.path(), &data);
    let taken = put(&server, "a", r#"{"price":1,"made":"2026-01-02"}"#);
    assert_eq!(taken.status, 201, "{taken:?}");

    let below = put(&server, "b", r#"{"price":1,"stock":-1}"#);
    let twice = put(&server, "c", r#"{"price":1,"made":"2026-01-02"}"#);
    assert_eq!((below.status, twice.status), (202, 202), "{below:?} {twice:?}");
    let letter_of = |key: &str| {
        let listed = server.send("GET", "/v1/dead-letters", b"").json();
        let letters = listed["dead_letters"].as_array().unwrap();
        letters.iter().find(|letter| letter["key"] == key).cloned()
    };
    server.until("both are dead", || letter_of("b").is_some() && letter_of("c").is_some());
    for (key, said) in [("b", "CHECK constraint failed"), ("c", "UNIQUE constraint failed")] {
        let letter = letter_of(key).unwrap();
        assert_eq!(letter["store"], "d1");
        assert!(letter["reason"].as_str().unwrap().contains(said), "{letter}");
    }
    let other = put(&server, "d", r#"{"price":1}"#);
    assert_eq!(other.status, 201, "{other:?}");
    until(&server, "d", "kv", Some(r#"{"sku":"d","price":1.0}"#));
    for store in ["d1", "kv", "r2"] {
        assert_eq!(get(&server, "b", &format!("?store={store}")).status, 404, "{store}");
    }

    // A row that the table takes is the way out; or the table takes it after all.
    let over = put(&server, "b", r#"{"price":1,"stock":1}"#);
    assert!(over.status == 200 || over.status == 201, "{over:?}");
    server.until("it is superseded", || letter_of("b").is_none());
    d1.execute("UPDATE products SET made = NULL WHERE sku = 'a'", []).unwrap();
    let id = letter_of("c").unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.cli(&["dlq", "retry", &id]).status.code(), Some(0));
    server.until("it is delivered", || letter_of("c").is_none());
    let row = r#"{"sku":"c","price":1.0,"stock":0,"made":"2026-01-02","photo":null}"#;
    for store in ["d1", "r2"] {
        until(&server, "c", store, Some(row));
    }
}

#[test]
fn tables_that_do_not_fit_are_refused_at_the_start() {
    let (folder, data) = folder();
    made_before(&data, &format!("{TABLE}; CREATE TABLE plain(a TEXT, b TEXT)"));
    let file = folder.path().join("bad.toml");
    let refused = |from: &str, to: &str, said: &str| {
        fs::write(&file, CONFIG.replace(from, to)).unwrap();
        let (code, text) = refused_start(&data, &["--config", file.to_str().unwrap()]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("bad.toml") && text.contains(said), "{said}: {text}");
    };
    refused("table = \"products\"", "table = \"prodcts\"", "no table \"prodcts\"");
    refused(
        "table = \"products\", key = \"sku\"",
        "table = \"plain\", key = \"sku\"",
        "its columns are a, b",
    );
    refused("key = \"sku\"", "key = \"stock\"", "the copy would lose the key");
    refused("[\"sku\", \"price\"]", "[\"sku\", \"weight\"]", "no column \"weight\"");
    refused("[\"sku\", \"price\"]", "\"most\"", "a list of fields");
    refused("table = \"products\"", "table = \"tidelock_rows\"", "reserved");
    let plain = CONFIG.replace("[\"sku\", \"price\"]", "\"full\"");
    fs::write(
        &file,
        plain.replace("table = \"products\", key = \"sku\"", "table = \"plain\", key = \"a\""),
    )
    .unwrap();
    let (code, text) = refused_start(&data, &["--config", file.to_str().unwrap()]);
    assert!(code == 2 && text.contains("it has no primary key"), "{text}");
}
