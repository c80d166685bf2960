//! Merges by example, and their laws over random histories.

use super::*;
use crate::version::{Actor, NodeId};
use proptest::prelude::{
    BoxedStrategy, Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::strategy::Strategy as Generates;

fn side<V>(node: u16, wall_ms: u64, value: V) -> Side<V> {
    let dot = Dot { actor: Actor { node: NodeId(node), incarnation: 7 }, counter: 1 };
    Side { dot, stamp: Stamp { wall_ms, logical: 0 }, value }
}

/// Sides in dot order, each a later writer than the one before.
fn sides<'t>(texts: &[&'t str]) -> Vec<Side<&'t [u8]>> {
    texts.iter().zip(1..).map(|(text, n)| side(n, u64::from(n), text.as_bytes())).collect()
}

fn declared() -> FieldRules {
    let list = || Strategy::ListMap("id".to_owned());
    FieldRules::new([
        ("/max", Strategy::Max),
        ("/min", Strategy::Min),
        ("/sum", Strategy::DeltaSum),
        ("/set", Strategy::SetUnion),
        ("/list", list()),
        ("/list/*/n", Strategy::DeltaSum),
        ("/list/*/sub", list()),
        ("/text", Strategy::Text3),
        ("/lww", Strategy::Lww),
        ("/lww/sum", Strategy::DeltaSum),
        ("/rec", Strategy::MergeRecursive),
        ("/whole", Strategy::Lww),
    ])
    .unwrap()
}

/// Merges under [`declared`]; conflicts are written as `pointer why`.
#[track_caller]
fn check(base: &str, texts: &[&str], expected: &str, conflicts: &[(&str, Why)]) {
    let base = Some(base).filter(|base| *base != "?");
    let mut sides = sides(texts);
    for _ in 0..2 {
        let merged = json(&declared(), base.map(str::as_bytes), &sides).unwrap();
        assert_eq!(std::str::from_utf8(&merged.bytes), Ok(expected), "{base:?} {texts:?}");
        let found: Vec<(&str, Why)> =
            merged.unresolved.iter().map(|c| (c.pointer.as_str(), c.why)).collect();
        assert_eq!(found, conflicts, "{base:?} {texts:?}");
        let known = if base.is_some() { BaseUse::ThreeWay } else { BaseUse::TwoWay };
        assert_eq!(merged.base, known);
        sides.reverse();
    }
}

