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
use server::{Reply, Server, folder, introduce, stderr, stdout};

const DATASETS: &str = r#"
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

/// What is open in it stays so.
const DRAFTS: &str = r#"
[[dataset]]
name = "drafts"
kind = "text"
d1 = {}
conflict = { default = "keep_siblings" }
"#;

fn started() -> (tempfile::TempDir, std::path::PathBuf, Server) {
    let (folder, data) = folder();
    std::fs::create_dir_all(&data).unwrap();
    let config = format!("listen = \"127.0.0.1:0\"\n{DATASETS}");
    std::fs::write(data.join("tidelock.toml"), config).unwrap();
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

/// The page of open conflicts behind a place.
fn open(server: &Server, query: &str) -> Value {
    let answer = server.send("GET", &format!("/v1/conflicts?open=true{query}"), b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn keys(page: &Value) -> Vec<&str> {
    page["open"].as_array().unwrap().iter().map(|open| open["key"].as_str().unwrap()).collect()
}

fn dot(answer: &Reply) -> String {
    answer.header("x-operation").expect("a write has one").to_owned()
}

/// The log's entries of this kind.
fn logged(server: &Server, kind: &str) -> Vec<Value> {
    let export = stdout(&server.cli(&["audit", "export", "-o", "-"]));
    let entries = export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.map(|entry| entry["event"].clone()).filter(|event| event["kind"] == kind).collect()
}

#[test]
fn what_stands_open_is_listed_page_by_page_and_until_it_is_resolved() {
    let (_folder, data) = folder();
    std::fs::create_dir_all(&data).unwrap();
    let datasets = format!("{DATASETS}{DRAFTS}");
    let config = format!("listen = \"127.0.0.1:0\"\n{datasets}");
    std::fs::write(data.join("tidelock.toml"), config).unwrap();
    let server = Server::start(&data);
    assert!(stdout(&server.cli(&["conflicts", "list", "--open"])).contains("No record"));
    for key in ["a", "b", "c", "settled"] {
        put(&server, key, "", &json!("one"));
    }
    let second = ["c", "a", "b"].map(|key| dot(&put(&server, key, "", &json!("second"))));
    // Deletes that win are open too: what is shown is none of the values.
    let read = context(&put(&server, "carts/a", "", &json!(1)));
    server.send_with("DELETE", &path("carts/a"), &[("x-context", &read)], b"");
    put(&server, "carts/a", &read, &json!(2));
    // Of two datasets: one alone is asked for, or one after the other.
    for value in ["one", "second"] {
        let (path, beside) = ("/v1/records/drafts/b", [("x-context", "")]);
        let put = server.send_with("PUT", path, &beside, value.as_bytes());
        assert!(matches!(put.status, 200 | 201), "{put:?}");
    }
    server.until_idle();
    assert_eq!(keys(&open(&server, "&dataset=docs")), ["a", "b", "c", "carts/a"]);
    assert_eq!(keys(&open(&server, "&dataset=drafts")), ["b"]);
    let unknown = server.send("GET", "/v1/conflicts?open=true&dataset=nowhere", b"");
    assert_eq!((unknown.status, unknown.problem()), (404, "unknown-dataset".to_owned()));
    let cli = stdout(&server.cli(&["conflicts", "list", "--open", "--dataset", "drafts"]));
    assert!(cli.contains("drafts/b: 2 values") && !cli.contains("docs/"), "{cli}");
    let page = open(&server, "&dataset=docs&limit=2");
    assert_eq!(keys(&page), ["a", "b"]);
    let next = page["next"].as_str().unwrap();
    let rest = open(&server, &format!("&limit=4&after={next}"));
    assert_eq!((keys(&rest), &rest["next"]), (vec!["c", "carts/a", "b"], &Value::Null));
    let page = open(&server, &format!("&limit=2&after={next}"));
    let last = open(&server, &format!("&limit=9&after={}", page["next"].as_str().unwrap()));
    assert_eq!((keys(&page), keys(&last)), (vec!["c", "carts/a"], vec!["b"]));
    // Behind the last record of the last dataset there is none of those before it.
    let end = open(&server, "&dataset=drafts&limit=1");
    let end = open(&server, &format!("&after={}", end["next"].as_str().unwrap()));
    assert_eq!(keys(&end), Vec::<&str>::new());
    assert_eq!(rest["open"][1]["strategy"], "delete_wins");
    server.kill();
    // The ledger is filled anew from D1.
    let server = Server::start(&data);
    let list = stdout(&server.cli(&["conflicts", "list", "--open"]));
    assert!(list.contains("docs/a: 2 values, keep_siblings\n"), "{list}");
    assert!(list.contains(&format!("  {}  8 bytes\n", second[1])), "{list}");

    let all = open(&server, "");
    let context = |at: usize| all["open"][at]["context"].as_str().unwrap();
    let taken = server.cli(&[
        "conflicts",
        "resolve",
        "docs",
        "a",
        "--take",
        &second[1],
        "--context",
        context(0),
        "--reason",
        "the newer one",
    ]);
    assert!(taken.status.success(), "{}", stderr(&taken));
    let value = data.with_extension("value");
    std::fs::write(&value, "\"both\"").unwrap();
    let file = value.display().to_string();
    let resolve = ["conflicts", "resolve", "docs", "b", "--value-file", &file, "--context"];
    let other = server.cli(&[&resolve[..], &[context(1)]].concat());
    assert!(other.status.success(), "{}", stderr(&other));
    for (key, at) in [("c", 2), ("carts/a", 3)] {
        let gone = server.cli(&[
            "conflicts",
            "resolve",
            "docs",
            key,
            "--delete",
            "--context",
            context(at),
        ]);
        assert!(gone.status.success(), "{}", stderr(&gone));
    }
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let copy = |key: &str| server.send("GET", &format!("{}?store={store}", path(key)), b"");
        assert_eq!((copy("a").text(), copy("b").text()), ("\"second\"".into(), "\"both\"".into()));
        assert_eq!((copy("c").status, copy("carts/a").status), (404, 404), "{store}");
    }
    assert_eq!(keys(&open(&server, "")), ["b"], "nobody has decided about the draft");

    let resolved = logged(&server, "resolved");
    assert_eq!(resolved.len(), 4);
    assert_eq!(
        (&resolved[0]["record"]["key"], &resolved[0]["reason"]),
        (&json!("a"), &json!("the newer one"))
    );
    let superseded = resolved[0]["superseded"].as_array().unwrap();
    assert_eq!(superseded.len(), 2);
    assert_eq!(superseded[1]["dot"], second[1].as_str());
    assert_eq!(resolved[0]["wrote"]["hash"], superseded[1]["hash"], "it was taken");
    assert_eq!(resolved[3]["wrote"]["deleted"], true);
    assert!(stdout(&server.cli(&["audit", "list", "--kind", "resolved"])).contains(&second[1]));
}

#[test]
fn a_conflict_that_has_moved_on_is_not_resolved_and_what_it_is_now_is_given() {
    let (_folder, _data, server) = started();
    let first = put(&server, "a", "", &json!("one"));
    put(&server, "a", "", &json!("two"));
    let seen = context(&get(&server, "a"));
    let resolve = |context: &str, body: Value| {
        let body = body.to_string();
        let context = [("x-context", context)];
        server.send_with("POST", "/v1/conflicts:resolve", &context, body.as_bytes())
    };
    let take = json!({"dataset": "docs", "key": "a", "take": dot(&first)});
    let third = put(&server, "a", "", &json!("three"));
    let moved = resolve(&seen, take.clone());
    assert_eq!((moved.status, moved.problem()), (412, "condition-failed".to_owned()));
    let now = moved.json()["now"].clone();
    let dots: Vec<&Value> =
        now["siblings"].as_array().unwrap().iter().map(|s| &s["operation"]).collect();
    assert_eq!((dots.len(), dots[2]), (3, &json!(dot(&third))));
    assert_eq!(
        get(&server, "a").json()["siblings"].as_array().map(Vec::len),
        Some(3),
        "left alone"
    );

    let now = now["context"].as_str().unwrap();
    for (body, status, kind) in [
        (
            json!({"dataset": "docs", "key": "a", "take": "1.00000000000000ff.9"}),
            404,
            "unknown-conflict",
        ),
        (json!({"dataset": "docs", "key": "a", "take": "1"}), 400, "bad-request"),
        (json!({"dataset": "docs", "key": "a"}), 400, "bad-request"),
        (json!({"dataset": "docs", "key": "a", "delete": true, "text": "1"}), 400, "bad-request"),
        (json!({"dataset": "docs", "key": "a", "text": "no JSON"}), 422, "wrong-kind"),
        (json!({"dataset": "none", "key": "a", "delete": true}), 404, "unknown-dataset"),
    ] {
        let answer = resolve(now, body.clone());
        assert_eq!((answer.status, answer.problem()), (status, kind.to_owned()), "{body}");
    }
    let blind = server.send("POST", "/v1/conflicts:resolve", take.to_string().as_bytes());
    assert_eq!((blind.status, blind.problem()), (400, "bad-request".to_owned()));

    // One of two who decide at once is told what the other made of it.
    assert_eq!(resolve(now, take.clone()).status, 200);
    let late = resolve(now, json!({"dataset": "docs", "key": "a", "text": "\"mine\""}));
    assert_eq!(late.json()["now"]["siblings"].as_array().map(Vec::len), Some(1), "{late:?}");
    assert_eq!(get(&server, "a").json(), json!("one"));
    let alone = context(&get(&server, "a"));
    let settled = resolve(&alone, json!({"dataset": "docs", "key": "a", "delete": true}));
    assert_eq!((settled.status, settled.problem()), (409, "not-apart".to_owned()));
    assert_eq!(logged(&server, "resolved").len(), 1, "what was refused is not logged as done");
    for query in ["?open=true&before=1-x", "?after=eA", "?open=true&after=!", "?open=true&limit=0"]
    {
        let answer = server.send("GET", &format!("/v1/conflicts{query}"), b"");
        assert_eq!((answer.status, answer.problem()), (400, "bad-request".to_owned()), "{query}");
    }
}

#[test]
fn two_sites_that_were_apart_agree_on_what_both_did() {
    let (_keep, root) = folder();
    let (a_data, b_data) = (root.join("a"), root.join("b"));
    let a = Server::start_site(&a_data, 1, "127.0.0.1:0", DATASETS);
    let b = Server::start_site(&b_data, 2, "127.0.0.1:0", DATASETS);
    introduce(&a, &b);
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
    let a = Server::start_site(&a_data, 1, &a_address, DATASETS);
    changed(&a, "5", "z");
    let b = Server::start_site(&b_data, 2, &b_address, DATASETS);
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
