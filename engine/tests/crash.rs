//! What was acknowledged outlives kill -9 and a full disk.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use server::{Server, folder, stderr};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

/// Rounds of kill -9; more with `TIDELOCK_KILL_ROUNDS`.
const KILL_ROUNDS: u32 = 3;
const FILES: usize = 400;

fn value(round: u32, file: usize) -> Vec<u8> {
    let seed = format!("{round}/{file}");
    let hash = blake3::hash(seed.as_bytes());
    // Some are longer than a page of any of the stores' files.
    hash.as_bytes().repeat(1 + (file * 7) % 300)
}

fn value_of(round: u32, key: &str) -> Vec<u8> {
    let file = key.rsplit('/').next().unwrap().parse().unwrap();
    value(round, file)
}

fn write_files(root: &Path, round: u32) {
    for file in 0..FILES {
        let path = root.join(format!("r{round}/{}/{file}", file % 10));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value(round, file)).unwrap();
    }
}

/// Each key reads back from the authority and, once nothing is owed, from every store.
fn check_all(server: &Server, acknowledged: &BTreeMap<String, u32>, stores: &[&str]) {
    for (key, round) in acknowledged {
        for store in stores {
            let reply = server.send("GET", &format!("/v1/records/files/{key}{store}"), b"");
            assert_eq!(reply.status, 200, "{key}{store} is lost: {}", reply.text());
            assert!(reply.body == value_of(*round, key), "{key}{store} differs");
        }
    }
}

#[test]
fn kill_9_in_the_middle_of_an_import_loses_nothing_acknowledged() {
    let rounds = std::env::var("TIDELOCK_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: u32 = rounds.unwrap_or(KILL_ROUNDS);
    let (folder, data) = folder();
    let mut acknowledged: BTreeMap<String, u32> = BTreeMap::new();
    let mut cut_off = 0;
    for round in 0..rounds {
        let server = Server::start(&data);
        check_all(&server, &acknowledged, &["?read=latest"]);
        let source = folder.path().join(format!("source{round}"));
        write_files(&source, round);
        let path = source.display().to_string();
        let mut command =
            server::cli_with(&["import", "--dataset", "files", "--each", "--json", &path], &data);
        let mut import = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // The kill comes after a random number of acknowledgements and a random while.
        let after = rand::random_range(1..FILES - 50);
        let while_us = rand::random_range(0..40_000);
        let mut server = Some(server);
        let mut stored = 0;
        for line in BufReader::new(import.stdout.take().unwrap()).lines() {
            let told: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let (Some(key), true) = (told["key"].as_str(), told["etag"].is_string()) else {
                continue;
            };
            acknowledged.insert(key.to_owned(), round);
            stored += 1;
            if stored == after {
                sleep(Duration::from_micros(while_us));
                server.take().expect("killed once").kill();
                // The import would wait for it to come back.
                import.kill().unwrap();
            }
        }
        import.wait().unwrap();
        assert!(server.is_none(), "round {round}: the import ended after {stored} of {after}");
        cut_off += usize::from(stored < FILES);
    }
    assert!(cut_off > 0, "no kill came in the middle");
    let server = Server::start(&data);
    check_all(&server, &acknowledged, &["?read=latest", ""]);
    server.until_idle();
    check_all(&server, &acknowledged, &["?store=d1", "?store=kv", "?store=r2"]);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn an_import_outlives_a_restart_of_the_server() {
    let (folder, data) = folder();
    let server = Server::start(&data);
    let source = folder.path().join("source");
    write_files(&source, 0);
    let path = source.display().to_string();
    let address = server.address.to_string();
    let mut command = server::cli_with(&["import", "--dataset", "files", "--each", &path], &data);
    let mut import = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(import.stdout.take().unwrap()).lines();
    for _ in 0..50 {
        lines.next().unwrap().unwrap();
    }
    server.kill();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidelock"));
    command.args(["serve", "--listen", &address, "--data"]).arg(&data);
    let server = Server::run(command, &data);
    // The rest, to the summary.
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let output = import.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{rest:?} {}", stderr(&output));
    let all = (0..FILES).map(|file| (format!("r0/{}/{file}", file % 10), 0)).collect();
    check_all(&server, &all, &["?read=latest"]);
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_acknowledged() {
    let (_folder, data) = folder();
    // The folder is made with room enough.
    assert_eq!(Server::start(&data).stop().code(), Some(0));
    let server = Server::start_on_small_disk(&data, 4 * 1024);
    let mut acknowledged = BTreeMap::new();
    let mut not_stored = 0;
    let text = |n: u32| format!("{n} ").repeat(120_000);
    for n in 0..400_u32 {
        let path = format!("/v1/records/files/{n}");
        let Ok(reply) = server.try_send("PUT", &path, &[], text(n).as_bytes()) else { break };
        match reply.status {
            200..=202 => {
                acknowledged.insert(n, reply.status);
            }
            429 | 503 => {
                let problem = reply.json();
                let outcome = problem["outcome"].as_str();
                assert!(reply.problem() != "store-unavailable" || outcome == Some("refused"));
                assert!(problem["retryable"].as_bool().unwrap());
                not_stored += 1;
            }
            other => panic!("{other}: {}", reply.text()),
        }
        if not_stored >= 20 {
            break;
        }
    }
    assert!(!acknowledged.is_empty(), "{}", server.log());
    assert!(not_stored > 0, "the disk never filled up: {acknowledged:?}");
    server.kill();
    let server = Server::start(&data);
    for (n, status) in &acknowledged {
        let reply = server.send("GET", &format!("/v1/records/files/{n}?read=latest"), b"");
        assert_eq!(reply.status, 200, "{n}, acknowledged with {status}, is lost: {}", reply.text());
        assert!(reply.text() == text(*n), "{n} differs");
    }
    assert_eq!(server.send("PUT", "/v1/records/files/new", b"room again").status, 201);
    server.until_idle();
    assert_eq!(server.stop().code(), Some(0));
}
