//! JSON patches against the public suite of RFC 6902 (json-patch/json-patch-tests), as the sources of
//! the `json-patch` crate carry it, and against that crate itself.

#![expect(clippy::disallowed_methods, reason = "the suite lies in cargo's folder of sources")]

use proptest::prelude::*;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use tidelock_engine::json::Node;
use tidelock_engine::patch::{JSON_PATCH, MERGE_PATCH, Patch};

/// The folder of the suite; cargo has unpacked it to build this test. Not `--offline`: cargo tells only
/// when it has the sources of all platforms and members, and may have to get some.
fn suite() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {problem}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "json-patch");
    let manifest = package.expect("json-patch is a dependency")["manifest_path"].as_str().unwrap();
    PathBuf::from(manifest).with_file_name("specs")
}

/// Runs the cases of one file; gives how many there were.
fn run(file: &str) -> usize {
    let path = suite().join(file);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases: Vec<Value> = serde_json::from_slice(&text).expect("a list of cases");
    let mut ran = 0;
    for case in &cases {
        if case["disabled"] == true || case.get("patch").is_none() {
            continue;
        }
        ran += 1;
        let media_type = if case["merge"] == true { MERGE_PATCH } else { JSON_PATCH };
        let found = Patch::parse(media_type, case["patch"].to_string().as_bytes())
            .and_then(|patch| patch.apply(case["doc"].to_string().as_bytes()));
        match (found, case.get("error"), case.get("expected")) {
            (Err(_), Some(_), _) | (Ok(_), None, None) => {}
            (Ok(bytes), None, Some(expected)) => {
                let expected = expected.to_string();
                let expected = Node::parse(expected.as_bytes()).unwrap();
                assert!(Node::parse(&bytes).unwrap().same(&expected), "{case}");
            }
            (found, _, _) => panic!("{case}: {found:?}"),
        }
    }
    ran
}

#[test]
fn the_suite_of_rfc_6902() {
    assert_eq!(run("spec_tests.json"), 16);
    assert_eq!(run("tests.json"), 102);
    assert_eq!(run("revert_tests.json"), 13);
    assert_eq!(run("merge_tests.json"), 3);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        (0..3u8).prop_map(Value::from),
        "[ab]".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_same_as_the_json_patch_crate(
        document in value(),
        operations in proptest::collection::vec(
            ("add|remove|replace|move|copy|test", "(/[abc012]){1,3}", "(/[abc01]){1,3}", value()),
            1..4,
        ),
        change in value(),
    ) {
        let operations: Vec<Value> = operations.into_iter().map(|(op, path, from, value)| {
            serde_json::json!({ "op": op, "path": path, "from": from, "value": value })
        }).collect();
        let text = Value::from(operations).to_string();
        let ours = Patch::parse(JSON_PATCH, text.as_bytes()).unwrap()
            .apply(document.to_string().as_bytes());
        let patch: json_patch::Patch = serde_json::from_str(&text).unwrap();
        let mut theirs = document.clone();
        // Its safe variant panics where it cannot undo.
        let done = json_patch::patch_unsafe(&mut theirs, &patch);
        prop_assert_eq!(ours.is_ok(), done.is_ok(), "{} {}: {:?} {:?}", document, text, ours, done);
        if let Ok(bytes) = ours {
            prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), theirs);
        }
        let ours = Patch::parse(MERGE_PATCH, change.to_string().as_bytes()).unwrap()
            .apply(document.to_string().as_bytes()).unwrap();
        let mut theirs = document;
        json_patch::merge(&mut theirs, &change);
        prop_assert_eq!(serde_json::from_slice::<Value>(&ours).unwrap(), theirs);
    }
}
