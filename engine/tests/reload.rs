//! Reloading: the configuration is read again while the server runs, whole or not at all.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use rusqlite::Connection;
use server::{Server, cli_with, folder, stderr, stdout};
use std::fs;
use std::path::{Path, PathBuf};

const NOTES: &str = r#"
[[dataset]]
name = "notes"
kind = "text"
d1 = {}
kv = {}
r2 = {}
"#;
const FILES: &str = "\n[[dataset]]\nname = \"files\"\nkind = \"binary\"\nd1 = {}\nr2 = {}\n";

/// A server with a configuration that the test writes.
struct Site {
    server: Server,
    file: PathBuf,
    data: PathBuf,
    _folder: tempfile::TempDir,
}

fn site(config: &str) -> Site {
    let (folder, data) = folder();
    let file = folder.path().join("mine.toml");
    fs::write(&file, config).unwrap();
    let named = file.display().to_string();
    let args = ["serve", "--listen", "127.0.0.1:0", "--config", &named];
    let server = Server::run(cli_with(&args, &data), &data);
    Site { server, file, data, _folder: folder }
}

impl Site {
    fn reload(&self, config: &str) -> (i32, String) {
        fs::write(&self.file, config).unwrap();
        let output = self.server.cli(&["policy", "reload"]);
        (output.status.code().unwrap(), format!("{}{}", stdout(&output), stderr(&output)))
    }

    fn put(&self, dataset: &str, key: &str, value: &str) -> u16 {
        let path = format!("/v1/records/{dataset}/{key}");
        self.server.send("PUT", &path, value.as_bytes()).status
    }

    fn shown(&self) -> serde_json::Value {
        self.server.send("GET", "/v1/policies", b"").json()
    }

    fn copies(&self, store: &str, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table} WHERE key LIKE 'notes/%'");
        self.store(store).query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    fn store(&self, name: &str) -> Connection {
        open(&self.data, name)
    }
}

fn open(data: &Path, name: &str) -> Connection {
    Connection::open(data.join("stores").join(format!("{name}.sqlite"))).unwrap()
}

