//! Users' own rules, end to end: tried before they are in force, deciding, failing over to their fallback,
//! and held against past conflicts.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::{Value, json};
use server::{BINARY, Server, folder, stderr, stdout};
use std::path::Path;
use std::process::Command;

const DATASET: &str =
    "[[dataset]]\nname = \"offers\"\nkind = \"json\"\nd1 = {}\nkv = {}\nr2 = {}\n";

const RULE: &str = r#"
[[rule]]
name = "boldest"
source = '''
fn resolve(sides, base) {
  let from = if base == () { 0 } else { base.price };
  let bold = ();
  for side in latest_first(sides) {
    if side.deleted { continue; }
    if side.value.price < 0 { throw "nobody pays customers"; }
    if bold == () || (side.value.price - from).abs() > (bold.price - from).abs() {
      bold = side.value;
    }
  }
  bold
}'''
[[rule.example]]
base = '{"price": 9}'
sides = ['{"price": 7}', '{"price": 8}', 'delete']
expect = '{"price":7}'
"#;

const RULED: &str =
    "conflict = { default = { rule = \"boldest\", fallback = \"keep_siblings\" } }\n";

fn config(datasets: &str, conflict: &str, rules: &str) -> String {
    format!("listen = \"127.0.0.1:0\"\n{datasets}{conflict}{rules}")
}

