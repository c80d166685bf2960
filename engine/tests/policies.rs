//! Concurrent writes as their owner declared, end to end: siblings until somebody decides, merges by
//! field, deletes that win, and all of it over a restart.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::{Value, json};
use server::{Reply, Server, folder, stderr, stdout};

const CONFIG: &str = r#"
listen = "127.0.0.1:0"

[[dataset]]
name = "docs"
kind = "json"
d1 = {}
kv = {}
r2 = {}
[dataset.conflict]
default = "keep_siblings"
[dataset.conflict.prefixes]
"carts/" = "delete_wins"
"stock/" = "merge"
[dataset.conflict.fields]
"/left" = "delta_sum"
"/tags" = "set_union"
"#;

fn started() -> (tempfile::TempDir, std::path::PathBuf, Server) {
    let (folder, data) = folder();
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("tidelock.toml"), CONFIG).unwrap();
    let server = Server::start(&data);
    (folder, data, server)
}

fn path(key: &str) -> String {
    format!("/v1/records/docs/{key}")
}

/// Writes with what was read; empty: nothing was.
fn put(server: &Server, key: &str, context: &str, value: &Value) -> Reply {
    let body = value.to_string();
    let answer = server.send_with("PUT", &path(key), &[("x-context", context)], body.as_bytes());
    assert!(answer.status < 300, "{answer:?}");
    answer
}

fn get(server: &Server, key: &str) -> Reply {
    server.send("GET", &format!("{}?read=latest", path(key)), b"")
}

fn context(answer: &Reply) -> String {
    answer.header("x-context").expect("it was read whole").to_owned()
}

#[test]
fn siblings_stay_until_somebody_has_read_all_of_them() {
    let (_folder, data, server) = started();
    put(&server, "a", "", &json!("one"));
    let second = put(&server, "a", "", &json!("two"));
    assert_eq!(second.header("x-context"), None, "its writer has not read the first");
    let check = |server: &Server| {
        let read = get(server, "a");
        assert_eq!(read.status, 300, "{read:?}");
        let siblings = read.json()["siblings"].as_array().cloned().unwrap();
        let texts: Vec<&Value> = siblings.iter().map(|sibling| &sibling["text"]).collect();
        assert_eq!(texts, [&json!("\"one\""), &json!("\"two\"")]);
        read
    };
    check(&server);
    server.until_idle();
    // A store's copy is one of them, and is no context for a write over both.
    for store in ["d1", "kv", "r2"] {
        let copy = server.send("GET", &format!("{}?store={store}", path("a")), b"");
        assert_eq!((copy.status, &*copy.body), (200, &b"\"two\""[..]), "{store}");
        assert_eq!(copy.header("x-context"), None, "{store}");
    }
    let any = server.send("GET", &format!("{}?read=any", path("a")), b"");
    assert_eq!(any.status, 300, "{any:?}");
    server.kill();

    let server = Server::start(&data);
    let read = check(&server);
    let shown = server.cli(&["get", "docs", "a"]);
    assert!(!shown.status.success() && stdout(&shown).contains("\"one\""), "{shown:?}");
    assert!(stderr(&shown).contains("--context"), "{}", stderr(&shown));
    // What the dataset cannot hold decides nothing.
    let decided = server.cli(&["put", "docs", "a", "-", "--context", &context(&read)]);
    assert!(!decided.status.success(), "no JSON on standard input");
    put(&server, "a", &context(&read), &json!("both"));
    let read = get(&server, "a");
    assert_eq!((read.status, &*read.body), (200, &b"\"both\""[..]));
    let listed = server.send("GET", "/v1/conflicts", b"").json();
    let strategies: Vec<&Value> =
        listed["conflicts"].as_array().unwrap().iter().map(|c| &c["strategy"]).collect();
    assert_eq!(strategies, ["keep_siblings"]);
}

#[test]
fn fields_are_merged_over_what_both_had_read() {
    let (_folder, data, server) = started();
    let first = put(&server, "stock/a", "", &json!({"left": 10, "tags": ["x"], "name": "n"}));
    let read = context(&first);
    put(&server, "stock/a", &read, &json!({"left": 13, "tags": ["x"], "name": "m"}));
    server.kill();
    // What a merge starts from outlives the process that had read it.
    let server = Server::start(&data);
    put(&server, "stock/a", &read, &json!({"left": 6, "tags": ["x", "y"], "name": "n"}));
    let merged = json!({"left": 9, "tags": ["x", "y"], "name": "m"});
    assert_eq!(get(&server, "stock/a").json(), merged);
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let copy = server.send("GET", &format!("{}?store={store}", path("stock/a")), b"");
        assert_eq!(copy.json(), merged, "{store}");
    }
    let list = stdout(&server.cli(&["conflicts", "list"]));
    assert!(list.contains("was merged under"), "{list}");
    let id = server.send("GET", "/v1/conflicts", b"").json()["conflicts"][0]["id"].clone();
    let shown = stdout(&server.cli(&["conflicts", "show", id.as_str().unwrap()]));
    for said in ["by merge_three_way", "--- from\n+++ lost", "--- from\n+++ now", "\"left\":10"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    // Each value as it was written can still be read, and what they make is no context for less.
    let listed = server.send("GET", "/v1/conflicts", b"").json();
    let conflicts = listed["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 2);
    assert!(conflicts.iter().all(|conflict| conflict["strategy"] == "merge_three_way"));
    let lefts = conflicts.iter().map(|conflict| {
        let id = conflict["id"].as_str().unwrap();
        server.send("GET", &format!("/v1/conflicts/{id}/lost"), b"").json()["left"].clone()
    });
    assert_eq!(lefts.collect::<Vec<_>>(), [json!(6), json!(13)]);
}

#[test]
fn a_prefix_has_a_ruling_of_its_own() {
    let (_folder, _data, server) = started();
    let first = put(&server, "carts/a", "", &json!(1));
    let read = context(&first);
    let deleted = server.send_with("DELETE", &path("carts/a"), &[("x-context", &read)], b"");
    assert!(deleted.status < 300, "{deleted:?}");
    put(&server, "carts/a", &read, &json!(2));
    let gone = get(&server, "carts/a");
    assert_eq!(gone.status, 404, "{gone:?}");
    // Over both, the record is there again.
    put(&server, "carts/a", &context(&gone), &json!(3));
    assert_eq!(get(&server, "carts/a").json(), json!(3));
}

#[test]
fn what_several_values_rule_out_is_refused_in_words() {
    let (_folder, _data, server) = started();
    let brief = server.send_with("PUT", &path("a"), &[("x-ttl", "60")], b"1");
    assert_eq!((brief.status, brief.problem()), (422, "cannot-expire".to_owned()));
    assert_eq!(get(&server, "a").status, 404);
}
