//! The REST API as a client sees it, and who may use it.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use server::{Server, folder, stdout};
use std::collections::BTreeSet;

#[test]
fn a_record_is_written_read_listed_and_deleted() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let bytes: Vec<u8> = (0..=255).collect();
    let put = server.send("PUT", "/v1/records/files/a/b%20c%2Fd", &bytes);
    assert_eq!(put.status, 201, "{put:?}");
    let etag = put.header("etag").unwrap().to_owned();
    let got = server.send("GET", "/v1/records/files/a/b%20c%2Fd?read=latest", b"");
    assert_eq!((got.status, got.body.as_slice()), (200, bytes.as_slice()));
    assert_eq!(got.header("etag"), Some(etag.as_str()));
    assert_eq!(got.header("x-context"), put.header("x-context"));
    assert_eq!(got.header("content-security-policy"), Some("default-src 'none'; sandbox"));
    server.until_idle();
    for store in ["d1", "kv", "r2"] {
        let copy = server.send("GET", &format!("/v1/records/files/a/b%20c%2Fd?store={store}"), b"");
        assert_eq!((copy.status, copy.body.as_slice()), (200, bytes.as_slice()), "{store}");
        assert_eq!(copy.header("x-tidelock-from"), Some(store));
        assert_eq!(copy.header("etag"), Some(etag.as_str()));
    }
    let unchanged =
        server.send_with("GET", "/v1/records/files/a/b%20c%2Fd", &[("if-none-match", &etag)], b"");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));

    let listed = server.send("GET", "/v1/records/files", b"").json();
    let record = &listed["records"][0];
    assert_eq!(record["key"], "a/b c/d");
    assert_eq!(record["bytes"], 256);
    assert_eq!(record["hash"], blake3::hash(&bytes).to_hex().as_str());
    assert_eq!(format!("\"{}\"", record["etag"].as_str().unwrap()), etag);

    let gone = server.send("DELETE", "/v1/records/files/a/b%20c%2Fd", b"");
    assert_eq!(gone.status, 204);
    let got = server.send("GET", "/v1/records/files/a/b%20c%2Fd", b"");
    assert_eq!((got.status, got.problem()), (404, "not-found".to_owned()));
    assert_eq!(got.header("x-context"), gone.header("x-context"));
    assert_eq!(server.send("GET", "/v1/records/files", b"").json()["records"], json!([]));
}

#[test]
fn a_write_is_read_back_at_once_whichever_copy_is_nearest() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    // KV takes one write a second for each key, so its copy is behind for most of this.
    for n in 0..20 {
        let text = n.to_string();
        let put = server.send("PUT", "/v1/records/notes/k", text.as_bytes());
        assert_eq!(put.status, if n == 0 { 201 } else { 200 });
        assert_eq!(server.send("GET", "/v1/records/notes/k", b"").text(), text);
    }
    assert_eq!(server.send("DELETE", "/v1/records/notes/k", b"").status, 204);
    assert_eq!(server.send("GET", "/v1/records/notes/k", b"").status, 404);
    assert_eq!(server.send("PUT", "/v1/records/notes/k", b"anew").status, 201);
}