fn write(data: &Path, text: &str) -> std::path::PathBuf {
    std::fs::create_dir_all(data).unwrap();
    let file = data.join("tidelock.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// Two writes over one: their writers had both read the first.
fn dispute(server: &Server, key: &str, base: &Value, one: &Value, other: &Value) {
    let path = format!("/v1/records/offers/{key}");
    let put = |context: &str, value: &Value| {
        let body = value.to_string();
        let answer = server.send_with("PUT", &path, &[("x-context", context)], body.as_bytes());
        assert!(answer.status < 300, "{answer:?}");
        answer
    };
    let read = put("", base).header("x-context").expect("it was read whole").to_owned();
    put(&read, one);
    put(&read, other);
}

fn read(server: &Server, key: &str) -> (u16, Value) {
    let answer = server.send("GET", &format!("/v1/records/offers/{key}?read=latest"), b"");
    (answer.status, answer.json())
}

fn conflicts(server: &Server) -> Vec<Value> {
    server.send("GET", "/v1/conflicts", b"").json()["conflicts"].as_array().cloned().unwrap()
}

#[test]
fn a_rule_decides_and_where_it_fails_its_fallback_does() {
    let (_folder, data) = folder();
    write(&data, &config(DATASET, RULED, RULE));
    let server = Server::start(&data);
    let price = |price: i64| json!({ "price": price });
    dispute(&server, "a", &price(5), &price(3), &price(4));
    assert_eq!(read(&server, "a"), (200, price(3)));
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let copy = server.send("GET", &format!("/v1/records/offers/a?store={store}"), b"");
        assert_eq!(copy.json(), price(3), "{store}");
    }
    let settled = conflicts(&server);
    assert_eq!(settled.len(), 1, "one of two is shown as it was written");
    assert!(settled.iter().all(|conflict| conflict["strategy"] == "rule:boldest"), "{settled:?}");
    // It throws: both stay until somebody who has read them decides.
    dispute(&server, "b", &price(5), &price(-1), &price(4));
    let (status, siblings) = read(&server, "b");
    assert_eq!((status, siblings["siblings"].as_array().map(Vec::len)), (300, Some(2)));
    let fell = conflicts(&server).into_iter().filter(|conflict| conflict["key"] == "b");
    let fell: Vec<Value> = fell.collect();
    let strategies: Vec<&Value> = fell.iter().map(|conflict| &conflict["strategy"]).collect();
    assert_eq!(strategies, ["rule_fell_back:boldest"]);
    let told = |of: &Value| of.as_str().expect("it is noted").to_owned();
    let why = told(&fell[0]["why"]);
    assert!(!why.is_empty());
    let contexts = &fell[0]["contexts"];
    let (before, after) = (told(&contexts["before"]), told(&contexts["after"]));
    assert!(before != after && !before.is_empty(), "one stood there: {contexts}");
    server.kill();
    // What a rule made is what it was after a restart, and so is what it could not make.
    let server = Server::start(&data);
    assert_eq!(read(&server, "a"), (200, price(3)));
    assert_eq!(read(&server, "b").0, 300);
    server.until("both are logged", || {
        let logged = stdout(&server.cli(&["audit", "list"]));
        logged.contains("rule:boldest") && logged.contains("rule_fell_back:boldest")
    });
    let logged = stdout(&server.cli(&["audit", "list", "--json"]));
    let entries = logged.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut of_it = entries.filter(|entry| entry["event"]["why"] == *why);
    let id = told(&of_it.next().expect("it is logged with it")["event"]["id"]);
    let entry = stdout(&server.cli(&["audit", "show", &id]));
    assert!(entry.contains(&why) && entry.contains(&before) && entry.contains(&after), "{entry}");
}

#[test]
fn rules_are_tried_before_they_are_in_force() {
    let (folder, _) = folder();
    let tried = |text: &str| {
        let file = write(folder.path(), text);
        Command::new(BINARY).args(["policy", "test"]).arg(file).output().unwrap()
    };
    let good = tried(&config(DATASET, RULED, RULE));
    assert!(good.status.success(), "{good:?}");
    let said = stdout(&good);
    for words in ["boldest", "1 example is answered", "256 made-up conflicts", "decides in offers"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    let rule = |body: &str| {
        let source = format!("fn resolve(sides, base) {{ {body} }}");
        config(DATASET, RULED, &format!("[[rule]]\nname = \"boldest\"\nsource = '''{source}'''\n"))
    };
    for (body, words) in [
        ("loop {}", "stays within its limits"),
        ("let s = \"x\"; loop { s += s; }", "stays within its limits"),
        ("timestamp()", "timestamp"),
        ("throw \"no\"", "threw"),
        ("|side| side", "JSON does not have"),
        ("sides[0].value", "the names of writers make no difference"),
        ("import \"fs\" as fs; 1", "rules have no `import`"),
    ] {
        let refused = tried(&rule(body));
        assert_eq!(refused.status.code(), Some(2), "{body}: {refused:?}");
        let said = stderr(&refused);
        assert!(said.contains(words) && said.contains("rule.source"), "{body}: {said}");
    }
}

#[test]
fn past_conflicts_are_shown_as_another_configuration_would_settle_them() {
    let (folder, data) = folder();
    write(&data, &config(DATASET, "", ""));
    let server = Server::start(&data);
    let price = |price: i64| json!({ "price": price });
    dispute(&server, "a", &price(5), &price(3), &price(4));
    dispute(&server, "b", &price(5), &price(4), &price(3));
    // Under lww nobody keeps what they were written over: the rule is asked without. What wins last is
    // superseded, and nothing keeps it.
    dispute(&server, "c", &price(5), &price(3), &price(4));
    server.send("PUT", "/v1/records/offers/c", b"{\"price\":1}");
    server.until_idle();
    let before = conflicts(&server);
    assert_eq!(before.len(), 3);
    let other = write(&folder.path().join("other"), &config(DATASET, RULED, RULE));
    let other = other.to_str().unwrap();
    let shown = server.cli(&["policy", "simulate", other, "--since", "1h"]);
    assert!(shown.status.success(), "{shown:?}");
    let said = stdout(&shown);
    for words in [
        "3 conflicts: 1 would show another value, 1 the same one",
        "offers/b",
        "was settled by lww, would be by rule:boldest: {\"price\":4}",
        "1 cannot be told: the bytes of a value are not kept any more",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let json: Value = serde_json::from_str(&stdout(
        &server.cli(&["policy", "simulate", other, "--since", "1h", "--json"]),
    ))
    .unwrap();
    let outcomes: Vec<(&str, &str)> = json["conflicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| (found["key"].as_str().unwrap(), found["again"]["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(outcomes, [("c", "unknown"), ("b", "other"), ("a", "same")]);
    assert_eq!(conflicts(&server), before, "nothing was changed");
    assert_eq!(read(&server, "b"), (200, price(3)));
    let unreadable = server.cli(&["policy", "simulate", other, "--since", "soon"]);
    assert_eq!(unreadable.status.code(), Some(2), "{unreadable:?}");
}
