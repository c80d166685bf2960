//! Patches by example. The public suite of RFC 6902 is in `tests/json_patch.rs`.

use super::*;
use proptest::prelude::*;

fn apply(media_type: &str, patch: &str, document: &str) -> Result<String, PatchError> {
    let patch = Patch::parse(media_type, patch.as_bytes())?;
    // What is kept and carried is the same patch.
    let carried = Patch::parse(patch.media_type(), &patch.to_bytes());
    assert_eq!(carried.as_ref(), Ok(&patch));
    let bytes = patch.apply(document.as_bytes())?;
    Ok(String::from_utf8(bytes).expect("JSON is text"))
}

#[test]
fn the_examples_of_rfc_7396() {
    let check = |document: &str, patch: &str, expected: &str| {
        let found = apply(MERGE_PATCH, patch, document);
        assert_eq!(found.as_deref(), Ok(expected), "{document} {patch}");
    };
    check(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
    check(r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#);
    check(r#"{"a":"b"}"#, r#"{"a":null}"#, "{}");
    check(r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#);
    check(r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
    check(r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#);
    check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
    check(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
    check(r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#);
    check(r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#);
    check(r#"{"a":"foo"}"#, "null", "null");
    check(r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#);
    check(r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#);
    check("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
    check("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
    // Not among them: what is not touched keeps its spelling, and names are what they mean.
    check(r#"{"a": [ 1.10 ],"b":1e400}"#, r#"{"c":1.0}"#, r#"{"a":[ 1.10 ],"b":1e400,"c":1.0}"#);
    check(r#"{"\u0061":1}"#, r#"{"a":2}"#, r#"{"\u0061":2}"#);
}

#[test]
fn operations() {
    let check = |document: &str, patch: &str, expected: &str| {
        let found = apply(JSON_PATCH, patch, document);
        assert_eq!(found.as_deref(), Ok(expected), "{document} {patch}");
    };
    check("{ }", "[]", "{ }");
    check(
        r#"{"n":1.10,"a": [1e400, 2]}"#,
        r#"[{"op":"add","path":"/a/1","value":1.0}]"#,
        r#"{"n":1.10,"a":[1e400,1.0,2]}"#,
    );
    check("[1]", r#"[{"op":"add","path":"/-","value":2},{"op":"remove","path":"/0"}]"#, "[2]");
    check(r#"{"a":1}"#, r#"[{"op":"add","path":"/~0~1","value":2}]"#, r#"{"a":1,"~/":2}"#);
    check(r#"{"a":1}"#, r#"[{"op":"replace","path":"","value":[ ]}]"#, "[ ]");
    check(
        r#"{"a":1,"ab":2}"#,
        r#"[{"op":"move","from":"/a","path":"/ab/"}]"#.replace("/ab/", "/ab").as_str(),
        r#"{"ab":1}"#,
    );
    check(
        r#"{"a":{"b":1},"ab":{}}"#,
        r#"[{"op":"move","from":"/a","path":"/ab/c"}]"#,
        r#"{"ab":{"c":{"b":1}}}"#,
    );
    check(r#"{"a":1}"#, r#"[{"op":"move","from":"/a","path":"/a"}]"#, r#"{"a":1}"#);
    check("[1,2,3]", r#"[{"op":"move","from":"/0","path":"/2"}]"#, "[2,3,1]");
    check(
        r#"{"a":[1]}"#,
        r#"[{"op":"add","path":"/a/-","value":2},{"op":"copy","from":"/a","path":"/b"},
        {"op":"add","path":"/b/0","value":0},{"op":"test","path":"/b","value":[0,1,2.0]}]"#,
        r#"{"a":[1,2],"b":[0,1,2]}"#,
    );
    check(r#"{"a":100}"#, r#"[{"op":"test","path":"/a","value":1e2}]"#, r#"{"a":100}"#);
    check("1", r#"[{"op":"copy","from":"","path":""}]"#, "1");
}

#[test]
fn what_is_in_the_way_is_said() {
    let document = r#"{"a":{"b":[1,2]},"n":null}"#;
    let check = |operation: &str, pointer: &str, why: Cannot| {
        let patch = format!(r#"[{{"op":"test","path":"/n","value":null}},{operation}]"#);
        match apply(JSON_PATCH, &patch, document) {
            Err(PatchError::Operation { operation: Some(1), pointer: at, why: found, .. }) => {
                assert_eq!((at.as_str(), found), (pointer, why), "{operation}");
            }
            found => panic!("{operation}: {found:?}"),
        }
    };
    check(r#"{"op":"add","path":"/x/y","value":1}"#, "/x/y", Cannot::NoParent);
    check(r#"{"op":"add","path":"/n/y","value":1}"#, "/n/y", Cannot::Scalar);
    check(r#"{"op":"add","path":"/a/b/3","value":1}"#, "/a/b/3", Cannot::PastEnd(2));
    check(r#"{"op":"add","path":"/a/b/01","value":1}"#, "/a/b/01", Cannot::Index("01".into()));
    check(r#"{"op":"add","path":"/a/b/x","value":1}"#, "/a/b/x", Cannot::Index("x".into()));
    check(r#"{"op":"remove","path":"/x"}"#, "/x", Cannot::Missing);
    check(r#"{"op":"remove","path":"/a/b/2"}"#, "/a/b/2", Cannot::PastEnd(2));
    check(r#"{"op":"remove","path":"/a/b/-"}"#, "/a/b/-", Cannot::PastEnd(2));
    check(r#"{"op":"remove","path":""}"#, "", Cannot::Root);
    check(r#"{"op":"replace","path":"/x","value":1}"#, "/x", Cannot::Missing);
    check(r#"{"op":"move","from":"/a","path":"/a/b/0"}"#, "/a/b/0", Cannot::IntoItself);
    check(r#"{"op":"move","from":"/x","path":"/y"}"#, "/x", Cannot::NoSource);
    check(r#"{"op":"copy","from":"/a/b/7","path":"/y"}"#, "/a/b/7", Cannot::NoSource);
    for test in
        [r#""path":"/a/b/0","value":2"#, r#""path":"/x","value":null"#, r#""path":"","value":{}"#]
    {
        let patch = format!(r#"[{{"op":"add","path":"/m","value":1}},{{"op":"test",{test}}}]"#);
        let found = apply(JSON_PATCH, &patch, document).unwrap_err();
        assert!(matches!(found, PatchError::TestFailed { operation: 1, .. }), "{found}");
    }
}

#[test]
fn what_is_no_patch_is_refused() {
    let check = |media_type: &str, patch: &str, says: &str| {
        let error = Patch::parse(media_type, patch.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(says), "{patch}: {error}");
    };
    check("application/json", "{}", MERGE_PATCH);
    check(MERGE_PATCH, "{", "is no JSON");
    check(JSON_PATCH, "{}", "an array of operations");
    check(JSON_PATCH, "[1]", "operation 0 of the patch: an operation is an object");
    check(JSON_PATCH, r#"[{"op":"spam","path":"/a"}]"#, "there are add, remove");
    check(JSON_PATCH, r#"[{"path":"/a"}]"#, "\"op\"");
    check(JSON_PATCH, r#"[{"op":"add","path":"/a"}]"#, "\"value\"");
    check(JSON_PATCH, r#"[{"op":"add","value":1}]"#, "\"path\"");
    check(JSON_PATCH, r#"[{"op":"remove","path":null}]"#, "\"path\"");
    check(JSON_PATCH, r#"[{"op":"copy","path":"/a"}]"#, "\"from\"");
    check(JSON_PATCH, r#"[{"op":"remove","path":"a"}]"#, "no JSON Pointer");
    check(JSON_PATCH, r#"[{"op":"remove","path":"/~2"}]"#, "no JSON Pointer");
    check(INCREMENT, r#"{"pointer":"a","by":1}"#, "pointer");
    check(INCREMENT, r#"{"pointer":"/a","by":1.5}"#, "increment");
    check(INCREMENT, r#"{"pointer":"/a","by":1,"to":2}"#, "to");
    let many = format!("[{}1]", "1,".repeat(OPERATIONS_MAX));
    check(JSON_PATCH, &many, "at most");
    assert!(Patch::parse("Application/Merge-Patch+JSON; charset=utf-8", b"{}").is_ok());
    let bad = apply(MERGE_PATCH, "{}", "{").unwrap_err();
    assert!(matches!(bad, PatchError::Document(_)));
}

#[test]
fn increments() {
    let increment = |document: &str, pointer: &str, by: i64| {
        apply(INCREMENT, &format!(r#"{{"pointer":"{pointer}","by":{by}}}"#), document)
    };
    let check = |document: &str, pointer: &str, by: i64, expected: &str| {
        assert_eq!(increment(document, pointer, by).as_deref(), Ok(expected), "{document}");
    };
    check(r#"{"n": 5, "p":1.10}"#, "/n", 2, r#"{"n":7,"p":1.10}"#);
    check("{}", "/n", -2, r#"{"n":-2}"#);
    check("7", "", 1, "8");
    check("[1,2]", "/1", 1, "[1,3]");
    check(r#"{"n":9007199254740992}"#, "/n", 1, r#"{"n":9007199254740993}"#);
    check(r#"{"n":18446744073709551614}"#, "/n", 1, r#"{"n":18446744073709551615}"#);
    check(
        r#"{"n":{"$integer":"9007199254740992"}}"#,
        "/n",
        1,
        r#"{"n":{"$integer":"9007199254740993"}}"#,
    );
    check(r#"{"n":{"$integer":"9007199254740992"}}"#, "/n", -1, r#"{"n":9007199254740991}"#);
    let refused = |document: &str, pointer: &str, by: i64, cannot: Cannot| match increment(
        document, pointer, by,
    ) {
        Err(PatchError::Operation { operation: None, why, .. }) => assert_eq!(why, cannot),
        found => panic!("{document}: {found:?}"),
    };
    refused(r#"{"n":"5"}"#, "/n", 1, Cannot::NoInteger("text"));
    refused(r#"{"n":null}"#, "/n", 1, Cannot::NoInteger("null"));
    refused(r#"{"n":1.0}"#, "/n", 1, Cannot::NoInteger("a fraction"));
    refused(r#"{"n":{}}"#, "/n", 1, Cannot::NoInteger("an object"));
    refused(r#"{"n":18446744073709551615}"#, "/n", 1, Cannot::Overflow);
    refused(r#"{"n":-9223372036854775808}"#, "/n", -1, Cannot::Overflow);
    refused(r#"{"n":{"$integer":"9223372036854775807"}}"#, "/n", 1, Cannot::Overflow);
    refused("{}", "/a/n", 1, Cannot::NoParent);
    refused("[]", "/0", 1, Cannot::PastEnd(0));
    refused("1", "/n", 1, Cannot::Scalar);
}

#[test]
fn hostile_patches_are_bounded() {
    let repeated =
        |operation: &str, times: usize| format!("[{}]", vec![operation; times].join(","));
    // Each doubles the document, and makes it a level deeper.
    let doubling = repeated(r#"{"op":"copy","from":"","path":"/a"}"#, 200);
    let error = apply(JSON_PATCH, &doubling, r#"{"b":1}"#).unwrap_err();
    assert!(
        matches!(error, PatchError::Operation { why: Cannot::Work | Cannot::Deep, .. }),
        "{error}"
    );
    let wide = repeated(r#"{"op":"copy","from":"/0","path":"/0"}"#, OPERATIONS_MAX);
    let error = apply(JSON_PATCH, &wide, &format!("[\"{}\"]", "x".repeat(1 << 20))).unwrap_err();
    assert!(matches!(error, PatchError::Operation { why: Cannot::Work, .. }), "{error}");
    // Every insertion moves all that is behind it.
    let moving = repeated(r#"{"op":"add","path":"/0","value":0}"#, OPERATIONS_MAX);
    let error = apply(JSON_PATCH, &moving, &format!("[{}0]", "0,".repeat(100_000))).unwrap_err();
    assert!(matches!(error, PatchError::Operation { why: Cannot::Work, .. }), "{error}");
    let deep = format!("{}{}", r#"{"a":"#.repeat(100) + "1", "}".repeat(100));
    let under = format!(r#"[{{"op":"add","path":"{}","value":{deep}}}]"#, "/a".repeat(100));
    let error = apply(JSON_PATCH, &under, &deep).unwrap_err();
    assert!(matches!(error, PatchError::Operation { why: Cannot::Deep, .. }), "{error}");
    // A merge patch of many members against as many others.
    let members = |from: usize| {
        let each: Vec<String> = (from..from + 60_000).map(|n| format!("\"k{n}\":{n}")).collect();
        format!("{{{}}}", each.join(","))
    };
    let merged = apply(MERGE_PATCH, &members(30_000), &members(0)).unwrap();
    assert_eq!(Node::parse(merged.as_bytes()).unwrap().members().unwrap().len(), 90_000);
}

proptest! {
    #[test]
    fn no_patch_panics(
        operations in proptest::collection::vec(
            ("add|remove|replace|move|copy|test", "(/(a|b|0|1|-)){0,3}", "(/(a|b|0|1)){0,3}",
             prop_oneof![Just("1"), Just("[1,[2]]"), Just(r#"{"a":{"b":1}}"#)]),
            0..12,
        ),
    ) {
        let operations: Vec<String> = operations.iter().map(|(op, path, from, value)| {
            format!(r#"{{"op":"{op}","path":"{path}","from":"{from}","value":{value}}}"#)
        }).collect();
        let patch = format!("[{}]", operations.join(","));
        let document = r#"{"a":[1,{"b":2}],"b":{"a":{}}}"#;
        if let Ok(bytes) = apply(JSON_PATCH, &patch, document) {
            prop_assert!(Node::parse(bytes.as_bytes()).is_ok());
        }
    }
}