#[test]
fn a_session_carries_what_it_has_seen() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let path = "/v1/records/notes/a";
    let put = server.send("PUT", path, b"one");
    let seen = put.header("x-session").expect("a write gives a session").to_owned();
    let read = "/v1/records/notes/a?read=session";
    let got = server.send_with("GET", read, &[("x-session", &seen)], b"");
    assert_eq!((got.status, got.text().as_str()), (200, "one"));
    let sequence = |session: &str| {
        let (site, sequence) = session.split(',').next().unwrap().split_once(':').unwrap();
        assert_eq!(site, "0", "the place is one in this site's feed");
        sequence.parse::<u64>().unwrap()
    };
    let seen = got.header("x-session").expect("so does a read").to_owned();
    let gone = server.send_with("DELETE", path, &[("x-session", &seen)], b"");
    let later = gone.header("x-session").unwrap().to_owned();
    assert!(sequence(&later) > sequence(&seen), "{seen}, then {later}");
    let got = server.send_with("GET", read, &[("x-session", &later)], b"");
    assert_eq!((got.status, got.problem()), (404, "not-found".to_owned()));
    assert_eq!(got.header("x-session"), Some(later.as_str()), "that it is gone is seen too");

    let elsewhere = format!("0:{},{:016x}:9.{:016x}.5", sequence(&later), 1, 1);
    let got = server.send_with("GET", read, &[("x-session", &elsewhere)], b"");
    assert_eq!(got.status, 404, "a write to another record does not matter here");
    for wrong in ["x", "1", "0:1,2", "0:1,zz:1.1.1"] {
        for (method, path, body) in [("GET", read, &b""[..]), ("PUT", path, b"two")] {
            let refused = server.send_with(method, path, &[("x-session", wrong)], body);
            assert_eq!((refused.status, refused.problem()), (400, "bad-request".to_owned()));
        }
    }
    assert_eq!(server.send("GET", path, b"").status, 404, "nothing was written");
    let refused = server.send("GET", "/v1/records/notes/a?read=nearest", b"");
    assert!(refused.text().contains("session"), "{}", refused.text());
}

/// What a dataset's readers get who do not say; a request may.
#[test]
fn a_dataset_says_how_it_is_read() {
    let (folder, data) = folder();
    let file = folder.path().join("levels.toml");
    let dataset = |name: &str, read: &str| {
        format!(
            "[[dataset]]\nname = {name:?}\nkind = \"text\"\nd1 = {{}}\nkv = {{}}\nread = {read:?}\n"
        )
    };
    let config = dataset("near", "any") + &dataset("own", "session") + &dataset("newest", "latest");
    std::fs::write(&file, config).unwrap();
    let file = file.display().to_string();
    let args = ["serve", "--listen", "127.0.0.1:0", "--config", &file];
    let server = Server::run(server::cli_with(&args, &data), &data);
    for name in ["near", "own", "newest"] {
        assert_eq!(server.send("PUT", &format!("/v1/records/{name}/k"), b"v").status, 201);
    }
    server.until_idle();
    let read = |path: &str| server.send("GET", &format!("/v1/records/{path}"), b"");
    assert_eq!(read("near/k").header("x-tidelock-from"), Some("kv"));
    assert_eq!(read("newest/k").header("x-tidelock-from"), Some("d1"));
    assert_eq!(read("newest/k?read=any").header("x-tidelock-from"), Some("kv"));
    assert_eq!(read("near/k?read=latest").header("x-tidelock-from"), Some("d1"));
    let own = read("own/k");
    assert_eq!((own.status, own.text().as_str()), (200, "v"));
    let token = own.header("x-session").expect("a session goes on from here").to_owned();
    assert_eq!(read("own/k?read=any").header("x-session"), None);
    assert_eq!(read("near/k").header("x-session"), None);
    // A session that has seen more than has come here is told so, as with `read=session`.
    let (actor, k) = ("9.0000000000000001.5", "own/k");
    let hash = blake3::hash(b"own\0k").to_hex();
    let bytes: Vec<u8> =
        (0..8).map(|n| u8::from_str_radix(&hash[2 * n..2 * n + 2], 16).unwrap()).collect();
    let hash = u64::from_le_bytes(bytes.try_into().unwrap());
    let ahead = format!("{token},{hash:016x}:{actor}");
    let path = format!("/v1/records/{k}");
    let refused = server.send_with("GET", &path, &[("x-session", &ahead)], b"");
    assert_eq!(refused.status, 503, "{refused:?}");
    let batch = br#"{"operations":[{"op":"get","dataset":"own","key":"k"}]}"#;
    assert_eq!(server.send("POST", "/v1/records:batch", batch).json()["results"][0]["text"], "v");
    let batch = br#"{"operations":[{"op":"get","dataset":"own","key":"k","read":"session"}]}"#;
    assert_eq!(server.send("POST", "/v1/records:batch", batch).status, 400);
}

