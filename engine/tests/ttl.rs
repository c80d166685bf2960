//! Values that were given a time: who reads them when, and what is left of them in the stores.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use rusqlite::Connection;
use server::{Server, cli_with, folder, stdout};
use std::fs;
use std::path::Path;

const CONFIG: &str = r#"
[[dataset]]
name = "notes"
kind = "text"
d1 = {}
kv = {}
r2 = {}

[[dataset]]
name = "sessions"
kind = "text"
d1 = {}
kv = {}
ttl = "2s"
"#;

fn start(folder: &Path, data: &Path) -> Server {
    let file = folder.join("ttl.toml");
    fs::write(&file, CONFIG).unwrap();
    let file = file.display().to_string();
    Server::run(cli_with(&["serve", "--listen", "127.0.0.1:0", "--config", &file], data), data)
}

fn count(data: &Path, store: &str, sql: &str) -> i64 {
    let path = data.join("stores").join(format!("{store}.sqlite"));
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn read(server: &Server, path: &str) -> u16 {
    server.send("GET", &format!("/v1/records/{path}"), b"").status
}

#[test]
fn a_value_is_gone_everywhere_after_its_time() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    let put = |path: &str, ttl: &str| {
        server.send_with("PUT", &format!("/v1/records/{path}"), &[("x-ttl", ttl)], b"text").status
    };
    assert_eq!(put("notes/brief", "2"), 201);
    assert_eq!(put("notes/long", "1h"), 201);
    assert_eq!(put("sessions/kept", "never"), 201);
    assert_eq!(server.send("PUT", "/v1/records/sessions/usual", b"text").status, 201);
    let reply = server.send("GET", "/v1/records/notes/brief", b"");
    let at_ms: u64 = reply.header("x-expires-at-ms").and_then(|at| at.parse().ok()).unwrap();
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(at_ms.abs_diff(now_ms.as_millis() as u64 + 2_000) < 2_000, "{at_ms}");
    let later = format!("SELECT count(*) FROM kv WHERE expires_at_s > {} + 600", at_ms / 1_000);
    server.until("KV forgets them by itself, later", || count(&data, "kv", &later) == 3);

    server.until("they are gone to readers", || {
        read(&server, "notes/brief") == 404 && read(&server, "sessions/usual") == 404
    });
    let left = "SELECT count(*) FROM kv WHERE key IN ('notes/brief', 'sessions/usual')";
    server.until("and in KV", || count(&data, "kv", left) == 0);
    let left = "SELECT count(*) FROM objects WHERE key = 'notes/brief'";
    server.until("and in R2", || count(&data, "r2", left) == 0);
    let left = "SELECT count(*) FROM tidelock_records WHERE key IN ('brief', 'usual') \
                AND value IS NOT NULL";
    assert_eq!(count(&data, "d1", left), 0, "and in D1");
    assert_eq!((read(&server, "notes/long"), read(&server, "sessions/kept")), (200, 200));
    let listed = server.send("GET", "/v1/records/notes", b"").json();
    assert_eq!(listed["records"].as_array().map(Vec::len), Some(1), "{listed}");
    server.until_idle();
    let verified = server.cli(&["verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
    let status =
        server.send_with("PUT", "/v1/records/notes/brief", &[("if-none-match", "*")], b"x");
    assert_eq!(status.status, 201, "there is no such record: {status:?}");
}

#[test]
fn a_time_outlives_the_process_and_a_write_over_it_ends_it() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    let value = folder.path().join("value");
    fs::write(&value, "text").unwrap();
    let value = value.display().to_string();
    for key in ["a", "b"] {
        let output = server.cli(&["put", "notes", key, &value, "--ttl", "3s"]);
        assert_eq!(output.status.code(), Some(0), "{}", server::stderr(&output));
    }
    assert_eq!(server.send("PUT", "/v1/records/notes/b", b"newer").status, 200);
    server.kill();
    let server = start(folder.path(), &data);
    server.until("it is gone", || read(&server, "notes/a") == 404);
    let left = "SELECT count(*) FROM kv WHERE key = 'notes/a'";
    server.until("and in KV", || count(&data, "kv", left) == 0);
    assert_eq!(server.send("GET", "/v1/records/notes/b", b"").body, b"newer");
}

/// A time that the dataset gets later is for what is written from then on.
#[test]
fn another_lifetime_by_a_reload_is_for_writes_after_it() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    assert_eq!(server.send("PUT", "/v1/records/notes/before", b"text").status, 201);
    let brief = CONFIG.replacen("r2 = {}\n", "r2 = {}\nttl = \"1s\"\n", 1);
    fs::write(folder.path().join("ttl.toml"), &brief).unwrap();
    let output = server.cli(&["policy", "reload"]);
    assert_eq!(output.status.code(), Some(0), "{}", server::stderr(&output));
    assert_eq!(server.send("PUT", "/v1/records/notes/after", b"text").status, 201);
    server.until("it is gone", || read(&server, "notes/after") == 404);
    assert_eq!(read(&server, "notes/before"), 200);
    // What waits for its time when its dataset is taken out ends when that is back.
    assert_eq!(server.send("PUT", "/v1/records/notes/waits?ttl=2", b"text").status, 201);
    server.until_idle();
    let sessions = &CONFIG[CONFIG.find("\n[[dataset]]\nname = \"sessions\"").unwrap()..];
    for config in [sessions, CONFIG] {
        fs::write(folder.path().join("ttl.toml"), config).unwrap();
        let output = server.cli(&["policy", "reload"]);
        assert_eq!(output.status.code(), Some(0), "{}", server::stderr(&output));
        std::thread::sleep(std::time::Duration::from_millis(2_500));
    }
    server.until("it is gone", || read(&server, "notes/waits") == 404);
    let left = "SELECT count(*) FROM kv WHERE key = 'notes/waits'";
    server.until("and in KV", || count(&data, "kv", left) == 0);
}

