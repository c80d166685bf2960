//! The audit log on the command line: what it tells without a server, and that tampering is noticed.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks"
)]

mod server;

use serde_json::Value;
use server::{cli_with, folder, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidelock_engine::audit::{Conflict, ConflictFacts, ConflictId, Event, Head, Original};
use tidelock_engine::production::audit::{Log, Retention};
use tidelock_engine::production::journal::FolderLock;
use tidelock_engine::record::RecordId;
use tidelock_engine::row::Seq;
use tidelock_engine::version::{Actor, ContentHash, Dot, NodeId, SiteId, Stamp};

const AT_MS: u64 = 1_790_000_000_000;

fn original(node: u16, text: &str) -> Original {
    let dot = Dot { actor: Actor { node: NodeId(node), incarnation: 7 }, counter: 3 };
    let stamp = Stamp { wall_ms: AT_MS, logical: 0 };
    let (hash, bytes) = (ContentHash::of(text.as_bytes()), text.len() as u64);
    Original { dot, stamp, hash, bytes, deleted: false, expires_at_ms: None }
}

fn conflict() -> Conflict {
    let (winner, loser) = (original(2, "later"), original(1, "earlier value"));
    Conflict::new(ConflictFacts {
        site: SiteId(0),
        record: RecordId { dataset: Arc::from("notes"), key: "tide\u{202e}/1".into() },
        seq: Seq(7),
        settled_ms: AT_MS,
        winner: winner.dot,
        won: Some(winner),
        losers: vec![loser],
        strategy: "lww".into(),
        why: None,
        contexts: None,
    })
}

fn restored(key: &str) -> Event {
    let mut facts = conflict().facts().clone();
    facts.record = RecordId { dataset: Arc::from("files"), key: key.into() };
    let (record, lost) = (facts.record.clone(), facts.losers[0].dot);
    let id = Conflict::new(facts).id();
    let (by, reason) = ("ops".into(), "".into());
    Event::Restored { conflict: id, record, lost, dot: original(3, "").dot, by, reason }
}

/// The folder's lock. A process that another test starts in this moment has it too until it becomes the
/// program that it is to be, so one that was just let go of may not be there yet.
fn lock(data: &Path) -> FolderLock {
    let begun = std::time::Instant::now();
    loop {
        match FolderLock::take(data) {
            Ok(lock) => return lock,
            Err(error) if begun.elapsed() > Duration::from_secs(20) => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A data folder with a log of three entries: a conflict, an operator with colours, a value that was brought back.
fn filled() -> (TempDir, PathBuf, Head) {
    let (folder, data) = folder();
    let held = lock(&data);
    let mut log = Log::open(&data, &held).unwrap();
    let operator = Event::Operator {
        who: "ops".into(),
        action: "store open".into(),
        target: "kv".into(),
        reason: "\u{1b}[31mred\nline".into(),
    };
    let events = [Event::Conflict(Box::new(conflict())), operator, restored("f")];
    let events: Vec<_> = events.into_iter().zip(AT_MS..).map(|(e, at)| (at, e)).collect();
    log.append(&events).unwrap();
    let head = log.head();
    (folder, data, head)
}

fn audit(data: &Path, args: &[&str]) -> Output {
    cli_with(&[&["audit"], args].concat(), data).output().unwrap()
}

#[track_caller]
fn ended(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
    stdout(output)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_log_verifies_without_a_server_and_against_a_head_noted_before() {
    let (_folder, data, head) = filled();
    let told = ended(&audit(&data, &["verify"]), 0);
    assert!(told.contains("3 entries, 1 to 3") && told.contains(&head.hash.to_text()), "{told}");
    let hash = head.hash.to_text();
    let told = ended(&audit(&data, &["verify", "--expect-head", &hash, "--json"]), 0);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["verified"], &told["expected_at"]), (&true.into(), &3.into()));
    assert_eq!(told["head"]["hash"], hash);
    let other = ContentHash::of(b"another").to_text();
    let output = audit(&data, &["verify", "--expect-head", &other]);
    ended(&output, 1);
    assert!(stderr(&output).contains(&other), "{}", stderr(&output));
    ended(&audit(&data, &["verify", "--expect-head", "abc"]), 2);
    let output = audit(&data.join("nowhere"), &["verify"]);
    ended(&output, 2);
    assert!(stderr(&output).contains("--data"), "{}", stderr(&output));
}

#[test]
fn tampering_is_told_with_its_place() {
    let (_folder, data, _) = filled();
    let path = data.join("audit/00000001.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"who\":\"ops\"", "\"who\":\"sub\"")).unwrap();
    let output = audit(&data, &["verify"]);
    ended(&output, 1);
    let told = stderr(&output);
    assert!(
        told.contains("entry 2 was altered") && told.contains("00000001.jsonl, line 2"),
        "{told}"
    );
    let told = ended(&audit(&data, &["verify", "--json"]), 1);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["verified"], false);
    assert_eq!(told["broken"]["seq"], 2);
    assert_eq!(told["broken"]["wrong"], "altered");
    assert_eq!(told["broken"]["place"]["line"], 2);
    let output = audit(&data, &["list", "--json"]);
    assert_eq!(lines(&ended(&output, 1)).len(), 2, "what was altered is not shown as an entry");
    assert!(stderr(&output).contains("audit verify"));
}

#[test]
fn entries_are_listed_from_the_newest_and_filtered() {
    let (_folder, data, _) = filled();
    let list = |args: &[&str]| ended(&audit(&data, &[&["list"], args].concat()), 0);
    let told = list(&[]);
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("restored") && told[0].contains("2026-09-21"), "{told:?}");
    assert!(told[1].contains("[31mred") && !told[1].contains('\u{1b}'), "{told:?}");
    assert!(told[2].contains(&conflict().id().to_string()), "{told:?}");
    let numbers = |args: &[&str]| -> Vec<u64> {
        let told = list(&[args, &["--json"]].concat());
        lines(&told).iter().map(|entry| entry["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&[]), [3, 2, 1]);
    assert_eq!(numbers(&["--dataset", "notes"]), [1]);
    assert_eq!(numbers(&["--kind", "operator"]), [2]);
    assert_eq!(numbers(&["--since", &(AT_MS + 1).to_string()]), [3, 2]);
    assert_eq!(numbers(&["--limit", "2"]), [3, 2]);
    let output = audit(&data, &["list", "--limit", "2"]);
    let next = stderr(&output);
    let next = next.trim().rsplit(' ').next().unwrap();
    assert_eq!(numbers(&["--cursor", next]), [1]);
    for wrong in [["--kind", "mistake"], ["--since", "soon"], ["--cursor", "x"], ["--limit", "0"]] {
        ended(&audit(&data, &["list", wrong[0], wrong[1]]), 2);
    }
}

#[test]
fn a_conflict_is_shown_by_its_id_with_what_followed_from_it() {
    let (_folder, data, _) = filled();
    let id: ConflictId = conflict().id();
    let record = conflict().facts().record.clone();
    {
        let held = lock(&data);
        let (dot, lost) = (original(2, "").dot, original(1, "").dot);
        let (by, reason) = ("ops".into(), "wrong one".into());
        let restored = Event::Restored { conflict: id, record, lost, dot, by, reason };
        Log::open(&data, &held).unwrap().append(&[(AT_MS + 9, restored)]).unwrap();
    }
    let told = ended(&audit(&data, &["show", &id.to_string()]), 0);
    let (winner, loser) = (original(2, "later"), original(1, "earlier value"));
    for part in [
        format!("won       {} at", winner.dot),
        format!("lost      {} at", loser.dot),
        format!("13 bytes, {}", loser.hash),
        "by lww".to_owned(),
        "is back as".to_owned(),
    ] {
        assert!(told.contains(&part), "{part}: {told}");
    }
    assert!(!told.contains('\u{202e}'), "a key that turns the line around");
    let told = ended(&audit(&data, &["show", "2", "--json"]), 0);
    assert_eq!(lines(&told)[0]["event"]["reason"], "\u{1b}[31mred\nline");
    ended(&audit(&data, &["show", "99"]), 4);
    ended(&audit(&data, &["show", "x"]), 2);
}

#[test]
fn an_export_is_the_log_as_it_stands() {
    let (_folder, data, _) = filled();
    let all = std::fs::read_to_string(data.join("audit/00000001.jsonl")).unwrap();
    assert_eq!(ended(&audit(&data, &["export", "-o", "-"]), 0), all);
    let file = data.join("out.jsonl");
    let out = file.to_str().unwrap();
    let since = (AT_MS + 2).to_string();
    ended(&audit(&data, &["export", "--since", &since, "-o", out]), 0);
    let last = all.lines().last().unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{last}\n"));
    let output = audit(&data, &["export", "-o", out]);
    ended(&output, 1);
    assert!(stderr(&output).contains("out.jsonl"), "{}", stderr(&output));
}

#[test]
fn what_was_archived_verifies_with_the_log_and_the_log_without_it() {
    let (_folder, data, head) = filled();
    {
        let held = lock(&data);
        let mut log = Log::open(&data, &held).unwrap();
        let event = restored(&"k".repeat(400));
        let batch = vec![(AT_MS + 10, event); 5_000];
        for _ in 0..3 {
            log.append(&batch).unwrap();
        }
        let retention = Retention { keep: Duration::MAX, segments_max: 1 };
        log.archive(&retention, AT_MS + 20).unwrap().unwrap();
    }
    let hash = head.hash.to_text();
    let told = ended(&audit(&data, &["verify", "--expect-head", &hash]), 0);
    assert!(told.contains("15004 entries, 1 to 15004"), "{told}");
    std::fs::remove_dir_all(data.join("audit/archive")).unwrap();
    let told = ended(&audit(&data, &["verify"]), 0);
    assert!(told.contains("a checkpoint says that they were archived"), "{told}");
    let output = audit(&data, &["verify", "--expect-head", &hash]);
    ended(&output, 1);
    assert!(stderr(&output).contains("archived entry"), "{}", stderr(&output));
}

/// Two segments and the beginning of a third, all of them a hundred days old.
fn an_old_log(data: &Path) {
    std::fs::create_dir_all(data).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let old_ms = u64::try_from(now.as_millis()).unwrap() - 100 * 24 * 60 * 60 * 1_000;
    let mut log = Log::open(data, &lock(data)).unwrap();
    let event = Event::Operator {
        who: "ops".into(),
        action: "store open".into(),
        target: "kv".into(),
        reason: "why ".repeat(250).into(),
    };
    let batch = vec![(old_ms, event); 1_000];
    for _ in 0..15 {
        log.append(&batch).unwrap();
    }
}

#[test]
fn what_stays_in_the_log_is_configured_and_a_reload_applies_it() {
    let (_folder, data) = folder();
    an_old_log(&data);
    let file = data.join("tidelock.toml");
    let configure = |audit: &str| {
        let dataset = "[[dataset]]\nname = \"files\"\nkind = \"binary\"\nd1 = {}\n";
        std::fs::write(&file, format!("listen = \"127.0.0.1:0\"\n{audit}\n{dataset}")).unwrap();
    };
    let archived = || match std::fs::read_dir(data.join("audit/archive")) {
        Ok(archive) => archive.count(),
        Err(_) => 0,
    };
    configure("[audit]\nkeep = \"1h\"");
    let (code, error) = server::refused_start(&data, &[]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("audit.keep") && error.contains("\"1d\" to \"3650d\""), "{error}");

    configure("[audit]\nkeep = \"400d\"");
    let server = server::Server::start(&data);
    let shown = server.send("GET", "/v1/policies", b"").json();
    assert_eq!(shown["audit"]["keep_s"], 400 * 86_400);
    server.cli(&["store", "open", "kv", "--reason", "an entry"]);
    assert_eq!(archived(), 0, "younger than 400 days");
    configure("[audit]\nkeep = \"30d\"");
    let check = |args: &[&str]| stdout(&server.cli(args));
    assert!(check(&["policy", "reload", "--dry-run"]).contains("keeps entries of 30 days"));
    assert_eq!(archived(), 0);
    assert!(check(&["policy", "reload"]).contains("it kept entries of 400 days"));
    // It is applied with the entry that tells of the reload.
    server.until("the old segments have left", || archived() > 0);
    let verified = server.cli(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    std::fs::remove_dir_all(data.join("audit/archive")).unwrap();
    let verified = server.cli(&["audit", "verify"]);
    assert!(stdout(&verified).contains("a checkpoint says"), "{verified:?}");
    server.stop();
}