#[test]
fn conditions() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let put = |headers: &[(&str, &str)], body: &[u8]| {
        server.send_with("PUT", "/v1/records/notes/k", headers, body)
    };
    assert_eq!(put(&[("if-match", "*")], b"0").problem(), "condition-failed");
    let first = put(&[("if-none-match", "*")], b"1");
    assert_eq!(first.status, 201, "{first:?}");
    let first_etag = first.header("etag").unwrap();
    let again = put(&[("if-none-match", "*")], b"x");
    assert_eq!((again.status, again.problem()), (412, "condition-failed".to_owned()));
    assert_eq!(again.header("etag"), Some(first_etag), "what stands there now");
    assert_eq!(again.json()["outcome"], "refused");

    let second = put(&[("if-match", first_etag)], b"2");
    assert_eq!(second.status, 200);
    assert_eq!(put(&[("if-match", first_etag)], b"x").status, 412);
    let second_etag = second.header("etag").unwrap();
    let listed = format!("{first_etag}, {second_etag}");
    assert_eq!(put(&[("if-match", &listed)], b"3").status, 200);
    assert_eq!(put(&[("if-match", "*")], b"4").status, 200);
    let stale = server.send_with("DELETE", "/v1/records/notes/k", &[("if-match", first_etag)], b"");
    assert_eq!(stale.status, 412);
    assert_eq!(server.send("GET", "/v1/records/notes/k", b"").text(), "4");

    // A context of what was read first: the write is concurrent with what came later, and wins.
    let context = first.header("x-context").unwrap().to_owned();
    assert_eq!(put(&[("x-context", &context)], b"5").status, 200);
    assert_eq!(server.send("GET", "/v1/records/notes/k", b"").text(), "5");
    let status = server.send("GET", "/v1/status", b"").json();
    assert_eq!(status["coordinator"]["counters"]["conflicts"], 1);

    for malformed in [
        [("x-context", "nonsense")].as_slice(),
        &[("if-none-match", "\"a\"")],
        &[("if-match", "unquoted, too")],
        &[("if-match", first_etag), ("x-context", &context)],
    ] {
        assert_eq!(put(malformed, b"x").problem(), "bad-request", "{malformed:?}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_with_a_reason() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let check = |method: &str, path: &str, body: &[u8], status: u16, kind: &str| {
        let reply = server.send(method, path, body);
        assert_eq!((reply.status, reply.problem().as_str()), (status, kind), "{method} {path}");
        reply
    };
    let unknown = check("PUT", "/v1/records/nope/k", b"x", 404, "unknown-dataset");
    assert!(unknown.json()["detail"].as_str().unwrap().contains("files, notes"));
    check("GET", "/v1/records/nope/k", b"", 404, "unknown-dataset");
    check("GET", "/v1/records/nope", b"", 404, "unknown-dataset");
    check("PUT", &format!("/v1/records/notes/{}", "k".repeat(600)), b"x", 400, "bad-key");
    check("PUT", "/v1/records/notes/%2E%2E", b"x", 400, "bad-key");
    check("PUT", "/v1/records/notes/a%00b", b"x", 400, "bad-key");
    check("PUT", "/v1/records/notes/", b"x", 400, "bad-key");
    check("PUT", "/v1/records/notes/%ff", b"x", 400, "bad-request");
    check("PUT", "/v1/records/notes/k", b"\xff", 422, "wrong-kind");
    check("GET", "/v1/records/notes/k?store=s3", b"", 400, "bad-request");
    check("GET", "/v1/records/notes/k?red=any", b"", 400, "bad-request");
    check("GET", "/v1/records/notes?limit=0", b"", 400, "bad-request");
    check("GET", "/v1/records/notes?after=!", b"", 400, "bad-request");
    check("GET", "/v1/nonsense", b"", 404, "no-such-address");
    check("POST", "/v1/status", b"", 405, "method-not-allowed");
    check("GET", "/v1/operations/nonsense", b"", 400, "bad-request");
    check("GET", "/v1/operations/1.00000000000000aa.1", b"", 404, "unknown-operation");
    let big = vec![0_u8; 64 * 1024 * 1024 + 1];
    check("PUT", "/v1/records/files/big", &big, 413, "too-large");
    check("GET", "/v1/records/files/big", b"", 404, "not-found");
}

