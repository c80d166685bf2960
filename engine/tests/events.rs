//! The stream of events, end to end: each entry of the log once and in order, through cuts, kill -9 and
//! restarts, and a server that ends does not wait for those who follow.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks"
)]

mod server;

use serde_json::Value;
use server::{Server, WAIT_MAX, folder};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// One that follows, and reads no more than it is asked to.
struct Follower {
    lines: BufReader<TcpStream>,
}

#[derive(Debug, PartialEq)]
struct Event {
    id: u64,
    name: String,
    data: Value,
}

impl Follower {
    fn of(server: &Server, path: &str, last: Option<u64>) -> Self {
        let (status, mut follower) = Follower::ask(server, path, last);
        assert_eq!(status, 200);
        let mut kind = None;
        while let Some(line) = follower.line().filter(|line| !line.is_empty()) {
            kind = line.strip_prefix("content-type: ").map(str::to_owned).or(kind);
        }
        assert_eq!(kind.as_deref(), Some("text/event-stream"));
        follower
    }

    /// With the status that it was answered with.
    fn ask(server: &Server, path: &str, last: Option<u64>) -> (u16, Self) {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let (address, token) = (server.address, &server.token);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{last}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut follower = Follower { lines: BufReader::new(stream) };
        let answer = follower.line().expect("an answer");
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), follower)
    }

    /// `None`: the stream has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: 0, name: String::new(), data: Value::Null };
        loop {
            let line = self.line()?;
            // Comments and the sizes of chunks are passed over.
            match line.split_once(": ") {
                Some(("id", id)) => event.id = id.parse().unwrap(),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if line.is_empty() && !event.data.is_null() => return Some(event),
                _ => {}
            }
        }
    }
}

/// An operator's act, which is logged.
fn act(server: &Server, why: &str) {
    let body = format!("{{\"state\":\"auto\",\"reason\":\"{why}\"}}");
    let reply = server.send("POST", "/v1/stores/kv/breaker", body.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn reasons(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.data["event"]["reason"].as_str().unwrap()).collect()
}

#[test]
fn each_entry_comes_once_and_in_order_through_kill_9_and_a_restart() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    act(&server, "before");
    let mut from_now = Follower::of(&server, "/v1/events", None);
    act(&server, "first");
    let first = from_now.next().unwrap();
    assert_eq!((first.name.as_str(), first.id), ("operator", 2));
    assert_eq!(first.data["seq"], 2);
    assert_eq!(reasons(&[first]), ["first"]);
    act(&server, "second");
    act(&server, "third");
    let last = from_now.next().unwrap().id;
    server.kill();
    let server = Server::start(&data);
    act(&server, "fourth");
    let mut resumed = Follower::of(&server, "/v1/events?after=0", Some(last));
    let missed = [resumed.next().unwrap(), resumed.next().unwrap()];
    assert_eq!(reasons(&missed), ["third", "fourth"]);
    assert_eq!([missed[0].id, missed[1].id], [last + 1, last + 2]);
    let mut all = Follower::of(&server, "/v1/events?after=0", None);
    let all: Vec<Event> = (0..5).map(|_| all.next().unwrap()).collect();
    assert_eq!(reasons(&all), ["before", "first", "second", "third", "fourth"]);
    let logged = server.cli(&["audit", "verify"]);
    assert!(server::stdout(&logged).starts_with("verified: 5 entries"));
}

#[test]
fn a_filter_passes_what_it_says_and_a_server_ends_though_somebody_follows() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let mut conflicts = Follower::of(&server, "/v1/events?kind=conflict&after=0", None);
    let mut operators = Follower::of(&server, "/v1/events?kind=operator", None);
    act(&server, "one");
    assert_eq!(reasons(&[operators.next().unwrap()]), ["one"]);
    let log = data.with_extension("log");
    let ended = server.stop();
    assert!(ended.success(), "{ended}");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("stopped") && !log.contains("cut off"), "they were let go: {log}");
    assert_eq!(operators.next(), None);
    assert_eq!(conflicts.next(), None);
}

#[test]
fn what_cannot_be_followed_is_refused_with_words() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    act(&server, "one");
    let refused = |path: &str, headers: &[(&str, &str)], kind: &str, says: &str| {
        let reply = server.send_with("GET", path, headers, b"");
        assert_eq!(reply.problem(), kind, "{path}");
        assert!(reply.text().contains(says), "{path}: {}", reply.text());
    };
    refused("/v1/events?after=2", &[], "bad-request", "ends at entry 1");
    refused("/v1/events?after=-1", &[], "bad-request", "`after`");
    refused("/v1/events", &[("last-event-id", "x")], "bad-request", "`last-event-id`");
    refused("/v1/events?kind=eclipse", &[], "bad-request", "the kinds are");
    refused("/v1/events?dataset=nowhere", &[], "unknown-dataset", "the datasets are");
    refused("/v1/events?since=1", &[], "bad-request", "since");
    let anybody = server.plain("GET", "/v1/events", &[], b"").unwrap();
    assert_eq!(anybody.problem(), "unauthorized");
    let seats: Vec<Follower> = (0..64).map(|_| Follower::of(&server, "/v1/events", None)).collect();
    refused("/v1/events", &[], "too-many-followers", "64 clients");
    drop(seats);
    server.until("a seat is free", || {
        // Who has gone is noticed when something is sent.
        act(&server, "more");
        Follower::ask(&server, "/v1/events", None).0 == 200
    });
}