#[test]
fn members() {
    check(r#"{"a":1,"b":2}"#, &[r#"{"a":3,"b":2}"#, r#"{"a":1,"b":4}"#], r#"{"a":3,"b":4}"#, &[]);
    // Additions come behind what the base has, in the order of dots.
    check(r#"{"b":0}"#, &[r#"{"x":1,"b":0}"#, r#"{"a":2,"b":0}"#], r#"{"b":0,"x":1,"a":2}"#, &[]);
    check(r#"{"a":1,"b":2}"#, &[r#"{"b":2}"#, r#"{"a":1,"b":3}"#], r#"{"b":3}"#, &[]);
    check(r#"{"a":1,"b":2}"#, &[r#"{"b":2}"#, r#"{"a":1}"#], "{}", &[]);
    let edited = [("/a", Why::Edited)];
    check(r#"{"a":1}"#, &[r#"{"a":2}"#, r#"{"a":3}"#], r#"{"a":3}"#, &edited);
    check(r#"{"a":1}"#, &[r#"{"a":2}"#, r#"{"a":2.0}"#], r#"{"a":2}"#, &[]);
    check(r#"{}"#, &[r#"{"a":[1]}"#, r#"{"a":[2]}"#], r#"{"a":[2]}"#, &edited);
    check(r#"{}"#, &[r#"{"a":{"x":1}}"#, r#"{"a":{"y":2}}"#], r#"{"a":{"x":1,"y":2}}"#, &[]);
    check(r#"{"a":1}"#, &[r#"{"a":{"x":1}}"#, r#"{"a":{"y":2}}"#], r#"{"a":{"y":2}}"#, &edited);
    check(r#"{"a":{"x":1}}"#, &[r#"{"a":{ "x":1}}"#, r#"{"a":7}"#], r#"{"a":7}"#, &[]);
    let gone = [("/a", Why::DeletedAndEdited)];
    check(r#"{"a":1,"b":1}"#, &[r#"{"b":1}"#, r#"{"a":2,"b":1}"#], r#"{"a":2,"b":1}"#, &gone);
    check(
        r#"{"a":{"x":1},"b":1}"#,
        &[r#"{"b":1}"#, r#"{"a":{ "x" : 1 },"b":2}"#],
        r#"{"b":2}"#,
        &[],
    );
    check("1", &["2", "3"], "3", &[("", Why::Edited)]);
    let three = [r#"{"a/~":{"b":2}}"#, r#"{"a/~":{"b":3}}"#, r#"{"a/~":{"b":1,"c":1}}"#];
    let escaped = [("/a~1~0/b", Why::Edited)];
    check(r#"{"a/~":{"b":1}}"#, &three, r#"{"a/~":{"b":3,"c":1}}"#, &escaped);
}

#[test]
fn the_later_writer_is_told_by_stamp_then_by_dot() {
    let won = |base: Option<&[u8]>, stamps: [u64; 2]| {
        let of = |value: &'static [u8]| [side(1, stamps[0], value), side(2, stamps[1], b"2")];
        let merged = json(&declared(), base, &of(b"1")).unwrap().bytes;
        assert_eq!(text(base, &of(b"1")).unwrap().bytes, merged);
        String::from_utf8(merged).unwrap()
    };
    for base in [None, Some(&b"0"[..])] {
        assert_eq!(won(base, [20, 10]), "1");
        assert_eq!(won(base, [10, 20]), "2");
        assert_eq!(won(base, [10, 10]), "2");
    }
}

#[test]
fn spelling_survives() {
    let base = r#"{"u":18446744073709551615,"p":1.10,"e":1e400,"s":"\u0061","n":0}"#;
    let a = r#"{"u":18446744073709551615,"p":1.10,"e":1e400,"s":"\u0061","n":0,"x":1E+2}"#;
    let b = r#"{"u":18446744073709551615,"p":1.10,"e":1e400,"s":"\u0061","n":-0.0e1}"#;
    check(
        base,
        &[a, b],
        r#"{"u":18446744073709551615,"p":1.10,"e":1e400,"s":"\u0061","n":0,"x":1E+2}"#,
        &[],
    );
    // One that is spelled anew is not changed.
    check(r#"{"a":1.0,"b":1}"#, &[r#"{"a":1,"b":1}"#, r#"{"a":2,"b":1}"#], r#"{"a":2,"b":1}"#, &[]);
    check("{ \"a\" : 1 }", &["{ \"a\" : 2 }", "{ \"a\" : 1 }"], "{ \"a\" : 2 }", &[]);
    check("?", &["[ 1 ]", "[ 1 ]"], "[ 1 ]", &[]);
}

#[test]
fn without_a_base() {
    check("?", &[r#"{"a":1}"#, r#"{"b":2}"#], r#"{"a":1,"b":2}"#, &[]);
    check("?", &[r#"{"set":[1,2]}"#, r#"{"set":[3,2]}"#], r#"{"set":[1,2,3]}"#, &[]);
    check("?", &[r#"{"max":1}"#, r#"{"max":2}"#, r#"{"max":0}"#], r#"{"max":2}"#, &[]);
    let unknown = |at| [(at, Why::NoBase)];
    check("?", &[r#"{"sum":6}"#, r#"{"sum":7}"#], r#"{"sum":7}"#, &unknown("/sum"));
    check("?", &["{\"sum\" :6}", "{\"sum\" :6}"], "{\"sum\" :6}", &unknown("/sum"));
    check("?", &[r#"{"text":"a"}"#, r#"{"text":"b"}"#], r#"{"text":"b"}"#, &unknown("/text"));
}

#[test]
fn counters() {
    let of = |n: &str| format!(r#"{{"sum":{n}}}"#);
    let sum = |base: &str, values: &[&str], expected: &str, conflicts: &[(&str, Why)]| {
        let texts: Vec<String> = values.iter().map(|value| of(value)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        check(&of(base), &texts, &of(expected), conflicts);
    };
    sum("5", &["6", "6"], "7", &[]);
    sum("5", &["6", "6", "6", "5"], "8", &[]);
    sum("5", &["3", "9"], "7", &[]);
    sum("1.10", &["1.20", "2.10"], "2.20", &[]);
    sum("0", &["9007199254740993", "1"], "9007199254740994", &[]);
    sum(
        "18446744073709551613",
        &["18446744073709551614", "18446744073709551614"],
        "18446744073709551615",
        &[],
    );
    let range = [("/sum", Why::OutOfRange)];
    sum("0", &["18446744073709551615", "1"], "1", &range);
    sum("0", &["-9223372036854775808", "-1"], "-1", &range);
    sum("1e300", &["2e300", "3"], "3", &range);
    sum("1", &["\"x\"", "2"], "2", &[("/sum", Why::OtherKind)]);
    sum("1", &["\"x\"", "\"x\""], "\"x\"", &[]);
    check("{}", &[r#"{"sum":2}"#, r#"{"sum":2}"#], r#"{"sum":4}"#, &[]);
    check(
        r#"{"sum":{"a":1,"b":1}}"#,
        &[r#"{"sum":{"a":2,"b":1}}"#, r#"{"sum":{"a":3,"b":2}}"#],
        r#"{"sum":{"a":4,"b":2}}"#,
        &[],
    );
    // What is declared for an object holds for its members.
    check(r#"{"sum":{"a":1}}"#, &[r#"{"sum":{"a":2}}"#; 2], r#"{"sum":{"a":3}}"#, &[]);
    // What goes whole does, unless a longer pointer names a part of it.
    check(
        r#"{"whole":{"a":1,"b":1}}"#,
        &[r#"{"whole":{"a":2,"b":1}}"#, r#"{"whole":{"a":1,"b":2}}"#],
        r#"{"whole":{"a":1,"b":2}}"#,
        &[],
    );
    check(
        r#"{"sum":1}"#,
        &["{}", r#"{"sum":2}"#, r#"{"sum":2}"#],
        r#"{"sum":3}"#,
        &[("/sum", Why::DeletedAndEdited)],
    );
    check(
        r#"{"lww":{"sum":1,"a":1}}"#,
        &[r#"{"lww":{"sum":2,"a":2}}"#, r#"{"lww":{"sum":2,"a":3}}"#],
        r#"{"lww":{"sum":3,"a":3}}"#,
        &[],
    );
}

#[test]
fn extremes() {
    let kind = |at| [(at, Why::OtherKind)];
    check(r#"{"max":5}"#, &[r#"{"max":10}"#, r#"{"max":9.5}"#], r#"{"max":10}"#, &[]);
    check(r#"{"min":5}"#, &[r#"{"min":1e400}"#, r#"{"min":9}"#], r#"{"min":9}"#, &[]);
    check(
        r#"{"max":"a"}"#,
        &[r#"{"max":"2026-02"}"#, r#"{"max":"2026-01"}"#],
        r#"{"max":"2026-02"}"#,
        &[],
    );
    check(r#"{"max":1}"#, &[r#"{"max":"2"}"#, r#"{"max":3}"#], r#"{"max":3}"#, &kind("/max"));
    check(r#"{"max":1}"#, &[r#"{"max":7}"#, r#"{"max":null}"#], r#"{"max":null}"#, &kind("/max"));
}

#[test]
fn sets() {
    let base = r#"{"set":["a","b","c"]}"#;
    check(
        base,
        &[r#"{"set":["b","c","x"]}"#, r#"{"set":["a","b","y"]}"#],
        r#"{"set":["b","x","y"]}"#,
        &[],
    );
    check(
        base,
        &[r#"{"set":["c","\u0062","a"]}"#, r#"{"set":["a","b"]}"#],
        r#"{"set":["a","b"]}"#,
        &[],
    );
    check(
        r#"{"set":[1]}"#,
        &[r#"{"set":[1.0,2]}"#, r#"{"set":[1,{"k":1},2.0]}"#],
        r#"{"set":[1,2,{"k":1}]}"#,
        &[],
    );
    check(base, &[r#"{"set":1}"#, r#"{"set":[]}"#], r#"{"set":[]}"#, &[("/set", Why::OtherKind)]);
}

#[test]
fn lists_of_items() {
    let base = r#"{"list":[{"id":1,"n":5,"t":"a"},{"id":2,"n":0}]}"#;
    check(
        base,
        &[
            r#"{"list":[{"id":1,"n":6,"t":"a"},{"id":3}]}"#,
            r#"{"list":[{"id":4},{"id":2,"n":0},{"id":1,"n":6,"t":"b"}]}"#,
        ],
        r#"{"list":[{"id":1,"n":7,"t":"b"},{"id":3},{"id":4}]}"#,
        &[],
    );
    check(
        base,
        &[r#"{"list":[{"id":1,"n":6,"t":"a"},{"id":2,"n":0}]}"#; 2],
        r#"{"list":[{"id":1,"n":7,"t":"a"},{"id":2,"n":0}]}"#,
        &[],
    );
    check(
        base,
        &[
            r#"{"list":[{"id":1,"n":5,"t":"a"}]}"#,
            r#"{"list":[{"id":2,"n":1},{"id":1,"n":5,"t":"c"}]}"#,
        ],
        r#"{"list":[{"id":1,"n":5,"t":"c"},{"id":2,"n":1}]}"#,
        &[("/list/1", Why::DeletedAndEdited)],
    );
    let nested = r#"{"list":[{"id":"x","sub":[{"id":1}]}]}"#;
    check(
        nested,
        &[
            r#"{"list":[{"id":"x","sub":[{"id":1},{"id":2}]}]}"#,
            r#"{"list":[{"id":"x","sub":[{"id":1},{"id":3}]}]}"#,
        ],
        r#"{"list":[{"id":"x","sub":[{"id":1},{"id":2},{"id":3}]}]}"#,
        &[],
    );
    let ids = [("/list", Why::ItemIds)];
    for broken in [
        r#"{"list":[{"n":1}]}"#,
        r#"{"list":[{"id":1},{"id":1.0}]}"#,
        r#"{"list":[1]}"#,
        r#"{"list":[{"id":[]}]}"#,
    ] {
        check(base, &[broken, r#"{"list":[]}"#], r#"{"list":[]}"#, &ids);
    }
}

#[test]
fn texts_in_documents() {
    check(
        r#"{"text":"a\nb\nc\n"}"#,
        &[r#"{"text":"A\nb\nc\n"}"#, r#"{"text":"a\nb\nC\n"}"#],
        r#"{"text":"A\nb\nC\n"}"#,
        &[],
    );
    check(
        r#"{"text":"a\nb\nc\n"}"#,
        &[r#"{"text":"a\nX\nc\n"}"#, r#"{"text":"a\nY\nc\n"}"#],
        r#"{"text":"a\nY\nc\n"}"#,
        &[("/text", Why::LinesTouch(1))],
    );
}

#[test]
fn texts() {
    let of = |base: Option<&str>, texts: &[&str]| {
        let merged = text(base.map(str::as_bytes), &sides(texts)).unwrap();
        let why = merged.unresolved.first().map(|conflict| conflict.why);
        (String::from_utf8(merged.bytes).unwrap(), why, merged.base)
    };
    let check = |base, texts: &[&str], expected: &str, why, known| {
        assert_eq!(of(base, texts), (expected.to_owned(), why, known));
    };
    check(Some("a\nb\nc"), &["A\nb\nc", "a\nb\nC"], "A\nb\nC", None, BaseUse::ThreeWay);
    check(Some("a"), &["b", "c"], "c", Some(Why::LinesTouch(1)), BaseUse::ThreeWay);
    check(None, &["b", "c"], "c", Some(Why::NoBase), BaseUse::TwoWay);
    check(None, &["b", "b"], "b", None, BaseUse::TwoWay);
    let broken = text(Some(b"a"), &[side(1, 1, b"\xff"), side(2, 2, b"b")]).unwrap_err();
    assert!(matches!(broken, Unmergeable::NotText(Whose::Side(_))), "{broken}");
}

#[test]
fn rows() {
    let rules = FieldRules::new([("/n", Strategy::DeltaSum), ("/m", Strategy::Max)]).unwrap();
    let check = |base: &str, texts: &[&str], expected: &str, conflicts: usize| {
        let merged = columns(&rules, Some(base.as_bytes()), &sides(texts)).unwrap();
        assert_eq!(std::str::from_utf8(&merged.bytes), Ok(expected));
        assert_eq!(merged.unresolved.len(), conflicts);
    };
    let blob = |text: &str| format!(r#"{{"k":"a","b":{{"$blob":"{text}"}},"c":1}}"#);
    check(&blob("AA=="), &[&blob("AQ=="), &blob("Ag==")], &blob("Ag=="), 1);
    check(
        r#"{"a":1,"b":null}"#,
        &[r#"{"a":2,"b":null}"#, r#"{"a":1,"b":"x"}"#],
        r#"{"a":2,"b":"x"}"#,
        0,
    );
    // In a row 1 and 1.0 are of two classes.
    check(r#"{"a":1,"b":0}"#, &[r#"{"a":1.0,"b":0}"#, r#"{"a":1,"b":2}"#], r#"{"a":1.0,"b":2}"#, 0);
    let big = r#"{"n":{"$integer":"9007199254740992"}}"#;
    check(r#"{"n":9007199254740990}"#, &[r#"{"n":9007199254740991}"#; 2], big, 0);
    let next = r#"{"n":{"$integer":"9007199254740993"}}"#;
    check(big, &[next, next], r#"{"n":{"$integer":"9007199254740994"}}"#, 0);
    check(big, &[next, r#"{"n":0}"#], r#"{"n":1}"#, 0);
    check(
        r#"{"m":0}"#,
        &[r#"{"m":{"$integer":"9007199254740993"}}"#, r#"{"m":5}"#],
        r#"{"m":{"$integer":"9007199254740993"}}"#,
        0,
    );
    let refused = columns(&rules, None, &[side(1, 1, b"[]"), side(2, 2, b"{}")]).unwrap_err();
    assert!(matches!(refused, Unmergeable::NotARow(_)));
}

#[test]
fn what_is_not_merged() {
    let rules = declared();
    let refused =
        |base: Option<&[u8]>, sides: &[Side<&[u8]>]| json(&rules, base, sides).unwrap_err();
    assert_eq!(refused(None, &[]), Unmergeable::NoSide);
    fn two<'v>(a: &'v [u8], b: &'v [u8]) -> [Side<&'v [u8]>; 2] {
        [side(1, 1, a), side(2, 2, b)]
    }
    assert!(matches!(refused(None, &two(b"{}", b"{")), Unmergeable::NotJson(Whose::Side(_), _)));
    assert!(matches!(refused(Some(b"x"), &two(b"1", b"2")), Unmergeable::NotJson(Whose::Base, _)));
    let many: Vec<_> = (0..=SIDES_MAX as u16).map(|n| side(n, 1, &b"1"[..])).collect();
    assert_eq!(refused(None, &many), Unmergeable::ManySides(SIDES_MAX + 1));
    let large = vec![b' '; BYTES_MAX];
    assert!(matches!(refused(None, &two(&large, b"1")), Unmergeable::Large(_)));
    let deep = ["[".repeat(200), "]".repeat(200)].concat();
    let deep = refused(None, &two(deep.as_bytes(), b"1"));
    assert!(matches!(deep, Unmergeable::NotJson(_, Refused::Deep)));
}

#[test]
fn hostile_documents_take_no_more_than_their_size_times_their_depth() {
    let list = FieldRules::new([("", Strategy::ListMap("id".into()))]).unwrap();
    let set = FieldRules::new([("", Strategy::SetUnion)]).unwrap();
    let array = |from: usize| {
        let items: Vec<String> = (from..from + 100_000).map(|n| n.to_string()).collect();
        format!("[{}]", items.join(","))
    };
    let objects = |from: usize| {
        let items: Vec<String> = (from..from + 20_000).map(|n| format!("{{\"id\":{n}}}")).collect();
        format!("[{}]", items.join(","))
    };
    let members = |from: usize| {
        let each: Vec<String> =
            (from..from + 60_000).rev().map(|n| format!("\"k{n}\":{n}")).collect();
        format!("{{{}}}", each.join(","))
    };
    // A long member on every level, spelled anew by both sides, and an edit at the very bottom.
    let nested = |blank: &str, leaf: usize| {
        let pad = "0,".repeat(2_000);
        (0..120)
            .fold(leaf.to_string(), |inner, _| format!("{{\"p\":[{blank}{pad}0],\"m\":{inner}}}"))
    };
    let cases: [(&FieldRules, String, [String; 2]); 4] = [
        (&set, array(10), [array(0), array(20)]),
        (&list, objects(10), [objects(0), objects(20)]),
        (&declared(), members(10), [members(0), members(20)]),
        (&declared(), nested("", 0), [nested(" ", 1), nested("  ", 2)]),
    ];
    for (rules, base, [a, b]) in &cases {
        let merged = json(rules, Some(base.as_bytes()), &sides(&[a, b])).unwrap();
        assert!(Node::parse(&merged.bytes).is_ok());
        json(rules, None, &sides(&[a, b])).unwrap();
    }
    // Many conflicts are counted, and a bounded number listed.
    let edited = |n: usize| members(0).replace(":", &format!(":{n}"));
    let merged = json(&declared(), Some(members(0).as_bytes()), &sides(&[&edited(1), &edited(2)]));
    let merged = merged.unwrap();
    assert_eq!(
        (merged.unresolved.len(), merged.not_listed),
        (CONFLICTS_LISTED, 60_000 - CONFLICTS_LISTED)
    );
}

#[test]
fn trees_give_what_bytes_give() {
    let (base, texts) = (r#"{"a":1,"sum":1}"#, [r#"{"a":2,"sum":2}"#, r#"{"a":3,"sum":2}"#]);
    let trees: Vec<Node<'_>> = texts.iter().map(|t| Node::parse(t.as_bytes()).unwrap()).collect();
    let of_trees: Vec<Side<&Node<'_>>> =
        sides(&texts).iter().zip(&trees).map(|(side, tree)| side.with(tree)).collect();
    let base_tree = Node::parse(base.as_bytes()).unwrap();
    let merged = json_trees(&declared(), Some(&base_tree), &of_trees).unwrap();
    assert_eq!(merged, json(&declared(), Some(base.as_bytes()), &sides(&texts)).unwrap());
    assert_eq!(merged.bytes, br#"{"a":3,"sum":3}"#);
}

/// A history: what was there, and what up to five writers made of it, with their stamps.
#[derive(Debug, Clone)]
struct History {
    base: Option<String>,
    sides: Vec<(u64, String)>,
}

impl History {
    fn base(&self) -> Option<&[u8]> {
        self.base.as_deref().map(str::as_bytes)
    }

    fn sides(&self) -> Vec<Side<&[u8]>> {
        let each = self.sides.iter().zip(1..);
        each.map(|((stamp, text), n)| side(n, *stamp, text.as_bytes())).collect()
    }
}

fn scalar() -> impl Generates<Value = String> {
    prop_oneof![
        (0..4u8).prop_map(|n| n.to_string()),
        Just("1.0".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("null".to_owned()),
        prop_oneof!["\"[ab]\"", Just("\"\\u0061\"".to_owned())],
    ]
}

fn array(item: impl Generates<Value = String>) -> impl Generates<Value = String> {
    proptest::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(",")))
}

/// A value that often is of the kind that the member's strategy is for.
fn value_of(name: &'static str) -> BoxedStrategy<String> {
    let number = || prop_oneof![(0..9i8).prop_map(|n| n.to_string()), Just("0.5".to_owned())];
    let item = || {
        (0..3u8, proptest::option::of(0..3u8), proptest::option::of(scalar())).prop_map(
            |(id, n, t)| {
                let n = n.map(|n| format!(",\"n\":{n}")).unwrap_or_default();
                let t = t.map(|t| format!(",\"t\":{t}")).unwrap_or_default();
                format!("{{\"id\":{id}{n}{t}}}")
            },
        )
    };
    let text = || {
        proptest::collection::vec("[abc]", 0..6)
            .prop_map(|lines| serde_json::to_string(&lines.join("\n")).unwrap())
    };
    let usual = match name {
        "max" | "min" | "sum" => number().boxed(),
        "set" => array(scalar()).boxed(),
        "list" => array(item()).boxed(),
        "text" => text().boxed(),
        "lww" | "rec" | "whole" => object(&["x", "sum", "z"], 1),
        _ => scalar().boxed(),
    };
    prop_oneof![8 => usual, 1 => scalar()].boxed()
}

fn object(names: &'static [&'static str], levels: u8) -> BoxedStrategy<String> {
    let members: Vec<_> = names
        .iter()
        .map(|name| {
            let value = if levels == 0 { scalar().boxed() } else { value_of(name) };
            proptest::option::weighted(
                0.8,
                value.prop_map(move |value| format!("\"{name}\":{value}")),
            )
        })
        .collect();
    (members, any::<bool>())
        .prop_map(|(members, turned)| {
            let mut members: Vec<String> = members.into_iter().flatten().collect();
            if turned {
                members.reverse();
            }
            format!("{{{}}}", members.join(","))
        })
        .boxed()
}

const NAMES: &[&str] =
    &["max", "sum", "set", "list", "min", "text", "lww", "rec", "whole", "other"];

fn document() -> BoxedStrategy<String> {
    object(NAMES, 1)
}

/// The document with some of its members from another.
fn edited(document: &str, other: &str, mask: u16) -> String {
    let (document, other) =
        (Node::parse(document.as_bytes()).unwrap(), Node::parse(other.as_bytes()).unwrap());
    let mut each = Vec::new();
    for (nth, name) in NAMES.iter().enumerate() {
        let from = if mask >> nth & 1 == 1 { &other } else { &document };
        if let Some(value) = from.members().unwrap().find(name) {
            each.push(format!("\"{name}\":{}", value.text()));
        }
    }
    format!("{{{}}}", each.join(","))
}

fn history() -> impl Generates<Value = History> {
    let edit = (0..3u64, document(), any::<u16>(), any::<u16>());
    (document(), any::<bool>(), proptest::collection::vec(edit, 2..=5)).prop_map(
        |(base, known, edits)| {
            let sides = edits
                .into_iter()
                .map(|(stamp, other, some, few)| (stamp, edited(&base, &other, some & few)));
            History { sides: sides.collect(), base: known.then_some(base.clone()) }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn laws(history in history(), turn in 0..5usize, twice in 0..5usize) {
        let rules = declared();
        let (base, mut sides) = (history.base(), history.sides());
        let merged = json(&rules, base, &sides).unwrap();
        prop_assert!(Node::parse(&merged.bytes).is_ok());
        // The order in which the sides come, and that one comes twice, makes no difference.
        let count = sides.len();
        sides.rotate_left(turn % count);
        sides.swap(0, twice % count);
        sides.push(sides[twice % count]);
        prop_assert_eq!(&json(&rules, base, &sides).unwrap(), &merged);
        sides.pop();
        // Whoever changed nothing has no part in it.
        if let Some(base) = base {
            sides.push(side(9, 9, base));
            prop_assert_eq!(&json(&rules, Some(base), &sides).unwrap(), &merged);
            sides.pop();
        }
        // What was merged is merged.
        let again = [side(1, 1, &merged.bytes[..]), side(2, 2, &merged.bytes[..])];
        let whole = json(&rules, Some(&merged.bytes), &again).unwrap();
        prop_assert_eq!(&whole.bytes, &merged.bytes);
        let over_base = json(&FieldRules::default(), base, &again).unwrap();
        prop_assert_eq!(&over_base.bytes, &merged.bytes);
        prop_assert!(over_base.unresolved.is_empty());
    }

    #[test]
    fn edits_of_different_members_are_all_kept(
        base in document(), others in proptest::collection::vec(document(), 2..=5),
        owner in proptest::collection::vec(0..5usize, NAMES.len()),
    ) {
        // Every member belongs to one writer, who alone may change it.
        let masks = (0..others.len()).map(|writer| {
            let own = |nth: usize| u16::from(owner[nth] % others.len() == writer) << nth;
            (0..NAMES.len()).map(own).sum::<u16>()
        });
        let texts: Vec<String> =
            masks.zip(&others).map(|(mask, other)| edited(&base, other, mask)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let merged = json(&declared(), Some(base.as_bytes()), &sides(&texts)).unwrap();
        prop_assert_eq!(&merged.unresolved, &vec![]);
        let tree = Node::parse(&merged.bytes).unwrap();
        for (nth, name) in NAMES.iter().enumerate() {
            let writer = Node::parse(texts[owner[nth] % others.len()].as_bytes()).unwrap();
            let (is, wanted) = (tree.members().unwrap().find(name), writer.members().unwrap().find(name));
            // One that is spelled anew is the same.
            match (is, wanted) {
                (Some(is), Some(wanted)) => prop_assert!(is.same(wanted), "{name}"),
                (None, None) => {}
                (is, wanted) => prop_assert!(false, "{name}: {is:?}, {wanted:?}"),
            }
        }
    }

    #[test]
    fn counters_are_exact(base in -99..99i64, deltas in proptest::collection::vec(-9..9i64, 2..=5)) {
        let rules = declared();
        let of = |n: i64| format!("{{\"sum\":{n}}}");
        let texts: Vec<String> = deltas.iter().map(|delta| of(base + delta)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let merged = json(&rules, Some(of(base).as_bytes()), &sides(&texts)).unwrap();
        prop_assert_eq!(merged.bytes, of(base + deltas.iter().sum::<i64>()).into_bytes());
    }

    #[test]
    fn text_merges_have_the_same_laws(
        lines in proptest::collection::vec("[a-e]", 0..8),
        edits in proptest::collection::vec((0..3u64, 0..8usize, "[a-f\n]{0,3}"), 2..=5),
        turn in 0..5usize,
    ) {
        let base: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let texts: Vec<(u64, String)> = edits.into_iter().map(|(stamp, at, new)| {
            let mut lines = lines.clone();
            match lines.get_mut(at) {
                Some(line) => *line = new,
                None => lines.push(new),
            }
            (stamp, lines.iter().map(|line| format!("{line}\n")).collect())
        }).collect();
        let mut sides: Vec<Side<&[u8]>> = texts.iter().zip(1..)
            .map(|((stamp, text), n)| side(n, *stamp, text.as_bytes())).collect();
        let merged = text(Some(base.as_bytes()), &sides).unwrap();
        let count = sides.len();
        sides.rotate_left(turn % count);
        sides.push(sides[0]);
        prop_assert_eq!(&text(Some(base.as_bytes()), &sides).unwrap(), &merged);
        sides.push(side(9, 9, base.as_bytes()));
        prop_assert_eq!(&text(Some(base.as_bytes()), &sides).unwrap(), &merged);
    }
}
