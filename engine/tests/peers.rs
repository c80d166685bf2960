//! Two real servers, each with stores of its own: what is written at one is in the stores of the
//! other, through kill -9 and while one was away; and a peer that is none is refused.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use server::{PEER_SECRET, Server, folder, introduce, stderr, stdout};
use std::path::Path;

const DATASETS: &str = r#"
[[dataset]]
name = "notes"
kind = "text"
d1 = {}
kv = {}
r2 = {}
"#;

fn start(data: &Path, node: u16, listen: &str) -> Server {
    Server::start_site(data, node, listen, DATASETS)
}

fn put(server: &Server, key: &str, value: &str) {
    let reply = server.send("PUT", &format!("/v1/records/notes/{key}"), value.as_bytes());
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
}

/// Waits until every store of a server holds a value.
fn until_everywhere(server: &Server, key: &str, value: &str) {
    for store in ["d1", "kv", "r2"] {
        server.until(&format!("{key} in {store}"), || {
            let reply = server.send("GET", &format!("/v1/records/notes/{key}?store={store}"), &[]);
            reply.status == 200 && reply.body == value.as_bytes()
        });
    }
}

#[test]
fn what_is_written_at_one_site_is_in_every_store_of_the_other() {
    let (_keep, root) = folder();
    let (a_data, b_data) = (root.join("a"), root.join("b"));
    let a = start(&a_data, 1, "127.0.0.1:0");
    let b = start(&b_data, 2, "127.0.0.1:0");
    introduce(&a, &b);
    put(&a, "tide", "high water at six");
    put(&b, "wind", "south-west");
    until_everywhere(&b, "tide", "high water at six");
    until_everywhere(&a, "wind", "south-west");

    // One dies; the other is written to meanwhile; the members are remembered.
    let address = a.address.to_string();
    a.kill();
    put(&b, "tide", "high water at seven");
    put(&b, "moon", "full");
    let a = start(&a_data, 1, &address);
    until_everywhere(&a, "tide", "high water at seven");
    until_everywhere(&a, "moon", "full");
    let listed = stdout(&a.cli(&["peer", "list"]));
    assert!(listed.contains("this is coordinator 1 of site 1"), "{listed}");
    assert!(listed.contains(&b.address.to_string()), "{listed}");

    // Retired, it hears nothing more, and what it has stays.
    assert!(a.cli(&["peer", "retire", "2"]).status.success());
    assert!(b.cli(&["peer", "retire", "1"]).status.success());
    put(&a, "tide", "low");
    a.until_idle();
    let reply = b.send("GET", "/v1/records/notes/tide?read=latest", &[]);
    assert_eq!(reply.text(), "high water at seven");
}

#[test]
fn one_that_leaves_says_when_nothing_of_it_is_needed_any_more() {
    let (_keep, root) = folder();
    let (a_data, b_data) = (root.join("a"), root.join("b"));
    let a = start(&a_data, 1, "127.0.0.1:0");
    let b = start(&b_data, 2, "127.0.0.1:0");
    introduce(&a, &b);
    put(&b, "wind", "south-west");
    until_everywhere(&a, "wind", "south-west");

    // What the other site does not have yet goes nowhere.
    let address = a.address.to_string();
    a.kill();
    put(&b, "moon", "full");
    let left = b.cli(&["peer", "leave", "--within", "1"]);
    assert_eq!(left.status.code(), Some(1));
    assert!(stderr(&left).contains("site 1 has not taken in all of it"), "{}", stderr(&left));
    let refused = b.send("PUT", "/v1/records/notes/star", b"polar");
    assert_eq!((refused.status, refused.problem().as_str()), (503, "stopping"));

    let a = start(&a_data, 1, &address);
    let left = b.cli(&["peer", "leave"]);
    assert!(left.status.success(), "{}", stderr(&left));
    assert!(stdout(&left).contains("it has left"), "{}", stdout(&left));
    b.kill();
    assert!(a.cli(&["peer", "retire", "2"]).status.success());
    until_everywhere(&a, "moon", "full");
}

#[test]
fn a_session_that_has_seen_a_site_which_is_no_member_is_told_so() {
    let (_keep, root) = folder();
    let server = start(&root.join("a"), 1, "127.0.0.1:0");
    put(&server, "tide", "high");
    let token = format!("Bearer {}", server.token);
    let headers = [("Authorization", token.as_str()), ("X-Session", "7:41")];
    let read = server.plain("GET", "/v1/records/notes/tide?read=session", &headers, b"");
    let read = read.expect("it is answered");
    assert_eq!((read.status, read.problem().as_str()), (409, "unknown-site"));
    assert!(read.text().contains("begin a new session"), "{}", read.text());
}

#[test]
fn a_peer_with_another_secret_or_another_version_is_refused() {
    let (_keep, root) = folder();
    let server = start(&root.join("a"), 1, "127.0.0.1:0");
    let hear = |secret: &str, version: &str, body: &[u8]| {
        let secret = format!("Bearer {secret}");
        let headers = [("Authorization", secret.as_str()), ("X-Tidelock-Wire", version)];
        server.plain("POST", "/v1/peer", &headers, body).expect("it is answered")
    };
    assert_eq!(hear("guess", "5", b"").problem(), "unauthorized");
    assert_eq!(hear(&server.token, "5", b"").problem(), "unauthorized", "no operator's token");
    let other = hear(PEER_SECRET, "2", b"");
    assert_eq!((other.status, other.problem().as_str()), (426, "wire-version"));
    assert!(other.text().contains("version \\\"2\\\""), "{}", other.text());
    assert_eq!(hear(PEER_SECRET, "5", b"x").problem(), "bad-request");
}

#[test]
fn what_cannot_be_a_peer_is_refused_in_words() {
    let (_keep, root) = folder();
    let server = start(&root.join("a"), 1, "127.0.0.1:0");
    for (node, url, words) in [
        ("1", "http://127.0.0.1:1", "own number"),
        ("65535", "http://127.0.0.1:1", "stands for writes past every coordinator"),
        ("2", "ftp://127.0.0.1", "no address of a coordinator"),
        ("2", "http://", "no address of a coordinator"),
    ] {
        let output = server.cli(&["peer", "add", node, url]);
        assert_eq!(output.status.code(), Some(1), "{node} {url}");
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    let output = server.cli(&["peer", "retire", "7"]);
    assert!(stderr(&output).contains("there is no peer n7"), "{}", stderr(&output));
}