#[test]
fn a_value_too_large_for_d1_is_referred_to_and_comes_back_whole() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let big: Vec<u8> =
        (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(server.send("PUT", "/v1/records/files/big", &big).status, 201);
    server.until_idle();
    for (store, referred) in [("d1", Some("true")), ("kv", None), ("r2", None)] {
        let copy = server.send("GET", &format!("/v1/records/files/big?store={store}"), b"");
        assert!(copy.body == big, "{store}");
        assert_eq!(copy.header("x-tidelock-reference"), referred, "{store}");
    }
}

#[test]
fn listings_are_paged_in_key_order() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let keys: Vec<String> = (0..7).map(|n| format!("k{n}/ü")).collect();
    let operations: Vec<Value> = keys
        .iter()
        .map(|key| json!({ "op": "put", "dataset": "notes", "key": key, "text": "v" }))
        .collect();
    let batch = json!({ "operations": operations }).to_string();
    assert_eq!(server.send("POST", "/v1/records:batch", batch.as_bytes()).status, 200);
    let mut listed = vec![];
    let mut path = "/v1/records/notes?limit=3".to_owned();
    loop {
        let page = server.send("GET", &path, b"").json();
        for record in page["records"].as_array().unwrap() {
            listed.push(record["key"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/records/notes?limit=3&after={next}");
    }
    assert_eq!(listed, keys);
}

#[test]
fn a_batch_answers_each_operation() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let bytes = STANDARD.encode([0, 255, 1]);
    let batch = json!({ "operations": [
        { "op": "put", "dataset": "notes", "key": "t", "text": "one" },
        { "op": "put", "dataset": "files", "key": "b", "base64": bytes },
        { "op": "put", "dataset": "notes", "key": "t", "text": "two" },
        { "op": "get", "dataset": "notes", "key": "t" },
        { "op": "get", "dataset": "files", "key": "b", "read": "latest" },
        { "op": "put", "dataset": "nope", "key": "t", "text": "x" },
        { "op": "put", "dataset": "notes", "key": "t", "text": "x", "if_none_match": "*" },
        { "op": "delete", "dataset": "notes", "key": "t" },
        { "op": "get", "dataset": "notes", "key": "t" },
    ]});
    let reply = server.send("POST", "/v1/records:batch", batch.to_string().as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let results = reply.json()["results"].as_array().unwrap().clone();
    let statuses: Vec<u64> = results.iter().map(|r| r["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 201, 200, 200, 200, 404, 412, 204, 404]);
    assert_eq!(results[3]["text"], "two", "operations on one record keep their order");
    assert_eq!(results[4]["base64"], bytes);
    assert_eq!(results[5]["type"], "urn:tidelock:problem:unknown-dataset");
    assert!(results[0]["etag"].is_string() && results[0]["operation"].is_string());
    let operation = results[7]["operation"].as_str().unwrap();
    let told = server.send("GET", &format!("/v1/operations/{operation}"), b"").json();
    assert_eq!(told["state"], "applied", "{told}");
}

#[test]
fn a_malformed_batch_changes_nothing() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let good = r#"{"op":"put","dataset":"notes","key":"k","text":"v"}"#;
    for second in [
        r#"{"op":"put","dataset":"notes","key":"j"}"#,
        r#"{"op":"put","dataset":"notes","key":"j","text":"a","base64":"YQ=="}"#,
        r#"{"op":"put","dataset":"files","key":"j","base64":"***"}"#,
        r#"{"op":"get","dataset":"notes","key":"j","text":"a"}"#,
        r#"{"op":"put","dataset":"notes","key":"j","text":"a","tll":1}"#,
        r#"{"op":"burn","dataset":"notes","key":"j"}"#,
        r#"{"op":"put""#,
        "",
    ] {
        let batch = format!(r#"{{"operations":[{good},{second}]}}"#);
        let reply = server.send("POST", "/v1/records:batch", batch.as_bytes());
        assert_eq!(reply.problem(), "bad-request", "{second}: {}", reply.text());
    }
    let many = json!({ "operations": vec![json!({"op":"get","dataset":"notes","key":"k"}); 1001] });
    let reply = server.send("POST", "/v1/records:batch", many.to_string().as_bytes());
    assert_eq!((reply.status, reply.problem()), (413, "too-large".to_owned()));
    assert_eq!(server.send("GET", "/v1/records/notes/k", b"").status, 404);
}

#[test]
fn only_holders_of_the_token_come_in() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let guarded = ["/v1/status", "/v1/metrics", "/v1/records/notes/k", "/v1/records/notes"];
    for path in guarded {
        for authorization in ["Bearer wrong", "Bearer", "Basic eDp5", "", &server.token] {
            let headers = [("authorization", authorization)];
            let reply = server.plain("GET", path, &headers, b"").unwrap();
            assert_eq!((reply.status, reply.problem()), (401, "unauthorized".to_owned()), "{path}");
            assert!(reply.header("www-authenticate").is_some());
        }
        assert_eq!(server.plain("GET", path, &[], b"").unwrap().status, 401);
        let in_url = format!("{path}?token={}", server.token);
        assert_eq!(server.plain("GET", &in_url, &[], b"").unwrap().status, 401);
    }
    for open in ["/v1/health/live", "/v1/health/ready"] {
        assert_eq!(server.plain("GET", open, &[], b"").unwrap().status, 200);
    }
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    for line in ["# TYPE tidelock_writes_acknowledged_total counter", "tidelock_up 1"] {
        assert!(metrics.lines().any(|l| l == line), "{metrics}");
    }
}

#[test]
fn how_each_store_does_is_measured_and_shown() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    for n in 0..20 {
        assert_eq!(server.send("PUT", &format!("/v1/records/notes/k{n}"), b"x").status, 201);
    }
    server.until_idle();
    let status: Value =
        serde_json::from_slice(&server.send("GET", "/v1/status", b"").body).unwrap();
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    let figure = |line: &str| {
        let found = metrics.lines().find_map(|text| text.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line}: {metrics}"))
    };
    for (at, store) in ["d1", "kv", "r2"].into_iter().enumerate() {
        let shown = &status["coordinator"]["stores"][at];
        assert_eq!(shown["store"], store);
        assert_eq!((&shown["backlog"], &shown["oldest_ms"]), (&0.into(), &Value::Null));
        assert_eq!(
            (&shown["drain_ms"], &shown["health"]["success_permille"]),
            (&0.into(), &1000.into())
        );
        assert!(
            shown["health"]["p50_ms"].as_u64() <= shown["health"]["p99_ms"].as_u64(),
            "{shown}"
        );
        let answered: u64 =
            figure(&format!("tidelock_operations_total{{store=\"{store}\",outcome=\"answered\"}}"));
        let puts = if store == "d1" { 1 } else { 20 };
        assert!(answered >= puts, "{store}: {answered}");
        let failed: u64 =
            figure(&format!("tidelock_operations_total{{store=\"{store}\",outcome=\"failed\"}}"));
        assert_eq!(failed, 0);
        let drain: u64 =
            figure(&format!("tidelock_predicted_drain_milliseconds{{store=\"{store}\"}}"));
        assert_eq!(drain, 0);
    }
    let said = stdout(&server.cli(&["status"]));
    for (at_once, stores) in [("2 batches", 1), ("8 puts", 2)] {
        let shown = format!("0 records behind, {at_once} at once, 0 ms to drain; 100.0% answered");
        assert_eq!(said.matches(&shown).count(), stores, "{said}");
    }
    server.stop();
}

/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
#[test]
fn metrics_are_what_prometheus_reads() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    assert!(metrics.ends_with('\n'));
    let mut family = "";
    let mut seen = BTreeSet::new();
    for line in metrics.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').expect("a name and a kind");
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(seen.insert(name), "a family stands in one place: {line}");
            family = name;
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert_eq!(sample.split('{').next(), Some(family), "under its own type: {line}");
        if let Some((_, labels)) = sample.split_once('{') {
            let labels = labels.strip_suffix('}').expect("labels are closed");
            for label in labels.split(',') {
                let (name, value) = label.split_once('=').expect("a label and its value");
                assert!(name.bytes().all(|c| c.is_ascii_lowercase()), "{line}");
                assert!(
                    value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                    "{line}"
                );
            }
        }
    }
    assert!(seen.len() > 30, "{metrics}");
    server.stop();
}