#[test]
fn a_dataset_and_a_strategy_change_while_writes_go_on() {
    let site = site(NOTES);
    assert_eq!(site.put("files", "a", "x"), 404);
    let through = NOTES.replace("r2 = {}", "r2 = {}\nstrategy = { kv = \"write-through\" }");
    let writers = std::thread::scope(|scope| {
        let write = |writer: usize| {
            let site = &site;
            move || {
                let mut statuses = Vec::new();
                for n in 0..40 {
                    statuses.push(site.put("notes", &format!("w{writer}-{n}"), "text"));
                }
                statuses
            }
        };
        let writers: Vec<_> = (0..4).map(|writer| scope.spawn(write(writer))).collect();
        for n in 0..6 {
            let config = if n % 2 == 0 { format!("{through}{FILES}") } else { NOTES.to_owned() };
            let (code, said) = site.reload(&config);
            assert_eq!(code, 0, "{said}");
        }
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<u16>>()
    });
    assert!(writers.iter().all(|status| *status == 201), "{writers:?}");
    let (code, said) = site.reload(&format!("{through}{FILES}"));
    assert_eq!(code, 0, "{said}");
    for part in ["notes: strategy", "files is kept from now on"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(site.put("files", "a", "x"), 201);
    let shown = site.shown();
    assert_eq!(shown["datasets"][1]["stores"][1]["strategy"], "write-through", "{shown}");
    assert_eq!(shown["datasets"][0]["name"], "files");
    let (code, said) = site.reload(&format!("{through}{FILES}"));
    assert_eq!((code, said.trim()), (0, "nothing differs from what is in force"));
    site.server.until_idle();
    let verified = site.server.cli(&["verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
}

#[test]
fn a_hangup_reloads_and_a_mistake_changes_nothing() {
    let site = site(NOTES);
    fs::write(&site.file, format!("{NOTES}{FILES}")).unwrap();
    site.server.signal("-HUP");
    site.server.until("the dataset is there", || site.put("files", "a", "x") == 201);

    fs::write(&site.file, NOTES.replace("\"text\"", "\"video\"")).unwrap();
    site.server.signal("-HUP");
    site.server.until("the mistake is told", || site.server.log().contains("mine.toml:4:8"));
    assert_eq!(site.shown()["datasets"].as_array().map(Vec::len), Some(2));
    assert_eq!(site.put("files", "b", "x"), 201, "the former policy holds");
    assert_eq!(site.server.stop().code(), Some(0));
}

#[test]
fn what_cannot_change_is_refused_whole_with_every_reason() {
    let site = site(&format!("node = 3\n{NOTES}"));
    assert_eq!(site.put("notes", "a", "text"), 201);
    let wrong = NOTES
        .replace("\"text\"", "\"json\"")
        .replace("kv = {}", "kv = { prefix = \"elsewhere/\" }");
    let wrong = format!("node = 4\nlisten = \"127.0.0.1:9\"\n{wrong}read = \"latest\"\n{FILES}");
    let (code, said) = site.reload(&wrong);
    assert_eq!(code, 1, "{said}");
    for part in [
        "listen: it is 127.0.0.1:7878 while the server runs, not 127.0.0.1:9",
        "node: it is 3",
        "dataset notes, kind: it cannot change while the dataset has records",
        "dataset notes, kv.prefix",
        "take the store out, reload",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(site.put("files", "a", "x"), 404, "nothing of it is in force");
    let reply = site.server.send("POST", "/v1/policies:reload", b"");
    assert_eq!(reply.status, 409, "{reply:?}");
    let problem = reply.json();
    assert_eq!(problem["reasons"].as_array().map(Vec::len), Some(4), "{problem}");
    assert_eq!(problem["outcome"], "refused");

    fs::write(&site.file, "listen = [").unwrap();
    let reply = site.server.send("POST", "/v1/policies:reload", b"");
    assert_eq!(reply.status, 422, "{reply:?}");
    fs::remove_file(&site.file).unwrap();
    let reply = site.server.send("POST", "/v1/policies:reload", b"");
    assert_eq!(reply.status, 422, "{reply:?}");
    let reply = site.server.send("POST", "/v1/policies:reload", b"{\"text\":\"\"}");
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(site.put("notes", "a", "text"), 200);
}

#[test]
fn check_finds_mistakes_without_a_server_and_asks_one_that_runs() {
    let site = site(NOTES);
    assert_eq!(site.put("notes", "a", "text"), 201);
    let check = |config: &str, data: &Path| {
        let file = site.file.with_file_name("draft.toml");
        fs::write(&file, config).unwrap();
        let file = file.display().to_string();
        let output = cli_with(&["policy", "check", &file], data).output().unwrap();
        (output.status.code().unwrap(), format!("{}{}", stdout(&output), stderr(&output)))
    };
    let nowhere = site.data.with_file_name("nowhere");
    let (code, said) = check(&format!("{NOTES}{FILES}"), &nowhere);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("notes: an acknowledged write") && said.contains("no server"), "{said}");
    let (code, said) = check(&NOTES.replace("d1 = {}", ""), &nowhere);
    assert_eq!((code, said.contains("draft.toml:3:8")), (2, true), "{said}");

    let (code, said) = check(&format!("{NOTES}{FILES}"), &site.data);
    assert_eq!((code, said.contains("files is kept from now on")), (0, true), "{said}");
    let (code, said) = check(&NOTES.replace("\"text\"", "\"json\""), &site.data);
    assert_eq!((code, said.contains("dataset notes, kind")), (1, true), "{said}");
    assert_eq!(site.shown()["datasets"].as_array().map(Vec::len), Some(1), "nothing changed");
}

#[test]
fn a_projection_goes_and_comes_back() {
    let site = site(NOTES);
    for n in 0..30 {
        assert_eq!(site.put("notes", &n.to_string(), "first"), 201);
    }
    site.server.until_idle();
    let (code, said) = site.reload(&NOTES.replace("kv = {}\n", ""));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("notes is no longer kept in kv; its copies stay there"), "{said}");
    for n in 0..20 {
        assert_eq!(site.put("notes", &n.to_string(), "second"), 200);
    }
    assert_eq!(site.server.send("DELETE", "/v1/records/notes/29", b"").status, 204);
    site.server.until_idle();
    assert_eq!(site.copies("kv", "kv"), 30, "the copies stay");
    let old: i64 = site
        .store("kv")
        .query_row("SELECT count(*) FROM kv WHERE value = CAST('second' AS BLOB)", [], |r| r.get(0))
        .unwrap();
    assert_eq!(old, 0, "nobody puts there");

    // Emptied meanwhile: that the listing shows nothing is no reason to hold the filling.
    site.store("kv").execute("DELETE FROM kv", []).unwrap();
    let (code, said) = site.reload(NOTES);
    assert_eq!((code, said.contains("notes is kept in kv from now on")), (0, true), "{said}");
    site.server.until("the copies are made again", || site.copies("kv", "kv") == 29);
    site.server.until_idle();
    let verified = site.server.cli(&["verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
    assert_eq!(site.server.send("GET", "/v1/records/notes/3?store=kv", b"").body, b"second");
}

#[test]
fn what_was_owed_to_a_store_that_is_given_up_is_forgone() {
    let site = site(NOTES);
    assert_eq!(site.put("notes", "a", "text"), 201);
    site.server.until_idle();
    // KV is gone for good: every statement on it fails.
    site.store("kv").execute_batch("ALTER TABLE kv RENAME TO gone").unwrap();
    for n in 0..5 {
        assert_eq!(site.put("notes", &n.to_string(), "text"), 201);
    }
    let owed = || -> i64 {
        let sql = "SELECT count(*) FROM tidelock_rows WHERE owed LIKE '%kv%'";
        site.store("d1").query_row(sql, [], |row| row.get(0)).unwrap()
    };
    site.server.until("KV is owed", || owed() == 5);
    let (code, said) = site.reload(FILES);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("dataset notes: it cannot be taken out"), "{said}");

    let (code, said) = site.reload(&NOTES.replace("kv = {}\n", ""));
    assert_eq!(code, 0, "{said}");
    site.server.until("nothing is owed", || owed() == 0);
    site.server.until_idle();
    let status = site.server.send("GET", "/v1/metrics", b"");
    let forgone = String::from_utf8_lossy(&status.body).contains("tidelock_marks_forgone_total 5");
    assert!(forgone, "{}", String::from_utf8_lossy(&status.body));
}

/// What a reload would have written anew, or taken for records, waits for an operator.
#[test]
fn what_a_changed_filter_makes_waits_for_an_approval() {
    let brief = "reconcile = { every = \"1s\" }\n";
    let site = site(&format!("{NOTES}{brief}"));
    for n in 0..40 {
        assert_eq!(site.put("notes", &n.to_string(), "text"), 201);
    }
    site.server.until_idle();
    let of_values = || -> i64 {
        let sql = "SELECT count(*) FROM kv WHERE value = CAST('text' AS BLOB)";
        site.store("kv").query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let metric = |line: &str| site.server.send("GET", "/v1/metrics", b"").text().contains(line);
    site.server.until("a look found nothing", || {
        metric("tidelock_pass_held{dataset=\"notes\",store=\"kv\",over=\"everything\"} 0")
    });
    assert!(
        metric("{dataset=\"notes\",store=\"kv\",over=\"everything\",operation=\"list\"} 1"),
        "one page each time"
    );

    let referred = NOTES.replace("kv = {}", "kv = { keep = \"reference\" }");
    let (code, said) = site.reload(&format!("{referred}{brief}"));
    assert_eq!((code, said.contains("notes: what kv keeps")), (0, true), "{said}");
    site.server.until("it is held", || {
        metric("tidelock_pass_held{dataset=\"notes\",store=\"kv\",over=\"everything\"} 1")
    });
    assert!(
        metric("{dataset=\"notes\",store=\"kv\",over=\"everything\",operation=\"put\"} 40"),
        "and predicted"
    );
    let status = site.server.send("GET", "/v1/status", b"").json();
    let passes = status["coordinator"]["passes"].as_array().unwrap();
    assert!(passes.iter().any(|pass| pass["held"] == "changed-filter"), "{passes:?}");
    let synced = site.server.cli(&["sync", "--dataset", "notes"]);
    assert!(stdout(&synced).contains("held: changed filter"), "{}", stdout(&synced));
    assert_eq!(of_values(), 40, "nothing was touched");
    let synced = site.server.cli(&["sync", "--dataset", "notes", "--approve"]);
    assert!(!stdout(&synced).contains("held"), "{}", stdout(&synced));
    site.server.until("the copies are references", || of_values() == 0);
    site.server.until_idle();

    // Keys of somebody else under a prefix that is added are not taken for records at once.
    let theirs = site.store("kv");
    for n in 0..30 {
        let sql = "INSERT INTO kv(key, value) VALUES (?1, CAST('theirs' AS BLOB))";
        theirs.execute(sql, [format!("shop/{n}")]).unwrap();
    }
    let shop = "\n[[dataset]]\nname = \"shop\"\nkind = \"text\"\nd1 = {}\nkv = {}\n";
    let (code, said) = site.reload(&format!("{referred}{brief}{shop}{brief}"));
    assert_eq!(code, 0, "{said}");
    site.server.until("it is held", || {
        metric("tidelock_pass_held{dataset=\"shop\",store=\"kv\",over=\"everything\"} 1")
    });
    let records = || site.server.send("GET", "/v1/records/shop", b"").json();
    assert_eq!(records()["records"].as_array().map(Vec::len), Some(0), "{}", records());
    site.server.cli(&["sync", "--dataset", "shop", "--approve"]);
    site.server
        .until("they are records", || records()["records"].as_array().map(Vec::len) == Some(30));
}
