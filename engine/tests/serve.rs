//! `tidelock serve`: first start, refusals to start, and stopping.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use server::{Server, folder, refused_start, stdout};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use tidelock_engine::policy::parse;

#[test]
fn the_first_start_says_where_everything_is_and_keeps_the_token_to_its_owner() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    assert_eq!(fs::read_to_string(data.join("tidelock.toml")).unwrap(), parse::DEFAULT);
    let mode = |name: &str| fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("token"), 0o600);
    assert_eq!(mode(""), 0o700);
    let banner = server.banner();
    let absolute = data.display().to_string();
    let address = server.address.to_string();
    let promises = ["files: an acknowledged write", "notes: an acknowledged write"];
    for said in [absolute.as_str(), &address, "no Cloudflare account is touched"] {
        assert!(banner.contains(said), "{said}: {banner}");
    }
    for said in promises {
        assert!(banner.contains(said), "{said}: {banner}");
    }
    assert!(!banner.contains(&server.token) && !server.log().contains(&server.token));

    let token = server.token.clone();
    assert_eq!(server.stop().code(), Some(0));
    assert!(!data.join("address").exists(), "nobody answers there any more");
    fs::set_permissions(data.join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let again = Server::start(&data);
    assert_eq!(again.token, token, "the token stays");
    assert_eq!(mode("token"), 0o600, "and is closed to others again");
}

#[test]
fn a_second_process_on_the_folder_is_refused_by_folder_and_pid() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let (code, said) = refused_start(&data, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&data.display().to_string()), "{said}");
    assert!(said.contains(&format!("pid {}", server.pid())), "{said}");
    assert_eq!(server.send("GET", "/v1/status", b"").status, 200, "the first one goes on");
}

#[test]
fn a_malformed_configuration_is_refused_by_file_line_and_field() {
    let (folder, data) = folder();
    let file = folder.path().join("mine.toml");
    fs::write(&file, "listen = \"127.0.0.1:0\"\n[[dataset]]\nname = \"a\"\nkind = \"video\"\n")
        .unwrap();
    let file = file.display().to_string();
    let (code, said) = refused_start(&data, &["--config", &file]);
    assert_eq!(code, 2, "{said}");
    for part in [file.as_str(), ":4:", "kind"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    fs::write(&file, "listen = [").unwrap();
    let (code, said) = refused_start(&data, &["--config", &file]);
    assert_eq!((code, said.contains(&file)), (2, true), "{said}");
    let (code, said) = refused_start(&data, &["--config", "no-such-file.toml"]);
    assert_eq!((code, said.contains("no-such-file.toml")), (2, true), "{said}");
    let (code, _) = refused_start(&data, &["--no-such-flag"]);
    assert_eq!(code, 2);
}

#[test]
fn what_cannot_be_used_is_named_and_left_alone() {
    let (folder, data) = folder();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    for wrong in [file.clone(), file.join("below")] {
        let (code, said) = refused_start(&wrong, &[]);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains(&wrong.display().to_string()), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a folder");

    let server = Server::start(&data);
    let other = folder.path().join("other");
    let (code, said) = refused_start(&other, &["--listen", "127.0.0.1:0"]);
    assert_eq!(code, 2, "one flag twice: {said}");
    let taken = server.address.to_string();
    let config = folder.path().join("taken.toml");
    fs::write(&config, parse::DEFAULT.replace("127.0.0.1:7878", &taken)).unwrap();
    let config = config.display().to_string();
    let output = server::cli_with(&["serve", "--config", &config], &other).output().unwrap();
    let said = server::stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&taken), "{said}");

    drop(server);
    fs::write(data.join("token"), "short\n").unwrap();
    let (code, said) = refused_start(&data, &[]);
    assert_eq!((code, said.contains("token")), (3, true), "{said}");
}

#[test]
fn a_damaged_journal_is_refused_and_not_touched() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    for n in 0..20 {
        assert_eq!(server.send("PUT", &format!("/v1/records/notes/{n}"), b"text").status, 201);
    }
    assert_eq!(server.stop().code(), Some(0));
    let path = data.join("journal.redb");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    // Head and body: nothing of it can be trusted.
    for at in (0..damaged.len()).step_by(64) {
        damaged[at] ^= 0xff;
    }
    fs::write(&path, &damaged).unwrap();
    let (code, said) = refused_start(&data, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("journal.redb") && said.contains("damaged"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), damaged, "evidence is not overwritten");
    fs::write(&path, &whole).unwrap();
    let server = Server::start(&data);
    assert_eq!(server.send("GET", "/v1/records/notes/7", b"").body, b"text");
}

#[test]
fn sigterm_refuses_new_writes_delivers_what_is_owed_and_exits_0() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let mut acknowledged = vec![];
    let mut signalled = false;
    for n in 0..10_000 {
        let path = format!("/v1/records/files/{n}");
        match server.try_send("PUT", &path, &[], n.to_string().as_bytes()) {
            Ok(reply) if (200..300).contains(&reply.status) => acknowledged.push(n),
            Ok(reply) => {
                assert!(signalled, "{reply:?}");
                assert_eq!(reply.problem(), "stopping");
                assert!(reply.header("retry-after").is_some());
            }
            Err(_) => break,
        }
        if n == 60 {
            // KV takes one write a second for each key: delivering these lasts a while.
            for text in [b"1", b"2", b"3"] {
                assert!(server.send("PUT", "/v1/records/notes/hot", text).status < 300);
            }
            server.signal("-TERM");
            signalled = true;
        }
    }
    let log = data.with_extension("log");
    let status = server.ended();
    assert_eq!(status.code(), Some(0), "{}", fs::read_to_string(&log).unwrap());
    assert!(fs::read_to_string(&log).unwrap().contains("in its stores"));
    let server = Server::start(&data);
    for n in acknowledged {
        for store in ["d1", "kv", "r2"] {
            let reply = server.send("GET", &format!("/v1/records/files/{n}?store={store}"), b"");
            assert_eq!(reply.text(), n.to_string(), "{store}");
        }
    }
    assert_eq!(server.send("GET", "/v1/records/notes/hot?store=kv", b"").text(), "3");
}

#[test]
fn the_log_can_be_json_and_a_signal_twice_ends_it_at_once() {
    let (_folder, data) = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidelock"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"]).arg(&data);
    command.env("RUST_LOG", "debug");
    let server = Server::run(command, &data);
    server.send("GET", "/v1/status", b"");
    let log = server.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["fields"]["message"] == "serving"), "{log}");
    server.signal("-INT");
    // The second may find it gone already.
    let _ = Command::new("kill").args(["-INT", &server.pid().to_string()]).output();
    let status = server.ended();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

#[test]
fn verbs_explain_a_server_that_is_not_there() {
    let (_folder, data) = folder();
    let output = server::cli_with(&["status"], &data).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let said = server::stderr(&output);
    assert!(
        said.contains("tidelock serve") && said.contains(&data.display().to_string()),
        "{said}"
    );
    let server = Server::start(&data);
    server.kill();
    let output = server::cli_with(&["get", "notes", "a", "--json"], &data).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let told: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(told["error"].as_str().unwrap().contains("does not answer"), "{told}");
    let mut command = server::cli_with(&["status"], &data);
    let server = Server::start(&data);
    let output = command.env("TIDELOCK_TOKEN", "wrong-wrong-wrong-wrong").output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", server.log());
}