#[test]
fn a_row_of_a_table_expires_unless_somebody_else_wrote_it() {
    let (folder, data) = folder();
    fs::create_dir_all(data.join("stores")).unwrap();
    let d1 = Connection::open(data.join("stores/d1.sqlite")).unwrap();
    d1.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    d1.execute_batch("CREATE TABLE seats(id TEXT PRIMARY KEY, held_by TEXT)").unwrap();
    let file = folder.path().join("seats.toml").display().to_string();
    let config = "[[dataset]]\nname = \"seats\"\nkind = \"structured\"\n\
                  d1 = { table = \"seats\", key = \"id\" }\nkv = {}\nttl = \"3s\"\n";
    fs::write(&file, config).unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--config", &file];
    let server = Server::run(cli_with(&args, &data), &data);
    for seat in ["a", "b"] {
        let path = format!("/v1/records/seats/{seat}");
        assert_eq!(server.send("PUT", &path, b"{\"held_by\":\"mary\"}").status, 201);
    }
    d1.execute("UPDATE seats SET held_by = 'tom' WHERE id = 'b'", []).unwrap();
    let gone =
        || d1.query_row("SELECT count(*) FROM seats WHERE id = 'a'", [], |row| row.get(0)) == Ok(0);
    server.until("the row is gone", gone);
    let left = "SELECT count(*) FROM kv WHERE key = 'seats/a'";
    server.until("and its copy", || count(&data, "kv", left) == 0);
    let reply = server.send("GET", "/v1/records/seats/b", b"");
    assert_eq!((reply.status, reply.json()["held_by"].as_str()), (200, Some("tom")));
    assert_eq!(reply.header("x-expires-at-ms"), None, "what the application wrote stays");
}

#[test]
fn what_is_no_time_is_refused() {
    let (folder, data) = folder();
    let server = start(folder.path(), &data);
    for wrong in ["0", "-1", "soon", "1w", "99999d", ""] {
        let reply = server.send_with("PUT", "/v1/records/notes/a", &[("x-ttl", wrong)], b"text");
        assert_eq!(reply.status, 400, "{wrong:?}: {reply:?}");
    }
    let both = server.send_with("PUT", "/v1/records/notes/a?ttl=5", &[("x-ttl", "5")], b"text");
    assert_eq!(both.status, 400, "{both:?}");
    let batch = br#"{"operations":[{"op":"delete","dataset":"notes","key":"a","ttl":"5"}]}"#;
    assert_eq!(server.send("POST", "/v1/records:batch", batch).status, 400);
    assert_eq!(read(&server, "notes/a"), 404);
    assert_eq!(server.send("PUT", "/v1/records/notes/a?ttl=60", b"text").status, 201);
    let batch =
        br#"{"operations":[{"op":"put","dataset":"notes","key":"b","text":"x","ttl":"1s"}]}"#;
    let reply = server.send("POST", "/v1/records:batch", batch).json();
    assert_eq!(reply["results"][0]["status"], 201, "{reply}");
    server.until("it is gone", || read(&server, "notes/b") == 404);
    assert_eq!(read(&server, "notes/a"), 200);
}
