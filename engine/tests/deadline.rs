//! `X-Deadline-Ms`: what its caller no longer waits for is not begun.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use server::{Server, folder};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Sends a put whose body comes when its deadline has passed; gives the answer.
fn put_late(server: &Server, path: &str, deadline_ms: u64) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(server::WAIT_MAX)).unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nConnection: close\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         X-Deadline-Ms: {deadline_ms}\r\nContent-Length: 4\r\n\r\nla",
        server.address, server.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    stream.write_all(b"te").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_write_whose_caller_is_gone_is_not_begun() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let late = put_late(&server, "/v1/records/files/late", 50);
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    assert!(late.contains("urn:tidelock:problem:deadline-passed"), "{late}");
    assert!(late.contains("\"outcome\":\"refused\"") && late.contains("\"retryable\":true"));
    assert_eq!(server.send("GET", "/v1/records/files/late", b"").status, 404);
    let status = server.send("GET", "/v1/status", b"").json();
    assert_eq!(status["coordinator"]["counters"]["writes_refused"], 1, "{status}");
    let in_time = put_late(&server, "/v1/records/files/late", 60_000);
    assert!(in_time.starts_with("HTTP/1.1 201"), "{in_time}");
    server.stop();
}

#[test]
fn a_deadline_is_a_number_of_milliseconds() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    for wrong in ["0", "soon", "-5", "99999999"] {
        let headers = [("X-Deadline-Ms", wrong)];
        let refused = server.send_with("PUT", "/v1/records/files/a", &headers, b"x");
        assert_eq!((refused.status, refused.problem().as_str()), (400, "bad-request"), "{wrong}");
    }
    let headers = [("X-Deadline-Ms", "60000")];
    assert_eq!(server.send_with("PUT", "/v1/records/files/a", &headers, b"x").status, 201);
    assert_eq!(server.send_with("GET", "/v1/records/files/a", &headers, b"").body, b"x");
    server.stop();
}
