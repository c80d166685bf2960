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
use server::{Reply, Server, cli_with, folder, stderr, stdout};

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
    assert!(list.contains("merged with others as"), "{list}");
    let id = server.send("GET", "/v1/conflicts", b"").json()["conflicts"][0]["id"].clone();
    let shown = stdout(&server.cli(&["conflicts", "show", id.as_str().unwrap()]));
    for said in ["by merge_three_way", "--- from\n+++ one", "--- from\n+++ now", "\"left\":10"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    // Each value as it was written can still be read, and what they make is no context for less.
    let listed = server.send("GET", "/v1/conflicts", b"").json();
    let conflicts = listed["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 2);
    assert!(conflicts.iter().all(|conflict| conflict["strategy"] == "merge_three_way"));
    let lefts = conflicts.iter().map(|conflict| {
        let id = conflict["id"].as_str().unwrap();
        server.send("GET", &format!("/v1/conflicts/{id}/lost"), b"").json()["left"].as_i64()
    });
    let mut lefts: Vec<Option<i64>> = lefts.collect();
    lefts.sort_unstable();
    assert_eq!(lefts, [Some(6), Some(13)]);
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
    for n in 0..64 {
        put(&server, "many", "", &json!(n));
    }
    let more = server.send_with("PUT", &path("many"), &[("x-context", "")], b"64");
    assert_eq!((more.status, more.problem()), (409, "siblings".to_owned()));
    let patch = [("content-type", "application/merge-patch+json")];
    let patched = server.send_with("PATCH", &path("many"), &patch, b"{}");
    assert_eq!((patched.status, patched.problem()), (409, "siblings".to_owned()));
    let read = get(&server, "many");
    assert_eq!(read.json()["siblings"].as_array().map(Vec::len), Some(64));
    put(&server, "many", &context(&read), &json!("all"));
    assert_eq!(get(&server, "many").status, 200);
    let brief = server.send_with("PUT", &path("a"), &[("x-ttl", "60")], b"1");
    assert_eq!((brief.status, brief.problem()), (422, "cannot-expire".to_owned()));
    assert_eq!(get(&server, "a").status, 404);
}

/// Starts a coordinator with stores of its own at `listen`.
fn start_site(data: &std::path::Path, node: u16, listen: &str) -> Server {
    std::fs::create_dir_all(data).unwrap();
    let file = data.with_extension("toml");
    let config = CONFIG.replace("listen = \"127.0.0.1:0\"\n", "");
    std::fs::write(&file, format!("node = {node}\nsite = {node}\n{config}")).unwrap();
    let secret = data.join("peer-token");
    std::fs::write(&secret, "the-same-secret-at-both\n").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = file.display().to_string();
    Server::run(cli_with(&["serve", "--listen", listen, "--config", &file], data), data)
}

#[test]
fn two_sites_that_were_apart_agree_on_what_both_did() {
    let (_keep, root) = folder();
    let (a_data, b_data) = (root.join("a"), root.join("b"));
    let a = start_site(&a_data, 1, "127.0.0.1:0");
    let b = start_site(&b_data, 2, "127.0.0.1:0");
    for (server, node, other) in [(&a, "2", &b), (&b, "1", &a)] {
        let url = format!("http://{}", other.address);
        let added = server.cli(&["peer", "add", node, &url, "--site", node]);
        assert!(added.status.success(), "{}", stderr(&added));
    }
    put(&a, "stock/a", "", &json!({"left": 10, "tags": ["x"]}));
    let until = |server: &Server, expected: &Value| {
        server.until(&format!("{expected}"), || {
            let copy = server.send("GET", &format!("{}?store=r2", path("stock/a")), b"");
            copy.status == 200 && copy.json() == *expected
        });
    };
    until(&b, &json!({"left": 10, "tags": ["x"]}));
    let (a_address, b_address) = (a.address.to_string(), b.address.to_string());
    let changed = |server: &Server, by: &str, tag: &str| {
        let added = server.cli(&["increment", "docs", "stock/a", "/left", by]);
        assert!(added.status.success(), "{}", stderr(&added));
        let read = get(server, "stock/a");
        let mut value = read.json();
        value["tags"].as_array_mut().unwrap().push(json!(tag));
        put(server, "stock/a", &context(&read), &value);
    };
    a.kill();
    changed(&b, "-3", "y");
    b.kill();
    let a = start_site(&a_data, 1, &a_address);
    changed(&a, "5", "z");
    let b = start_site(&b_data, 2, &b_address);
    for server in [&a, &b] {
        server.until("the same at both", || {
            let copy = server.send("GET", &format!("{}?store=kv", path("stock/a")), b"");
            let value = copy.json();
            let tags = value["tags"].as_array().map(Vec::len);
            copy.status == 200 && value["left"] == json!(12) && tags == Some(3)
        });
    }
    let listed = a.send("GET", "/v1/conflicts", b"").json();
    let strategies = listed["conflicts"].as_array().unwrap().iter().map(|c| c["strategy"].clone());
    let strategies: Vec<Value> = strategies.collect();
    assert!(!strategies.is_empty(), "what was merged at the other site is known here");
    assert!(strategies.iter().all(|strategy| strategy == "merge_three_way"), "{strategies:?}");
    let id = listed["conflicts"][0]["id"].as_str().unwrap().to_owned();
    for server in [&a, &b] {
        let shown = stdout(&server.cli(&["conflicts", "show", &id]));
        assert!(shown.contains("--- from\n+++ one"), "{shown}");
    }
}
