//! `import` and `export`: every file there and back, and nothing outside the folder.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::{Value, json};
use server::{Server, folder, stderr, stdout};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use walkdir::WalkDir;

/// Over what D1 takes whole.
const LARGE: usize = 3_000_000;

/// Bytes that no compression or default could produce by accident.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut block = 0_u64;
    while bytes.len() < length {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&block.to_le_bytes());
        bytes.extend_from_slice(hasher.finalize().as_bytes());
        block += 1;
    }
    bytes.truncate(length);
    bytes
}

/// Every plain file below a folder, by relative path.
fn files_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = WalkDir::new(root).into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_file());
    let named = files.map(|entry| {
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (path, fs::read(entry.path()).unwrap())
    });
    named.collect()
}

fn write(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn summary(output: &std::process::Output) -> Value {
    serde_json::from_str(&stdout(output))
        .unwrap_or_else(|error| panic!("{error}: {} {}", stdout(output), stderr(output)))
}

fn put(server: &Server, dataset: &str, key: &str, text: &str) {
    let one = json!({ "op": "put", "dataset": dataset, "key": key, "text": text });
    let batch = json!({ "operations": [one] }).to_string();
    let reply = server.send("POST", "/v1/records:batch", batch.as_bytes());
    assert_eq!(reply.json()["results"][0]["status"], 201, "{key}: {}", reply.text());
}

#[test]
fn what_is_no_plain_file_or_too_large_is_named_and_the_rest_goes_on() {
    let (folder, data) = folder();
    let server = Server::start(&data);
    let source = folder.path().join("source");
    write(source.join("a.txt"), b"a");
    write(source.join("sub/deep/b.bin"), &[0, 255]);
    write(source.join("empty"), b"");
    symlink("/etc/passwd", source.join("link")).unwrap();
    symlink(folder.path(), source.join("sub/loop")).unwrap();
    assert!(Command::new("mkfifo").arg(source.join("fifo")).status().unwrap().success());
    let huge = fs::File::create(source.join("huge")).unwrap();
    huge.set_len(64 * 1024 * 1024 + 1).unwrap();
    write(source.join(format!("{}/{}/long", "k".repeat(255), "k".repeat(255))), b"x");

    let path = source.display().to_string();
    let output = server.cli(&["import", "--dataset", "files", &path, "--json"]);
    let told = summary(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(
        (&told["stored"], &told["refused"], &told["skipped"]),
        (&json!(3), &json!(2), &json!(3))
    );
    let said = stderr(&output);
    for name in ["huge", "long", "link", "loop", "fifo"] {
        assert!(said.lines().any(|line| line.contains(name)), "{name}: {said}");
    }
    let listed = server.send("GET", "/v1/records/files", b"").json();
    let keys = listed["records"].as_array().unwrap().iter().map(|r| r["key"].as_str().unwrap());
    assert_eq!(keys.collect::<Vec<_>>(), ["a.txt", "empty", "sub/deep/b.bin"]);

    let wrong = server.cli(&["import", "--dataset", "nope", &path]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).contains("files, notes"));
    let missing = server.cli(&["import", "--dataset", "files", "no-such-folder"]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn keys_that_would_lead_out_of_the_folder_stay_in_it() {
    let (folder, data) = folder();
    let server = Server::start(&data);
    let absolute = folder.path().join("absolute-target").display().to_string();
    let keys = [
        "../../x",
        absolute.as_str(),
        "a//b",
        "a/./c",
        "a/../d",
        "plain",
        "plain/below",
        "%2E%2E/e",
        "UPPER",
        "upper",
    ];
    for key in keys {
        put(&server, "files", key, key);
    }
    put(&server, "files", &"n".repeat(300), "too long a name");
    let out = folder.path().join("deep/er/out");
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    let outside = |root: &Path| {
        let mut all = files_below(root);
        all.retain(|path, _| !path.starts_with("data") && !path.starts_with("deep/er/out"));
        all
    };
    let before = outside(folder.path());
    let output =
        server.cli(&["export", "--dataset", "files", &out.display().to_string(), "--json"]);
    let told = summary(&output);
    assert_eq!(output.status.code(), Some(1), "the long name is refused: {told}");
    assert_eq!((&told["saved"], &told["refused"]), (&json!(keys.len()), &json!(1)));
    assert!(!Path::new(&absolute).exists());
    assert_eq!(outside(folder.path()), before, "nothing was written outside");
    let saved = files_below(&out);
    let check = |path: &str, key: &str| {
        assert_eq!(saved.get(path).map(Vec::as_slice), Some(key.as_bytes()), "{path}");
    };
    check("%2E%2E/%2E%2E/x", "../../x");
    check("a/%2Fb", "a//b");
    check("a/%2E/c", "a/./c");
    check("a/%2E%2E/d", "a/../d");
    check("plain", "plain");
    check("plain%2Fbelow", "plain/below");
    check("%252E%252E/e", "%2E%2E/e");
    check(&absolute.replacen('/', "%2F", 1), &absolute);
    let said = stderr(&output);
    assert!(said.contains("\"../../x\" is saved as \"%2E%2E/%2E%2E/x\""), "{said}");
}

#[test]
fn what_stands_in_the_folder_is_neither_overwritten_nor_followed() {
    let (folder, data) = folder();
    let server = Server::start(&data);
    for key in ["file", "link", "through/x", "other"] {
        put(&server, "notes", key, "new");
    }
    let out = folder.path().join("out");
    let elsewhere = folder.path().join("elsewhere");
    write(out.join("file"), b"old");
    write(elsewhere.join("target"), b"old");
    symlink(elsewhere.join("target"), out.join("link")).unwrap();
    symlink(&elsewhere, out.join("through")).unwrap();
    let output =
        server.cli(&["export", "--dataset", "notes", &out.display().to_string(), "--json"]);
    let told = summary(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!((&told["saved"], &told["refused"]), (&json!(1), &json!(3)), "{told}");
    assert_eq!(fs::read(out.join("file")).unwrap(), b"old");
    let untouched = BTreeMap::from([("target".to_owned(), b"old".to_vec())]);
    assert_eq!(files_below(&elsewhere), untouched);

    let lines = folder.path().join("out.jsonl").display().to_string();
    assert_eq!(server.cli(&["export", "--dataset", "notes", &lines]).status.code(), Some(0));
    let again = server.cli(&["export", "--dataset", "notes", &lines]);
    assert_eq!(again.status.code(), Some(1), "an existing file is not overwritten");
}

#[test]
fn lines_go_there_and_back() {
    let (folder, data) = folder();
    let server = Server::start(&data);
    let lines = folder.path().join("in.jsonl");
    let text = "{\"key\":\"../t\",\"value\":\"text\\n\"}\n\n{\"key\":\"j\",\"value\":{\"a\":[1]}}\nnonsense\n{\"key\":\"b\",\"base64\":\"AP8=\"}\n{\"key\":\"\",\"value\":\"x\"}\n";
    fs::write(&lines, text).unwrap();
    let path = lines.display().to_string();
    let output = server.cli(&["import", "--dataset", "files", &path, "--json"]);
    let told = summary(&output);
    assert_eq!(
        (output.status.code(), &told["stored"], &told["refused"]),
        (Some(1), &json!(3), &json!(2))
    );
    for place in [format!("{path}:4"), format!("{path}:6")] {
        assert!(stderr(&output).contains(&place), "{}", stderr(&output));
    }
    let out = folder.path().join("out.jsonl");
    let saved = server.cli(&["export", "--dataset", "files", &out.display().to_string()]);
    assert_eq!(saved.status.code(), Some(0), "{}", stderr(&saved));
    let mut lines: Vec<Value> = fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.sort_by_key(|line| line["key"].as_str().unwrap().to_owned());
    assert_eq!(
        lines,
        [
            json!({ "key": "../t", "value": "text\n" }),
            json!({ "key": "b", "base64": "AP8=" }),
            json!({ "key": "j", "value": "{\"a\":[1]}" }),
        ]
    );
}

#[test]
fn verbs_on_one_record() {
    let (folder, data) = folder();
    let server = Server::start(&data);
    let file = folder.path().join("value");
    fs::write(&file, noise(1, LARGE)).unwrap();
    let path = file.display().to_string();
    let done = server.cli(&["put", "files", "v", &path, "--create", "--json"]);
    let told = summary(&done);
    assert_eq!((done.status.code(), &told["pending"]), (Some(0), &json!([])), "{told}");
    assert_eq!(server.cli(&["put", "files", "v", &path, "--create"]).status.code(), Some(1));
    let etag = told["etag"].as_str().unwrap();
    let copy = folder.path().join("copy").display().to_string();
    let got = server.cli(&["get", "files", "v", "--store", "d1", "-o", &copy, "--json"]);
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    assert_eq!(summary(&got)["note"], "reference", "{}", stdout(&got));
    assert!(fs::read(&copy).unwrap() == noise(1, LARGE));
    let over = server.cli(&["get", "files", "v", "-o", &copy]);
    assert_eq!(over.status.code(), Some(1), "an existing file is not overwritten");
    assert_eq!(server.cli(&["get", "files", "nope"]).status.code(), Some(4));
    assert_eq!(server.cli(&["get", "files"]).status.code(), Some(2));
    let status = server.cli(&["status", "--json"]);
    assert_eq!(summary(&status)["datasets"][0]["name"], "files");
    assert!(stdout(&server.cli(&["status"])).contains("breaker closed"));
    assert_eq!(server.cli(&["delete", "files", "v", "--if-match", "0"]).status.code(), Some(1));
    assert_eq!(server.cli(&["delete", "files", "v", "--if-match", etag]).status.code(), Some(0));
    assert_eq!(server.cli(&["get", "files", "v"]).status.code(), Some(4));
}

/// A thousand files as they come: from the registry of this machine's cargo where there is one,
/// and some that are too large for a row of D1.
fn a_thousand_files(root: &Path) -> usize {
    let mut count = 0_usize;
    for large in 0..4 {
        write(root.join(format!("large/{large}.bin")), &noise(large, LARGE + large as usize));
        count += 1;
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let registry = home.map(|home| home.join("registry/src")).filter(|path| path.is_dir());
    let found = registry.iter().flat_map(WalkDir::new).filter_map(Result::ok);
    for entry in found.filter(|entry| entry.file_type().is_file()) {
        if count >= 1_000 {
            break;
        }
        let below = entry.path().strip_prefix(registry.as_ref().unwrap()).unwrap();
        if below.to_str().is_some_and(|key| key.len() < 400) {
            write(root.join("registry").join(below), &fs::read(entry.path()).unwrap());
            count += 1;
        }
    }
    while count < 1_000 {
        let at = count as u64;
        write(root.join(format!("made/{}/{at}", at % 17)), &noise(at, (at as usize * 37) % 9_000));
        count += 1;
    }
    count
}

#[test]
fn a_thousand_files_come_back_the_same_from_every_store() {
    let (folder, data) = folder();
    let server = Server::start(&data);
    let source = folder.path().join("source");
    let count = a_thousand_files(&source);
    let path = source.display().to_string();
    let output = server.cli(&["import", "--dataset", "files", &path, "--json"]);
    let told = summary(&output);
    assert_eq!(
        (output.status.code(), &told["stored"]),
        (Some(0), &json!(count)),
        "{}",
        stderr(&output)
    );
    let status = server.send("GET", "/v1/status", b"").json();
    let commits = status["coordinator"]["counters"]["commits"].as_u64().unwrap();
    assert!(commits < count as u64, "commits are shared: {commits} for {count} files");
    server.until_idle();
    let expected = files_below(&source);
    assert_eq!(expected.len(), count);
    for store in ["kv", "d1", "r2"] {
        let out = folder.path().join(format!("out-{store}"));
        let to = out.display().to_string();
        let output = server.cli(&["export", "--dataset", "files", "--store", store, &to, "--json"]);
        let told = summary(&output);
        assert_eq!(output.status.code(), Some(0), "{told} {}", stderr(&output));
        assert_eq!((&told["saved"], &told["missing"]), (&json!(count), &json!(0)), "{store}");
        let referred = expected.values().filter(|bytes| store == "d1" && bytes.len() > 1_936_000);
        assert_eq!(told["references"], referred.count(), "{store}");
        let saved = files_below(&out);
        for (path, bytes) in &expected {
            assert!(saved.get(path) == Some(bytes), "{path} differs in {store}");
        }
        assert_eq!(saved.len(), count, "{store}");
    }
}