#[test]
fn foreign_hosts_and_origins_are_turned_away() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let own = server.address.to_string();
    for host in ["evil.example", "evil.example:7878", "127.0.0.1.evil.example"] {
        let reply = server.send_with("GET", "/v1/status", &[("Host", host)], b"");
        assert_eq!((reply.status, reply.problem()), (421, "foreign-host".to_owned()), "{host}");
        let live = server.plain("GET", "/v1/health/live", &[("Host", host)], b"").unwrap();
        assert_eq!(live.status, 421);
    }
    let local = format!("localhost:{}", server.address.port());
    assert_eq!(server.send_with("GET", "/v1/status", &[("Host", &local)], b"").status, 200);
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        let reply = server.send_with("PUT", "/v1/records/notes/k", &[("Origin", origin)], b"x");
        assert_eq!((reply.status, reply.problem()), (403, "foreign-origin".to_owned()), "{origin}");
    }
    let origin = format!("http://{own}");
    let reply = server.send_with("PUT", "/v1/records/notes/k", &[("Origin", &origin)], b"x");
    assert_eq!(reply.status, 201);
}

#[test]
fn a_browser_logs_in_sees_the_page_and_needs_its_csrf_token() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let page = server.plain("GET", "/", &[], b"").unwrap();
    assert!(page.status == 200 && page.text().contains("name=\"token\""), "{page:?}");
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    let wrong = server.plain("POST", "/login", &[], b"token=guess").unwrap();
    assert_eq!(wrong.status, 401);
    assert!(wrong.header("set-cookie").is_none());

    let form = format!("token={}", server.token);
    let foreign = [("Origin", "http://evil.example")];
    assert_eq!(server.plain("POST", "/login", &foreign, form.as_bytes()).unwrap().status, 403);
    let entered = server.plain("POST", "/login", &[], form.as_bytes()).unwrap();
    assert_eq!((entered.status, entered.header("location")), (303, Some("/")));
    let cookie = entered.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(&server.token));
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with = |method: &str, path: &str, more: &[(&str, &str)], body: &[u8]| {
        let mut headers = vec![("cookie", cookie.as_str())];
        headers.extend_from_slice(more);
        server.plain(method, path, &headers, body).unwrap()
    };
    let page = with("GET", "/", &[], b"").text();
    assert!(page.contains("All stores agree") && page.contains("survives"), "{page}");
    assert!(!page.contains(&server.token));
    assert_eq!(with("GET", "/v1/status", &[], b"").status, 200);
    let blind = with("PUT", "/v1/records/notes/k", &[], b"x");
    assert_eq!((blind.status, blind.problem()), (403, "csrf-required".to_owned()));
    let guess = with("DELETE", "/v1/records/notes/k", &[("x-csrf-token", "guess")], b"");
    assert_eq!(guess.status, 403);
    let csrf = page.split("data-csrf=\"").nth(1).unwrap().split('"').next().unwrap();
    let shown = [("x-csrf-token", csrf)];
    assert_eq!(with("PUT", "/v1/records/notes/k", &shown, b"x").status, 201);

    assert_eq!(with("POST", "/logout", &[], b"").status, 403);
    assert_eq!(with("POST", "/logout", &shown, b"").status, 204);
    assert_eq!(with("GET", "/v1/status", &[], b"").status, 401);
}
